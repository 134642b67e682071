"""§3.1 over training steps, continued: dropout SGD beside plain gradient descent at the same learning rate.

`section_3_1_sgd.claims` lists these rows. Exact risks and losses from `dropout_sgd`. Checked by
`tests/test_claims_dropout_sgd.py`, which plants wrong formulas.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from allora_analysis import dropout_sgd
from allora_analysis.claims.ledger import Evidence, Finding, relative_error, settle

ROUNDING = 1e-10
SEED = 31
COMMAND, TEST = "python -m allora_analysis.dropout_sgd", "tests/test_dropout_sgd.py"
PLACEMENTS = ("output", "input")


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


def first_step() -> Finding:
    """At the first step, is the risk the higher the stronger the dropout, at one learning rate?

    Returns:
        The finding.
    """
    x, y, w_true = problem(30, 10, 1.0)
    rates, printed, seen = (1.0, 0.9, 0.8, 0.5, 0.2), {}, {}
    for placement in PLACEMENTS:
        rate = 0.5 * min(dropout_sgd.stability_limits(x, p, placement).mean_square for p in rates)
        runs = [dropout_sgd.trajectory(x, y, p, rate, 1, placement, w_true=w_true) for p in rates]
        risks = np.array([run.risk[1] for run in runs])
        seen[placement] = {"keep_prob": rates, "risk": risks, "plain": runs[0].risk_plain[1]}
        printed[placement] = bool(
            np.all(np.diff(risks) > 0) and relative_error(risks[0], runs[0].risk_plain[1]) < ROUNDING
        )
    return Finding(settle(printed), Evidence({}, seen, "exact; no tolerance: an order", seed=SEED))


def crossover() -> Finding:
    """From which step on is dropout's population risk below plain gradient descent's, and what does that hang on?

    Returns:
        The finding.
    """
    steps, printed, corrected, seen = 50, {}, {}, {}
    for placement, noise in product(PLACEMENTS, (0.0, 0.3, 3.0)):
        x, y, w_true = problem(40, 20, noise)
        rate = 0.1 * dropout_sgd.stability_limits(x, 0.9, placement).mean_square
        step = dropout_sgd.trajectory(x, y, 0.9, rate, steps, placement, w_true=w_true).crossover
        case = f"{placement}, noise {noise:g} of signal 1"
        seen[case] = step
        printed[case] = step is None
        corrected[case] = printed[case] == (noise < 1)
    evidence = Evidence({"late": f"no crossover in {steps} steps"}, seen, "exact crossover steps", seed=SEED)
    text = (
        "depends on the noise in Y: well below the signal the benefit comes late or never; at several times the signal "
        "dropout is ahead of plain gradient descent after a few steps; in between the data decide"
    )
    return Finding(settle(printed, corrected), evidence, text)


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
