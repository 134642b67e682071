"""Both stability limits against the spectral radius of the enumerated step; the limit t → ∞; averaging."""

import math

import numpy as np
import pytest

from allora_analysis.dropout_sgd import stability_limits, stationary_moments, trajectory
from allora_analysis.dropout_sgd.stability import CovarianceOperator
from allora_analysis.validation import ArgumentError
from tests.brute_force import dropout_sgd as brute_force
from tests.stat_assert import assert_rejects

CASES = [
    ("output", None, False),
    ("output", 2, False),
    ("input", None, False),
    ("input", 1, False),
    ("input", None, True),
]
DESIGNS = {
    "generic": np.array([[1.0, 0.4], [-0.3, 0.7], [0.5, 1.1]]),
    "one row": np.array([[1.0, 0.4]]),
    "a zero column": np.array([[1.0, 0.0], [0.5, 0.0]]),
    "one feature": np.array([[1.0], [0.4], [2.0]]),
    "rank one": np.array([[1.0, 2.0], [0.5, 1.0]]),
}


@pytest.mark.parametrize("keep_prob", [0.4, 0.9, 1.0])
@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize(("placement", "batch_size", "shared"), CASES)
def test_limits_equal_those_of_the_enumerated_step(placement, batch_size, shared, design, keep_prob):
    x = DESIGNS[design]
    found = stability_limits(x, keep_prob, placement, batch_size, shared_mask=shared)
    limit = brute_force.covariance_limit(x, keep_prob, placement, batch_size, shared)
    np.testing.assert_allclose(found.mean_square, limit, rtol=1e-9)
    gram, k = x.T @ x, (1 - keep_prob) / keep_prob
    curvature = gram + k * (gram if placement == "output" else np.diag(np.diag(gram)))
    np.testing.assert_allclose(found.mean, 1 / np.linalg.eigvalsh(curvature)[-1], rtol=1e-12)
    assert found.mean_square <= found.mean


@pytest.mark.parametrize(("placement", "batch_size", "shared"), CASES)
@pytest.mark.parametrize("scale", [1e-120, 1e-82, 1e-81, 1e77, 1e120])
def test_limits_in_any_unit(placement, batch_size, shared, scale):
    x = DESIGNS["generic"]
    expected, found = (stability_limits(s * x, 0.7, placement, batch_size, shared_mask=shared) for s in (1.0, scale))
    for name in ("mean", "mean_square"):
        in_units = getattr(found, name) * scale * scale
        assert in_units == pytest.approx(getattr(expected, name), rel=1e-9)


@pytest.mark.parametrize("placement", ["output", "input"])
@pytest.mark.parametrize("scale", [1e-100, 1e90])
def test_the_stationary_moments_in_any_unit(placement, scale):
    x, y = even_problem(1)
    rate = 0.5 * stability_limits(x, 0.7, placement).mean_square
    expected = stationary_moments(x, y, 0.7, rate, placement)
    found = stationary_moments(scale * x, scale * y, 0.7, rate / scale / scale, placement)
    for name in ("mean", "covariance", "covariance_trace", "average_covariance_rate"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-12)


@pytest.mark.bad_input
@pytest.mark.parametrize("placement", ["output", "input"])
def test_a_keep_probability_without_a_limit_is_refused(placement):
    assert 0 < stability_limits(DESIGNS["generic"], 1e-90, placement).mean_square < 1e-90
    with pytest.raises(ArgumentError, match="keep_prob: 1e-160 is too small"):
        stability_limits(DESIGNS["generic"], 1e-160, placement)


def test_nothing_moves_without_data():
    for placement in ("output", "input"):
        found = stability_limits(np.zeros((3, 2)), 0.5, placement)
        assert found.mean == found.mean_square == math.inf


@pytest.mark.parametrize(("placement", "batch_size", "shared"), CASES)
def test_the_covariance_stays_bounded_below_the_limit_and_grows_above_it(placement, batch_size, shared):
    x, y = DESIGNS["generic"], np.array([[1.0], [-1.0], [0.5]])
    options = {"batch_size": batch_size, "shared_mask": shared}
    limit = stability_limits(x, 0.5, placement, **options).mean_square
    below, above = (
        trajectory(x, y, 0.5, [factor * limit] * 120, 120, placement, **options).covariance_trace
        for factor in (0.8, 1.2)
    )
    assert below[120] < 1.001 * below[60]
    assert above[120] > 10 * above[60]


@pytest.mark.bad_input
@pytest.mark.parametrize(("placement", "batch_size", "shared"), CASES)
def test_a_constant_rate_past_the_limit_is_refused_with_both_limits(placement, batch_size, shared):
    x, y = DESIGNS["generic"], np.ones((3, 1))
    options = {"batch_size": batch_size, "shared_mask": shared}
    found = stability_limits(x, 0.6, placement, **options)
    assert found.mean_square < found.mean
    between = 0.5 * (found.mean_square + found.mean)
    words = rf"learning_rate.*so the covariance grows.*{found.mean_square:.6g}.*{found.mean:.6g}"
    with pytest.raises(ValueError, match=words):
        trajectory(x, y, 0.6, between, 3, placement, **options)
    with pytest.raises(ValueError, match="the mean and the covariance grow"):
        trajectory(x, y, 0.6, 1.01 * found.mean, 3, placement, **options)
    trajectory(x, y, 0.6, found.mean_square, 3, placement, **options)
    with pytest.raises(ValueError, match="learning_rate"):
        stationary_moments(x, y, 0.6, found.mean_square, placement, **options)


def even_problem(seed):
    """X (8×3) with singular values 1, 1.2 and 1.4, so that a hundred steps are long; Y standard normal."""
    generator = np.random.default_rng(seed)
    left, right = (np.linalg.qr(generator.standard_normal((size, 3)))[0] for size in (8, 3))
    return left * [1.0, 1.2, 1.4] @ right.T, generator.standard_normal((8, 1))


@pytest.mark.parametrize(("placement", "batch_size", "shared"), CASES)
def test_a_long_trajectory_reaches_the_stationary_moments(placement, batch_size, shared):
    x, y = even_problem(1)
    options = {"batch_size": batch_size, "shared_mask": shared}
    rate, steps = 0.5 * stability_limits(x, 0.7, placement, **options).mean_square, 160
    rest = stationary_moments(x, y, 0.7, rate, placement, **options)
    run = trajectory(x, y, 0.7, rate, steps, placement, **options)
    np.testing.assert_allclose(run.mean[-1], rest.mean, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(run.covariance, rest.covariance, rtol=1e-8, atol=1e-9 * rest.covariance_trace)
    assert rest.covariance_trace > 0
    # t·Cov of the average is its limit + c/t + what has died out by then.
    scaled = run.average_covariance_trace * np.arange(steps + 1)
    assert abs(scaled[steps] / rest.average_covariance_rate - 1) < 0.5
    np.testing.assert_allclose(2 * scaled[steps] - scaled[steps // 2], rest.average_covariance_rate, rtol=1e-6)


def test_a_wrong_stationary_equation_is_rejected(monkeypatch):
    right = CovarianceOperator.__call__
    monkeypatch.setattr(CovarianceOperator, "__call__", lambda self, inner: 0.95 * right(self, inner))
    assert_rejects(test_a_long_trajectory_reaches_the_stationary_moments, "output", None, False)
    assert_rejects(test_limits_equal_those_of_the_enumerated_step, "input", None, False, "generic", 0.4)


def test_averaging_recovers_the_regularised_optimum():
    x, y = even_problem(2)
    rate = 0.5 * stability_limits(x, 0.8, "input", shared_mask=True).mean_square
    optimum = stationary_moments(x, y, 0.8, rate, "input", shared_mask=True).mean
    run = trajectory(x, y, 0.8, rate, 400, "input", w_true=optimum, shared_mask=True)
    assert run.risk_average[400] < 0.55 * run.risk_average[200] < 0.3 * run.risk_average[50]
    assert run.risk_average[400] < 0.05 * run.risk[400]
    np.testing.assert_allclose(run.risk[400], run.risk[200], rtol=1e-6)


def test_stationary_moments_leave_out_what_never_moves():
    x, y = DESIGNS["a zero column"], np.array([[1.0], [2.0]])
    rest = stationary_moments(x, y, 0.5, 0.1, "input")
    assert rest.mean[1, 0] == 0
    assert np.abs(rest.covariance[0, 1]).max() == 0
    nothing = stationary_moments(0 * x, y, 0.5, 0.1, "output")
    assert nothing.covariance_trace == 0
    assert not nothing.mean.any()
