"""How far ALLoRA's training is from LoRA's at l and from LoRA's at η·l, step by step, under one optimiser (§4.2).

The paper's Figure 2 (right) says that ALLoRA starts as LoRA at η·l does. Under SGD the first step is the same and the
rows then part by η²‖(BA)_i‖/4, relatively, to leading order. Under AdamW ALLoRA starts as LoRA at **l**. Checked by
`tests/test_escape_drift.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from allora_analysis import validation
from allora_analysis.adaptors import ADAPTORS
from allora_analysis.escape.process import ARMS, Iterate, iterate
from allora_analysis.escape.recipe import Recipe, check
from allora_analysis.escape.teacher import Teacher, linear_teacher


@dataclass(frozen=True)
class Drift:
    """Relative distances ‖x − y‖_F/‖y‖_F by step (0 at step 0), y the arm that ALLoRA's x is compared with."""

    to_lora: Float[np.ndarray, "seeds times"]
    """BA from that of LoRA at l."""
    to_lora_eta: Float[np.ndarray, "seeds times"]
    """BA from that of LoRA at η·l."""
    parameters_to_lora: Float[np.ndarray, "seeds times"]
    """(A − A₀, B), the way travelled, from that of LoRA at l."""
    parameters_to_lora_eta: Float[np.ndarray, "seeds times"]
    """(A − A₀, B) from that of LoRA at η·l."""
    norms: Float[np.ndarray, "arms seeds times"]
    """Mean over rows of ‖(BA)_i‖ for LoRA at l, LoRA at η·l and ALLoRA."""
    max_norms: Float[np.ndarray, "arms seeds times"]
    """Largest ‖(BA)_i‖."""
    losses: Float[np.ndarray, "arms seeds times"]
    """The loss of each arm."""


def drift(
    optimiser: str,
    eta: float,
    learning_rate: float,
    steps: int,
    *,
    teacher: Teacher | None = None,
    adaptor: str = "inverse_sqrt",
    train_a: bool = True,
    **options: Any,
) -> Drift:
    """Train the three arms from one start and compare them after every step.

    Args:
        optimiser: "sgd", "momentum", "adamw" or "allora_adamw".
        eta: η > 0.
        learning_rate: l > 0 of LoRA and ALLoRA; LoRA at η·l has η times it.
        steps: steps to take.
        teacher: the loss and the initial A; None: `linear_teacher()`, 8 seeds.
        adaptor: ALLoRA's row factor, a name of `adaptors.ADAPTORS`.
        train_a: False keeps A as drawn.
        **options: other fields of `Recipe`: momentum, betas, eps, weight_decay, max_grad_norm, warmup, schedule.

    Returns:
        Distances, row norms and losses, each with steps + 1 times.
    """
    eta = validation.positive("eta", eta)
    validation.choice("adaptor", adaptor, ADAPTORS)
    recipe = check(Recipe(optimiser, learning_rate, steps=steps, **options))
    teacher = linear_teacher() if teacher is None else teacher
    arms = [iterate(teacher, arm, eta, recipe, adaptor, train_a) for arm in ARMS]
    columns = [_compare(teacher.a, *iterates) for iterates in zip(*arms, strict=True)]
    return Drift(*(np.stack(column, axis=-1) for column in zip(*columns, strict=True)))


def _compare(start: np.ndarray, lora: Iterate, lora_eta: Iterate, allora: Iterate) -> tuple[np.ndarray, ...]:
    arms = lora, lora_eta, allora
    products = [arm.b @ arm.a for arm in arms]
    ways = [np.concatenate([arm.a - start, arm.b.swapaxes(1, 2)], axis=2) for arm in arms]
    return (
        *(_distance(products[2], products[index]) for index in (0, 1)),
        *(_distance(ways[2], ways[index]) for index in (0, 1)),
        np.stack([arm.norms.mean(axis=1) for arm in arms]),
        np.stack([arm.norms.max(axis=1) for arm in arms]),
        np.stack([arm.loss for arm in arms]),
    )


def _distance(
    x: Float[np.ndarray, "seeds rows columns"], y: Float[np.ndarray, "seeds rows columns"]
) -> Float[np.ndarray, " seeds"]:
    # ‖x − y‖_F/‖y‖_F; 0 where both are 0, as at the start.
    gap, size = np.linalg.norm(x - y, axis=(1, 2)), np.linalg.norm(y, axis=(1, 2))
    return np.where(gap == 0, 0.0, gap / np.where(size == 0, 1.0, size))
