"""Does a standard deviation fall or rise over training? One test a case, over seeds, stated before any run.

A case is a data set, an optimizer and a statistic s (the average over entries, or the worst entry, of the standard
deviation over masks). Seed i changes by Δ_i = log(s_i(last epoch)/s_i(first epoch)), natural logarithm: 0.1 is about
10 %. Seeds are independent and s is one number a run, so no entry is compared across seeds. The null is E Δ = 0, the
test Student's t over seeds (assumes normal Δ), Holm's correction over the whole family of cases. A case **falls**
(rises) if its adjusted p-value is at most `LEVEL` and its mean change is below (above) 0; otherwise it is **unclear**.
The 95 % interval of each case stands beside it, uncorrected; a case that falls or rises excludes 0 from it.

Figure 1's own sentence is judged one-sided in `claims.s3_1_figure_1`, beside these. Checked by
`tests/test_gradient_std_trends.py`, with planted trends, a planted absence of any, and the power claimed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.gradient_std.summary import BATCHES
from allora_analysis.statistics import Difference, paired_family
from allora_analysis.validation import ArgumentError, choice, count, finite, representable, several

LEVEL = 0.05
POWER = 0.8
AVERAGE, WORST = "mean", "worst_held_out"


@dataclass(frozen=True)
class Trend:
    """The change of one statistic over training, over seeds.

    Attributes:
        change: Δ of each seed, a natural logarithm, and its test in the family that the case belongs to.
    """

    change: Difference

    @property
    def direction(self) -> str:
        """The word: "falls", "rises" or "unclear"."""
        return {-1: "falls", 0: "unclear", 1: "rises"}[self.change.sign]


def values(runs: Sequence[Sequence[Mapping[str, Any]]], statistic: str, batch: str = "probe") -> np.ndarray:
    """A statistic of some runs, epoch by epoch."""
    choice("batch", batch, BATCHES)
    rows = [[epoch[batch][statistic] for epoch in run] for run in several("runs", runs)]
    if len({len(row) for row in rows}) != 1:
        raise ArgumentError(f"runs must have one number of epochs, received {sorted({len(row) for row in rows})}")
    return np.asarray(rows, dtype=np.float64)


@representable()
def changes(series: ArrayLike, first: int = 0) -> Float[np.ndarray, " seeds"]:
    """Δ_i = log(s_i(last)/s_i(first)) of each seed."""
    array = finite("series", series)
    if array.ndim != 2 or array.shape[1] < 2:
        raise ArgumentError(f"series must be (seeds, epochs), at least 2 epochs, received shape {array.shape}")
    start = count("first", first, 0, array.shape[1] - 2)
    if (array <= 0).any():
        raise ArgumentError(f"series must be above 0, or it has no logarithm; received {array.min():g}")
    return np.log(array[:, -1]) - np.log(array[:, start])


def family_of_trends(series: Mapping[Any, ArrayLike], first: int = 0, cases: int | None = None) -> dict[Any, Trend]:
    """The trend of each case, the p-values adjusted over all of them."""
    moved = {case: changes(series[case], first) for case in several("series", series)}
    return {case: Trend(change) for case, change in paired_family(moved, LEVEL, POWER, cases).items()}
