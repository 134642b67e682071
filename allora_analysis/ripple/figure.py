"""The study's figure, over η, and one for a single η, layer by layer. Imported only when a figure is drawn.

Checked by `tests/test_ripple_study.py`.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from allora_analysis import validation
from allora_analysis.plotting import ARMS, COLOURS, panels, style
from allora_analysis.ripple import study
from allora_analysis.ripple.bounds import Scales, fair_scales
from allora_analysis.ripple.monte_carlo import chi_square_growth
from allora_analysis.study import Result

POINTS = 60
DEPTHS = 12  # at which networks are simulated layer by layer
DECADE = math.log(10)


def plot(config: Any, result: Result) -> Figure:
    """Left: worst case, aligned network, typical growth with its 95 % band and the simulation. Right: η's own share."""
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
    worst, typical = (result.predicted[name][order[-1]] / DECADE for name in ("log_bound", "log_typical"))
    told = (
        f"At η = {eta[-1]:g} the output grows 10$^{{{worst:.0f}}}$-fold at worst, 10$^{{{typical:.0f}}}$-fold at random"
    )
    stack = f"{config.architecture} stack: L = {config.depth}, n = {config.width}, r = {config.rank}"
    figure.suptitle(f"{told}\n({stack})")
    return figure


def _powers_of_ten(axes: Axes) -> None:
    """Data are log₁₀: the growth itself (10^200432) would not fit a float."""
    axes.yaxis.set_major_formatter(lambda value, _: f"$10^{{{value:g}}}$")


def _fine(eta: np.ndarray) -> np.ndarray:
    if len(eta) == 1:
        return eta
    return np.geomspace(eta[0], eta[-1], POINTS) if eta[0] > 0 else np.linspace(eta[0], eta[-1], POINTS)


def _growth(axes: Axes, config: Any, result: Result, eta: np.ndarray, order: np.ndarray) -> None:
    predicted, measured = result.predicted, result.measured
    scales = Scales(*(predicted[name] for name in Scales._fields))
    grid = _fine(eta)
    shape = config.depth, config.width, config.rank
    growths = [study.typical_growth(*shape, float(value), scales, config.architecture) for value in grid]
    bands = np.array([study.typical_band(*shape, float(value), scales, config.architecture) for value in grid]) / DECADE
    marker = "" if len(eta) > 1 else "_"  # a single point draws no line
    predicted_colour, bound = COLOURS["predicted"], np.array(predicted["log_bound"])[order] / DECADE
    aligned, typical = np.array(measured["log_aligned"])[order] / DECADE, [growth.mean / DECADE for growth in growths]
    axes.plot(eta, bound, color=COLOURS["bound"], marker=marker, label="bound")
    axes.plot(eta, aligned, "D", ms=4, color=COLOURS["attained"], label="aligned network (attains it)")
    axes.plot(grid, typical, color=predicted_colour, marker=marker, label="typical, predicted")
    axes.fill_between(grid, *bands.T, color=predicted_colour, alpha=0.2, lw=0, label="95 % of networks")
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
    heights, bars = ([values[i] / DECADE for i in known] for values in (means, errors))
    axes.errorbar(eta[known], heights, [2 * bar for bar in bars], ms=4, **style)


def _shares(axes: Axes, config: Any, result: Result, eta: np.ndarray, order: np.ndarray) -> None:
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


def by_depth(
    depth: int = 48,
    width: int = 64,
    rank: int = 8,
    eta: float = 1.0,
    architecture: str = "linear",
    replicas: int = 40,
) -> Figure:
    """log₁₀(‖f_l(x)‖/‖x‖) for l = 1, …, L: the bound, typical growth with its 95 % band, and simulated networks.

    The scales are `fair_scales`: without an adapter nothing grows, and ‖BA‖ ≈ ‖W‖. Each simulated depth has networks of
    its own, drawn by the law of the norm.
    """
    depth, replicas = validation.count("depth", depth), validation.count("replicas", replicas)
    scales = fair_scales(width, rank, architecture)
    weights, adapters = study.drawn_norms(depth, width, rank, scales, np.random.default_rng([0, 1]))
    layers = np.arange(1, depth + 1)
    bound = [study.stack_bound((weights[:at], adapters[:at]), eta, width, architecture).log_bound for at in layers]
    typical = [study.typical_growth(int(at), width, rank, eta, scales, architecture) for at in layers]
    bands = np.array([study.typical_band(int(at), width, rank, eta, scales, architecture) for at in layers])
    with style():
        figure, (axes,) = panels()
        axes.plot(layers, np.array(bound) / DECADE, color=COLOURS["bound"], label="bound (attained if all lines up)")
        axes.plot(layers, [growth.mean / DECADE for growth in typical], color=COLOURS["predicted"], label="typical")
        axes.fill_between(layers, *bands.T / DECADE, color=COLOURS["predicted"], alpha=0.2, lw=0, label="95 % of them")
        for at in np.unique(np.linspace(1, depth, min(DEPTHS, depth)).astype(int)):
            widths, generator = np.full(at + 1, width), np.random.default_rng([0, 2, int(at)])
            drawn = chi_square_growth(widths, rank, np.array([eta]), scales, replicas, generator, architecture)
            label = "simulated networks" if at == 1 else None
            axes.plot(np.full(replicas, at), drawn[:, 0] / DECADE, ".", ms=2.5, color=COLOURS["measured"], label=label)
        axes.set_ylim(top=1.35 * max(bound) / DECADE)  # room for the legend
        axes.yaxis.set_major_locator(MaxNLocator(7, integer=max(bound) > 3 * DECADE))
        axes.yaxis.set_major_formatter(lambda value, _: f"$10^{{{value:g}}}$")
        axes.set(xlabel="layer l", ylabel=r"growth $\|f_l(x)\| \, / \, \|x\|$", xlim=(0, None))
        worst, random = (round(float(one) / DECADE) for one in (bound[-1], typical[-1].mean))
        told = f"After {depth} layers 10$^{{{worst}}}$-fold at worst, 10$^{{{random}}}$-fold at random"
        axes.set_title(f"{told}\n({architecture}: η = {eta:g}, n = {width}, r = {rank})")
        axes.legend(fontsize=8, loc="upper left")
    return figure
