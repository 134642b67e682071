"""§3.2, "as the training set size (n) decreases": flat directions and the condition number of the Hessian in V.

Listed by `section_3_2_zero_initialisation`. Checked by `tests/test_claims_hessian.py`, which plants wrong formulas.
"""

from __future__ import annotations

import numpy as np

from allora_analysis import hessian
from allora_analysis.claims import student_t
from allora_analysis.claims.ledger import Evidence, Finding, settle

ROUNDING = 1e-9
SEED, DRAWS = 20, 200


def flat_directions() -> Finding:
    """Flat directions as N halves: i.i.d. rows on both sides of N = D, and with S held fixed.

    Returns:
        The finding.
    """
    d, c, generator = 8, 2, np.random.default_rng(SEED)
    rows = generator.standard_normal((4 * d, d))
    fixed = {n: hessian.fixed_gram_design(rows, n, generator) for n in (4 * d, d)}
    cases = {
        "i.i.d. rows, N = 4D → 2D": (rows, rows[: 2 * d], False),
        "i.i.d. rows, N = D → D/2": (rows[:d], rows[: d // 2], True),
        "i.i.d. rows, N = D/2 → D/4": (rows[: d // 2], rows[: d // 4], True),
        "XᵀX held fixed, N = 4D → D": (fixed[4 * d], fixed[d], False),
    }
    printed, corrected, seen = {}, {}, {}
    for case, (many, few, expected) in cases.items():
        values = [hessian.product_spectrum(x, c) for x in (many, few)]
        seen[case] = [int((value <= 1e-12 * value[-1]).sum()) for value in values]
        printed[case] = seen[case][1] > seen[case][0]
        counts = [c * (d - min(len(x), d)) for x in (many, few)]
        corrected[case] = printed[case] == expected and seen[case] == counts
    predicted = {"flat directions": "C·(D − N) for N < D, else 0"}
    evidence = Evidence(predicted, seen, "counts: none allowed to differ", 0.0 if all(corrected.values()) else 1.0, 0.0)
    return Finding(
        settle(printed, corrected), evidence, "only below N = D, and only if XᵀX loses rank with the samples"
    )


def conditioning_by_samples() -> Finding:
    """Does κ of S's non-zero part rise as N falls? Sampled, with the sign that Marchenko and Pastur give.

    Returns:
        The finding.
    """
    d, ratios = 30, (10.0, 3.0, 1.5, 1.0, 0.6, 0.3, 0.1)
    generator = np.random.default_rng(SEED)
    logs = [hessian.sample_log_conditions(round(ratio * d), d, DRAWS, generator) for ratio in ratios]
    mean, error = np.array([v.mean() for v in logs]), np.array([v.std(ddof=1) / np.sqrt(DRAWS) for v in logs])
    limit = np.log([hessian.marchenko_pastur_condition(1 / ratio) for ratio in ratios])
    printed, corrected, allowed = {}, {}, student_t.standard_errors(DRAWS)
    for i in range(len(ratios) - 1):
        case, noise = f"i.i.d. entries, N/D = {ratios[i]} → {ratios[i + 1]}", allowed * np.hypot(*error[i : i + 2])
        printed[case] = bool(mean[i + 1] - mean[i] > noise)
        corrected[case] = bool((mean[i + 1] - mean[i]) * np.sign(limit[i + 1] - limit[i]) > noise)
    x = generator.standard_normal((2 * d, d))
    same = [hessian.log_condition(hessian.fixed_gram_design(x, n, generator)) for n in (8 * d, d)]
    printed["XᵀX held fixed"] = same[1] > same[0] + ROUNDING
    corrected["XᵀX held fixed"] = abs(same[1] - same[0]) <= ROUNDING
    measured = {"N/D": ratios, "log_condition": mean, "log_condition_stderr": error, "log_condition_fixed_gram": same}
    source = f"each difference between neighbouring N/D: {student_t.source(DRAWS)}"
    evidence = Evidence({"log_condition": limit}, measured, source, n=DRAWS, seed=SEED)
    return Finding(
        settle(printed, corrected), evidence, "κ rises as N falls to D and falls again below; fixed XᵀX: never"
    )
