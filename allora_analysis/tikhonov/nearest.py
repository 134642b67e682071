"""The ridge nearest to dropout's solution, and how far it is (§3.1's equivalence, off the whitened case).

In X's singular basis, ridge's fit multiplies direction i of Y by h_i(λ) = s_i²/(s_i² + λ), so
‖Z − XW_λ‖² = Σ_i ‖G_i − h_i(λ)H_i‖² with G = UᵀZ, H = UᵀY: a sum of terms each unimodal in λ, but not unimodal itself.
Checked by `tests/test_tikhonov_ridge.py` against a dense grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.tikhonov.loss import design_and_targets
from allora_analysis.tikhonov.minimiser import dropout_solution
from allora_analysis.tikhonov.ridge import singular_basis

# h_i moves over a width of about 1 in log λ, so 20 points a unit see every dip of the sum.
STEP = 0.05
# Beyond e^±40 times the spectrum ridge equals its limit to 1e-17.
MARGIN = 40.0


@dataclass(frozen=True)
class NearestRidge:
    """The ridge whose fit is nearest to a given one.

    Attributes:
        penalty: λ in [0, ∞]; 0 is least squares, ∞ is W = 0.
        distance: ‖Z − XW_λ‖_F/‖Z‖_F in [0, 1]; 0 where Z = 0.
    """

    penalty: float
    distance: float


def ridge_factor(
    log_squares: Float[np.ndarray, " R"], log_penalty: Float[np.ndarray, " T"]
) -> Float[np.ndarray, "T R"]:
    """The factor h = s²/(s² + λ) from logarithms, without overflow.

    Args:
        log_squares: log s².
        log_penalty: log λ, ±∞ included.

    Returns:
        A row for each λ, a column for each singular value.
    """
    return np.exp(-np.logaddexp(0.0, log_penalty[:, None] - log_squares))


def search_range(
    log_squares: Float[np.ndarray, " R"], inner: Float[np.ndarray, " R"], square: Float[np.ndarray, " R"]
) -> tuple[float, float]:
    """Where in log λ all minima between the ends lie.

    Term i falls until h_i = inner_i/square_i and rises after, so they lie between the first and the last such point;
    a term that turns at λ = 0 or ∞ opens that side, as far as h still changes.

    Args:
        log_squares: log s_i².
        inner: ⟨G_i, H_i⟩.
        square: ‖H_i‖² > 0.

    Returns:
        Lowest and highest log λ; lowest above highest where only the ends can be minima.
    """
    ratio = inner / square
    between = (ratio > 0) & (ratio < 1)
    turns = log_squares[between] + np.log1p(-ratio[between]) - np.log(ratio[between])
    low = np.append(turns, log_squares.min() - MARGIN if (ratio >= 1).any() else np.inf).min()
    high = np.append(turns, log_squares.max() + MARGIN if (ratio <= 0).any() else -np.inf).max()
    return float(low), float(high)


def stationary_points(
    log_squares: Float[np.ndarray, " R"], inner: Float[np.ndarray, " R"], square: Float[np.ndarray, " R"]
) -> Float[np.ndarray, " M"]:
    """Every local minimum in log λ of Σ_i (square_i h_i² − 2 inner_i h_i), by scan and bisection on its derivative.

    Args:
        log_squares: log s_i².
        inner: ⟨G_i, H_i⟩.
        square: ‖H_i‖² > 0.

    Returns:
        The minima, ascending; none where only the ends λ = 0 or ∞ can be.
    """

    def rises(log_penalty: np.ndarray) -> np.ndarray:
        factor = ridge_factor(log_squares, log_penalty)
        return ((inner - square * factor) * factor * (1 - factor)).sum(axis=1) >= 0

    low, high = search_range(log_squares, inner, square)
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


def nearest_to_fit(
    x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N C"], fit: Float[np.ndarray, "N C"]
) -> NearestRidge:
    """The global minimum over λ in [0, ∞]; ties, within rounding, go to the smaller λ.

    Args:
        x: X (N×D).
        y: Y (N×C).
        fit: Z (N×C).

    Returns:
        λ and the distance.
    """
    u, s, _ = singular_basis(x)
    size = np.abs(y).max() or 1.0  # λ and the distance do not depend on it, and no square overflows or vanishes
    y, fit = y / size, fit / size
    target, projected = u.T @ fit, u.T @ y
    outside, total = float(np.sum((fit - u @ target) ** 2)), float(np.sum(fit**2))
    square = np.sum(projected**2, axis=1)
    seen = square > 0
    if total == 0 or not seen.any():
        return NearestRidge(0.0, float(total > 0))
    log_squares, inner = 2 * np.log(s), np.sum(target * projected, axis=1)
    minima = stationary_points(log_squares[seen], inner[seen], square[seen])
    log_penalty = np.concatenate([[-np.inf], minima, [np.inf]])
    # The difference itself, not the expanded square, which would cancel near distance 0.
    gaps = [target - factor[:, None] * projected for factor in ridge_factor(log_squares, log_penalty)]
    distance = np.sqrt((np.array([np.sum(gap**2) for gap in gaps]) + outside) / total)
    best = int(np.flatnonzero(distance <= distance.min() + 4 * np.finfo(float).eps)[0])
    return NearestRidge(float(np.exp(log_penalty[best])), min(float(distance[best]), 1.0))


def nearest_ridge_to_fit(x: ArrayLike, y: ArrayLike, fit: ArrayLike) -> NearestRidge:
    """λ in [0, ∞] minimising ‖Z − XW_λ‖_F, W_λ = (XᵀX + λI)⁻¹XᵀY, for any Z: a bottleneck's fit, say.

    Args:
        x: X (N×D).
        y: Y (N×C).
        fit: Z (N×C).

    Returns:
        λ and ‖Z − XW_λ‖_F/‖Z‖_F.
    """
    x, y = design_and_targets(x, y)
    return nearest_to_fit(x, y, validation.matrix_of("fit", fit, y.shape, "the shape of y"))


def nearest_ridge(x: ArrayLike, y: ArrayLike, keep_prob: float, placement: str) -> NearestRidge:
    """λ in [0, ∞] minimising ‖X(W_drop − W_λ)‖_F, and that distance over ‖XW_drop‖_F.

    Source: claims on §3.1. The paper's equivalence λ = kc is the case of distance 0 (see `exact_penalty`).

    Args:
        x: X (N×D).
        y: Y (N×C).
        keep_prob: p in (0, 1]; at 1 the answer is λ = 0, distance 0.
        placement: "output" or "input".

    Returns:
        λ and the distance; both 0 where W_drop = 0, that is XᵀY = 0.

    Examples:
        >>> from allora_analysis.tikhonov import nearest_ridge
        >>> found = nearest_ridge([[1.0], [1.0]], [[2.0], [4.0]], keep_prob=0.5, placement="output")
        >>> print(round(found.penalty, 6), round(found.distance, 6))  # c(1 − p)/p with c = 2, and exactly a ridge
        2.0 0.0
    """
    w = dropout_solution(x, y, keep_prob, placement)
    x, y = design_and_targets(x, y)
    return NearestRidge(0.0, 0.0) if keep_prob == 1 else nearest_to_fit(x, y, x @ w)
