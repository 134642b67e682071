"""Moments of the masked loss and gradient against all masks; the bound; mistakes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis import deviation
from allora_analysis.deviation import law
from allora_analysis.validation import ArgumentError
from tests.brute_force import deviation as reference
from tests.stat_assert import assert_mean, assert_rejects
from tests.tikhonov_designs import random_problem

SHAPES = [(1, 1, 1), (3, 2, 2), (2, 4, 3), (5, 3, 1)]
KEEP_PROBS = [0.001, 0.3, 0.5, 0.999, 1.0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("keep_prob", KEEP_PROBS)
def test_all_masks(rng, shape, keep_prob):
    x, y, w = random_problem(rng, *shape)
    mean, std = reference.moments(lambda mask: reference.loss(x, y, w, mask), y.shape, keep_prob)
    assert deviation.loss_moments(x, y, w, keep_prob) == pytest.approx((float(mean), float(std)), rel=1e-9, abs=1e-9)
    assert deviation.bound(x, y, w, keep_prob, 9) == pytest.approx(std / 3, rel=1e-9, abs=1e-9)
    _, stds = reference.moments(lambda mask: reference.gradient(x, y, w, mask), y.shape, keep_prob)
    np.testing.assert_allclose(deviation.gradient_std(x, y, w, keep_prob), stds, rtol=1e-9, atol=1e-7)


def test_a_planted_wrong_gradient_is_rejected(rng):
    x, y, w = random_problem(rng, 3, 2, 2)
    _, stds = reference.moments(lambda mask: reference.gradient(x, y, w, mask), y.shape, 0.6)
    wrong = law.gradient_spread(x, y - x @ w, 0.6)  # Z where Z/p belongs
    assert np.max(np.abs(wrong / stds - 1)) > 1e-2


@pytest.mark.statistical
def test_drawn_masks(rng):
    x, y, w = random_problem(rng, 30, 4, 3)
    p, n = 0.8, 40_000
    z = x @ w
    mask = rng.binomial(1, p, size=(n, *y.shape)) / p
    losses = np.sum((y - z * mask) ** 2, axis=(1, 2))
    mean, std = deviation.loss_moments(x, y, w, p)
    assert_mean(losses / mean, 1.0, smallest_error=0.02)
    assert_mean((losses - mean) ** 2 / std**2, 1.0, smallest_error=0.1)
    assert_rejects(assert_mean, losses / mean, 1.03, smallest_error=0.02)
    assert_rejects(assert_mean, (losses - mean) ** 2 / std**2, 1 / p, smallest_error=0.1)  # k = 1 − p instead
    gradients = -2 * np.einsum("nd,bnc->bdc", x, mask * (y - z * mask))
    spread = deviation.gradient_std(x, y, w, p)
    squares = ((gradients - gradients.mean(axis=0)) / spread) ** 2 * n / (n - 1)
    assert_mean(squares, 1.0, smallest_error=0.12)
    assert_rejects(assert_mean, squares, 1.2, smallest_error=0.12)


def test_zero_initialisation(rng):
    x, y, _ = random_problem(rng, 6, 3, 2)
    w = np.zeros((3, 2))
    assert deviation.loss_moments(x, y, w, 0.5) == (pytest.approx(np.sum(y**2)), 0.0)
    assert deviation.bound(x, y, w, 0.5, 4) == 0.0
    np.testing.assert_allclose(deviation.gradient_std(x, y, w, 0.5), 2 * np.sqrt((x**2).T @ y**2), rtol=1e-14)


def test_small_and_large_scales_neither_underflow_nor_overflow(rng):
    x, y, w = random_problem(rng, 4, 2, 2)
    std = deviation.loss_moments(x, y, w, 0.7)[1]
    for scale in (1e-120, 1e120):
        assert deviation.loss_moments(x, scale * y, scale * w, 0.7)[1] == pytest.approx(scale**2 * std, rel=1e-12)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), keep_prob=st.floats(0.05, 1.0), scale=st.floats(0.1, 10))
def test_properties(seed, keep_prob, scale):
    rng = np.random.default_rng(seed)
    x, y, w = random_problem(rng, 4, 3, 2)
    mean, std = deviation.loss_moments(x, y, w, keep_prob)
    assert mean >= np.sum((y - x @ w) ** 2) * (1 - 1e-12)
    assert deviation.loss_moments(x, scale * y, scale * w, keep_prob) == pytest.approx(
        (scale**2 * mean, scale**2 * std)
    )
    order = rng.permutation(4)
    assert deviation.loss_moments(x[order], y[order], w, keep_prob) == pytest.approx((mean, std))
    parts = [deviation.loss_moments(x[i : i + 1], y[i : i + 1], w, keep_prob)[1] for i in range(4)]
    assert std == pytest.approx(math.hypot(*parts))  # rows are independent
    gradient = deviation.gradient_std(x, y, w, keep_prob)
    np.testing.assert_allclose(deviation.gradient_std(scale * x, y, w / scale, keep_prob), scale * gradient, rtol=1e-9)


GOOD = {"x": [[1.0], [2.0]], "y": [[1.0], [0.5]], "w": [[1.0]], "keep_prob": 0.5}


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": [[1.0, 2.0], [2.0, 1.0]]}, r"w: shape \(1, 1\) received, 2 × 1 wanted"),
        ({"y": [[1.0]]}, r"y: shape \(1, 1\) received, 2 × any wanted"),
        ({"y": [[1.0], [math.nan]]}, r"y: every entry must be finite, received nan at index \(1, 0\)"),
        ({"w": [[math.inf]]}, "w: every entry must be finite"),
        ({"x": np.empty((0, 1))}, r"x: shape \(0, 1\) received"),
        ({"keep_prob": 0.0}, r"keep_prob must be a keep probability in \(0, 1\].*received 0.0"),
        ({"keep_prob": 1.5}, "received 1.5"),
        ({"w": [[1e200]]}, r"the loss overflows float64 \(max .* = 4e\+200"),
    ],
)
@pytest.mark.parametrize("function", ["loss_moments", "gradient_std", "exact_deviation", "bound"])
def test_mistakes(function, change, message):
    arguments = GOOD | change | ({"n": 2} if function in ("exact_deviation", "bound") else {})
    with pytest.raises(ArgumentError, match=message):
        getattr(deviation, function)(**arguments)


@pytest.mark.bad_input
def test_array_likes_are_converted():
    assert deviation.loss_moments([[1], [2]], [[1], [0]], [[1]], 0.5) == pytest.approx((9.0, 8.0))


@pytest.mark.parametrize(("z", "y"), [(1.2e154, 1.2e154), (-0.6e154, 0.6e154)])
def test_a_loss_of_which_each_part_is_finite_and_the_sum_is_not_is_refused(z, y):
    """Planted: a part subtracted, so that two large ones cancel."""
    with pytest.raises(ArgumentError, match="the loss overflows"):
        law.jumps(np.array([[z]]), np.array([[y]]), 1.0)


def test_the_gradients_spread_in_any_unit():
    assert deviation.gradient_std([[1e-170]], [[1.0]], [[0.0]], 0.5) == pytest.approx(2e-170)
    assert deviation.gradient_std([[1e160]], [[0.0]], [[0.0]], 0.5) == 0.0
    crossed = deviation.gradient_std([[1.0], [1e-170]], [[1e-170], [1.0]], [[0.0]], 0.5)
    assert crossed == pytest.approx(2 * np.sqrt(2) * 1e-170, rel=1e-12, abs=0.0)
