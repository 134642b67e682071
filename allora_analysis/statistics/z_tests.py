"""The two-sided z-test with a stated false-fail rate and power; means, standard errors, intervals; Holm's correction.

A stream's mean and variance take bounded memory (Welford 1962; Chan–Golub–LeVeque 1983), a statistic's interval is the
bias-corrected, accelerated bootstrap's (Efron 1987), through SciPy. Checked by `tests/test_statistics.py`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.validation import (
    ArgumentError,
    count,
    finite,
    fits,
    non_negative,
    number,
    representable,
    shown,
    vector,
)

# Two floating-point computations of one constant differ by this much, relative to 1 + |expected|.
ROUNDING = 1e-9


@dataclass(frozen=True)
class ZTest:
    """A z-test's outcome; scalars for scalar arguments, arrays of the arguments' shape otherwise.

    Attributes:
        z: (mean − expected)/stderr; 0 or ±∞ where stderr is 0.
        threshold: the |z| beyond which the test rejects.
        p_value: two-sided, of each entry alone (not corrected for the number of comparisons).
        passes: whether every entry is within the threshold.
        smallest_detectable: the bias that the test rejects with probability ≥ 1 − miss_rate.
    """

    z: float | Float[np.ndarray, "*shape"]
    threshold: float
    p_value: float | Float[np.ndarray, "*shape"]
    passes: bool
    smallest_detectable: float | Float[np.ndarray, "*shape"]


def rate(name: str, value: Any) -> float:
    """A probability strictly between 0 and 1."""
    allowed = "a probability strictly between 0 and 1"
    result = number(name, value, allowed)
    if not 0.0 < result < 1.0:
        raise ArgumentError(f"{name} must be {allowed}, received {value!r}")
    return result


@representable("mean", "stderr", "expected", infinite=True)
def z_test(
    mean: ArrayLike,
    stderr: ArrayLike,
    expected: ArrayLike,
    false_fail_rate: float = 1e-6,
    comparisons: int = 1,
    miss_rate: float = 1e-3,
) -> ZTest:
    """Two-sided z-test of mean = expected, Bonferroni-corrected, with its power stated.

    Rejects where |mean − expected| > z_{α/2}·stderr, α = false_fail_rate/(comparisons × number of entries), so that one
    call rejects a true hypothesis with probability ≤ false_fail_rate/comparisons. A bias of (z_{α/2} + z_β)·stderr,
    β = miss_rate, is rejected with probability ≥ 1 − β. A standard error of exactly 0 (a constant) demands equality up
    to `ROUNDING`. Assumes a sample large enough for the central limit theorem, its size fixed beforehand.

    Args:
        mean: sample means, any shape.
        stderr: their standard errors, broadcast against the means.
        expected: the values under test, broadcast likewise.
        false_fail_rate: probability of rejecting when all entries of all comparisons are right.
        comparisons: how many such calls share that rate.
        miss_rate: probability of missing a bias of `smallest_detectable`.

    Returns:
        The outcome.

    Raises:
        ArgumentError: NaN or infinity, a negative standard error, shapes that do not broadcast, a rate outside (0, 1).
    """
    from scipy.special import ndtri

    alpha, miss = rate("false_fail_rate", false_fail_rate), rate("miss_rate", miss_rate)
    arrays = [finite(name, value) for name, value in (("mean", mean), ("stderr", stderr), ("expected", expected))]
    if (arrays[1] < 0).any():
        raise ArgumentError(f"stderr must be 0 or above in every entry, received {arrays[1].min()}")
    try:
        means, errors, wanted = np.broadcast_arrays(*arrays)
    except ValueError:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ArgumentError(
            f"mean, stderr and expected: shapes {shapes} received; give shapes that broadcast"
        ) from None
    alpha /= count("comparisons", comparisons) * means.size
    threshold = float(-ndtri(alpha / 2))
    z, p_value = _z_and_p(means, errors, wanted)
    detectable = (threshold - float(ndtri(miss))) * errors
    return ZTest(_unwrap(z), threshold, _unwrap(p_value), bool((np.abs(z) <= threshold).all()), _unwrap(detectable))


def _z_and_p(
    mean: Float[np.ndarray, "*shape"], stderr: Float[np.ndarray, "*shape"], expected: Float[np.ndarray, "*shape"]
) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
    from scipy.special import ndtr

    gap = mean - expected
    constant = stderr == 0
    equal = np.abs(gap) <= ROUNDING * (1 + np.abs(expected))
    z = np.where(constant, np.where(equal, 0.0, np.copysign(np.inf, gap)), gap / np.where(constant, 1.0, stderr))
    return z, np.asarray(2 * ndtr(-np.abs(z)))


def _unwrap(array: np.ndarray | np.floating) -> float | np.ndarray:
    return float(array) if array.ndim == 0 else array


@representable("samples")
def mean_and_stderr(samples: ArrayLike, axis: int = 0) -> tuple[float | np.ndarray, float | np.ndarray]:
    """Mean over an axis of n independent samples and its standard error s/√n, s² with n − 1.

    Args:
        samples: at least two along the axis, finite.
        axis: the axis of independent samples.

    Returns:
        Mean and standard error; floats for a vector.

    Raises:
        ArgumentError: fewer than two samples, no such axis, NaN or infinity.
    """
    array = finite("samples", samples)
    if not -array.ndim <= axis < array.ndim:
        raise ArgumentError(f"axis must be one of the {array.ndim} axes of samples, received {axis}")
    n = array.shape[axis]
    if n < 2:
        raise ArgumentError(f"samples: at least 2 along axis {axis} are needed for a standard error, received {n}")
    return _unwrap(array.mean(axis=axis)), _unwrap(array.std(axis=axis, ddof=1) / np.sqrt(n))


@representable("accuracy", "n")
def accuracy_stderr(accuracy: float, n: int) -> float:
    """Binomial standard error √(a(1 − a)/n) of an accuracy a, a fraction of n independent examples.

    Args:
        accuracy: a fraction in [0, 1] (not per cent).
        n: number of examples.

    Returns:
        The standard error, a fraction.

    Raises:
        ArgumentError: an accuracy outside [0, 1], n below 1.
    """
    fraction = non_negative("accuracy", accuracy)
    if fraction > 1:
        raise ArgumentError(f"accuracy must be a fraction in [0, 1] (per cent / 100), received {accuracy!r}")
    return float(np.sqrt(fraction * (1 - fraction) / count("n", n)))


def holm(p_values: ArrayLike) -> Float[np.ndarray, " m"]:
    """Holm's (1979) step-down adjusted p-values: family-wise error ≤ level if those below the level are rejected.

    p̃_(k) = min(1, max_{j ≤ k} (m − j + 1) p_(j)), p_(1) ≤ … ≤ p_(m). Any dependence between the tests is allowed.

    Args:
        p_values: m p-values in [0, 1].

    Returns:
        The adjusted p-values in the order received.

    Raises:
        ArgumentError: a value outside [0, 1], none at all.

    Examples:
        >>> from allora_analysis.statistics import holm
        >>> holm([0.01, 0.04, 0.03]).round(9).tolist()
        [0.03, 0.06, 0.06]
    """
    raw = vector("p_values", p_values)
    if raw.min() < 0 or raw.max() > 1:
        raise ArgumentError(f"p_values must be in [0, 1], received values from {raw.min()} to {raw.max()}")
    return holm_among(raw, raw.size)


def holm_among(p_values: Float[np.ndarray, " m"], family: int) -> Float[np.ndarray, " m"]:
    """The core of `holm`, in a family whose other tests have p = 1."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty_like(p_values)
    steps = np.arange(family, family - p_values.size, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * steps))
    return adjusted


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

    @representable("batch")
    def add(self, batch: ArrayLike) -> None:
        """Take in samples along axis 0.

        Args:
            batch: shape (size, …), the same … each time.
        """
        array = np.atleast_1d(finite("batch", batch))
        mean = np.asarray(array.mean(axis=0))
        self._merge(len(array), mean, np.asarray(np.square(array - mean).sum(axis=0)))

    @representable("other")
    def merge(self, other: Moments) -> None:
        """Take in another stream's samples, as if added here.

        Args:
            other: the other stream; unchanged.
        """
        if other.n:
            self._merge(other.n, other.mean, other._squares)

    def _merge(self, n: int, mean: Float[np.ndarray, "*shape"], squares: Float[np.ndarray, "*shape"]) -> None:
        if self._mean is None:
            self._squares, self._mean, self.n = _finite(squares.copy()), mean.copy(), n
            return
        if mean.shape != self._mean.shape:
            raise ArgumentError(f"batch: samples of shape {mean.shape} received, earlier ones have {self._mean.shape}")
        total, delta = self.n + n, mean - self._mean
        self._squares = _finite(np.asarray(self._squares + squares + np.square(delta) * (self.n * n / total)))
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


def _finite(squares: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    if not np.isfinite(squares).all():
        raise OverflowError("the sum of squares")
    return squares


@representable("values", "resamples")
def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[..., Any],
    confidence: float,
    generator: np.random.Generator,
    resamples: int = 9999,
) -> tuple[float, float]:
    """BCa interval of a statistic of independent values.

    Where all values are equal there is nothing to resample: the interval is the statistic itself, twice.

    Args:
        values: the sample, at least two values.
        statistic: of one vector; faster if it takes `axis`, as `numpy.mean` does.
        confidence: in (0, 1).
        generator: draws the resamples.
        resamples: how many.

    Returns:
        Lower and upper end.

    Raises:
        ArgumentError: fewer than two values, or a statistic whose resamples give no BCa interval (all of them equal).
    """
    from scipy.stats import bootstrap

    sample, level, resamples = vector("values", values), rate("confidence", confidence), count("resamples", resamples)
    fits("resamples", float(resamples) * sample.size, f"{resamples} resamples")
    if sample.size < 2:
        raise ArgumentError(f"values: at least 2 are needed for a bootstrap interval, received {sample.size}")
    if not callable(statistic):
        raise ArgumentError(f"statistic must be a function of one vector, received {shown(statistic)}")
    if (sample == sample[0]).all():
        return (constant := float(statistic(sample))), constant
    # SciPy renamed the argument in 1.15.
    named = "rng" if "rng" in inspect.signature(bootstrap).parameters else "random_state"
    options = {"confidence_level": level, "n_resamples": resamples, "method": "BCa", named: generator}
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a degenerate resampling distribution is told below, as an error
        interval = bootstrap((sample,), statistic, **options).confidence_interval
    if not np.isfinite([interval.low, interval.high]).all():
        raise ArgumentError("statistic: no BCa interval, its resamples (or leave-one-out values) are all equal")
    return float(interval.low), float(interval.high)
