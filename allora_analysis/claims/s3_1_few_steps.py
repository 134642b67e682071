"""§3.1 in few training steps: dropout's bias and noise beside training without it, at one learning rate.

The model, its symbols and the moments that conditions rest on are `masked_descent`'s; risks are E‖W_t − W_true‖², on
new inputs of equal variances, which the training inputs X need not have. The rows are judged by `dropout_sgd`. Checked
by `tests/test_claims_3_1_few_steps.py`, which plants wrong formulas.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from allora_analysis import dropout_sgd
from allora_analysis.claims.cases import OF_SIGNAL, PAPER_NOISE, Cases, relative_error
from allora_analysis.claims.claim import Finding, Size, ranged, share
from allora_analysis.claims.masked_descent import (
    DROPOUT_GUIDE,
    FEW,
    MANY,
    MANY_ROWS,
    MARGIN,
    NOT_THE_PAPERS,
    OFF,
    RATES,
    RISK,
    SMALL,
    TOLERANCE,
    Sgd,
    Tiny,
    all_masks,
    cost_over_saving,
    early,
    enumerated_variance,
    falling_spectra,
    many_rows,
    measured_risks,
    moments,
    rank_8,
    risks,
    sampled_products,
    setting,
    sgd_claim,
    with_rows,
)
from allora_analysis.claims.s3_1_tikhonov import on_both_sides

TURN = "t(t − 1)l < tr S/(2‖S‖²_F), S = XᵀX, to leading order in lt‖X‖²/p"
FLAW = (
    "Dropout–a stochastic regularizer–whose benefits quickly vanish when considering fine-tuning, and can in fact "
    "introduce detrimental additional variance to the training"
)


def told_variance(one: Sgd | Tiny) -> float:
    """Tr Cov W_t by sums over masks."""
    if isinstance(one, Tiny):
        return enumerated_variance(one)
    return float(moments(one, one.labels, one.keep_prob).spread[-1] ** 2)


def by_torch(one: Tiny) -> tuple[np.ndarray, np.ndarray]:
    """W_t for each sequence of masks on the input, by torch's gradients and its Adam, and the sequences' chances."""
    import torch

    masks, chance = all_masks(one)
    order = np.array(list(itertools.product(range(len(chance)), repeat=one.steps)))
    x, y, b, a = map(torch.tensor, (one.x, one.y, np.zeros((len(order), one.y.shape[1], len(one.a))), one.a))
    pair = b.requires_grad_(), a.repeat(len(order), 1, 1).requires_grad_()
    rule = torch.optim.Adam(pair, lr=one.rate)
    for drawn in order.T:
        rule.zero_grad()
        fit = (x * torch.tensor(masks[drawn])) @ (pair[0] @ pair[1]).mT
        ((fit - y) ** 2).sum().backward()
        rule.step()
    return (pair[0] @ pair[1]).mT.detach().numpy(), chance[order].prod(axis=1)


def beyond_the_mean(found: np.ndarray, chance: np.ndarray, target: np.ndarray) -> float:
    """E‖W_t − X⁺Y‖² − ‖E W_t − X⁺Y‖²."""
    mean = np.tensordot(chance, found, 1)
    return float(chance @ np.sum((found - target) ** 2, axis=(1, 2)) - np.sum((mean - target) ** 2))


def measured_variance(one: Sgd | Tiny) -> dict[str, float]:
    """The risk above that of the mean E W_t, and tr Cov W_t, by `dropout_sgd`; of A and B by torch, over all masks."""
    if isinstance(one, Tiny):
        found, chance = by_torch(one)
        mean = np.tensordot(chance, found, 1)
        spread = float(chance @ np.sum((found - mean) ** 2, axis=(1, 2)))
        return {
            "added to the risk": beyond_the_mean(found, chance, np.linalg.pinv(one.x) @ one.y),
            "tr Cov W_t": spread,
            "of the risk": spread / float(np.sum((mean - np.linalg.pinv(one.x) @ one.y) ** 2) + spread),
        }
    seen = measured_risks(one)
    run = dropout_sgd.trajectory(one.x, one.labels, one.keep_prob, one.rate, one.steps, one.placement)
    return {"added to the risk": seen["dropout"] - seen["its mean alone"], "tr Cov W_t": run.covariance_trace[-1]}


@sgd_claim(
    "3.1-sgd-variance",
    where="§1, first flaw",
    says=FLAW,
    reading=f"The second half: masks add variance to the weights at every step, and it costs {RISK}: by an identity, "
    "E‖W − w‖² = ‖E W − w‖² + tr Cov W, one for one under any optimizer. What could fail is that tr Cov W is above 0, "
    "by however little; that is judged under plain SGD and, for the paper, of A and B under torch's Adam at 1e-4, in a "
    "toy of 2 rows, where all masks can be summed; of 512 rows after 300 steps they are drawn.",
)
def variance(cases: Cases) -> Finding:
    """The trace of Cov W_t, and the risk above that of the mean E W_t, against moments summed over masks."""

    def draw(rng: np.random.Generator) -> Sgd:
        one = setting(rng, float(rng.choice([0.5, 0.8, 0.95])), int(rng.choice([1, 3, 10, 30])), 0.3)
        return one._replace(noise=float(10 ** rng.uniform(-1, 0.5)))

    judged = cases.judge(
        [
            *falling_spectra(cases.rng, 10),
            *cases.draw(lambda rng: rank_8(rng, 2, 1), 1, "A and B by Adam, step 1,", paper=True),
            *cases.draw(lambda rng: rank_8(rng, 2, 2), 1, "A and B by Adam, step 2,", paper=True),
            *cases.draw(draw, 8),
        ],
        measure=measured_variance,
        printed=lambda one, seen: (
            min(seen.values()) > 0
            and relative_error([told_variance(one)] * 2, [seen["added to the risk"], seen["tr Cov W_t"]]) < 1e-6
        ),
    )

    def cost(one: Sgd) -> float:
        bias = moments(one, one.labels, one.keep_prob).mean[-1] - one.truth
        return 100 * told_variance(one) / (told_variance(one) + float(np.sum(bias**2)))

    under_adam = [f"{100 * seen['of the risk']:.0e} %" for seen in judged.own]
    least, trained, most = sorted(by_many_masks(cases.rng, 300) for _ in range(3))
    return judged.finding(
        holds=f"Yes, one for one, at every step; by {trained:.1g} % of the risk under Adam at 1e-4 after 300 steps.",
        evidence=judged.evidence("float64 rounding, in differences of risks", told_variance, tolerance=1e-6),
        size=ranged(
            [cost(case.inputs) for _ in range(20) for case in falling_spectra(cases.rng, 10)],
            "% of the risk",
            f"the masks' variance after ten steps, drop rate 0.05, noise {OF_SIGNAL}, 0.1 of the largest rate, 8 rows "
            "of 4 inputs, singular values exactly 1/√i. At 1e-4, of A and B by Adam, on 512 rows of 64 inputs, rank "
            f"8, {trained:.1g} after 300 steps ({least:.1g} to {most:.1g}, three problems; masks drawn); of a toy of 2 "
            f"rows, summed over all masks, {under_adam[0]} after one step, {under_adam[1]} of another after two",
        ),
        flips_if="a step of plain SGD, or of Adam where masks turn a gradient's sign, at which the covariance over "
        "masks is 0 or lowers the risk",
    )


def by_many_masks(rng: np.random.Generator, steps: int, draws: int = 2) -> float:
    """The masks' variance in % of the risk ‖BA − X⁺Y‖² of LoRA under Adam at 1e-4, 512 rows; masks drawn."""
    one = many_rows(rng)._replace(steps=steps)
    with np.errstate(over="ignore", invalid="ignore"):  # training that diverges
        found = sampled_products(one, draws, rng)
        spread = float(np.sum(np.var(found, axis=0, ddof=1)))
        bias = float(np.sum((found.mean(axis=0) - np.linalg.pinv(one.x) @ one.y) ** 2)) - spread / draws
    return 100 * spread / (spread + bias)


def near_the_turn(rng: np.random.Generator, keep_prob: float) -> Sgd:
    """At a rate from half to twice that at which `cost_over_saving` is 1, after steps enough for these to be small."""
    one = setting(rng, keep_prob, 1, 1.0, "output")
    squares = np.linalg.svd(one.x, compute_uv=False) ** 2
    enough = squares.sum() * squares.max() / (np.sum(squares**2) * SMALL * keep_prob)  # twice the turn is small then
    one = one._replace(steps=2 + math.ceil(enough * rng.uniform(1, 2)))
    return one._replace(rate=one.rate * cost_over_saving(one) * float(2 ** rng.uniform(-1, 1)))


def parts(one: Sgd, keep_prob: float) -> list[float]:
    """The population risk by `dropout_sgd` of the signal alone, and of each unit of variance of the noise in Y."""
    found = []
    for y, w_true in ((one.x @ one.w[:, None], one.w[:, None]), (np.eye(len(one.x)), 0 * one.truth[:, 1:])):
        run = dropout_sgd.trajectory(one.x, y, keep_prob, one.rate, one.steps, one.placement, w_true=w_true)
        found.append(float(run.risk[-1]))
    return found


def parts_at(one: Sgd, keep_probs: Sequence[float]) -> dict[str, Any]:
    """`parts` by keep probability, and how far they are from those of moments summed over masks."""
    found = [parts(one._replace(keep_prob=keep_prob), keep_prob) for keep_prob in keep_probs]
    return {"parts": found, "off": relative_error(found, [risks(one, keep_prob)[:, -1] for keep_prob in keep_probs])}


def ten_steps(rng: np.random.Generator, keep_prob: float | None = None) -> Sgd:
    """Ten steps, masks on the output, a tenth to half of the largest rate of a keep probability, or of a drawn one."""
    drawn = float(rng.choice([0.5, 0.8, 0.95]))
    one = setting(rng, drawn if keep_prob is None else keep_prob, FEW[-1], 1.0, "output")
    return one._replace(rate=one.rate * 0.1 * float(5 ** rng.random()))


NOISES = (PAPER_NOISE, 0.1, 0.3, 1.0, 3.0)  # in units of the signal; the first is the size's


def told_risks(one: Sgd, keep_prob: float, population: np.ndarray | None = None) -> np.ndarray:
    """The risk at each of the `NOISES` after 0 to `steps` steps, from moments summed over masks."""
    signal, labels = risks(one, keep_prob, population)
    level = float(np.linalg.norm(one.x @ one.w)) / math.sqrt(len(one.x))
    return signal + (level * np.array(NOISES)[:, None]) ** 2 * labels


def by_noise(hits: np.ndarray) -> dict[float, dict[int, float]]:
    """The % of settings (settings × noises × T + 1) at each of the `NOISES` and each of the `FEW` steps."""
    return {noise: {t: 100 * float(hits[:, i, t].mean()) for t in FEW} for i, noise in enumerate(NOISES)}


def after_ten(hits: np.ndarray, what: str, drops: str, many: dict[float, dict[int, float]]) -> Size:
    """The share of settings after ten steps at noise half of the signal."""
    told = by_noise(hits)
    most = many[NOISES[-1]][FEW[-1]]
    beside = f"; of {MANY} settings of {MANY_ROWS} rows of 4 inputs at noise {NOISES[-1]:g} {most:.0f} %"
    rest = ", ".join(f"{told[noise][FEW[-1]]:.0f} % at {noise:g}" for noise in NOISES[1:])
    return share(
        hits[:, 0, -1].tolist(),
        f"{what} after ten steps, output masks, 2 to 6 rows of 1 to 3 inputs, {drops}, 0.1 to 0.5 of the largest rate "
        f"(not the reading's), noise {NOISES[0]:g} of the signal ({rest}{beside})",
    )


@sgd_claim(
    "3.1-sgd-benefits-vanish",
    where="§1, first flaw",
    says=FLAW,
    reading=f"The first half, with masks on the output, under plain SGD at rates {RATES}: after t steps dropout's "
    f"{RISK} is, whatever the noise in Y, not below that of training without it at the same rate. Whether fine-tuning "
    "is so short is not judged. " + NOT_THE_PAPERS,
    depends_on=("3.1-sgd-variance",),
    relied_on_by=(DROPOUT_GUIDE,),
)
def benefits_vanish(cases: Cases) -> Finding:
    """The risk's two parts, of the signal and of the noise in Y, on both sides of the turn and far before it."""

    def draw(rng: np.random.Generator) -> Sgd:
        return near_the_turn(rng, float(rng.choice([0.2, 0.5, 0.8, 0.95])))

    judged = cases.judge(
        [
            *cases.draw(lambda rng: early(rng, float(rng.choice([0.5, 0.8, 0.95]))), 4, "far before the turn"),
            *on_both_sides(cases.rng, draw, cost_over_saving, 6, margin=MARGIN),
        ],
        measure=lambda one: parts_at(one, (one.keep_prob, 1.0)),
        printed=lambda one, seen: bool(np.all(np.greater_equal(*seen["parts"]))) and seen["off"] < TOLERANCE,
        condition=cost_over_saving,
    )
    settings = [ten_steps(cases.rng) for _ in range(100)]
    ahead, like_training = (
        np.array([np.less(*(told_risks(one, p, of(one)) for p in (one.keep_prob, 1.0))) for one in settings])
        for of in (lambda one: None, lambda one: one.x.T @ one.x)
    )
    many = [with_rows(one, cases.rng) for one in settings[:MANY]]
    on_many = by_noise(np.array([np.less(*(told_risks(one, p) for p in (one.keep_prob, 1.0))) for one in many]))
    quiet, noisy = (by_noise(ahead)[of(NOISES)][FEW[-1]] for of in (min, max))
    return judged.finding(
        conditional=f"Depends: one step costs; ten at higher rates pay in {quiet:.0f} (noise {min(NOISES):g}) to "
        f"{noisy:.0f} % ({max(NOISES):g}) of small problems.",
        evidence=judged.evidence(
            f"float64 rounding, against moments summed over masks; {OFF}",
            cost_over_saving,
            more={
                "% of settings that gain, by noise and step": by_noise(ahead),
                "the same on new inputs of the training inputs' variances": by_noise(like_training),
                f"the same of {MANY} settings of {MANY_ROWS} rows of 4 inputs": on_many,
            },
            tolerance=TOLERANCE,
        ),
        size=after_ten(ahead, "where dropout is ahead", "drop rates 0.05, 0.2, 0.5", on_many),
        condition=TURN,
        flips_if="masks on the output whose risk is the lower one before the turn at some noise, or at none after it",
    )


class Rates(NamedTuple):
    """A setting and the keep probabilities compared in it, at one learning rate; the first is the strongest dropout."""

    of: Sgd
    keep_probs: tuple[float, ...]


def last(settings: Sequence[Sgd], keep_probs: Sequence[float]) -> np.ndarray:
    """Whether the strongest dropout has the highest risk (settings × `NOISES` × T + 1)."""
    by_rate = [[told_risks(one, p) for p in keep_probs] for one in settings]
    return np.array([strongest > np.max(others, axis=0) for strongest, *others in by_rate])


def is_last(parts: Sequence[Sequence[float]]) -> bool:
    """Whether the first of several drop rates has the highest risk, whatever the noise in Y."""
    return bool(np.all(np.greater(parts[0], np.max(parts[1:], axis=0))))


def last_where_it_costs(seen: Mapping[str, Any]) -> bool:
    """Whether `is_last` says of all drop rates what it says of the first and none."""
    return is_last(seen["parts"]) == is_last([seen["parts"][0], seen["parts"][-1]])


@sgd_claim(
    "3.1-sgd-first-step",
    where="beyond the paper: Figure 2 left, caption, on the linear model's first steps",
    says="In the linear model the highest of several drop rates is the worst after few steps.",
    reading=f"With masks on the output, under plain SGD at one learning rate {RATES}, p of the highest drop rate: "
    f"whatever the noise in Y, that one has the highest {RISK}. Row 3.1-sgd-benefits-vanish asks whether one drop rate "
    "costs, this one which of several costs most; at these rates cost and gain both go as k = (1 − p)/p, to leading "
    "order in lt‖X‖²/p, so that the highest is last just where dropout costs.",
    depends_on=("3.1-sgd-benefits-vanish",),
)
def first_step(cases: Cases) -> Finding:
    """The risk's two parts at four drop rates, on both sides of the turn and far before it."""
    keep_probs = (0.5, 0.8, 0.9, 1.0)

    judged = cases.judge(
        [
            *cases.draw(lambda rng: Rates(early(rng, keep_probs[0]), keep_probs), 3, "far before the turn"),
            *on_both_sides(
                cases.rng,
                lambda rng: Rates(near_the_turn(rng, keep_probs[0]), keep_probs),
                lambda one: cost_over_saving(one.of),
                4,
                margin=MARGIN,
            ),
        ],
        measure=lambda one: parts_at(one.of, one.keep_probs),
        printed=lambda one, seen: is_last(seen["parts"]) and seen["off"] < TOLERANCE,
        condition=lambda one: cost_over_saving(one.of),
    )
    settings = [ten_steps(cases.rng, keep_probs[0]) for _ in range(60)]
    hits = last(settings, keep_probs)
    on_many = by_noise(last([with_rows(one, cases.rng) for one in settings[:MANY]], keep_probs))
    shares = [of[FEW[-1]] for told in (by_noise(hits), on_many) for of in told.values()]
    return judged.finding(
        conditional="Yes where the highest costs, always after one step; at higher learning rates after ten in "
        f"{min(shares):.0f}–{max(shares):.0f} % (noise {max(NOISES):g}–{min(NOISES):g}).",
        evidence=judged.evidence(
            f"float64 rounding, against moments summed over masks; {OFF}",
            lambda one: cost_over_saving(one.of),
            more={
                "cases in which the highest rate is last just where it costs": sum(
                    map(last_where_it_costs, judged.measured)
                ),
                "% of settings in which it is last, by noise and step": by_noise(hits),
                f"the same of {MANY} settings of {MANY_ROWS} rows of 4 inputs": on_many,
            },
            tolerance=TOLERANCE,
        ),
        size=after_ten(hits, "where drop rate 0.5 is last", "beside 0, 0.1 and 0.2", on_many),
        condition=TURN,
        flips_if="another drop rate that has the highest risk before the turn, or none that has it after",
    )
