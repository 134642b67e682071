"""Mean and variance of a stream of samples in bounded memory (Welford 1962; Chan–Golub–LeVeque 1983).

Checked by `tests/test_statistics.py`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.validation import ArgumentError, finite


class Moments:
    """Running count, mean and sum of squared deviations of samples of one shape.

    Two parts merge as n = n₁ + n₂, δ = m₂ − m₁, m = m₁ + δn₂/n, M = M₁ + M₂ + δ²n₁n₂/n, which does not cancel where the
    mean is large against the spread. The result does not depend on the batches' sizes, up to rounding.

    Attributes:
        n: number of samples so far.
    """

    def __init__(self) -> None:
        self.n = 0
        self._mean: np.ndarray | None = None
        self._squares: np.ndarray | None = None

    def add(self, batch: ArrayLike) -> None:
        """Take in samples along axis 0.

        Args:
            batch: shape (size, …), the same … each time.
        """
        array = finite("batch", np.atleast_1d(np.asarray(batch)))
        mean = np.asarray(array.mean(axis=0))
        self._merge(len(array), mean, np.asarray(np.square(array - mean).sum(axis=0)))

    def merge(self, other: Moments) -> None:
        """Take in another stream's samples, as if added here.

        Args:
            other: the other stream; unchanged.
        """
        if other.n:
            self._merge(other.n, other.mean, other._squares)

    def _merge(self, n: int, mean: Float[np.ndarray, "*shape"], squares: Float[np.ndarray, "*shape"]) -> None:
        if self._mean is None:
            self.n, self._mean, self._squares = n, mean.copy(), squares.copy()
            return
        if mean.shape != self._mean.shape:
            raise ArgumentError(f"batch: samples of shape {mean.shape} received, earlier ones have {self._mean.shape}")
        total, delta = self.n + n, mean - self._mean
        self._squares = np.asarray(self._squares + squares + np.square(delta) * (self.n * n / total))
        self._mean = np.asarray(self._mean + delta * (n / total))
        self.n = total

    @property
    def mean(self) -> Float[np.ndarray, "*shape"]:
        """The mean.

        Returns:
            An array of a sample's shape.

        Raises:
            ArgumentError: no sample yet.
        """
        if self._mean is None:
            raise ArgumentError("Moments: no sample was added yet; add at least 1 for a mean")
        return self._mean

    @property
    def variance(self) -> Float[np.ndarray, "*shape"]:
        """The unbiased variance, with n − 1.

        Returns:
            An array of a sample's shape.

        Raises:
            ArgumentError: fewer than two samples.
        """
        if self.n < 2:
            raise ArgumentError(f"Moments: {self.n} samples were added; at least 2 are needed for a variance")
        return np.asarray(self._squares / (self.n - 1))

    @property
    def stderr(self) -> Float[np.ndarray, "*shape"]:
        """The standard error of the mean.

        Returns:
            An array of a sample's shape.
        """
        return np.asarray(np.sqrt(self.variance / self.n))
