"""Both ends of a symmetric operator's spectrum from products alone, with a certificate, and no copy of a value missed.

A residual certifies that a value *is* an eigenvalue; it does not say that a more extreme one, or another copy of this
one, was missed, and Lanczos from one start vector sees one direction of each eigenspace (LoRA's spectrum at A = B = 0
is ±σ_i, r times each). So every run is followed by another, from a fresh start, on the operator with the found pairs
deflated, until a run finds nothing more extreme. Power iteration is of no use here: on a ± symmetric spectrum it never
settles. References: Lehoucq–Sorensen–Yang 1998 (ARPACK); Parlett 1998, §§5, 13. Checked by
`tests/test_hessian_lanczos.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from allora_analysis.validation import ArgumentError

Product = Callable[[np.ndarray], np.ndarray]
POLISHING = 10
WHOLE = 4096  # dimension up to which the whole space is taken where Lanczos does not converge
PATIENCE = 4  # products a run may cost there, over the dimension: the whole space costs one


@dataclass(frozen=True)
class Ends:
    """The k smallest and the k largest eigenvalues, each list ascending, with ‖Hv − λv‖ for unit v beside each.

    Some eigenvalue lies within a residual of each value; where the gap to the others is known the error is far
    smaller, residual²/gap.

    Attributes:
        smallest: λ_1 ≤ … ≤ λ_k.
        largest: λ_{P−k+1} ≤ … ≤ λ_P.
        smallest_residuals: beside `smallest`.
        largest_residuals: beside `largest`.
    """

    smallest: Float[np.ndarray, " k"]
    largest: Float[np.ndarray, " k"]
    smallest_residuals: Float[np.ndarray, " k"]
    largest_residuals: Float[np.ndarray, " k"]


def ritz_ends(product: Product, basis: Float[np.ndarray, "P m"], k: int) -> tuple[Ends, np.ndarray, np.ndarray]:
    """Rayleigh–Ritz: the eigenpairs of QᵀHQ, Q an orthonormal basis of the span of `basis`; exact for all of R^P."""
    basis = np.linalg.qr(basis)[0]
    image = np.stack([product(column) for column in basis.T], axis=1)
    projected = basis.T @ image
    values, rotation = np.linalg.eigh((projected + projected.T) / 2)
    vectors = basis @ rotation
    residuals = np.linalg.norm(image @ rotation - vectors * values, axis=0)
    ends = Ends(values[:k], values[-k:], residuals[:k], residuals[-k:])
    return ends, values, vectors


class _NotConverged(ArgumentError):
    """ARPACK gave up; the message is for whoever cannot take the whole space."""


# Eigenvectors at both ends. The shift, about 2‖H‖, makes ARPACK's relative tolerance relative to ‖H‖, near 0 too.
def _arpack(
    product: Product, start: Float[np.ndarray, " P"], n_values: int, shift: float, tolerance: float
) -> Float[np.ndarray, "P m"]:
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    dimension = start.size
    operator = LinearOperator((dimension, dimension), matvec=lambda v: product(v) + shift * v, dtype=np.float64)
    basis_size = min(dimension - 1, max(2 * n_values + 1, 40))
    restarts = 10 * dimension if dimension > WHOLE else PATIENCE * dimension // (basis_size - n_values) + 1
    options = {"tol": tolerance / 3, "ncv": basis_size, "maxiter": restarts}
    try:
        return eigsh(operator, n_values, which="BE", v0=start, **options)[1]
    except ArpackNoConvergence as error:
        raise _NotConverged(
            f"tolerance: {tolerance:g} was not reached, {len(error.eigenvalues)} of {n_values} eigenvalues converged; "
            "a larger tolerance or another k would work"
        ) from error


# ‖H‖ to within a small factor, from eight products: a scale for tolerances, nobody's answer.
def _scale(product: Product, start: Float[np.ndarray, " P"]) -> float:
    krylov = [start / np.linalg.norm(start)]
    for _ in range(4):
        image = product(krylov[-1])
        size = float(np.linalg.norm(image))
        if size == 0:
            break
        krylov.append(image / size)
    _, values, _ = ritz_ends(product, np.stack(krylov, axis=1), 1)
    return float(np.max(np.abs(values)))


def lanczos_ends(
    product: Product, dimension: int, k: int, generator: np.random.Generator, tolerance: float = 1e-10
) -> Ends:
    """The k smallest and k largest eigenvalues of a symmetric operator on R^P, with multiplicities."""
    # Rounds: 2k extreme pairs; then, on the operator with every pair found so far moved to the middle of the spectrum,
    # the extremes again from a fresh start; until these are no more extreme than the k already there. With probability
    # 1 over the start vectors nothing is missed but what lies within the tolerance of the k-th value. Where a run does
    # not converge (an end whose gaps are tiny beside ‖H‖) and P ≤ 4096, the whole space is taken: P products.
    if dimension < 2 * k + 2:
        raise ArgumentError(f"dimension must be at least 2k + 2 = {2 * k + 2}, received {dimension}")
    start = generator.standard_normal(dimension)
    norm = _scale(product, start)
    if norm == 0:  # H = 0; a random vector in the kernel of another H has probability 0
        return Ends(*(np.zeros(k) for _ in range(4)))
    try:
        ends, vectors = _runs(product, k, generator.standard_normal(dimension), generator, norm, tolerance)
    except _NotConverged:
        if dimension > WHOLE:
            raise
        ends, _, vectors = ritz_ends(product, np.eye(dimension), k)
    return _polished(product, ends, vectors, k, tolerance * norm)


# The first run and the deflated ones after it: the ends found and every vector so far.
def _runs(
    product: Product, k: int, start: np.ndarray, generator: np.random.Generator, norm: float, tolerance: float
) -> tuple[Ends, np.ndarray]:
    dimension = start.size
    ends, values, vectors = ritz_ends(product, _arpack(product, start, 2 * k, 2 * norm, tolerance), k)
    n_values = 2  # enough to see whether anything is missing; all 2k once something was
    while vectors.shape[1] + n_values < dimension:
        moved = (values - (ends.smallest[-1] + ends.largest[0]) / 2)[:, None] * vectors.T
        start = generator.standard_normal(dimension)
        start -= vectors @ (vectors.T @ start)
        more = _arpack(_deflated(product, vectors, moved), start, n_values, 2 * norm, tolerance)
        before = ends
        ends, values, vectors = ritz_ends(product, np.concatenate([vectors, more], axis=1), k)
        changes = np.concatenate([before.smallest - ends.smallest, ends.largest - before.largest])
        if np.max(changes) <= 10 * tolerance * norm:
            break
        n_values = 2 * k
    else:  # no room is left in which to look again: the space is nearly all of R^P, take it whole
        ends, _, vectors = ritz_ends(product, np.eye(dimension), k)
    return ends, vectors


# ARPACK judges by an estimate that a degenerate spectrum can fool. Rayleigh–Ritz on the vectors and their residuals,
# the space growing, until the residuals themselves are small enough.
def _polished(product: Product, ends: Ends, vectors: Float[np.ndarray, "P m"], k: int, limit: float) -> Ends:
    for _ in range(POLISHING):
        if max(ends.smallest_residuals.max(), ends.largest_residuals.max()) <= limit:
            return ends
        extreme = np.concatenate([vectors[:, :k], vectors[:, -k:]], axis=1)
        images = np.stack([product(column) for column in extreme.T], axis=1)
        residuals = images - extreme * np.sum(extreme * images, axis=0)
        sizes = np.linalg.norm(residuals, axis=0)
        more = residuals[:, sizes > limit / 10] / sizes[sizes > limit / 10]
        ends, _, vectors = ritz_ends(product, np.concatenate([vectors, more], axis=1), k)
    worst = max(ends.smallest_residuals.max(), ends.largest_residuals.max())
    if worst > limit:
        raise ArgumentError(
            f"tolerance: residuals of {limit:.1e} wanted (tolerance · ‖H‖), {worst:.1e} reached; "
            "a larger tolerance would work"
        )
    return ends


def _deflated(product: Product, vectors: np.ndarray, moved: np.ndarray) -> Product:
    return lambda v: product(v) - vectors @ (moved @ v)
