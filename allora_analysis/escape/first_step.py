"""The first step from B = 0 (§4.2, Figure 2 right): when ALLoRA's is LoRA's at η·l, and when it is LoRA's at l.

At B = 0 the gradient of A is BᵀG = 0 and every row factor is η, so ALLoRA's gradients are (0, η·GAᵀ), LoRA's (0, GAᵀ).
Let g = GAᵀ, ‖g‖ its norm over all pairs of the model, f ≥ 0 the norm of the other gradients (a head's), c the clipping
norm, scaling 1 (α = r):

- **SGD without clipping** (momentum alike, whose buffer starts as the gradient): ALLoRA's step is −lη·g, LoRA's at η·l
  exactly, in exact arithmetic, and A does not move. With clipping the step of an arm is −(rate)·s·g, and
  `clipped_step` is s·rate/l: min(1, c/√(η²‖g‖² + f²))·η for ALLoRA, min(1, c/√(‖g‖² + f²)) for LoRA at l, η times that
  at η·l. So with f = 0 ALLoRA's over LoRA's at l is η for ‖g‖ ≤ c/max(1, η), and **1 for ‖g‖ ≥ c/min(1, η)**: clipping
  undoes the factor wherever LoRA's own gradients are clipped already (η ≥ 1).
- **AdamW**: the step of an entry is −l·g/(|g| + ε) for LoRA and −l·g/(|g| + ε/η) for ALLoRA: LoRA's at **l**, times
  1 + O(ε/|g|). The relative gap |step_ALLoRA − step_LoRA|/l is exactly ε|η − 1||g|/((η|g| + ε)(|g| + ε)), at most
  ε|η − 1|/(η|g|) and at most |√η − 1|/(√η + 1), whatever g. Clipping both arms by factors s, s′ replaces |g| by s|g|
  and η|g| by s′η|g|: the same again.

Clipping divides by ‖g‖ + 10⁻⁶ in PyTorch; so do these. Checked by `tests/test_escape_first_step.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.escape.optimizers import CLIP_EPS
from allora_analysis.validation import representable

__all__ = ["ClippedStep", "adamw_step", "clip_factor", "clipped_step"]


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

    Returns:
        The factor.
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
    """
    norm, eta = validation.non_negative("gradient_norm", gradient_norm), validation.positive("eta", eta)
    other = validation.non_negative("other_norm", other_norm)
    lora = clip_factor(math.hypot(norm, other), max_grad_norm)
    return ClippedStep(lora, eta * lora, eta * clip_factor(math.hypot(eta * norm, other), max_grad_norm))


@representable()
def adamw_step(gradient: ArrayLike, eps: float = 1e-8) -> Float[np.ndarray, "*shape"]:
    """AdamW's first step over −l, without decay: g/(|g| + ε), whatever β₁ and β₂.

    Args:
        gradient: g, of any shape.
        eps: ε > 0.

    Returns:
        The step for each entry; 0 where g is.
    """
    g = validation.finite("gradient", gradient)
    return np.asarray(g / (np.abs(g) + validation.positive("eps", eps)))
