"""§3.1, dropout as an implicit regularizer: a penalty for every X, and whose it is.

Symbols and references as in `s3_1_tikhonov`. Checked by `tests/test_claims_3_1_tikhonov.py`, which plants wrong
formulas.
"""

from typing import Any

import numpy as np

from allora_analysis import tikhonov
from allora_analysis.claims.cases import OF_SIGNAL, PAPER_KEEP, PAPER_NOISE, Case, Cases, relative_error
from allora_analysis.claims.claim import Finding, ranged
from allora_analysis.claims.s3_1_tikhonov import (
    ROUNDING,
    TOLERANCE,
    Regression,
    Weighted,
    design,
    papers_own,
    small_regression,
    tikhonov_claim,
)


def few_inputs(rng: np.random.Generator) -> Regression:
    """At most 9 masked inputs: white X, nearly white, columns at right angles with other norms, and any."""
    n, d = [(4, 2), (3, 3), (3, 2)][rng.integers(3)]
    spread_of, turn = float(rng.choice([1.0, 1.0, 1.001, 5.0])), bool(rng.random() < 0.3)
    x = design(n, d, spread_of, rng)
    x = x @ np.linalg.svd(x)[2].T if turn else x  # S diagonal
    return Regression(x, rng.standard_normal((n, 2)), float(rng.choice([0.3, 0.8, PAPER_KEEP, 1.0])))


def white(rng: np.random.Generator) -> Regression:
    """XᵀX = cI, drop rate 0.05."""
    return Regression(float(rng.uniform(0.3, 3)) * design(4, 2, 1.0, rng), rng.standard_normal((4, 2)), PAPER_KEEP)


def orthogonal(one: Regression) -> bool:
    """Whether XᵀX is diagonal, or p = 1."""
    gram = one.x.T @ one.x
    return one.keep_prob == 1.0 or float(np.abs(gram - np.diag(np.diag(gram))).max()) < TOLERANCE * float(gram.max())


RECOVERS = (
    "The above results recovers known theoretical analysis of Dropout–showing its benefits as an implicit regularizer."
)


@tikhonov_claim(
    "3.1-implicit-penalty",
    says=RECOVERS,
    reading="For every X: on average over masks the loss is the one without dropout plus a penalty, (1 − p)/p times "
    "‖XW‖², above 0 for p < 1, that is not written into the loss, and the best fit is p times that of least squares. "
    "That it is the penalty of the known analysis, whose masks are on the inputs, is row 3.1-implicit-regularizer; "
    "that it benefits, 3.1-sgd-crossover.",
    depends_on=("3.1-expectation", "3.1-minimiser"),
)
def implicit_penalty(cases: Cases) -> Finding:
    """What all masks add to the loss at W and at 2W, and the fit of least squares on all of them."""

    def draw(rng: np.random.Generator) -> Weighted:
        of = small_regression(rng)
        w = rng.standard_normal((of.x.shape[1], of.y.shape[1]))
        return Weighted(of._replace(keep_prob=min(of.keep_prob, 0.9)), w)

    def told(one: Weighted) -> float:
        (x, _, p), w = one
        return (1 - p) / p * float(np.sum((x @ w) ** 2))

    def added(one: Weighted, w: np.ndarray) -> float:
        (x, y, p), _ = one
        return tikhonov.enumerated_loss(x, y, w, p, "output") - float(np.sum((y - x @ w) ** 2))

    def measure(one: Weighted) -> dict[str, Any]:
        (x, y, p), w = one
        best = x @ tikhonov.enumerated_solution(x, y, p, "output")
        return {"added at W and 2W": [added(one, w), added(one, 2 * w)], "best fit": best}

    def penalty(one: Weighted, seen: dict[str, Any]) -> bool:
        (x, y, p), _ = one
        shrunk = relative_error(p * x @ np.linalg.pinv(x) @ y, seen["best fit"])
        added_as_told = relative_error([told(one), 4 * told(one)], seen["added at W and 2W"])
        return told(one) > 0 and added_as_told < TOLERANCE and shrunk < TOLERANCE

    (paper,) = papers_own(cases.rng)
    own = Case(paper.name, Weighted(paper.inputs, cases.rng.standard_normal((2, 2))), True)
    judged = cases.judge([own, *cases.draw(draw, 16)], measure, penalty)
    return judged.finding(
        holds="Yes: on average masks add a penalty, (1 − p)/p times ‖XW‖², whatever X.",
        evidence=judged.evidence(
            ROUNDING,
            lambda one: [told(one), 4 * told(one)],
            shown=lambda one, seen: seen["added at W and 2W"],
            tolerance=TOLERANCE,
        ),
        flips_if="an X and a W with XW ≠ 0 at which the average over masks adds nothing, or a best fit not p times",
    )


@tikhonov_claim(
    "3.1-implicit-regularizer",
    says=RECOVERS,
    reading="A less kind reading (kinder: 3.1-implicit-penalty): of any X it is the regularizer of the known analysis, "
    "Wager et al.'s (row 3.1-normalised-inputs), which has masks on the inputs: those and masks on the output have one "
    "minimizer, whatever Y (for one Y it is row 3.1-placement-input). Of white X alone, which the sentences before are "
    "about, it is true (draws here; that ridge then has the same minimizer is row 3.1-equal-spectrum).",
    depends_on=("3.1-minimiser", "3.1-normalised-inputs", "3.1-implicit-penalty"),
)
def implicit_regularizer(cases: Cases) -> Finding:
    """The minimizers over all masks of inputs and of outputs."""
    places = ("output", "input")

    def of_masks(one: Regression) -> dict[str, np.ndarray]:
        return {place: tikhonov.enumerated_solution(*one, place) for place in places}

    def of_formulas(one: Regression) -> dict[str, np.ndarray]:
        return {place: tikhonov.dropout_solution(*one, place) for place in places}

    def apart() -> float:
        x = design(256, 64, 4.0, cases.rng)
        signal = x @ cases.rng.standard_normal((64, 4))
        one = Regression(x, signal + PAPER_NOISE * np.std(signal) * cases.rng.standard_normal(signal.shape), PAPER_KEEP)
        return 100 * relative_error(*(x @ formula for formula in of_formulas(one).values()))

    judged = cases.judge(
        [*papers_own(cases.rng), *cases.draw(white, 2, "white X"), *cases.draw(few_inputs, 24)],
        measure=of_masks,
        printed=lambda one, seen: relative_error(*(seen[place] for place in places)) < TOLERANCE,
        corrected=lambda one, seen: (
            max(relative_error(formula, seen[place]) for place, formula in of_formulas(one).items()) < TOLERANCE
        ),
        condition=orthogonal,
    )
    return judged.finding(
        conditional="Yes for white X (§3.1's example), other orthogonal inputs too; in practice no: masks on output "
        "and input differ.",
        evidence=judged.evidence(ROUNDING, of_formulas, tolerance=TOLERANCE),
        size=ranged(
            [apart() for _ in range(20)],
            "% of the fit's largest entry",
            "how far the fits XW of masked outputs and inputs are apart at drop rate 0.05, twenty draws: 256 rows, 64 "
            "inputs, four outputs, singular values even in their logarithm, condition number 4, true weights standard "
            f"normal, noise {OF_SIGNAL}",
        ),
        corrected="masks on the output shrink every direction alike, W = pX⁺Y; on the inputs W = (S + k diag S)⁻¹XᵀY, "
        "ridge on columns of norm 1: each a regularizer, the same one for diagonal S",
        condition="S = XᵀX is diagonal, or p = 1; of other X for almost no Y",
        flips_if="an X of orthogonal columns on which the two differ, or another on which they agree",
    )
