"""SGD under dropout in §3.1's model, from first principles: moments summed over each row's own masks.

W ← W + 2l(masked X)ᵀ(Y − masked X·W) from 0 with fresh masks at every step: p the keep probability, k = (1 − p)/p,
S = XᵀX, h_n the diagonal of XX⁺. With H = S/p (masks on the output) or S + k diag S (on the input), E W_t is descent on
the regularized objective ‖Y‖² − 2Tr(WᵀXᵀY) + Tr(WᵀHW), and masks add a covariance. The rows on few
steps hold `dropout_sgd`, which judges them, against these moments, which import nothing from it but its largest rate.
Checked by `tests/test_claims_3_1_few_steps.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from allora_analysis import dropout_sgd
from allora_analysis.claims.cases import Case
from allora_analysis.claims.s3_1_tikhonov import PAPER_KEEP

PLACEMENTS = ("output", "input")


class Sgd(NamedTuple):
    """X (N×D), true weights (D,), the noise in Y, the keep probability, l, a number of steps, and the masks' place."""

    x: np.ndarray
    w: np.ndarray
    noise: float
    keep_prob: float
    rate: float
    steps: int
    placement: str

    @property
    def labels(self) -> np.ndarray:
        """Y in N + 1 columns, the signal and noise in each row: sums over them are expectations over the noise."""
        return np.hstack([self.x @ self.w[:, None], self.noise * np.eye(len(self.x))])

    @property
    def truth(self) -> np.ndarray:
        """The true weights of `labels`."""
        return np.hstack([self.w[:, None], np.zeros((len(self.w), len(self.x)))])


def turned(n: int, singular: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """X with these singular values and random singular vectors."""
    left, right = (np.linalg.qr(rng.standard_normal((size, len(singular))))[0] for size in (n, len(singular)))
    return (left * singular) @ right.T


def setting(rng: np.random.Generator, keep_prob: float, steps: int, fraction: float) -> Sgd:
    """N up to 6, D up to 3, spectra up to sixfold, weights even or along small directions; noise 1 until it is set."""
    d = int(rng.integers(1, 4))
    singular = np.geomspace(1, 1 / float(rng.choice([1.5, 3.0, 6.0])), d)
    x = turned(d + int(rng.integers(1, 4)), singular, rng)
    w = rng.standard_normal(d)
    if rng.random() < 0.5:
        right = np.linalg.svd(x)[2]
        w = right.T @ (right @ w / singular)
    place = str(rng.choice(PLACEMENTS))
    rate = fraction * dropout_sgd.stability_limits(x, keep_prob, place).mean_square
    return Sgd(x, w / np.linalg.norm(w), 1.0, keep_prob, rate, steps, place)


def papers_own(rng: np.random.Generator, steps: int, noise: float = 0.5) -> list[Case]:
    """Drop rate 0.05, LoRA's masks and the paper's, a spectrum that falls; noise in Y in units of its signal."""
    found = []
    for placement in PLACEMENTS:
        x = turned(8, np.arange(1.0, 5.0) ** -0.5, rng)
        w = rng.standard_normal(4)
        rate = 0.1 * dropout_sgd.stability_limits(x, PAPER_KEEP, placement).mean_square
        level = noise * float(np.linalg.norm(x @ w)) / math.sqrt(8)
        one = Sgd(x, w, level, PAPER_KEEP, rate, steps, placement)
        found.append(Case(f"{placement} masks, p = 0.95, noise {noise:g} of signal 1", one, paper=True))
    return found


def row_masks(x: np.ndarray, keep_prob: float, placement: str) -> tuple[np.ndarray, np.ndarray]:
    """Every masked form of each row (N × masks × D), and the masks' probabilities."""
    if keep_prob == 1:
        return x[:, None, :], np.ones(1)
    size = 1 if placement == "output" else x.shape[1]
    kept = np.array(list(itertools.product((0, 1), repeat=size)), dtype=float)
    number = kept.sum(axis=1)
    return x[:, None, :] * kept / keep_prob, keep_prob**number * (1 - keep_prob) ** (size - number)


class Moments(NamedTuple):
    """E W_t (T + 1 × D × C) and Cov W_t summed over columns (T + 1 × D × D)."""

    mean: np.ndarray
    covariance: np.ndarray

    @property
    def spread(self) -> np.ndarray:
        """√tr Cov W_t."""
        return np.sqrt(np.maximum(np.trace(self.covariance, axis1=1, axis2=2), 0.0))


def _stepper(x: np.ndarray, y: np.ndarray, keep_prob: float, rate: float, placement: str) -> Callable[..., tuple]:
    """One step of (mean, covariance), from sums over each row's own masks."""
    u, chance = row_masks(x, keep_prob, placement)
    squares = np.einsum("m,nmd,nme->nmde", chance, u, u)
    rows = squares.sum(axis=1)
    curvature, flat = rows.sum(axis=0), squares.reshape(-1, *rows.shape[1:])
    forward = np.eye(len(curvature)) - 2 * rate * curvature

    def step(mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        residual = y[:, None, :] - u @ mean
        errors = (residual**2).sum(axis=2) + np.einsum("nmd,de,nme->nm", u, covariance, u)
        pull = np.einsum("m,nmd,nmc->ndc", chance, u, residual)
        noise = np.tensordot(errors.ravel(), flat, 1) - np.einsum("ndc,nec->de", pull, pull)
        noise -= np.einsum("nde,ef,nfg->dg", rows, covariance, rows)
        following = forward @ covariance @ forward + 4 * rate**2 * noise
        return mean + 2 * rate * (x.T @ y - curvature @ mean), following

    return step


def moments(one: Sgd, y: np.ndarray, keep_prob: float) -> Moments:
    """Of W_0 = 0, …, W_T, by `_stepper`."""
    d = one.x.shape[1]
    step, state = _stepper(one.x, y, keep_prob, one.rate, one.placement), (np.zeros((d, y.shape[1])), np.zeros((d, d)))
    path = [state]
    for _ in range(one.steps):
        state = step(*state)
        path.append(state)
    return Moments(*(np.array(part) for part in zip(*path, strict=True)))


def risks(one: Sgd, keep_prob: float) -> np.ndarray:
    """α_t and β_t (2 × T + 1) of the population risk E‖W_t − W_true‖² = α_t + σ²β_t, σ² the noise's variance in Y."""
    parts = (one.x @ one.w[:, None], one.w[:, None]), (np.eye(len(one.x)), 0.0)
    found = []
    for y, target in parts:
        of = moments(one, y, keep_prob)
        found.append(((of.mean - target) ** 2).sum(axis=(1, 2)) + of.spread**2)
    return np.array(found)


def _cost_over_gain(dropout: np.ndarray, other: np.ndarray, noise: float) -> float:
    """What dropout adds to the risk over what it takes off, signal and noise apart: above 1 where it is behind."""
    signal, labels = dropout - other
    cost = max(signal, 0.0) + noise**2 * max(labels, 0.0)
    gain = max(-signal, 0.0) + noise**2 * max(-labels, 0.0)
    return math.inf if gain == 0 else float(cost / gain)


def behind(one: Sgd) -> float:
    """`_cost_over_gain` against training without dropout, after `steps` steps."""
    return _cost_over_gain(risks(one, one.keep_prob)[:, -1], risks(one, 1.0)[:, -1], one.noise)


def with_noise(one: Sgd, ratio: float, rng: np.random.Generator) -> Sgd:
    """Labels with a noise from half to twice σ²·ratio, where a boundary is; of any size where the ratio is 0 or ∞."""
    square = one.noise**2 * ratio if 0 < ratio < math.inf else 10 ** rng.uniform(-2, 2)
    return one._replace(noise=math.sqrt(square * 2 ** rng.uniform(-1, 1)))
