"""A figure for one η: growth layer by layer, worst case and typical. Imported only when a figure is drawn.

Checked by `tests/test_ripple_by_depth.py`.
"""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from allora_analysis import validation
from allora_analysis.plotting import COLOURS, panels, style
from allora_analysis.ripple import stack
from allora_analysis.ripple.chi_square import chi_square_growth
from allora_analysis.ripple.scales import fair_scales

DEPTHS = 12  # at which networks are simulated
DECADE = math.log(10)


def by_depth(
    depth: int = 48,
    width: int = 64,
    rank: int = 8,
    eta: float = 1.0,
    architecture: str = "linear",
    replicas: int = 40,
    seed: int = 0,
) -> Figure:
    """log₁₀(‖f_l(x)‖/‖x‖) for l = 1, …, L: the bound, typical growth with its 95 % band, and simulated networks.

    The scales are `fair_scales`: without an adapter nothing grows, and ‖BA‖ ≈ ‖W‖. Each simulated depth has networks of
    its own, drawn by the law of the norm.

    Args:
        depth: L.
        width: n of every layer.
        rank: r of every adapter.
        eta: the scaling factor η.
        architecture: "linear", "relu" or "prelayernorm".
        replicas: networks simulated at each of twelve depths.
        seed: of the layers whose norms make the bound, and of the networks.

    Returns:
        The figure.
    """
    depth, replicas = validation.count("depth", depth), validation.count("replicas", replicas)
    scales = fair_scales(width, rank, architecture)
    weights, adapters = stack.drawn_norms(depth, width, rank, scales, np.random.default_rng([seed, 1]))
    layers = np.arange(1, depth + 1)
    bound = [stack.stack_bound((weights[:at], adapters[:at]), eta, width, architecture).log_bound for at in layers]
    typical = [stack.typical_growth(int(at), width, rank, eta, scales, architecture) for at in layers]
    bands = np.array([stack.typical_band(int(at), width, rank, eta, scales, architecture) for at in layers])
    with style():
        figure, (axes,) = panels()
        axes.plot(layers, np.array(bound) / DECADE, color=COLOURS["bound"], label="bound (attained if all lines up)")
        axes.plot(layers, [growth.mean / DECADE for growth in typical], color=COLOURS["predicted"], label="typical")
        axes.fill_between(layers, *bands.T / DECADE, color=COLOURS["predicted"], alpha=0.2, lw=0, label="95 % of them")
        for at in np.unique(np.linspace(1, depth, min(DEPTHS, depth)).astype(int)):
            widths, generator = np.full(at + 1, width), np.random.default_rng([seed, 2, int(at)])
            drawn = chi_square_growth(widths, rank, np.array([eta]), scales, replicas, generator, architecture)
            label = "simulated networks" if at == 1 else None
            axes.plot(np.full(replicas, at), drawn[:, 0] / DECADE, ".", ms=2.5, color=COLOURS["measured"], label=label)
        axes.set_ylim(top=1.35 * max(bound) / DECADE)  # room for the legend
        axes.yaxis.set_major_locator(MaxNLocator(7, integer=max(bound) > 3 * DECADE))
        axes.yaxis.set_major_formatter(lambda value, _: f"$10^{{{value:g}}}$")
        axes.set(xlabel="layer l", ylabel=r"growth $\|f_l(x)\| \, / \, \|x\|$", xlim=(0, None))
        axes.set_title(f"{architecture}: η = {eta:g}, n = {width}, r = {rank}")
        axes.legend(fontsize=8, loc="upper left")
    return figure
