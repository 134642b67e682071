"""The Monte Carlo twin: SGD under dropout itself, many replicas side by side, each with its own masks and batches.

Knows nothing of the moments: it draws masks, forms the masked predictions and steps along their gradient, in W
(`simulate`) or in LoRA's factors A and B (`simulate_factors`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.dropout_sgd.factors import Factors, checked_factors
from allora_analysis.dropout_sgd.placements import Problem, checked, refuse_long
from allora_analysis.dropout_sgd.stability import schedule
from allora_analysis.validation import ArgumentError

BLOCK = 2**21  # numbers drawn at once: 16 MiB
KEPT = 2**27  # numbers kept in all: 1 GiB


@dataclass(frozen=True)
class Simulation:
    """Replicas at the recorded steps.

    Attributes:
        steps: the recorded steps.
        iterates: W_t (steps × replicas × D × C).
        averages: W̄_t, the average of W₁ … W_t.
    """

    steps: Int[np.ndarray, " snapshots"]
    iterates: Float[np.ndarray, "snapshots replicas D C"]
    averages: Float[np.ndarray, "snapshots replicas D C"]

    def covariance_trace(self) -> tuple[Float[np.ndarray, " snapshots"], Float[np.ndarray, " snapshots"]]:
        """Estimates of tr Cov W_t at the recorded steps, over all columns, and their standard errors."""
        gaps = self.iterates - self.iterates.mean(axis=1, keepdims=True)
        squares = np.einsum("srdc,srdc->sr", gaps, gaps)
        count = squares.shape[1]
        return squares.sum(axis=1) / (count - 1), squares.std(axis=1, ddof=1) / np.sqrt(count)

    def risk(
        self, w_true: Float[np.ndarray, "D C"], averaged: bool = False
    ) -> tuple[Float[np.ndarray, " snapshots"], Float[np.ndarray, " snapshots"]]:
        """Estimates of E‖W_t − W_true‖² (`averaged`: W̄_t's) at the recorded steps, Σ = I, and their standard errors."""
        gaps = (self.averages if averaged else self.iterates) - w_true
        squares = np.einsum("srdc,srdc->sr", gaps, gaps)
        return squares.mean(axis=1), squares.std(axis=1, ddof=1) / np.sqrt(squares.shape[1])


def _gradient(
    w: Float[np.ndarray, "R D C"], x: Float[np.ndarray, "#R n D"], y: Float[np.ndarray, "#R n C"], masks: np.ndarray
) -> Float[np.ndarray, "R D C"]:
    """The gradient of each replica's masked loss: masks (R, n, D) are the input's, (R, n, 1, C) the output's."""
    if masks.ndim == 4:
        masks = masks[:, :, 0]
        return -2.0 * np.swapaxes(x, 1, 2) @ (masks * (y - masks * (x @ w)))
    masked = x * masks
    return -2.0 * np.swapaxes(masked, 1, 2) @ (y - masked @ w)


def _stepper(problem: Problem) -> Callable[[np.ndarray, float, np.random.Generator], np.ndarray]:
    """One step of a block of replicas (R × D × C), as a function of the block, the rate and the generator."""
    x, y, keep_prob, placement, batch_size, shared_mask = problem
    n, drawn = len(x), batch_size or len(x)
    features = x.shape[1]
    shape = (drawn, 1, y.shape[1]) if placement == "output" else (1 if shared_mask else drawn, features)

    def step(w: np.ndarray, rate: float, generator: np.random.Generator) -> np.ndarray:
        rows = x[None], y[None]
        if batch_size is not None:
            index = generator.integers(n, size=(len(w), drawn))
            rows = x[index], y[index]
        masks = (generator.random((len(w), *shape)) < keep_prob) / keep_prob
        return w - rate * (n / drawn) * _gradient(w, *rows, masks)

    return step


@validation.representable("x", "y", "keep_prob", "learning_rate", "steps", "replicas")
def simulate(
    x: ArrayLike,
    y: ArrayLike,
    keep_prob: Any,
    learning_rate: float | Sequence[float] | ArrayLike,
    steps: int,
    placement: str = "output",
    *,
    replicas: int,
    generator: np.random.Generator,
    record: Sequence[int] | None = None,
    batch_size: int | None = None,
    shared_mask: bool = False,
    most_seconds: float = 60.0,
) -> Simulation:
    """Run `replicas` independent copies, 2 or more, from W₀ = 0.

    Memory: the recorded iterates and averages, 2·len(record)·replicas·D·C numbers, and a block of masks of 16 MiB.
    The result depends on the generator alone, not on the machine. `tests/test_dropout_sgd_study.py` compares.

    Arguments as in `moments.trajectory`, without its stability limit; `generator` is the randomness, `record` are the
    steps to keep, ascending, in [0, T]; None for the last one.

    Returns:
        The replicas at the recorded steps.

    Raises:
        ArgumentError: what cannot be used; more than 1 GiB of snapshots, or of one step's masks; a run that would take
            longer than `most_seconds`.
    """
    problem = checked(x, y, keep_prob, placement, batch_size, shared_mask)
    steps, replicas = validation.count("steps", steps), validation.count("replicas", replicas, 2)
    (rows, d), columns = problem.x.shape, problem.y.shape[1]
    drawn = float(problem.batch_size or rows)
    validation.fits("batch_size", drawn * (d + columns), "one step's rows and masks")
    validation.fits("steps", steps, "the learning rates")
    rates = schedule(learning_rate, steps)
    kept = {validation.count("record", t, 0, steps) for t in ((steps,) if record is None else record)}
    _snapshots(problem, len(kept), replicas)
    refuse_long(steps, steps * (1e-4 + replicas * drawn * (d + columns + 2 * d * columns) / 1e8), most_seconds)
    return replicas_of(problem, rates, sorted(kept), replicas, generator)


def _snapshots(problem: Problem, kept: int, replicas: int) -> tuple[int, int, int, int]:
    # The shape of what is kept, if it fits into 1 GiB.
    shape = (kept, replicas, problem.x.shape[1], problem.y.shape[1])
    if 2 * np.prod(shape, dtype=float) > KEPT:
        raise ArgumentError(
            f"replicas: {replicas} copies of {shape[2]} × {shape[3]} weights at {kept} steps need "
            f"more than 1 GiB; give fewer than {int(replicas * KEPT / (2 * np.prod(shape, dtype=float)))}"
        )
    return shape


def replicas_of(
    problem: Problem, rates: Float[np.ndarray, " T"], kept: Sequence[int], replicas: int, generator: np.random.Generator
) -> Simulation:
    """The core of `simulate`."""
    x, y, batch_size, shape = problem.x, problem.y, problem.batch_size, _snapshots(problem, len(kept), replicas)
    step, outcome = _stepper(problem), Simulation(np.array(kept), np.zeros(shape), np.zeros(shape))
    size = max(1, BLOCK // ((batch_size or len(x)) * (x.shape[1] + y.shape[1])))
    for first in range(0, replicas, size):
        _block(step, rates, generator, outcome, slice(first, min(first + size, replicas)))
    return outcome


def _block(
    step: Callable[[np.ndarray, float, np.random.Generator], np.ndarray],
    rates: Float[np.ndarray, " T"],
    generator: np.random.Generator,
    outcome: Simulation,
    block: slice,
) -> None:
    """Run some of the replicas and write their snapshots into the outcome."""
    w = np.zeros_like(outcome.iterates[0, block])
    total = np.zeros_like(w)
    where = {int(t): i for i, t in enumerate(outcome.steps)}
    for t, rate in enumerate(rates, start=1):
        w = step(w, float(rate), generator)
        total += w
        if t in where:
            outcome.iterates[where[t], block] = w
            outcome.averages[where[t], block] = total / t


@validation.representable("x", "y", "a", "b", "keep_prob", "learning_rate", "steps", "replicas")
def simulate_factors(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    keep_prob: Any,
    learning_rate: float,
    steps: int,
    placement: str = "input",
    *,
    replicas: int,
    generator: np.random.Generator,
    record: Sequence[int] | None = None,
    most_seconds: float = 60.0,
) -> Simulation:
    """Run `replicas` independent copies of SGD on A and B; `tests/test_dropout_sgd_factors.py` compares the two.

    Arguments as in `factors.factor_flow`, then as in `simulate`: `replicas` to `most_seconds`.

    Returns:
        W = AᵀBᵀ of the replicas at the recorded steps, and its averages.

    Raises:
        ArgumentError: what cannot be used; more than 1 GiB of snapshots; a run that would take longer than
            `most_seconds`.
    """
    model, a, b = checked_factors(x, y, a, b, keep_prob, placement)
    rate, steps = validation.positive("learning_rate", learning_rate), validation.count("steps", steps)
    replicas = validation.count("replicas", replicas, 2)
    kept = sorted({validation.count("record", t, 0, steps) for t in ((steps,) if record is None else record)})
    rows, width = len(model.x), sum(model.sizes)
    refuse_long(steps, steps * (1e-4 + replicas * rows * width * (3 + model.rank) / 1e8), most_seconds)
    return factor_replicas(model, (a, b), rate, kept, replicas, generator)


def factor_replicas(
    model: Factors,
    start: tuple[Float[np.ndarray, "r D"], Float[np.ndarray, "C r"]],
    rate: float,
    kept: Sequence[int],
    replicas: int,
    generator: np.random.Generator,
) -> Simulation:
    """The core of `simulate_factors`."""
    problem = Problem(model.x, model.y, model.keep_prob, model.placement, None, False)
    shape, where = _snapshots(problem, len(kept), replicas), {t: i for i, t in enumerate(kept)}
    outcome = Simulation(np.array(kept), np.zeros(shape), np.zeros(shape))
    size = max(1, BLOCK // (len(model.x) * sum(model.sizes)))
    for first in range(0, replicas, size):
        block = slice(first, min(first + size, replicas))
        a, b = (np.repeat(part[None], block.stop - block.start, axis=0) for part in start)
        total = np.zeros_like(outcome.iterates[0, block])
        for t in range(kept[-1] + 1):
            if t > 0:
                slope_a, slope_b = _factor_gradient(model, a, b, generator)
                a, b = a - rate * slope_a, b - rate * slope_b
                total += np.swapaxes(b @ a, 1, 2)
            if t in where:
                outcome.iterates[where[t], block] = np.swapaxes(b @ a, 1, 2)
                outcome.averages[where[t], block] = total / max(t, 1)
    return outcome


def _factor_gradient(
    model: Factors, a: Float[np.ndarray, "R r D"], b: Float[np.ndarray, "R C r"], generator: np.random.Generator
) -> tuple[Float[np.ndarray, "R r D"], Float[np.ndarray, "R C r"]]:
    """The gradient of each replica's masked loss, through the two layers, with a mask on one of three places."""
    masked = {"bottleneck": 0, "input": 1, "output": 2}[model.placement]
    shape = (len(a), len(model.x), model.sizes[masked])
    masks = [1.0, 1.0, 1.0]
    masks[masked] = (generator.random(shape) < model.keep_prob) / model.keep_prob
    inner, outer, last = masks
    inputs = model.x * outer
    hidden = inputs @ np.swapaxes(a, 1, 2) * inner
    delta = -2.0 * last * (model.y - last * (hidden @ np.swapaxes(b, 1, 2)))
    return np.swapaxes(delta @ b * inner, 1, 2) @ inputs, np.swapaxes(delta, 1, 2) @ hidden
