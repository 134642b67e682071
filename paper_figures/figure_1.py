"""Figure 1 of the paper, redrawn with what it lacked: the standard deviation over dropout masks of ∂L/∂W₂'s entries.

Columns: data sets. Rows: (1) the paper's figure for the grid's first optimiser, the distribution over entries on the
fixed probe batch, epoch by epoch. (2) Its two claims for every optimiser: the average and the worst entry (chosen on
half of the masks, measured on the others) over their values before training. (3) The same two of a control without
dropout: the standard deviation over minibatches, every mask off, in the networks of (2) and in one trained without
dropout. (4) How much of the gradient's variance is the masks'; the rest is the minibatch's.

Everything is an average over seeds of recorded summaries; no entry is compared across seeds. Checked by
`tests/test_paper_figure_1.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from allora_analysis.gradient_std.grid import FIGURE_1, RESULTS, Arm, Grid, recorded
from allora_analysis.plotting import COLOURS, COLUMN, panels, style
from allora_analysis.validation import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BANDS = (("q01", "q99", 0.18), ("q05", "q95", 0.28), ("q25", "q75", 0.42))
OPTIMIZERS = {
    "sgd": COLOURS["predicted"],
    "momentum": COLOURS["other"],
    "adam": COLOURS["bound"],
    "adamw": COLOURS["attained"],
}
TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
ROWS = (
    "std over masks",
    "std over masks / before training",
    "the same, over minibatches,\nno dropout",
    "masks' share of the variance",
)
WITHOUT = "mean, trained without dropout"
STATISTICS = ("mean", "worst_held_out")
Series = dict[str, np.ndarray]  # (seeds, epochs) by statistic


def load_data(folder: Path | str = RESULTS, grid: Grid = FIGURE_1) -> dict[Arm, Series]:
    """The recorded series at the grid's main drop rate and, for the control, at drop rate 0.

    Args:
        folder: the folder of records.
        grid: the grid.

    Returns:
        By arm, (seeds, epochs) of each statistic over masks on the probe batch, of "control mean" and "control
        worst_held_out" (over minibatches without dropout) and of "mask_share" (of the variance).

    Raises:
        ArgumentError: no record of the grid at its main drop rate.
    """
    runs = recorded(folder, grid)
    if not set(runs) & set(grid.arms()):
        raise ArgumentError(f"{folder}: holds no run of Figure 1; run python -m experiments.gradient_std first")
    shown = (grid.drop_rate, 0.0)
    return {arm: _series([of[seed] for seed in sorted(of)]) for arm, of in runs.items() if arm.drop_rate in shown}


def _series(runs: list[list[dict]]) -> Series:
    def of(get) -> np.ndarray:
        return np.array([[get(epoch) for epoch in run] for run in runs], dtype=np.float64)

    names = ("median", *STATISTICS, *(name for low, high, _ in BANDS for name in (low, high)))
    series = {name: of(lambda epoch, name=name: epoch["probe"][name]) for name in names}
    series |= {f"control {name}": of(lambda epoch, name=name: epoch["no_dropout_fresh"][name]) for name in STATISTICS}
    series["mask_share"] = of(lambda epoch: epoch["decomposition"]["mask"] / epoch["decomposition"]["total"])
    return series


def make_figure(data: Mapping[Arm, Series]) -> Figure:
    """Draw the figure: a column for each data set that has a record.

    Args:
        data: as from `load_data`.

    Returns:
        The figure.
    """
    names = list(dict.fromkeys(arm.data for arm in data))
    with style():
        figure, axes = panels(len(names), len(ROWS))
        figure.set_size_inches(COLUMN * len(names), 2.7 * len(ROWS))
        for column, name in enumerate(names):
            dropped = {arm.optimizer: of for arm, of in data.items() if arm.data == name and arm.drop_rate > 0}
            without = {arm.optimizer: of for arm, of in data.items() if arm.data == name and arm.drop_rate == 0}
            top, middle, control, bottom = axes[column :: len(names)]
            optimizer, first = next(iter(dropped.items()))
            seeds = len(first["mean"])
            top.set_title(f"{TITLES.get(name, name)}, {optimizer}, {seeds} seed{'s' if seeds > 1 else ''}")
            _distribution(top, first)
            _trends(middle, dropped, "")
            _trends(control, dropped, "control ")
            _without_dropout(control, without.get(optimizer))
            _shares(bottom, dropped)
        _finish(axes, len(names))
    return figure


def _finish(axes: list[Axes], columns: int) -> None:
    for index, label in enumerate(ROWS):
        row = axes[index * columns : (index + 1) * columns]
        row[0].set_ylabel(label)
        bottoms, tops = zip(*(axis.get_ylim() for axis in row), strict=True)
        for axis in row:
            axis.set_ylim(min(bottoms), max(tops))
            axis.set_xlabel("epoch" if index == len(ROWS) - 1 else "")
            if axis.get_yscale() == "log":
                axis.yaxis.set_major_locator(LogLocator(subs=(1,) if index == 0 else (1, 2, 5)))
                axis.yaxis.set_minor_locator(NullLocator())
                axis.yaxis.set_major_formatter("{x:g}")
    axes[0].legend(fontsize=7, ncols=2, loc="lower left")
    axes[-columns].legend(fontsize=7, ncols=2, loc="lower left")
    colours = axes[-columns].get_legend_handles_labels()[0]
    ink = COLOURS["measured"]
    dashes = [
        Line2D([], [], color=ink, ls=ls, label=label)
        for ls, label in (("-", "mean over entries"), ("--", "worst entry"))
    ]
    axes[columns].legend(handles=[*colours, *dashes], fontsize=7, ncols=3, loc="upper left")
    without = [line for line in axes[2 * columns].get_lines() if line.get_label() == WITHOUT]
    axes[2 * columns].legend(handles=[*dashes, *without], fontsize=7, loc="lower left")


def _distribution(axis: Axes, series: Series) -> None:
    epochs = np.arange(series["mean"].shape[1])
    average = {name: values.mean(axis=0) for name, values in series.items()}
    for low, high, alpha in BANDS:
        label = f"{low[1:].lstrip('0')}–{high[1:]} % of entries"
        axis.fill_between(epochs, average[low], average[high], color=COLOURS["dropout"], alpha=alpha, lw=0, label=label)
    axis.plot(epochs, average["worst_held_out"], "--", color=COLOURS["bound"], label="worst entry")
    axis.plot(epochs, average["mean"], color=COLOURS["measured"], label="mean over entries")
    axis.plot(epochs, average["control mean"], ":", color=COLOURS["plain"], label="mean, minibatches, no dropout")
    axis.set_yscale("log")
    # Entries of dead units have no spread at all: the axis begins at what most entries have, with room for the legend.
    smallest = min(average[name].min() for name in ("q25", "mean", "control mean") if average[name].min() > 0)
    axis.set_ylim(bottom=smallest / 20)


def _trends(axis: Axes, of_data: Mapping[str, Series], prefix: str) -> None:
    for optimizer, series in of_data.items():
        for statistic, dashes in zip(STATISTICS, ("-", "--"), strict=True):
            ratio = series[prefix + statistic] / series[prefix + statistic][:, :1]
            epochs, colour = np.arange(ratio.shape[1]), OPTIMIZERS.get(optimizer, COLOURS["other"])
            axis.plot(epochs, ratio.T, dashes, color=colour, alpha=0.25, lw=0.6)
            centre = np.exp(np.log(ratio).mean(axis=0))
            axis.plot(epochs, centre, dashes, color=colour, label=f"{optimizer}, {statistic}")
    axis.axhline(1, color=COLOURS["measured"], lw=0.8)
    axis.set_yscale("log")


def _without_dropout(axis: Axes, series: Series | None) -> None:
    if series is not None:
        ratio = series["control mean"] / series["control mean"][:, :1]
        centre = np.exp(np.log(ratio).mean(axis=0))
        axis.plot(centre, ":", color=COLOURS["plain"], label=WITHOUT)


def _shares(axis: Axes, of_data: Mapping[str, Series]) -> None:
    for optimizer, series in of_data.items():
        share = series["mask_share"]
        epochs, colour = np.arange(share.shape[1]), OPTIMIZERS.get(optimizer, COLOURS["other"])
        axis.fill_between(epochs, share.min(axis=0), share.max(axis=0), color=colour, alpha=0.15, lw=0)
        axis.plot(epochs, share.mean(axis=0), color=colour, label=optimizer)
    axis.set_ylim(0, 1)
