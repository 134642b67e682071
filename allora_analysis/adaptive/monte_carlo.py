"""How often an ALLoRA step climbs, over random A, B and G: the sampled side of `descent`.

Checked by `tests/test_adaptive_descent.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from allora_analysis.adaptors import inverse_sqrt
from allora_analysis.validation import adapter_rank, count, positive

CHUNK = 2**18  # numbers a batch may draw at once


@dataclass(frozen=True)
class AscentFrequency:
    """The share of draws whose first-order change is positive, with its standard error.

    Attributes:
        a_part: A's part climbs.
        a_part_stderr: its standard error.
        total: the whole step climbs.
        total_stderr: its standard error.
        draws: sample size.
    """

    a_part: float
    a_part_stderr: float
    total: float
    total_stderr: float
    draws: int


def ascent_frequency(
    shape: tuple[int, int, int],
    eta: float,
    a_std: float,
    b_std: float,
    *,
    samples: int,
    draws: int,
    generator: np.random.Generator,
) -> AscentFrequency:
    """How often ⟨G, BΔA + ΔB A⟩ > 0 for independent Gaussian entries of A, B and of G's parts (their scale drops out).

    Args:
        shape: n₁, n₂ and r.
        eta: η > 0.
        a_std: standard deviation of A's entries.
        b_std: of B's.
        samples: G = Σ_k δ_k x_kᵀ over so many tokens: its rank, at most.
        draws: sample size.
        generator: the randomness; the result does not depend on the chunks it is drawn in.

    Returns:
        The frequencies.
    """
    n1, n2 = count("n1", shape[0]), count("n2", shape[1])
    rank, draws, samples = adapter_rank(shape[2], n1, n2), count("draws", draws), count("samples", samples)
    eta, a_std, b_std = positive("eta", eta), positive("a_std", a_std), positive("b_std", b_std)
    each = (samples + rank) * (n1 + n2)
    climbs = np.zeros(2)
    for start in range(0, draws, max(1, CHUNK // each)):
        size = min(max(1, CHUNK // each), draws - start)
        numbers = generator.standard_normal((size, each))
        ends = np.cumsum([samples * n1, samples * n2, rank * n2])
        delta, x, a, b = np.split(numbers, ends, axis=1)
        g = delta.reshape(size, n1, samples) @ x.reshape(size, samples, n2)
        a, b = a_std * a.reshape(size, rank, n2), b_std * b.reshape(size, n1, rank)
        d = inverse_sqrt(np.linalg.norm(b @ a, axis=2), eta)[:, :, None]
        transposed = b.transpose(0, 2, 1)
        a_part = -np.sum((transposed @ g) * (transposed @ (d * g)), axis=(1, 2))
        b_part = -np.sum(d * (g @ a.transpose(0, 2, 1)) ** 2, axis=(1, 2))
        climbs += [np.count_nonzero(a_part > 0), np.count_nonzero(a_part + b_part > 0)]
    shares = climbs / draws
    errors = [math.sqrt(share * (1 - share) / draws) for share in shares]
    return AscentFrequency(float(shares[0]), errors[0], float(shares[1]), errors[1], draws)
