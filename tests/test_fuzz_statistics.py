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
@given(samples, samples, samples, rates, rates, counts)
def test_z_tests_and_means(mean, stderr, expected, rate, miss, comparisons):
    usual = np.abs(stderr) if stderr.dtype == float else stderr
    answers(statistics.z_test, mean, usual, expected, rate, comparisons, miss, infinite=True)
    answers(statistics.mean_and_stderr, mean)
    answers(statistics.accuracy_stderr, rate, comparisons)
    answers(statistics.holm, usual)

    def streamed(first, second):
        moments = statistics.Moments()
        moments.add(first)
        moments.add(second)
        return moments.mean, moments.variance, moments.stderr

    answers(streamed, mean, expected)


@EXAMPLES
@given(samples, samples, words("wilcoxon", "sign", "t"), rates, mostly(st.just(0.0), numbers))
def test_paired_tests(first, second, method, rate, grain):
    answers(statistics.paired_test, first, second, method, rate, infinite=True)
    answers(statistics.sign_flip_test, first, None, 99, grain)
    answers(statistics.clustered_test, first, [1, 1, 2, 2, 3, 3], rate, None, grain, infinite=True)
    answers(statistics.paired_family, {"one": first, "two": second}, rate, infinite=True)
    answers(statistics.bootstrap_interval, first, np.mean, rate, np.random.default_rng(0), 50)


@EXAMPLES
@given(mostly(st.integers(2, 50), counts), numbers, numbers, rates, mostly(st.just(0.05), numbers))
def test_sample_sizes(n, effect, deviation, power, level):
    answers(statistics.power, n, effect, deviation, level)
    answers(statistics.required_n, effect, deviation, power, level)
    answers(statistics.detectable_effect, n, deviation, power, level)


def test_what_was_found_is_refused():
    moments = statistics.Moments()
    is_refused(lambda: moments.add([0.0, 1e200]), "batch of up to 1e.200")
    assert moments.n == 0
    is_refused(lambda: statistics.detectable_effect(2, 1.0, 0.5, 5e-324), "level 5e-324")
    is_refused(lambda: statistics.bootstrap_interval([1.0, 2.0], np.mean, 0.9, RNG, 10**9), "resamples: .* GiB")
    is_refused(lambda: statistics.sign_flip_test(np.linspace(-1, 1.5, 60), RNG, 10**9), "draws must be .* 10000000]")
    is_refused(lambda: statistics.accuracy_stderr(0.5, 10**400), "double precision's range")
    many = statistics.paired_family({"one": [0.1, 0.2, 0.3]}, cases=10**9)  # planted: a list of so many p-values
    assert many["one"].adjusted_p_value == 1.0
