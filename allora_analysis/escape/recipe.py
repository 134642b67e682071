"""What an optimiser does with a gradient, on record: its kind, its constants, clipping, warm-up and schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

from allora_analysis import validation
from allora_analysis.validation import ArgumentError

OPTIMISERS = ("sgd", "momentum", "adamw", "allora_adamw")
SCHEDULES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class Recipe:
    """An optimiser and all that it depends on; defaults are PyTorch's, and no clipping, warm-up or decay.

    `allora_adamw` is AdamW for LoRA's arms; for ALLoRA's it applies the row factor to AdamW's update, not the gradient.
    """

    optimiser: str
    """"sgd", "momentum" (heavy ball, as PyTorch's), "adamw" or "allora_adamw"."""
    learning_rate: float
    """l; the arm LoRA at η·l multiplies it by η."""
    momentum: float = 0.9
    """μ of "momentum", in [0, 1)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """β₁, β₂ of AdamW, each in [0, 1)."""
    eps: float = 1e-8
    """ε of AdamW, added to the root of the bias-corrected second moment."""
    weight_decay: float = 0.0
    """λ: added to the gradient as λ·w by SGD, decoupled in AdamW."""
    max_grad_norm: float | None = None
    """Clip at this norm of A's and B's gradients together; None: no clipping. transformers' default is 1."""
    warmup: int = 0
    """Steps over which the rate grows linearly from 0, as transformers has it: step k at k/warmup."""
    schedule: str = "constant"
    """After warm-up: "constant", or "linear" or "cosine" to 0 at `steps`."""
    steps: int = 1
    """Length of the schedule."""


def check(recipe: Recipe) -> Recipe:
    """Refuse a recipe that makes no sense.

    Args:
        recipe: the recipe.

    Returns:
        The same.

    Raises:
        ArgumentError: a number out of range, an unknown word.
    """
    validation.choice("optimiser", recipe.optimiser, OPTIMISERS)
    validation.choice("schedule", recipe.schedule, SCHEDULES)
    validation.positive("learning_rate", recipe.learning_rate)
    for name, value in (("momentum", recipe.momentum), *(("betas", beta) for beta in recipe.betas)):
        if not 0 <= validation.number(name, value, "in [0, 1)") < 1:
            raise ArgumentError(f"{name} must be in [0, 1), received {value!r}")
    validation.positive("eps", recipe.eps)  # at B = 0 the gradient of A is 0: without ε its first step is 0/0
    validation.non_negative("weight_decay", recipe.weight_decay)
    if recipe.max_grad_norm is not None:
        validation.positive("max_grad_norm", recipe.max_grad_norm)
    validation.count("steps", recipe.steps)
    validation.count("warmup", recipe.warmup, 0, recipe.steps - 1)
    return recipe


def rate_factor(recipe: Recipe, step: int) -> float:
    """The schedule's factor on the learning rate at step 0, 1, …, as in transformers' schedules.

    Args:
        recipe: the recipe.
        step: steps taken before this one.

    Returns:
        A factor in [0, 1].
    """
    if step < recipe.warmup:
        return step / recipe.warmup
    done = min(1.0, (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup))
    if recipe.schedule == "linear":
        return 1 - done
    return (1 + math.cos(math.pi * done)) / 2 if recipe.schedule == "cosine" else 1.0
