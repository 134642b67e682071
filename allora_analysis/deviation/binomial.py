"""Binomial probabilities and mean absolute deviations to nearly full precision, for counts up to 10¹².

Differences of log Γ lose 10⁻³ at such counts; Loader's saddle-point form loses nothing: each term is a small quantity
computed as such. Source: C. Loader (2000), "Fast and accurate computation of binomial probabilities". Checked against
mpmath by `tests/test_deviation_binomial.py`.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

# log n! − log(√(2πn)(n/e)ⁿ) below 16, where Stirling's series is not yet exact to rounding; entry 0 is never used.
_SMALL = np.array(
    [0.0] + [math.log(math.factorial(k) / k**k * math.exp(k) / math.sqrt(2 * math.pi * k)) for k in range(1, 16)]
)


def stirling_error(k: Float[np.ndarray, " size"]) -> Float[np.ndarray, " size"]:
    """The logarithm of k! over √(2πk)(k/e)ᵏ, for whole k ≥ 1.

    Args:
        k: whole numbers, as floats.

    Returns:
        The remainder of Stirling's formula.
    """
    square = 1 / np.maximum(k, 16.0) ** 2
    series = 1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188)))
    return np.where(k < 16, _SMALL[np.minimum(k, 15).astype(int)], series / np.maximum(k, 16.0))


def relative_entropy(gap: Float[np.ndarray, " size"], mean: Float[np.ndarray, " size"]) -> Float[np.ndarray, " size"]:
    """m·h(g/m) with h(ε) = (1 + ε)log(1 + ε) − ε, free of cancellation near g = 0.

    Args:
        gap: g = value − m, where value ≥ 0.
        mean: m > 0.

    Returns:
        The deviance term, ≥ 0.
    """
    value = mean + gap
    v = gap / (value + mean)
    square = np.minimum(v**2, 0.01)
    series = sum(square**j / (2 * j + 1) for j in range(9, 0, -1))
    near = gap * v + 2 * value * v * series
    far = value * np.log(np.maximum(value, 1e-300) / mean) - gap
    return np.where(np.abs(v) < 0.1, near, far)


def probabilities(
    k: Float[np.ndarray, " size"], trials: Float[np.ndarray, " size"], probability: float
) -> Float[np.ndarray, " size"]:
    """P(K = k) for K ~ Bin(trials, probability), entry by entry.

    Args:
        k: whole numbers in [0, trials].
        trials: whole numbers ≥ 1.
        probability: in (0, ½] (count the rarer outcome).

    Returns:
        The probabilities, to about 10⁻¹⁴ relative where they exceed 10⁻³⁰.
    """
    inner = np.clip(k, 1, np.maximum(trials - 1, 1))
    rest = np.maximum(trials - inner, 1)
    gap = inner - trials * probability
    exponent = stirling_error(trials) - stirling_error(inner) - stirling_error(rest)
    exponent -= relative_entropy(gap, trials * probability) + relative_entropy(-gap, trials * (1 - probability))
    saddle = np.sqrt(trials / (2 * np.pi * inner * rest)) * np.exp(exponent)
    none, every = np.exp(trials * math.log1p(-probability)), np.exp(trials * math.log(probability))
    return np.where(k == 0, none, np.where(k == trials, every, saddle))


def mean_absolute_deviation(trials: Float[np.ndarray, " size"], probability: float) -> Float[np.ndarray, " size"]:
    """E|K − Np| = 2ν(1 − p)P(K = ν), ν = ⌊Np⌋ + 1, for K ~ Bin(N, p): de Moivre (1730).

    The value is continuous where Np is whole, so a rounded ⌊Np⌋ does no harm.

    Args:
        trials: N, whole numbers ≥ 1.
        probability: p in (0, ½].

    Returns:
        The deviations.
    """
    above = np.floor(trials * probability) + 1
    return 2 * above * (1 - probability) * probabilities(above, trials, probability)


def window(trials: float, probability: float) -> Float[np.ndarray, " size"]:
    """The values of K that matter: outside, Bin(trials, probability) has mass below 2·10⁻²² (Bernstein's inequality).

    Args:
        trials: N.
        probability: p.

    Returns:
        Consecutive whole numbers.
    """
    low, high = _ends(trials, probability)
    return np.arange(low, high + 1, dtype=np.float64)


def window_length(trials: float, probability: float) -> int:
    """How many values `window` has, without them.

    Args:
        trials: N.
        probability: p.

    Returns:
        The number.
    """
    low, high = _ends(trials, probability)
    return int(high - low) + 1


def _ends(trials: float, probability: float) -> tuple[float, float]:
    exponent = 51.0
    reach = exponent / 3 + math.sqrt(exponent**2 / 9 + 2 * exponent * trials * probability * (1 - probability))
    low = max(0, math.floor(trials * probability - reach))
    return low, min(trials, math.ceil(trials * probability + reach))
