"""The largest constant learning rates at which SGD under dropout stays bounded: in the mean, and in the mean square.

The mean follows F = I − 2lH and is stable for l < 1/λ_max(H): p/s_max² for output masks, 1/λ_max(S + k diag S) for
input masks. The covariance follows C ↦ FCF + 4l²Q(0, C) = C − l·A(C) + l²·B(C) with A(C) = 2(HC + CH) and
B(C) = 4E[ĤCĤ], which is completely positive and self-adjoint. Its spectral radius is below 1 exactly for
l < 1/ρ(A⁻¹B) (A⁻¹ maps the positive cone into itself, so l ↦ C ↦ lA⁻¹B(C) decides: Damm 2004, ch. 3), and as
A^{-1/2}BA^{-1/2} is symmetric its largest eigenvalue comes from Lanczos' method, without a search over l. It is never
above the mean's limit. Directions that no step moves (H = 0 there, so ĝ and Ĥ are 0 too) are left out.

The limit t → ∞ at a stable rate: E W_∞ is the minimizer of the marginal objective, H⁺XᵀY, and Cov W_∞, which does not
vanish, solves C = FCF + 4l²Q(E W_∞, C). The average of the iterates does converge to that minimizer:
t·Cov W̄_t → H⁺ Q(E W_∞, C) H⁺ (Polyak–Juditsky; for masks shared by all rows Clara, Langer, Schmidt-Hieber, JMLR 2024,
arXiv:2306.10529). `tests/test_dropout_sgd_stability.py` checks both.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.dropout_sgd.placements import OutputMasks, Process, build, checked, in_units
from allora_analysis.tikhonov.loss import input_weights
from allora_analysis.validation import ArgumentError

LARGEST = 1e290  # of K's entries: Lanczos' sums over them must stay finite
# A rate given as the computed limit itself passes: the limit carries this much rounding.
ROUNDING = 1e-9


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
        """A^{-1/2} of a matrix, in the process's coordinates."""
        return self.basis @ (inner / self.root) @ self.basis.T

    def narrow(self, outer: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "m m"]:
        """A^{-1/2} of a matrix in the process's coordinates, in the eigenbasis."""
        return (self.basis.T @ outer @ self.basis) / self.root

    def __call__(self, inner: Float[np.ndarray, "m m"]) -> Float[np.ndarray, "m m"]:
        """K applied to a symmetric matrix."""
        wide = self.widen(inner)
        still = np.zeros(len(self.basis))
        noise = self.process.noise(np.zeros(len(self.process.design)), still, wide)
        h = self.eigenvalues
        return 4.0 * (h[:, None] * h * inner / self.root**2 + self.narrow(noise))

    def flat(self) -> Callable[[np.ndarray], np.ndarray]:
        """K on matrices laid out as vectors, symmetrized, as SciPy's iterative methods want it."""
        size = len(self.eigenvalues)

        def apply(flat: np.ndarray) -> np.ndarray:
            inner = flat.reshape(size, size)
            return self(0.5 * (inner + inner.T)).ravel()

        return apply


def covariance_operator(process: Process) -> CovarianceOperator:
    """K of a process."""
    eigenvalues, basis = np.linalg.eigh(process.curvature)
    moving = eigenvalues > max(process.design.shape) * np.finfo(float).eps * max(eigenvalues[-1], 0.0)
    return CovarianceOperator(process, eigenvalues[moving], basis[:, moving])


def limits(process: Process) -> StabilityLimits:
    """Both limits of a process."""
    scaled, unit = in_units(process)
    operator = covariance_operator(scaled)
    if len(operator.eigenvalues) == 0:
        return StabilityLimits(math.inf, math.inf)
    mean = 1.0 / float(operator.eigenvalues[-1])
    mean_square = min(mean, 1.0 / _radius(operator))
    return StabilityLimits(mean / unit / unit, mean_square / unit / unit)


def _radius(operator: CovarianceOperator) -> float:
    """The largest eigenvalue of K."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    size, apply = len(operator.eigenvalues), operator.flat()
    # The dominant eigenvector is positive semi-definite, so the identity is never orthogonal to it.
    start = np.eye(size).ravel()
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
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


@validation.representable("x", "keep_prob", "batch_size", infinite=True)
def stability_limits(
    x: ArrayLike, keep_prob: Any, placement: str = "output", batch_size: int | None = None, *, shared_mask: bool = False
) -> StabilityLimits:
    """Both limits of the learning rate, see the module. `tests/test_dropout_sgd_stability.py` checks them.

    Arguments as in `trajectory`.

    Returns:
        The limits, for the gradient −2Xᵀ(…) of the summed squares.
    """
    x = validation.matrix("x", x)
    return limits(build(checked(x, np.zeros((len(x), 1)), keep_prob, placement, batch_size, shared_mask)))


def _refuse_unstable(found: StabilityLimits, rate: float, slack: float = ROUNDING) -> None:
    """Refuse a constant rate past the mean-square stability limit, by more than the relative slack."""
    if rate <= found.mean_square * (1.0 + slack):
        return
    what = "the mean and the covariance grow" if rate > found.mean else "the covariance grows"
    raise ArgumentError(
        f"learning_rate: {rate:g} received, past the mean-square stability limit, so {what} without bound; give a rate "
        f"below {found.mean_square:.6g} (mean-square limit; the mean alone is stable below {found.mean:.6g})"
    )


def _is_constant(learning_rate: Any) -> bool:
    return (
        isinstance(learning_rate, str)
        or getattr(learning_rate, "ndim", 1) == 0
        or not hasattr(learning_rate, "__len__")
    )


def schedule(learning_rate: Any, steps: int) -> Float[np.ndarray, " T"]:
    """One rate a step, from a constant or a sequence; no stability limit is asked."""
    if _is_constant(learning_rate):
        return np.full(steps, validation.positive("learning_rate", learning_rate))
    rates = validation.vector("learning_rate", learning_rate)
    if len(rates) != steps:
        raise ArgumentError(f"learning_rate: a schedule of {len(rates)} rates received; give one a step, {steps}")
    if rates.min() < 0:
        where = int(np.argmin(rates))
        raise ArgumentError(f"learning_rate must be 0 or above at each step, received {rates[where]} at index {where}")
    return rates


def learning_rates(process: Process, learning_rate: Any, steps: int) -> Float[np.ndarray, " T"]:
    """As `schedule`, and a constant must be within the stability limits."""
    rates = schedule(learning_rate, steps)
    if _is_constant(learning_rate):
        _refuse_unstable(limits(process), float(rates[0]))
    return rates


def refuse_divergence(process: Process, step: int, rate: float, *values: np.ndarray) -> None:
    """Refuse to go on once a value is no longer finite."""
    if all(np.isfinite(value).all() for value in values):
        return
    found = limits(process)
    raise ArgumentError(
        f"learning_rate: the schedule diverges, first non-finite value at step {step} (its rate {rate:g}); constant "
        f"rates are stable below {found.mean_square:.6g} in the mean square and below {found.mean:.6g} in the mean"
    )


@dataclass(frozen=True)
class Stationary:
    """The limit t → ∞.

    Attributes:
        mean: E W_∞, the marginal objective's minimizer (D × C), minimum-norm.
        covariance: Cov of each column of W_∞ (C × D × D).
        covariance_trace: the sum of their traces.
        average_covariance_rate: lim t·tr Cov W̄_t over all columns: the averaged iterate converges like this over t.
    """

    mean: Float[np.ndarray, "D C"]
    covariance: Float[np.ndarray, "C D D"]
    covariance_trace: float
    average_covariance_rate: float


def _solve(operator: CovarianceOperator, source: Float[np.ndarray, "d d"], rate: float) -> Float[np.ndarray, "d d"]:
    """The C of A(C) − lB(C) = 4l·source, by conjugate gradients on I − lK, which is positive definite in the limits."""
    from scipy.sparse.linalg import LinearOperator, cg

    size, apply = len(operator.eigenvalues), operator.flat()
    linear = LinearOperator((size**2, size**2), lambda flat: flat - rate * apply(flat), dtype=np.float64)
    solution, _ = cg(linear, 4.0 * rate * operator.narrow(source).ravel(), rtol=1e-13, atol=0.0, maxiter=2000)
    return operator.widen(solution.reshape(size, size))


def _minimiser(process: Process) -> Float[np.ndarray, "d C"]:
    # H⁺·pull. Input masks: by X's singular values, since H has their squares, of which rounding leaves half the digits.
    if not isinstance(process, OutputMasks):
        return input_weights(process.design, process.targets, process.keep_prob)
    curvature = process.eigenvalues[:, None]
    return process.pull / np.where(curvature > 0, curvature, np.inf)


@validation.representable("x", "y", "keep_prob", "learning_rate")
def stationary_moments(
    x: ArrayLike,
    y: ArrayLike,
    keep_prob: Any,
    learning_rate: Any,
    placement: str = "output",
    *,
    batch_size: int | None = None,
    shared_mask: bool = False,
) -> Stationary:
    """The moments of W_t as t → ∞ from W₀ = 0. `tests/test_dropout_sgd_stability.py` compares with a long trajectory.

    The mean is the marginal objective's minimizer, whatever the scales of X's columns, up to X's numerical rank: for
    output masks, and without masks, singular values below max(N, D)·ε of the largest count as 0
    (`tests/test_tikhonov.py` compares with exact fractions). Directions whose curvature is below max(N, D)·ε of
    the largest have no covariance: SGD needs 1/ε steps to move there.

    Arguments as in `trajectory`; the learning rate is constant, below the mean-square limit.
    """
    process = build(checked(x, y, keep_prob, placement, batch_size, shared_mask))
    return resting(process, limits(process), validation.positive("learning_rate", learning_rate))


def resting(process: Process, found: StabilityLimits, rate: float) -> Stationary:
    """The core of `stationary_moments`."""
    _refuse_unstable(found, rate, slack=-ROUNDING)  # at the limit itself no covariance is stationary
    process, unit = in_units(process)
    rate = rate * unit * unit
    operator = covariance_operator(process)
    inverse = (operator.basis / operator.eigenvalues) @ operator.basis.T
    mean, still = _minimiser(process), np.zeros_like(process.curvature)
    columns, averaging = [], 0.0
    for column, centre in zip(process.targets.T, mean.T, strict=True):
        columns.append(_solve(operator, process.noise(column, centre, still), rate))
        averaging += float(np.trace(inverse @ process.noise(column, centre, columns[-1]) @ inverse))
    covariance = process.embed_covariance(np.array(columns))
    total = float(np.einsum("cii->", covariance))
    return Stationary(process.embed(mean), covariance, total, averaging)
