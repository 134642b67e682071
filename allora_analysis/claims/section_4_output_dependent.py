"""§4.3, ALLoRA-OD: the factor that depends on the output, its noise, and what it does to the expected update.

The layer is run. Checked by `tests/test_claims_allora_variants.py`, which plants wrong formulas.
"""

from __future__ import annotations

import math

import numpy as np

from allora_analysis import adaptive
from allora_analysis.adaptors import inverse_sqrt
from allora_analysis.claims import layer_runs, student_t
from allora_analysis.claims.ledger import Claim, Evidence, Finding, relative_error, settle

SEED = 46
TOKENS = 20_000
ROUNDING = 1e-10
TEST = "tests/test_adaptive_variants.py"


def define_each_other() -> Finding:
    """Given inputs, how many numbers of a row (BA)_i do its outputs leave open? n₂ less the inputs' rank.

    Returns:
        The finding.
    """
    generator, n2 = np.random.default_rng(SEED), 4
    printed, corrected, seen = {}, {}, {}
    for count in (1, 3, 4, 9):
        x, row = generator.standard_normal((count, n2)), generator.standard_normal(n2)
        free = np.linalg.svd(x)[2][np.linalg.matrix_rank(x) :]
        other = row + 3 * free.sum(axis=0)
        same = relative_error(x @ other, x @ row) <= ROUNDING
        case = f"{count} input{'s' if count > 1 else ''}, n₂ = {n2}"
        seen[case] = {
            "directions left open": len(free),
            "rows with the same outputs differ by": float(np.ptp(other - row)),
        }
        printed[case] = len(free) == 0
        corrected[case] = same and len(free) == max(n2 - count, 0)
    evidence = Evidence({"directions left open": "n₂ − rank of the inputs"}, seen, "float64 rounding", seed=SEED)
    text = "(BA)_i gives f(x)_i; the other way only from n₂ linearly independent inputs, never from one token"
    return Finding(settle(printed, corrected), evidence, text)


def _factors(rule, x: np.ndarray, a: np.ndarray, b: np.ndarray, eta: float) -> np.ndarray:
    # The factor that a layer puts on each token's gradient: B's gradients token by token over LoRA's, tokens×n₁.
    import torch

    def per_token(function, *args):
        wide = torch.tensor(b).expand(len(x), *b.shape).clone().requires_grad_()
        outputs = torch.func.vmap(lambda t, w: function(t, torch.tensor(a), w, *args))(torch.tensor(x), wide)
        return torch.autograd.grad(outputs.sum(), wide)[0]

    return (per_token(rule, eta) / per_token(layer_runs.lora))[:, :, 0].numpy()


def output_noise() -> Finding:
    """The factor of each token, read off the layers' gradients over Gaussian inputs, against its law.

    Returns:
        The finding.
    """
    from allora_analysis.lora import functional

    eta, generator = 2.0, np.random.default_rng(SEED)
    a, b = generator.standard_normal((2, 3)), np.array([[0.0, 0.0], [0.3, -0.1], [2.0, 1.0]])
    x = generator.standard_normal((TOKENS, 3))
    od = _factors(functional.allora_od, x, a, b, eta)
    plain = _factors(functional.allora, x[:200], a, b, eta)
    printed, corrected, predicted, seen, z = {}, {}, {}, {}, []
    allowed = student_t.standard_errors(TOKENS)
    for i, norm in enumerate(np.linalg.norm(b @ a, axis=1)):
        case, law = f"‖(BA)_i‖ = {norm:.3g}", adaptive.output_factor(float(norm), eta)
        spread = float(od[:, i].std())
        seen[case] = {"mean": float(od[:, i].mean()), "std": spread, "std, ALLoRA's": float(plain[:, i].std())}
        predicted[case] = {"mean": law.mean, "std": math.sqrt(law.variance), "std, ALLoRA's": 0.0}
        noise = spread / math.sqrt(TOKENS) + 1e-12
        fourth = math.sqrt(max(float(np.mean((od[:, i] - od[:, i].mean()) ** 4)) - spread**4, 0.0) / TOKENS) + 1e-12
        z += [abs(seen[case]["mean"] - law.mean) / noise, abs(spread**2 - law.variance) / fourth]
        printed[case] = spread > 1e-9
        right = max(z[-2:]) < allowed and seen[case]["std, ALLoRA's"] < 1e-9
        corrected[case] = right and printed[case] == bool(norm > 0)
    source = f"of mean and variance: {student_t.source(TOKENS)}"
    evidence = Evidence(predicted, seen, source, max(z), allowed, n=TOKENS, seed=SEED)
    text = "once (BA)_i ≠ 0: the factor varies over tokens, ALLoRA's does not; at B = 0 both are η for every token"
    return Finding(settle(printed, corrected), evidence, text)


def expected_update() -> Finding:
    """Row i of ALLoRA-OD's expected update under white inputs and a squared loss: is it a multiple of g_i?

    Returns:
        The finding.
    """
    eta, generator = 2.0, np.random.default_rng(SEED + 1)
    x, target = generator.standard_normal((TOKENS, 3)), np.array([0.3, 1.0, -0.7])
    printed, corrected, predicted, seen, z = {}, {}, {}, {}, []
    allowed = student_t.standard_errors(TOKENS)
    for case, row in {"(BA)_i = 0": np.zeros(3), "(BA)_i ≠ 0": np.array([1.5, -0.5, 0.2])}.items():
        factor = _factors_of_row(x, row, eta)
        samples = (factor * (x @ (row - target)))[:, None] * x
        law, size = adaptive.output_factor(float(np.linalg.norm(row)), eta), float(np.linalg.norm(row))
        along = np.outer(row, row) / (size**2 or 1.0)
        expected = (row - target) @ (law.mean * (np.eye(3) - along) + law.along * along)
        mean, stderr = samples.mean(axis=0), samples.std(axis=0) / math.sqrt(TOKENS)
        z.append(float(np.max(np.abs(mean - expected) / stderr)))
        g = row - target
        apart = np.max(np.abs(mean - (mean @ g) / (g @ g) * g) / stderr)
        printed[case] = bool(apart < allowed)
        corrected[case] = z[-1] < allowed and printed[case] == (size == 0)
        predicted[case], seen[case] = expected, mean
    signs, row = np.sign(x), np.array([1.5, 0.0, 0.0])  # as white, and |f| the same for every input
    factor, case = _factors_of_row(signs, row, eta), "entries ±1, (BA)_i along an axis"
    printed[case] = bool(np.ptp(factor) <= ROUNDING)
    corrected[case] = printed[case] and abs(factor[0] - inverse_sqrt(1.5, eta)) <= ROUNDING
    predicted[case], seen[case] = inverse_sqrt(1.5, eta), {"least factor": factor.min(), "greatest": factor.max()}
    source = student_t.source(TOKENS)
    evidence = Evidence(predicted, seen, source, max(z), allowed, n=TOKENS, seed=SEED + 1)
    text = (
        "at B = 0, or where |f_i| is the same for every input (entries ±1, (BA)_i along an axis). For white Gaussian "
        "inputs and a squared loss the expected update is (E[d]·across + E[dz²]·along (BA)_i) of g_i, with E[dz²] < "
        "E[d]: it is turned away from the row's own direction, so no factor η_i on g_i gives it, on average either"
    )
    return Finding(settle(printed, corrected), evidence, text)


def _factors_of_row(x: np.ndarray, row: np.ndarray, eta: float) -> np.ndarray:
    # ALLoRA-OD's factor of one row for each token, by the layer: A = I, B's rows are `row`.
    from allora_analysis.lora import functional

    return _factors(functional.allora_od, x, np.eye(3), row[None, :], eta)[:, 0]


ROWS = (
    ("4-define-each-other", "In (f(x))_i = (BA)_i x, (f(x))_i and (BA)_i define each other", define_each_other),
    (
        "4-od-noise",
        "ALLoRA-OD is subject to the stochastic noise in x, because (f(x))_i = (BA)_i x (read: its factor varies over "
        "inputs, ALLoRA's does not)",
        output_noise,
    ),
    (
        "4-od-update",
        "ALLoRA-OD: g̃_i = 1/√(|(f(x))_i| + 1/η²)·g_i (read: on average over inputs a factor on each row of g)",
        expected_update,
    ),
)


def claims() -> tuple[Claim, ...]:
    """The statements on ALLoRA-OD that need no fine-tuning.

    Returns:
        The claims.
    """
    return tuple(
        Claim(name, "§4.3", text, check, f"python -m allora_analysis --only {name}", TEST) for name, text, check in ROWS
    )
