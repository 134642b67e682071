"""The pre-LayerNorm residual stack, where the *square* of the norm grows additively: √L, not exponentially.

h_l = h_{l−1} + (W_l + ηB_lA_l) LN(h_{l−1}), LN with ε = 0 and unit gain (mean subtracted, divided by the biased
standard deviation): ‖LN(h)‖² = n for every h that is not constant. Beyond the paper (§3.3 has no normalisation). With
v = n(s_W² + η²s_A²s_B²χ²_r) the branch is N(0, vI_n) given v, independent of h_{l−1}, so S = ‖h‖² is a Markov chain,

    S' = (√S + √v z)² + vχ²_{n−1},   z ~ N(0, 1), all independent,

E S_L = S₀ + L n E v, and, the cross term being uncorrelated with S, Var S_L = L Var(vχ²_n) + 4 E v Σ_{l<L} E S_l.
Given every layer's v the branches are independent Gaussian vectors and add up: with V = Σ_l v_l,

    h_L = h₀ + √V z,   z ~ N(0, I_n),   V = n(Ls_W² + η²s_A²s_B²χ²_{Lr}) independent of z,

the whole law of log S_L in two variables. Width makes z's part of its variance small, but not χ²_{Lr}'s: only many
layers or a large rank do that. Checked by `tests/test_ripple_monte_carlo.py`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from allora_analysis import validation
from allora_analysis.ripple.chi_square_moments import Growth, log_shifted_square


class SquareMoments(NamedTuple):
    """Mean and variance of ‖h_L‖²."""

    mean: float
    variance: float


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

    Args:
        depth: L.
        width: n ≥ 2, r ≤ n.
        rank: r.
        eta: η.
        w_std: s_W.
        a_std: s_A.
        b_std: s_B.
        input_square: ‖h₀‖²; n (entries of unit size) where None.

    Returns:
        (mean, variance).
    """
    depth, n, r, w2, c = _checked(depth, width, rank, eta, w_std, a_std, b_std)
    start = float(n) if input_square is None else validation.positive("input_square", input_square)
    v = n * (w2 + c * r)
    # Var(vQ) = E v² E Q² − (n E v)² with E Q² = n(n + 2) and Var v = 2r(nc)², written without the difference.
    spread = 2 * n * v * v + n * (n + 2) * 2 * r * (n * c) * (n * c)
    variance = depth * spread + 4 * v * (depth * start + n * v * depth * (depth - 1) / 2)
    return SquareMoments(start + depth * n * v, variance)


def residual_log_growth(
    depth: int, width: int, rank: int, eta: float, w_std: float, a_std: float, b_std: float
) -> Growth:
    """Mean and variance of log(‖h_L‖/‖h₀‖) from ‖h₀‖ = √n: of the logarithm itself, from the law in two variables.

    Relative error of the variance O(1/n) at every depth and rank: at r = 1, 2, 8, L = 1, 4, 64, η = 0.3 and 3 at most
    1 % measured at n = 64, 5 % at 8, 25 % at 2 (`log_shifted_square`). The delta method's Var(S_L)/(2 E S_L)² does not
    get better with n: at n = 1024, r = 1, η = 3 it is 52 % too large at L = 1, and within 3 % from L = 4 on. Checked by
    `tests/test_ripple_monte_carlo.py`.

    Args:
        depth: L.
        width: n.
        rank: r.
        eta: η.
        w_std: s_W.
        a_std: s_A.
        b_std: s_B.

    Returns:
        (mean, variance), natural logarithm; (0, 0) where no branch adds anything.
    """
    depth, n, r, w2, c = _checked(depth, width, rank, eta, w_std, a_std, b_std)
    if w2 + c == 0:
        return Growth(0.0, 0.0)
    mean, variance = log_shifted_square(n, depth * r, depth * w2, c)
    return Growth(mean / 2, variance / 4)


def residual_growth(depth: int, width: int, rank: int, eta: float, w_std: float, a_std: float, b_std: float) -> Growth:
    """½ log(E‖h_L‖²/‖h₀‖²), the log growth of the root mean square, exact, and `residual_log_growth`'s variance.

    The mean of the logarithm is lower: by half a standard deviation at L = r = 1, by 0.1 at L = 64 (n = 64, η = 3).
    Arguments as in `residual_log_growth`.

    Returns:
        (mean, variance), natural logarithm.
    """
    mean = residual_square(depth, width, rank, eta, w_std, a_std, b_std).mean
    variance = residual_log_growth(depth, width, rank, eta, w_std, a_std, b_std).variance
    return Growth(math.log(mean / width) / 2, variance)


# L, n, r, s_W² and η²s_A²s_B².
def _checked(
    depth: int, width: int, rank: int, eta: float, w_std: float, a_std: float, b_std: float
) -> tuple[int, int, int, float, float]:
    depth, n = validation.count("depth", depth), validation.count("width", width, 2)
    r = validation.adapter_rank(rank, n, n)
    w2 = validation.non_negative("w_std", w_std) ** 2
    c = (validation.non_negative("eta", eta) * validation.non_negative("a_std", a_std)) ** 2
    return depth, n, r, w2, c * validation.non_negative("b_std", b_std) ** 2
