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
from allora_analysis.claims.claim import Finding, Reliance, Size, claim
from allora_analysis.claims.masked_descent import (
    PLACEMENTS,
    Sgd,
    behind,
    cost_over_gain,
    moments,
    papers_own,
    ranged,
    risks,
    setting,
    turned,
    with_noise,
)
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
        {"holds": "Yes: masks add variance at every step, from the first, and it adds to the risk one for one."},
        evidence=judged.evidence("float64 rounding, in differences of risks", told, tolerance=1e-6),
        size=ranged(shares, "% of the risk", "the masks' variance after ten steps at drop rate 0.05"),
        flips_if="a step at which the covariance over masks is 0 or lowers the risk",
    )


FEW = (1, 2, 3, 5, 10)


@sgd_claim(
    "3.1-sgd-benefits-vanish",
    where="§1, first flaw",
    says=FLAW,
    reading="The first half: after few steps (1 to 10) dropout's population risk is not below that of training "
    "without.",
    depends_on=("3.1-sgd-variance",),
    relied_on_by=(DROPOUT_GUIDE,),
)
def benefits_vanish(cases: Cases) -> Finding:
    """Risks after 1 to 10 steps, in expectation over the noise in Y, with σ² within a factor of two of σ_t²."""

    def draw(rng: np.random.Generator) -> Sgd:
        one = setting(rng, float(rng.choice([0.5, 0.8, 0.95])), int(rng.choice(FEW)), float(rng.choice([0.1, 0.5])))
        return with_noise(one, behind(one), rng)

    first = [setting(cases.rng, 0.5, 1, 0.5)._replace(noise=noise) for noise in (0.1, 10.0)]
    judged = cases.judge(
        [
            *papers_own(cases.rng, 10),
            *(Case(f"step 1, noise {one.noise:g}", one) for one in first),
            *on_both_sides(cases.rng, draw, behind, 8, margin=1.02),
        ],
        measure=measured_risks,
        printed=lambda one, seen: seen["dropout"] >= seen["without"],
        condition=behind,
    )
    more = [100 * (seen["dropout"] / seen["without"] - 1) for case, seen in judged.pairs if case.paper]
    return judged.finding(
        {"conditional": "Depends on the noise in Y: never a benefit at step 1, later one only where labels are noisy."},
        evidence=judged.evidence(EXACT, behind),
        size=ranged(more, "% more risk", "with dropout, ten steps at drop rate 0.05, noise half the signal"),
        condition="α_t − α⁰_t ≥ σ²(β⁰_t − β_t), where E‖W_t − W_true‖² = α_t + σ²β_t with dropout and α⁰_t + σ²β⁰_t "
        "without, σ² the noise's variance in Y: bias and covariance added against variance saved",
        flips_if="a step at which dropout's risk is the lower one though it costs more than it saves",
    )


def pays_in_the_limit(one: Sgd) -> float:
    """‖(I − G)w‖²/(tr S⁻¹ − tr GS⁻¹Gᵀ), G = H⁻¹S: σ² above which dropout's limit has the lower risk, as l → 0."""
    gram = one.x.T @ one.x
    k = (1 - one.keep_prob) / one.keep_prob
    curvature = gram / one.keep_prob if one.placement == "output" else gram + k * np.diag(np.diag(gram))
    g, inverse = np.linalg.solve(curvature, gram), np.linalg.inv(gram)
    bias = np.sum((one.w - g @ one.w) ** 2)
    return float(bias / (np.trace(inverse) - np.trace(g @ inverse @ g.T)))


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
        one = setting(rng, float(rng.choice([0.5, 0.8, 0.95])), 1, 0.1)
        one = with_noise(one, pays_in_the_limit(one) / one.noise**2, rng)
        return one._replace(steps=best_without(one))

    def ratio(one: Sgd) -> float:
        if one.steps > 120:
            return math.inf  # too long to follow
        return min(one.noise**2 / pays_in_the_limit(one), behind(one))

    own = [
        Case(case.name, case.inputs._replace(steps=best_without(case.inputs)), True)
        for case in papers_own(cases.rng, 1)
    ]
    judged = cases.judge(
        own + on_both_sides(cases.rng, draw, ratio, 6, margin=1.1),
        measure=risks_and_limits,
        printed=lambda one, seen: (
            seen["limit, dropout"] < seen["limit, without"] and seen["dropout"] >= seen["without"]
        ),
        condition=ratio,
    )
    gained = [100 * (1 - seen["limit, dropout"] / seen["limit, without"]) for case, seen in judged.pairs if case.paper]
    return judged.finding(
        {"conditional": "Depends on the noise: without enough of it in the labels dropout never pays; with it, late."},
        evidence=judged.evidence(
            "exact moments; draws keep a tenth away from the boundary, which is that of l → 0", pays_in_the_limit
        ),
        size=ranged(gained, "% less risk", "with dropout in the long run, drop rate 0.05, noise half the signal"),
        condition="σ² > (1 − p)‖w‖²/((1 + p) tr S⁻¹) with masks on the output as l → 0 (at l the denominator is "
        "less by lΣ h_n(1 − h_n)); ‖(I − G)w‖²/(tr S⁻¹ − tr GS⁻¹Gᵀ), G = (S + k diag S)⁻¹S, on the input; w the "
        "true weights; and dropout is behind at the best step of training without it",
        flips_if="a σ² below the boundary at which dropout's limit has the lower risk, or above it the higher one",
    )


class Rates(NamedTuple):
    """A setting and the keep probabilities compared in it, at one learning rate; the first is the strongest dropout."""

    of: Sgd
    keep_probs: tuple[float, ...]


def weakest(one: Rates) -> float:
    """The least `cost_over_gain` of the strongest dropout against the others: above 1 where its risk is the highest."""
    strongest, *others = (risks(one.of, p)[:, -1] for p in one.keep_probs)
    return min(cost_over_gain(strongest, other, one.of.noise) for other in others)


@sgd_claim(
    "3.1-sgd-first-step",
    where="Figure 2 left, caption; checked on the linear model's first steps",
    says="High value of Dropout provides the strongest performance after long fine-tuning and the weakest performance "
    "after short fine-tuning.",
    reading="The second half, in this model: at one learning rate, after 1 to 10 steps, the highest of several drop "
    "rates has the highest population risk.",
    depends_on=("3.1-sgd-benefits-vanish",),
)
def first_step(cases: Cases) -> Finding:
    """Risks at five drop rates after 1 to 10 steps, with σ² within a factor of two of where the order turns."""

    def measure(one: Rates) -> dict[str, float]:
        return {f"{p:g}": measured_risks(one.of._replace(keep_prob=p))["dropout"] for p in one.keep_probs}

    def draw(rng: np.random.Generator) -> Rates:
        one = Rates(setting(rng, 0.2, int(rng.choice(FEW)), float(rng.choice([0.2, 0.5]))), (0.2, 0.5, 0.8, 1.0))
        return one._replace(of=with_noise(one.of, weakest(one), rng))

    own = [
        Case(case.name, Rates(case.inputs._replace(keep_prob=0.6), (0.6, 0.8, 0.9, PAPER_KEEP, 1.0)), True)
        for case in papers_own(cases.rng, 10)
    ]
    judged = cases.judge(
        own + on_both_sides(cases.rng, draw, weakest, 5, margin=1.02),
        measure=measure,
        printed=lambda one, seen: seen[f"{one.keep_probs[0]:g}"] > max(list(seen.values())[1:]),
        condition=weakest,
    )
    more = [100 * (seen["0.6"] / seen["1"] - 1) for case, seen in judged.pairs if case.paper]
    return judged.finding(
        {"conditional": "Depends on the noise in Y: always after one step, later only while labels are not too noisy."},
        evidence=judged.evidence(EXACT, weakest),
        size=ranged(more, "% more risk", "at drop rate 0.4 than without, after ten steps, noise half the signal"),
        condition="against every other drop rate, the bias and covariance that the highest adds outweigh what it saves "
        "in variance: α_t − α⁰_t > σ²(β⁰_t − β_t), risk = α_t + σ²β_t, σ² the noise's variance in Y",
        flips_if="a step at which the highest drop rate is not last though it costs more than it saves",
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


def never_ahead(one: Fit) -> bool:
    """Whether E‖Y − XW_t‖², from moments summed over masks, is at no step below plain descent's.

    A theorem with masks on the output and l ≤ p/(2s_max²): singular direction i of E W_t keeps of its residual
    1 − p + pz^t ≥ (1 − p + pz)^t, plain descent's, as z^t is convex for z = 1 − 2ls_i²/p ≥ 0; covariance comes on top.
    """
    if one.placement == "output" and one.share <= 0.5:
        return True
    setup = Sgd(one.x, np.zeros(one.x.shape[1]), 0.0, one.keep_prob, one.rate, STEPS, one.placement)
    fits = []
    for keep_prob in (one.keep_prob, 1.0):
        of = moments(setup, one.y, keep_prob)
        fits.append(((one.y - one.x @ of.mean) ** 2).sum(axis=(1, 2)) + np.tensordot(of.covariance, one.x.T @ one.x))
    return bool(np.min(fits[0] - fits[1]) > -ROUNDING * np.sum(one.y**2))


@sgd_claim(
    "3.1-sgd-training-fit",
    where="§3.1, last paragraph; checked on the linear model's training loss",
    says="It shows that large dropout rates successfully avoid overfitting, but at the cost of lower accuracy at "
    "lower number of epochs, while no dropout sees higher accuracy at lower number of epochs, but will overfit at "
    "later epochs.",
    reading="The cost, in this model: the expected training loss is at no step below that of training "
    "without dropout at the same rate.",
)
def training_fit(cases: Cases) -> Finding:
    """The least gap in expected training loss over 40 steps: random features, skewed ones, and rates that overshoot."""

    def gap(one: Fit) -> float:
        run = dropout_sgd.trajectory(one.x, one.y, one.keep_prob, one.rate, STEPS, one.placement)
        return float(np.min(run.training_loss - run.training_loss_plain) / np.sum(one.y**2))

    def skewed(rng: np.random.Generator) -> Fit:
        rows, targets = np.array([[-1.0, 3.0], [0.0, -1.0]]), np.array([[3.0], [1.0]])
        x = np.tile(rows + rng.choice([0.0, 0.1, 1.0]) * rng.standard_normal((2, 2)), (10, 1))
        return Fit(x, np.tile(targets, (10, 1)), 0.9, float(rng.uniform(0.1, 0.5)), str(rng.choice(PLACEMENTS)))

    def overshooting(rng: np.random.Generator) -> Fit:
        ones = np.ones((300, 1))
        return Fit(ones, ones, float(rng.choice([0.8, 8 / 9])), float(rng.uniform(0.3, 0.9)), "output")

    def falling(placement: str) -> Fit:
        x = turned(60, np.arange(1.0, 7.0) ** -0.5, cases.rng)
        y = x @ cases.rng.standard_normal((6, 1))
        return Fit(x, y + np.std(y) * cases.rng.standard_normal(y.shape), PAPER_KEEP, 0.25, placement)

    judged = cases.judge(
        [
            *(Case(f"p = 0.95, {place} masks, a falling spectrum", falling(place), True) for place in PLACEMENTS),
            *cases.draw(skewed, 10, "two features"),
            Case(
                "input masks, skewed features", skewed(np.random.default_rng(0))._replace(placement="input", share=0.25)
            ),
            *cases.draw(overshooting, 6, "one feature"),
        ],
        measure=gap,
        printed=lambda one, seen: seen > -ROUNDING,
        condition=never_ahead,
    )
    return judged.finding(
        {"conditional": "Yes, but for rates that overshoot or skewed inputs: dropout fits worse at every step."},
        evidence=judged.evidence(
            "float64 rounding, relative to ‖Y‖²", lambda one: {"never ahead": never_ahead(one)}, tolerance=ROUNDING
        ),
        condition="‖Y − X·E W_t‖² + tr(S·Cov W_t) is at no step below ‖Y − XW_t‖² without dropout: always so with "
        "masks on the output and l ≤ p/(2s_max²), s_max the largest singular value of X",
        flips_if="masks on the output that are ahead at some step at a rate up to p/(2s_max²)",
    )


@sgd_claim(
    "3.1-not-a-must-have",
    where="§6",
    says="We conducted principled analysis and proved that dropout is not a must-have in the finetuning regime.",
    reading="With early stopping allowed, training without dropout reaches a population risk no higher than dropout's "
    "lowest in as many steps.",
    depends_on=("3.1-sgd-benefits-vanish", "3.1-sgd-crossover"),
)
def not_a_must_have(cases: Cases) -> Finding:
    """The lowest risks of 40 steps with dropout and without, in settings drawn freely, the closest ones judged."""

    def best(one: Sgd) -> float:
        lowest = [float(np.min(a + one.noise**2 * b)) for a, b in (risks(one, one.keep_prob), risks(one, 1.0))]
        return lowest[0] / lowest[1]

    def measure(one: Sgd) -> dict[str, float]:
        run = dropout_sgd.trajectory(
            one.x, one.labels, one.keep_prob, one.rate, one.steps, one.placement, w_true=one.truth
        )
        return {"dropout": float(run.risk.min()), "without": float(run.risk_plain.min())}

    def draw(rng: np.random.Generator) -> Sgd:
        one = setting(rng, float(rng.choice([0.8, PAPER_KEEP])), 40, 0.2)
        return one._replace(noise=float(10 ** rng.uniform(-1.5, 0)))

    free = cases.draw(draw, 40, "drawn")
    ratios = {case.name: best(case.inputs) for case in free}
    ahead = sorted((case for case in free if ratios[case.name] < 1 - 1e-6), key=lambda case: -ratios[case.name])[:6]
    not_ahead = sorted((case for case in free if ratios[case.name] >= 1), key=lambda case: ratios[case.name])[:6]
    judged = cases.judge(
        papers_own(cases.rng, 40) + ahead + not_ahead,
        measure=measure,
        printed=lambda one, seen: seen["without"] <= seen["dropout"] * (1 + ROUNDING),
        condition=lambda one: best(one) * (1 + ROUNDING),
    )
    share = float(np.mean([ratio < 1 for ratio in ratios.values()]))
    return judged.finding(
        {
            "conditional": f"Mostly: in {100 * (1 - share):.0f} % of settings, training without dropout, stopped in "
            "time, is as good."
        },
        evidence=judged.evidence(EXACT, {"dropout's lowest risk over the other, all draws": ratios}),
        size=Size(100 * share, f"% of {len(free)} settings", "dropout's best step is ahead of the best without it"),
        condition="min_t α⁰_t + σ²β⁰_t ≤ min_t α_t + σ²β_t, population risks without dropout and with it, σ² the "
        "noise's variance in Y",
        flips_if="a setting in which the lowest of the two exact risks is the other's",
    )
