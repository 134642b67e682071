"""§3.1 and Appendix A: how far an average over masks is from its expectation, and how that moves in training.

L = ‖Y − (XW) ⊙ V‖²_F, masks on the output; Z = XW, p the keep probability, k = (1 − p)/p, F = XX⁺Y. Judged by sums over
all masks and along gradient descent. Checked by `tests/test_claims_3_1_deviation.py`, which plants wrong formulas.
"""

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np

from allora_analysis import deviation
from allora_analysis.claims.cases import Case, Cases, relative_error
from allora_analysis.claims.claim import Finding, Size, claim, ranged
from allora_analysis.claims.s3_1_tikhonov import PAPER_KEEP, design, on_both_sides

deviation_claim = functools.partial(
    claim, command="python -m allora_analysis.deviation", test="tests/test_deviation_exact.py"
)
DISPLAY, AFTER = "§3.1, the display of the bound; Appendix A", "§3.1, the paragraph after the bound"
ROUNDING = "float64 rounding: sums over at most 2^12 outcomes"


class Masked(NamedTuple):
    """X (N×D), Y (N×C), W (D×C), the keep probability and a number of masks."""

    x: np.ndarray
    y: np.ndarray
    w: np.ndarray
    keep_prob: float
    masks: int = 1

    @property
    def arguments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """What `deviation`'s functions take."""
        return self[:4]


def masked(shape: tuple[int, int, int], keep_prob: float, masks: int, rng: np.random.Generator) -> Masked:
    """Standard normal X and Y, and normal weights of standard deviation 1/√D."""
    n, d, c = shape
    x, y, w = (rng.standard_normal(size) for size in ((n, d), (n, c), (d, c)))
    return Masked(x, y, w / math.sqrt(d), keep_prob, masks)


def enumerable(rng: np.random.Generator) -> Masked:
    """A problem with at most 12 masked entries in all."""
    n, c, masks = [(2, 1, 6), (3, 1, 4), (2, 2, 3), (1, 1, 5), (1, 2, 1), (2, 1, 1)][rng.integers(6)]
    return masked((n, int(rng.integers(1, 3)), c), float(rng.choice([0.1, 0.5, 0.95])), masks, rng)


def papers_own(rng: np.random.Generator) -> list[Case]:
    """Two outputs, drop rate 0.05, as large as the enumeration of three masks allows."""
    return [Case("two outputs, p = 0.95, n = 3", masked((2, 2, 2), PAPER_KEEP, 3, rng), paper=True)]


def averages(one: Masked) -> tuple[np.ndarray, np.ndarray]:
    """The average loss over every sequence of masks, and each sequence's probability."""
    z, p = one.x @ one.w, one.keep_prob
    kept = np.array(list(itertools.product((0, 1), repeat=z.size)), dtype=float)
    losses = np.sum((one.y.ravel() - z.ravel() * kept / p) ** 2, axis=1)
    number = kept.sum(axis=1)
    chances = p**number * (1 - p) ** (z.size - number)
    total, weight = losses, chances
    for _ in range(one.masks - 1):
        total, weight = np.add.outer(total, losses).ravel(), np.multiply.outer(weight, chances).ravel()
    return total / one.masks, weight


@deviation_claim(
    "3.1-bound", where=DISPLAY, says="E[|(1/N)Σ‖Y − (XW) ⊙ V_n‖²_F − E[‖Y − (XW) ⊙ V‖²_F]|] ≤ Std[‖Y − (XW) ⊙ V‖²_F]/√N"
)
def bound(cases: Cases) -> Finding:
    """Std[L]/√n against the deviation summed over every sequence of n masks; and the case that attains it."""

    def measure(one: Masked) -> dict[str, float]:
        values, weight = averages(one)
        centred = values - weight @ values
        return {"mean |·|": float(weight @ np.abs(centred)), "√ mean square": math.sqrt(float(weight @ centred**2))}

    def printed(one: Masked, seen: dict[str, float]) -> bool:
        exact = deviation.exact_deviation(*one.arguments, one.masks)
        right = max(relative_error(exact.value, seen["mean |·|"]), relative_error(exact.bound, seen["√ mean square"]))
        return seen["mean |·|"] <= exact.bound * (1 + 1e-12) and right < 1e-10

    attained = Masked(np.ones((1, 1)), np.ones((1, 1)), np.full((1, 1), 3.0), 0.5, 1)
    judged = cases.judge(
        [
            *papers_own(cases.rng),
            *(Case(f"one entry, p = 0.5, n = {n}", attained._replace(masks=n)) for n in (1, 2, 3)),
            *cases.draw(enumerable, 12),
        ],
        measure=measure,
        printed=printed,
    )
    shares = [seen["mean |·|"] / seen["√ mean square"] for _, seen in judged.pairs]
    return judged.finding(
        holds="Yes: it is the Cauchy–Schwarz inequality, attained by one entry and one mask at p = 1/2.",
        evidence=judged.evidence(ROUNDING, lambda one: deviation.bound(*one.arguments, one.masks), tolerance=1e-10),
        size=ranged(shares, "of the bound", "the deviation itself"),
        flips_if="one problem on which the sum over all sequences of masks exceeds Std[L]/√N",
    )


@deviation_claim(
    "3.1-bound-proof",
    where="Appendix A, the line before the last but one",
    says="= √((1/N²) Σ E[‖Y − (XW) ⊙ V_n‖²_F] − E[‖Y − (XW) ⊙ V‖²_F]²)",
    reading="The line before it has E[((1/N) Σ ‖Y − (XW) ⊙ V_n‖²_F)²] in the first term's place.",
)
def proof(cases: Cases) -> Finding:
    """(1/N²)Σ E[L_n], and what should stand there, against the mean square over every sequence of masks; (E L)² off."""

    def right(one: Masked) -> float:
        mean, std = deviation.loss_moments(*one.arguments)
        return std**2 / one.masks + mean**2  # (1/N²)Σ(E[L_n²] − (E L)²), and the (E L)² that is off

    def mean_square(one: Masked) -> float:
        values, weight = averages(one)
        return float(weight @ values**2)

    judged = cases.judge(
        papers_own(cases.rng) + cases.draw(enumerable, 12),
        measure=mean_square,
        printed=lambda one, seen: relative_error(deviation.loss_moments(*one.arguments)[0] / one.masks, seen) < 1e-9,
        corrected=lambda one, seen: relative_error(right(one), seen) < 1e-9,
    )
    return judged.finding(
        holds_corrected="Not as printed: a square and a pair of brackets are missing; the lines around it are right.",
        evidence=judged.evidence(ROUNDING, right, tolerance=1e-9),
        corrected="= √((1/N²) Σ (E[L_n²] − (E L)²)), L_n = ‖Y − (XW) ⊙ V_n‖²_F, which is √(Var[L]/N), the next line",
        flips_if="a mean square over all sequences of masks that is not the corrected one",
    )


def de_moivre(n: int, keep_prob: float) -> float:
    """E|K − np|/√(np(1 − p)) for K ~ Bin(n, p), de Moivre's: the ratio of a single entry, whatever its X, Y and W."""
    m, p, q = math.floor(n * keep_prob) + 1, keep_prob, 1 - keep_prob
    log = math.lgamma(n + 1) - math.lgamma(m + 1) - math.lgamma(n - m + 1) + m * math.log(p) + (n - m + 1) * math.log(q)
    return 2 * m * math.exp(log) / math.sqrt(n * p * q)


@deviation_claim(
    "3.1-bound-order",
    where="beyond the paper: §3.1, the display of the bound, of its order",
    says="The bound is right in order: the exact deviation over it tends to a constant as N grows.",
    depends_on=("3.1-bound",),
)
def order(cases: Cases) -> Finding:
    """Exact deviation over the bound for growing n: within Goldstein's bound of √(2/π); for one entry de Moivre's."""

    def allowed(one: Masked) -> float:
        (x, y, w, p), n = one.arguments, one.masks
        delta = x @ w / p * (x @ w / p - 2 * y)
        third = float(np.sum(np.abs(delta) ** 3)) * p * (1 - p) * (p**2 + (1 - p) ** 2)
        return third / deviation.loss_moments(x, y, w, p)[1] ** 3 / math.sqrt(n)

    def draw(rng: np.random.Generator) -> Masked:
        shape = ((1, 1, 1), (4, 2, 2))[rng.integers(2)]
        return masked(shape, float(rng.choice([0.1, 0.5, 0.95])), int(10 ** rng.uniform(1, 6)), rng)

    own = masked((4, 2, 2), PAPER_KEEP, 10**4, cases.rng)
    judged = cases.judge(
        [Case("8 entries, p = 0.95, n = 10,000", own, paper=True), *cases.draw(draw, 16)],
        measure=lambda one: deviation.ratio(*one.arguments, one.masks),
        printed=lambda one, seen: (
            abs(seen - math.sqrt(2 / math.pi)) <= allowed(one)
            and (one.y.size > 1 or abs(seen - de_moivre(one.masks, one.keep_prob)) < 1e-6)
        ),
    )
    return judged.finding(
        holds="Yes: over many masks the deviation is four fifths of the bound, √(2/π) exactly.",
        evidence=judged.evidence(
            "distance of a standardized sum from the normal law (Goldstein 2010): Σ E|X|³ / Std³, by case", allowed
        ),
        size=Size(math.sqrt(2 / math.pi), "of the bound", "the deviation as the number of masks grows"),
        flips_if="a ratio that is further from √(2/π) than Goldstein's bound",
    )


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


BATCHES = 200  # to average over
LABELS = ((8, 2), (16, 2), (32, 2), (16, 6), (16, 28))  # rows of a batch and classes: the targets Y of §3.1's display


def off_by(one: Noisy, masks: int) -> float:
    """√(Var[L]/masks)/E L, each on average over the data sets."""
    mean, std = deviation.loss_moments(*one.of.arguments)
    return std / mean * math.sqrt(one.sets / masks)


@deviation_claim(
    "3.1-benefit-large-n",
    where=AFTER,
    says="As a result, the benefit of N, in our case the number of training steps, only appears for large N.",
    reading="A less kind reading: a few masks in the place of steps; of steps row 3.1-benefit-not-early has it. The "
    f"average loss over n masks, the paper's N, is off by more than {CLOSE:g} of E L (root mean square) up to n = "
    f"{LARGE}, where training ends (W at p times the true weights); for half of that deviation n is fourfold, for "
    "twice a quarter. The paper's own are taken to be layers, as LoRA's masks sit inside a network, and batches of "
    "8 and 16 rows with two classes, as Y in its display are targets; it prints no batch size.",
    depends_on=("3.1-bound",),
)
def benefit_large_n(cases: Cases) -> Finding:
    """The deviation after ten masks, averaged over normal data sets, against what m, p and the noise ask for."""
    third = 1 / 3
    own = [
        Case(f"{n} tokens, {c} outputs, p = 0.95", layer(cases.rng, n, c, third), paper=True)
        for n, c in ((512, 896), (512, 128))
    ]
    labels = {of: layer(cases.rng, *of, third, BATCHES) for of in LABELS}
    own += [Case(f"batches of {n}, {c} classes, p = 0.95", labels[n, c], paper=True) for n, c in LABELS[:2]]
    judged = cases.judge(
        own + on_both_sides(cases.rng, normal_sets, lambda one: masks_needed(one) / LARGE, 8, margin=1.15),
        measure=lambda one: off_by(one, LARGE),
        printed=lambda one, seen: seen > CLOSE,
        condition=lambda one: masks_needed(one) / LARGE,
    )
    one_mask, without = (100 * off_by(one, 1) for one in (own[0].inputs, layer(cases.rng, 512, 896, 0.0)))
    return judged.finding(
        conditional=f"Only where XW has few entries: after ten masks {100 * judged.measured[3]:.0f} % off at 16 "
        f"two-class labels, {100 * judged.measured[0]:.1f} % in layers.",
        evidence=judged.evidence(
            "a factor of 1.15 about the boundary: six standard errors of a mean of fourth powers over 40,000 entries",
            masks_needed,
            more={f"off, batches of {n}, {c} classes": off_by(one, LARGE) for (n, c), one in labels.items()},
        ),
        size=Size(
            one_mask,
            "% of E L",
            "how far one mask's loss is off (root mean square), 512 tokens, 896 outputs (Qwen2-0.5B's width), drop "
            f"rate 0.05, noise in Y a third of the signal ({100 * CLOSE * math.sqrt(masks_needed(own[0].inputs)):.2g} "
            f"% of normal signals, as in the condition; {without:.1f} % without noise); it falls as 1/√m",
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


def few_dropped(one: Alike) -> float:
    """ln(4/3)/(−3m ln(1 − q)), q the drop or the keep rate, the smaller one: above 1 where (1 − q)³ᵐ > 3/4.

    By de Moivre's E|K − nmq| = 2nmq(1 − q)^nm for nmq < 1, K ~ Bin(nm, q), (1 − q)³ᵐ is what four masks leave where
    they drop less than one entry, and below 1/2 where one mask does; beyond, less than 3/4 is left.
    """
    q = min(one.drop_rate, 1 - one.drop_rate)
    return math.log(1 / MOST) / (-(FOUR - 1) * one.entries * math.log1p(-q))


@deviation_claim(
    "3.1-benefit-few-masks",
    where=AFTER,
    says="As a result, the benefit of N, in our case the number of training steps, only appears for large N.",
    reading="A less kind reading: a few masks in the place of steps; of steps row 3.1-benefit-not-early has it. Most "
    f"(above {MOST:g}) of one mask's mean deviation is left after {FOUR} masks, for entries that all "
    "change the loss by the same amount, sign included; a share s > 1/2 is left where a mask drops fewer than about "
    f"ln(1/s)/{FOUR - 1} entries. Where as many raise the loss as lower it, more is left: see the evidence.",
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
    own = judged.measured[0]
    both = {float(n): left_of_one(Alike(12, n / 12), 6) for n in np.arange(0.12, 0.31, 0.01).round(2)}
    turn = max((dropped for dropped, left in both.items() if left > MOST), default=0.0)
    return judged.finding(
        conditional=f"Only if a mask drops under {ALONE:.1f} entries on average; where it drops many, four masks "
        "already halve the deviation.",
        evidence=judged.evidence(
            "exact deviations to 1e-9",
            {"share": f"above {MOST:g} where (1 − q)³ᵐ is"},
            more={"by entries dropped, of 12 of which six lower the loss": both},
        ),
        size=Size(own, "of one mask's deviation", "what four masks leave, 4,096 entries, drop rate 0.05"),
        condition=f"(1 − q)³ᵐ > {MOST:g}, m the entries and q the drop rate (or the keep rate, if that is "
        f"smaller): about fewer than {ALONE:.3f} dropped (kept); where as many entries raise the loss as lower it, "
        f"twelve in all, up to about {turn:.2f}",
        flips_if=f"four masks that leave more than {MOST:g} where (1 − q)³ᵐ is below it, or less where above",
    )
