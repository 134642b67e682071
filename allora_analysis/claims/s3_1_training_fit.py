"""§3.1, last paragraph: the training loss with dropout and without, in the linear model.

The model and its symbols are `masked_descent`'s; judged by `dropout_sgd`, against moments summed over masks. Checked by
`tests/test_claims_3_1_few_steps.py`, which plants wrong formulas.
"""

from typing import NamedTuple

import numpy as np

from allora_analysis import dropout_sgd
from allora_analysis.claims.cases import PAPER_KEEP, Case, Cases
from allora_analysis.claims.claim import Finding, ranged
from allora_analysis.claims.masked_descent import TOLERANCE, Sgd, moments, sgd_claim, turned


class Fit(NamedTuple):
    """X, Y (N×1), the keep probability, l as a share of the mean's limit 1/λ_max(H), and the masks' place."""

    x: np.ndarray
    y: np.ndarray
    keep_prob: float
    share: float
    placement: str

    @property
    def rate(self) -> float:
        """The learning rate l."""
        return self.share * dropout_sgd.stability_limits(self.x, self.keep_prob, self.placement).mean


STEPS = 40
NOT_OVERSHOOTING = 0.5  # of 1/λ_max(H), that is l ≤ p/(2s_max²) with masks on the output


def told_gaps(one: Fit) -> np.ndarray:
    """E‖Y − XW_t‖² less plain descent's, over ‖Y‖², from moments summed over masks.

    Never below 0 with masks on the output and l ≤ p/(2s_max²): singular direction i of E W_t keeps of its residual
    1 − p + pz^t ≥ (1 − p + pz)^t, plain descent's, as z^t is convex for z = 1 − 2ls_i²/p ≥ 0; covariance comes on top.
    """
    setup = Sgd(one.x, np.zeros(one.x.shape[1]), 0.0, one.keep_prob, one.rate, STEPS, one.placement)
    fits = []
    for keep_prob in (one.keep_prob, 1.0):
        of = moments(setup, one.y, keep_prob)
        fits.append(((one.y - one.x @ of.mean) ** 2).sum(axis=(1, 2)) + np.tensordot(of.covariance, one.x.T @ one.x))
    return (fits[0] - fits[1]) / np.sum(one.y**2)


def gaps(one: Fit) -> np.ndarray:
    """`told_gaps` by `dropout_sgd`."""
    run = dropout_sgd.trajectory(one.x, one.y, one.keep_prob, one.rate, STEPS, one.placement)
    return (run.training_loss - run.training_loss_plain) / np.sum(one.y**2)


def skewed(rng: np.random.Generator, placement: str = "output") -> Fit:
    """Two features built so that with masks on the input dropout can fit better."""
    rows, targets = np.array([[-1.0, 3.0], [0.0, -1.0]]), np.array([[3.0], [1.0]])
    x = np.tile(rows + rng.choice([0.0, 0.1, 1.0]) * rng.standard_normal((2, 2)), (10, 1))
    return Fit(x, np.tile(targets, (10, 1)), 0.9, float(rng.uniform(0.1, NOT_OVERSHOOTING)), placement)


def gaussian(rng: np.random.Generator, placement: str) -> Fit:
    """20 rows of two Gaussian features, noise of 1."""
    x = rng.standard_normal((20, 2))
    y = x @ rng.standard_normal((2, 1)) + rng.standard_normal((20, 1))
    return Fit(x, y, 0.9, float(rng.uniform(0.1, NOT_OVERSHOOTING)), placement)


def one_feature(rng: np.random.Generator) -> Fit:
    """300 rows alike."""
    ones = np.ones((300, 1))
    return Fit(ones, ones, float(rng.choice([0.8, 8 / 9])), float(rng.uniform(0.5, 1) * NOT_OVERSHOOTING), "output")


@sgd_claim(
    "3.1-sgd-training-fit",
    where="beyond the paper: §3.1, last paragraph, of the linear model's training loss",
    says="In the linear model with masks on the output and rates that do not overshoot training with dropout never "
    "fits the training data better than training without.",
    reading="At l ≤ p/(2s_max²) the expected training loss is at no step below that of training without dropout, "
    "which is proved, and checked here. With masks on the input, LoRA's, it is not so: with two features built for it "
    "dropout fits better at some step (size). Narrowed to where it is true: the statement named no masks and no rates.",
)
def training_fit(cases: Cases) -> Finding:
    """The gaps in expected training loss over 40 steps: random features, skewed ones, and one feature."""
    x = turned(60, np.arange(1.0, 7.0) ** -0.5, cases.rng)
    y = x @ cases.rng.standard_normal((6, 1))
    falling = Fit(x, y + np.std(y) * cases.rng.standard_normal(y.shape), PAPER_KEEP, 0.25, "output")
    judged = cases.judge(
        [
            Case("p = 0.95, a falling spectrum", falling),
            *cases.draw(skewed, 8, "two features"),
            *cases.draw(one_feature, 6, "one feature"),
        ],
        measure=gaps,
        printed=lambda one, seen: seen.min() > -TOLERANCE and np.abs(seen - told_gaps(one)).max() < TOLERANCE,
    )
    built, usual = (
        [bool(told_gaps(draw(cases.rng, "input")).min() < -TOLERANCE) for _ in range(40)] for draw in (skewed, gaussian)
    )
    shares = {"two features built for it": 100 * np.mean(built), "Gaussian features": 100 * np.mean(usual)}
    return judged.finding(
        holds="Yes: dropout fits no better at any step; with masks on the input, LoRA's, it may.",
        evidence=judged.evidence(
            "float64 rounding, relative to ‖Y‖²",
            {"gaps": "at least 0 at every step"},
            tolerance=TOLERANCE,
            more={"% of settings with masks on the input where dropout fits better at some step": shares},
        ),
        size=ranged(
            [100 * float(told_gaps(gaussian(cases.rng, "output"))[-1]) for _ in range(20)],
            "% of ‖Y‖²",
            f"by which dropout fits worse after {STEPS} steps, masks on the output, 20 rows of 2 Gaussian features, "
            "drop rate 0.1, noise of 1; with masks on the input it fits better at some step in "
            + ", ".join(f"{share:.0f} % ({of})" for of, share in shares.items()),
        ),
        flips_if="masks on the output that are ahead at some step at a rate up to p/(2s_max²)",
    )
