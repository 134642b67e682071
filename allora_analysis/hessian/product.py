"""The loss in the product: L(Δ) = ‖X(W + Δ) − Y‖²_F, its gradient and its Hessian (§3.2, Eqs. 1 and 2, mended).

Eq. (1) prints the last term transposed, Eq. (2) lacks the factor 2 and gives the identity the wrong size. The Hessian
holds no Δ: it is the same at Δ = 0 as anywhere, so it cannot say anything about starting there.
Checked by `tests/test_hessian_product.py` against automatic differentiation.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.validation import count, matrix, matrix_of


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
    x, y = matrix("x", x), matrix("y", y)
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
    return np.kron(np.eye(n_outputs), 2 * x.T @ x)


def product_spectrum(x: ArrayLike, n_outputs: int) -> Float[np.ndarray, " DC"]:
    """All D·C eigenvalues of 2 I_C ⊗ XᵀX, ascending: 2s² for each singular value s of X, and D − N zeros, C times each.

    Source: paper §3.2, Eq. (2), mended. From X's singular values, never from XᵀX, whose small eigenvalues drown in
    rounding. Non-negative: the loss in Δ is convex. Checked by `tests/test_hessian_product.py::test_product_spectrum`.

    Args:
        x: X (N×D).
        n_outputs: C.

    Returns:
        The eigenvalues (D·C), ascending.

    Examples:
        >>> from allora_analysis.hessian import product_spectrum
        >>> product_spectrum([[1.0, 0.0], [0.0, 2.0]], n_outputs=1).round(9).tolist()  # 2 I ⊗ S
        [2.0, 8.0]
    """
    x, n_outputs = matrix("x", x), count("n_outputs", n_outputs)
    return _spectrum(np.linalg.svd(x, compute_uv=False), x.shape[1], n_outputs)


def _spectrum(singular: Float[np.ndarray, " s"], features: int, n_outputs: int) -> Float[np.ndarray, " DC"]:
    flat = np.zeros(features - len(singular))
    return np.repeat(np.concatenate([flat, 2 * singular[::-1] ** 2]), n_outputs)
