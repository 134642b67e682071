"""The study's figure: κ over N/D with its peak, and the spectra in (B, A). Imported only when a figure is drawn."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from allora_analysis.hessian.conditioning import marchenko_pastur_condition
from allora_analysis.plotting import COLOURS, panels
from allora_analysis.study import Result

STARTS = {"lora": ("B = 0, A random", "predicted"), "both_zero": ("A = B = 0", "attained")}


def draw(features: int, result: Result) -> Figure:
    """Left: κ of S's non-zero part against N/D, predicted and measured. Right: sorted eigenvalues of both starts.

    Args:
        features: D.
        result: the study's result.

    Returns:
        The figure.
    """
    figure, (left, right) = panels(2)
    _conditions(left, features, result)
    _spectra(right, result)
    return figure


def _conditions(axes: Axes, features: int, result: Result) -> None:
    order = np.argsort(result.predicted["n_samples"])
    ratios = np.array(result.predicted["n_samples"])[order] / features
    mean, stderr, median = (
        np.array(result.measured[f"log_condition{part}"])[order] for part in ("", "_stderr", "_median")
    )
    # A grid that avoids N = D itself, where the limit is infinite.
    grid = np.geomspace(min(ratios.min(), 0.5), max(ratios.max(), 2.0), 400)
    curve = np.array([marchenko_pastur_condition(1 / value) for value in grid])
    axes.plot(grid, curve, color=COLOURS["predicted"], label="Marchenko–Pastur limit")
    below, above = -np.exp(mean) * np.expm1(-2 * stderr), np.exp(mean) * np.expm1(2 * stderr)
    axes.errorbar(
        ratios,
        np.exp(mean),
        yerr=[below.tolist(), above.tolist()],  # lists: Matplotlib 3.8 to 3.10 trip over arrays of one element
        fmt="o",
        markersize=4,
        color=COLOURS["measured"],
        label="exp(mean log κ) ± 2 s.e.",
    )
    axes.plot(ratios, np.exp(median), "x", color=COLOURS["plain"], label="median κ")
    for ratio, square in zip(
        ratios, np.array(result.predicted["log_condition_square"], dtype=object)[order], strict=True
    ):
        if square is not None:
            axes.plot(ratio, math.exp(square), "D", mfc="none", color=COLOURS["bound"], label="Edelman at N = D")
    axes.set(xscale="log", yscale="log", xlabel="N/D, samples per feature", ylabel="κ of the non-zero part of XᵀX")
    axes.set_ylim(1, 3 * max(float(np.exp(mean.max())), 10.0))
    axes.set_title(f"Conditioning peaks at N = D (D = {features})")
    axes.legend(fontsize=7, frameon=False, loc="upper left", handlelength=1.2)


def _spectra(axes: Axes, result: Result) -> None:
    for name, (label, colour) in STARTS.items():
        predicted, dense = (
            np.array(side[name]["eigenvalues"], dtype=object) for side in (result.predicted, result.measured)
        )
        index = np.arange(1, predicted.size + 1)
        axes.step(index, predicted.astype(float), where="mid", color=COLOURS[colour], label=f"{label}: closed form")
        if dense.shape == predicted.shape:
            shown = slice(None, None, max(1, predicted.size // 60))
            axes.plot(index[shown], dense[shown].astype(float), ".", markersize=4, color=COLOURS["measured"])
    axes.plot([], [], ".", color=COLOURS["measured"], label="dense Hessian (every few)")
    axes.set(xlabel="eigenvalue, in ascending order", ylabel="eigenvalue of ∇²L in (B, A)")
    axes.set_title("At zero initialisation the Hessian is indefinite")
    axes.legend(fontsize=7, frameon=False)
