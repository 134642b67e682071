"""Hostile arguments to everything that `dropout_sgd` hands on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allora_analysis import dropout_sgd
from tests.hostile import EXAMPLES, answers, counts, is_refused, keep_probs, matrices, mostly, numbers, words

N, D, C = 3, 2, 1
rates = mostly(
    st.sampled_from((1e-3, 1e-2)) | st.lists(st.sampled_from((0.0, 1e-3, 1.0, 1e300, 1e-310)), min_size=2, max_size=2),
    numbers,
)
placements = words("output", "input")
RUN = {"replicas": 2, "generator": np.random.default_rng(0)}


@EXAMPLES
@given(
    matrices(N, D),
    matrices(N, C),
    matrices(D, C),
    matrices(D, D),
    keep_probs,
    rates,
    mostly(st.just(2), counts),
    placements,
    mostly(st.none() | st.integers(1, 3), counts),
    mostly(st.just(False), st.booleans()),
)
def test_moments_limits_and_runs(x, y, w_true, sigma, keep_prob, rate, steps, placement, batch_size, shared):
    options = {"batch_size": batch_size, "shared_mask": shared}
    answers(dropout_sgd.trajectory, x, y, keep_prob, rate, steps, placement, w_true=w_true, **options)
    if np.shape(sigma) == (D, D) and np.asarray(sigma).dtype == float:
        sigma = np.maximum(np.abs(sigma), np.abs(sigma).T)
    given_risk = {"w_true": w_true, "risk_covariance": sigma}
    answers(dropout_sgd.trajectory, x, y, keep_prob, rate, steps, placement, **given_risk, **options)
    answers(dropout_sgd.stability_limits, x, keep_prob, placement, infinite=True, **options)
    answers(dropout_sgd.stationary_moments, x, y, keep_prob, rate, placement, **options)
    run = {"replicas": 2, "generator": np.random.default_rng(0), **options}
    answers(dropout_sgd.simulate, x, y, keep_prob, rate, steps, placement, **run)


EYE, ONE = np.eye(3), np.ones((3, 1))
FOUND = [
    (lambda: dropout_sgd.trajectory(EYE, ONE, 0.5, 0.01, 10**9), "steps: the means at 1e.09 steps would need .* GiB"),
    (lambda: dropout_sgd.trajectory(EYE, ONE, 0.5, 0.01, 10**6), "steps: 1e.06 of them .* at most .* most_seconds"),
    (lambda: dropout_sgd.trajectory(EYE, ONE, 0.5, 0.01, 10**5, most_seconds=1), "most_seconds above 1"),
    (lambda: dropout_sgd.trajectory(EYE, ONE, 0.5, [0.1, [0.1]], 2), "learning_rate: rows of different lengths"),
    (lambda: dropout_sgd.simulate(EYE, ONE, 0.5, 0.01, 10**8, **RUN), "steps: 1e.08 of them"),
    (lambda: dropout_sgd.simulate(EYE, ONE, 0.5, 0.01, 3, batch_size=10**9, **RUN), "batch_size: .* GiB, more than 1"),
    (lambda: dropout_sgd.stationary_moments(ONE, 1e300 * EYE[:, :1], 0.5, 0.01), "y of up to 1e.300"),
]


@pytest.mark.bad_input
@pytest.mark.parametrize(("call", "words"), FOUND)
def test_what_was_found_is_refused(call, words):
    is_refused(call, words)
