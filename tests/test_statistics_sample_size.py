"""Power of the paired t-test and its inverses: by another integral, textbook values, simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis.statistics import (
    detectable_effect,
    power,
    required_n,
    required_n_interval,
)
from allora_analysis.validation import ArgumentError
from tests.stat_assert import assert_mean, assert_rejects


def integrated_power(n: int, ratio: float, level: float) -> float:
    """E over Z of P(S < ±(Z + √n·ratio)/t), S² ~ χ²_{n−1}/(n − 1): the other way round than the package integrates."""
    critical, shift, df = scipy.stats.t.isf(level / 2, n - 1), math.sqrt(n) * ratio, n - 1

    def upper(shift):
        def integrand(z):
            return scipy.stats.norm.pdf(z) * scipy.stats.chi2.cdf(df * ((z + shift) / critical) ** 2, df)

        low, high = max(-shift, -40.0), 40.0
        knots = sorted({min(max(knot, low), high) for knot in (-9.0, 0.0, 9.0, critical - shift)})
        return scipy.integrate.quad(integrand, low, high, points=knots, limit=500, epsabs=1e-14, epsrel=1e-12)[0]

    return upper(shift) + upper(-shift)


@pytest.mark.parametrize(("n", "ratio"), [(2, 0.7), (2, 12.0), (2, 300.0), (3, 0.0), (5, 1.3), (34, 0.5), (400, 0.1)])
@pytest.mark.parametrize("level", [0.05, 0.001])
def test_power_equals_the_defining_integral(n, ratio, level):
    assert power(n, ratio, 1.0, level) == pytest.approx(integrated_power(n, ratio, level), rel=1e-9)


@pytest.mark.parametrize(("n", "ratio"), [(5, 1.3), (34, 0.5), (400, 0.1), (100_000, 0.01)])
def test_power_equals_scipy_s_noncentral_t_where_that_is_right(n, ratio):
    critical, shift = scipy.stats.t.isf(0.025, n - 1), math.sqrt(n) * ratio
    tails = scipy.stats.nct.sf(critical, n - 1, shift) + scipy.stats.nct.cdf(-critical, n - 1, shift)
    assert power(n, ratio, 1.0) == pytest.approx(tails, rel=1e-8)


def test_power_at_textbook_values():
    # Cohen (1988) and G*Power: d = 0.5 needs 34 pairs for 80 % at 5 %, d = 0.2 needs 199, d = 0.8 needs 15.
    assert [required_n(d, 1.0) for d in (0.2, 0.5, 0.8)] == [199, 34, 15]
    assert power(34, 0.5, 1.0) == pytest.approx(0.8077775, abs=1e-7)
    assert power(10, 0.0, 1.0, 0.03) == pytest.approx(0.03, rel=1e-9)


@pytest.mark.statistical
def test_power_is_the_rate_at_which_simulated_tests_reject(rng):
    n, effect, deviation = 9, 1.0, 1.1
    rows = rng.normal(effect, deviation, (6000, n))
    rejected = scipy.stats.ttest_1samp(rows, 0.0, axis=1).pvalue <= 0.05
    assert_mean(rejected, power(n, effect, deviation), smallest_error=0.065)
    normal = scipy.stats.norm.sf(1.96 - math.sqrt(n) * effect / deviation)
    assert_rejects(assert_mean, rejected, normal, smallest_error=0.06)  # the normal approximation promises too much


@settings(deadline=None, max_examples=60)
@given(st.floats(0.02, 30), st.floats(0.1, 10), st.floats(0.1, 0.999), st.sampled_from((0.05, 0.01)))
def test_required_n_is_the_smallest(effect, deviation, wanted, level):
    n = required_n(effect, deviation, wanted, level)
    assert power(n, effect, deviation, level) >= wanted
    assert n == 2 or power(n - 1, effect, deviation, level) < wanted
    assert required_n(-effect, deviation, wanted, level) == n


def test_required_n_by_walking_up():
    for effect in (0.3, 0.6, 1.2, 2.5, 9.0, 40.0):
        walked = next(n for n in range(2, 1000) if power(n, effect, 1.0) >= 0.8)
        assert required_n(effect, 1.0) == walked


@pytest.mark.parametrize(("degrees", "confidence"), [(2, 0.9), (9, 0.5)])
def test_the_interval_of_n_is_that_of_the_deviation(degrees, confidence):
    fewest, most = required_n_interval(1.0, 2.0, degrees, confidence=confidence)
    ends = scipy.stats.chi2.ppf([(1 + confidence) / 2, (1 - confidence) / 2], degrees)
    assert [fewest, most] == [required_n(1.0, 2.0 * math.sqrt(degrees / end)) for end in ends]
    assert fewest < required_n(1.0, 2.0) < most


def test_tiny_effects_need_the_normal_limit_s_n():
    z = scipy.stats.norm.isf(0.025) + scipy.stats.norm.isf(0.2)
    # The other tail adds Φ(−z_{0.025} − √n·effect) = 8e-7 to the power, so the limit's n is 3e-6 too large.
    assert required_n(1e-5, 1.0) == pytest.approx((z / 1e-5) ** 2, rel=5e-6)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 3000), st.floats(0.01, 100), st.floats(0.1, 0.99))
def test_detectable_effect_inverts_power(n, deviation, wanted):
    effect = detectable_effect(n, deviation, wanted)
    assert power(n, effect, deviation) == pytest.approx(wanted, rel=1e-9)
    assert power(n, effect * 1.01, deviation) > wanted
    assert detectable_effect(n + 1, deviation, wanted) < effect


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: required_n(0.0, 1.0), "effect must not be 0"),
        (lambda: required_n(1e-12, 1.0), "nor so small that more than 1e+15 pairs"),
        (lambda: required_n(1.0, 0.0), "standard_deviation must be a finite number above 0"),
        (lambda: required_n(1.0, 1.0, power=0.05), "power must be above level = 0.05"),
        (lambda: required_n(1.0, 1.0, power=80), "power must be a probability"),
        (lambda: required_n(1.0, 1.0, level=1.0), "level must be a probability"),
        (lambda: power(1, 1.0, 1.0), "n must be a whole number, 2 or above"),
        (lambda: power(5, np.nan, 1.0), "effect must be a finite number"),
        (lambda: detectable_effect(1, 1.0), "n must be a whole number, 2 or above"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ArgumentError) as error:
        call()
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("level", [1e-8, 1e-12, 1e-16])
def test_very_small_levels(level):
    """Many pairs see what few do not; at level 1e-12 two pairs would once have been enough for anything."""
    assert power(2, 0.1, 1.0, level) < 2 * level
    n = required_n(0.1, 1.0, 0.8, level)
    expected = (scipy.stats.norm.isf(level / 2) + scipy.stats.norm.isf(0.2)) ** 2 / 0.1**2
    assert expected < n < 1.02 * expected
    assert power(10, detectable_effect(10, 1.0, 0.8, level), 1.0, level) == pytest.approx(0.8, rel=1e-6)
