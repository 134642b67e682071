"""§3.1 for output and input masks: expected loss and minimizer; shapes and bad input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis import tikhonov
from allora_analysis.validation import ArgumentError
from tests.brute_force import tikhonov as brute
from tests.stat_assert import assert_rejects
from tests.tikhonov_designs import CASES, DESIGNS, PLACEMENTS, problem, targets

# --- the expected loss -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "placement", "p"), CASES)
def test_expected_loss_is_the_sum_over_all_masks(name, placement, p):
    x = DESIGNS[name]
    y = targets(x, 2)
    w = np.random.default_rng(3).standard_normal((x.shape[1], 2))
    exact = brute.LOSS[placement](x, y, w, p)
    assert tikhonov.expected_loss(x, y, w, p, placement) == pytest.approx(exact, rel=1e-12)
    assert tikhonov.enumerated_loss(x, y, w, p, placement) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_where_w_is_0_masks_change_nothing(placement):
    x, y = problem(2, 3, 2, 2)
    assert tikhonov.expected_loss(x, y, np.zeros((2, 2)), 0.5, placement) == pytest.approx((y**2).sum(), rel=1e-14)


def test_planted_drop_rate_for_keep_probability_is_seen():
    x, y = problem(2, 3, 2, 2)
    w = np.ones((2, 2))
    assert tikhonov.expected_loss(x, y, w, 1 - 0.2, "output") != pytest.approx(
        brute.output_loss(x, y, w, 0.2), rel=1e-3
    )


def test_placements_are_not_confused():
    x, w = np.array([[1.0, 1.0], [1.0, 2.0], [0.0, 1.0]]), np.array([[1.0, 0.5], [1.0, 2.0]])
    y = targets(x, 2)
    assert tikhonov.expected_loss(x, y, w, 0.5, "output") > 1.05 * brute.input_loss(x, y, w, 0.5)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), p=st.floats(0.01, 1.0), placement=st.sampled_from(PLACEMENTS))
def test_expected_loss_scales_with_the_square_and_permutes(seed, p, placement):
    rng = np.random.default_rng(seed)
    x, y, w = rng.standard_normal((6, 4)), rng.standard_normal((6, 3)), rng.standard_normal((4, 3))
    value = tikhonov.expected_loss(x, y, w, p, placement)
    assert tikhonov.expected_loss(x, 3 * y, 3 * w, p, placement) == pytest.approx(9 * value)
    rows, columns = rng.permutation(6), rng.permutation(4)
    assert tikhonov.expected_loss(x[rows][:, columns], y[rows], w[columns], p, placement) == pytest.approx(value)
    assert value >= tikhonov.expected_loss(x, y, w, 1.0, placement) * (1 - 1e-12)


# --- the minimizer -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "placement", "p"), CASES)
def test_minimiser_is_the_generic_solver_s(name, placement, p):
    x = DESIGNS[name]
    y = targets(x, 1)
    reference = brute.quadratic_minimiser(lambda w: brute.LOSS[placement](x, y, w, p), (x.shape[1], 1))
    w = tikhonov.dropout_solution(x, y, p, placement)
    np.testing.assert_allclose(w, reference, atol=1e-9 * (1 + np.abs(reference).max()))
    np.testing.assert_allclose(tikhonov.enumerated_solution(x, y, p, placement), reference, atol=1e-9)


def test_minimiser_of_several_outputs_and_the_planted_transposition():
    x, y = problem(5, 3, 3, 3)
    reference = brute.quadratic_minimiser(lambda w: brute.output_loss(x, y, w, 0.6), (3, 3))
    np.testing.assert_allclose(tikhonov.dropout_solution(x, y, 0.6, "output"), reference, atol=1e-9)
    printed = 0.6 * np.linalg.inv(x.T @ x) @ y.T @ x
    assert_rejects(np.testing.assert_allclose, printed, reference, atol=1e-3)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    p=st.floats(0.05, 1.0),
    placement=st.sampled_from(PLACEMENTS),
    rank=st.integers(1, 4),
)
def test_minimiser_is_stationary_and_of_least_norm(seed, p, placement, rank):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((7, rank)) @ rng.standard_normal((rank, 5))
    y = rng.standard_normal((7, 2))
    w = tikhonov.dropout_solution(x, y, p, placement)
    s, k = x.T @ x, (1 - p) / p
    curvature = s / p if placement == "output" else s + k * np.diag(np.diag(s))
    scale = np.abs(x.T @ y).max()
    np.testing.assert_allclose(curvature @ w, x.T @ y, atol=1e-8 * scale)
    if placement == "output" or p == 1.0:  # else no column is 0 and the curvature is positive definite: W is unique
        rows = np.linalg.svd(x)[2][:rank]
        np.testing.assert_allclose(w - rows.T @ rows @ w, 0, atol=1e-6 * (1 + np.abs(w).max()))


def test_input_minimiser_does_not_depend_on_the_columns_scale():
    x, y = problem(6, 8, 3, 2)
    scale = np.array([1e-170, 1.0, 1e8])
    w = tikhonov.dropout_solution(x, y, 0.7, "input")
    np.testing.assert_allclose(tikhonov.dropout_solution(x * scale, y, 0.7, "input") * scale[:, None], w, rtol=1e-10)


def test_zero_design_gives_zero_weights():
    for placement in PLACEMENTS:
        np.testing.assert_array_equal(tikhonov.dropout_solution(np.zeros((3, 2)), np.ones((3, 1)), 0.5, placement), 0)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("p", [0.3, 1.0])
def test_reduced_rank_minimises_over_factors(placement, p):
    x, y = problem(8, 9, 4, 3)
    gram = x.T @ x if placement == "output" else np.diag(np.sum(x**2, axis=0))
    best = brute.reduced_rank_minimum(x, y, (1 - p) / p * gram, 2, 4, np.random.default_rng(0))
    w = tikhonov.reduced_rank_solution(x, y, p, 2, placement)
    assert np.linalg.matrix_rank(w, tol=1e-9) == 2
    assert tikhonov.expected_loss(x, y, w, p, placement) == pytest.approx(best, rel=1e-9)
    full = tikhonov.reduced_rank_solution(x, y, p, 3, placement)
    np.testing.assert_allclose(full, tikhonov.dropout_solution(x, y, p, placement), atol=1e-12)
    plain = np.linalg.svd(tikhonov.dropout_solution(x, y, p, placement))
    truncated = (plain[0][:, :2] * plain[1][:2]) @ plain[2][:2]  # W's own truncation ignores the loss
    assert tikhonov.expected_loss(x, y, truncated, p, placement) > best * (1 + 1e-6)


# --- shapes and bad input ----------------------------------------------------------------------------------------


X, Y, W = np.ones((3, 2)), np.ones((3, 1)), np.ones((2, 1))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: tikhonov.expected_loss(X, Y, W, 0.0, "output"), r"keep_prob.*\(0, 1\].*0\.0"),
        (lambda: tikhonov.expected_loss(X, Y, W, 1.5, "input"), r"keep_prob.*1\.5"),
        (lambda: tikhonov.expected_loss(X, Y, W.T, 0.5, "output"), r"w: shape \(1, 2\).*2 × 1"),
        (lambda: tikhonov.expected_loss(X, Y[:2], W, 0.5, "output"), r"y: shape \(2, 1\).*rows of x"),
        (lambda: tikhonov.expected_loss(X, Y, W, 0.5, "bottleneck"), r"placement.*output, input.*bottleneck"),
        (lambda: tikhonov.expected_loss(X * np.nan, Y, W, 0.5, "output"), r"x: every entry must be finite"),
        (lambda: tikhonov.dropout_solution(X[:0], Y[:0], 0.5, "output"), r"x: shape \(0, 2\)"),
        (lambda: tikhonov.dropout_solution(X, Y * np.inf, 0.5, "output"), r"y: every entry must be finite"),
        (lambda: tikhonov.dropout_solution(X, Y, 0.5, "latent"), r"placement.*latent"),
        (lambda: tikhonov.ridge_solution(X, Y, -1.0), r"penalty must be a number in \[0, ∞\], received -1"),
        (lambda: tikhonov.ridge_solution(X, Y, float("nan")), r"penalty.*nan"),
        (lambda: tikhonov.reduced_rank_solution(X, Y, 0.5, 2), r"rank must be at most min\(n1, n2\) = 1, received 2"),
        (lambda: tikhonov.exact_penalty(X, 0.5, "input", "weight"), r"of must be one of weights, fit"),
        (lambda: tikhonov.is_exact_ridge(X, "input", tolerance=-1.0), r"tolerance.*-1"),
        (lambda: tikhonov.nearest_ridge(X, Y, -0.1, "input"), r"keep_prob.*-0\.1"),
        (
            lambda: tikhonov.enumerated_loss(np.ones((9, 2)), np.ones((9, 2)), np.ones((2, 2)), 0.5, "input"),
            r"at most 16",
        ),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ArgumentError, match=words):
        call()
