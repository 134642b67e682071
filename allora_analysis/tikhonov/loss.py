"""E_V of the masked squared loss of a linear model XW, in closed form (§3.1, the display before the bound).

With V's entries i.i.d., 1/keep_prob with probability keep_prob and 0 otherwise, k = (1 − keep_prob)/keep_prob:

- output: E‖Y − (XW) ⊙ V‖² = ‖Y − XW‖² + k‖XW‖² = ‖Y‖² − 2Tr(YᵀXW) + ‖XW‖²/keep_prob (as printed),
- input: E‖Y − (X ⊙ V)W‖² = ‖Y − XW‖² + k Σ_d ‖X_:d‖²‖W_d:‖² (Wager, Wang and Liang 2013).

Checked by `tests/test_tikhonov.py` against the enumeration of all masks and by Monte Carlo.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation

PLACEMENTS = ("output", "input")


def noise_ratio(keep_prob: float) -> float:
    """The variance k = (1 − p)/p of a mask's entry.

    Args:
        keep_prob: p in (0, 1].

    Returns:
        k ≥ 0.
    """
    return (1.0 - keep_prob) / keep_prob


def design_and_targets(x: ArrayLike, y: ArrayLike) -> tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "N C"]]:
    """The design and the targets, checked to have one row each per sample.

    Args:
        x: X (N×D).
        y: Y (N×C).

    Returns:
        Both as float64 matrices.
    """
    x = validation.matrix("x", x)
    return x, validation.matrix_of("y", y, (x.shape[0], None), "the N rows of x")


def weighted_problem(
    x: ArrayLike, y: ArrayLike, w: ArrayLike
) -> tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "N C"], Float[np.ndarray, "D C"]]:
    """Design, targets and the model's weights, checked to fit together.

    Args:
        x: X (N×D).
        y: Y (N×C).
        w: W (D×C).

    Returns:
        All three as float64 matrices.
    """
    x, y = design_and_targets(x, y)
    return x, y, validation.matrix_of("w", w, (x.shape[1], y.shape[1]), "D of x and C of y")


def column_norms(x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, " D"]:
    """‖X_:d‖, each column scaled before squaring so that no square overflows or vanishes.

    Args:
        x: X (N×D).

    Returns:
        The norms; 0 for zero columns alone.
    """
    largest = np.max(np.abs(x), axis=0)
    scale = np.where(largest > 0, largest, 1.0)
    return scale * np.linalg.norm(x / scale, axis=0)


def output_penalty(x: Float[np.ndarray, "N D"], w: Float[np.ndarray, "D C"]) -> float:
    """‖XW‖²_F, what output masks penalise.

    Args:
        x: X (N×D).
        w: W (D×C).

    Returns:
        The penalty, to be multiplied by k.
    """
    return float(np.sum((x @ w) ** 2))


def input_penalty(x: Float[np.ndarray, "N D"], w: Float[np.ndarray, "D C"]) -> float:
    """Σ_d ‖X_:d‖²‖W_d:‖² = ‖diag(XᵀX)^{1/2}W‖²_F, what input masks penalise.

    Args:
        x: X (N×D).
        w: W (D×C).

    Returns:
        The penalty, to be multiplied by k.
    """
    return float(np.sum(x**2, axis=0) @ np.sum(w**2, axis=1))


def expected_loss(x: ArrayLike, y: ArrayLike, w: ArrayLike, keep_prob: float, placement: str) -> float:
    """E_V of the squared loss, a sum over samples and outputs: ‖Y − XW‖² + k·penalty(X, W).

    Source: §3.1, the display before the bound (output); Wager, Wang and Liang 2013 (input). Assumes masks independent
    over entries and of the data. For a frozen W*, pass the residual Y − XW*.

    Args:
        x: X (N×D), the design.
        y: Y (N×C), the targets.
        w: W (D×C), the weights.
        keep_prob: p in (0, 1]; 1 − drop rate.
        placement: "output" or "input".

    Returns:
        The expected loss, in the square of Y's unit.

    Examples:
        >>> from allora_analysis.tikhonov import expected_loss
        >>> print(expected_loss([[1.0], [1.0]], [[2.0], [4.0]], [[3.0]], keep_prob=0.5, placement="output"))  # 2 + 1·18
        20.0
    """
    x, y, w = weighted_problem(x, y, w)
    noise = noise_ratio(validation.keep_probability(keep_prob))
    penalty = {"output": output_penalty, "input": input_penalty}[validation.choice("placement", placement, PLACEMENTS)]
    return float(np.sum((y - x @ w) ** 2)) + noise * penalty(x, w)
