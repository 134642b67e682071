"""`python -m allora_analysis.tikhonov`: the ridge nearest to dropout as the spectrum of X spreads.

Checked by `tests/test_tikhonov_monte_carlo.py`.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from allora_analysis import validation
from allora_analysis.deviation.law import moments_of
from allora_analysis.study import Result, Study, Table, sweep, text
from allora_analysis.tikhonov import masks
from allora_analysis.tikhonov.bottleneck import least_factors, least_fit, soft_threshold
from allora_analysis.tikhonov.loss import PLACEMENTS, X, Y, dropout_weights, input_std, mean_loss, singular_basis
from allora_analysis.tikhonov.masks import SampleMean, sample_mean
from allora_analysis.tikhonov.ridge import NearestRidge, nearest_to_fit

EVERYWHERE = (*PLACEMENTS, "bottleneck")
CURVE_POINTS = 25
EQUAL = 1e-9  # a distance that is rounding
MARKS = {"output": ("plain", "o"), "input": ("predicted", "s"), "bottleneck": ("dropout", "^")}
RARE = 1000  # kept or dropped mask entries, whichever are rarer, that a sample needs to tell its own standard error


@dataclass(frozen=True)
class Config:
    """Dropout in a linear model, beside the Tikhonov regularization (ridge) that is nearest to it (§3.1)."""

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
    """Masks drawn to measure the loss at the minimizer, 2 or more."""
    seed: int = 0
    """Seed of the data and of the masks."""


class Problems:
    """One X per condition number: the singular bases, true weights and noise stay, only singular values move."""

    def __init__(self, samples: int, features: int, outputs: int, noise: float, seed: int | list[int]):
        generator = np.random.default_rng(seed)
        self.left = np.linalg.qr(generator.standard_normal((samples, features)))[0]
        self.right = np.linalg.qr(generator.standard_normal((features, features)))[0]
        self.weights = generator.standard_normal((features, outputs))
        self.noise = noise * generator.standard_normal((samples, outputs))

    def at(self, condition: float) -> tuple[X, Y]:
        """X with this condition number, entries of unit mean square, and Y = X·weights + noise."""
        s = np.geomspace(1.0, 1.0 / condition, len(self.right))
        x = (self.left * (s * np.sqrt(self.left.size / np.sum(s**2)))) @ self.right.T
        return x, x @ self.weights + self.noise


def dropout_fit(x: X, y: Y, keep_prob: float, placement: str, rank: int) -> Y:
    """XW at dropout's minimizer; the rank is a bottleneck's alone."""
    if placement == "bottleneck":
        basis = singular_basis(x)[0]
        return least_fit(basis @ (basis.T @ y), keep_prob, rank)
    return x @ dropout_weights(x, y, keep_prob, placement)


def _nearest(x: X, y: Y, keep_prob: float, placement: str, rank: int) -> NearestRidge:
    """The nearest ridge for any of the three placements; without dropout least squares itself."""
    if keep_prob == 1 and placement != "bottleneck":
        return NearestRidge(0.0, 0.0)
    return nearest_to_fit(x, y, dropout_fit(x, y, keep_prob, placement, rank))


def shrinkage(x: X, keep_prob: float, placement: str) -> tuple[Float[np.ndarray, " R"], Float[np.ndarray, " R"]]:
    """By how much dropout's fit multiplies targets that lie along one singular direction u of X: uᵀ·fit(Y = u)."""
    # It is p for output masks and s²/(s² + λ) for a ridge. Input masks also turn the fit; this is the part along u.
    u, s, _ = singular_basis(x)
    return s, np.sum(u * (x @ dropout_weights(x, u, keep_prob, placement)), axis=0)


def bottleneck_shrinkage(
    x: X, y: Y, keep_prob: float, rank: int
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"]]:
    """By how much a bottleneck's fit multiplies each singular direction of the least-squares fit XX⁺Y: (σ − τ)₊/σ."""
    basis = singular_basis(x)[0]
    _, values, _ = singular_basis(basis @ (basis.T @ y))
    return values, soft_threshold(values, keep_prob, rank) / values


@dataclass(frozen=True)
class Row:
    """One condition number's outcome."""

    nearest: NearestRidge
    loss: float
    sampled: SampleMean
    stderr: float
    """Of the sampled mean: its own, or the exact one where the draws hold too few rare entries to tell."""


def _bottleneck_width(config: Config) -> int:
    """The rank asked for, or the default that fits the model."""
    if config.rank is None:
        return min(4, config.features, config.outputs)
    return validation.adapter_rank(config.rank, config.features, config.outputs)


def validate(config: Config) -> None:
    """Refuse a config that makes no sense, before anything is computed."""
    features = validation.count("features", config.features, minimum=2)
    validation.count("outputs", config.outputs)
    if validation.count("samples", config.samples) < features:
        raise validation.ArgumentError(f"samples must be at least features = {features}, received {config.samples}")
    validation.keep_probability(config.keep_prob)
    validation.choice("placement", config.placement, EVERYWHERE)
    _bottleneck_width(config)
    for value in validation.several("spread", config.spread):
        if not 1.0 <= validation.number("spread", value) <= 1e12:
            raise validation.ArgumentError(f"spread must be condition numbers in [1, 1e12], received {value!r}")
    validation.non_negative("noise", config.noise)
    validation.count("draws", config.draws, minimum=2)
    validation.count("seed", config.seed, minimum=0)


def _row(config: Config, x: np.ndarray, y: np.ndarray, generator: np.random.Generator) -> Row:
    # The nearest ridge, and the loss at dropout's minimizer in closed form and with drawn masks.
    p, placement, rank = config.keep_prob, config.placement, _bottleneck_width(config)
    if placement == "bottleneck":
        factors = least_factors(x, y, p, rank)
        latent, w = x @ factors.a.T, factors.b.T
        loss, std = mean_loss(latent, y, w, p, "input"), input_std(latent, y, w, p)
        entries, draws = latent.size, masks.input_losses(latent, y, w, p, config.draws, generator)
    else:
        w = dropout_weights(x, y, p, placement)
        loss = mean_loss(x, y, w, p, placement)
        inside = placement == "input"
        std, entries = input_std(x, y, w, p) if inside else moments_of(x, y, w, p)[1], (x if inside else y).size
        draw = masks.input_losses if inside else masks.output_losses
        draws = draw(x, y, w, p, config.draws, generator)
    sampled, enough = sample_mean(draws), config.draws * entries * min(p, 1 - p) >= RARE
    stderr = sampled.stderr if enough else std / math.sqrt(config.draws)
    return Row(_nearest(x, y, p, placement, rank), loss, sampled, stderr)


def standardised(row: Row) -> float:
    """z, measured minus predicted loss in standard errors; 0 for rounding, ±∞ for what no mask changes and is off."""
    gap = row.sampled.mean - row.loss
    if abs(gap) <= 1e-10 * row.loss:
        return 0.0
    return gap / row.stderr if row.stderr > 0 else math.copysign(math.inf, gap)


def run(config: Config) -> Result:
    """Sweep X's condition number; curves on a finer grid, and shrinkage by singular direction at the largest spread."""
    validate(config)
    problems = Problems(config.samples, config.features, config.outputs, config.noise, config.seed)
    generators = np.random.default_rng([config.seed, 1]).spawn(len(config.spread))
    tasks = list(zip(config.spread, generators, strict=True))
    rows, interrupted = sweep(tasks, lambda task: _row(config, *problems.at(task[0]), task[1]), "condition numbers")
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
    p, rank = config.keep_prob, _bottleneck_width(config)
    spreads = np.geomspace(1.0, max(largest, 10.0), CURVE_POINTS)
    x, y = problems.at(largest)
    penalty = _nearest(x, y, p, config.placement, rank).penalty
    curves: dict[str, Any] = {"curve_spread": spreads}
    for placement in EVERYWHERE:
        found = [_nearest(*problems.at(spread), p, placement, rank) for spread in spreads]
        curves[f"curve_distance_{placement}"] = np.array([ridge.distance for ridge in found])
    for placement in PLACEMENTS:
        curves["singular_values"], curves[f"shrinkage_{placement}"] = shrinkage(x, p, placement)
    curves["shrinkage_ridge"] = 1 / (1 + penalty / curves["singular_values"] ** 2)
    curves["fitted_singular_values"], curves["shrinkage_bottleneck"] = bottleneck_shrinkage(x, y, p, rank)
    return curves


def table(config: Config, result: Result) -> Table:
    """A row for each condition number."""
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
    scale += f", rank = {_bottleneck_width(config)}" if config.placement == "bottleneck" else ""
    return Table(
        f"Dropout on the {config.placement} beside the nearest ridge ({scale})",
        ("s_max/s_min of X", "nearest λ", "distance", "expected loss", f"over {config.draws} masks", "z"),
        rows,
        [
            "distance = ‖X(W_drop − W_λ)‖/‖XW_drop‖, least over λ in [0, ∞]; losses at dropout's minimizer W_drop; z: "
            "the mean over masks minus the expected loss, in standard errors."
        ],
        finding=_finding(predicted),
    )


def _finding(predicted: Any) -> str:
    equal = [distance < EQUAL for distance in predicted["distance"]]
    if all(equal):
        return "Dropout's fit is a ridge's, at every condition number of X here."
    off = [100 * distance for distance, same in zip(predicted["distance"], equal, strict=True) if not same]
    far = " to ".join(dict.fromkeys((text(min(off), 2), text(max(off), 2))))
    where = ", ".join(text(spread) for spread, same in zip(predicted["spread"], equal, strict=True) if same)
    but = f"a ridge's only at condition number {where} of X; elsewhere" if where else "no ridge's:"
    return f"Dropout's fit is {but} the nearest ridge's differs by {far} % of its norm."


def plot(config: Config, result: Result) -> Any:  # a Figure, of which nothing is imported until it is drawn
    """Left: distance to the nearest ridge as the spectrum spreads. Then: shrinkage by singular direction."""
    from allora_analysis.plotting import COLOURS, panels

    predicted = result.predicted
    figure, (distance, linear, bottleneck) = panels(columns=3)
    for placement, (role, _) in MARKS.items():
        curve = predicted[f"curve_distance_{placement}"]
        distance.plot(predicted["curve_spread"], curve, color=COLOURS[role], label=placement)
    rows = {"color": COLOURS["measured"], "ms": 4, "label": "rows of the table"}
    distance.plot(predicted["spread"], predicted["distance"], "o", **rows)
    distance.set(xscale="log", xlabel="condition number of X", ylabel="‖X(W_drop − W_λ)‖ / ‖XW_drop‖")
    distance.set_title(f"{config.placement} masks: up to {100 * max(predicted['distance']):.0f} % from any ridge")
    distance.set_ylim(0, 1.3 * distance.dataLim.y1)  # room for the legend
    for placement in ("output", "input"):
        _share(linear, predicted["singular_values"], predicted[f"shrinkage_{placement}"], placement)
    ridge = {"color": COLOURS["measured"], "lw": 1.2, "label": f"ridge nearest to {config.placement}"}
    linear.plot(predicted["singular_values"], predicted["shrinkage_ridge"], **ridge)
    linear.set(xscale="log", xlabel="singular value of X", ylabel="factor on the fit along it", ylim=(-0.05, 1.05))
    linear.set_title(f"shrinkage at condition number {text(max(predicted['spread']))}")
    _share(bottleneck, predicted["fitted_singular_values"], predicted["shrinkage_bottleneck"], "bottleneck")
    bottleneck.axhline(config.keep_prob, color=COLOURS["plain"], ls=":", lw=1.2, label="keep_prob")
    bottleneck.set(xlabel="singular value of XX⁺Y", ylabel="factor on the fit along it", ylim=(-0.05, 1.05))
    bottleneck.set_title("soft thresholding by a bottleneck")
    distance.legend(fontsize=8, frameon=False, loc="upper left", ncols=2)
    for axes in (linear, bottleneck):
        axes.legend(fontsize=8, frameon=False)
    return figure


def _share(axes: Any, values: Any, factor: Any, placement: str) -> None:
    from allora_analysis.plotting import COLOURS

    role, mark = MARKS[placement]
    axes.plot(values, factor, mark, color=COLOURS[role], ls=":", lw=0.8, ms=5, label=placement)


STUDY = Study(
    "tikhonov", Config, run, table, plot, "--placement input --keep-prob 0.9", z=lambda result: result.measured["z"]
)
