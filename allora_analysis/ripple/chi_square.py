"""The fast simulator: the law of the norm alone, two χ² variables a layer, for any depth.

Linear and ReLU stacks: independent terms, drawn in blocks of layers. Pre-LayerNorm: the Markov chain of `residual`. It
shares `growth`'s decomposition, so it tests the quadrature and the sums, not the decomposition: "matrices" does that.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from allora_analysis.ripple.scales import Scales

BLOCK = 2**17  # χ² draws at once


def chi_square_growth(
    widths: np.ndarray,
    rank: int,
    etas: Float[np.ndarray, " columns"],
    scales: Scales,
    replicas: int,
    generator: np.random.Generator,
    architecture: str,
) -> Float[np.ndarray, "replicas columns"]:
    """log(‖f_L(x)‖/‖x‖), from ‖x‖ = √n for "prelayernorm".

    Args:
        widths: n₀, …, n_L.
        rank: r.
        etas: the scaling factors.
        scales: standard deviations.
        replicas: number of networks.
        generator: the randomness.
        architecture: "linear", "relu" or "prelayernorm".

    Returns:
        The log growths; −∞ where a ReLU network died.
    """
    with np.errstate(divide="ignore"):
        log_w = 2 * np.log(scales.w_std)
        log_adapter = 2 * (np.log(etas) + np.log(scales.a_std) + np.log(scales.b_std))[:, None, None]
    if architecture == "prelayernorm":
        return _chain(len(widths) - 1, int(widths[0]), rank, log_w, log_adapter[:, 0], replicas, generator)
    total = np.zeros((etas.size, replicas))
    block = max(1, BLOCK // replicas)
    for start in range(1, len(widths), block):
        n = np.broadcast_to(widths[start : start + block, None], (min(block, len(widths) - start), replicas))
        scale = np.logaddexp(log_w, log_adapter + np.log(generator.chisquare(rank, n.shape)))
        if architecture == "relu":
            n = generator.binomial(n, 0.5)
        with np.errstate(divide="ignore"):
            total += 0.5 * (scale + np.log(2 * generator.standard_gamma(n / 2))).sum(axis=1)
    return total.T


def _chain(
    depth: int,
    n: int,
    rank: int,
    log_w: float,
    log_adapter: Float[np.ndarray, "columns 1"],
    replicas: int,
    generator: np.random.Generator,
) -> Float[np.ndarray, "replicas columns"]:
    square = np.full((len(log_adapter), replicas), float(n))
    for _ in range(depth):
        v = n * np.exp(np.logaddexp(log_w, log_adapter + np.log(generator.chisquare(rank, replicas))))
        along, across = generator.standard_normal(replicas), generator.chisquare(n - 1, replicas)
        square = (np.sqrt(square) + np.sqrt(v) * along) ** 2 + v * across
    return 0.5 * np.log(square.T / n)
