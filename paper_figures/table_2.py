"""Table 2 of the paper: accuracy by dropout rate after short and long fine-tuning, the paper's beside ours.

Ours, `experiments.dropout_rates`, on a smaller model and another data set, eight epochs where the paper has ten; also
with the mask in the bottleneck, where the paper's prose has it. The best epoch is that of the mean over seeds. A drop
rate is shown when all its seeds are recorded. Checked by `tests/test_paper_tables.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from allora_analysis.claims.s3_1_figure_2_left import EARLY, LATE
from allora_analysis.claims.tables.reported import TABLE_2, DropoutColumn
from allora_analysis.finetune.setting import Setting
from allora_analysis.grid.presets import LISTS
from allora_analysis.study import signed
from paper_figures.numbers import Curve, accuracy_by_epoch
from paper_figures.sources import Loaded, runs
from paper_figures.tables import NONE, Table, with_half

PAPER_LATE = 10


class Rates(NamedTuple):
    """What the paper prints by drop rate, and our accuracy by epoch, percent; None while a seed is missing."""

    reported: Mapping[float, DropoutColumn]
    ours: Mapping[tuple[str, float], Curve | None]


def load_data(folder: Path | str | None = None) -> Loaded[Rates]:
    """The printed columns; ours where a drop rate is recorded in full.

    Returns:
        Both; ours by placement and drop rate.
    """
    wanted = LISTS["dropout_rates"]["desk"]
    known = runs(wanted, folder)
    cases: dict[tuple[str, float], list[Setting]] = {}
    for run in wanted:
        cases.setdefault((run.placement, run.drop_rate), []).append(run)
    ours = {
        name: accuracy_by_epoch([known.results[run] for run in case]) if known.whole(case) else None
        for name, case in cases.items()
    }
    used = [run for name, case in cases.items() if ours[name] is not None for run in case]
    data = Rates({column.drop_rate: column for column in TABLE_2}, ours)
    return Loaded(data, known.names(used), known.missing(wanted, "dropout_rates"))


def make_table(loaded: Loaded[Rates]) -> Table:
    """The table: a row a drop rate.

    Returns:
        The paper's four numbers, and ours.
    """
    reported, ours = loaded.data
    first = LISTS["dropout_rates"]["desk"][0]
    rows = [
        [f"{rate:g}" if placement == "input" else f"{rate:g}, bottleneck"]
        + (_printed(reported.get(rate)) if placement == "input" else [NONE] * 4)
        + _measured(curve)
        for (placement, rate), curve in ours.items()
    ]
    seeds = len({run.seed for run in LISTS["dropout_rates"]["desk"]})
    caption = (
        "Test accuracy (%) by drop rate. The paper: Qwen2-0.5B on bias_in_bios, means of 3 runs. Ours: "
        f"{first.model} on {first.data}, means of {seeds} seeds ± half of the 95 % interval; AdamW, "
        "the model's own dropout of 0.1 on in all, so that 0 is none in LoRA only."
    )
    columns = [f"epoch {EARLY}", f"epoch {PAPER_LATE}", "best", "its epoch"]
    columns += [f"epoch {EARLY}", f"epoch {LATE}", "best", "its epoch"]
    notes = tuple(f"Ours: {missing.what}; `{missing.command}` makes them." for missing in loaded.missing)
    return Table(
        "Table 2",
        caption,
        (("", 1), ("the paper", 4), ("ours", 4)),
        ("drop rate", *columns),
        rows,
        notes,
        _finding(loaded.data),
    )


def _finding(data: Rates) -> str:
    low, high = min(data.reported), max(data.reported)
    first, last = data.reported[low], data.reported[high]
    early, late = last.at_epoch_3 - first.at_epoch_3, last.at_epoch_10 - first.at_epoch_10
    told = (
        f"From drop rate {low:g} to {high:g} accuracy moves in print by {signed(early, 1)} points after epoch {EARLY}"
    )
    told += f" and by {signed(late, 1)} after epoch {PAPER_LATE}"
    curves = [data.ours.get(("input", rate)) for rate in (low, high)]
    if None in curves:
        return f"{told}."
    one, other = ([curve.average.mean[list(curve.x).index(epoch)] for epoch in (EARLY, LATE)] for curve in curves)
    ours = f"in ours by {signed(other[0] - one[0], 1)} and, after epoch {LATE}, by {signed(other[1] - one[1], 1)}"
    return f"{told}; {ours}, where the model's own dropout of 0.1 stays on (intervals below)."


def _printed(column: DropoutColumn | None) -> list[str]:
    if column is None:
        return [NONE] * 4
    return [f"{value:.2f}" for value in (column.at_epoch_3, column.at_epoch_10, column.best)] + [str(column.best_epoch)]


def _measured(curve: Curve | None) -> list[str]:
    if curve is None:
        return [NONE] * 4
    mean, half = curve.average
    best = int(np.argmax(mean))
    places = [list(curve.x).index(epoch) if epoch in curve.x else None for epoch in (EARLY, LATE)]
    cells = [NONE if place is None else with_half(mean[place], half[place]) for place in (*places, best)]
    return [*cells, f"{curve.x[best]:g}"]
