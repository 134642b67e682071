"""§3.1, after the bound: how the standard deviations over masks move in training, from zero and from random matrices.

L = ‖Y − (XW) ⊙ V‖²_F, Z = XW, p the keep probability, F = XX⁺Y; training is gradient descent on E L, which ends at
Z = pF. Var[L] = k Σ Z²(Z/p − 2Y)² and Var[∂L/∂W_dc] = 4k Σ_n X²_nd (Y_nc − Z_nc/p)², k = (1 − p)/p. Checked by
`tests/test_claims_3_1_deviation.py`, which plants wrong formulas.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from allora_analysis import deviation
from allora_analysis.claims.cases import OF_SIGNAL, PAPER_KEEP, PAPER_NOISE, Case, Cases, relative_error
from allora_analysis.claims.claim import Finding, Size, ranged, share
from allora_analysis.claims.s3_1_deviation import AFTER, deviation_claim
from allora_analysis.claims.s3_1_tikhonov import design, on_both_sides

EXACT = "closed forms at the start and where descent ends; descent to 1e-9"
SENTENCE = (
    "This is particularly true as training progresses where the variance of the current approximation against the "
    "targets (Std[‖Y − (XW) ⊙ V‖²_F]) will decrease on average but increase in the worst case compared to "
    "initialization with random matrices, or zero matrices with LoRA."
)


class Training(NamedTuple):
    """X (N×D), Y (N×C), the keep probability and the weights (D×C) at the start."""

    x: np.ndarray
    y: np.ndarray
    keep_prob: float
    start: np.ndarray

    @property
    def fit(self) -> np.ndarray:
        """F = XX⁺Y."""
        return self.x @ np.linalg.lstsq(self.x, self.y, rcond=None)[0]


Shape = tuple[int, ...]
LAYER = (256, 64, 8)  # rows, inputs and outputs of the paper's setting
LAYERS, SMALL = "{} rows, {} inputs and {} outputs".format(*LAYER), "8 to 24 rows, 2 to 4 inputs and 1 to 3 outputs"


def training(
    noise: float, keep_prob: float, rng: np.random.Generator, scale: float = 0.0, tails: bool = False, shape: Shape = ()
) -> Training:
    """Y = XW_true + noise, its deviation in units of the signal's root mean square; W_true has normal entries of
    deviation 1, the start of deviation `scale`; large rows with `tails`; of this shape, or `SMALL`.
    """
    n, d, c = shape or (int(rng.integers(8, 25)), int(rng.integers(2, 5)), int(rng.integers(1, 4)))
    x, w = design(n, d, 3.0, rng), rng.standard_normal((d, c))
    if tails:
        x = np.linalg.qr(x * rng.standard_t(2, (n, 1)))[0] * (math.sqrt(n) * np.geomspace(1, 1 / 3, d))
    signal = x @ w
    y = signal + noise * math.sqrt(np.mean(signal**2)) * rng.standard_normal((n, c))
    return Training(x, y, keep_prob, scale * rng.standard_normal((d, c)))


def any_training(rng: np.random.Generator) -> Training:
    """Noise from a tenth to fifty times the signal, p from 0.1 to 0.95, from zero."""
    return training(float(10 ** rng.uniform(-1, 1.7)), float(rng.choice([0.1, 0.5, 0.95])), rng)


SCALES = (1 / 3, 1.0, 3.0)  # of random matrices at the start, in units of the true weights


def papers(rng: np.random.Generator, scale: float = 0.0, shape: Shape = LAYER, noise: float = PAPER_NOISE) -> Training:
    """The paper's setting: drop rate 0.05, noise half of the signal, `LAYER`; or of another shape or noise."""
    return training(noise, PAPER_KEEP, rng, scale, shape=shape)


def nine(rng: np.random.Generator, scale: float) -> Case:
    """From zero, as LoRA starts, or at random, at drop rate 0.05, with noise half of the signal; nine data sets."""
    name = f"p = 0.95, start of scale {scale:g}, the median of nine data sets"
    return Case(name, [papers(rng, scale) for _ in range(9)], paper=True)


def trained(one: Training) -> np.ndarray:
    """W after 150 steps of gradient descent on the expected loss."""
    gram, pull, w = one.x.T @ one.x, one.x.T @ one.y, one.start
    rate = one.keep_prob / (2 * np.linalg.norm(gram, 2))
    for _ in range(150):
        w = w - 2 * rate * (gram @ w / one.keep_prob - pull)
    return w


def loss_stds(one: Training) -> dict[str, float]:
    """Std[L] at the start, after training, and at the start where it is least, W = 0."""
    weights = one.start, trained(one), np.zeros_like(one.start)
    stds = [deviation.loss_moments(one.x, one.y, w, one.keep_prob)[1] for w in weights]
    return dict(zip(("at the start", "after training", "in the worst case"), stds, strict=True))


def mean_square_start(one: Training, scale: float) -> float:
    """Σ (3σ⁴/p² + 4Y²σ²), σ² = scale²‖X_n‖²: E Var[L]/k over W with independent N(0, scale²) entries."""
    square = scale**2 * np.sum(one.x**2, axis=1, keepdims=True)
    return float(np.sum(3 * square**2 / one.keep_prob**2 + 4 * one.y**2 * square))


def turning_scale(one: Training) -> float:
    """p√v with 3C(Σ_n m_n²)v² + 4(Σ_nc Y_nc²m_n)v = Σ_nc F_nc²(F_nc − 2Y_nc)²: where start and end are equal.

    Here m_n = ‖X_n‖², and Y has C columns.
    """
    rows, fit = np.sum(one.x**2, axis=1, keepdims=True), one.fit
    a, b = 3 * one.y.shape[1] * float(np.sum(rows**2)), 4 * float(np.sum(one.y**2 * rows))
    c = float(np.sum(fit**2 * (fit - 2 * one.y) ** 2))
    return one.keep_prob * math.sqrt((math.sqrt(b**2 + 4 * a * c) - b) / (2 * a))


class Random(NamedTuple):
    """A training and the standard deviation of the normal matrices that it starts from."""

    of: Training
    scale: float


def size_over_turn(one: Random) -> float:
    """s/(p√v): above 1 where Std[L] falls, 0 from zero."""
    return one.scale / turning_scale(one.of)


def random_start(one: Random) -> float:
    """√(E Var[L]) over the starts, by Gauss–Hermite nodes, exact as Var[L] is of degree 4 in each entry of Z alone."""
    (x, y, p, _), total = one.of, 0.0
    deviations = one.scale * np.linalg.norm(x, axis=1, keepdims=True) * np.ones_like(y)
    for node, weight in ((-math.sqrt(3), 1 / 6), (0.0, 2 / 3), (math.sqrt(3), 1 / 6)):
        total += weight * deviation.loss_moments(np.eye(len(x)), y, node * deviations, p)[1] ** 2
    return math.sqrt(total)


def random_starts(rng: np.random.Generator) -> list[Case]:
    """The paper's: drop rate 0.05, noise half of the signal, from zero and from matrices around the true weights'."""
    return [
        Case(f"p = 0.95, start of scale {scale:.2g}, data {i + 1}", Random(papers(rng), scale), True)
        for scale in (0.0, *SCALES)
        for i in range(3)
    ]


def from_one_start(one: Training) -> tuple[bool, bool]:
    """Whether Std[L] rises from this one start; whether, of the loss's entries, the average falls and the worst rises.

    The Std of one entry is √k·|Z(Z/p − 2Y)|.
    """
    outputs = [one.x @ w for w in (one.start, trained(one))]
    before, after = (np.abs(z * (z / one.keep_prob - 2 * one.y)) for z in outputs)
    of_entries = after.mean() < before.mean() and after.max() > before.max()
    return bool(np.sum(after**2) > np.sum(before**2)), bool(of_entries)


def papers_turns(rng: np.random.Generator, shape: Shape = LAYER) -> list[float]:
    """`turning_scale` at the paper's setting, of 100 data sets, of `LAYER` or `SMALL`."""
    return [turning_scale(papers(rng, shape=shape)) for _ in range(100)]


def of_single(rng: np.random.Generator, shape: Shape) -> list[str]:
    """What `from_one_start` says, in % of starts of each of the `SCALES`."""
    single = [np.mean([from_one_start(papers(rng, scale, shape)) for _ in range(100)], axis=0) for scale in SCALES]
    return [", ".join(f"{100 * part:.0f}" for part in parts) for parts in zip(*single, strict=True)]


def loss_turns(rng: np.random.Generator) -> Size:
    """The scale at which Std[L] turns, at noise half of the signal, with what single starts of three scales show."""
    turns, small = ([scale / PAPER_KEEP for scale in papers_turns(rng, shape)] for shape in (LAYER, ()))
    (rises, entries), (small_rises, small_entries) = (of_single(rng, shape) for shape in (LAYER, ()))
    return ranged(
        turns,
        "",
        "the deviation of the start's entries over p times the true weights', where Std turns; "
        f"{LAYERS}, noise {OF_SIGNAL}. From one start of a third, one and three times the true weights' it "
        f"rises in {rises} %; entry by entry the average falls and the worst rises in {entries} %. With {SMALL} "
        f"{np.median(small):.2g} (range: {min(small):.2g} to {max(small):.2g}), {small_rises} and {small_entries} %",
    )


@deviation_claim(
    "3.1-loss-std",
    where=AFTER,
    says=SENTENCE,
    reading="Of its relative clause; its main one is row 3.1-benefit-in-training. Std is how far the loss of one step "
    "strays, root mean square, from its mean over the masks that this step may draw, data and W as they are. It ends "
    "below the root mean square over normal matrices at the start, LoRA's zero being those of size 0, and above their "
    "worst case, a matrix near zero, where it is near 0. Random matrices of any size reach that: the second half "
    "cannot fail, the first decides. Entry by entry, a less kind reading, both halves are seldom true at once (size). "
    f"The paper's setting: {LAYERS}, drop rate 0.05, noise {OF_SIGNAL}. Of the gradient: rows 3.1-figure-1*.",
)
def loss_std(cases: Cases) -> Finding:
    """Std[L] after training between that at W = 0, exactly 0, and the starts', with the scale at which it turns."""

    def corrected(one: Random, seen: dict[str, float]) -> bool:
        square = (1 - one.of.keep_prob) / one.of.keep_prob * mean_square_start(one.of, one.scale)
        from_zero = seen["in the worst case"] == 0 < seen["after training"]
        return from_zero and relative_error(seen["at the start"] ** 2, square) < 1e-9

    def draw(rng: np.random.Generator) -> Random:
        return Random(any_training(rng), float(10 ** rng.uniform(-1.5, 0.7)))

    near = [
        Case(f"noise {noise:g}, a fiftieth {side}", Random(one, factor * turning_scale(one)))
        for noise in (0.1, 0.5, 3.0)
        for one in [training(noise, 0.5, cases.rng)]
        for side, factor in (("below the boundary", 0.98), ("above it", 1.02))
    ]
    judged = cases.judge(
        random_starts(cases.rng)
        + near
        + cases.draw(lambda rng: Random(any_training(rng), 0.0), 8, "from zero,")
        + on_both_sides(cases.rng, draw, size_over_turn, 10),
        measure=lambda one: loss_stds(one.of) | {"at the start": random_start(one)},
        printed=lambda one, seen: seen["in the worst case"] < seen["after training"] < seen["at the start"],
        corrected=corrected,
        condition=size_over_turn,
    )
    size = loss_turns(cases.rng)
    return judged.finding(
        conditional="Only from large random matrices, at the paper's setting above "
        f"{100 * PAPER_KEEP * size.value:.0f} % of the true weights'; not from LoRA's zero.",
        evidence=judged.evidence(EXACT, lambda one: turning_scale(one.of), tolerance=1e-9),
        size=size,
        condition="s, the start's standard deviation, which is 0 for LoRA, is above p√v, 3C(Σ_n m_n²)v² + "
        "4(Σ_nc Y_nc²m_n)v = Σ_nc F_nc²(F_nc − 2Y_nc)², m_n = ‖X_n‖², F = XX⁺Y, C the columns of Y",
        flips_if="a start above that scale from which Std[L] rises, one below it, as zero, from which it falls, or a "
        "Std[L] above 0 at W = 0",
    )


def gradient_stds(one: Training, w: np.ndarray) -> tuple[float, float]:
    """Average and worst entry of the gradient's Std over masks."""
    stds = deviation.gradient_std(one.x, one.y, w, one.keep_prob)
    return float(np.mean(stds)), float(np.max(stds))


def shares(one: Training) -> dict[str, float]:
    """Average and worst entry of the gradient's Std after training, over the start's."""
    before, after = (gradient_stds(one, w) for w in (one.start, trained(one)))
    return {"average": after[0] / before[0], "worst": after[1] / before[1], "average at the start": before[0]}


def told_shares(one: Training) -> tuple[float, float, float]:
    """The same from X, Y, p and the start alone: residuals R = Y − F in the end, Y − Z/p at the start."""
    residuals = one.y - one.fit, one.y - one.x @ one.start / one.keep_prob
    after, before = (np.sqrt((one.x**2).T @ residual**2) for residual in residuals)
    unit = 2 * math.sqrt((1 - one.keep_prob) / one.keep_prob)
    return float(np.mean(after) / np.mean(before)), float(np.max(after) / np.max(before)), unit * float(np.mean(before))


AGREES = 1e-6  # relative: what descent measures and what the closed form says
BANDS = {
    "0.1 to 1": (-1, 0),
    "1 to 10": (0, 1),
    "10 to 100": (1, 2),
}  # of noise in units of the signal, as powers of 10


def as_printed(average: float, worst: float) -> bool:
    """The average falls and the worst entry rises."""
    return average < 1 < worst


def off(one: Training, seen: Mapping[str, float]) -> float:
    """How far a measured share, or the average at the start, is from `told_shares`, relative."""
    return max(relative_error(*pair) for pair in zip(seen.values(), told_shares(one), strict=True))


def typical(those: Sequence[Training]) -> dict[str, float]:
    """The median of `shares` over data sets, and how far `told_shares` is off on one of them."""
    seen = [shares(one) for one in those]
    error = max(off(*pair) for pair in zip(those, seen, strict=True))
    return {name: float(np.median([one[name] for one in seen])) for name in seen[0]} | {"error": error}


STARTS = ("from zero", "from random matrices")


def noisy(start: str, rng: np.random.Generator, noise: float) -> Training:
    """From zero, or from a hundredth to ten times the true weights; large rows."""
    if start == STARTS[0]:
        return training(noise, 0.5, rng, tails=True)
    return training(noise, float(rng.choice([0.5, 0.9])), rng, float(10 ** rng.uniform(-2, 1)), tails=True)


def _often(drawn: Mapping[tuple[str, str], list[Training]], worst: float) -> tuple[dict[str, float], Size]:
    # In how many draws the sentence is true: by start and by noise, with the share of all as a size.
    hits = {key: [as_printed(*told_shares(one)[:2]) for one in of] for key, of in drawn.items()}
    often = {
        part: 100 * float(np.mean([hit for key, of in hits.items() if part in key for hit in of]))
        for part in (*STARTS, *BANDS)
    }
    told = [f"{often[part]:.1f} % {'at ' * (part in BANDS)}{part}" for part in often]
    return often, share(
        [hit for of in hits.values() for hit in of],
        "with noise from 0.1 to 100 of the signal and heavy tails where the average falls and the worst rises "
        f"({', '.join(told)}); at drop rate 0.05, noise {OF_SIGNAL}, the worst entry's falls to {worst:.0f} %",
    )


@deviation_claim(
    "3.1-gradient-std",
    where=AFTER,
    says=SENTENCE,
    reading="A less kind reading: of the gradients' entries, which the next sentence looks at, the average falls and "
    "the worst rises, from zero and from normal matrices of the true weights' size, in the linear model whose symbols "
    "the sentence has. Judged are the median of nine data sets of "
    f"{LAYERS}, drop rate 0.05, noise in Y of {OF_SIGNAL}, and others, {SMALL}, drop rates 0.5 and 0.1, rows "
    "with Student's tails (two degrees of freedom), with a tenth to 100 times that noise, and matrices of a hundredth "
    "to ten times the true weights. The nine are taken for the paper's setting, as in 3.1-loss-std; the paper itself "
    "looks at gradients in Figure 1's network alone. In ours it does on MNIST (3.1-figure-1), on CIFAR-10 not "
    "(3.1-figure-1-cifar10). "
    "Of the loss, from matrices large enough, 3.1-loss-std has a kinder reading.",
    depends_on=("3.1-loss-std", "3.1-figure-1"),
)
def gradient_std(cases: Cases) -> Finding:
    """Std of the gradient's entries along training in this linear model, from W = 0 and from random matrices."""
    drawn = {
        (start, band): [noisy(start, cases.rng, float(10 ** cases.rng.uniform(*powers))) for _ in range(200)]
        for start in STARTS
        for band, powers in BANDS.items()
    }
    judged = cases.judge(
        [
            *(nine(cases.rng, scale) for scale in (0.0, 1.0)),
            *(Case(f"{', '.join(at)}, draw {i + 1}", [of[i]]) for at, of in drawn.items() for i in range(4)),
        ],
        measure=typical,
        printed=lambda those, seen: as_printed(seen["average"], seen["worst"]) and seen["error"] < AGREES,
    )
    often, size = _often(drawn, 100 * max(seen["worst"] for seen in judged.own))
    error = max(seen["error"] for seen in judged.measured)
    more = {"% of draws in which it is true, by start and by noise over the signal": often}
    return judged.finding(
        refuted="Not in §3.1's linear model: the worst falls too; in our network yes on MNIST, not on CIFAR-10."
        if error < AGREES
        else "No: training does not end where the closed form has it.",
        evidence=judged.evidence(
            EXACT,
            lambda those: np.median([told_shares(one) for one in those], axis=0).tolist(),
            more=more,
            error=error,
            tolerance=AGREES,
        ),
        size=size,
        flips_if="data sets all with a falling average and a rising worst entry",
    )


def random_gradient(one: Random) -> float:
    """The average entry of √(E Var[∂L/∂W]) over the starts, exact: Var is quadratic in W, so ±s√D·e_i average it."""
    (x, y, p, _), d = one.of, one.of.x.shape[1]
    size = one.scale * math.sqrt(d)
    starts = (sign * size * np.repeat(np.eye(d)[:, i : i + 1], y.shape[1], 1) for i in range(d) for sign in (1, -1))
    return float(np.mean(np.sqrt(sum(deviation.gradient_std(x, y, w, p) ** 2 for w in starts) / (2 * d))))


def both_ratios(one: Random) -> dict[str, float]:
    """Std[L] and the gradient's average Std after training, over the root mean square at the starts; ∞ from 0."""
    before, after = random_start(one), loss_stds(one.of)["after training"]
    return {
        "loss": after / before if before else math.inf,
        "gradient": gradient_stds(one.of, trained(one.of))[0] / random_gradient(one),
    }


def told_gradient(one: Random) -> float:
    """Σ_dc √v_dc over Σ_dc √u_dc: the gradient's average Std after training over that of the starts."""
    square = one.of.x**2
    before = one.of.y**2 + (one.scale / one.of.keep_prob) ** 2 * np.sum(square, axis=1, keepdims=True)
    return float(np.sum(np.sqrt(square.T @ (one.of.y - one.of.fit) ** 2)) / np.sum(np.sqrt(square.T @ before)))


def as_the_loss(one: Random) -> float:
    """Above 1 where loss and gradient move alike: both fall, or both rise."""
    ratio = size_over_turn(one)
    return ratio if told_gradient(one) < 1 else math.inf if ratio == 0 else 1 / ratio


def alike(one: Training) -> bool:
    """Whether both move the same way from this one start."""
    seen = loss_stds(one)
    return (seen["after training"] > seen["at the start"]) == (told_shares(one)[0] > 1)


def one_label_canceled() -> Training:
    """One large input whose label is canceled, from zero: noise that is half of the signal, and in all others' way."""
    x = np.array([[10.0], *[[1.0]] * 400])
    noise = np.array([[-10.0], *[[0.25]] * 200, *[[-0.25]] * 200])
    return Training(x, x + noise, PAPER_KEEP, np.zeros((1, 1)))


@deviation_claim(
    "3.1-figure-1-illustrates",
    where="beyond the paper: §3.1, before Figure 1, of the loss, which its sentence before speaks of",
    says="The gradient's average standard deviation over masks, which Figure 1 shows, moves as the loss's does.",
    reading="From normal matrices at the start, as Figure 1's network has, or from LoRA's zero, root mean square over "
    f"them, to the end of training in §3.1's own model. The paper's: drop rate 0.05, noise {OF_SIGNAL}, "
    f"{LAYERS}, zero, and matrices of a "
    "third, one and three of the true weights' size. What our network shows of Figure 1 is row 3.1-figure-1.",
    depends_on=("3.1-loss-std", "3.1-gradient-std"),
)
def figure_1_illustrates(cases: Cases) -> Finding:
    """Std[L] and the gradient's average Std, after training over before it, near the scale at which the loss turns."""

    def draw(rng: np.random.Generator) -> Random:
        one = training(float(10 ** rng.uniform(-1, 1)), float(rng.choice([0.1, 0.5, 0.95])), rng)
        return Random(one, turning_scale(one) * float(2 ** rng.uniform(-1, 1)))

    judged = cases.judge(
        [
            *random_starts(cases.rng),
            Case("one large input whose label is canceled, from zero", Random(one_label_canceled(), 0.0)),
            *on_both_sides(cases.rng, draw, as_the_loss, 5),
        ],
        measure=both_ratios,
        printed=lambda one, seen: (seen["loss"] > 1) == (seen["gradient"] > 1),
        corrected=lambda one, seen: relative_error(seen["gradient"], told_gradient(one)) < 1e-6,
        condition=as_the_loss,
    )
    turn = 100 * float(np.median(papers_turns(cases.rng)))
    hits, small = (
        {scale: [alike(papers(cases.rng, scale, shape)) for _ in range(100)] for scale in SCALES}
        for shape in (LAYER, ())
    )
    third, _, thrice = (100 * float(np.mean(of)) for of in hits.values())
    told = ", ".join(f"{100 * float(np.mean(of)):.0f}" for of in small.values())
    return judged.finding(
        conditional=f"Only from large starts, at the paper's setting {turn:.0f} % of the true weights'; from zero the "
        "gradient's alone falls.",
        evidence=judged.evidence(EXACT, {"from zero, the loss's Std": "rises from 0"}, tolerance=1e-9),
        size=share(
            hits[1.0],
            f"where they move alike from one random start of the true weights' size, {LAYERS}, noise {OF_SIGNAL}"
            f" ({third:.0f} % from a third of it, {thrice:.0f} % from three times it; with {SMALL} in {told} % "
            "from a third, one and three times it)",
        ),
        condition="the start is so large that the loss's deviation falls where the gradient's does, or so small that "
        "both rise, which from zero takes contrived data. In formulas: s, the start's standard deviation, is above "
        "p√v of row 3.1-loss-std where the gradient's falls, below where it rises; it falls where "
        "Σ_dc √v_dc < Σ_dc √u_dc, v_dc = Σ_n X²_nd R²_nc, R = Y − XX⁺Y, u_dc = Σ_n X²_nd (Y²_nc + m_n s²/p²), "
        "m_n = ‖X_n‖²",
        flips_if="a start above that scale from which the gradient's deviation falls and the loss's rises, or one "
        "below it from which both fall",
    )
