"""How often normal samples come out as a rule asks for: what the rules of runs say of their power."""

import numpy as np
from scipy import stats


def chance_within(margin: float, truth: float, deviation: float, n: int) -> float:
    """That Student's 90 % interval of n normal values, of this mean and standard deviation, is within ±margin.

    By quadrature over the sample's own deviation, whose square is σ²χ²/(n − 1).
    """
    chi2 = stats.chi2.ppf((np.arange(4000) + 0.5) / 4000, n - 1)
    error = deviation / n**0.5
    room = np.maximum(margin - stats.t.ppf(0.95, n - 1) * error * np.sqrt(chi2 / (n - 1)), 0.0)
    inside = stats.norm.cdf((room - truth) / error) - stats.norm.cdf((-room - truth) / error)
    return float(np.mean(inside))
