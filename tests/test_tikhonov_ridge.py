"""§3.1 for output and input masks: ridge, where dropout is one, and the nearest."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis import tikhonov
from allora_analysis.tikhonov.ridge import nearest_to_fit
from tests.brute_force import tikhonov as brute
from tests.tikhonov_designs import DESIGNS, PLACEMENTS, problem, targets

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


def assert_exact(x, y, keep_prob, placement, penalty):
    """Dropout is the ridge of this penalty, weights and all, and the nearest ridge finds it."""
    w = tikhonov.dropout_solution(x, y, keep_prob, placement)
    np.testing.assert_allclose(tikhonov.ridge_solution(x, y, penalty), w, atol=1e-12)
    found = tikhonov.nearest_ridge(x, y, keep_prob, placement)
    assert found.penalty == pytest.approx(penalty)
    assert found.distance < 1e-12


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_equal_spectrum_is_an_exact_ridge(placement):
    x = 2.0 * np.linalg.qr(problem(9, 6, 3, 1)[0])[0]
    y = targets(x, 2)
    assert_exact(x, y, 0.8, placement, 4.0 * 0.25)  # λ = kc
    assert tikhonov.nearest_ridge(x * [1, 1, 1.01], y, 0.8, placement).distance > 1e-4


def test_output_exactness_wants_the_non_zero_singular_values_only():
    basis = np.linalg.qr(problem(10, 6, 2, 1)[0])[0]
    x = 3.0 * basis @ np.linalg.qr(problem(11, 5, 2, 1)[0])[0].T
    assert_exact(x, targets(x, 2), 0.5, "output", 9.0)


def test_input_exactness_wants_equal_columns_and_a_zero_column_may_join():
    x = problem(12, 6, 3, 1)[0]
    x = 2.0 * x / np.linalg.norm(x, axis=0)
    y = targets(x, 2)
    for design in (x, np.column_stack([x, np.zeros(6)])):
        assert_exact(design, y, 0.5, "input", 4.0)
    assert tikhonov.nearest_ridge(x, y, 0.5, "output").distance > 1e-4


def test_the_fit_of_a_single_sample_is_always_a_ridge_but_its_weights_are_not():
    x, y = np.array([[1.0, 2.0, 0.0, -0.5]]), np.array([[3.0, 1.0]])
    found = tikhonov.nearest_ridge(x, y, 0.4, "input")
    assert found.distance < 1e-12
    difference = tikhonov.ridge_solution(x, y, found.penalty) - tikhonov.dropout_solution(x, y, 0.4, "input")
    np.testing.assert_allclose(x @ difference, 0, atol=1e-12)
    assert np.abs(difference).max() > 0.01


def test_the_fit_of_wide_designs_can_be_a_ridge_with_unequal_columns():
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    x, y = np.hstack([turn, 3.0 * turn.T]), targets(np.eye(2), 3)
    found = tikhonov.nearest_ridge(x, y, 0.5, "input")
    assert found.penalty == pytest.approx(5.0)  # XXᵀ = 10 I, X diag(XᵀX)⁻¹Xᵀ = 2 I
    assert found.distance < 1e-14
    assert tikhonov.nearest_ridge(DESIGNS["wide"], y, 0.5, "input").distance > 1e-4


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
    above = nearest_to_fit(x, y, 2 * least_squares)
    assert above.penalty == 0
    assert above.distance == pytest.approx(0.5)
    below = nearest_to_fit(x, y, -least_squares)
    assert below == tikhonov.NearestRidge(math.inf, 1.0)


@pytest.mark.parametrize("seed", range(16))
def test_nearest_ridge_of_any_fit_beats_a_dense_grid(seed):
    """Parts of either sign, or 0 and no more than least squares has: minima beyond every term's own."""
    rng = np.random.default_rng(seed)
    x, y = np.diag(np.exp(rng.uniform(-3, 3, 4))), np.diag(rng.uniform(0.1, 1, 4))
    fit = y * rng.uniform(-1, 2, 4).clip(*(0, 1) if seed % 2 else (-1, 2))
    found, grid = nearest_to_fit(x, y, fit), brute.grid_distance(x, y, fit, GRID)
    assert grid.min() - 2e-3 <= found.distance <= min(grid.min() + 1e-9, 1)


@pytest.mark.parametrize("outside", [1e-3, 0.5, 20.0])
def test_what_no_ridge_reaches_is_in_the_distance(outside):
    """Z = XW + R, XᵀR = 0: the distance is that of XW and R's own, as the sides of a right triangle."""
    x, y = problem(17, 6, 3, 2)
    inside = x @ tikhonov.dropout_solution(x, y, 0.5, "input")
    rest = outside * (y - x @ tikhonov.ridge_solution(x, y, 0.0))
    alone, found = (nearest_to_fit(x, y, fit) for fit in (inside, inside + rest))
    assert found.penalty == pytest.approx(alone.penalty, rel=1e-9)
    size = np.linalg.norm(inside)
    told = math.hypot(alone.distance * size, np.linalg.norm(rest)) / math.hypot(size, np.linalg.norm(rest))
    assert found.distance == pytest.approx(told, rel=1e-9)


def test_nearest_ridge_where_nothing_can_be_fitted():
    x, y = np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])
    assert tikhonov.nearest_ridge(x, y, 0.5, "output") == tikhonov.NearestRidge(0.0, 0.0)
    assert nearest_to_fit(x, y, y) == tikhonov.NearestRidge(0.0, 1.0)


def test_nearest_ridge_with_extreme_keep_probability():
    x, y = problem(16, 6, 3, 2)
    for p in (1e-12, 1e-100, 1 - 1e-12):
        found = tikhonov.nearest_ridge(x, y, p, "output")
        s = np.linalg.svd(x, compute_uv=False)
        assert (1 - p) / p * s[-1] ** 2 * 0.99 <= found.penalty <= (1 - p) / p * s[0] ** 2 * 1.01
