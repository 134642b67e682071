"""ASF-LoRA's output function and ALLoRA-OD's factor over Gaussian inputs, against autograd, mpmath and sampling."""

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis import adaptive
from allora_analysis.validation import ArgumentError
from tests.brute_force import adaptive as brute
from tests.stat_assert import assert_mean, assert_rejects

sizes = st.floats(-1e6, 1e6).filter(lambda v: v == 0 or abs(v) > 1e-9)
etas = st.floats(0.05, 50.0)


@settings(deadline=None, max_examples=100)
@given(sizes, etas)
def test_asf_bounds(f, eta):
    value, slope = float(adaptive.asf(f, eta)), float(adaptive.asf_derivative(f, eta))
    d, limit = (abs(f) + eta**-2) ** -0.5, min(eta * abs(f), abs(f) ** 0.5)
    assert value == pytest.approx(f * d, rel=1e-12)
    assert limit / 2**0.5 <= abs(value) * (1 + 1e-12)
    assert abs(value) <= limit * (1 + 1e-12)
    assert d / 2 * (1 - 1e-9) <= slope <= d * (1 + 1e-12)
    assert float(adaptive.asf(-f, eta)) == -value


@settings(deadline=None, max_examples=50)
@given(sizes, sizes, etas)
def test_asf_is_monotone(f, other, eta):
    low, high = sorted((f, other))
    assert float(adaptive.asf(low, eta)) <= float(adaptive.asf(high, eta))


def test_asf_derivative_is_autograds(rng):
    f = rng.standard_normal(50) * 10.0 ** rng.uniform(-4, 4, 50)
    for eta in (0.3, 1.0, 5.0):
        t = torch.tensor(f, requires_grad=True)
        (t / (t.abs() + eta**-2).sqrt()).sum().backward()
        np.testing.assert_allclose(adaptive.asf_derivative(f, eta), t.grad.numpy(), rtol=1e-12)
        assert not np.allclose(adaptive.asf_derivative(f, eta), (np.abs(f) + eta**-2) ** -0.5, rtol=1e-3)
    assert float(adaptive.asf_derivative(0.0, 3.0)) == 3.0


def test_no_matrix_serves_the_pair(rng):
    a, b = rng.standard_normal((2, 5)), rng.standard_normal((4, 2))
    pair = adaptive.unmergeable_pair(a, b, 2.0)
    np.testing.assert_array_equal(pair.twice, 2 * pair.x)
    inputs = np.array([pair.x, pair.twice])
    outputs = np.array([(b @ a @ x) / np.sqrt(np.abs(b @ a @ x) + 0.25) for x in inputs])
    residual = outputs - inputs @ np.linalg.lstsq(inputs, outputs, rcond=None)[0]
    # The best matrix errs by gap·‖2f̃(x)‖/√5: the distance of (1, 2)-proportional outputs.
    assert np.linalg.norm(residual) == pytest.approx(pair.gap * 2 * np.linalg.norm(outputs[0]) / 5**0.5, rel=1e-9)
    assert pair.gap > 0.05
    # LoRA's own output passes the same test: the gap is ASF's, not the test's.
    linear = inputs @ (b @ a).T
    assert np.linalg.norm(linear - inputs @ np.linalg.lstsq(inputs, linear, rcond=None)[0]) < 1e-12


@pytest.mark.parametrize("eta", [1e-3, 1.0, 40.0])
@pytest.mark.parametrize("scale", [1e-200, 1e-20, 1e-6, 1.0, 1e6, 1e200])
def test_the_gap_has_all_digits_at_every_scale(scale, eta):
    a, b = [[0.6, -0.8]], [[1.0 * scale], [0.0], [-0.3 * scale]]
    pair = adaptive.unmergeable_pair(a, b, eta)
    with mpmath.workdps(500):
        c, f = 1 / mpmath.mpf(eta) ** 2, [mpmath.mpf(scale), 3 * mpmath.mpf(scale) / 10]
        once = [2 * s / mpmath.sqrt(s + c) for s in f]
        apart = [2 * s / mpmath.sqrt(2 * s + c) - one for s, one in zip(f, once, strict=True)]
        expected = mpmath.norm(apart) / mpmath.norm(once)
    assert pair.gap == pytest.approx(float(expected), rel=1e-12, abs=0)
    assert pair.gap > 0


def test_the_gap_of_a_small_adapter():
    assert adaptive.unmergeable_pair([[1e-10, 0]], [[1e-10]], 1.0).gap == pytest.approx(5e-21, rel=1e-12, abs=0)


def test_asf_of_a_large_output():
    assert float(adaptive.asf(-1e300, 1e10)) == pytest.approx(-1e150, rel=1e-15)
    assert float(adaptive.asf_derivative(1e300, 1e10)) == pytest.approx(5e-151, rel=1e-12, abs=0)


@pytest.mark.parametrize("sigma", [1e-9, 1e-3, 0.3, 1.0, 20.0, 1e4, 1e8, 1e12, 1e30, 1e50, 1e150, 1e300])
@pytest.mark.parametrize("eta", [0.5, 1.0, 2.0])
def test_output_factor_is_mpmaths(sigma, eta):
    found = adaptive.output_factor(sigma, eta)
    mean, variance, along = brute.factor_over_outputs(sigma, eta)
    assert found.mean == pytest.approx(mean, rel=1e-12, abs=0)
    assert found.variance == pytest.approx(variance, rel=1e-10, abs=0)
    assert found.along == pytest.approx(along, rel=1e-12, abs=0)


@settings(deadline=None, max_examples=50)
@given(st.floats(1e-6, 1e6), etas)
def test_output_factor_orders(sigma, eta):
    found = adaptive.output_factor(sigma, eta)
    assert 0 < found.along < found.mean < eta
    assert found.mean > (sigma + eta**-2) ** -0.5
    assert found.variance > 0


def test_output_factor_at_zero():
    assert adaptive.output_factor(0.0, 2.0) == adaptive.OutputFactor(2.0, 0.0, 2.0)


@pytest.mark.statistical
def test_expected_update_of_the_output_dependent_rule(rng):
    """E[d(|f|)(p − t)·x xᵀ] over Gaussian inputs is the closed form, and no multiple of p − t."""
    p, t, eta, n = np.array([1.5, -0.5, 0.2]), np.array([0.3, 1.0, -0.7]), 2.0, 400_000
    x = rng.standard_normal((n, 3))
    samples = ((np.abs(x @ p) + eta**-2) ** -0.5 * (x @ (p - t)))[:, None] * x
    size = np.linalg.norm(p)
    moments = adaptive.output_factor(size, eta)
    u = p / size
    expected = (p - t) @ (moments.mean * (np.eye(3) - np.outer(u, u)) + moments.along * np.outer(u, u))
    assert_mean(samples, expected, smallest_error=0.05)
    parallel = (p - t) * (expected @ (p - t)) / ((p - t) @ (p - t))
    assert np.abs(parallel - expected).max() > 0.1
    assert_rejects(assert_mean, samples, parallel, smallest_error=0.05)
    # ALLoRA's own factor, the same for every token, is rejected too.
    assert_rejects(assert_mean, samples, (size + eta**-2) ** -0.5 * (p - t), smallest_error=0.05)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: adaptive.asf([1.0], 0.0), "eta"),
        (lambda: adaptive.asf([np.inf], 1.0), "finite"),
        (lambda: adaptive.asf_derivative([np.nan], 1.0), "finite"),
        (lambda: adaptive.unmergeable_pair([[1.0]], [[0.0]], 1.0), "BA is 0"),
        (lambda: adaptive.output_factor(-1.0, 1.0), "sigma"),
        (lambda: adaptive.output_factor(1.0, -1.0), "eta"),
        (lambda: adaptive.output_factor(1.0, 1e200), r"eta² .* at most 1e307, received 1e\+200"),
        (lambda: adaptive.output_factor(1e300, 1e10), r"eta²·sigma must be at most 1e307, .* sigma 1e\+300"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
