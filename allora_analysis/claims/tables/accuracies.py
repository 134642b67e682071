"""What a printed accuracy can tell, given the size and the labels of its test set.

**Which accuracies are possible.** k right answers of m are 100k/m percent, no other, and the mean of s runs on n
examples is 100k/(sn). Where the printed digits are finer than that, a number that rounds from no whole k tells that the
split, the number of runs or the number itself is another (the GRIM test, Brown and Heathers 2017). That takes the runs
to be averaged unrounded; where each is noted to d decimals first, `ways` counts the runs that a number can come from.

**How far above the majority label's rate.** A classifier that ignores its input and names the majority label is right
on a share π. An accuracy a over n examples has binomial standard error √(a(1 − a)/n), from the choice of test examples,
which repeated runs on one test set do not reduce. Checked by `tests/test_claims_tables.py`, by enumeration.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
from jaxtyping import UInt64

from allora_analysis.claims.tables import reported
from allora_analysis.statistics import accuracy_stderr
from allora_analysis.validation import ArgumentError, count, number


def reachable(percent: float, decimals: int, answers: int) -> bool:
    """Whether some whole number of right answers rounds to a printed percentage (ties either way).

    ∃k ∈ {0, …, answers}: |100k/answers − percent| ≤ 10^{−decimals}/2.
    """
    trials, printed = count("answers", answers), Fraction(reported.exact(number("percent", percent)))
    slack = Fraction(reported.half_unit(count("decimals", decimals, 0)))
    lowest = -(-(printed - slack) * trials // 100)  # ceiling
    return max(lowest, 0) <= min((printed + slack) * trials // 100, trials)


def reachable_share(decimals: int, answers: int) -> float:
    """The share of percentages with these decimals that are reachable: the chance that a made-up number passes."""
    trials, unit = count("answers", answers), 100 * 10 ** count("decimals", decimals, 0)
    below, rest = np.divmod(np.arange(trials + 1, dtype=np.int64) * unit, trials)
    near = [below[2 * rest <= trials], below[2 * rest >= trials] + 1]  # a tie rounds either way
    return len(set(np.concatenate(near))) / (unit + 1)


def ways(percent: float, decimals: int, examples: int, runs: int) -> int:
    """How many tuples of right answers print as this, each run noted to so many decimals before they are averaged.

    #{(k₁, …, k_s) ∈ {0, …, n}^s: |(1/s)·Σ_i round(100kᵢ/n) − percent| ≤ 10^{−decimals}/2}, counted exactly.
    """
    unit, s = 10 ** count("decimals", decimals, 0), count("runs", runs)
    if (count("examples", examples) + 1) ** s >= 2**64:
        raise ArgumentError(f"runs: (examples + 1)^runs must be below 2^64, received {examples + 1}^{runs}")
    printed = Fraction(reported.exact(number("percent", percent))) * unit
    low, high = (s * (printed + half) for half in (Fraction(-1, 2), Fraction(1, 2)))
    return int(_tuples_by_sum(unit, examples, s)[max(-(-low // 1), 0) : max(high // 1 + 1, 0)].sum())


@cache
def _tuples_by_sum(unit: int, examples: int, runs: int) -> UInt64[np.ndarray, " sums"]:
    # The coefficients of (Σ_k z^{noted accuracy of k})^runs, as one whole number to the base 2⁶⁴.
    noted = [(200 * unit * k + examples) // (2 * examples) for k in range(examples + 1)]
    base = np.bincount(noted, minlength=100 * unit + 1).astype("<u8")
    power = int.from_bytes(base.tobytes(), "little") ** runs
    return np.frombuffer(power.to_bytes(8 * (100 * unit * runs + 1), "little"), dtype="<u8")


def frequency(percent: float, decimals: int, examples: int, runs: int) -> float:
    """`ways` against the average of 50 numbers on either side: 1 for a number as likely as its neighbors."""
    step = Fraction(1, 10 ** count("decimals", decimals, 0))
    near = [Fraction(reported.exact(percent)) + i * step for i in range(-50, 51)]
    found = [ways(float(value), decimals, examples, runs) for value in near if 0 <= value <= 100]
    return ways(percent, decimals, examples, runs) * len(found) / max(sum(found), 1)


def distinct_cells(dataset: str) -> tuple[reported.Cell, ...]:
    """The cells of Tables 3 and 4 on one data set, Table 4's ALLoRA and η² = 1 LoRA×η left out: Table 3 has them."""
    repeated = [
        cell for cell in reported.TABLE_4 if cell.arm == "ALLoRA" or (cell.arm == "LoRA×η" and cell.eta_squared == 1.0)
    ]
    return tuple(
        cell for cell in (*reported.TABLE_3, *reported.TABLE_4) if cell.dataset == dataset and cell not in repeated
    )


def restored(percent: float, answers: int) -> Fraction:
    """The accuracy of a whole number of right answers that is nearest to a printed one: 100·round(a·m/100)/m."""
    trials = count("answers", answers)
    return Fraction(100 * round(Fraction(reported.exact(number("percent", percent))) * trials / 100), trials)


def restored_gaps(dataset: str, runs: int) -> tuple[reported.Comparison, ...]:
    """A data set's gaps in Figures 3 and 4 against those of its `restored` accuracies.

    What disagrees is not explained by the tables' rounding, where the printed digits tell one whole number of right
    answers from the next.
    """
    answers = count("runs", runs) * reported.PERCEPTION_LABELS[dataset].examples
    accuracies = {table: reported.by_key(cells) for table, cells in reported.TABLES.items()}

    def compared(panel: reported.Panel, row: reported.GapRow, eta: float, printed: float) -> reported.Comparison:
        better, worse = (
            restored(accuracies[panel.table][row.model, dataset, eta, arm], answers)
            for arm in (panel.minuend, panel.subtrahend)
        )
        where = f"{panel.name}, {row.model}, {dataset}, η² = {eta:g}"
        basis = f"{panel.table}, accuracies as k/{answers}"
        return reported.Comparison(
            where,
            basis,
            reported.exact(printed),
            reported.exact(float(better - worse)),
            reported.half_unit(2),
            reported.exact(0.0),
        )

    return tuple(
        compared(panel, row, eta, printed)
        for panel in (*reported.FIGURE_3, *reported.FIGURE_4)
        for row in panel.rows
        if row.dataset == dataset
        for eta, printed in zip(reported.ETA_SQUARED, row.gaps, strict=True)
    )


@dataclass(frozen=True)
class AboveMajority:
    """An accuracy beside the majority rate of its data set, all in percent or percentage points."""

    where: str  # table, model, data set, arm, setting
    model: str
    dataset: str
    accuracy: float  # as printed
    majority: float | None  # the majority label's share; None, as what follows, where no count is at hand
    distance: float | None  # accuracy − majority
    stderr: float | None  # binomial, of the accuracy at the test set's size
    headroom_used: float | None  # distance/(100 − majority): 0 at the majority rate, 1 at 100 %

    def beyond(self, z: float) -> bool | None:
        """Whether the accuracy is more than z standard errors above the majority rate."""
        return None if self.distance is None or self.stderr is None else self.distance > z * self.stderr


def above_majority(
    where: str, model: str, dataset: str, accuracy: float, labels: reported.LabelCounts | None
) -> AboveMajority:
    """One accuracy's distance to the majority rate."""
    if labels is None:
        return AboveMajority(where, model, dataset, accuracy, None, None, None, None)
    majority = labels.majority_percent
    stderr = 100 * accuracy_stderr(accuracy / 100, labels.examples)
    distance = accuracy - majority
    return AboveMajority(where, model, dataset, accuracy, majority, distance, stderr, distance / (100 - majority))


def perception_cells() -> tuple[AboveMajority, ...]:
    """Every cell of Tables 3 and 4, those that Table 4 repeats from Table 3 once.

    Returns:
        Table 3's 27 × 3 cells, then Table 4's OD, ASF and LoRA×η cells.
    """
    shared = {(cell.model, cell.dataset, cell.eta_squared, cell.arm) for cell in reported.TABLE_3}
    cells = (
        *reported.TABLE_3,
        *(c for c in reported.TABLE_4 if (c.model, c.dataset, c.eta_squared, c.arm) not in shared),
    )
    return tuple(
        above_majority(
            f"{cell.table}, {cell.model}, {cell.dataset}, {cell.arm}, η² = {cell.eta_squared:g}",
            cell.model,
            cell.dataset,
            cell.accuracy,
            reported.PERCEPTION_LABELS.get(cell.dataset),
        )
        for cell in cells
    )


def commonsense_cells() -> tuple[AboveMajority, ...]:
    """Every cell of Table 1; HellaSwag's have no majority rate."""
    return tuple(
        above_majority(
            f"Table 1, {row.model}, r = {row.rank}, {task}, {row.arm}",
            row.model,
            task,
            accuracy,
            reported.COMMONSENSE_LABELS.get(task),
        )
        for row in reported.TABLE_1
        for task, accuracy in zip(reported.TASKS, row.accuracies, strict=True)
    )
