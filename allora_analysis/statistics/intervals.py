"""Two intervals beside Student's: of the ratio of two means, and of a mean over runs and test rows at once.

Two arms that share seeds and are tested on the same rows give an array of differences, a line a seed and a column a
row: entry 1 where the first arm alone is right, −1 where the second alone is, 0 otherwise. An interval over seeds holds
for these rows alone, one over rows for these runs alone. Checked by `tests/test_statistics_intervals.py`.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from allora_analysis.validation import ArgumentError, matrix, probability, representable, unit_scaled, vector


@dataclass(frozen=True)
class TwoLevel:
    """A mean over seeds and rows.

    Attributes:
        mean: of all differences.
        interval: over seeds and rows.
        over_seeds: for these rows alone, further seeds.
        over_rows: for these seeds alone, further rows.
        degrees: Satterthwaite's degrees of freedom of `interval`.
        seeds: lines.
        rows: columns.
    """

    mean: float
    interval: tuple[float, float]
    over_seeds: tuple[float, float]
    over_rows: tuple[float, float]
    degrees: float
    seeds: int
    rows: int


@representable("differences")
def two_level(differences: ArrayLike) -> TwoLevel:
    """The mean of a two-way array with its 95 % interval over both margins, and over each alone.

    With d_sr = μ + a_s + b_r + e_sr, independent parts of mean 0, the mean d̄ over S seeds and R rows has the variance
    σ_a²/S + σ_b²/R + σ_e²/(SR). The mean squares M_S = R Σ_s (d̄_s − d̄)²/(S − 1), M_R = S Σ_r (d̄_r − d̄)²/(R − 1) and
    M_E of what remains, over (S − 1)(R − 1), have the means σ_e² + Rσ_a², σ_e² + Sσ_b² and σ_e², so that (M_S + M_R −
    M_E)/(SR) estimates it without bias, at Satterthwaite's degrees of freedom. Where M_E is larger than M_S or M_R it
    is left out. Of that interval and those over seeds or rows alone the widest is given. The same moments hold for any
    array whose seeds are exchangeable and whose rows are, with no additive parts (Owen 2007, "The pigeonhole
    bootstrap", §2).

    Args:
        differences: (S, R), at least 2 × 2.

    Raises:
        ArgumentError: fewer than two seeds or two rows.

    Examples:
        >>> from allora_analysis.statistics import two_level
        >>> found = two_level([[1, 0, 0, 0, -1, 1], [1, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]])
        >>> found.mean.__round__(3), [round(end, 3) for end in found.interval]
        (0.222, [-0.201, 0.646])
    """
    from scipy.special import stdtrit

    table, unit = unit_scaled(matrix("differences", differences))  # no square overflows or vanishes
    seeds, rows = table.shape
    if min(seeds, rows) < 2:
        raise ArgumentError(f"differences: at least 2 seeds and 2 rows are needed, received {seeds} × {rows}")
    mean = float(table.mean())
    by_seed, by_row = table.mean(axis=1), table.mean(axis=0)
    rest = table - by_seed[:, None] - by_row + mean
    degrees = np.array([seeds - 1, rows - 1, (seeds - 1) * (rows - 1)], dtype=float)
    squares = np.array(
        [rows * np.square(by_seed - mean).sum(), seeds * np.square(by_row - mean).sum(), np.square(rest).sum()]
    )
    squares /= degrees

    def interval(weights: tuple[int, int, int]) -> tuple[tuple[float, float], float]:
        parts = np.array(weights) * squares
        variance = float(parts.sum())
        freedom = variance**2 / float((parts**2 / degrees).sum()) if variance > 0 else degrees[0]
        half = float(stdtrit(freedom, 0.975)) * math.sqrt(variance / (seeds * rows))
        return (math.ldexp(mean - half, unit), math.ldexp(mean + half, unit)), float(freedom)

    over_seeds, over_rows = interval((1, 0, 0)), interval((0, 1, 0))
    both = [interval((1, 1, -1))] if squares[2] <= squares[:2].min() else []
    together = max([*both, over_seeds, over_rows], key=lambda one: one[0][1] - one[0][0])
    return TwoLevel(math.ldexp(mean, unit), together[0], over_seeds[0], over_rows[0], together[1], seeds, rows)


class Ratio(NamedTuple):
    """A ratio of means and its interval; both ends infinite where the denominator's mean is not told from 0.

    Attributes:
        value: the ratio; NaN where the denominator's mean is 0, as there is none.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


@representable("first", "second", infinite=True, undefined=True)
def ratio_of_means(first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> Ratio:
    """The mean of `first` over that of `second`, with Fieller's interval.

    The interval holds every ρ for which Student's t of first − ρ·second does not reject a mean of 0: with s the
    covariances of the values and t the quantile on n − 1 degrees of freedom, the ρ between the roots of
    ρ²(ȳ² − t²s_yy/n) − 2ρ(x̄ȳ − t²s_xy/n) + x̄² − t²s_xx/n. With w = x − (x̄/ȳ)y, whose mean is 0, the same roots are
    x̄/ȳ + δ, where aδ² + 2gδ − h = 0, a = ȳ² − t²s_yy/n, g = t²s_wy/n, h = t²s_ww/n: nothing of it cancels.

    Args:
        first: x, a unit each.
        second: y, of the same units.
        confidence: of the interval.

    Raises:
        ArgumentError: fewer than two units, not as many of one as of the other, a ratio that overflows.

    Examples:
        >>> from allora_analysis.statistics.intervals import ratio_of_means
        >>> ratio_of_means([2.0, 2.5, 3.0], [4.0, 5.0, 6.0])
        Ratio(value=0.5, low=0.5, high=0.5)
    """
    from scipy.special import stdtrit

    x, y = vector("first", first), vector("second", second)
    if x.shape != y.shape or x.size < 2:
        raise ArgumentError(f"second: as many values as first has are needed, 2 at least; received {y.size}, {x.size}")
    share = float(stdtrit(x.size - 1, (1 + probability("confidence", confidence)) / 2)) ** 2 / x.size
    (x, of_x), (y, of_y) = unit_scaled(x), unit_scaled(y)
    value = float(x.mean() / y.mean()) if y.mean() else math.nan
    below, above = _around(x - x.mean(), y - y.mean(), value, float(y.mean()), share)
    ends = (value, value - below, value + above) if below < math.inf else (value, -math.inf, math.inf)
    return Ratio(*(math.ldexp(end, of_x - of_y) for end in ends))


def _around(x: np.ndarray, y: np.ndarray, value: float, mean: float, share: float) -> tuple[float, float]:
    # How far the interval reaches below and above the ratio, from centered x and y.
    a = mean**2 - share * float(np.var(y, ddof=1))
    if not a > 0:
        return math.inf, math.inf
    (h, g), _ = share * np.cov(x - value * y, y)
    most = abs(g) + math.sqrt(g**2 + a * h)
    far, near = most / a, h / most if most else 0.0
    return (far, near) if g >= 0 else (near, far)
