"""The largest constant learning rates at which SGD under dropout stays bounded: in the mean, and in the mean square.

The mean follows F = I − 2lH and is stable for l < 1/λ_max(H): p/s_max² for output masks, 1/λ_max(S + k diag S) for
input masks. The covariance follows C ↦ FCF + 4l²Q(0, C) = C − l·A(C) + l²·B(C) with A(C) = 2(HC + CH) and
B(C) = 4E[ĤCĤ], which is completely positive and self-adjoint. Its spectral radius is below 1 exactly for
l < 1/ρ(A⁻¹B) (A⁻¹ maps the positive cone into itself, so l ↦ C ↦ lA⁻¹B(C) decides: Damm 2004, ch. 3), and as
A^{-1/2}BA^{-1/2} is symmetric its largest eigenvalue comes from Lanczos' method, without a search over l. It is never
above the mean's limit. Directions that no step moves (H = 0 there, so ĝ and Ĥ are 0 too) are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.dropout_sgd.process import Process, build, in_units
from allora_analysis.validation import ArgumentError

LARGEST = 1e290  # of K's entries: Lanczos' sums over them must stay finite


@dataclass(frozen=True)
class StabilityLimits:
    """Learning rates below which moments stay bounded; ∞ where X = 0, and 0 or ∞ beyond the floats' range.

    Attributes:
        mean: the limit of E W, 1/λ_max(H).
        mean_square: the limit of Cov W, at most `mean`.
    """

    mean: float
    mean_square: float


@dataclass(frozen=True)
class CovarianceOperator:
    """K = A^{-1/2} B A^{-1/2} on the directions that move, in the eigenbasis of H.

    Attributes:
        process: the placement.
        eigenvalues: the h > 0 of H.
        basis: their eigenvectors.
    """

    process: Process
    eigenvalues: Float[np.ndarray, " m"]
    basis: Float[np.ndarray, "d m"]

    @cached_property
    def root(self) -> Float[np.ndarray, "m m"]:
        """A^{1/2} = √(2(h_i + h_j)), entry by entry."""
        return np.sqrt(2.0 * (self.eigenvalues[:, None] + self.eigenvalues))

    def widen(self, inner: Float[np.ndarray, "m m"]) -> Float[np.ndarray, "d d"]:
        """A^{-1/2} of a matrix, in the process's coordinates.

        Args:
            inner: the matrix in the eigenbasis.

        Returns:
            V (inner/√A) Vᵀ.
        """
        return self.basis @ (inner / self.root) @ self.basis.T

    def narrow(self, outer: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "m m"]:
        """A^{-1/2} of a matrix in the process's coordinates, in the eigenbasis.

        Args:
            outer: the matrix.

        Returns:
            (Vᵀ outer V)/√A.
        """
        return (self.basis.T @ outer @ self.basis) / self.root

    def __call__(self, inner: Float[np.ndarray, "m m"]) -> Float[np.ndarray, "m m"]:
        """K applied to a symmetric matrix.

        Args:
            inner: the matrix in the eigenbasis.

        Returns:
            Its image.
        """
        wide = self.widen(inner)
        still = np.zeros(len(self.basis))
        noise = self.process.noise(np.zeros(len(self.process.design)), still, wide)
        h = self.eigenvalues
        return 4.0 * (h[:, None] * h * inner / self.root**2 + self.narrow(noise))

    def flat(self) -> Callable[[np.ndarray], np.ndarray]:
        """K on matrices laid out as vectors, symmetrised, as SciPy's iterative methods want it.

        Returns:
            The map.
        """
        size = len(self.eigenvalues)

        def apply(flat: np.ndarray) -> np.ndarray:
            inner = flat.reshape(size, size)
            return self(0.5 * (inner + inner.T)).ravel()

        return apply


def covariance_operator(process: Process) -> CovarianceOperator:
    """K of a process.

    Args:
        process: the placement.

    Returns:
        The operator, without directions whose curvature is below max(N, D)·ε of the largest; with none where X = 0.
    """
    eigenvalues, basis = np.linalg.eigh(process.curvature)
    moving = eigenvalues > max(process.design.shape) * np.finfo(float).eps * max(eigenvalues[-1], 0.0)
    return CovarianceOperator(process, eigenvalues[moving], basis[:, moving])


def limits(process: Process) -> StabilityLimits:
    """Both limits of a process.

    Args:
        process: the placement.

    Returns:
        The limits.

    Raises:
        ArgumentError: a keep probability whose third power leaves the floats' range.
    """
    scaled, unit = in_units(process)
    operator = covariance_operator(scaled)
    if len(operator.eigenvalues) == 0:
        return StabilityLimits(math.inf, math.inf)
    mean = 1.0 / float(operator.eigenvalues[-1])
    mean_square = min(mean, 1.0 / _radius(operator))
    return StabilityLimits(mean / unit / unit, mean_square / unit / unit)


def _radius(operator: CovarianceOperator) -> float:
    """The largest eigenvalue of K.

    Returns:
        The eigenvalue.

    Raises:
        ArgumentError: K's entries leave the floats' range.
    """
    from scipy.sparse.linalg import LinearOperator, eigsh

    size, apply = len(operator.eigenvalues), operator.flat()
    # The dominant eigenvector is positive semi-definite, so the identity is never orthogonal to it.
    start = np.eye(size).ravel()
    with np.errstate(over="ignore", invalid="ignore"):
        image = apply(start)
    if not np.abs(image).max() < LARGEST:
        raise ArgumentError(
            f"keep_prob: {operator.process.keep_prob:g} is too small for a mean-square stability limit in double "
            "precision; give 1e-90 or above"
        )
    if size == 1:
        return float(image[0])
    linear = LinearOperator((size**2, size**2), apply, dtype=np.float64)
    return float(eigsh(linear, k=1, which="LA", v0=start, tol=1e-11, return_eigenvectors=False)[0])


def stability_limits(
    x: ArrayLike,
    keep_prob: Any,
    placement: str = "output",
    batch_size: int | None = None,
    *,
    shared_mask: bool = False,
) -> StabilityLimits:
    """Both limits of the learning rate, see the module. `tests/test_dropout_sgd_stability.py` checks them.

    Args:
        x: X, N × D.
        keep_prob: keep probability.
        placement: "output" or "input".
        batch_size: draws a step (their gradient scaled by N/b); None for the full batch.
        shared_mask: input masks shared by all rows.

    Returns:
        The limits, for the gradient −2Xᵀ(…) of the summed squares.
    """
    x = validation.matrix("x", x)
    return limits(build(x, np.zeros((len(x), 1)), keep_prob, placement, batch_size, shared_mask))
