"""Zero initialization (§3.2): the spectrum of the Hessian in (A, B) where LoRA starts, and where both factors are 0.

The eigenvalues of ∇²L in ascending order, from the closed form q_k ± √(q_k² + σ_i²), q the eigenvalues of ASAᵀ and σ
the singular values of G = ∂L/∂(BA), with the eigenvalues of the dense Hessian on top. Left: B = 0, A random: no
critical point, r·rank G negative directions. Right: A = B = 0: ±σ_i, each r times, a saddle point. From
`allora_analysis.hessian`. Checked by `tests/test_paper_figures_lacking.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from allora_analysis.hessian.study import Config, run
from allora_analysis.plotting import COLOURS, page, page_style
from paper_figures.sources import Loaded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONFIG = Config(ratios=(1.0,), draws=2)  # the spectra alone: condition numbers are the study's own figure
STARTS = {"lora": "LoRA's start, B = 0 and A random", "both_zero": "A = B = 0"}
SHOWN = 50  # dense eigenvalues


class Spectra(NamedTuple):
    """The study's config, and by start its predicted and measured parts."""

    config: Config
    predicted: dict[str, dict[str, Any]]
    measured: dict[str, dict[str, Any]]


def load_data(config: Config = CONFIG) -> Loaded[Spectra]:
    """Run the study."""
    result = run(config)
    predicted, measured = ({name: side[name] for name in STARTS} for side in (result.predicted, result.measured))
    return Loaded(Spectra(config, predicted, measured))


@page_style()
def make_figure(loaded: Loaded[Spectra]) -> Figure:
    """Draw the figure."""
    data = loaded.data
    figure, (axes,) = page(2.7, 1, 2, sharey=True)
    for axis, name in zip(axes, STARTS, strict=True):
        _spectrum(axis, data.predicted[name], data.measured[name], STARTS[name])
    axes[0].set_ylabel("eigenvalue of ∇²L in (A, B)")
    axes[0].legend(loc="upper left")
    config = data.config
    shape = f"n₁ = {config.outputs}, n₂ = {config.features}, r = {config.rank}, N = {config.samples}"
    figure.suptitle(f"one layer, squared loss: {shape}")
    return figure


def kind(predicted: Mapping[str, Any]) -> str:
    """What a start is, by its gradient and its eigenvalues' signs, in words."""
    if predicted["gradient_norm"] > 0:
        return "a slope" + (", and directions of negative curvature" if predicted["negative"] else "")
    return "no slope: a saddle point" if predicted["negative"] and predicted["positive"] else "no slope"


def _spectrum(axis: Axes, predicted: dict[str, Any], measured: dict[str, Any], title: str) -> None:
    eigenvalues = np.asarray(predicted["eigenvalues"], dtype=float)
    index = np.arange(1, eigenvalues.size + 1)
    axis.step(index, eigenvalues, where="mid", color=COLOURS["predicted"], label="closed form")
    axis.axhline(0, color=COLOURS["measured"], lw=0.6)
    if measured["eigenvalues"] is not None:
        every = slice(None, None, max(1, eigenvalues.size // SHOWN))
        dense = np.asarray(measured["eigenvalues"], dtype=float)[every]
        axis.plot(index[every], dense, ".", ms=3, color=COLOURS["measured"], label="dense Hessian (every few)")
    negative, zero, positive = (predicted[sign] for sign in ("negative", "zero", "positive"))
    slope = f"‖∇$_B$L‖ = {predicted['gradient_norm']:.3g}"
    counts = f"{negative} negative\n{zero} zero\n{positive} positive\n{slope}"
    axis.text(0.97, 0.05, counts, ha="right", transform=axis.transAxes)
    axis.set(title=f"{title}:\n{kind(predicted)}", xlabel="eigenvalue, in ascending order")
