"""§3.1's "latent space": dropout between A and B, whose minimizer thresholds singular values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis import tikhonov
from allora_analysis.tikhonov import bottleneck
from allora_analysis.validation import ArgumentError
from tests.brute_force import tikhonov as brute


def gaussian(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def tied():
    """XX⁺Y with two equal singular values."""
    x = np.linalg.qr(gaussian(0, 4, 2))[0]
    return x, 1.5 * x


def cases():
    """(X, Y, keep_prob, r) by name; N·r at most 9."""
    x, y = gaussian(1, 4, 3), gaussian(2, 4, 3)
    steep = gaussian(3, 4, 2) @ np.diag([4.0, 0.3])
    return {
        "generic": (x, y, 0.6, 2),
        "rank 1": (x, y, 0.5, 1),
        "C below r": (x, y[:, :1], 0.5, 2),
        "r above the rank of the fit": (np.outer(gaussian(4, 4), [1.0, -2.0]), y, 0.5, 2),
        "N below D": (gaussian(5, 3, 5), gaussian(6, 3, 2), 0.7, 2),
        "r of full width": (gaussian(7, 3, 3), gaussian(8, 3, 3), 0.5, 3),
        "fewer active than r": (steep, steep @ gaussian(9, 2, 2) * 2, 0.2, 2),
        "tied": (*tied(), 0.5, 2),
        "tied at the cut": (*tied(), 0.5, 1),
        "no dropout": (x, y, 1.0, 2),
        "nearly all dropped": (x, y, 0.05, 2),
    }


CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_loss_is_the_sum_over_all_masks(name):
    x, y, p, rank = CASES[name]
    a, b = gaussian(10, rank, x.shape[1]), gaussian(11, y.shape[1], rank)
    exact = brute.bottleneck_loss(x, y, a, b, p)
    assert tikhonov.bottleneck_loss(x, y, a, b, p) == pytest.approx(exact, rel=1e-11)
    assert tikhonov.enumerated_bottleneck_loss(x, y, a, b, p) == pytest.approx(exact, rel=1e-11)


@pytest.mark.parametrize("name", CASES)
def test_solution_is_the_numerical_minimum_over_both_factors(name):
    x, y, p, rank = CASES[name]
    best = brute.bottleneck_minimum(x, y, p, rank, 4, np.random.default_rng(0))
    factors = tikhonov.bottleneck_factors(x, y, p, rank)
    attained = brute.bottleneck_loss(x, y, factors.a, factors.b, p)
    assert attained == pytest.approx(best, rel=1e-7)
    assert attained <= best * (1 + 1e-10)
    assert tikhonov.bottleneck_minimum(x, y, p, rank) == pytest.approx(attained, rel=1e-11)
    fit = tikhonov.bottleneck_solution(x @ np.linalg.pinv(x) @ y, p, rank)
    if name != "tied at the cut":  # there the minimizer is not unique
        np.testing.assert_allclose(x @ factors.a.T @ factors.b.T, fit, atol=1e-10)
    # The planted alternatives: uniform shrinkage, and the threshold as if all r were always active.
    if name in ("generic", "fewer active than r"):
        u, s, vt = np.linalg.svd(x @ np.linalg.pinv(x) @ y, full_matrices=False)
        k = (1 - p) / p
        wrong = np.maximum(s[:rank] - k * s[:rank].sum() / (rank + k * rank) * 0.9, 0)
        for shrunk in (p * s[:rank], wrong):
            loss = np.linalg.norm(y - (u[:, :rank] * shrunk) @ vt[:rank]) ** 2 + k / rank * shrunk.sum() ** 2
            assert loss > best * (1 + 1e-4)


def test_case_with_fewer_active_is_one():
    x, y, p, rank = CASES["fewer active than r"]
    assert np.linalg.matrix_rank(tikhonov.bottleneck_solution(x @ np.linalg.pinv(x) @ y, p, rank), tol=1e-10) == 1


@pytest.mark.parametrize("name", CASES)
def test_factors_are_equalised(name):
    x, y, p, rank = CASES[name]
    factors = tikhonov.bottleneck_factors(x, y, p, rank)
    left, right = np.linalg.norm(x @ factors.a.T, axis=0), np.linalg.norm(factors.b, axis=0)
    np.testing.assert_allclose(left, right, rtol=1e-9)
    np.testing.assert_allclose(left * right, (left * right).mean(), rtol=1e-9)


def test_enumerated_minimum_agrees():
    x, y, p, rank = CASES["generic"]
    found = tikhonov.enumerated_bottleneck_minimum(x, y, p, rank, 4, np.random.default_rng(1))
    assert found == pytest.approx(tikhonov.bottleneck_minimum(x, y, p, rank), rel=1e-8)


@settings(deadline=None, max_examples=60)
@given(
    values=st.lists(st.floats(0, 100) | st.sampled_from([0.0, 1.0]), min_size=1, max_size=7),
    p=st.floats(0.01, 1.0),
    rank=st.integers(1, 9),
)
def test_threshold_is_non_negative_least_squares(values, p, rank):
    k = (1 - p) / p
    kept = np.sort(values)[::-1][:rank]
    expected = brute.thresholded(np.array(values), k, rank)
    np.testing.assert_allclose(bottleneck.soft_threshold(kept, p, rank), expected, atol=1e-9 * (1 + max(values)))


@pytest.mark.parametrize("p", [1e-8, 1e-16, 1e-17, 1e-200, 1e-300])
@pytest.mark.parametrize("rank", [1, 3])
def test_a_small_keep_probability_shrinks_to_almost_nothing(p, rank):
    """Planted: no shrinkage at all, where the threshold rounds to σ. In exact terms t = rσ/(r + k)."""
    exact = 3.0 * rank / (rank + 1 / p)
    np.testing.assert_allclose(tikhonov.bottleneck_solution([[3.0]], p, rank), [[exact]], rtol=1e-7)
    np.testing.assert_allclose(tikhonov.bottleneck_minimum([[1.0]], [[3.0]], p, rank), 9.0, rtol=1e-6)
    equal = tikhonov.bottleneck_solution(np.diag([3.0, 3.0, 1.0]), p, 2)  # 1 is below every threshold
    np.testing.assert_allclose(equal, np.diag([6.0 / (2 + 2 / p)] * 2 + [0.0]), rtol=1e-7)
    factors = tikhonov.bottleneck_factors([[1.0]], [[3.0]], p, rank)
    np.testing.assert_allclose(factors.b @ factors.a, [[exact]], rtol=1e-7)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), rank=st.integers(1, 5), p=st.floats(0.05, 0.99))
def test_penalty_is_at_least_the_nuclear_norm_squared_over_the_width(seed, rank, p):
    rng = np.random.default_rng(seed)
    x, a, b = rng.standard_normal((6, 4)), rng.standard_normal((rank, 4)), rng.standard_normal((3, rank))
    product = x @ a.T @ b.T
    k = (1 - p) / p
    penalty = tikhonov.bottleneck_loss(x, product, a, b, p)
    assert penalty >= k / rank * np.linalg.norm(product, "nuc") ** 2 * (1 - 1e-10)


@settings(deadline=None, max_examples=40)
@given(values=st.lists(st.floats(0, 1e6), min_size=1, max_size=8), extra=st.integers(0, 9))
def test_equalising_rotation(values, extra):
    values = np.array(values)
    width = len(values) + extra
    q = bottleneck.equalising_rotation(values, width)
    np.testing.assert_allclose(q @ q.T, np.eye(len(values)), atol=1e-12)
    diagonal = np.einsum("ij,i,ij->j", q, values, q)
    np.testing.assert_allclose(diagonal, values.sum() / width, rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("u", [1e-8, 0.5, 1.0, 2.0, 1e8])
def test_a_rotation_of_any_angle_is_exact(u):
    """t² + (u − 1/u)t − 1 = (t + u)(t − 1/u): the tangent is 1/u."""
    size = np.hypot(1, u)
    told = [[u / size, -1 / size], [1 / size, u / size]]
    np.testing.assert_allclose(bottleneck._plane_rotation(1.0, 1.0, (u - 1 / u) / 2), told, rtol=1e-13)


def test_large_width_is_equalised_too():
    q = bottleneck.equalising_rotation(np.geomspace(1, 1e-12, 40), 256)
    diagonal = np.einsum("ij,i,ij->j", q, np.geomspace(1, 1e-12, 40), q)
    np.testing.assert_allclose(diagonal, diagonal.mean(), rtol=1e-11)


def test_uniform_shrinkage_by_keep_prob_wants_exactly_r_equal_singular_values():
    _, y = tied()
    np.testing.assert_allclose(tikhonov.bottleneck_solution(y, 0.3, 2), 0.3 * y, atol=1e-13)
    wider = tikhonov.bottleneck_solution(y, 0.3, 4)  # r/(r + kρ) in place of p
    np.testing.assert_allclose(wider, 4 / (4 + 2 * 0.7 / 0.3) * y, atol=1e-13)


def test_no_signal_gives_zero_factors():
    factors = tikhonov.bottleneck_factors(np.ones((3, 2)), np.array([[1.0], [-1.0], [0.0]]) * 0, 0.5, 2)
    np.testing.assert_array_equal(factors.a, 0)
    np.testing.assert_array_equal(factors.b, 0)
    np.testing.assert_array_equal(bottleneck.soft_threshold(np.zeros(2), 0.5, 2), 0)


X, Y, A, B = np.ones((3, 2)), np.ones((3, 1)), np.ones((2, 2)), np.ones((1, 2))
RNG = np.random.default_rng(0)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: tikhonov.bottleneck_loss(X, Y, A, B, 0.0), r"keep_prob"),
        (lambda: tikhonov.bottleneck_loss(X, Y, np.ones((2, 3)), B, 0.5), r"a: shape \(2, 3\).*any × 2"),
        (lambda: tikhonov.bottleneck_loss(X, Y, A, B.T, 0.5), r"b: shape \(2, 1\).*1 × 2"),
        (lambda: tikhonov.bottleneck_solution(Y, 0.5, 0), r"rank must be a whole number, 1 or above, received 0"),
        (lambda: tikhonov.bottleneck_solution(Y * np.nan, 0.5, 1), r"fitted: every entry must be finite"),
        (lambda: tikhonov.bottleneck_minimum(X, Y, 2.0, 1), r"keep_prob"),
        (lambda: tikhonov.bottleneck_factors(X, Y[:1], 0.5, 1), r"y: shape \(1, 1\)"),
        (lambda: tikhonov.bottleneck_factors(X, 0 * Y, 0.5, 12_000), r"rank: a rotation .* would need 1.07 GiB"),
        (lambda: tikhonov.enumerated_bottleneck_minimum(X, Y, 0.5, 1, 1001, RNG), r"starts .* 1000.*received 1001"),
        (lambda: tikhonov.enumerated_bottleneck_loss(np.ones((9, 2)), np.ones((9, 1)), A, B, 0.5), r"at most 16"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ArgumentError, match=words):
        call()
