"""Mean and variance of a stream of gradients, entry by entry, in memory that does not depend on how many there are.

Each gradient is leftᵀ right. A block of them is summed in the gradient's own dtype as deviations from the running mean
(subtracted by the GEMM itself), then merged into float64 by Chan, Golub and LeVeque (1983): with nothing but small
deviations squared, nothing cancels. Checked by `tests/test_gradient_std_estimator.py` against two passes in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass
class Moments:
    """Count, mean and Σ(g − mean)² of some gradients, float64.

    Attributes:
        n: how many.
        mean: their mean.
        squares: Σ(g − mean)².
    """

    n: int
    mean: Float[Tensor, "rows columns"]
    squares: Float[Tensor, "rows columns"]

    @staticmethod
    def empty(like: Tensor) -> Moments:
        """Moments of nothing.

        Args:
            like: a tensor of the gradient's shape, on its device.

        Returns:
            The moments.
        """
        zeros = torch.zeros_like(like, dtype=torch.float64)
        return Moments(0, zeros, zeros.clone())

    def merge(self, n: int, mean: Float[Tensor, "rows columns"], squares: Float[Tensor, "rows columns"]) -> None:
        """Add another group: M ← M + M' + (mean' − mean)² nn'/(n + n').

        Args:
            n: its count.
            mean: its mean; overwritten.
            squares: its Σ(g − mean')².
        """
        total = self.n + n
        delta = mean.sub_(self.mean)
        self.mean.add_(delta, alpha=n / total)
        self.squares.add_(squares).addcmul_(delta, delta, value=self.n * n / total)
        self.n = total

    def variance(self) -> Float[Tensor, "rows columns"]:
        """The unbiased variance, entry by entry; at least two gradients.

        Returns:
            Σ(g − mean)²/(n − 1).
        """
        return self.squares / (self.n - 1)


class Block:
    """Σd and Σd² of the deviations d = leftᵀ right + offset, in the gradient's own dtype; the offset is about −mean."""

    def __init__(self, offset: Float[Tensor, "rows columns"]):
        self.n = 0
        self._offset = offset
        self._sum, self._squares, self._gradient = (torch.zeros_like(offset) for _ in range(3))

    def add(self, left: Float[Tensor, "N rows"], right: Float[Tensor, "N columns"]) -> None:
        """Add one gradient.

        Args:
            left: (N × rows).
            right: (N × columns).
        """
        deviation = torch.addmm(self._offset, left.T, right, out=self._gradient)
        self._sum.add_(deviation)
        self._squares.addcmul_(deviation, deviation)
        self.n += 1

    def flush(self, into: Moments) -> None:
        """Merge the block into float64 moments and empty it.

        Args:
            into: where to.
        """
        if self.n:
            total = self._sum.double()
            # One deviation alone has no spread: its rounding is no variance.
            squares = self._squares.double().addcmul_(total, total, value=-1 / self.n).clamp_(min=0)
            squares = torch.zeros_like(total) if self.n == 1 else squares
            into.merge(self.n, total.div_(self.n).sub_(self._offset), squares)
        self._sum.zero_()
        self._squares.zero_()
        self.n = 0
