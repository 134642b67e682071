"""One-sided tests, equivalence and families of both: the one rule by which the ledger judges a comparison.

Written before the numbers were looked at again under it; a rule that changes after that says so where it is used.

1. **Units.** A comparison is n differences d₁ … d_n between two arms, one an independent unit, positive where the first
   arm is better. Of the paper's tables, which print no spread, a unit is a (model, data set) or a (model, rank), with
   the mean of its cells; of our own runs it is a seed.
2. **Test.** Tables: exact sign flips; p of "the mean is above 0" is the share of the 2ⁿ sign patterns whose mean is at
   least the one seen, so 2⁻ⁿ is the smallest p that n units can give. Our runs have too few seeds for that: Student's
   t, which takes the differences to be normal.
3. **A sentence of direction** ("A is better than B") is tested one-sided at 0.05, and so is its opposite: `holds`,
   `refuted`, or `undecided` where neither is shown.
4. **A sentence of equality** ("comparable", "no evident difference") holds if the same test shows the mean above −m and
   below m, both one-sided at 0.05; it is refuted if the mean is shown above m or below −m. The margin m is stated
   where the sentence is judged, is not taken from the difference in question, and m/2 and 2m stand beside it.
5. **A family** is one question of the paper on one table. Holm's correction is made within it, over the sentences'
   p-values and, separately, over those of their opposites. A case that was not run is left out, and the row says what
   it covers.
6. **Interval.** The means that neither one-sided test rejects, at 1 − 2·0.05 = 90 %, for the comparison alone.
7. **Needed n**, where undecided: units for a power of 0.8 at Holm's first step, were the mean and the spread seen the
   true ones; its interval is that of the spread (χ² on n − 1 degrees of freedom, 90 %), and is wide for few units.

Sign flips: Fisher 1935; their interval by the means of all subsets: Hartigan 1969. Equivalence by two one-sided tests:
Schuirmann 1987. Checked by `tests/test_statistics_directional.py` against enumeration and by simulation.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.statistics.families import holm, required_n
from allora_analysis.statistics.paired import TIE, standard_deviation, student
from allora_analysis.validation import (
    ArgumentError,
    choice,
    mapping,
    named,
    non_negative,
    positive,
    probability,
    representable,
    several,
    vector,
)

Case = TypeVar("Case", bound=Hashable)
MOST_UNITS = 20  # 2²⁰ subsets
TESTS = ("sign flips", "t")


@dataclass(frozen=True)
class OneSided:
    """A mean tested against 0 from both sides.

    Attributes:
        mean: of the differences.
        p_above: of "the mean is above 0".
        p_below: of "the mean is below 0".
        interval: the means that neither test rejects; None where so few units can reject none.
    """

    mean: float
    p_above: float
    p_below: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Judgement:
    """A comparison judged within its family by the module's rule.

    Attributes:
        verdict: "holds", "refuted" or "undecided".
        n: units.
        mean: of their differences.
        interval: of the mean, this comparison alone; None where so few units can exclude no mean.
        p_value: of the sentence, unadjusted.
        adjusted_p_value: the same by Holm within the family.
        opposite_p_value: of the sentence's opposite, unadjusted.
        adjusted_opposite_p_value: the same by Holm.
        smallest_p_value: the least that n units could have given, 2⁻ⁿ by sign flips; None for Student's t, where there
            is none.
        family: how many comparisons Holm's correction is over.
        margin: of a sentence of equality; None for one of direction.
        needed: units that an undecided comparison would need; None where it is decided, no number would do or the power
            asked for is no more than comes by chance.
        needed_interval: that number at either end of the spread's interval.
    """

    verdict: str
    n: int
    mean: float
    interval: tuple[float, float] | None
    p_value: float
    adjusted_p_value: float
    opposite_p_value: float
    adjusted_opposite_p_value: float
    smallest_p_value: float | None
    family: int
    margin: float | None
    needed: int | None
    needed_interval: tuple[int, int] | None


@representable("differences")
def one_sided(differences: ArrayLike, test: str = "sign flips", level: float = 0.05, grain: float = 0.0) -> OneSided:
    """Tests of a mean above 0 and below 0.

    "sign flips": p_above = #{s ∈ {±1}ⁿ : Σ s_i d_i ≥ Σ d_i}/2ⁿ; flipping the units of S leaves the sum as large exactly
    if S is empty or the mean over S is at most 0, so the 2ⁿ − 1 subsets' means in order give p-values and interval.
    "t": Student's; of n equal differences, whose spread says nothing, 2⁻ⁿ.

    Args:
        differences: of the units, at least 2; at most 20 for sign flips.
        test: "sign flips" or "t".
        level: of each test; the interval has confidence 1 − 2·level.
        grain: what rounding may have added to a difference. A difference of two rounded numbers carries their rounding,
            however small it is itself: give `TIE` times the largest of them.

    Returns:
        The outcome; both p = 1 where every difference is 0.

    Raises:
        ArgumentError: too few or too many differences, a level of 0.5 or more.

    Examples:
        >>> from allora_analysis.statistics.directional import one_sided
        >>> one_sided([0.2, 0.1, 0.4]).p_above
        0.125
    """
    values, level = vector("differences", differences), probability("level", level)
    if level >= 0.5:
        raise ArgumentError(f"level must be below 0.5, as the interval is at 1 - 2·level; received {level!r}")
    grain = max(non_negative("grain", grain), TIE * float(np.abs(values).max()))
    if values.size < 2 or (choice("test", test, TESTS) == "sign flips" and values.size > MOST_UNITS):
        raise ArgumentError(f"differences: 2 to {MOST_UNITS} units are needed for {test}, received {values.size}")
    if test == "t":
        return _by_t(values, level, grain)
    means = _subset_means(values)
    below, above = (np.searchsorted(means, grain, "right"), means.size - np.searchsorted(means, -grain, "left"))
    patterns = means.size + 1
    rejecting = math.floor(level * patterns + 1e-9) - 1
    interval = (float(means[rejecting]), float(means[-1 - rejecting])) if rejecting >= 0 else None
    return OneSided(float(values.mean()), (1 + float(below)) / patterns, (1 + float(above)) / patterns, interval)


def _subset_means(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " subsets"]:
    sums, sizes = np.zeros(1), np.zeros(1)
    for value in values:
        sums, sizes = np.concatenate((sums, sums + value)), np.concatenate((sizes, sizes + 1))
    return np.sort(sums[1:] / sizes[1:])


def _by_t(values: Float[np.ndarray, " n"], level: float, grain: float) -> OneSided:
    interval, statistic, two_sided = student(values, 1 - 2 * level, grain)
    if statistic == 0 and two_sided == 1.0 and np.all(np.abs(values) <= grain):
        return OneSided(float(values.mean()), 1.0, 1.0, interval)
    smaller = 2.0**-values.size if math.isinf(statistic) else two_sided / 2
    above, below = (smaller, 1 - smaller) if statistic > 0 else (1 - smaller, smaller)
    return OneSided(float(values.mean()), above, below, interval)


@representable("differences", "margins", infinite=True)
def judge_family(
    differences: Mapping[Case, ArrayLike],
    test: str = "sign flips",
    level: float = 0.05,
    power: float = 0.8,
    margins: Mapping[Case, float] | None = None,
    grain: float = 0.0,
) -> dict[Case, Judgement]:
    """The comparisons of one question on one table, judged together by the module's rule.

    Args:
        differences: of each comparison's units, positive where the first arm is better; those run, and no others.
        test: "sign flips" or "t".
        level: of the tests, family-wise within a direction.
        power: for the needed units.
        margins: of the comparisons whose sentence is one of equality.
        grain: as in `one_sided`.

    Returns:
        A judgment a comparison, in order.

    Raises:
        ArgumentError: no comparison, or one of too few units; a margin that is not above 0, or of no comparison; a
            power outside (0, 1).
    """
    arrays, power = named("differences", differences), probability("power", power)
    given = mapping("margins", {} if margins is None else margins, "numbers above 0")
    limits = {case: positive("margins", margin) for case, margin in given.items()}
    if strange := [case for case in limits if case not in arrays]:
        raise ArgumentError(f"margins: {strange[0]!r} is no comparison; there are {', '.join(map(repr, arrays))}")
    decided = decide({case: sides(array, limits.get(case)) for case, array in arrays.items()}, test, level, grain)
    found = {}
    for case, one in decided.items():
        alone, size = one_sided(arrays[case], test, level, grain), arrays[case].size
        open_at = (level / len(arrays), power, limits.get(case), grain)
        found[case] = Judgement(
            one.verdict,
            size,
            alone.mean,
            alone.interval,
            one.p_value,
            one.adjusted_p_value,
            one.opposite_p_value,
            one.adjusted_opposite_p_value,
            2.0**-size if test == "sign flips" else None,
            len(arrays),
            limits.get(case),
            *(_needed(arrays[case], test, *open_at) if one.verdict == "undecided" else (None, None)),
        )
    return found


def sides(differences: Float[np.ndarray, " n"], margin: float | None) -> tuple[Float[np.ndarray, " n"], ...]:
    """What a sentence says is above 0 on average: the differences; of equality, the distances to either margin.

    Args:
        differences: of the units.
        margin: m of a sentence of equality; None for one of direction.

    Returns:
        d, or d + m and m − d.
    """
    return (differences,) if margin is None else (differences + margin, margin - differences)


class Decision(NamedTuple):
    """A sentence's verdict within its family, its p-value and its opposite's, unadjusted and by Holm."""

    verdict: str
    p_value: float
    adjusted_p_value: float
    opposite_p_value: float
    adjusted_opposite_p_value: float


def decide(
    sentences: Mapping[Case, Sequence[ArrayLike]], test: str = "sign flips", level: float = 0.05, grain: float = 0.0
) -> dict[Case, Decision]:
    """The verdicts of a family, each sentence given as `sides`, all of whose means it says are above 0.

    p is the largest of the sides' p-values; the opposite's is the smallest of those of "below 0", times their number.

    Arguments as in `judge_family`, the sides of each sentence in place of differences.

    Returns:
        A decision a sentence, in order.
    """
    families = mapping("sentences", sentences, "their sides")
    given = {case: several(f"sentences[{case!r}]", families[case]) for case in several("sentences", families)}
    tested = {case: [one_sided(side, test, level, grain) for side in of] for case, of in given.items()}
    p_values = [max(side.p_above for side in of) for of in tested.values()]
    opposite = [min(1.0, len(of) * min(side.p_below for side in of)) for of in tested.values()]
    found = {}
    for case, *of in zip(tested, p_values, holm(p_values), opposite, holm(opposite), strict=True):
        verdict = "holds" if of[1] <= level else "refuted" if of[3] <= level else "undecided"
        found[case] = Decision(verdict, *map(float, of))
    return found


def within(interval: tuple[float, float], margin: float) -> bool:
    """Whether −m ≤ low and high ≤ m: the interval lies within the margin of equality, ends included (rule 4).

    Args:
        interval: its ends, low and high.
        margin: m, in the interval's unit.

    Returns:
        True if so.
    """
    return max(-interval[0], interval[1]) <= margin


def in_every(family: Mapping[Case, Judgement | Decision]) -> str:
    """The verdict on a sentence about every comparison: one refuted refutes it, one undecided leaves it open.

    Args:
        family: the comparisons, judged.

    Returns:
        "refuted", "undecided" or "holds".

    Raises:
        ArgumentError: no comparison.
    """
    if not family:
        raise ArgumentError("family must hold at least one comparison: of none nothing can be said")
    verdicts = {one.verdict for one in family.values()}
    return next((worse for worse in ("refuted", "undecided") if worse in verdicts), "holds")


def units_to_reject(level: float) -> int:
    """The least number of units at which one-sided sign flips can reject at all: 2⁻ⁿ ≤ level.

    Args:
        level: of the test; at Holm's first step the family's level over its size.

    Returns:
        n.
    """
    return int(np.ceil(-np.log2(probability("level", level)) - 1e-12))


def _needed(
    values: Float[np.ndarray, " n"], test: str, step: float, power: float, margin: float | None, grain: float
) -> tuple:
    from scipy.special import chdtri, ndtr

    df, spread = values.size - 1, standard_deviation(values)
    if np.ptp(values) <= max(grain, TIE * float(np.abs(values).max())):
        return None, None  # equal ones have no spread but their rounding
    ends = (spread, *(spread * math.sqrt(df / float(chdtri(df, tail))) for tail in (0.05, 0.95)))

    def units(deviation: float) -> int:
        if margin is None:
            enough = required_n(float(values.mean()), deviation, power, 2 * step)  # one-sided: twice the level
        else:  # at a true difference of 0 both one-sided tests must reject
            enough = required_n(margin, deviation, (1 + power) / 2, 2 * step)
        if test == "t":
            return enough
        least = units_to_reject(step)  # at so few, all must share a sign
        one_sign = float(ndtr(abs(margin or values.mean()) / deviation)) ** least
        return max(enough, least + int(one_sign < power))

    try:
        number, low, high = (units(deviation) for deviation in ends)
    except ArgumentError:  # a mean of 0: no such number
        return None, None
    return number, (low, high)
