"""§3.3, the ripple effect: each line of the derivation, Θ((1 + η)^L), Proposition 1, and what the paper does not treat.

The bounds are judged by dense matrices and forward passes; `section_3_3_worst_case.py` has tightness and Proposition 1,
`section_3_3_growth.py` networks at random. Checked by `tests/test_claims_ripple.py`, which plants wrong formulas.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from allora_analysis import ripple
from allora_analysis.claims import section_3_3_growth
from allora_analysis.claims.ledger import Claim, Evidence, Finding, relative_error, settle
from allora_analysis.claims.section_3_3_worst_case import RANDOM, ROUNDING, SEED, TOLERANCE, product, product_norm

COMMAND = "python -m allora_analysis.ripple"
TEST = "tests/test_ripple.py"
ETAS = (0.25, 1.0, 4.0, 100.0)


EXCESS = f"the error is the largest excess over the bound, 0 where there is none; {ROUNDING}"


def _excess(measured: Mapping[str, float], bound: Mapping[str, float]) -> float:
    return max(0.0, *(measured[case] - bound[case] for case in bound))


def check_equality() -> Finding:
    """‖f_L(x)‖ = ‖M_L ⋯ M_1‖ ‖x‖ as printed, and ≤ in its place, for an x at random; = for a top right singular vector.

    Returns:
        The finding.
    """
    printed, corrected, predicted, measured = {}, {}, {}, {}
    for (name, (layers, x)), eta in itertools.product(RANDOM.items(), ETAS):
        case = f"{name}, η = {eta}"
        predicted[case] = float(np.log(product_norm(layers, eta)))
        measured[case] = float(ripple.log_output_growth(layers, x, eta)[0])
        printed[case] = abs(measured[case] - predicted[case]) < TOLERANCE
        top_right = np.linalg.svd(product(layers, eta))[2][0]
        attained = float(ripple.log_output_growth(layers, top_right, eta)[0])
        corrected[case] = measured[case] <= predicted[case] + TOLERANCE and abs(attained - predicted[case]) < TOLERANCE
    below = max(predicted[case] - measured[case] for case in predicted)
    text = "‖f_L(x)‖ ≤ ‖M_L ⋯ M_1‖ ‖x‖, equal for top right singular vectors only "
    text += f"(for an x at random up to a factor e^{below:.1f} below)"
    evidence = Evidence(predicted, measured, EXCESS, _excess(measured, predicted), TOLERANCE, seed=SEED)
    return Finding(settle(printed, corrected), evidence, text)


def check_product_bound() -> Finding:
    """‖M_L ⋯ M_1‖ ≤ ∏(‖W_l‖ + η‖B_lA_l‖), on networks at random and on the aligned one, where it is an equality.

    Returns:
        The finding.
    """
    printed, predicted, measured = {}, {}, {}
    aligned = ripple.aligned_network((6, 4, 9, 5), 3, 1.5, 0.8, generator=np.random.default_rng(SEED))
    for (name, layers), eta in itertools.product(
        [*((name, layers) for name, (layers, _) in RANDOM.items()), ("aligned", list(aligned.layers))], ETAS
    ):
        case = f"{name}, η = {eta}"
        predicted[case] = ripple.worst_case(*ripple.spectral_norms(layers), eta).log_bound
        measured[case] = float(np.log(product_norm(layers, eta)))
        printed[case] = measured[case] <= predicted[case] + TOLERANCE
    error = _excess(measured, predicted)
    return Finding(settle(printed), Evidence(predicted, measured, EXCESS, error, TOLERANCE, seed=SEED))


def check_mean() -> Finding:
    """∏(1 + ηm_l) ≤ (1 + ηm̄)^L with m̄ the mean of ‖B_lA_l‖/‖W_l‖, and equality where all m_l are equal.

    Returns:
        The finding.
    """
    printed, predicted, measured = {}, {}, {}
    ratios = {
        "equal m": [0.7] * 5,
        "spread m": [0.01, 0.1, 1.0, 10.0, 100.0],
        "one adapter": [0.0, 0.0, 5.0],
        "L = 1": [2.0],
    }
    for (name, m), eta in itertools.product(ratios.items(), ETAS):
        case = f"{name}, η = {eta}"
        worst = ripple.worst_case(np.ones(len(m)), m, eta)
        predicted[case] = worst.log_amgm_bound
        measured[case] = float(np.log1p(eta * np.array(m)).sum())
        equal = len(set(m)) == 1
        close = abs(measured[case] - predicted[case]) < TOLERANCE
        printed[case] = measured[case] <= predicted[case] + TOLERANCE and close == equal
    error = _excess(measured, predicted)
    return Finding(settle(printed), Evidence(predicted, measured, EXCESS, error, TOLERANCE))


NORMS = {
    "equal norms": ([1.5, 1.5, 1.5], [0.3, 1.0, 2.0]),
    "the last norm the largest": ([0.5, 1.0, 4.0], [0.5, 1.0, 4.0]),
    "the last norm the largest, its adapter alone": ([0.5, 1.0, 4.0], [0.0, 0.0, 1.0]),
    "the last norm the smallest": ([4.0, 1.0, 0.5], [4.0, 1.0, 0.5]),
}


def check_mean_ratio() -> Finding:
    """m̄ with ‖W_L‖ under every term, as printed, and with each layer's own ‖W_l‖: is C(1 + ηm̄)^L a bound?

    Returns:
        The finding.
    """
    printed, corrected, predicted, measured = {}, {}, {}, {}
    for (name, (weights, adapters)), eta in itertools.product(NORMS.items(), ETAS):
        case, depth = f"{name}, η = {eta}", len(weights)
        network = ripple.aligned_network(
            (4,) * (depth + 1), 2, weights, adapters, generator=np.random.default_rng(SEED)
        )
        measured[case] = float(ripple.log_output_growth(network.layers, network.x, eta)[0])
        worst = ripple.worst_case(weights, adapters, eta)
        predicted[case] = worst.log_amgm_bound
        as_printed = worst.log_c + depth * float(np.log1p(eta * np.mean(adapters) / weights[-1]))
        printed[case] = measured[case] <= as_printed + TOLERANCE
        corrected[case] = measured[case] <= predicted[case] + TOLERANCE
    error = _excess(measured, predicted)
    text = "m̄ = (1/L) Σ ‖B_lA_l‖/‖W_l‖, each over its own norm (l, not L: perhaps a misprint); as printed it bounds "
    text += "networks of equal ‖W_l‖, and can fail where ‖W_L‖ is larger than another's"
    return Finding(settle(printed, corrected), Evidence(predicted, measured, EXCESS, error, TOLERANCE, seed=SEED), text)


def check_constant() -> Finding:
    """Does C = ∏‖W_l‖ stay the same as η, the adapters, or L change?

    Returns:
        The finding.
    """
    printed, corrected, predicted, measured = {}, {}, {}, {}
    for norm, depth, change in itertools.product((1.0, 2.0, 0.5), (4, 40), ("η", "adapters", "L")):
        case = f"‖W‖ = {norm}, L = {depth}, another {change}"
        layers, eta, adapter = (3 * depth, 1.0, 1.0) if change == "L" else (depth, 1.0, 1.0)
        eta, adapter = (5.0, 1.0) if change == "η" else (1.0, 0.2) if change == "adapters" else (eta, adapter)
        before = ripple.worst_case([norm] * depth, [1.0] * depth, 1.0).log_c
        measured[case] = float(ripple.worst_case([norm] * layers, [adapter] * layers, eta).log_c - before)
        predicted[case] = (layers - depth) * float(np.log(norm))
        printed[case] = abs(measured[case]) < TOLERANCE
        corrected[case] = abs(measured[case] - predicted[case]) < TOLERANCE * (1 + abs(predicted[case]))
    error = relative_error(list(measured.values()), list(predicted.values()))
    text = "constant in x, η and the adapters; in L only if ‖W_l‖ = 1: else C is itself exponential in L"
    return Finding(settle(printed, corrected), Evidence(predicted, measured, ROUNDING, error, TOLERANCE), text)


def claims() -> tuple[Claim, ...]:
    """The rows that are not yet written with `Cases`."""
    return section_3_3_growth.growth_claims()
