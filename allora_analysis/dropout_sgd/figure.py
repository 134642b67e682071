"""The study's figure: population risks over steps, the crossover marked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from allora_analysis.study import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(config: Any, result: Result) -> Figure:
    """Risks over steps, both axes logarithmic, the crossover marked.

    Args:
        config: the study's arguments.
        result: what `run` returned.

    Returns:
        The figure.
    """
    from allora_analysis.plotting import COLOURS, panels

    figure, (axes,) = panels()
    p, m = result.predicted, result.measured
    for name, colour, style, label in (
        ("risk_plain", "plain", "-", "plain gradient descent"),
        ("risk_marginal", "predicted", "--", "gradient descent, regularised\n(= mean of dropout)"),
        ("risk_average", "other", "-.", "dropout, averaged iterates"),
        ("risk", "dropout", "-", "dropout SGD"),
    ):
        axes.plot(p["curve_step"], p[f"curve_{name}"], style, color=COLOURS[colour], label=label)
    if m:
        bars = {"color": COLOURS["measured"], "fmt": ".", "label": f"dropout, {m['replicas']} runs (± 2 s.e.)"}
        axes.errorbar(p["step"], m["risk"], 2 * np.asarray(m["risk_stderr"]), **bars)
    if p["crossover"] is not None:
        style = {"color": COLOURS["measured"], "linewidth": 0.8, "linestyle": ":"}
        axes.axvline(p["crossover"], label=f"crossover: step {p['crossover']}", **style)
    axes.set(xscale="log", yscale="log", xlabel="step", ylabel="population risk E‖W − W_true‖²")
    axes.set_title(f"{config.placement} masks, keep_prob = {config.keep_prob:g}, noise {config.noise:g}")
    axes.legend(fontsize=7, frameon=False)
    return figure
