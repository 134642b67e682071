"""How many pairs, and how many comparisons at once: power of the paired t-test, and families tested together.

**Power.** Under n independent normal differences of mean δ and standard deviation σ, T = √n·D̄/s follows the noncentral
t with n − 1 degrees of freedom and noncentrality √n·δ/σ; the test rejects where |T| > t_{1 − level/2, n − 1}. Its power
grows with n and |δ|; both inverses are here. Checked by `tests/test_statistics.py`, by simulation and by another
integral.

**A family** of paired comparisons: each case's mean difference, its interval, Holm's correction, and what was too
little. Checked by `tests/test_statistics.py`.
"""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.statistics.paired import standard_deviation, student
from allora_analysis.validation import (
    ArgumentError,
    count,
    named,
    non_negative,
    number,
    positive,
    probability,
    representable,
    vector,
)

Case = TypeVar("Case", bound=Hashable)
# Effects that need more pairs than this are as good as 0.
MOST_PAIRS = 10**15


def _power(n: int, ratio: float, level: float) -> float:
    # Not scipy.stats.nct: at 1 degree of freedom and noncentrality 17 it returns 1 for a tail of 0.817 (SciPy 1.17).
    from scipy.special import ndtr, stdtrit

    df, critical, shift = n - 1, -float(stdtrit(n - 1, level / 2)), float(np.sqrt(n)) * ratio
    if not np.isfinite(critical):
        raise OverflowError("the critical value at this level")
    deviation, weight = _scaled_chi(df, [(sign * shift + step) / critical for sign in (-1, 1) for step in (-9, 0, 9)])
    rejected = ndtr(shift - critical * deviation) + ndtr(-shift - critical * deviation)
    return min(1.0, float(rejected @ weight))


@cache
def _legendre() -> tuple[Float[np.ndarray, " nodes"], Float[np.ndarray, " nodes"]]:
    return np.polynomial.legendre.leggauss(80)


def _scaled_chi(df: int, breaks: list[float]) -> tuple[Float[np.ndarray, " nodes"], Float[np.ndarray, " nodes"]]:
    # Nodes and probabilities of S = √(χ²_df/df) by Gauss–Legendre between breaks, in S where 0 is within reach (at a
    # small level what counts lies there), else in u = S − 1, exact at large df; the density ∝ exp((df − 1)·log s −
    # df·s²/2) is normalized over the nodes, so no gamma function cancels.
    origin, reach = 0.0 if df <= 144 else 1.0, 12 / np.sqrt(df)
    low, high = max(0.0, 1 - reach) - origin, 1 + reach - origin
    edges = np.unique(np.clip([low, 1 - origin, high, *np.subtract(breaks, origin)], low, high))
    node, weight = _legendre()
    half = np.diff(edges)[:, None] / 2
    at = (edges[:-1, None] + half * (1 + node)).ravel()
    log, s, u = (np.log1p(at), 1 + at, at) if origin else (np.log(at), at, at - 1)
    log_density = df * (log - u - u**2 / 2) - log
    mass = (half * weight).ravel() * np.exp(log_density - log_density.max())
    return s, mass / mass.sum()


@representable("n", "effect", "standard_deviation")
def power(n: int, effect: float, standard_deviation: float, level: float = 0.05) -> float:
    """P(|T| > t_{1 − level/2, n − 1}) for n pairs whose differences have this mean and standard deviation.

    Args:
        n: number of pairs, at least 2.
        effect: mean of the differences; its sign does not matter.
        standard_deviation: of the differences (not of either arm), above 0, in the effect's unit.
        level: size of the test.

    Returns:
        The power, `level` at effect 0.
    """
    ratio = abs(number("effect", effect)) / positive("standard_deviation", standard_deviation)
    return _power(count("n", n, 2), ratio, probability("level", level))


@representable("effect", "standard_deviation")
def required_n(effect: float, standard_deviation: float, power: float = 0.8, level: float = 0.05) -> int:
    """The smallest number of pairs at which the two-sided paired t-test has this power.

    Args:
        effect: mean of the differences, not 0; its sign does not matter.
        standard_deviation: of the differences, above 0, in the effect's unit.
        power: in (level, 1).
        level: size of the test.

    Returns:
        n ≥ 2.

    Raises:
        ArgumentError: effect 0, or so small against the deviation that no feasible n would do.

    Examples:
        >>> from allora_analysis.statistics import required_n
        >>> required_n(effect=0.5, standard_deviation=1.0)
        34
    """
    size, wanted = abs(number("effect", effect)), _wanted(power, level)
    ratio = size / positive("standard_deviation", standard_deviation)
    if size == 0 or _power(MOST_PAIRS, ratio, level) < wanted:
        raise ArgumentError(
            f"effect must not be 0, nor so small that more than {MOST_PAIRS:.0e} pairs are needed, received {effect!r}"
        )
    enough = 2
    while _power(enough, ratio, level) < wanted:
        enough *= 2
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if _power(middle, ratio, level) >= wanted else (middle, enough)
    return enough


@representable("effect", "standard_deviation")
def required_n_interval(
    effect: float, standard_deviation: float, degrees: int, confidence: float = 0.9
) -> tuple[int, int]:
    """`required_n` at both ends of the interval of a standard deviation that was estimated: s·√(ν/χ²_ν).

    Arguments as in `required_n`, with its defaults; ν is the pairs less 1; the confidence is of the interval.

    Returns:
        The fewest and the most pairs.

    Examples:
        >>> from allora_analysis.statistics import required_n_interval
        >>> required_n_interval(1.0, 2.0, 2)
        (13, 615)
    """
    from scipy.special import chdtri

    tail, df = (1 - probability("confidence", confidence)) / 2, count("degrees", degrees)
    low, high = (
        positive("standard_deviation", standard_deviation) * np.sqrt(df / chdtri(df, at)) for at in (tail, 1 - tail)
    )
    return required_n(effect, float(low)), required_n(effect, float(high))


@representable("n", "standard_deviation", "power", "level")
def detectable_effect(n: int, standard_deviation: float, power: float = 0.8, level: float = 0.05) -> float:
    """The effect that n pairs see with this power: the inverse of `power` in its effect.

    Arguments as in `power` and `required_n`.

    Returns:
        The effect, above 0, in the standard deviation's unit.

    Raises:
        ArgumentError: a power that is the level's but for rounding.
    """
    from scipy.optimize import brentq

    pairs, wanted = count("n", n, 2), _wanted(power, level)
    if _power(pairs, 0.0, level) >= wanted:
        raise ArgumentError(f"power must be above level = {level:g} by more than rounding, received {power!r}")
    deviation, above = positive("standard_deviation", standard_deviation), 1.0
    while _power(pairs, above, level) < wanted:
        above *= 2
    return deviation * float(brentq(lambda ratio: _power(pairs, ratio, level) - wanted, 0.0, above, xtol=1e-15))


def _wanted(power: Any, level: Any) -> float:
    wanted, size = probability("power", power), probability("level", level)
    if wanted <= size:
        raise ArgumentError(f"power must be above level = {size:g} (that much comes by chance), received {power!r}")
    return wanted


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


@dataclass(frozen=True)
class Difference:
    """One case of a family.

    Attributes:
        differences: of each pair.
        mean: their mean.
        interval: Student's interval of the mean at 1 − level, for this case alone.
        p_value: two-sided, of no difference: Student's t over pairs; of n equal differences, whose own spread says
            nothing, 2^(1 − n), as by flipping signs.
        adjusted_p_value: Holm's, over the family.
        detectable: the difference that this many pairs see with the stated power at the level of Holm's first step.
        required_n: pairs for that power at that level, were the mean the true difference; None if the case is clear,
            if no feasible number would do, or if all differences are equal.
        level: of the family.
    """

    differences: Float[np.ndarray, " n"]
    mean: float
    interval: tuple[float, float]
    p_value: float
    adjusted_p_value: float
    detectable: float
    required_n: int | None
    level: float

    @property
    def sign(self) -> int:
        """1 or −1 where the difference is clear, 0 where it is not."""
        return int(np.sign(self.mean)) if self.adjusted_p_value <= self.level else 0


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
    return _holm(raw, raw.size)


def _holm(p_values: Float[np.ndarray, " m"], family: int) -> Float[np.ndarray, " m"]:
    """The core of `holm`, in a family whose other tests have p = 1."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty_like(p_values)
    steps = np.arange(family, family - p_values.size, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * steps))
    return adjusted


@representable("differences", "grain", infinite=True)
def paired_family(
    differences: Mapping[Case, ArrayLike],
    level: float = 0.05,
    power: float = 0.8,
    cases: int | None = None,
    grain: float = 0.0,
) -> dict[Case, Difference]:
    """Student's t of each case's differences, Holm's correction over all cases of the family.

    Args:
        differences: of each case, at least 2 independent ones, assumed normal.
        level: the family's rate of false findings.
        power: for `detectable` and `required_n`.
        cases: of the family, if some have no differences yet; these count as p = 1.
        grain: differences of one case that all lie this close together are equal. A difference of two rounded numbers
            carries their rounding, however small it is itself: give `TIE` times the largest of them.

    Returns:
        The cases, in order.

    Raises:
        ArgumentError: no case, a case of fewer than 2 differences, fewer `cases` than there are, or a negative grain.
    """
    level, power = probability("level", level), probability("power", power)
    arrays = named("differences", differences)
    grain = non_negative("grain", grain)
    family = count("cases", len(arrays) if cases is None else cases, len(arrays))
    tests = {case: _test(array, 1 - level, grain) for case, array in arrays.items()}
    adjusted = _holm(np.array([raw for *_, raw in tests.values()]), family)
    found = {}
    for (case, (mean, interval, raw)), p_value in zip(tests.items(), adjusted, strict=True):
        differences, first = arrays[case], level / family
        deviation = 0.0 if interval[0] == interval[1] else standard_deviation(differences)  # or only their rounding
        found[case] = Difference(
            differences,
            mean,
            interval,
            raw,
            float(p_value),
            _detectable(deviation, differences.size, power, first),
            _needed(mean, deviation, power, first) if p_value > level else None,
            level,
        )
    return found


# The mean, its interval, and p as `Difference` has it.
def _test(
    differences: Float[np.ndarray, " n"], confidence: float, grain: float
) -> tuple[float, tuple[float, float], float]:
    if differences.size < 2:
        raise ArgumentError(f"differences: at least 2 pairs are needed, received {differences.size}")
    mean = float(differences.mean())
    if not math.isfinite(mean):
        raise OverflowError("a difference or their sum")
    interval, statistic, p_value = student(differences, confidence, grain)
    return mean, interval, 2.0 ** (1 - differences.size) if math.isinf(statistic) else p_value


def _detectable(deviation: float, n: int, power: float, level: float) -> float:
    found = deviation * _unit_effect(n, power, level)
    if found == math.inf:
        raise OverflowError("the detectable difference")
    return found


@cache
def _unit_effect(n: int, power: float, level: float) -> float:
    return detectable_effect(n, 1.0, power, level)


def _needed(mean: float, deviation: float, power: float, level: float) -> int | None:
    try:
        return required_n(mean, deviation, power, level)
    except ArgumentError:  # no difference, or no deviation: no such number
        return None
