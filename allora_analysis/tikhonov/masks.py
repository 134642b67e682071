"""Every mask of a small problem, and drawn masks of any: the twins of the closed forms.

A mask with m entries has 2^m values, entry probabilities p and 1 − p; the expectation is the weighted sum. The tests
have twins of their own (`tests/brute_force/tikhonov.py`), which judge these too. Drawn masks come one after the other
from one stream, so results do not depend on the chunks that bound the memory. Checked by `tests/test_tikhonov.py` and
`tests/test_tikhonov_monte_carlo.py`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.tikhonov.bottleneck import factored_problem
from allora_analysis.tikhonov.loss import PLACEMENTS, W, X, Y, design_and_targets, weighted_problem

LARGEST = 16  # mask entries that are enumerated: 65,536 masks
# Entries of masks and of masked outputs held at once: 32 MB each.
CHUNK_ENTRIES = 4_000_000


def all_masks(
    rows: int, columns: int, keep_prob: float
) -> tuple[Float[np.ndarray, "n rows columns"], Float[np.ndarray, " n"]]:
    """All 2^(rows·columns) masks with entries 0 or 1/p, and their probabilities."""
    entries = rows * columns
    if entries > LARGEST:
        raise validation.ArgumentError(f"x: a mask of {rows} × {columns} entries is too many to enumerate; at most 16")
    kept = (np.arange(2**entries)[:, None] >> np.arange(entries)) & 1
    probability = np.prod(np.where(kept == 1, keep_prob, 1 - keep_prob), axis=1)
    return kept.reshape(-1, rows, columns) / keep_prob, probability


def _expectation(probability: Float[np.ndarray, " n"], residual: Float[np.ndarray, "n N C"]) -> float:
    """E‖residual‖², a sum over samples and outputs."""
    return float(probability @ np.sum(residual**2, axis=(1, 2)))


@validation.representable("x", "y", "w", "keep_prob")
def enumerated_loss(x: ArrayLike, y: ArrayLike, w: ArrayLike, keep_prob: float, placement: str) -> float:
    """`expected_loss` by summing over all masks; N·C (output) or N·D (input) at most 16.

    Arguments as in `expected_loss`.
    """
    x, y, w = weighted_problem(x, y, w)
    keep_prob = validation.keep_probability(keep_prob)
    if validation.choice("placement", placement, PLACEMENTS) == "input":
        masks, probability = all_masks(*x.shape, keep_prob)
        columns = zip(y.T[:, :, None], w.T[:, :, None], strict=True)  # one at a time: C may be large
        return sum(_expectation(probability, target - (x * masks) @ weights) for target, weights in columns)
    masks, probability = all_masks(*y.shape, keep_prob)
    return _expectation(probability, y - (x @ w) * masks)


@validation.representable("x", "y", "keep_prob")
def enumerated_solution(x: ArrayLike, y: ArrayLike, keep_prob: float, placement: str) -> W:
    """`dropout_solution` as one least-squares problem that stacks all masks, each row weighted by √probability.

    Arguments as in `expected_loss`.

    Returns:
        W (D×C), of minimum norm.
    """
    x, y = design_and_targets(x, y)
    keep_prob = validation.keep_probability(keep_prob)
    if validation.choice("placement", placement, PLACEMENTS) == "input":
        masks, probability = all_masks(*x.shape, keep_prob)
        designs = [x * masks] * y.shape[1]
    else:
        masks, probability = all_masks(*y.shape, keep_prob)
        designs = [x * masks[:, :, column, None] for column in range(y.shape[1])]
    root = np.sqrt(probability)[:, None]
    columns = []
    for design, target in zip(designs, y.T, strict=True):
        rows, wanted = (root[:, :, None] * design).reshape(-1, x.shape[1]), (root * target).ravel()
        seen = rows.any(axis=1) | (not rows.any())  # a row of zeros says nothing of W, and its target rounds
        columns.append(np.linalg.lstsq(rows[seen], wanted[seen], rcond=None)[0])
    return np.stack(columns, axis=1)


@validation.representable("x", "y", "a", "b", "keep_prob")
def enumerated_bottleneck_loss(x: ArrayLike, y: ArrayLike, a: ArrayLike, b: ArrayLike, keep_prob: float) -> float:
    """`bottleneck_loss` by summing over all masks; N·r at most 16.

    Arguments as in `bottleneck_loss`.
    """
    x, y, a, b = factored_problem(x, y, a, b)
    masks, probability = all_masks(len(x), len(a), validation.keep_probability(keep_prob))
    latent = (x @ a.T) * masks
    columns = zip(y.T[:, :, None], b, strict=True)  # one at a time: C may be large
    return sum(_expectation(probability, target - latent @ weights[:, None]) for target, weights in columns)


@validation.representable("x", "y", "keep_prob")
def enumerated_bottleneck_minimum(
    x: ArrayLike, y: ArrayLike, keep_prob: float, rank: int, starts: int, generator: np.random.Generator
) -> float:
    """The least expected loss over (A, B) that L-BFGS finds on the sum over all masks, from several random starts.

    Args:
        x: X (N×D).
        y: Y (N×C).
        keep_prob: p in (0, 1].
        rank: r; N·r at most 16.
        starts: how many random starts.
        generator: the source of the starts.

    Returns:
        The least value found, an upper bound of the minimum.
    """
    from scipy.optimize import minimize

    x, y = design_and_targets(x, y)
    rank, starts = validation.count("rank", rank), validation.count("starts", starts, maximum=1000)
    masks, probability = all_masks(len(x), rank, validation.keep_probability(keep_prob))
    weight, split = probability[:, None, None], rank * x.shape[1]

    def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        a, b = flat[:split].reshape(rank, -1), flat[split:].reshape(-1, rank)
        latent = (x @ a.T) * masks
        residual = latent @ b.T - y
        by_b = 2 * np.einsum("mnc,mnr->cr", weight * residual, latent)
        by_latent = 2 * np.einsum("mnr,mnr->nr", weight * (residual @ b), masks)
        return float(np.sum(weight * residual**2)), np.concatenate([(by_latent.T @ x).ravel(), by_b.ravel()])

    size = split + rank * y.shape[1]
    options = {"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-10}
    runs = [
        minimize(value_and_gradient, generator.standard_normal(size), jac=True, method="L-BFGS-B", options=options)
        for _ in range(starts)
    ]
    return float(min(run.fun for run in runs))


@dataclass(frozen=True)
class SampleMean:
    """A sample's mean and its standard error.

    Attributes:
        mean: the average.
        stderr: the sample standard deviation over √n.
    """

    mean: float
    stderr: float


@validation.representable("samples")
def sample_mean(samples: ArrayLike) -> SampleMean:
    """The mean of independent draws with its standard error.

    Args:
        samples: at least two numbers.

    Raises:
        ArgumentError: a single draw, which has no standard error.
    """
    values = validation.vector("samples", samples)
    if len(values) < 2:
        raise validation.ArgumentError(
            f"samples must have at least 2 draws for a standard error, received {len(values)}"
        )
    scaled, unit = validation.unit_scaled(values)  # no square overflows or vanishes
    return SampleMean(float(values.mean()), float(np.ldexp(scaled.std(ddof=1) / np.sqrt(len(values)), unit)))


def _draws(value: int) -> int:
    draws = validation.count("draws", value)
    validation.fits("draws", draws, f"the losses of {draws} masks")
    return draws


def _mask_chunks(
    rows: int, columns: int, keep_prob: float, draws: int, generator: np.random.Generator, width: int
) -> Iterator[Float[np.ndarray, "n rows columns"]]:
    """Dropout masks with entries 0 or 1/p, in chunks."""
    chunk = max(1, CHUNK_ENTRIES // (rows * max(columns, width)))
    for start in range(0, draws, chunk):
        kept = generator.random((min(chunk, draws - start), rows, columns)) < keep_prob
        yield kept / keep_prob


def masked_losses(
    y: Y, masks: Iterator[Float[np.ndarray, "n N M"]], model: Callable[[np.ndarray], np.ndarray]
) -> Float[np.ndarray, " draws"]:
    """‖Y − model(mask)‖² for every mask."""
    return np.concatenate([np.sum((y - model(mask)) ** 2, axis=(1, 2)) for mask in masks])


@validation.representable("x", "y", "w", "keep_prob", "draws")
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

    Arguments as in `expected_loss`; then how many masks, and the source of randomness.

    Returns:
        The losses; their mean estimates `expected_loss`.
    """
    x, y, w = weighted_problem(x, y, w)
    keep_prob, draws = validation.keep_probability(keep_prob), _draws(draws)
    inside = validation.choice("placement", placement, PLACEMENTS) == "input"
    return (input_losses if inside else output_losses)(x, y, w, keep_prob, draws, generator)


def output_losses(
    x: X, y: Y, w: W, keep_prob: float, draws: int, generator: np.random.Generator
) -> Float[np.ndarray, " draws"]:
    """The core of `sampled_losses` for output masks."""
    z = x @ w
    return masked_losses(y, _mask_chunks(*y.shape, keep_prob, draws, generator, y.shape[1]), lambda mask: z * mask)


def input_losses(
    x: X, y: Y, w: W, keep_prob: float, draws: int, generator: np.random.Generator
) -> Float[np.ndarray, " draws"]:
    """The core of `sampled_losses` for input masks."""
    masks = _mask_chunks(*x.shape, keep_prob, draws, generator, y.shape[1])
    return masked_losses(y, masks, lambda mask: (x * mask) @ w)
