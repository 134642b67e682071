"""What the scalar model says of the linear teacher: row norms by step, and the first step's ratio to LoRA's at l.

The scalar model takes the gradient at B = 0 and the initial A as they are, for good. Row i of BA then grows along
C_iAᵀA with g_i = ‖C_iAᵀA‖ under SGD and, Adam making every entry of B's gradient ±1, g_i = ‖sign(C_iAᵀ)A‖ under
AdamW. Under AdamW ALLoRA's factor cancels, up to the second moment's memory of earlier, larger factors, which makes
ALLoRA a little slower than LoRA at l and vanishes with the learning rate at a fixed time: its prediction is LoRA's at
l. Under "allora_adamw" nothing cancels. Left out: A's training (under AdamW A moves at the full rate from the second
step on, however small its gradient), the residual's decline, decay, and, for SGD, clipping beyond the first step.
Checked by `tests/test_escape_study.py` and `tests/test_escape_teacher.py`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from allora_analysis.escape.first_step import clipped_step
from allora_analysis.escape.recipe import Recipe, rate_factor
from allora_analysis.escape.scalar import levels
from allora_analysis.escape.teacher import Teacher

LEAST = 1e-100  # a norm to clip at far below `CLIP_EPS`: every arm is clipped, and no ratio depends on it


def clock(recipe: Recipe) -> Float[np.ndarray, " times"]:
    """The time after each step: what the optimiser moves a parameter by under the constant gradient −1.

    Args:
        recipe: the optimiser; momentum's time runs up to 1/(1 − μ) times as fast as its steps.

    Returns:
        Times at 0, 1, …, `steps` steps.
    """
    rates = recipe.learning_rate * np.array([rate_factor(recipe, index) for index in range(recipe.steps)])
    if recipe.optimiser == "momentum":
        rates *= (1 - recipe.momentum ** np.arange(1, recipe.steps + 1)) / (1 - recipe.momentum)
    return np.concatenate([[0.0], np.cumsum(rates)])


def row_gradients(teacher: Teacher, optimiser: str) -> Float[np.ndarray, "seeds n1"]:
    """g_i, the speed at which row i of BA leaves 0 per unit of time under LoRA at l.

    Args:
        teacher: the loss and A.
        optimiser: a name of `recipe.OPTIMISERS`.

    Returns:
        g_i for every seed.
    """
    gradient = teacher.cross @ teacher.a.swapaxes(1, 2)
    if optimiser in ("adamw", "allora_adamw"):
        gradient = np.sign(gradient)
    return np.linalg.norm(gradient @ teacher.a, axis=-1)


def scalar_rule(arm: str, optimiser: str, eta: float, adaptor: str) -> tuple[float, str]:
    """The scalar model's η and adaptor for an arm.

    Args:
        arm: "lora", "lora_eta" or "allora".
        optimiser: a name of `recipe.OPTIMISERS`.
        eta: η.
        adaptor: ALLoRA's.

    Returns:
        (1, "constant") for LoRA at l and for ALLoRA under AdamW, which undoes it; (η, "constant") for LoRA at η·l.
    """
    if arm == "allora" and optimiser != "adamw":
        return eta, adaptor
    return (eta if arm == "lora_eta" else 1.0), "constant"


def predicted_norms(
    teacher: Teacher, arm: str, eta: float, recipe: Recipe, adaptor: str
) -> Float[np.ndarray, "seeds times"]:
    """Mean over rows of the scalar model's m_i by step.

    Args:
        teacher: the loss and A.
        arm: "lora", "lora_eta" or "allora".
        eta: η.
        recipe: the optimiser.
        adaptor: ALLoRA's.

    Returns:
        The means at 0, 1, …, `steps` steps.
    """
    times, rule = clock(recipe), scalar_rule(arm, recipe.optimiser, eta, adaptor)
    of_seeds = row_gradients(teacher, recipe.optimiser)
    return np.stack([levels(rows[:, None] * times, *rule).mean(axis=0) for rows in of_seeds])


def first_ratio(teacher: Teacher, arm: str, eta: float, recipe: Recipe) -> Float[np.ndarray, " seeds"]:
    """‖BA‖ of an arm over that of LoRA at l after the first step whose rate is not 0.

    Args:
        teacher: the loss and A.
        arm: "lora", "lora_eta" or "allora".
        eta: η.
        recipe: the optimiser.

    Returns:
        SGD and momentum: by `first_step.clipped_step`. AdamW: 1 for ALLoRA, up to O(ε/|g|). "allora_adamw": η.
    """
    if recipe.optimiser in ("adamw", "allora_adamw"):
        fast = arm == "lora_eta" or (arm == "allora" and recipe.optimiser == "allora_adamw")
        return np.full(len(teacher.a), eta if fast else 1.0)
    sizes = np.linalg.norm(teacher.cross @ teacher.a.swapaxes(1, 2), axis=(1, 2))
    limit = None if recipe.max_grad_norm is None else max(recipe.max_grad_norm, LEAST)
    steps = [clipped_step(float(size), eta, limit) for size in sizes]
    return np.array([getattr(step, arm) / step.lora for step in steps])
