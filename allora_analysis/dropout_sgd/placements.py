"""One step of SGD under dropout as an affine random map of the weights: w ← w + 2l(ĝ − Ĥw), and its first two moments.

With fresh masks ĝ and Ĥ are independent of w, so for each column

    E w ← E w + 2l(g − H E w)                                     (gradient descent on E[loss], the marginal objective)
    Cov w ← F Cov w F + 4l² Q(E w, Cov w),   F = I − 2lH          (Q: covariance that masks and batch add to ĝ − Ĥw)

where Q is quadratic in w, so that it needs nothing beyond the two moments. A placement of the mask is a subclass of
`Process` with its H and Q.

Minibatches are `batch_size` independent draws of a row, with replacement, each with its own mask; their gradient is
scaled by N/b, so its expectation is that of the full sum.

**Output masks**, ‖Y − (XW) ⊙ V‖² (the paper's §3.1), in the singular basis of X. With e = y − Xw/p a row's
gradient is −2 v_n e_n x_n (because v² = v/p), so H = S/p and, per column,

    Q = k Xᵀ diag(E e²) X,   E e² = (y − X E w/p)² + diag(X Cov w Xᵀ)/p².

In the basis of X's right singular vectors H is diagonal and the directions outside X's row space, which never move,
drop out. Each column has masks of its own: on the full batch the columns of W are independent.

**Input masks**, ‖Y − (X ⊙ V)W‖² (LoRA as PEFT ships it), with mask moments to order 4 in a row. For one row x,
one column, write v_i = 1 + ζ_i, a_i = x_i w_i, f = y − Σa, A = Σ a². Because v_i² = v_i/p, entry i of −½ gradient is
c_i = x_i v_i (f − k a_i − Σ_{j≠i} ζ_j a_j), so over the mask

    E c_i = x_i (f − k a_i)                                                       (hence H = S + k diag S)
    Var c_i = k x_i² [(f − k a_i)² + (1 + k)(A − a_i²)]
    Cov(c_i, c_j) = k x_i x_j [A − f(a_i + a_j) + (k − 1)(a_i² + a_j²) + k a_i a_j],   i ≠ j,

which is quadratic in w: its expectation needs E w and Cov w only. Rows add up. Columns of W share their masks, so that
they are correlated with one another; the covariance within each column, and so every trace and risk, closes per column.

**An input mask that all rows of a step share** (Clara, Langer, Schmidt-Hieber, JMLR 2024, arXiv:2306.10529).
−½ gradient is then c_i = v_i (g_i − Σ_j S_ij v_j w_j). The mean is that of independent masks, H = S + k diag S; the
covariance is another one. With e = g − Hw, over the mask

    Var c_i = k e_i² + k(1 + k) Σ_{l≠i} S_il² w_l²
    Cov(c_i, c_j) = k [S diag(w²) S]_ij − k S_ij (S_ii w_i² + S_jj w_j² + e_i w_i + e_j w_j) + k² S_ij² w_i w_j,  i ≠ j.

With one row the two kinds of mask are the same.

`tests/test_dropout_sgd.py` enumerates every sequence of masks.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.validation import ArgumentError

# Shapes: in the d coordinates in which a process runs, and over samples; with columns of W along leading axes.
Square, Diagonal = Float[np.ndarray, "d d"], Float[np.ndarray, " d"]
Squares, Diagonals = Float[np.ndarray, "... d d"], Float[np.ndarray, "... d"]
Samples = Float[np.ndarray, "... N"]


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
    def gram(self) -> Square:
        """S = XᵀX."""
        return self.design.T @ self.design

    @cached_property
    def pull(self) -> Float[np.ndarray, "d C"]:
        """Half of the first step's mean update over l: g = XᵀY."""
        return self.design.T @ self.targets

    @cached_property
    def penalty(self) -> Diagonal:
        """The diagonal of H − S = k diag(S): the penalty that masks add to the objective is Σ_i (H − S)_ii w_i²."""
        return self.mask_variance * np.diag(self.gram)

    @cached_property
    def curvature(self) -> Square:
        """H: the marginal objective is ‖Y‖² − 2Tr(WᵀXᵀY) + Tr(WᵀHW)."""
        return self.gram + np.diag(self.penalty)

    def drift(self, mean: Float[np.ndarray, "d C"]) -> Float[np.ndarray, "d C"]:
        """Minus half the gradient of the marginal objective: g − HW."""
        return self.pull - self.curvature @ mean

    def contract(self, matrix: Squares, rate: float) -> Squares:
        """M F with F = I − 2lH, of one M or several: how a step carries covariance on, from the right."""
        return matrix - (2.0 * rate) * (matrix @ self.curvature)

    def noise(self, targets: Samples, mean: Diagonals, covariance: Squares) -> Squares:
        """Q: E_w Cov[ĝ − Ĥw | w] for a column, over masks and draws; for several along leading axes."""
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


@dataclass(frozen=True)
class OutputMasks(Process):
    """See the module. `design` is XV = U diag(s), d = max(rank X, 1).

    Attributes:
        basis: V, the right singular vectors of X with a non-zero singular value (D × d).
    """

    basis: Float[np.ndarray, "D d"]

    @cached_property
    def eigenvalues(self) -> Diagonal:
        """The diagonal of H = S/p."""
        return np.einsum("nd,nd->d", self.design, self.design) / self.keep_prob

    @cached_property
    def penalty(self) -> Diagonal:
        """The diagonal of H − S = kS."""
        return self.mask_variance * self.keep_prob * self.eigenvalues

    @cached_property
    def curvature(self) -> Square:
        """H, diagonal."""
        return np.diag(self.eigenvalues)

    def drift(self, mean: Float[np.ndarray, "d C"]) -> Float[np.ndarray, "d C"]:
        """As in `Process`, with H diagonal."""
        return self.pull - self.eigenvalues[:, None] * mean

    def contract(self, matrix: Squares, rate: float) -> Squares:
        """As in `Process`, with H diagonal."""
        return matrix * (1.0 - 2.0 * rate * self.eigenvalues)

    def noise(self, targets: Samples, mean: Diagonals, covariance: Squares) -> Squares:
        """Q as in the module; for b draws of a row (N(1 + k) Xᵀ diag(E e²) X − E[Xᵀe eᵀX])/b."""
        error = targets - (mean @ self.design.T) / self.keep_prob
        spread = np.einsum("...nd,nd->...n", self.design @ covariance, self.design) / self.keep_prob**2
        raw = self.design.T @ ((error**2 + spread)[..., None] * self.design)
        if self.batch_size is None:
            return self.mask_variance * raw
        pull = error @ self.design
        common = _outer(pull) + self.eigenvalues[:, None] * covariance * self.eigenvalues
        return (len(self.design) / self.keep_prob * raw - common) / self.batch_size

    def embed(self, weights: Float[np.ndarray, "... d columns"]) -> Float[np.ndarray, "... D columns"]:
        """As in `Process`: V times the weights."""
        return self.basis @ weights


@dataclass(frozen=True)
class InputMasks(Process):
    """See the module: each row, and each draw of a row, has a mask of its own."""

    @cached_property
    def squares(self) -> Float[np.ndarray, "N d"]:
        """X², entrywise."""
        return self.design**2

    @cached_property
    def cubes(self) -> Square:
        """Σ_n x_i³ x_j."""
        return (self.design**3).T @ self.design

    @cached_property
    def square_pairs(self) -> Square:
        """Σ_n x_i² x_j²."""
        return self.squares.T @ self.squares

    def noise(self, targets: Samples, mean: Diagonals, covariance: Squares) -> Squares:
        """Q as in the module; for b draws of a row (N Σ_n E c cᵀ − E[ḡḡᵀ])/b with ḡ = Σ_n E[c | w]."""
        if self.batch_size is None:
            return self._rows(targets, mean, covariance, 0.0)
        raw = self._rows(targets, mean, covariance, 1.0)
        pull = targets @ self.design - mean @ self.curvature
        common = _outer(pull) + self.curvature @ covariance @ self.curvature
        return (len(self.design) * raw - common) / self.batch_size

    def _rows(self, targets: Samples, mean: Diagonals, covariance: Squares, products: float) -> Squares:
        """Σ_n E_w [Cov(c | w) + products · E[c | w] E[c | w]ᵀ]: products 0 for the masks' part, 1 for E[c cᵀ]."""
        k, x, second = self.mask_variance, self.design, _outer(mean) + covariance
        carried, own = x @ covariance, second.diagonal(0, -2, -1)
        error = targets - mean @ x.T
        errors = error**2 + np.einsum("...nd,nd->...n", carried, x)  # E f²
        cross = error[..., None] * mean[..., None, :] - carried  # E f w_i
        lengths = own @ self.squares.T  # E A
        half = x * (0.5 * (products * errors + k * lengths))[..., None] - (k * (1.0 + products)) * self.squares * cross
        half = half.mT @ x + (k * k - k) * own[..., None] * self.cubes
        result = half + half.mT + (k * k * (1.0 + products)) * self.square_pairs * second
        return _with_diagonal(result, self._diagonal(errors, cross, lengths, own, products))

    def _diagonal(
        self, errors: Samples, cross: Float[np.ndarray, "... N d"], lengths: Samples, second: Diagonals, products: float
    ) -> Diagonals:
        """The diagonal of `_rows`, where a mask meets itself, from E f², E f w, E A and E w²."""
        k, fourth = self.mask_variance, self.square_pairs.diagonal() * second  # Σ_n E x_i² a_i²
        own = errors @ self.squares - 2.0 * k * np.einsum("nd,nd,...nd->...d", self.squares, self.design, cross)
        return (k + products) * (own + k * k * fourth) + k * (1.0 + k) * (lengths @ self.squares - fourth)


@dataclass(frozen=True)
class SharedInputMask(Process):
    """See the module: one mask of d entries a step, full batch only."""

    def noise(self, targets: Samples, mean: Diagonals, covariance: Squares) -> Squares:
        """Q as in the module."""
        k, gram, own = self.mask_variance, self.gram, np.diag(self.gram)
        second = _outer(mean) + covariance
        square = second.diagonal(0, -2, -1)
        error = targets @ self.design - mean @ self.curvature
        carried = self.curvature @ covariance
        errors = error**2 + np.einsum("...ij,ij->...i", carried, self.curvature)  # E e²
        cross = error * mean - carried.diagonal(0, -2, -1)  # E e_i w_i
        pairs = own * square + cross
        result = (gram * square[..., None, :]) @ gram - gram * (pairs[..., :, None] + pairs[..., None, :])
        result = k * result + k * k * gram**2 * second
        return _with_diagonal(result, k * errors + k * (1.0 + k) * (square @ gram**2 - own**2 * square))


def _outer(vectors: np.ndarray) -> np.ndarray:
    return vectors[..., :, None] * vectors[..., None, :]


def _with_diagonal(matrices: np.ndarray, diagonal: np.ndarray) -> np.ndarray:
    # In place.
    entry = np.arange(matrices.shape[-1])
    matrices[..., entry, entry] = diagonal
    return matrices


class Problem(NamedTuple):
    """The arguments that every entry point of this study shares, checked."""

    x: Float[np.ndarray, "N D"]
    y: Float[np.ndarray, "N C"]
    keep_prob: float
    placement: str
    batch_size: int | None
    shared_mask: bool


def checked(x: ArrayLike, y: ArrayLike, keep_prob: Any, placement: str, batch_size: Any, shared_mask: bool) -> Problem:
    """Check the arguments; moments close for output and input masks alone."""
    x = validation.matrix("x", x)
    y = validation.matrix_of("y", y, (len(x), None), "N of x")
    keep_prob = validation.keep_probability(keep_prob)
    batch_size = None if batch_size is None else validation.count("batch_size", batch_size)
    if isinstance(placement, str) and placement == "bottleneck":
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
    return Problem(x, y, keep_prob, placement, batch_size, shared_mask)


def refuse_long(steps: int, seconds: float, most_seconds: Any) -> None:
    """Refuse a run that would take longer than the caller waits, by a rough estimate for one core."""
    most = validation.positive("most_seconds", most_seconds)
    if seconds > most:
        enough = int(steps * most / seconds)
        fewer = f"at most {enough}" if enough else "smaller sizes"
        raise ArgumentError(
            f"steps: {steps:.4g} of them would take about {seconds:.2g} s; give {fewer}, or most_seconds above {most:g}"
        )


def build(problem: Problem) -> Process:
    """The placement's process; for output masks singular values below max(N, D)·ε·s_max count as 0."""
    x, y, keep_prob, placement, batch_size, shared_mask = problem
    if placement == "input":
        return (SharedInputMask if shared_mask else InputMasks)(x, y, keep_prob, batch_size)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    rank = max(int(np.count_nonzero(s > max(x.shape) * np.finfo(float).eps * s[0])), 1)
    return OutputMasks(u[:, :rank] * s[:rank], y, keep_prob, batch_size, vt[:rank].T)
