"""Paired tests: Wilcoxon's signed ranks, signs, Student's t.

The ranks' null distribution is exact (conditional on the differences' sizes, ties included) wherever that is feasible.
Checked by `tests/test_statistics_paired.py` against enumeration of all signs.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.statistics.z_tests import rate
from allora_analysis.validation import ArgumentError, choice, vector

# Differences this close, relative to the largest value, are ties: 90.4 − 90.1 and 60.3 − 60.0 are one number.
TIE = 1e-12
# Above this many non-zero differences the signed ranks' distribution is replaced by its normal limit.
EXACT_RANKS = 300


@dataclass(frozen=True)
class PairedTest:
    """Outcome of a paired test of "no difference", two-sided.

    Attributes:
        statistic: of wilcoxon the sum of the positive differences' ranks, of sign their number, of t Student's t.
        p_value: two-sided.
        mean_difference: mean of first − second.
        interval: Student's t interval of the mean difference, whatever the method.
        n: number of pairs.
        n_nonzero: number of pairs that differ; the ranks and signs rest on these alone.
    """

    statistic: float
    p_value: float
    mean_difference: float
    interval: tuple[float, float]
    n: int
    n_nonzero: int


def paired_test(first: ArrayLike, second: ArrayLike, method: str = "wilcoxon", confidence: float = 0.95) -> PairedTest:
    """Two-sided test that paired values differ only by chance.

    "wilcoxon": zeros dropped, tied sizes given their mean rank, p-value from the exact distribution of the rank sum
    over all 2^n signs (normal limit with tie correction above `EXACT_RANKS`); assumes differences symmetric about 0
    under the null. "sign": binomial(n_nonzero, ½), assumes only a median of 0. "t": assumes normal differences; a
    constant non-zero difference has t = ±∞ and p = 0. All assume independent pairs; `clustered_test` does not.

    Args:
        first: one arm's values, at least two.
        second: the other's, in the same order.
        method: "wilcoxon", "sign" or "t".
        confidence: of the interval.

    Returns:
        The outcome; p = 1 where no pair differs.
    """
    choice("method", method, ("wilcoxon", "sign", "t"))
    differences, grain = _differences(first, second)
    by_t = difference_test(differences, rate("confidence", confidence), grain)
    if method == "t":
        return by_t
    nonzero = differences[np.abs(differences) > grain]
    statistic, p_value = _signed_ranks(nonzero, grain) if method == "wilcoxon" else _signs(nonzero)
    return dataclasses.replace(by_t, statistic=statistic, p_value=p_value, n_nonzero=nonzero.size)


def difference_test(differences: Float[np.ndarray, " n"], confidence: float, grain: float = 0.0) -> PairedTest:
    """`paired_test` by Student's t, of differences whose two sides are not at hand.

    Args:
        differences: at least two.
        confidence: of the interval, in (0, 1).
        grain: what rounding may have added to a difference, 0 or above.

    Returns:
        The outcome.

    Raises:
        ArgumentError: fewer than two differences.
    """
    if differences.size < 2:
        raise ArgumentError(f"differences: at least 2 pairs are needed, received {differences.size}")
    interval, statistic, p_value = student(differences, confidence, grain)
    nonzero = int((np.abs(differences) > max(grain, TIE * np.abs(differences).max())).sum())
    return PairedTest(statistic, p_value, float(differences.mean()), interval, differences.size, nonzero)


def _differences(first: ArrayLike, second: ArrayLike) -> tuple[Float[np.ndarray, " n"], float]:
    left, right = vector("first", first), vector("second", second)
    if left.shape != right.shape:
        raise ArgumentError(f"second: {right.size} values received, {left.size} wanted, one for each of first")
    if left.size < 2:
        raise ArgumentError(f"first and second: at least 2 pairs are needed, received {left.size}")
    return left - right, TIE * float(max(np.abs(left).max(), np.abs(right).max()))


def student(
    values: Float[np.ndarray, " n"], confidence: float, grain: float = 0.0
) -> tuple[tuple[float, float], float, float]:
    """Student's t over n ≥ 2 independent values: mean ± t_{(1 + confidence)/2, n − 1}·s/√n.

    Args:
        values: the values; equal ones (up to rounding) have s = 0 and t = 0 or ±∞.
        confidence: in (0, 1).
        grain: what rounding may have added to a value; that of a difference is relative to its two sides.

    Returns:
        Interval of the mean, t, two-sided p-value of mean 0.
    """
    from scipy.special import stdtr, stdtrit

    size, n = float(np.abs(values).max()), values.size
    exponent = math.frexp(size)[1]
    scaled = np.ldexp(values, -exponent)  # at most 1, with the same digits: no square overflows or vanishes
    mean = float(scaled.mean())
    if np.ptp(values) <= max(grain, TIE * size):
        centre = float(np.ldexp(mean, exponent))
        differs = abs(centre) > grain
        return (centre, centre), math.copysign(math.inf, centre) if differs else 0.0, 0.0 if differs else 1.0
    stderr = float(scaled.std(ddof=1) / np.sqrt(n))
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * stderr
    with np.errstate(over="ignore"):
        low, high = np.ldexp([mean - half, mean + half], exponent)
    return (float(low), float(high)), mean / stderr, float(2 * stdtr(n - 1, -abs(mean) / stderr))


def _signs(nonzero: Float[np.ndarray, " m"]) -> tuple[float, float]:
    from scipy.special import bdtr

    positive = int((nonzero > 0).sum())
    fewer = min(positive, nonzero.size - positive)
    return float(positive), min(1.0, 2 * float(bdtr(fewer, nonzero.size, 0.5)))


def _signed_ranks(nonzero: Float[np.ndarray, " m"], grain: float) -> tuple[float, float]:
    # Mean ranks are multiples of ½: twice the rank sum is an integer, its distribution over all signs is the product of
    # (1 + z^{2·rank})/2, and the two-sided p-value min(1, 2·P(sum ≤ min(observed, total − observed))).
    from scipy.special import ndtr

    nonzero = nonzero[np.argsort(np.abs(nonzero))]
    group = np.cumsum(np.diff(np.abs(nonzero), prepend=0.0) > grain) - 1  # a step within the grain is a tie
    sizes = np.bincount(group)
    doubled = (2 * np.cumsum(sizes) - sizes + 1)[group]
    total, observed = int(doubled.sum()), int(doubled[nonzero > 0].sum())
    smaller = min(observed, total - observed)
    if nonzero.size > EXACT_RANKS:
        deviation = float(np.sqrt(np.square(doubled).sum())) / 2
        return observed / 2, 2 * float(ndtr((smaller - total / 2) / deviation))
    share = np.zeros(total + 1)
    share[0] = 1.0
    for rank in doubled:
        share[rank:] += share[:-rank].copy()
        share /= 2
    return observed / 2, min(1.0, 2 * float(share[: smaller + 1].sum()))
