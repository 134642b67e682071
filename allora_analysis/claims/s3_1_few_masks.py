"""§3.1, after the bound: how far an average over a few masks is off, where §3.1 asks for a few steps, and in training.

L = ‖Y − (XW) ⊙ V‖²_F, masks on the output; Z = XW, p the keep probability. The rows are judged by `deviation`. Checked
by `tests/test_claims_3_1_deviation.py`, which plants wrong formulas.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from allora_analysis import deviation
from allora_analysis.claims.cases import OF_SIGNAL, PAPER_KEEP, PAPER_NOISE, Case, Cases, relative_error
from allora_analysis.claims.claim import Finding, Size, ranged
from allora_analysis.claims.s3_1_deviation import AFTER, BENEFIT, Masked, deviation_claim
from allora_analysis.claims.s3_1_in_training import (
    EXACT,
    LAYER,
    LAYERS,
    SCALES,
    SENTENCE,
    SMALL,
    Random,
    Shape,
    Training,
    any_training,
    mean_square_start,
    papers,
    random_start,
    trained,
)
from allora_analysis.claims.s3_1_tikhonov import design, on_both_sides

LARGE, CLOSE = 10, 0.1  # masks that are not yet many; how close to E L is close


class Noisy(NamedTuple):
    """Data sets beside each other, W = p times the true weights, and the noise in Y in units of the signal."""

    of: Masked
    sets: int
    noise: float

    @property
    def entries(self) -> int:
        """m: of one data set, that a mask acts on."""
        return self.of.y.size // self.sets


def masks_needed(one: Noisy) -> float:
    """p(1 − p)(3 + 4ν)/(m(`CLOSE`·(1 − p + ν))²), ν = σ²/s²: the masks after which L̄ is that close, on average.

    On normal signals F of variance s² and noise e of variance σ², Z = pF: Var[L] = kp²Σ F²(F + 2e)² is on average
    p(1 − p)m(3s⁴ + 4s²σ²), and E L = Σ (Y − Z)² + kΣ Z² is m((1 − p)s² + σ²).
    """
    p, nu = one.of.keep_prob, one.noise**2
    return p * (1 - p) * (3 + 4 * nu) / (one.entries * (CLOSE * (1 - p + nu)) ** 2)


def normal_sets(rng: np.random.Generator) -> Noisy:
    """Normal data of 40,000 entries in all, in sets so small that about ten masks are needed."""
    p, noise = float(rng.uniform(0.02, 0.98)), float(10 ** rng.uniform(-1, 0.5))
    needed = masks_needed(Noisy(Masked(np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1)), p), 1, noise)) / LARGE
    sets = 40_000 // max(1, round(needed * 2 ** rng.uniform(-1, 1)))
    signal, error = rng.standard_normal((2, 40_000 // sets * sets, 1))
    return Noisy(Masked(signal, signal + noise * error, np.full((1, 1), p), p), sets, noise)


def layer(rng: np.random.Generator, tokens: int, outputs: int, noise: float, sets: int = 1) -> Noisy:
    """A falling spectrum of 48 inputs, the weights at p times the true ones; sets of so many tokens each."""
    w, error = map(rng.standard_normal, ((48, outputs), (tokens * sets, outputs)))
    x = design(tokens * sets, 48, 30.0, rng)
    return Noisy(Masked(x, x @ w + noise * np.std(x @ w) * error, PAPER_KEEP * w, PAPER_KEEP), sets, noise)


BATCHES = 1_000  # to average over
BESIDE = (1 / 3, PAPER_NOISE, 1.0)  # noises in the evidence
LABELS = ((8, 2), (16, 2), (32, 2), (16, 6), (16, 28))  # rows of a batch and classes: the targets Y of §3.1's display


def off_by(one: Noisy, masks: int) -> float:
    """√(Var[L]/masks)/E L, each on average over the data sets."""
    mean, std = deviation.loss_moments(*one.of.arguments)
    return std / mean * math.sqrt(one.sets / masks)


def most_noise(entries: int) -> float:
    """The noise in Y, in units of the signal, at which ten masks are `CLOSE` on so many entries, p = 0.95.

    The root of `masks_needed` = `LARGE` in √ν: (1 − p + ν)² = c(3 + 4ν), c = p(1 − p)/(10m·`CLOSE`²). 0 where
    they are that close without noise, too.
    """
    q, c = 1 - PAPER_KEEP, PAPER_KEEP * (1 - PAPER_KEEP) / (LARGE * entries * CLOSE**2)
    nu = 2 * c - q + math.sqrt(c * (4 * c + 3 - 4 * q))
    return math.sqrt(max(nu, 0.0))


def by_noise(rng: np.random.Generator) -> dict[str, float]:
    """How far ten masks are off in batches, by rows, classes and noise, and the noise from which on they are close."""
    off = {
        f"off, batches of {n}, {c} classes, noise {noise:.2g}": off_by(layer(rng, n, c, noise, BATCHES), LARGE)
        for n, c in LABELS
        for noise in BESIDE
    }
    return off | {f"close from noise, batches of {n}, {c} classes": most_noise(n * c) for n, c in LABELS}


@deviation_claim(
    "3.1-benefit-large-n",
    where=AFTER,
    says=BENEFIT,
    reading="A less kind reading: a few masks in the place of steps; of steps row 3.1-benefit-not-early has it. The "
    f"average loss over n masks, the paper's N, is off by more than {CLOSE:g} of E L (root mean square) up to n = "
    f"{LARGE}, where training ends (W at p times the true weights); for half of that deviation n is fourfold, for "
    "twice a quarter. The paper's own are taken to be layers, as LoRA's masks sit inside a network, and batches of "
    f"8 and 16 rows with two classes, as Y in its display are targets, with noise in Y of {OF_SIGNAL}; it "
    "prints no batch size and no noise.",
    depends_on=("3.1-bound",),
)
def benefit_large_n(cases: Cases) -> Finding:
    """The deviation after ten masks, averaged over normal data sets, against what m, p and the noise ask for."""
    own = [
        Case(f"{n} tokens, {c} outputs, p = 0.95", layer(cases.rng, n, c, PAPER_NOISE), paper=True)
        for n, c in ((512, 896), (512, 128))
    ]
    own += [
        Case(f"batches of {n}, {c} classes, p = 0.95", layer(cases.rng, n, c, PAPER_NOISE, BATCHES), paper=True)
        for n, c in LABELS[:2]
    ]
    judged = cases.judge(
        own + on_both_sides(cases.rng, normal_sets, lambda one: masks_needed(one) / LARGE, 8, margin=1.15),
        measure=lambda one: off_by(one, LARGE),
        printed=lambda one, seen: seen > CLOSE,
        condition=lambda one: masks_needed(one) / LARGE,
    )
    one_mask, without = (100 * off_by(one, 1) for one in (own[0].inputs, layer(cases.rng, 512, 896, 0.0)))
    small, larger = (100 * CLOSE * math.sqrt(masks_needed(case.inputs) / LARGE) for case in own[2:])
    turns = [most_noise(n * c) for n, c in LABELS[:2]]
    return judged.finding(
        conditional=f"Only in small batches, noise low: ten masks {small:.0f} % off at 8×2 (rows×classes), "
        f"{larger:.0f} % at 16×2.",
        evidence=judged.evidence(
            "a factor of 1.15 about the boundary: six standard errors of a mean of fourth powers over 40,000 entries",
            masks_needed,
            more=by_noise(cases.rng),
        ),
        size=Size(
            one_mask,
            "% of E L",
            "how far one mask's loss is off (root mean square), 512 tokens, 896 outputs (Qwen2-0.5B's width), drop "
            f"rate 0.05, noise in Y {OF_SIGNAL} ({100 * CLOSE * math.sqrt(masks_needed(own[0].inputs)):.2g} "
            f"% of normal signals, as in the condition; {without:.1f} % without noise); it falls as 1/√m. Ten masks "
            f"are off by more than {100 * CLOSE:g} % up to a noise of {turns[0]:.2f} of the signal in batches of 8 × 2 "
            f"(rows × classes), {turns[1]:.2f} of 16 × 2",
        ),
        condition=f"XW has so few entries, m, that an average over n = {LARGE} masks is still off by more than "
        f"{CLOSE:g} of E L. In formulas: n is below p(1 − p)s²(3s² + 4σ²)/(m·({CLOSE:g}·((1 − p)s² + σ²))²), s² the "
        "signal's variance and σ² the noise's, both normal, W at p times the true weights, on average over data",
        flips_if="normal data on which ten masks come closer than that, or less close",
    )


FOUR, MOST = 4, 0.75
ALONE = math.log(1 / MOST) / (FOUR - 1)  # dropped entries a mask, below about which four masks leave MOST


class Alike(NamedTuple):
    """m entries that all change the loss by the same amount when dropped, and the drop rate."""

    entries: int
    drop_rate: float


def left_of_one(one: Alike, lowering: int = 0) -> float:
    """What four masks leave of one mask's mean deviation; `lowering` of the entries lower the loss by that amount."""
    p = 1 - one.drop_rate
    x, y = np.ones((one.entries, 1)), np.zeros((one.entries, 1))
    y[:lowering] = 1 / p  # Z(Z/p − 2Y) is −1/p in place of 1/p
    four, single = (deviation.mean_absolute_deviation(x, y, np.ones((1, 1)), p, n) for n in (FOUR, 1))
    return four / single


def left_of_one_large(large: float, one: Alike) -> float:
    """The same where one of the entries changes the loss `large` times as much as each other."""
    x = np.ones((one.entries, 1))
    x[0] = math.sqrt(large)  # Z(Z/p − 2Y) is large/p
    given = (x, np.zeros_like(x), np.ones((1, 1)), 1 - one.drop_rate)
    four, single = (deviation.mean_absolute_deviation(*given, n) for n in (FOUR, 1))
    return four / single


def few_dropped(one: Alike) -> float:
    """ln(4/3)/(−3m ln(1 − q)), q the drop or the keep rate, the smaller one: above 1 where (1 − q)³ᵐ > 3/4.

    By de Moivre's E|K − nmq| = 2nmq(1 − q)^nm for nmq < 1, K ~ Bin(nm, q), (1 − q)³ᵐ is what four masks leave where
    they drop less than one entry, and below 1/2 where one mask does; beyond, less than 3/4 is left.
    """
    q = min(one.drop_rate, 1 - one.drop_rate)
    return math.log(1 / MOST) / (-(FOUR - 1) * one.entries * math.log1p(-q))


LEFT = (
    "what four masks leave, 4,096 entries alike, drop rate 0.05; one of them changing the loss 1,000 times as much, as "
    "an output 32 times as large does, {:.2f}, which would make it true there"
)


@deviation_claim(
    "3.1-benefit-few-masks",
    where=AFTER,
    says=BENEFIT,
    reading="A less kind reading: a few masks in the place of steps; of steps row 3.1-benefit-not-early has it. Most "
    f"(above {MOST:g}) of one mask's mean deviation is left after {FOUR} masks, for entries that all "
    "change the loss by the same amount, sign included; a share s > 1/2 is left where a mask drops fewer than about "
    f"ln(1/s)/{FOUR - 1} entries. Where as many raise the loss as lower it, or one outweighs the rest, more is left: "
    "see the evidence.",
    depends_on=("3.1-bound-order",),
)
def benefit_few_masks(cases: Cases) -> Finding:
    """Exact deviations of one mask and of four; entries dropped a mask near ln(4/3)/3, and at a layer's size."""

    def draw(rng: np.random.Generator) -> Alike:
        m = int(rng.integers(1, 13))
        q = ALONE * 2.0 ** rng.uniform(-1, 1) / m
        return Alike(m, q if rng.random() < 0.5 else 1 - q)

    judged = cases.judge(
        [
            Case("4,096 entries, drop rate 0.05", Alike(4096, 0.05), paper=True),
            Case("one entry, drop rate 0.093", Alike(1, 0.093)),
            *(Case(f"12 entries, {dropped} dropped", Alike(12, dropped / 12)) for dropped in (0.12, 0.25, 0.5, 1, 2)),
            *on_both_sides(cases.rng, draw, few_dropped, 8, margin=1.001),
        ],
        measure=left_of_one,
        printed=lambda one, seen: seen > MOST,
        condition=few_dropped,
    )
    both = {float(n): left_of_one(Alike(12, n / 12), 6) for n in np.arange(0.12, 0.31, 0.01).round(2)}
    turn = max((dropped for dropped, left in both.items() if left > MOST), default=0.0)
    unlike, one_of_many = left_of_one_large(100, Alike(200, 0.05)), left_of_one_large(1000, Alike(4096, 0.05))
    return judged.finding(
        conditional=f"Only, for entries alike, if a mask drops under {ALONE:.1f} entries on average; where many drop, "
        "four halve it.",
        evidence=judged.evidence(
            "exact deviations to 1e-9",
            {"share": f"above {MOST:g} where (1 − q)³ᵐ is"},
            more={
                "by entries dropped, of 12 of which six lower the loss": both,
                "200 entries, ten dropped, one of them changing the loss 100 times as much as each other": unlike,
            },
        ),
        size=Size(judged.measured[0], "of one mask's deviation", LEFT.format(one_of_many)),
        condition=f"(1 − q)³ᵐ > {MOST:g}, m the entries and q the drop rate (or the keep rate, if that is "
        f"smaller, q > 0): about fewer than {ALONE:.3f} dropped (kept); where as many entries raise the loss as lower "
        f"it, twelve in all, up to about {turn:.2f}; where one entry outweighs the rest, at any number "
        f"({unlike:.2f} left of 200 entries, ten dropped, one of them changing the loss 100 times as much)",
        flips_if=f"four masks that leave more than {MOST:g} where (1 − q)³ᵐ is below it, or less where above",
    )


def off_at_start(one: Random) -> float:
    """√(k Σ (3s⁴m_n²/p² + 4Y²s²m_n))/Σ (Y² + s²m_n/p), m_n = ‖X_n‖²: Std[L]/E L over the starts; 0 from zero."""
    (x, y, p, _), scale = one.of, one.scale
    mean = float(np.sum(y**2 + scale**2 * np.sum(x**2, axis=1, keepdims=True) / p))
    return math.sqrt((1 - p) / p * mean_square_start(one.of, scale)) / mean


def off_at_end(one: Training) -> float:
    """√(kp² Σ F²(F − 2Y)²)/(Σ Y² − p Σ F²), F = XX⁺Y: Std[L]/E L where training ends, at Z = pF."""
    (_, y, p, _), fit = one, one.fit
    return math.sqrt(p * (1 - p) * np.sum(fit**2 * (fit - 2 * y) ** 2)) / float(np.sum(y**2) - p * np.sum(fit**2))


def end_over_start(those: Sequence[Random]) -> float:
    """The median over data sets of `off_at_end` over `off_at_start`: above 1 where it rises, ∞ from zero."""
    starts = [off_at_start(one) for one in those]
    ratios = [off_at_end(one.of) / start if start else math.inf for one, start in zip(those, starts, strict=True)]
    return float(np.median(ratios))


def measured_ends(those: Sequence[Random]) -> list[list[float]]:
    """Std[L]/E L of each data set over the starts and where descent ends."""
    found = []
    for one in those:
        x, y, p, _ = one.of
        square = one.scale**2 * float(np.sum(x**2)) * y.shape[1]  # E‖XW‖²
        mean, std = deviation.loss_moments(x, y, trained(one.of), p)
        found.append([random_start(one) / (float(np.sum(y**2)) + square / p), std / mean])
    return found


def rises(seen: Sequence[Sequence[float]]) -> bool:
    """Whether the end is above the start, in the median over data sets."""
    return float(np.median([end / start if start else math.inf * end for start, end in seen])) > 1


def needs(one: Training) -> float:
    """How many times as many masks the end needs as this start, for the same Std[L]/(√n E L)."""
    mean, std = deviation.loss_moments(one.x, one.y, one.start, one.keep_prob)
    return (off_at_end(one) * mean / std) ** 2


def from_one_start(rng: np.random.Generator) -> tuple[float, Size]:
    """In how many % of starts at the paper's setting the end `needs` more, and how many times as many."""
    settings = (papers, half_dropped, noisier, lambda rng, scale: noisier(rng, scale, ()))
    more = [[[needs(draw(rng, scale)) for _ in range(60)] for scale in SCALES] for draw in settings]
    often = [[100 * float(np.mean(np.greater(of, 1))) for of in by_scale] for by_scale in more]
    told = [", ".join(f"{part:.0f}" for part in parts) for parts in often]
    size = ranged(
        more[0][1],
        "times as many masks",
        f"needed at the end as at one start of the true weights' size, {LAYERS}, drop rate 0.05, noise {OF_SIGNAL}"
        f"; from 60 starts each of a third, one and three times it more are in {told[0]} %, at drop rate 0.5 in "
        f"{told[1]} %, at noise three times the signal in {told[2]} % (with {SMALL} in {told[3]} %)",
    )
    return float(np.mean(often[0])), size


def half_dropped(rng: np.random.Generator, scale: float) -> Training:
    """The paper's setting at drop rate 0.5."""
    return papers(rng, scale)._replace(keep_prob=0.5)


def noisier(rng: np.random.Generator, scale: float, shape: Shape = LAYER) -> Training:
    """The paper's setting at noise three times the signal."""
    return papers(rng, scale, shape, noise=3.0)


def any_start(rng: np.random.Generator) -> list[Random]:
    """Any training, from matrices of a thirtieth to five times the true weights' size."""
    return [Random(any_training(rng), float(10 ** rng.uniform(-1.5, 0.7)))]


@deviation_claim(
    "3.1-benefit-in-training",
    where=AFTER,
    says=SENTENCE,
    reading="Its main clause, that a benefit of N only for large N is particularly true as training progresses: more "
    "masks are needed at the end than at the start for the average loss to be within a given share of E L, as "
    "Std[L]/E L rises, root mean square over E L of normal matrices at the start, LoRA's zero being those of size 0. "
    f"What it says of Std[L] itself is row 3.1-loss-std. The paper's: drop rate 0.05, noise {OF_SIGNAL}, "
    f"{LAYERS}, zero and matrices of a third, one and three of the true weights' size, the median of nine data sets.",
    depends_on=("3.1-benefit-large-n",),
)
def benefit_in_training(cases: Cases) -> Finding:
    """Std[L]/E L where descent ends over that of the starts, near where they are equal and from LoRA's zero."""
    own = [
        Case(
            f"p = 0.95, start of scale {scale:.2g}, the median of nine data sets",
            [Random(papers(cases.rng), scale) for _ in range(9)],
            paper=True,
        )
        for scale in (0.0, *SCALES)
    ]
    zero = cases.draw(lambda rng: [Random(any_training(rng), 0.0)], 4, "from zero,")
    judged = cases.judge(
        own + zero + on_both_sides(cases.rng, any_start, end_over_start, 8),
        measure=measured_ends,
        printed=lambda those, seen: rises(seen),
        corrected=lambda those, seen: (
            relative_error(seen, [[off_at_start(one), off_at_end(one.of)] for one in those]) < 1e-6
        ),
        condition=end_over_start,
    )
    often, size = from_one_start(cases.rng)
    return judged.finding(
        conditional=f"Yes from LoRA's zero; from {often:.0f} % of random ones at drop rate 0.05, noise {OF_SIGNAL}.",
        evidence=judged.evidence(EXACT, end_over_start, tolerance=1e-6),
        size=size,
        condition="the start is LoRA's zero, or random matrices so small, or p < 1 so near 1, that dropout's noise "
        "over the loss is less there than at the end. In formulas: p²Σ F²(F − 2Y)²/(Σ Y² − pΣ F²)² > Σ (3s⁴m_n²/p² + "
        "4Y²s²m_n)/(Σ (Y² + s²m_n/p))², sums over n and c, s the start's standard deviation, m_n = "
        "‖X_n‖², F = XX⁺Y",
        flips_if="a start at which that says more and Std[L]/E L falls, or less and it rises",
    )
