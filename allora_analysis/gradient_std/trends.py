"""Does a standard deviation fall or rise over training? One test a case, over seeds, stated before any run.

A case is a data set, an optimiser and a statistic s (the average over entries, or the worst entry, of the standard
deviation over masks). Seed i changes by Δ_i = log(s_i(last epoch)/s_i(first epoch)), natural logarithm: 0.1 is about
10 %. Seeds are independent and s is one number a run, so no entry is compared across seeds. The null is E Δ = 0, the
test Student's t over seeds (assumes normal Δ), Holm's correction over the whole family of cases. A case **falls**
(rises) if its adjusted p-value is at most `LEVEL` and its mean change is below (above) 0; otherwise it is **unclear**.
The 95 % interval of each case stands beside it, uncorrected; a case that falls or rises excludes 0 from it.

Figure 1's sentence, "the average decreases slightly while the worst case increases", agrees with a setting if the
average falls and the worst rises, contradicts it if either goes the other way, and is undecided otherwise. Checked by
`tests/test_gradient_std_trends.py`, with planted trends, a planted absence of any, and the power claimed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.statistics import detectable_effect, holm, paired_test, required_n
from allora_analysis.validation import ArgumentError, choice, count, finite, several

LEVEL = 0.05
POWER = 0.8
AVERAGE, WORST = "mean", "worst_held_out"
BATCHES = ("probe", "fresh", "no_dropout_fresh")


@dataclass(frozen=True)
class Trend:
    """The change of one statistic over training, over seeds.

    Attributes:
        changes: Δ of each seed, a natural logarithm.
        change: their mean.
        interval: Student's 95 % interval of the mean change.
        p_value: two-sided, of no change.
        adjusted_p_value: Holm's, over the family that the case was tested in.
        detectable: the change that this many seeds see with power 0.8 at the level of Holm's first step.
        required_n: seeds for power 0.8 at that level, were the mean change the true one; None if the case is clear, or
            if no feasible number would do.
    """

    changes: Float[np.ndarray, " seeds"]
    change: float
    interval: tuple[float, float]
    p_value: float
    adjusted_p_value: float
    detectable: float
    required_n: int | None

    @property
    def direction(self) -> str:
        """The word: "falls", "rises" or "unclear"."""
        if self.adjusted_p_value > LEVEL:
            return "unclear"
        return "falls" if self.change < 0 else "rises"


def values(runs: Sequence[Sequence[Mapping[str, Any]]], statistic: str, batch: str = "probe") -> np.ndarray:
    """A statistic of some runs, epoch by epoch.

    Args:
        runs: each run's epochs, as recorded: {"epoch": 0, "probe": {statistic: value, …}, "fresh": {…}, …}, …
        statistic: for example "mean" or "worst_held_out".
        batch: over masks on "probe", the fixed batch, or on "fresh"; or "no_dropout_fresh", over minibatches.

    Returns:
        The values, (runs, epochs).

    Raises:
        ArgumentError: no run, or runs of different lengths.
    """
    choice("batch", batch, BATCHES)
    rows = [[epoch[batch][statistic] for epoch in run] for run in several("runs", runs)]
    if len({len(row) for row in rows}) != 1:
        raise ArgumentError(f"runs must have one number of epochs, received {sorted({len(row) for row in rows})}")
    return np.asarray(rows, dtype=np.float64)


def changes(series: ArrayLike, first: int = 0) -> Float[np.ndarray, " seeds"]:
    """Δ_i = log(s_i(last)/s_i(first)) of each seed.

    Args:
        series: s, (seeds, epochs), above 0.
        first: the epoch that the last one is compared with.

    Returns:
        The changes.

    Raises:
        ArgumentError: not a matrix of positive numbers with a later epoch than `first`.
    """
    array = finite("series", series)
    if array.ndim != 2 or array.shape[1] < 2:
        raise ArgumentError(f"series must be (seeds, epochs), at least 2 epochs, received shape {array.shape}")
    start = count("first", first, 0, array.shape[1] - 2)
    if (array <= 0).any():
        raise ArgumentError(f"series must be above 0, or it has no logarithm; received {array.min():g}")
    return np.log(array[:, -1]) - np.log(array[:, start])


def family_of_trends(series: Mapping[Any, ArrayLike], first: int = 0) -> dict[Any, Trend]:
    """The trend of each case, the p-values adjusted over all of them.

    Args:
        series: s of each case, (seeds, epochs); at least 2 seeds.
        first: the epoch that the last one is compared with: 0, before training, or 1.

    Returns:
        The trends by case.
    """
    moved = {case: changes(series[case], first) for case in several("series", series)}
    tests = {case: paired_test(change, np.zeros_like(change), method="t") for case, change in moved.items()}
    adjusted = holm([test.p_value for test in tests.values()])
    found = {}
    for (case, test), p_value in zip(tests.items(), adjusted, strict=True):
        deviation, level = float(moved[case].std(ddof=1)), LEVEL / len(tests)
        found[case] = Trend(
            moved[case],
            test.mean_difference,
            test.interval,
            test.p_value,
            float(p_value),
            deviation * _unit_effect(test.n, level),
            _needed(test.mean_difference, deviation, level) if p_value > LEVEL else None,
        )
    return found


@cache
def _unit_effect(n: int, level: float) -> float:
    return detectable_effect(n, 1.0, POWER, level)


def _needed(change: float, deviation: float, level: float) -> int | None:
    try:
        return required_n(change, deviation, POWER, level)
    except ArgumentError:  # no change, or no deviation: no such number
        return None


def agreement(average: Trend, worst: Trend) -> str:
    """What a setting says of "the average falls while the worst case rises".

    Args:
        average: the trend of the average over entries.
        worst: the trend of the worst entry.

    Returns:
        "agrees", "contradicts" or "undecided".
    """
    if average.direction == "rises" or worst.direction == "falls":
        return "contradicts"
    return "agrees" if (average.direction, worst.direction) == ("falls", "rises") else "undecided"
