"""Input masks that all rows of a step share (Clara, Langer, Schmidt-Hieber, JMLR 2024, arXiv:2306.10529).

−½ gradient is then c_i = v_i (g_i − Σ_j S_ij v_j w_j). The mean is that of independent masks, H = S + k diag S; the
covariance is another one. With e = g − Hw, over the mask

    Var c_i = k e_i² + k(1 + k) Σ_{l≠i} S_il² w_l²
    Cov(c_i, c_j) = k [S diag(w²) S]_ij − k S_ij (S_ii w_i² + S_jj w_j² + e_i w_i + e_j w_j) + k² S_ij² w_i w_j,  i ≠ j.

With one row the two kinds of mask are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from allora_analysis.dropout_sgd.process import Process


@dataclass(frozen=True)
class SharedInputMask(Process):
    """See the module: one mask of d entries a step, full batch only."""

    def noise(
        self, targets: Float[np.ndarray, " N"], mean: Float[np.ndarray, " d"], covariance: Float[np.ndarray, "d d"]
    ) -> Float[np.ndarray, "d d"]:
        """Q as in the module.

        Args:
            targets: y.
            mean: E w.
            covariance: Cov w.

        Returns:
            Q.
        """
        k, gram, own = self.mask_variance, self.gram, np.diag(self.gram)
        second = np.outer(mean, mean) + covariance
        square = np.diag(second)
        error = self.design.T @ targets - self.curvature @ mean
        carried = self.curvature @ covariance
        errors = error**2 + np.einsum("ij,ij->i", carried, self.curvature)  # E e²
        cross = error * mean - np.diag(carried)  # E e_i w_i
        pairs = own * square + cross
        result = k * ((gram * square) @ gram - gram * (pairs[:, None] + pairs)) + k * k * gram**2 * second
        np.fill_diagonal(result, k * errors + k * (1.0 + k) * (gram**2 @ square - own**2 * square))
        return result
