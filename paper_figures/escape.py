"""Leaving zero (§4.2) under each optimizer: LoRA at l, LoRA at η·l and ALLoRA at l on a linear teacher.

Above: the mean row norm of BA by step. Below: how far ALLoRA's BA is from each LoRA's, ‖difference‖/‖BA‖, on an axis
that has 0: a ring is the first step, and one at 0 an exact match. Under SGD it is LoRA's at η·l, under AdamW LoRA's at
l; with the factor after Adam (ALLoRAAdamW) it is LoRA's at η·l again. Each column's title says which. Means over seeds
± 2 standard errors. From `allora_analysis.escape`. Checked by `tests/test_paper_figures_lacking.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.lines import Line2D

from allora_analysis.escape.study import EXACT, LABELS, Config, run
from allora_analysis.plotting import ARMS, COLOURS, OPTIMIZERS, page, page_style
from allora_analysis.study import Result
from paper_figures.sources import Loaded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONFIG = Config(eta=2.0)
DISTANCES = {"to_lora": "lora", "to_lora_eta": "lora_eta"}
DASHES = {"lora": "-", "lora_eta": "--", "allora": "-"}
LINEAR = 1e-4  # the axis is linear below, so that an exact match is seen, at 0


class Escape(NamedTuple):
    """The study's config and result."""

    config: Config
    result: Result


def load_data(config: Config = CONFIG) -> Loaded[Escape]:
    """Run the study."""
    return Loaded(Escape(config, run(config)))


@page_style()
def make_figure(loaded: Loaded[Escape]) -> Figure:
    """Draw the figure: a column for each optimizer."""
    config, result = loaded.data
    names = list(dict.fromkeys(config.optimizer))
    figure, axes = page(3.9, 2, len(names), sharey="row")
    for (norms, distances), name in zip(axes.T, names, strict=True):
        rate = result.predicted[name]["learning_rate"]
        norms.set_title(f"{OPTIMIZERS[name].label}\n{first_step(result.measured[name])}\n(l = {rate:g})")
        _norms(norms, result.measured[name])
        _distances(distances, result.measured[name])
    axes[0, 0].set_ylabel("mean row norm of BA")
    axes[1, 0].set_ylabel("relative distance of BA")
    axes[1, 0].set_yticks([0, 1e-4, 1e-3, 1e-2, 1e-1, 1], ["0", *(f"$10^{{{n}}}$" for n in (-4, -3, -2, -1)), "1"])
    handles = [Line2D([], [], color=ARMS[arm].colour, ls=DASHES[arm], label=label) for arm, label in LABELS.items()]
    handles.append(Line2D([], [], color=COLOURS["measured"], lw=0.8, ls=":", label="the teacher's"))
    told = f"above: η = {config.eta:g}, {config.seeds} seeds, shaded ± 2 s.e.; below: ALLoRA's distance from each LoRA"
    figure.legend(handles=handles, ncols=4, loc="outside lower center", title=told)
    return figure


def first_step(measured: Mapping[str, Any]) -> str:
    """Which LoRA's first step ALLoRA's is under an optimizer, in words."""
    for key, arm in DISTANCES.items():
        if measured[key][1] < EXACT:
            return f"ALLoRA starts as\n{LABELS[arm]}"
    return "ALLoRA starts as neither"


def _norms(axis: Axes, measured: dict[str, Any]) -> None:
    for arm in LABELS:
        mean, errors = (np.asarray(measured[arm][name]) for name in ("norms", "norms_stderr"))
        steps = np.arange(len(mean))
        axis.plot(steps, mean, DASHES[arm], color=ARMS[arm].colour, label=LABELS[arm])
        axis.fill_between(steps, mean - 2 * errors, mean + 2 * errors, color=ARMS[arm].colour, alpha=0.12, lw=0)
    axis.axhline(measured["target"], color=COLOURS["measured"], lw=0.8, ls=":")
    axis.set(xlim=(0, None), ylim=(0, None), xlabel="step")


def _distances(axis: Axes, measured: dict[str, Any]) -> None:
    for key, arm in DISTANCES.items():
        mean, errors = (np.asarray(measured[name])[1:] for name in (key, f"{key}_stderr"))
        steps, colour = np.arange(1, len(mean) + 1), ARMS[arm].colour
        axis.plot(steps, mean, DASHES[arm], color=colour, label=LABELS[arm])
        axis.plot(1, mean[0], "o", ms=5, mfc="none", color=colour, clip_on=False, zorder=3)
        axis.fill_between(steps, np.maximum(mean - 2 * errors, 0), mean + 2 * errors, color=colour, alpha=0.15, lw=0)
    axis.set_yscale("symlog", linthresh=LINEAR, linscale=0.5)
    axis.set(xscale="log", xlim=(0.8, len(mean)), ylim=(0, 2), xlabel="step")
