"""The simulation against the closed forms, at a fixed number of replicas and with stated power."""

import numpy as np
import pytest

from allora_analysis.dropout_sgd import monte_carlo, simulate, stability_limits, trajectory
from tests.stat_assert import assert_mean, assert_rejects

N, D, C, STEPS, REPLICAS = 6, 3, 2, 12, 20_000
CASES = [
    ("output", None, False),
    ("output", 4, False),
    ("input", None, False),
    ("input", 4, False),
    ("input", None, True),
]


def problem():
    generator = np.random.default_rng(0)
    x = generator.standard_normal((N, D))
    return x, x @ np.ones((D, C)) + generator.standard_normal((N, C)), np.ones((D, C))


def squares(values):
    return np.einsum("rdc,rdc->r", values, values)


@pytest.mark.statistical
@pytest.mark.parametrize(("placement", "batch_size", "shared"), CASES)
def test_simulated_moments_are_the_predicted_ones(placement, batch_size, shared, rng):
    x, y, w_true = problem()
    options = {"batch_size": batch_size, "shared_mask": shared}
    rate = 0.3 * stability_limits(x, 0.7, placement, **options).mean_square
    run = trajectory(x, y, 0.7, rate, STEPS, placement, w_true=w_true, **options)
    twin = simulate(x, y, 0.7, rate, STEPS, placement, replicas=REPLICAS, generator=rng, record=(3, STEPS), **options)
    for i, t in enumerate((3, STEPS)):
        spread = np.sqrt(run.covariance_trace[t])
        assert_mean(twin.iterates[i], run.mean[t], smallest_error=0.06 * spread)
        variance, size = squares(twin.iterates[i] - run.mean[t]), run.covariance_trace[t]
        assert_mean(variance, size, smallest_error=0.15 * size)
        assert_rejects(assert_mean, variance, 1.3 * size, smallest_error=0.15 * size)
        average, size = squares(twin.averages[i] - run.average_mean[t]), run.average_covariance_trace[t]
        assert_mean(average, size, smallest_error=0.15 * size)
        assert_mean(squares(twin.iterates[i] - w_true), run.risk[t], smallest_error=0.1 * run.risk[t])
        assert_mean(squares(twin.averages[i] - w_true), run.risk_average[t], smallest_error=0.1 * run.risk_average[t])
    # The other placement's covariance, and that of independent masks for shared ones, is not this one's.
    other = trajectory(x, y, 0.7, 0.5 * rate, STEPS, "output" if placement == "input" else "input")
    wrong = (rate / (0.5 * rate)) ** 2 * other.covariance_trace[STEPS]
    assert_rejects(assert_mean, squares(twin.iterates[1] - run.mean[STEPS]), wrong, smallest_error=0.15 * size + wrong)


@pytest.mark.statistical
def test_reported_estimates_agree_within_their_standard_errors(rng):
    x, y, w_true = problem()
    rate = 0.3 * stability_limits(x, 0.7, "output").mean_square
    run = trajectory(x, y, 0.7, rate, STEPS, "output", w_true=w_true)
    twin = simulate(x, y, 0.7, rate, STEPS, "output", replicas=5000, generator=rng)
    for (value, stderr), exact in (
        (twin.covariance_trace(), run.covariance_trace[-1]),
        (twin.risk(w_true), run.risk[-1]),
        (twin.risk(w_true, averaged=True), run.risk_average[-1]),
    ):
        assert 0 < stderr[0] < 0.1 * exact
        assert abs(value[0] - exact) < 5.5 * stderr[0]
        assert abs(1.5 * value[0] - exact) > 5.5 * stderr[0]


@pytest.mark.parametrize(("placement", "batch_size", "shared"), CASES)
def test_the_same_generator_gives_the_same_runs_block_by_block(placement, batch_size, shared, monkeypatch):
    x, y, _ = problem()
    monkeypatch.setattr(monte_carlo, "BLOCK", 7 * N * (D + C))
    options = {"replicas": 20, "record": (0, 2, 5), "batch_size": batch_size, "shared_mask": shared}
    first, second = (
        simulate(x, y, 0.7, 0.01, 5, placement, generator=np.random.default_rng(1), **options) for _ in range(2)
    )
    np.testing.assert_array_equal(first.iterates, second.iterates)
    assert not first.iterates[0].any()
    assert not first.averages[0].any()
    assert len(np.unique(first.iterates[2, :, 0, 0])) == 20


@pytest.mark.parametrize("columns", [1, C, D])
def test_without_dropout_each_run_is_gradient_descent(columns):
    x, y, _ = problem()
    y = np.hstack([y, y])[:, :columns]
    for placement in ("output", "input"):
        run = trajectory(x, y, 1.0, 0.01, 5, placement)
        twin = simulate(x, y, 1.0, 0.01, 5, placement, replicas=3, generator=np.random.default_rng(1))
        told = np.broadcast_to(run.mean[-1], (3, D, columns))
        np.testing.assert_allclose(twin.iterates[0], told, rtol=1e-12, atol=1e-15)


@pytest.mark.bad_input
def test_a_run_of_more_than_a_minute_is_refused_unasked(rng):
    with pytest.raises(ValueError, match=r"most_seconds above 60$"):
        simulate(np.zeros((800, 400)), np.zeros((800, 30)), 0.5, 0.1, 10_000, replicas=50, generator=rng)
