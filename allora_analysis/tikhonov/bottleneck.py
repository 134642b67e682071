"""Dropout between A and B, the "latent space" of §3.1's prose: the nuclear norm squared, hence soft thresholding.

E‖Y − ((XAᵀ) ⊙ V)Bᵀ‖² = ‖Y − XAᵀBᵀ‖² + k Σ_j ‖XA_j‖²‖B_:j‖². Over the width-r factorizations of one product P the
penalty is at least (k/r)‖P‖²_*, reached when the r products ‖XA_j‖‖B_:j‖ are equal. Cavazza et al. 2018; Mianjy, Arora
and Vidal 2018. Checked by `tests/test_tikhonov_bottleneck.py`.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.tikhonov.loss import (
    X,
    Y,
    design_and_targets,
    mean_loss,
    noise_ratio,
    singular_basis,
)


@dataclass(frozen=True)
class BottleneckFactors:
    """LoRA's factors: the model is XAᵀBᵀ.

    Attributes:
        a: A (r×D).
        b: B (C×r).
    """

    a: Float[np.ndarray, "r D"]
    b: Float[np.ndarray, "C r"]


@validation.representable("x", "y", "a", "b", "keep_prob")
def bottleneck_loss(x: ArrayLike, y: ArrayLike, a: ArrayLike, b: ArrayLike, keep_prob: float) -> float:
    """E_V‖Y − ((XAᵀ) ⊙ V)Bᵀ‖² = ‖Y − XAᵀBᵀ‖² + k Σ_j ‖XA_j‖²‖B_:j‖².

    Args:
        x: X (N×D).
        y: Y (N×C).
        a: A (r×D).
        b: B (C×r).
        keep_prob: p in (0, 1].

    Returns:
        The expected loss, a sum over samples and outputs.
    """
    x, y, a, b = factored_problem(x, y, a, b)
    return mean_loss(x @ a.T, y, b.T, validation.keep_probability(keep_prob), "input")


def factored_problem(
    x: ArrayLike, y: ArrayLike, a: ArrayLike, b: ArrayLike
) -> tuple[X, Y, Float[np.ndarray, "r D"], Float[np.ndarray, "C r"]]:
    """Design, targets and LoRA's factors, checked to fit together."""
    x, y = design_and_targets(x, y)
    a = validation.matrix_of("a", a, (None, x.shape[1]), "D of x")
    return x, y, a, validation.matrix_of("b", b, (y.shape[1], a.shape[0]), "C of y and r of a")


def _active(values: Float[np.ndarray, " K"], noise: float, rank: int) -> tuple[float, float, int]:
    # r and k, divided by k where it is large, and ρ. σ_ρ > τ_ρ is rσ_ρ > kΣ_{i≤ρ}(σ_i − σ_ρ), which no rounding of τ
    # beside σ spoils; once it fails it stays so: the left side falls with ρ and the right one grows.
    width, weight = rank / max(noise, 1.0), min(noise, 1.0)
    largest = values[:rank]
    excess = np.cumsum(np.arange(len(largest)) * -np.diff(largest, prepend=largest[:1]))
    return width, weight, int(np.sum(width * largest > weight * excess))


def soft_threshold(values: Float[np.ndarray, " K"], keep_prob: float, rank: int) -> Float[np.ndarray, " K"]:
    """(σ_i − τ)₊ for the r largest σ_i and 0 for the others, accurate where τ is all but σ_i."""
    width, weight, active = _active(values, noise_ratio(keep_prob), rank)
    kept, shrunk = values[:active], np.zeros_like(values)
    above = np.sum(kept[:, None] - kept, axis=1)
    shrunk[:active] = np.maximum((width * kept + weight * above) / (width + weight * active), 0.0)
    return shrunk


def _shrunk(
    fitted: Y, keep_prob: float, rank: int
) -> tuple[Float[np.ndarray, "N K"], Float[np.ndarray, " K"], Float[np.ndarray, "K C"]]:
    u, values, vt = np.linalg.svd(fitted, full_matrices=False)
    shrunk = soft_threshold(values, keep_prob, rank)[:rank]
    return u[:, : len(shrunk)], shrunk, vt[: len(shrunk)]


@validation.representable("fitted", "keep_prob", "rank")
def bottleneck_solution(fitted: ArrayLike, keep_prob: float, rank: int) -> Y:
    """XW that minimizes `bottleneck_loss` over all A, B of width r: U diag((σ_i − τ)₊) Vᵀ over the r largest σ_i.

    Holds for any X (rank-deficient, N < D), which enters through fitted = XX⁺Y = UΣVᵀ alone. With equal σ at the cut
    the minimizer is not unique and one is returned.

    Args:
        fitted: XX⁺Y (N×C), the least-squares fit.
        keep_prob: p in (0, 1]; at 1 plain reduced-rank regression.
        rank: the width r ≥ 1; above min(N, C) it restricts no rank and still divides the penalty.

    Returns:
        XW (N×C).

    Examples:
        >>> from allora_analysis.tikhonov import bottleneck_solution
        >>> bottleneck_solution([[3.0]], keep_prob=0.5, rank=1).round(9).tolist()  # τ = 1·3/(1 + 1·1)
        [[1.5]]
    """
    fitted = validation.matrix("fitted", fitted)
    return least_fit(fitted, validation.keep_probability(keep_prob), validation.count("rank", rank))


def least_fit(fitted: Y, keep_prob: float, rank: int) -> Y:
    """The core of `bottleneck_solution`."""
    u, shrunk, vt = _shrunk(fitted, keep_prob, rank)
    return (u * shrunk) @ vt


@validation.representable("x", "y", "keep_prob", "rank")
def bottleneck_minimum(x: ArrayLike, y: ArrayLike, keep_prob: float, rank: int) -> float:
    """The least `bottleneck_loss` over all A, B of width r: ‖Y − Z‖² + (k/r)‖Z‖²_*, Z = `bottleneck_solution`.

    Args:
        x: X (N×D).
        y: Y (N×C).
        keep_prob: p in (0, 1].
        rank: the width r ≥ 1.
    """
    x, y = design_and_targets(x, y)
    basis = singular_basis(x)[0]
    keep_prob, rank = validation.keep_probability(keep_prob), validation.count("rank", rank)
    u, shrunk, vt = _shrunk(basis @ (basis.T @ y), keep_prob, rank)
    total = float(shrunk.sum())
    return float(np.sum((y - (u * shrunk) @ vt) ** 2)) + noise_ratio(keep_prob) / rank * total * total


def equalising_rotation(values: Float[np.ndarray, " K"], width: int) -> Float[np.ndarray, "K width"]:
    """The first K rows of an orthogonal Q (width × width) with a constant diagonal of Qᵀ diag(values, 0) Q."""
    # Each plane rotation brings one diagonal entry to the mean (Schur–Horn, by the construction of Chan and Li 1983),
    # so width − 1 of them suffice.
    q = np.eye(width)
    scaled = values / (values.max() or 1.0)  # so that no product below underflows
    weight = np.concatenate([scaled, np.zeros(width - len(values))])
    diagonal, mean = weight.copy(), float(weight.mean())
    for _ in range(width - 1):
        low, high = int(diagonal.argmin()), int(diagonal.argmax())
        above, below = float(diagonal[high]) - mean, mean - float(diagonal[low])
        if min(above, below) <= np.finfo(float).eps * mean:
            break
        cross = float(q[:, low] @ (weight * q[:, high]))
        q[:, [low, high]] = q[:, [low, high]] @ _plane_rotation(above, below, cross)
        diagonal[low], diagonal[high] = mean, diagonal[high] - mean + diagonal[low]
    return q[: len(values)]


def _plane_rotation(above: float, below: float, cross: float) -> Float[np.ndarray, "2 2"]:
    # tan θ solves above·t² + 2·cross·t − below = 0, in the form that does not cancel.
    root = float(np.sqrt(cross**2 + above * below))
    tangent = below / (cross + root) if cross >= 0 else (root - cross) / above
    return np.array([[1.0, -tangent], [tangent, 1.0]]) / np.sqrt(1 + tangent**2)


@validation.representable("x", "y", "keep_prob", "rank")
def bottleneck_factors(x: ArrayLike, y: ArrayLike, keep_prob: float, rank: int) -> BottleneckFactors:
    """A and B that minimize `bottleneck_loss`: XAᵀBᵀ = `bottleneck_solution`, the r products ‖XA_j‖‖B_:j‖ equal.

    XAᵀ = U diag(t)^{1/2} Q and B = V diag(t)^{1/2} Q with t = (σ − τ)₊ and Q from `equalising_rotation`; U lies in X's
    column space, so A = (X⁺ XAᵀ)ᵀ reaches it exactly.

    Arguments as in `bottleneck_minimum`.

    Returns:
        The factors, ‖XA_j‖ = ‖B_:j‖ for every j.
    """
    x, y = design_and_targets(x, y)
    keep_prob, rank = validation.keep_probability(keep_prob), validation.count("rank", rank)
    validation.fits("rank", float(rank) ** 2, f"a rotation of {rank} columns")
    return least_factors(x, y, keep_prob, rank)


def least_factors(x: X, y: Y, keep_prob: float, rank: int) -> BottleneckFactors:
    """The core of `bottleneck_factors`."""
    basis, scale, rows = singular_basis(x)
    u, shrunk, vt = _shrunk(basis @ (basis.T @ y), keep_prob, rank)
    half = np.sqrt(shrunk)[:, None] * equalising_rotation(shrunk, rank)
    latent = basis.T @ (u @ half)
    return BottleneckFactors(a=(rows.T @ (latent / scale[:, None])).T, b=vt.T @ half)
