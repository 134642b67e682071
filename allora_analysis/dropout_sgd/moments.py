"""Exact mean and covariance of SGD under dropout at every step from W₀ = 0, and what they cost and gain.

E[W_t] is gradient descent on the marginal (regularized) objective at every step; what dropout adds is the covariance,
by the recursion of `process`. Both stand beside gradient descent on that objective and plain gradient descent.
Cross-covariances for the average W̄_t = (W₁ + … + W_t)/t: with A_t = tW̄_t and B_t = Cov(A_t, W_t),
B_{t+1} = B_t F + Cov W_{t+1} and Cov A_{t+1} = Cov A_t + B_t F + (B_t F)ᵀ + Cov W_{t+1}.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.dropout_sgd.placements import Process, build, checked, refuse_long
from allora_analysis.dropout_sgd.stability import learning_rates, refuse_divergence
from allora_analysis.validation import ArgumentError

# Risks that agree to this much are equal: the first step's means are the same but for rounding.
ROUNDING = 1e-12
AT_ONCE = 2**16  # numbers in X times columns whose noise is computed at once; never below one column


@dataclass(frozen=True)
class _State:
    """The moments after t steps: of W_t, of the sum A_t of the iterates, and their cross-covariance B_t, per column."""

    mean: Float[np.ndarray, "d C"]
    covariance: Float[np.ndarray, "C d d"]
    total_mean: Float[np.ndarray, "d C"]
    cross: Float[np.ndarray, "C d d"]
    total_covariance: Float[np.ndarray, "C d d"]


def start(process: Process) -> _State:
    """W₀ = 0."""
    mean, covariance = np.zeros_like(process.pull), np.zeros((process.pull.shape[1], *process.curvature.shape))
    return _State(mean, covariance, mean, covariance, covariance)


def advance(process: Process, state: _State, rate: float) -> _State:
    """One step's moments, exactly."""
    mean = state.mean + 2.0 * rate * process.drift(state.mean)
    of, at_once = (process.targets.T, state.mean.T, state.covariance), max(1, AT_ONCE // process.design.size)
    columns = [slice(first, first + at_once) for first in range(0, len(state.covariance), at_once)]
    noise = np.concatenate([process.noise(*(part[some] for part in of)) for some in columns])
    after = process.contract(process.contract(state.covariance, rate).mT, rate) + 4.0 * rate**2 * noise
    covariance, carried = 0.5 * (after + after.mT), process.contract(state.cross, rate)
    total = state.total_covariance + carried + carried.mT + covariance
    return _State(mean, covariance, state.total_mean + mean, carried + covariance, total)


@dataclass(frozen=True)
class Risk:
    """E‖W − W_true‖²_Σ over the population: of a point, and what a covariance adds to it."""

    w_true: Float[np.ndarray, "D C"]
    sigma: Float[np.ndarray, "D D"]

    def at(self, weights: Float[np.ndarray, "D C"]) -> float:
        """‖W − W_true‖²_Σ."""
        gap = weights - self.w_true
        return float(np.sum(gap * (self.sigma @ gap)))

    def inside(self, process: Process) -> Float[np.ndarray, "d d"]:
        """Σ in the process's coordinates."""
        basis = process.embed(np.eye(len(process.pull)))
        return basis.T @ self.sigma @ basis


def _losses(process: Process, weights: Float[np.ndarray, "d C"]) -> tuple[float, float]:
    """‖Y − XW‖² and the marginal objective E‖Y − masked XW‖²."""
    loss = float(np.sum((process.targets - process.design @ weights) ** 2))
    return loss, loss + float(np.sum(process.penalty[:, None] * weights**2))


@dataclass(frozen=True)
class _Record:
    """All that a run keeps: a row of figures a step, in the order of `COLUMNS`, the means, and the last state."""

    rows: Float[np.ndarray, "steps columns"]
    mean: Float[np.ndarray, "steps D C"]
    last: _State


COLUMNS = (
    "covariance_trace",
    "average_covariance_trace",
    "training_loss",
    "objective",
    "training_loss_marginal",
    "objective_marginal",
    "training_loss_plain",
    "objective_plain",
    "risk",
    "risk_marginal",
    "risk_plain",
    "risk_average",
)


def _record(process: Process, rates: Float[np.ndarray, " T"], risk: Risk) -> _Record:
    """Run the recursion."""
    undropped, state, plain = replace(process, keep_prob=1.0), start(process), np.zeros_like(process.pull)
    weights = np.stack([process.gram, risk.inside(process)])
    rows = np.empty((len(rates) + 1, len(COLUMNS)))
    mean = np.zeros((len(rates) + 1, *risk.w_true.shape))
    rows[0] = _row(process, state, plain, risk, weights, 1)
    # A schedule may overflow: that is reported below, with its step, not as a warning.
    with np.errstate(over="ignore", invalid="ignore"):
        for step, rate in enumerate(rates, start=1):
            state = advance(process, state, float(rate))
            plain = plain + 2.0 * rate * undropped.drift(plain)
            rows[step] = _row(process, state, plain, risk, weights, step)
            mean[step] = process.embed(state.mean)
            refuse_divergence(process, step, float(rate), rows[step], state.covariance)
    return _Record(rows, mean, state)


def _row(
    process: Process,
    state: _State,
    plain: Float[np.ndarray, "d C"],
    risk: Risk,
    weights: Float[np.ndarray, "2 d d"],
    divisor: int,
) -> Float[np.ndarray, " columns"]:
    """The figures of one step, in the order of `COLUMNS`."""
    spread, average = state.covariance.sum(axis=0), state.total_covariance.sum(axis=0) / divisor**2
    on_data, on_population = np.tensordot(weights, spread, 2)
    loss, objective = _losses(process, state.mean)
    expected = loss + on_data, objective + on_data + process.penalty @ np.diag(spread)
    at = risk.at(process.embed(state.mean))
    averaged = risk.at(process.embed(state.total_mean / divisor)) + np.sum(weights[1] * average)
    traces, risks = (
        (max(np.trace(spread), 0.0), max(np.trace(average), 0.0)),  # rounding may leave less than 0
        (at + on_population, at, risk.at(process.embed(plain)), averaged),
    )
    return np.array([*traces, *expected, loss, objective, *_losses(process, plain), *risks])


@dataclass(frozen=True)
class Trajectory:
    """Moments and expectations at steps 0 … T, from W₀ = 0. `_marginal`: gradient descent on the marginal objective.

    Memory: `mean` holds (T + 1)·D·C float64, the two covariances C·D² each.

    Attributes:
        mean: E W_t, which is gradient descent on the marginal objective (T + 1 × D × C).
        covariance_trace: tr Cov W_t, over all columns.
        covariance: Cov of each column of W_T (C × D × D).
        average_covariance_trace: tr Cov W̄_t of the average W̄_t = (W₁ + … + W_t)/t; W̄₀ = W₀.
        average_covariance: Cov of each column of W̄_T (C × D × D).
        training_loss: E‖Y − XW_t‖².
        training_loss_marginal: ‖Y − X E W_t‖².
        training_loss_plain: ‖Y − XW‖² of plain gradient descent at the same rates.
        objective: E over W_t of the marginal objective E‖Y − masked XW‖².
        objective_marginal: the marginal objective at E W_t.
        objective_plain: the marginal objective along plain gradient descent.
        risk: E‖W_t − W_true‖²_Σ of dropout's iterate; this and the risks below are None without `w_true`.
        risk_marginal: of gradient descent on the marginal objective.
        risk_plain: of plain gradient descent.
        risk_average: of the averaged iterate W̄_t.
        crossover: the first step at which `risk` is below `risk_plain` (by more than rounding); None if none within T.
    """

    mean: Float[np.ndarray, "steps D C"]
    covariance_trace: Float[np.ndarray, " steps"]
    covariance: Float[np.ndarray, "C D D"]
    average_covariance_trace: Float[np.ndarray, " steps"]
    average_covariance: Float[np.ndarray, "C D D"]
    training_loss: Float[np.ndarray, " steps"]
    training_loss_marginal: Float[np.ndarray, " steps"]
    training_loss_plain: Float[np.ndarray, " steps"]
    objective: Float[np.ndarray, " steps"]
    objective_marginal: Float[np.ndarray, " steps"]
    objective_plain: Float[np.ndarray, " steps"]
    risk: Float[np.ndarray, " steps"] | None
    risk_marginal: Float[np.ndarray, " steps"] | None
    risk_plain: Float[np.ndarray, " steps"] | None
    risk_average: Float[np.ndarray, " steps"] | None
    crossover: int | None


def _population(w_true: ArrayLike | None, risk_covariance: ArrayLike | None, shape: tuple[int, int]) -> Risk:
    if w_true is None and risk_covariance is not None:
        raise ArgumentError("risk_covariance: received without w_true; give w_true too, the risk is ‖W − w_true‖²_Σ")
    w_true = np.zeros(shape) if w_true is None else validation.matrix_of("w_true", w_true, shape, "D of x and C of y")
    if risk_covariance is None:
        return Risk(w_true, np.eye(shape[0]))
    sigma = validation.matrix_of("risk_covariance", risk_covariance, (shape[0], shape[0]), "D of x")
    scale = float(np.abs(sigma).max())
    if np.abs(sigma - sigma.T).max() > 1e-10 * scale:
        raise ArgumentError("risk_covariance must be symmetric; received a matrix that is not")
    smallest = float(np.linalg.eigvalsh(sigma)[0])
    if smallest < -1e-10 * scale:
        raise ArgumentError(f"risk_covariance must be positive semi-definite; received an eigenvalue of {smallest:.3g}")
    return Risk(w_true, sigma)


def _crossover(risk: Float[np.ndarray, " steps"], plain: Float[np.ndarray, " steps"]) -> int | None:
    below = np.flatnonzero(risk < plain * (1.0 - ROUNDING))
    return int(below[0]) if below.size else None


@validation.representable("x", "y", "keep_prob", "learning_rate", "steps", "w_true", "risk_covariance")
def trajectory(
    x: ArrayLike,
    y: ArrayLike,
    keep_prob: Any,
    learning_rate: float | Sequence[float] | ArrayLike,
    steps: int,
    placement: str = "output",
    *,
    w_true: ArrayLike | None = None,
    risk_covariance: ArrayLike | None = None,
    batch_size: int | None = None,
    shared_mask: bool = False,
    most_seconds: float = 60.0,
) -> Trajectory:
    """Exact moments of W ← W + 2l·(masked X)ᵀ(Y − masked XW) from W₀ = 0, fresh masks each step; nothing is sampled.

    Cov W ← F Cov W F + 4l²Q, F = I − 2lH: `process` has the statement, `placements` its H and Q. Paper §3.1. Columns:
    with output masks each has masks of its own and on the full batch they are independent; with input masks (and in any
    minibatch) they are correlated, which no trace or risk here sees.
    Time O(N·D² + D³) per column and step; memory (T + 1)·D·C + O(C·D² + N·D) numbers.
    `tests/test_dropout_sgd.py` enumerates every sequence of masks and draws on tiny problems.

    Args:
        x: X, N × D.
        y: Y, N × C.
        keep_prob: keep probability in (0, 1].
        learning_rate: l for the gradient of the summed squares, below the mean-square limit; or a schedule of T rates.
        steps: T.
        placement: "output" or "input".
        w_true: the population's weights, D × C; None leaves the risks out.
        risk_covariance: Σ of the population's inputs, D × D; None for the identity.
        batch_size: b independent draws of a row a step, with replacement, a mask for each draw, gradient scaled by
            N/b; None for the full batch.
        shared_mask: one input mask a step for all rows (full batch only).
        most_seconds: a run that would take longer is refused before it begins, by a rough estimate for one core.

    Raises:
        ArgumentError: what cannot be used; more than 1 GiB of means; a run that would take longer than `most_seconds`.

    Examples:
        >>> from allora_analysis.dropout_sgd import trajectory
        >>> run = trajectory([[1.0]], [[1.0]], 0.5, 0.1, 2, "output")  # E[W]: descent on (1 − w)² + w²
        >>> run.mean.ravel().round(9).tolist(), run.covariance_trace[:2].round(9).tolist()  # Var[2lV] = 0.2²
        ([0.0, 0.2, 0.32], [0.0, 0.04])
    """
    problem = checked(x, y, keep_prob, placement, batch_size, shared_mask)
    steps, (n, d), columns = validation.count("steps", steps), problem.x.shape, problem.y.shape[1]
    validation.fits("steps", float(steps) * (d * columns + len(COLUMNS)), f"the means at {steps:.4g} steps")
    refuse_long(steps, steps * columns * (5e-4 + (4.0 * n + 12.0 * d) * d * d / 1e10), most_seconds)
    process, population = build(problem), _population(w_true, risk_covariance, (d, columns))
    return moments_at(process, learning_rates(process, learning_rate, steps), population, known=w_true is not None)


def moments_at(process: Process, rates: Float[np.ndarray, " T"], population: Risk, known: bool) -> Trajectory:
    """The core of `trajectory`; without a known population the risks are left out."""
    done = _record(process, rates, population)
    series = dict(zip(COLUMNS, np.ascontiguousarray(done.rows.T), strict=True))
    if not known:
        series |= {name: None for name in COLUMNS if name.startswith("risk")}
    return Trajectory(
        mean=done.mean,
        covariance=process.embed_covariance(done.last.covariance),
        average_covariance=process.embed_covariance(done.last.total_covariance) / len(rates) ** 2,
        crossover=None if not known else _crossover(series["risk"], series["risk_plain"]),
        **series,
    )
