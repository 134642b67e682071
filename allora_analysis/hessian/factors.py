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

Checked by `tests/test_hessian.py` against automatic differentiation and `tests/test_hessian_escape.py`, an ODE solver.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.validation import ArgumentError, representable, unit_scaled

# Shapes by the paper's letters: inputs, A, B, ∂L/∂(BA).
X, A, B, G = Float[np.ndarray, "N n2"], Float[np.ndarray, "r n2"], Float[np.ndarray, "n1 r"], Float[np.ndarray, "n1 n2"]

EPSILON = float(np.finfo(np.float64).eps)
HORIZON, EVALUATIONS = 1e6, 100_000  # of the integrated flow: time · σ₁(G), velocities


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


@representable()
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
    g, a = _gradient_and_a(g, a)
    q, exponent = _curvatures(_inputs(x, g), a)
    return _assemble(np.ldexp(q, exponent), _gradient_values(g, g_tolerance), *g.shape)


@representable()
def factor_spectrum(
    x: ArrayLike, g: ArrayLike, a: ArrayLike, *, g_tolerance: float | None = None
) -> Float[np.ndarray, " parameters"]:
    """All r(n₁ + n₂) eigenvalues of the (B, A) Hessian at B = 0, ascending; see `factor_spectrum_multiplicities`.

    Costs one SVD of G and one of XAᵀ: O(n₁n₂·min(n₁, n₂) + N·n₂·r), no matrix of size r(n₁ + n₂).
    Arguments as there. Checked by `tests/test_hessian.py::test_factor_spectrum_is_autograds`.

    Returns:
        The eigenvalues, ascending, accurate to rounding relative to the largest.

    Examples:
        >>> from allora_analysis.hessian import factor_spectrum
        >>> factor_spectrum(x=[[1.0]], g=[[3.0]], a=[[2.0]]).round(9).tolist()  # q = 4, σ = 3: 4 ± 5
        [-1.0, 9.0]
    """
    spectrum = factor_spectrum_multiplicities(x, g, a, g_tolerance=g_tolerance)
    return np.repeat(spectrum.values, spectrum.multiplicities)


@representable()
def inertia(x: ArrayLike, g: ArrayLike, a: ArrayLike, *, g_tolerance: float | None = None) -> Inertia:
    """The (B, A) Hessian's inertia at B = 0, from the ranks of G and XAᵀ, never from the signs of small numbers.

    n₋ = r·rank G, n₊ = r·rank G + (n₁ − rank G)·rank(XAᵀ), the rest 0. A negative eigenvalue −σ²/(q + √(q² + σ²)) with
    σ ≪ q can lie far below the rounding error of the largest one, and is counted all the same.
    Arguments as in `factor_spectrum_multiplicities`. Checked by `tests/test_hessian.py::test_inertia`.

    Examples:
        >>> from allora_analysis.hessian import inertia
        >>> inertia(x=[[1.0, 0.0]], g=[[3.0, 0.0]], a=[[2.0, 0.0]])
        Inertia(negative=1, zero=1, positive=1)
    """
    g, a = _gradient_and_a(g, a)
    (n1, n2), rank = g.shape, len(a)
    gradient_rank, curved = (
        len(_gradient_values(g, g_tolerance)),
        int(np.count_nonzero(_curvatures(_inputs(x, g), a)[0])),
    )
    negative, positive = rank * gradient_rank, rank * gradient_rank + (n1 - gradient_rank) * curved
    return Inertia(negative, rank * (n1 + n2) - negative - positive, positive)


def _gradient_values(g: G, tolerance: float | None) -> Float[np.ndarray, " rank_g"]:
    # The non-zero singular values σ_i of G, ∞ where float64 ends.
    scaled, exponent = unit_scaled(g)
    sigma = np.linalg.svd(scaled, compute_uv=False)
    values = np.ldexp(sigma, exponent)
    if tolerance is None:
        return values[sigma > max(g.shape) * EPSILON * sigma[0]]
    return values[values > validation.non_negative("g_tolerance", tolerance)]


def _curvatures(x: X, a: A) -> tuple[Float[np.ndarray, " r"], int]:
    # The eigenvalues q_k of ASAᵀ over 2ᵉ, and e: squared singular values of XAᵀ, 0 below that product's rounding error.
    (x, of_x), (a, of_a) = unit_scaled(x), unit_scaled(a)
    singular = np.linalg.svd(x @ a.T, compute_uv=False)
    limit = max(*x.shape, len(a)) * EPSILON * float(np.linalg.norm(x)) * float(np.linalg.norm(a))
    q = np.zeros(len(a))
    q[: len(singular)] = np.where(singular > limit, singular, 0.0) ** 2
    return q, 2 * (of_x + of_a)


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


@representable()
def factor_gradient(g: ArrayLike, a: ArrayLike, b: ArrayLike | None = None) -> tuple[B, A]:
    """(∇_B L, ∇_A L) = (GAᵀ, BᵀG), G = ∂L/∂(BA) at these A and B. With B = 0: (GAᵀ, 0).

    Checked by `tests/test_hessian_escape.py::test_factor_gradient_is_autograds`.

    Args:
        g: G (n₁×n₂).
        a: A (r×n₂).
        b: B (n₁×r); None for 0.

    Returns:
        The gradients, shaped like B and A.
    """
    g, a = _gradient_and_a(g, a)
    b = _outputs(b, g, a)
    return g @ a.T, b.T @ g


@representable()
def is_stationary(g: ArrayLike, a: ArrayLike, b: ArrayLike | None = None) -> bool:
    """Whether (B, A) is a critical point: GAᵀ = 0 and BᵀG = 0, up to the products' own rounding error.

    Of the usual initializations only A = B = 0 is one (or G = 0, where there is nothing to learn). Where B = 0, so also
    if A's rows happen to lie in G's kernel. Arguments as in `factor_gradient`.
    Checked by `tests/test_hessian_escape.py::test_is_stationary`.

    Examples:
        >>> from allora_analysis.hessian import is_stationary
        >>> is_stationary(g=[[3.0]], a=[[2.0]]), is_stationary(g=[[3.0]], a=[[0.0]])  # LoRA's start; A = B = 0
        (False, True)
    """
    g, a = _gradient_and_a(g, a)
    g, a, b = (unit_scaled(part)[0] for part in (g, a, _outputs(b, g, a)))
    limit = max(g.shape) * EPSILON * float(np.linalg.norm(g))
    return all(
        bool(np.linalg.norm(product) <= limit * np.linalg.norm(factor))
        for product, factor in ((g @ a.T, a), (b.T @ g, b))
    )


@representable()
def escape_rate(g: ArrayLike) -> float:
    """σ₁(G): the rate of gradient flow's escape from A = B = 0, (B, A) ~ e^{σ₁t}; −σ₁ is the lowest eigenvalue.

    Checked by `tests/test_hessian_escape.py::test_escape_time_against_the_flow`.

    Args:
        g: G (n₁×n₂) at A = B = 0.

    Returns:
        The rate, per unit of learning rate × steps; 0 where G = 0.
    """
    return _largest_singular_value(validation.matrix("g", g))


def _largest_singular_value(g: G) -> float:
    scaled, exponent = unit_scaled(g)
    return float(np.ldexp(np.linalg.svd(scaled, compute_uv=False)[0], exponent))


@representable(infinite=True)
def escape_time(g: ArrayLike, epsilon: float) -> float:
    """log(1/ε)/σ₁(G): gradient flow's time from A and B of size ε to size 1, to leading order in log(1/ε).

    It diverges as ε → 0; from B = 0 and a random A of fixed size the time is finite at ε = 0.
    Checked by `tests/test_hessian_escape.py::test_escape_time_against_the_flow`.

    Args:
        g: G (n₁×n₂) at A = B = 0.
        epsilon: the size of the first A and B, in (0, 1].

    Returns:
        The time in learning rate × steps; ∞ where G = 0 or where it is beyond float64's range.

    Raises:
        ArgumentError: epsilon outside (0, 1].

    Examples:
        >>> import math
        >>> from allora_analysis.hessian import escape_time
        >>> print(round(escape_time([[2.0]], epsilon=math.exp(-6)), 9))  # log(1/ε)/σ₁
        3.0
    """
    if validation.positive("epsilon", epsilon) > 1:
        raise ArgumentError(f"epsilon must be in (0, 1], received {epsilon!r}")
    rate = _largest_singular_value(validation.matrix("g", g))
    return -math.log(epsilon) / rate if rate else math.inf


@representable()
def initial_speed_ratio(n2: int, rank: int, a_std: float) -> float:
    """Root mean square over A of ‖d(BA)/dt‖/‖dΔ/dt‖ at B = 0: s²√(r(n₂ + r + 1)) for A with i.i.d. N(0, s²) entries.

    d(BA)/dt = −GAᵀA where full fine-tuning has −G, at one learning rate; E(AᵀA)² = s⁴r(n₂ + r + 1)I (Wishart), so the
    ratio does not depend on G. Below 1, LoRA's module starts slower than Δ, above 1 faster: A's scale decides, not B's.
    Checked by `tests/test_hessian_escape.py::test_initial_speed_ratio`.

    Args:
        n2: n₂, the module's input size.
        rank: r.
        a_std: s, the standard deviation of A's entries.
    """
    n2, rank = validation.count("n2", n2), validation.count("rank", rank)
    return validation.positive("a_std", a_std) ** 2 * math.sqrt(rank * (n2 + rank + 1))


def _gradient_and_a(g: ArrayLike, a: ArrayLike, any_rank: bool = False) -> tuple[np.ndarray, np.ndarray]:
    g = validation.matrix("g", g)
    a = validation.matrix_of("a", a, (None, g.shape[1]), "n2, the columns of g")
    if not any_rank:
        validation.adapter_rank(len(a), *g.shape)
    return g, a


def _inputs(x: ArrayLike, g: G) -> X:
    return validation.matrix_of("x", x, (None, g.shape[1]), "n2, the columns of g")


def _outputs(b: ArrayLike | None, g: np.ndarray, a: np.ndarray) -> B:
    shape = (len(g), len(a))
    return np.zeros(shape) if b is None else validation.matrix_of("b", b, shape, "n1 of g and r of a")


def loss_gradient(x: X, g: G, b: B, a: A) -> tuple[B, A]:
    """∇_B and ∇_A of L(B, A) = ⟨G, BA⟩ + ‖X(BA)ᵀ‖²_F, anywhere."""
    outer = g + 2 * (b @ (a @ x.T)) @ x
    return outer @ a.T, b.T @ outer


@representable()
def dense_factor_hessian(x: ArrayLike, g: ArrayLike, a: ArrayLike) -> Float[np.ndarray, "parameters parameters"]:
    """The (B, A) Hessian at B = 0 by central differences of the gradient, coordinate by coordinate; small sizes only.

    Exact up to rounding at any step: from B = 0 a step along one coordinate changes the gradient by a polynomial of
    degree 2, whose even part central differences remove. Order: B row by row, then A row by row.

    Arguments as in `dense_hessian`, at B = 0.

    Returns:
        The symmetric matrix, r(n₁ + n₂) square.
    """
    g, a = _gradient_and_a(g, a, any_rank=True)
    x, size = _inputs(x, g), len(a) * sum(g.shape)
    validation.fits("g, a", size**2, f"the Hessian of {size} parameters")
    split, step = len(g) * len(a), float(np.abs(a).max()) or 1.0
    point = np.concatenate([np.zeros(split), a.ravel()])

    def gradient(theta: np.ndarray) -> np.ndarray:
        b_part, a_part = loss_gradient(x, g, theta[:split].reshape(len(g), -1), theta[split:].reshape(a.shape))
        return np.concatenate([b_part.ravel(), a_part.ravel()])

    steps = step * np.eye(len(point))
    return np.array([(gradient(point + e) - gradient(point - e)) / (2 * step) for e in steps])


@representable()
def simulated_escape_time(x: ArrayLike, g: ArrayLike, a: ArrayLike, b: ArrayLike, size: float) -> float | None:
    """Gradient flow of the full quartic loss from (B, A) until ‖BA‖_F = size, by SciPy's LSODA.

    LSODA takes implicit, ever longer steps where the flow has come to rest, so that a size never reached costs little.

    Arguments as in `dense_hessian`, A and B at time 0; `size` is the norm to reach.

    Returns:
        The time in learning rate × steps, 0 where ‖BA‖_F is `size` or more at once; None where the flow has not got
        there by 10⁶/σ₁(G).

    Raises:
        ArgumentError: a flow that leaves float64's range, or that 10⁵ evaluations of its velocity do not follow.
    """
    from scipy.integrate import solve_ivp

    g, a = _gradient_and_a(g, a, any_rank=True)
    x, b, size = _inputs(x, g), _outputs(b, g, a), validation.positive("size", size)
    split, rate, left = b.size, _largest_singular_value(g) or 1.0, iter(range(EVALUATIONS))

    def parts(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return theta[:split].reshape(b.shape), theta[split:].reshape(a.shape)

    def velocity(_time: float, theta: np.ndarray) -> np.ndarray:
        speed = np.concatenate([part.ravel() for part in loss_gradient(x, g, *parts(theta))]) / -rate
        if next(left, None) is None or not np.isfinite(speed).all():
            raise ArgumentError("x, g, a, b: the flow is too fast for float64 or for the integrator; give smaller ones")
        return speed

    def arrived(_time: float, theta: np.ndarray) -> float:
        return float(np.linalg.norm(np.matmul(*parts(theta)))) - size

    arrived.terminal, arrived.direction = True, 1.0
    start = np.concatenate([b.ravel(), a.ravel()])
    if arrived(0.0, start) >= 0:
        return 0.0
    small = max(1e-14 * float(np.abs(start).max()), np.finfo(float).tiny)  # however small the start is
    answer = solve_ivp(velocity, (0.0, HORIZON), start, "LSODA", events=arrived, rtol=1e-9, atol=small)
    return float(answer.t_events[0][0]) / rate if answer.t_events[0].size else None
