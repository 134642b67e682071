"""The study: dropout SGD's moments predicted beside many simulated runs, its risk beside two gradient descents.

In W itself the predictions are exact; in LoRA's factors (`parameters = "factors"`) they are right to the first order in
the learning rate, and gradient flow stands in descent's place.

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
from allora_analysis.dropout_sgd.factors import FactorFlow, Factors, checked_factors, factor_flow
from allora_analysis.dropout_sgd.moments import Risk, Trajectory, moments_at
from allora_analysis.dropout_sgd.monte_carlo import Simulation, factor_replicas, replicas_of
from allora_analysis.dropout_sgd.placements import Problem, Process, build, checked
from allora_analysis.dropout_sgd.stability import limits, resting
from allora_analysis.study import Result, Study, Table, sweep, text
from allora_analysis.validation import ArgumentError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRACTION = 0.1  # of the mean-square limit: the default learning rate
FLOWS = 0.02  # l·λ_max, λ_max the loss's largest curvature in A and B at the start: the default rate in the factors
LOUDEST = 1e70  # noise whose fourth power, in the standard errors, is far within double precision
RAREST = 1e-90  # the least keep_prob of factors, as of W
GROUPS = 10  # the replicas run in so many parts, so that Ctrl-C keeps those finished
HEADINGS = (
    *("step", "‖E W‖", "gap*", "tr Cov", "tr Cov measured", "risk", "risk measured"),
    *("risk of regularized GD", "of plain GD", "of averaged W"),
)
CURVES = ("risk", "risk_marginal", "risk_plain", "risk_average")


@dataclass(frozen=True)
class Config:
    """SGD under dropout, step by step: its mean is gradient descent on the regularized loss; what is its covariance?

    A linear model on random data, W₀ = 0, fresh masks at each step, paper §3.1. Everything under "predicted" is exact;
    in LoRA's factors it is right to the first order in the learning rate.
    """

    samples: int = 40
    """Rows N of X."""
    features: int = 20
    """Columns D of X."""
    outputs: int = 1
    """Columns C of Y."""
    keep_prob: float = 0.8
    """Keep probability in (0, 1]: 1 − (drop rate)."""
    parameters: Annotated[str, arg(metavar="weights|factors")] = "weights"
    """What is trained: weights (W, as in §3.1) or factors (LoRA's A at random and B = 0)."""
    rank: int = 2
    """Rank r of the factors."""
    placement: Annotated[str, arg(metavar="output|input|bottleneck")] = "output"
    """Where the mask acts: the output (the paper's), the input (LoRA as shipped), or of factors the bottleneck."""
    shared_mask: bool = False
    """One input mask a step for all rows, instead of one for each row."""
    learning_rate: float | None = None
    """Rate l for the gradient of the summed squares; None: a tenth of the mean-square limit; of factors 0.02/λ_max."""
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
    if noise > LOUDEST:
        raise ArgumentError(f"noise: {noise:g} is too large for its squares in double precision; give at most 1e70")
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


def _measured(mean: np.ndarray, parts: list[Simulation], w_true: np.ndarray) -> dict[str, Any]:
    iterates, averages = (
        np.concatenate([getattr(p, name) for p in parts], axis=1) for name in ("iterates", "averages")
    )
    whole = Simulation(parts[0].steps, iterates, averages)
    gaps = iterates.mean(axis=1) - mean[whole.steps]
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


def _factor_tasks(
    config: Config, model: Factors, start: tuple[np.ndarray, np.ndarray], rate: float
) -> list[Callable[[], Any]]:
    """Both flows first, with masks and without, then the replicas in parts."""
    replicas, kept = validation.count("replicas", config.replicas, 2), snapshots(config.steps)
    sizes = [len(part) for part in np.array_split(np.arange(replicas), min(GROUPS, replicas // 2))]
    generators = np.random.default_rng([config.seed, 1]).spawn(len(sizes))

    def flow(keep_prob: float) -> Callable[[], FactorFlow]:
        return lambda: factor_flow(model.x, model.y, *start, keep_prob, rate, config.steps, config.placement)

    def simulation(size: int, generator: np.random.Generator) -> Callable[[], Simulation]:
        return lambda: factor_replicas(model, start, rate, kept, size, generator)

    parts = [simulation(size, generator) for size, generator in zip(sizes, generators, strict=True)]
    return [flow(config.keep_prob), flow(1.0), *parts]


def _run_factors(config: Config, x: np.ndarray, y: np.ndarray, w_true: np.ndarray) -> Result:
    """The same for A and B."""
    if config.shared_mask or config.batch_size is not None:
        raise ArgumentError("parameters: of factors neither shared_mask nor batch_size is carried out; leave both out")
    if validation.keep_probability(config.keep_prob) < RAREST:
        raise ArgumentError(
            f"keep_prob: {config.keep_prob:g} is too small for the factors in double precision; give 1e-90 or above"
        )
    rank = validation.count("rank", config.rank)
    a = np.random.default_rng([config.seed, 2]).standard_normal((rank, x.shape[1])) / np.sqrt(x.shape[1])
    model, *start = checked_factors(x, y, a, np.zeros((y.shape[1], rank)), config.keep_prob, config.placement)
    rate = FLOWS / float(np.linalg.eigvalsh(model.hessian(model.flat(*start)))[-1])
    if config.learning_rate is not None:
        rate = validation.positive("learning_rate", config.learning_rate)
    outcome, interrupted = sweep(_factor_tasks(config, model, tuple(start), rate), lambda task: task(), "dropout_sgd")
    flow, plain, parts = outcome[0], outcome[1], outcome[2:]
    risks = {"risk": flow.risk(w_true), "risk_plain": plain.risk(w_true)}
    risks["risk_marginal"] = np.sum((flow.flow_product - w_true) ** 2, axis=(1, 2))
    below = np.flatnonzero(risks["risk"] < risks["risk_plain"] * (1 - 1e-6))  # the integration's own tolerance
    at, drawn = list(snapshots(config.steps)), np.unique(np.geomspace(1, config.steps, 200).round().astype(int))
    predicted = {
        "learning_rate": rate,
        "step_size": flow.step_size,
        "step": at,
        "mean_norm": np.linalg.norm(flow.mean_product[at], axis=(1, 2)),
        "mean_gap": np.sqrt(flow.covariance_trace[at] / config.replicas),
        "flow_gap": np.linalg.norm((flow.mean_product - flow.flow_product)[at], axis=(1, 2)),
        "covariance_trace": flow.covariance_trace[at],
        **{name: values[at] for name, values in risks.items()},
        "crossover": int(below[0]) if below.size else None,
        "curve_step": drawn,
        **{f"curve_{name}": values[drawn] for name, values in risks.items()},
    }
    return Result(predicted, _measured(flow.mean_product, parts, w_true) if parts else {}, interrupted)


def run(config: Config) -> Result:
    """Predict, simulate, compare."""
    validation.fits("steps", validation.count("steps", config.steps), "a rate for each")
    seed = validation.count("seed", config.seed, 0)
    x, y, w_true = _data(config, np.random.default_rng([seed, 0]))
    if validation.choice("parameters", config.parameters, ("weights", "factors")) == "factors":
        return _run_factors(config, x, y, w_true)
    if config.placement == "bottleneck":
        raise ArgumentError("placement bottleneck is of factors; give --parameters factors too, or input or output")
    if config.rank != Config.rank:
        raise ArgumentError("rank is of factors; give --parameters factors too, or leave it out")
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
    return Result(predicted, _measured(exact.mean, parts, w_true) if parts else {}, interrupted)


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
            *([text(p["risk_average"][i])] if "risk_average" in p else []),
        ]
        for i, step in enumerate(p["step"])
    ]
    crossing = "none within T" if p["crossover"] is None else f"step {p['crossover']}"
    title = f"SGD under {config.placement} dropout, keep_prob = {config.keep_prob:g}"
    first = f"First step with a lower risk than plain gradient descent: {crossing}."
    runs = f"* ‖mean of {m.get('replicas', 0)} runs − "
    if config.parameters == "factors":
        notes = (
            f"{runs}E BA, to the first order in l‖; in brackets what sampling alone gives if the two are equal.",
            first,
            f"l = {text(p['learning_rate'])}, l·λ_max = {text(p['step_size'])}. The descents here are gradient "
            f"flows; E BA is off the regularized one by {text(p['flow_gap'][-1])} at the last step.",
        )
        return Table(f"{title}, in A and B of rank {config.rank}", HEADINGS[:-1], rows, notes)
    notes = (
        f"{runs}gradient descent on the regularized objective‖; in brackets what sampling alone gives if the two are "
        "equal.",
        first,
        f"l = {text(p['learning_rate'])}; stable below {text(p['limit_mean_square'])} (mean square), "
        f"{text(p['limit_mean'])} (mean). As t → ∞ tr Cov → {text(p['stationary_covariance_trace'])}.",
    )
    return Table(title, HEADINGS, rows, notes)


def plot(config: Any, result: Result) -> Figure:
    """Risks over steps, both axes logarithmic, the crossover marked."""
    from allora_analysis.plotting import COLOURS, panels

    figure, (axes,) = panels()
    p, m = result.predicted, result.measured
    equal = "≈" if config.parameters == "factors" else "="
    curves = (
        ("risk_plain", "plain", "-", "plain gradient descent"),
        ("risk_marginal", "predicted", "--", f"gradient descent, regularized\n({equal} mean of dropout)"),
        ("risk_average", "other", "-.", "dropout, averaged iterates"),
        ("risk", "dropout", "-", "dropout SGD"),
    )
    for name, colour, style, label in (curve for curve in curves if f"curve_{curve[0]}" in p):
        axes.plot(p["curve_step"], p[f"curve_{name}"], style, color=COLOURS[colour], label=label)
    if m:
        bars = {"color": COLOURS["measured"], "fmt": ".", "label": f"dropout, {m['replicas']} runs (± 2 s.e.)"}
        axes.errorbar(p["step"], m["risk"], 2 * np.asarray(m["risk_stderr"]), **bars)
    if p["crossover"] is not None:
        style = {"color": COLOURS["measured"], "linewidth": 0.8, "linestyle": ":"}
        axes.axvline(p["crossover"], label=f"crossover: step {p['crossover']}", **style)
    axes.set(xscale="log", yscale="log", xlabel="step", ylabel="population risk E‖W − W_true‖²")
    told = f"never ahead within {config.steps} steps" if p["crossover"] is None else f"ahead from step {p['crossover']}"
    setting = f"{config.placement} masks, keep_prob = {config.keep_prob:g}, noise {config.noise:g}"
    axes.set_title(f"Dropout is {told}\n({setting})")
    axes.legend(fontsize=7, frameon=False)
    return figure


STUDY = Study("dropout_sgd", Config, run, table, plot, "--noise 2")
