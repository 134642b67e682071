"""A family of paired comparisons tested together: each case's mean difference, its interval, and what was too little.

Checked by `tests/test_statistics_families.py`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.statistics.paired import paired_test
from allora_analysis.statistics.sample_size import detectable_effect, required_n
from allora_analysis.statistics.z_tests import holm, rate
from allora_analysis.validation import ArgumentError, several, vector

Case = TypeVar("Case", bound=Hashable)


@dataclass(frozen=True)
class Difference:
    """One case of a family.

    Attributes:
        differences: of each pair.
        mean: their mean.
        interval: Student's interval of the mean at 1 − level, for this case alone.
        p_value: two-sided, of no difference: Student's t over pairs.
        adjusted_p_value: Holm's, over the family.
        detectable: the difference that this many pairs see with the stated power at the level of Holm's first step.
        required_n: pairs for that power at that level, were the mean the true difference; None if the case is clear,
            or if no feasible number would do.
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


def paired_family(
    differences: Mapping[Case, ArrayLike], level: float = 0.05, power: float = 0.8
) -> dict[Case, Difference]:
    """Student's t of each case's differences, Holm's correction over all cases.

    Args:
        differences: of each case, at least 2 independent ones, assumed normal.
        level: the family's rate of false findings.
        power: for `detectable` and `required_n`.

    Returns:
        The cases, in order.
    """
    level, power = rate("level", level), rate("power", power)
    arrays = {case: vector("differences", differences[case]) for case in several("differences", differences)}
    tests = {
        case: paired_test(array, np.zeros_like(array), method="t", confidence=1 - level)
        for case, array in arrays.items()
    }
    adjusted = holm([test.p_value for test in tests.values()])
    found = {}
    for (case, test), p_value in zip(tests.items(), adjusted, strict=True):
        deviation, first = float(arrays[case].std(ddof=1)), level / len(tests)
        found[case] = Difference(
            arrays[case],
            test.mean_difference,
            test.interval,
            test.p_value,
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
