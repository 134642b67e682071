"""Tikhonov's solution argmin ‖Y − XW‖² + λ‖W‖², and the designs on which dropout is exactly that (§3.1).

Everything happens in X's singular basis, cut at the numerical rank. Checked by `tests/test_tikhonov_ridge.py`.
"""

from __future__ import annotations

import math
import sys
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

    Raises:
        ArgumentError: λ is no number of float64, besides what the checks of single arguments refuse.
    """
    noise = noise_ratio(validation.keep_probability(keep_prob))
    design, sizes = _sizes(x, placement, of)
    tolerance = validation.non_negative("tolerance", tolerance)
    if noise == 0 or not design.any():
        return 0.0
    if not _equal(sizes, tolerance):
        return None
    top = float(sizes.max())
    penalty = noise * float(np.mean((sizes / top) ** 2)) * top * top
    if not sys.float_info.min <= penalty < math.inf:
        raise validation.ArgumentError(
            f"x: the penalty (1 - keep_prob)/keep_prob·c² with c = {top:.3g} leaves float64's range; scale x to c = 1"
        )
    return penalty


def _sizes(x: ArrayLike, placement: str, of: str) -> tuple[Float[np.ndarray, "N D"], Float[np.ndarray, " R"]]:
    # The checked design, and what must all be one c; none for X = 0.
    x = validation.matrix("x", x)
    validation.choice("placement", placement, PLACEMENTS)
    validation.choice("of", of, ("weights", "fit"))
    if placement == "output":
        return x, singular_basis(x)[1]
    norms = column_norms(x)
    if of == "weights" or not x.any():
        return x, norms[norms > 0]
    size = norms.max()
    with np.errstate(over="ignore"):
        rows = singular_basis(x)[2][:, norms > 0] / (norms[norms > 0] / size)
    if not np.isfinite(rows @ rows.T).all():  # a column that vanishes beside the others, and whose row is rounding
        return x, np.array([0.0, size])
    return x, size / np.linalg.svd(rows, compute_uv=False)


# Relative to the largest, so that no square overflows or vanishes.
def _equal(sizes: Float[np.ndarray, " R"], tolerance: float) -> bool:
    return sizes.size == 0 or bool(np.ptp((sizes / sizes.max()) ** 2) <= tolerance)


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
    sizes = _sizes(x, placement, of)[1]
    return _equal(sizes, validation.non_negative("tolerance", tolerance))
