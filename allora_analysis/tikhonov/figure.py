"""The figure of `python -m allora_analysis.tikhonov`; it reads a result and computes nothing."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from allora_analysis.plotting import COLOURS, panels
from allora_analysis.study import Result, text

MARKS = {"output": ("plain", "o"), "input": ("predicted", "s"), "bottleneck": ("dropout", "^")}


def draw(config: Any, result: Result) -> Figure:
    """Left: distance to the nearest ridge as the spectrum spreads. Middle and right: shrinkage by singular direction.

    Args:
        config: the study's config.
        result: what its `run` returned.

    Returns:
        The figure.
    """
    predicted = result.predicted
    figure, (distance, linear, bottleneck) = panels(columns=3)
    for placement, (role, _) in MARKS.items():
        curve = predicted[f"curve_distance_{placement}"]
        distance.plot(predicted["curve_spread"], curve, color=COLOURS[role], label=placement)
    rows = {"color": COLOURS["measured"], "ms": 4, "label": "rows of the table"}
    distance.plot(predicted["spread"], predicted["distance"], "o", **rows)
    distance.set(xscale="log", xlabel="condition number of X", ylabel="‖X(W_drop − W_λ)‖ / ‖XW_drop‖")
    distance.set_title("distance to the nearest ridge")
    distance.set_ylim(0, 1.3 * distance.dataLim.y1)  # room for the legend
    for placement in ("output", "input"):
        _share(linear, predicted["singular_values"], predicted[f"shrinkage_{placement}"], placement)
    ridge = {"color": COLOURS["measured"], "lw": 1.2, "label": f"ridge nearest to {config.placement}"}
    linear.plot(predicted["singular_values"], predicted["shrinkage_ridge"], **ridge)
    linear.set(xscale="log", xlabel="singular value of X", ylabel="factor on the fit along it", ylim=(-0.05, 1.05))
    linear.set_title(f"shrinkage at condition number {text(max(predicted['spread']))}")
    _share(bottleneck, predicted["fitted_singular_values"], predicted["shrinkage_bottleneck"], "bottleneck")
    bottleneck.axhline(config.keep_prob, color=COLOURS["plain"], ls=":", lw=1.2, label="keep_prob")
    bottleneck.set(xlabel="singular value of XX⁺Y", ylabel="factor on the fit along it", ylim=(-0.05, 1.05))
    bottleneck.set_title("soft thresholding by a bottleneck")
    distance.legend(fontsize=8, frameon=False, loc="upper left", ncols=2)
    for axes in (linear, bottleneck):
        axes.legend(fontsize=8, frameon=False)
    return figure


def _share(axes: Any, values: Any, factor: Any, placement: str) -> None:
    role, mark = MARKS[placement]
    axes.plot(values, factor, mark, color=COLOURS[role], ls=":", lw=0.8, ms=5, label=placement)
