"""The bound of §3.1 against the exact law: how far an average over n masks is from its expectation.

Left: E|L̄_n − E L| exactly, the paper's bound Std[L]/√n, and drawn masks (mean ± 2 standard errors), over n. Right: the
exact value's share of the bound, by keep probability: it tends to √(2/π) ≈ 0.80, sooner where a mask drops more
entries. From `allora_analysis.deviation`. Checked by `tests/test_paper_figures_lacking.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from allora_analysis.deviation.law import LIMIT, exact_deviation
from allora_analysis.deviation.study import Config, data, run
from allora_analysis.plotting import COLOURS, page, page_style, shades
from allora_analysis.study import Result
from paper_figures.sources import Loaded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONFIG = Config(masks=(1, 3, 10, 30, 100, 300, 1000), draws=2000)
KEEP_PROBS = (0.5, 0.9, 0.99, 0.999)
DASHES = ("-", "--", "-.", ":")


class Deviations(NamedTuple):
    """The study's config and result, and by keep probability the exact value over the bound at the config's n."""

    config: Config
    result: Result
    shares: dict[float, list[float]]


def load_data(config: Config = CONFIG, keep_probs: tuple[float, ...] = KEEP_PROBS) -> Loaded[Deviations]:
    """Run the study; the exact law at the right panel's keep probabilities."""
    x, y, w = data(config)
    shares = {keep: [exact_deviation(x, y, w, keep, n).ratio for n in config.masks] for keep in keep_probs}
    return Loaded(Deviations(config, run(config), shares))


@page_style()
def make_figure(loaded: Loaded[Deviations]) -> Figure:
    """Draw the figure."""
    config, result, shares = loaded.data
    figure, ((left, right),) = page(2.6, 1, 2)
    _deviations(left, result)
    _shares(right, config.masks, shares)
    share, setting = (
        result_share(result),
        f"{config.samples} × {config.outputs} outputs, keep_prob = {config.keep_prob:g}",
    )
    left.set_title(f"The distance is {share} of the paper's bound\n({setting})")
    right.set_title(f"and tends to √(2/π) = {LIMIT:.2f} of it,\nlater where little is dropped")
    for axis in (left, right):
        axis.set(xscale="log", xlabel="masks in the average, n")
    return figure


def result_share(result: Result) -> str:
    """The exact distance over the bound, at all n: the range, or the value where two digits show one."""
    ratios = np.asarray(result.predicted["deviation"]) / np.asarray(result.predicted["bound"])
    return " to ".join(dict.fromkeys(f"{end:.2f}" for end in (ratios.min(), ratios.max())))


def _deviations(axis: Axes, result: Result) -> None:
    p, m = result.predicted, result.measured
    axis.plot(p["masks"], p["bound"], "--", color=COLOURS["bound"], label="the paper's bound, Std[L]/√n")
    axis.plot(p["masks"], p["deviation"], color=COLOURS["predicted"], label="exact")
    errors, label = 2 * np.array(m["deviation_stderr"]), "drawn masks, ± 2 s.e."
    axis.errorbar(m["masks"], m["deviation"], errors, fmt="o", ms=3, color=COLOURS["measured"], label=label)
    axis.set(yscale="log", ylabel="E |mean loss − expected loss|")
    axis.legend(loc="lower left")


def _shares(axis: Axes, masks: tuple[int, ...], shares: dict[float, list[float]]) -> None:
    for index, ((keep, ratios), colour) in enumerate(zip(shares.items(), shades(len(shares)), strict=True)):
        axis.plot(masks, ratios, DASHES[index % len(DASHES)], color=colour, label=f"keep_prob = {keep:g}")
    axis.axhline(1, color=COLOURS["bound"], lw=0.8)
    axis.text(masks[-1], 1, "the bound", ha="right", va="bottom", color=COLOURS["bound"])
    axis.axhline(LIMIT, color=COLOURS["measured"], lw=0.8)
    axis.text(masks[-1], LIMIT, "√(2/π), the limit", ha="right", va="bottom")
    axis.set(ylim=(0, 1.12), ylabel="exact / bound")
    axis.legend(loc="lower right")
