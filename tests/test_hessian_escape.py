"""§3.2: which starts are critical points, and how gradient flow leaves zero."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis import hessian
from tests.brute_force import hessian as reference
from tests.stat_assert import assert_mean, assert_rejects


@pytest.fixture
def layer(rng):
    """X (12×6), G (4×6), A (3×6), B (4×3)."""
    return tuple(rng.standard_normal(shape) for shape in ((12, 6), (4, 6), (3, 6), (4, 3)))


@pytest.mark.parametrize("zero_b", [True, False])
def test_factor_gradient_is_autograds(layer, zero_b):
    x, g, a, b = layer
    b = 0 * b if zero_b else b
    of_b, of_a, _ = reference.factor_derivatives(x, g, a, b)
    at_point = g + 2 * b @ a @ x.T @ x  # ∂L/∂(BA) there
    found = hessian.factor_gradient(at_point, a, None if zero_b else b)
    np.testing.assert_allclose(found[0], of_b, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found[1], of_a, rtol=1e-10, atol=1e-10)
    assert (not found[1].any()) == zero_b


def test_is_stationary(layer):
    _, g, a, b = layer
    assert not hessian.is_stationary(g, a)  # LoRA's start
    assert not hessian.is_stationary(g, 0 * a, b)  # the other usual one: A = 0, B random
    assert not hessian.is_stationary(g, a, b)
    assert hessian.is_stationary(g, 0 * a)
    assert hessian.is_stationary(g, 0 * a, 0 * b)
    assert hessian.is_stationary(0 * g, a, b)


def test_is_stationary_up_to_rounding(layer):
    _, g, _, _ = layer
    kernel = np.linalg.svd(g)[2][4:]  # two directions with Gv = 0 up to rounding
    assert np.any(g @ kernel.T)
    assert hessian.is_stationary(g, kernel)
    assert hessian.is_stationary(g, 1e-200 * kernel)
    assert not hessian.is_stationary(g, kernel + 1e-9)


@pytest.mark.parametrize("rank", [1, 3])
def test_escape_time_against_the_flow(rng, rank):
    # Singular values with a gap: the second direction leaves a trace of e^{−2(σ₁ − σ₂)t} in the first time.
    u, v = (np.linalg.qr(rng.standard_normal((size, 4)))[0] for size in (4, 6))
    x, g = rng.standard_normal((12, 6)), u * [3.0, 2.0, 1.0, 0.5] @ v.T
    # Near the unstable direction, so that it leads from the first of the two times on.
    a = 0.1 * rng.standard_normal((rank, 6)) - np.ones((rank, 1)) * v[:, 0]
    b = 0.1 * rng.standard_normal((4, rank)) + u[:, :1]
    assert hessian.escape_rate(g) == pytest.approx(np.linalg.norm(g, 2), rel=1e-12)
    size = 1e-3 * hessian.escape_rate(g)
    times = [hessian.simulated_escape_time(x, g, scale * a, scale * b, size) for scale in (1e-6, 1e-10)]
    # The constant next to log(1/ε) drops out of the difference.
    predicted = hessian.escape_time(g, 1e-10) - hessian.escape_time(g, 1e-6)

    def close(value):
        assert abs(times[1] - times[0] - value) < 5e-3 * predicted

    close(predicted)
    sigma = np.linalg.svd(g, compute_uv=False)
    assert_rejects(close, predicted * sigma[0] / sigma[1])
    assert_rejects(close, predicted / 2)


@pytest.mark.parametrize("start", [1e-3, 1e-13, 1e-20, 1e-100, 1e-290])
def test_escape_from_however_small_a_start(start):
    """L = P² − P from a = b: m = ab has ṁ = 2m(1 − 2m), so t = ½ log[m(1 − 2m₀)/((1 − 2m)m₀)]."""
    m, log_first = 0.4, 2 * math.log(start)
    exact = 0.5 * (math.log(m / (1 - 2 * m)) - log_first + math.log1p(-2 * start**2))
    found = hessian.simulated_escape_time([[1.0]], [[-1.0]], [[start]], [[start]], m)
    assert found == pytest.approx(exact, rel=1e-7)


def test_from_a_random_a_the_time_is_finite_at_zero(layer):
    x, g, a, _ = layer
    size = 1e-6 * np.linalg.norm(g @ a.T @ a)
    time = hessian.simulated_escape_time(x, g, a, np.zeros((4, 3)), size)
    # First order: BA = −t GAᵀA.
    assert time == pytest.approx(1e-6, rel=0.01)
    assert hessian.simulated_escape_time(x, g, 0 * a, np.zeros((4, 3)), size) is None  # stationary: never


def test_loss_falls_at_first_order_from_lora_start(layer):
    x, g, a, _ = layer
    step = 1e-7
    b = -step * hessian.factor_gradient(g, a)[0]
    loss = (g * (b @ a)).sum() + ((x @ (b @ a).T) ** 2).sum()
    assert loss == pytest.approx(-step * np.linalg.norm(g @ a.T) ** 2, rel=1e-3)


@pytest.mark.statistical
@pytest.mark.parametrize(("n2", "rank", "a_std"), [(6, 1, 0.5), (8, 3, 0.3), (4, 4, 2.0)])
def test_initial_speed_ratio(rng, n2, rank, a_std):
    g = rng.standard_normal((4, n2))
    a = a_std * rng.standard_normal((60_000, rank, n2))
    squares = ((g @ a.transpose(0, 2, 1) @ a) ** 2).sum((1, 2)) / (g**2).sum()
    expected = hessian.initial_speed_ratio(n2, rank, a_std) ** 2
    assert_mean(squares, expected, smallest_error=0.12 * expected)
    wrong = a_std**4 * rank * (n2 + 2 * rank + 2)
    assert_rejects(assert_mean, squares, wrong, smallest_error=0.12 * expected)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(1e-12, 1.0), st.floats(0.1, 10))
def test_escape_scales_with_the_gradient(seed, epsilon, scale):
    g = np.random.default_rng(seed).standard_normal((3, 5))
    assert hessian.escape_rate(scale * g) == pytest.approx(scale * hessian.escape_rate(g), rel=1e-12)
    assert hessian.escape_time(scale * g, epsilon) == pytest.approx(hessian.escape_time(g, epsilon) / scale, abs=1e-12)
    lowest = hessian.factor_spectrum(np.eye(5), g, np.zeros((2, 5)))[0]
    assert hessian.escape_rate(g) == pytest.approx(-lowest, rel=1e-12)


def test_nothing_to_escape_from():
    assert hessian.escape_rate(np.zeros((2, 3))) == 0
    assert hessian.escape_time(np.zeros((2, 3)), 0.1) == math.inf
    assert hessian.escape_time(np.eye(2), 1.0) == 0


G, A, B = np.ones((2, 3)), np.ones((1, 3)), np.ones((2, 1))
BAD = [
    (lambda: hessian.factor_gradient(G, np.ones((1, 2))), "a: shape"),
    (lambda: hessian.factor_gradient(G, A, np.ones((3, 1))), "b: shape"),
    (lambda: hessian.is_stationary(G, np.ones((3, 3))), "rank must be at most"),
    (lambda: hessian.escape_rate(np.array([[np.nan]])), "g: every entry"),
    (lambda: hessian.escape_time(G, 2.0), r"epsilon must be in \(0, 1\], received 2.0"),
    (lambda: hessian.escape_time(G, 0.0), "epsilon must be"),
    (lambda: hessian.initial_speed_ratio(0, 1, 1.0), "n2 must be"),
    (lambda: hessian.initial_speed_ratio(4, 1, -1.0), "a_std must be"),
    (lambda: hessian.simulated_escape_time(np.eye(3), G, A, B, 0.0), "size must be"),
    (lambda: hessian.simulated_escape_time(np.eye(3), G, A, np.ones((2, 2)), 1.0), "b: shape"),
]


@pytest.mark.bad_input
@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
