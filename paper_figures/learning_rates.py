"""Every arm over a range of learning rates: ours alone, `experiments.learning_rates`; the paper has one rate an arm.

A row a model and optimizer. Left: test accuracy after the last epoch by learning rate, the mean over seeds with a bar
from the worst seed to the best; the rate that validation would choose is ringed, a rate at which a run diverged before
it was evaluated has a cross at the bottom. Right: the accuracy at the ringed rates, arm by arm, with 95 % intervals;
the titles say what part of LoRA's best rate ALLoRA-0's is, and how far apart the accuracies
are. An arm is drawn when all its rates and seeds are recorded. Checked by
`tests/test_paper_figures_lacking.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.lines import Line2D

from allora_analysis.finetune.setting import Setting
from allora_analysis.grid.presets import LISTS
from allora_analysis.grid.reading import after_epoch
from allora_analysis.plotting import ARMS, COLOURS, OPTIMIZERS, page, page_style
from paper_figures.numbers import Average, over_seeds
from paper_figures.sources import Loaded, Missing, Runs, runs, say_missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panel = tuple[str, str, str]  # model, data set, optimizer


class Arm(NamedTuple):
    """An arm's curve, percent.

    Attributes:
        rates: learning rates at which all seeds have an accuracy, ascending.
        test: test accuracy there, over seeds.
        ends: of the worst seed and of the best.
        best: the index of the rate with the best mean validation accuracy; None if every rate diverged.
        diverged: the other rates.
        seeds: how many.
    """

    rates: np.ndarray
    test: Average
    ends: np.ndarray
    best: int | None
    diverged: tuple[float, ...]
    seeds: int


class Curves(NamedTuple):
    """By panel the arms whose rates and seeds are all recorded, and what is missing."""

    arms: Mapping[Panel, Mapping[str, Arm]]
    missing: Mapping[Panel, Missing]


def load_data(folder: Path | str | None = None) -> Loaded[Curves]:
    """Our curves where an arm is recorded in full.

    Returns:
        By panel and arm.
    """
    wanted = LISTS["learning_rates"]["desk"]
    known = runs(wanted, folder)
    arms: dict[Panel, dict[str, Arm]] = {}
    missing: dict[Panel, Missing] = {}
    used: list[Setting] = []
    for panel in dict.fromkeys((run.model, run.data, run.optimizer) for run in wanted):
        own = [run for run in wanted if (run.model, run.data, run.optimizer) == panel]
        arms[panel] = {}
        for name in dict.fromkeys(run.arm for run in own):
            if known.whole(of := [run for run in own if run.arm == name]):
                arms[panel][name] = _arm(known, of)
                used += of
        for one in known.missing(own, "learning_rates"):
            missing[panel] = one
    return Loaded(Curves(arms, missing), known.names(used), known.missing(wanted, "learning_rates"))


def _arm(known: Runs, of: list[Setting]) -> Arm:
    rates = sorted({run.learning_rate for run in of})
    values = {
        split: {
            rate: [after_epoch(known.results[run], f"{split}_accuracy") for run in of if run.learning_rate == rate]
            for rate in rates
        }
        for split in ("test", "validation")
    }
    whole = [rate for rate in rates if None not in values["test"][rate]]
    chosen = [float(np.mean(values["validation"][rate])) for rate in whole]
    seeds = len({run.seed for run in of})
    percent = 100 * np.array([values["test"][rate] for rate in whole]).reshape(len(whole), seeds).T
    ends = np.array([percent.min(axis=0), percent.max(axis=0)])
    lost = tuple(rate for rate in rates if rate not in whole)
    return Arm(np.array(whole), over_seeds(percent), ends, int(np.argmax(chosen)) if whole else None, lost, seeds)


@page_style()
def make_figure(loaded: Loaded[Curves]) -> Figure:
    """Draw the figure."""
    arms, missing = loaded.data
    figure, axes = page(0.6 + 1.9 * len(arms), len(arms), 2, gridspec_kw={"width_ratios": (1.4, 1)})
    for (left, right), (panel, of) in zip(axes, arms.items(), strict=True):
        model, data, optimizer = panel
        seeds = f", {next(iter(of.values())).seeds} seeds" if of else ""
        left.set_title(f"{_best_rates(of)}({model}, {OPTIMIZERS[optimizer].label}, {data}{seeds})")
        if not of:
            say_missing(left, missing[panel])
            right.remove()
            continue
        _curves(left, of)
        lacking = f"\n({missing[panel].what})" if panel in missing else ""
        left.set(xscale="log", xlabel=f"learning rate{lacking}", ylabel="test accuracy, %")
        _bests(right, of)
    drawn = dict.fromkeys(name for of in arms.values() for name in of)
    if drawn:
        lost = any(arm.diverged for of in arms.values() for arm in of.values())
        bars = "bars: left from the worst seed to the best, right 95 % over seeds"
        figure.legend(handles=_handles(drawn, lost), ncols=4, loc="outside lower center", title=bars)
    return figure


def _best_rates(of: Mapping[str, Arm]) -> str:
    """The finding in a line: what part of LoRA's best rate ALLoRA-0's best rate is; "" where one of them is lacking."""
    best = [of[name].rates[of[name].best] for name in ("allora_0", "lora") if name in of and of[name].best is not None]
    if len(best) < 2:
        return ""
    ratio = best[0] / best[1]
    share = "LoRA's" if ratio == 1 else f"{ratio:.2g} times LoRA's"
    return f"{ARMS['allora_0'].label}'s best rate is {share}\n"


def _handles(names: Iterable[str], lost: bool) -> list[Line2D]:
    ink = {"color": COLOURS["measured"], "ls": ""}
    crosses = [Line2D([], [], marker="x", label="diverged", **ink)] if lost else []
    return [
        *(Line2D([], [], color=ARMS[name].colour, marker=ARMS[name].marker, label=ARMS[name].label) for name in names),
        Line2D([], [], marker="o", ms=7, mfc="none", label="chosen on validation", **ink),
        *crosses,
    ]


def _curves(axis: Axes, of: Mapping[str, Arm]) -> None:
    for index, (name, arm) in enumerate(of.items()):
        label, colour, marker = ARMS[name]
        shift = 1.06 ** (index - (len(of) - 1) / 2)  # intervals side by side, not one over the other
        style = {"color": colour, "marker": marker, "lw": 0.9, "elinewidth": 0.6, "label": label}
        axis.errorbar(shift * arm.rates, arm.test.mean, np.abs(arm.ends - arm.test.mean), **style)
        if arm.best is not None:
            place = shift * arm.rates[arm.best], arm.test.mean[arm.best]
            axis.plot(*place, "o", ms=7, mfc="none", mew=0.8, color=colour)
        for rate in arm.diverged:
            axis.plot(shift * rate, 0.02, "x", color=colour, transform=axis.get_xaxis_transform())


def _bests(axis: Axes, of: Mapping[str, Arm]) -> None:
    known = {name: arm for name, arm in of.items() if arm.best is not None}
    means = [arm.test.mean[arm.best] for arm in known.values()]
    for place, (name, arm) in enumerate(known.items()):
        _, colour, marker = ARMS[name]
        mean, half = arm.test.mean[arm.best], arm.test.half[arm.best]
        axis.errorbar(mean, -place, xerr=half, color=colour, marker=marker, elinewidth=0.7)
    names = [f"{ARMS[name].label}, {arm.rates[arm.best]:g}" for name, arm in known.items()]
    axis.set_yticks([-place for place in range(len(known))], names)
    axis.set_ylim(0.6 - max(len(known), 1), 0.6)
    axis.set_xlabel("test accuracy at its best rate, %")
    if len(means) > 1:
        axis.set_title(f"At their best rates\nwithin {max(means) - min(means):.1f} points")
