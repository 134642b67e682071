"""Abstract, §1, Definition 1 and §4.2: which hyper-parameters there are, and which of them are redundant.

Knobs are counted as the rank of the trajectory's derivative in their logarithms (`adaptive.degrees_of_freedom`), and
equal trainings are run. Checked by `tests/test_claims_allora_knobs.py`, which plants wrong formulas.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from allora_analysis import adaptive
from allora_analysis.adaptive import Setting
from allora_analysis.claims.ledger import Claim, Evidence, Finding, settle

SEED = 45
STEPS = 50
ROUNDING = 1e-10
SOURCE = "float64 rounding over 50 steps; seen: below 1e-14"
LORA = Setting(scaling=1.7, init_a=0.8, rate_a=0.02, rate_b=0.03, eps_a=1e-3, eps_b=2e-3, decay_a=0.3, decay_b=0.2)
PLAIN = replace(LORA, rate_b=0.02, eps_a=1e-8, eps_b=1e-8, decay_a=0.0, decay_b=0.0)
FACTORS = (1.3, 0.4)  # what A and B are multiplied by: no powers of two
OPTIMISERS = {"Adam": "adam", "SGD": "sgd"}


def _data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(SEED)
    x = generator.standard_normal((12, 4))
    return x, np.tanh(x @ generator.standard_normal((4, 3))), generator.standard_normal((2, 4))


def _gap(one: Setting, other: Setting, optimiser: str, max_norm: float | None = None) -> float:
    # Largest distance of s·BA over 50 steps, over the largest entry.
    paths = [
        adaptive.train(*_data(), setting, STEPS, optimiser=optimiser, max_norm=max_norm) for setting in (one, other)
    ]
    return float(np.abs(paths[0] - paths[1]).max() / np.abs(paths[0]).max())


def _knobs(setting: Setting, names: tuple[str, ...], optimiser: str) -> int:
    return adaptive.degrees_of_freedom(*_data(), setting, names, 20, optimiser=optimiser)


def scaling_is_tunable() -> Finding:
    """Does α add a degree of freedom to what is tuned beside it? And are rescaled trainings the same?

    Returns:
        The finding.
    """
    printed, corrected, seen, errors = {}, {}, {}, []
    full = {"adam": ("init_a", "rate_a", "rate_b", "eps_a", "eps_b"), "sgd": ("init_a", "rate_a", "rate_b")}
    for name, optimiser in OPTIMISERS.items():
        for words, others in (("init_A fixed, one rate", ("rate",)), ("init_A and two rates tuned", full[optimiser])):
            with_it, without = (_knobs(PLAIN, knobs, optimiser) for knobs in (("scaling", *others), others))
            seen[f"{name}, {words}"] = {"degrees with α": with_it, "without": without}
            printed[f"{name}, {words}"] = with_it > without
            corrected[f"{name}, {words}"] = printed[f"{name}, {words}"] == (others == ("rate",))
        other = adaptive.rescaled(LORA, *FACTORS, optimiser)
        errors.append(_gap(LORA, other, optimiser))
        clipped = _gap(LORA, other, optimiser, 0.05)
        seen[f"{name}, rescaled"] = {"distance": errors[-1], "distance, clipped": clipped}
        corrected[f"{name}, rescaled"] = errors[-1] <= ROUNDING and clipped > 1e-3
    predicted = {
        "same training": "α/(ab), a·init_A, a·l_A, b·l_B, ε_A/a, ε_B/b, λ_A/a, λ_B/b (Adam); a²l_A, b²l_B (SGD)"
    }
    evidence = Evidence(predicted, seen, SOURCE, max(errors), ROUNDING, n=STEPS, seed=SEED)
    text = (
        "with A's initialisation fixed and one learning rate α matters; given init_A and two rates it is redundant: "
        "α/(ab), a·init_A, a·l_A, b·l_B (with ε and decay to match) train alike, without clipping"
    )
    return Finding(settle(printed, corrected), evidence, text)


def no_new_knob() -> Finding:
    """Two splits of the same η·l_b: the same training? And how many of (η, l_b) act independently?

    Returns:
        The finding.
    """
    printed, corrected, seen = {}, {}, {}
    for name, optimiser in OPTIMISERS.items():
        one = replace(PLAIN, scaling=1.0, eta=2.0)
        other = replace(one, eta=4.0, rate_a=one.rate_a / 2, rate_b=one.rate_b / 2)
        distance, degrees = _gap(one, other, optimiser), _knobs(one, ("eta", "rate"), optimiser)
        lora = _knobs(PLAIN, ("scaling", "rate"), optimiser)
        seen[name] = {"distance of two splits": distance, "independent of (η, l_b)": degrees, "of LoRA's (s, l)": lora}
        printed[name] = distance <= ROUNDING or degrees < 2
        corrected[name] = distance > 1e-2 and degrees == lora == 2
    predicted = {"independent of (η, l_b)": 2, "of LoRA's (s, l)": 2}
    evidence = Evidence(predicted, seen, "a rank: none allowed to differ", 0.0 if all(corrected.values()) else 1.0, 0.0)
    text = (
        "(l_b, η) are two hyper-parameters, not one split in two: l_b·d_i = l_bη/√(1 + η²‖(BA)_i‖) tells them apart "
        "once BA ≠ 0. LoRA's are two as well, s and l: η is new beside l and stands where the scaling factor s stood"
    )
    return Finding(settle(printed, corrected, contrary=True), evidence, text)


def removed() -> Finding:
    """Knobs of LoRA (s, l, dropout rate) less those of ALLoRA-0 (η, l); and η exchanged for s = 1/η².

    Returns:
        The finding.
    """
    printed, corrected, seen, errors = {}, {}, {}, []
    for name, optimiser in OPTIMISERS.items():
        adapted = replace(LORA, eta=2.3, scaling=1.0)
        lora = _knobs(PLAIN, ("scaling", "rate"), optimiser) + 1  # and the dropout rate
        allora = _knobs(replace(PLAIN, eta=2.3, scaling=1.0), ("eta", "rate"), optimiser)
        errors.append(_gap(adapted, adaptive.eta_as_scaling(adapted, optimiser), optimiser))
        seen[name] = {"LoRA": lora, "ALLoRA-0": allora, "η exchanged for s = 1/η², distance": errors[-1]}
        printed[name] = lora - allora == 2
        corrected[name] = lora - allora == 1 and errors[-1] <= ROUNDING
    evidence = Evidence({"removed": 1, "distance": 0.0}, seen, SOURCE, max(errors), ROUNDING, n=STEPS, seed=SEED)
    text = (
        "one, the dropout rate, and that by setting it to 0 (ALLoRA as run keeps 0.05). The scaling factor stays as η: "
        "ALLoRA at η is ALLoRA at η = 1 with scaling 1/η², init η·init_A and rate ηl (Adam) or η³l (SGD)"
    )
    return Finding(settle(printed, corrected), evidence, text)


def _first_adam_step(eps: float) -> bool:
    # Is torch's Adam step from B = 0 finite? A's first gradient is 0.
    import torch

    x, y, draw = _data()
    a, b = torch.tensor(draw, requires_grad=True), torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    ((torch.tensor(x) @ a.T @ b.T - torch.tensor(y)) ** 2).sum().backward()
    torch.optim.Adam([a, b], lr=0.01, eps=eps).step()
    return bool(a.isfinite().all())


ROWS = (
    (
        "4-alpha",
        "Definition 1",
        "The rank r and α ∈ ℝ are tunable constants (read of α: training depends on it, whatever else is tuned)",
        scaling_is_tunable,
    ),
    (
        "4-no-new-hyper-parameter",
        "§4.2, below the definition",
        "η does not introduce a new hyperparameter: we split the learning rate into a constant base learning rate l_b "
        "and η, and the effective learning rate is η·l_b",
        no_new_knob,
    ),
    (
        "4-two-hyper-parameters",
        "Abstract, §1",
        "ALLoRA removes two hyper-parameters from LoRA: the scaling factor and the dropout rate",
        removed,
    ),
)


def claims() -> tuple[Claim, ...]:
    """The statements on hyper-parameters.

    Returns:
        The claims.
    """
    return tuple(
        Claim(
            name,
            where,
            text,
            check,
            f"python -m allora_analysis --only {name}",
            "tests/test_adaptive_invariance.py",
        )
        for name, where, text, check in ROWS
    )
