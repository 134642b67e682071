"""Student's t over differences: against SciPy, simulated size and power."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis.statistics.paired import TIE, student
from tests.stat_assert import assert_mean, assert_rejects

DIFFERENCES = st.lists(st.integers(-9, 9), min_size=2, max_size=9)


def test_against_scipy(rng):
    values = rng.normal(0.3, 1.0, 25)
    (interval, statistic, p_value), expected = student(values, 0.95), scipy.stats.ttest_1samp(values, 0.0)
    assert (statistic, p_value) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9)
    assert interval == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-9)


def test_no_difference_at_all():
    assert student(np.zeros(3), 0.95) == ((0.0, 0.0), 0.0, 1.0)


def test_a_constant_difference_has_an_infinite_t():
    assert student(np.full(3, 0.5), 0.95) == ((0.5, 0.5), np.inf, 0.0)
    assert student(np.full(2, -0.5), 0.95)[1] == -np.inf


def test_a_constant_difference_is_constant_whatever_its_sides_rounding():
    right = np.array([8286, 7221, 8932])
    assert student((right + 1) / 10042 - right / 10042, 0.95, TIE)[1:] == (np.inf, 0.0)
    assert student(np.array([0.1 + 0.2 - 0.3, 0.0]), 0.95, TIE * 0.7)[2] == 1.0


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1e200, 1e300])
def test_students_t_at_extreme_sizes(size):
    values = np.array([1.0, 2.0, 4.0])
    expected, outcome = student(values, 0.95), student(values * size, 0.95)
    assert outcome[1:] == pytest.approx(expected[1:], rel=1e-12)
    assert np.divide(outcome[0], size) == pytest.approx(expected[0], rel=1e-12)


def test_differences_carry_their_sides_rounding():
    """0.1 + 0.2 − 0.3 ten times: the test cannot know what the sides were unless it is told their grain."""
    differences = np.full(10, 0.1 + 0.2) - np.full(10, 0.3)
    assert student(differences, 0.95)[2] == 0.0
    assert student(differences, 0.95, TIE * 0.3)[2] == 1.0


@settings(deadline=None, max_examples=30)
@given(DIFFERENCES, st.sampled_from((0.5, 3.0, 1e-6)))
def test_p_values_ignore_scale_order_and_direction(differences, scale):
    values = np.array(differences, float)
    p_value = student(values, 0.95)[2]
    for other in (scale * values, values[::-1], -values):
        assert student(other, 0.95)[2] == pytest.approx(p_value, rel=1e-9)
    assert 0 <= p_value <= 1


@pytest.mark.statistical
def test_size_under_the_null_is_the_level_and_there_is_power(rng):
    noise = rng.normal(size=(1500, 12))
    rejected = np.array([student(row, 0.95)[2] <= 0.05 for row in noise])
    assert_mean(rejected, 0.05, smallest_error=0.07)
    assert_rejects(assert_mean, rejected, 0.15, smallest_error=0.07)
    shifted = np.array([student(row + 2.0, 0.95)[2] <= 0.05 for row in noise[:200]])
    assert shifted.mean() > 0.95
