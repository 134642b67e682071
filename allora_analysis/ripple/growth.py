"""Typical growth: the exact mean and variance of log‖f_L(x)‖ over independent Gaussian layers.

W entries N(0, s_W²), A entries N(0, s_A²), B entries N(0, s_B²), all independent, x fixed and not 0. For a unit h, Ah
has norm² s_A²χ²_r; given it, BAh is N(0, s_B²‖Ah‖² I_n) and independent of Wh, which is N(0, s_W² I_n). Hence

    ‖(W + ηBA)h‖² = (s_W² + η²s_A²s_B²χ²_r) · χ²_n,  the two χ² independent, in law the same for every direction h,

and log‖f_L(x)‖ − log‖x‖ is a sum of L *independent* terms ½[log(s_W² + η²s_A²s_B²χ²_r) + log χ²_n] (the argument of
Newman 1986 and Hanin–Nica 2020 for products of Gaussian matrices, with the adapter's random scale added). n is the
*output* width; a layer's input width plays no part. ReLU keeps K ~ Bin(n, ½) coordinates of the isotropic output, so
that χ²_K stands for χ²_n, given K > 0.

The moments of the two logarithms are in `chi_square_moments.py`. Checked by `tests/test_ripple_growth.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from allora_analysis import validation
from allora_analysis.ripple.chi_square_moments import (
    Growth,
    log1p_chi_square,
    log_chi_square,
    log_chi_square_relu,
)
from allora_analysis.validation import ArgumentError

LARGEST = 1e100  # of η: beyond, its square times a variance leaves the range of a float


def check_scales(eta: float, w_std: float, a_std: float, b_std: float) -> tuple[float, float, float, float]:
    """η and the three standard deviations, each 0 or above, W + ηBA not identically 0.

    Args:
        eta: η.
        w_std: s_W.
        a_std: s_A.
        b_std: s_B.

    Returns:
        The four as floats.

    Raises:
        ArgumentError: a negative one, η above 1e100, or a map that is 0.
    """
    if (eta := validation.non_negative("eta", eta)) > LARGEST:
        raise ArgumentError(f"eta must be at most {LARGEST:g}, received {eta!r}")
    stds = (("w_std", w_std), ("a_std", a_std), ("b_std", b_std))
    w_std, a_std, b_std = (validation.non_negative(name, value) for name, value in stds)
    if w_std == 0 and 0 in (eta, a_std, b_std):
        raise ArgumentError(
            f"w_std is 0 and so is eta·a_std·b_std (received {eta}, {a_std}, {b_std}): give a map other than 0"
        )
    return eta, w_std, a_std, b_std


def _log_scale(rank: int, eta: float, w_std: float, a_std: float, b_std: float) -> Growth:
    # Moments of log(s_W² + η²s_A²s_B²χ²_r).
    if 0 in (eta, a_std, b_std):
        return Growth(2 * math.log(w_std), 0.0)
    log_adapter = 2 * (math.log(eta) + math.log(a_std) + math.log(b_std))
    if w_std == 0:
        mean, variance = log_chi_square(rank)
        return Growth(log_adapter + mean, variance)
    mean, variance = log1p_chi_square(rank, log_adapter - 2 * math.log(w_std))
    return Growth(2 * math.log(w_std) + mean, variance)


def growth_exponent(
    width: int, rank: int, eta: float, w_std: float, a_std: float, b_std: float, *, architecture: str = "linear"
) -> Growth:
    """Mean and variance of one layer's log growth ½[log(s_W² + η²s_A²s_B²χ²_r) + log χ²_n]; ReLU: χ²_K for χ²_n.

    Exact to a relative 1e-10 (the module's docstring). For small η the mean exceeds its value at η = 0 by about
    ½η²r s_A²s_B²/s_W²: quadratic in η where the bound's log(1 + ηm) is linear. Checked by
    `tests/test_ripple_growth.py` (mpmath, Monte Carlo) and `tests/test_ripple_monte_carlo.py` (whole networks).

    Args:
        width: the layer's output width n.
        rank: the adapter's rank r ≤ n.
        eta: the scaling factor η.
        w_std: standard deviation s_W of W's entries.
        a_std: standard deviation s_A of A's entries.
        b_std: standard deviation s_B of B's entries.
        architecture: "linear" or "relu"; ReLU's law is given that the layer's output is not 0.

    Returns:
        (mean, variance), natural logarithm.

    Examples:
        >>> from allora_analysis.ripple import growth_exponent
        >>> mean, variance = growth_exponent(2, 1, 0.0, 1.0, 1.0, 1.0)  # η = 0: ½ log χ²₂
        >>> print(round(mean, 6), round(variance, 6))  # (log 2 − γ)/2 and π²/24
        0.057966 0.411234
    """
    validation.choice("architecture", architecture, ("linear", "relu"))
    width = validation.count("width", width)
    rank = validation.adapter_rank(rank, width, width)
    scale = _log_scale(rank, *check_scales(eta, w_std, a_std, b_std))
    norm = log_chi_square(width) if architecture == "linear" else log_chi_square_relu(width)
    return Growth((scale.mean + norm.mean) / 2, (scale.variance + norm.variance) / 4)


def adapter_gain(rank: int, eta: float, w_std: float, a_std: float, b_std: float) -> float:
    """What the adapter adds to a layer's mean log growth: ½ E log(1 + ρχ²_r), ρ = (ηs_As_B/s_W)², to a relative 1e-10.

    Args:
        rank: r.
        eta: η.
        w_std: s_W, above 0.
        a_std: s_A.
        b_std: s_B.

    Returns:
        The gain, natural logarithm, ½ρr for small η.
    """
    rank, w_std = validation.count("rank", rank), validation.positive("w_std", w_std)
    eta, w_std, a_std, b_std = check_scales(eta, w_std, a_std, b_std)
    if 0 in (eta, a_std, b_std):
        return 0.0
    return log1p_chi_square(rank, 2 * (math.log(eta) + math.log(a_std) + math.log(b_std) - math.log(w_std))).mean / 2


def log_survival(depth: int, width: int) -> float:
    """Log P(no layer of a ReLU stack outputs 0) = L log(1 − 2⁻ⁿ).

    Args:
        depth: L.
        width: n.

    Returns:
        The log probability, 0 or below.
    """
    return validation.count("depth", depth) * math.log1p(-(2.0 ** -validation.count("width", width)))


def network_growth(
    widths: Sequence[int],
    rank: int,
    eta: float,
    w_std: float,
    a_std: float,
    b_std: float,
    *,
    architecture: str = "linear",
) -> Growth:
    """Mean and variance of log(‖f_L(x)‖/‖x‖): the layers' sums, as they are independent.

    Args:
        widths: n₀, …, n_L: the input's width and each layer's output width; (n,) * (L + 1) for a square stack.
        rank: r ≤ every width.
        eta: η.
        w_std: s_W.
        a_std: s_A.
        b_std: s_B.
        architecture: "linear" or "relu" (given survival).

    Returns:
        (mean, variance), natural logarithm.
    """
    outputs = check_widths(widths, rank)[1:]
    kinds, counts = np.unique(outputs, return_counts=True)
    layers = [growth_exponent(int(n), rank, eta, w_std, a_std, b_std, architecture=architecture) for n in kinds]
    mean = sum(int(times) * layer.mean for times, layer in zip(counts, layers, strict=True))
    return Growth(mean, sum(int(times) * layer.variance for times, layer in zip(counts, layers, strict=True)))


def check_widths(widths: Sequence[int], rank: int) -> tuple[int, ...]:
    """The widths n₀, …, n_L of a stack: at least one layer, each at least the rank.

    Args:
        widths: the widths.
        rank: r.

    Returns:
        The widths as ints.

    Raises:
        ArgumentError: no layer, a width below 1 or below the rank.
    """
    result = tuple(validation.count("widths", width) for width in widths)
    if len(result) < 2:
        raise ArgumentError(f"widths must name the input's and at least one layer's width, received {len(result)}")
    validation.adapter_rank(rank, min(result), min(result))
    return result


def fluctuation_band(growth: Growth, coverage: float = 0.95) -> tuple[float, float]:
    """The central interval that holds log growth with this probability, by the central limit theorem over layers.

    Args:
        growth: mean and variance.
        coverage: in (0, 1).

    Returns:
        Its two ends.

    Raises:
        ArgumentError: a coverage outside (0, 1).
    """
    from scipy.special import ndtri

    if not 0 < validation.number("coverage", coverage) < 1:
        raise ArgumentError(f"coverage must be in (0, 1), received {coverage!r}")
    half = float(ndtri((1 + coverage) / 2)) * math.sqrt(growth.variance)
    return growth.mean - half, growth.mean + half
