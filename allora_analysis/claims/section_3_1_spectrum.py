"""§3.1, continued: how far dropout is from any ridge, as the singular values of X spread.

`section_3_1_tikhonov.claims` lists the row. Checked by `tests/test_claims_tikhonov.py`, which plants wrong formulas.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from allora_analysis import tikhonov
from allora_analysis.claims.ledger import Evidence, Finding, settle
from allora_analysis.tikhonov.spread import Problems

TOLERANCE, ROUNDING = 1e-9, "float64 rounding: least squares on designs of condition number at most 100"
SEED, DRAWS = 31, 20


def check_general_spectrum() -> Finding:
    """The distance to the nearest ridge as X's spectrum spreads, against the condition for exactness.

    Returns:
        The finding.
    """
    shape, p = {"samples": 40, "features": 6, "outputs": 3, "noise": 1.0}, 0.7
    problems = Problems(**shape, seed=SEED)
    printed, corrected, predicted, measured, errors = {}, {}, {}, {}, []
    cases = {f"condition number {spread:g}": (spread, p) for spread in (1.0, 1.1, 3.0, 10.0, 100.0)}
    for case, (spread, keep) in (cases | {"condition number 10, no dropout": (10.0, 1.0)}).items():
        x, y = problems.at(spread)
        found = tikhonov.nearest_ridge(x, y, keep, "output")
        fit = x @ tikhonov.dropout_solution(x, y, keep, "output")
        gap = float(np.linalg.norm(fit - x @ tikhonov.ridge_solution(x, y, found.penalty)) / np.linalg.norm(fit))
        exact = tikhonov.is_exact_ridge(x, "output") or keep == 1.0
        printed[case] = gap < TOLERANCE
        errors.append(abs(gap - found.distance))
        corrected[case] = printed[case] == exact and errors[-1] < TOLERANCE
        predicted[f"{case}: a ridge exactly"] = exact
        measured[f"{case}: nearest λ"], measured[f"{case}: distance"] = found.penalty, gap
    drawn = [Problems(**shape, seed=[SEED, draw]) for draw in range(DRAWS)]
    for spread in (3.0, 10.0, 100.0):
        far = [tikhonov.nearest_ridge(*one.at(spread), p, "output").distance for one in drawn]
        measured[f"condition number {spread:g}: distance over {DRAWS} draws"] = np.quantile(far, (0.5, 0, 1)).tolist()
    at = _distances(measured, (3, 10, 100))
    text = (
        "only where all non-zero singular values of X are equal, to which the sentences before restrict the result "
        "(or p = 1). Otherwise dropout shrinks every singular direction by p, ridge by s²/(s² + λ): still a "
        f"regulariser, but not Tikhonov's; over {DRAWS} draws of Gaussian weights the nearest ridge is, at the median, "
        f"{at} of the fit's norm away"
    )
    evidence = Evidence(predicted, measured, ROUNDING, max(errors), TOLERANCE, seed=SEED)
    return Finding(settle(printed, corrected), evidence, text)


def _distances(measured: Mapping[str, Any], spreads: tuple[int, ...]) -> str:
    # Median, least and greatest.
    of = {
        s: [f"{100 * share:.0f}" for share in measured[f"condition number {s}: distance over {DRAWS} draws"]]
        for s in spreads
    }
    return ", ".join(f"{m} % ({low} to {high}) for condition number {s}" for s, (m, low, high) in of.items())
