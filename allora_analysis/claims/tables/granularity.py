"""Which printed accuracies a number of test examples can produce: k right answers of m are 100k/m percent, no other.

The mean of s runs on n examples is 100k/(sn) percent. Where the printed digits are finer than 100/(sn), a number that
rounds from no whole k tells that the split, the number of runs or the number itself is another (the GRIM test, Brown
and Heathers 2017). Checked by `tests/test_claims_tables.py` against enumeration of every k.
"""

from __future__ import annotations

from fractions import Fraction

from allora_analysis.claims.reported import (
    ETA_SQUARED,
    FIGURE_3,
    FIGURE_4,
    PERCEPTION_LABELS,
    TABLE_3,
    TABLE_4,
    Cell,
    GapRow,
    Panel,
)
from allora_analysis.claims.tables.arithmetic import TABLES, by_key
from allora_analysis.claims.tables.rounding import Comparison, exact, half_unit
from allora_analysis.validation import count, number


def reachable(percent: float, decimals: int, answers: int) -> bool:
    """Whether some whole number of right answers rounds to a printed percentage (ties either way).

    ∃k ∈ {0, …, answers}: |100k/answers − percent| ≤ 10^{−decimals}/2.

    Args:
        percent: as printed.
        decimals: printed digits after the point.
        answers: number of answers given, runs times examples.

    Returns:
        True if there is such a k.
    """
    trials, printed = count("answers", answers), Fraction(exact(number("percent", percent)))
    slack = Fraction(half_unit(count("decimals", decimals, 0)))
    lowest = -(-(printed - slack) * trials // 100)  # ceiling
    return max(lowest, 0) <= min((printed + slack) * trials // 100, trials)


def reachable_share(decimals: int, answers: int) -> float:
    """The share of percentages with these decimals that are reachable: the chance that a made-up number passes.

    Args:
        decimals: printed digits after the point.
        answers: number of answers given.

    Returns:
        A fraction in (0, 1].
    """
    grid = range(100 * 10 ** count("decimals", decimals, 0) + 1)
    return sum(reachable(step / 10**decimals, decimals, answers) for step in grid) / len(grid)


def distinct_cells(dataset: str) -> tuple[Cell, ...]:
    """The cells of Tables 3 and 4 on one data set, Table 4's ALLoRA and η² = 1 LoRA×η left out: Table 3 has them.

    Args:
        dataset: as in the tables.

    Returns:
        The cells.
    """
    repeated = [cell for cell in TABLE_4 if cell.arm == "ALLoRA" or (cell.arm == "LoRA×η" and cell.eta_squared == 1.0)]
    return tuple(cell for cell in (*TABLE_3, *TABLE_4) if cell.dataset == dataset and cell not in repeated)


def restored(percent: float, answers: int) -> Fraction:
    """The accuracy of a whole number of right answers that is nearest to a printed one: 100·round(a·m/100)/m.

    Args:
        percent: as printed.
        answers: number of answers given, m.

    Returns:
        The accuracy in percent, exactly.
    """
    trials = count("answers", answers)
    return Fraction(100 * round(Fraction(exact(number("percent", percent))) * trials / 100), trials)


def restored_gaps(dataset: str, runs: int) -> tuple[Comparison, ...]:
    """A data set's gaps in Figures 3 and 4 against those of its `restored` accuracies.

    What disagrees is not explained by the tables' rounding, where the printed digits tell one whole number of right
    answers from the next.

    Args:
        dataset: as in the tables.
        runs: that each cell is the mean of.

    Returns:
        One comparison a gap.
    """
    answers = count("runs", runs) * PERCEPTION_LABELS[dataset].examples
    accuracies = {table: by_key(cells) for table, cells in TABLES.items()}

    def compared(panel: Panel, row: GapRow, eta: float, printed: float) -> Comparison:
        better, worse = (
            restored(accuracies[panel.table][row.model, dataset, eta, arm], answers)
            for arm in (panel.minuend, panel.subtrahend)
        )
        where = f"{panel.name}, {row.model}, {dataset}, η² = {eta:g}"
        basis = f"{panel.table}, accuracies as k/{answers}"
        return Comparison(where, basis, exact(printed), exact(float(better - worse)), half_unit(2), exact(0.0))

    return tuple(
        compared(panel, row, eta, printed)
        for panel in (*FIGURE_3, *FIGURE_4)
        for row in panel.rows
        if row.dataset == dataset
        for eta, printed in zip(ETA_SQUARED, row.gaps, strict=True)
    )
