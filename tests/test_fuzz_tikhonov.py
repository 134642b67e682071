"""Hostile arguments to everything that `tikhonov` hands on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from allora_analysis import tikhonov
from tests.hostile import EXAMPLES, answers, counts, is_refused, keep_probs, matrices, numbers, words

N, D, C, R = 3, 2, 2, 2
places = words("output", "input")
RNG = np.random.default_rng(0)


@EXAMPLES
@given(matrices(N, D), matrices(N, C), matrices(D, C), matrices(N, C), keep_probs, places, numbers, counts)
def test_losses_solutions_and_ridges(x, y, w, fit, keep_prob, place, penalty, rank):
    answers(tikhonov.expected_loss, x, y, w, keep_prob, place)
    answers(tikhonov.loss_std, x, y, w, keep_prob, place)
    answers(tikhonov.dropout_solution, x, y, keep_prob, place)
    answers(tikhonov.reduced_rank_solution, x, y, keep_prob, rank, place)
    answers(tikhonov.ridge_solution, x, y, penalty)
    answers(tikhonov.exact_penalty, x, keep_prob, place, "fit")
    answers(tikhonov.exact_penalty, x, keep_prob, place)
    answers(tikhonov.is_exact_ridge, x, place, "fit", penalty)
    answers(tikhonov.nearest_ridge, x, y, keep_prob, place, infinite=True)
    answers(tikhonov.nearest_ridge_to_fit, x, y, fit, infinite=True)


@EXAMPLES
@given(matrices(N, D), matrices(N, C), matrices(R, D), matrices(C, R), keep_probs, counts)
def test_bottlenecks(x, y, a, b, keep_prob, rank):
    answers(tikhonov.bottleneck_loss, x, y, a, b, keep_prob)
    answers(tikhonov.bottleneck_loss_std, x, y, a, b, keep_prob)
    answers(tikhonov.bottleneck_solution, y, keep_prob, rank)
    answers(tikhonov.bottleneck_minimum, x, y, keep_prob, rank)
    answers(tikhonov.bottleneck_factors, x, y, keep_prob, rank)
    answers(tikhonov.bottleneck_threshold, np.abs(np.ravel(y)) if np.asarray(y).dtype == float else y, keep_prob, rank)


@EXAMPLES
@given(matrices(N, D), matrices(N, C), matrices(D, C), matrices(R, D), matrices(C, R), keep_probs, places, counts)
def test_masks(x, y, w, a, b, keep_prob, place, draws):
    rng = np.random.default_rng(0)
    answers(tikhonov.enumerated_loss, x, y, w, keep_prob, place)
    answers(tikhonov.enumerated_solution, x, y, keep_prob, place)
    answers(tikhonov.enumerated_bottleneck_loss, x, y, a, b, keep_prob)
    answers(tikhonov.enumerated_bottleneck_minimum, x, y, keep_prob, 1, 1, rng)
    answers(tikhonov.sampled_losses, x, y, w, keep_prob, place, draws, rng)
    answers(tikhonov.sampled_bottleneck_losses, x, y, a, b, keep_prob, draws, rng)
    answers(tikhonov.sample_mean, np.ravel(y))


ONE, HUGE = np.ones((2, 1)), np.array([[1.7e308], [1.7e308]])
FOUND = [
    (lambda: tikhonov.expected_loss(1e200 * ONE, ONE, [[1.0]], 0.5, "output"), "x of up to 1e.200, .* range"),
    (lambda: tikhonov.dropout_solution(HUGE, ONE, 0.5, "input"), "double precision's range"),  # silently 0
    (lambda: tikhonov.nearest_ridge(5e-324 * ONE, ONE, 0.5, "output"), "x of up to 4.94e-324"),
    (lambda: tikhonov.nearest_ridge_to_fit(ONE, 1e-300 * ONE, 1e300 * ONE), "fit of up to 1e.300"),
    (lambda: tikhonov.loss_std(HUGE, ONE, [[1.0]], 0.5, "input"), "double precision's range"),
    (lambda: tikhonov.bottleneck_factors(ONE, ONE, 0.5, 10**9), "rank: a rotation .* GiB, more than 1; ask for less"),
    (lambda: tikhonov.sampled_losses(ONE, ONE, [[1.0]], 0.5, "input", 10**9, RNG), "draws: the losses .* GiB"),
]


@pytest.mark.bad_input
@pytest.mark.parametrize(("call", "words"), FOUND)
def test_what_was_found_is_refused(call, words):
    is_refused(call, words)


def test_a_tiny_column_counts_beside_its_huge_weights():
    """Planted: a penalty of 0, as the squares of the column vanish."""
    assert tikhonov.expected_loss([[1e-200]], [[0.0]], [[1e200]], 0.5, "input") == pytest.approx(2.0, rel=1e-12)
    assert tikhonov.bottleneck_loss([[1.0]], [[0.0]], [[1e-200]], [[1e200]], 0.5) == pytest.approx(2.0, rel=1e-12)
