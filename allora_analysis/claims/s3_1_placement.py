"""§3.1, where the mask acts. The paper's formula masks the output, its prose the latent space, LoRA's code A's input.

k = (1 − p)/p; S = XᵀX. Judged by sums over all masks. Checked by `tests/test_claims_3_1_tikhonov.py`, which plants
wrong formulas and looks at PEFT's own layer.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest

from allora_analysis import tikhonov
from allora_analysis.claims import peft_masks
from allora_analysis.claims.cases import FALSE_FAIL, OF_SIGNAL, PAPER_KEEP, PAPER_NOISE, Case, Cases, relative_error
from allora_analysis.claims.claim import Finding, Size, claim, ranged
from allora_analysis.claims.s3_1_tikhonov import ROUNDING, TOLERANCE, Regression, design
from allora_analysis.tikhonov import masks as enumeration

SEARCH_TOLERANCE = 1e-6
STARTS = 4
OPENING, SETTING = "§3.1, first paragraph", "§3.1, the setting before the first display"
placement_claim = functools.partial(claim, test="tests/test_tikhonov.py")
COMMAND = "python -m allora_analysis.tikhonov --placement"


HINGES = (
    "LoRA's regularization hinges on using Dropout Srivastava et al. (2014), i.e., on applying a multiplicative binary "
    "mask to the latent space of the matrix factorization."
)


@placement_claim(
    "3.1-dropout-in-code",
    where=OPENING,
    says=HINGES,
    reading="That LoRA's code has dropout: in training a mask inside the branch strikes activations at random, at the "
    "drop rate, on A's input or on the latent space; measured on PEFT's own layer, whose numbers are committed. Which "
    "of the two is row 3.1-placement-in-code.",
    command="python -m allora_analysis.claims.peft_masks",
    test="tests/test_claims_3_1_tikhonov.py",
)
def dropout_in_code(cases: Cases) -> Finding:
    """How many of n₂ unit inputs a mask strikes, as a whole or in part, against binomials of the drop rate q.

    A mask on A's input strikes an input as a whole with chance q, one on the r latent entries some of it, 1 − (1 − q)ʳ.
    """

    def p_value(one: peft_masks.Layer, seen: peft_masks.Struck) -> float:
        inside = binomtest(sum(seen), one.n2, 1 - (1 - one.drop_rate) ** one.rank).pvalue
        return max(inside, binomtest(seen.whole, one.n2, one.drop_rate).pvalue if not seen.in_part else 0.0)

    measured = peft_masks.read()
    judged = cases.judge(
        _layers(measured),
        measure=lambda one: measured[one],
        printed=lambda one, seen: sum(seen) > 0 and p_value(one, seen) > FALSE_FAIL,
    )
    struck, inputs = sum(map(sum, judged.own)), sum(case.inputs.n2 for case in judged.cases if case.paper)
    return judged.finding(
        holds="Yes: in training LoRA's code (PEFT) strikes inputs of its branch at random, near its drop rate.",
        evidence=judged.evidence(
            f"a two-sided binomial test at {FALSE_FAIL:g}",
            lambda one: {"whole": one.drop_rate * one.n2, "in_part": 0},
            shown=lambda one, seen: seen._asdict(),
            more={"p-values": {case.name: p_value(case.inputs, measured[case.inputs]) for case in judged.cases}},
        ),
        size=Size(
            100 * struck / inputs,
            f"% of {inputs:,} unit inputs",
            f"struck at drop rate {peft_masks.DROP_RATE:g}, three layers (one alone cannot tell this from half of it)",
        ),
        flips_if="a layer of LoRA's code in training that strikes none, or not as many as its drop rate says",
    )


def _layers(measured: Iterable[peft_masks.Layer]) -> list[Case]:
    return [
        Case(
            f"{one.n2} → {one.rank} → {one.n1}, drop rate {one.drop_rate:g}",
            one,
            paper=one.drop_rate == peft_masks.DROP_RATE,
        )
        for one in measured
    ]


@placement_claim(
    "3.1-placement-in-code",
    where=OPENING,
    says=HINGES,
    reading="A less kind reading (kinder: 3.1-dropout-in-code): of the place, too. A mask strikes single entries of "
    "Ax, r numbers between A and B, the latent space; measured on PEFT's own layer, whose numbers are committed.",
    command="python -m allora_analysis.claims.peft_masks",
    test="tests/test_claims_3_1_tikhonov.py",
    depends_on=("3.1-dropout-in-code",),
)
def placement_in_code(cases: Cases) -> Finding:
    """Unit inputs through a training layer: a mask on the input strikes Ax as a whole, one on Ax single entries."""
    measured = peft_masks.read()
    judged = cases.judge(
        _layers(measured),
        measure=lambda one: {"whole": measured[one].whole, "in part": measured[one].in_part},
        printed=lambda one, seen: seen["in part"] > 0,
    )
    whole, in_part = (sum(seen[how] for seen in judged.own) for how in ("whole", "in part"))
    return judged.finding(
        refuted="No: LoRA's code (PEFT) masks the branch's input, A's, n₂ numbers a token, not the r between A and B.",
        evidence=judged.evidence(
            "none: masks on Ax leave every input whole or strike it whole with a chance below 1e-6 a case",
            lambda one: {"whole": f"{one.drop_rate:g} of {one.n2}", "in part": 0},
        ),
        size=Size(
            float(in_part),
            f"of {sum(case.inputs.n2 for case in judged.cases if case.paper):,} unit inputs",
            f"struck in part, as masks between A and B would strike them; as a whole {whole} (drop rate 0.05: "
            "one in twenty expected)",
        ),
        corrected="the mask acts on A's input: x ↦ W*x + ηBA(x ⊙ V)",
        flips_if="a layer of LoRA's code in training that strikes some of an input's r latent numbers and keeps others",
    )


class Bottleneck(NamedTuple):
    """A regression and the width r between A and B."""

    of: Regression
    rank: int

    @property
    def fitted(self) -> np.ndarray:
        """XX⁺Y."""
        return self.of.x @ np.linalg.lstsq(self.of.x, self.of.y, rcond=None)[0]


def unequal_fit(rng: np.random.Generator, n: int, d: int, c: int, keep_prob: float, rank: int) -> Bottleneck:
    """Features and targets at random."""
    return Bottleneck(Regression(design(n, d, 2.0, rng), rng.standard_normal((n, c)), keep_prob), rank)


def layer_fit(rng: np.random.Generator, outputs: int) -> np.ndarray:
    """XX⁺Y of 256 rows, 64 inputs, condition number 4; true weights' singular values as 1/i, noise half the signal."""
    x = design(256, 64, 4.0, rng)
    left, right = (np.linalg.qr(rng.standard_normal((size, outputs)))[0] for size in (64, outputs))
    signal = x @ (left / np.arange(1, outputs + 1)) @ right.T
    y = signal + PAPER_NOISE * np.std(signal) * rng.standard_normal(signal.shape)
    return Bottleneck(Regression(x, y, PAPER_KEEP), outputs).fitted


def sizes_off(rng: np.random.Generator) -> Size:
    """How far p·XX⁺Y is from the minimizer, r = 8 and 8 outputs; with 64, p times the best fit of rank 8, too."""

    def off(fit: np.ndarray, told: np.ndarray) -> float:
        return 100 * relative_error(PAPER_KEEP * told, tikhonov.bottleneck_solution(fit, PAPER_KEEP, 8))

    narrow, wide = ([layer_fit(rng, outputs) for _ in range(20)] for outputs in (8, 64))
    low = float(np.median([off(fit, tikhonov.bottleneck_solution(fit, 1.0, 8)) for fit in wide]))
    return ranged(
        [off(fit, fit) for fit in narrow],
        "% of its largest entry",
        "how far p·XX⁺Y is from the minimizer at drop rate 0.05, r = 8, twenty draws of 256 rows, 64 inputs and 8 "
        f"outputs, true weights' singular values as 1/i, noise {OF_SIGNAL}. With 64 outputs r is below the "
        f"fit's rank: {float(np.median([off(fit, fit) for fit in wide])):.2g} %; of p times the best fit of rank 8 "
        f"{low:.2g} %",
    )


def bottleneck_cases(cases: Cases) -> list[Case]:
    """Fits with r equal singular values and without, r below and above the fit's rank, with masks and without."""
    rng = cases.rng

    def equal(n: int, keep_prob: float, rank: int) -> Bottleneck:
        x = np.linalg.qr(rng.standard_normal((n, 2)))[0]
        return Bottleneck(Regression(x, 1.5 * x, keep_prob), rank)

    unequal = functools.partial(unequal_fit, rng)

    return [
        Case("r equal singular values", equal(4, 0.5, 2)),
        Case("r equal singular values, p = 0.9", equal(3, 0.9, 2)),
        Case("two equal singular values, r = 3", equal(3, 0.5, 3)),
        Case("unequal singular values", unequal(4, 3, 2, 0.6, 2)),
        Case("unequal, few kept", unequal(4, 2, 3, 0.2, 2)),
        Case("unequal, p = 0.95", unequal(4, 2, 3, PAPER_KEEP, 2), paper=True),
        Case("unequal, no dropout, r at least the fit's rank", unequal(4, 2, 3, 1.0, 2)),
        Case("Y orthogonal to X", Bottleneck(Regression(np.eye(3)[:, :2], np.eye(3)[:, 2:] @ np.ones((1, 2)), 0.5), 2)),
        Case("r below the fit's rank", unequal(4, 3, 2, 0.6, 1)),
        Case("r below the fit's rank, p = 0.95", unequal(4, 3, 2, PAPER_KEEP, 1), paper=True),
    ]


def keeps_the_shape(one: Bottleneck) -> bool:
    """Whether XX⁺Y is 0, or has exactly r non-zero singular values, all equal; or p = 1 and r ≥ rank(XX⁺Y)."""
    values = np.linalg.svd(one.fitted, compute_uv=False)
    if values[0] < TOLERANCE * np.linalg.norm(one.of.y):
        return True
    values = values[values > TOLERANCE * values[0]]
    equal = len(values) == one.rank and float(np.ptp(values)) < TOLERANCE * float(values[0])
    return equal or (one.of.keep_prob == 1.0 and len(values) <= one.rank)


@placement_claim(
    "3.1-placement-latent",
    where="beyond the paper: §3.1, its display's minimizer with the masks in the latent space",
    says="Masks between A and B have the minimizer of the paper's display, whose masks are on the output: p times "
    "least squares.",
    command=f"{COMMAND} bottleneck",
    depends_on=("3.1-minimiser",),
)
def placement_latent(cases: Cases) -> Finding:
    """Whether the fit p·XX⁺Y minimizes the loss under masks between A and B, found by a search on all masks."""

    def measure(one: Bottleneck) -> dict[str, float]:
        (x, y, p), r = one.of, one.rank
        factors = tikhonov.bottleneck_factors(x, y, p, r)
        fit = x @ factors.a.T @ factors.b.T
        return {
            "least loss, searched": tikhonov.enumerated_bottleneck_minimum(x, y, p, r, STARTS, cases.rng),
            "loss of the closed form": tikhonov.enumerated_bottleneck_loss(x, y, factors.a, factors.b, p),
            "closed-form minimum": tikhonov.bottleneck_minimum(x, y, p, r),
            "soft thresholding off by": relative_error(tikhonov.bottleneck_solution(one.fitted, p, r), fit),
            "p·XX⁺Y off by": relative_error(p * one.fitted, fit),
        }

    def corrected(one: Bottleneck, seen: dict[str, float]) -> bool:
        least, scale = seen["least loss, searched"], SEARCH_TOLERANCE * float(np.sum(one.of.y**2))
        others = seen["loss of the closed form"], seen["closed-form minimum"]
        return max(abs(value - least) for value in others) < scale and seen["soft thresholding off by"] < TOLERANCE

    judged = cases.judge(
        bottleneck_cases(cases),
        measure=measure,
        printed=lambda one, seen: seen["p·XX⁺Y off by"] < TOLERANCE,
        corrected=corrected,
        condition=keeps_the_shape,
    )
    return judged.finding(
        conditional="Only for fits of r equal singular values, in practice no: masks subtract a constant, not a share.",
        evidence=judged.evidence(
            "where L-BFGS on the sum over all masks stops, relative to the loss",
            lambda one: {"p·XX⁺Y": keeps_the_shape(one)},
            tolerance=SEARCH_TOLERANCE,
        ),
        size=sizes_off(cases.rng),
        corrected="XW = U diag((σ_i − τ)₊)Vᵀ over the r largest singular values of XX⁺Y = UΣVᵀ: soft thresholding",
        condition="XX⁺Y has exactly r non-zero singular values, all equal; or XX⁺Y = 0; or p = 1 and r ≥ rank(XX⁺Y)",
        flips_if="a fit of unequal singular values that p times least squares solves, or equal ones that it does not",
    )


def scaled_columns(rng: np.random.Generator) -> Regression:
    """At most 9 masked inputs; columns whose norms spread up to a hundredfold; N above or below D."""
    n, d = [(4, 2), (2, 4), (3, 3), (2, 3)][rng.integers(4)]
    x = design(n, d, 5.0, rng) * np.exp(rng.uniform(-2.3, 2.3, d))
    return Regression(x, rng.standard_normal((n, 2)), float(rng.choice([0.3, 0.8, 0.95])))


@placement_claim(
    "3.1-normalised-inputs",
    where=OPENING,
    says="in the linear regime dropout acts as some variant of ℓ2 regularization on normalized design matrix (inputs)",
    reading="Of inputs none of which is 0 throughout, so that each can be normalized.",
    command=f"{COMMAND} input",
)
def normalised_inputs(cases: Cases) -> Finding:
    """Input masks: the minimizer over all masks, against ridge with λ = k on X with columns of norm 1, rescaled."""

    def normalised_ridge(one: Regression) -> np.ndarray:
        (x, y, p), norms = one, np.linalg.norm(one.x, axis=0)
        d, c = x.shape[1], y.shape[1]
        stacked = np.vstack([x / norms, np.sqrt((1 - p) / p) * np.eye(d)]), np.vstack([y, np.zeros((d, c))])
        return np.linalg.lstsq(*stacked, rcond=None)[0] / norms[:, None]

    own = [Case("p = 0.95", scaled_columns(cases.rng)._replace(keep_prob=PAPER_KEEP), paper=True)]
    judged = cases.judge(
        own + cases.draw(scaled_columns, 12),
        measure=lambda one: tikhonov.enumerated_solution(one.x, one.y, one.keep_prob, "input"),
        printed=lambda one, best: (
            max(
                relative_error(normalised_ridge(one), best),
                relative_error(tikhonov.dropout_solution(one.x, one.y, one.keep_prob, "input"), best),
            )
            < TOLERANCE
        ),
    )
    return judged.finding(
        holds="Yes, exactly, for masks on the inputs: ridge with λ = (1 − p)/p on columns of norm 1.",
        evidence=judged.evidence(ROUNDING, normalised_ridge, tolerance=TOLERANCE),
        flips_if="a design on which the sum over all input masks has another minimizer",
    )


class Masks(NamedTuple):
    """The shape of V and p."""

    rows: int
    columns: int
    keep_prob: float


@placement_claim(
    "3.1-mask-mean",
    where=SETTING,
    says="such parametrization of Dropout is commonly employed in the literature to ensure that its "
    "expectation is equal to 1",
    reading="E V = 1 for V with entries in {0, 1/p}; how common it is in the literature is not judged.",
    command=f"{COMMAND} output",
)
def mask_mean(cases: Cases) -> Finding:
    """The mean of every entry over all masks."""

    def mean(one: Masks) -> np.ndarray:
        masks, probability = enumeration.all_masks(*one)
        return np.tensordot(probability, masks, axes=1)

    def draw(rng: np.random.Generator) -> Masks:
        return Masks(*(int(size) for size in rng.integers(1, 4, 2)), float(rng.uniform(0.05, 1)))

    judged = cases.judge(
        [Case("p = 0.95", Masks(3, 3, PAPER_KEEP), paper=True), *cases.draw(draw, 8)],
        measure=mean,
        printed=lambda one, seen: relative_error(seen, np.ones((one.rows, one.columns))) < TOLERANCE,
    )
    return judged.finding(
        holds="Yes: each entry has mean 1.",
        evidence=judged.evidence(ROUNDING, {"every entry": 1.0}, tolerance=TOLERANCE),
        flips_if="an entry whose mean over all masks is not 1",
    )


def correlations_cancel(one: Regression) -> bool:
    """Whether S(diag S)⁺XᵀY = XᵀY, or p = 1.

    A W of both has SW = pXᵀY and (S + k diag S)W = XᵀY, so (diag S)W = pXᵀY; and W = p(diag S)⁺XᵀY is one if any is.
    """
    gram, pull = one.x.T @ one.x, one.x.T @ one.y
    norms = np.diag(gram)[:, None]
    alone = np.divide(pull, norms, out=np.zeros_like(pull), where=norms > 0)  # each feature's own fit
    between = gram @ alone - pull
    return one.keep_prob == 1.0 or bool(np.abs(between).max() < TOLERANCE * np.abs(gram).max() * np.abs(alone).max())


def of_gram(gram: Sequence[Sequence[float]], w: Sequence[float], rng: np.random.Generator) -> Regression:
    """Three features with this XᵀX and labels Xw, half of the entries kept."""
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    x = turn @ np.linalg.cholesky(np.array(gram)).T
    return Regression(x, x @ np.array(w)[:, None], 0.5)


APART = [[2.0, 0.8, 0.0], [0.8, 1.04, 0.0], [0.0, 0.0, 5.0]]
FEWER_ROWS = np.array([[1.0, np.cos(0.7), -2 * np.sin(0.7)], [0.0, np.sin(0.7), 2 * np.cos(0.7)]])
CANCELING = [[2.0, 0.0, 0.8], [0.0, 1.5, 0.6], [0.8, 0.6, 3.0]]


@placement_claim(
    "3.1-placement-input",
    where="beyond the paper: §3.1, its display's minimizer with the masks where LoRA's code has them",
    says="Masks on A's input have the minimizer of the paper's display, whose masks are on the output.",
    reading="One of its minimizers, where X is not of full column rank and it has many.",
    command=f"{COMMAND} input",
    depends_on=("3.1-minimiser", "3.1-placement-in-code"),
)
def placement_input(cases: Cases) -> Finding:
    """Whether the minimizer under input masks has the output formula's fit, and so minimizes that too.

    Correlations down to 1e-3, and correlated features whose correlations the fit does not meet, or which cancel in it;
    fewer samples than features.
    """

    def draw(rng: np.random.Generator) -> Regression:
        x = np.linalg.qr(rng.standard_normal((4, 2)))[0] * np.exp(rng.uniform(-1.5, 1.5, 2))
        turn = float(rng.choice([0.0, 0.0, 1e-3, 0.1, 1.0]))
        return Regression(
            x @ np.array([[1, turn], [0, 1]]), rng.standard_normal((4, 1)), float(rng.choice([0.3, 0.6, 0.95]))
        )

    features = Regression(design(4, 2, 4.0, cases.rng), cases.rng.standard_normal((4, 2)), PAPER_KEEP)
    judged = cases.judge(
        [
            Case("p = 0.95, a falling spectrum", features, paper=True),
            Case("the same, no dropout", features._replace(keep_prob=1.0)),
            Case("two features correlated, the fit in the third", of_gram(APART, (0, 0, 1), cases.rng)),
            Case("the fit in the third but for a thousandth", of_gram(APART, (1e-3, 0, 1), cases.rng)),
            Case("correlations that cancel in the fit", of_gram(CANCELING, (0.6, -0.8, 0), cases.rng)),
            Case("correlations that do not cancel", of_gram(CANCELING, (0.6, 0.8, 0), cases.rng)),
            Case("fewer samples than features, which cancel", Regression(FEWER_ROWS, np.array([[0.0], [1.0]]), 0.5)),
            Case("but for a thousandth", Regression(FEWER_ROWS, np.array([[1e-3], [1.0]]), 0.5)),
            *cases.draw(draw, 20),
        ],
        measure=lambda one: tikhonov.enumerated_solution(one.x, one.y, one.keep_prob, "input"),
        printed=lambda one, best: (
            relative_error(one.x @ tikhonov.dropout_solution(one.x, one.y, one.keep_prob, "output"), one.x @ best)
            < TOLERANCE
        ),
        corrected=lambda one, best: (
            relative_error(tikhonov.dropout_solution(one.x, one.y, one.keep_prob, "input"), best) < TOLERANCE
        ),
        condition=correlations_cancel,
    )
    return judged.finding(
        conditional="Only if correlations between features cancel in the fit, so in practice no: "
        "input masks solve another regression.",
        evidence=judged.evidence(ROUNDING, lambda one: {"one W": correlations_cancel(one)}, tolerance=TOLERANCE),
        corrected="under input masks W = (S + k diag S)⁺XᵀY, S = XᵀX, k = (1 − p)/p",
        condition="S(diag S)⁺XᵀY = XᵀY, or p = 1; where X has full column rank that is (S − diag S)X⁺Y = 0, and for "
        "every Y that S is diagonal",
        flips_if="a Y with S(diag S)⁺XᵀY ≠ XᵀY for which the placements share a minimizer, or with = and they do not",
    )
