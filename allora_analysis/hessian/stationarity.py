"""Is LoRA's start stationary, and how is it left: gradient flow in (B, A) near zero, in closed form.

B = 0 with A random is no critical point: ∇_B = GAᵀ. Only A = B = 0 is, a saddle left like e^{σ₁t}.
Units: gradient flow (Ḃ, Ȧ) = −∇L, so t is learning rate × steps. Checked by `tests/test_hessian_escape.py` against
SciPy's integrator.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.validation import ArgumentError, adapter_rank, count, matrix, matrix_of, non_negative, positive

EPSILON = float(np.finfo(np.float64).eps)


def factor_gradient(
    g: ArrayLike, a: ArrayLike, b: ArrayLike | None = None
) -> tuple[Float[np.ndarray, "n1 r"], Float[np.ndarray, "r n2"]]:
    """(∇_B L, ∇_A L) = (GAᵀ, BᵀG), G = ∂L/∂(BA) at these A and B. With B = 0: (GAᵀ, 0).

    Checked by `tests/test_hessian_escape.py::test_factor_gradient_is_autograds`.

    Args:
        g: G (n₁×n₂).
        a: A (r×n₂).
        b: B (n₁×r); None for 0.

    Returns:
        The gradients, shaped like B and A.
    """
    g, a, b = _checked(g, a, b)
    return g @ a.T, b.T @ g


def is_stationary(g: ArrayLike, a: ArrayLike, b: ArrayLike | None = None) -> bool:
    """Whether (B, A) is a critical point: GAᵀ = 0 and BᵀG = 0, up to the products' own rounding error.

    Of the usual initialisations only A = B = 0 is one (or G = 0, where there is nothing to learn). Where B = 0, so also
    if A's rows happen to lie in G's kernel. Checked by `tests/test_hessian_escape.py::test_is_stationary`.

    Args:
        g: G (n₁×n₂) = ∂L/∂(BA) at these A and B.
        a: A (r×n₂).
        b: B (n₁×r); None for 0.

    Returns:
        The answer.

    Examples:
        >>> from allora_analysis.hessian import is_stationary
        >>> is_stationary(g=[[3.0]], a=[[2.0]]), is_stationary(g=[[3.0]], a=[[0.0]])  # LoRA's start; A = B = 0
        (False, True)
    """
    g, a, b = _checked(g, a, b)
    limit = max(g.shape) * EPSILON * float(np.linalg.norm(g))
    return all(
        bool(np.linalg.norm(product) <= limit * np.linalg.norm(factor))
        for product, factor in ((g @ a.T, a), (b.T @ g, b))
    )


def escape_rate(g: ArrayLike) -> float:
    """σ₁(G): the rate of gradient flow's escape from A = B = 0, (B, A) ~ e^{σ₁t}; −σ₁ is the lowest eigenvalue.

    Checked by `tests/test_hessian_escape.py::test_escape_time_against_the_flow`.

    Args:
        g: G (n₁×n₂) at A = B = 0.

    Returns:
        The rate, per unit of learning rate × steps; 0 where G = 0.
    """
    return float(np.linalg.svd(matrix("g", g), compute_uv=False)[0])


def escape_time(g: ArrayLike, epsilon: float) -> float:
    """log(1/ε)/σ₁(G): gradient flow's time from A and B of size ε to size 1, to leading order in log(1/ε).

    It diverges as ε → 0; from B = 0 and a random A of fixed size the time is finite at ε = 0.
    Checked by `tests/test_hessian_escape.py::test_escape_time_against_the_flow`.

    Args:
        g: G (n₁×n₂) at A = B = 0.
        epsilon: the size of the first A and B, in (0, 1].

    Returns:
        The time in learning rate × steps; ∞ where G = 0.

    Raises:
        ArgumentError: epsilon outside (0, 1].

    Examples:
        >>> import math
        >>> from allora_analysis.hessian import escape_time
        >>> print(round(escape_time([[2.0]], epsilon=math.exp(-6)), 9))  # log(1/ε)/σ₁
        3.0
    """
    if positive("epsilon", epsilon) > 1:
        raise ArgumentError(f"epsilon must be in (0, 1], received {epsilon!r}")
    rate = escape_rate(g)
    return -math.log(epsilon) / rate if rate else math.inf


def linearised_flow(
    g: ArrayLike, a: ArrayLike, b: ArrayLike, time: float
) -> tuple[Float[np.ndarray, "n1 r"], Float[np.ndarray, "r n2"]]:
    """Gradient flow linearised at A = B = 0: Ḃ = −GAᵀ, Ȧ = −BᵀG, solved through G = UΣVᵀ.

    UᵀB(t) = cosh(Σt) UᵀB − sinh(Σt) VᵀAᵀ and the same with B and Aᵀ, U and V exchanged; null directions of G rest. By
    modes: (UᵀB − VᵀAᵀ)/2 grows as e^{Σt}, (UᵀB + VᵀAᵀ)/2 decays as e^{−Σt}.
    Checked by `tests/test_hessian_escape.py::test_linearised_flow`.

    Args:
        g: G (n₁×n₂) at A = B = 0.
        a: A (r×n₂) at time 0, small.
        b: B (n₁×r) at time 0, small.
        time: t, 0 or above, in learning rate × steps.

    Returns:
        (B(t), A(t)).

    Raises:
        ArgumentError: a time after which e^{σ₁(G)·t} has left float64's range.
    """
    g, a, b = _checked(g, a, b)
    time = non_negative("time", time)
    with np.errstate(over="ignore", invalid="ignore"):
        flow = _flow(g, a, b, time)
    if not all(np.isfinite(part).all() for part in flow):
        raise ArgumentError(
            f"time: by {time:g} the flow has left float64's range (it grows as e^{{σ₁·time}}, σ₁ = {escape_rate(g):g}; "
            "e^709 is the largest); give a shorter one"
        )
    return flow


def _flow(
    g: Float[np.ndarray, "n1 n2"], a: Float[np.ndarray, "r n2"], b: Float[np.ndarray, "n1 r"], time: float
) -> tuple[Float[np.ndarray, "n1 r"], Float[np.ndarray, "r n2"]]:
    u, sigma, vt = np.linalg.svd(g, full_matrices=False)
    exponent, left, right = (sigma * time)[:, None], u.T @ b, vt @ a.T
    rising, falling = (left - right) / 2, (left + right) / 2
    grown = np.where(rising == 0, 0.0, np.expm1(exponent) * rising)
    decayed = np.expm1(-exponent) * falling
    return b + u @ (decayed + grown), a + (decayed - grown).T @ vt


def initial_speed_ratio(n2: int, rank: int, a_std: float) -> float:
    """Root mean square over A of ‖d(BA)/dt‖/‖dΔ/dt‖ at B = 0: s²√(r(n₂ + r + 1)) for A with i.i.d. N(0, s²) entries.

    d(BA)/dt = −GAᵀA where full fine-tuning has −G, at one learning rate; E(AᵀA)² = s⁴r(n₂ + r + 1)I (Wishart), so the
    ratio does not depend on G. Below 1, LoRA's module starts slower than Δ, above 1 faster: A's scale decides, not B's.
    Checked by `tests/test_hessian_escape.py::test_initial_speed_ratio`.

    Args:
        n2: n₂, the module's input size.
        rank: r.
        a_std: s, the standard deviation of A's entries.

    Returns:
        The ratio.
    """
    n2, rank = count("n2", n2), count("rank", rank)
    return positive("a_std", a_std) ** 2 * math.sqrt(rank * (n2 + rank + 1))


def _checked(g: ArrayLike, a: ArrayLike, b: ArrayLike | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    g = matrix("g", g)
    a = matrix_of("a", a, (None, g.shape[1]), "n2, the columns of g")
    adapter_rank(len(a), *g.shape)
    shape = (len(g), len(a))
    return g, a, np.zeros(shape) if b is None else matrix_of("b", b, shape, "n1 of g and r of a")
