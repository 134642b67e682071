"""The gaps of Figures 3 and 4: printed and ours, and how they are drawn.

Checked by `tests/test_paper_figures_3_to_5.py`.
"""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.lines import Line2D

from allora_analysis.claims.tables.reported import ETA_SQUARED, Panel, panel_cells
from allora_analysis.finetune.setting import Setting
from allora_analysis.plotting import ARMS, COLOURS, page
from allora_analysis.study import signed
from paper_figures.cells import Case, accuracies
from paper_figures.numbers import over_seeds
from paper_figures.sources import Loaded, Missing, Runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = {1.0: "o", 2.0: "s", 4.0: "^"}  # by η²
AVERAGE = ("average", "as printed")
SHORT = {"Snowflake-Arctic-L": "Arctic-L"}  # in print
OURS = 2.4  # lines that a row of ours is high: intervals, and both kinds of classifier


class Gap(NamedTuple):
    """Accuracy of one arm minus that of another, percentage points.

    Attributes:
        value: the gap; over seeds, the mean.
        half: half the width of its 95 % interval over seeds; None for a printed number, which has none.
        table: what the accuracies in the paper's own table give, where rounding cannot explain the difference.
    """

    value: float
    half: float | None = None
    table: float | None = None


Cell = tuple[str, str]  # model, data set
Gaps = dict[Cell, dict[float, Gap]]  # by cell, then η²


class Comparison(NamedTuple):
    """One panel of the paper beside ours.

    Attributes:
        panel: as printed.
        arm: whose color the panel has: the arm compared with ALLoRA, or with ASF-LoRA.
        paper: the printed gaps.
        ours: by what they compare, the gaps whose seeds are all recorded.
    """

    panel: Panel
    arm: str
    paper: Gaps
    ours: dict[str, Gaps]


def measured(known: Runs, of: Mapping[Case, list[Setting]], minuend: str, subtrahend: str) -> Gaps:
    """Gaps of one arm over another, paired by seed, where both cells are recorded in full; `of`: runs by cell."""
    gaps: Gaps = {}
    for case, runs in of.items():
        if case.arm == minuend:
            pair = accuracies(known, runs), accuracies(known, of.get(case._replace(arm=subtrahend), []))
            if None not in pair:
                mean, half = over_seeds([first - second for first, second in zip(*pair, strict=True)])
                gaps.setdefault((case.model, case.data), {})[case.eta2] = Gap(float(mean), float(half))
    return {cell: dict(sorted(by_eta2.items())) for cell, by_eta2 in gaps.items()}


def printed(panel: Panel) -> Gaps:
    """A panel's printed gaps and averages, and what its table gives where rounding cannot explain the difference."""
    compared = iter(panel_cells(panel))
    gaps: Gaps = {}
    for row in panel.rows:
        for eta2, value in zip(ETA_SQUARED, row.gaps, strict=True):
            check = next(compared)
            own = None if check.explained else float(check.recomputed)
            gaps.setdefault((row.model, row.dataset), {})[eta2] = Gap(value, None, own)
    if panel.column_averages is not None:
        averages = zip(ETA_SQUARED, panel.column_averages, strict=True)
        gaps[AVERAGE] = {eta2: Gap(value) for eta2, value in averages}
    return gaps


def drawn(loaded: Loaded[tuple[Comparison, ...]], height: float) -> Figure:
    """Figure 3 or 4: two of the paper's panels side by side on one scale, our rows below the printed ones."""
    pairs = [loaded.data[start : start + 2] for start in range(0, len(loaded.data), 2)]
    figure, axes = page(height, len(pairs), 2, sharex=True, sharey="row")
    for row, pair in zip(axes, pairs, strict=True):
        places = _places(pair)
        for axis, comparison in zip(row, pair, strict=True):
            axis.set_title(finding(comparison))
            _points(axis, comparison, places)
            axis.tick_params(axis="y", length=0)
        _label(row[0], places)
    for axis in axes[-1]:
        axis.set_xlabel("percentage points")
    legend(figure, loaded.data, loaded.missing)
    return figure


def finding(comparison: Comparison) -> str:
    """What a panel shows: the two arms, and the mean gap over all cells and η², printed and, if there is one, ours."""

    def mean(of: Gaps) -> str:
        gaps = [gap.value for cell, by_eta2 in of.items() if cell != AVERAGE for gap in by_eta2.values()]
        return signed(statistics.fmean(gaps), 1)

    panel, ours = comparison.panel, comparison.ours.get("")
    here = f", {mean(ours)} here" if ours else ""
    return f"{panel.minuend} − {panel.subtrahend}:\n{mean(comparison.paper)} points in print{here}"


def _places(pair: Sequence[Comparison]) -> dict[tuple[bool, Cell], float]:
    # The height of each row, by whether it is ours: printed ones first, a line each.
    printed = dict.fromkeys(cell for one in pair for cell in one.paper)
    ours = dict.fromkeys(cell for one in pair for of in one.ours.values() for cell in of)
    places = {(False, cell): -float(index) for index, cell in enumerate(printed)}
    below = 0.5 - len(printed)
    return places | {(True, cell): below - OURS * (index + 0.5) for index, cell in enumerate(ours)}


def _points(axis: Axes, comparison: Comparison, places: Mapping[tuple[bool, Cell], float]) -> None:
    colour = ARMS[comparison.arm].colour
    for cell, of in comparison.paper.items():
        place = places[False, cell]
        for eta2, gap in of.items():
            height = place + 0.25 * (1 - list(MARKERS).index(eta2))
            axis.plot(gap.value, height, MARKERS[eta2], color=colour, ms=3)
            if gap.table is not None:
                axis.plot([gap.value, gap.table], [height] * 2, color=COLOURS["measured"], lw=0.6)
                axis.plot(gap.table, height, "x", color=COLOURS["measured"], ms=3.5)
    for name, gaps in comparison.ours.items():
        for cell, of in gaps.items():
            for eta2, gap in of.items():
                height = places[True, cell] + 0.7 * (1 - list(MARKERS).index(eta2)) - 0.3 * bool(name)
                style = {"marker": MARKERS[eta2], "color": colour, "ls": "", "ms": 3, "elinewidth": 0.7}
                axis.errorbar(gap.value, height, xerr=gap.half, **style | ({"mfc": "white"} if name else {}))
    axis.axvline(0, color=COLOURS["measured"], lw=0.6)
    for index, place in enumerate(place for (ours, _), place in places.items() if not ours):
        if index % 2:
            axis.axhspan(place - 0.5, place + 0.5, color="0.95", lw=0)
    if own := [place for (ours, _), place in places.items() if ours]:
        axis.axhline(max(own) + OURS / 2, color=COLOURS["measured"], lw=0.6)
    axis.grid(axis="y", visible=False)


def _label(axis: Axes, places: Mapping[tuple[bool, Cell], float]) -> None:
    names = [
        f"ours: {model},\n{data}" if ours else f"{SHORT.get(model, model)}, {data}" for ours, (model, data) in places
    ]
    axis.set_yticks(list(places.values()), names, fontsize=6)
    lowest, ours = min(places.values()), any(ours for ours, _ in places)
    axis.set_ylim(lowest - (OURS / 2 if ours else 0.5), 0.5)


def legend(figure: Figure, comparisons: Sequence[Comparison], missing: Sequence[Missing]) -> None:
    """What the markers mean and what is not recorded, below the figure."""
    ink = COLOURS["measured"]
    handles = [Line2D([], [], color=ink, marker=marker, ls="", label=f"η² = {x:g}") for x, marker in MARKERS.items()]
    if any(gap.table is not None for one in comparisons for of in one.paper.values() for gap in of.values()):
        handles.append(Line2D([], [], color=ink, marker="x", ls="", label="from the paper's own table"))
    if any(gaps for one in comparisons for name, gaps in one.ours.items() if name):
        label = "LoRA's classifier at $l_b$ too"
        handles.append(Line2D([], [], color=ink, marker="o", mfc="white", ls="", label=label))
    told = "printed: means of 5 runs; ours: AdamW, which divides ALLoRA's factor out, 95 % over seeds"
    lines = [line for one in missing for line in textwrap.wrap(one.words(), 90, break_on_hyphens=False)]
    title = "\n".join([told, *lines])
    figure.legend(handles=handles, ncols=len(handles), columnspacing=1.2, loc="outside lower center", title=title)
