"""One step of SGD under dropout as an affine random map of the weights: w ← w + 2l(ĝ − Ĥw), and its first two moments.

With fresh masks ĝ and Ĥ are independent of w, so for each column

    E w ← E w + 2l(g − H E w)                                     (gradient descent on E[loss], the marginal objective)
    Cov w ← F Cov w F + 4l² Q(E w, Cov w),   F = I − 2lH          (Q: covariance that masks and batch add to ĝ − Ĥw)

where Q is quadratic in w, so that it needs nothing beyond the two moments. A placement is a subclass with its H and Q:
`placements.OutputMasks`, `placements.InputMasks`, `placements.SharedInputMask`.

Minibatches are `batch_size` independent draws of a row, with replacement, each with its own mask; their gradient is
scaled by N/b, so its expectation is that of the full sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float


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
        """Minus half the gradient of the marginal objective: g − HW."""
        return self.pull - self.curvature @ mean

    def contract(self, matrix: Float[np.ndarray, "d d"], rate: float) -> Float[np.ndarray, "d d"]:
        """M F with F = I − 2lH: how a step carries covariance on, from the right."""
        return matrix - (2.0 * rate) * (matrix @ self.curvature)

    def noise(
        self, targets: Float[np.ndarray, " N"], mean: Float[np.ndarray, " d"], covariance: Float[np.ndarray, "d d"]
    ) -> Float[np.ndarray, "d d"]:
        """Q: E_w Cov[ĝ − Ĥw | w] for one column, over masks and draws."""
        raise NotImplementedError

    def embed(self, weights: Float[np.ndarray, "... d columns"]) -> Float[np.ndarray, "... D columns"]:
        """The weights in the caller's coordinates."""
        return weights

    def embed_covariance(self, covariance: Float[np.ndarray, "C d d"]) -> Float[np.ndarray, "C D D"]:
        """A covariance in the caller's coordinates."""
        half = self.embed(covariance)
        return self.embed(np.ascontiguousarray(np.swapaxes(half, -1, -2)))


def in_units(process: Process) -> tuple[Process, float]:
    """The same process in units of X's largest entry, so that no fourth power of X leaves the floats' range."""
    # X and Y over u and the learning rate times u² are the same iteration of W. u is a power of two: dividing by it
    # rounds nothing.
    largest = float(np.abs(process.design).max())
    unit = math.ldexp(1.0, math.frexp(largest)[1] - 1) if largest > 0 else 1.0
    return replace(process, design=process.design / unit, targets=process.targets / unit), unit
