"""Statistical assertions with a stated false-fail rate and an asserted power. Imports nothing from the package.

n is fixed by the caller beforehand. A two-sided test at `false_fail` (divided by the number of comparisons) compares a
sample mean with its expectation: Student's with n − 1 degrees of freedom where the samples are given, the normal where
their standard error is. The test also *asserts its power*: the smallest bias that it would reject with probability
≥ 1 − `miss` must not exceed `smallest_error`.
"""

import numpy as np
from scipy.special import ndtri, stdtrit

FALSE_FAIL = 1e-6
MISS = 1e-6


def _upper(tail: float, freedom: float) -> float:
    # Student's upper quantile; with degrees of freedom without end the normal's.
    return -float(ndtri(tail) if np.isinf(freedom) else stdtrit(freedom, tail))


def threshold(false_fail: float = FALSE_FAIL, comparisons: int = 1, freedom: float = np.inf) -> float:
    """The |t| beyond which a two-sided test at this false-fail rate, Bonferroni-corrected, rejects."""
    return _upper(false_fail / comparisons / 2, freedom)


def detectable(
    stderr, false_fail: float = FALSE_FAIL, comparisons: int = 1, miss: float = MISS, freedom: float = np.inf
):
    """The smallest bias seen with probability ≥ 1 − miss: the quantiles of both, together, in standard errors."""
    return (threshold(false_fail, comparisons, freedom) + _upper(miss, freedom)) * np.asarray(stderr)


def assert_mean(samples, expected, *, smallest_error, false_fail: float = FALSE_FAIL) -> None:
    """The mean over axis 0 of `samples` (n, ...) equals `expected` (...), at n fixed beforehand.

    `smallest_error` (scalar or (...)): the bias that the test must be able to see; too small an n fails the test.
    """
    samples = np.asarray(samples, dtype=np.float64)
    expected = np.broadcast_to(np.asarray(expected, dtype=np.float64), samples.shape[1:])
    stderr = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    rates = {"false_fail": false_fail, "freedom": len(samples) - 1}
    assert_close_to_stderr(samples.mean(axis=0), expected, stderr, smallest_error=smallest_error, **rates)


def assert_close_to_stderr(
    mean, expected, stderr, *, smallest_error, false_fail: float = FALSE_FAIL, freedom: float = np.inf
) -> None:
    """`mean` equals `expected` within its standard error; every entry is a comparison."""
    mean, expected, stderr = (np.asarray(value, dtype=np.float64) for value in (mean, expected, stderr))
    comparisons = mean.size
    seen = detectable(stderr, false_fail, comparisons, freedom=freedom)
    assert np.all(seen <= smallest_error), (
        f"no power: sees {np.max(seen):.3g} at best, {smallest_error} wanted; raise n"
    )
    limit = threshold(false_fail, comparisons, freedom)
    # A standard error of exactly 0 (a constant) demands equality up to rounding.
    gap = np.abs(mean - expected)
    rounding = 1e-9 * (1 + np.abs(expected))
    worst = np.max(gap / (limit * stderr + rounding))
    assert worst <= 1, f"off by {np.max(gap):.4g} with standard error {np.max(stderr):.3g}: |t| beyond {limit:.2f}"


def assert_rejects(check, *args, **kwargs) -> None:
    """The negative control: `check` must fail on a planted wrong value (and not for want of power)."""
    failure = None
    try:
        check(*args, **kwargs)
    except AssertionError as error:
        failure = str(error)
    assert failure is not None, "a planted wrong formula passed the test"
    assert "no power" not in failure, f"the control failed for want of power: {failure}"
