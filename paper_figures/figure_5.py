"""Figure 5 of the paper: the adaptor 1/√(|x| + 1/η²) for η² = 1, 2, 4, and beside it the family.

Left: the paper's figure. Right: the four adaptors at η² = 4 by the size of their argument, on logarithmic axes, where
the tails tell them apart: |x|^(−1/2) is the paper's, 1/|x| is what its abstract says ("inversely proportional"). From
the closed forms of `adaptors`. Checked by `tests/test_paper_figure_5.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from allora_analysis import adaptors
from allora_analysis.plotting import COLOURS, page, page_style
from paper_figures.sources import Loaded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ETA_SQUARES = (1.0, 2.0, 4.0)
STYLES = (("plain", ":"), ("bound", "--"), ("predicted", "-"))
FAMILY = {
    "inverse_sqrt": ("predicted", "-", r"$(|x| + 1/\eta^2)^{-1/2}$, the paper's"),
    "inverse": ("bound", "--", r"$(|x| + 1/\eta)^{-1}$"),
    "exponential": ("dropout", "-.", r"$\eta\,e^{-|x|\eta^2/2}$"),
    "constant": ("measured", ":", r"$\eta$: LoRA at $\eta l$"),
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
    """Draw the figure.

    Args:
        loaded: as from `load_data`.

    Returns:
        The figure.
    """
    figure, ((left, right),) = page(2.5, 1, 2)
    _paper(left, loaded.data["figure"])
    _family(right, loaded.data["family"])
    return figure


def _paper(axis: Axes, curves: dict[str, np.ndarray]) -> None:
    for square, (role, dashes) in zip(ETA_SQUARES, STYLES, strict=True):
        axis.plot(curves["x"], curves[f"{square:g}"], dashes, color=COLOURS[role], label=rf"$\eta^2 = {square:g}$")
    axis.set(xlabel="x", ylabel="1/√(|x| + 1/η²)", title="ALLoRA's adaptor (the paper's Figure 5)")
    axis.set_ylim(0, None)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=3)


def _family(axis: Axes, curves: dict[str, np.ndarray]) -> None:
    for name, (role, dashes, label) in FAMILY.items():
        axis.plot(curves["x"], curves[name], dashes, color=COLOURS[role], label=label)
    axis.set(xscale="log", yscale="log", xlabel="|x|", ylabel="factor", title=r"the family at $\eta^2 = 4$")
    axis.set_ylim(1e-3, 4)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=2)
