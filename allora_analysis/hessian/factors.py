"""The Hessian in LoRA's own parameters (B, A) at B = 0: every eigenvalue with its multiplicity, and the inertia.

With P = BA the part of a squared loss that matters is L(B, A) = ⟨G, P⟩ + ‖XPᵀ‖²_F + const: G = ∂L/∂P at P = 0
(n₁×n₂), X (N×n₂) the rows fed to x ↦ (W* + BA)x. For L = ‖X(W* + BA)ᵀ − Y‖²_F (summed over samples, η = 1) that is
exact with G = −2RᵀX, R = Y − XW*ᵀ. Another scale enters through the arguments: for c·L and a module ηBA pass √c·η·X
and c·η·G. To second order around B = 0 a step (β, α) changes L by

    ⟨G, βA⟩ + ⟨G, βα⟩ + tr(β M βᵀ),    M = ASAᵀ, S = XᵀX,

so H(β, α) = (2βM + Gαᵀ, βᵀG). In the eigenbasis of M (q_k) and the singular bases of G (σ_i) H falls apart into the
blocks [[2q_k, σ_i], [σ_i, 0]], into 2q_k for left null directions of G, and into 0 for right ones.
Checked by `tests/test_hessian.py` against automatic differentiation's dense Hessian.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from allora_analysis.validation import adapter_rank, matrix, matrix_of, non_negative

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
    x, g, a = _checked(x, g, a)
    sigma, q = _gradient_values(g, g_tolerance), _curvatures(x, a)
    return _assemble(q, sigma, *g.shape)


def factor_spectrum(
    x: ArrayLike, g: ArrayLike, a: ArrayLike, *, g_tolerance: float | None = None
) -> Float[np.ndarray, " parameters"]:
    """All r(n₁ + n₂) eigenvalues of the (B, A) Hessian at B = 0, ascending; see `factor_spectrum_multiplicities`.

    Costs one SVD of G and one of XAᵀ: O(n₁n₂·min(n₁, n₂) + N·n₂·r), no matrix of size r(n₁ + n₂).
    Checked by `tests/test_hessian.py::test_factor_spectrum_is_autograds`.

    Args:
        x: X (N×n₂).
        g: G (n₁×n₂).
        a: A (r×n₂).
        g_tolerance: as in `factor_spectrum_multiplicities`.

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

    Args:
        x: X (N×n₂).
        g: G (n₁×n₂).
        a: A (r×n₂).
        g_tolerance: as in `factor_spectrum_multiplicities`.

    Returns:
        The three counts.

    Examples:
        >>> from allora_analysis.hessian import inertia
        >>> inertia(x=[[1.0, 0.0]], g=[[3.0, 0.0]], a=[[2.0, 0.0]])
        Inertia(negative=1, zero=1, positive=1)
    """
    x, g, a = _checked(x, g, a)
    (n1, n2), rank = g.shape, len(a)
    gradient_rank, curved = len(_gradient_values(g, g_tolerance)), int(np.count_nonzero(_curvatures(x, a)))
    negative, positive = rank * gradient_rank, rank * gradient_rank + (n1 - gradient_rank) * curved
    return Inertia(negative, rank * (n1 + n2) - negative - positive, positive)


def _checked(x: ArrayLike, g: ArrayLike, a: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    g = matrix("g", g)
    x = matrix_of("x", x, (None, g.shape[1]), "n2, the columns of g")
    a = matrix_of("a", a, (None, g.shape[1]), "n2, the columns of g")
    adapter_rank(len(a), *g.shape)
    return x, g, a


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
