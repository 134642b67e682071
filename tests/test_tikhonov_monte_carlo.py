"""Drawn masks against the closed forms, with stated power, and planted wrong formulas that must be rejected."""

import numpy as np
import pytest

from allora_analysis import tikhonov
from allora_analysis.tikhonov import masks
from allora_analysis.tikhonov.loss import input_std
from allora_analysis.validation import ArgumentError
from tests.brute_force import tikhonov as brute
from tests.stat_assert import assert_mean, assert_rejects

N, D, C, R = 30, 6, 4, 3
KEEP = 0.6
DRAWS = 4000
FIXED = np.random.default_rng(0)
X, Y, W = FIXED.standard_normal((N, D)), FIXED.standard_normal((N, C)), FIXED.standard_normal((D, C))
A, B = FIXED.standard_normal((R, D)), FIXED.standard_normal((C, R))


@pytest.mark.statistical
@pytest.mark.parametrize("placement", ["output", "input"])
def test_mean_loss(placement, rng):
    samples = tikhonov.sampled_losses(X, Y, W, KEEP, placement, DRAWS, rng)
    expected = tikhonov.expected_loss(X, Y, W, KEEP, placement)
    assert_mean(samples, expected, smallest_error=0.03 * expected)
    # Planted: the noise of a mask taken as 1 − p, and as 1/p; and the drop rate for the keep probability.
    plain, drop = tikhonov.expected_loss(X, Y, W, 1.0, placement), 1 - KEEP
    noise = (expected - plain) / (drop / KEEP)
    for wrong in (plain + drop * noise, plain + noise / KEEP, tikhonov.expected_loss(X, Y, W, drop, placement)):
        assert_rejects(assert_mean, samples, wrong, smallest_error=0.03 * expected)


@pytest.mark.statistical
def test_mean_bottleneck_loss(rng):
    samples = tikhonov.sampled_losses(X @ A.T, Y, B.T, KEEP, "input", DRAWS, rng)
    expected = tikhonov.bottleneck_loss(X, Y, A, B, KEEP)
    assert_mean(samples, expected, smallest_error=0.03 * expected)
    # Planted: the output's and the input's penalty at the same product.
    for placement in ("output", "input"):
        wrong = tikhonov.expected_loss(X, Y, A.T @ B.T, KEEP, placement)
        assert_rejects(assert_mean, samples, wrong, smallest_error=0.03 * expected)


@pytest.mark.statistical
def test_masked_gradient_vanishes_on_average_at_the_minimiser(rng):
    """The realistic check of the minimizer: ∂/∂W of the masked loss has mean 0 there, and not at the ridge."""
    draws = 4000
    w = tikhonov.dropout_solution(X, Y, KEEP, "input")
    for weights, right in ((w, True), (tikhonov.ridge_solution(X, Y, 0), False)):
        masked = X * ((rng.random((draws, N, D)) < KEEP) / KEEP)
        gradient = 2 * np.einsum("snd,snc->sdc", masked, masked @ weights - Y)
        scale = np.abs(X.T @ Y).max()
        if right:
            assert_mean(gradient, 0.0, smallest_error=0.3 * scale)
        else:
            assert_rejects(assert_mean, gradient, 0.0, smallest_error=0.4 * scale)


def enumerated_std(loss, rows, columns, keep_prob):
    masks, probability = zip(*brute.masks(rows, columns, keep_prob), strict=True)
    losses, probability = np.array([loss(mask) for mask in masks]), np.array(probability)
    return np.sqrt(probability @ (losses - probability @ losses) ** 2)


@pytest.mark.parametrize("keep_prob", [0.1, 0.5, 0.9, 1.0])
def test_std_of_the_loss_is_that_over_all_masks(keep_prob):
    x, y, w, b = X[:3, :3], Y[:3, :2], W[:3, :2], W[:3, :2].T
    expected = enumerated_std(lambda mask: np.sum((y - (x * mask) @ w) ** 2), 3, 3, keep_prob)
    assert input_std(x, y, w, keep_prob) == pytest.approx(expected, rel=1e-10, abs=1e-10)
    a = A[:, :3]
    expected = enumerated_std(lambda mask: np.sum((y - ((x @ a.T) * mask) @ b.T) ** 2), 3, 3, keep_prob)
    assert input_std(x @ a.T, y, b.T, keep_prob) == pytest.approx(expected, rel=1e-10, abs=1e-10)


def test_std_of_the_loss_at_a_tiny_keep_probability_is_a_number():
    w = tikhonov.dropout_solution(X, Y, 1e-300, "input")
    assert 0 < input_std(X, Y, w, 1e-300) < 1e-100


@pytest.mark.parametrize("placement", ["output", "input"])
def test_draws_do_not_depend_on_the_chunks(placement, monkeypatch):
    whole = tikhonov.sampled_losses(X, Y, W, KEEP, placement, 50, np.random.default_rng(5))
    bottleneck = tikhonov.sampled_losses(X @ A.T, Y, B.T, KEEP, "input", 50, np.random.default_rng(5))
    assert whole.shape == bottleneck.shape == (50,)
    monkeypatch.setattr(masks, "CHUNK_ENTRIES", 7 * N * D)
    again = tikhonov.sampled_losses(X, Y, W, KEEP, placement, 50, np.random.default_rng(5))
    np.testing.assert_allclose(again, whole, rtol=1e-13)
    again = tikhonov.sampled_losses(X @ A.T, Y, B.T, KEEP, "input", 50, np.random.default_rng(5))
    np.testing.assert_allclose(again, bottleneck, rtol=1e-13)
    other = tikhonov.sampled_losses(X, Y, W, KEEP, placement, 50, np.random.default_rng(6))
    assert np.abs(other - whole).max() > 1


def test_nothing_dropped_is_the_plain_loss():
    samples = tikhonov.sampled_losses(X, Y, W, 1.0, "input", 5, np.random.default_rng(0))
    np.testing.assert_allclose(samples, np.sum((Y - X @ W) ** 2), rtol=1e-13)


def test_sample_mean():
    found = tikhonov.sample_mean([1.0, 2.0, 3.0, 6.0])
    assert found.mean == 3.0
    assert found.stderr == pytest.approx(np.sqrt(14 / 3) / 2)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: tikhonov.sampled_losses(X, Y, W, 0.0, "output", 5, np.random.default_rng(0)), r"keep_prob"),
        (lambda: tikhonov.sampled_losses(X, Y, W, 0.5, "output", 0, np.random.default_rng(0)), r"draws.*received 0"),
        (lambda: tikhonov.sampled_losses(X, Y, W, 0.5, "hidden", 5, np.random.default_rng(0)), r"placement.*hidden"),
        (lambda: tikhonov.sampled_losses(X, Y, W.T, 0.5, "input", 5, np.random.default_rng(0)), r"w: shape \(4, 6\)"),
        (lambda: tikhonov.sample_mean([1.0]), r"at least 2 draws.*received 1"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ArgumentError, match=words):
        call()
