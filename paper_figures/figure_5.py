"""Figure 5 of the paper: the adaptor 1/√(|x| + 1/η²) for η² = 1, 2, 4, and beside it the family.

Left: the paper's figure. Right: the four adaptors at η² = 4 by the size of their argument, on logarithmic axes, where
the tails tell them apart: |x|^(−1/2) is the paper's, 1/|x| is what its abstract says ("inversely proportional"). From
the closed forms of `adaptors`. Checked by `tests/test_paper_figures_3_to_5.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from allora_analysis import adaptors
from allora_analysis.plotting import ARMS, page, page_style, shades
from paper_figures.sources import Loaded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ETA_SQUARES = (1.0, 2.0, 4.0)
DASHES = (":", "--", "-")
FAMILY = {
    "inverse_sqrt": (ARMS["allora"].colour, "-", r"$(|x| + 1/\eta^2)^{-1/2}$, the paper's"),
    "inverse": ("0.45", "--", r"$(|x| + 1/\eta)^{-1}$"),
    "exponential": ("0.45", "-.", r"$\eta\,e^{-|x|\eta^2/2}$"),
    "constant": (ARMS["lora_eta"].colour, ":", r"$\eta$: LoRA at $\eta l$"),
}
Curves = dict[str, dict[str, np.ndarray]]


def load_data() -> Loaded[Curves]:
    """The curves.

    Returns:
        "figure": x and, by η², the paper's adaptor; "family": x and, by name, each adaptor at η² = 4.
    """
    x, size = np.linspace(-6, 6, 601), np.geomspace(1e-3, 1e3, 241)
    figure = {f"{square:g}": adaptors.inverse_sqrt(x, math.sqrt(square)) for square in ETA_SQUARES}
    family = {name: getattr(adaptors, name)(size, math.sqrt(ETA_SQUARES[-1])) for name in FAMILY}
    return Loaded({"figure": {"x": x, **figure}, "family": {"x": size, **family}})


@page_style()
def make_figure(loaded: Loaded[Curves]) -> Figure:
    """Draw the figure."""
    figure, ((left, right),) = page(2.7, 1, 2)
    _paper(left, loaded.data["figure"])
    _family(right, loaded.data["family"])
    return figure


def _paper(axis: Axes, curves: dict[str, np.ndarray]) -> None:
    for square, dashes, colour in zip(ETA_SQUARES, DASHES, shades(len(ETA_SQUARES)), strict=True):
        axis.plot(curves["x"], curves[f"{square:g}"], dashes, color=colour, label=rf"$\eta^2 = {square:g}$")
    axis.set(xlabel="x", ylabel="1/√(|x| + 1/η²)", title="The paper's Figure 5:\nη sets the peak, not the tail")
    axis.set_ylim(0, None)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=3)


def _family(axis: Axes, curves: dict[str, np.ndarray]) -> None:
    for name, (colour, dashes, label) in FAMILY.items():
        axis.plot(curves["x"], curves[name], dashes, color=colour, label=label)
    axis.set(xscale="log", yscale="log", xlabel="|x|", ylabel="factor")
    axis.set_title("The family at $\\eta^2 = 4$:\nalike at 0, apart in the tail")
    axis.set_ylim(1e-3, 4)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=2)
