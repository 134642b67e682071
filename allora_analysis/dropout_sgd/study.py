"""The study: dropout SGD's moments predicted beside many simulated runs, its risk beside two gradient descents.

Data: X with i.i.d. standard normal entries, W_true with entries N(0, 1/D), Y = X W_true + noise, population Σ = I.
`tests/test_dropout_sgd_study.py` runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from allora_analysis import validation
from allora_analysis.dropout_sgd.figure import plot
from allora_analysis.dropout_sgd.moments import Trajectory, trajectory
from allora_analysis.dropout_sgd.monte_carlo import Simulation, simulate
from allora_analysis.dropout_sgd.stability import stability_limits
from allora_analysis.dropout_sgd.stationary import stationary_moments
from allora_analysis.study import Result, Study, Table, sweep, text

FRACTION = 0.1  # of the mean-square limit: the default learning rate
GROUPS = 10  # the replicas run in so many parts, so that Ctrl-C keeps those finished
HEADINGS = ("step", "‖E W‖", "gap*", "tr Cov", "measured", "risk", "measured", "regularised GD", "plain GD", "averaged")
CURVES = ("risk", "risk_marginal", "risk_plain", "risk_average")


@dataclass(frozen=True)
class Config:
    """SGD under dropout, step by step: its mean is gradient descent on the regularised loss; what is its covariance?

    A linear model on random data, W₀ = 0, fresh masks at each step, paper §3.1. Everything under "predicted" is exact.
    """

    samples: int = 40
    """Rows N of X."""
    features: int = 20
    """Columns D of X."""
    outputs: int = 1
    """Columns C of Y."""
    keep_prob: float = 0.8
    """Keep probability in (0, 1]: 1 − (drop rate)."""
    placement: str = "output"
    """Where the mask acts: output (the paper's) or input (LoRA as shipped)."""
    shared_mask: bool = False
    """One input mask a step for all rows, instead of one for each row."""
    learning_rate: float | None = None
    """Rate l for the gradient of the summed squares; None: a tenth of the mean-square stability limit."""
    steps: int = 1000
    """Steps T."""
    noise: float = 1.0
    """Standard deviation of the noise in Y; the signal's is 1."""
    batch_size: int | None = None
    """Rows drawn a step, with replacement, a mask for each; None: all rows once."""
    replicas: int = 200
    """Simulated runs, 2 or more."""
    seed: int = 0
    """Seed of the data, the masks and the batches."""


def snapshots(steps: int) -> tuple[int, ...]:
    """The steps 1, 2, 5, 10, 20, 50, … below T, and T.

    Args:
        steps: T.

    Returns:
        The steps.
    """
    series = (lead * 10**power for power in range(len(str(steps))) for lead in (1, 2, 5))
    return (*(step for step in series if step < steps), steps)


def _data(config: Config, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = validation.count("samples", config.samples)
    d = validation.count("features", config.features)
    c = validation.count("outputs", config.outputs)
    noise = validation.non_negative("noise", config.noise)
    x = generator.standard_normal((n, d))
    w_true = generator.standard_normal((d, c)) / np.sqrt(d)
    return x, x @ w_true + noise * generator.standard_normal((n, c)), w_true


def _options(config: Config) -> dict[str, Any]:
    return {"batch_size": config.batch_size, "shared_mask": config.shared_mask}


def _predicted(run: Trajectory, kept: tuple[int, ...], replicas: int) -> dict[str, Any]:
    at = list(kept)
    drawn = np.unique(np.geomspace(1, len(run.risk) - 1, 200).round().astype(int))
    return {
        "step": at,
        "mean_norm": np.linalg.norm(run.mean[at], axis=(1, 2)),
        # What independent replicas would show if E W_t is exactly gradient descent on the marginal objective.
        "mean_gap": np.sqrt(run.covariance_trace[at] / replicas),
        **{
            name: getattr(run, name)[at]
            for name in ("covariance_trace", "training_loss", "training_loss_plain", *CURVES)
        },
        "crossover": run.crossover,
        "curve_step": drawn,
        **{f"curve_{name}": getattr(run, name)[drawn] for name in CURVES},
    }


def _measured(run: Trajectory, parts: list[Simulation], w_true: np.ndarray) -> dict[str, Any]:
    iterates, averages = (
        np.concatenate([getattr(p, name) for p in parts], axis=1) for name in ("iterates", "averages")
    )
    whole = Simulation(parts[0].steps, iterates, averages)
    gaps = iterates.mean(axis=1) - run.mean[whole.steps]
    outcome: dict[str, Any] = {"replicas": iterates.shape[1], "mean_gap": np.linalg.norm(gaps, axis=(1, 2))}
    for name, (value, stderr) in {
        "covariance_trace": whole.covariance_trace(),
        "risk": whole.risk(w_true),
        "risk_average": whole.risk(w_true, averaged=True),
    }.items():
        outcome |= {name: value, f"{name}_stderr": stderr}
    return outcome


def _tasks(config: Config, x: np.ndarray, y: np.ndarray, w_true: np.ndarray, rate: float) -> list[Callable[[], Any]]:
    """The trajectory first, then the replicas in parts, each with a generator of its own.

    Returns:
        The tasks.
    """
    replicas = validation.count("replicas", config.replicas, 2)
    shared = (x, y, config.keep_prob, rate, config.steps, config.placement)
    options = _options(config)
    kept, groups = snapshots(config.steps), min(GROUPS, replicas // 2)
    sizes = [len(part) for part in np.array_split(np.arange(replicas), groups)]
    generators = np.random.default_rng([config.seed, 1]).spawn(groups)

    def simulation(size: int, generator: np.random.Generator) -> Callable[[], Simulation]:
        return lambda: simulate(*shared, replicas=size, generator=generator, record=kept, **options)

    return [
        lambda: trajectory(*shared, w_true=w_true, **options),
        *(simulation(size, generator) for size, generator in zip(sizes, generators, strict=True)),
    ]


def run(config: Config) -> Result:
    """Predict, simulate, compare.

    Args:
        config: the study's arguments.

    Returns:
        The result.
    """
    validation.count("steps", config.steps)
    seed = validation.count("seed", config.seed, 0)
    x, y, w_true = _data(config, np.random.default_rng([seed, 0]))
    options = _options(config)
    limits = stability_limits(x, config.keep_prob, config.placement, **options)
    rate = FRACTION * limits.mean_square if config.learning_rate is None else config.learning_rate
    resting = stationary_moments(x, y, config.keep_prob, rate, config.placement, **options)
    outcome, interrupted = sweep(_tasks(config, x, y, w_true, rate), lambda task: task(), "dropout_sgd")
    exact, parts = outcome[0], outcome[1:]
    predicted = {
        "learning_rate": rate,
        "limit_mean": limits.mean,
        "limit_mean_square": limits.mean_square,
        "stationary_covariance_trace": resting.covariance_trace,
        **_predicted(exact, snapshots(config.steps), config.replicas),
    }
    return Result(predicted, _measured(exact, parts, w_true) if parts else {}, interrupted)


def table(config: Config, result: Result) -> Table:
    """The predictions beside the measurements at a few steps.

    Args:
        config: the study's arguments.
        result: what `run` returned.

    Returns:
        The table.
    """
    p, m = result.predicted, result.measured

    def measured(name: str, row: int) -> str:
        return f"{text(m[name][row])} ± {text(m[f'{name}_stderr'][row], 2)}" if m else text(None)

    rows = [
        [
            str(step),
            text(p["mean_norm"][i]),
            f"{text(m['mean_gap'][i], 2) if m else text(None)} ({text(p['mean_gap'][i], 2)})",
            text(p["covariance_trace"][i]),
            measured("covariance_trace", i),
            text(p["risk"][i]),
            measured("risk", i),
            text(p["risk_marginal"][i]),
            text(p["risk_plain"][i]),
            text(p["risk_average"][i]),
        ]
        for i, step in enumerate(p["step"])
    ]
    crossing = "none within T" if p["crossover"] is None else f"step {p['crossover']}"
    notes = (
        f"* ‖mean of {m.get('replicas', 0)} runs − gradient descent on the regularised objective‖; in brackets what "
        "sampling alone gives if the two are equal.",
        f"First step with a lower risk than plain gradient descent: {crossing}.",
        f"l = {text(p['learning_rate'])}; stable below {text(p['limit_mean_square'])} (mean square), "
        f"{text(p['limit_mean'])} (mean). As t → ∞ tr Cov → {text(p['stationary_covariance_trace'])}.",
    )
    return Table(f"SGD under {config.placement} dropout, keep_prob = {config.keep_prob:g}", HEADINGS, rows, notes)


STUDY = Study("dropout_sgd", Config, run, table, plot)
