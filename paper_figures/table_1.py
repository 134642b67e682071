"""Table 1 of the paper: eight commonsense tasks, with its averages and parameter shares recomputed.

The recomputed average is the mean of the row's eight printed accuracies; the recomputed share of trainable parameters
follows from the models' sizes (§4.5's wording: of the pre-trained parameters). Nothing of ours is recorded: the list of
runs of this repository has no model of 7 billion parameters. Checked by `tests/test_paper_tables.py`.
"""

from collections.abc import Sequence
from statistics import mean
from typing import NamedTuple

from allora_analysis.claims.tables.reported import (
    ARCHITECTURES,
    TABLE_1,
    TASKS,
    CommonsenseRow,
    Comparison,
    table_1_averages,
    table_1_parameters,
    trainable_percent,
)
from allora_analysis.study import signed
from paper_figures.sources import Loaded
from paper_figures.tables import NONE, Table


class Row(NamedTuple):
    """A printed row, its average against the recomputed one, and the recomputed share of trainable parameters."""

    printed: CommonsenseRow
    average: Comparison
    parameters: float


def load_data() -> Loaded[tuple[Row, ...]]:
    """The printed rows and what they can be checked against.

    Returns:
        The rows in the paper's order.
    """
    return Loaded(
        tuple(Row(row, average, _percent(row)) for row, average in zip(TABLE_1, table_1_averages(), strict=True))
    )


def _percent(row: CommonsenseRow) -> float:
    method = "DoRA" if row.arm == "DoRA" else "LoRA"
    return trainable_percent(ARCHITECTURES[row.model], row.rank, method, "pretrained")


def make_table(loaded: Loaded[tuple[Row, ...]]) -> Table:
    """The table.

    Returns:
        The paper's columns, and the recomputed ones.
    """
    rows = loaded.data
    lines = [
        [
            *(row.printed.model, str(row.printed.rank), row.printed.arm, f"{row.printed.parameters:.2f}"),
            *(f"{value:.1f}" for value in (*row.printed.accuracies, row.printed.average)),
            *(f"{row.parameters:.3f}", f"{float(row.average.recomputed):.3f}", NONE),
        ]
        for row in rows
    ]
    # Of shares a model, rank and method each: ALLoRA's two arms share one.
    of = [row.average for row in rows], table_1_parameters("pretrained"), table_1_parameters("all")
    told = [f"{sum(one.explained for one in those)} of {len(those)}" for those in of]
    notes = (
        f"Rounding explains {told[0]} printed averages, and of the printed shares of parameters {told[2]} as shares of "
        f"all parameters, {told[1]} as shares of the pre-trained ones, which are those recomputed here.",
        f"Ours: {NONE}, no list of runs here has models of this size; one run of one model is "
        "`python -m allora_analysis.finetune --task multiple_choice --model FOLDER --data FOLDER`.",
    )
    caption = (
        "Accuracy (%) on eight commonsense tasks as printed (number of runs not printed; by section 4.5 the best of "
        "several settings)."
    )
    groups = (("", 3), ("the paper", 2 + len(TASKS)), ("recomputed", 2), ("ours", 1))
    columns = ("model", "r", "method", "params %", *TASKS, "avg", "params %", "avg", "avg")
    return Table("Table 1", caption, groups, columns, lines, notes, _finding(rows))


def _finding(rows: Sequence[Row]) -> str:
    by_arm: dict[str, dict[tuple[str, int], float]] = {}
    for row in rows:
        by_arm.setdefault(row.printed.arm, {})[row.printed.model, row.printed.rank] = float(row.average.recomputed)
    told = []
    for arm in ("ALLoRA", "ALLoRA-0"):
        gaps = [average - by_arm["DoRA"][setting] for setting, average in by_arm[arm].items()]
        ahead = sum(gap > 0 for gap in gaps)
        told.append(f"{arm} {signed(mean(gaps), 2)} points, ahead in {ahead} of {len(gaps)} settings")
    return f"Minus DoRA, on average in print: {'; '.join(told)}."
