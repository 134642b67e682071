"""The ripple effect (§3.3), worst case against typical: what a scaling factor η does over L layers.

Left: the bound, the aligned network that attains it, the typical network's predicted growth with the band that holds
95 % of networks, and simulated networks (mean ± 2 standard errors). Right: what η adds to the logarithm of growth; the
bound's share is linear in η at first, the typical one quadratic. From the closed forms and the simulation of
`allora_analysis.ripple`. Checked by `tests/test_paper_figures_lacking.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.ticker import NullLocator

from allora_analysis.plotting import ARMS, COLOURS, page, page_style
from allora_analysis.ripple import study
from allora_analysis.ripple.bounds import Scales
from allora_analysis.ripple.growth import Growth, fluctuation_band
from allora_analysis.ripple.study import Config, run
from allora_analysis.study import Result
from paper_figures.sources import Loaded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONFIG = Config(depth=48, width=256, rank=8, eta=(0.25, 0.5, 1.0, 2.0, 4.0))
POINTS = 60
DECADE = math.log(10)


class Ripple(NamedTuple):
    """The study's config and result; typical growth on a fine grid of η: mean, and the ends of the 95 % band (nats)."""

    config: Config
    result: Result
    eta: np.ndarray
    typical: np.ndarray
    band: np.ndarray


def load_data(config: Config = CONFIG) -> Loaded[Ripple]:
    """Run the study, η ascending: its result, and the typical growth between its η."""
    result = run(config)
    scales = Scales(*(result.predicted[name] for name in Scales._fields))
    eta = np.geomspace(config.eta[0], config.eta[-1], POINTS)
    shape = config.depth, config.width, config.rank
    growths = [Growth(*study.typical_growth(*shape, float(one), scales, config.architecture)) for one in eta]
    means, bands = [growth.mean for growth in growths], [fluctuation_band(growth) for growth in growths]
    return Loaded(Ripple(config, result, eta, np.array(means), np.array(bands)))


@page_style()
def make_figure(loaded: Loaded[Ripple]) -> Figure:
    """Draw the figure."""
    data = loaded.data
    figure, ((left, right),) = page(3.2, 1, 2)
    _growth(left, data)
    _shares(right, data)
    config = data.config
    shape = f"{config.architecture} stack, L = {config.depth} layers, width {config.width}, rank {config.rank}"
    shape += ", ‖BA‖ ≈ ‖W‖; the paper's η: 1 to 2"
    figure.supxlabel(shape, fontsize=7)
    for axis in (left, right):
        axis.set(xlabel="scaling factor η", xscale="log")
        axis.set_xticks(config.eta, [f"{value:g}" for value in config.eta])
        axis.xaxis.set_minor_locator(NullLocator())
    return figure


def _growth(axis: Axes, data: Ripple) -> None:
    predicted, measured, eta = data.result.predicted, data.result.measured, data.config.eta
    axis.plot(eta, np.array(predicted["log_bound"]) / DECADE, color=COLOURS["bound"], label="bound")
    aligned = np.array(measured["log_aligned"]) / DECADE
    axis.plot(eta, aligned, "D", color=COLOURS["attained"], label="aligned: attains it")
    axis.plot(data.eta, data.typical / DECADE, color=COLOURS["predicted"], label="typical, predicted")
    band = {"color": COLOURS["predicted"], "alpha": 0.2, "lw": 0, "label": "95 % of networks"}
    axis.fill_between(data.eta, *(data.band.T / DECADE), **band)
    _simulated(axis, data, "typical", fmt="o", color=COLOURS["measured"], label="typical, simulated")
    look = ARMS["asf_lora"]
    _simulated(axis, data, "asf", fmt=look.marker, color=look.colour, label=f"{look.label}, simulated")
    # Growth itself would not fit a float at large η: the axis is linear in its logarithm.
    axis.yaxis.set_major_formatter(lambda value, _: f"$10^{{{value:g}}}$")
    axis.set_ylabel(r"growth $\|f_L(x)\| \, / \, \|x\|$")
    last = [round(float(series[-1]) / DECADE) for series in (predicted["log_bound"], predicted["log_typical"])]
    axis.set_title(
        f"At η = {eta[-1]:g} the output grows\n10$^{{{last[0]}}}$-fold at worst, 10$^{{{last[1]}}}$-fold at random"
    )
    axis.legend(loc="upper center", bbox_to_anchor=(0.45, -0.2), ncols=2, columnspacing=1)


def _simulated(axis: Axes, data: Ripple, name: str, **style) -> None:
    measured = data.result.measured
    means, errors = (np.array(measured[key], dtype=float) for key in (f"log_{name}", f"log_{name}_stderr"))
    axis.errorbar(data.config.eta, means / DECADE, 2 * errors / DECADE, ms=3, **style)


def _shares(axis: Axes, data: Ripple) -> None:
    for name, role, marker, label in (
        ("log_bound_adapter", "bound", "s", "bound: linear in η at first"),
        ("log_typical_adapter", "predicted", "o", "typical: quadratic in η at first"),
    ):
        values = data.result.predicted[name]
        axis.plot(data.config.eta, values, marker=marker, color=COLOURS[role], label=label)
    added = [data.result.predicted[name] for name in ("log_bound_adapter", "log_typical_adapter")]
    times = [of[1] / of[0] for of in added]
    eta = data.config.eta
    told = f"{times[0]:.1f}-fold at worst, {times[1]:.1f}-fold at random"
    axis.set_title(f"From η = {eta[0]:g} to {eta[1]:g} what η adds grows\n{told}")
    axis.set(yscale="log", ylabel="what η adds to log growth, nats")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
