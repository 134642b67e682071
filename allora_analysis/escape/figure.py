"""The study's figure: escape curves per optimiser, the scalar model by itself, and which LoRA ALLoRA stays near."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from allora_analysis.study import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = {"lora": "LoRA at l", "lora_eta": "LoRA at η·l", "allora": "ALLoRA at l"}


def plot(config: Any, result: Result) -> Figure:
    """A panel per optimiser (mean row norm by step, scalar model dotted), the scalar model, ALLoRA's distances.

    Args:
        config: the study's config.
        result: its result.

    Returns:
        The figure.
    """
    from allora_analysis.plotting import panels

    names = [name for name in dict.fromkeys(config.optimiser) if name in result.measured]
    columns = min(3, len(names) + 2)
    rows = -(-(len(names) + 2) // columns)
    figure, axes = panels(columns, rows)
    for axis, name in zip(axes, names, strict=False):
        _escape(axis, result, name)
    _scalar(axes[len(names)], result)
    _distances(axes[len(names) + 1], result, names)
    for axis in axes[len(names) + 2 :]:
        axis.remove()
    axes[0].legend(fontsize=8, loc="lower right")
    figure.suptitle(f"Leaving B = 0 on a linear teacher: η = {config.eta:g}, {config.seeds} seeds")
    return figure


def _escape(axis: Axes, result: Result, name: str) -> None:
    from allora_analysis.plotting import ARMS, COLOURS, OPTIMISERS

    measured, predicted = result.measured[name], result.predicted[name]
    top = 0.0
    for arm, label in LABELS.items():
        colour = ARMS[arm].colour
        norms, errors = np.asarray(measured[arm]["norms"]), np.asarray(measured[arm]["norms_stderr"])
        steps = np.arange(len(norms))
        axis.plot(steps, norms, color=colour, label=label)
        axis.fill_between(steps, norms - 2 * errors, norms + 2 * errors, color=colour, alpha=0.12, lw=0)
        if predicted[arm]["norms"] is not None:
            axis.plot(steps, predicted[arm]["norms"], ":", color=colour, lw=1)
        top = max(top, float(norms.max()))
    axis.axhline(measured["target"], color=COLOURS["measured"], lw=0.8, ls="--")
    axis.plot([], [], ":", color=COLOURS["measured"], lw=1, label="scalar model")
    axis.plot([], [], "--", color=COLOURS["measured"], lw=0.8, label="teacher")
    axis.set_ylim(0, 1.15 * max(top, measured["target"]))
    axis.set_xlim(0, None)
    axis.set(xlabel="step", ylabel="mean ‖(BA)$_i$‖")
    axis.set_title(f"{OPTIMISERS[name].label}, l = {predicted['learning_rate']:g}")


def _scalar(axis: Axes, result: Result) -> None:
    from allora_analysis.plotting import ARMS, COLOURS

    predicted, measured = result.predicted["scalar"], result.measured["scalar"]
    every = slice(None, None, 40)
    for arm in LABELS:
        axis.plot(predicted["times"], predicted[arm], color=ARMS[arm].colour)
        axis.plot(measured["times"][every], measured[arm][every], "o", ms=3.5, color=ARMS[arm].colour)
    axis.plot([], [], color=COLOURS["measured"], label="closed form")
    axis.plot([], [], "o", ms=3.5, color=COLOURS["measured"], label="SGD, small steps")
    axis.set(xlabel="time g·l·steps", ylabel="m", title="scalar model: A and the gradient fixed")
    axis.set_xlim(0, None)
    axis.set_ylim(0, None)
    axis.legend(fontsize=8)


def _distances(axis: Axes, result: Result, names: list[str]) -> None:
    from allora_analysis.plotting import COLOURS, OPTIMISERS

    for name in names:
        label, colour, _ = OPTIMISERS[name]
        for key, dashes in (("to_lora", "-"), ("to_lora_eta", "--")):
            values = np.asarray(result.measured[name][key])
            steps = np.arange(1, len(values))
            axis.plot(steps, np.where(values[1:] > 0, values[1:], np.nan), dashes, color=colour)
        axis.plot([], [], color=colour, label=label)
    for dashes, label in (("-", "from LoRA at l"), ("--", "from LoRA at η·l")):
        axis.plot([], [], dashes, color=COLOURS["measured"], lw=1, label=label)
    axis.set(xscale="log", yscale="log", xlabel="step", ylabel="‖difference of BA‖ / ‖BA‖", title="ALLoRA's distance")
    axis.set_ylim(1e-4, 2)
    axis.legend(fontsize=7, ncols=2, loc="lower right")
