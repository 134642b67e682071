"""The study's figure: growth against η on one logarithmic axis, and what η adds to the bound and to typical growth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from allora_analysis.ripple import stack
from allora_analysis.ripple.scales import Scales
from allora_analysis.study import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 60


def plot(config: Any, result: Result) -> Figure:
    """Left: worst case, aligned network, typical growth with its 95 % band and the simulation. Right: η's own share.

    Args:
        config: the study's config.
        result: its result.

    Returns:
        The figure.
    """
    from matplotlib.ticker import NullLocator

    from allora_analysis.plotting import panels

    figure, (left, right) = panels(columns=2)
    order = np.argsort(config.eta)
    eta = np.asarray(config.eta, dtype=float)[order]
    _growth(left, config, result, eta, order)
    _shares(right, config, result, eta, order)
    for axes in (left, right):
        axes.set_xlabel("scaling factor η")
        if eta[0] > 0 and len(eta) > 1:
            axes.set_xscale("log")
        axes.set_xticks(eta, [f"{value:g}" for value in eta])
        axes.xaxis.set_minor_locator(NullLocator())
    figure.suptitle(f"{config.architecture} stack: L = {config.depth}, n = {config.width}, r = {config.rank}")
    return figure


def _powers_of_ten(axes: Axes) -> None:
    """Data are log₁₀: the growth itself (10^200432) would not fit a float."""
    axes.yaxis.set_major_formatter(lambda value, _: f"$10^{{{value:g}}}$")


def _fine(eta: np.ndarray) -> np.ndarray:
    if len(eta) == 1:
        return eta
    return np.geomspace(eta[0], eta[-1], POINTS) if eta[0] > 0 else np.linspace(eta[0], eta[-1], POINTS)


def _growth(axes: Axes, config: Any, result: Result, eta: np.ndarray, order: np.ndarray) -> None:
    from allora_analysis.plotting import ARMS, COLOURS

    decade = math.log(10)
    predicted, measured = result.predicted, result.measured
    scales = Scales(*(predicted[name] for name in Scales._fields))
    grid = _fine(eta)
    shape = config.depth, config.width, config.rank
    growths = [stack.typical_growth(*shape, float(value), scales, config.architecture) for value in grid]
    bands = np.array([stack.typical_band(*shape, float(value), scales, config.architecture) for value in grid]) / decade
    marker = "" if len(eta) > 1 else "_"  # a single point draws no line
    blue, bound = COLOURS["predicted"], np.array(predicted["log_bound"])[order] / decade
    aligned, typical = np.array(measured["log_aligned"])[order] / decade, [growth.mean / decade for growth in growths]
    axes.plot(eta, bound, color=COLOURS["bound"], marker=marker, label="bound")
    axes.plot(eta, aligned, "D", ms=4, color=COLOURS["attained"], label="aligned network (attains it)")
    axes.plot(grid, typical, color=blue, marker=marker, label="typical, predicted")
    axes.fill_between(grid, *bands.T, color=blue, alpha=0.2, lw=0, label="95 % of networks")
    _simulated(axes, "typical", measured, eta, order, fmt="o", color=COLOURS["measured"], label="typical, simulated")
    _simulated(axes, "asf", measured, eta, order, fmt="^", color=ARMS["asf_lora"].colour, label="ASF-LoRA")
    _powers_of_ten(axes)
    axes.set_ylabel(r"growth $\|f_L(x)\| \, / \, \|x\|$")
    axes.legend(fontsize=8, loc="best", framealpha=0)


def _simulated(
    axes: Axes, name: str, measured: Mapping[str, Any], eta: np.ndarray, order: np.ndarray, **style: Any
) -> None:
    means, errors = ([measured[key][i] for i in order] for key in (f"log_{name}", f"log_{name}_stderr"))
    known = [i for i, value in enumerate(means) if value is not None]
    heights, bars = ([values[i] / math.log(10) for i in known] for values in (means, errors))
    axes.errorbar(eta[known], heights, [2 * bar for bar in bars], ms=4, **style)


def _shares(axes: Axes, config: Any, result: Result, eta: np.ndarray, order: np.ndarray) -> None:
    from allora_analysis.plotting import COLOURS

    for name, role, label in (
        ("log_bound_adapter", "bound", "bound: linear in η while ηm ≪ 1"),
        ("log_typical_adapter", "predicted", "typical: quadratic in η at first"),
    ):
        values = [result.predicted[name][i] for i in order]
        if None in values:  # without W there is no share to tell
            axes.text(0.5, 0.5, "w_std = 0: all growth is η's", ha="center", transform=axes.transAxes)
            return
        axes.plot(eta, values, marker="o", ms=3, color=COLOURS[role], label=label)
    if any(np.max(line.get_ydata()) > 0 for line in axes.lines):
        axes.set_yscale("log", nonpositive="clip")
    axes.set_ylabel("what η adds to log growth (nats)")
    axes.legend(fontsize=8)
