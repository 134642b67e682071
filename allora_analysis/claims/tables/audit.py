"""Every printed number beside the recomputed one that does not round to it.

Checked by `tests/test_claims_tables.py`.
"""

from __future__ import annotations

from allora_analysis.claims.tables.arithmetic import (
    Disagreement,
    disagreements_among,
    figure_comparisons,
    table_1_averages,
)
from allora_analysis.claims.tables.parameters import table_1_parameters


def disagreements(explained: bool = True) -> tuple[Disagreement, ...]:
    """Table 1's averages and parameters, then the cells and averages of Figures 3 and 4.

    Parameters are compared as §4.5 words it (of the pre-trained ones); of all parameters one row is left, see
    `parameters.table_1_parameters`.

    Args:
        explained: with the differences that rounding alone can explain.

    Returns:
        One row a disagreement.
    """
    comparisons = (*table_1_averages(), *table_1_parameters("pretrained"), *figure_comparisons())
    return tuple(row for row in disagreements_among(comparisons) if explained or not row.explained_by_rounding)
