"""Designs whose spectrum spreads, and what each placement does along their singular directions.

Used by the study. Checked by `tests/test_tikhonov_study.py`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from allora_analysis.tikhonov.bottleneck import bottleneck_solution, soft_threshold
from allora_analysis.tikhonov.loss import PLACEMENTS
from allora_analysis.tikhonov.minimiser import dropout_solution
from allora_analysis.tikhonov.nearest import NearestRidge, nearest_ridge, nearest_ridge_to_fit
from allora_analysis.tikhonov.ridge import singular_basis

EVERYWHERE = (*PLACEMENTS, "bottleneck")


class Problems:
    """One X per condition number: the singular bases, true weights and noise stay, only singular values move.

    Args:
        samples: N ≥ D.
        features: D.
        outputs: C.
        noise: standard deviation of the targets' noise.
        seed: of everything drawn; one number or several, as NumPy takes them.
    """

    def __init__(self, samples: int, features: int, outputs: int, noise: float, seed: int | list[int]):
        generator = np.random.default_rng(seed)
        self.left = np.linalg.qr(generator.standard_normal((samples, features)))[0]
        self.right = np.linalg.qr(generator.standard_normal((features, features)))[0]
        self.weights = generator.standard_normal((features, outputs))
        self.noise = noise * generator.standard_normal((samples, outputs))

    def at(self, condition: float) -> tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "N C"]]:
        """X with this condition number, entries of unit mean square, and Y = X·weights + noise.

        Args:
            condition: s_max/s_min; singular values are spaced evenly in their logarithm.

        Returns:
            X and Y.
        """
        s = np.geomspace(1.0, 1.0 / condition, len(self.right))
        x = (self.left * (s * np.sqrt(self.left.size / np.sum(s**2)))) @ self.right.T
        return x, x @ self.weights + self.noise


def dropout_fit(
    x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N C"], keep_prob: float, placement: str, rank: int
) -> Float[np.ndarray, "N C"]:
    """XW at dropout's minimiser.

    Args:
        x: X (N×D).
        y: Y (N×C).
        keep_prob: p in (0, 1].
        placement: "output", "input" or "bottleneck".
        rank: the bottleneck's width.

    Returns:
        XW (N×C).
    """
    if placement == "bottleneck":
        basis = singular_basis(x)[0]
        return bottleneck_solution(basis @ (basis.T @ y), keep_prob, rank)
    return x @ dropout_solution(x, y, keep_prob, placement)


def nearest_ridge_anywhere(
    x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N C"], keep_prob: float, placement: str, rank: int
) -> NearestRidge:
    """The nearest ridge for any of the three placements; arguments as in `dropout_fit`.

    Args:
        x: X (N×D).
        y: Y (N×C).
        keep_prob: p in (0, 1].
        placement: "output", "input" or "bottleneck".
        rank: the bottleneck's width.

    Returns:
        λ and the distance.
    """
    if placement == "bottleneck":
        return nearest_ridge_to_fit(x, y, dropout_fit(x, y, keep_prob, placement, rank))
    return nearest_ridge(x, y, keep_prob, placement)


def shrinkage(
    x: Float[np.ndarray, "N D"], keep_prob: float, placement: str
) -> tuple[Float[np.ndarray, " R"], Float[np.ndarray, " R"]]:
    """By how much dropout's fit multiplies targets that lie along one singular direction u of X: uᵀ·fit(Y = u).

    It is p for output masks and s²/(s² + λ) for a ridge. Input masks also turn the fit; this is the part along u.

    Args:
        x: X (N×D).
        keep_prob: p in (0, 1].
        placement: "output" or "input"; a bottleneck's fit is not linear in Y.

    Returns:
        The singular values, descending, and a factor in [0, 1] for each.
    """
    u, s, _ = singular_basis(x)
    return s, np.sum(u * (x @ dropout_solution(x, u, keep_prob, placement)), axis=0)


def bottleneck_shrinkage(
    x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N C"], keep_prob: float, rank: int
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"]]:
    """By how much a bottleneck's fit multiplies each singular direction of the least-squares fit XX⁺Y: (σ − τ)₊/σ.

    Args:
        x: X (N×D).
        y: Y (N×C).
        keep_prob: p in (0, 1].
        rank: the bottleneck's width.

    Returns:
        The singular values σ of XX⁺Y above rounding, descending, and a factor in [0, 1) for each.
    """
    basis = singular_basis(x)[0]
    _, values, _ = singular_basis(basis @ (basis.T @ y))
    return values, soft_threshold(values, keep_prob, rank) / values
