"""SGD, momentum, AdamW and ALLoRAAdamW on a pair (A, B), in NumPy: PyTorch's formulas, written out; clipping, schedule.

With gradients g clipped together at norm c, g ← g·min(1, c/(‖g‖ + 10⁻⁶)):

- sgd: w ← w − l(g + λw). momentum: u ← μu + g + λw (u = g + λw first), w ← w − lu.
- adamw: w ← (1 − lλ)w − l·m̂/(√v̂ + ε), moments bias-corrected.
- allora_adamw: as adamw, but the second term of B is multiplied row by row by d, and A's by the mean of d, where d
  is h(‖(BA)_i‖) before the step. The decay is not.

Arrays have a leading axis, the seeds; clipping is per seed. Checked by `tests/test_escape_optimizers.py` against a twin
that shares nothing and against torch's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from allora_analysis import validation
from allora_analysis.validation import ArgumentError

OPTIMIZERS = ("sgd", "momentum", "adamw", "allora_adamw")
SCHEDULES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class Recipe:
    """An optimizer and all that it depends on; defaults are PyTorch's, and no clipping, warm-up or decay.

    `allora_adamw` is AdamW for LoRA's arms; for ALLoRA's it applies the row factor to AdamW's update, not the gradient.
    """

    optimizer: str
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
    """Refuse a recipe that makes no sense."""
    validation.choice("optimizer", recipe.optimizer, OPTIMIZERS)
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
    """The schedule's factor on the learning rate at step 0, 1, …, as in transformers' schedules."""
    if step < recipe.warmup:
        return step / recipe.warmup
    done = (step - recipe.warmup) / (recipe.steps - recipe.warmup)
    if recipe.schedule == "linear":
        return 1 - done
    return (1 + math.cos(math.pi * done)) / 2 if recipe.schedule == "cosine" else 1.0


Pair = tuple[np.ndarray, np.ndarray]  # A (seeds, r, n2), B (seeds, n1, r)
CLIP_EPS = 1e-6  # as torch.nn.utils.clip_grad_norm_ has it


@dataclass(frozen=True)
class Memory:
    """An optimizer's state: steps taken, first and second moments (momentum's buffer is the first)."""

    step: int
    first: Pair
    second: Pair


def memory(pair: Pair) -> Memory:
    """An optimizer's state before its first step."""
    zeros = (np.zeros_like(pair[0]), np.zeros_like(pair[1]))
    return Memory(0, zeros, zeros)


def clip_factor(
    a: Float[np.ndarray, "seeds r n2"], b: Float[np.ndarray, "seeds n1 r"], max_grad_norm: float
) -> Float[np.ndarray, "seeds 1 1"]:
    """min(1, c/(‖g‖ + 10⁻⁶)) with ‖g‖ over both gradients."""
    norm = np.sqrt((a**2).sum((1, 2), keepdims=True) + (b**2).sum((1, 2), keepdims=True))
    return np.minimum(1.0, max_grad_norm / (norm + CLIP_EPS))


def step(
    recipe: Recipe,
    pair: Pair,
    gradients: Pair,
    state: Memory,
    rate: float,
    factor: Float[np.ndarray, "seeds n1"] | None = None,
) -> tuple[Pair, Memory]:
    """One step."""
    if recipe.max_grad_norm is not None:
        clip = clip_factor(*gradients, recipe.max_grad_norm)
        gradients = (gradients[0] * clip, gradients[1] * clip)
    rate *= rate_factor(recipe, state.step)
    if recipe.optimizer in ("sgd", "momentum"):
        return _sgd(recipe, pair, gradients, state, rate)
    return _adamw(recipe, pair, gradients, state, rate, factor)


def _sgd(recipe: Recipe, pair: Pair, gradients: Pair, state: Memory, rate: float) -> tuple[Pair, Memory]:
    mu = recipe.momentum if recipe.optimizer == "momentum" else 0.0
    first = _each(lambda u, g, w: mu * u + g + recipe.weight_decay * w, state.first, gradients, pair)
    return _each(lambda w, u: w - rate * u, pair, first), Memory(state.step + 1, first, state.second)


def _adamw(
    recipe: Recipe,
    pair: Pair,
    gradients: Pair,
    state: Memory,
    rate: float,
    factor: Float[np.ndarray, "seeds n1"] | None,
) -> tuple[Pair, Memory]:
    beta1, beta2 = recipe.betas
    count = state.step + 1
    first = _each(lambda m, g: beta1 * m + (1 - beta1) * g, state.first, gradients)
    second = _each(lambda v, g: beta2 * v + (1 - beta2) * g**2, state.second, gradients)
    correction, root = 1 - beta1**count, np.sqrt(1 - beta2**count)
    update = _each(lambda m, v: m / correction / (np.sqrt(v) / root + recipe.eps), first, second)
    if factor is not None:
        update = (update[0] * factor.mean(1)[:, None, None], update[1] * factor[:, :, None])
    moved = _each(lambda w, u: (1 - rate * recipe.weight_decay) * w - rate * u, pair, update)
    return moved, Memory(count, first, second)


def _each(function, *pairs: Pair) -> Pair:
    # The function on A's and on B's arrays.
    return function(*(pair[0] for pair in pairs)), function(*(pair[1] for pair in pairs))
