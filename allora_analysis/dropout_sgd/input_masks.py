"""Input masks, ‖Y − (X ⊙ V)W‖² (LoRA as PEFT ships it): the moments of one step, with mask moments to order 4 in a row.

For one row x, one column, write v_i = 1 + ζ_i, a_i = x_i w_i, f = y − Σa, A = Σ a². Because v_i² = v_i/p, entry i of
−½ gradient is c_i = x_i v_i (f − k a_i − Σ_{j≠i} ζ_j a_j), so over the mask

    E c_i = x_i (f − k a_i)                                                       (hence H = S + k diag S)
    Var c_i = k x_i² [(f − k a_i)² + (1 + k)(A − a_i²)]
    Cov(c_i, c_j) = k x_i x_j [A − f(a_i + a_j) + (k − 1)(a_i² + a_j²) + k a_i a_j],   i ≠ j,

which is quadratic in w: its expectation needs E w and Cov w only. Rows add up. Columns of W share their masks, so that
they are correlated with one another; the covariance within each column, and so every trace and risk, closes per column.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from allora_analysis.dropout_sgd.process import Process


@dataclass(frozen=True)
class InputMasks(Process):
    """See the module: each row, and each draw of a row, has a mask of its own."""

    @cached_property
    def squares(self) -> Float[np.ndarray, "N d"]:
        """X², entrywise."""
        return self.design**2

    @cached_property
    def cubes(self) -> Float[np.ndarray, "d d"]:
        """Σ_n x_i³ x_j."""
        return (self.design**3).T @ self.design

    @cached_property
    def square_pairs(self) -> Float[np.ndarray, "d d"]:
        """Σ_n x_i² x_j²."""
        return self.squares.T @ self.squares

    def noise(
        self, targets: Float[np.ndarray, " N"], mean: Float[np.ndarray, " d"], covariance: Float[np.ndarray, "d d"]
    ) -> Float[np.ndarray, "d d"]:
        """Q as in the module; for b draws of a row (N Σ_n E c cᵀ − E[ḡḡᵀ])/b with ḡ = Σ_n E[c | w].

        Args:
            targets: y.
            mean: E w.
            covariance: Cov w.

        Returns:
            Q.
        """
        if self.batch_size is None:
            return self._rows(targets, mean, covariance, 0.0)
        raw = self._rows(targets, mean, covariance, 1.0)
        pull = self.design.T @ targets - self.curvature @ mean
        common = np.outer(pull, pull) + self.curvature @ covariance @ self.curvature
        return (len(self.design) * raw - common) / self.batch_size

    def _rows(
        self,
        targets: Float[np.ndarray, " N"],
        mean: Float[np.ndarray, " d"],
        covariance: Float[np.ndarray, "d d"],
        products: float,
    ) -> Float[np.ndarray, "d d"]:
        """Σ_n E_w [Cov(c | w) + products · E[c | w] E[c | w]ᵀ]: products 0 for the masks' part, 1 for E[c cᵀ].

        Returns:
            The matrix.
        """
        k, x, second = self.mask_variance, self.design, np.outer(mean, mean) + covariance
        carried = x @ covariance
        error = targets - x @ mean
        errors = error**2 + np.einsum("nd,nd->n", carried, x)  # E f²
        cross = error[:, None] * mean - carried  # E f w_i
        lengths = self.squares @ np.diag(second)  # E A
        half = x * (0.5 * (products * errors + k * lengths))[:, None] - (k * (1.0 + products)) * self.squares * cross
        half = half.T @ x + (k * k - k) * np.diag(second)[:, None] * self.cubes
        result = half + half.T + (k * k * (1.0 + products)) * self.square_pairs * second
        np.fill_diagonal(result, self._diagonal(errors, cross, lengths, np.diag(second), products))
        return result

    def _diagonal(
        self,
        errors: Float[np.ndarray, " N"],
        cross: Float[np.ndarray, "N d"],
        lengths: Float[np.ndarray, " N"],
        second: Float[np.ndarray, " d"],
        products: float,
    ) -> Float[np.ndarray, " d"]:
        """The diagonal of `_rows`, where a mask meets itself, from E f², E f w, E A and E w².

        Returns:
            The diagonal.
        """
        k, fourth = self.mask_variance, np.diag(self.square_pairs) * second  # Σ_n E x_i² a_i²
        own = errors @ self.squares - 2.0 * k * np.einsum("nd,nd,nd->d", self.squares, self.design, cross)
        return (k + products) * (own + k * k * fourth) + k * (1.0 + k) * (lengths @ self.squares - fourth)
