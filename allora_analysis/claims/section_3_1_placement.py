"""§3.1: where the mask acts. The paper's formula masks the output, its prose the latent space, LoRA's code A's input.

Checked by `tests/test_claims_tikhonov.py`, which plants wrong formulas.
"""

from __future__ import annotations

import numpy as np

from allora_analysis import tikhonov
from allora_analysis.claims.ledger import Claim, Evidence, Finding, relative_error, settle
from allora_analysis.tikhonov import masks as mask_law

TOLERANCE = 1e-9
SEARCH_TOLERANCE = 1e-6
ROUNDING = "float64 rounding: sums over at most 2^9 masks and least squares on designs of condition number below 100"
SEARCH = "where L-BFGS on the sum over all masks stops, relative to the loss"
SEED = 313
STARTS = 4


def _gaussian(*shape: int) -> np.ndarray:
    return np.random.default_rng([SEED, *shape]).standard_normal(shape)


def _design(rows: int, columns: int) -> np.ndarray:
    # Correlated columns, and a condition number that no draw can spoil: the search has to come to rest.
    return np.linalg.qr(_gaussian(rows, columns))[0] @ (np.eye(columns) + np.tri(columns))


def check_mask_mean() -> Finding:
    """The mean of every entry over all masks.

    Returns:
        The finding.
    """
    printed, measured = {}, {}
    for p in (0.1, 0.5, 0.9, 1.0):
        masks, probability = mask_law.all_masks(2, 3, p)
        mean = np.tensordot(probability, masks, axes=1)
        measured[f"p = {p}"] = mean
        printed[f"p = {p}"] = relative_error(mean, np.ones((2, 3))) < TOLERANCE
    error = max(relative_error(mean, np.ones((2, 3))) for mean in measured.values())
    evidence = Evidence({"every entry": 1.0}, measured, ROUNDING, error, TOLERANCE)
    return Finding(settle(printed), evidence)


def check_normalised_inputs() -> Finding:
    """Input masks: the minimiser, rescaled by the columns' norms, is ridge with λ = k on the normalised design.

    Returns:
        The finding.
    """
    printed, predicted, measured = {}, {}, {}
    designs = {"N > D": _gaussian(4, 2), "N < D": _gaussian(2, 4), "spread columns": _gaussian(3, 3) * [0.1, 1.0, 8.0]}
    for name, x in designs.items():
        y, norms = _gaussian(len(x), 2), np.linalg.norm(x, axis=0)
        for p in (0.3, 0.8):
            case = f"{name}, p = {p}"
            root = np.sqrt((1 - p) / p)
            design = np.vstack([x / norms, root * np.eye(x.shape[1])])
            target = np.vstack([y, np.zeros((x.shape[1], 2))])
            ridge = np.linalg.lstsq(design, target, rcond=None)[0] / norms[:, None]
            best = tikhonov.enumerated_solution(x, y, p, "input")
            found = tikhonov.dropout_solution(x, y, p, "input")
            measured[case] = max(relative_error(ridge, best), relative_error(found, best))
            predicted[case] = 0.0
            printed[case] = measured[case] < TOLERANCE
    evidence = Evidence(predicted, measured, ROUNDING, max(measured.values()), TOLERANCE, seed=SEED)
    return Finding(settle(printed), evidence)


def check_input_placement() -> Finding:
    """Whether the output formula's minimiser also minimises the loss under input masks, as LoRA draws them.

    Returns:
        The finding.
    """
    orthogonal = np.linalg.qr(_gaussian(4, 2))[0]
    correlated = np.array([[1.0, 1.0], [1.0, 2.0], [0.0, 1.0], [-1.0, 0.5]])
    cases = {
        "whitened features": (2.0 * orthogonal, 0.6),
        "uncorrelated features of unequal norm": (orthogonal * [1.0, 5.0], 0.6),
        "correlated features": (correlated, 0.6),
        "correlated features of equal norm": (correlated / np.linalg.norm(correlated, axis=0), 0.6),
        "correlated features, no dropout": (correlated, 1.0),
    }
    printed, corrected, predicted, measured, errors = {}, {}, {}, {}, []
    for case, (x, p) in cases.items():
        y, gram = _gaussian(4, 1), x.T @ x
        best = tikhonov.enumerated_solution(x, y, p, "input")
        gap = relative_error(tikhonov.dropout_solution(x, y, p, "output"), best)
        errors.append(relative_error(tikhonov.dropout_solution(x, y, p, "input"), best))
        same = p == 1.0 or bool(np.abs(gram - np.diag(np.diag(gram))).max() < TOLERANCE * gram.max())
        printed[case] = gap < TOLERANCE
        corrected[case] = errors[-1] < TOLERANCE and printed[case] == same
        predicted[f"{case}: XᵀX diagonal or p = 1"] = same
        measured[f"{case}: weights off by"] = gap
    text = (
        "only for uncorrelated features (XᵀX diagonal) or p = 1. LoRA as shipped masks A's input: a generalised ridge "
        "W = (S + k diag S)⁺XᵀY, S = XᵀX, k = (1 − p)/p; plain ridge with λ = kc where all columns have squared norm c"
    )
    evidence = Evidence(predicted, measured, ROUNDING, max(errors), TOLERANCE, seed=SEED)
    return Finding(settle(printed, corrected), evidence, text)


def check_latent_placement() -> Finding:
    """Whether the output formula's fit p·XX⁺Y minimises the loss under masks between A and B.

    Returns:
        The finding.
    """
    x, thin = (np.linalg.qr(_gaussian(n, 2))[0] for n in (4, 3))
    cases = {
        "r equal singular values": (x, 1.5 * x, 0.5, 2),
        "two equal singular values, r = 3": (thin, 1.5 * thin, 0.5, 3),
        "unequal singular values": (_design(4, 3), _gaussian(4, 2), 0.6, 2),
        "unequal, few kept": (_design(4, 2), _gaussian(4, 3), 0.2, 2),
        "unequal, no dropout, r at least the fit's rank": (_design(4, 2), _gaussian(4, 3), 1.0, 2),
        "r below the fit's rank": (_design(4, 3), _gaussian(4, 2), 0.6, 1),
    }
    printed, corrected, predicted, measured, errors = {}, {}, {}, {}, []
    generator = np.random.default_rng(SEED)
    for case, (x, y, p, rank) in cases.items():
        fitted = x @ np.linalg.lstsq(x, y, rcond=None)[0]
        least = tikhonov.enumerated_bottleneck_minimum(x, y, p, rank, STARTS, generator)
        factors = tikhonov.bottleneck_factors(x, y, p, rank)
        attained = tikhonov.enumerated_bottleneck_loss(x, y, factors.a, factors.b, p)
        scale = float(np.sum(y**2))
        errors.append(max(abs(attained - least), abs(tikhonov.bottleneck_minimum(x, y, p, rank) - least)) / scale)
        fit = x @ factors.a.T @ factors.b.T
        gap = relative_error(p * fitted, fit)
        agrees = relative_error(tikhonov.bottleneck_solution(fitted, p, rank), fit) < TOLERANCE
        same = _keeps_the_shape(fitted, p, rank)
        printed[case] = gap < TOLERANCE
        corrected[case] = errors[-1] < SEARCH_TOLERANCE and agrees and printed[case] == same
        predicted[f"{case}: least loss"], measured[f"{case}: least loss"] = attained, least
        measured[f"{case}: p·XX⁺Y off by"] = gap
    text = (
        "only if p = 1 and r ≥ rank(XX⁺Y), or XX⁺Y has exactly r non-zero singular values, all equal. A mask in the "
        "latent space penalises (k/r)‖XW‖²_*: XW = U diag((σ_i − τ)₊)Vᵀ over the r largest singular values of "
        "XX⁺Y = UΣVᵀ, soft thresholding and no ridge; the paper's formula masks the output instead"
    )
    evidence = Evidence(predicted, measured, SEARCH, max(errors), SEARCH_TOLERANCE, seed=SEED)
    return Finding(settle(printed, corrected), evidence, text)


def _keeps_the_shape(fitted: np.ndarray, p: float, rank: int) -> bool:
    values = np.linalg.svd(fitted, compute_uv=False)
    values = values[values > TOLERANCE * values[0]]
    equal = len(values) == rank and float(np.ptp(values)) < TOLERANCE * float(values[0])
    return equal or (p == 1.0 and len(values) <= rank)


def claims() -> tuple[Claim, ...]:
    """The section's statements in the paper's order.

    Returns:
        The claims.
    """
    opening, setting = "§3.1, first paragraph", "§3.1, the setting before the first display"
    command = "python -m allora_analysis.tikhonov --placement"
    return (
        Claim(
            "3.1-placement-latent",
            opening,
            "LoRA's regularization hinges on using Dropout […], i.e., on applying a multiplicative binary mask to the "
            "latent space of the matrix factorization (read: as ‖Y − (XW) ⊙ V‖² is solved, by p times least squares)",
            check_latent_placement,
            f"{command} bottleneck",
            "tests/test_tikhonov_bottleneck.py",
        ),
        Claim(
            "3.1-normalised-inputs",
            opening,
            "in the linear regime dropout acts as some variant of ℓ2 regularization on normalized design matrix "
            "(inputs)",
            check_normalised_inputs,
            f"{command} input",
            "tests/test_tikhonov.py",
        ),
        Claim(
            "3.1-mask-mean",
            setting,
            "V ∈ {0, 1/p} […] such parametrization of Dropout is commonly employed in the literature to ensure that "
            "its expectation is equal to 1",
            check_mask_mean,
            f"{command} output",
            "tests/test_tikhonov.py",
        ),
        Claim(
            "3.1-placement-input",
            setting,
            "Let's consider in the linear regime the following Ordinary Least Squares (OLS) setting "
            "‖Y − (XW) ⊙ V‖²_F (read: solved as LoRA's Dropout is, whose mask in LoRA's code acts on A's input)",
            check_input_placement,
            f"{command} input",
            "tests/test_tikhonov.py",
        ),
    )
