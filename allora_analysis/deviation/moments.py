"""Moments of the masked loss and of its gradient, and the paper's bound. Mask on the output, as the paper draws it.

Entry j = (n, c) of L = ‖Y − Z⊙V‖², Z = XW, is a two-point variable: Y² where the mask drops it and (Y − Z/p)² where it
keeps it, so L − E L = Σ_j δ_j (v_j − p) with independent v_j ~ Bernoulli(p) and δ_j = Z_j (Z_j/p − 2Y_j)/p.
Checked by `tests/test_deviation_moments.py`.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.validation import ArgumentError, count, keep_probability, matrix, matrix_of


def problem(
    x: ArrayLike, y: ArrayLike, w: ArrayLike
) -> tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "N C"], Float[np.ndarray, "D C"]]:
    """The three matrices of the linear model, with matching shapes.

    Args:
        x: X (N×D), the design.
        y: Y (N×C), the targets.
        w: W (D×C), the weights.

    Returns:
        X, Y and W in float64.
    """
    design, targets = matrix("x", x), matrix("y", y)
    targets = matrix_of("y", targets, (design.shape[0], None), "the N rows of x")
    weights = matrix_of("w", w, (design.shape[1], targets.shape[1]), "the D columns of x and the C columns of y")
    return design, targets, weights


def jumps(z: Float[np.ndarray, "N C"], y: Float[np.ndarray, "N C"], keep_prob: float) -> Float[np.ndarray, "N C"]:
    """δ = Z(Z/p − 2Y)/p: by how much the loss changes when an entry is kept instead of dropped.

    Args:
        z: Z = XW.
        y: Y.
        keep_prob: p.

    Returns:
        δ, in the loss's unit.

    Raises:
        ArgumentError: the squares overflow float64.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        delta = z / keep_prob * (z / keep_prob - 2 * y)
        loss = np.sum(y**2) + np.sum((z / keep_prob) ** 2) + np.sum(np.abs(delta))
    if not np.isfinite(loss):
        raise ArgumentError(
            f"x, y, w: the loss overflows float64 (max |XW|/keep_prob = {np.max(np.abs(z)) / keep_prob:.3g}, "
            f"max |y| = {np.max(np.abs(y)):.3g}); scale the targets and weights below 1e150"
        )
    return delta


def spread(delta: Float[np.ndarray, "N C"], keep_prob: float) -> float:
    """Std[L] = √(p(1 − p) Σδ²), free of overflow and underflow.

    Args:
        delta: δ.
        keep_prob: p.

    Returns:
        The standard deviation of the loss over masks.
    """
    scale = float(np.max(np.abs(delta)))
    if scale == 0.0 or keep_prob == 1.0:
        return 0.0
    return scale * math.sqrt(keep_prob * (1 - keep_prob) * float(np.sum((delta / scale) ** 2)))


def loss_moments(x: ArrayLike, y: ArrayLike, w: ArrayLike, keep_prob: float) -> tuple[float, float]:
    """E L = ‖Y − Z‖² + k‖Z‖² and Std[L] = √(k Σ Z²(Z/p − 2Y)²), k = (1 − p)/p, over masks V with entries in {0, 1/p}.

    Source: §3.1 (the expectation) and Appendix A (the variance is left open there). Std is exactly 0 at Z = 0, LoRA's
    initialisation. Test: `tests/test_deviation_moments.py`, against all masks.

    Args:
        x: X (N×D), the design.
        y: Y (N×C), the targets (with a frozen W*, the residual Y − XW*).
        w: W (D×C), the weights.
        keep_prob: p in (0, 1].

    Returns:
        Mean and standard deviation, in the loss's unit.

    Examples:
        >>> from allora_analysis.deviation import loss_moments
        >>> mean, std = loss_moments([[1.0]], [[0.0]], [[2.0]], keep_prob=0.5)  # the loss is 0 or 16, with equal chance
        >>> print(round(mean, 9), round(std, 9))
        8.0 8.0
    """
    design, targets, weights = problem(x, y, w)
    kept = keep_probability(keep_prob)
    z = design @ weights
    delta = jumps(z, targets, kept)
    mean = float(np.sum((targets - z) ** 2) + (1 - kept) / kept * np.sum(z**2))
    return mean, spread(delta, kept)


def bound(x: ArrayLike, y: ArrayLike, w: ArrayLike, keep_prob: float, n: int) -> float:
    """The paper's bound Std[L]/√n on E|L̄_n − E L|, the mean distance of an average over n masks from its expectation.

    Source: §3.1, display "A first naive bound"; Appendix A. It is the Cauchy–Schwarz inequality E|T| ≤ √(E T²).

    Args:
        x: X (N×D).
        y: Y (N×C).
        w: W (D×C).
        keep_prob: p in (0, 1].
        n: number of masks, 1 or above.

    Returns:
        The bound, in the loss's unit.

    Examples:
        >>> from allora_analysis.deviation import bound
        >>> print(round(bound([[1.0]], [[0.0]], [[2.0]], keep_prob=0.5, n=4), 9))  # 8/√4
        4.0
    """
    return loss_moments(x, y, w, keep_prob)[1] / math.sqrt(count("n", n))


def gradient_std(x: ArrayLike, y: ArrayLike, w: ArrayLike, keep_prob: float) -> Float[np.ndarray, "D C"]:
    """Std over masks of entry (d, c) of ∂L/∂W: √(4k Σ_n X²_nd (Y_nc − Z_nc/p)²), k = (1 − p)/p.

    ∂L/∂W_dc = −2 Σ_n X_nd v_nc (Y_nc − Z_nc v_nc) with v in {0, 1/p}: a kept entry contributes
    −2 X_nd (Y_nc − Z_nc/p)/p, a dropped one nothing. At Z = 0 this is 2√(k Σ X²Y²), not zero, where Std[L] is.
    Source: claim behind Figure 1, for the linear model of §3.1. Test: `tests/test_deviation_moments.py`.

    Args:
        x: X (N×D).
        y: Y (N×C).
        w: W (D×C).
        keep_prob: p in (0, 1].

    Returns:
        The standard deviations (D×C), in the loss's unit over the weight's.

    Examples:
        >>> from allora_analysis.deviation import gradient_std
        >>> gradient_std([[1.0]], [[0.0]], [[2.0]], keep_prob=0.5).round(9).tolist()  # the gradient is 0 or 16
        [[8.0]]
    """
    design, targets, weights = problem(x, y, w)
    kept = keep_probability(keep_prob)
    jumps(design @ weights, targets, kept)  # refuses what overflows
    residual = targets - design @ weights / kept
    return gradient_spread(design, residual, kept)


def gradient_spread(
    x: Float[np.ndarray, "N D"], residual: Float[np.ndarray, "N C"], keep_prob: float
) -> Float[np.ndarray, "D C"]:
    """√(4k (X²)ᵀ(Y − Z/p)²), the core of `gradient_std`.

    Args:
        x: X.
        residual: Y − Z/p, what a kept entry leaves.
        keep_prob: p.

    Returns:
        The standard deviations (D×C).
    """
    of_x, of_residual = (np.where((top := np.abs(part).max(axis=0)) > 0, top, 1.0) for part in (x, residual))
    left, right = x / of_x, residual / of_residual
    sums = np.sqrt((left**2).T @ right**2)  # no square overflows
    crossed = (sums < 1e-140) & left.any(axis=0)[:, None] & right.any(axis=0)
    for d, c in np.argwhere(crossed):  # squares that vanish, as large entries meet small ones alone
        products = left[:, d] * right[:, c]
        top = float(np.abs(products).max()) or 1.0
        sums[d, c] = top * np.linalg.norm(products / top)
    return 2 * math.sqrt((1 - keep_prob) / keep_prob) * of_x[:, None] * sums * of_residual
