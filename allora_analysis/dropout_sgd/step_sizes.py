"""The learning rates of a run: a constant below both stability limits, or a schedule, one rate a step."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from allora_analysis import validation
from allora_analysis.dropout_sgd.process import Process
from allora_analysis.dropout_sgd.stability import limits
from allora_analysis.validation import ArgumentError

# A rate given as the computed limit itself passes: the limit carries this much rounding.
ROUNDING = 1e-9


def refuse_unstable(process: Process, rate: float, slack: float = ROUNDING) -> None:
    """Refuse a constant rate past the mean-square stability limit.

    Args:
        process: the placement.
        rate: the learning rate.
        slack: how far past it may be, relative to it; negative: it must be below.

    Raises:
        ArgumentError: past it; names both limits.
    """
    found = limits(process)
    if rate <= found.mean_square * (1.0 + slack):
        return
    what = "the mean and the covariance grow" if rate > found.mean else "the covariance grows"
    raise ArgumentError(
        f"learning_rate: {rate:g} received, past the mean-square stability limit, so {what} without bound; give a rate "
        f"below {found.mean_square:.6g} (mean-square limit; the mean alone is stable below {found.mean:.6g})"
    )


def schedule(learning_rate: Any, steps: int) -> Float[np.ndarray, " T"]:
    """One rate a step, from a constant or a sequence; no stability limit is asked.

    Args:
        learning_rate: a number above 0, or a sequence of `steps` numbers, 0 or above.
        steps: T.

    Returns:
        The rates.

    Raises:
        ArgumentError: a sequence of another length or with a negative rate.
    """
    if np.ndim(learning_rate) == 0:
        return np.full(steps, validation.positive("learning_rate", learning_rate))
    rates = validation.vector("learning_rate", learning_rate)
    if len(rates) != steps:
        raise ArgumentError(f"learning_rate: a schedule of {len(rates)} rates received; give one a step, {steps}")
    if rates.min() < 0:
        where = int(np.argmin(rates))
        raise ArgumentError(f"learning_rate must be 0 or above at each step, received {rates[where]} at index {where}")
    return rates


def learning_rates(process: Process, learning_rate: Any, steps: int) -> Float[np.ndarray, " T"]:
    """As `schedule`, and a constant must be within the stability limits.

    Args:
        process: the placement.
        learning_rate: a number or a sequence.
        steps: T.

    Returns:
        The rates.
    """
    rates = schedule(learning_rate, steps)
    if np.ndim(learning_rate) == 0:
        refuse_unstable(process, float(rates[0]))
    return rates


def refuse_divergence(process: Process, step: int, rate: float, *values: np.ndarray) -> None:
    """Refuse to go on once a value is no longer finite.

    Args:
        process: the placement.
        step: the step that made the values, from 1.
        rate: its learning rate.
        *values: what it made.

    Raises:
        ArgumentError: one is infinite or NaN.
    """
    if all(np.isfinite(value).all() for value in values):
        return
    found = limits(process)
    raise ArgumentError(
        f"learning_rate: the schedule diverges, first non-finite value at step {step} (its rate {rate:g}); constant "
        f"rates are stable below {found.mean_square:.6g} in the mean square and below {found.mean:.6g} in the mean"
    )
