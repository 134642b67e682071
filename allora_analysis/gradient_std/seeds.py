"""What several seeds say together: averages epoch by epoch, and the seed as a variance component.

Entries of the gradient are not comparable across seeds, summaries are. Seed i's gradient has the total variance T_i
(masks and minibatches, averaged over entries), estimated as T̂_i with a standard error s_i over its minibatches. On the
scale of relative changes, log T̂_i = m + u_i + e_i: u_i is what the seed (initialisation and order of the data) does,
e_i the error of measuring it with finitely many minibatches and masks, Var e_i ≈ (s_i/T̂_i)² (delta method). Checked by
`tests/test_gradient_std_seeds.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.validation import ArgumentError, vector

BATCHES = ("probe", "fresh", "no_dropout_fresh")


@dataclass(frozen=True)
class SeedComponent:
    """Variance components of log T̂: 0.01 is a spread of about 10 %.

    Attributes:
        seed: σ²_seed = Var u; an unbiased estimate up to the delta method, so it can be below 0.
        seed_stderr: its standard error, the jackknife's over seeds.
        measurement: the mean of Var e_i, the error of one seed's T̂.
    """

    seed: float
    seed_stderr: float
    measurement: float


def seed_component(totals: ArrayLike, stderrs: ArrayLike) -> SeedComponent:
    """σ̂²_seed = Var_i(log T̂_i) − mean_i (s_i/T̂_i)², the variance over seeds with n − 1.

    The method of moments for a random effect measured with known errors; its standard error is the jackknife's over
    seeds, the independent units. Source: Searle, Casella and McCulloch, Variance Components (1992), §3.5.

    Args:
        totals: T̂_i, above 0 (n ≥ 3 seeds).
        stderrs: s_i, 0 or above (n).

    Returns:
        The components.

    Raises:
        ArgumentError: fewer than 3 seeds, shapes that do not match, a total that is not above 0.
    """
    values, errors = vector("totals", totals), vector("stderrs", stderrs)
    if values.size < 3 or values.size != errors.size:
        raise ArgumentError(
            f"totals and stderrs must hold one number for each of 3 or more seeds, received {values.size} and "
            f"{errors.size}"
        )
    if values.min() <= 0 or errors.min() < 0:
        raise ArgumentError(
            f"totals must be above 0 and stderrs 0 or above, received {values.min():g} and {errors.min():g}"
        )
    logs, noise = np.log(values), (errors / values) ** 2
    rest = [np.delete(np.arange(values.size), i) for i in range(values.size)]
    left_out = np.array([_estimate(logs[kept], noise[kept]) for kept in rest])
    stderr = float(np.sqrt((values.size - 1) * left_out.var()))
    return SeedComponent(_estimate(logs, noise), stderr, float(noise.mean()))


def _estimate(logs: Float[np.ndarray, " n"], noise: Float[np.ndarray, " n"]) -> float:
    return float(logs.var(ddof=1) - noise.mean())


def over_seeds(runs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Averages over seeds, epoch by epoch, over the epochs that all runs have, with the standard error over seeds.

    From three seeds on, the seed's variance component of the logarithm of the total variance stands beside them (None
    where a seed's total is 0).

    Args:
        runs: each run's epochs.

    Returns:
        Lists by name, for example `probe_mean` and `probe_mean_stderr` (None with one seed).
    """
    length = min(len(run) for run in runs)
    found: dict[str, Any] = {}
    for part, statistic in (
        (None, "test_accuracy"),
        *((batch, statistic) for batch in BATCHES for statistic in ("mean", "worst_held_out")),
        *(("decomposition", which) for which in ("mask", "minibatch", "total")),
    ):
        name = statistic if part is None else f"{part}_{statistic}"
        values = np.array([[(e if part is None else e[part])[statistic] for e in run[:length]] for run in runs])
        found[name] = values.mean(axis=0)
        many = len(runs) > 1
        found[f"{name}_stderr"] = values.std(axis=0, ddof=1) / math.sqrt(len(runs)) if many else [None] * length
    return found | _seed_components([run[:length] for run in runs])


def _seed_components(runs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    # By epoch, of the logarithm of the total variance; three seeds or more have one, unless a total is 0.
    if len(runs) < 3:
        return {}
    epochs = [[epoch["decomposition"] for epoch in several_seeds] for several_seeds in zip(*runs, strict=True)]
    found = [
        seed_component(*([one[name] for one in epoch] for name in ("total", "total_stderr")))
        if all(one["total"] > 0 for one in epoch)
        else None
        for epoch in epochs
    ]
    return {
        f"log_total_{name}": [None if one is None else getattr(one, of) for one in found]
        for name, of in (
            ("seed_variance", "seed"),
            ("seed_variance_stderr", "seed_stderr"),
            ("measurement_variance", "measurement"),
        )
    }
