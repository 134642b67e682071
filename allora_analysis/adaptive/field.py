"""ALLoRA's update field F(A, B) = (BᵀD_dG, D_dGAᵀ) (§4.2): what its backward pass hands to the optimiser.

A step at learning rate l is (A, B) ← (A, B) − l·F. G = ∂L/∂(BA) (n₁×n₂), P = BA, d_i = 1/√(‖P_i‖ + 1/η²). Its Jacobian:
`jacobian.py`. Checked by `tests/test_adaptive_field.py`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.adaptors import inverse_sqrt
from allora_analysis.validation import ArgumentError, adapter_rank, matrix, matrix_of, positive, vector

Field = tuple[Float[np.ndarray, "r n2"], Float[np.ndarray, "n1 r"]]


def row_factor(a: ArrayLike, b: ArrayLike, eta: float) -> Float[np.ndarray, " n1"]:
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
    a, b = checked_pair(a, b)
    return inverse_sqrt(np.linalg.norm(b @ a, axis=1), positive("eta", eta))


def update_field(a: ArrayLike, b: ArrayLike, g: ArrayLike, eta: float) -> Field:
    """F(A, B) = (BᵀD_dG, D_dGAᵀ): what ALLoRA's backward pass hands to the optimiser.

    Args:
        a: A (r×n₂).
        b: B (n₁×r).
        g: G (n₁×n₂) = ∂L/∂(BA).
        eta: η > 0.

    Returns:
        The parts of A (r×n₂) and of B (n₁×r).
    """
    a, b, g = checked_gradient(a, b, g)
    return field(a, b, g, row_factor(a, b, eta))


def field(
    a: Float[np.ndarray, "r n2"],
    b: Float[np.ndarray, "n1 r"],
    g: Float[np.ndarray, "n1 n2"],
    d: Float[np.ndarray, " n1"],
) -> Field:
    """(BᵀD_dG, D_dGAᵀ) for any factor d; d = 1 gives LoRA's gradient.

    Args:
        a: A (r×n₂).
        b: B (n₁×r).
        g: G (n₁×n₂).
        d: a factor for each row.

    Returns:
        The parts of A and of B.
    """
    adapted = d[:, None] * g
    return b.T @ adapted, adapted @ a.T


def masked_field(a: ArrayLike, b: ArrayLike, g: ArrayLike, factor: ArrayLike) -> Field:
    """(BᵀDG, DGAᵀ) for a factor of one's own on each row of G: 1 is LoRA, 0 a dropped output; as `update_field`.

    Args:
        a: A (r×n₂).
        b: B (n₁×r).
        g: G (n₁×n₂).
        factor: D's diagonal (n₁).

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
    """A (r×n₂) and B (n₁×r) of one rank.

    Args:
        a: A.
        b: B.

    Returns:
        Both as float64 matrices.
    """
    a = matrix("a", a)
    b = matrix_of("b", b, (None, len(a)), "r, the rows of a")
    adapter_rank(len(a), len(b), a.shape[1])
    return a, b


def checked_gradient(
    a: ArrayLike, b: ArrayLike, g: ArrayLike
) -> tuple[Float[np.ndarray, "r n2"], Float[np.ndarray, "n1 r"], Float[np.ndarray, "n1 n2"]]:
    """A, B and G = ∂L/∂(BA) of matching shapes.

    Args:
        a: A (r×n₂).
        b: B (n₁×r).
        g: G (n₁×n₂).

    Returns:
        The three as float64 matrices.
    """
    a, b = checked_pair(a, b)
    return a, b, matrix_of("g", g, (len(b), a.shape[1]), "n1 and n2, the shape of BA")
