"""What minimises the expected loss under output and input masks (§3.1), over all W and over W of rank ≤ r.

Checked by `tests/test_tikhonov.py` against least squares on the enumeration of all masks.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.tikhonov.loss import PLACEMENTS, column_norms, design_and_targets, noise_ratio
from allora_analysis.tikhonov.ridge import ridge_weights


def output_weights(
    x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N C"], keep_prob: float
) -> Float[np.ndarray, "D C"]:
    """p·X⁺Y: every singular direction shrinks by the same factor.

    Args:
        x: X (N×D).
        y: Y (N×C).
        keep_prob: p in (0, 1].

    Returns:
        W (D×C).
    """
    return keep_prob * ridge_weights(x, y, 0.0)


def input_weights(
    x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N C"], keep_prob: float
) -> Float[np.ndarray, "D C"]:
    """(S + k diag S)⁺XᵀY, computed as ridge with λ = k on the design of unit columns, then unscaled.

    The unit columns keep the smallest pivot at √k whatever X's scales; weights of zero columns are 0 (minimum norm).

    Args:
        x: X (N×D).
        y: Y (N×C).
        keep_prob: p in (0, 1].

    Returns:
        W (D×C).
    """
    if keep_prob == 1.0:  # without a penalty the norm to be minimal is W's own, not the rescaled one
        return ridge_weights(x, y, 0.0)
    norms = column_norms(x)
    scale = np.where(norms > 0, norms, 1.0)
    return ridge_weights(x / scale, y, noise_ratio(keep_prob)) / scale[:, None]


def dropout_solution(x: ArrayLike, y: ArrayLike, keep_prob: float, placement: str) -> Float[np.ndarray, "D C"]:
    """The W of least norm that minimises `expected_loss`.

    - output: p·X⁺Y = p(XᵀX)⁻¹XᵀY for X of full column rank (§3.1 prints YᵀX for XᵀY),
    - input: (S + k diag S)⁺XᵀY with S = XᵀX, k = (1 − p)/p (Wager, Wang and Liang 2013).

    Args:
        x: X (N×D).
        y: Y (N×C).
        keep_prob: p in (0, 1].
        placement: "output" or "input".

    Returns:
        W (D×C).

    Examples:
        >>> from allora_analysis.tikhonov import dropout_solution
        >>> x, y = [[1.0], [1.0]], [[2.0], [4.0]]  # S = 2, XᵀY = 6, least squares W = 3
        >>> dropout_solution(x, y, keep_prob=0.5, placement="output").round(9).tolist()
        [[1.5]]
        >>> dropout_solution(x, y, keep_prob=0.75, placement="input").round(9).tolist()  # 6/(2 + 2/3)
        [[2.25]]
    """
    x, y = design_and_targets(x, y)
    keep_prob = validation.keep_probability(keep_prob)
    solve = {"output": output_weights, "input": input_weights}[validation.choice("placement", placement, PLACEMENTS)]
    return solve(x, y, keep_prob)


def reduced_rank_solution(
    x: ArrayLike, y: ArrayLike, keep_prob: float, rank: int, placement: str = "input"
) -> Float[np.ndarray, "D C"]:
    """A minimiser of `expected_loss` over W of rank ≤ r: LoRA's W = AᵀBᵀ, whatever the scales of A and B.

    The expected loss is ‖Ỹ − X̃W‖² plus a constant with X̃ = [X; √k P], P = X (output) or diag(S)^{1/2} (input), so the
    unrestricted minimiser is projected on the first r right singular vectors of X̃W (Eckart–Young, Izenman 1975).

    Args:
        x: X (N×D).
        y: Y (N×C).
        keep_prob: p in (0, 1].
        rank: r ≤ min(D, C).
        placement: "input" (LoRA as shipped) or "output".

    Returns:
        W (D×C).
    """
    w = dropout_solution(x, y, keep_prob, placement)
    rank = validation.adapter_rank(rank, *w.shape)
    x = validation.matrix("x", x)
    root = np.sqrt(noise_ratio(keep_prob))
    extra = x @ w if placement == "output" else column_norms(x)[:, None] * w
    directions = np.linalg.svd(np.vstack([x @ w, root * extra]), full_matrices=False)[2][:rank]
    return w @ directions.T @ directions
