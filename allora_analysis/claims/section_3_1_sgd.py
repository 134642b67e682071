"""§3.1 over training steps: what dropout's regularisation and its noise are after finitely many of them.

Exact moments from `dropout_sgd`, against enumeration of all masks and against simulated runs. Checked by
`tests/test_claims_dropout_sgd.py`, which plants wrong formulas.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from allora_analysis import dropout_sgd
from allora_analysis.claims.ledger import Claim, Evidence, Finding, relative_error, settle
from allora_analysis.claims.section_3_1_sgd_comparison import (
    COMMAND,
    PLACEMENTS,
    ROUNDING,
    SEED,
    TEST,
    crossover,
    first_step,
    problem,
    training_fit,
)

REPLICAS, STEPS, NOISES = 2000, 30, (0.0, 0.3, 3.0)
CLOSE = 1e-6


def _enumerated_mean(x: np.ndarray, y: np.ndarray, p: float, rate: float, steps: int, placement: str) -> np.ndarray:
    """E W_t, t = 0 … steps, over every sequence of masks, from the masked gradient itself.

    Returns:
        steps + 1 means.
    """
    shape = (len(y), 1) if placement == "output" else x.shape
    patterns = [np.array(bits, dtype=float).reshape(shape) for bits in product((0, 1), repeat=shape[0] * shape[1])]
    runs, means = [(1.0, np.zeros((x.shape[1], 1)))], [np.zeros((x.shape[1], 1))]
    for _ in range(steps):
        following = []
        for probability, w in runs:
            for pattern in patterns:
                kept = pattern.sum()
                masked = x * pattern / p  # a mask on one output is a mask on its whole row
                step = w + 2 * rate * masked.T @ (y - masked @ w)
                following.append((probability * p**kept * (1 - p) ** (pattern.size - kept), step))
        runs = following
        means.append(sum(probability * w for probability, w in runs))
    return np.array(means)


def _regularised_descent(x: np.ndarray, y: np.ndarray, p: float, rate: float, steps: int, placement: str) -> np.ndarray:
    """Gradient descent on ‖Y − XW‖² plus k‖XW‖² (output) or k‖diag(S)^{1/2} W‖² (input), from 0.

    Returns:
        steps + 1 weights.
    """
    gram, k = x.T @ x, (1 - p) / p
    penalty = k * gram if placement == "output" else k * np.diag(np.diag(gram))
    path = [np.zeros((x.shape[1], 1))]
    for _ in range(steps):
        path.append(path[-1] - rate * (2 * (gram + penalty) @ path[-1] - 2 * x.T @ y))
    return np.array(path)


def expectation() -> Finding:
    """Is E W_t anything but gradient descent on the regularised objective at a finite step?

    Returns:
        The finding.
    """
    x, y, _ = problem(2, 2, 1.0)
    printed, errors = {}, {}
    for placement in PLACEMENTS:
        rate = 0.5 * dropout_sgd.stability_limits(x, 0.7, placement).mean_square
        mean = dropout_sgd.trajectory(x, y, 0.7, rate, 3, placement).mean
        path = _regularised_descent(x, y, 0.7, rate, 3, placement)
        errors[f"{placement}, enumeration"] = relative_error(_enumerated_mean(x, y, 0.7, rate, 3, placement), path)
        errors[f"{placement}, closed form"] = relative_error(mean, path)
        printed[placement] = any(errors[f"{placement}, {way}"] > ROUNDING for way in ("enumeration", "closed form"))
    evidence = Evidence(
        {"E W_t - regularised descent, t = 1, 2, 3": 0.0}, errors, "float64 rounding", max(errors.values()), ROUNDING
    )
    text = (
        "E[W_t] is exactly gradient descent on the regularised objective at every step, t = 1 included; what few steps "
        "add is covariance"
    )
    return Finding(settle(printed), evidence, text)


def convergence() -> Finding:
    """Does the iterate converge: at a constant rate, at a falling rate, on average?

    Returns:
        The finding.
    """
    x, y, _ = problem(12, 3, 1.0)
    x = np.linalg.qr(x)[0] * [1.0, 1.2, 1.4]  # a spectrum so even that a hundred steps are long
    steps, printed, corrected, seen, expected, errors = 120, {}, {}, {}, {}, []
    for placement in PLACEMENTS:
        rate = 0.5 * dropout_sgd.stability_limits(x, 0.8, placement).mean_square
        rest = dropout_sgd.stationary_moments(x, y, 0.8, rate, placement)
        fixed = dropout_sgd.trajectory(x, y, 0.8, rate, steps, placement)
        falling = dropout_sgd.trajectory(x, y, 0.8, rate / np.sqrt(np.arange(1, steps + 1)), steps, placement)
        last, average, slow = fixed.covariance_trace, fixed.average_covariance_trace, falling.covariance_trace
        # t·tr Cov of the average is its limit + c/t + what dies out exponentially: c/t cancels between t and t/2.
        limit = 2 * steps * average[steps] - steps // 2 * average[steps // 2]
        expected[placement] = {"tr Cov": rest.covariance_trace, "t tr Cov of average": rest.average_covariance_rate}
        seen[placement] = {"tr Cov": last[-1], "t tr Cov of average": limit, "tr Cov at rate 1/√t": slow[-1]}
        errors += [relative_error(last[-1], rest.covariance_trace), relative_error(limit, rest.average_covariance_rate)]
        constant, averaged, slowed = (f"{placement}, {case}" for case in ("constant rate", "average", "rate 1/√t"))
        printed[constant] = rest.covariance_trace > 0 and bool(last[-1] > 0.5 * last[steps // 10])
        printed[averaged] = bool(average[-1] > 0.5 * average[steps // 10])
        printed[slowed] = bool(slow[-1] > 0.5 * slow[steps // 10])
        corrected |= {constant: errors[-2] < CLOSE, averaged: errors[-1] < CLOSE, slowed: not printed[slowed]}
        corrected[averaged] &= not printed[averaged]
    source = "float64 rounding and CG's; the stationary moments solve linear equations of their own"
    evidence = Evidence(expected, seen, source, max(errors), CLOSE, seed=SEED)
    text = (
        "true of the last iterate at a constant rate (its covariance tends to a positive limit); a falling rate or the "
        "average of the iterates converges to the regularised optimum"
    )
    return Finding(settle(printed, corrected), evidence, text)


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
    cases = tuple(product(ways, NOISES, range(SEED, SEED + 3)))
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
            corrected[case] = there and bool(gap[step] > 0) == (step == 1 or noise < 1)
    source = "|z| at a false-fail rate of 1e-6 over the cases"
    evidence = Evidence(expected, seen, source, max(scores), limit, n=REPLICAS, seed=SEED)
    return Finding(settle(printed, corrected), evidence, _on_variance(behind))


def _on_variance(behind: dict[float, list[tuple[bool, bool]]]) -> str:
    after = "; ".join(
        f"in {sum(whole for whole, _ in runs)} of {len(runs)} at noise {noise:g} "
        f"(in {sum(bias for _, bias in runs)} by the shrinkage alone)"
        for noise, runs in behind.items()
    )
    return (
        "it can, but need not: the variance is always there. At the first step it alone puts dropout behind training "
        f"without it, as the means are equal; after {STEPS} steps dropout is behind only where the noise in Y is well "
        f"below the signal (1): {after}. At several times the signal the shrinkage gains more than the variance costs"
    )


ROWS = (
    Claim(
        "3.1-sgd-variance",
        "§1, first flaw",
        "Dropout […] can in fact introduce detrimental additional variance to the training (read: variance that leaves "
        "it behind training without dropout)",
        variance,
        COMMAND,
        TEST,
    ),
    Claim(
        "3.1-sgd-convergence",
        "§3.1, title",
        "a stochastic regularization that will not converge",
        convergence,
        COMMAND,
        "tests/test_dropout_sgd_stability.py",
    ),
    Claim(
        "3.1-sgd-expectation",
        "§3.1, after the Tikhonov equivalence",
        "those derivations only emerge from taking expectation of the loss, i.e., considering infinite training steps",
        expectation,
        COMMAND,
        TEST,
    ),
    Claim(
        "3.1-sgd-crossover",
        "§3.1, after the bound",
        "the benefit of N, in our case the number of training steps, only appears for large N (read: dropout gets "
        "ahead of training without it, and late)",
        crossover,
        COMMAND,
        TEST,
    ),
    Claim(
        "3.1-sgd-first-step",
        "Figure 2 left, caption; checked on the linear model's first steps",
        "High value of Dropout provides […] the weakest performance after short fine-tuning",
        first_step,
        COMMAND,
        TEST,
    ),
    Claim(
        "3.1-sgd-training-fit",
        "§3.1, last paragraph; checked on the linear model's training loss",
        "large dropout rates successfully avoid overfitting, but at the cost of lower accuracy at lower number of "
        "epochs",
        training_fit,
        COMMAND,
        TEST,
    ),
)


def claims() -> tuple[Claim, ...]:
    """The rows of this part of §3.1.

    Returns:
        The claims, in the paper's order.
    """
    return ROWS
