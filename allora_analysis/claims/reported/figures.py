"""Figures 3 and 4: accuracy gaps in percentage points (the paper writes "%"), each cell the mean of five runs."""

from __future__ import annotations

from allora_analysis.claims.reported.cells import GapRow, Panel
from allora_analysis.claims.reported.table_3 import COLUMNS_3
from allora_analysis.claims.reported.table_4 import COLUMNS_4


def _rows(columns: tuple[tuple[str, str], ...], numbers: tuple[tuple[float, ...], ...]) -> tuple[GapRow, ...]:
    """One `GapRow` a (model, data set), from its three gaps and their average.

    Args:
        columns: the (model, data set) pairs, in the figure's order.
        numbers: three gaps and an average for each.

    Returns:
        The rows.
    """
    return tuple(GapRow(*column, gaps=row[:3], average=row[3]) for column, row in zip(columns, numbers, strict=True))


FIGURE_3 = (
    Panel(
        "Figure 3 left",
        "Table 3",
        "ALLoRA",
        "LoRA",
        _rows(
            COLUMNS_3,
            (
                (0.48, 0.06, 0.12, 0.22),
                (1.59, 0.76, 0.32, 0.89),
                (0.45, 0.36, 0.94, 0.58),
                (-0.13, -0.07, 0.13, -0.02),
                (0.58, 0.09, 0.21, 0.29),
                (-0.07, -0.02, 0.14, 0.02),
                (1.09, 0.00, -0.06, 0.34),
                (0.24, 0.21, 0.06, 0.17),
                (-0.10, 0.02, 0.05, -0.01),
            ),
        ),
        column_averages=(0.46, 0.16, 0.21),
        average=0.28,
    ),
    Panel(
        "Figure 3 right",
        "Table 3",
        "ALLoRA-0",
        "ALLoRA",
        _rows(
            COLUMNS_3,
            (
                (0.24, 0.22, -0.19, 0.09),
                (0.17, -0.43, 0.47, 0.07),
                (0.69, 0.69, -0.15, 0.41),
                (0.05, 0.29, -0.17, 0.06),
                (-0.10, -0.28, 0.00, -0.13),
                (-0.03, 0.09, 0.00, 0.02),
                (-0.03, -0.08, 0.16, 0.02),
                (-0.09, 0.09, -0.13, -0.04),
                (0.04, 0.05, -0.01, 0.03),
            ),
        ),
        column_averages=(0.10, 0.07, 0.00),
        average=0.06,
    ),
)

# The "Average" rows of the two lower panels are cut off in the source at hand: None, not recomputed.
# Lower right, Qwen2-0.5B, rotten_tomatoes, η² = 4: the last of the OCR's repeated lines reads 0.71 %, the four before
# it −0.71 %. Kept as −0.71: the row's printed average −0.22 needs it (with +0.71 it would be +0.26).
FIGURE_4 = (
    Panel(
        "Figure 4 top left",
        "Table 4",
        "ALLoRA",
        "ALLoRA-OD",
        _rows(
            COLUMNS_4,
            (
                (0.27, 0.37, 0.33, 0.32),
                (1.33, 1.13, 0.88, 1.11),
                (-0.31, 0.01, 0.11, -0.06),
                (0.83, 0.28, 0.04, 0.38),
                (-0.24, 0.15, 0.00, -0.03),
                (0.09, -0.08, 0.23, 0.08),
            ),
        ),
        column_averages=(0.33, 0.31, 0.26),
        average=0.30,
    ),
    Panel(
        "Figure 4 top right",
        "Table 4",
        "ALLoRA",
        "ASF-LoRA",
        _rows(
            COLUMNS_4,
            (
                (0.78, 1.32, 0.55, 0.88),
                (0.21, 0.51, 1.43, 0.71),
                (-0.37, 0.49, 1.11, 0.41),
                (0.26, 1.26, 1.01, 0.84),
                (2.63, 3.75, 1.63, 2.67),
                (0.62, 0.73, 0.81, 0.72),
            ),
        ),
        column_averages=(0.69, 1.34, 1.09),
        average=1.04,
    ),
    Panel(
        "Figure 4 bottom left",
        "Table 4",
        "ALLoRA",
        "LoRA×η",
        _rows(
            COLUMNS_4,
            (
                (1.59, 1.91, 1.37, 1.62),
                (0.45, 0.21, 2.14, 0.93),
                (-0.13, 0.61, 0.59, 0.36),
                (0.58, 0.71, 0.94, 0.74),
                (1.09, 1.24, 1.02, 1.12),
                (0.24, 0.56, 0.53, 0.44),
            ),
        ),
        column_averages=None,
        average=None,
    ),
    Panel(
        "Figure 4 bottom right",
        "Table 4",
        "LoRA×η",
        "ASF-LoRA",
        _rows(
            COLUMNS_4,
            (
                (-0.81, -0.59, -0.82, -0.74),
                (-0.24, 0.30, -0.71, -0.22),
                (-0.24, -0.12, 0.52, 0.05),
                (-0.32, 0.54, 0.08, 0.10),
                (1.54, 2.51, 0.61, 1.55),
                (0.38, 0.17, 0.28, 0.28),
            ),
        ),
        column_averages=None,
        average=None,
    ),
)
