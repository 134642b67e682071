"""§3.1 in few training steps: dropout's bias and noise beside training without it, at one learning rate.

The model, its symbols and the moments that conditions rest on are `masked_descent`'s; risks are E‖W_t − W_true‖². The
rows are judged by `dropout_sgd`. Checked by `tests/test_claims_3_1_few_steps.py`, which plants wrong formulas.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from allora_analysis import dropout_sgd
from allora_analysis.claims.cases import Case, Cases, relative_error
from allora_analysis.claims.claim import Finding, Reliance, claim, ranged, share
from allora_analysis.claims.masked_descent import Sgd, behind, moments, papers_own, risks, setting, turned, with_noise
from allora_analysis.claims.s3_1_tikhonov import PAPER_KEEP, on_both_sides

sgd_claim = functools.partial(claim, command="python -m allora_analysis.dropout_sgd", test="tests/test_dropout_sgd.py")
ROUNDING = 1e-9
EXACT = "exact moments; no tolerance: an order"
FLAW = (
    "Dropout–a stochastic regularizer–whose benefits quickly vanish when considering fine-tuning, and can in fact "
    "introduce detrimental additional variance to the training"
)
DROPOUT_GUIDE = Reliance(
    "Unsloth",
    "LoRA Hyperparameters Guide",
    "docs.unsloth.ai, on lora_dropout: 'Recent research suggests that for the short training runs common in "
    "fine-tuning, lora_dropout may be an unreliable regularizer', citing arXiv:2410.09692",
)


def measured_risks(one: Sgd) -> dict[str, float]:
    """Risks in expectation over the noise in Y, by `dropout_sgd`."""
    run = dropout_sgd.trajectory(one.x, one.labels, one.keep_prob, one.rate, one.steps, one.placement, w_true=one.truth)
    return {"dropout": run.risk[-1], "its mean alone": run.risk_marginal[-1], "without": run.risk_plain[-1]}


@sgd_claim(
    "3.1-sgd-variance",
    where="§1, first flaw",
    says=FLAW,
    reading="The second half: masks add variance to the weights at every step, and it costs population risk.",
)
def variance(cases: Cases) -> Finding:
    """The trace of Cov W_t, and the risk above that of the mean E W_t, against moments summed over each row's masks."""

    def measure(one: Sgd) -> dict[str, float]:
        seen = measured_risks(one)
        run = dropout_sgd.trajectory(one.x, one.labels, one.keep_prob, one.rate, one.steps, one.placement)
        return {"added to the risk": seen["dropout"] - seen["its mean alone"], "tr Cov W_t": run.covariance_trace[-1]}

    def told(one: Sgd) -> float:
        return float(moments(one, one.labels, one.keep_prob).spread[-1] ** 2)

    def draw(rng: np.random.Generator) -> Sgd:
        one = setting(rng, float(rng.choice([0.5, 0.8, 0.95])), int(rng.choice([1, 3, 10, 30])), 0.3)
        return one._replace(noise=float(10 ** rng.uniform(-1, 0.5)))

    judged = cases.judge(
        papers_own(cases.rng, 10) + cases.draw(draw, 8),
        measure=measure,
        printed=lambda one, seen: (
            seen["added to the risk"] > 0
            and relative_error([seen["added to the risk"], seen["tr Cov W_t"]], [told(one)] * 2) < 1e-6
        ),
    )
    shares = [
        100 * seen["added to the risk"] / measured_risks(case.inputs)["dropout"]
        for case, seen in judged.pairs
        if case.paper
    ]
    return judged.finding(
        holds="Yes: masks add variance at every step, from the first, and it adds to the risk one for one.",
        evidence=judged.evidence("float64 rounding, in differences of risks", told, tolerance=1e-6),
        size=ranged(shares, "% of the risk", "the masks' variance after ten steps at drop rate 0.05"),
        flips_if="a step at which the covariance over masks is 0 or lowers the risk",
    )


FEW = (1, 2, 3, 5, 10)
HORIZON = "t(t − 1) ≤ tr S/(8l‖S‖²_F), S = XᵀX"


def horizon(one: Sgd) -> float:
    """Tr S/(8l‖S‖²_F): while t(t − 1) is at most this, no noise in Y makes dropout pay, with masks on the output.

    To leading order in l the noise in Y costs dropout 4l²kt tr S of covariance and saves 8l³kt²(t − 1)‖S‖²_F of
    variance per unit of σ²: half of where the two meet leaves a factor of two, and a half more, for higher orders.
    """
    gram = one.x.T @ one.x
    return float(np.trace(gram) / (8 * one.rate * np.sum(gram**2)))


def early(rng: np.random.Generator, keep_prob: float) -> Sgd:
    """Masks on the output, 1 to 10 steps, any noise in Y, at a rate from half of the horizon's to all of it."""
    one = setting(rng, keep_prob, int(rng.choice(FEW)), 0.9)._replace(placement="output")
    most = 0.9 * dropout_sgd.stability_limits(one.x, keep_prob, "output").mean_square
    at_horizon = one.rate * horizon(one) / max(one.steps * (one.steps - 1), 1)
    return one._replace(rate=min(most, at_horizon) * float(rng.uniform(0.5, 1)), noise=float(10 ** rng.uniform(-2, 2)))


def any_few(rng: np.random.Generator) -> Sgd:
    """1 to 10 steps at a tenth or half of the largest rate, either placement, noise of a tenth to ten of the signal."""
    one = setting(rng, float(rng.choice([0.5, 0.8, 0.95])), int(rng.choice(FEW)), float(rng.choice([0.1, 0.5])))
    return one._replace(noise=float(10 ** rng.uniform(-1, 1)))


def told_risk(one: Sgd, keep_prob: float) -> float:
    """The risk after `steps` steps, from moments summed over masks."""
    signal, labels = risks(one, keep_prob)[:, -1]
    return float(signal + one.noise**2 * labels)


@sgd_claim(
    "3.1-sgd-benefits-vanish",
    where="§1, first flaw",
    says=FLAW,
    reading=f"The first half, of the first steps, {HORIZON}, with masks on the output: whatever the noise in Y, "
    "dropout's population risk is not below that of training without. That fine-tuning is so short is not judged.",
    depends_on=("3.1-sgd-variance",),
    relied_on_by=(DROPOUT_GUIDE,),
)
def benefits_vanish(cases: Cases) -> Finding:
    """Risks within the horizon, in expectation over the noise in Y, from a hundredth to a hundred times the signal."""
    judged = cases.judge(
        cases.draw(lambda rng: early(rng, float(rng.choice([0.5, 0.8, 0.95]))), 24),
        measure=measured_risks,
        printed=lambda one, seen: (
            seen["dropout"] >= seen["without"]
            and relative_error([seen["dropout"], seen["without"]], [told_risk(one, one.keep_prob), told_risk(one, 1.0)])
            < ROUNDING
        ),
    )
    later = [told_risk(one, one.keep_prob) < told_risk(one, 1.0) for one in (any_few(cases.rng) for _ in range(100))]
    size = share(later, "where dropout is ahead after 1 to 10 steps at any rate, noise 0.1 to 10 of the signal")
    return judged.finding(
        holds=f"Yes at first, at any label noise; within ten steps dropout is ahead in {size.value:.0f} % of settings.",
        evidence=judged.evidence(
            "float64 rounding, against moments summed over masks", lambda one: told_risk(one, 1.0), tolerance=ROUNDING
        ),
        size=size,
        flips_if="masks on the output whose risk is the lower one at a step within the horizon",
    )


def pays_in_the_limit(one: Sgd) -> float:
    """σ² above which dropout's limit has the lower risk: ‖(I − G)w‖²/(tr S⁻¹ − tr GS⁻¹Gᵀ), G = H⁻¹S, as l → 0.

    Masks on the output leave covariance of trace l(1 − p)σ² Σ h_n(1 − h_n) to first order in l, h_n the leverages: with
    F = I − (2l/p)S, SC + CS = 2l(1 − p) Xᵀ diag(e²) X, and at the mean e is the residual, E e_n² = σ²(1 − h_n).
    """
    x, p, on_output = one.x, one.keep_prob, one.placement == "output"
    rows = np.vstack([x, np.sqrt((1 - p) / p) * np.diag(np.linalg.norm(x, axis=0))])  # √H, masks on the input
    target = np.vstack([x, np.zeros((x.shape[1],) * 2)])
    g = p * np.eye(x.shape[1]) if on_output else np.linalg.lstsq(rows, target, rcond=None)[0]
    pseudo = np.linalg.pinv(x)  # S⁻¹ = X⁺X⁺ᵀ: S itself has the square of X's condition number
    bias = np.sum((one.w - g @ one.w) ** 2)
    leverages = np.sum(x * pseudo.T, axis=1)
    noisy = on_output * one.rate * (1 - p) * np.sum(leverages * (1 - leverages))
    return float(bias / (np.sum(pseudo**2) - np.sum((g @ pseudo) ** 2) - noisy))


def best_without(one: Sgd, most: int = 400) -> int:
    """The step of least risk without dropout: Σ (1 − b_i)²w_i² + b_i²σ²/s_i², b_i = 1 − (1 − 2ls_i²)^t."""
    _, s, right = np.linalg.svd(one.x, full_matrices=False)
    left = (1 - 2 * one.rate * s**2) ** np.arange(1, most + 1)[:, None]
    risk = (left**2 * (right @ one.w) ** 2 + (1 - left) ** 2 * one.noise**2 / s**2).sum(axis=1)
    return 1 + int(np.argmin(risk))


def risks_and_limits(one: Sgd) -> dict[str, float]:
    """Risks after `steps` steps and as t → ∞, with dropout and without, by `dropout_sgd`."""
    rest = dropout_sgd.stationary_moments(one.x, one.labels, one.keep_prob, one.rate, one.placement)
    least = np.linalg.lstsq(one.x, one.labels, rcond=None)[0]
    limit = np.sum((rest.mean - one.truth) ** 2) + rest.covariance_trace
    return measured_risks(one) | {
        "limit, dropout": float(limit),
        "limit, without": float(np.sum((least - one.truth) ** 2)),
    }


@sgd_claim(
    "3.1-sgd-crossover",
    where="§3.1, after the bound",
    says="As a result, the benefit of N, in our case the number of training steps, only appears for large N.",
    reading="Dropout's population risk is below that of training without it in the long run, but not yet at the "
    "step at which training without it is at its best.",
    depends_on=("3.1-sgd-benefits-vanish",),
)
def crossover(cases: Cases) -> Finding:
    """Risks at plain descent's best step and in the limit, with σ² within a factor of two of where the limit turns."""

    def draw(rng: np.random.Generator) -> Sgd:
        while True:  # those whose best step is after 120 are too long to follow
            one = setting(rng, float(rng.choice([0.5, 0.8, 0.95])), 1, 0.1)._replace(placement="output")
            one = with_noise(one, pays_in_the_limit(one) / one.noise**2, rng)
            if (best := best_without(one)) <= 120:
                return one._replace(steps=best)

    def ratio(one: Sgd) -> float:
        return min(one.noise**2 / pays_in_the_limit(one), behind(one))

    own = [
        Case(case.name, case.inputs._replace(steps=best_without(case.inputs)), True)
        for noise in (0.05, 1.0, 3.0)
        for case in papers_own(cases.rng, 1, noise)
    ]
    judged = cases.judge(
        own + on_both_sides(cases.rng, draw, ratio, 6, margin=1.3),
        measure=risks_and_limits,
        printed=lambda one, seen: (
            seen["limit, dropout"] < seen["limit, without"] and seen["dropout"] >= seen["without"]
        ),
        condition=ratio,
    )
    gained = [100 * (1 - seen["limit, dropout"] / seen["limit, without"]) for _, seen in judged.pairs[2:4]]
    return judged.finding(
        conditional="Depends on the noise: without enough of it in the labels dropout never pays; with it, late.",
        evidence=judged.evidence(
            "exact moments; draws keep a factor of 1.3 away from the boundary, which is right to first order in l",
            pays_in_the_limit,
        ),
        size=ranged(gained, "% less risk", "with dropout in the long run, drop rate 0.05, noise as the signal"),
        condition="σ² > (1 − p)‖w‖²/((1 + p) tr S⁻¹ − lΣ h_n(1 − h_n)) with masks on the output, to first order in l, "
        "h_n the leverages, w the true weights; and dropout is behind at the best step of training without it",
        flips_if="a σ² below the boundary at which dropout's limit has the lower risk, or above it the higher one",
    )


class Rates(NamedTuple):
    """A setting and the keep probabilities compared in it, at one learning rate; the first is the strongest dropout."""

    of: Sgd
    keep_probs: tuple[float, ...]


@sgd_claim(
    "3.1-sgd-first-step",
    where="Figure 2 left, caption; checked on the linear model's first steps",
    says="High value of Dropout provides the strongest performance after long fine-tuning and the weakest performance "
    "after short fine-tuning.",
    reading=f"The second half, in this model, of the first steps, {HORIZON}, at one learning rate with masks on the "
    "output: whatever the noise in Y, the highest of several drop rates has the highest population risk.",
    depends_on=("3.1-sgd-benefits-vanish",),
)
def first_step(cases: Cases) -> Finding:
    """Risks at four drop rates within the horizon, noise from a hundredth to a hundred times the signal."""
    keep_probs = (0.2, 0.5, 0.8, 1.0)

    def told(one: Rates) -> list[float]:
        return [told_risk(one.of, p) for p in one.keep_probs]

    judged = cases.judge(
        cases.draw(lambda rng: Rates(early(rng, keep_probs[0]), keep_probs), 16),
        measure=lambda one: [measured_risks(one.of._replace(keep_prob=p))["dropout"] for p in one.keep_probs],
        printed=lambda one, seen: seen[0] > max(seen[1:]) and relative_error(seen, told(one)) < ROUNDING,
    )
    later = []
    for _ in range(60):
        strongest, *others = told(Rates(any_few(cases.rng), (0.5, 0.8, 0.9, 1.0)))
        later.append(strongest <= max(others))
    size = share(later, "where drop rate 0.5 is not last after 1 to 10 steps, noise 0.1 to 10 of the signal")
    return judged.finding(
        holds=f"Yes at first, at any label noise; within ten steps no longer in {size.value:.0f} % of settings.",
        evidence=judged.evidence("float64 rounding, against moments summed over masks", told, tolerance=ROUNDING),
        size=size,
        flips_if="a step within the horizon at which another drop rate has the highest risk",
    )


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


@sgd_claim(
    "3.1-sgd-training-fit",
    where="§3.1, last paragraph; checked on the linear model's training loss",
    says="It shows that large dropout rates successfully avoid overfitting, but at the cost of lower accuracy at "
    "lower number of epochs, while no dropout sees higher accuracy at lower number of epochs, but will overfit at "
    "later epochs.",
    reading="The cost, in this model, with masks on the output and rates that do not overshoot, l ≤ p/(2s_max²): the "
    "expected training loss is at no step below that of training without dropout. With masks on the input there is no "
    "such theorem: see the size.",
)
def training_fit(cases: Cases) -> Finding:
    """The gaps in expected training loss over 40 steps: random features, skewed ones, and one feature."""

    def gaps(one: Fit) -> np.ndarray:
        run = dropout_sgd.trajectory(one.x, one.y, one.keep_prob, one.rate, STEPS, one.placement)
        return (run.training_loss - run.training_loss_plain) / np.sum(one.y**2)

    def skewed(rng: np.random.Generator, placement: str = "output") -> Fit:
        rows, targets = np.array([[-1.0, 3.0], [0.0, -1.0]]), np.array([[3.0], [1.0]])
        x = np.tile(rows + rng.choice([0.0, 0.1, 1.0]) * rng.standard_normal((2, 2)), (10, 1))
        return Fit(x, np.tile(targets, (10, 1)), 0.9, float(rng.uniform(0.1, NOT_OVERSHOOTING)), placement)

    def one_feature(rng: np.random.Generator) -> Fit:
        ones = np.ones((300, 1))
        return Fit(ones, ones, float(rng.choice([0.8, 8 / 9])), float(rng.uniform(0.5, 1) * NOT_OVERSHOOTING), "output")

    x = turned(60, np.arange(1.0, 7.0) ** -0.5, cases.rng)
    y = x @ cases.rng.standard_normal((6, 1))
    falling = Fit(x, y + np.std(y) * cases.rng.standard_normal(y.shape), PAPER_KEEP, 0.25, "output")
    judged = cases.judge(
        [
            Case("p = 0.95, a falling spectrum", falling, True),
            *cases.draw(skewed, 8, "two features"),
            *cases.draw(one_feature, 6, "one feature"),
        ],
        measure=gaps,
        printed=lambda one, seen: seen.min() > -ROUNDING and np.abs(seen - told_gaps(one)).max() < ROUNDING,
    )
    ahead = [bool(told_gaps(skewed(cases.rng, "input")).min() < -ROUNDING) for _ in range(60)]
    size = share(ahead, "with masks on the input and two skewed features where dropout fits better at some step")
    return judged.finding(
        holds="Yes, at rates that do not overshoot, with masks on the output: dropout fits worse at every step.",
        evidence=judged.evidence(
            "float64 rounding, relative to ‖Y‖²", {"gaps": "at least 0 at every step"}, tolerance=ROUNDING
        ),
        size=size,
        flips_if="masks on the output that are ahead at some step at a rate up to p/(2s_max²)",
    )


AS_GOOD = 1.05


def collinear() -> Sgd:
    """Two large inputs, nearly the same, and the signal in a small third one: a setting in which dropout helps."""
    spread = 0.184
    columns = [[1.0, spread, 0.0], [1.0, -spread, 0.0], [0.0, 0.0, 1.48 * spread]]
    x, w = np.vstack([np.transpose(columns), np.zeros((9, 3))]), np.array([1.0, 1.0, 5.9])
    rate = 0.84 * dropout_sgd.stability_limits(x, PAPER_KEEP, "input").mean_square
    return Sgd(x, w, 0.72 * float(np.linalg.norm(x @ w)) / math.sqrt(len(x)), PAPER_KEEP, rate, 40, "input")


@sgd_claim(
    "3.1-not-a-must-have",
    where="§6",
    says="We conducted principled analysis and proved that dropout is not a must-have in the finetuning regime.",
    reading="At drop rate 0.05, on inputs whose variances fall as 1/i, with early stopping allowed, training without "
    f"dropout reaches a population risk at most {100 * (AS_GOOD - 1):.0f} % above dropout's lowest in as many steps; "
    "the margin is the drop rate, chosen after gaps of half of it had been seen.",
    depends_on=("3.1-sgd-benefits-vanish", "3.1-sgd-crossover"),
)
def not_a_must_have(cases: Cases) -> Finding:
    """The lowest risks of 40 steps with dropout and without, noise in Y from a tenth to five of the signal."""

    def told(one: Sgd) -> list[float]:
        return [float(np.min(a + one.noise**2 * b)) for a, b in (risks(one, one.keep_prob), risks(one, 1.0))]

    def measure(one: Sgd) -> list[float]:
        run = dropout_sgd.trajectory(
            one.x, one.labels, one.keep_prob, one.rate, one.steps, one.placement, w_true=one.truth
        )
        return [float(run.risk.min()), float(run.risk_plain.min())]

    own = [case for noise in (0.1, 0.5, 1.0, 2.0, 5.0) for case in papers_own(cases.rng, 40, noise)]
    judged = cases.judge(
        own,
        measure=measure,
        printed=lambda one, seen: seen[1] <= AS_GOOD * seen[0] and relative_error(seen, told(one)) < ROUNDING,
    )
    levels = 0.1 * 50 ** cases.rng.random(20)
    drawn = [case for noise in levels for case in papers_own(cases.rng, 40, float(noise))]

    def gap(one: Sgd) -> float:
        dropout, without = told(one)
        return 100 * (without / dropout - 1)

    behind_by = {case.name: gap(case.inputs) for case in drawn}
    size = share(
        [value > 0 for value in behind_by.values()],
        "where dropout's best step is ahead at all, noise from 0.1 to 5 of the signal",
    )
    most, built = max(behind_by.values()), gap(collinear())
    answer = (
        f"Yes on falling spectra, at most {most:.1f} % behind; {built:.0f} % with collinear inputs and a small signal."
    )
    return judged.finding(
        holds=answer,
        evidence=judged.evidence(
            EXACT, {"the most that is allowed": AS_GOOD, "% behind, by noise": behind_by, "% behind, collinear": built}
        ),
        size=size,
        flips_if=f"such inputs at drop rate 0.05 on which it is more than {100 * (AS_GOOD - 1):.0f} % behind",
    )
