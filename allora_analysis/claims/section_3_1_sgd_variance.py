"""§3.1 over training steps, continued: dropout's variance, beside plain descent and beside its regularisation.

`section_3_1_sgd.claims` lists these rows. Exact moments from `dropout_sgd`, against simulated runs. Checked by
`tests/test_claims_dropout_sgd.py`, which plants wrong formulas.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np

from allora_analysis import dropout_sgd
from allora_analysis.claims.ledger import Evidence, Finding, settle
from allora_analysis.claims.section_3_1_sgd_comparison import (
    PLACEMENTS,
    ROUNDING,
    SEED,
    falling,
    problem,
    regularised_descent,
)

REPLICAS, STEPS, NOISES, SEEDS = 2000, 30, (0.0, 0.3, 1.0, 2.0, 3.0), 8
FEW, MANY, RATES, DATA = 10, 300, (0.01, 0.1, 0.5), 3  # steps; learning rates over the mean-square limit


def _simulated(
    x: np.ndarray, y: np.ndarray, rate: float, seed: list[int], options: dict[str, Any]
) -> tuple[float, float]:
    # tr Cov of the last step's weights over independent runs, and its standard error.
    draws = dropout_sgd.simulate(
        x, y, 0.8, rate, STEPS, replicas=REPLICAS, generator=np.random.default_rng(seed), **options
    )
    (measured,), (stderr,) = draws.covariance_trace()
    return float(measured), float(stderr)


def variance() -> Finding:
    """Does dropout add variance to the descent that its mean is, and is it behind training without dropout then?

    Returns:
        The finding.
    """
    from scipy.special import ndtri

    ways = {"output": {}, "input": {}, "input, one mask for all rows": {"shared_mask": True}}
    cases = tuple(product(ways, NOISES, range(SEED, SEED + SEEDS)))
    limit = float(-ndtri(1e-6 / (len(ways) * len(NOISES)) / 2))
    printed, corrected, seen, expected, scores, behind = {}, {}, {}, {}, [], {noise: [] for noise in NOISES}
    for index, (way, noise, seed) in enumerate(cases):
        x, y, w_true = problem(20, 5, noise, seed)
        options = {"placement": way.split(",")[0], **ways[way]}
        rate = 0.3 * dropout_sgd.stability_limits(x, 0.8, **options).mean_square
        run = dropout_sgd.trajectory(x, y, 0.8, rate, STEPS, w_true=w_true, **options)
        name = f"{way}, noise {noise:g} of signal 1"
        if seed == SEED:  # the moments do not know the seed: one simulation of each kind
            expected[name] = {"covariance_trace": run.covariance_trace[-1]}
            measured, stderr = _simulated(x, y, rate, [SEED, index], options)
            seen[name] = {"covariance_trace": measured, "covariance_trace_stderr": stderr}
            scores.append(abs(measured - run.covariance_trace[-1]) / stderr)
        added, gap = run.risk - run.risk_marginal, run.risk - run.risk_plain
        behind[noise].append((bool(gap[-1] > 0), bool(gap[-1] > added[-1])))
        for step in (1, STEPS):
            case = f"{name}, data {seed}, step {step}"
            seen[case] = {"risk above plain": gap[step], "of it by variance": added[step]}
            there = bool(added[step] > 0 and scores[-1] < limit)
            printed[case] = there and bool(gap[step] > 0)
            corrected[case] = there and (printed[case] or (step > 1 and noise > 0))
    corrected["the more noise, the less often"] = falling(sum(one for one, _ in of) for of in behind.values())
    source = "|z| at a false-fail rate of 1e-6 over the cases"
    evidence = Evidence(expected, seen, source, max(scores), limit, n=REPLICAS, seed=SEED)
    return Finding(settle(printed, corrected), evidence, _on_variance(behind))


def _on_variance(behind: dict[float, list[tuple[bool, bool]]]) -> str:
    counts = {noise: sum(whole for whole, _ in runs) for noise, runs in behind.items()}
    after = ", ".join(f"{count} at noise {noise:g}" for noise, count in counts.items())
    alone = sum(bias for runs in behind.values() for whole, bias in runs if whole)
    return (
        "it can, but need not: the variance is always there. At the first step it alone puts dropout behind training "
        f"without it, as the means are equal; after {STEPS} steps (p = 0.8, 0.3 of the mean-square limit) it depends "
        "on the noise in Y (the signal's is 1), as shrinkage gains where there is noise: behind, of "
        f"{max(map(len, behind.values()))} each, in {after}; in {alone} of these by the shrinkage alone"
    )


def reliable() -> Finding:
    """From which step on is what dropout adds to E W_t larger than the standard deviation of W_t?

    Returns:
        The finding.
    """
    printed, corrected, seen, found = {}, {}, {}, {rate: [] for rate in RATES}
    for placement, noise, p, seed, fraction in product(
        PLACEMENTS, (0.3, 3.0), (0.5, 0.9), range(SEED, SEED + DATA), RATES
    ):
        x, y, _ = problem(20, 5, noise, seed)
        rate = fraction * dropout_sgd.stability_limits(x, p, placement).mean_square
        run = dropout_sgd.trajectory(x, y, p, rate, MANY, placement)
        plain = regularised_descent(x, y, 1.0, rate, MANY, placement)
        added, spread = np.linalg.norm(run.mean - plain, axis=(1, 2)), np.sqrt(run.covariance_trace)
        ahead = np.flatnonzero(added[1:] > spread[1:]) + 1
        step = int(ahead[0]) if len(ahead) else None
        case = f"{placement}, noise {noise:g} of signal 1, p = {p}, data {seed}, {fraction:g} of the limit"
        seen[case] = {"step": step, f"added by step {MANY}": added[-1], "deviation": spread[-1]}
        found[fraction].append(step)
        printed[case] = step is not None and step > FEW and bool(added[-1] > spread[-1])
        at_first = added[1] <= ROUNDING * np.linalg.norm(run.mean[1]) and spread[1] > 0
        corrected[case] = bool(at_first) and (printed[case] or fraction > min(RATES))
    text = (
        "at step 1 by identity: nothing is added to the mean, and the deviation is there. Then it depends on the "
        f"learning rate, here in units of the mean-square limit. Over p = 0.5 and 0.9 what is added outgrows the "
        f"deviation at step {_spans(found)}"
    )
    evidence = Evidence({"step": f"above {FEW}"}, seen, "exact moments; no tolerance: an order", seed=SEED)
    return Finding(settle(printed, corrected), evidence, text)


def _spans(found: Mapping[float, list[int | None]]) -> str:
    parts = []
    for rate, steps in found.items():
        reached = [step for step in steps if step is not None]
        never = f" ({len(steps) - len(reached)} of {len(steps)} not in {MANY})" if len(reached) < len(steps) else ""
        parts.append(
            f"{min(reached)} to {max(reached)}{never} at {rate:g}" if reached else f"none in {MANY} at {rate:g}"
        )
    return ", ".join(parts)
