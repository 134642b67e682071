"""Std over masks of the masked squared loss, exact: what a mean over drawn masks is to be measured against.

A sample's own standard error is 0, or nearly, where no draw has met a rare mask entry. Checked by
`tests/test_tikhonov_monte_carlo.py` against the enumeration of all masks.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.deviation.moments import loss_moments
from allora_analysis.tikhonov.bottleneck import factored_problem
from allora_analysis.tikhonov.loss import PLACEMENTS, noise_ratio, weighted_problem


def loss_std(x: ArrayLike, y: ArrayLike, w: ArrayLike, keep_prob: float, placement: str) -> float:
    """Std of ‖Y − (XW) ⊙ V‖² (output) or ‖Y − (X ⊙ V)W‖² (input) over the masks V.

    Input: with R = Y − XW, H = RWᵀ, M = WWᵀ and k = (1 − p)/p, the variance is

        k Σ_nd (2X_nd H_nd − (k − 1)X²_nd M_dd)² + 2k² Σ_n Σ_{d≠e} X²_nd X²_ne M²_de,

    as the loss is Σ_n of a quadratic form in u = v − 1, whose moments are k, k(k − 1) and k(k² − k + 1).

    Args:
        x: X (N×D).
        y: Y (N×C).
        w: W (D×C).
        keep_prob: p in (0, 1].
        placement: "output" or "input".

    Returns:
        The standard deviation, in the loss's unit.

    Examples:
        >>> from allora_analysis.tikhonov import loss_std
        >>> print(round(loss_std([[1.0]], [[0.0]], [[2.0]], 0.5, "input"), 9))  # the loss is 0 or 16, with equal chance
        8.0
    """
    x, y, w = weighted_problem(x, y, w)
    noise = noise_ratio(validation.keep_probability(keep_prob))
    if validation.choice("placement", placement, PLACEMENTS) == "output":
        return loss_moments(x, y, w, keep_prob)[1]
    between, squares = w @ w.T, x**2
    own = math.sqrt(noise) * (2 * x * ((y - x @ w) @ w.T) - (noise - 1) * squares * np.diag(between))
    pairs = noise * between  # before the square: k² may overflow where p is tiny, and W with it
    np.fill_diagonal(pairs, 0.0)
    return math.sqrt(float(np.sum(own**2)) + 2 * float(np.sum((squares @ pairs**2) * squares)))


def bottleneck_loss_std(x: ArrayLike, y: ArrayLike, a: ArrayLike, b: ArrayLike, keep_prob: float) -> float:
    """Std of ‖Y − ((XAᵀ) ⊙ V)Bᵀ‖² over the masks V: `loss_std` of inputs XAᵀ and weights Bᵀ.

    Args:
        x: X (N×D).
        y: Y (N×C).
        a: A (r×D).
        b: B (C×r).
        keep_prob: p in (0, 1].

    Returns:
        The standard deviation, in the loss's unit.
    """
    x, y, a, b = factored_problem(x, y, a, b)
    return loss_std(x @ a.T, y, b.T, keep_prob, "input")
