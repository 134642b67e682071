"""ALLoRA's update field (§4.2), its Jacobian, and what ASF-LoRA and ALLoRA-OD (§4.3) do in its place.

**The field** F(A, B) = (BᵀD_dG, D_dGAᵀ) is what the optimizer receives: a step at learning rate l is
(A, B) ← (A, B) − l·F. G = ∂L/∂(BA) (n₁×n₂), P = BA, d_i = 1/√(‖P_i‖ + 1/η²).

The loss enters F through G, and J through S by dG = dP·S: exact for a squared loss, S = XᵀX for L = ½‖XPᵀ − Y‖²_F.
Where P_i ≠ 0, ν_i = ‖P_i‖, d(d_iG_i) = T_i dP_i with T_i = d_i S − ½d_i³ G_i P_iᵀ/ν_i; so, with
K: (dA, dB) ↦ B dA + dB A,

    J = N + Kᵀ diag(T_i) K,    J − Jᵀ = Kᵀ diag(½d_i³ (P_iG_iᵀ − G_iP_iᵀ)/ν_i) K,

N the symmetric coupling (dA, dB) ↦ (dBᵀD_dG, D_dG dAᵀ). J is symmetric where each G_i is parallel to P_i. With one
input (n₂ = 1) that is everywhere, and F is the gradient of another loss, Σ_i ∫ d(|t|)G_i(t) dt, for uncoupled rows.
With more inputs it is not: F has no potential, ALLoRA is gradient descent on no loss in these coordinates. A loss that
couples outputs, as cross-entropy does, adds the blocks (d_i − d_j)∂G_i/∂P_j between the Kᵀ and K of J − Jᵀ: then J is
symmetric only where the rows are also as long as each other, and F has no potential with one input either.

**The layer's double backward is not J either.** Automatic differentiation reaches ∂L/∂f's own dependence on A and B
through the layer's backward rule, which puts D_d a second time: it returns N + Kᵀ diag(T̃_i) K with
T̃_i = d_i² S − ½d_i³ G_iP_iᵀ/ν_i. Neither a Hessian nor the derivative of the update.

At B = 0 every d_i = η. F_A is differentiable there, F_B has a kink: its one-sided derivative along (α, β) is
η·(the derivative for LoRA) − ½η³‖β_iA‖(GAᵀ)_i. The linear part is η times LoRA's (symmetric) Hessian; the kink is even
in β, so where GAᵀ ≠ 0, as at LoRA's start, no Jacobian exists.

**ASF-LoRA**, f̃ = f/√(|f| + 1/η²), entry by entry. Odd, with slope f̃′ = (|f|/2 + 1/η²)/(|f| + 1/η²)^{3/2} > 0: monotone,
slope η at 0, and f̃′ lies between d/2 and d for d = 1/√(|f| + 1/η²). As |f| + 1/η² is at least the larger of the two and
at most twice it,

    min(η|f|, √|f|)/√2 ≤ |f̃| ≤ min(η|f|, √|f|):

a square root for large outputs, never above LoRA×η's ηf. f̃ is not linear (f̃(2f) ≠ 2f̃(f) for f ≠ 0): no matrix W has
Wx = f̃(x) for both x and 2x, so it cannot be merged.

**ALLoRA-OD**, factor d(|f(x)_i|) per token. For x ~ N(0, Σ) the output f_i is N(0, σ_i²), σ_i² = P_iΣP_iᵀ, and the
factor has a mean and a variance over inputs; ALLoRA's d(‖P_i‖) is the same for every token. With Σ = I (σ_i = ‖P_i‖,
u_i = P_i/σ_i) and a squared loss, δ_i = (P_i − T_i)x, the expected row of D G is

    E[d(|f_i|) δ_i xᵀ] = (P_i − T_i)(E[d]·(I − u_iu_iᵀ) + E[d z²]·u_iu_iᵀ),   z = f_i/σ_i ~ N(0, 1):

not a multiple of G_i = P_i − T_i. E[d z²] < E[d] (d falls with |z|: Chebyshev) and E[d] > d(σ_i) (d is convex, and
E|f_i| < σ_i): OD damps the row's own direction and steps further across it.

Checked by `tests/test_adaptive_field.py` against automatic differentiation and by `tests/test_adaptive_variants.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.adaptors import inverse_sqrt
from allora_analysis.validation import (
    ArgumentError,
    adapter_rank,
    finite,
    matrix,
    matrix_of,
    non_negative,
    positive,
    representable,
    several,
    unit_scaled,
    vector,
)

# Shapes by the paper's letters: A, B, ∂L/∂(BA), the row factor.
A, B, G, D = Float[np.ndarray, "r n2"], Float[np.ndarray, "n1 r"], Float[np.ndarray, "n1 n2"], Float[np.ndarray, " n1"]

Field = tuple[A, B]

NODES = 200  # of the quadrature over z
LAST = 60.0  # of the quadrature's variable, where the normal law ends: nodes of their own
TAIL = 10.0  # |z| beyond which the normal law's 1.5e-23 is left out


@representable()
def row_factor(a: ArrayLike, b: ArrayLike, eta: float) -> D:
    """d_i = 1/√(‖(BA)_i‖ + 1/η²), ALLoRA's factor of row i (§4.2).

    Args:
        a: A (r×n₂).
        b: B (n₁×r).
        eta: η > 0.

    Returns:
        d, each in (0, η].

    Examples:
        >>> from allora_analysis.adaptive import row_factor
        >>> row_factor(a=[[3.0, 4.0]], b=[[0.0], [0.75]], eta=2.0).round(9).tolist()  # 1/√(3.75 + 1/4)
        [2.0, 0.5]
    """
    return factor_of(*checked_pair(a, b), eta)


def factor_of(a: A, b: B, eta: float) -> D:
    """The core of `row_factor`; η is checked by the adaptor."""
    product = b @ a
    if not np.isfinite(product).all():
        raise ArgumentError("a, b: BA leaves float64's range; give smaller ones")
    return inverse_sqrt(row_norms(product), eta)


def row_norms(product: G) -> D:
    """‖(BA)_i‖, each row over a power of two of its own size, so that no square leaves float64's range."""
    exponents = np.frexp(np.abs(product).max(axis=1))[1]
    return np.ldexp(np.linalg.norm(np.ldexp(product, -exponents[:, None]), axis=1), exponents)


@representable()
def update_field(a: ArrayLike, b: ArrayLike, g: ArrayLike, eta: float) -> Field:
    """F(A, B) = (BᵀD_dG, D_dGAᵀ): what ALLoRA's backward pass hands to the optimizer.

    Args:
        a: A (r×n₂).
        b: B (n₁×r).
        g: G (n₁×n₂) = ∂L/∂(BA).
        eta: η > 0.

    Returns:
        The parts of A (r×n₂) and of B (n₁×r).
    """
    a, b, g = checked_gradient(a, b, g)
    return field(a, b, g, factor_of(a, b, eta))


def field(a: A, b: B, g: G, d: D) -> Field:
    """(BᵀD_dG, D_dGAᵀ) for any factor d; d = 1 gives LoRA's gradient."""
    adapted = d[:, None] * g
    return b.T @ adapted, adapted @ a.T


@representable()
def masked_field(a: ArrayLike, b: ArrayLike, g: ArrayLike, factor: ArrayLike) -> Field:
    """(BᵀDG, DGAᵀ) for a factor of one's own on each row of G: 1 is LoRA, 0 a dropped output.

    `factor` is D's diagonal (n₁); the other arguments are those of `update_field`.

    Returns:
        The parts of A and of B.

    Raises:
        ArgumentError: a factor of another size.
    """
    a, b, g = checked_gradient(a, b, g)
    d = vector("factor", factor)
    if d.shape != (len(b),):
        raise ArgumentError(f"factor must hold {len(b)} numbers, one per row of b, received shape {d.shape}")
    return field(a, b, g, d)


def checked_pair(a: ArrayLike, b: ArrayLike) -> Field:
    """A (r×n₂) and B (n₁×r) of one rank."""
    a = matrix("a", a)
    b = matrix_of("b", b, (None, len(a)), "r, the rows of a")
    adapter_rank(len(a), len(b), a.shape[1])
    return a, b


def checked_gradient(a: ArrayLike, b: ArrayLike, g: ArrayLike) -> tuple[A, B, G]:
    """A, B and G = ∂L/∂(BA) of matching shapes."""
    a, b = checked_pair(a, b)
    return a, b, matrix_of("g", g, (len(b), a.shape[1]), "n1 and n2, the shape of BA")


@representable()
def directional_derivative(
    a: ArrayLike, b: ArrayLike, g: ArrayLike, s: ArrayLike, eta: float, direction: tuple[ArrayLike, ArrayLike]
) -> Field:
    """lim_{t↓0} (F(A + tα, B + tβ) − F(A, B))/t, also where rows of BA are 0 (one-sided there).

    `direction` is (α, β), of A's and B's shapes; the other arguments are those of `update_jacobian`.

    Returns:
        The derivatives of F_A and F_B.
    """
    a, b, g = checked_gradient(a, b, g)
    s = checked_curvature(s, a.shape[1])
    alpha, beta = several("direction", direction, 2)
    alpha, beta = matrix_of("direction", alpha, a.shape, "a"), matrix_of("direction", beta, b.shape, "b")
    product, change = b @ a, b @ alpha + beta @ a
    norms, d = row_norms(product), factor_of(a, b, eta)
    inner = np.einsum("ij,ij->i", product, change) / np.where(norms > 0, norms, 1.0)
    slope = -0.5 * d**3 * np.where(norms > 0, inner, np.linalg.norm(change, axis=1))
    adapted, moved = d[:, None] * g, slope[:, None] * g + d[:, None] * (change @ s)
    return beta.T @ adapted + b.T @ moved, moved @ a.T + adapted @ alpha.T


@representable()
def update_jacobian(
    a: ArrayLike, b: ArrayLike, g: ArrayLike, s: ArrayLike, eta: float
) -> Float[np.ndarray, "parameters parameters"]:
    """J = ∂F/∂(A, B), parameters ordered as A row by row, then B row by row; see the module's docstring.

    For a row with P_i = 0 the kink is left out, as automatic differentiation does: exact for LoRA's part, one-sided
    truth in `directional_derivative`. Checked by `tests/test_adaptive_field.py::test_jacobian_is_autograds`.

    Args:
        a: A (r×n₂).
        b: B (n₁×r).
        g: G (n₁×n₂) at (A, B).
        s: S (n₂×n₂), symmetric, with dG = dP·S.
        eta: η > 0.

    Returns:
        J, r(n₁ + n₂) square.
    """
    return _blocks(a, b, g, s, eta, lambda d: d)


@representable()
def layer_double_backward(
    a: ArrayLike, b: ArrayLike, g: ArrayLike, s: ArrayLike, eta: float
) -> Float[np.ndarray, "parameters parameters"]:
    """What differentiating the layer's backward pass returns: J with d_i² S in place of d_i S.

    Arguments as in `update_jacobian`.

    Returns:
        A matrix, r(n₁ + n₂) square.
    """
    return _blocks(a, b, g, s, eta, np.square)


@representable()
def relative_asymmetry(jacobian: ArrayLike) -> float:
    """‖(J − Jᵀ)/2‖_F/‖J‖_F, in [0, 1]: 0 for a Hessian, 1 for a pure rotation.

    Args:
        jacobian: J.

    Returns:
        The ratio; 0 for J = 0.

    Raises:
        ArgumentError: J is not square.
    """
    j = matrix("jacobian", jacobian)
    if len(j) != j.shape[1]:
        raise ArgumentError(f"jacobian: shape {j.shape} received; give a square matrix")
    j, _ = unit_scaled(j)  # no square overflows or vanishes
    return float(np.linalg.norm(j - j.T) / 2 / (np.linalg.norm(j) or 1.0))


def _blocks(a: ArrayLike, b: ArrayLike, g: ArrayLike, s: ArrayLike, eta: float, curved: Callable) -> np.ndarray:
    # N + Kᵀ diag(curved(d_i) S − ½d_i³ G_i P_iᵀ/ν_i) K.
    a, b, g = checked_gradient(a, b, g)
    s, d = checked_curvature(s, a.shape[1]), factor_of(a, b, eta)
    product = b @ a
    norms = row_norms(product)
    weight = np.where(norms > 0, 0.5 * d**3 / np.where(norms > 0, norms, 1.0), 0.0)
    rows = curved(d)[:, None, None] * s - weight[:, None, None] * g[:, :, None] * product[:, None, :]
    return _assemble(a, b, d[:, None] * g, rows)


def _assemble(
    a: A, b: B, adapted: G, rows: Float[np.ndarray, "n1 n2 n2"]
) -> Float[np.ndarray, "parameters parameters"]:
    # The four blocks of N + Kᵀ diag(T_i) K; index k, q run over ranks, i, p over rows, j, m over inputs.
    (rank, n2), n1 = a.shape, len(b)
    unit, same = np.eye(rank), np.eye(n1)
    aa = np.einsum("ik,iq,ijm->kjqm", b, b, rows)
    ab = np.einsum("kq,ij->kjiq", unit, adapted) + np.einsum("ik,ijm,qm->kjiq", b, rows, a)
    ba = np.einsum("kq,ij->ikqj", unit, adapted) + np.einsum("iq,kj,ijm->ikqm", b, a, rows)
    bb = np.einsum("ip,kj,ijm,qm->ikpq", same, a, rows, a)
    top = np.concatenate([aa.reshape(rank * n2, -1), ab.reshape(rank * n2, -1)], axis=1)
    return np.concatenate([top, np.concatenate([ba.reshape(n1 * rank, -1), bb.reshape(n1 * rank, -1)], axis=1)])


def checked_curvature(s: ArrayLike, n2: int) -> Float[np.ndarray, "n2 n2"]:
    """S (n₂×n₂), symmetric."""
    s = matrix_of("s", s, (n2, n2), "n2, the columns of a")
    if np.max(np.abs(s - s.T)) > 1e-12 * np.max(np.abs(s), initial=0.0):
        raise ArgumentError(
            f"s must be symmetric (XᵀX of a squared loss), received an asymmetry of {np.max(s - s.T):g}"
        )
    return s


@representable()
def asf(f: ArrayLike, eta: float) -> Float[np.ndarray, "*shape"]:
    """f̃ = f/√(|f| + 1/η²), ASF-LoRA's output (§4.3).

    Args:
        f: BAx, any shape.
        eta: η > 0.

    Returns:
        f̃, of f's shape.

    Examples:
        >>> from allora_analysis.adaptive import asf
        >>> asf([0.0, 3.75], eta=2.0).round(9).tolist()  # f/√(|f| + 1/4)
        [0.0, 1.875]
    """
    return np.asarray(finite("f", f) * inverse_sqrt(f, eta))


@representable()
def asf_derivative(f: ArrayLike, eta: float) -> Float[np.ndarray, "*shape"]:
    """f̃′ = (|f|/2 + 1/η²)/(|f| + 1/η²)^{3/2}, in [d/2, d]; arguments as in `asf`.

    Returns:
        The slope, of f's shape.
    """
    size, d = np.abs(finite("f", f)), inverse_sqrt(f, eta)
    return np.asarray(d * (1 - 0.5 * size * d * d))


@dataclass(frozen=True)
class UnmergeablePair:
    """Two inputs that no matrix can serve.

    Attributes:
        x: an input.
        twice: 2x.
        gap: ‖f̃(2x) − 2f̃(x)‖/‖2f̃(x)‖ > 0, about η²|f|/2 where that is small; a matrix would make it 0.
    """

    x: Float[np.ndarray, " n2"]
    twice: Float[np.ndarray, " n2"]
    gap: float


@representable()
def unmergeable_pair(a: ArrayLike, b: ArrayLike, eta: float) -> UnmergeablePair:
    """x, the first right singular vector of BA, and 2x: f̃(2x) ≠ 2f̃(x), so no W has Wx = f̃(x) for both.

    Entry by entry, with s = |f(x)| and c = 1/η², 1 − f̃(2x)/(2f̃(x)) = 1 − √((s + c)/(2s + c)), which is

        s/((2s + c)(1 + √((s + c)/(2s + c)))),

    positive however small η²s. Checked by `tests/test_adaptive_variants.py`, against 500 digits.

    Args:
        a: A (r×n₂).
        b: B (n₁×r), BA ≠ 0.
        eta: η > 0.

    Raises:
        ArgumentError: BA = 0, which merges trivially.
    """
    a, b = checked_pair(a, b)
    product = b @ a
    if not product.any():
        raise ArgumentError("b: BA is 0, and 0 can be merged; give an adapter that has moved")
    x = np.linalg.svd(product)[2][0]
    size = np.abs(product @ x)
    once, twice = inverse_sqrt(size, eta), inverse_sqrt(2 * size, eta)
    lost = size * twice * twice / (1 + twice / once)
    share, most = size * once / np.max(size * once), np.max(lost)  # no square vanishes
    return UnmergeablePair(x, 2 * x, float(most * np.linalg.norm(share * (lost / most)) / np.linalg.norm(share)))


@dataclass(frozen=True)
class OutputFactor:
    """ALLoRA-OD's factor d(|f|) over Gaussian inputs, f ~ N(0, σ²).

    Attributes:
        mean: E[d].
        variance: Var[d]; 0 for ALLoRA's factor.
        along: E[d z²], z = f/σ: the expected scale of the gradient along the row, where across it is E[d].
    """

    mean: float
    variance: float
    along: float


@representable()
def output_factor(sigma: float, eta: float) -> OutputFactor:
    """The moments of d(|f|) for f ~ N(0, σ²), by Gauss–Legendre in log(1 + η²|f|), where the integrand is smooth.

    Args:
        sigma: σ ≥ 0, the standard deviation of the row's output over inputs.
        eta: η > 0.

    Returns:
        The moments, for η²σ up to 1e300 to about 1e-12 relative, the variance to 1e-11.

    Raises:
        ArgumentError: η² or η²σ above 1e307, near the end of the range of a float.
    """
    sigma, eta = non_negative("sigma", sigma), positive("eta", eta)
    scaled = sigma * eta * eta
    if max(scaled, eta * eta) > 1e307:
        raise ArgumentError(f"eta: eta² and eta²·sigma must be at most 1e307, received {eta!r} with sigma {sigma!r}")
    if scaled == 0:
        return OutputFactor(eta, 0.0, eta)
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    length = float(np.log1p(TAIL * scaled))
    edge = max(0.0, length - LAST)
    w = np.concatenate([edge * (nodes + 1) / 2, edge + (length - edge) * (nodes + 1) / 2])
    z = np.expm1(w) / scaled
    widths = np.concatenate([edge * weights, (length - edge) * weights])
    # dz = e^w dw/scaled, times e^−length so that it stays a number; constants cancel in the normalization.
    density = np.exp(-(z**2) / 2 + (w - length)) * widths
    density /= density.sum()
    factor = eta * np.exp(-w / 2)
    # d − η near σ = 0, where d is almost constant; d itself where it is far below η: neither difference cancels.
    moved = eta * np.expm1(-w / 2) if scaled < 1 else factor
    variance = float(density @ (moved - density @ moved) ** 2)
    return OutputFactor(float(density @ factor), variance, float(density @ (factor * z**2)))
