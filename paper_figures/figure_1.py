"""Figure 1 of the paper, redrawn with what it lacked: the standard deviation over dropout masks of ∂L/∂W₂'s entries.

Columns: data sets. Rows: (1) the paper's figure for the grid's first optimiser, the distribution over entries on the
fixed probe batch, epoch by epoch. (2) Its two claims for every optimiser: the average and the worst entry (chosen on
half of the masks, measured on the others) over their values before training. (3) The same two of a control without
dropout: the standard deviation over minibatches, every mask off, in the networks of (2) and in one trained without
dropout. (4) How much of the gradient's variance is the masks'; the rest is the minibatch's.

Everything is an average over seeds of recorded summaries, of logarithms in rows 2 and 3, with its 95 % interval; no
entry is compared across seeds. Checked by `tests/test_paper_figure_1.py`.
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
from allora_analysis.plotting import COLOURS, OPTIMISERS, page, page_style
from paper_figures.numbers import over_seeds
from paper_figures.sources import Loaded, Missing, say_missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BANDS = (("q01", "q99", 0.18), ("q05", "q95", 0.28), ("q25", "q75", 0.42))
TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
ROWS = (
    "std over masks",
    "std over masks /\nbefore training",
    "the same, over minibatches,\nno dropout",
    "masks' share\nof the variance",
)
WITHOUT = "mean, trained without dropout"
STATISTICS = ("mean", "worst_held_out")
Series = dict[str, np.ndarray]  # (seeds, epochs) by statistic


def load_data(folder: Path | str = RESULTS, grid: Grid = FIGURE_1) -> Loaded[dict[Arm, Series]]:
    """The recorded series at the grid's main drop rate and, for the control, at drop rate 0.

    Args:
        folder: the folder of records.
        grid: the grid.

    Returns:
        By arm whose seeds are all recorded, (seeds, epochs) of each statistic over masks on the probe batch, of
        "control mean" and "control worst_held_out" (over minibatches without dropout) and of "mask_share" (of the
        variance).
    """
    shown = (grid.drop_rate, 0.0)
    wanted = [run for data in grid.data for run in grid.runs(data) if run[0].drop_rate in shown]
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

    names = ("median", *STATISTICS, *(name for low, high, _ in BANDS for name in (low, high)))
    series = {name: of(lambda epoch, name=name: epoch["probe"][name]) for name in names}
    series |= {f"control {name}": of(lambda epoch, name=name: epoch["no_dropout_fresh"][name]) for name in STATISTICS}
    series["mask_share"] = of(lambda epoch: epoch["decomposition"]["mask"] / epoch["decomposition"]["total"])
    return series


@page_style()
def make_figure(loaded: Loaded[dict[Arm, Series]]) -> Figure:
    """Draw the figure: a column for each data set that has a setting in full.

    Args:
        loaded: as from `load_data`.

    Returns:
        The figure.
    """
    data = loaded.data
    names = list(dict.fromkeys(arm.data for arm in data if arm.drop_rate > 0))
    if not names:
        figure, axes = page(2.0)
        say_missing(axes[0, 0], loaded.missing[0])
        return figure
    heights = {"height_ratios": (1.25, 1.25, 1.25, 0.8)}
    figure, axes = page(7.0, len(ROWS), len(names), sharex=True, sharey="row", gridspec_kw=heights)
    for (top, middle, control, bottom), name in zip(axes.T, names, strict=True):
        dropped = {arm.optimizer: of for arm, of in data.items() if arm.data == name and arm.drop_rate > 0}
        without = {arm.optimizer: of for arm, of in data.items() if arm.data == name and arm.drop_rate == 0}
        optimizer, first = next(iter(dropped.items()))
        seeds = len(first["mean"])
        label = OPTIMISERS[optimizer].label
        top.set_title(f"{TITLES.get(name, name)}, {label}, {seeds} seed{'s' if seeds > 1 else ''}")
        _distribution(top, first)
        _trends(middle, dropped, "")
        _trends(control, dropped, "control ")
        _without_dropout(control, without.get(optimizer))
        _shares(bottom, dropped)
    _finish(figure, axes, max(arm.drop_rate for arm in data))
    return figure


def _finish(figure: Figure, axes: np.ndarray, drop_rate: float) -> None:
    for row, label in zip(axes, ROWS, strict=True):
        row[0].set_ylabel(label)
    for axis in axes[1:3].flat:
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in axes[:3].flat:
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter("{x:g}")
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.align_ylabels(axes[:, 0])
    ink = COLOURS["measured"]
    colours = [line for line in axes[-1, 0].get_lines() if not line.get_label().startswith("_")]
    dashes = [
        Line2D([], [], color=ink, ls=ls, label=label)
        for ls, label in (("-", "mean over entries"), ("--", "worst entry"))
    ]
    without = [line for line in axes[2].flat for line in line.get_lines() if line.get_label() == WITHOUT]
    figure.legend(*axes[0, 0].get_legend_handles_labels(), ncols=3, loc="outside upper center", title="first row")
    told = f"other rows; shaded: 95 % over seeds; drop rate {drop_rate:g}"
    below = [*colours, *dashes, *without[:1]]
    figure.legend(handles=below, ncols=4, loc="outside lower center", title=told)


def _distribution(axis: Axes, series: Series) -> None:
    epochs = np.arange(series["mean"].shape[1])
    average = {name: values.mean(axis=0) for name, values in series.items()}
    for low, high, alpha in BANDS:
        label = f"{low[1:].lstrip('0')}–{high[1:]} % of entries"
        axis.fill_between(epochs, average[low], average[high], color=COLOURS["dropout"], alpha=alpha, lw=0, label=label)
    for name, dashes, role, label in (
        ("worst_held_out", "--", "bound", "worst entry"),
        ("mean", "-", "measured", "mean over entries"),
        ("control mean", ":", "plain", "mean, minibatches, no dropout"),
    ):
        mean, half = over_seeds(series[name])
        axis.errorbar(epochs, mean, half, color=COLOURS[role], ls=dashes, elinewidth=0.7, label=label)
    axis.set_yscale("log")
    # Entries of dead units have no spread at all: the axis begins below what most entries have.
    smallest = min(average[name].min() for name in ("q25", "mean", "control mean") if average[name].min() > 0)
    shown = [smallest / 8, 1.5 * np.nanmax(series["worst_held_out"])]
    low, high = axis.get_ylim() if axis.get_autoscaley_on() is False else shown
    axis.set_ylim(min(low, shown[0]), max(high, shown[1]))


def _trends(axis: Axes, of_data: Mapping[str, Series], prefix: str) -> None:
    for optimizer, series in of_data.items():
        for statistic, dashes in zip(STATISTICS, ("-", "--"), strict=True):
            ratio = series[prefix + statistic] / series[prefix + statistic][:, :1]
            epochs, colour = np.arange(ratio.shape[1]), OPTIMISERS[optimizer].colour
            logs = over_seeds(np.log(ratio))
            axis.fill_between(epochs, np.exp(logs.low), np.exp(logs.high), color=colour, alpha=0.15, lw=0)
            axis.plot(epochs, np.exp(logs.mean), dashes, color=colour, label=f"{optimizer}, {statistic}")
    axis.axhline(1, color=COLOURS["measured"], lw=0.6)
    axis.set_yscale("log")


def _without_dropout(axis: Axes, series: Series | None) -> None:
    if series is not None:
        logs = over_seeds(np.log(series["control mean"] / series["control mean"][:, :1]))
        axis.errorbar(
            np.arange(len(logs.mean)),
            np.exp(logs.mean),
            [np.exp(logs.mean) - np.exp(logs.low), np.exp(logs.high) - np.exp(logs.mean)],
            color=COLOURS["plain"],
            ls=":",
            elinewidth=0.7,
        )
        axis.lines[-1].set_label(WITHOUT)


def _shares(axis: Axes, of_data: Mapping[str, Series]) -> None:
    for optimizer, series in of_data.items():
        share, (label, colour, _) = over_seeds(series["mask_share"]), OPTIMISERS[optimizer]
        epochs = np.arange(len(share.mean))
        axis.fill_between(epochs, share.low, share.high, color=colour, alpha=0.15, lw=0)
        axis.plot(epochs, share.mean, color=colour, label=label)
    axis.set_ylim(0, 1)
