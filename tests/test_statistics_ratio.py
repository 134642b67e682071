"""Fieller's interval against Student's t on first − ρ·second, ρ by ρ, and its coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest

from allora_analysis.statistics import mean_ratio, paired_test
from allora_analysis.validation import ArgumentError


@pytest.mark.parametrize("seed", range(4))
def test_the_interval_is_what_students_t_does_not_reject(seed):
    rng = np.random.default_rng(seed)
    y = rng.normal(2.0, 1.0, 12)
    x = 0.6 * y + rng.normal(0.3, 0.5, 12)
    found = mean_ratio(x, y, 0.9)

    def p(ratio):
        return paired_test(x, ratio * y, "t").p_value

    assert found.value == pytest.approx(x.mean() / y.mean())
    assert p(found.low) == pytest.approx(0.1, rel=1e-6)
    assert p(found.high) == pytest.approx(0.1, rel=1e-6)
    assert p(found.value) > 0.99
    assert p(found.low - 0.1) < 0.1
    assert p(found.high + 0.1) < 0.1


def test_a_denominator_that_may_be_0_bounds_nothing():
    found = mean_ratio([1.0, 1.1, 0.9], [-1.0, 0.5, 1.0])
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert mean_ratio([1.0, 1.1, 0.9], [0.0, 0.0, 0.0])[1:] == (-math.inf, math.inf)


def test_coverage():
    """95 % of 2,000 within 4.9 standard errors, a false alarm of 1e-6. Planted: the interval of a mean of ratios."""
    rng, n = np.random.default_rng(0), 2000
    y = rng.normal(1.0, 0.6, (n, 20))
    x = 0.8 * y + rng.normal(0.0, 0.5, (n, 20))

    def covered(interval):
        return np.mean([low <= 0.8 <= high for low, high in map(interval, x, y)])

    def of_ratios(x, y):
        return paired_test(x / y, 0 * y, "t").interval

    width = 4.9 * math.sqrt(0.05 * 0.95 / n)
    assert covered(lambda *of: mean_ratio(*of)[1:]) == pytest.approx(0.95, abs=width)
    assert covered(of_ratios) != pytest.approx(0.95, abs=width)


def test_as_many_of_one_as_of_the_other():
    with pytest.raises(ArgumentError, match="as many values"):
        mean_ratio([1.0, 2.0], [1.0, 2.0, 3.0])
