"""§1, third flaw: does the scaling factor introduce the interactions between LoRA modules of different layers?

f_L(x) = ∏(W_l + ηB_lA_l)x = Σ_k η^k c_k, c_k the sum of the products with k adapters. What layers do together is what
is left of f_L when each adapter's own effect is taken off, Σ_{k≥2} η^k c_k. Listed by `section_3_3_ripple`. Checked by
`tests/test_claims_ripple.py`, which plants wrong formulas.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from allora_analysis import ripple
from allora_analysis.claims.ledger import Evidence, Finding, relative_error, settle
from allora_analysis.claims.section_3_3_worst_case import SEED, drawn, product
from allora_analysis.ripple.bounds import Layer

ROUNDING = 1e-10
ETAS = (0.25, 4.0)
NETWORKS = {"L = 2": ((6,) * 3, 2), "L = 3, rectangular": ((6, 4, 9, 5), 3), "L = 5": ((5,) * 6, 1)}


def orders(layers: Sequence[Layer], x: np.ndarray) -> list[np.ndarray]:
    """c_0, …, c_L: the terms of f_L(x) with k adapters, summed over the subsets of layers one by one.

    Args:
        layers: L layers.
        x: the input.

    Returns:
        L + 1 vectors.
    """
    terms = [np.zeros(len(layers[-1].w)) for _ in range(len(layers) + 1)]
    for taken in itertools.product((False, True), repeat=len(layers)):
        term = x
        for layer, adapter in zip(layers, taken, strict=True):
            term = layer.b @ (layer.a @ term) if adapter else layer.w @ term
        terms[sum(taken)] += term
    return terms


def interaction(layers: Sequence[Layer], x: np.ndarray, eta: float) -> np.ndarray:
    """f_L(x) less f_L(x) without adapters and less what each adapter alone changes: forward passes with some off.

    Args:
        layers: the layers.
        x: the input.
        eta: η.

    Returns:
        A vector; 0 iff the layers do not interact.
    """

    def output(on: Sequence[bool]) -> np.ndarray:
        chosen = [layer._replace(b=layer.b * flag) for layer, flag in zip(layers, on, strict=True)]
        return product(chosen, eta) @ x

    base = output([False] * len(layers))
    alone = [output([other == one for other in range(len(layers))]) - base for one in range(len(layers))]
    return output([True] * len(layers)) - base - np.sum(alone, axis=0)


def _absorbed(layers: Sequence[Layer], x: np.ndarray, eta: float) -> float:
    # How far ηB in B's place, without a scaling factor, is from the same log growth.
    scaled = [layer._replace(b=eta * layer.b) for layer in layers]
    growth = ripple.log_output_growth(scaled, x, 1.0)[0] - ripple.log_output_growth(layers, x, eta)[0]
    return abs(float(growth))


def check_interactions() -> Finding:
    """Do layers interact only with a scaling factor (η ≠ 1)? Forward passes against the expansion of the product.

    Returns:
        The finding; predicted and measured are norms of Σ_{k≥2} η^k c_k.
    """
    printed, opposite, predicted, measured, errors, shares = {}, {}, {}, {}, [], {}
    for (name, shape), eta in itertools.product(NETWORKS.items(), ETAS):
        layers, x = drawn(*shape)
        terms, case = orders(layers, x), f"{name}, η = {eta:g}"
        told = {scale: sum(scale**k * terms[k] for k in range(2, len(terms))) for scale in (1.0, eta)}
        seen = {scale: interaction(layers, x, scale) for scale in (1.0, eta)}
        whole = {scale: float(np.linalg.norm(product(layers, scale) @ x)) for scale in (1.0, eta)}
        size = {scale: float(np.linalg.norm(seen[scale])) for scale in (1.0, eta)}
        predicted[case] = {f"at η = {scale:g}": float(np.linalg.norm(told[scale])) for scale in told}
        measured[case] = {f"at η = {scale:g}": size[scale] for scale in size}
        shares[name] = size[1.0] / whole[1.0]
        errors += [*(relative_error(seen[scale], told[scale]) for scale in told), _absorbed(layers, x, eta)]
        printed[case] = size[1.0] <= ROUNDING * whole[1.0] < size[eta]
        opposite[case] = max(errors[-3:]) <= ROUNDING and size[1.0] > ROUNDING * whole[1.0]
    evidence = Evidence(predicted, measured, "float64 rounding", max(errors), ROUNDING, seed=SEED)
    return Finding(settle(printed, opposite, contrary=True), evidence, _words(shares))


def _words(shares: Mapping[str, float]) -> str:
    parts = ", ".join(f"{share:.2f} for {name}" for name, share in shares.items())
    return (
        "the product of layers has them without a scaling factor (η = 1) too: what two adapters or more do together "
        f"is, over ‖f_L(x)‖, {parts} (layers at random); η only weights the terms with k adapters by η^k, just as ηB "
        "in B's place would"
    )
