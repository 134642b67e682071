"""One step of SGD under dropout as an affine random map of the weights: w ← w + 2l(ĝ − Ĥw), and its first two moments.

With fresh masks ĝ and Ĥ are independent of w, so for each column

    E w ← E w + 2l(g − H E w)                                     (gradient descent on E[loss], the marginal objective)
    Cov w ← F Cov w F + 4l² Q(E w, Cov w),   F = I − 2lH          (Q: covariance that masks and batch add to ĝ − Ĥw)

where Q is quadratic in w, so that it needs nothing beyond the two moments. A placement is a subclass with its H and Q:
`output_masks.OutputMasks`, `input_masks.InputMasks`, `shared_mask.SharedInputMask`.

Minibatches are `batch_size` independent draws of a row, with replacement, each with its own mask; their gradient is
scaled by N/b, so its expectation is that of the full sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.validation import ArgumentError


@dataclass(frozen=True)
class Process:
    """SGD under dropout on given data: base of the placements. The d coordinates are those of W, or of X's rows.

    Attributes:
        design: the rows x_n in the coordinates of the weights (N × d).
        targets: Y (N × C).
        keep_prob: the masks are 0 or 1/keep_prob, E v = 1, Var v = k = (1 − keep_prob)/keep_prob.
        batch_size: draws a step, with replacement; None for the full batch.
    """

    design: Float[np.ndarray, "N d"]
    targets: Float[np.ndarray, "N C"]
    keep_prob: float
    batch_size: int | None

    @property
    def mask_variance(self) -> float:
        """Var v = k = (1 − keep_prob)/keep_prob."""
        return (1.0 - self.keep_prob) / self.keep_prob

    @cached_property
    def gram(self) -> Float[np.ndarray, "d d"]:
        """S = XᵀX."""
        return self.design.T @ self.design

    @cached_property
    def pull(self) -> Float[np.ndarray, "d C"]:
        """Half of the first step's mean update over l: g = XᵀY."""
        return self.design.T @ self.targets

    @cached_property
    def penalty(self) -> Float[np.ndarray, " d"]:
        """The diagonal of H − S = k diag(S): the penalty that masks add to the objective is Σ_i (H − S)_ii w_i²."""
        return self.mask_variance * np.diag(self.gram)

    @cached_property
    def curvature(self) -> Float[np.ndarray, "d d"]:
        """H: the marginal objective is ‖Y‖² − 2Tr(WᵀXᵀY) + Tr(WᵀHW)."""
        return self.gram + np.diag(self.penalty)

    def drift(self, mean: Float[np.ndarray, "d C"]) -> Float[np.ndarray, "d C"]:
        """Minus half the gradient of the marginal objective: g − HW.

        Args:
            mean: the weights.

        Returns:
            The direction of the mean update, which is 2l times this.
        """
        return self.pull - self.curvature @ mean

    def contract(self, matrix: Float[np.ndarray, "d d"], rate: float) -> Float[np.ndarray, "d d"]:
        """M F with F = I − 2lH: how a step carries covariance on, from the right.

        Args:
            matrix: M.
            rate: the learning rate l.

        Returns:
            The product.
        """
        return matrix - (2.0 * rate) * (matrix @ self.curvature)

    def noise(
        self, targets: Float[np.ndarray, " N"], mean: Float[np.ndarray, " d"], covariance: Float[np.ndarray, "d d"]
    ) -> Float[np.ndarray, "d d"]:
        """Q: E_w Cov[ĝ − Ĥw | w] for one column, over masks and draws.

        Args:
            targets: the column's y; zeros leave the part that is linear in the covariance.
            mean: E w.
            covariance: Cov w.

        Returns:
            Q, symmetric, positive semi-definite up to rounding.

        Raises:
            NotImplementedError: a placement must say.
        """
        raise NotImplementedError

    def embed(self, weights: Float[np.ndarray, "... d columns"]) -> Float[np.ndarray, "... D columns"]:
        """The weights in the caller's coordinates.

        Args:
            weights: in the process's.

        Returns:
            The weights.
        """
        return weights

    def embed_covariance(self, covariance: Float[np.ndarray, "C d d"]) -> Float[np.ndarray, "C D D"]:
        """A covariance in the caller's coordinates.

        Args:
            covariance: in the process's, one a column.

        Returns:
            The covariances.
        """
        half = self.embed(covariance)
        return self.embed(np.ascontiguousarray(np.swapaxes(half, -1, -2)))


def in_units(process: Process) -> tuple[Process, float]:
    """The same process in units of X's largest entry, so that no square or fourth power of X leaves the floats' range.

    X and Y over u and the learning rate times u² are the same iteration of W. u is a power of two: dividing by it
    rounds nothing.

    Args:
        process: the placement.

    Returns:
        The process with X and Y over u, and u; u = 1 where X = 0.
    """
    largest = float(np.abs(process.design).max())
    unit = math.ldexp(1.0, math.frexp(largest)[1] - 1) if largest > 0 else 1.0
    return replace(process, design=process.design / unit, targets=process.targets / unit), unit


def build(x: ArrayLike, y: ArrayLike, keep_prob: Any, placement: str, batch_size: Any, shared_mask: bool) -> Process:
    """Check the arguments that every entry point of this study shares, and choose the placement's process.

    Args:
        x: X, N × D.
        y: Y, N × C.
        keep_prob: keep probability in (0, 1].
        placement: "output" or "input".
        batch_size: draws a step, or None for the full batch.
        shared_mask: input masks that all rows of a step share.

    Returns:
        The process.

    Raises:
        ArgumentError: what cannot be used, naming the argument, the value and what is allowed.
    """
    from allora_analysis.dropout_sgd.input_masks import InputMasks
    from allora_analysis.dropout_sgd.output_masks import output_masks
    from allora_analysis.dropout_sgd.shared_mask import SharedInputMask

    x = validation.matrix("x", x)
    y = validation.matrix_of("y", y, (len(x), None), "N of x")
    keep_prob = validation.keep_probability(keep_prob)
    batch_size = None if batch_size is None else validation.count("batch_size", batch_size)
    if placement == "bottleneck":
        raise ArgumentError(
            "placement must be output or input; received 'bottleneck': training (A, B) is not affine in the weights, "
            "so each moment needs a higher one and no finite set of them closes"
        )
    validation.choice("placement", placement, ("output", "input"))
    if shared_mask and (placement != "input" or batch_size is not None):
        raise ArgumentError(
            f"shared_mask is for input masks on the full batch; received placement {placement!r} with batch_size "
            f"{batch_size}"
        )
    if placement == "output":
        return output_masks(x, y, keep_prob, batch_size)
    return (SharedInputMask if shared_mask else InputMasks)(x, y, keep_prob, batch_size)
