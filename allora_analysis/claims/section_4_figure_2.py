"""§4.2 and Figure 2 (right) under each optimiser: the layers are run, `escape` predicts.

Checked by `tests/test_claims_allora_escape.py`, which plants wrong formulas.
"""

from __future__ import annotations

import numpy as np

from allora_analysis import escape
from allora_analysis.claims import layer_runs
from allora_analysis.claims.ledger import Claim, Evidence, Finding, relative_error, settle
from allora_analysis.escape import first_step

ADAM = 1e-5  # Adam's ε over |g|, and PyTorch's 1e-6 in a clipped norm
COMMAND = "python -m allora_analysis.escape"
TEST = "tests/test_escape_teacher.py"
ETA, RATE = 2.0, 0.001
OTHER = 5.0  # a classifier's gradient over LoRA's
CLIPS = {"below": 0.07, "between": 1.2, "above": 3.0}  # over LoRA's first gradient; ALLoRA's is η times that
SETTINGS = {  # case: optimiser, threshold; is ALLoRA's first step that of LoRA at η·l, at l, or neither?
    "SGD": ("sgd", None, "η·l"),
    "momentum": ("momentum", None, "η·l"),
    "SGD, clipped below LoRA's gradient": ("sgd", "below", "l"),
    "SGD, clipped between LoRA's gradient and η times it": ("sgd", "between", "neither"),
    "SGD, clipped above η times LoRA's gradient": ("sgd", "above", "η·l"),
    "AdamW": ("adamw", None, "l"),
    "ALLoRAAdamW (not the paper's)": ("allora_adamw", None, "η·l"),
}


def _settings(task: layer_runs.Problem) -> dict[str, tuple[str, float | None, str]]:
    # SETTINGS with the thresholds as the norms that torch clips at.
    first = layer_runs.first_gradient(task)
    return {
        case: (optimiser, CLIPS[clip] * first if clip else None, like)
        for case, (optimiser, clip, like) in SETTINGS.items()
    }


def _clips_as_said(task: layer_runs.Problem) -> bool:
    # Are the thresholds where the cases' names have them, the lowest at every one of ten steps?
    first = layer_runs.first_gradient(task)
    below, between, above = (CLIPS[name] * first for name in ("below", "between", "above"))
    low = layer_runs.gradient_norms(task, layer_runs.pairs(task, "sgd", "lora", ETA, RATE, 10, below))
    return bool(low.min() > below and first < between < ETA * first < above)


def _beside_a_classifier(task: layer_runs.Problem) -> tuple[float, float]:
    # The first step's length, ALLoRA's over LoRA's at l, both clipped with a gradient OTHER times as long; and its law.
    gradient = layer_runs.first_gradient(task)
    clip, other = CLIPS["below"] * gradient, OTHER * gradient
    lora, allora = (
        float(np.linalg.norm(layer_runs.products(task, "sgd", arm, ETA, RATE, 1, clip, other_norm=other)[1]))
        for arm in ("lora", "allora")
    )
    law = first_step.clipped_step(gradient, ETA, clip, other)
    return allora / lora, law.allora / law.lora


def start() -> Finding:
    """The first step of the layers under torch's optimisers, ALLoRA at l beside LoRA at η·l and at l.

    Returns:
        The finding; measured are relative distances of BA after the first step and after ten.
    """
    task = layer_runs.problem()
    teacher = escape.data_teacher(task.x, task.y, task.a)
    printed, corrected, seen, errors = {}, {}, {}, []
    for case, (optimiser, clip, like) in _settings(task).items():
        runs = {
            name: layer_runs.products(task, optimiser, arm, ETA, rate, 10, clip)
            for name, arm, rate in (("slow", "lora", RATE), ("fast", "lora", ETA * RATE), ("allora", "allora", RATE))
        }
        gaps = [[relative_error(runs["allora"][k], runs[name][k]) for k in (1, 10)] for name in ("fast", "slow")]
        seen[case] = {"from LoRA at η·l": gaps[0], "from LoRA at l": gaps[1]}
        predicted = escape.drift(optimiser, ETA, RATE, 10, teacher=teacher, max_grad_norm=clip)
        norms = [np.linalg.norm(runs[name], axis=2).mean(axis=1) for name in ("slow", "fast", "allora")]
        errors.append(relative_error(norms, predicted.norms[:, 0]))
        matches = {"η·l": gaps[0][0] <= ADAM, "l": gaps[1][0] <= ADAM}
        printed[case] = matches["η·l"]
        corrected[case] = errors[-1] <= 1e-7 and matches == {rate: rate == like for rate in matches}
    corrected["the thresholds are where the cases say"] = _clips_as_said(task)
    shared, law = _beside_a_classifier(task)
    case = f"SGD, clipped with a classifier's gradient {OTHER:g} times LoRA's"
    seen[case] = {"first step over LoRA's at l": shared}
    printed[case] = abs(shared / ETA - 1) <= ADAM
    corrected[case] = abs(shared / law - 1) <= ADAM and 1 + ADAM < shared < ETA - ADAM
    evidence = Evidence(
        {case: like for case, (_, _, like) in SETTINGS.items()},
        seen,
        f"{ADAM:g} for a match (Adam's ε, clipping's 1e-6); row norms against `escape.drift`: 1e-7",
        max(errors),
        1e-7,
        seed=layer_runs.SEED,
    )
    text = (
        "under SGD or momentum, first step, while nothing is clipped; under AdamW, or where the adapters' gradients "
        "are clipped by themselves and LoRA's norm g exceeds the threshold (η ≥ 1), ALLoRA starts as LoRA at l_b; with "
        "the threshold between g and ηg, between the two; so too where a classifier's gradient h is clipped with them: "
        f"η√(g² + h²)/√(η²g² + h²) times LoRA's step at l_b ({shared:.3g} for h = {OTHER:g}g, η = {ETA:g})"
    )
    return Finding(settle(printed, corrected), evidence, text)


def under_optimisers() -> Finding:
    """Is ALLoRA away from zero sooner than LoRA at l? Mean row norm after five steps of the layers.

    Returns:
        The finding.
    """
    task = layer_runs.problem()
    teacher = escape.data_teacher(task.x, task.y, task.a)
    printed, corrected, seen, errors = {}, {}, {}, []
    for case, (optimiser, clip, like) in _settings(task).items():
        lora, allora = (
            np.linalg.norm(layer_runs.products(task, optimiser, arm, ETA, RATE, 5, clip)[-1], axis=1).mean()
            for arm in ("lora", "allora")
        )
        seen[case] = float(allora / lora)
        norms = escape.drift(optimiser, ETA, RATE, 5, teacher=teacher, max_grad_norm=clip).norms[:, 0, -1]
        errors.append(float(abs(seen[case] * norms[0] / norms[2] - 1)))
        printed[case] = seen[case] >= (1 + ETA) / 2
        right = 1 < seen[case] < seen["SGD"] if like == "neither" else printed[case] == (like == "η·l")
        corrected[case] = errors[-1] <= 1e-7 and right
    corrected["the thresholds are where the cases say"] = _clips_as_said(task)
    evidence = Evidence(
        {"ratio to LoRA at l, at least": (1 + ETA) / 2},
        seen,
        "against `escape.drift`: 1e-7",
        max(errors),
        1e-7,
        seed=layer_runs.SEED,
    )
    text = (
        "under SGD and momentum while nothing is clipped; not under AdamW, nor where the adapters' gradients are "
        "clipped by themselves and LoRA's norm exceeds the threshold at every step (with the threshold between that "
        "and η times it, or a classifier's gradient in the same norm, the gain is smaller); ALLoRAAdamW, with the "
        "factor after Adam, restores it"
    )
    return Finding(settle(printed, corrected), evidence, text)


def effective_rate() -> Finding:
    """The rate that a row's gradient of B is multiplied with in one step of the layer, over η·l_b.

    Returns:
        The finding; for rows of BA of length 0, 1/η² and 10/η², the latter from B ≠ 0.
    """
    task = layer_runs.problem()
    seen, expected = {}, {}
    for u, optimiser in ((0.0, "sgd"), (1.0, "sgd"), (10.0, "sgd"), (0.0, "adamw"), (1.0, "adamw")):
        case = f"{'SGD' if optimiser == 'sgd' else 'AdamW'}, ‖(BA)_i‖ = {f'{u:g}/η²' if u else 0}"
        seen[case] = _rates(task, optimiser, _rows_of(task, u / ETA**2)) / (ETA * RATE)
        expected[case] = (1 + u) ** -0.5 if optimiser == "sgd" else 1 / ETA
    errors = {case: float(np.abs(seen[case] - expected[case]).max()) for case in seen}
    printed = {case: bool((np.abs(rates - 1) <= ADAM).all()) for case, rates in seen.items()}
    corrected = {case: errors[case] <= ADAM and printed[case] == (case == "SGD, ‖(BA)_i‖ = 0") for case in seen}
    source = f"{ADAM:g}: Adam's ε over |g|"
    evidence = Evidence(expected, seen, source, max(errors.values()), ADAM, seed=layer_runs.SEED)
    text = "at BA = 0 only, and where the step follows the gradient's size: η·l_b/√(1 + η²‖(BA)_i‖) later; l_b in Adam"
    return Finding(settle(printed, corrected), evidence, text)


def _rows_of(task: layer_runs.Problem, size: float) -> np.ndarray:
    # A B whose rows of BA all have that length.
    b = np.random.default_rng(layer_runs.SEED).standard_normal((task.y.shape[1], len(task.a)))
    return size * b / np.linalg.norm(b @ task.a, axis=1, keepdims=True)


def _rates(task: layer_runs.Problem, optimiser: str, start: np.ndarray) -> np.ndarray:
    # Each row's step of B over LoRA's gradient GAᵀ (its signs for AdamW), one step of the layer taken from B = start.
    gradient = (task.x @ (start @ task.a).T - task.y).T @ task.x / len(task.x) @ task.a.T
    after = layer_runs.pairs(task, optimiser, "allora", ETA, RATE, 1, start=start)[1][1]
    unit = gradient if optimiser == "sgd" else np.sign(gradient)
    return np.sum((start - after) * unit, axis=1) / np.sum(unit * unit, axis=1)


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
