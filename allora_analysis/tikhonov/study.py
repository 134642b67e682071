"""`python -m allora_analysis.tikhonov`: the ridge nearest to dropout as the spectrum of X spreads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from allora_analysis import validation
from allora_analysis.study import Result, Study, Table, sweep, text
from allora_analysis.tikhonov.bottleneck import bottleneck_factors, bottleneck_loss
from allora_analysis.tikhonov.fluctuation import bottleneck_loss_std, loss_std
from allora_analysis.tikhonov.loss import PLACEMENTS, expected_loss
from allora_analysis.tikhonov.minimiser import dropout_solution
from allora_analysis.tikhonov.monte_carlo import SampleMean, sample_mean, sampled_bottleneck_losses, sampled_losses
from allora_analysis.tikhonov.nearest import NearestRidge
from allora_analysis.tikhonov.spread import (
    EVERYWHERE,
    Problems,
    bottleneck_shrinkage,
    nearest_ridge_anywhere,
    shrinkage,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVE_POINTS = 25
RARE = 1000  # kept or dropped mask entries, whichever are rarer, that a sample needs to tell its own standard error


@dataclass(frozen=True)
class Config:
    """Dropout in a linear model, beside the Tikhonov regularisation (ridge) that is nearest to it (§3.1)."""

    samples: int = 64
    """N, rows of X; at least FEATURES, so that the spectrum can be set."""
    features: int = 8
    """D, columns of X, 2 or more, so that a spectrum can spread."""
    outputs: int = 6
    """C, columns of Y."""
    keep_prob: float = 0.7
    """Probability in (0, 1] that a mask keeps an entry: 1 - (drop rate)."""
    placement: Literal["output", "input", "bottleneck"] = "output"
    """Where the mask acts: on XW (the paper's formula), on X (LoRA as shipped), between A and B (the paper's prose)."""
    rank: int | None = None
    """Width r of the bottleneck, at most min(FEATURES, OUTPUTS); by default 4, or that minimum where it is less."""
    spread: tuple[float, ...] = (1.0, 3.0, 10.0, 100.0)
    """Condition numbers of X to sweep, each 1 or above; singular values are spaced evenly in their logarithm."""
    noise: float = 1.0
    """Standard deviation of the targets' noise, where the signal XW has one of about √FEATURES."""
    draws: int = 4000
    """Masks drawn to measure the loss at the minimiser, 2 or more."""
    seed: int = 0
    """Seed of the data and of the masks."""


@dataclass(frozen=True)
class Row:
    """One condition number's outcome."""

    nearest: NearestRidge
    loss: float
    sampled: SampleMean
    stderr: float
    """Of the sampled mean: its own, or the exact one where the draws hold too few rare entries to tell."""


def bottleneck_width(config: Config) -> int:
    """The rank asked for, or the default that fits the model.

    Args:
        config: the config.

    Returns:
        r ≤ min(D, C).
    """
    if config.rank is None:
        return min(4, config.features, config.outputs)
    return validation.adapter_rank(config.rank, config.features, config.outputs)


def validate(config: Config) -> None:
    """Refuse a config that makes no sense, before anything is computed.

    Args:
        config: the config.

    Raises:
        ArgumentError: the first field that makes no sense.
    """
    features = validation.count("features", config.features, minimum=2)
    validation.count("outputs", config.outputs)
    if validation.count("samples", config.samples) < features:
        raise validation.ArgumentError(f"samples must be at least features = {features}, received {config.samples}")
    validation.keep_probability(config.keep_prob)
    validation.choice("placement", config.placement, EVERYWHERE)
    bottleneck_width(config)
    for value in validation.several("spread", config.spread):
        if not 1.0 <= validation.number("spread", value) <= 1e12:
            raise validation.ArgumentError(f"spread must be condition numbers in [1, 1e12], received {value!r}")
    validation.non_negative("noise", config.noise)
    validation.count("draws", config.draws, minimum=2)
    validation.count("seed", config.seed, minimum=0)


def study_row(config: Config, x: np.ndarray, y: np.ndarray, generator: np.random.Generator) -> Row:
    """The nearest ridge, and the loss at dropout's minimiser in closed form and with drawn masks.

    Args:
        config: the config.
        x: X.
        y: Y.
        generator: the masks' source.

    Returns:
        The row.
    """
    p, placement = config.keep_prob, config.placement
    if placement == "bottleneck":
        factors = bottleneck_factors(x, y, p, bottleneck_width(config))
        loss = bottleneck_loss(x, y, factors.a, factors.b, p)
        std, entries = bottleneck_loss_std(x, y, factors.a, factors.b, p), len(x) * len(factors.a)
        draws = sampled_bottleneck_losses(x, y, factors.a, factors.b, p, config.draws, generator)
    else:
        w = dropout_solution(x, y, p, placement)
        loss = expected_loss(x, y, w, p, placement)
        std, entries = loss_std(x, y, w, p, placement), (x if placement == "input" else y).size
        draws = sampled_losses(x, y, w, p, placement, config.draws, generator)
    found = nearest_ridge_anywhere(x, y, p, placement, bottleneck_width(config))
    sampled, enough = sample_mean(draws), config.draws * entries * min(p, 1 - p) >= RARE
    return Row(found, loss, sampled, sampled.stderr if enough else std / math.sqrt(config.draws))


def standardised(row: Row) -> float:
    """z, the measured minus the predicted loss in standard errors.

    Args:
        row: the row.

    Returns:
        z; 0 where both agree to rounding, ±∞ for a loss that is off and that no mask changes.
    """
    gap = row.sampled.mean - row.loss
    if abs(gap) <= 1e-10 * row.loss:
        return 0.0
    return gap / row.stderr if row.stderr > 0 else math.copysign(math.inf, gap)


def run(config: Config) -> Result:
    """Sweep X's condition number.

    Args:
        config: the config.

    Returns:
        Predicted: nearest λ, distance, expected loss by condition number; the distance of every placement on a finer
        grid; shrinkage by singular direction at the largest spread. Measured: the mean loss over drawn masks and z.
    """
    validate(config)
    problems = Problems(config.samples, config.features, config.outputs, config.noise, config.seed)
    generators = np.random.default_rng([config.seed, 1]).spawn(len(config.spread))
    tasks = list(zip(config.spread, generators, strict=True))
    rows, interrupted = sweep(
        tasks, lambda task: study_row(config, *problems.at(task[0]), task[1]), "condition numbers"
    )
    done = config.spread[: len(rows)]
    predicted = {
        "spread": np.array(done),
        "penalty": np.array([row.nearest.penalty for row in rows]),
        "distance": np.array([row.nearest.distance for row in rows]),
        "loss": np.array([row.loss for row in rows]),
        **_curves(config, problems, max(done)),
    }
    measured = {
        "spread": np.array(done),
        "loss": np.array([row.sampled.mean for row in rows]),
        "loss_stderr": np.array([row.sampled.stderr for row in rows]),
        "z": np.array([standardised(row) for row in rows]),
    }
    return Result(predicted, measured, interrupted)


def _curves(config: Config, problems: Problems, largest: float) -> dict[str, Any]:
    p, rank = config.keep_prob, bottleneck_width(config)
    spreads = np.geomspace(1.0, max(largest, 10.0), CURVE_POINTS)
    x, y = problems.at(largest)
    penalty = nearest_ridge_anywhere(x, y, p, config.placement, rank).penalty
    curves: dict[str, Any] = {"curve_spread": spreads}
    for placement in EVERYWHERE:
        found = [nearest_ridge_anywhere(*problems.at(spread), p, placement, rank) for spread in spreads]
        curves[f"curve_distance_{placement}"] = np.array([ridge.distance for ridge in found])
    for placement in PLACEMENTS:
        curves["singular_values"], curves[f"shrinkage_{placement}"] = shrinkage(x, p, placement)
    curves["shrinkage_ridge"] = 1 / (1 + penalty / curves["singular_values"] ** 2)
    curves["fitted_singular_values"], curves["shrinkage_bottleneck"] = bottleneck_shrinkage(x, y, p, rank)
    return curves


def table(config: Config, result: Result) -> Table:
    """A row for each condition number.

    Args:
        config: the config.
        result: what `run` returned.

    Returns:
        The table.
    """
    predicted, measured = result.predicted, result.measured
    columns = ("penalty", "distance", "loss")
    rows = [
        [
            text(spread),
            *(text(predicted[name][i], 5) for name in columns),
            f"{text(measured['loss'][i], 5)} ± {text(measured['loss_stderr'][i], 2)}",
            f"{measured['z'][i]:+.2f}",
        ]
        for i, spread in enumerate(predicted["spread"])
    ]
    scale = f"N = {config.samples}, D = {config.features}, C = {config.outputs}, keep_prob = {config.keep_prob}"
    scale += f", rank = {bottleneck_width(config)}" if config.placement == "bottleneck" else ""
    return Table(
        f"Dropout on the {config.placement} beside the nearest ridge ({scale})",
        ("s_max/s_min of X", "nearest λ", "distance", "expected loss", f"over {config.draws} masks", "z"),
        rows,
        ["distance = ‖X(W_drop − W_λ)‖/‖XW_drop‖, least over λ in [0, ∞]; losses at dropout's minimiser W_drop."],
    )


def plot(config: Config, result: Result) -> Figure:
    """Distance to the nearest ridge as the spectrum spreads; shrinkage by singular direction at the largest spread.

    Args:
        config: the config.
        result: what `run` returned.

    Returns:
        The figure.
    """
    from allora_analysis.tikhonov.figure import draw

    return draw(config, result)


STUDY = Study("tikhonov", Config, run, table, plot)
