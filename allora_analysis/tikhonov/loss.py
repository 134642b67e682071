"""The masked squared loss of a linear model XW, in closed form: mean and Std over masks, and what minimizes the mean.

With V's entries i.i.d., 1/keep_prob with probability keep_prob and 0 otherwise, k = (1 − keep_prob)/keep_prob (§3.1):

- output: E‖Y − (XW) ⊙ V‖² = ‖Y − XW‖² + k‖XW‖² = ‖Y‖² − 2Tr(YᵀXW) + ‖XW‖²/keep_prob (as printed),
- input: E‖Y − (X ⊙ V)W‖² = ‖Y − XW‖² + k Σ_d ‖X_:d‖²‖W_d:‖² (Wager, Wang and Liang 2013).

Linear problems are solved in X's singular basis, cut at the numerical rank. Checked by `tests/test_tikhonov.py` against
the enumeration of all masks, by least squares on it, and by Monte Carlo.
"""

import math

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation

# Shapes by the paper's letters: the design, the targets or what has their shape, the weights.
X, Y, W = Float[np.ndarray, "N D"], Float[np.ndarray, "N C"], Float[np.ndarray, "D C"]

PLACEMENTS = ("output", "input")
SQUARES = (1e-140, 1e140)  # sums of squares of what lies within are right
RANGE = (1e-150, 1e150)  # of X's largest entry, within which its singular values are taken as it is


def noise_ratio(keep_prob: float) -> float:
    """The variance k = (1 − p)/p of a mask's entry."""
    return (1.0 - keep_prob) / keep_prob


def design_and_targets(x: ArrayLike, y: ArrayLike) -> tuple[X, Y]:
    """X and Y as float64 matrices, checked to have one row each per sample."""
    x = validation.matrix("x", x)
    return x, validation.matrix_of("y", y, (x.shape[0], None), "the N rows of x")


def weighted_problem(x: ArrayLike, y: ArrayLike, w: ArrayLike) -> tuple[X, Y, W]:
    """X, Y and the model's weights as float64 matrices, checked to fit together."""
    x, y = design_and_targets(x, y)
    return x, y, validation.matrix_of("w", w, (x.shape[1], y.shape[1]), "D of x and C of y")


def column_norms(x: X) -> Float[np.ndarray, " D"]:
    """‖X_:d‖, each column scaled before squaring so that no square overflows or vanishes; 0 for zero columns alone."""
    largest = np.max(np.abs(x), axis=0)
    scale = np.where(largest > 0, largest, 1.0)
    norms = scale * np.linalg.norm(x / scale, axis=0)
    if not np.isfinite(norms).all():
        raise OverflowError("the norm of a column of x")
    return norms


def input_penalty(x: X, w: W, weight: float) -> float:
    """What input masks penalize, k Σ_d ‖X_:d‖²‖W_d:‖² = k‖diag(XᵀX)^{1/2}W‖²_F; `weight` is k."""
    if _squares_are_numbers(x) and _squares_are_numbers(w):
        (x, first), (w, second) = validation.unit_scaled(x), validation.unit_scaled(w)
        square = float(np.sum(x**2, axis=0) @ np.sum(w**2, axis=1))
        return math.ldexp(weight, 2 * (first + second)) * square
    return _weighted_square(weight, column_norms(x) * column_norms(w.T))  # where a tiny column meets a huge row


def _weighted_square(weight: float, values: Float[np.ndarray, "*shape"]) -> float:
    # weight·‖values‖²: the square alone may vanish where the weight is huge.
    scaled, unit = validation.unit_scaled(values)
    return math.ldexp(weight, 2 * unit) * float(np.sum(scaled**2))


def _squares_are_numbers(values: Float[np.ndarray, "rows columns"]) -> bool:
    sizes = np.abs(values[values != 0])
    return bool(((sizes > SQUARES[0]) & (sizes < SQUARES[1])).all())


def singular_basis(x: X) -> tuple[Float[np.ndarray, "N R"], Float[np.ndarray, " R"], Float[np.ndarray, "R D"]]:
    """X = U diag(s) Vᵀ over its numerical rank R: s > max(N, D)·ε·s_max, descending; R = 0 for X = 0."""
    largest = float(np.abs(x).max())
    unit = 1.0 if largest == 0 or RANGE[0] < largest < RANGE[1] else largest
    u, s, vt = np.linalg.svd(x / unit, full_matrices=False)
    rank = int(np.sum(s > max(x.shape) * np.finfo(float).eps * s[0]))
    s = s[:rank] * unit
    if not np.isfinite(s).all() or (s == 0).any():
        raise OverflowError("a singular value of x")
    return u[:, :rank], s, vt[:rank]


def ridge_weights(x: X, y: Y, penalty: float) -> W:
    """V diag(s/(s² + λ)) UᵀY, written 1/(s + λ/s) so that no square underflows; X⁺Y at λ = 0, zero at λ = ∞."""
    u, s, vt = singular_basis(x)
    return vt.T @ ((u.T @ y) / (s + penalty / s)[:, None])


@validation.representable("x", "y", "w", "keep_prob")
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
    keep_prob = validation.keep_probability(keep_prob)
    return mean_loss(x, y, w, keep_prob, validation.choice("placement", placement, PLACEMENTS))


def mean_loss(x: X, y: Y, w: W, keep_prob: float, place: str) -> float:
    """The core of `expected_loss`: ‖XW‖² is what output masks penalize, ‖diag(XᵀX)^{1/2}W‖² what input masks do."""
    fit = x @ w
    noise = noise_ratio(keep_prob)
    penalty = _weighted_square(noise, fit) if place == "output" else input_penalty(x, w, noise)
    return float(np.sum((y - fit) ** 2)) + penalty


def input_std(x: X, y: Y, w: W, keep_prob: float) -> float:
    """Std of ‖Y − (X ⊙ V)W‖² over the input masks V, exact.

    A mean over drawn masks is measured against it: a sample's own standard error is 0, or nearly, where no draw has met
    a rare mask entry. With R = Y − XW, H = RWᵀ, M = WWᵀ and k = (1 − p)/p, the variance is

        k Σ_nd (2X_nd H_nd − (k − 1)X²_nd M_dd)² + 2k² Σ_n Σ_{d≠e} X²_nd X²_ne M²_de,

    as the loss is Σ_n of a quadratic form in u = v − 1, whose moments are k, k(k − 1) and k(k² − k + 1).
    `tests/test_tikhonov_monte_carlo.py` enumerates all masks.
    """
    noise, between, squares = noise_ratio(keep_prob), w @ w.T, x**2
    own = math.sqrt(noise) * (2 * x * ((y - x @ w) @ w.T) - (noise - 1) * squares * np.diag(between))
    pairs = noise * between  # before the square: k² may overflow where p is tiny, and W with it
    np.fill_diagonal(pairs, 0.0)
    return math.sqrt(float(np.sum(own**2)) + 2 * float(np.sum((squares @ pairs**2) * squares)))


@validation.representable("x", "y", "keep_prob")
def dropout_solution(x: ArrayLike, y: ArrayLike, keep_prob: float, placement: str) -> W:
    """The W of least norm that minimizes `expected_loss`.

    - output: p·X⁺Y = p(XᵀX)⁻¹XᵀY for X of full column rank (§3.1 prints YᵀX for XᵀY),
    - input: (S + k diag S)⁺XᵀY with S = XᵀX, k = (1 − p)/p (Wager, Wang and Liang 2013).

    Arguments as in `expected_loss`.

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
    return dropout_weights(x, y, keep_prob, validation.choice("placement", placement, PLACEMENTS))


def dropout_weights(x: X, y: Y, keep_prob: float, place: str) -> W:
    """The core of `dropout_solution`; output masks shrink every singular direction by the same factor."""
    return keep_prob * ridge_weights(x, y, 0.0) if place == "output" else input_weights(x, y, keep_prob)


def input_weights(x: X, y: Y, keep_prob: float) -> W:
    """(S + k diag S)⁺XᵀY, computed as ridge with λ = k on the design of unit columns, then unscaled."""
    if keep_prob == 1.0:  # without a penalty the norm to be minimal is W's own, not the rescaled one
        return ridge_weights(x, y, 0.0)
    # Unit columns keep the smallest pivot at √k whatever X's scales; weights of zero columns are 0 (minimum norm).
    norms = column_norms(x)
    scale = np.where(norms > 0, norms, 1.0)
    return ridge_weights(x / scale, y, noise_ratio(keep_prob)) / scale[:, None]
