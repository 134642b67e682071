"""Fieller's interval: the ratio of two means of paired values. Checked by `tests/test_statistics_ratio.py`."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from allora_analysis.validation import ArgumentError, probability, vector


class Ratio(NamedTuple):
    """A ratio of means and its interval; both ends infinite where the denominator's mean is not told from 0."""

    value: float
    low: float
    high: float


def mean_ratio(first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> Ratio:
    """The mean of `first` over that of `second`, with Fieller's interval.

    The interval holds every ρ for which Student's t of first − ρ·second does not reject a mean of 0: with s the
    covariances of the values and t the quantile on n − 1 degrees of freedom, the ρ between the roots of
    ρ²(ȳ² − t²s_yy/n) − 2ρ(x̄ȳ − t²s_xy/n) + x̄² − t²s_xx/n.

    Args:
        first: x, a unit each.
        second: y, of the same units.
        confidence: of the interval.

    Returns:
        The ratio and its interval.

    Raises:
        ArgumentError: fewer than two units, or not as many of one as of the other.

    Examples:
        >>> from allora_analysis.statistics.ratio import mean_ratio
        >>> mean_ratio([2.0, 2.5, 3.0], [4.0, 5.0, 6.0])
        Ratio(value=0.5, low=0.5, high=0.5)
    """
    from scipy.special import stdtrit

    x, y = vector("first", first), vector("second", second)
    if x.shape != y.shape or x.size < 2:
        raise ArgumentError(f"second: as many values as first has are needed, 2 at least; received {y.size}, {x.size}")
    n, t = x.size, float(stdtrit(x.size - 1, (1 + probability("confidence", confidence)) / 2))
    (s_xx, s_xy), (_, s_yy) = np.cov(x, y) * t**2 / n
    a, b, c = y.mean() ** 2 - s_yy, x.mean() * y.mean() - s_xy, x.mean() ** 2 - s_xx
    value = float(x.mean() / y.mean()) if y.mean() else math.nan
    if a <= 0:
        return Ratio(value, -math.inf, math.inf)
    half = math.sqrt(max(b**2 - a * c, 0.0))
    return Ratio(value, float((b - half) / a), float((b + half) / a))
