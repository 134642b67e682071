"""§1, third flaw: does the scaling factor introduce the interactions between LoRA modules of different layers?

f_L(x) = ∏(W_l + ηB_lA_l)x = Σ_k η^k c_k, c_k the sum of the products with k adapters. What layers do together is what
is left of f_L when each adapter's own effect is taken off, Σ_{k≥2} η^k c_k. Checked by `tests/test_claims_3_3.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from allora_analysis.claims.cases import Case, Cases, relative_error
from allora_analysis.claims.claim import Finding, Size
from allora_analysis.claims.s3_3_worst_case import (
    PAPER_ETAS,
    ROUNDING,
    TOLERANCE,
    Network,
    gaussian,
    product,
    ripple_claim,
)


def orders(network: Network) -> list[np.ndarray]:
    """c_0, …, c_L of f_L(x) = Σ_k η^k c_k: the terms with k adapters, summed over the subsets of layers one by one."""
    layers = network.layers
    terms = [np.zeros(len(layers[-1].w)) for _ in range(len(layers) + 1)]
    for taken in itertools.product((False, True), repeat=len(layers)):
        term = network.x
        for layer, adapter in zip(layers, taken, strict=True):
            term = layer.b @ (layer.a @ term) if adapter else layer.w @ term
        terms[sum(taken)] += term
    return terms


def interaction(network: Network) -> np.ndarray:
    """f_L(x) less f_L(x) without adapters and less what each adapter alone changes; 0 iff layers do not interact."""

    def output(on: Sequence[bool]) -> np.ndarray:
        chosen = [layer._replace(b=layer.b * flag) for layer, flag in zip(network.layers, on, strict=True)]
        return product(network._replace(layers=chosen)) @ network.x

    depth = len(network.layers)
    base = output([False] * depth)
    alone = [output([other == one for other in range(depth)]) - base for one in range(depth)]
    return output([True] * depth) - base - np.sum(alone, axis=0)


@ripple_claim(
    "3.3-interactions",
    where="§1, third flaw; Abstract",
    says="the scaling parameter that introduces nonlinear interactions between LoRA modules of different layers",
    reading="With η the output holds terms Σ_{k≥2} η^k c_k, nonlinear in η, that mix adapters of several layers. "
    "That η is their only cause is not said.",
)
def interactions(cases: Cases) -> Finding:
    """Forward passes with some adapters off, against the expansion f_L(x) = Σ_k η^k c_k; at η = 1 beside it."""

    def draw(rng: np.random.Generator) -> Network:
        widths = rng.integers(3, 9, size=rng.integers(3, 6)).tolist()
        return gaussian(widths, int(rng.integers(1, 4)), float(rng.choice([0.25, 1.5, 4.0])), rng)

    own = [gaussian((64,) * 4, 8, eta, cases.rng) for eta in PAPER_ETAS[1:]]
    judged = cases.judge(
        [Case(f"width 64, r = 8, η = {one.eta:.3g}", one, paper=True) for one in own] + cases.draw(draw, 8),
        measure=lambda one: {
            "at η": interaction(one),
            "at η = 1": interaction(one._replace(eta=1.0)),
        },
        printed=lambda one, seen: (
            relative_error(seen["at η"], sum(one.eta**k * c for k, c in enumerate(orders(one)) if k > 1)) < TOLERANCE
            and np.linalg.norm(seen["at η"]) > TOLERANCE
        ),
    )
    norm = np.linalg.norm
    alone = [
        norm(seen["at η = 1"]) / norm(product(case.inputs._replace(eta=1.0)) @ case.inputs.x)
        for case, seen in judged.pairs
        if case.paper
    ]
    return judged.finding(
        {"holds": "Yes, but so does depth alone: without a scaling factor (η = 1) the layers interact too."},
        evidence=judged.evidence(ROUNDING, {"interaction": "Σ_{k≥2} η^k c_k"}, tolerance=TOLERANCE),
        size=Size(
            min(alone), "of ‖f_L(x)‖", "what the adapters of several layers do together at η = 1", high=max(alone)
        ),
        flips_if="forward passes in which each adapter's own effects add up to the whole, or another power of η",
    )
