"""z-tests, accuracies, moments and bootstrap: against other formulas, SciPy, and simulation with stated power."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis.statistics import (
    Moments,
    accuracy_stderr,
    bootstrap_interval,
    holm,
    mean_and_stderr,
    z_test,
)
from allora_analysis.statistics.z_tests import _z_and_p
from allora_analysis.validation import ArgumentError
from tests.stat_assert import assert_mean, assert_rejects

# --- z-test -----------------------------------------------------------------------------------------------------------


def test_z_test_of_scalars_by_hand():
    outcome = z_test(1.0, 0.1, 1.25, false_fail_rate=0.05)
    assert outcome.z == pytest.approx(-2.5)
    assert outcome.threshold == pytest.approx(1.959963984540054)
    assert outcome.p_value == pytest.approx(0.012419330651552265)
    assert not outcome.passes
    assert outcome.smallest_detectable == pytest.approx(0.1 * (1.959963984540054 + 3.090232306167813))
    assert isinstance(outcome.z, float)
    assert isinstance(outcome.passes, bool)


def test_comparisons_and_entries_share_the_false_fail_rate():
    single = z_test(0.0, 1.0, 0.0, false_fail_rate=0.01)
    many = z_test(np.zeros((2, 3)), 1.0, 0.0, false_fail_rate=0.06)
    five = z_test(0.0, 1.0, 0.0, false_fail_rate=0.05, comparisons=5)
    assert many.threshold == pytest.approx(single.threshold) == pytest.approx(five.threshold)
    assert many.z.shape == many.p_value.shape == many.smallest_detectable.shape == (2, 3)


def test_one_bad_entry_fails_the_whole():
    assert z_test([0.0, 1.0], [0.1, 0.1], [0.0, 1.0]).passes
    assert not z_test([0.0, 1.0], [0.1, 0.1], [0.0, 2.0]).passes


def test_a_standard_error_of_zero_demands_equality_up_to_rounding():
    outcome = z_test([1.0, 1.0 + 1e-12, 1.1, 0.9], 0.0, 1.0)
    assert outcome.z.tolist() == [0.0, 0.0, math.inf, -math.inf]
    assert outcome.p_value.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert not outcome.passes
    assert outcome.smallest_detectable.tolist() == [0.0] * 4
    assert z_test(2.0, 0.0, 2.0).passes


@pytest.mark.statistical
def test_false_fail_rate_and_power_are_as_stated(rng):
    stderr, rate, miss = 0.3, 0.1, 0.2
    bias = z_test(0.0, stderr, 0.0, false_fail_rate=rate, miss_rate=miss).smallest_detectable
    means = rng.normal(0.0, stderr, 4000)
    failed = [not z_test(mean, stderr, 0.0, false_fail_rate=rate).passes for mean in means]
    assert_mean(failed, rate, smallest_error=0.05)
    seen = [not z_test(mean + bias, stderr, 0.0, false_fail_rate=rate).passes for mean in means]
    # The far tail adds Φ(−z_{α/2} − bias/stderr), here 2.6e-5.
    assert_mean(seen, 1 - miss, smallest_error=0.06)
    assert_rejects(assert_mean, failed, rate / 2, smallest_error=0.05)  # a one-sided threshold by mistake


@settings(deadline=None, max_examples=50)
@given(st.floats(-5, 5), st.floats(0.01, 5), st.floats(-5, 5), st.floats(0.1, 10))
def test_z_is_invariant_to_units_and_odd_in_the_gap(mean, stderr, expected, scale):
    outcome = z_test(mean, stderr, expected)
    scaled = z_test(mean * scale, stderr * scale, expected * scale)
    assert scaled.z == pytest.approx(outcome.z, rel=1e-9, abs=1e-9)
    assert z_test(-mean, stderr, -expected).z == -outcome.z
    assert outcome.passes == (outcome.p_value >= 1e-6)


# --- means and accuracies ---------------------------------------------------------------------------------------------


def test_mean_and_stderr_against_scipy(rng):
    samples = rng.normal(size=(7, 4))
    mean, stderr = mean_and_stderr(samples, axis=1)
    np.testing.assert_allclose(mean, samples.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(stderr, scipy.stats.sem(samples, axis=1), rtol=1e-12)
    scalar, _ = mean_and_stderr([1.0, 2.0, 3.0])
    assert isinstance(scalar, float)


def test_one_accuracy_over_rotten_tomatoes_test_set():
    assert accuracy_stderr(0.8, 1066) == pytest.approx(0.4 / math.sqrt(1066), rel=1e-12)
    assert accuracy_stderr(1.0, 5) == accuracy_stderr(0, 5) == 0.0


@pytest.mark.statistical
def test_accuracy_stderr_is_the_spread_of_accuracies(rng):
    squares = (rng.binomial(50, 0.3, 20_000) / 50 - 0.3) ** 2
    assert_mean(squares, accuracy_stderr(0.3, 50) ** 2, smallest_error=4e-4)
    assert_rejects(assert_mean, squares, accuracy_stderr(0.3, 50) ** 2 * 49 / 50 * 0.8, smallest_error=4e-4)


# --- moments ----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 7), min_size=2, max_size=6), st.integers(0, 2**31), st.sampled_from(((), (3,), (2, 2))))
def test_moments_do_not_depend_on_batches_nor_on_who_adds_them(sizes, seed, shape):
    samples = np.random.default_rng(seed).normal(1e3, 1.0, (sum(sizes), *shape))
    streamed, halves = Moments(), (Moments(), Moments())
    for index, batch in enumerate(np.split(samples, np.cumsum(sizes)[:-1])):
        streamed.add(batch)
        halves[index % 2].add(batch)
    halves[0].merge(halves[1])
    halves[0].merge(Moments())
    for moments in (streamed, halves[0]):
        assert moments.n == len(samples)
        np.testing.assert_allclose(moments.mean, samples.mean(axis=0), rtol=1e-13)
        np.testing.assert_allclose(moments.variance, samples.var(axis=0, ddof=1), rtol=1e-9)
        np.testing.assert_allclose(moments.stderr, scipy.stats.sem(samples, axis=0), rtol=1e-9)


def test_moments_do_not_cancel_where_the_naive_sum_of_squares_does():
    values = 1e9 + np.array([4.0, 7.0, 13.0, 16.0])
    moments = Moments()
    for value in values:
        moments.add([value])
    assert moments.variance == 30.0
    naive = (np.sum(values**2) - len(values) * np.mean(values) ** 2) / 3
    assert naive != 30.0


def test_merging_leaves_the_other_alone():
    first, second = Moments(), Moments()
    second.add([[1.0, 2.0], [3.0, 5.0]])
    first.merge(second)
    first.add([[9.0, 9.0]])
    assert second.n == 2
    assert second.mean.tolist() == [2.0, 3.5]


# --- bootstrap --------------------------------------------------------------------------------------------------------


def test_bootstrap_equals_scipy_of_the_same_seed(rng):
    values = rng.exponential(size=30)
    ours = bootstrap_interval(values, np.mean, 0.9, np.random.default_rng(5), resamples=999)
    named = {"rng": np.random.default_rng(5)}
    if tuple(int(part) for part in scipy.__version__.split(".")[:2]) < (1, 15):
        named = {"random_state": np.random.default_rng(5)}
    theirs = scipy.stats.bootstrap((values,), np.mean, confidence_level=0.9, n_resamples=999, **named)
    assert ours == tuple(theirs.confidence_interval)
    assert ours[0] < values.mean() < ours[1]


def test_bootstrap_of_a_constant_is_the_statistic_itself():
    assert bootstrap_interval([2.0, 2.0, 2.0], np.median, 0.95, np.random.default_rng(0)) == (2.0, 2.0)


@pytest.mark.statistical
def test_bootstrap_covers_the_mean_as_often_as_stated(rng):
    covered = []
    for _ in range(1000):
        low, high = bootstrap_interval(rng.normal(size=60), np.mean, 0.8, rng, resamples=300)
        covered.append(low <= 0 <= high)
    # First-order coverage error at n = 60 is about 1 %: far below what 1000 repeats see.
    assert_mean(covered, 0.79, smallest_error=0.13)
    assert_rejects(assert_mean, covered, 0.6, smallest_error=0.13)  # a tail of 1 − c on each side by mistake


# --- bad input, imports, the hook -------------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: z_test(1.0, -0.1, 1.0), "stderr must be 0 or above in every entry, received -0.1"),
        (lambda: z_test(np.nan, 0.1, 1.0), "mean: every entry must be finite"),
        (lambda: z_test([1.0, 2.0], [1.0, 2.0, 3.0], 0.0), "give shapes that broadcast"),
        (lambda: z_test(1.0, 0.1, 1.0, false_fail_rate=0.0), "false_fail_rate must be a probability"),
        (lambda: z_test(1.0, 0.1, 1.0, miss_rate=1.0), "miss_rate must be a probability"),
        (lambda: z_test(1.0, 0.1, 1.0, comparisons=0), "comparisons must be a whole number"),
        (lambda: mean_and_stderr([1.0]), "at least 2 along axis 0"),
        (lambda: mean_and_stderr([1.0, 2.0], axis=1), "axis must be one of the 1 axes"),
        (lambda: mean_and_stderr(3.0), "axis must be one of the 0 axes"),
        (lambda: accuracy_stderr(85.0, 100), "accuracy must be a fraction in [0, 1]"),
        (lambda: accuracy_stderr(-0.1, 100), "accuracy must be a finite number, 0 or above"),
        (lambda: accuracy_stderr(0.5, 0), "n must be a whole number"),
        (lambda: Moments().mean, "no sample was added"),
        (lambda: added([1.0]).variance, "1 samples were added; at least 2"),
        (lambda: added([1.0]).add([[1.0, 2.0]]), "samples of shape (2,) received, earlier ones have ()"),
        (lambda: Moments().add([np.inf]), "batch: every entry must be finite"),
        (lambda: Moments().add([]), "batch: shape (0,)"),
        (lambda: bootstrap_interval([1.0], np.mean, 0.9, np.random.default_rng(0)), "at least 2 are needed"),
        (lambda: bootstrap_interval([1.0, 2.0], np.mean, 90, np.random.default_rng(0)), "confidence must be"),
        (lambda: bootstrap_interval([1.0, 2.0], constant, 0.9, np.random.default_rng(0)), "statistic: no BCa interval"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ArgumentError) as error:
        call()
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def added(batch) -> Moments:
    moments = Moments()
    moments.add(batch)
    return moments


def constant(sample, axis=-1):
    return np.zeros(np.shape(sample)[:-1])


def test_importing_pays_for_no_scipy():
    check = "import allora_analysis.statistics, sys; print([n for n in sys.modules if n.startswith('scipy')])"
    finished = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


def test_the_hook_rejects_wrong_shapes(request):
    if not request.config.option.untyped:
        with pytest.raises(TypeError, match="Type-check error"):
            _z_and_p(np.ones(2), np.ones(3), np.ones(2))
        with pytest.raises(TypeError, match="Type-check error"):
            Moments()._merge(1, np.ones(2), np.ones(3))


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


@pytest.mark.bad_input
@pytest.mark.parametrize(("values", "words"), [([0.1, 1.2], "p_values must be in [0, 1]"), ([], "p_values: shape")])
def test_p_values_that_are_none(values, words):
    with pytest.raises(ArgumentError) as error:
        holm(values)
    assert words in str(error.value)
