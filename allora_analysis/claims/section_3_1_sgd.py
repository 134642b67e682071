"""§3.1 over training steps: what dropout's regularisation and its noise are after finitely many of them.

Exact moments from `dropout_sgd`, against enumeration of all masks and against simulated runs. Checked by
`tests/test_claims_dropout_sgd.py`, which plants wrong formulas.
"""

from __future__ import annotations

from itertools import product

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
    regularised_descent,
    training_fit,
)
from allora_analysis.claims.section_3_1_sgd_variance import FEW, reliable, variance

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
        path = regularised_descent(x, y, 0.7, rate, 3, placement)
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


ROWS = (
    Claim(
        "3.1-sgd-reliable",
        "Abstract; §1, first flaw",
        "Dropout is only suitable for long training episodes but fails to reliably regularize training for short "
        "training episodes (read: what it adds to the mean of the weights is below their standard deviation up to "
        f"step {FEW}, above it in the end)",
        reliable,
        COMMAND,
        TEST,
    ),
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
