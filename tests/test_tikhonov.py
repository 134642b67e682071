"""§3.1 for output and input masks: expected loss, minimiser, ridge and the nearest ridge."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from allora_analysis import tikhonov
from allora_analysis.tikhonov import enumeration, loss, minimiser, nearest, ridge, spread
from allora_analysis.validation import ArgumentError
from tests.brute_force import tikhonov as brute
from tests.stat_assert import assert_rejects

PLACEMENTS = ("output", "input")
KEEP = (0.05, 0.5, 0.8, 1.0)


def problem(seed, n, d, c):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), rng.standard_normal((n, c))


def designs():
    """Tall, wide (N < D), rank-deficient, with a zero column, square; N·C and N·D at most 10."""
    tall, _ = problem(0, 5, 2, 1)
    wide, _ = problem(1, 2, 4, 1)
    deficient = np.outer([1.0, -2.0, 0.5], [1.0, 2.0, -1.0])
    zero_column = np.column_stack([tall[:3, 0], np.zeros(3), tall[:3, 1]])
    return {"tall": tall, "wide": wide, "deficient": deficient, "zero column": zero_column, "square": np.eye(3) + 0.3}


DESIGNS = designs()
CASES = [(name, placement, p) for name in DESIGNS for placement in PLACEMENTS for p in KEEP]


def targets(x, c, seed=7):
    return np.random.default_rng(seed).standard_normal((len(x), c))


# --- the expected loss -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "placement", "p"), CASES)
def test_expected_loss_is_the_sum_over_all_masks(name, placement, p):
    x = DESIGNS[name]
    y = targets(x, 2)
    w = np.random.default_rng(3).standard_normal((x.shape[1], 2))
    exact = brute.LOSS[placement](x, y, w, p)
    assert tikhonov.expected_loss(x, y, w, p, placement) == pytest.approx(exact, rel=1e-12)
    assert tikhonov.enumerated_loss(x, y, w, p, placement) == pytest.approx(exact, rel=1e-12)


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


# --- the minimiser -----------------------------------------------------------------------------------------------


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


# --- ridge -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("penalty", [1e-3, 1.0, 50.0])
def test_ridge_is_the_normal_equations(name, penalty):
    x = DESIGNS[name]
    y = targets(x, 2)
    np.testing.assert_allclose(tikhonov.ridge_solution(x, y, penalty), brute.ridge(x, y, penalty), atol=1e-11)


@pytest.mark.parametrize("name", DESIGNS)
def test_ridge_at_both_ends(name):
    x = DESIGNS[name]
    y = targets(x, 2)
    np.testing.assert_allclose(tikhonov.ridge_solution(x, y, 0), np.linalg.pinv(x) @ y, atol=1e-12)
    np.testing.assert_array_equal(tikhonov.ridge_solution(x, y, math.inf), 0)


@pytest.mark.parametrize("of", ["weights", "fit"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_equal_spectrum_is_an_exact_ridge(placement, of):
    x = 2.0 * np.linalg.qr(problem(9, 6, 3, 1)[0])[0]
    y = targets(x, 2)
    penalty = tikhonov.exact_penalty(x, 0.8, placement, of)
    assert penalty == pytest.approx(4.0 * 0.25)  # λ = kc
    np.testing.assert_allclose(
        tikhonov.ridge_solution(x, y, penalty), tikhonov.dropout_solution(x, y, 0.8, placement), atol=1e-12
    )
    assert tikhonov.is_exact_ridge(x, placement, of)
    assert tikhonov.exact_penalty(x * [1, 1, 1.01], 0.8, placement, of) is None


def test_output_exactness_wants_the_non_zero_singular_values_only():
    basis = np.linalg.qr(problem(10, 6, 2, 1)[0])[0]
    x = 3.0 * basis @ np.linalg.qr(problem(11, 5, 2, 1)[0])[0].T
    y = targets(x, 2)
    penalty = tikhonov.exact_penalty(x, 0.5, "output")
    assert penalty == pytest.approx(9.0)
    np.testing.assert_allclose(
        tikhonov.ridge_solution(x, y, penalty), tikhonov.dropout_solution(x, y, 0.5, "output"), atol=1e-12
    )


def test_input_exactness_wants_equal_columns_and_a_zero_column_may_join():
    x = problem(12, 6, 3, 1)[0]
    x = 2.0 * x / np.linalg.norm(x, axis=0)
    y = targets(x, 2)
    for design in (x, np.column_stack([x, np.zeros(6)])):
        penalty = tikhonov.exact_penalty(design, 0.5, "input")
        assert penalty == pytest.approx(4.0)
        np.testing.assert_allclose(
            tikhonov.ridge_solution(design, y, penalty), tikhonov.dropout_solution(design, y, 0.5, "input"), atol=1e-12
        )
    assert not tikhonov.is_exact_ridge(x, "output")


def test_the_fit_of_a_single_sample_is_always_a_ridge_but_its_weights_are_not():
    x, y = np.array([[1.0, 2.0, 0.0, -0.5]]), np.array([[3.0, 1.0]])
    assert tikhonov.exact_penalty(x, 0.4, "input", "weights") is None
    penalty = tikhonov.exact_penalty(x, 0.4, "input", "fit")
    difference = tikhonov.ridge_solution(x, y, penalty) - tikhonov.dropout_solution(x, y, 0.4, "input")
    np.testing.assert_allclose(x @ difference, 0, atol=1e-12)
    assert np.abs(difference).max() > 0.01
    assert tikhonov.nearest_ridge(x, y, 0.4, "input").penalty == pytest.approx(penalty)


def test_the_fit_of_wide_designs_can_be_a_ridge_with_unequal_columns():
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    x, y = np.hstack([turn, 3.0 * turn.T]), targets(np.eye(2), 3)
    assert tikhonov.exact_penalty(x, 0.5, "input", "weights") is None
    assert tikhonov.exact_penalty(x, 0.5, "input", "fit") == pytest.approx(5.0)  # XXᵀ = 10 I, X diag(XᵀX)⁻¹Xᵀ = 2 I
    found = tikhonov.nearest_ridge(x, y, 0.5, "input")
    assert found.penalty == pytest.approx(5.0)
    assert found.distance < 1e-14
    generic = DESIGNS["wide"]
    assert tikhonov.exact_penalty(generic, 0.5, "input", "fit") is None
    assert tikhonov.nearest_ridge(generic, y, 0.5, "input").distance > 1e-4


@pytest.mark.parametrize("x", [np.zeros((2, 2)), problem(13, 4, 3, 1)[0]])
def test_exactness_without_dropout_or_design(x):
    keep_prob = 0.5 if not x.any() else 1.0
    assert tikhonov.exact_penalty(x, keep_prob, "input") == 0.0


# --- the nearest ridge -------------------------------------------------------------------------------------------

GRID = np.exp(np.linspace(-25, 25, 3001))


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("p", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("seed", range(3))
def test_nearest_ridge_beats_a_dense_grid(placement, p, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((9, 5)) * np.exp(rng.uniform(-4, 4, 5))
    y = rng.standard_normal((9, 2))
    fit = x @ tikhonov.dropout_solution(x, y, p, placement)
    found = tikhonov.nearest_ridge(x, y, p, placement)
    grid = brute.grid_distance(x, y, fit, GRID)
    assert found.distance <= grid.min() + 1e-9
    assert found.distance >= grid.min() - 2e-3  # the grid is as fine as that
    at = np.linalg.norm(fit - x @ tikhonov.ridge_solution(x, y, found.penalty)) / np.linalg.norm(fit)
    assert found.distance == pytest.approx(at, abs=1e-12)


@pytest.mark.parametrize(("small", "large", "expected"), [(1.0, 0.5, 1.0), (0.5, 1.0, 1e8)])
def test_nearest_ridge_finds_the_global_of_two_minima(small, large, expected):
    x, y = np.diag([1.0, 1e4]), np.diag([small, large])
    fit = x @ tikhonov.dropout_solution(x, y, 0.5, "output")
    grid = brute.grid_distance(x, y, fit, GRID)
    inner = (grid[1:-1] < grid[:-2]) & (grid[1:-1] < grid[2:])
    assert inner.sum() == 2  # a local search from the wrong end stops at the other
    found = tikhonov.nearest_ridge(x, y, 0.5, "output")
    assert found.penalty == pytest.approx(expected, rel=1e-6)
    assert found.distance == pytest.approx(min(small, large) / math.hypot(small, large), rel=1e-6)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), p=st.floats(0.02, 0.98), scale=st.floats(-6, 6))
def test_nearest_ridge_moves_with_the_square_of_the_design(seed, p, scale):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((6, 3)), rng.standard_normal((6, 2))
    one = tikhonov.nearest_ridge(x, y, p, "output")
    other = tikhonov.nearest_ridge(x * 10.0**scale, 5 * y, p, "output")
    assert other.distance == pytest.approx(one.distance, abs=1e-10)
    assert 0 <= one.distance <= 1
    s = np.linalg.svd(x, compute_uv=False)
    k = (1 - p) / p
    assert k * s[-1] ** 2 * (1 - 1e-9) <= one.penalty <= k * s[0] ** 2 * (1 + 1e-9)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_nearest_ridge_is_exact_where_claimed(placement):
    x = 0.5 * np.linalg.qr(problem(14, 7, 4, 1)[0])[0]
    y = targets(x, 3)
    found = tikhonov.nearest_ridge(x, y, 0.3, placement)
    assert found.distance < 1e-14
    assert found.penalty == pytest.approx(0.7 / 0.3 * 0.25, rel=1e-9)


def test_nearest_ridge_at_both_ends():
    x, y = problem(15, 6, 3, 2)
    least_squares = x @ tikhonov.ridge_solution(x, y, 0)
    assert tikhonov.nearest_ridge(x, y, 1.0, "input") == tikhonov.NearestRidge(0.0, 0.0)
    above = tikhonov.nearest_ridge_to_fit(x, y, 2 * least_squares)
    assert above.penalty == 0
    assert above.distance == pytest.approx(0.5)
    below = tikhonov.nearest_ridge_to_fit(x, y, -least_squares)
    assert below == tikhonov.NearestRidge(math.inf, 1.0)


def test_nearest_ridge_where_nothing_can_be_fitted():
    x, y = np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])
    assert tikhonov.nearest_ridge(x, y, 0.5, "output") == tikhonov.NearestRidge(0.0, 0.0)
    assert tikhonov.nearest_ridge_to_fit(x, y, y) == tikhonov.NearestRidge(0.0, 1.0)


def test_nearest_ridge_with_extreme_keep_probability():
    x, y = problem(16, 6, 3, 2)
    for p in (1e-12, 1e-100, 1 - 1e-12):
        found = tikhonov.nearest_ridge(x, y, p, "output")
        s = np.linalg.svd(x, compute_uv=False)
        assert (1 - p) / p * s[-1] ** 2 * 0.99 <= found.penalty <= (1 - p) / p * s[0] ** 2 * 1.01


# --- shapes and bad input ----------------------------------------------------------------------------------------


def test_wrong_shapes_are_rejected_by_the_hook(request):
    if not request.config.option.untyped:
        x, wrong = np.ones((3, 2)), np.ones((4, 1))
        for call in (
            lambda: loss.output_penalty(x, wrong),
            lambda: ridge.ridge_weights(x, wrong, 1.0),
            lambda: minimiser.input_weights(x, wrong, 0.5),
            lambda: nearest.nearest_to_fit(x, np.ones((3, 1)), wrong),
            lambda: enumeration.expectation(np.ones(3), wrong[:, :, None]),
            lambda: spread.dropout_fit(x, wrong, 0.5, "output", 1),
        ):
            with pytest.raises(TypeCheckError):
                call()


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
        (lambda: tikhonov.nearest_ridge_to_fit(X, Y, Y.T), r"fit: shape \(1, 3\).*3 × 1"),
        (
            lambda: tikhonov.enumerated_loss(np.ones((9, 2)), np.ones((9, 2)), np.ones((2, 2)), 0.5, "input"),
            r"at most 16",
        ),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ArgumentError, match=words):
        call()
