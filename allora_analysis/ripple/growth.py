"""Typical growth: the exact mean and variance of log‖f_L(x)‖ over independent Gaussian layers.

W entries N(0, s_W²), A entries N(0, s_A²), B entries N(0, s_B²), all independent, x fixed and not 0. For a unit h, Ah
has norm² s_A²χ²_r; given it, BAh is N(0, s_B²‖Ah‖² I_n) and independent of Wh, which is N(0, s_W² I_n). Hence

    ‖(W + ηBA)h‖² = (s_W² + η²s_A²s_B²χ²_r) · χ²_n,  the two χ² independent, in law the same for every direction h,

and log‖f_L(x)‖ − log‖x‖ is a sum of L *independent* terms ½[log(s_W² + η²s_A²s_B²χ²_r) + log χ²_n] (the argument of
Newman 1986 and Hanin–Nica 2020 for products of Gaussian matrices, with the adapter's random scale added). n is the
*output* width; a layer's input width plays no part. ReLU keeps K ~ Bin(n, ½) coordinates of the isotropic output, so
that χ²_K stands for χ²_n, given K > 0.

Mean and variance of log χ² are ψ(·/2) + log 2 and ψ₁(·/2). Those of log(1 + ρχ²_r) are integrals, taken to rounding: in
t = log(χ²_r/r) the density is ∝ exp(k(t − e^t)), k = r/2; it and the integrand are analytic in the strip |Im t| < π/2
and decay exponentially, so the trapezoidal rule on the whole line converges geometrically in 1/h, for every r and ρ.
Generalized Gauss–Laguerre in χ² does not: for large ρ the integrand turns into log χ², singular at 0, where for r = 1
the density is infinite. Checked by `tests/test_ripple_growth.py` against mpmath.

**The pre-LayerNorm residual stack**, where the *square* of the norm grows additively: √L, not exponentially.
h_l = h_{l−1} + (W_l + ηB_lA_l) LN(h_{l−1}), LN with ε = 0 and unit gain (mean subtracted, divided by the biased
standard deviation): ‖LN(h)‖² = n for every h that is not constant. Beyond the paper (§3.3 has no normalization). With
v = n(s_W² + η²s_A²s_B²χ²_r) the branch is N(0, vI_n) given v, independent of h_{l−1}, so S = ‖h‖² is a Markov chain,

    S' = (√S + √v z)² + vχ²_{n−1},   z ~ N(0, 1), all independent,

E S_L = S₀ + L n E v, and, the cross term being uncorrelated with S, Var S_L = L Var(vχ²_n) + 4 E v Σ_{l<L} E S_l.
Given every layer's v the branches are independent Gaussian vectors and add up: with V = Σ_l v_l,

    h_L = h₀ + √V z,   z ~ N(0, I_n),   V = n(Ls_W² + η²s_A²s_B²χ²_{Lr}) independent of z,

the whole law of log S_L in two variables. Width makes z's part of its variance small, but not χ²_{Lr}'s: only many
layers or a large rank do that. Checked by `tests/test_ripple_monte_carlo.py`.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from allora_analysis import validation
from allora_analysis.ripple.bounds import Scales, check_widths
from allora_analysis.validation import ArgumentError

WIDEST = 10**9  # of a ReLU layer, whose law is a sum over √n numbers of units
LARGEST = 1e100  # of η: beyond, its square times a variance leaves the range of a float
TAIL = 80.0  # the density is cut where it has fallen by e^−80
MANY = 1e6  # degrees of freedom whose law is narrow


class Growth(NamedTuple):
    """Mean and variance of a log growth, natural logarithm."""

    mean: float
    variance: float


def _density(rank: int) -> tuple[Float[np.ndarray, " nodes"], Float[np.ndarray, " nodes"]]:
    # Nodes t = log(χ²_r/r) and weights (sum 1) of the trapezoidal rule.
    k = rank / 2
    # k(t − e^t + 1) ≤ −TAIL beyond both ends: t + 1 ≤ −TAIL/k on the left, t²/2 ≥ TAIL/k on the right. The left end of
    # many degrees of freedom: t − e^t + 1 ≤ −t²/2 − t³/6 ≤ −t²/3 for −1 ≤ t ≤ 0.
    low, high = -1 - TAIL / k if k < MANY else -math.sqrt(3 * TAIL / k), math.sqrt(2 * TAIL / k)
    step = min(0.125, 0.5 / math.sqrt(k))
    t = low + step * np.arange(math.ceil((high - low) / step) + 1)
    weights = np.exp(k * (t - np.expm1(t)))
    return t, weights / weights.sum()


def log1p_chi_square(rank: int, log_ratio: float) -> Growth:
    """Mean and variance of log(1 + ρχ²_r), ρ = exp(log_ratio), each to a relative 1e-10 for any ρ."""
    t, weights = _density(rank)
    shift = log_ratio + math.log(rank)
    # log(1 + e^{t+shift}) less the part that is constant where ρ is large, which would swamp the variance.
    pivot = max(0.0, shift)
    values = np.logaddexp(-pivot, t + (shift - pivot))
    mean = float(weights @ values)
    return Growth(pivot + mean, float(weights @ (values - mean) ** 2))


def _log_shifted_square(width: int, degrees: int, offset: float, scale: float) -> Growth:
    """Mean and variance of log‖e + √q z‖², e a unit vector, z ~ N(0, I_n), q = offset + scale·χ²_k independent of z."""
    # Given q the square has mean m = 1 + nq and relative variance κ = (2/n)(1 − m⁻²); a multiple of χ²_ν with these
    # two, ν = 2/κ ≥ n, stands for it (Patnaik 1949), whose logarithm has mean log m + ψ(ν/2) − log(ν/2) and variance
    # ψ₁(ν/2). Over q: quadrature. For q → ∞ exact, else to O(1/n): `tests/test_ripple_monte_carlo.py` has the measured
    # errors.
    from scipy.special import digamma, polygamma

    t, weights = _density(degrees)
    log_mean = math.log1p(width * offset) + np.log1p(width * scale * degrees / (1 + width * offset) * np.exp(t))
    half = width / 2 / np.maximum(-np.expm1(-2 * log_mean), 1e-300)  # ν/2
    means = log_mean + np.where(half > 1e6, -0.5 / half, digamma(half) - np.log(half))  # the difference cancels
    mean = float(weights @ means)
    return Growth(mean, float(weights @ ((means - mean) ** 2 + polygamma(1, half))))


def _log_chi_square(degrees: int) -> Growth:
    """Mean ψ(n/2) + log 2 and variance ψ₁(n/2) of log χ²_n."""
    from scipy.special import digamma, polygamma

    return Growth(float(digamma(degrees / 2)) + math.log(2), float(polygamma(1, degrees / 2)))


def log_chi_square_relu(width: int) -> Growth:
    """Mean and variance of log χ²_K, K ~ Bin(n, ½) given K > 0."""
    from scipy.special import digamma, gammaln, polygamma

    reach = width if width <= MANY else math.ceil(7 * math.sqrt(width))  # 14 standard deviations
    k = np.arange(max(1, width // 2 - reach), min(width, width // 2 + reach) + 1)
    weights = np.exp(gammaln(width + 1) - gammaln(k + 1) - gammaln(width - k + 1) - width * math.log(2))
    weights /= weights.sum()
    centre = digamma(k / 2)
    mean = float(weights @ centre)
    return Growth(mean + math.log(2), float(weights @ (polygamma(1, k / 2) + (centre - mean) ** 2)))


def check_scales(eta: float, w_std: float, a_std: float, b_std: float) -> tuple[float, Scales]:
    """η and the three standard deviations, each 0 or above, W + ηBA not identically 0."""
    if (eta := validation.non_negative("eta", eta)) > LARGEST:
        raise ArgumentError(f"eta must be at most {LARGEST:g}, received {eta!r}")
    stds = (("w_std", w_std), ("a_std", a_std), ("b_std", b_std))
    w_std, a_std, b_std = (validation.non_negative(name, value) for name, value in stds)
    if w_std == 0 and 0 in (eta, a_std, b_std):
        raise ArgumentError(
            f"w_std is 0 and so is eta·a_std·b_std (received {eta}, {a_std}, {b_std}): give a map other than 0"
        )
    return eta, Scales(w_std, a_std, b_std)


def _log_scale(rank: int, eta: float, scales: Scales) -> Growth:
    # Moments of log(s_W² + η²s_A²s_B²χ²_r).
    w_std, a_std, b_std = scales
    if 0 in (eta, a_std, b_std):
        return Growth(2 * math.log(w_std), 0.0)
    log_adapter = 2 * (math.log(eta) + math.log(a_std) + math.log(b_std))
    if w_std == 0:
        mean, variance = _log_chi_square(rank)
        return Growth(log_adapter + mean, variance)
    mean, variance = log1p_chi_square(rank, log_adapter - 2 * math.log(w_std))
    return Growth(2 * math.log(w_std) + mean, variance)


@validation.representable("width", "rank", "eta", "w_std", "a_std", "b_std")
def growth_exponent(
    width: int, rank: int, eta: float, w_std: float, a_std: float, b_std: float, *, architecture: str = "linear"
) -> Growth:
    """Mean and variance of one layer's log growth ½[log(s_W² + η²s_A²s_B²χ²_r) + log χ²_n]; ReLU: χ²_K for χ²_n.

    Exact to a relative 1e-10 (the module's docstring; ReLU's variance to 1e-8 from n = 1e8 on). For small η the mean
    exceeds its value at η = 0 by about ½η²r s_A²s_B²/s_W²: quadratic in η where the bound's log(1 + ηm) is linear.
    Checked by `tests/test_ripple_growth.py` (mpmath, Monte Carlo) and `tests/test_ripple_monte_carlo.py` (whole
    networks).

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
    width = validation.count("width", width, maximum=WIDEST if architecture == "relu" else None)
    rank = validation.adapter_rank(rank, width, width)
    return layer_growth(width, rank, *check_scales(eta, w_std, a_std, b_std), architecture)


def layer_growth(width: int, rank: int, eta: float, scales: Scales, architecture: str) -> Growth:
    """The core of `growth_exponent`."""
    scale = _log_scale(rank, eta, scales)
    norm = _log_chi_square(width) if architecture == "linear" else log_chi_square_relu(width)
    return Growth((scale.mean + norm.mean) / 2, (scale.variance + norm.variance) / 4)


@validation.representable("rank", "eta", "w_std", "a_std", "b_std")
def adapter_gain(rank: int, eta: float, w_std: float, a_std: float, b_std: float) -> float:
    """What the adapter adds to a layer's mean log growth: ½ E log(1 + ρχ²_r), ρ = (ηs_As_B/s_W)², to a relative 1e-10.

    Arguments as in `growth_exponent`; s_W above 0.

    Returns:
        The gain, natural logarithm, ½ρr for small η.
    """
    rank, w_std = validation.count("rank", rank), validation.positive("w_std", w_std)
    return gain(rank, *check_scales(eta, w_std, a_std, b_std))


def gain(rank: int, eta: float, scales: Scales) -> float:
    """The core of `adapter_gain`."""
    w_std, a_std, b_std = scales
    if 0 in (eta, a_std, b_std):
        return 0.0
    return log1p_chi_square(rank, 2 * (math.log(eta) + math.log(a_std) + math.log(b_std) - math.log(w_std))).mean / 2


@validation.representable("depth", "width")
def log_survival(depth: int, width: int) -> float:
    """Log P(no layer of a ReLU stack outputs 0) = L log(1 − 2⁻ⁿ).

    Args:
        depth: L.
        width: n.

    Returns:
        The log probability, 0 or below.
    """
    return validation.count("depth", depth) * math.log1p(-(2.0 ** -validation.count("width", width)))


@validation.representable("widths", "rank", "eta", "w_std", "a_std", "b_std")
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

    Arguments as in `growth_exponent`; widths n₀, …, n_L are (n,) * (L + 1) for a square stack, r is at most each.

    Returns:
        (mean, variance), natural logarithm.
    """
    validation.choice("architecture", architecture, ("linear", "relu"))
    kinds, counts = zip(*sorted(Counter(check_widths(widths, rank)[1:]).items()), strict=True)
    if architecture == "relu":
        validation.count("widths", max(kinds), maximum=WIDEST)
    eta, scales = check_scales(eta, w_std, a_std, b_std)
    layers = [layer_growth(n, rank, eta, scales, architecture) for n in kinds]
    mean = sum(times * layer.mean for times, layer in zip(counts, layers, strict=True))
    return Growth(mean, sum(times * layer.variance for times, layer in zip(counts, layers, strict=True)))


@validation.representable("growth", "coverage")
def fluctuation_band(growth: Growth, coverage: float = 0.95) -> tuple[float, float]:
    """The central interval that holds log growth with this probability, by the central limit theorem over layers.

    Args:
        growth: mean and variance.
        coverage: in (0, 1).

    Raises:
        ArgumentError: a coverage outside (0, 1), a variance below 0, a bare pair.
    """
    if not isinstance(growth, Growth):
        raise ArgumentError(f"growth must be a Growth(mean, variance), received {validation.shown(growth)}")
    validation.number("growth.mean", growth.mean)
    validation.non_negative("growth.variance", growth.variance)
    if not 0 < validation.number("coverage", coverage) < 1:
        raise ArgumentError(f"coverage must be in (0, 1), received {coverage!r}")
    return band_of(growth, coverage)


def band_of(growth: Growth, coverage: float = 0.95) -> tuple[float, float]:
    """The core of `fluctuation_band`."""
    from scipy.special import ndtri

    half = float(ndtri((1 + coverage) / 2)) * math.sqrt(growth.variance)
    return growth.mean - half, growth.mean + half


class SquareMoments(NamedTuple):
    """Mean and variance of ‖h_L‖²."""

    mean: float
    variance: float


@validation.representable("depth", "width", "rank", "eta", "w_std", "a_std", "b_std", "input_square")
def residual_square(
    depth: int,
    width: int,
    rank: int,
    eta: float,
    w_std: float,
    a_std: float,
    b_std: float,
    input_square: float | None = None,
) -> SquareMoments:
    """Exact mean ‖h₀‖² + Ln²(s_W² + η²r s_A²s_B²) and variance of ‖h_L‖².

    Arguments: L, n ≥ 2, r ≤ n, then as in `growth_exponent`; ‖h₀‖² is n (entries of unit size) where None.

    Returns:
        (mean, variance).
    """
    depth, n = validation.count("depth", depth), validation.count("width", width, 2)
    r = validation.adapter_rank(rank, n, n)
    w2 = validation.non_negative("w_std", w_std) ** 2
    c = (validation.non_negative("eta", eta) * validation.non_negative("a_std", a_std)) ** 2
    c *= validation.non_negative("b_std", b_std) ** 2
    start = float(n) if input_square is None else validation.positive("input_square", input_square)
    v = n * (w2 + c * r)
    # Var(vQ) = E v² E Q² − (n E v)² with E Q² = n(n + 2) and Var v = 2r(nc)², written without the difference.
    spread = 2 * n * v * v + n * (n + 2) * 2 * r * (n * c) * (n * c)
    variance = depth * spread + 4 * v * (depth * start + n * v * depth * (depth - 1) / 2)
    return SquareMoments(start + depth * n * v, variance)


def residual_log(depth: int, n: int, r: int, w2: float, c: float) -> Growth:
    """Mean and variance of log(‖h_L‖/‖h₀‖) from ‖h₀‖ = √n: of the logarithm itself, from the law in two variables.

    Relative error of the variance O(1/n) at every depth and rank: at r = 1, 2, 8, L = 1, 4, 64, η = 0.3 and 3 at most
    1 % measured at n = 64, 5 % at 8, 25 % at 2 (`_log_shifted_square`). The delta method's Var(S_L)/(2 E S_L)² does not
    get better with n: at n = 1024, r = 1, η = 3 it is 52 % too large at L = 1, and within 3 % from L = 4 on. Checked by
    `tests/test_ripple_monte_carlo.py`.

    Arguments: L, n, r, s_W² and η²s_A²s_B², unchecked.

    Returns:
        (mean, variance), natural logarithm; (0, 0) where no branch adds anything.
    """
    if w2 + c == 0:
        return Growth(0.0, 0.0)
    mean, variance = _log_shifted_square(n, depth * r, depth * w2, c)
    return Growth(mean / 2, variance / 4)


def residual_root(depth: int, n: int, r: int, w2: float, c: float) -> Growth:
    """½ log(E‖h_L‖²/‖h₀‖²), the log growth of the root mean square, exact, and `residual_log`'s variance.

    The mean of the logarithm is lower: by half a standard deviation at L = r = 1, by 0.1 at L = 64 (n = 64, η = 3).
    Arguments and answer as in `residual_log`.
    """
    mean = 0.5 * math.log1p(depth * n * (w2 + c * r))  # ‖h₀‖² is n, each branch adds n·n(s_W² + c·r)
    return Growth(mean, residual_log(depth, n, r, w2, c).variance)
