"""§3.1: the expected dropout loss, its minimiser and its equivalence with Tikhonov regularisation.

Each check compares the printed formula, evaluated as printed, and the toolkit's closed form with least squares on the
enumeration of all masks. Checked by `tests/test_claims_tikhonov.py`, which plants wrong formulas.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from allora_analysis import tikhonov
from allora_analysis.claims.ledger import Claim, Evidence, Finding, relative_error, settle
from allora_analysis.claims.section_3_1_spectrum import check_general_spectrum

TOLERANCE = 1e-9
ROUNDING = "float64 rounding: sums over at most 2^9 masks and least squares on designs of condition number below 100"
COMMAND = "python -m allora_analysis.tikhonov"
TEST = "tests/test_tikhonov.py, tests/test_tikhonov_ridge.py"
SEED = 31


def _problem(n: int, d: int, c: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng([SEED, n, d, c])
    return generator.standard_normal((n, d)), generator.standard_normal((n, c))


def _orthonormal(n: int, d: int) -> np.ndarray:
    return np.linalg.qr(_problem(n, d, 1)[0])[0]


def _as_printed(formula: Callable[[], np.ndarray]) -> np.ndarray | None:
    # None where the shapes do not match.
    try:
        return formula()
    except ValueError:
        return None


def _error(value: np.ndarray | None, reference: np.ndarray) -> float:
    return float("inf") if value is None else relative_error(value, reference)


def check_expectation() -> Finding:
    """The display's last line, and `expected_loss`, against the sum over all masks.

    Returns:
        The finding.
    """
    printed, measured, predicted = {}, {}, {}
    for shape in ((4, 2, 2), (2, 3, 4), (3, 3, 3)):
        x, y = _problem(*shape)
        w = _problem(shape[1], shape[2], 1)[0]
        for p in (0.1, 0.5, 0.9, 1.0):
            case = f"N, D, C = {shape}, p = {p}"
            z = x @ w
            display = np.sum(y**2) - 2 * np.trace(y @ z.T) + np.trace(z.T @ z) / p
            predicted[case] = tikhonov.expected_loss(x, y, w, p, "output")
            measured[case] = tikhonov.enumerated_loss(x, y, w, p, "output")
            both = [display, predicted[case]]
            printed[case] = relative_error(both, [measured[case]] * 2) < TOLERANCE
    error = relative_error(list(measured.values()), list(predicted.values()))
    return Finding(settle(printed), Evidence(predicted, measured, ROUNDING, error, TOLERANCE, seed=SEED))


def check_minimiser() -> Finding:
    """p(XᵀX)⁻¹YᵀX as printed, and p·X⁺Y, against least squares on all masks.

    Returns:
        The finding.
    """
    p = 0.6
    printed, corrected, predicted, measured, errors = {}, {}, {}, {}, []
    cases = {f"N, D, C = {shape}": _problem(*shape) for shape in ((5, 2, 1), (4, 3, 2), (4, 2, 2), (3, 3, 3))}
    deficient = np.outer([1.0, -2.0, 0.5], [1.0, 2.0])
    others = {"rank-deficient X": (deficient, _problem(3, 1, 2)[1]), "N < D": _problem(2, 3, 2)}
    for case, (x, y) in (cases | others).items():
        best = tikhonov.enumerated_solution(x, y, p, "output")
        found = tikhonov.dropout_solution(x, y, p, "output")
        predicted[f"{case}: least loss"] = tikhonov.expected_loss(x, y, found, p, "output")
        measured[f"{case}: least loss"] = tikhonov.enumerated_loss(x, y, best, p, "output")
        errors.append(relative_error(found, best))
        corrected[case] = errors[-1] < TOLERANCE
        if case in cases:
            value = _as_printed(lambda x=x, y=y: p * np.linalg.inv(x.T @ x) @ y.T @ x)
            printed[case] = _error(value, best) < TOLERANCE
            # null: the printed product does not conform
            loss = None if value is None else tikhonov.enumerated_loss(x, y, value, p, "output")
            measured[f"{case}: loss of the printed W"] = loss
    text = (
        "W = p(XᵀX)⁻¹XᵀY; of minimum norm for rank-deficient X: W = pX⁺Y. As printed, YᵀX conforms only for C = D, and "
        "is then the minimiser only if XᵀY is symmetric"
    )
    evidence = Evidence(predicted, measured, ROUNDING, max(errors), TOLERANCE, seed=SEED)
    return Finding(settle(printed, corrected), evidence, text)


def check_tikhonov_solution() -> Finding:
    """(XᵀX + λI)⁻¹YᵀX as printed, and `ridge_solution`, against least squares on [X; √λI], [Y; 0].

    Returns:
        The finding.
    """
    printed, corrected, predicted, measured, errors = {}, {}, {}, {}, []
    for shape in ((6, 3, 2), (2, 4, 1), (5, 3, 3), (3, 3, 3)):
        x, y = _problem(*shape)
        d, c = shape[1:]
        for penalty in (0.1, 2.0):
            case = f"N, D, C = {shape}, λ = {penalty}"
            design, target = np.vstack([x, np.sqrt(penalty) * np.eye(d)]), np.vstack([y, np.zeros((d, c))])
            best = np.linalg.lstsq(design, target, rcond=None)[0]
            gram = x.T @ x + penalty * np.eye(d)
            value = _as_printed(lambda gram=gram, x=x, y=y: np.linalg.inv(gram) @ y.T @ x)
            printed[case] = _error(value, best) < TOLERANCE
            found = tikhonov.ridge_solution(x, y, penalty)
            errors.append(relative_error(found, best))
            corrected[case] = errors[-1] < TOLERANCE
            predicted[f"{case}: ‖W‖"], measured[f"{case}: ‖W‖"] = np.linalg.norm(found), np.linalg.norm(best)
            # null: the printed product does not conform
            measured[f"{case}: ‖printed W‖"] = None if value is None else np.linalg.norm(value)
    evidence = Evidence(predicted, measured, ROUNDING, max(errors), TOLERANCE, seed=SEED)
    return Finding(settle(printed, corrected), evidence, "W = (XᵀX + λI)⁻¹XᵀY: the last product is transposed in print")


def check_equal_spectrum() -> Finding:
    """XᵀX = cI: ridge, dropout at p = c/(c + λ), and c/(c + λ) times (XᵀX)⁻¹YᵀX as printed or least squares, are one.

    Returns:
        The finding.
    """
    printed, corrected, predicted, measured = {}, {}, {}, {}
    for c, penalty, outputs in itertools.product((0.25, 1.0, 9.0), (0.1, 1.0, 5.0), (2, 3)):
        x, y = np.sqrt(c) * _orthonormal(5, 3), _problem(5, 3, outputs)[1]
        case, share = f"c = {c}, λ = {penalty}, D = 3, C = {outputs}", c / (c + penalty)
        ridge = tikhonov.ridge_solution(x, y, penalty)
        least_squares = np.linalg.lstsq(x, y, rcond=None)[0]
        dropout = tikhonov.dropout_solution(x, y, share, "output")
        measured[case] = max(relative_error(share * least_squares, ridge), relative_error(dropout, ridge))
        predicted[case] = 0.0
        corrected[case] = measured[case] < TOLERANCE
        # Where the printed product does not conform, there is no W.
        value = _as_printed(lambda x=x, y=y, share=share: share * np.linalg.inv(x.T @ x) @ y.T @ x)
        printed[case] = max(_error(value, ridge), _error(value, dropout)) < TOLERANCE
    evidence = Evidence(predicted, measured, ROUNDING, max(measured.values()), TOLERANCE, seed=SEED)
    text = (
        "W = c/(c + λ)·(XᵀX)⁻¹XᵀY, which is ridge's solution and that of dropout with p = c/(c + λ): the last product "
        "is transposed in print, and right there only for C = D and a symmetric XᵀY"
    )
    return Finding(settle(printed, corrected), evidence, text)


def check_unit_eigenvalue() -> Finding:
    """λ = (1 − p)/p as printed, and λ = kc, against the nearest ridge found without knowing c.

    Returns:
        The finding.
    """
    printed, corrected, predicted, measured = {}, {}, {}, {}
    for c in (0.01, 1.0, 4.0, 64.0):
        x, y = np.sqrt(c) * _orthonormal(6, 3), _problem(6, 3, 2)[1]
        for p in (0.5, 0.9):
            case = f"c = {c}, p = {p}"
            dropout, odds = tikhonov.dropout_solution(x, y, p, "output"), (1 - p) / p
            printed[case] = relative_error(tikhonov.ridge_solution(x, y, odds), dropout) < TOLERANCE
            measured[case] = tikhonov.nearest_ridge(x, y, p, "output").penalty
            predicted[case] = odds * c
            exact = relative_error(tikhonov.ridge_solution(x, y, predicted[case]), dropout) < TOLERANCE
            found = relative_error(measured[case], predicted[case]) < TOLERANCE
            corrected[case] = exact and found and printed[case] == (c == 1.0)
    error = max(relative_error(measured[case], predicted[case]) for case in measured)
    text = "p = c/(c + λ), that is λ = c(1 − p)/p: the penalty moves with c, and p = 1/(1 + λ) is right at c = 1 alone"
    evidence = Evidence(predicted, measured, ROUNDING, error, TOLERANCE, seed=SEED)
    return Finding(settle(printed, corrected), evidence, text)


def claims() -> tuple[Claim, ...]:
    """The section's statements in the paper's order.

    Returns:
        The claims.
    """
    display = "§3.1, the display before the bound"
    after = "§3.1, the paragraph after the first display"
    rows = (
        (
            "3.1-expectation",
            display,
            "E‖Y − (XW) ⊙ V‖²_F = ‖Y‖²_F − 2Tr(Y(XW)ᵀ) + Tr((XW)ᵀ(XW))/p",
            check_expectation,
        ),
        ("3.1-minimiser", after, "which is solved for W = p(XᵀX)⁻¹YᵀX", check_minimiser),
        (
            "3.1-tikhonov-solution",
            after,
            "the usual Tikhonov regularization that produces W = (XᵀX + λI)⁻¹YᵀX",
            check_tikhonov_solution,
        ),
        (
            "3.1-equal-spectrum",
            after,
            "whenever the eigenvalues of XᵀX are all identical to a positive constant c, e.g. when X is whitened, then "
            "W = c/(c + λ)·(XᵀX)⁻¹YᵀX hence recovering the dropout solution",
            check_equal_spectrum,
        ),
        (
            "3.1-unit-eigenvalue",
            after,
            "(assuming c = 1 without loss of generality) p = 1/(1 + λ)",
            check_unit_eigenvalue,
        ),
        (
            "3.1-general-spectrum",
            after,
            "The above results recovers known theoretical analysis of Dropout–showing its benefits as an implicit "
            "regularizer (read: on any X it is Tikhonov's, for some λ)",
            check_general_spectrum,
        ),
    )
    return tuple(Claim(*row, COMMAND, TEST) for row in rows)
