"""§3.2 in the product: L(Δ) = ‖X(W + Δ) − Y‖²_F, its Hessian (Eqs. 1 and 2, mended); what of Δ = BA a start can use.

Eq. (1) prints the last term transposed, Eq. (2) lacks the factor 2 and gives the identity the wrong size. The Hessian
holds no Δ: it is the same at Δ = 0 as anywhere, so it cannot say anything about starting there.

"As the training set size decreases, the landscape degenerates" depends on what decreases with N. For i.i.d. centered
entries κ(S), S = XᵀX, peaks at N = D and falls on both sides; where S stays what it is, N alone changes nothing.

**The spaces that gradient flow from a start keeps to**: the Hessian in (B, A) falls apart into them and the rest. Of
L(B, A) = ‖X(BA − M)ᵀ‖²_F, M = T + B₀A₀, with S = XᵀX, G = 2(BA − M)S and H as in `starts.py`: let V hold the rows of
A₀ and of TS, with SV ⊂ V, and let U hold the columns of B₀ and of TXᵀ. Then GV^⊥ = 0 and GᵀU^⊥ = 0, the flow from
(B₀, A₀) stays in them, and at each of its points H is the direct sum of

- H itself on U and V, in whose coordinates it is that of a smaller problem; every rescaling (−BΞ, ΞA) lies there,
- 2q_k for each direction of U^⊥, q_k the eigenvalues of ASAᵀ,
- 2b_i s_j for each of V^⊥, b_i the eigenvalues of BᵀB and s_j those of S there.

The least V is the sum, over the eigenspaces of S, of what A₀ and T have there, and of A₀'s part in S's kernel: few
dimensions for white inputs, for fewer samples than inputs; all n₂ where S has distinct eigenvalues and no kernel.

Checked by `tests/test_hessian_product.py` against automatic differentiation, Marchenko and Pastur, and Edelman, and by
`tests/test_hessian_starts.py` against the whole Hessian.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.hessian.factors import EPSILON
from allora_analysis.validation import (
    ArgumentError,
    count,
    fits,
    matrix,
    matrix_of,
    positive,
    representable,
    unit_scaled,
)

CHUNK = 1 << 21  # entries drawn at a time: 16 MiB
# E log x for x with distribution function exp(−2/x − 2/x²), Edelman's limit of κ(X)/N.
SQUARE_LOG_MEAN = 1.5370894
SQUARE_MEDIAN = 2 / (math.sqrt(1 + 2 * math.log(2)) - 1)


@representable()
def product_gradient(x: ArrayLike, y: ArrayLike, w: ArrayLike, delta: ArrayLike) -> Float[np.ndarray, "D C"]:
    """∇_Δ ‖X(W + Δ) − Y‖² = 2SΔ − 2Xᵀ(Y − XW), S = XᵀX: Eq. (1) with its last term the right way round.

    Source: paper §3.2, Eq. (1). Checked by `tests/test_hessian_product.py::test_product_gradient_is_autograds`.

    Args:
        x: X (N×D), the design.
        y: Y (N×C), the targets.
        w: W (D×C), the frozen weights.
        delta: Δ (D×C), the module's matrix (the paper's V).

    Returns:
        The gradient (D×C), in loss per unit of Δ.
    """
    x = matrix("x", x)
    y = matrix_of("y", y, (len(x), None), "N of x")
    shape = (x.shape[1], y.shape[1])
    w = matrix_of("w", w, shape, "D of x and C of y")
    return _gradient(x, y, w, matrix_of("delta", delta, shape, "D of x and C of y"))


def _gradient(
    x: Float[np.ndarray, "N D"],
    y: Float[np.ndarray, "N C"],
    w: Float[np.ndarray, "D C"],
    delta: Float[np.ndarray, "D C"],
) -> Float[np.ndarray, "D C"]:
    # 2Xᵀ(XΔ − (Y − XW)) rather than 2SΔ − …: no D×D matrix, and no cancellation where the fit is good.
    return 2 * x.T @ (x @ (w + delta) - y)


@representable()
def product_hessian(x: ArrayLike, n_outputs: int) -> Float[np.ndarray, "DC DC"]:
    """∇²_Δ L = 2 I_C ⊗ XᵀX on vec Δ (columns stacked), dense: Eq. (2) with the factor 2 and the identity of size C.

    Source: paper §3.2, Eq. (2). For small problems only: (D·C)² numbers; `product_spectrum` needs none of them.
    Checked by `tests/test_hessian_product.py::test_product_hessian_is_autograds_at_every_delta`.

    Args:
        x: X (N×D).
        n_outputs: C.

    Returns:
        The Hessian (D·C × D·C), independent of Δ, W and Y.
    """
    x, n_outputs = matrix("x", x), count("n_outputs", n_outputs)
    fits("n_outputs", (n_outputs * x.shape[1]) ** 2, "the Hessian")
    return np.kron(np.eye(n_outputs), 2 * x.T @ x)


@representable()
def product_spectrum(x: ArrayLike, n_outputs: int) -> Float[np.ndarray, " DC"]:
    """All D·C eigenvalues of 2 I_C ⊗ XᵀX, ascending: 2s² for each singular value s of X, and D − N zeros, C times each.

    Source: paper §3.2, Eq. (2), mended. From X's singular values, never from XᵀX, whose small eigenvalues drown in
    rounding. Non-negative: the loss in Δ is convex. Checked by `tests/test_hessian_product.py::test_product_spectrum`.

    Arguments as in `product_hessian`.

    Returns:
        The eigenvalues (D·C), ascending.

    Examples:
        >>> from allora_analysis.hessian import product_spectrum
        >>> product_spectrum([[1.0, 0.0], [0.0, 2.0]], n_outputs=1).round(9).tolist()  # 2 I ⊗ S
        [2.0, 8.0]
    """
    x, n_outputs = matrix("x", x), count("n_outputs", n_outputs)
    fits("n_outputs", n_outputs * x.shape[1], "the spectrum")
    scaled, exponent = unit_scaled(x)
    squares = np.ldexp(2 * np.linalg.svd(scaled, compute_uv=False)[::-1] ** 2, 2 * exponent)
    return np.repeat(np.concatenate([np.zeros(x.shape[1] - len(squares)), squares]), n_outputs)


@dataclass(frozen=True)
class BlockConditioning:
    """Condition numbers of the B block and of what it is made of; ∞ where singular.

    Attributes:
        block: κ(ASAᵀ), that of ∇²_B L = 2 I ⊗ ASAᵀ.
        gram: κ(S), that of ∇²_Δ L.
        adapter: κ(AAᵀ).
    """

    block: float
    gram: float
    adapter: float


def marchenko_pastur_condition(gamma: float) -> float:
    """κ of the non-zero part of S as N, D → ∞ with D/N → γ: ((1 + √γ)/(1 − √γ))², ∞ at γ = 1.

    For γ > 1 the non-zero part of S is that of XXᵀ, whose ratio is 1/γ: the same expression. Assumes i.i.d. *centered*
    entries of finite fourth moment (a common mean adds one eigenvalue of order N·D). The limit is biased at finite N,
    by a gap of order N^(−2/3). Source: Marchenko–Pastur 1967; Bai–Yin 1993 for the edges.
    Checked by `tests/test_hessian_product.py::test_gap_to_marchenko_pastur_shrinks`.

    Args:
        gamma: γ = D/N, above 0.

    Returns:
        κ, 1 or above, ∞ at γ = 1.
    """
    ratio = positive("gamma", gamma)
    # (1 + √γ)⁴/(1 − γ)²: 1 − γ is exact near γ = 1, where 1 − √γ is rounding.
    return math.inf if ratio == 1.0 else max(1.0, ((1 + math.sqrt(ratio)) ** 2 / (1 - ratio)) ** 2)


def square_log_condition(n: int) -> tuple[float, float]:
    """Limits of mean and median of log κ(S) at the peak N = D, Gaussian entries: finite, where E κ(S) is infinite.

    κ(X)/N → x with P(x ≤ t) = exp(−2/t − 2/t²), so E log κ(S) → 2 log N + 3.0742 and the median → 2 log(3.6711 N). For
    few N that is too high: the mean by 3.07 at N = 1 (where κ = 1), by about 1.3 at 2 and 0.65 at 4.
    Source: Edelman 1988, Theorem 6.1. Checked by `tests/test_hessian_product.py::test_peak_is_edelmans`.

    Args:
        n: N = D.

    Returns:
        (mean, median) of log κ(S) to leading order, natural logarithm.
    """
    log_n = math.log(count("n", n))
    return 2 * (log_n + SQUARE_LOG_MEAN), 2 * (log_n + math.log(SQUARE_MEDIAN))


@representable()
def log_condition(x: ArrayLike) -> float:
    """Logarithm of κ of the non-zero part of XᵀX: 2 log(s₁/s_rank X), ranks by max(N, D)·ε·s₁.

    Checked by `tests/test_hessian_product.py::test_log_condition`.

    Args:
        x: X (N×D), not all zero.

    Returns:
        The natural logarithm, 0 or above.

    Raises:
        ArgumentError: X = 0 has no non-zero part.
    """
    x = matrix("x", x)
    if not x.any():
        raise ArgumentError("x: all entries are 0, so XᵀX has no non-zero part; give at least one non-zero entry")
    singular = np.linalg.svd(unit_scaled(x)[0], compute_uv=False)
    kept = singular[singular > max(x.shape) * EPSILON * singular[0]]
    return 2 * math.log(kept[0] / kept[-1])


@representable()
def fixed_gram_design(x: ArrayLike, n_samples: int, generator: np.random.Generator) -> Float[np.ndarray, "M D"]:
    """Another design with M rows and the same XᵀX: QX̃, Q (M×rank) with orthonormal columns, X̃ᵀX̃ = XᵀX.

    The counterexample to "as N decreases the landscape degenerates": the Hessian in Δ is the same for every M.
    Checked by `tests/test_hessian_product.py::test_fixed_gram_changes_nothing`.

    Args:
        x: X (N×D).
        n_samples: M, at least rank X (with fewer rows no design has this XᵀX).
        generator: draws Q.

    Returns:
        The design (M×D).

    Raises:
        ArgumentError: M below rank X.
    """
    x, exponent = unit_scaled(matrix("x", x))
    _, singular, vt = np.linalg.svd(x, full_matrices=False)
    rank = int(np.count_nonzero(singular > max(x.shape) * EPSILON * singular[0]))
    if count("n_samples", n_samples) < rank:
        raise ArgumentError(f"n_samples must be at least the rank of x, {rank}, received {n_samples!r}")
    fits("n_samples", n_samples * x.shape[1], "the design")
    q, _ = np.linalg.qr(generator.standard_normal((n_samples, rank)))
    return q @ np.ldexp(singular[:rank, None] * vt[:rank], exponent)


@representable(infinite=True)
def block_conditioning(x: ArrayLike, a: ArrayLike) -> BlockConditioning:
    """κ(ASAᵀ), of the Hessian in B at B = 0, beside κ(S) and κ(AAᵀ); κ(ASAᵀ) ≤ κ(S)·κ(AAᵀ).

    Better than S for a spread spectrum and r ≪ D (∞ against finite for r ≤ N < D), worse for white X, where it is
    κ(AAᵀ) ≥ 1 = κ(S). Checked by `tests/test_hessian_product.py::test_block_conditioning`.

    Args:
        x: X (N×n₂).
        a: A (r×n₂).

    Returns:
        The three condition numbers, ∞ where the matrix is numerically singular.
    """
    x = matrix("x", x)
    a = matrix_of("a", a, (None, x.shape[1]), "D, the columns of x")
    x, a = unit_scaled(x)[0], unit_scaled(a)[0]
    product_scale = float(np.linalg.norm(x)) * float(np.linalg.norm(a))
    relative = max(*x.shape, len(a)) * EPSILON
    block = _condition(np.linalg.svd(x @ a.T, compute_uv=False), len(a), relative * product_scale)
    gram, adapter = np.linalg.svd(x, compute_uv=False), np.linalg.svd(a, compute_uv=False)
    gram_condition = _condition(gram, x.shape[1], relative * float(gram[0]))
    return BlockConditioning(block, gram_condition, _condition(adapter, len(a), relative * float(adapter[0])))


def _condition(singular: Float[np.ndarray, " s"], size: int, limit: float) -> float:
    # κ of a size × size Gram matrix whose factor has these singular values.
    if len(singular) < size or singular[size - 1] <= limit:
        return math.inf
    return float((singular[0] / singular[size - 1]) ** 2)


@representable()
def sample_log_conditions(
    n_samples: int, n_features: int, draws: int, generator: np.random.Generator
) -> Float[np.ndarray, " draws"]:
    """Logarithms of κ of the non-zero part of XᵀX for X (N×D) with i.i.d. standard normal entries, each drawn afresh.

    E κ is infinite at N = D: average these logarithms, or take medians. The draws do not depend on the chunk size.

    Args:
        n_samples: N.
        n_features: D.
        draws: how many.
        generator: the source of randomness.

    Returns:
        The logarithms (draws).
    """
    shape = count("n_samples", n_samples), count("n_features", n_features)
    fits("draws", count("draws", draws) * min(shape), "their singular values")
    fits("n_samples, n_features", shape[0] * shape[1], "a design")
    step = max(1, CHUNK // (shape[0] * shape[1]))
    parts = [
        np.linalg.svd(generator.standard_normal((min(step, draws - start), *shape)), compute_uv=False)
        for start in range(0, draws, step)
    ]
    singular = np.concatenate(parts)
    return 2 * np.log(singular[:, 0] / singular[:, -1])


class Within(NamedTuple):
    """The problem within U and V, in coordinates there, and what of H is outside.

    Attributes:
        x: X, as many rows as V has dimensions or fewer.
        fit: M = T + B₀A₀.
        a: A₀.
        b: B₀.
        left: the dimension of U^⊥.
        curved: the eigenvalues of S on V^⊥.
    """

    x: np.ndarray
    fit: np.ndarray
    a: np.ndarray
    b: np.ndarray
    left: int
    curved: np.ndarray


def within(x: np.ndarray, t: np.ndarray, a: np.ndarray, b: np.ndarray) -> Within:
    """U and V of a start (A, B) towards W + T on inputs X, and the problem in them."""
    rank, (n1, n2), tolerance = len(a), t.shape, 16 * max(*x.shape, *t.shape) * EPSILON
    _, s, vt = np.linalg.svd(x, full_matrices=False)
    seen = s > tolerance * s[0]
    s, vt, inputs = s[seen], vt[seen], np.hstack([_unit(a).T, _unit(t).T])
    u = _span(np.hstack([_unit((t @ vt.T) * s), _unit(b)]), rank, tolerance)  # of TXᵀ and B
    parts, curved = [], []
    for space in np.split(np.arange(len(s)), 1 + np.flatnonzero(-np.diff((s / s[0]) ** 2) > tolerance)):
        parts.append(vt[space].T @ _span(vt[space] @ inputs, rank, tolerance))
        curved.append(np.full(len(space) - parts[-1].shape[1], np.mean(s[space] ** 2)))
    if len(s) < n2:  # S has a kernel, where it matters what A has there
        unseen = inputs[:, :rank] - vt.T @ (vt @ inputs[:, :rank])
        kernel = _span(unseen, 0, tolerance)
        parts.append(kernel - vt.T @ (vt @ kernel))
    v = np.linalg.qr(np.hstack(parts))[0]
    if v.shape[1] < rank:  # no room for A: as it is
        v, curved = np.eye(n2), []
    outside = np.concatenate([*curved, np.zeros(n2)])[: n2 - v.shape[1]]
    return Within(np.linalg.qr(x @ v, mode="r"), u.T @ (t + b @ a) @ v, a @ v, u.T @ b, n1 - u.shape[1], outside)


def _unit(matrix: np.ndarray) -> np.ndarray:
    scaled = unit_scaled(matrix)[0]
    return scaled / (np.linalg.norm(scaled) or 1.0)


def _span(columns: np.ndarray, least: int, tolerance: float) -> np.ndarray:
    # An orthonormal basis of what the columns span, of `least` dimensions or more where there is room.
    u, s, _ = np.linalg.svd(columns, full_matrices=False)
    return u[:, : max(least, int(np.count_nonzero(s > tolerance)))]
