"""Σ_g c_g e^{i j x_g} for all j < P at once: the non-uniform Fourier transform, and log φ at many frequencies from it.

With r = p/(1 − p) < 1, log(1 − p + p e^{iθ}) = log(1 − p) − Σ_{m ≥ 1} (−r)^m e^{imθ}/m, so that log φ of
T = Σ_g b_g (K_g − N_g p) at all odd multiples of a frequency is a short series of such sums: a cost of O(P log P) a
term whatever the number of groups. Kaiser–Bessel gridding, twice oversampled (Potts–Steidl–Tasche 2001).
Checked by `tests/test_deviation_methods.py`.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Complex, Float

from allora_analysis.deviation.enumeration import Groups

WIDTH = 14
BETA = 2.30 * WIDTH


def exponential_sums(
    coefficient: Complex[np.ndarray, " size"], angle: Float[np.ndarray, " size"], points: int
) -> Complex[np.ndarray, " points"]:
    """F_j = Σ_g c_g e^{i j x_g} for j = 0 … P − 1, to about 10⁻¹³ Σ|c_g|.

    Args:
        coefficient: c.
        angle: x, in radians.
        points: P, even.

    Returns:
        The sums.
    """
    fine = 2 * points
    place = np.mod(angle, 2 * np.pi) * (fine / (2 * np.pi))
    nearest = np.ceil(place - WIDTH / 2)
    centred = coefficient * np.exp(1j * (points // 2) * angle)
    grid = np.zeros(fine, dtype=np.complex128)
    for offset in range(WIDTH):
        distance = np.clip(2 * (nearest + offset - place) / WIDTH, -1.0, 1.0)
        spread = centred * np.i0(BETA * np.sqrt(1 - distance**2))
        np.add.at(grid, np.mod(nearest + offset, fine).astype(np.int64), spread)
    modes = np.arange(points) - points // 2
    root = np.sqrt(BETA**2 - (np.pi * WIDTH / fine * modes) ** 2)
    return np.fft.ifft(grid)[modes] * (fine / WIDTH) * (root / np.sinh(root))


def terms(groups: Groups) -> int:
    """How many powers of r the series needs for an absolute error of 10⁻¹⁴ in log φ.

    Args:
        groups: the terms of T.

    Returns:
        The number; large where p is near ½.
    """
    ratio = groups.probability / (1 - groups.probability)
    if ratio > 0.9:
        return 10**6
    size = float(np.sum(groups.trials)) / (1 - ratio)
    return max(1, math.ceil((math.log(1e-14) - math.log(size)) / math.log(ratio)))


def phi(groups: Groups, step: float, points: int) -> Complex[np.ndarray, " points"]:
    """φ at the frequencies step·(2j + 1), j = 0 … P − 1.

    Args:
        groups: the terms of T.
        step: the lowest frequency.
        points: P.

    Returns:
        The characteristic function of T.
    """
    p = groups.probability
    logarithm = np.full(points, float(np.sum(groups.trials)) * math.log1p(-p), dtype=np.complex128)
    for m in range(1, terms(groups) + 1):
        angle = m * step * groups.size
        factor = -((-p / (1 - p)) ** m) / m
        logarithm += factor * exponential_sums(groups.trials * np.exp(1j * angle), 2 * angle, points)
    mean = p * float(np.sum(groups.trials * groups.size))
    return np.exp(logarithm - 1j * mean * step * (2 * np.arange(points) + 1))
