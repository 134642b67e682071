"""Where LoRA's A and B start, by name, for the rows of `s3_2_starts`: what is to be learned, and the first A and B.

B is n₁×r, A is r×n₂, G = ∂L/∂(BA), M what BA would have to be.
"""

import math
from typing import NamedTuple

import numpy as np

from allora_analysis import hessian
from allora_analysis.claims.s3_2_in_v import power_law


class Begin(NamedTuple):
    """X (N×n₂), M (n₁×n₂), and the first A and B."""

    x: np.ndarray
    fit: np.ndarray
    a: np.ndarray
    b: np.ndarray

    @property
    def slope(self) -> np.ndarray:
        """G at BA = 0."""
        return self.gradient(0 * self.fit)

    def gradient(self, product: np.ndarray) -> np.ndarray:
        """G at a BA."""
        return 2 * ((product - self.fit) @ self.x.T) @ self.x

    @property
    def told(self) -> np.ndarray:
        """The eigenvalues at the start without the rescalings, in closed form where A or B is 0."""
        return hessian.restricted_spectrum(self.x, self.gradient(self.b @ self.a), self.a, self.b)


def begin(x: np.ndarray, target: np.ndarray, name: str, rank: int, rng: np.random.Generator) -> Begin:
    """A start by name, on top of a pretrained matrix with entries of variance 1/n₂."""
    weight = rng.standard_normal(target.shape) / math.sqrt(target.shape[1])
    a, b = hessian.start_pair(name, -2 * (target @ x.T) @ x, rank, rng, weight)
    return Begin(x, target + b @ a, a, b)


SHARES = {  # which of G's singular vectors A's rows and B's columns are
    "swapped": lambda r: (range(r, 2 * r), range(r)),
    "alternating": lambda r: (range(0, 2 * r, 2), range(1, 2 * r, 2)),
    "without the first": lambda r: (range(1, r + 1), range(r + 1, 2 * r + 1)),
    "first ones in A": lambda r: (range(r), range(r, 2 * r)),
}


def singular_start(
    x: np.ndarray, target: np.ndarray, share: str, rank: int, rng: np.random.Generator, longer: float
) -> Begin:
    """A's rows and B's columns span singular vectors of G, by one of `SHARES`, in random bases; A `longer` than B."""
    u, _, vt = np.linalg.svd(-2 * (target @ x.T) @ x)
    rows, columns = map(list, SHARES[share](rank))
    turns = [np.linalg.qr(rng.standard_normal((rank, rank)))[0] for _ in range(2)]
    a, b = longer * turns[0] @ vt[rows] / math.sqrt(3), u[:, columns] @ turns[1] / math.sqrt(3)
    return Begin(x, target + b @ a, a, b)


LOW = (  # G of rank r, or nearly
    "rank G = r, A sees all",
    "rank G = r, A and B see all",
    "rank G = r, A at random",
    "steep, A sees r",
)


def few_values(name: str, n1: int, n2: int, rank: int, rng: np.random.Generator) -> Begin:
    """G of r singular values, the others 0 or, where steep, small; n₂ inputs of one variance."""
    u, v = (np.linalg.qr(rng.standard_normal((n, 2 * rank)))[0] for n in (n1, n2))
    values = np.geomspace(2, 1, 2 * rank) * np.repeat([1.0, 3e-3 if name.startswith("steep") else 0.0], rank)
    target, a, b = u * values @ v.T / 2, v[:, :rank].T, np.zeros((n1, rank))
    if name.endswith("A and B see all"):
        part = rng.uniform(0.2, 0.8, rank)
        a, b = np.sqrt(part)[:, None] * a, u[:, :rank] * np.sqrt(1 - part)
    elif name.endswith("at random"):
        a = rng.standard_normal(a.shape) / math.sqrt(n2)
    return Begin(np.eye(n2), target + b @ a, a, b)


def named_start(name: str, n1: int, n2: int, rank: int, rng: np.random.Generator) -> Begin:
    """The start of that name: of `LOW`, of `SHARES`, or one of `hessian.STARTS`."""
    if name in LOW:
        return few_values(name, n1, n2, rank, rng)
    x, target = power_law(4 * n2, n2, rng) / math.sqrt(4 * n2), rng.standard_normal((n1, n2))
    share, longer, _ = name.partition(", A longer")
    if share not in SHARES:
        return begin(x, target, name, rank, rng)
    return singular_start(x, target, share, rank, rng, 1.02 if longer else 1.0)
