"""Few steps under dropout (§3.1): from which step is it ahead of plain gradient descent, and how does noise decide it?

Left: the population risk by step on one data set: dropout SGD exactly and in simulated runs (mean ± 2 standard errors),
its mean, dashed (gradient descent on the regularized objective), and plain gradient descent; a cross is
where each would best be stopped. Right: the crossover, the first step at which dropout's risk is the lower one, on
several data sets by the noise in the targets, for masks on the output (the paper's) and on the input (LoRA as shipped).
The line is the upper median, where there is one; data sets without a crossover stand in a strip of their own. From
`allora_analysis.dropout_sgd`, exact but for the simulated runs. Checked by `tests/test_paper_figures_lacking.py`.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

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
    ("risk_plain", "plain", {}, "plain gradient descent"),
    ("risk", "dropout", {"lw": 2}, "dropout SGD"),
    ("risk_marginal", "measured", {"ls": "--", "lw": 0.8}, "mean of dropout SGD"),
)
BESTS = ("risk_plain", "risk")


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
    """Draw the figure."""
    config, result, steps = loaded.data
    figure, ((left, right),) = page(3.5, 1, 2)
    _risks(left, config, result)
    _steps(right, config, steps)
    setting = f"N = {config.samples}, D = {config.features}, keep_prob = {config.keep_prob:g}, W₀ = 0"
    figure.supxlabel(setting, fontsize=7)
    return figure


def _risks(axis: Axes, config: Config, result: Result) -> None:
    p, m = result.predicted, result.measured
    for name, role, look, label in CURVES:
        axis.plot(p["curve_step"], p[f"curve_{name}"], color=COLOURS[role], label=label, **look)
    for name in BESTS:
        axis.plot(*_best(p, name), "x", ms=5, color=COLOURS["measured"], zorder=4)
    errors, label = 2 * np.asarray(m["risk_stderr"]), f"{m['replicas']} runs, ± 2 s.e."
    axis.errorbar(p["step"], m["risk"], errors, fmt=".", ms=4, color=COLOURS["measured"], label=label)
    if p["crossover"] is not None:
        label = f"crossover, step {p['crossover']}"
        axis.axvline(p["crossover"], color=COLOURS["measured"], lw=0.8, ls=":", label=label)
    axis.set(xscale="log", xlabel="step", ylabel="population risk E‖W − W$_{\\mathrm{true}}$‖²")
    axis.set_title(f"{_ahead(p)}\n({config.placement} masks, noise {config.noise:g})")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


def _best(p: Mapping[str, Any], name: str) -> tuple[float, float]:
    index = int(np.argmin(p[f"curve_{name}"]))
    return p["curve_step"][index], p[f"curve_{name}"][index]


def _ahead(p: Mapping[str, Any]) -> str:
    ahead = "Dropout never ahead" if p["crossover"] is None else f"Dropout ahead from step {p['crossover']}"
    plain, dropout = (_best(p, name)[1] for name in BESTS)
    return f"{ahead};\nat their best (×): dropout {dropout:.3f}, plain {plain:.3f}"


def _median(found: list[int | None]) -> float:
    return statistics.median_high([np.inf if step is None else step for step in found])


def _later(steps: Mapping[str, Mapping[float, list[int | None]]]) -> bool:
    # Whether the upper median never rises with the noise.
    medians = [[_median(of[noise]) for noise in sorted(of)] for of in steps.values()]
    return all(one >= other for row in medians for one, other in itertools.pairwise(row))


def _steps(axis: Axes, config: Config, steps: Mapping[str, Mapping[float, list[int | None]]]) -> None:
    edge, top = 2 * config.steps, 8 * config.steps  # between them, the strip of those without a crossover
    for side, (placement, of) in zip((-1, 1), steps.items(), strict=True):
        (role, marker, dashes), noises, shift = PLACEMENTS[placement], list(of), 1 + 0.06 * side
        middle = [_median(of[noise]) for noise in noises]
        label = f"{placement} masks, upper median of {len(of[noises[0]])}"
        axis.plot(noises, np.where(np.isinf(middle), np.nan, middle), dashes, color=COLOURS[role], label=label)
        for noise, found in of.items():
            within = [step for step in found if step is not None]
            axis.plot([shift * noise] * len(within), within, marker, color=COLOURS[role], ms=3, mfc="none", mew=0.7)
            if never := len(found) - len(within):
                place = edge * (1.4 if side < 0 else 2.5)
                axis.text(noise, place, f"{never} of {len(found)}", color=COLOURS[role], ha="center", va="center")
    axis.axhspan(edge, top, color="0.95", lw=0)
    axis.text(max(noises), (edge * top) ** 0.5, f"none within {config.steps:,} steps", ha="right", va="center")
    axis.set(xscale="log", yscale="log", xlabel="noise in Y (signal: 1)", ylabel="first step with the lower risk")
    axis.set(xlim=(0.7 * min(noises), max(noises) / 0.8), ylim=(1, top))
    axis.yaxis.set_major_locator(FixedLocator([10**power for power in range(len(str(config.steps)))]))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_xticks(noises, [f"{noise:g}" for noise in noises], minor=False)
    axis.set_xticks([], minor=True)
    axis.set_title("The less noise, the later dropout\nis ahead, if ever" if _later(steps) else "By data set")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
