"""§3.2 in LoRA's own parameters (B, A): the Hessian's spectrum at B = 0, and how gradient flow leaves the start.

With P = BA the part of a squared loss that matters is L(B, A) = ⟨G, P⟩ + ‖XPᵀ‖²_F + const: G = ∂L/∂P at P = 0
(n₁×n₂), X (N×n₂) the rows fed to x ↦ (W* + BA)x. For L = ‖X(W* + BA)ᵀ − Y‖²_F (summed over samples, η = 1) that is
exact with G = −2RᵀX, R = Y − XW*ᵀ. Another scale enters through the arguments: for c·L and a module ηBA pass √c·η·X
and c·η·G. To second order around B = 0 a step (β, α) changes L by

    ⟨G, βA⟩ + ⟨G, βα⟩ + tr(β M βᵀ),    M = ASAᵀ, S = XᵀX,

so H(β, α) = (2βM + Gαᵀ, βᵀG). In the eigenbasis of M (q_k) and the singular bases of G (σ_i) H falls apart into the
blocks [[2q_k, σ_i], [σ_i, 0]], into 2q_k for left null directions of G, and into 0 for right ones.

B = 0 with A random is no critical point: ∇_B = GAᵀ. Only A = B = 0 is, a saddle left like e^{σ₁t} by gradient flow
(Ḃ, Ȧ) = −∇L; its time t is learning rate × steps.

`dense_factor_hessian` and `simulated_escape_time` use no closed form. Checked by `tests/test_hessian.py` against
automatic differentiation's dense Hessian and by `tests/test_hessian_escape.py` against SciPy's integrator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from allora_analysis.validation import ArgumentError, adapter_rank, count, matrix, matrix_of, non_negative, positive

EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class FactorSpectrum:
    """The distinct eigenvalues, ascending, each with its multiplicity; multiplicities add up to r(n₁ + n₂)."""

    values: Float[np.ndarray, " distinct"]
    multiplicities: Int[np.ndarray, " distinct"]


@dataclass(frozen=True)
class Inertia:
    """How many eigenvalues are negative, zero and positive; they add up to r(n₁ + n₂)."""

    negative: int
    zero: int
    positive: int


def factor_spectrum_multiplicities(
    x: ArrayLike, g: ArrayLike, a: ArrayLike, *, g_tolerance: float | None = None
) -> FactorSpectrum:
    """The eigenvalues of the (B, A) Hessian at B = 0 with multiplicities, in closed form.

    For every eigenvalue q_k of ASAᵀ and every non-zero singular value σ_i of G: q_k + √(q_k² + σ_i²) and
    −σ_i²/(q_k + √(q_k² + σ_i²)); for every k, n₁ − rank G copies of 2q_k and n₂ − rank G zeros. At A = 0: ±σ_i, r times
    each. Source: this toolkit (the paper has no Hessian in A and B); derivation in the module's docstring.
    Ranks are numerical: G's at max(n₁, n₂)·ε·σ₁ or `g_tolerance`, XAᵀ's at the rounding error of that product.
    Checked by `tests/test_hessian.py::test_factor_spectrum_is_autograds`.

    Args:
        x: X (N×n₂), the module's inputs as rows.
        g: G (n₁×n₂) = ∂L/∂(BA) at B = 0; any matrix.
        a: A (r×n₂), r ≤ min(n₁, n₂).
        g_tolerance: singular values of G up to this count as 0; None for G's own rounding error. Give one where G
            itself is what cancellation left, as at a least-squares optimum.

    Returns:
        Distinct eigenvalues, ascending, and their multiplicities.
    """
    x, g, a = _with_x(x, g, a)
    sigma, q = _gradient_values(g, g_tolerance), _curvatures(x, a)
    return _assemble(q, sigma, *g.shape)


def factor_spectrum(
    x: ArrayLike, g: ArrayLike, a: ArrayLike, *, g_tolerance: float | None = None
) -> Float[np.ndarray, " parameters"]:
    """All r(n₁ + n₂) eigenvalues of the (B, A) Hessian at B = 0, ascending; see `factor_spectrum_multiplicities`.

    Costs one SVD of G and one of XAᵀ: O(n₁n₂·min(n₁, n₂) + N·n₂·r), no matrix of size r(n₁ + n₂).
    Checked by `tests/test_hessian.py::test_factor_spectrum_is_autograds`.

    Arguments as in `factor_spectrum_multiplicities`.

    Returns:
        The eigenvalues, ascending, accurate to rounding relative to the largest.

    Examples:
        >>> from allora_analysis.hessian import factor_spectrum
        >>> factor_spectrum(x=[[1.0]], g=[[3.0]], a=[[2.0]]).round(9).tolist()  # q = 4, σ = 3: 4 ± 5
        [-1.0, 9.0]
    """
    spectrum = factor_spectrum_multiplicities(x, g, a, g_tolerance=g_tolerance)
    return np.repeat(spectrum.values, spectrum.multiplicities)


def inertia(x: ArrayLike, g: ArrayLike, a: ArrayLike, *, g_tolerance: float | None = None) -> Inertia:
    """The (B, A) Hessian's inertia at B = 0, from the ranks of G and XAᵀ, never from the signs of small numbers.

    n₋ = r·rank G, n₊ = r·rank G + (n₁ − rank G)·rank(XAᵀ), the rest 0. A negative eigenvalue −σ²/(q + √(q² + σ²)) with
    σ ≪ q can lie far below the rounding error of the largest one, and is counted all the same.
    Checked by `tests/test_hessian.py::test_inertia`.

    Arguments as in `factor_spectrum_multiplicities`.

    Returns:
        The three counts.

    Examples:
        >>> from allora_analysis.hessian import inertia
        >>> inertia(x=[[1.0, 0.0]], g=[[3.0, 0.0]], a=[[2.0, 0.0]])
        Inertia(negative=1, zero=1, positive=1)
    """
    x, g, a = _with_x(x, g, a)
    (n1, n2), rank = g.shape, len(a)
    gradient_rank, curved = len(_gradient_values(g, g_tolerance)), int(np.count_nonzero(_curvatures(x, a)))
    negative, positive = rank * gradient_rank, rank * gradient_rank + (n1 - gradient_rank) * curved
    return Inertia(negative, rank * (n1 + n2) - negative - positive, positive)


def _gradient_values(g: Float[np.ndarray, "n1 n2"], tolerance: float | None) -> Float[np.ndarray, " rank_g"]:
    # The non-zero singular values σ_i of G.
    sigma = np.linalg.svd(g, compute_uv=False)
    limit = max(g.shape) * EPSILON * sigma[0] if tolerance is None else non_negative("g_tolerance", tolerance)
    return sigma[sigma > limit]


def _curvatures(x: Float[np.ndarray, "N n2"], a: Float[np.ndarray, "r n2"]) -> Float[np.ndarray, " r"]:
    # The eigenvalues q_k of ASAᵀ: squared singular values of XAᵀ, exactly 0 below the product's rounding error.
    singular = np.linalg.svd(x @ a.T, compute_uv=False)
    limit = max(*x.shape, len(a)) * EPSILON * float(np.linalg.norm(x)) * float(np.linalg.norm(a))
    q = np.zeros(len(a))
    q[: len(singular)] = np.where(singular > limit, singular, 0.0) ** 2
    return q


def _assemble(q: Float[np.ndarray, " r"], sigma: Float[np.ndarray, " rank_g"], n1: int, n2: int) -> FactorSpectrum:
    top = q[:, None] + np.hypot(q[:, None], sigma)
    # q − √(q² + σ²) loses every digit where σ ≪ q; this form none.
    bottom = -sigma * (sigma / top)
    values = np.concatenate([top.ravel(), bottom.ravel(), 2 * q, np.zeros(1)])
    pairs = np.ones(2 * q.size * sigma.size, dtype=np.int64)
    null = [np.full(q.size, n1 - sigma.size), np.array([q.size * (n2 - sigma.size)])]
    copies = np.concatenate([pairs, *null])
    distinct, which = np.unique(values[copies > 0], return_inverse=True)
    return FactorSpectrum(distinct, np.bincount(which, weights=copies[copies > 0]).astype(np.int64))


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
    g, a, b = _with_b(g, a, b)
    return g @ a.T, b.T @ g


def is_stationary(g: ArrayLike, a: ArrayLike, b: ArrayLike | None = None) -> bool:
    """Whether (B, A) is a critical point: GAᵀ = 0 and BᵀG = 0, up to the products' own rounding error.

    Of the usual initialisations only A = B = 0 is one (or G = 0, where there is nothing to learn). Where B = 0, so also
    if A's rows happen to lie in G's kernel. Arguments as in `factor_gradient`.
    Checked by `tests/test_hessian_escape.py::test_is_stationary`.

    Returns:
        The answer.

    Examples:
        >>> from allora_analysis.hessian import is_stationary
        >>> is_stationary(g=[[3.0]], a=[[2.0]]), is_stationary(g=[[3.0]], a=[[0.0]])  # LoRA's start; A = B = 0
        (False, True)
    """
    g, a, b = _with_b(g, a, b)
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
    g, a, b = _with_b(g, a, b)
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


def _gradient_and_a(g: ArrayLike, a: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    g = matrix("g", g)
    a = matrix_of("a", a, (None, g.shape[1]), "n2, the columns of g")
    adapter_rank(len(a), *g.shape)
    return g, a


def _with_x(x: ArrayLike, g: ArrayLike, a: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    g, a = _gradient_and_a(g, a)
    return matrix_of("x", x, (None, g.shape[1]), "n2, the columns of g"), g, a


def _with_b(g: ArrayLike, a: ArrayLike, b: ArrayLike | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    g, a = _gradient_and_a(g, a)
    shape = (len(g), len(a))
    return g, a, np.zeros(shape) if b is None else matrix_of("b", b, shape, "n1 of g and r of a")


def loss_gradient(
    x: Float[np.ndarray, "N n2"],
    g: Float[np.ndarray, "n1 n2"],
    b: Float[np.ndarray, "n1 r"],
    a: Float[np.ndarray, "r n2"],
) -> tuple[Float[np.ndarray, "n1 r"], Float[np.ndarray, "r n2"]]:
    """∇_B and ∇_A of L(B, A) = ⟨G, BA⟩ + ‖X(BA)ᵀ‖²_F, anywhere."""
    outer = g + 2 * (b @ (a @ x.T)) @ x
    return outer @ a.T, b.T @ outer


def dense_factor_hessian(x: ArrayLike, g: ArrayLike, a: ArrayLike) -> Float[np.ndarray, "parameters parameters"]:
    """The (B, A) Hessian at B = 0 by central differences of the gradient, coordinate by coordinate; small sizes only.

    Exact up to rounding at any step: from B = 0 a step along one coordinate changes the gradient by a polynomial of
    degree 2, whose even part central differences remove. Order: B row by row, then A row by row.

    Args:
        x: X (N×n₂).
        g: G (n₁×n₂).
        a: A (r×n₂).

    Returns:
        The symmetric matrix, r(n₁ + n₂) square.
    """
    g = matrix("g", g)
    x, a = (matrix_of(name, value, (None, g.shape[1]), "n2 of g") for name, value in (("x", x), ("a", a)))
    split, step = len(g) * len(a), float(np.abs(a).max()) or 1.0
    point = np.concatenate([np.zeros(split), a.ravel()])

    def gradient(theta: np.ndarray) -> np.ndarray:
        b_part, a_part = loss_gradient(x, g, theta[:split].reshape(len(g), -1), theta[split:].reshape(a.shape))
        return np.concatenate([b_part.ravel(), a_part.ravel()])

    steps = step * np.eye(len(point))
    return np.array([(gradient(point + e) - gradient(point - e)) / (2 * step) for e in steps])


def simulated_escape_time(x: ArrayLike, g: ArrayLike, a: ArrayLike, b: ArrayLike, size: float) -> float | None:
    """Gradient flow of the full quartic loss from (B, A) until ‖BA‖_F = size, by SciPy's DOP853.

    Args:
        x: X (N×n₂).
        g: G (n₁×n₂).
        a: A (r×n₂) at time 0.
        b: B (n₁×r) at time 0.
        size: the norm to reach.

    Returns:
        The time in learning rate × steps; None where the flow has not got there by 10⁶/σ₁(G).
    """
    from scipy.integrate import solve_ivp

    g, size = matrix("g", g), positive("size", size)
    x, a = (matrix_of(name, value, (None, g.shape[1]), "n2 of g") for name, value in (("x", x), ("a", a)))
    b = matrix_of("b", b, (len(g), len(a)), "n1 of g and r of a")
    split = b.size

    def parts(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return theta[:split].reshape(b.shape), theta[split:].reshape(a.shape)

    def velocity(_time: float, theta: np.ndarray) -> np.ndarray:
        return -np.concatenate([part.ravel() for part in loss_gradient(x, g, *parts(theta))])

    def arrived(_time: float, theta: np.ndarray) -> float:
        return float(np.linalg.norm(np.matmul(*parts(theta)))) - size

    arrived.terminal, arrived.direction = True, 1.0
    horizon = 1e6 / (float(np.linalg.norm(g, 2)) or 1.0)
    start = np.concatenate([b.ravel(), a.ravel()])
    answer = solve_ivp(velocity, (0.0, horizon), start, "DOP853", events=arrived, rtol=1e-9, atol=1e-14)
    return float(answer.t_events[0][0]) if answer.t_events[0].size else None
