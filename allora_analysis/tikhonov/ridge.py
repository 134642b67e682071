"""Tikhonov's solution argmin ‖Y − XW‖² + λ‖W‖², and the ridge that is nearest to dropout.

Dropout is a ridge for every Y, λ = kc with k = (1 − p)/p, where all non-zero singular values of X have one square c
(masks on the output) or all its non-zero columns one squared norm c (on the input). The fit XW alone also where
X diag(XᵀX)⁺Xᵀ = XXᵀ/c, as a single sample always has it. Why: in the singular basis dropout's fit is diagonal only if
the penalty's matrix is proportional to I on X's row space.

Elsewhere: in X's singular basis, ridge's fit multiplies direction i of Y by h_i(λ) = s_i²/(s_i² + λ), so
‖Z − XW_λ‖² = Σ_i ‖G_i − h_i(λ)H_i‖² with G = UᵀZ, H = UᵀY: a sum of terms each unimodal in λ, but not unimodal itself.
§3.1. Checked by `tests/test_tikhonov_ridge.py`, the nearest one against a dense grid.
"""

import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.tikhonov.loss import (
    PLACEMENTS,
    W,
    X,
    Y,
    design_and_targets,
    dropout_weights,
    ridge_weights,
    singular_basis,
)

# h_i moves over a width of about 1 in log λ, so 20 points a unit see every dip of the sum.
STEP = 0.05
# Beyond e^±40 times the spectrum ridge equals its limit to 1e-17.
MARGIN = 40.0


@validation.representable("x", "y", "penalty")
def ridge_solution(x: ArrayLike, y: ArrayLike, penalty: float) -> W:
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


@dataclass(frozen=True)
class NearestRidge:
    """The ridge whose fit is nearest to a given one.

    Attributes:
        penalty: λ in [0, ∞]; 0 is least squares, ∞ is W = 0.
        distance: ‖Z − XW_λ‖_F/‖Z‖_F in [0, 1]; 0 where Z = 0.
    """

    penalty: float
    distance: float


def _ridge_factor(
    log_squares: Float[np.ndarray, " R"], log_penalty: Float[np.ndarray, " T"]
) -> Float[np.ndarray, "T R"]:
    """The factor h = s²/(s² + λ) from logarithms, without overflow."""
    return np.exp(-np.logaddexp(0.0, log_penalty[:, None] - log_squares))


def _search_range(
    log_squares: Float[np.ndarray, " R"], inner: Float[np.ndarray, " R"], square: Float[np.ndarray, " R"]
) -> tuple[float, float]:
    """Where in log λ all minima between the ends lie."""
    # Term i falls until h_i = inner_i/square_i and rises after, so they lie between the first and the last such point;
    # a term that turns at λ = 0 or ∞ opens that side, as far as h still changes.
    ratio = inner / square
    between = (ratio > 0) & (ratio < 1)
    turns = log_squares[between] + np.log1p(-ratio[between]) - np.log(ratio[between])
    low = np.append(turns, log_squares.min() - MARGIN if (ratio >= 1).any() else np.inf).min()
    high = np.append(turns, log_squares.max() + MARGIN if (ratio <= 0).any() else -np.inf).max()
    return float(low), float(high)


def _stationary_points(
    log_squares: Float[np.ndarray, " R"], inner: Float[np.ndarray, " R"], square: Float[np.ndarray, " R"]
) -> Float[np.ndarray, " M"]:
    """Every local minimum in log λ of Σ_i (square_i h_i² − 2 inner_i h_i), by scan and bisection on its derivative."""

    def rises(log_penalty: np.ndarray) -> np.ndarray:
        factor = _ridge_factor(log_squares, log_penalty)
        return ((inner - square * factor) * factor * (1 - factor)).sum(axis=1) >= 0

    low, high = _search_range(log_squares, inner, square)
    if low > high:
        return np.empty(0)
    grid = np.linspace(low - STEP, high + STEP, 3 + int((high - low) / STEP))
    rising = rises(grid)
    bracket = np.flatnonzero(~rising[:-1] & rising[1:])
    left, right = grid[bracket], grid[bracket + 1]
    for _ in range(60):
        middle = (left + right) / 2
        up = rises(middle)
        left, right = np.where(up, left, middle), np.where(up, middle, right)
    return (left + right) / 2


def nearest_to_fit(x: X, y: Y, fit: Y) -> NearestRidge:
    """The global minimum over λ in [0, ∞]; ties, within rounding, go to the smaller λ."""
    u, s, _ = singular_basis(x)
    size = np.abs(y).max() or 1.0  # λ and the distance do not depend on it, and no square overflows or vanishes
    y, fit = y / size, fit / size
    target, projected = u.T @ fit, u.T @ y
    outside, total = float(np.sum((fit - u @ target) ** 2)), float(np.sum(fit**2))
    square = np.sum(projected**2, axis=1)
    seen = square > 0
    if not fit.any() or not seen.any():
        return NearestRidge(0.0, float(fit.any()))
    if not sys.float_info.min <= total < math.inf:
        raise OverflowError("the fit's size over the targets'")
    log_squares, inner = 2 * np.log(s), np.sum(target * projected, axis=1)
    minima = _stationary_points(log_squares[seen], inner[seen], square[seen])
    log_penalty = np.concatenate([[-np.inf], minima, [np.inf]])
    # The difference itself, not the expanded square, which would cancel near distance 0.
    gaps = [target - factor[:, None] * projected for factor in _ridge_factor(log_squares, log_penalty)]
    distance = np.sqrt((np.array([np.sum(gap**2) for gap in gaps]) + outside) / total)
    best = int(np.flatnonzero(distance <= distance.min() + 4 * np.finfo(float).eps)[0])
    penalty = float(np.exp(log_penalty[best]))
    if 0 < best <= len(minima) and not 0 < penalty < math.inf:
        raise OverflowError("the penalty")
    return NearestRidge(penalty, min(float(distance[best]), 1.0))


@validation.representable("x", "y", "keep_prob", infinite=True)
def nearest_ridge(x: ArrayLike, y: ArrayLike, keep_prob: float, placement: str) -> NearestRidge:
    """λ in [0, ∞] minimizing ‖X(W_drop − W_λ)‖_F, and that distance over ‖XW_drop‖_F.

    Source: claims on §3.1. The paper's equivalence λ = kc is the case of distance 0 (see the module's text).

    Arguments as in `expected_loss`; at keep_prob = 1 the answer is λ = 0, distance 0.

    Returns:
        λ and the distance; both 0 where W_drop = 0, that is XᵀY = 0.

    Examples:
        >>> from allora_analysis.tikhonov import nearest_ridge
        >>> found = nearest_ridge([[1.0], [1.0]], [[2.0], [4.0]], keep_prob=0.5, placement="output")
        >>> print(round(found.penalty, 6), round(found.distance, 6))  # c(1 − p)/p with c = 2, and exactly a ridge
        2.0 0.0
    """
    x, y = design_and_targets(x, y)
    keep_prob, place = validation.keep_probability(keep_prob), validation.choice("placement", placement, PLACEMENTS)
    return (
        NearestRidge(0.0, 0.0) if keep_prob == 1 else nearest_to_fit(x, y, x @ dropout_weights(x, y, keep_prob, place))
    )
