"""Fieller's interval, and the interval over seeds and rows at once: definitions, coverage, planted others."""

import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from allora_analysis.statistics import ratio_of_means, two_level
from allora_analysis.statistics.intervals import TwoLevel
from allora_analysis.statistics.paired import student
from allora_analysis.validation import ArgumentError
from tests.stat_assert import assert_rejects


@pytest.mark.parametrize("seed", range(4))
def test_the_interval_is_what_students_t_does_not_reject(seed):
    rng = np.random.default_rng(seed)
    y = rng.normal(2.0, 1.0, 12)
    x = 0.6 * y + rng.normal(0.3, 0.5, 12)
    found = ratio_of_means(x, y, 0.9)

    def p(ratio):
        return scipy.stats.ttest_rel(x, ratio * y).pvalue

    assert found.value == pytest.approx(x.mean() / y.mean())
    assert p(found.low) == pytest.approx(0.1, rel=1e-6)
    assert p(found.high) == pytest.approx(0.1, rel=1e-6)
    assert p(found.value) > 0.99
    assert p(found.low - 0.1) < 0.1
    assert p(found.high + 0.1) < 0.1


def test_a_denominator_that_may_be_0_bounds_nothing():
    found = ratio_of_means([1.0, 1.1, 0.9], [-1.0, 0.5, 1.0])
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert ratio_of_means([1.0, 1.1, 0.9], [0.0, 0.0, 0.0])[1:] == (-math.inf, math.inf)
    assert math.isnan(ratio_of_means([1.0, 1.1, 0.9], [-1.0, 0.0, 1.0]).value)
    assert ratio_of_means([0.0, 1e299, 3e159], [1.0, 2.0, 4.0]) == (pytest.approx(1e299 / 7), -math.inf, math.inf)


def fieller(x, y):
    """The interval's ends, from exact sums of rationals: the discriminant is rounded once."""
    share = Fraction(float(scipy.stats.t.ppf(0.975, len(x) - 1))) ** 2 / len(x)
    x, y = ([Fraction(float(value)) for value in of] for of in (x, y))
    means = [sum(of) / len(of) for of in (x, y)]
    dx, dy = ([value - mean for value in of] for of, mean in zip((x, y), means, strict=True))
    a, b, c = (
        one * other - share * sum(p * q for p, q in zip(left, right, strict=True)) / (len(x) - 1)
        for one, other, left, right in (
            (means[1], means[1], dy, dy),
            (means[0], means[1], dx, dy),
            (means[0], means[0], dx, dx),
        )
    )
    half = Fraction(math.sqrt((b * b - a * c) / a**2))
    return b / a - half, b / a + half


X, Y = np.array([2.0, 2.6, 3.0]), np.array([4.0, 5.0, 6.5])


@pytest.mark.parametrize("offset", [1e3, 1e5, 1e8, 1e10])
def test_the_width_of_far_offsets_is_exact_rationals(offset):
    """What the ends are known to is a rounding of the ratio, whatever the offset."""
    for other in (1.0, 2.0, -3.0):
        x, y = np.array([0.0, 1.0, 2.0]) + offset, np.array([0.0, 1.0, 3.0]) + other * offset
        assert ratio_of_means(x, y)[1:] == pytest.approx([float(end) for end in fieller(x, y)], rel=1e-15)
        low, high = fieller(x, y)
        found = ratio_of_means(x, y)
        assert found.high - found.low == pytest.approx(float(high - low), abs=1e-15, rel=1e-7)


@pytest.mark.parametrize(("of_x", "of_y"), [(1e-82, 1e-82), (1e-300, 1e-300), (1e200, 1e200), (1e-160, 1e100)])
def test_the_interval_in_any_unit(of_x, of_y):
    expected = np.array(ratio_of_means(X, Y)) * (of_x / of_y)
    assert expected[2] - expected[1] > 0.4 * expected[0]
    np.testing.assert_allclose(ratio_of_means(of_x * X, of_y * Y), expected, rtol=1e-13)
    assert ratio_of_means(-of_x * X, of_y * Y) == pytest.approx((-expected[0], -expected[2], -expected[1]))


def test_coverage():
    """95 % of 2,000 within 4.9 standard errors, a false alarm of 1e-6. Planted: the interval of a mean of ratios."""
    rng, n = np.random.default_rng(0), 2000
    y = rng.normal(1.0, 0.6, (n, 20))
    x = 0.8 * y + rng.normal(0.0, 0.5, (n, 20))

    def covered(interval):
        return np.mean([low <= 0.8 <= high for low, high in map(interval, x, y)])

    def of_ratios(x, y):
        return student(x / y, 0.95)[0]

    width = 4.9 * math.sqrt(0.05 * 0.95 / n)
    assert covered(lambda *of: ratio_of_means(*of)[1:]) == pytest.approx(0.95, abs=width)
    assert covered(of_ratios) != pytest.approx(0.95, abs=width)


def test_as_many_of_one_as_of_the_other():
    with pytest.raises(ArgumentError, match="as many values"):
        ratio_of_means([1.0, 2.0], [1.0, 2.0, 3.0])


ROUNDS = 500
MEAN = 0.3


def half(interval):
    return (interval[1] - interval[0]) / 2


def drawn(generator, seeds, rows, of_seeds, of_rows, of_rest):
    normal = generator.standard_normal
    parts = of_seeds * normal((seeds, 1)) + of_rows * normal(rows) + of_rest * normal((seeds, rows))
    return MEAN + parts


@settings(deadline=None, max_examples=60)
@given(arrays(float, st.tuples(st.integers(2, 5), st.integers(2, 7)), elements=st.integers(-1, 1)))
def test_each_margin_alone_is_students_interval(table):
    found = two_level(table)
    assert found.mean == pytest.approx(table.mean(), abs=1e-15)
    for own, means in ((found.over_seeds, table.mean(axis=1)), (found.over_rows, table.mean(axis=0))):
        if np.ptp(means) > 0:
            expected = scipy.stats.t.interval(0.95, means.size - 1, means.mean(), scipy.stats.sem(means))
            assert own == pytest.approx(expected, abs=1e-12)
        else:
            assert own == pytest.approx((table.mean(),) * 2, abs=1e-12)


def test_five_seeds_and_five_rows_by_hand():
    """d_sr = s + r from 0 to 4: mean squares 25/2, 25/2 and 0, so that the variance is 1 at 8 degrees of freedom."""
    found = two_level(np.add.outer(np.arange(5), np.arange(5)))
    assert (found.mean, found.degrees) == (4.0, pytest.approx(8.0))
    assert half(found.interval) == pytest.approx(scipy.stats.t.ppf(0.975, 8), rel=1e-9)
    assert half(found.over_seeds) == pytest.approx(scipy.stats.t.ppf(0.975, 4) / np.sqrt(2), rel=1e-9)


def test_two_seeds_leave_the_interval_over_seeds_the_widest():
    """d = [[1, 0], [0, −3]]: a variance of 7/4 for 1, but at one degree of freedom the interval over seeds is wider."""
    found = two_level([[1, 0], [0, -3]])
    assert (found.interval, found.degrees) == (found.over_seeds, 1.0)


def test_rows_that_interact_more_than_they_differ_leave_the_larger_margin():
    """d = [[3, 0], [0, 1]]: the mean squares are 1, 1 and 4, and their sum less the last is negative."""
    found = two_level([[3, 0], [0, 1]])
    assert found.interval == found.over_seeds == found.over_rows


def covers(kind: str, of_seeds: float, of_rows: float, of_rest: float, seeds: int, rows: int, generator) -> None:
    """At 95 % the interval misses a fresh mean no more often than 5 %, within 5 standard errors."""
    missed = 0
    for _ in range(ROUNDS):
        low, high = getattr(two_level(drawn(generator, seeds, rows, of_seeds, of_rows, of_rest)), kind)
        missed += not low <= MEAN <= high
    assert missed / ROUNDS <= 0.05 + 5 * np.sqrt(0.05 * 0.95 / ROUNDS), f"{kind} misses {missed / ROUNDS:.3f}"


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("spreads", "sizes"), [((1, 1, 1), (8, 30)), ((1, 0.2, 3), (6, 40)), ((0.1, 1, 1), (20, 12)), ((0, 0, 1), (8, 30))]
)
def test_the_interval_covers_over_both_margins(spreads, sizes, rng):
    covers("interval", *spreads, *sizes, rng)


@pytest.mark.statistical
def test_an_interval_over_one_margin_misses_what_the_other_varies(rng):
    assert_rejects(covers, "over_seeds", 0.3, 1.0, 1.0, 8, 30, rng)
    assert_rejects(covers, "over_rows", 1.0, 0.3, 1.0, 8, 30, rng)


@pytest.mark.bad_input
@pytest.mark.parametrize("table", [np.zeros((1, 5)), np.zeros((5, 1)), np.zeros(3), [[np.nan, 1], [0, 1]]])
def test_too_little_is_refused(table):
    with pytest.raises(ArgumentError, match="differences"):
        two_level(table)


def test_differences_without_spread_have_no_width():
    assert two_level(np.ones((3, 4))) == TwoLevel(1.0, (1.0, 1.0), (1.0, 1.0), (1.0, 1.0), 2.0, 3, 4)


@pytest.mark.parametrize("exponent", [-1000, -560, 560, 1000])
def test_two_levels_in_any_unit(exponent, rng):
    """Powers of two: nothing rounds."""
    table = rng.standard_normal((3, 5))
    one, other = two_level(table), two_level(2.0**exponent * table)
    assert other.degrees == one.degrees
    for found, expected in ((other.interval, one.interval), (other.over_rows, one.over_rows)):
        assert found == tuple(2.0**exponent * end for end in expected)
