"""Masked losses with drawn masks, the Monte Carlo twins of `expected_loss` and `bottleneck_loss`.

Masks are drawn one after the other from one stream, so results do not depend on the chunks that bound the memory.
Checked by `tests/test_tikhonov_monte_carlo.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.tikhonov.bottleneck import factored_problem
from allora_analysis.tikhonov.loss import PLACEMENTS, weighted_problem

# Entries of masks and of masked outputs held at once: 32 MB each.
CHUNK_ENTRIES = 4_000_000


@dataclass(frozen=True)
class SampleMean:
    """A sample's mean and its standard error.

    Attributes:
        mean: the average.
        stderr: the sample standard deviation over √n.
    """

    mean: float
    stderr: float


def sample_mean(samples: ArrayLike) -> SampleMean:
    """The mean of independent draws with its standard error.

    Args:
        samples: at least two numbers.

    Returns:
        Both.

    Raises:
        ArgumentError: a single draw, which has no standard error.
    """
    values = validation.vector("samples", samples)
    if len(values) < 2:
        raise validation.ArgumentError(
            f"samples must have at least 2 draws for a standard error, received {len(values)}"
        )
    return SampleMean(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))


def mask_chunks(
    rows: int, columns: int, keep_prob: float, draws: int, generator: np.random.Generator, width: int
) -> Iterator[Float[np.ndarray, "n rows columns"]]:
    """Dropout masks with entries 0 or 1/p, in chunks.

    Args:
        rows: rows of a mask.
        columns: columns of a mask.
        keep_prob: p.
        draws: masks in all.
        generator: the source of randomness.
        width: the wider of a mask's columns and of what is computed from it, which bounds the chunk.

    Yields:
        Stacks of masks, `draws` in total.
    """
    chunk = max(1, CHUNK_ENTRIES // (rows * max(columns, width)))
    for start in range(0, draws, chunk):
        kept = generator.random((min(chunk, draws - start), rows, columns)) < keep_prob
        yield kept / keep_prob


def masked_losses(
    y: Float[np.ndarray, "N C"],
    masks: Iterator[Float[np.ndarray, "n N M"]],
    model: Callable[[np.ndarray], np.ndarray],
) -> Float[np.ndarray, " draws"]:
    """‖Y − model(mask)‖² for every mask.

    Args:
        y: Y (N×C).
        masks: stacks of masks.
        model: the predictions (n×N×C) under a stack of masks.

    Returns:
        A loss for each mask.
    """
    return np.concatenate([np.sum((y - model(mask)) ** 2, axis=(1, 2)) for mask in masks])


def sampled_losses(
    x: ArrayLike,
    y: ArrayLike,
    w: ArrayLike,
    keep_prob: float,
    placement: str,
    draws: int,
    generator: np.random.Generator,
) -> Float[np.ndarray, " draws"]:
    """‖Y − (XW) ⊙ V‖² (output) or ‖Y − (X ⊙ V)W‖² (input) for independent draws of V.

    Args:
        x: X (N×D).
        y: Y (N×C).
        w: W (D×C).
        keep_prob: p in (0, 1].
        placement: "output" or "input".
        draws: how many masks.
        generator: the source of randomness.

    Returns:
        The losses; their mean estimates `expected_loss`.
    """
    x, y, w = weighted_problem(x, y, w)
    keep_prob, draws = validation.keep_probability(keep_prob), validation.count("draws", draws)
    inside = validation.choice("placement", placement, PLACEMENTS) == "input"
    masks = mask_chunks(len(x), x.shape[1] if inside else y.shape[1], keep_prob, draws, generator, y.shape[1])
    z = x @ w
    return masked_losses(y, masks, (lambda mask: (x * mask) @ w) if inside else (lambda mask: z * mask))


def sampled_bottleneck_losses(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    keep_prob: float,
    draws: int,
    generator: np.random.Generator,
) -> Float[np.ndarray, " draws"]:
    """‖Y − ((XAᵀ) ⊙ V)Bᵀ‖² for independent draws of V (N×r).

    Args:
        x: X (N×D).
        y: Y (N×C).
        a: A (r×D).
        b: B (C×r).
        keep_prob: p in (0, 1].
        draws: how many masks.
        generator: the source of randomness.

    Returns:
        The losses; their mean estimates `bottleneck_loss`.
    """
    x, y, a, b = factored_problem(x, y, a, b)
    keep_prob, draws = validation.keep_probability(keep_prob), validation.count("draws", draws)
    latent = x @ a.T
    masks = mask_chunks(len(x), len(a), keep_prob, draws, generator, y.shape[1])
    return masked_losses(y, masks, lambda mask: (latent * mask) @ b.T)
