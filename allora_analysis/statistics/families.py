"""A family of paired comparisons tested together: each case's mean difference, its interval, and what was too little.

Checked by `tests/test_statistics_families.py`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.statistics.paired import difference_test
from allora_analysis.statistics.sample_size import detectable_effect, required_n
from allora_analysis.validation import ArgumentError, count, named, non_negative, probability, representable, vector

Case = TypeVar("Case", bound=Hashable)


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
    tests = {case: difference_test(array, 1 - level, grain) for case, array in arrays.items()}
    family = count("cases", len(tests) if cases is None else cases, len(tests))
    p_values = [2.0 ** (1 - test.n) if math.isinf(test.statistic) else test.p_value for test in tests.values()]
    adjusted = _holm(np.array(p_values), family)
    found = {}
    for (case, test), raw, p_value in zip(tests.items(), p_values, adjusted, strict=True):
        equal = test.interval[0] == test.interval[1]  # have no deviation but their rounding
        deviation, first = 0.0 if equal else float(arrays[case].std(ddof=1)), level / family
        found[case] = Difference(
            arrays[case],
            test.mean_difference,
            test.interval,
            raw,
            float(p_value),
            deviation * _unit_effect(test.n, power, first),
            _needed(test.mean_difference, deviation, power, first) if p_value > level else None,
            level,
        )
    return found


@cache
def _unit_effect(n: int, power: float, level: float) -> float:
    return detectable_effect(n, 1.0, power, level)


def _needed(mean: float, deviation: float, power: float, level: float) -> int | None:
    try:
        return required_n(mean, deviation, power, level)
    except ArgumentError:  # no difference, or no deviation: no such number
        return None
