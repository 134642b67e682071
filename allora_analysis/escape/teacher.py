"""A linear teacher: inputs X (N×n₂), targets Y = XTᵀ + noise, model x ↦ BAx with W* = 0, B = 0 and A Gaussian at start.

The loss is L(M) = ‖Y − XMᵀ‖²_F/(2N) at M = BA. It depends on the data through S = XᵀX/N and C = YᵀX/N alone:
L = ½⟨MS, M⟩ − ⟨C, M⟩ + ‖Y‖²/(2N), and G = ∂L/∂(BA) = MS − C. S = 0 is the constant gradient −C of the scalar model.
Every array has a leading axis, the seeds. Checked by `tests/test_escape_teacher.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.validation import ArgumentError


@dataclass(frozen=True)
class Teacher:
    """The quadratic loss of a linear teacher and the adapter's initial A, for each seed."""

    gram: Float[np.ndarray, "seeds n2 n2"]
    """S = XᵀX/N."""
    cross: Float[np.ndarray, "seeds n1 n2"]
    """C = YᵀX/N."""
    offset: Float[np.ndarray, " seeds"]
    """‖Y‖²/(2N), the loss at BA = 0."""
    a: Float[np.ndarray, "seeds r n2"]
    """A at the start; B is 0."""
    target: Float[np.ndarray, "seeds n1"]
    """The norms of the teacher's rows, ‖T_i‖."""


def linear_teacher(
    *,
    seeds: int = 8,
    seed: int = 0,
    n_outputs: int = 16,
    n_inputs: int = 16,
    samples: int = 64,
    rank: int = 4,
    teacher_rank: int = 4,
    noise: float = 0.0,
    orthonormal: bool = False,
) -> Teacher:
    """Teachers T of rank `teacher_rank`, rows of norm near 1, entries of X N(0, 1), entries of A N(0, 1/n₂).

    Args:
        seeds: how many; each draws from a generator of its own, so that they do not depend on how many there are.
        seed: the seed of all.
        n_outputs: n₁, rows of T.
        n_inputs: n₂, columns of T.
        samples: N.
        rank: r of the adapter.
        teacher_rank: rank of T.
        noise: standard deviation of the noise on Y.
        orthonormal: orthogonalise X's columns, so that S = I exactly; needs N ≥ n₂.

    Returns:
        The teachers.

    Raises:
        ArgumentError: a number out of range; orthonormal inputs from fewer samples than columns.
    """
    for name, value in (("seeds", seeds), ("n_outputs", n_outputs), ("n_inputs", n_inputs), ("samples", samples)):
        validation.count(name, value)
    validation.count("seed", seed, 0)
    validation.adapter_rank(rank, n_outputs, n_inputs)
    validation.count("teacher_rank", teacher_rank, 1, min(n_outputs, n_inputs))
    validation.non_negative("noise", noise)
    if orthonormal and samples < n_inputs:
        raise ArgumentError(f"samples must be at least n_inputs = {n_inputs} where inputs are orthonormal")
    parts = [
        _draw(
            np.random.default_rng([seed, index]), n_outputs, n_inputs, samples, rank, teacher_rank, noise, orthonormal
        )
        for index in range(seeds)
    ]
    return Teacher(*(np.stack(part) for part in zip(*parts, strict=True)))


def _draw(
    generator: np.random.Generator,
    n1: int,
    n2: int,
    samples: int,
    rank: int,
    teacher_rank: int,
    noise: float,
    orthonormal: bool,
) -> tuple[np.ndarray, np.ndarray, float, np.ndarray, np.ndarray]:
    left, right = generator.standard_normal((n1, teacher_rank)), generator.standard_normal((teacher_rank, n2))
    t = left @ right / np.sqrt(teacher_rank * n2)
    a = generator.standard_normal((rank, n2)) / np.sqrt(n2)
    x = generator.standard_normal((samples, n2))
    if orthonormal:
        x = np.linalg.qr(x).Q * np.sqrt(samples)
    y = x @ t.T + noise * generator.standard_normal((samples, n1))
    return *_quadratic(x, y), a, np.linalg.norm(t, axis=1)


def data_teacher(x: ArrayLike, y: ArrayLike, a: ArrayLike) -> Teacher:
    """One seed's teacher from data.

    Args:
        x: X (N×n₂).
        y: Y (N×n₁); with frozen weights W*, Y − XW*ᵀ.
        a: the initial A (r×n₂).

    Returns:
        A teacher whose `target` is the row norms of the minimum-norm least-squares T.
    """
    inputs = validation.matrix("x", x)
    targets = validation.matrix_of("y", y, (len(inputs), None), "the rows of x")
    start = validation.matrix_of("a", a, (None, inputs.shape[1]), "the columns of x")
    norms = np.linalg.norm(np.linalg.lstsq(inputs, targets, rcond=None)[0], axis=0)
    return Teacher(*(np.asarray(part)[None] for part in (*_quadratic(inputs, targets), start, norms)))


def _quadratic(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    return x.T @ x / len(x), y.T @ x / len(x), float((y**2).sum()) / (2 * len(x))


def constant_gradient(cross: ArrayLike, a: ArrayLike) -> Teacher:
    """The linear loss −⟨C, BA⟩ for one seed: G = −C at every step, the setting of the scalar model.

    Args:
        cross: C (n₁×n₂).
        a: the initial A (r×n₂).

    Returns:
        A teacher with S = 0, whose targets are infinitely far.
    """
    matrix = validation.matrix("cross", cross)
    start = validation.matrix_of("a", a, (None, matrix.shape[1]), "the columns of cross")
    n1, n2 = matrix.shape
    return Teacher(np.zeros((1, n2, n2)), matrix[None], np.zeros(1), start[None], np.full((1, n1), np.inf))


def product_gradient(
    teacher: Teacher, a: Float[np.ndarray, "seeds r n2"], b: Float[np.ndarray, "seeds n1 r"]
) -> tuple[Float[np.ndarray, "seeds n1 n2"], Float[np.ndarray, " seeds"], Float[np.ndarray, "seeds n1"]]:
    """G = ∂L/∂(BA), the loss, and the row norms of BA.

    Args:
        teacher: the loss.
        a: A.
        b: B.

    Returns:
        G = MS − C, L = ½⟨G − C, M⟩ + offset, ‖M_i‖ at M = BA.
    """
    product = b @ a
    gradient = product @ teacher.gram - teacher.cross
    loss = 0.5 * ((gradient - teacher.cross) * product).sum((1, 2)) + teacher.offset
    return gradient, loss, np.linalg.norm(product, axis=-1)
