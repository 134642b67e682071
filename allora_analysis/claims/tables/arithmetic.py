"""Averages and gaps of the tables, recomputed: Table 1's "Avg", every cell and every average of Figures 3 and 4.

Each function returns one `Comparison` a printed number; `disagreements` keeps those that do not agree.
Checked by `tests/test_claims_tables.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from allora_analysis.claims.reported import (
    ETA_SQUARED,
    FIGURE_3,
    FIGURE_4,
    TABLE_1,
    TABLE_3,
    TABLE_4,
    Cell,
    CommonsenseRow,
    Panel,
)
from allora_analysis.claims.tables.rounding import Comparison, exact, half_unit, mean

Key = tuple[str, str, float, str]
TABLES = {"Table 3": TABLE_3, "Table 4": TABLE_4}
# The cells that Table 3 and Figure 3 show the other way round (see `with_exchanged`).
EXCHANGED = ("Snowflake-Arctic-L", "yelp", 4.0)


@dataclass(frozen=True)
class Disagreement:
    """A printed number that its recomputation does not round to.

    Attributes:
        where: the printed number's place.
        basis: what it was recomputed from.
        printed: as printed.
        recomputed: from the basis.
        explained_by_rounding: whether rounding of the basis and of the number itself can explain it.
    """

    where: str
    basis: str
    printed: float
    recomputed: float
    explained_by_rounding: bool


def disagreements_among(comparisons: Iterable[Comparison]) -> tuple[Disagreement, ...]:
    """The comparisons whose recomputed value does not round to the printed one.

    Args:
        comparisons: any.

    Returns:
        One row each, both numbers in it.
    """
    return tuple(
        Disagreement(item.where, item.basis, float(item.printed), float(item.recomputed), item.explained)
        for item in comparisons
        if not item.agrees
    )


def by_key(cells: Sequence[Cell]) -> dict[Key, float]:
    """Accuracies by (model, data set, η², arm).

    Args:
        cells: of one table.

    Returns:
        The mapping.
    """
    return {(cell.model, cell.dataset, cell.eta_squared, cell.arm): cell.accuracy for cell in cells}


def table_1_averages(rows: Sequence[CommonsenseRow] = TABLE_1) -> tuple[Comparison, ...]:
    """Table 1's "Avg" against the mean of the row's eight accuracies.

    Args:
        rows: the table's rows.

    Returns:
        One comparison a row.
    """
    return tuple(
        Comparison(
            f"Table 1, {row.model}, r = {row.rank}, {row.arm}, Avg",
            "the row's eight accuracies",
            exact(row.average),
            mean(row.accuracies),
            half_unit(1),
            half_unit(1),
        )
        for row in rows
    )


def panel_cells(panel: Panel, cells: Sequence[Cell] | None = None) -> tuple[Comparison, ...]:
    """Each gap of a panel against the difference of the two accuracies in its table.

    Args:
        panel: of Figure 3 or 4.
        cells: the table's cells; None for the table that the panel names.

    Returns:
        One comparison a cell.
    """
    accuracies = by_key(TABLES[panel.table] if cells is None else cells)
    return tuple(
        Comparison(
            f"{panel.name}, {row.model}, {row.dataset}, η² = {eta:g}",
            f"{panel.table}: {panel.minuend} − {panel.subtrahend}",
            exact(gap),
            exact(accuracies[row.model, row.dataset, eta, panel.minuend])
            - exact(accuracies[row.model, row.dataset, eta, panel.subtrahend]),
            half_unit(2),
            2 * half_unit(2),
        )
        for row in panel.rows
        for eta, gap in zip(ETA_SQUARED, row.gaps, strict=True)
    )


def panel_averages(panel: Panel) -> tuple[Comparison, ...]:
    """Each printed average of a panel against the mean of the panel's own cells.

    Args:
        panel: of Figure 3 or 4.

    Returns:
        One comparison a row, then one a column and one for the whole, where these are printed.
    """

    def compared(label: str, printed: float, gaps: Sequence[float]) -> Comparison:
        where = f"{panel.name}, average of {label}"
        return Comparison(where, "the panel's own cells", exact(printed), mean(gaps), half_unit(2), half_unit(2))

    rows = [compared(f"{row.model}, {row.dataset}", row.average, row.gaps) for row in panel.rows]
    if panel.column_averages is None or panel.average is None:
        return tuple(rows)
    columns = [
        compared(f"η² = {eta:g}", printed, [row.gaps[index] for row in panel.rows])
        for index, (eta, printed) in enumerate(zip(ETA_SQUARED, panel.column_averages, strict=True))
    ]
    return (*rows, *columns, compared("all cells", panel.average, [gap for row in panel.rows for gap in row.gaps]))


def with_exchanged(cells: Sequence[Cell] = TABLE_3) -> tuple[Cell, ...]:
    """Table 3 with LoRA's and ALLoRA's accuracies exchanged in the one place where Figure 3 has them so.

    Both panels of Figure 3 disagree with Table 3 at Snowflake-Arctic-L, yelp, η² = 4 (LoRA 64.76, ALLoRA 64.61,
    ALLoRA-0 64.76), by 0.29 and 0.15 points; exchanging the first two numbers mends both. Which of the two places has
    the error cannot be told from the paper. `TABLE_3` itself stays as printed.

    Args:
        cells: of Table 3.

    Returns:
        The cells, two accuracies exchanged.
    """
    accuracies = by_key(cells)
    other = {"LoRA": "ALLoRA", "ALLoRA": "LoRA"}
    return tuple(
        Cell(cell.table, *EXCHANGED, cell.arm, accuracies[(*EXCHANGED, other[cell.arm])])
        if (cell.model, cell.dataset, cell.eta_squared) == EXCHANGED and cell.arm in other
        else cell
        for cell in cells
    )


def figure_comparisons() -> tuple[Comparison, ...]:
    """Every cell and every average of Figures 3 and 4.

    Returns:
        One comparison a printed number.
    """
    panels = (*FIGURE_3, *FIGURE_4)
    return tuple(item for panel in panels for item in (*panel_cells(panel), *panel_averages(panel)))
