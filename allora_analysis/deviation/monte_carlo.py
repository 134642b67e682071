"""The sampled twin of `law`: |L̄_n − E L| of many averages over n masks, by drawing how often each entry was kept.

K_j ~ Bin(n, p) carries all that n masks do to an average, so n = 10⁶ masks cost one draw an entry. Checked by
`tests/test_deviation_study.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.deviation.moments import jumps, problem
from allora_analysis.validation import count, keep_probability

CHUNK = 2**18
"""Binomial draws held at once."""


@dataclass(frozen=True)
class Estimate:
    """A sample mean and its standard error over `draws` independent draws."""

    mean: float
    stderr: float
    draws: int


def deviations(
    delta: Float[np.ndarray, " entries"], keep_prob: float, n: int, draws: int, generator: np.random.Generator
) -> Float[np.ndarray, " draws"]:
    """Independent draws of |Σ_j δ_j (K_j/n − p)|; the draws do not depend on the size of the chunks.

    Args:
        delta: δ of each entry.
        keep_prob: p.
        n: number of masks in each average.
        draws: number of averages.
        generator: the source of randomness.

    Returns:
        The deviations.
    """
    rows = max(1, CHUNK // len(delta))
    parts = []
    for first in range(0, draws, rows):
        kept = generator.binomial(n, keep_prob, size=(min(rows, draws - first), len(delta)))
        parts.append(np.abs((kept - n * keep_prob) @ delta / n))
    return np.concatenate(parts)


def mean_absolute_deviation(
    x: ArrayLike,
    y: ArrayLike,
    w: ArrayLike,
    keep_prob: float,
    n: int,
    draws: int,
    generator: np.random.Generator,
) -> Estimate:
    """E|L̄_n − E L| estimated: the twin of `law.mean_absolute_deviation`.

    Args:
        x: X (N×D).
        y: Y (N×C).
        w: W (D×C).
        keep_prob: p in (0, 1].
        n: number of masks in each average.
        draws: number of averages, 2 or above.
        generator: the source of randomness.

    Returns:
        The mean and its standard error.
    """
    design, targets, weights = problem(x, y, w)
    kept, masks, size = keep_probability(keep_prob), count("n", n), count("draws", draws, minimum=2)
    delta = jumps(design @ weights, targets, kept).ravel()
    sample = deviations(delta, kept, masks, size, generator)
    return Estimate(float(np.mean(sample)), float(np.std(sample, ddof=1)) / math.sqrt(size), size)
