"""Figure 1 of the paper, redrawn with what it lacked: the standard deviation over dropout masks of ∂L/∂W₂'s entries.

Columns: data sets; each title says which way the average and the worst entry go. Rows: (1) the paper's figure under the
grid's first optimizer, the distribution over entries on the fixed probe batch, epoch by epoch. (2) Its two claims for
every optimizer: the average and the worst entry (chosen on half of the masks, measured on the others) over their values
before training. (3) The same two of a control without dropout: the standard deviation over minibatches, every mask off,
in the networks of (2) and in one trained without dropout. Below, the share of the gradient's variance that is the
masks'; the rest is the minibatch's.

Everything is an average over seeds of recorded summaries, of logarithms in rows 2 and 3, with its 95 % interval after
the last epoch; no entry is compared across seeds. Checked by `tests/test_paper_figures_1_and_2.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from allora_analysis.claims.s3_1_figure_1 import COMMAND
from allora_analysis.gradient_std.grid import FIGURE_1, RESULTS, Arm, Grid, found
from allora_analysis.plotting import COLOURS, OPTIMIZERS, page, page_style
from paper_figures.numbers import Average, over_seeds
from paper_figures.sources import Loaded, Missing, say_missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAND = ("q05", "q95")
TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
ROWS = (
    "std over masks\n(under {})",
    "std over masks /\nbefore training",
    "std over minibatches /\nbefore training (masks off)",
)
WITHOUT = "mean, trained without dropout"
STATISTICS = ("mean", "worst_held_out")
Series = dict[str, np.ndarray]  # (seeds, epochs) by statistic


def load_data(folder: Path | str = RESULTS, grid: Grid = FIGURE_1) -> Loaded[dict[Arm, Series]]:
    """The recorded series of the first seeds at the grid's main drop rate and, for the control, at drop rate 0.

    Args:
        folder: the folder of records.
        grid: the grid.

    Returns:
        By arm whose seeds are all recorded, (seeds, epochs) of each statistic over masks on the probe batch, of
        "control mean" and "control worst_held_out" (over minibatches without dropout) and of "mask_share" (of the
        variance).
    """
    shown = (grid.drop_rate, 0.0)
    runs = [(arm, seed) for data in grid.data for arm, seed in grid.runs(data) if grid.lot(seed) == "first"]
    wanted = [(arm, seed) for arm, seed in runs if arm.drop_rate in shown]
    records = found(folder, grid)
    lacking = sum(seed not in records.get(arm, {}) for arm, seed in wanted)
    arms = {arm: records[arm] for arm in dict.fromkeys(arm for arm, _ in wanted) if arm in records}
    whole = {arm: [runs[seed] for seed in sorted(runs)] for arm, runs in arms.items() if len(runs) == grid.seeds}
    return Loaded(
        {arm: _series([record.result["epochs"] for record in runs]) for arm, runs in whole.items()},
        tuple(record.path.stem for runs in whole.values() for record in runs),
        (Missing(f"{lacking} of {len(wanted)} runs are not recorded", COMMAND),) if lacking else (),
    )


def _series(runs: list[list[dict]]) -> Series:
    def of(get) -> np.ndarray:
        return np.array([[get(epoch) for epoch in run] for run in runs], dtype=np.float64)

    names = (*STATISTICS, "q25", *BAND)
    series = {name: of(lambda epoch, name=name: epoch["probe"][name]) for name in names}
    series |= {f"control {name}": of(lambda epoch, name=name: epoch["no_dropout_fresh"][name]) for name in STATISTICS}
    series["mask_share"] = of(lambda epoch: epoch["decomposition"]["mask"] / epoch["decomposition"]["total"])
    return series


@page_style()
def make_figure(loaded: Loaded[dict[Arm, Series]]) -> Figure:
    """Draw the figure: a column for each data set that has a setting in full."""
    data = loaded.data
    names = list(dict.fromkeys(arm.data for arm in data if arm.drop_rate > 0))
    if not names:
        figure, axes = page(2.0)
        say_missing(axes[0, 0], loaded.missing[0])
        return figure
    figure, axes = page(6.4, len(ROWS), len(names), sharex=True, sharey="row")
    shares = []
    for (top, middle, control), name in zip(axes.T, names, strict=True):
        dropped = {arm.optimizer: of for arm, of in data.items() if arm.data == name and arm.drop_rate > 0}
        without = {arm.optimizer: of for arm, of in data.items() if arm.data == name and arm.drop_rate == 0}
        optimizer, first = next(iter(dropped.items()))
        top.set_title(f"{TITLES.get(name, name)}, {len(first['mean'])} seeds:\n{finding(dropped)}")
        _distribution(top, first, OPTIMIZERS[optimizer].colour)
        _trends(middle, dropped, "")
        _trends(control, dropped, "control ")
        _without_dropout(control, without.get(optimizer))
        shares += [of["mask_share"].mean(axis=0) for of in dropped.values()]
    drop_rate = max(arm.drop_rate for arm in data)
    _finish(axes, OPTIMIZERS[optimizer].label)
    _legends(
        figure, axes, f"drop rate {drop_rate:g}: masks make {100 * np.min(shares):.0f} to {100 * np.max(shares):.0f} %"
    )
    return figure


def finding(dropped: Mapping[str, Series]) -> str:
    """Which way the average and the worst entry go from before training to the last epoch.

    Args:
        dropped: a data set's series with dropout, by optimizer.

    Returns:
        In words, for all optimizers, or how many of them.
    """

    def way(statistic: str) -> str:
        ends = [np.log(of[statistic][:, -1] / of[statistic][:, 0]).mean() for of in dropped.values()]
        up, n = sum(end > 0 for end in ends), len(ends)
        return {0: "falls", n: "rises"}.get(up, f"rises under {up} of {n} optimizers")

    mean, worst = way("mean"), way("worst_held_out")
    if mean == worst and mean in ("falls", "rises"):
        return f"the average and the worst entry {mean[:-1]}"
    return f"the average {mean}, the worst entry {worst}"


def _finish(axes: np.ndarray, first: str) -> None:
    for row, label in zip(axes, ROWS, strict=True):
        row[0].set_ylabel(label.format(first))
    for axis in axes[1:].flat:
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in axes.flat:
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter("{x:g}")
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].figure.align_ylabels(axes[:, 0])


def _legends(figure: Figure, axes: np.ndarray, masks: str) -> None:
    ink = COLOURS["measured"]
    drawn = dict.fromkeys(line.get_label().partition(",")[0] for line in axes[1, 0].get_lines())
    colours = [
        Line2D([], [], color=look.colour, label=look.label) for name, look in OPTIMIZERS.items() if name in drawn
    ]
    dashes = [
        Line2D([], [], color=ink, ls=ls, label=label)
        for ls, label in (("-", "mean over entries"), ("--", "worst entry"))
    ]
    without = [line for line in axes[2].flat for line in line.get_lines() if line.get_label() == WITHOUT]
    figure.legend(*axes[0, 0].get_legend_handles_labels(), ncols=4, loc="outside upper center", title="first row")
    told = f"other rows; bars: 95 % over seeds; {masks} of the gradient's variance"
    figure.legend(handles=[*colours, *dashes, *without[:1]], ncols=4, loc="outside lower center", title=told)


def _distribution(axis: Axes, series: Series, own: str) -> None:
    epochs = np.arange(series["mean"].shape[1])
    average = {name: values.mean(axis=0) for name, values in series.items()}
    low, high = (average[name] for name in BAND)
    axis.fill_between(epochs, low, high, color=COLOURS["other"], alpha=0.3, lw=0, label="5–95 % of entries")
    for name, dashes, colour, label in (
        ("worst_held_out", "--", own, "worst entry"),
        ("mean", "-", own, "mean over entries"),
        ("control mean", "-.", COLOURS["plain"], "mean over minibatches, masks off"),
    ):
        mean, half = over_seeds(series[name])
        axis.plot(epochs, mean, dashes, color=colour, label=label)
        axis.errorbar(epochs[-1:], mean[-1:], half[-1:], color=colour, elinewidth=0.9)
    axis.set_yscale("log")
    # Entries of dead units have no spread at all: the axis begins below what most entries have.
    smallest = min(average[name].min() for name in ("q25", "mean", "control mean") if average[name].min() > 0)
    worst = over_seeds(series["worst_held_out"])
    shown = [smallest / 8, 1.5 * np.nanmax([worst.mean.max(), worst.high[-1]])]
    low, high = axis.get_ylim() if axis.get_autoscaley_on() is False else shown
    axis.set_ylim(min(low, shown[0]), max(high, shown[1]))


def _trends(axis: Axes, of_data: Mapping[str, Series], prefix: str) -> None:
    for index, (optimizer, series) in enumerate(of_data.items()):
        for statistic, dashes in zip(STATISTICS, ("-", "--"), strict=True):
            logs = over_seeds(np.log(series[prefix + statistic] / series[prefix + statistic][:, :1]))
            _curve(axis, logs, OPTIMIZERS[optimizer].colour, dashes, f"{optimizer}, {statistic}", index)
    axis.axhline(1, color=COLOURS["measured"], lw=0.6)
    axis.set_yscale("log")


def _without_dropout(axis: Axes, series: Series | None) -> None:
    if series is not None:
        logs = over_seeds(np.log(series["control mean"] / series["control mean"][:, :1]))
        _curve(axis, logs, COLOURS["measured"], ":", WITHOUT, -1)


def _curve(axis: Axes, logs: Average, colour: str, dashes: str, label: str, place: int) -> None:
    # A mean of logarithms, its interval after the last epoch, beside the others' intervals.
    epochs, middle = np.arange(len(logs.mean)), np.exp(logs.mean)
    axis.plot(epochs, middle, dashes, color=colour, label=label)
    ends = np.array([[middle[-1] - np.exp(logs.low[-1])], [np.exp(logs.high[-1]) - middle[-1]]])
    at = epochs[-1] * (1.03 + 0.018 * place)
    axis.errorbar([at], middle[-1:], ends, color=colour, marker=".", ms=2.5, elinewidth=0.9)
