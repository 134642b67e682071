"""The optimizers on a pair (A, B), and the first step from B = 0 of each arm under them (§4.2, Figure 2 right).

**SGD, momentum, AdamW and ALLoRAAdamW**, clipping and schedule: PyTorch's formulas, written out in NumPy. With
gradients g clipped together at norm c, g ← g·min(1, c/(‖g‖ + 10⁻⁶)):

- sgd: w ← w − l(g + λw). momentum: u ← μu + g + λw (u = g + λw first), w ← w − lu.
- adamw: w ← (1 − lλ)w − l·m̂/(√v̂ + ε), moments bias-corrected.
- allora_adamw: as adamw, but the second term of B is multiplied row by row by d, and A's by the mean of d, where d
  is h(‖(BA)_i‖) before the step. The decay is not.

Arrays have a leading axis, the seeds; clipping is per seed.

**The first step from B = 0**: when ALLoRA's is LoRA's at η·l, and when it is LoRA's at l. At B = 0 the
gradient of A is BᵀG = 0 and every row factor is η, so ALLoRA's gradients are (0, η·GAᵀ), LoRA's (0, GAᵀ). Let g = GAᵀ,
‖g‖ its norm over all pairs of the model, f ≥ 0 the norm of the other gradients (a head's), c the clipping norm, scaling
1 (α = r):

- **SGD without clipping** (momentum alike, whose buffer starts as the gradient): ALLoRA's step is −lη·g, LoRA's at η·l
  exactly, in exact arithmetic, and A does not move. With clipping the step of an arm is −(rate)·s·g, and
  `clipped_step` is s·rate/l: min(1, c/√(η²‖g‖² + f²))·η for ALLoRA, min(1, c/√(‖g‖² + f²)) for LoRA at l, η times that
  at η·l. So with f = 0 ALLoRA's over LoRA's at l is η for ‖g‖ ≤ c/max(1, η), and **1 for ‖g‖ ≥ c/min(1, η)**: clipping
  undoes the factor wherever LoRA's own gradients are clipped already (η ≥ 1).
- **AdamW**: the step of an entry is −l·g/(|g| + ε) for LoRA and −l·g/(|g| + ε/η) for ALLoRA: LoRA's at **l**, times
  1 + O(ε/|g|). The relative gap |step_ALLoRA − step_LoRA|/l is exactly ε|η − 1||g|/((η|g| + ε)(|g| + ε)), at most
  ε|η − 1|/(η|g|) and at most |√η − 1|/(√η + 1), whatever g. Clipping both arms by factors s, s′ replaces |g| by s|g|
  and η|g| by s′η|g|: the same again.

Checked by `tests/test_escape_optimizers.py` against a twin that shares nothing, against torch's own, and by formula
the first step from B = 0.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from allora_analysis import validation
from allora_analysis.validation import ArgumentError, representable

OPTIMIZERS = ("sgd", "momentum", "adamw", "allora_adamw")
SCHEDULES = ("constant", "linear", "cosine")
CLIP_EPS = 1e-6  # as torch.nn.utils.clip_grad_norm_ has it
Pair = tuple[np.ndarray, np.ndarray]  # A (seeds, r, n2), B (seeds, n1, r)


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
    for name, value in (
        ("momentum", recipe.momentum),
        *(("betas", beta) for beta in validation.several("betas", recipe.betas, 2)),
    ):
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


def _clipped(
    a: Float[np.ndarray, "seeds r n2"], b: Float[np.ndarray, "seeds n1 r"], max_grad_norm: float
) -> tuple[Float[np.ndarray, "seeds r n2"], Float[np.ndarray, "seeds n1 r"]]:
    """Both gradients times min(1, c/(‖g‖ + 10⁻⁶)), ‖g‖ over both."""
    norm = np.sqrt((a**2).sum((1, 2), keepdims=True) + (b**2).sum((1, 2), keepdims=True))
    factor = np.minimum(1.0, max_grad_norm / (norm + CLIP_EPS))
    return a * factor, b * factor


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
        gradients = _clipped(*gradients, recipe.max_grad_norm)
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


@dataclass(frozen=True)
class ClippedStep:
    """The first SGD step of B in each arm over −l·g: 1, η and η where nothing is clipped."""

    lora: float
    """LoRA at l."""
    lora_eta: float
    """LoRA at η·l."""
    allora: float
    """ALLoRA."""


@representable()
def clip_factor(norm: float, max_grad_norm: float | None) -> float:
    """min(1, c/(‖g‖ + 10⁻⁶)), as `torch.nn.utils.clip_grad_norm_` multiplies; 1 without clipping.

    Args:
        norm: the gradients' norm, 0 or above.
        max_grad_norm: c, or None.
    """
    norm = validation.non_negative("norm", norm)
    if max_grad_norm is None:
        return 1.0
    return min(1.0, validation.positive("max_grad_norm", max_grad_norm) / (norm + CLIP_EPS))


@representable()
def clipped_step(
    gradient_norm: float, eta: float, max_grad_norm: float | None = None, other_norm: float = 0.0
) -> ClippedStep:
    """The first SGD step of B in each arm, over LoRA's unclipped −l·g.

    Args:
        gradient_norm: ‖g‖ of LoRA's gradients over all pairs, 0 or above.
        eta: η > 0.
        max_grad_norm: c; None: no clipping; transformers' default is 1.
        other_norm: f, the norm of all other gradients clipped with them, 0 or above.

    Returns:
        A factor per arm.

    Raises:
        ArgumentError: norms, or η times one, that leave the range of a float.
    """
    norm, eta = validation.non_negative("gradient_norm", gradient_norm), validation.positive("eta", eta)
    other = validation.non_negative("other_norm", other_norm)
    norms = math.hypot(norm, other), math.hypot(eta * norm, other)
    if not math.isfinite(max(norms)):
        raise ArgumentError("gradient_norm, eta, other_norm: a norm leaves float64's range; give smaller ones")
    lora, allora = (clip_factor(one, max_grad_norm) for one in norms)
    return ClippedStep(lora, eta * lora, eta * allora)
