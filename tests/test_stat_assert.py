"""The statistical assertions are themselves tested: false-fail rate, power, refusal without power, planted errors."""

import numpy as np
import pytest
import scipy.stats

from tests.stat_assert import (
    FALSE_FAIL,
    MISS,
    assert_close_to_stderr,
    assert_mean,
    assert_rejects,
    detectable,
    threshold,
)


def failed(check, *args, **kwargs) -> bool:
    message = ""
    try:
        check(*args, **kwargs)
    except AssertionError as error:
        message = str(error)
    assert "no power" not in message
    return message != ""


def binomial_bounds(trials: int, rate: float) -> tuple[float, float]:
    """Counts outside of which a true rate falls with probability 1e-6."""
    return scipy.stats.binom.ppf(5e-7, trials, rate), scipy.stats.binom.ppf(1 - 5e-7, trials, rate)


def test_the_threshold_is_the_normal_quantile():
    assert threshold(0.05) == pytest.approx(1.959963984540054)
    assert threshold() == pytest.approx(4.891638475698591)
    assert threshold(0.05, comparisons=10) == pytest.approx(scipy.stats.norm.isf(0.0025))
    assert threshold(freedom=59) == pytest.approx(scipy.stats.t.isf(5e-7, 59))
    assert threshold(FALSE_FAIL, 1000) > threshold(FALSE_FAIL, 10) > threshold(FALSE_FAIL)


def test_the_smallest_detectable_bias_is_both_quantiles_together():
    assert detectable(2.0) == pytest.approx(2 * (4.891638475698591 + scipy.stats.norm.isf(MISS)))
    assert detectable(np.array([1.0, 3.0]), 0.05, 2, 0.2).tolist() == pytest.approx(
        [(scipy.stats.norm.isf(0.0125) + scipy.stats.norm.isf(0.2)) * scale for scale in (1.0, 3.0)]
    )


@pytest.mark.statistical
def test_false_fail_rate_is_as_stated_at_a_looser_level(rng):
    trials, rate = 3000, 0.05
    failures = sum(
        failed(assert_mean, samples, 0.0, smallest_error=1.0, false_fail=rate)
        for samples in rng.normal(size=(trials, 400))
    )
    low, high = binomial_bounds(trials, rate)
    assert low <= failures <= high


@pytest.mark.statistical
def test_a_dozen_samples_fail_as_rarely_as_stated(rng):
    trials, rate = 3000, 0.01
    samples = rng.normal(size=(trials, 12))
    failures = sum(failed(assert_mean, one, 0.0, smallest_error=9.0, false_fail=rate) for one in samples)
    low, high = binomial_bounds(trials, rate)
    assert low <= failures <= high
    normal = np.abs(samples.mean(axis=1)) > threshold(rate) * samples.std(axis=1, ddof=1) / 12**0.5
    assert normal.sum() > high  # the normal's threshold, of so few samples


@pytest.mark.parametrize("n", [60, 300, 20_000])
def test_the_smallest_detectable_bias_is_missed_as_rarely_as_stated(n):
    bias = detectable(1.0, freedom=n - 1)
    assert scipy.stats.nct.cdf(threshold(freedom=n - 1), n - 1, bias) == pytest.approx(MISS, rel=0.5)


@pytest.mark.statistical
def test_many_entries_share_the_false_fail_rate(rng):
    trials, rate, entries = 1500, 0.2, 25
    failures = sum(
        failed(assert_close_to_stderr, means, np.zeros(entries), np.ones(entries), smallest_error=9.0, false_fail=rate)
        for means in rng.normal(size=(trials, entries))
    )
    exact = 1 - (1 - rate / entries) ** entries
    low, high = binomial_bounds(trials, exact)
    assert low <= failures <= high
    assert not low <= trials * rate * 2 <= high  # the test above would see an uncorrected or doubled rate


@pytest.mark.statistical
def test_a_detectable_bias_is_seen_as_often_as_stated(rng):
    trials, rate = 4000, 1e-3  # a count can show it
    bias = float(detectable(1.0, miss=rate))
    missed = sum(
        not failed(assert_close_to_stderr, mean + bias, 0.0, 1.0, smallest_error=99.0)
        for mean in rng.normal(size=trials)
    )
    low, high = binomial_bounds(trials, rate)
    assert low <= missed <= high
    half = sum(
        not failed(assert_close_to_stderr, mean + bias / 2, 0.0, 1.0, smallest_error=99.0)
        for mean in rng.normal(size=trials)
    )
    assert half > high  # half that bias is not


def test_too_few_samples_fail_for_want_of_power(rng):
    samples = rng.normal(size=50)
    with pytest.raises(AssertionError, match=r"no power: sees .* at best, 0.1 wanted; raise n"):
        assert_mean(samples, 0.0, smallest_error=0.1)
    needed = int((detectable(1.0) / 0.1) ** 2 * 1.2)
    assert_mean(rng.normal(size=needed), 0.0, smallest_error=0.1)


def test_smallest_error_may_differ_by_entry(rng):
    samples = rng.normal(size=(2000, 2)) * [1.0, 100.0]
    assert_mean(samples, 0.0, smallest_error=[0.3, 30.0])
    with pytest.raises(AssertionError, match="no power"):
        assert_mean(samples, 0.0, smallest_error=0.3)


def test_one_wrong_entry_among_many_fails(rng):
    samples = rng.normal(size=(2000, 30))
    expected = np.zeros(30)
    assert_mean(samples, expected, smallest_error=0.3)
    expected[17] = 0.5
    with pytest.raises(AssertionError, match="off by"):
        assert_mean(samples, expected, smallest_error=0.3)


def test_a_constant_demands_equality_up_to_rounding():
    assert_mean(np.full(10, 0.1) * 3, 0.3, smallest_error=1e-6)
    with pytest.raises(AssertionError, match="off by"):
        assert_mean(np.full(10, 0.3), 0.3 + 1e-6, smallest_error=1e-3)


def test_a_nan_does_not_pass():
    for mean, expected, stderr in ((np.nan, 0.0, 0.1), (0.0, np.nan, 0.1), (0.0, 0.0, np.nan)):
        with pytest.raises(AssertionError):
            assert_close_to_stderr(mean, expected, stderr, smallest_error=10.0)


def test_a_planted_wrong_value_is_rejected(rng):
    samples = rng.exponential(size=5000)
    assert_mean(samples, 1.0, smallest_error=0.15)
    assert_rejects(assert_mean, samples, 1.2, smallest_error=0.15)


def test_a_control_that_passes_or_lacks_power_is_itself_a_failure(rng):
    samples = rng.normal(size=1000)
    with pytest.raises(AssertionError, match="a planted wrong formula passed the test"):
        assert_rejects(assert_mean, samples, 0.0, smallest_error=0.5)
    with pytest.raises(AssertionError, match="the control failed for want of power"):
        assert_rejects(assert_mean, samples, 5.0, smallest_error=0.01)
    with pytest.raises(ZeroDivisionError):  # an error is no rejection
        assert_rejects(lambda: 1 / 0)
