"""Trends over seeds: planted ones are found at the power stated, absent ones are not, and what is refused."""

import numpy as np
import pytest
from scipy import stats

from allora_analysis.gradient_std import summary
from allora_analysis.statistics import detectable_effect
from allora_analysis.validation import ArgumentError

SEEDS = 5
CASES = 16


def planted(rng, change, deviation, seeds=SEEDS, epochs=11):
    """Series whose log changes, epoch 0 to last, have this mean and standard deviation; wild in between."""
    series = np.exp(rng.normal(0, 1, (seeds, epochs)))
    series[:, -1] = series[:, 0] * np.exp(rng.normal(change, deviation, seeds))
    return series


def test_against_a_reference_by_hand(rng):
    series = {case: planted(rng, 0.1 * case, 0.3) for case in range(4)}
    found = summary.family_of_trends(series)
    p_values = {}
    for case, values in series.items():
        change = np.log(values[:, -1] / values[:, 0])
        reference = stats.ttest_1samp(change, 0)
        interval = reference.confidence_interval(0.95)
        np.testing.assert_allclose(found[case].change.differences, change, atol=1e-12)
        np.testing.assert_allclose(found[case].change.mean, change.mean(), atol=1e-12)
        np.testing.assert_allclose(found[case].change.interval, (interval.low, interval.high), rtol=1e-9)
        np.testing.assert_allclose(found[case].change.p_value, reference.pvalue, rtol=1e-9)
        p_values[case] = reference.pvalue
    smallest = min(p_values, key=p_values.get)
    np.testing.assert_allclose(found[smallest].change.adjusted_p_value, min(1, 4 * p_values[smallest]), rtol=1e-9)


def test_directions_and_the_two_baselines():
    """Up by e from epoch 0, down by e² from epoch 1: the baseline is part of the question."""
    noise = 1 + 0.01 * np.arange(SEEDS)[:, None]
    series = np.array([[1.0, np.e**3, np.e]]) * np.hstack([np.ones_like(noise), noise, noise**2])
    (up,), (down,) = (summary.family_of_trends({"case": series}, first).values() for first in (0, 1))
    assert (up.direction, down.direction) == ("rises", "falls")
    assert up.change.mean == pytest.approx(1 + 2 * np.log(noise).mean())
    assert down.change.mean == pytest.approx(-2 + np.log(noise).mean())
    assert up.change.required_n is None


def test_a_family_is_stricter_than_one_case(rng):
    series = {"borderline": np.exp([[0, 0.1], [0, 0.25], [0, 0.4], [0, 0.1], [0, 0.3]])}
    (alone,) = summary.family_of_trends(series).values()
    assert alone.direction == "rises"
    family = summary.family_of_trends(series | {case: planted(rng, 0, 0.3) for case in range(CASES - 1)})
    assert family["borderline"].change.p_value == alone.change.p_value
    assert family["borderline"].direction == "unclear"
    # The interval is the case's own: it may exclude 0 where the family's correction does not let it count.
    assert family["borderline"].change.interval[0] > 0
    assert family["borderline"].change.required_n > SEEDS


@pytest.mark.statistical
def test_false_trends_are_as_rare_as_stated(rng):
    """1,000 families of 16 cases without a trend: at most 5 % have one that is not unclear."""
    families = 1000
    wrong = 0
    for _ in range(families):
        change = rng.normal(0, 0.3, (CASES, SEEDS))
        t = change.mean(axis=1) / (change.std(axis=1, ddof=1) / np.sqrt(SEEDS))
        strict = stats.t.isf(summary.LEVEL / CASES / 2, SEEDS - 1)
        if np.abs(t).max() > 0.9 * strict:  # the rest cannot reject: not worth the time of a whole family
            series = {case: np.exp(np.column_stack([np.zeros(SEEDS), change[case]])) for case in range(CASES)}
            found = [trend.direction for trend in summary.family_of_trends(series).values()]
            wrong += found.count("unclear") < CASES
    assert wrong <= stats.binom.isf(1e-6, families, summary.LEVEL)
    # Power of this test: a rate of 12 % fails it but once in a thousand.
    assert stats.binom.cdf(stats.binom.isf(1e-6, families, summary.LEVEL), families, 0.12) < 1e-3
    # Holm on 16 independent nulls rejects in 1 − (1 − 0.05/16)^16 = 4.9 %: far fewer would be a test without power.
    assert wrong >= stats.binom.ppf(1e-6, families, 1 - (1 - summary.LEVEL / CASES) ** CASES)


@pytest.mark.statistical
def test_a_trend_of_the_detectable_size_is_found_with_the_power_stated(rng):
    """The first step of Holm at 16 cases, known deviation: 80 % of planted trends are found, and a null's 0.3 %."""
    deviation, runs = 0.2, 4000
    effect = detectable_effect(SEEDS, deviation, summary.POWER, summary.LEVEL / CASES)
    strict = stats.t.isf(summary.LEVEL / CASES / 2, SEEDS - 1)
    for planted_effect, rate in ((effect, summary.POWER), (0.0, summary.LEVEL / CASES)):
        change = rng.normal(planted_effect, deviation, (runs, SEEDS))
        t = change.mean(axis=1) / (change.std(axis=1, ddof=1) / np.sqrt(SEEDS))
        found = int((np.abs(t) > strict).sum())
        assert stats.binom.ppf(1e-6, runs, rate) <= found <= stats.binom.isf(1e-6, runs, rate)
    # The same threshold, through the family itself: 40 planted trends among 15 nulls each.
    hits = 0
    for _ in range(40):
        series = {case: planted(rng, 0.0, deviation) for case in range(CASES - 1)}
        series["planted"] = planted(rng, effect, deviation)
        trend = summary.family_of_trends(series)["planted"]
        hits += trend.direction == "rises"
        assert trend.change.detectable == pytest.approx(effect * trend.change.differences.std(ddof=1) / deviation)
    assert stats.binom.ppf(1e-6, 40, summary.POWER) <= hits


@pytest.mark.parametrize(("seeds", "direction"), [(3, "unclear"), (9, "rises")])
def test_constant_changes_are_as_good_as_their_signs_and_none_is_no_trend(seeds, direction):
    series = {"same": [[1.0, 2.0]] * seeds, "none": [[3.0, 3.0]] * seeds}
    found = summary.family_of_trends(series)
    assert (found["same"].direction, found["none"].direction) == (direction, "unclear")
    assert found["same"].change.interval == (np.log(2), np.log(2))
    assert (found["none"].change.detectable, found["none"].change.required_n) == (0.0, None)


def test_no_number_of_seeds_finds_a_change_of_exactly_0():
    (found,) = summary.family_of_trends({"case": [[1.0, 2.0], [2.0, 1.0]]}).values()
    assert (found.direction, found.change.required_n) == ("unclear", None)


def test_values_of_runs():
    runs = [[{"probe": {"mean": seed + epoch}, "fresh": {"mean": -1.0}} for epoch in range(3)] for seed in (10, 20)]
    np.testing.assert_array_equal(summary.values(runs, "mean"), [[10, 11, 12], [20, 21, 22]])
    np.testing.assert_array_equal(summary.values(runs, "mean", "fresh"), -np.ones((2, 3)))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("series", "first", "message"),
    [
        ([1.0, 2.0], 0, r"\(seeds, epochs\)"),
        ([[1.0], [2.0]], 0, "at least 2 epochs"),
        ([[1.0, 0.0], [1.0, 1.0]], 0, "above 0"),
        ([[1.0, np.nan], [1.0, 1.0]], 0, "finite"),
        ([[1.0, 2.0], [1.0, 1.0]], 1, r"\[0, 0\]"),
        ([[1.0, 2.0], [1.0, 1.0]], -1, r"\[0, 0\]"),
        ([[1.0, 2.0]], 0, "at least 2 pairs"),
    ],
)
def test_series_that_have_no_trend(series, first, message):
    with pytest.raises(ArgumentError, match=message):
        summary.family_of_trends({"case": series}, first)


@pytest.mark.bad_input
def test_other_bad_input():
    with pytest.raises(ArgumentError, match="at least one value"):
        summary.family_of_trends({})
    with pytest.raises(ArgumentError, match="at least one value"):
        summary.values([], "mean")
    with pytest.raises(ArgumentError, match="probe, fresh, no_dropout_fresh"):
        summary.values([[]], "mean", "other")
    with pytest.raises(ArgumentError, match=r"received \[1, 2\]"):
        summary.values([[{"probe": {"mean": 1.0}}] * size for size in (1, 2)], "mean")
