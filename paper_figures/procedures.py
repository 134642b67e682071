"""Table 3's ALLoRA rises with η² about as LoRA at η·l does; as listed, under AdamW, it could not.

Left: what LoRA at η·l_b and ALLoRA at l_b gain from η² = 1 to η² = 4 in the paper's Table 3, a (model, data set)
each; on the diagonal both gain as much. Right: ALLoRA's gain divided by LoRA's as eight procedures predict it
(training loss of a linear layer, `allora_analysis.claims.tables.procedures`), a ring a draw; what they give on a
small network that sees digits (`experiments.one_rate`), a square with Fieller's 95 % interval; what two of them give
on a language model (`experiments.on_the_update`), a diamond; beside the table's ratio and its 90 % interval. Nothing
is said of what was run or meant. Checked by `tests/test_paper_figures_lacking.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from allora_analysis.claims.s4_4_on_the_update import WANTED, WAYS, share
from allora_analysis.claims.s4_4_on_the_update import rises as on_the_update
from allora_analysis.claims.s4_4_one_rate import measured_shape
from allora_analysis.claims.s4_4_our_runs import PERCEIVED
from allora_analysis.claims.tables.procedures import PROCEDURES, TRAINED, Shape, reported_ratio, rises, shapes
from allora_analysis.claims.tables.reported import COLUMNS_3
from allora_analysis.grid.presets import MINILM
from allora_analysis.plotting import ARMS, COLOURS, page, page_style
from allora_analysis.statistics.intervals import Ratio
from paper_figures.laboratory import recorded
from paper_figures.sources import Loaded, Missing, runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SEEDS = (0, 1, 2, 3)
COMMAND = "python -m experiments.one_rate"
MARKERS = {"Qwen2-0.5B": "o", "Snowflake-Arctic-L": "s", "OpenELM-450M": "^"}


class Rises(NamedTuple):
    """Gains by arm; the table's ratio, its interval; by procedure what is predicted, seen on digits and on a model."""

    gains: Mapping[str, np.ndarray]
    ratio: tuple[float, float, float]
    predicted: Mapping[str, list[Shape]]
    measured: Mapping[str, Mapping[str, float]]
    on_text: Mapping[str, Ratio]


def load_data(folder: Path | str | None = None, seeds: tuple[int, ...] = SEEDS) -> Loaded[Rises]:
    """The printed gains, each procedure's prediction over so many draws, and what it gives where it was run."""
    predicted = {one.name: shapes(one, seeds) for one in PROCEDURES}
    table, files = recorded(folder)
    found = {name: measured_shape(table, name) if table else None for name in predicted}
    measured = {name: seen for name, seen in found.items() if seen is not None}
    lacking = len(predicted) - len(measured)
    known = runs([*WANTED, *PERCEIVED], folder)
    missing = (Missing(f"{lacking} of {len(predicted)} procedures lack seeds in the laboratory", COMMAND),)
    missing = (missing if lacking else ()) + known.missing(WANTED, "on_the_update")
    gains = {arm: rises(arm) for arm in ("LoRA", "ALLoRA")}
    on_text = {name: share(of) for name, of in on_the_update(known.results).items()}
    data = Rises(gains, reported_ratio(), predicted, measured, on_text if on_text.keys() == WAYS.keys() else {})
    return Loaded(data, (*files, *known.names(known.results)), missing)


@page_style()
def make_figure(loaded: Loaded[Rises]) -> Figure:
    """Draw the figure."""
    figure, ((left, right),) = page(3.3, 1, 2, width_ratios=(1, 1.3))
    _gains(left, loaded.data)
    _predictions(right, loaded.data)
    figure.legend(ncols=3, loc="outside lower center")
    figure.suptitle("Table 3's ALLoRA rises with η² about as LoRA at η·l", fontsize=8)
    return figure


def _gains(axis: Axes, data: Rises) -> None:
    gains = data.gains
    for model, marker in MARKERS.items():
        chosen = [index for index, (own, _) in enumerate(COLUMNS_3) if own == model]
        axis.plot(
            gains["LoRA"][chosen], gains["ALLoRA"][chosen], marker, mfc="none", color=COLOURS["measured"], label=model
        )
    end = 1.1 * max(map(np.max, gains.values()))
    axis.plot([0, end], [0, end], color=COLOURS["plain"], lw=0.8, label="both gain as much")
    axis.axhline(0, color=COLOURS["plain"], lw=0.8, ls="--", label="as listed, under AdamW")
    axis.set(xlim=(0, end), ylim=(-0.06 * end, end), xlabel="gain of LoRA at η·l, points")
    axis.set_ylabel("gain of ALLoRA at l, points")
    axis.set_title(f"In print ALLoRA gains {100 * data.ratio[0]:.0f} % of\nwhat LoRA gains (η² = 1 to 4)")


def _predictions(axis: Axes, data: Rises) -> None:
    ratio, low, high = data.ratio
    axis.axvline(ratio, color=COLOURS["measured"], lw=0.8, label=f"Table 3's ratio, {ratio:.2f}")
    axis.axvspan(low, high, color=COLOURS["measured"], alpha=0.12, lw=0, label="Table 3's 90 % interval")
    ring = {"marker": "o", "ls": "", "mfc": "none", "color": ARMS["allora"].colour}
    square = {"marker": "s", "ms": 3, "color": COLOURS["bound"]}
    diamond = {"marker": "D", "ms": 3, "color": ARMS["allora_adamw"].colour}
    axis.plot([], [], label="foretold, a linear layer", **ring)
    axis.plot([], [], label="measured on digits, 95 % interval", **square)
    if data.on_text:
        axis.plot([], [], label=f"on {MINILM}, 95 % interval", **diamond)
    for place, (name, draws) in enumerate(data.predicted.items()):
        trained = [one.ratio for one in draws if one.progress > TRAINED]
        axis.plot(trained, [-place] * len(trained), **ring)
        if seen := data.measured.get(name):
            axis.plot([seen["low"], seen["high"]], [-place - 0.3] * 2, color=square["color"], lw=0.9)
            axis.plot(seen["value"], -place - 0.3, **square)
        if own := data.on_text.get(name):
            axis.plot([own.low, own.high], [-place - 0.55] * 2, color=diamond["color"], lw=0.9)
            axis.plot(own.value, -place - 0.55, **diamond)
        if not trained:
            axis.text(-0.25, -place, "trains next to nothing", va="center", fontsize=6)
    axis.set_yticks([-place for place in range(len(data.predicted))], list(data.predicted))
    axis.set(xlim=(-0.35, 1.35), ylim=(-len(data.predicted) + 0.4, 0.6), xlabel="ALLoRA's gain / LoRA's gain")
    within = [all(low <= one.ratio <= high for one in draws) for draws in data.predicted.values()]
    seen = sum(one["low"] <= high and one["high"] >= low for one in data.measured.values())
    told = f", {seen} of {len(data.measured)} on digits" if data.measured else ""
    meets = sum(one.low <= high and one.high >= low for one in data.on_text.values())
    told += f",\n{meets} of {len(data.on_text)} on a language model" if data.on_text else ""
    # In the linear layer: in each draw.
    axis.set_title(f"{sum(within)} of {len(within)} procedures rise as Table 3's\nin a linear layer{told}")
