"""§3.1, what dropout minimizes on expectation, and when that is Tikhonov's regularization.

Masks V on the output, entries 0 or 1/p, p the keep probability; k = (1 − p)/p; X⁺ the pseudo-inverse. Judged by least
squares on the enumeration of all masks. Checked by `tests/test_claims_3_1_tikhonov.py`, which plants wrong formulas.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from allora_analysis import tikhonov
from allora_analysis.claims.cases import PAPER_KEEP, Case, Cases, log_uniform, relative_error
from allora_analysis.claims.claim import Finding, claim, ranged
from allora_analysis.tikhonov.study import Problems

tikhonov_claim = functools.partial(
    claim,
    where="§3.1, the paragraph after the first display",
    command="python -m allora_analysis.tikhonov",
    test="tests/test_tikhonov.py, tests/test_tikhonov_ridge.py",
)
TOLERANCE = 1e-9
ROUNDING = "float64 rounding: sums over at most 2^9 masks and least squares on designs of condition number below 100"
DISPLAY = "§3.1, the display before the bound"


class Regression(NamedTuple):
    """X (N×D), Y (N×C) and the keep probability p."""

    x: np.ndarray
    y: np.ndarray
    keep_prob: float


def design(n: int, d: int, spread: float, rng: np.random.Generator) -> np.ndarray:
    """X of full rank with singular values from √N down to √N/spread, evenly in their logarithm."""
    rank = min(n, d)
    left, right = (np.linalg.qr(rng.standard_normal((size, rank)))[0] for size in (n, d))
    return (left * (np.sqrt(n) * np.geomspace(1, 1 / spread, rank))) @ right.T


def small_regression(rng: np.random.Generator) -> Regression:
    """A regression of at most 9 masked entries, of any shape, p from 0.1 to 1."""
    c = int(rng.integers(1, 4))
    n, d = int(rng.integers(2, 9 // c + 1)), int(rng.integers(1, 5))
    return Regression(design(n, d, 5.0, rng), rng.standard_normal((n, c)), float(rng.choice([0.1, 0.6, 0.9, 1.0])))


def papers_own(rng: np.random.Generator) -> list[Case]:
    """Several outputs, drop rate 0.05, a spectrum that falls; as large as the enumeration of masks allows."""
    one = Regression(design(4, 2, 4.0, rng), rng.standard_normal((4, 2)), PAPER_KEEP)
    return [Case("p = 0.95, a falling spectrum", one, paper=True)]


def _as_printed(formula: Callable[[], np.ndarray]) -> np.ndarray | None:
    # None where the shapes do not match.
    try:
        return formula()
    except ValueError:
        return None


def _error(value: np.ndarray | None, reference: np.ndarray) -> float:
    return float("inf") if value is None else relative_error(value, reference)


def on_both_sides(
    rng: np.random.Generator,
    draw: Callable[[np.random.Generator], Any],
    ratio: Callable[[Any], float],
    n: int,
    margin: float = 1.05,
) -> list[Case]:
    """Cases near a condition's boundary: n with a ratio from 1/2 to 1/margin and n with one from margin to 2."""
    kept: dict[bool, list[Any]] = {False: [], True: []}
    for _ in range(2_000):
        one = draw(rng)
        value = ratio(one)
        if 0.5 <= value <= 2 and max(value, 1 / value) >= margin and len(kept[value > 1]) < n:
            kept[value > 1].append(one)
        if all(len(those) == n for those in kept.values()):
            break
    sides = {False: "below the boundary", True: "above the boundary"}
    return [Case(f"{sides[side]} {i + 1}", one) for side, those in kept.items() for i, one in enumerate(those)]


class Weighted(NamedTuple):
    """A regression and the weights W at which its loss is asked."""

    of: Regression
    w: np.ndarray


@tikhonov_claim(
    "3.1-expectation",
    where=DISPLAY,
    says="min_W E[‖Y − (XW) ⊙ V‖²_F] = … = min_W ‖Y‖²_F − 2Tr(Y(XW)ᵀ) + Tr((XW)ᵀ(XW))/p",
    reading="The two sides are one function of W, so that their minima are one too.",
)
def expectation(cases: Cases) -> Finding:
    """The display's last line, and `expected_loss`, against the sum over all masks."""

    def weighted(one: Regression, rng: np.random.Generator) -> Weighted:
        return Weighted(one, rng.standard_normal((one.x.shape[1], one.y.shape[1])))

    def display(one: Weighted) -> float:
        (x, y, p), w = one
        z = x @ w
        return float(np.sum(y**2) - 2 * np.trace(y @ z.T) + np.trace(z.T @ z) / p)

    def both(one: Weighted, seen: float) -> bool:
        told = [display(one), tikhonov.expected_loss(one.of.x, one.of.y, one.w, one.of.keep_prob, "output")]
        return relative_error(told, [seen] * 2) < TOLERANCE

    own = [Case(case.name, weighted(case.inputs, cases.rng), True) for case in papers_own(cases.rng)]
    judged = cases.judge(
        own + cases.draw(lambda rng: weighted(small_regression(rng), rng), 16),
        measure=lambda one: tikhonov.enumerated_loss(one.of.x, one.of.y, one.w, one.of.keep_prob, "output"),
        printed=both,
    )
    return judged.finding(
        holds="Yes, exactly: on expectation masks add (1 − p)/p times ‖XW‖².",
        evidence=judged.evidence(ROUNDING, display, tolerance=TOLERANCE),
        flips_if="weights at which the sum over all masks is another number",
    )


@tikhonov_claim("3.1-minimiser", says="which is solved for W = p(XᵀX)⁻¹YᵀX", depends_on=("3.1-expectation",))
def minimiser(cases: Cases) -> Finding:
    """p(XᵀX)⁻¹YᵀX as printed, and p·X⁺Y, against least squares on all masks; rank-deficient X included."""

    def printed(one: Regression, best: np.ndarray) -> bool:
        x, y, p = one
        full = np.linalg.matrix_rank(x) == x.shape[1]
        value = _as_printed(lambda: p * np.linalg.inv(x.T @ x) @ y.T @ x) if full else None
        return _error(value, best) < TOLERANCE

    deficient = Regression(np.outer([1.0, -2.0, 0.5], [1.0, 2.0]), cases.rng.standard_normal((3, 2)), 0.6)
    judged = cases.judge(
        [*papers_own(cases.rng), Case("X of rank 1", deficient), *cases.draw(small_regression, 16)],
        measure=lambda one: tikhonov.enumerated_solution(one.x, one.y, one.keep_prob, "output"),
        printed=printed,
        corrected=lambda one, best: (
            relative_error(tikhonov.dropout_solution(one.x, one.y, one.keep_prob, "output"), best) < TOLERANCE
        ),
    )
    return judged.finding(
        holds_corrected="Not as printed, a misprint: YᵀX should be XᵀY; W is p times least squares.",
        evidence=judged.evidence(
            ROUNDING, lambda one: tikhonov.dropout_solution(one.x, one.y, one.keep_prob, "output"), tolerance=TOLERANCE
        ),
        corrected="W = p(XᵀX)⁻¹XᵀY; of minimum norm where X is rank-deficient: W = pX⁺Y",
        flips_if="a regression on which p·X⁺Y does not minimize the sum over all masks",
    )


class Ridge(NamedTuple):
    """X, Y and the penalty λ."""

    x: np.ndarray
    y: np.ndarray
    penalty: float


@tikhonov_claim(
    "3.1-tikhonov-solution",
    says="the usual Tikhonov regularization that produces W = (XᵀX + λI)⁻¹YᵀX",
    same_fault_as="3.1-minimiser",
)
def tikhonov_solution(cases: Cases) -> Finding:
    """(XᵀX + λI)⁻¹YᵀX as printed, and `ridge_solution`, against least squares on [X; √λI], [Y; 0]."""

    def least_squares(one: Ridge) -> np.ndarray:
        (x, y, penalty), d = one, one.x.shape[1]
        stacked = np.vstack([x, np.sqrt(penalty) * np.eye(d)]), np.vstack([y, np.zeros((d, y.shape[1]))])
        return np.linalg.lstsq(*stacked, rcond=None)[0]

    def as_printed(one: Ridge) -> np.ndarray | None:
        gram = one.x.T @ one.x + one.penalty * np.eye(one.x.shape[1])
        return _as_printed(lambda: np.linalg.inv(gram) @ one.y.T @ one.x)

    own = [Case("λ = 0.05", Ridge(*papers_own(cases.rng)[0].inputs[:2], 0.05), True)]
    judged = cases.judge(
        own + cases.draw(lambda rng: Ridge(*small_regression(rng)[:2], log_uniform(rng, -3, 2)), 16),
        measure=least_squares,
        printed=lambda one, best: _error(as_printed(one), best) < TOLERANCE,
        corrected=lambda one, best: relative_error(tikhonov.ridge_solution(*one), best) < TOLERANCE,
    )
    return judged.finding(
        holds_corrected="Not as printed, a misprint: YᵀX should be XᵀY, here and everywhere in this paragraph.",
        evidence=judged.evidence(ROUNDING, lambda one: tikhonov.ridge_solution(*one), tolerance=TOLERANCE),
        corrected="W = (XᵀX + λI)⁻¹XᵀY",
        flips_if="a regression on which the corrected W is not ridge's minimizer",
    )


class Equal(NamedTuple):
    """X with XᵀX = cI, Y, and λ."""

    x: np.ndarray
    y: np.ndarray
    c: float
    penalty: float

    @property
    def share(self) -> float:
        """c/(c + λ)."""
        return self.c / (self.c + self.penalty)


def equal_spectrum_draw(rng: np.random.Generator) -> Equal:
    """N, D, C up to 8, 4, 4; c and λ over several powers of ten."""
    d, c, size = int(rng.integers(1, 5)), int(rng.integers(1, 5)), float(10 ** rng.uniform(-2, 2))
    n = d + int(rng.integers(0, 5))
    x = np.sqrt(size) * np.linalg.qr(rng.standard_normal((n, d)))[0]
    return Equal(x, rng.standard_normal((n, c)), size, size * float(10 ** rng.uniform(-2, 1)))


@tikhonov_claim(
    "3.1-equal-spectrum",
    says="whenever the eigenvalues of XᵀX are all identical to a positive constant c, e.g. when X is whitened, then "
    "W = c/(c + λ)·(XᵀX)⁻¹YᵀX hence recovering the dropout solution",
    reading="Of white X alone, so at no setting of the paper's; of others row 3.1-general-spectrum.",
    depends_on=("3.1-minimiser", "3.1-tikhonov-solution"),
    same_fault_as="3.1-minimiser",
)
def equal_spectrum(cases: Cases) -> Finding:
    """XᵀX = cI: ridge, dropout at p = c/(c + λ), and c/(c + λ) times (XᵀX)⁻¹YᵀX as printed or least squares."""

    def as_printed(one: Equal) -> np.ndarray | None:
        return _as_printed(lambda: one.share * np.linalg.inv(one.x.T @ one.x) @ one.y.T @ one.x)

    def corrected(one: Equal, ridge: np.ndarray) -> bool:
        dropout = tikhonov.dropout_solution(one.x, one.y, one.share, "output")
        least = np.linalg.lstsq(one.x, one.y, rcond=None)[0]
        return max(relative_error(dropout, ridge), relative_error(one.share * least, ridge)) < TOLERANCE

    judged = cases.judge(
        cases.draw(equal_spectrum_draw, 20),
        measure=lambda one: tikhonov.ridge_solution(one.x, one.y, one.penalty),
        printed=lambda one, ridge: _error(as_printed(one), ridge) < TOLERANCE,
        corrected=corrected,
    )
    return judged.finding(
        holds_corrected="Not as printed, a misprint: with XᵀY for YᵀX ridge and dropout agree for white X.",
        evidence=judged.evidence(
            ROUNDING, lambda one: tikhonov.dropout_solution(one.x, one.y, one.share, "output"), tolerance=TOLERANCE
        ),
        corrected="W = c/(c + λ)·(XᵀX)⁻¹XᵀY, which is ridge's solution and that of dropout with p = c/(c + λ)",
        flips_if="an X with XᵀX = cI on which ridge and dropout at p = c/(c + λ) differ",
    )


@tikhonov_claim(
    "3.1-unit-eigenvalue",
    says="Hence we obtain that (assuming c = 1 without loss of generality) p = 1/(1 + λ)",
    reading="Dividing X by √c makes c = 1 and changes neither dropout's fit nor p; λ is meant in these units. Of white "
    "X alone, so at no setting of the paper's.",
    depends_on=("3.1-equal-spectrum",),
)
def unit_eigenvalue(cases: Cases) -> Finding:
    """The nearest ridge, found without knowing c, on X/√c and on X, against λ = (1 − p)/p and c(1 − p)/p."""

    def nearest(one: Equal) -> dict[str, float]:
        scaled = tikhonov.nearest_ridge(one.x / np.sqrt(one.c), one.y, one.share, "output")
        fits = [x @ tikhonov.dropout_solution(x, one.y, one.share, "output") for x in (one.x, one.x / np.sqrt(one.c))]
        return {
            "λ on X/√c": scaled.penalty,
            "its distance": scaled.distance,
            "λ on X": tikhonov.nearest_ridge(one.x, one.y, one.share, "output").penalty,
            "fits differ by": relative_error(*fits),
        }

    judged = cases.judge(
        cases.draw(equal_spectrum_draw, 16),
        measure=nearest,
        printed=lambda one, seen: (
            abs(seen["λ on X/√c"] / (1 / one.share - 1) - 1) < TOLERANCE
            and abs(seen["λ on X"] / (one.c * (1 / one.share - 1)) - 1) < TOLERANCE
            and max(seen["its distance"], seen["fits differ by"]) < TOLERANCE
        ),
    )
    return judged.finding(
        holds="Yes, in units in which c = 1; in X's own units the penalty is c(1 − p)/p.",
        evidence=judged.evidence(ROUNDING, lambda one: 1 / one.share - 1, tolerance=TOLERANCE),
        flips_if="an X with XᵀX = I whose nearest ridge has another λ, or fits that move with X's scale",
    )


def spread(condition: float, keep_prob: float, rng: np.random.Generator) -> Regression:
    """A regression on an X of this condition number, with singular values even in their logarithm."""
    return Regression(*Problems(40, 6, 3, 1.0, seed=int(rng.integers(2**31))).at(condition), keep_prob)


def any_spread(rng: np.random.Generator) -> Regression:
    """One whose X has a condition number of 1 to 100."""
    return spread(float(rng.choice([1.0, 1.0, 1.001, 1.1, 10.0, 100.0])), float(rng.choice([0.5, 0.7, 0.95])), rng)


def along(of: Regression, directions: Sequence[int], rest: float = 0.0) -> Regression:
    """The same with a Y that lies along some of X's singular directions, and by `rest` along all."""
    u = np.linalg.svd(of.x, full_matrices=False)[0]
    chosen = u[:, list(directions)]
    return of._replace(y=chosen @ chosen.T @ of.y + rest * of.y)


def two_values(of: Regression) -> Regression:
    """The same with X's singular values 1 and 2 by turns."""
    u, s, v = np.linalg.svd(of.x, full_matrices=False)
    return of._replace(x=(u * (1.0 + np.arange(len(s)) % 2)) @ v)


def one_singular_value(one: Regression) -> bool:
    """Whether the non-zero singular values of X along whose directions Y has a part are all equal, or p = 1.

    There dropout's fit is pu_iu_iᵀY and ridge's s_i²/(s_i² + λ)u_iu_iᵀY: one λ makes them equal for one s_i only.
    """
    u, s, _ = np.linalg.svd(one.x, full_matrices=False)
    parts = np.linalg.norm(u.T @ one.y, axis=1)
    needed = s[(parts > TOLERANCE * np.linalg.norm(one.y)) & (s > TOLERANCE * s[0])]
    return one.keep_prob == 1.0 or not needed.size or float(np.ptp(needed)) < TOLERANCE * float(s[0])


@tikhonov_claim(
    "3.1-general-spectrum",
    where="beyond the paper: §3.1, of an X that is not white",
    says="Dropout is Tikhonov's regularization for some λ, whatever the spectrum of X.",
    depends_on=("3.1-minimiser", "3.1-tikhonov-solution"),
)
def general_spectrum(cases: Cases) -> Finding:
    """The distance to the nearest ridge as X's singular values spread up to a hundredfold, for Y along few and all."""

    def distance(one: Regression) -> dict[str, float]:
        found = tikhonov.nearest_ridge(one.x, one.y, one.keep_prob, "output")
        fit = one.x @ tikhonov.dropout_solution(one.x, one.y, one.keep_prob, "output")
        gap = np.linalg.norm(fit - one.x @ tikhonov.ridge_solution(one.x, one.y, found.penalty)) / np.linalg.norm(fit)
        return {"nearest λ": found.penalty, "distance": float(gap), "distance told": found.distance}

    own = cases.draw(lambda rng: spread(10.0, PAPER_KEEP, rng), 8, "p = 0.95, condition number 10, data", paper=True)
    wide = spread(10.0, PAPER_KEEP, cases.rng)
    built = [
        Case("condition number 10, no dropout", wide._replace(keep_prob=1.0)),
        Case("condition number 10, Y along one singular direction", along(wide, [2])),
        Case("condition number 10, Y along two", along(wide, [2, 3])),
        Case("condition number 10, Y along one but for a thousandth", along(wide, [2], 1e-3)),
        Case("two singular values, Y along those of one", two_values(along(wide, [0, 2]))),
        Case("two singular values, Y along both", two_values(along(wide, [0, 1]))),
    ]
    judged = cases.judge(
        [*own, *built, *cases.draw(any_spread, 24)],
        measure=distance,
        printed=lambda one, seen: seen["distance"] < TOLERANCE,
        corrected=lambda one, seen: abs(seen["distance"] - seen["distance told"]) < TOLERANCE,
        condition=one_singular_value,
    )
    return judged.finding(
        conditional="Only for white X, as §3.1 has it, or the like: ridge shrinks weak directions more, dropout all "
        "alike.",
        evidence=judged.evidence(ROUNDING, lambda one: {"a ridge": one_singular_value(one)}, tolerance=TOLERANCE),
        size=ranged(
            [100 * seen["distance"] for seen in judged.own],
            "% of its norm",
            "how far dropout's fit XW is from the nearest ridge's, masks on the output, drop rate 0.05, eight draws: "
            "40 rows, 6 inputs, 3 outputs, singular values even in their logarithm, condition number 10, X's entries "
            "of mean square 1, true weights and noise standard normal",
        ),
        condition="the non-zero singular values s_i of X = UΣVᵀ with u_iᵀY ≠ 0 are all equal (for every Y: all "
        "non-zero ones, as of white X), or p = 1",
        flips_if="a Y with parts along unequal singular values whose fit under dropout is some ridge's, or one along "
        "equal ones whose fit is not",
    )
