"""Accuracies, Holm's correction, power and sample sizes, families of tests: by definition, integral and simulation."""

import math
import re
import subprocess
import sys

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis.statistics import (
    accuracy_stderr,
    detectable_effect,
    families,
    holm,
    paired_family,
    power,
    required_n,
    required_n_interval,
)
from allora_analysis.statistics.paired import TIE, student
from allora_analysis.validation import ArgumentError
from tests.stat_assert import assert_mean, assert_rejects


def test_one_accuracy_over_rotten_tomatoes_test_set():
    assert accuracy_stderr(0.8, 1066) == pytest.approx(0.4 / math.sqrt(1066), rel=1e-12)
    assert accuracy_stderr(1.0, 5) == accuracy_stderr(0, 5) == 0.0


@pytest.mark.statistical
def test_accuracy_stderr_is_the_spread_of_accuracies(rng):
    squares = (rng.binomial(50, 0.3, 25_000) / 50 - 0.3) ** 2
    assert_mean(squares, accuracy_stderr(0.3, 50) ** 2, smallest_error=4e-4)
    assert_rejects(assert_mean, squares, accuracy_stderr(0.3, 50) ** 2 * 49 / 50 * 0.8, smallest_error=4e-4)


# --- bad input and imports --------------------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: accuracy_stderr(1.001, 100), "accuracy must be a fraction in [0, 1]"),
        (lambda: accuracy_stderr(-0.1, 100), "accuracy must be a finite number, 0 or above"),
        (lambda: accuracy_stderr(0.5, 0), "n must be a whole number"),
        (lambda: holm([0.1, 1.2]), "p_values must be in [0, 1]"),
        (lambda: holm([]), "p_values: shape"),
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
    with pytest.raises(ArgumentError, match=re.escape(words)):
        call()


def test_importing_pays_for_no_scipy():
    check = "import allora_analysis.statistics, sys; print([n for n in sys.modules if n.startswith('scipy')])"
    finished = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


# --- Holm -------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_its_definition(p_values):
    adjusted = holm(p_values)
    m = len(p_values)
    for level in (0.01, 0.05, 0.3):
        # Step-down by hand: walk up from the smallest, stop at the first that is not rejected.
        rejected = set()
        for rank, index in enumerate(np.argsort(p_values, kind="stable")):
            if p_values[index] * (m - rank) > level:
                break
            rejected.add(int(index))
        assert rejected == set(np.flatnonzero(adjusted <= level).tolist())
    assert (adjusted >= np.asarray(p_values)).all()
    assert (adjusted <= 1).all()


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


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


@pytest.mark.parametrize("level", [1e-8, 1e-12, 1e-16, 1e-20, 1e-100])
def test_very_small_levels(level):
    """Many pairs see what few do not; at level 1e-12 two pairs would once have been enough for anything."""
    for n in (2, 3, 145, 146):
        assert power(n, 0.0, 1.0, level) == pytest.approx(level, rel=1e-9)
    assert level < power(2, 0.1, 1.0, level) < 2 * level
    n = required_n(0.1, 1.0, 0.8, level)
    expected = (scipy.stats.norm.isf(level / 2) + scipy.stats.norm.isf(0.2)) ** 2 / 0.1**2
    assert expected < n < 1.02 * expected
    assert power(10, detectable_effect(10, 1.0, 0.8, level), 1.0, level) == pytest.approx(0.8, rel=1e-6)


CASES = {"up": [1.0, 1.2, 0.9, 1.1], "down": [-3.0, -3.3, -2.8, -3.1], "open": [0.5, -0.4, 0.9, -0.1]}


def test_each_case_is_its_own_test_and_the_correction_is_over_all():
    found = paired_family(CASES)
    alone = {case: student(np.array(values), 0.95) for case, values in CASES.items()}
    adjusted = holm([p_value for *_, p_value in alone.values()])
    for (case, one), p_value in zip(found.items(), adjusted, strict=True):
        assert (one.mean, one.interval, one.p_value) == (np.mean(CASES[case]), alone[case][0], alone[case][2])
        assert one.adjusted_p_value == p_value
    assert [one.sign for one in found.values()] == [1, -1, 0]


def test_what_was_too_little():
    one = paired_family(CASES)["open"]
    deviation = np.std(CASES["open"], ddof=1)
    assert one.detectable == pytest.approx(detectable_effect(4, deviation, 0.8, 0.05 / 3))
    assert one.required_n == required_n(one.mean, deviation, 0.8, 0.05 / 3)
    assert power(one.required_n, one.mean, deviation, 0.05 / 3) >= 0.8
    assert paired_family(CASES)["up"].required_n is None
    assert paired_family({"same": [0.0, 0.0]})["same"].required_n is None


@pytest.mark.parametrize("exponent", [-1000, -560, 560, 1000])
def test_what_was_too_little_in_any_unit(exponent):
    x = np.array([0.4, -0.3, 0.1, 0.5, -0.2])
    one, other = (paired_family({"a": unit * x})["a"] for unit in (1.0, 2.0**exponent))
    assert (other.detectable, other.required_n) == (2.0**exponent * one.detectable, one.required_n)


def test_equal_differences_are_as_good_as_their_signs():
    """Planted: Student's p-value of 0, by which one sentence in a thousand would be certain with three seeds."""
    found = paired_family({"tiny": [1 / 1066] * 3, "many": [0.01] * 9, "none": [0.0] * 3})
    assert [one.p_value for one in found.values()] == [2**-2, 2**-8, 1.0]
    assert [one.sign for one in found.values()] == [0, 1, 0]
    assert student(np.array([1 / 1066] * 3), 0.95)[1:] == (math.inf, 0.0)


@pytest.mark.parametrize("more", [1, 3, -5])
def test_equal_differences_of_shares_are_equal_whatever_their_rounding(more):
    """Planted: p = 1e-25 and a need for two pairs, where (k + more)/n − k/n differ by the rounding of k/n alone."""
    n, right = 10042, np.array([8286, 7221, 8932])
    gaps = {"more": (right + more) / n - right / n, "none": [1e-17, 2e-17, -1e-17]}
    found = paired_family(gaps, grain=TIE)
    assert np.ptp(gaps["more"]) > 0
    assert [one.p_value for one in found.values()] == [0.25, 1.0]
    assert [one.sign for one in found.values()] == [0, 0]
    assert [(one.detectable, one.required_n) for one in found.values()] == [(0.0, None)] * 2
    assert paired_family({"apart": [0.1, 0.1 + 1e-6, 0.1]}, grain=TIE)["apart"].p_value < 1e-9


def test_cases_without_differences_count_as_open():
    alone, of_many = paired_family({"up": CASES["up"]})["up"], paired_family({"up": CASES["up"]}, cases=40)["up"]
    assert of_many.p_value == alone.p_value == alone.adjusted_p_value
    assert of_many.adjusted_p_value == pytest.approx(40 * alone.p_value)
    assert of_many.detectable > alone.detectable


@pytest.mark.statistical
def test_the_familys_rate_of_false_findings(rng, monkeypatch):
    """2,000 families of 4 cases with no difference: 5 % of them find one, within 4.9 standard errors."""
    monkeypatch.setattr(families, "_needed", lambda *args: None)  # a number of pairs that nobody reads here, and slow
    wrong = [
        any(one.sign for one in paired_family(dict(enumerate(rng.normal(size=(4, 5))))).values()) for _ in range(2000)
    ]
    assert np.mean(wrong) < 0.05 + 4.9 * np.sqrt(0.05 * 0.95 / 2000)
    assert np.mean(wrong) > 0.02


def test_without_a_correction_there_would_be_more_findings():
    """Planted: the third case of four is found alone, not in a family of twenty."""
    borderline = [1.0, 1.5, 0.7, 1.8]
    assert paired_family({"alone": borderline})["alone"].sign == 1
    crowd = {i: [0.1 * (-1) ** i, -0.2, 0.15, 0.05] for i in range(19)}
    assert paired_family({"alone": borderline, **crowd})["alone"].sign == 0


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("cases", "options", "says"),
    [
        ({}, {}, "at least one"),
        ({"a": [1.0]}, {}, "at least 2"),
        (CASES, {"level": 0.0}, "level"),
        (CASES, {"cases": 2}, "cases"),
        (CASES, {"grain": -1.0}, "grain"),
        ({"a": [1.7e308, -1.7e308, 1e308]}, {}, "differences .* leaves double precision"),
        ({"a": [1.7e308, 1.6e308]}, {}, "differences .* leaves double precision"),
    ],
)
def test_a_family_that_is_none(cases, options, says):
    with pytest.raises(ArgumentError, match=says):
        paired_family(cases, **options)
