"""The linear model of §3.1, mask on the output, in the form that the estimator takes: its closed form is the oracle.

Checked by `tests/test_gradient_std_estimator.py` against `deviation.gradient_std`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from allora_analysis.validation import keep_probability


class LinearGradient:
    """∂‖Y − (XW)⊙V‖²/∂W = −2 Xᵀ(V ⊙ (Y − XW⊙V)), V in {0, 1/p}, as a function of the mask: leftᵀ right, left = X."""

    def __init__(self, x: Float[Tensor, "N D"], y: Float[Tensor, "N C"], w: Float[Tensor, "D C"], keep_prob: float):
        self.keep_prob = keep_probability(keep_prob)
        self.below = x
        self.shape = tuple(w.shape)
        self.mask_size = y.numel()
        # A kept entry contributes −2(Y − Z/p)/p, a dropped one nothing.
        self._kept = -2 * (y - x @ w / self.keep_prob) / self.keep_prob

    @property
    def bytes_per_mask(self) -> int:
        """What one mask of a chunk takes."""
        return self.mask_size * (2 + self.below.element_size())

    def factors(
        self, kept: Bool[Tensor, "masks entries"]
    ) -> tuple[Float[Tensor, "masks N rows"], Float[Tensor, "masks N columns"]]:
        """`left` and `right` for each of a chunk of masks.

        Args:
            kept: the masks, each of N·C entries.

        Returns:
            `left` (X for every mask, not copied) and `right`.
        """
        right = torch.mul(self._kept, kept.unflatten(1, tuple(self._kept.shape)))
        return self.below.expand(len(kept), -1, -1), right
