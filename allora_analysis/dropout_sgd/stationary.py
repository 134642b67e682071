"""Where SGD under dropout at a constant rate ends up: its mean converges, its covariance does not vanish.

E W_∞ is the minimiser of the marginal objective, H⁺XᵀY, and Cov W_∞ solves C = FCF + 4l²Q(E W_∞, C). The average of the
iterates does converge to that minimiser: t·Cov W̄_t → H⁺ Q(E W_∞, C) H⁺ (Polyak–Juditsky; for masks shared by all rows
Clara, Langer, Schmidt-Hieber, JMLR 2024, arXiv:2306.10529).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.dropout_sgd.output_masks import OutputMasks
from allora_analysis.dropout_sgd.process import Process, build, in_units
from allora_analysis.dropout_sgd.stability import CovarianceOperator, covariance_operator
from allora_analysis.dropout_sgd.step_sizes import ROUNDING, refuse_unstable
from allora_analysis.tikhonov.loss import input_weights


@dataclass(frozen=True)
class Stationary:
    """The limit t → ∞.

    Attributes:
        mean: E W_∞, the marginal objective's minimiser (D × C), minimum-norm.
        covariance: Cov of each column of W_∞ (C × D × D).
        covariance_trace: the sum of their traces.
        average_covariance_rate: lim t·tr Cov W̄_t over all columns: the averaged iterate converges like this over t.
    """

    mean: Float[np.ndarray, "D C"]
    covariance: Float[np.ndarray, "C D D"]
    covariance_trace: float
    average_covariance_rate: float


def _solve(operator: CovarianceOperator, source: Float[np.ndarray, "d d"], rate: float) -> Float[np.ndarray, "d d"]:
    """The C of A(C) − lB(C) = 4l·source, by conjugate gradients on I − lK, which is positive definite in the limits.

    Returns:
        C.
    """
    from scipy.sparse.linalg import LinearOperator, cg

    size, apply = len(operator.eigenvalues), operator.flat()
    linear = LinearOperator((size**2, size**2), lambda flat: flat - rate * apply(flat), dtype=np.float64)
    solution, _ = cg(linear, 4.0 * rate * operator.narrow(source).ravel(), rtol=1e-13, atol=0.0, maxiter=2000)
    return operator.widen(solution.reshape(size, size))


def _minimiser(process: Process) -> Float[np.ndarray, "d C"]:
    # H⁺·pull. Input masks: by X's singular values, since H has their squares, of which rounding leaves half the digits.
    if not isinstance(process, OutputMasks):
        return input_weights(process.design, process.targets, process.keep_prob)
    curvature = process.eigenvalues[:, None]
    return process.pull / np.where(curvature > 0, curvature, np.inf)


def stationary_moments(
    x: ArrayLike,
    y: ArrayLike,
    keep_prob: Any,
    learning_rate: Any,
    placement: str = "output",
    *,
    batch_size: int | None = None,
    shared_mask: bool = False,
) -> Stationary:
    """The moments of W_t as t → ∞ from W₀ = 0. `tests/test_dropout_sgd_stability.py` compares with a long trajectory.

    The mean is the marginal objective's minimiser, whatever the scales of X's columns, up to X's numerical rank: for
    output masks, and without masks, singular values below max(N, D)·ε of the largest count as 0
    (`tests/test_tikhonov_scales.py` compares with exact fractions). Directions whose curvature is below max(N, D)·ε of
    the largest have no covariance: SGD needs 1/ε steps to move there.

    Args:
        x: X, N × D.
        y: Y, N × C.
        keep_prob: keep probability.
        learning_rate: constant, below the mean-square limit.
        placement: "output" or "input".
        batch_size: draws a step; None for the full batch.
        shared_mask: input masks shared by all rows.

    Returns:
        The limit.
    """
    process = build(x, y, keep_prob, placement, batch_size, shared_mask)
    rate = validation.positive("learning_rate", learning_rate)
    refuse_unstable(process, rate, slack=-ROUNDING)  # at the limit itself no covariance is stationary
    process, unit = in_units(process)
    rate = rate * unit * unit
    operator = covariance_operator(process)
    inverse = (operator.basis / operator.eigenvalues) @ operator.basis.T
    mean = _minimiser(process)
    still = np.zeros_like(process.curvature)
    columns, averaging = [], 0.0
    for column, centre in zip(process.targets.T, mean.T, strict=True):
        columns.append(_solve(operator, process.noise(column, centre, still), rate))
        averaging += float(np.trace(inverse @ process.noise(column, centre, columns[-1]) @ inverse))
    covariance = process.embed_covariance(np.array(columns))
    total = float(np.einsum("cii->", covariance))
    return Stationary(process.embed(mean), covariance, total, averaging)
