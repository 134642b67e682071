"""Where ALLoRA comes to rest (§4.2: "measured discovery of optimal directions"): not where the loss does.

F(A, B) = 0 iff BᵀD_dG = 0 and GAᵀ = 0. LoRA rests where BᵀG = 0 and GAᵀ = 0. The two agree where G = 0 (the rank
suffices to fit), and else differ: with white inputs, L = ½‖P − T‖²_F, G = P − T, ALLoRA's rest points are those of the
*row-weighted* low-rank fit Σ_i d_i‖P_i − T_i‖² with the weights that the fit itself implies. The best fit for its own
weights is

    P = D_d^{−1/2}·[D_d^{1/2}T]_r,    d = d(P),    [·]_r the best rank-r approximation,

and ALLoRA trades rows that have grown for rows that have not. Where two singular values of D_d^{1/2}T tie, the fit is
one of a circle (T = diag(1, 0.9), r = 1, η = 4: the fit along either axis makes the other axis the larger), and ALLoRA
can rest elsewhere too, on other singular directions of D_d^{1/2}T. Source: this toolkit. Checked by
`tests/test_adaptive_descent.py` against ALLoRA run to rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.adaptors import inverse_sqrt
from allora_analysis.validation import ArgumentError, adapter_rank, count, matrix, matrix_of, positive, representable

ITERATIONS = 10_000
PATIENCE = 5  # steps without a new smallest change after which the next ones are half as long


@dataclass(frozen=True)
class RestPoint:
    """A rest point of ALLoRA.

    Attributes:
        product: P = BA.
        factor: d(P).
        excess: L(P)/min L − 1, the minimum over rank r (Eckart–Young); 0 where that minimum is 0 and reached.
        lora_gradient: ‖BᵀG‖_F/‖G‖_F for B an orthonormal basis of P's columns: 0 where LoRA rests too.
    """

    product: Float[np.ndarray, "n1 n2"]
    factor: Float[np.ndarray, " n1"]
    excess: float
    lora_gradient: float


@representable()
def rest_point(target: ArrayLike, rank: int, eta: float) -> RestPoint:
    """The self-consistent weighted fit, by iterating d from the unweighted one; see the module's docstring.

    The iteration s ← s + m(‖P(d(s))_i‖ − s) on the row norms s, which fix d, starts at m = 1 and halves m whenever the
    bracket stops shrinking: undamped, it circles some rest points for ever. It ends when the bracket, whatever m, is
    below 1e-13 of T's largest entry. Checked by `tests/test_adaptive_descent.py`.

    Args:
        target: T (n₁×n₂), the least-squares solution; inputs white.
        rank: r.
        eta: η > 0.

    Returns:
        The rest point.

    Raises:
        ArgumentError: it settles for no m. Then, as far as seen, the r-th and the next singular value of D^{1/2}T tie
            at the fit, one of a circle, and change places on the way. ALLoRA still rests there: `run_to_rest`.
    """
    t = matrix("target", target)
    rank, eta = adapter_rank(rank, *t.shape), positive("eta", eta)
    size, mix, least, stale = np.linalg.norm(truncated(t, rank), axis=1), 1.0, np.inf, 0
    for _ in range(ITERATIONS):
        root = np.sqrt(inverse_sqrt(size, eta))[:, None]
        product = truncated(root * t, rank) / root
        change = np.linalg.norm(product, axis=1) - size
        gap = float(np.max(np.abs(change)))
        if gap <= 1e-13 * np.max(np.abs(t)):
            return _described(product, t, rank, eta)
        stale = 0 if gap < least else stale + 1
        if stale == PATIENCE:
            mix, stale = mix / 2, 0
        size, least = size + mix * change, min(gap, least)
    raise ArgumentError(
        f"target: no self-consistent fit of rank {rank} at eta = {eta:g} found in {ITERATIONS} iterations; "
        "try another rank or eta, or see where run_to_rest ends"
    )


@representable()
def run_to_rest(
    target: ArrayLike, a: ArrayLike, eta: float, learning_rate: float, steps: int
) -> Float[np.ndarray, "n1 n2"]:
    """BA after ALLoRA's own gradient steps on ½‖BA − T‖²_F from B = 0; knows nothing of `rest_point`.

    Args:
        target: T (n₁×n₂).
        a: A at the start (r×n₂).
        eta: η > 0.
        learning_rate: l.
        steps: how many, up to a million.

    Returns:
        The product.
    """
    t = matrix("target", target)
    a = matrix_of("a", a, (None, t.shape[1]), "n2, the columns of target")
    offset, rate = positive("eta", eta) ** -2, positive("learning_rate", learning_rate)
    b = np.zeros((len(t), adapter_rank(len(a), *t.shape)))
    for _ in range(count("steps", steps, maximum=10**6)):
        product = b @ a
        adapted = (product - t) / np.sqrt(np.sqrt((product * product).sum(axis=1)) + offset)[:, None]
        a, b = a - rate * (b.T @ adapted), b - rate * (adapted @ a.T)
    return b @ a


def truncated(matrix_: Float[np.ndarray, "n1 n2"], rank: int) -> Float[np.ndarray, "n1 n2"]:
    """[M]_r, the best rank-r approximation in the Frobenius norm (Eckart–Young)."""
    u, s, v = np.linalg.svd(matrix_, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


def _described(product: Float[np.ndarray, "n1 n2"], t: Float[np.ndarray, "n1 n2"], rank: int, eta: float) -> RestPoint:
    g, best = product - t, np.linalg.svd(t, compute_uv=False)[rank:]
    least, scale = float(best @ best), float(np.sum(t**2))
    basis = np.linalg.svd(product, full_matrices=False)[0][:, :rank]
    fits = float(np.sum(g**2)) <= 1e-24 * scale
    factor = inverse_sqrt(np.linalg.norm(product, axis=1), eta)
    slope = 0.0 if fits else float(np.linalg.norm(basis.T @ g) / np.linalg.norm(g))
    return RestPoint(product, factor, 0.0 if fits else float(np.sum(g**2)) / least - 1, slope)
