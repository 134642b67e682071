"""Hostile arguments to everything that `statistics` hands on."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from allora_analysis import statistics
from tests.hostile import EXAMPLES, answers, counts, is_refused, matrices, mostly, numbers, words

rates = mostly(st.floats(0.01, 0.99), numbers)
samples = matrices(1, 6).map(lambda matrix: np.asarray(matrix).ravel())
RNG = np.random.default_rng(0)


@EXAMPLES
@given(samples, rates, counts)
def test_accuracies_and_p_values(p_values, accuracy, n):
    answers(statistics.accuracy_stderr, accuracy, n)
    answers(statistics.holm, np.abs(p_values) if p_values.dtype == float else p_values)


@EXAMPLES
@given(samples, samples, words("wilcoxon", "sign", "t"), rates, mostly(st.just(0.0), numbers))
def test_paired_tests(first, second, method, rate, grain):
    answers(statistics.paired_test, first, second, method, rate, infinite=True)
    answers(statistics.sign_flip_test, first, None, 99, grain)
    answers(statistics.clustered_test, first, [1, 1, 2, 2, 3, 3], rate, None, grain, infinite=True)
    answers(statistics.paired_family, {"one": first, "two": second}, rate, infinite=True)


@EXAMPLES
@given(mostly(st.integers(2, 50), counts), numbers, numbers, rates, mostly(st.just(0.05), numbers))
def test_sample_sizes(n, effect, deviation, power, level):
    answers(statistics.power, n, effect, deviation, level)
    answers(statistics.required_n, effect, deviation, power, level)
    answers(statistics.detectable_effect, n, deviation, power, level)


def test_what_was_found_is_refused():
    is_refused(lambda: statistics.detectable_effect(2, 1.0, 0.5, 5e-324), "level 5e-324")
    is_refused(lambda: statistics.sign_flip_test(np.linspace(-1, 1.5, 60), RNG, 10**9), "draws must be .* 10000000]")
    is_refused(lambda: statistics.accuracy_stderr(0.5, 10**400), "must be at most 9.2e")
    many = statistics.paired_family({"one": [0.1, 0.2, 0.3]}, cases=10**9)  # planted: a list of so many p-values
    assert many["one"].adjusted_p_value == 1.0
