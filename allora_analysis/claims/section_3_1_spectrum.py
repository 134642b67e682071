"""§3.1, continued: how far dropout is from any ridge, as the singular values of X spread.

`section_3_1_tikhonov.claims` lists the row. Checked by `tests/test_claims_tikhonov.py`, which plants wrong formulas.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np

from allora_analysis import tikhonov
from allora_analysis.claims.ledger import Evidence, Finding, settle
from allora_analysis.tikhonov.study import Problems

TOLERANCE, ROUNDING = 1e-9, "float64 rounding: least squares on designs of condition number at most 100"
SEED, DRAWS = 31, 20
KEPT, SPREADS = (0.7, 0.95), (3.0, 10.0, 100.0)  # over the draws


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
    for keep, spread in product(KEPT, SPREADS):
        far = [tikhonov.nearest_ridge(*one.at(spread), keep, "output").distance for one in drawn]
        measured[_over_draws(keep, spread)] = np.quantile(far, (0.5, 0, 1)).tolist()
    text = (
        "only where all non-zero singular values of X are equal, to which the sentences before restrict the result (or "
        "p = 1). Otherwise dropout shrinks every singular direction by p, ridge by s²/(s² + λ): still a regulariser, "
        "but not Tikhonov's. The nearest ridge's fit differs from dropout's by (share of its norm, median and range "
        f"over {DRAWS} draws of Gaussian weights, condition numbers {', '.join(f'{spread:g}' for spread in SPREADS)}) "
        f"{_distances(measured)}"
    )
    evidence = Evidence(predicted, measured, ROUNDING, max(errors), TOLERANCE, seed=SEED)
    return Finding(settle(printed, corrected), evidence, text)


def _over_draws(keep_prob: float, spread: float) -> str:
    return f"condition number {spread:g}, p = {keep_prob}: distance over {DRAWS} draws"


def _distances(measured: Mapping[str, Any]) -> str:
    # Median, least and greatest.
    def of(keep_prob: float, spread: float) -> str:
        median, low, high = (f"{100 * share:.0f}" for share in measured[_over_draws(keep_prob, spread)])
        return f"{median} % ({low} to {high})"

    return "; ".join(f"at p = {keep}: " + ", ".join(of(keep, spread) for spread in SPREADS) for keep in KEPT)
