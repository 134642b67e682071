"""The exact moments of W_t at every step, beside gradient descent on the marginal objective and plain gradient descent.

The recursion of `process` from W₀ = 0. Cross-covariances for the average W̄_t = (W₁ + … + W_t)/t: with A_t = tW̄_t and
B_t = Cov(A_t, W_t), B_{t+1} = B_t F + Cov W_{t+1} and Cov A_{t+1} = Cov A_t + B_t F + (B_t F)ᵀ + Cov W_{t+1}.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from allora_analysis.dropout_sgd.process import Process
from allora_analysis.dropout_sgd.step_sizes import refuse_divergence


@dataclass(frozen=True)
class State:
    """The moments after t steps: of W_t, of the sum A_t of the iterates, and their cross-covariance B_t, per column."""

    mean: Float[np.ndarray, "d C"]
    covariance: Float[np.ndarray, "C d d"]
    total_mean: Float[np.ndarray, "d C"]
    cross: Float[np.ndarray, "C d d"]
    total_covariance: Float[np.ndarray, "C d d"]


def start(process: Process) -> State:
    """W₀ = 0.

    Args:
        process: the placement.

    Returns:
        The moments at step 0.
    """
    mean, covariance = np.zeros_like(process.pull), np.zeros((process.pull.shape[1], *process.curvature.shape))
    return State(mean, covariance, mean, covariance, covariance)


def advance(process: Process, state: State, rate: float) -> State:
    """One step's moments, exactly.

    Args:
        process: the placement.
        state: the moments before.
        rate: the learning rate l.

    Returns:
        The moments after.
    """
    mean = state.mean + 2.0 * rate * process.drift(state.mean)
    covariance, cross, total = (np.empty_like(state.covariance) for _ in range(3))
    for c, before in enumerate(state.covariance):
        noise = process.noise(process.targets[:, c], state.mean[:, c], before)
        after = process.contract(process.contract(before, rate).T, rate) + 4.0 * rate**2 * noise
        covariance[c] = 0.5 * (after + after.T)
        carried = process.contract(state.cross[c], rate)
        cross[c] = carried + covariance[c]
        total[c] = state.total_covariance[c] + carried + carried.T + covariance[c]
    return State(mean, covariance, state.total_mean + mean, cross, total)


@dataclass(frozen=True)
class Risk:
    """E‖W − W_true‖²_Σ over the population: of a point, and what a covariance adds to it."""

    w_true: Float[np.ndarray, "D C"]
    sigma: Float[np.ndarray, "D D"]

    def at(self, weights: Float[np.ndarray, "D C"]) -> float:
        """‖W − W_true‖²_Σ.

        Args:
            weights: W.

        Returns:
            The risk.
        """
        gap = weights - self.w_true
        return float(np.sum(gap * (self.sigma @ gap)))

    def inside(self, process: Process) -> Float[np.ndarray, "d d"]:
        """Σ in the process's coordinates.

        Args:
            process: the placement.

        Returns:
            The matrix.
        """
        basis = process.embed(np.eye(len(process.pull)))
        return basis.T @ self.sigma @ basis


def losses(process: Process, weights: Float[np.ndarray, "d C"]) -> tuple[float, float]:
    """‖Y − XW‖² and the marginal objective E‖Y − masked XW‖².

    Args:
        process: the placement.
        weights: W.

    Returns:
        Both.
    """
    loss = float(np.sum((process.targets - process.design @ weights) ** 2))
    return loss, loss + float(np.sum(process.penalty[:, None] * weights**2))


@dataclass(frozen=True)
class Record:
    """All that a run keeps: a row of figures a step, in the order of `COLUMNS`, the means, and the last state."""

    rows: Float[np.ndarray, "steps columns"]
    mean: Float[np.ndarray, "steps D C"]
    last: State


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


def record(process: Process, rates: Float[np.ndarray, " T"], risk: Risk) -> Record:
    """Run the recursion.

    Args:
        process: the placement.
        rates: the learning rate of each step.
        risk: the population.

    Returns:
        The record, T + 1 rows.
    """
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
    return Record(rows, mean, state)


def _row(
    process: Process,
    state: State,
    plain: Float[np.ndarray, "d C"],
    risk: Risk,
    weights: Float[np.ndarray, "2 d d"],
    divisor: int,
) -> Float[np.ndarray, " columns"]:
    """The figures of one step, in the order of `COLUMNS`.

    Returns:
        The row.
    """
    spread, average = state.covariance.sum(axis=0), state.total_covariance.sum(axis=0) / divisor**2
    on_data, on_population = np.tensordot(weights, spread, 2)
    loss, objective = losses(process, state.mean)
    expected = loss + on_data, objective + on_data + process.penalty @ np.diag(spread)
    at = risk.at(process.embed(state.mean))
    averaged = risk.at(process.embed(state.total_mean / divisor)) + np.sum(weights[1] * average)
    traces, risks = (
        (max(np.trace(spread), 0.0), max(np.trace(average), 0.0)),  # rounding may leave less than 0
        (at + on_population, at, risk.at(process.embed(plain)), averaged),
    )
    return np.array([*traces, *expected, loss, objective, *losses(process, plain), *risks])
