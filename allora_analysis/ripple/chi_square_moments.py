"""Mean and variance of log χ²_n, log(1 + ρχ²_r), and log χ²_K for a binomial K: exact to rounding; of log‖e + √q z‖².

Mean and variance of log χ² are ψ(·/2) + log 2 and ψ₁(·/2). Those of log(1 + ρχ²_r) are integrals, taken to rounding: in
t = log(χ²_r/r) the density is ∝ exp(k(t − e^t)), k = r/2; it and the integrand are analytic in the strip |Im t| < π/2
and decay exponentially, so the trapezoidal rule on the whole line converges geometrically in 1/h, for every r and ρ.
Generalised Gauss–Laguerre in χ² does not: for large ρ the integrand turns into log χ², singular at 0, where for r = 1
the density is infinite. Checked by `tests/test_ripple_growth.py` against mpmath.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

TAIL = 80.0  # the density is cut where it has fallen by e^−80


class Growth(NamedTuple):
    """Mean and variance of a log growth, natural logarithm."""

    mean: float
    variance: float


def _density(rank: int) -> tuple[Float[np.ndarray, " nodes"], Float[np.ndarray, " nodes"]]:
    # Nodes t = log(χ²_r/r) and weights (sum 1) of the trapezoidal rule.
    k = rank / 2
    # k(t − e^t + 1) ≤ −TAIL beyond both ends: t + 1 ≤ −TAIL/k on the left, t²/2 ≥ TAIL/k on the right.
    low, high = -1 - TAIL / k, math.sqrt(2 * TAIL / k)
    step = min(0.125, 0.5 / math.sqrt(k))
    t = low + step * np.arange(math.ceil((high - low) / step) + 1)
    weights = np.exp(k * (t - np.expm1(t)))
    return t, weights / weights.sum()


def log1p_chi_square(rank: int, log_ratio: float) -> Growth:
    """Mean and variance of log(1 + ρχ²_r), ρ = exp(log_ratio), each to a relative 1e-10 for any ρ.

    Args:
        rank: r, the degrees of freedom.
        log_ratio: log ρ.

    Returns:
        The two moments; both tend to 0 with ρ, and relative accuracy stays.
    """
    t, weights = _density(rank)
    shift = log_ratio + math.log(rank)
    # log(1 + e^{t+shift}) less the part that is constant where ρ is large, which would swamp the variance.
    pivot = max(0.0, shift)
    values = np.logaddexp(-pivot, t + (shift - pivot))
    mean = float(weights @ values)
    return Growth(pivot + mean, float(weights @ (values - mean) ** 2))


def log_shifted_square(width: int, degrees: int, offset: float, scale: float) -> Growth:
    """Mean and variance of log‖e + √q z‖², e a unit vector, z ~ N(0, I_n), q = offset + scale·χ²_k independent of z.

    Given q the square has mean m = 1 + nq and relative variance κ = (2/n)(1 − m⁻²); a multiple of χ²_ν with these two,
    ν = 2/κ ≥ n, stands for it (Patnaik 1949), whose logarithm has mean log m + ψ(ν/2) − log(ν/2) and variance ψ₁(ν/2).
    Over q: quadrature. For q → ∞ exact, else to O(1/n): `tests/test_ripple_monte_carlo.py` has the measured errors.

    Args:
        width: n.
        degrees: k.
        offset: q's least value, 0 or above.
        scale: what multiplies χ²_k, 0 or above; not both 0.

    Returns:
        The two moments.
    """
    from scipy.special import digamma, polygamma

    t, weights = _density(degrees)
    log_mean = math.log1p(width * offset) + np.log1p(width * scale * degrees / (1 + width * offset) * np.exp(t))
    half = width / 2 / np.maximum(-np.expm1(-2 * log_mean), 1e-300)  # ν/2
    means = log_mean + np.where(half > 1e6, -0.5 / half, digamma(half) - np.log(half))  # the difference cancels
    mean = float(weights @ means)
    return Growth(mean, float(weights @ ((means - mean) ** 2 + polygamma(1, half))))


def log_chi_square(degrees: int) -> Growth:
    """Mean ψ(n/2) + log 2 and variance ψ₁(n/2) of log χ²_n.

    Args:
        degrees: n.

    Returns:
        The two moments.
    """
    from scipy.special import digamma, polygamma

    return Growth(float(digamma(degrees / 2)) + math.log(2), float(polygamma(1, degrees / 2)))


def log_chi_square_relu(width: int) -> Growth:
    """Mean and variance of log χ²_K, K ~ Bin(n, ½) given K > 0.

    Args:
        width: n.

    Returns:
        E ψ(K/2) + log 2 and E ψ₁(K/2) + Var ψ(K/2) under the conditioned binomial.
    """
    from scipy.special import digamma, gammaln, polygamma

    k = np.arange(1, width + 1)
    weights = np.exp(gammaln(width + 1) - gammaln(k + 1) - gammaln(width - k + 1) - width * math.log(2))
    weights /= weights.sum()
    centre = digamma(k / 2)
    mean = float(weights @ centre)
    return Growth(mean + math.log(2), float(weights @ (polygamma(1, k / 2) + (centre - mean) ** 2)))
