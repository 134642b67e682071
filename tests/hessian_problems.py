"""What tests of §3.2's closed forms share."""

import numpy as np

EXACT = 1e-10  # relative to the largest |eigenvalue|; float64 leaves about 1e-14 at these sizes


def low_rank(rng, rows, columns, rank):
    """A matrix of exactly this rank whose non-zero singular values lie in [½, 2]: a tolerance of 1e-10 is earned."""
    left, right = (np.linalg.qr(rng.standard_normal((size, max(rank, 1))))[0] for size in (rows, columns))
    return (left * rng.uniform(0.5, 2, max(rank, 1))) @ right.T if rank else np.zeros((rows, columns))


def assert_close(actual, expected, tolerance=EXACT):
    assert actual.shape == expected.shape
    assert np.max(np.abs(actual - expected)) <= tolerance * max(np.max(np.abs(expected)), 1e-300)
