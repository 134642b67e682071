"""§4.2 and Figure 2 (right) under each optimiser: the layers are run, `escape` predicts.

Checked by `tests/test_claims_allora_escape.py`, which plants wrong formulas.
"""

from __future__ import annotations

import numpy as np

from allora_analysis import adaptive, escape
from allora_analysis.claims import layer_runs
from allora_analysis.claims.ledger import Claim, Evidence, Finding, relative_error, settle

ADAM = 1e-5  # Adam's ε over |g|, and PyTorch's 1e-6 in a clipped norm
COMMAND = "python -m allora_analysis.escape"
TEST = "tests/test_escape_drift.py"
ETA, RATE = 2.0, 0.01
CLIP = 0.5  # below the norm of the first gradients of the problem
SETTINGS = {  # case: optimiser, clipping; does ALLoRA's factor reach the step?
    "SGD": ("sgd", None, True),
    "momentum": ("momentum", None, True),
    "SGD, clipped": ("sgd", CLIP, False),
    "AdamW": ("adamw", None, False),
    "ALLoRAAdamW (not the paper's)": ("allora_adamw", None, True),
}


def start() -> Finding:
    """The first step of the layers under torch's optimisers, ALLoRA at l beside LoRA at η·l and at l.

    Returns:
        The finding; measured are relative distances of BA after the first step and after ten.
    """
    task = layer_runs.problem()
    teacher = escape.data_teacher(task.x, task.y, task.a)
    printed, corrected, seen, errors = {}, {}, {}, []
    for case, (optimiser, clip, reaches) in SETTINGS.items():
        runs = {
            name: layer_runs.products(task, optimiser, arm, ETA, rate, 10, clip)
            for name, arm, rate in (("slow", "lora", RATE), ("fast", "lora", ETA * RATE), ("allora", "allora", RATE))
        }
        gaps = [[relative_error(runs["allora"][k], runs[name][k]) for k in (1, 10)] for name in ("fast", "slow")]
        seen[case] = {"from LoRA at η·l": gaps[0], "from LoRA at l": gaps[1]}
        predicted = escape.drift(optimiser, ETA, RATE, 10, teacher=teacher, max_grad_norm=clip)
        norms = [np.linalg.norm(runs[name], axis=2).mean(axis=1) for name in ("slow", "fast", "allora")]
        errors.append(relative_error(norms, predicted.norms[:, 0]))
        printed[case] = gaps[0][0] <= ADAM
        matches_slow = gaps[1][0] <= ADAM
        corrected[case] = errors[-1] <= 1e-7 and printed[case] == reaches and matches_slow != reaches
    evidence = Evidence(
        {"SGD, momentum, ALLoRAAdamW": "LoRA at η·l", "clipped, AdamW": "LoRA at l"},
        seen,
        f"{ADAM:g} for a match (Adam's ε, clipping's 1e-6); row norms against `escape.drift`: 1e-7",
        max(errors),
        1e-7,
        seed=layer_runs.SEED,
    )
    text = "under SGD or momentum without clipping, first step; under AdamW, or clipped, ALLoRA starts as LoRA at l_b"
    return Finding(settle(printed, corrected), evidence, text)


def under_optimisers() -> Finding:
    """Is ALLoRA away from zero sooner than LoRA at l? Mean row norm after five steps of the layers.

    Returns:
        The finding.
    """
    task = layer_runs.problem()
    teacher = escape.data_teacher(task.x, task.y, task.a)
    printed, corrected, seen, errors = {}, {}, {}, []
    for case, (optimiser, clip, reaches) in SETTINGS.items():
        lora, allora = (
            np.linalg.norm(layer_runs.products(task, optimiser, arm, ETA, RATE, 5, clip)[-1], axis=1).mean()
            for arm in ("lora", "allora")
        )
        seen[case] = float(allora / lora)
        norms = escape.drift(optimiser, ETA, RATE, 5, teacher=teacher, max_grad_norm=clip).norms[:, 0, -1]
        errors.append(float(abs(seen[case] * norms[0] / norms[2] - 1)))
        printed[case] = seen[case] >= (1 + ETA) / 2
        corrected[case] = errors[-1] <= 1e-7 and printed[case] == reaches
    evidence = Evidence(
        {"ratio to LoRA at l, at least": (1 + ETA) / 2},
        seen,
        "against `escape.drift`: 1e-7",
        max(errors),
        1e-7,
        seed=layer_runs.SEED,
    )
    text = "under SGD and momentum; not under AdamW, nor clipped; ALLoRAAdamW, with the factor after Adam, restores it"
    return Finding(settle(printed, corrected), evidence, text)


def effective_rate() -> Finding:
    """The rate that a row's gradient is multiplied with in a step of the layer, over η·l_b.

    Returns:
        The finding.
    """
    task = layer_runs.problem()
    first = task.y.T @ task.x / len(task.x) @ task.a.T  # −GAᵀ at B = 0
    step = first @ task.a
    seen = {}
    for case, optimiser in {"SGD, BA = 0": "sgd", "AdamW, BA = 0": "adamw"}.items():
        moved = layer_runs.products(task, optimiser, "allora", ETA, RATE, 1)[1]
        unit = step if optimiser == "sgd" else np.sign(first) @ task.a
        seen[case] = float(np.sum(moved * unit) / np.sum(unit * unit) / (ETA * RATE))
    expected = {"SGD, BA = 0": 1.0, "AdamW, BA = 0": 1 / ETA}
    for u in (1.0, 10.0):
        a, b = np.array([[1.0]]), np.array([[u / ETA**2]])
        seen[f"SGD, ‖(BA)_i‖ = {u:g}/η²"] = float(adaptive.row_factor(a, b, ETA)[0] / ETA)
        expected[f"SGD, ‖(BA)_i‖ = {u:g}/η²"] = (1 + u) ** -0.5
    errors = {case: abs(seen[case] - expected[case]) for case in seen}
    printed = {case: abs(value - 1) <= ADAM for case, value in seen.items()}
    corrected = {case: errors[case] <= ADAM and printed[case] == (case == "SGD, BA = 0") for case in seen}
    source = f"{ADAM:g}: Adam's ε over |g|"
    evidence = Evidence(expected, seen, source, max(errors.values()), ADAM, seed=layer_runs.SEED)
    text = "at BA = 0 only, and where the step follows the gradient's size: η·l_b/√(1 + η²‖(BA)_i‖) later; l_b in Adam"
    return Finding(settle(printed, corrected), evidence, text)


FIGURE = "§4.2 and Figure 2, right"
ROWS = (
    (
        "4-figure-2-right",
        FIGURE,
        "The starting phase matches that of LoRA with learning rate η·l_b (read: the first step)",
        start,
    ),
    (
        "4-escape-optimisers",
        FIGURE,
        "Adaptive learning rate escapes from 0 rapidly (read: after five steps its rows are longer than those of LoRA "
        "at l_b by (1 + η)/2)",
        under_optimisers,
    ),
    (
        "4-effective-rate",
        "§4.2, below the definition",
        "The effective learning rate is η·l_b",
        effective_rate,
    ),
)


def claims() -> tuple[Claim, ...]:
    """The statements that depend on the optimiser; Figure 2 as measured is in `section_4_row_norms`.

    Returns:
        The claims.
    """
    return tuple(Claim(name, where, text, check, COMMAND, TEST) for name, where, text, check in ROWS)
