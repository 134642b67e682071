"""Paired tests: Student's t; exact sign flips, over units and over clusters of cells.

The sign flips' null distribution is counted, not approximated, up to `EXACT_FLIPS` units. Checked by
`tests/test_statistics_paired.py` against enumeration of all signs.
"""

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.validation import (
    ArgumentError,
    count,
    non_negative,
    probability,
    representable,
    several,
    shown,
    unit_scaled,
    vector,
)

# Differences this close, relative to the largest value, are ties: 90.4 − 90.1 and 60.3 − 60.0 are one number.
TIE = 1e-12
# Up to this many non-zero units all sign patterns are counted, by halves of at most 2²⁰ patterns.
EXACT_FLIPS = 40


def standard_deviation(values: Float[np.ndarray, " n"]) -> float:
    """S over n − 1, of values whose squares may leave float64's range; `OverflowError` where s itself does."""
    scaled, exponent = unit_scaled(values)
    return math.ldexp(float(scaled.std(ddof=1)), exponent)


def student(
    values: Float[np.ndarray, " n"], confidence: float, grain: float = 0.0
) -> tuple[tuple[float, float], float, float]:
    """Student's t of n ≥ 2 independent values: the interval mean ± t_{(1 + confidence)/2, n − 1}·s/√n, t, p two-sided.

    Values that differ by no more than the grain, which rounding may have added, are equal: t = ±∞ and p = 0, but where
    they are 0.
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


@dataclass(frozen=True)
class SignFlipTest:
    """Outcome of a sign-flip test, two-sided.

    Attributes:
        mean_difference: the statistic.
        p_value: share of sign patterns whose |mean| is at least the observed one.
        smallest_p_value: the least that could have come out: 2^{1 − n_nonzero} (1 if all are 0) where all patterns
            were counted, 1/(1 + draws) where they were sampled.
        n: number of units.
        n_nonzero: number of non-zero units; one that is nothing but rounding beside the largest is 0.
        exact: whether all patterns were counted; otherwise they were sampled.
    """

    mean_difference: float
    p_value: float
    smallest_p_value: float
    n: int
    n_nonzero: int
    exact: bool


@dataclass(frozen=True)
class ClusteredTest:
    """Outcome of a test over clusters, each one unit, two-sided.

    Attributes:
        mean_difference: mean of the clusters' means (each cluster weighs the same).
        p_value: of the exact sign flips of the clusters' means.
        interval: Student's t interval of `mean_difference` over clusters.
        t_p_value: p-value of Student's t over clusters.
        n: number of differences.
        n_clusters: number of clusters.
        exact: as in `SignFlipTest`.
    """

    mean_difference: float
    p_value: float
    interval: tuple[float, float]
    t_p_value: float
    n: int
    n_clusters: int
    exact: bool


@representable("differences", "draws")
def sign_flip_test(
    differences: ArrayLike, generator: np.random.Generator | None = None, draws: int = 99_999, grain: float = 0.0
) -> SignFlipTest:
    """Permutation test of the mean: under the null each unit's difference is as likely to have either sign.

    Exact p = #{s ∈ {±1}ⁿ : |Σ s_i d_i| ≥ |Σ d_i|}/2ⁿ up to `EXACT_FLIPS` non-zero units, by a meet in the middle;
    beyond, p = (1 + hits)/(1 + draws) over sampled patterns, itself a valid p-value (Phipson–Smyth 2010). Assumes
    independent units.

    Args:
        differences: one a unit.
        generator: draws the patterns where they are too many to count.
        draws: how many are drawn then.
        grain: what rounding may have added to a difference; one that is no larger is 0, and sums that differ by no more
            than n grains are equal. A difference of two rounded numbers carries their rounding, however small it is
            itself: give `TIE` times the largest of them.

    Returns:
        The outcome; p = 1 where every difference is 0.

    Raises:
        ArgumentError: more than `EXACT_FLIPS` non-zero units and no generator, or a negative grain.
    """
    values, draws = vector("differences", differences), count("draws", draws, maximum=10**7)
    grain = non_negative("grain", grain)
    nonzero = values[np.abs(values) > max(grain, TIE * np.abs(values).max())]
    exact = nonzero.size <= EXACT_FLIPS
    if not exact and generator is None:
        raise ArgumentError(
            f"generator: give one, {nonzero.size} non-zero units are too many to count every sign pattern"
        )
    # Rounding must not drop the observed pattern itself, nor its ties.
    least = abs(nonzero.sum()) - max(TIE * np.abs(nonzero).sum(), grain * nonzero.size)
    p_value = _flips_counted(nonzero, least) if exact else _flips_drawn(nonzero, least, generator, draws)
    smallest = min(1.0, 2.0 ** (1 - nonzero.size)) if exact else 1 / (1 + draws)
    return SignFlipTest(float(values.mean()), p_value, smallest, values.size, nonzero.size, exact)


def _sums(values: Float[np.ndarray, " m"]) -> Float[np.ndarray, " patterns"]:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate((sums + value, sums - value))
    return sums


def _flips_counted(values: Float[np.ndarray, " m"], least: float) -> float:
    if least <= 0:
        return 1.0
    half = values.size // 2
    left, right = _sums(values[:half]), np.sort(_sums(values[half:]))
    above = right.size - np.searchsorted(right, least - left, side="left")
    # The patterns come in pairs ±s, so the lower tail has the upper one's count.
    return float(2 * above.sum() / 2.0**values.size)


def _flips_drawn(values: Float[np.ndarray, " m"], least: float, generator: np.random.Generator, draws: int) -> float:
    hits, chunk = 0, max(1, 2**22 // values.size)
    for start in range(0, draws, chunk):
        signs = generator.integers(0, 2, size=(min(chunk, draws - start), values.size), dtype=np.int8)
        hits += int((np.abs((2.0 * signs - 1.0) @ values) >= least).sum())
    return (1 + hits) / (1 + draws)


def _label(value: Hashable) -> Hashable:
    # What is equal must be one cluster: NaN equals nothing, a tensor's entries are looked up by their identity.
    try:
        hash(value)
        if isinstance(value, tuple):
            return tuple(map(_label, value))
        if value == value:
            return value.item() if getattr(value, "shape", None) == () else value
    except (TypeError, ValueError):
        pass
    raise ArgumentError(f"clusters: {shown(value)} is no label; give one number, word or tuple for each difference")


@representable("differences", infinite=True)
def clustered_test(
    differences: ArrayLike,
    clusters: Iterable[Hashable],
    confidence: float = 0.95,
    generator: np.random.Generator | None = None,
    grain: float = 0.0,
) -> ClusteredTest:
    """Test of the mean difference where differences within a cluster depend on one another and clusters do not.

    Each cluster counts as one unit, its mean: exact sign flips over clusters give the p-value, Student's t over them
    the interval, both right for any dependence within. The estimand weighs clusters equally, whatever their sizes.
    A mean of at most `TIE` times the largest difference is what the sum's rounding left of 0, and counts as 0.

    Args:
        differences: one a cell.
        clusters: each cell's cluster, any hashable labels but NaN or a tuple that holds it; at least two distinct.
        confidence: of the interval.
        generator: only for more than `EXACT_FLIPS` clusters.
        grain: what rounding may have added to a difference, as in `sign_flip_test`.

    Returns:
        The outcome; both p = 1 where every mean is 0.

    Raises:
        ArgumentError: as many labels as differences are wanted, and two clusters; a label that is NaN or cannot be
            looked up (an array, a list); or a negative grain.
    """
    values, labels = vector("differences", differences), several("clusters", clusters)
    if len(labels) != values.size:
        raise ArgumentError(f"clusters: {len(labels)} labels received, {values.size} wanted, one for each difference")
    groups: dict[Hashable, list[float]] = {}
    for label, value in zip(labels, values, strict=True):
        groups.setdefault(_label(label), []).append(value)
    if len(groups) < 2:
        raise ArgumentError("clusters: at least 2 distinct labels are needed, received 1")
    means = np.array([np.mean(group) for group in groups.values()])
    grain = max(non_negative("grain", grain), TIE * float(np.abs(values).max()))
    means[np.abs(means) <= grain] = 0.0
    flips = sign_flip_test(means, generator, grain=grain)
    interval, _, t_p_value = student(means, probability("confidence", confidence), grain)
    return ClusteredTest(
        flips.mean_difference, flips.p_value, interval, t_p_value, values.size, len(groups), exact=flips.exact
    )
