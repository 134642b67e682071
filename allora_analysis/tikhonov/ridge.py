"""Tikhonov's solution argmin ‖Y − XW‖² + λ‖W‖², and the designs on which dropout is exactly that (§3.1).

Everything happens in X's singular basis, cut at the numerical rank. Checked by `tests/test_tikhonov_ridge.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.tikhonov.loss import PLACEMENTS, column_norms, design_and_targets, noise_ratio


def singular_basis(
    x: Float[np.ndarray, "N D"],
) -> tuple[Float[np.ndarray, "N R"], Float[np.ndarray, " R"], Float[np.ndarray, "R D"]]:
    """X = U diag(s) Vᵀ over its numerical rank R: singular values above max(N, D)·ε·s_max.

    Args:
        x: X (N×D).

    Returns:
        U, s (descending, positive), Vᵀ; R = 0 for X = 0.
    """
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    rank = int(np.sum(s > max(x.shape) * np.finfo(float).eps * s[0]))
    return u[:, :rank], s[:rank], vt[:rank]


def ridge_weights(x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N C"], penalty: float) -> Float[np.ndarray, "D C"]:
    """V diag(s/(s² + λ)) UᵀY, written 1/(s + λ/s) so that no square underflows.

    Args:
        x: X (N×D).
        y: Y (N×C).
        penalty: λ in [0, ∞].

    Returns:
        W (D×C); the minimum-norm least squares X⁺Y at λ = 0, zero at λ = ∞.
    """
    u, s, vt = singular_basis(x)
    return vt.T @ ((u.T @ y) / (s + penalty / s)[:, None])


def ridge_solution(x: ArrayLike, y: ArrayLike, penalty: float) -> Float[np.ndarray, "D C"]:
    """argmin_W ‖Y − XW‖² + λ‖W‖² = (XᵀX + λI)⁻¹XᵀY.

    Source: §3.1 (printed with YᵀX for XᵀY). The limits are included: λ = 0 gives X⁺Y, λ = ∞ gives 0.

    Args:
        x: X (N×D).
        y: Y (N×C).
        penalty: λ in [0, ∞], in the square of X's unit.

    Returns:
        W (D×C).

    Examples:
        >>> from allora_analysis.tikhonov import ridge_solution
        >>> ridge_solution([[1.0], [1.0]], [[2.0], [4.0]], penalty=2.0).round(9).tolist()  # 6/(2 + 2)
        [[1.5]]
    """
    x, y = design_and_targets(x, y)
    return ridge_weights(x, y, _penalty(penalty))


def _penalty(value: Any) -> float:
    allowed = "a number in [0, ∞]"
    result = (
        math.inf if isinstance(value, float) and value == math.inf else validation.number("penalty", value, allowed)
    )
    if result < 0:
        raise validation.ArgumentError(f"penalty must be {allowed}, received {value!r}")
    return result


def exact_penalty(
    x: ArrayLike, keep_prob: float, placement: str, of: str = "weights", tolerance: float = 1e-9
) -> float | None:
    """The λ at which ridge equals dropout **for every Y**, or None where there is none.

    - output: all non-zero singular values of X equal; λ = ks².
    - input, weights: all non-zero columns of X have one squared norm c (standardised features); λ = kc.
    - input, fit (the predictions XW only): X diag(XᵀX)⁺Xᵀ = XXᵀ/c, which for X of full column rank is the same
      condition, and for wide X a weaker one: a single sample always satisfies it.
    - keep_prob = 1: λ = 0.

    Why: in the singular basis dropout's fit is diagonal only if the penalty's matrix is proportional to I on X's row
    space. Source: claims on §3.1; the paper's case is "the eigenvalues of XᵀX are all c".

    Args:
        x: X (N×D).
        keep_prob: p in (0, 1].
        placement: "output" or "input".
        of: "weights" for equality of W, "fit" for equality of XW.
        tolerance: relative spread that still counts as equal.

    Returns:
        λ ≥ 0, or None.
    """
    x = validation.matrix("x", x)
    noise = noise_ratio(validation.keep_probability(keep_prob))
    validation.choice("placement", placement, PLACEMENTS)
    validation.choice("of", of, ("weights", "fit"))
    tolerance = validation.non_negative("tolerance", tolerance)
    if noise == 0 or not x.any():
        return 0.0
    if placement == "output":
        return _common(singular_basis(x)[1], noise, tolerance)
    norms = column_norms(x)
    if of == "weights":
        return _common(norms[norms > 0], noise, tolerance)
    size = norms.max()
    with np.errstate(over="ignore"):
        rows = singular_basis(x)[2][:, norms > 0] / (norms[norms > 0] / size)
    if not np.isfinite(rows @ rows.T).all():  # a column that vanishes beside the others, and whose row is rounding
        return None
    return _common(size / np.linalg.svd(rows, compute_uv=False), noise, tolerance)


# λ = k·c² for sizes that are all c; relative to the largest, so that no square overflows or vanishes.
def _common(sizes: Float[np.ndarray, " R"], noise: float, tolerance: float) -> float | None:
    squares = (sizes / sizes.max()) ** 2
    if np.ptp(squares) > tolerance:
        return None
    return noise * float(squares.mean()) * float(sizes.max()) ** 2


def is_exact_ridge(x: ArrayLike, placement: str, of: str = "weights", tolerance: float = 1e-9) -> bool:
    """Whether dropout is exactly a ridge on this design, for every Y and every keep probability.

    Args:
        x: X (N×D).
        placement: "output" or "input".
        of: "weights" or "fit", as in `exact_penalty`.
        tolerance: relative spread that still counts as equal.

    Returns:
        The answer.

    Examples:
        >>> from allora_analysis.tikhonov import is_exact_ridge
        >>> is_exact_ridge([[2.0, 0.0], [0.0, 2.0]], "output"), is_exact_ridge([[1.0, 0.0], [0.0, 2.0]], "output")
        (True, False)
    """
    return exact_penalty(x, 0.5, placement, of, tolerance) is not None
