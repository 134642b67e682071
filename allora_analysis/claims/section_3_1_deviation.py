"""§3.1 and Appendix A: how far an average over masks is from its expectation, and what the proof says on the way.

Evidence: sums over all masks. Checked by `tests/test_claims_deviation.py`, which plants wrong formulas.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from allora_analysis import deviation
from allora_analysis.claims.ledger import Claim, Evidence, Finding, relative_error, settle
from allora_analysis.claims.section_3_1_from_start import COMMAND, KEEP_PROBS, ROWS, SEED, TEST, problem

DISPLAY, AFTER = "§3.1, the display of the bound; Appendix A", "§3.1, the paragraph after the bound"
ROUNDING = "float64 rounding: sums over at most 2^12 outcomes"
FEW, MANY, MOST = 0.05, 4, 0.75  # drops or keeps a mask: rare, several; what "most" of a deviation is at least
DOMINANT = 30.0  # one input over the others, at 80 entries


def _losses(x: np.ndarray, y: np.ndarray, w: np.ndarray, keep_prob: float) -> tuple[np.ndarray, np.ndarray]:
    kept = np.array(list(itertools.product((0, 1), repeat=y.size)), dtype=float)
    values = np.sum((y.ravel() - (x @ w).ravel() * kept / keep_prob) ** 2, axis=1)
    number = kept.sum(axis=1)
    return values, keep_prob**number * (1 - keep_prob) ** (y.size - number)


def _averages(x: np.ndarray, y: np.ndarray, w: np.ndarray, keep_prob: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    losses, chances = _losses(x, y, w, keep_prob)
    total, weight = losses, chances
    for _ in range(n - 1):
        total, weight = np.add.outer(total, losses).ravel(), np.multiply.outer(weight, chances).ravel()
    return total / n, weight


def check_bound() -> Finding:
    """Std[L]/√n against the deviation summed over every sequence of n masks; and the case that attains it.

    Returns:
        The finding.
    """
    cases = {
        f"{shape[0] * shape[2]} entries, p = {p}, n = {n}": (*problem(*shape), p, n)
        for (shape, n), p in itertools.product((((2, 1, 1), 6), ((3, 2, 1), 4), ((2, 2, 2), 3)), KEEP_PROBS)
    }
    cases["one entry, p = 0.5, n = 1"] = (np.ones((1, 1)), np.ones((1, 1)), np.full((1, 1), 3.0), 0.5, 1)
    printed, predicted, measured, errors = {}, {}, {}, []
    for case, arguments in cases.items():
        averages, weight = _averages(*arguments)
        truth = float(weight @ np.abs(averages - weight @ averages))
        exact = deviation.exact_deviation(*arguments)
        predicted[f"{case}: bound"], measured[f"{case}: deviation"] = exact.bound, truth
        second = math.sqrt(max(float(weight @ (averages - weight @ averages) ** 2), 0.0))
        errors += [relative_error(exact.value, truth), relative_error(exact.bound, second)]
        printed[case] = truth <= exact.bound * (1 + 1e-12) and max(errors[-2:]) < 1e-10
    return Finding(settle(printed), Evidence(predicted, measured, ROUNDING, max(errors), 1e-10, seed=SEED))


def check_proof() -> Finding:
    """The proof's line with (1/N²)Σ E[L_n] under the root, and the line that should stand there.

    Returns:
        The finding.
    """
    printed, corrected, predicted, measured, errors = {}, {}, {}, {}, []
    for (shape, n), p in itertools.product((((2, 1, 1), 1), ((2, 1, 1), 5), ((2, 2, 2), 3)), KEEP_PROBS):
        case = f"{shape[0] * shape[2]} entries, p = {p}, N = {n}"
        arguments = (*problem(*shape), p)
        averages, weight = _averages(*arguments, n)
        mean, std = deviation.loss_moments(*arguments)
        truth = measured[f"{case}: mean square"] = float(weight @ averages**2)
        line = predicted[f"{case}: mean square, printed"] = mean / n  # (1/N²)·N·E[L]
        right = (std**2 + mean**2) / n + (1 - 1 / n) * mean**2  # the fourth moment, and the cross terms
        printed[case] = relative_error(line, truth) < 1e-9
        errors.append(relative_error(right, truth))
        corrected[case] = errors[-1] < 1e-9
    text = "E[((1/N)Σ Lₙ)²] = (1/N)E[L²] + (1 − 1/N)(E L)², with L = ‖Y − (XW) ⊙ V‖²_F: the printed line has E[L] for "
    text += "E[L²] and drops the cross terms. The line after it and the bound are right."
    evidence = Evidence(predicted, measured, ROUNDING, max(errors), 1e-9, seed=SEED)
    return Finding(settle(printed, corrected), evidence, text)


def check_order() -> Finding:
    """Exact deviation over the bound for growing n: within Goldstein's (2010) bound of √(2/π), for the mean of |·|.

    Returns:
        The finding.
    """
    printed, predicted, measured, errors = {}, {}, {}, []
    for shape, p in itertools.product(((1, 1, 1), (4, 2, 2)), KEEP_PROBS):
        x, y, w = problem(*shape)
        delta = x @ w / p * (x @ w / p - 2 * y)
        third = float(np.sum(np.abs(delta) ** 3)) * p * (1 - p) * (p**2 + (1 - p) ** 2)
        std = deviation.loss_moments(x, y, w, p)[1]
        for n in (10**3, 10**6):
            case = f"{delta.size} entries, p = {p}, n = {n:,}"
            predicted[case], measured[case] = math.sqrt(2 / math.pi), deviation.ratio(x, y, w, p, n)
            errors.append(abs(measured[case] - predicted[case]) / (third / std**3 / math.sqrt(n)))
            printed[case] = errors[-1] <= 1
    source = (
        "distance of a standardised sum from the normal law (Goldstein 2010): Σ E|X|³ / Std³, the unit of the error"
    )
    return Finding(settle(printed), Evidence(predicted, measured, source, max(errors), 1.0, seed=SEED))


def check_large_n() -> Finding:
    """Whether four masks leave more than three quarters of one mask's deviation: where drops or keeps are rare.

    Returns:
        The finding.
    """
    printed, corrected, predicted, measured, between, several = {}, {}, {}, {}, [], []
    shapes, keep_probs = ((1, 1, 1), (4, 2, 2), (8, 4, 1), (8, 4, 2)), (1e-4, 0.3, 0.5, 0.95, 0.98, 0.9999)
    cases = {
        f"{shape[0] * shape[2]} entries, p = {p}, data {seed}": ((*problem(*shape, seed), p), shape[0] * shape[2])
        for shape, p, seed in itertools.product(shapes, keep_probs, range(SEED, SEED + 5))
    }
    ones = np.ones((80, 1))
    ones[0] = DOMINANT
    cases |= {
        f"80 entries, one of them dominant, p = {p}": ((ones, 0 * ones, np.ones((1, 1)), p), 1) for p in (0.5, 0.96)
    }
    for case, (arguments, counting) in cases.items():
        rare = counting * min(arguments[-1], 1 - arguments[-1])
        four, one = (deviation.mean_absolute_deviation(*arguments, n) for n in (4, 1))
        share = four / one
        predicted[f"{case}: drops or keeps a mask"], measured[f"{case}: share left after 4 masks"] = rare, share
        printed[case] = share > MOST
        if rare > FEW:
            (several if rare >= MANY else between).append(share)
        corrected[case] = printed[case] if rare <= FEW else rare < MANY or not printed[case]
    text = (
        f"(most: above {MOST}) with Gaussian X, Y and W, where a mask drops at most {FEW} of the entries of XW on "
        f"average, or keeps so few (expected counts, not shares), and nowhere with {MANY} or more dropped and {MANY} "
        f"or more kept: there four masks leave {min(several):.2f} to {max(several):.2f} of one mask's deviation (1/√N: "
        f"0.5), and in between, where it depends on the data, {min(between):.2f} to {max(between):.2f}. An entry that "
        "dominates the others counts alone, however many they are"
    )
    source = f"with {MANY} drops and keeps or more, the largest share left by four masks; above {MOST} it is most"
    evidence = Evidence(predicted, measured, source, max(several), MOST, seed=SEED)
    return Finding(settle(printed, corrected), evidence, text)


def claims() -> tuple[Claim, ...]:
    """The section's statements in the paper's order.

    Returns:
        The claims.
    """
    rows = (
        (
            "3.1-bound",
            DISPLAY,
            "E|(1/N)Σ‖Y − (XW) ⊙ Vₙ‖²_F − E‖Y − (XW) ⊙ V‖²_F| ≤ Std[‖Y − (XW) ⊙ V‖²_F]/√N",
            check_bound,
        ),
        (
            "3.1-bound-proof",
            "Appendix A, the line before the last but one",
            "E[((1/N)Σ‖Y − (XW) ⊙ Vₙ‖²_F)²] = (1/N²)Σ E[‖Y − (XW) ⊙ Vₙ‖²_F] (under the root)",
            check_proof,
        ),
        (
            "3.1-bound-order",
            DISPLAY,
            'a first naive bound on "how far off" (read: right in order, exact / bound tending to a constant, √(2/π))',
            check_order,
        ),
        (
            "3.1-benefit-large-n",
            AFTER,
            "the benefit of N, in our case the number of training steps, only appears for large N (read: few masks "
            "leave most of one mask's deviation)",
            check_large_n,
        ),
    )
    return tuple(Claim(*row, COMMAND, TEST) for row in (*rows, *ROWS))
