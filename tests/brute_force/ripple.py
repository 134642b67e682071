"""References for the ripple study: mpmath integrals, plain loops, dense SVDs. Imports nothing from the package."""

import functools
import math

import mpmath
import numpy as np


def log_scale_moments(rank, eta, w_std, a_std, b_std):
    """Mean and variance of log(1 + ρχ²_r), by mpmath at 30 digits; ρ = (η s_A s_B / s_W)².

    log1p(ρχ²) is integrated divided by ρ where ρ is small, so that the quadrature's own error
    test sees numbers of size 1.
    """
    with mpmath.workdps(50):  # more than quadrature takes for itself
        log_gamma = mpmath.loggamma(mpmath.mpf(rank) / 2)
    with mpmath.workdps(30):
        k = mpmath.mpf(rank) / 2
        ratio = (mpmath.mpf(eta) * mpmath.mpf(a_std) * mpmath.mpf(b_std) / mpmath.mpf(w_std)) ** 2
        unit = min(ratio, mpmath.mpf(1))
        centre, width = mpmath.log(k), 1 / mpmath.sqrt(k)

        @functools.cache  # both integrals have the same nodes
        def density_and_value(y):
            power = mpmath.exp(y)
            return mpmath.exp(k * y - power - log_gamma), mpmath.log1p(2 * ratio * power) / unit

        def integral(function):
            def integrand(y):
                density, value = density_and_value(y)
                return density * function(value)

            return mpmath.quad(integrand, ends)

        steps = (-60, -20, -8, -4, -2, -1, 0, 1, 2, 3, 5, 8)
        ends = [centre - 140 / k, *(centre + step * max(width, 1 / k if step < 0 else 0) for step in steps)]
        ends = sorted({end for end in ends if end <= centre + 8 * width})
        mean = integral(lambda value: value)
        variance = integral(lambda value: (value - mean) ** 2)
        return float(unit * mean), float(unit**2 * variance)


def log_chi_square_moments(n):
    """Mean and variance of log χ²_n from SciPy's log-gamma law."""
    from scipy.stats import loggamma

    mean, variance = loggamma.stats(n / 2)
    return float(mean) + math.log(2), float(variance)


def relu_log_moments(n):
    """Mean and variance of log χ²_K, K ~ Bin(n, 1/2) given K > 0, by exact integer weights."""
    weights = [math.comb(n, k) for k in range(1, n + 1)]
    total = sum(weights)
    moments = [log_chi_square_moments(k) for k in range(1, n + 1)]
    mean = sum(w * m for w, (m, _) in zip(weights, moments, strict=True)) / total
    second = sum(w * (v + m * m) for w, (m, v) in zip(weights, moments, strict=True)) / total
    return mean, second - mean * mean


def forward(layers, x, eta, architecture="linear", damped=False):
    """f_L(x), entry by entry as written in the paper, without any rescaling: shallow networks only."""
    h = np.array(x, dtype=float)
    for w, b, a in layers:
        u = h
        if architecture == "prelayernorm":
            u = (h - h.mean()) / np.sqrt(np.mean((h - h.mean()) ** 2))
        f = b @ (a @ u)
        f = f / np.sqrt(np.abs(f) + 1 / eta**2) if damped else eta * f
        y = w @ u + f
        h = h + y if architecture == "prelayernorm" else np.maximum(y, 0) if architecture == "relu" else y
    return h


def product_bound(layers, eta):
    """∏(‖W‖ + η‖BA‖) from dense singular values."""
    result = 1.0
    for w, b, a in layers:
        result *= np.linalg.svd(w, compute_uv=False)[0] + eta * np.linalg.svd(b @ a, compute_uv=False)[0]
    return result


def mean_ratio(layers):
    """(1/L) Σ ‖B_lA_l‖/‖W_l‖ from dense singular values."""
    norms = [(np.linalg.svd(b @ a, compute_uv=False)[0], np.linalg.svd(w, compute_uv=False)[0]) for w, b, a in layers]
    return sum(ba / w for ba, w in norms) / len(norms)


def constant(layers):
    """C = ∏‖W_l‖."""
    return math.prod(np.linalg.svd(w, compute_uv=False)[0] for w, _, _ in layers)


def residual_second_moment(depth, n, r, eta, w_std, a_std, b_std):
    """E‖h_L‖⁴ by recursion over exact conditional moments of S' = S + 2√S√v z + vQ, starting from S = n."""
    c = eta**2 * a_std**2 * b_std**2
    v1 = n * (w_std**2 + c * r)
    v2 = n**2 * (w_std**4 + 2 * w_std**2 * c * r + c**2 * r * (r + 2))
    first, second = float(n), float(n) ** 2
    for _ in range(depth):
        # E S'² = E S² + 4 E S E v + E v² E Q² + 2 E S E v n; Q = z² + χ²_{n−1} and z have E zQ = 0.
        second = second + 4 * first * v1 + v2 * n * (n + 2) + 2 * first * v1 * n
        first += v1 * n
    return first, second
