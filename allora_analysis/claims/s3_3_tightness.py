"""§3.3, "tight": each inequality of the derivation is attained by some network, and what the network at hand does.

Checked by `tests/test_claims_3_3.py`, which plants wrong formulas.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from allora_analysis import ripple
from allora_analysis.claims.cases import Case, Cases
from allora_analysis.claims.claim import Finding, ranged
from allora_analysis.claims.s3_3_worst_case import (
    PAPER_ETAS,
    ROUNDING,
    TOLERANCE,
    Network,
    aligned,
    lines_up,
    log_growth,
    log_norm,
    networks_at_random,
    ripple_claim,
    worst,
)


class Attained(NamedTuple):
    """‖W_l*‖, the ratios ‖B_lA_l‖/‖W_l*‖ asked for, and the network that has them."""

    weights: np.ndarray
    ratios: np.ndarray
    network: Network


def _right_sides(one: Attained) -> list[float]:
    """The logarithms of the right sides: the norm of the product, the product of norms, and (1 + ηm̄)^L if it is met.

    The last is met where all ratios are equal, the only ratios at which any network could.
    """
    bound = ripple.worst_case(one.weights, one.ratios * one.weights, one.network.eta)
    equal = np.ptp(one.ratios) == 0
    return [log_norm(one.network), bound.log_bound, *([bound.log_amgm_bound] if equal else [])]


def _attains_each(one: Attained, seen: float) -> bool:
    """Whether the growth seen is each of the right sides."""
    return all(abs(seen - side) < TOLERANCE * max(1.0, abs(side)) for side in _right_sides(one))


@ripple_claim(
    "3.3-tight",
    where="§3.3, before the last display",
    says="all the inequalities are tight",
    reading="As the word is used of bounds: for all norms and every η some network attains each of them, the last "
    "where all ‖B_lA_l‖/‖W_l*‖ are equal.",
    depends_on=("3.3-norm", "3.3-product", "3.3-mean"),
)
def tight(cases: Cases) -> Finding:
    """A forward pass through aligned layers of given norms against each right side in turn."""

    def draw(rng: np.random.Generator) -> Attained:
        widths, eta = rng.integers(3, 9, size=rng.integers(3, 9)).tolist(), float(np.exp(rng.uniform(-2, 5)))
        weights, equal = np.exp(rng.uniform(-1, 1, len(widths) - 1)), bool(rng.random() < 0.5)
        ratios = np.full(len(weights), rng.uniform(0.01, 3)) if equal else rng.uniform(0.01, 3, len(weights))
        return Attained(weights, ratios, aligned(widths, 2, weights, ratios * weights, eta, rng))

    own = []
    for eta in PAPER_ETAS:
        weights, ratios = cases.rng.uniform(1, 4, 24), np.full(24, 0.05)
        network = aligned((64,) * 25, 8, weights, ratios * weights, eta, cases.rng)
        own.append(Case(f"width 64, r = 8, L = 24, η = {eta:.3g}", Attained(weights, ratios, network), True))
    judged = cases.judge(own + cases.draw(draw, 20), measure=lambda one: log_growth(one.network), printed=_attains_each)
    return judged.finding(
        holds="Yes: aligned layers attain each of them; networks at random stay far below.",
        evidence=judged.evidence(ROUNDING, _right_sides, tolerance=TOLERANCE),
        flips_if="norms for which no network attains one of the right sides",
    )


def _all_equal(network: Network) -> bool:
    weights, adapters = ripple.spectral_norms(network.layers)
    return bool(np.ptp(adapters / weights) < 1e-9 * np.max(adapters / weights))


@ripple_claim(
    "3.3-tight-in-practice",
    where="§3.3, before the last display",
    says="all the inequalities are tight",
    reading="The unkind reading: on the network at hand ‖f_L(x)‖ = C(1 + ηm̄)^L‖x‖. That some network attains it is "
    "3.3-tight.",
    depends_on=("3.3-tight", "3.3-norm", "3.3-product", "3.3-mean"),
)
def tight_in_practice(cases: Cases) -> Finding:
    """Networks at random, aligned ones, and aligned ones turned or stretched by a part in a thousand."""

    def draw(rng: np.random.Generator) -> Network:
        depth, eta = int(rng.integers(2, 6)), float(np.exp(rng.uniform(-1, 4)))
        spread, turn = rng.choice([[0.0, 0.0], [0.0, 0.0], [1e-3, 0.0], [0.0, 1e-3]])
        one = aligned((5,) * (depth + 1), 2, 1.5, 0.6 * np.exp(spread * np.linspace(-1, 1, depth)), eta, rng)
        across = np.cross(one.x[:3], [1.0, 0.0, 0.0])  # at right angles to x in its first three coordinates
        return one._replace(x=one.x + turn * np.linalg.norm(one.x) * np.array([*across / np.linalg.norm(across), 0, 0]))

    judged = cases.judge(
        cases.draw(draw, 24, "aligned or nearly so") + networks_at_random(cases),
        measure=log_growth,
        printed=lambda one, seen: abs(seen - worst(one).log_amgm_bound) < TOLERANCE,
        condition=lambda one: lines_up(one) and _all_equal(one),
    )
    below = [worst(case.inputs).log_amgm_bound - seen for case, seen in judged.pairs if case.paper]
    return judged.finding(
        conditional="Only for aligned layers, so in practice no: networks at random stay far below the bound.",
        evidence=judged.evidence(ROUNDING, lambda one: worst(one).log_amgm_bound, tolerance=TOLERANCE),
        size=ranged(below, "nats", "how far 24 random layers stay below it"),
        condition="W_l and B_lA_l share their top singular vectors, which line up from layer to layer and with x, "
        "and all ‖B_lA_l‖/‖W_l‖ are equal",
        flips_if="a network at random that attains the bound, or an aligned one that does not",
    )
