"""What §3.1's rows on training share: moments summed over masks, regularized descent, and a tiny problem's mean."""

import numpy as np
import pytest
import torch

from allora_analysis import dropout_sgd
from allora_analysis.claims import masked_descent
from allora_analysis.claims.masked_descent import Tiny, enumerated_mean, regularised_descent


def test_the_worst_gap_is_a_scan_over_noise_and_over_new_inputs():
    """By `dropout_sgd`'s moments, whose risk has the covariance of new inputs as an argument of its own."""
    one = masked_descent.falling_spectra(np.random.default_rng(1), 40)[1].inputs
    for population in (None, one.x.T @ one.x):
        sigma, gaps = np.eye(4) if population is None else population, []
        for level in masked_descent.LEVELS:
            noisy = one._replace(noise=level * np.linalg.norm(one.x @ one.w) / np.sqrt(8))
            run = dropout_sgd.trajectory(
                one.x, noisy.labels, 0.95, one.rate, 40, "input", w_true=one.truth, risk_covariance=sigma
            )
            gaps.append(run.risk_plain.min() / run.risk.min() - 1)
        assert masked_descent.worst_gap(one, population) == pytest.approx(100 * max(gaps), rel=1e-6)


def one_setting(placement, seed, noise=0.5, steps=20):
    rng = np.random.default_rng(seed)
    x = masked_descent.turned(7, np.array([1.0, 0.7, 0.4]), rng)
    rate = 0.1 * dropout_sgd.stability_limits(x, 0.8, placement).mean_square
    return masked_descent.Sgd(x, rng.standard_normal(3), noise, 0.8, rate, steps, placement)


def limit_moments(one, y):
    """`moments` as t → ∞, by solving the fixed points, which are linear."""
    d = one.x.shape[1]
    forward, carried, added = masked_descent._maps(one, y, one.keep_prob)
    mean = np.linalg.solve(np.eye(d) - forward, 2 * one.rate * one.x.T @ y)[None]
    covariance = np.linalg.solve(np.eye(d * d) - carried, added(mean).ravel())
    return masked_descent.Moments(mean, covariance.reshape(1, d, d))


@pytest.mark.parametrize("placement", ["output", "input"])
def test_moments_summed_over_masks_are_the_closed_forms(placement):
    one = one_setting(placement, 0)
    run = dropout_sgd.trajectory(one.x, one.labels, 0.8, one.rate, one.steps, placement, w_true=one.truth)
    own = masked_descent.moments(one, one.labels, 0.8)
    np.testing.assert_allclose(own.mean, run.mean, atol=1e-13)
    np.testing.assert_allclose(own.spread**2, run.covariance_trace, rtol=1e-10)
    signal, labels = masked_descent.risks(one, 0.8)
    np.testing.assert_allclose(signal + one.noise**2 * labels, run.risk, rtol=1e-10)
    rest = dropout_sgd.stationary_moments(one.x, one.labels, 0.8, one.rate, placement)
    limit = limit_moments(one, one.labels)
    np.testing.assert_allclose(limit.mean[0], rest.mean, atol=1e-12)
    np.testing.assert_allclose(limit.spread[0] ** 2, rest.covariance_trace, rtol=1e-9)


def test_a_and_b_leave_regularised_descent_at_step_2_and_not_before():
    rng = np.random.default_rng(4)
    one = Tiny(
        rng.standard_normal((2, 2)), rng.standard_normal((2, 1)), rng.standard_normal((2, 2)), 0.7, 0.05, 1, "input"
    )
    for steps, alike in ((1, True), (2, False), (3, False)):
        now = one._replace(steps=steps)
        gap = np.abs(enumerated_mean(now) - regularised_descent(now)).max()
        assert (gap < 1e-14) == alike


def test_a_and_b_follow_regularised_descent_where_no_mask_is_seen_or_all_cancel():
    """The exceptions, of measure 0: AX_n = 0 with masks on the output, and labels y and −y on the same input."""
    x, a = np.array([[1.0, 2.0]]), np.array([[2.0, -1.0], [4.0, -2.0]])
    one = Tiny(x, np.array([[3.0]]), a, 0.7, 0.01, 3, "output")
    twice = one._replace(x=np.vstack([x, x]), y=np.array([[3.0], [-3.0]]), a=a + 1.0)
    for exception in (one, twice):
        gap = enumerated_mean(exception) - regularised_descent(exception)
        assert np.abs(gap).max() < 1e-14
    for near in (one._replace(a=a + 0.1), twice._replace(y=np.array([[3.0], [-2.9]]))):
        gap = enumerated_mean(near) - regularised_descent(near)
        assert np.abs(gap).max() > 1e-6


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("factors", [False, True])
def test_without_masks_a_tiny_problem_is_trained_as_by_torch(steps, factors):
    x, y, a = (np.random.default_rng(6).standard_normal(shape) for shape in ((4, 3), (4, 2), (2, 3)))
    one = Tiny(x, y, a if factors else None, 1.0, 0.03, steps, "input", "Adam")
    parts = [torch.tensor(part, requires_grad=True) for part in masked_descent.start(one)[: 1 + factors]]
    optimizer = torch.optim.AdamW(parts, lr=0.03, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        w = (parts[1] @ parts[0]).T if factors else parts[0]
        torch.sum((torch.tensor(y) - torch.tensor(x) @ w) ** 2).backward()
        optimizer.step()
    w = (parts[1] @ parts[0]).T if factors else parts[0]
    np.testing.assert_allclose(regularised_descent(one), w.detach(), rtol=1e-10)


@pytest.mark.parametrize("placement", masked_descent.PLACEMENTS)
def test_adams_first_step_is_shorter_with_masks(placement):
    """In one row by the drop rate; in any entry by at least (1 − p)ᴺ of l, as all N masks may drop."""
    rng = np.random.default_rng(7)
    for n in (1, 2, 3):
        x, y = rng.standard_normal((n, 2)), rng.standard_normal((n, 2))
        one = Tiny(x, y, None, 0.7, 1e-4, 1, placement, "Adam")
        left, whole = (np.abs(w) / one.rate for w in (enumerated_mean(one), regularised_descent(one)))
        assert whole == pytest.approx(1.0, rel=1e-4)
        assert left.max() < 1 - 0.3**n
        assert n > 1 or left == pytest.approx(0.7, rel=1e-4)
