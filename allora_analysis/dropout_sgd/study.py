"""The study: dropout SGD's moments predicted beside many simulated runs, its risk beside two gradient descents.

Data: X with i.i.d. standard normal entries, W_true with entries N(0, 1/D), Y = X W_true + noise, population Σ = I.
`tests/test_dropout_sgd_study.py` runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from tyro.conf import arg

from allora_analysis import validation
from allora_analysis.dropout_sgd.moments import Risk, Trajectory, moments_at
from allora_analysis.dropout_sgd.monte_carlo import Simulation, replicas_of
from allora_analysis.dropout_sgd.placements import Problem, build, checked
from allora_analysis.dropout_sgd.process import Process
from allora_analysis.dropout_sgd.stability import limits, resting
from allora_analysis.study import Result, Study, Table, sweep, text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRACTION = 0.1  # of the mean-square limit: the default learning rate
GROUPS = 10  # the replicas run in so many parts, so that Ctrl-C keeps those finished
HEADINGS = (
    *("step", "‖E W‖", "gap*", "tr Cov", "tr Cov measured", "risk", "risk measured"),
    *("risk of regularised GD", "of plain GD", "of averaged W"),
)
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
    placement: Annotated[str, arg(metavar="output|input")] = "output"
    """Where the mask acts: on the output (the paper's) or the input (LoRA as shipped)."""
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
    """The steps 1, 2, 5, 10, 20, 50, … below T, and T."""
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


def _tasks(
    config: Config, problem: Problem, process: Process, w_true: np.ndarray, rate: float
) -> list[Callable[[], Any]]:
    """The trajectory first, then the replicas in parts, each with a generator of its own."""
    replicas, rates = validation.count("replicas", config.replicas, 2), np.full(config.steps, rate)
    kept, groups = snapshots(config.steps), min(GROUPS, replicas // 2)
    sizes = [len(part) for part in np.array_split(np.arange(replicas), groups)]
    generators = np.random.default_rng([config.seed, 1]).spawn(groups)

    def simulation(size: int, generator: np.random.Generator) -> Callable[[], Simulation]:
        return lambda: replicas_of(problem, rates, kept, size, generator)

    return [
        lambda: moments_at(process, rates, Risk(w_true, np.eye(len(w_true))), known=True),
        *(simulation(size, generator) for size, generator in zip(sizes, generators, strict=True)),
    ]


def run(config: Config) -> Result:
    """Predict, simulate, compare."""
    validation.count("steps", config.steps)
    seed = validation.count("seed", config.seed, 0)
    x, y, w_true = _data(config, np.random.default_rng([seed, 0]))
    problem = checked(x, y, config.keep_prob, config.placement, config.batch_size, config.shared_mask)
    process = build(problem)
    stable = limits(process)
    rate = FRACTION * stable.mean_square
    if config.learning_rate is not None:
        rate = validation.positive("learning_rate", config.learning_rate)
    rest = resting(process, stable, rate)
    outcome, interrupted = sweep(_tasks(config, problem, process, w_true, rate), lambda task: task(), "dropout_sgd")
    exact, parts = outcome[0], outcome[1:]
    predicted = {
        "learning_rate": rate,
        "limit_mean": stable.mean,
        "limit_mean_square": stable.mean_square,
        "stationary_covariance_trace": rest.covariance_trace,
        **_predicted(exact, snapshots(config.steps), config.replicas),
    }
    return Result(predicted, _measured(exact, parts, w_true) if parts else {}, interrupted)


def table(config: Config, result: Result) -> Table:
    """The predictions beside the measurements at a few steps."""
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


def plot(config: Any, result: Result) -> Figure:
    """Risks over steps, both axes logarithmic, the crossover marked."""
    from allora_analysis.plotting import COLOURS, panels

    figure, (axes,) = panels()
    p, m = result.predicted, result.measured
    for name, colour, style, label in (
        ("risk_plain", "plain", "-", "plain gradient descent"),
        ("risk_marginal", "predicted", "--", "gradient descent, regularised\n(= mean of dropout)"),
        ("risk_average", "other", "-.", "dropout, averaged iterates"),
        ("risk", "dropout", "-", "dropout SGD"),
    ):
        axes.plot(p["curve_step"], p[f"curve_{name}"], style, color=COLOURS[colour], label=label)
    if m:
        bars = {"color": COLOURS["measured"], "fmt": ".", "label": f"dropout, {m['replicas']} runs (± 2 s.e.)"}
        axes.errorbar(p["step"], m["risk"], 2 * np.asarray(m["risk_stderr"]), **bars)
    if p["crossover"] is not None:
        style = {"color": COLOURS["measured"], "linewidth": 0.8, "linestyle": ":"}
        axes.axvline(p["crossover"], label=f"crossover: step {p['crossover']}", **style)
    axes.set(xscale="log", yscale="log", xlabel="step", ylabel="population risk E‖W − W_true‖²")
    axes.set_title(f"{config.placement} masks, keep_prob = {config.keep_prob:g}, noise {config.noise:g}")
    axes.legend(fontsize=7, frameon=False)
    return figure


STUDY = Study("dropout_sgd", Config, run, table, plot, "--noise 2")
