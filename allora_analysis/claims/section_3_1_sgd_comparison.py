"""§3.1 over training steps, continued: dropout SGD beside plain gradient descent at the same learning rate.

`section_3_1_sgd.claims` lists these rows. Exact risks and losses from `dropout_sgd`. Checked by
`tests/test_claims_dropout_sgd.py`, which plants wrong formulas.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise, product

import numpy as np

from allora_analysis import dropout_sgd
from allora_analysis.claims.ledger import Evidence, Finding, relative_error, settle

ROUNDING = 1e-10
SEED = 31
COMMAND, TEST = "python -m allora_analysis.dropout_sgd", "tests/test_dropout_sgd.py"
PLACEMENTS = ("output", "input")
SHORT_SEEDS, SHORT, SHORT_NOISES = 12, (1, 3, 10), (0.0, 0.3, 3.0, 10.0)
SEEDS, NOISES, LATE, HORIZON = 4, (0.0, 0.3, 0.5, 3.0), 50, 200  # of the crossover, in steps
KEEP_PROB, FRACTION, FASTER = 0.9, 0.1, 0.5  # of the mean-square limit


def problem(n: int, d: int, noise: float, seed: int = SEED) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X standard normal, Y = X W_true + noise of that standard deviation (the signal's is 1), and W_true.

    Args:
        n: rows N.
        d: columns D.
        noise: standard deviation of the noise in Y.
        seed: of the data.

    Returns:
        X, Y and W_true.
    """
    generator = np.random.default_rng(seed)
    x, w_true = generator.standard_normal((n, d)), generator.standard_normal((d, 1)) / np.sqrt(d)
    return x, x @ w_true + noise * generator.standard_normal((n, 1)), w_true


def regularised_descent(x: np.ndarray, y: np.ndarray, p: float, rate: float, steps: int, placement: str) -> np.ndarray:
    """Gradient descent on ‖Y − XW‖² plus k‖XW‖² (output) or k‖diag(S)^{1/2} W‖² (input), from 0.

    Args:
        x: X.
        y: Y.
        p: the keep probability, k = (1 − p)/p; 1 is plain descent.
        rate: the learning rate.
        steps: how many.
        placement: "output" or "input".

    Returns:
        steps + 1 weights.
    """
    gram, k = x.T @ x, (1 - p) / p
    penalty = k * gram if placement == "output" else k * np.diag(np.diag(gram))
    path = [np.zeros((x.shape[1], 1))]
    for _ in range(steps):
        path.append(path[-1] - rate * (2 * (gram + penalty) @ path[-1] - 2 * x.T @ y))
    return np.array(path)


def falling(counts: Iterable[int]) -> bool:
    """Whether counts never rise from one to the next.

    Args:
        counts: in order.

    Returns:
        True if none is above the one before it.
    """
    return all(later <= earlier for earlier, later in pairwise(counts))


def first_step() -> Finding:
    """After a few steps, is the risk the highest at the strongest dropout, at one learning rate?

    Returns:
        The finding.
    """
    rates, printed, corrected, seen, weakest = (1.0, 0.9, 0.8, 0.5, 0.2), {}, {}, {}, Counter()
    for placement, noise, seed in product(PLACEMENTS, SHORT_NOISES, range(SEED, SEED + SHORT_SEEDS)):
        x, y, w_true = problem(30, 10, noise, seed)
        rate = 0.5 * dropout_sgd.stability_limits(x, min(rates), placement).mean_square
        runs = [dropout_sgd.trajectory(x, y, p, rate, max(SHORT), placement, w_true=w_true) for p in rates]
        risks = np.array([run.risk for run in runs])
        plain = relative_error(risks[0], runs[0].risk_plain) < ROUNDING
        equal = relative_error([run.mean[1] for run in runs], [runs[0].mean[1]] * len(runs)) < ROUNDING
        for step in SHORT:
            case = f"{placement}, noise {noise:g} of signal 1, data {seed}, step {step}"
            seen[case] = dict(zip(map(str, rates), risks[:, step], strict=True))
            printed[case] = plain and bool(np.all(risks[-1, step] > risks[:-1, step]))
            weakest[step, noise] += printed[case]
            corrected[case] = plain and equal and (printed[case] or (step > 1 and noise > 0))
    total, (first, *later) = len(PLACEMENTS) * SHORT_SEEDS, SHORT
    corrected |= {
        f"step {step}: the more noise, the less often": falling(weakest[step, n] for n in SHORT_NOISES)
        for step in later
    }
    counts = "; ".join(
        f"after {step} steps in " + ", ".join(f"{weakest[step, noise]} at noise {noise:g}" for noise in SHORT_NOISES)
        for step in later
    )
    text = (
        f"true of step {first}, by identity: E W₁ is the same for every p and only the variance grows. Later it "
        "depends on the noise in Y (the signal's is 1): at half the strongest dropout's mean-square limit as learning "
        f"rate (p = {min(rates)}) it is the weakest, of {total} cases, {counts}"
    )
    return Finding(settle(printed, corrected), Evidence({}, seen, "exact; no tolerance: an order", seed=SEED), text)


def _outcome(
    x: np.ndarray, y: np.ndarray, w_true: np.ndarray, fraction: float, placement: str
) -> tuple[str, int | None]:
    """Whether dropout's risk gets below plain descent's: early, late (in the limit at least), or never.

    Returns:
        The word, and the first step; None for none within HORIZON.
    """
    rate = fraction * dropout_sgd.stability_limits(x, KEEP_PROB, placement).mean_square
    step = dropout_sgd.trajectory(x, y, KEEP_PROB, rate, HORIZON, placement, w_true=w_true).crossover
    if step is not None:
        return ("late" if step > LATE else "early"), step
    rest = dropout_sgd.stationary_moments(x, y, KEEP_PROB, rate, placement)
    plain = np.linalg.lstsq(x, y, rcond=None)[0]
    ahead = np.sum((rest.mean - w_true) ** 2) + rest.covariance_trace < np.sum((plain - w_true) ** 2)
    return ("late" if ahead else "never"), None


def crossover() -> Finding:
    """From which step on is dropout's population risk below plain gradient descent's, and what does that hang on?

    Returns:
        The finding.
    """
    printed, corrected, seen = {}, {}, {}
    counts, faster = {noise: Counter() for noise in NOISES}, {noise: Counter() for noise in NOISES}
    for placement, noise, seed in product(PLACEMENTS, NOISES, range(SEED, SEED + SEEDS)):
        x, y, w_true = problem(20, 10, noise, seed)
        outcome, step = _outcome(x, y, w_true, FRACTION, placement)
        case = f"{placement}, noise {noise:g} of signal 1, data {seed}"
        seen[case] = {"outcome": outcome, "step": step}
        counts[noise][outcome] += 1
        printed[case] = outcome == "late"
        if outcome == "late":
            faster[noise][_outcome(x, y, w_true, FASTER, placement)[0]] += 1
        corrected[case] = outcome == {0.0: "never", 3.0: "early"}.get(noise, outcome)
    evidence = Evidence({"late": f"a crossover, after step {LATE}"}, seen, "exact crossover steps", seed=SEED)
    text = (
        "depends on the noise in Y (the signal's is 1) and on the learning rate. Ahead of plain gradient descent after "
        f"more than {LATE} steps (late), sooner (early), or neither in {HORIZON} steps nor in the limit (never), at "
        f"{FRACTION:g} of the mean-square limit and p = {KEEP_PROB}: {_listed(counts)}. At {FASTER:g} of it the late "
        f"ones are {_listed(faster)}"
    )
    return Finding(settle(printed, corrected, contrary=not any(printed.values())), evidence, text)


def _listed(counts: Mapping[float, Counter[str]]) -> str:
    return "; ".join(
        ", ".join(f"{number} {word}" for word, number in sorted(count.items())) + f" at noise {noise:g}"
        for noise, count in counts.items()
        if count
    )


def training_fit() -> Finding:
    """On the training loss, does dropout ever get ahead of plain gradient descent at the same rate?

    Returns:
        The finding.
    """
    printed, corrected, seen = {}, {}, {}
    ones, copies = np.ones((2000, 1)), 10
    skewed, targets = np.tile([[-1.0, 3.0], [0.0, -1.0]], (copies, 1)), np.tile([[3.0], [1.0]], (copies, 1))
    cases = {
        f"output, data {seed}, 1/4 of the mean's limit": (*problem(20, 5, 1.0, seed)[:2], 0.8, 0.25, "output")
        for seed in range(2)
    }
    cases["output, one feature, 3/4 of the mean's limit"] = (ones, ones, 8 / 9, 0.75, "output")
    cases["input, skewed features, 1/4 of the mean's limit"] = (skewed, targets, 0.9, 0.25, "input")
    for case, (x, y, p, fraction, placement) in cases.items():
        rate = fraction * dropout_sgd.stability_limits(x, p, placement).mean
        run = dropout_sgd.trajectory(x, y, p, rate, 40, placement)
        gap = (run.training_loss - run.training_loss_plain) / np.sum(y**2)
        seen[case] = {"least gap over ‖Y‖²": gap.min(), "at step": int(gap.argmin())}
        printed[case] = bool(gap.min() > -ROUNDING)
        corrected[case] = printed[case] == (placement == "output" and fraction <= 0.5)
    text = (
        "of the training loss: dropout is never ahead with output masks up to half the mean's limit, l ≤ p/(2 s_max²) "
        "(z^t is convex, in each direction); past that, or with input masks on correlated features, it can be "
        "ahead for some steps"
    )
    return Finding(settle(printed, corrected), Evidence({}, seen, "float64 rounding", tolerance=ROUNDING, seed=0), text)
