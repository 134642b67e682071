"""Hostile arguments to everything that `deviation` hands on."""

from __future__ import annotations

import pytest
from hypothesis import given

from allora_analysis import deviation
from tests.hostile import EXAMPLES, answers, counts, is_refused, keep_probs, matrices

N, D, C = 2, 2, 2


@EXAMPLES
@given(matrices(N, D), matrices(N, C), matrices(D, C), keep_probs, counts)
def test_moments_and_the_exact_law(x, y, w, keep_prob, n):
    answers(deviation.loss_moments, x, y, w, keep_prob)
    answers(deviation.gradient_std, x, y, w, keep_prob)
    answers(deviation.bound, x, y, w, keep_prob, n)
    answers(deviation.exact_deviation, x, y, w, keep_prob, n)
    answers(deviation.mean_absolute_deviation, x, y, w, keep_prob, n)
    answers(deviation.ratio, x, y, w, keep_prob, n)


FOUND = [
    (lambda: deviation.loss_moments([[1e200]], [[1.0]], [[1e200]], 0.5), "overflows float64"),
    (lambda: deviation.bound([[1.0]], [[1.0]], [[1.0]], 0.5, 10**400), "n must be at most 9.2e"),
    (lambda: deviation.exact_deviation([[1.0]], [[1.0]], [[1.0]], 0.5, 10**400), "n must be at most 9.2e"),
]


@pytest.mark.bad_input
@pytest.mark.parametrize(("call", "words"), FOUND)
def test_what_was_found_is_refused(call, words):
    is_refused(call, words)


def test_a_rare_mask_is_no_trouble():
    found = deviation.exact_deviation([[1.0], [2.0]], [[1.0], [0.5]], [[1.0]], 1e-9, 1)
    assert 0 < found.ratio < 1e-3
