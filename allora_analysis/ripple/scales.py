"""Standard deviations that make the comparison of worst and typical case a fair one: the study's defaults.

Rule. s_W = 1/√n (He's √(2/n) under ReLU): without adapters a typical stack neither grows nor decays. s_A = 1/√n: LoRA's
variance 1/fan-in. s_B: such that ‖BA‖ = ‖W‖ in spectral norm, m = 1, the paper's implicit choice in Θ((1 + η)^L).
Both spectral norms are taken in the limit of large width at fixed r/n. Checked by `tests/test_ripple.py` against drawn
matrices.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from allora_analysis import validation


class Scales(NamedTuple):
    """Standard deviations of the entries of W, A and B."""

    w_std: float
    a_std: float
    b_std: float


def adapter_norm_limit(width: int, rank: int) -> float:
    """‖BA‖ for B (n×r), A (r×n) with standard Gaussian entries, as n → ∞ at fixed y = r/n: n√λ.

    (1/n²)BᵀB AAᵀ is a product of two free Marchenko–Pastur variables, S-transform (1 + yz)⁻² (Voiculescu 1987; Müller
    2002): the edge λ is the least value of (1 + z)(1 + yz)²/z, at 2yz² + yz = 1. λ = 27/4 at r = n, → 1 as r/n → 0.

    Args:
        width: n.
        rank: r ≤ n.

    Returns:
        The norm.
    """
    width = validation.count("width", width)
    y = validation.adapter_rank(rank, width, width) / width
    z = (math.sqrt(y * y + 8 * y) - y) / (4 * y)
    return width * math.sqrt((1 + z) / z) * (1 + y * z)


def fair_scales(
    width: int,
    rank: int,
    architecture: str = "linear",
    w_std: float | None = None,
    a_std: float | None = None,
    b_std: float | None = None,
) -> Scales:
    """The scales of the module's rule where None is given; a given one stays, b_std follows the given w_std and a_std.

    Args:
        width: n.
        rank: r.
        architecture: "linear", "relu" or "prelayernorm".
        w_std: s_W or None.
        a_std: s_A or None.
        b_std: s_B or None; 1/√n where w_std or a_std is 0 and m = 1 thus out of reach.

    Returns:
        Three standard deviations.
    """
    validation.choice("architecture", architecture, ("linear", "relu", "prelayernorm"))
    limit, root = adapter_norm_limit(width, rank), math.sqrt(width)
    he = math.sqrt(2) if architecture == "relu" else 1.0
    w = he / root if w_std is None else validation.non_negative("w_std", w_std)
    a = 1 / root if a_std is None else validation.non_negative("a_std", a_std)
    if b_std is not None:
        return Scales(w, a, validation.non_negative("b_std", b_std))
    return Scales(w, a, 2 * root * w / (a * limit) if w * a > 0 else 1 / root)
