"""Summaries of the standard deviations; variance components; trends over seeds; planted errors."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from allora_analysis.gradient_std import GradientMoments, components, summarise, summary, worst_held_out
from allora_analysis.gradient_std.study import Config, table
from allora_analysis.gradient_std.summary import over_seeds, seed_component, signal_to_noise
from allora_analysis.statistics import detectable_effect
from allora_analysis.study import Result
from allora_analysis.validation import ArgumentError
from tests.stat_assert import assert_mean, assert_rejects


def moments(gradients):
    """Of gradients (K, rows, columns), by NumPy."""
    even, odd = gradients[::2], gradients[1::2]
    std = gradients.std(axis=0, ddof=1)
    halves = (even.mean(axis=0), odd.mean(axis=0), even.std(axis=0, ddof=1), odd.std(axis=0, ddof=1))
    return GradientMoments(len(gradients), gradients.mean(axis=0), std, *halves, float(std.mean()), 0.1)


# --- summaries -----------------------------------------------------------------------------------------------------


def test_every_statistic_on_known_numbers():
    std = np.arange(101.0).reshape(1, 101)
    mean = np.full((1, 101), 2.0)
    even = std.copy()
    even[0, 7] = 1000  # chosen on the even masks, measured on the odd ones: 7
    found = summarise(GradientMoments(10, mean, std, mean, mean, even, std, 50.0, 0.5))
    assert found == {
        "mean": 50.0,
        "mean_stderr": 0.5,
        "median": 50.0,
        "q01": 1.0,
        "q05": 5.0,
        "q25": 25.0,
        "q75": 75.0,
        "q95": 95.0,
        "q99": 99.0,
        "max": 100.0,
        "worst_held_out": (7.0 + 100.0) / 2,
        "relative_mean": pytest.approx(math.sqrt((std**2).sum() / (mean**2).sum())),
        "snr_median": pytest.approx(np.median(2 / np.arange(1, 101.0))),
    }


def test_nothing_is_divided_by_zero():
    zero = np.zeros((2, 3))
    found = summarise(GradientMoments(10, zero, zero, zero, zero, zero, zero, 0.0, None))
    assert found["relative_mean"] is found["snr_median"] is found["mean_stderr"] is None
    assert found["max"] == found["worst_held_out"] == 0
    opposite = summarise(GradientMoments(10, zero, zero + 1, zero + 1, zero - 1, zero + 1, zero + 1, 1.0, None))
    assert opposite["relative_mean"] is None
    assert signal_to_noise(np.ones((1, 2)), np.array([[0.0, 2.0]])) == 0.5


@pytest.mark.statistical
def test_the_held_out_worst_entry_is_not_biased_by_the_choice_and_the_maximum_is(rng):
    """400 entries of one and the same standard deviation, 1: the worst one has it too."""
    found = [summarise(moments(rng.standard_normal((40, 20, 20)))) for _ in range(600)]
    # E of a standard deviation estimated from 20 normal draws is 1 − 1/(4·19) to first order.
    expected = math.sqrt(2 / 19) * math.gamma(10) / math.gamma(9.5)
    assert_mean([one["worst_held_out"] for one in found], expected, smallest_error=0.05)
    assert_rejects(assert_mean, [one["max"] for one in found], expected, smallest_error=0.05)


@pytest.mark.statistical
def test_the_relative_spread_is_not_biased_by_the_number_of_masks(rng):
    """‖std‖²/‖mean‖² = 25 at K = 50: ‖mean estimate‖² would be half as much again."""
    found, naive = [], []
    for _ in range(300):
        gradients = 0.2 + rng.standard_normal((50, 20, 20))
        one = moments(gradients)
        found.append(1 / summarise(one)["relative_mean"] ** 2 * np.mean(one.std**2))
        naive.append(np.mean(one.mean**2))
    assert_mean(found, 0.04, smallest_error=0.005)
    assert_rejects(assert_mean, naive, 0.04, smallest_error=0.005)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), power=st.integers(-30, 30))
def test_summaries_scale_with_the_gradient_and_ignore_the_order_of_entries(seed, power):
    rng = np.random.default_rng(seed)
    gradients, scale = 0.5 + rng.standard_normal((20, 3, 4)), 2.0**power
    found = summarise(moments(gradients))
    scaled = summarise(moments(gradients[:, :, rng.permutation(4)] * scale))
    for name, value in found.items():
        if name in ("relative_mean", "snr_median"):
            assert scaled[name] == pytest.approx(value, rel=1e-9)
        elif name != "mean_stderr":
            assert scaled[name] == pytest.approx(value * scale, rel=1e-9)
    assert found["q01"] <= found["q05"] <= found["q25"] <= found["median"] <= found["q75"] <= found["q99"]
    assert worst_held_out(np.ones((2, 2)), np.ones((2, 2))) == 1


# --- variance components -------------------------------------------------------------------------------------------


def nested(rng, minibatches, masks, entries, mask_scale, minibatch_scale):
    """Ḡ_j and s_j² of the model G = μ + b_j + ε_jk with given standard deviations, an entry each."""
    shift = minibatch_scale * rng.standard_normal((minibatches, 1, entries))
    gradients = 3 + shift + mask_scale * rng.standard_normal((minibatches, masks, entries))
    return gradients, gradients.mean(axis=1), gradients.var(axis=1, ddof=1).mean(axis=1)


def test_components_are_anovas_mean_squares(rng):
    m, k, entries = 6, 4, 5
    gradients, means, within = nested(rng, m, k, entries, np.arange(1, 6.0), 2.0)
    found = components(means, within, k)
    ssw = ((gradients - gradients.mean(axis=1, keepdims=True)) ** 2).sum(axis=(0, 1))
    ssb = k * ((means - means.mean(axis=0)) ** 2).sum(axis=0)
    msw, msb = ssw / (m * (k - 1)), ssb / (m - 1)
    assert found.mask == pytest.approx(msw.mean(), rel=1e-12)
    assert found.minibatch == pytest.approx(((msb - msw) / k).mean(), rel=1e-12)
    assert found.total == pytest.approx(found.mask + found.minibatch, rel=1e-12)


def test_the_jackknife_is_the_plain_one(rng):
    _, means, within = nested(rng, 7, 3, 4, 1.0, 2.0)
    kept = [[i for i in range(7) if i != j] for j in range(7)]
    alone = [components(means[rows], within[rows], 3) for rows in kept]
    found = components(means, within, 3)
    for name in ("mask", "minibatch", "total"):
        values = np.array([getattr(one, name) for one in alone])
        wanted = math.sqrt(6 / 7 * ((values - values.mean()) ** 2).sum())
        assert getattr(found, f"{name}_stderr") == pytest.approx(wanted, rel=1e-10)


@pytest.mark.statistical
def test_components_are_unbiased_and_their_standard_errors_right(rng):
    mask_scale, minibatch_scale = np.linspace(0.5, 2, 10), np.linspace(2, 0.5, 10)
    found = []
    for _ in range(1000):
        _, means, within = nested(rng, 10, 4, 10, mask_scale, minibatch_scale)
        found.append(components(means, within, 4))
    mask, minibatch = (mask_scale**2).mean(), (minibatch_scale**2).mean()
    for name, wanted in (("mask", mask), ("minibatch", minibatch), ("total", mask + minibatch)):
        values = [getattr(one, name) for one in found]
        assert_mean(values, wanted, smallest_error=0.12 * wanted)
        squares = np.mean([getattr(one, f"{name}_stderr") ** 2 for one in found])
        assert squares == pytest.approx(np.var(values), rel=0.3)
    # The planted error: the variance of minibatch means, without the masks' share 1/K taken off.
    assert_rejects(
        assert_mean, [one.minibatch + one.mask / 4 for one in found], minibatch, smallest_error=0.12 * minibatch
    )


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), power=st.integers(-30, 30))
def test_components_scale_and_do_not_depend_on_order_or_origin(seed, power):
    rng = np.random.default_rng(seed)
    _, means, within = nested(rng, 5, 3, 4, 1.0, 1.0)
    order, scale = rng.permutation(5), 2.0**power
    found, other = components(means, within, 3), components((means[order] - 7) * scale, within[order] * scale**2, 3)
    for name in ("mask", "minibatch", "total", "mask_stderr", "minibatch_stderr"):
        assert getattr(other, name) == pytest.approx(getattr(found, name) * scale**2, rel=1e-7, abs=1e-9 * scale**2)


@pytest.mark.parametrize("exponent", [-400, -280, 280, 400])
def test_standard_errors_of_components_in_any_unit(exponent, rng):
    """Powers of two: nothing rounds; the components are squares."""
    means, within = rng.standard_normal((5, 6)), rng.uniform(1, 2, 5)
    one, other = components(means, within, 4), components(2.0**exponent * means, 4.0**exponent * within, 4)
    for name in ("mask_stderr", "minibatch_stderr", "total_stderr"):
        assert getattr(other, name) == 4.0**exponent * getattr(one, name) > 0


def test_without_dropout_all_variance_is_the_minibatchs(rng):
    means = rng.standard_normal((8, 5))
    found = components(means, np.zeros(8), 1)
    assert found.mask == found.mask_stderr == 0
    assert found.minibatch == pytest.approx(means.var(axis=0, ddof=1).mean())


@pytest.mark.bad_input
def test_mistakes_are_named(rng):
    means = rng.standard_normal((3, 4))
    for wrong, within in ((means[:2], [1.0, 1.0]), (means, [1.0, 1.0])):
        with pytest.raises(ArgumentError, match="3 or more minibatches"):
            components(wrong, within, 4)
    with pytest.raises(ArgumentError, match="masks must be"):
        components(means, [1.0] * 3, 0)
    with pytest.raises(ArgumentError, match="means: every entry must be finite"):
        components(means * math.inf, [1.0] * 3, 2)


SEED, NOISE = 0.04, 0.02  # Var u and Var e


def draws(rng, n, repeats):
    """log T̂ = 1 + u + e, whose e has a standard error that differs between seeds and is NOISE on average."""
    noise = NOISE * np.linspace(0.5, 1.5, n)
    logs = 1 + rng.normal(0, SEED**0.5, (repeats, n)) + rng.normal(0, 1, (repeats, n)) * np.sqrt(noise)
    return np.exp(logs), np.exp(logs) * np.sqrt(noise)


@pytest.mark.statistical
def test_unbiased_and_the_raw_variance_over_seeds_is_not(rng):
    totals, errors = draws(rng, 6, 3000)
    estimates = np.array([seed_component(t, s).seed for t, s in zip(totals, errors, strict=True)])
    assert_mean(estimates, SEED, smallest_error=0.22 * SEED)
    # The planted one forgets that part of the spread over seeds is the error of measuring each.
    assert_rejects(assert_mean, np.log(totals).var(axis=1, ddof=1), SEED, smallest_error=0.2 * SEED)


@pytest.mark.statistical
def test_the_standard_error_is_the_spread_of_the_estimate(rng):
    totals, errors = draws(rng, 40, 800)
    found = [seed_component(t, s) for t, s in zip(totals, errors, strict=True)]
    spread = np.std([one.seed for one in found], ddof=1)
    assert np.mean([one.seed_stderr for one in found]) == pytest.approx(spread, rel=0.15)


def test_the_seeds_component_by_hand():
    found = seed_component([np.e, np.e**2, np.e**3], [0.1 * np.e, 0.2 * np.e**2, 0.3 * np.e**3])
    assert found.measurement == pytest.approx((0.01 + 0.04 + 0.09) / 3)
    assert found.seed == pytest.approx(1 - found.measurement)
    # Leaving out 1, 2 or 3: variances ½, 2, ½, mean noises 0.065, 0.05, 0.025.
    left_out = np.array([0.5 - 0.065, 2 - 0.05, 0.5 - 0.025])
    assert found.seed_stderr == pytest.approx(np.sqrt(2 * left_out.var()))


def test_seeds_that_agree_have_a_component_below_0_by_the_error_of_measuring_them():
    found = seed_component([2.0] * 5, [0.2] * 5)
    assert found.seed == pytest.approx(-0.01)
    assert found.seed_stderr == pytest.approx(0, abs=1e-15)


def epoch(total, stderr):
    summary = {"mean": total, "worst_held_out": total}
    parts = {"mask": total / 2, "minibatch": total / 2, "total": total, "total_stderr": stderr}
    return {
        "test_accuracy": 0.5,
        **dict.fromkeys(("probe", "fresh", "no_dropout_fresh"), summary),
        "decomposition": parts,
    }


def test_over_seeds_has_the_component_of_each_epoch_from_three_seeds_on():
    runs = [[epoch(1.0, 0.1), epoch(total, 0.2)] for total in (1.0, 2.0, 4.0)]
    found = over_seeds(runs)
    last = seed_component([1.0, 2.0, 4.0], [0.2] * 3)
    assert found["log_total_seed_variance"] == pytest.approx([-0.01, last.seed])
    assert found["log_total_seed_variance_stderr"] == pytest.approx([0, last.seed_stderr])
    assert found["log_total_measurement_variance"] == pytest.approx([0.01, last.measurement])
    np.testing.assert_allclose(found["decomposition_total"], [1, 7 / 3])
    assert "log_total_seed_variance" not in over_seeds(runs[:2])
    gone = over_seeds([[epoch(1.0, 0.1), epoch(total, 0.2)] for total in (0.0, 2.0, 4.0)])
    assert gone["log_total_seed_variance"] == [pytest.approx(-0.01), None]  # a dead network's variance has no logarithm
    printed = table(
        Config(),
        Result(
            {"linear_mean": 1.0},
            {"linear_mean": 1.0, "linear_mean_stderr": None, **found, "data": "digits", "seeds": [0, 1, 2]},
        ),
    )
    assert "variance over seeds 0.46 ± " in printed.notes[-1]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("totals", "errors", "says"),
    [
        ([1.0, 2.0], [0.1, 0.1], "3 or more seeds, received 2 and 2"),
        ([1.0, 2.0, 3.0], [0.1, 0.1], "received 3 and 2"),
        ([1.0, 0.0, 3.0], [0.1, 0.1, 0.1], "received 0 and 0.1"),
        ([1.0, 2.0, 3.0], [0.1, -0.1, 0.1], "received 1 and -0.1"),
        ([1.0, np.nan, 3.0], [0.1, 0.1, 0.1], "finite"),
    ],
)
def test_bad_seeds(totals, errors, says):
    with pytest.raises(ArgumentError, match=says):
        seed_component(totals, errors)


# -- trends over seeds


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
