"""Small designs for §3.1: few enough entries to enumerate all masks."""

import numpy as np

PLACEMENTS = ("output", "input")
KEEP = (0.05, 0.5, 0.8, 1.0)


def problem(seed, n, d, c):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), rng.standard_normal((n, c))


def random_problem(rng, n, d, c):
    """X, Y and W of normal entries."""
    return rng.standard_normal((n, d)), rng.standard_normal((n, c)), rng.standard_normal((d, c))


def designs():
    """Tall, wide (N < D), rank-deficient, with a zero column, square; N·C and N·D at most 10."""
    tall, _ = problem(0, 5, 2, 1)
    wide, _ = problem(1, 2, 4, 1)
    deficient = np.outer([1.0, -2.0, 0.5], [1.0, 2.0, -1.0])
    zero_column = np.column_stack([tall[:3, 0], np.zeros(3), tall[:3, 1]])
    return {"tall": tall, "wide": wide, "deficient": deficient, "zero column": zero_column, "square": np.eye(3) + 0.3}


DESIGNS = designs()
CASES = [(name, placement, p) for name in DESIGNS for placement in PLACEMENTS for p in KEEP]


def targets(x, c, seed=7):
    return np.random.default_rng(seed).standard_normal((len(x), c))
