"""Student's t over paired differences, and what rounding alone may make of them.

Checked by `tests/test_statistics_paired.py` against SciPy.
"""

import math

import numpy as np
from jaxtyping import Float

from allora_analysis.validation import unit_scaled

# Differences this close, relative to the largest value, are ties: 90.4 − 90.1 and 60.3 − 60.0 are one number.
TIE = 1e-12


def standard_deviation(values: Float[np.ndarray, " n"]) -> float:
    """S over n − 1, of values whose squares may leave float64's range; `OverflowError` where s itself does."""
    scaled, exponent = unit_scaled(values)
    return math.ldexp(float(scaled.std(ddof=1)), exponent)


def student(
    values: Float[np.ndarray, " n"], confidence: float, grain: float = 0.0
) -> tuple[tuple[float, float], float, float]:
    """Student's t of n ≥ 2 independent values: the interval mean ± t_{(1 + confidence)/2, n − 1}·s/√n, t, p two-sided.

    Values that differ by no more than the grain, which rounding may have added, are equal: t = ±∞ and p = 0, but where
    they are 0.
    """
    from scipy.special import stdtr, stdtrit

    size, n = float(np.abs(values).max()), values.size
    exponent = math.frexp(size)[1]
    scaled = np.ldexp(values, -exponent)  # at most 1, with the same digits: no square overflows or vanishes
    mean = float(scaled.mean())
    if np.ptp(values) <= max(grain, TIE * size):
        centre = float(np.ldexp(mean, exponent))
        differs = abs(centre) > grain
        return (centre, centre), math.copysign(math.inf, centre) if differs else 0.0, 0.0 if differs else 1.0
    stderr = float(scaled.std(ddof=1) / np.sqrt(n))
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * stderr
    with np.errstate(over="ignore"):
        low, high = np.ldexp([mean - half, mean + half], exponent)
    return (float(low), float(high)), mean / stderr, float(2 * stdtr(n - 1, -abs(mean) / stderr))
