"""The pre-LayerNorm residual stack, where the *square* of the norm grows additively: √L, not exponentially.

h_l = h_{l−1} + (W_l + ηB_lA_l) LN(h_{l−1}), LN with ε = 0 and unit gain (mean subtracted, divided by the biased
standard deviation): ‖LN(h)‖² = n for every h that is not constant. Beyond the paper (§3.3 has no normalisation). With
v = n(s_W² + η²s_A²s_B²χ²_r) the branch is N(0, vI_n) given v, independent of h_{l−1}, so S = ‖h‖² is a Markov chain,

    S' = (√S + √v z)² + vχ²_{n−1},   z ~ N(0, 1), all independent,

E S_L = S₀ + L n E v, and, the cross term being uncorrelated with S, Var S_L = L Var(vχ²_n) + 4 E v Σ_{l<L} E S_l.
Checked by `tests/test_ripple_monte_carlo.py`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from allora_analysis import validation
from allora_analysis.ripple.growth import Growth


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
    depth, n = validation.count("depth", depth), validation.count("width", width, 2)
    r = validation.adapter_rank(rank, n, n)
    start = float(n) if input_square is None else validation.positive("input_square", input_square)
    w2 = validation.non_negative("w_std", w_std) ** 2
    c = (validation.non_negative("eta", eta) * validation.non_negative("a_std", a_std)) ** 2
    c *= validation.non_negative("b_std", b_std) ** 2
    v = n * (w2 + c * r)
    # Var(vQ) = E v² E Q² − (n E v)² with E Q² = n(n + 2) and Var v = 2r(nc)², written without the difference.
    spread = 2 * n * v * v + n * (n + 2) * 2 * r * (n * c) ** 2
    variance = depth * spread + 4 * v * (depth * start + n * v * depth * (depth - 1) / 2)
    return SquareMoments(start + depth * n * v, variance)


def residual_growth(depth: int, width: int, rank: int, eta: float, w_std: float, a_std: float, b_std: float) -> Growth:
    """½ log(E‖h_L‖²/‖h₀‖²) from ‖h₀‖ = √n, the log growth of the root mean square, and a network's variance about it.

    The mean is exact; the variance is Var(S_L)/(2 E S_L)², the delta method's, relative error O(1/n).

    Args:
        depth: L.
        width: n.
        rank: r.
        eta: η.
        w_std: s_W.
        a_std: s_A.
        b_std: s_B.

    Returns:
        (mean, variance), natural logarithm.
    """
    mean, variance = residual_square(depth, width, rank, eta, w_std, a_std, b_std)
    return Growth(math.log(mean / width) / 2, variance / (2 * mean) ** 2)
