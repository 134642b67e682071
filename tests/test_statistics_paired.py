"""Paired, sign-flip and clustered tests: against enumeration, SciPy, simulated size and power."""

import itertools
import re

import jaxtyping
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis.statistics import clustered_test, sign_flip_test
from allora_analysis.statistics.paired import EXACT_FLIPS, TIE, student
from allora_analysis.validation import ArgumentError
from tests.stat_assert import assert_mean, assert_rejects

DIFFERENCES = st.lists(st.integers(-9, 9), min_size=2, max_size=9)


def all_signs(n: int) -> np.ndarray:
    return np.array(list(itertools.product((-1.0, 1.0), repeat=n))).reshape(2**n, n)


def enumerated_flips(differences) -> float:
    sums = all_signs(len(differences)) @ np.asarray(differences, dtype=float)
    return float(np.mean(np.abs(sums) >= abs(np.sum(differences)) - 1e-9))


@settings(deadline=None, max_examples=60)
@given(DIFFERENCES)
def test_sign_flips_equal_enumeration(differences):
    outcome = sign_flip_test(differences)
    assert outcome.exact
    assert outcome.p_value == pytest.approx(enumerated_flips(differences), rel=1e-12)
    assert outcome.p_value >= outcome.smallest_p_value
    assert outcome.mean_difference == pytest.approx(np.mean(differences), abs=1e-15)


def test_the_signs_of_one_sided_differences_give_the_smallest_p_value():
    for n in (1, 2, 5, EXACT_FLIPS):
        outcome = sign_flip_test(np.arange(1.0, n + 1))
        assert outcome.p_value == outcome.smallest_p_value == 2.0 ** (1 - n)


def test_against_scipy(rng):
    values = rng.normal(0.3, 1.0, 25)
    (interval, statistic, p_value), expected = student(values, 0.95), scipy.stats.ttest_1samp(values, 0.0)
    assert (statistic, p_value) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9)
    assert interval == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-9)


def test_no_difference_at_all():
    assert student(np.zeros(3), 0.95) == ((0.0, 0.0), 0.0, 1.0)
    assert sign_flip_test([0.0, 0.0]).p_value == 1.0


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


def test_a_units_rounding_is_no_difference():
    outcome = sign_flip_test([0.1 + 0.2 - 0.3, 1.0, 2.0])
    assert (outcome.n_nonzero, outcome.smallest_p_value, outcome.p_value) == (2, 0.5, 0.5)


def test_a_clusters_mean_of_rounding_is_no_difference():
    """0.3 − 0.1 − 0.2 leaves −3e-17, eight times, and eight units of one sign would be significant."""
    values, labels = [0.3, -0.1, -0.2] * 8, np.repeat(range(8), 3).tolist()
    outcome = clustered_test(values, labels)
    assert (outcome.p_value, outcome.t_p_value) == (1.0, 1.0)
    assert (outcome.mean_difference, outcome.interval) == (0.0, (0.0, 0.0))
    apart = clustered_test(np.add(values, 1e-9), labels)  # one that is none counts in full
    assert (apart.p_value, apart.t_p_value) == (2.0**-7, 0.0)
    assert apart.mean_difference == pytest.approx(1e-9, rel=1e-6)


def test_differences_carry_their_sides_rounding():
    """0.1 + 0.2 − 0.3 ten times: the test cannot know what the sides were unless it is told their grain."""
    left, right = np.full(10, 0.1 + 0.2), np.full(10, 0.3)
    labels = np.repeat(range(5), 2).tolist()
    assert student(left - right, 0.95, TIE * 0.3)[2] == 1.0
    assert sign_flip_test(left - right).p_value == 2.0**-9
    outcome = sign_flip_test(left - right, grain=TIE * 0.3)
    assert (outcome.p_value, outcome.n_nonzero, outcome.smallest_p_value) == (1.0, 0, 1.0)
    clustered = clustered_test(left - right, labels, grain=TIE * 0.3)
    assert (clustered.p_value, clustered.t_p_value) == (1.0, 1.0)
    assert clustered_test(left - right, labels).p_value == 2.0**-4


def test_sums_within_the_grain_are_ties():
    """8191.02 − 8191.01 and 0.02 − 0.01 are one size, 0.01, but for 10⁻¹³: flipping either gives the observed sum."""
    differences = np.array([8191.02 - 8191.01, 0.01 - 0.02, 8191.03 - 8191.01])
    exact = enumerated_flips(np.round(differences, 2))
    assert sign_flip_test(differences, grain=TIE * 8192).p_value == exact == 0.75
    assert sign_flip_test(differences).p_value == 0.5
    assert clustered_test([0.5, 0.5, 2.0], ["a", "b", "c"], grain=0.5).mean_difference == pytest.approx(2 / 3)


@settings(deadline=None, max_examples=30)
@given(DIFFERENCES, st.sampled_from((0.5, 3.0, 1e-6)))
def test_p_values_ignore_scale_order_and_direction(differences, scale):
    values = np.array(differences, float)
    p_value = student(values, 0.95)[2]
    for other in (scale * values, values[::-1], -values):
        assert student(other, 0.95)[2] == pytest.approx(p_value, rel=1e-9)
    assert 0 <= p_value <= 1


@pytest.mark.statistical
def test_sampled_sign_flips_agree_with_the_exact_count(rng, monkeypatch):
    from allora_analysis.statistics import paired

    differences = np.linspace(-1.0, 1.8, 14) ** 3
    exact = sign_flip_test(differences).p_value
    monkeypatch.setattr(paired, "EXACT_FLIPS", 5)
    sampled = [sign_flip_test(differences, rng, draws=2000) for _ in range(60)]
    assert not any(outcome.exact for outcome in sampled)
    hits = [(outcome.p_value * 2001 - 1) / 2000 for outcome in sampled]
    assert_mean(hits, exact, smallest_error=0.02)
    assert_rejects(assert_mean, hits, exact / 2, smallest_error=0.02)  # one tail by mistake


def test_many_units_need_a_generator_and_the_seed_fixes_the_answer():
    differences = np.linspace(-1.0, 1.6, EXACT_FLIPS + 1)  # none is 0
    first, second = (sign_flip_test(differences, np.random.default_rng(3), draws=999) for _ in range(2))
    assert first == second
    assert first.p_value >= first.smallest_p_value == 1 / 1000
    clear = sign_flip_test(np.ones(EXACT_FLIPS + 1), np.random.default_rng(3), draws=999)
    assert clear.p_value == clear.smallest_p_value == 1 / 1000


@pytest.mark.statistical
def test_size_under_the_null_is_the_level_and_there_is_power(rng):
    noise = rng.normal(size=(1500, 12))
    rejected = np.array([student(row, 0.95)[2] <= 0.05 for row in noise])
    assert_mean(rejected, 0.05, smallest_error=0.07)
    assert_rejects(assert_mean, rejected, 0.15, smallest_error=0.07)
    shifted = np.array([student(row + 2.0, 0.95)[2] <= 0.05 for row in noise[:200]])
    assert shifted.mean() > 0.95


def test_clusters_count_as_units(rng):
    differences = rng.normal(0.5, 1.0, 12)
    labels = list("aabbccddeeff")
    outcome = clustered_test(differences, labels)
    means = differences.reshape(6, 2).mean(axis=1)
    assert outcome.p_value == pytest.approx(enumerated_flips(means), rel=1e-12)
    expected = scipy.stats.ttest_1samp(means, 0.0)
    assert outcome.t_p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert outcome.interval == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-9)
    assert (outcome.n, outcome.n_clusters, outcome.exact) == (12, 6, True)
    shuffled = rng.permutation(12)
    again = clustered_test(differences[shuffled], [labels[i] for i in shuffled])
    assert again.p_value == pytest.approx(outcome.p_value, rel=1e-12)


@pytest.mark.statistical
def test_dependent_cells_fool_the_plain_test_but_not_the_clustered_one(rng):
    labels = np.repeat(np.arange(8), 6)
    effects = rng.normal(size=(1200, 8))[:, labels] + 0.1 * rng.normal(size=(1200, 48))
    clustered = np.array([clustered_test(row, labels.tolist()).t_p_value <= 0.05 for row in effects])
    plain = np.array([student(row, 0.95)[2] <= 0.05 for row in effects])
    assert_mean(clustered, 0.05, smallest_error=0.07)
    assert_rejects(assert_mean, plain, 0.05, smallest_error=0.15)


def test_one_cell_a_cluster_is_the_plain_sign_flip(rng):
    differences = rng.normal(size=9)
    assert clustered_test(differences, range(9)).p_value == sign_flip_test(differences).p_value


def test_labels_of_a_tensor_are_its_numbers():
    cells, labels = [1.0, 2.0, 4.0, 3.0], [0, 0, 1, 1]
    for dressed in (torch.tensor(labels), np.array(labels), np.array(labels, float)):
        assert clustered_test(cells, dressed) == clustered_test(cells, labels)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sign_flip_test([]), "differences: shape"),
        (lambda: sign_flip_test([1.0], draws=0), "draws must be a whole number"),
        (lambda: sign_flip_test(np.ones(EXACT_FLIPS + 1)), "generator: give one, 41 non-zero units"),
        (lambda: sign_flip_test([1.0], grain=-1.0), "grain must be"),
        (lambda: clustered_test([1.0, 2.0], ["a", "b"], grain=-1.0), "grain must be"),
        (lambda: clustered_test([1.0, 2.0], ["a"]), "clusters: 1 labels received, 2 wanted"),
        (lambda: clustered_test([1.0, 2.0], ["a", "a"]), "at least 2 distinct labels"),
        (lambda: clustered_test([1.0, 2.0, 3.0], [1.0, np.nan, np.nan]), "clusters: nan is no label; give one number"),
        (lambda: clustered_test([1.0, 2.0], [("a", np.nan), ("a", float("nan"))]), "clusters: ('a', nan) is no label"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ArgumentError, match=re.escape(words)):
        call()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.array([[0], [1]]), "clusters: array([0]) is no label"),
        ([[0], [1]], "clusters: [0] is no label; give one number, word or tuple for each difference"),
        (np.array([0, 0, 1]), "clusters: 3 labels received"),
    ],
)
def test_labels_that_cannot_be_looked_up(labels, words, request):
    untyped = request.config.option.untyped
    errors = ArgumentError if untyped else (ArgumentError, jaxtyping.TypeCheckError)
    with pytest.raises(errors, match=re.escape(words) if untyped else "clusters"):
        clustered_test([1.0, 2.0], labels)
