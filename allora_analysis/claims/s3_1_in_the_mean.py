"""§3.1, "those derivations only emerge from taking expectation": of the loss over steps, of the mean of the weights.

The model and its symbols are `masked_descent`'s. Weights are judged by enumeration of every sequence of masks, the loss
by masks that are drawn. Checked by `tests/test_claims_3_1_few_steps.py`, which plants wrong formulas.
"""

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr

from allora_analysis import dropout_sgd, tikhonov
from allora_analysis.claims.cases import OF_SIGNAL, PAPER_KEEP, PAPER_NOISE, Case, Cases, relative_error
from allora_analysis.claims.claim import Finding, claim, ranged
from allora_analysis.claims.masked_descent import (
    PLACEMENTS,
    TOLERANCE,
    Tiny,
    enumerated_mean,
    many_rows,
    many_rows_by_sgd,
    rank_8,
    regularised_descent,
    sampled_distance,
    sgd_claim,
)
from allora_analysis.claims.s3_1_tikhonov import Regression, papers_own, small_regression


def any_tiny(rng: np.random.Generator) -> Tiny:
    """N·D or N·C of at most 4, and up to three steps: few enough sequences of masks to enumerate."""
    n, d, c = [(2, 2, 1), (1, 3, 1), (2, 1, 2), (1, 2, 2)][rng.integers(4)]
    a = None if rng.random() < 0.4 else rng.standard_normal((int(rng.integers(1, 4)), d))
    steps, optimizer = int(rng.choice([1, 1, 2, 2, 3])), str(rng.choice(["SGD", "Adam"], p=[0.7, 0.3]))
    x, y = rng.standard_normal((n, d)), rng.standard_normal((n, c))
    keep = float(rng.choice([0.5, 0.9, 1.0], p=[0.45, 0.45, 0.1]))
    rate = float(rng.uniform(0.02, 0.1)) if optimizer == "SGD" else 10 ** rng.uniform(-4, -1)
    return Tiny(x, y, a, keep, rate, steps, str(rng.choice(PLACEMENTS)), optimizer)


def library_off(rng: np.random.Generator) -> float:
    """How far `dropout_sgd`'s mean is from the one over all sequences of masks."""
    one = Tiny(rng.standard_normal((2, 2)), rng.standard_normal((2, 1)), None, 0.7, 0.02, 3, "output")
    run = dropout_sgd.trajectory(one.x, one.y, one.keep_prob, one.rate, one.steps, one.placement)
    return relative_error(run.mean[-1], enumerated_mean(one))


def off_regularised(one: Tiny) -> float:
    """How far E W_t is from the path on the regularized objective."""
    return relative_error(enumerated_mean(one), regularised_descent(one))


SAMPLED = 0.03  # how far off the path is off, where masks are drawn
DRAWS = 240  # of them


def summable(one: Tiny) -> bool:
    """Whether its masks are few enough to sum over all of them."""
    return one.x.size <= 6


def distance(one: Tiny, rng: np.random.Generator) -> float:
    """`off_regularised` where masks are `summable`, `sampled_distance` where not."""
    return off_regularised(one) if summable(one) else sampled_distance(one, rng, DRAWS)


def is_off(one: Tiny, seen: float) -> bool:
    """Whether that is more than rounding, or than the scatter of masks that are drawn."""
    return seen > (TOLERANCE if summable(one) else SAMPLED)


def shortened(one: Tiny) -> float:
    """How far off its path E W_1 is under Adam, where rows are many: 2 P(turned) is missing of an entry's step l.

    An entry of the gradient of W, or of B, is a sum over many masks, and nearly normal: masks turn its sign with
    chance Φ(−|μ|/σ), μ its mean and σ² = (1 − p)/p times the sum of its terms' squares.
    """
    a = np.eye(one.x.shape[1]) if one.a is None else one.a
    squares = (one.x @ a.T) ** 2 if one.placement == "output" else one.x**2 @ a.T**2
    mean = one.y.T @ (one.x @ a.T)
    std = np.sqrt((1 - one.keep_prob) / one.keep_prob * (one.y**2).T @ squares)
    step, missing = np.sign(mean), 2 * ndtr(-np.abs(mean) / std) * np.sign(mean)
    return float(np.linalg.norm(missing @ a) / np.linalg.norm(step @ a))


def leaves_the_path(one: Tiny) -> bool:
    """Under Adam from step 1, if masks turn signs: there its path moves an entry by l, E W by l(1 − 2P(turned)).

    Where rows are few all may drop, too, with a chance of (1 − p)ᴺ. Under plain SGD a step is affine in W: E W_t is on
    the path. In A and B it is a polynomial, and from step 2 on its mean is another.
    """
    if one.optimizer == "Adam" and not summable(one):
        return shortened(one) > SAMPLED
    return one.keep_prob < 1 and (one.optimizer == "Adam" or (one.a is not None and one.steps >= 2))


def off_zero(one: Tiny, by: float) -> Tiny:
    """The same with X and Y moved off 0, so that fewer masks turn the sign of a gradient's entry."""
    return one._replace(x=one.x + by, y=one.y + by)


def near_the_bar(rng: np.random.Generator) -> Tiny:
    """Many rows, so far off 0 that Adam's first step is off its path by half of what is asked, or twice; A positive."""
    one, wanted = many_rows(rng)._replace(steps=1), SAMPLED * float(rng.choice([1 / 2, 2]))
    one = one._replace(a=None if rng.random() < 0.5 else abs(one.a))
    if shortened(one) <= wanted:  # around 0, too, where fewest signs are sure
        return near_the_bar(rng)
    return off_zero(one, brentq(lambda by: shortened(off_zero(one, by)) - wanted, 0.0, 2.0, xtol=1e-3))


OFF_ITS_PATH = (
    "masks are drawn (p < 1) in A and B under plain SGD from step 2 on, or under Adam; of 512 rows under Adam they "
    f"have to shorten the first step by more than the {100 * SAMPLED:.0f} % asked, an entry's by 2P(turned) = "
    "2Φ(−|μ|/σ), μ the entry of the gradient, Σ_n X_nd Y_nc for W, σ² its variance over masks, (1 − p)/p Σ_n X_nd² "
    "Y_nc²: so with inputs and labels around 0, not with positive ones, of which the mean is on the path to rounding "
    "at step 1, and off it by about 1e-4 at step 2. For almost all X, Y, A and l: in A and B the two differ by a "
    "polynomial in these that is not 0 throughout; of few rows all may be dropped, too"
)


def named(many: Tiny, lora: Tiny) -> list[Case]:
    """The paper's setting, the same with positive X and Y, and one row, of W and of A and B."""
    positive, slowly = many._replace(x=abs(many.x), y=abs(many.y)), lora._replace(rate=0.01, optimizer="SGD")
    return [
        *(Case(f"512 rows, A and B, r = 8, Adam, step {t}", many._replace(steps=t), True) for t in (1, 2)),
        Case("512 rows, W, Adam, step 1", many._replace(a=None, steps=1), True),
        Case("A and B, r = 8, SGD at 0.01, step 2", slowly),
        Case("W, SGD at 0.01, step 2", slowly._replace(a=None)),
        *(Case(f"one row, A and B, r = 8, Adam, step {t}", lora._replace(steps=t)) for t in (1, 2)),
        Case("one row, W, Adam, step 1", lora._replace(a=None, steps=1)),
        Case("512 rows, positive X and Y, A and B, r = 8, Adam, step 2", positive),
        Case("512 rows, positive X and Y, W, Adam, step 1", positive._replace(a=None, steps=1)),
    ]


MASKS, SAMPLES = (1, 4, 16, 64), 4000  # masks, one a step, and how often so many are drawn
EMERGE = (
    "However, those derivations only emerge from taking expectation of the loss, i.e., considering infinite training "
    "steps."
)
WHERE = "§3.1, the paragraph after the first display"


def expected_best(one: Regression) -> np.ndarray:
    """pX⁺Y."""
    return one.keep_prob * np.linalg.pinv(one.x) @ one.y


def off_expectation(one: Regression, rng: np.random.Generator) -> list[float]:
    """The root mean square of (1/N) Σ_n L_n − E L at pX⁺Y by number N of masks drawn; E L summed over all masks."""
    (x, y, p), w = one, expected_best(one)
    z, expected, found = x @ w, tikhonov.enumerated_loss(x, y, w, p, "output"), []
    for masks in MASKS:
        kept = rng.binomial(masks, p, (SAMPLES, *y.shape)) / masks  # the share of masks that keep an entry
        losses = np.sum(y**2 - 2 * y * z * kept / p + z**2 * kept / p**2, axis=(1, 2))
        found.append(float(np.sqrt(np.mean((losses - expected) ** 2))))
    return found


def one_masks_deviation(one: Regression) -> float:
    """The standard deviation of L at pX⁺Y: of a sum of terms (z²/p² − 2yz/p)δ, z = pXX⁺Y, δ kept or not."""
    p, z = one.keep_prob, one.x @ expected_best(one)
    return float(np.sqrt(p * (1 - p) * np.sum((z**2 / p**2 - 2 * one.y * z / p) ** 2)))


def by_the_root(one: Regression, seen: list[float]) -> bool:
    """Whether each is that deviation over √N, to five standard errors of a root mean square of so many samples."""
    spread = one.keep_prob * (1 - one.keep_prob)
    errors = [2.5 * math.sqrt((2 + max(0.0, 1 / spread - 6) / masks) / SAMPLES) for masks in MASKS]
    told = [one_masks_deviation(one) / math.sqrt(masks) for masks in MASKS]
    return all(of > 0 and abs(of / root - 1) < error for of, root, error in zip(seen, told, errors, strict=True))


def off_minimizer(one: Regression, masks: int, rng: np.random.Generator) -> float:
    """How far the fit of the least average loss over N masks is from pX⁺Y's, in %: the root mean square of 100 draws.

    In each column it is p times weighted least squares, the weights the shares of masks that keep an entry.
    """
    x, y, p = one
    best, off = x @ expected_best(one), []
    for share in rng.binomial(masks, p, (100, *y.shape)) / masks:
        columns = (p * np.linalg.pinv(x.T * f @ x) @ (x.T * f) @ of for f, of in zip(share.T, y.T, strict=True))
        off.append(np.linalg.norm(x @ np.array([*columns]).T - best) / np.linalg.norm(best))
    return 100 * float(np.sqrt(np.mean(np.square(off))))


def _of_20_rows(rng: np.random.Generator) -> Regression:
    # The size's: 3 inputs, 2 outputs, drop rate 0.05, noise half of the signal.
    x = rng.standard_normal((20, 3))
    signal = x @ rng.standard_normal((3, 2))
    return Regression(x, signal + PAPER_NOISE * signal.std() * rng.standard_normal(signal.shape), PAPER_KEEP)


@claim(
    "3.1-expectation-of-steps",
    where=WHERE,
    says=EMERGE,
    test="tests/test_claims_3_1_few_steps.py",
    reading="By the display that follows it, in which N is the number of training steps, a mask a step: for p < 1, at "
    "the weights that are best on expectation, the loss averaged over N masks is off the expected loss for every N, "
    "by 1/√N of one mask's standard deviation in root mean square. As masks do not depend on each other it must be "
    "so; what is checked is that deviation's closed form. What training makes of it is row 3.1-sgd-expectation.",
    depends_on=("3.1-expectation", "3.1-minimiser", "3.1-bound"),
)
def expectation_of_steps(cases: Cases) -> Finding:
    """Averages over 1 to 64 masks that are drawn, against the sum over all masks and the deviation of one."""

    def draw(rng: np.random.Generator) -> Regression:
        one = small_regression(rng)
        return one._replace(keep_prob=min(one.keep_prob, 0.9))

    those = [_of_20_rows(cases.rng) for _ in range(10)]
    first, later, last = ([off_minimizer(one, masks, cases.rng) for one in those] for masks in (1, 300, 10_000))
    judged = cases.judge(
        [*papers_own(cases.rng), *cases.draw(draw, 12)], lambda one: off_expectation(one, cases.rng), by_the_root
    )
    return judged.finding(
        holds="Yes, of the average over steps: off its expectation after any N, by one mask's deviation over √N.",
        evidence=judged.evidence(
            f"five standard errors of a root mean square of {SAMPLES:,} samples",
            lambda one: [one_masks_deviation(one) / math.sqrt(masks) for masks in MASKS],
            n=SAMPLES,
        ),
        size=ranged(
            later,
            "% of the fit",
            "how far the fit that is best on average over 300 masks is from the one best on expectation, 20 rows of 3 "
            f"inputs, drop rate 0.05, noise {OF_SIGNAL} ({np.median(first):.1f} for one mask, {np.median(last):.2g} "
            "for 10,000)",
        ),
        flips_if="a number of masks after which the average loss is the expected one, or is off it by another power",
    )


@sgd_claim(
    "3.1-sgd-expectation",
    where=WHERE,
    says=EMERGE,
    reading="A less kind reading (kinder: 3.1-expectation-of-steps): of the mean over masks, which the sentence does "
    "not name; one run is off by its noise at every step: row 3.1-sgd-variance. After finitely many steps of an "
    "optimizer that mean is not its path on the regularized objective, off it by anything above rounding: of W, which "
    "§3.1 trains, and of LoRA's A and B, under Adam, which the paper is taken to use (at 1e-4), and under plain SGD; "
    "on layers so small that all sequences of masks can be summed, and under Adam on one of 512 rows, the paper's, "
    f"where {100 * SAMPLED:.0f} % is asked (of half and of twice it the same): its masks are drawn, which scatters by "
    "half a percent (the size's: by up to 1), more than SGD's distance.",
    depends_on=("3.1-expectation",),
)
def expectation(cases: Cases) -> Finding:
    """E W_t and E[BA]_t over all sequences of masks of 1 to 3 steps, against the path on the regularized objective."""
    lora, many = rank_8(cases.rng, 1, 2), [many_rows(cases.rng) for _ in range(6)]
    agrees = library_off(cases.rng) < TOLERANCE
    judged = cases.judge(
        [*named(many[0], lora), *cases.draw(near_the_bar, 4, "near what is asked"), *cases.draw(any_tiny, 40)],
        measure=lambda one: distance(one, cases.rng),
        printed=lambda one, seen: agrees and is_off(one, seen),
        condition=leaves_the_path,
    )
    by_sgd, distances = judged.measured[3], [100 * sampled_distance(one, cases.rng) for one in many]
    bound = max(1, math.ceil(100 * sampled_distance(many_rows_by_sgd(cases.rng), cases.rng)))  # in %
    return judged.finding(
        conditional=f"Yes under Adam, if masks turn signs: BA's mean {np.median(distances):.0f} % off; by SGD W's "
        f"never, BA's under {bound} %.",
        evidence=judged.evidence(
            f"float64 rounding, 1e-16, against 1e-9; of 512 rows the scatter of {DRAWS} draws, half a percent, against "
            f"{SAMPLED:g}",
            {"E W_t off by": "0 under plain SGD for W, and for BA at step 1"},
            tolerance=1e-9,
        ),
        size=ranged(
            distances,
            "% of BA",
            "how far its mean is from Adam's path after two steps (1e-4, rank 8, drop rate 0.05, 512 rows of 64 "
            f"inputs); W itself {100 * judged.measured[2]:.0f} % after one; BA by plain SGD, such a layer, drop "
            f"rate 0.05, half of the rate 1/λ, λ the curvature at the start, less than {bound} % after 60 steps, of a "
            f"toy at 0.01 {100 * by_sgd:.2g} % after two",
        ),
        condition=OFF_ITS_PATH,
        flips_if="under plain SGD an E W_t off regularized descent with W trained directly, or A and B drawn whose "
        "E[BA]_t is on it from step 2; under Adam 512 rows whose mean is within what is asked of its path, though "
        "masks shorten the first step by more",
        assumes="Adam",
    )
