"""§3.1 for output and input masks: expected loss and minimizer; any units; shapes and bad input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis import tikhonov
from allora_analysis.dropout_sgd import stationary_moments, trajectory
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


# -- squares that overflow or vanish


@pytest.mark.bad_input
@pytest.mark.parametrize("size", [1e-170, 1e160])
def test_a_penalty_that_is_no_number_is_refused(size):
    with pytest.raises(ArgumentError, match="the result leaves double"):
        tikhonov.nearest_ridge([[size], [size]], [[2.0], [4.0]], 0.5, "output")


@pytest.mark.parametrize("size", [1e-170, 1e160])
def test_the_nearest_ridge_does_not_depend_on_the_targets_unit(size):
    x, y = np.diag([1.0, 2.0]), np.array([[1.0], [-0.5]])
    expected, found = (tikhonov.nearest_ridge(x, scale * y, 0.5, "output") for scale in (1.0, size))
    assert found.penalty == pytest.approx(expected.penalty, rel=1e-12)
    assert found.distance == pytest.approx(expected.distance, rel=1e-12)


@pytest.mark.parametrize("size", [1.0, 1e200])
def test_a_tiny_column_that_meets_a_huge_row(size):
    """XW = 1 + 3, and the input masks add 1 and 9."""
    x, w = [[1 / size, 2.0]], [[size], [1.5]]
    assert tikhonov.expected_loss(x, [[0.0]], w, 0.5, "input") == pytest.approx(16.0 + 10.0, rel=1e-12)


@pytest.mark.bad_input
def test_a_keep_probability_without_an_inverse_is_refused():
    with pytest.raises(ArgumentError, match="keep_prob"):
        tikhonov.expected_loss([[1.0]], [[1.0]], [[0.0]], 1e-310, "output")


@pytest.mark.parametrize(("placement", "shared"), [("output", False), ("input", False), ("input", True)])
@pytest.mark.parametrize("keep_prob", [0.8, 1.0])
@pytest.mark.parametrize("scale", [1.0, 1e-7, 1e-8, 1e-10, 1e-12, 1e-13])
def test_the_stationary_mean_is_the_minimiser_whatever_the_columns_scales(rng, placement, shared, keep_prob, scale):
    x, y = rng.standard_normal((10, 2)) * [1, scale], rng.standard_normal((10, 1))
    expected = brute.exact_minimiser(x, y, keep_prob, placement)

    def close(mean):
        np.testing.assert_allclose(mean, expected, rtol=1e-9)

    close(stationary_moments(x, y, keep_prob, 0.01, placement, shared_mask=shared).mean)
    close(tikhonov.dropout_solution(x, y, keep_prob, placement))
    assert_rejects(close, expected * [[1], [0]])  # the small column left out


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("drop_rate", [0.5, 1e-8, 1e-12, 1e-14, 2.3e-16])
def test_the_stationary_mean_of_a_column_given_twice(rng, drop_rate, shared):
    """However few masks there are, H is invertible, with a condition of about 1/k, and both copies share the weight."""
    x, y = rng.standard_normal((6, 2))[:, [0, 0, 1]], rng.standard_normal((6, 1))
    found = stationary_moments(x, y, 1 - drop_rate, 0.01, "input", shared_mask=shared).mean
    np.testing.assert_allclose(found, brute.exact_minimiser(x, y, 1 - drop_rate, "input"), rtol=1e-9)


def test_without_masks_the_stationary_mean_has_the_minimum_norm(rng):
    x, y = np.repeat(rng.standard_normal((10, 1)), 2, axis=1), rng.standard_normal((10, 1))
    for placement in ("output", "input"):
        found = stationary_moments(x, y, 1.0, 0.01, placement).mean
        np.testing.assert_allclose(found, np.linalg.pinv(x) @ y, rtol=1e-10)


@pytest.mark.parametrize("placement", ["output", "input"])
def test_a_variance_that_is_0_is_not_below_it(placement):
    """One row drawn again and again, or equal ones: nothing varies."""
    one = trajectory([[1.3]], [[0.7]], 1.0, 0.05, 50, placement, batch_size=1)
    equal = trajectory(1.1 * np.ones((7, 1)), 0.3 * np.ones((7, 1)), 1.0, 0.01, 50, placement, batch_size=3)
    for run in (one, equal):
        assert 0 <= run.covariance_trace.min() <= run.covariance_trace.max() < 1e-15


def test_a_large_c_is_enumerated_column_by_column(rng):
    x, y, w = (rng.standard_normal(shape) for shape in ((3, 2), (3, 400), (2, 400)))
    assert tikhonov.enumerated_loss(x, y, w, 0.7, "input") == pytest.approx(
        tikhonov.expected_loss(x, y, w, 0.7, "input"), rel=1e-12
    )


@pytest.mark.parametrize("exponent", [-1000, -560, 560, 1000])
def test_a_standard_error_in_any_unit(exponent):
    one, other = (tikhonov.sample_mean(unit * np.array([1.0, 2.0, 4.0])) for unit in (1.0, 2.0**exponent))
    assert (other.mean, other.stderr) == (2.0**exponent * one.mean, 2.0**exponent * one.stderr)


@pytest.mark.parametrize("placement", ["input", "output"])
@pytest.mark.parametrize(
    ("x", "w", "expected"), [(1e-165, 1.0, 1e-30), (1e-135, 1e-135, 1e-240), (1e160, 1e-160, 1e300)]
)
def test_a_penalty_whose_square_alone_vanishes(x, w, expected, placement):
    """k = 1e300 times (xw)²."""
    assert tikhonov.expected_loss([[x]], [[0.0]], [[w]], 1e-300, placement) == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize("keep_prob", [1e-20, 1e-33, 1e-100])
@pytest.mark.parametrize("placement", ["input", "output"])
def test_all_masks_where_nearly_all_is_dropped(keep_prob, placement):
    problem = [[1.0, 2.0], [3.0, -1.0]], [[1.0], [0.5]], keep_prob, placement
    found, expected = tikhonov.enumerated_solution(*problem), tikhonov.dropout_solution(*problem)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert tikhonov.enumerated_solution([[0.0]], [[1.0]], keep_prob, placement) == 0.0
