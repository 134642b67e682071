"""§3.3, part of `section_3_3_ripple`: are the inequalities tight, is the bound Θ((1 + η)^L), does growth follow.

Judged by dense matrices (singular vectors) and forward passes. Checked by `tests/test_claims_ripple.py`.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np

from allora_analysis import ripple
from allora_analysis.claims.ledger import Evidence, Finding, relative_error, settle
from allora_analysis.ripple import stack
from allora_analysis.ripple.bounds import Layer

TOLERANCE = 1e-10
ROUNDING = "float64 rounding in a product of at most 12 matrices, relative to a log growth of order 1 to 100"
SEED = 33
ETAS = (0.25, 1.0, 4.0, 100.0)


def drawn(widths: tuple[int, ...], rank: int) -> tuple[list[Layer], np.ndarray]:
    """Layers and an input with standard Gaussian entries.

    Args:
        widths: n₀, …, n_L.
        rank: r.

    Returns:
        The layers and x.
    """
    generator = np.random.default_rng([SEED, *widths, rank])
    layers = [
        Layer(*(generator.standard_normal(shape) for shape in ((n, m), (n, rank), (rank, m))))
        for m, n in itertools.pairwise(widths)
    ]
    return layers, generator.standard_normal(widths[0])


def product(layers: list[Layer], eta: float) -> np.ndarray:
    """∏(W_l + ηB_lA_l), dense, the first layer applied first.

    Args:
        layers: the layers.
        eta: η.

    Returns:
        The matrix (n_L×n₀).
    """
    matrix = np.eye(layers[0].w.shape[1])
    for layer in layers:
        matrix = (layer.w + eta * layer.b @ layer.a) @ matrix
    return matrix


def product_norm(layers: list[Layer], eta: float) -> float:
    """‖∏(W_l + ηB_lA_l)‖ from the product itself.

    Args:
        layers: the layers.
        eta: η.

    Returns:
        Its largest singular value.
    """
    return float(np.linalg.norm(product(layers, eta), 2))


RANDOM = {
    "8 square layers, r = 2": drawn((6,) * 9, 2),
    "3 rectangular layers, r = 3": drawn((6, 4, 9, 5), 3),
    "12 layers, full rank": drawn((4,) * 13, 4),
}


def lines_up(layers: list[Layer], x: np.ndarray) -> bool:
    """Whether x, W's and BA's top singular vectors line up through the network, from dense decompositions.

    Args:
        layers: the layers.
        x: the input.

    Returns:
        True where every cosine is 1 to 1e-9 (BA's with W's sign).
    """
    direction = x / np.linalg.norm(x)
    for layer in layers:
        for matrix in (layer.w, layer.b @ layer.a):
            image = matrix @ direction
            if np.linalg.norm(image) < (1 - 1e-9) * np.linalg.norm(matrix, 2):
                return False
        pair = layer.w @ direction, layer.b @ layer.a @ direction
        if pair[0] @ pair[1] < (1 - 1e-9) * np.linalg.norm(pair[0]) * np.linalg.norm(pair[1]):
            return False
        direction = pair[0] / np.linalg.norm(pair[0])
    return True


def check_tight() -> Finding:
    """Is ‖f_L(x)‖ = C(1 + ηm̄)^L‖x‖? Networks at random, aligned with equal m_l, aligned with unequal m_l.

    Returns:
        The finding.
    """
    generator = np.random.default_rng(SEED)
    build = functools.partial(ripple.aligned_network, generator=generator)
    cases = {
        "aligned, square": build((6,) * 9, 2, 1.5, 0.6),
        "aligned, rectangular": build((6, 4, 9, 5), 3, 1.5, 0.6),
        "aligned, full rank": build((4,) * 6, 4, 0.5, 2.0),
        "aligned, unequal m": build((4,) * 4, 2, [1.0, 1.0, 1.0], [0.1, 1.0, 3.0]),
    }
    networks = {name: (list(network.layers), network.x) for name, network in cases.items()} | RANDOM
    printed, corrected, predicted, measured = {}, {}, {}, {}
    for name, (layers, x) in networks.items():
        norms = ripple.spectral_norms(layers)
        ratios = norms[1] / norms[0]
        condition = lines_up(layers, x) and np.ptp(ratios) < 1e-9 * ratios.max()
        predicted[name] = ripple.worst_case(*norms, 2.0).log_amgm_bound
        measured[name] = float(ripple.log_output_growth(layers, x, 2.0)[0])
        printed[name] = abs(measured[name] - predicted[name]) < TOLERANCE
        corrected[name] = bool(printed[name] == condition)
    error = (
        max(abs(predicted[name] - measured[name]) for name in printed if printed[name])
        if any(printed.values())
        else None
    )
    text = "attained iff W_l and B_lA_l share top singular vectors, the layers and x line up, and all m_l are equal; "
    text += f"random networks stay e^{min(predicted[name] - measured[name] for name in RANDOM):.0f} or more below"
    return Finding(
        settle(printed, corrected), Evidence(predicted, measured, ROUNDING, error, TOLERANCE, seed=SEED), text
    )


def _rate(weight_norm: float, adapter_norm: float, eta: float) -> float:
    # The log growth that an aligned layer adds, from forward passes at L = 6 and L = 12.
    network = ripple.aligned_network(
        (5, 5), 2, weight_norm, adapter_norm, generator=np.random.default_rng(SEED), closed=True
    )
    growth = [ripple.log_output_growth(network.layers, network.x, eta, repeats=depth)[0] for depth in (6, 12)]
    return float(growth[1] - growth[0]) / 6


def check_theta() -> Finding:
    """Is C(1 + ηm̄)^L = Θ((1 + η)^L) in L, for given ‖W_l‖ and m̄? Growth per layer of networks that attain it.

    Returns:
        The finding.
    """
    printed, corrected, predicted, measured = {}, {}, {}, {}
    for weight, ratio in ((1.0, 1.0), (2.0, 1.0), (0.5, 1.0), (1.0, 0.1), (1.0, 3.0)):
        for eta in ETAS:
            case = f"‖W‖ = {weight}, m = {ratio}, η = {eta}"
            measured[case] = _rate(weight, ratio * weight, eta)
            predicted[case] = ripple.worst_case([weight], [ratio * weight], eta).log_amgm_bound
            printed[case] = bool(abs(measured[case] - np.log1p(eta)) < TOLERANCE)
            corrected[case] = abs(measured[case] - predicted[case]) < TOLERANCE
    error = relative_error(list(measured.values()), list(predicted.values()))
    text = "Θ((w(1 + ηm̄))^L) with w the geometric mean of ‖W_l‖: Θ((1 + η)^L) iff w(1 + ηm̄) = 1 + η, as for w = m̄ = 1"
    return Finding(
        settle(printed, corrected), Evidence(predicted, measured, ROUNDING, error, TOLERANCE, seed=SEED), text
    )


def check_proposition() -> Finding:
    """Some network with ‖W_l‖ = ‖B_lA_l‖ = 1 grows as (1 + η)^L, for every η, also under ReLU; L up to 10⁵.

    Returns:
        The finding.
    """
    printed, predicted, measured = {}, {}, {}
    etas = (0.01, *ETAS)
    for depth, architecture in itertools.product((10, 1000, 100_000), ("linear", "relu")):
        norms = np.ones(depth), np.ones(depth)
        grown = stack.aligned_growth(norms, 2, etas, 6, architecture, np.random.default_rng(SEED))
        for eta, growth in zip(etas, grown, strict=True):
            case, exponential = f"η = {eta}, L = {depth}, {architecture}", depth * float(np.log1p(eta))
            predicted[case], measured[case] = ripple.worst_case(*norms, eta).log_bound, float(growth)
            printed[case] = abs(measured[case] - exponential) < TOLERANCE * (1 + exponential)
    error = relative_error(list(measured.values()), list(predicted.values()))
    return Finding(settle(printed), Evidence(predicted, measured, ROUNDING, error, TOLERANCE, seed=SEED))
