"""One step of SGD, momentum, AdamW and ALLoRAAdamW on a pair (A, B), in NumPy: PyTorch's formulas, written out.

With gradients g clipped together at norm c, g ← g·min(1, c/(‖g‖ + 10⁻⁶)):

- sgd: w ← w − l(g + λw). momentum: u ← μu + g + λw (u = g + λw first), w ← w − lu.
- adamw: w ← (1 − lλ)w − l·m̂/(√v̂ + ε), moments bias-corrected.
- allora_adamw: as adamw, but the second term of B is multiplied row by row by d, and A's by the mean of d, where d
  is h(‖(BA)_i‖) before the step. The decay is not.

Arrays have a leading axis, the seeds; clipping is per seed. Checked by `tests/test_escape_optimisers.py` against a twin
that shares nothing and against torch's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from allora_analysis.escape.recipe import Recipe, rate_factor

Pair = tuple[np.ndarray, np.ndarray]  # A (seeds, r, n2), B (seeds, n1, r)
CLIP_EPS = 1e-6  # as torch.nn.utils.clip_grad_norm_ has it


@dataclass(frozen=True)
class Memory:
    """An optimiser's state: steps taken, first and second moments (momentum's buffer is the first)."""

    step: int
    first: Pair
    second: Pair


def memory(pair: Pair) -> Memory:
    """An optimiser's state before its first step.

    Args:
        pair: A and B.

    Returns:
        Zeros.
    """
    zeros = (np.zeros_like(pair[0]), np.zeros_like(pair[1]))
    return Memory(0, zeros, zeros)


def clip_factor(
    a: Float[np.ndarray, "seeds r n2"], b: Float[np.ndarray, "seeds n1 r"], max_grad_norm: float
) -> Float[np.ndarray, "seeds 1 1"]:
    """min(1, c/(‖g‖ + 10⁻⁶)) with ‖g‖ over both gradients.

    Args:
        a: gradient of A.
        b: gradient of B.
        max_grad_norm: c.

    Returns:
        A factor per seed.
    """
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
    """One step.

    Args:
        recipe: the optimiser.
        pair: A and B.
        gradients: theirs.
        state: the optimiser's state.
        rate: the arm's learning rate before the schedule.
        factor: d for "allora_adamw", to multiply the update; None: AdamW's own.

    Returns:
        A and B after the step, and the new state.
    """
    if recipe.max_grad_norm is not None:
        clip = clip_factor(*gradients, recipe.max_grad_norm)
        gradients = (gradients[0] * clip, gradients[1] * clip)
    rate *= rate_factor(recipe, state.step)
    if recipe.optimiser in ("sgd", "momentum"):
        return _sgd(recipe, pair, gradients, state, rate)
    return _adamw(recipe, pair, gradients, state, rate, factor)


def _sgd(recipe: Recipe, pair: Pair, gradients: Pair, state: Memory, rate: float) -> tuple[Pair, Memory]:
    mu = recipe.momentum if recipe.optimiser == "momentum" else 0.0
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
