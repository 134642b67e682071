"""Figure 5 of the paper, redrawn from `adaptors`: 1/√(|x| + 1/η²) for η² = 1, 2, 4; and beside it the family.

Left: the paper's figure. Right: the four adaptors at η² = 4 by the size of their argument, on logarithmic axes, where
the tails tell them apart: |x|^(−1/2) is the paper's, 1/|x| is what its abstract says ("inversely proportional").
Checked by `tests/test_paper_figure_5.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from allora_analysis import adaptors
from allora_analysis.plotting import COLOURS, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ETA_SQUARES = (1.0, 2.0, 4.0)
ROLES = ("plain", "bound", "predicted")
FAMILY = {
    "inverse_sqrt": ("predicted", "-", r"$(|x| + 1/\eta^2)^{-1/2}$, the paper's"),
    "inverse": ("bound", "--", r"$(|x| + 1/\eta)^{-1}$"),
    "exponential": ("dropout", "-.", r"$\eta\,e^{-|x|\eta^2/2}$"),
    "constant": ("measured", ":", r"$\eta$: LoRA at $\eta l$"),
}
Curves = dict[str, dict[str, np.ndarray]]


def load_data() -> Curves:
    """The curves.

    Returns:
        "figure": x and, by η², the paper's adaptor; "family": x and, by name, each adaptor at η² = 4.
    """
    x, size = np.linspace(-6, 6, 601), np.geomspace(1e-3, 1e3, 241)
    figure = {f"{square:g}": adaptors.inverse_sqrt(x, math.sqrt(square)) for square in ETA_SQUARES}
    family = {name: getattr(adaptors, name)(size, math.sqrt(ETA_SQUARES[-1])) for name in FAMILY}
    return {"figure": {"x": x, **figure}, "family": {"x": size, **family}}


def make_figure(data: Curves) -> Figure:
    """Draw the figure.

    Args:
        data: as from `load_data`.

    Returns:
        The figure.
    """
    figure, (left, right) = panels(columns=2)
    _paper(left, data["figure"])
    _family(right, data["family"])
    return figure


def _paper(axis: Axes, curves: dict[str, np.ndarray]) -> None:
    for square, role in zip(ETA_SQUARES, ROLES, strict=True):
        axis.plot(curves["x"], curves[f"{square:g}"], color=COLOURS[role], label=rf"$\eta^2 = {square:g}$")
    axis.set(xlabel="x", ylabel=r"$1/\sqrt{|x| + 1/\eta^2}$", title="ALLoRA's adaptor (the paper's Figure 5)")
    axis.set_ylim(0, None)
    axis.legend()


def _family(axis: Axes, curves: dict[str, np.ndarray]) -> None:
    for name, (role, dashes, label) in FAMILY.items():
        axis.plot(curves["x"], curves[name], dashes, color=COLOURS[role], label=label)
    axis.set(xscale="log", yscale="log", xlabel="|x|", ylabel="factor", title=r"the family at $\eta^2 = 4$")
    axis.set_ylim(1e-3, 4)
    axis.legend(fontsize=8, loc="lower left")
