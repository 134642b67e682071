"""A square stack of like layers in the study's three architectures: bound, aligned network, typical growth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from allora_analysis.ripple.bounds import Layer, Scales, WorstCase, aligned, bounds_of, norms_of, residual_bound_of
from allora_analysis.ripple.growth import Growth, band_of, gain, layer_growth, residual_log, residual_root
from allora_analysis.ripple.monte_carlo import forward_growth

Norms = tuple[np.ndarray, np.ndarray]


def _period(depth: int, width: int) -> int:
    """How many distinct layers a worst case has; a deeper stack repeats them (an SVD each costs n³)."""
    return min(depth, int(np.clip(2e9 / width**3, 4, 64)))


def drawn_norms(depth: int, width: int, rank: int, scales: Scales, generator: np.random.Generator) -> Norms:
    """Spectral norms of L drawn layers, repeated after `_period`: between layers they vary by about n^{−2/3} only."""

    def layer() -> Layer:
        shapes = ((width, width), (width, rank), (rank, width))
        stds = scales.w_std, scales.b_std, scales.a_std
        return Layer(*(std * generator.standard_normal(shape) for std, shape in zip(stds, shapes, strict=True)))

    pairs = [norms_of([layer()]) for _ in range(_period(depth, width))]
    weights, adapters = (np.resize(np.concatenate(column), depth) for column in zip(*pairs, strict=True))
    return weights, adapters


def stack_bound(norms: Norms, eta: float, width: int, architecture: str) -> WorstCase:
    """`worst_case`, or for "prelayernorm" the additive bound in its place (both fields: no AM–GM step there)."""
    if architecture != "prelayernorm":
        return bounds_of(*norms, eta)
    bound = residual_bound_of(*norms, eta)
    ratio = float(np.mean(norms[1] / norms[0])) if norms[0].min() > 0 else np.inf
    return WorstCase(bound, bound, residual_bound_of(*norms, 0.0), ratio)


def aligned_growth(
    norms: Norms, rank: int, etas: Sequence[float], width: int, architecture: str, generator: np.random.Generator
) -> Float[np.ndarray, " etas"]:
    """Forward pass through an aligned network of these norms: one log growth per η, to be equal to the bound."""
    # A deep stack repeats `_period` layers. Its direction comes back to x after each, so every period adds the same.
    depth = len(norms[0])
    layers = _period(depth, width)
    weights, adapters = (values[:layers] for values in norms)
    widths = (width,) * (layers + 1)
    network = aligned(widths, rank, weights, adapters, generator, architecture, closed=True)

    def growth(count: int) -> np.ndarray:
        if count == 0:
            return np.zeros(len(etas))
        x = np.sqrt(width) * network.x
        return forward_growth(network.layers[:count], x, np.array(etas), False, architecture)

    whole, rest = divmod(depth, layers)
    if architecture == "prelayernorm":  # what a layer adds to the length does not depend on the length
        return np.log1p(whole * np.expm1(growth(layers)) + np.expm1(growth(rest)))
    return whole * growth(layers) + growth(rest)


def _squares(eta: float, scales: Scales) -> tuple[float, float]:
    # s_W² and η²s_A²s_B².
    return scales.w_std**2, (eta * scales.a_std) ** 2 * scales.b_std**2


def typical_growth(depth: int, width: int, rank: int, eta: float, scales: Scales, architecture: str) -> Growth:
    """Mean and variance of log(‖f_L‖/‖x‖); for "prelayernorm" of the root mean square's growth (`residual_growth`)."""
    if architecture == "prelayernorm":
        return residual_root(depth, width, rank, *_squares(eta, scales))
    layer = layer_growth(width, rank, eta, scales, architecture)
    return Growth(depth * layer.mean, depth * layer.variance)


def typical_band(
    depth: int, width: int, rank: int, eta: float, scales: Scales, architecture: str
) -> tuple[float, float]:
    """What holds 95 % of the networks, by `fluctuation_band` about the mean of the logarithm."""
    # For "prelayernorm" that mean is below the root mean square's growth. A normal law stands for the logarithm's:
    # there, at L = r = 1 and η = 3, the band holds 97 %. Arguments as in `typical_growth`. Checked by
    # `tests/test_ripple_study.py` and `tests/test_ripple_monte_carlo.py`.
    if architecture == "prelayernorm":
        return band_of(residual_log(depth, width, rank, *_squares(eta, scales)))
    return band_of(typical_growth(depth, width, rank, eta, scales, architecture))


def typical_adapter_share(depth: int, width: int, rank: int, eta: float, scales: Scales, architecture: str) -> float:
    """What η adds to typical log growth over η = 0, accurate however small; needs w_std > 0."""
    if architecture != "prelayernorm":
        return depth * gain(rank, eta, scales)
    w2, c = _squares(eta, scales)
    return 0.5 * float(np.log1p(depth * width * c * rank / (1 + depth * width * w2)))


def bound_adapter_share(norms: Norms, eta: float, architecture: str) -> float:
    """What η adds to the bound over η = 0, Σ log(1 + ηm_l) (additive for "prelayernorm"); needs ‖W_l‖ > 0."""
    weights, adapters = norms
    if architecture != "prelayernorm":
        return float(np.log1p(eta * adapters / weights).sum())
    return float(np.log1p(eta * adapters.sum() / (1 + weights.sum())))
