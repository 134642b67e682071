"""Few steps under dropout (§3.1): from which step is it ahead of plain gradient descent, and how does noise decide it?

Left: the population risk by step on one data set: dropout SGD exactly and in simulated runs (mean ± 2 standard errors),
its mean (gradient descent on the regularised objective) and plain gradient descent. Right: the crossover, the first
step at which dropout's risk is the lower one, on several data sets by the noise in the targets, for masks on the output
(the paper's) and on the input (LoRA as shipped); the line is the upper median, "none" above every step. From
`allora_analysis.dropout_sgd`, exact but for the simulated runs. Checked by `tests/test_paper_figures_lacking.py`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.ticker import FixedLocator, NullLocator

from allora_analysis.dropout_sgd.moments import trajectory
from allora_analysis.dropout_sgd.stability import stability_limits
from allora_analysis.dropout_sgd.study import FRACTION, Config, run
from allora_analysis.plotting import COLOURS, page, page_style
from allora_analysis.study import Result
from paper_figures.sources import Loaded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONFIG = Config(noise=1.0, steps=1000)
NOISES = (0.25, 0.5, 1.0, 2.0, 4.0)
DATA_SETS = 6
PLACEMENTS = {"output": ("dropout", "o", "-"), "input": ("predicted", "s", "--")}
CURVES = (
    ("risk_plain", "plain", "-", "plain gradient descent"),
    ("risk_marginal", "predicted", "--", "mean of dropout SGD"),
    ("risk", "dropout", "-", "dropout SGD"),
)


class Crossovers(NamedTuple):
    """The study's config and result; by placement and noise the crossover of each data set, None where it has none."""

    config: Config
    result: Result
    steps: Mapping[str, Mapping[float, list[int | None]]]


def load_data(
    config: Config = CONFIG, noises: tuple[float, ...] = NOISES, data_sets: int = DATA_SETS
) -> Loaded[Crossovers]:
    """Run the study; crossovers on further data sets of its law, at its keep probability, rate and steps.

    Args:
        config: the study's.
        noises: standard deviations of the noise in Y, where the signal's is 1.
        data_sets: how many at each noise.

    Returns:
        The numbers.
    """
    steps = {
        placement: {
            noise: [_crossover(config, placement, noise, seed) for seed in range(data_sets)] for noise in noises
        }
        for placement in PLACEMENTS
    }
    return Loaded(Crossovers(config, run(config), steps))


def _crossover(config: Config, placement: str, noise: float, seed: int) -> int | None:
    generator = np.random.default_rng([config.seed, 2, seed])  # the same X, W and shape of noise at every level
    x = generator.standard_normal((config.samples, config.features))
    w = generator.standard_normal((config.features, config.outputs)) / np.sqrt(config.features)
    y = x @ w + noise * generator.standard_normal((config.samples, config.outputs))
    rate = FRACTION * stability_limits(x, config.keep_prob, placement).mean_square
    return trajectory(x, y, config.keep_prob, rate, config.steps, placement, w_true=w).crossover


@page_style()
def make_figure(loaded: Loaded[Crossovers]) -> Figure:
    """Draw the figure.

    Args:
        loaded: as from `load_data`.

    Returns:
        The figure.
    """
    config, result, steps = loaded.data
    figure, ((left, right),) = page(3.1, 1, 2)
    _risks(left, config, result)
    _steps(right, config, steps)
    figure.suptitle(f"N = {config.samples}, D = {config.features}, keep_prob = {config.keep_prob:g}, W₀ = 0")
    return figure


def _risks(axis: Axes, config: Config, result: Result) -> None:
    p, m = result.predicted, result.measured
    for name, role, dashes, label in CURVES:
        axis.plot(p["curve_step"], p[f"curve_{name}"], dashes, color=COLOURS[role], label=label)
    errors, label = 2 * np.asarray(m["risk_stderr"]), f"{m['replicas']} runs, ± 2 s.e."
    axis.errorbar(p["step"], m["risk"], errors, fmt=".", ms=4, color=COLOURS["measured"], label=label)
    if p["crossover"] is not None:
        label = f"crossover, step {p['crossover']}"
        axis.axvline(p["crossover"], color=COLOURS["measured"], lw=0.8, ls=":", label=label)
    axis.set(xscale="log", xlabel="step", ylabel="population risk E‖W − W$_{\\mathrm{true}}$‖²")
    axis.set_title(f"{config.placement} masks, noise {config.noise:g}")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


def _steps(axis: Axes, config: Config, steps: Mapping[str, Mapping[float, list[int | None]]]) -> None:
    never = 3 * config.steps  # a line of its own above the axis' last step
    for shift, (placement, of) in zip((0.94, 1.06), steps.items(), strict=True):
        (role, marker, dashes), noises = PLACEMENTS[placement], list(of)
        heights = {noise: [never if step is None else step for step in found] for noise, found in of.items()}
        middle = [statistics.median_high(heights[noise]) for noise in noises]
        label = f"{placement} masks, upper median of {len(of[noises[0]])}"
        axis.plot(noises, middle, dashes, color=COLOURS[role], label=label)
        for noise, found in heights.items():
            axis.plot([shift * noise] * len(found), found, marker, color=COLOURS[role], ms=3, mfc="none", mew=0.7)
    axis.axhline(never, color=COLOURS["measured"], lw=0.6, ls=":")
    axis.text(max(noises), 0.9 * never, f"none within {config.steps:,} steps", ha="right", va="top")
    axis.set(xscale="log", yscale="log", xlabel="noise in Y (signal: 1)", ylabel="first step with the lower risk")
    axis.set_ylim(1, 1.6 * never)
    axis.yaxis.set_major_locator(FixedLocator([10**power for power in range(len(str(config.steps)))]))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_xticks(noises, [f"{noise:g}" for noise in noises], minor=False)
    axis.set_xticks([], minor=True)
    axis.set_title("by data set")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
