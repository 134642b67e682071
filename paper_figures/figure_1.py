"""Figure 1 of the paper, redrawn with what it lacked: the standard deviation over dropout masks of ∂L/∂W₂'s entries.

Columns: data sets. Top: the paper's figure for plain SGD, the distribution over entries, epoch by epoch, on the fixed
probe batch, and as a control the spread over minibatches without dropout at the same weights. Middle: its two claims
for every optimiser, the average and the worst entry (chosen on half the masks, measured on the others) over their
values before training. Bottom: how much of the gradient's variance is the masks', the rest is the minibatch's.

Everything is an average over seeds of recorded summaries; no entry is compared across seeds. Checked by
`tests/test_paper_figure_1.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from allora_analysis.gradient_std.grid import FIGURE_1, RESULTS, Arm, Grid, recorded
from allora_analysis.plotting import COLOURS, panels, style
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
Series = dict[str, np.ndarray]  # (seeds, epochs) by statistic


def load_data(folder: Path | str = RESULTS, grid: Grid = FIGURE_1) -> dict[Arm, Series]:
    """The recorded series at the grid's main drop rate.

    Args:
        folder: the folder of records.
        grid: the grid.

    Returns:
        By arm, (seeds, epochs) of each statistic on the probe batch, of "no_dropout" (mean over entries of the
        standard deviation over minibatches without dropout) and of "mask_share" (of the variance).

    Raises:
        ArgumentError: no record of the grid.
    """
    runs = {setting: found for setting, found in recorded(folder, grid).items() if setting in grid.arms()}
    if not runs:
        raise ArgumentError(f"{folder}: holds no run of Figure 1; run python -m experiments.gradient_std first")
    return {setting: _series([found[seed] for seed in sorted(found)]) for setting, found in runs.items()}


def _series(runs: list[list[dict]]) -> Series:
    def of(get) -> np.ndarray:
        return np.array([[get(epoch) for epoch in run] for run in runs], dtype=np.float64)

    names = ("mean", "median", "worst_held_out", *(name for low, high, _ in BANDS for name in (low, high)))
    series = {name: of(lambda epoch, name=name: epoch["probe"][name]) for name in names}
    series["no_dropout"] = of(lambda epoch: epoch["no_dropout_fresh"]["mean"])
    series["mask_share"] = of(lambda epoch: epoch["decomposition"]["mask"] / epoch["decomposition"]["total"])
    return series


def make_figure(data: Mapping[Arm, Series]) -> Figure:
    """Draw the figure: a column for each data set that has a record.

    Args:
        data: as from `load_data`.

    Returns:
        The figure.
    """
    names = list(dict.fromkeys(setting.data for setting in data))
    with style():
        figure, axes = panels(len(names), 3)
        for column, name in enumerate(names):
            of_data = {setting.optimizer: series for setting, series in data.items() if setting.data == name}
            top, middle, bottom = axes[column :: len(names)]
            first = next(iter(of_data))
            _distribution(top, of_data[first])
            top.set_title(f"{TITLES.get(name, name)}: {len(of_data[first]['mean'])} seeds of {first}")
            _trends(middle, of_data)
            _shares(bottom, of_data)
        for index, label in enumerate(("std of a gradient entry", "over its value before training", "share of masks")):
            axes[index * len(names)].set_ylabel(label)
        for axis in axes:
            axis.set_xlabel("epoch")
    return figure


def _distribution(axis: Axes, series: Series) -> None:
    epochs = np.arange(series["mean"].shape[1])
    average = {name: values.mean(axis=0) for name, values in series.items()}
    for low, high, alpha in BANDS:
        label = f"{low[1:].lstrip('0')}–{high[1:]} % of entries"
        axis.fill_between(epochs, average[low], average[high], color=COLOURS["dropout"], alpha=alpha, lw=0, label=label)
    axis.plot(epochs, average["worst_held_out"], color=COLOURS["bound"], label="worst entry, held out")
    axis.plot(epochs, average["mean"], color=COLOURS["measured"], label="mean over entries")
    axis.plot(epochs, average["no_dropout"], "--", color=COLOURS["plain"], label="mean, over minibatches, no dropout")
    axis.set_yscale("log")
    # Entries of dead units have no spread at all: the axis begins at what most entries have.
    smallest = min(average[name].min() for name in ("q25", "mean", "no_dropout") if average[name].min() > 0)
    axis.set_ylim(bottom=smallest / 3)
    axis.legend(fontsize=6.5, ncols=2)


def _trends(axis: Axes, of_data: Mapping[str, Series]) -> None:
    for optimizer, series in of_data.items():
        for statistic, dashes in (("mean", "-"), ("worst_held_out", "--")):
            ratio = series[statistic] / series[statistic][:, :1]
            epochs, colour = np.arange(ratio.shape[1]), OPTIMIZERS.get(optimizer, COLOURS["other"])
            axis.plot(epochs, ratio.T, dashes, color=colour, alpha=0.25, lw=0.7)
            word = "mean" if statistic == "mean" else "worst"
            centre = np.exp(np.log(ratio).mean(axis=0))
            axis.plot(epochs, centre, dashes, color=colour, label=f"{optimizer}, {word}")
    axis.axhline(1, color=COLOURS["measured"], lw=0.8)
    axis.set_yscale("log")
    axis.legend(fontsize=6.5, ncols=2)


def _shares(axis: Axes, of_data: Mapping[str, Series]) -> None:
    for optimizer, series in of_data.items():
        share = series["mask_share"]
        epochs, colour = np.arange(share.shape[1]), OPTIMIZERS.get(optimizer, COLOURS["other"])
        axis.fill_between(epochs, share.min(axis=0), share.max(axis=0), color=colour, alpha=0.15, lw=0)
        axis.plot(epochs, share.mean(axis=0), color=colour, label=optimizer)
    axis.set_ylim(0, 1)
    axis.legend(fontsize=6.5)
