"""The gaps of Figures 3 and 4: printed and ours, and how they are drawn.

Checked by `tests/test_paper_figure_3.py` and `tests/test_paper_figure_4.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.lines import Line2D

from allora_analysis.claims.tables.arithmetic import panel_cells
from allora_analysis.claims.tables.reported import ETA_SQUARED, Panel
from allora_analysis.finetune.setting import Setting
from allora_analysis.plotting import ARMS, COLOURS, page
from paper_figures.cells import Case, accuracies
from paper_figures.numbers import over_seeds
from paper_figures.sources import Loaded, Missing, Runs, say_missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = {1.0: "o", 2.0: "s", 4.0: "^"}  # by η²
AVERAGE = ("average", "as printed")
SHORT = {"Snowflake-Arctic-L": "Arctic-L"}  # in print
CROWDED = 5  # rows from which a label has one line


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


Gaps = dict[tuple[str, str], dict[float, Gap]]  # by (model, data set), then η²


class Comparison(NamedTuple):
    """One panel of the paper beside ours.

    Attributes:
        panel: as printed.
        arm: whose colour the panel has: the arm compared with ALLoRA, or with ASF-LoRA.
        paper: the printed gaps.
        ours: by what they compare, the gaps whose seeds are all recorded.
    """

    panel: Panel
    arm: str
    paper: Gaps
    ours: dict[str, Gaps]


def measured(known: Runs, of: Mapping[Case, list[Setting]], minuend: str, subtrahend: str) -> Gaps:
    """Gaps between two arms, paired by seed, where both cells are recorded in full.

    Args:
        known: what is recorded.
        of: runs by cell.
        minuend: the arm that is better where a gap is positive.
        subtrahend: the other.

    Returns:
        The gaps.
    """
    gaps: Gaps = {}
    for case, runs in of.items():
        if case.arm == minuend:
            pair = accuracies(known, runs), accuracies(known, of.get(case._replace(arm=subtrahend), []))
            if None not in pair:
                mean, half = over_seeds([first - second for first, second in zip(*pair, strict=True)])
                gaps.setdefault((case.model, case.data), {})[case.eta2] = Gap(float(mean), float(half))
    return {cell: dict(sorted(by_eta2.items())) for cell, by_eta2 in gaps.items()}


def printed(panel: Panel) -> Gaps:
    """A panel's printed gaps, and what its table gives where rounding cannot explain the difference.

    Args:
        panel: of Figure 3 or 4.

    Returns:
        The gaps, with the row of averages where it is printed.
    """
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
    """Figure 3 or 4: a row for each of the paper's panels.

    Args:
        loaded: the panels.
        height: of the page, inches.

    Returns:
        The figure.
    """
    figure, axes = page(height, len(loaded.data), 2)
    for row, comparison in zip(axes, loaded.data, strict=True):
        draw(row, comparison, loaded.missing)
    legend(figure, loaded.data)
    return figure


def draw(axes: Sequence[Axes], comparison: Comparison, missing: Sequence[Missing]) -> None:
    """A row of the figure: the paper's panel on the left, ours on the right.

    Args:
        axes: left and right.
        comparison: the numbers.
        missing: what is not recorded.
    """
    left, right = axes
    panel, look = comparison.panel, ARMS[comparison.arm]
    words = f"{panel.minuend} − {panel.subtrahend}"
    left.set_title(f"{words}\nthe paper, means of 5 runs")
    _points(left, comparison.paper, look.colour)
    known = {name: gaps for name, gaps in comparison.ours.items() if gaps}
    right.set_title(f"{words}\nours, 95 % over seeds")
    for name, gaps in known.items():
        _points(right, gaps, look.colour, hollow=bool(name))
    if not known and missing:
        say_missing(right, *missing)
    left.set_xlabel("percentage points")
    if known:
        told = ";\n".join(one.what for one in missing)
        right.set_xlabel("percentage points" + (f"\n({told})" if missing else ""))


def _points(axis: Axes, gaps: Gaps, colour: str, hollow: bool = False) -> None:
    # One line of the axis a (model, data set), first on top; the η² one under the other within it.
    for place, of in enumerate(gaps.values()):
        if place % 2 and not hollow:
            axis.axhspan(-place - 0.5, -place + 0.5, color="0.95", lw=0)
        for eta2, gap in of.items():
            height = -place + 0.25 * (1 - list(MARKERS).index(eta2)) - 0.1 * hollow
            style = {"marker": MARKERS[eta2], "color": colour, "ls": "", "ms": 3, "elinewidth": 0.7}
            style |= {"mfc": "white"} if hollow else {}
            axis.errorbar(gap.value, height, xerr=gap.half, **style)
            if gap.table is not None:
                axis.plot([gap.value, gap.table], [height] * 2, color=COLOURS["measured"], lw=0.6)
                axis.plot(gap.table, height, "x", color=COLOURS["measured"], ms=3.5)
    axis.axvline(0, color=COLOURS["measured"], lw=0.6)
    between = ",\n" if len(gaps) < CROWDED else ", "
    names = [between.join((SHORT.get(model, model), data)) for model, data in gaps]
    axis.set_yticks([-place for place in range(len(gaps))], names, fontsize=6)
    axis.set_ylim(-len(gaps) + 0.5, 0.5)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", visible=False)


def legend(figure: Figure, comparisons: Sequence[Comparison]) -> None:
    """What the markers mean, below the figure.

    Args:
        figure: the figure.
        comparisons: what is drawn.
    """
    ink = COLOURS["measured"]
    handles = [Line2D([], [], color=ink, marker=marker, ls="", label=f"η² = {x:g}") for x, marker in MARKERS.items()]
    if any(gap.table is not None for one in comparisons for of in one.paper.values() for gap in of.values()):
        handles.append(Line2D([], [], color=ink, marker="x", ls="", label="from the paper's own table"))
    if any(gaps for one in comparisons for name, gaps in one.ours.items() if name):
        label = "LoRA's classifier at $l_b$ too"
        handles.append(Line2D([], [], color=ink, marker="o", mfc="white", ls="", label=label))
    figure.legend(handles=handles, ncols=len(handles), columnspacing=1.2, loc="outside lower center")
