"""Output masks, ‖Y − (XW) ⊙ V‖² (the paper's §3.1): the moments of one step, in the singular basis of X.

With e = y − Xw/p a row's gradient is −2 v_n e_n x_n (because v² = v/p), so H = S/p and, per column,

    Q = k Xᵀ diag(E e²) X,   E e² = (y − X E w/p)² + diag(X Cov w Xᵀ)/p².

In the basis of X's right singular vectors H is diagonal and the directions outside X's row space, which never move,
drop out. Each column has masks of its own: on the full batch the columns of W are independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from allora_analysis.dropout_sgd.process import Process


@dataclass(frozen=True)
class OutputMasks(Process):
    """See the module. `design` is XV = U diag(s), d = max(rank X, 1).

    Attributes:
        basis: V, the right singular vectors of X with a non-zero singular value (D × d).
    """

    basis: Float[np.ndarray, "D d"]

    @cached_property
    def eigenvalues(self) -> Float[np.ndarray, " d"]:
        """The diagonal of H = S/p."""
        return np.einsum("nd,nd->d", self.design, self.design) / self.keep_prob

    @cached_property
    def penalty(self) -> Float[np.ndarray, " d"]:
        """The diagonal of H − S = kS."""
        return self.mask_variance * self.keep_prob * self.eigenvalues

    @cached_property
    def curvature(self) -> Float[np.ndarray, "d d"]:
        """H, diagonal."""
        return np.diag(self.eigenvalues)

    def drift(self, mean: Float[np.ndarray, "d C"]) -> Float[np.ndarray, "d C"]:
        """As in `Process`, with H diagonal.

        Args:
            mean: the weights.

        Returns:
            g − HW.
        """
        return self.pull - self.eigenvalues[:, None] * mean

    def contract(self, matrix: Float[np.ndarray, "d d"], rate: float) -> Float[np.ndarray, "d d"]:
        """As in `Process`, with H diagonal.

        Args:
            matrix: M.
            rate: the learning rate l.

        Returns:
            M F.
        """
        return matrix * (1.0 - 2.0 * rate * self.eigenvalues)

    def noise(
        self, targets: Float[np.ndarray, " N"], mean: Float[np.ndarray, " d"], covariance: Float[np.ndarray, "d d"]
    ) -> Float[np.ndarray, "d d"]:
        """Q as in the module; for b draws of a row (N(1 + k) Xᵀ diag(E e²) X − E[Xᵀe eᵀX])/b.

        Args:
            targets: y.
            mean: E w.
            covariance: Cov w.

        Returns:
            Q.
        """
        error = targets - (self.design @ mean) / self.keep_prob
        spread = np.einsum("nd,nd->n", self.design @ covariance, self.design) / self.keep_prob**2
        raw = self.design.T @ ((error**2 + spread)[:, None] * self.design)
        if self.batch_size is None:
            return self.mask_variance * raw
        pull = self.design.T @ error
        common = np.outer(pull, pull) + self.eigenvalues[:, None] * covariance * self.eigenvalues
        return (len(self.design) / self.keep_prob * raw - common) / self.batch_size

    def embed(self, weights: Float[np.ndarray, "... d columns"]) -> Float[np.ndarray, "... D columns"]:
        """As in `Process`: V times the weights.

        Args:
            weights: in the singular basis.

        Returns:
            The weights.
        """
        return self.basis @ weights


def output_masks(
    x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N C"], keep_prob: float, batch_size: int | None
) -> OutputMasks:
    """The process in X's singular basis, X = U diag(s) Vᵀ.

    Args:
        x: X.
        y: Y.
        keep_prob: keep probability.
        batch_size: draws a step, or None.

    Returns:
        The process; singular values below max(N, D)·ε·s_max count as 0.
    """
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    rank = max(int(np.count_nonzero(s > max(x.shape) * np.finfo(float).eps * s[0])), 1)
    return OutputMasks(u[:, :rank] * s[:rank], y, keep_prob, batch_size, vt[:rank].T)
