"""A linear teacher, an arm's training on it step by step, and how far ALLoRA's is from each of LoRA's.

Inputs X (N×n₂), targets Y = XTᵀ + noise, model x ↦ BAx with W* = 0, B = 0 and A Gaussian at the start. The loss is
L(M) = ‖Y − XMᵀ‖²_F/(2N) at M = BA. It depends on the data through S = XᵀX/N and C = YᵀX/N alone:
L = ½⟨MS, M⟩ − ⟨C, M⟩ + ‖Y‖²/(2N), and G = ∂L/∂(BA) = MS − C. S = 0 is the constant gradient −C of the scalar model.

LoRA's gradients are ∇A = BᵀG, ∇B = GAᵀ; ALLoRA's ∇A = BᵀD_dG, ∇B = D_dGAᵀ with d_i = h(‖(BA)_i‖) (§4.2). Under
"allora_adamw" ALLoRA's arm has LoRA's gradients and its factor acts on the update. Full-batch gradients: no noise.

The paper's Figure 2 (right) says that ALLoRA starts as LoRA at η·l does. Under SGD the first step is the same and the
rows then part by η²‖(BA)_i‖/4, relatively, to leading order. Under AdamW ALLoRA starts as LoRA at **l**.

Every array has a leading axis, the seeds. Checked by `tests/test_escape_teacher.py` and
`tests/test_escape_optimizers.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.adaptors import ADAPTORS
from allora_analysis.escape.optimizers import Recipe, check, memory, step
from allora_analysis.validation import ArgumentError, representable

ARMS = ("lora", "lora_eta", "allora")


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


@representable()
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
        orthonormal: orthogonalize X's columns, so that S = I exactly; needs N ≥ n₂.

    Raises:
        ArgumentError: a number out of range; orthonormal inputs from fewer samples than columns.
    """
    for name, value in (("seeds", seeds), ("n_outputs", n_outputs), ("n_inputs", n_inputs), ("samples", samples)):
        validation.count(name, value)
    validation.count("seed", seed, 0)
    validation.adapter_rank(rank, n_outputs, n_inputs)
    validation.count("teacher_rank", teacher_rank, 1, min(n_outputs, n_inputs))
    validation.non_negative("noise", noise)
    numbers = float(n_outputs + n_inputs) * (samples + seeds * (n_outputs + n_inputs))
    validation.fits("seeds, n_outputs, n_inputs, samples", numbers, "the teachers")
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


@representable()
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


@representable(infinite=True)
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
    """G = ∂L/∂(BA), the loss, and the row norms of BA."""
    product = b @ a
    gradient = product @ teacher.gram - teacher.cross
    loss = 0.5 * ((gradient - teacher.cross) * product).sum((1, 2)) + teacher.offset
    return gradient, loss, np.linalg.norm(product, axis=-1)


@dataclass(frozen=True)
class Iterate:
    """An arm after some steps."""

    a: Float[np.ndarray, "seeds r n2"]
    b: Float[np.ndarray, "seeds n1 r"]
    loss: Float[np.ndarray, " seeds"]
    norms: Float[np.ndarray, "seeds n1"]
    """‖(BA)_i‖."""


def iterate(
    teacher: Teacher, arm: str, eta: float, recipe: Recipe, adaptor: str = "inverse_sqrt", train_a: bool = True
) -> Iterator[Iterate]:
    """The iterates of one arm: first the start, then one after each of `recipe.steps` steps. Checks nothing.

    Args:
        teacher: the loss and the initial A.
        arm: "lora" (at l), "lora_eta" (at η·l) or "allora".
        eta: η.
        recipe: the optimizer.
        adaptor: ALLoRA's row factor, a name of `adaptors.ADAPTORS`.
        train_a: False keeps A as drawn (the scalar model's assumption).

    Yields:
        steps + 1 iterates.
    """
    rate = recipe.learning_rate * (eta if arm == "lora_eta" else 1.0)
    pair = teacher.a, np.zeros((len(teacher.a), teacher.cross.shape[1], teacher.a.shape[1]))
    state = memory(pair)
    for index in range(recipe.steps + 1):
        a, b = pair
        gradient, loss, norms = product_gradient(teacher, a, b)
        yield Iterate(a, b, loss, norms)
        if index == recipe.steps:
            return
        factor = ADAPTORS[adaptor](norms, eta) if arm == "allora" else None
        if factor is not None and recipe.optimizer != "allora_adamw":
            gradient, factor = factor[:, :, None] * gradient, None
        gradients = b.swapaxes(1, 2) @ gradient, gradient @ a.swapaxes(1, 2)
        if not train_a:
            gradients = np.zeros_like(a), gradients[1]
        pair, state = step(recipe, pair, gradients, state, rate, factor)


@dataclass(frozen=True)
class Drift:
    """Relative distances ‖x − y‖_F/‖y‖_F by step (0 at step 0), y the arm that ALLoRA's x is compared with."""

    to_lora: Float[np.ndarray, "seeds times"]
    """BA from that of LoRA at l."""
    to_lora_eta: Float[np.ndarray, "seeds times"]
    """BA from that of LoRA at η·l."""
    parameters_to_lora: Float[np.ndarray, "seeds times"]
    """(A − A₀, B), the way traveled, from that of LoRA at l."""
    parameters_to_lora_eta: Float[np.ndarray, "seeds times"]
    """(A − A₀, B) from that of LoRA at η·l."""
    norms: Float[np.ndarray, "arms seeds times"]
    """Mean over rows of ‖(BA)_i‖ for LoRA at l, LoRA at η·l and ALLoRA."""
    max_norms: Float[np.ndarray, "arms seeds times"]
    """Largest ‖(BA)_i‖."""
    losses: Float[np.ndarray, "arms seeds times"]
    """The loss of each arm."""


@representable()
def drift(
    optimizer: str,
    eta: float,
    learning_rate: float,
    steps: int,
    *,
    teacher: Teacher | None = None,
    adaptor: str = "inverse_sqrt",
    train_a: bool = True,
    **options: Any,
) -> Drift:
    """Train the three arms from one start and compare them after every step.

    Args:
        optimizer: "sgd", "momentum", "adamw" or "allora_adamw".
        eta: η > 0.
        learning_rate: l > 0 of LoRA and ALLoRA; LoRA at η·l has η times it.
        steps: steps to take.
        teacher: the loss and the initial A; None: `linear_teacher()`, 8 seeds.
        adaptor: ALLoRA's row factor, a name of `adaptors.ADAPTORS`.
        train_a: False keeps A as drawn.
        **options: other fields of `Recipe`: momentum, betas, eps, weight_decay, max_grad_norm, warmup, schedule.

    Returns:
        Distances, row norms and losses, each with steps + 1 times.
    """
    eta = validation.positive("eta", eta)
    validation.choice("adaptor", adaptor, ADAPTORS)
    recipe = check(Recipe(optimizer, learning_rate, steps=steps, **options))
    teacher = linear_teacher() if teacher is None else teacher
    return compared(teacher, eta, recipe, adaptor, train_a)


def compared(teacher: Teacher, eta: float, recipe: Recipe, adaptor: str, train_a: bool = True) -> Drift:
    """The core of `drift`."""
    arms = [iterate(teacher, arm, eta, recipe, adaptor, train_a) for arm in ARMS]
    columns = [_compare(teacher.a, *iterates) for iterates in zip(*arms, strict=True)]
    return Drift(*(np.stack(column, axis=-1) for column in zip(*columns, strict=True)))


def _compare(start: np.ndarray, lora: Iterate, lora_eta: Iterate, allora: Iterate) -> tuple[np.ndarray, ...]:
    arms = lora, lora_eta, allora
    products = [arm.b @ arm.a for arm in arms]
    ways = [np.concatenate([arm.a - start, arm.b.swapaxes(1, 2)], axis=2) for arm in arms]
    return (
        *(_distance(products[2], products[index]) for index in (0, 1)),
        *(_distance(ways[2], ways[index]) for index in (0, 1)),
        np.stack([arm.norms.mean(axis=1) for arm in arms]),
        np.stack([arm.norms.max(axis=1) for arm in arms]),
        np.stack([arm.loss for arm in arms]),
    )


def _distance(
    x: Float[np.ndarray, "seeds rows columns"], y: Float[np.ndarray, "seeds rows columns"]
) -> Float[np.ndarray, " seeds"]:
    # ‖x − y‖_F/‖y‖_F; 0 where both are 0, as at the start.
    gap, size = np.linalg.norm(x - y, axis=(1, 2)), np.linalg.norm(y, axis=(1, 2))
    return np.where(gap == 0, 0.0, gap / np.where(size == 0, 1.0, size))
