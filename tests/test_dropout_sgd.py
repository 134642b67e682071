"""Exact moments of SGD under dropout against every sequence of masks and draws; identities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis.dropout_sgd import moments, stability_limits, trajectory
from allora_analysis.dropout_sgd.placements import InputMasks, OutputMasks, SharedInputMask, build, checked
from tests.brute_force import dropout_sgd as brute_force
from tests.stat_assert import assert_rejects

# placement, N, D, C, T, batch size, one mask for all rows
CASES = [
    ("output", 3, 2, 1, 3, None, False),
    ("output", 2, 2, 2, 3, None, False),
    ("output", 2, 3, 1, 3, None, False),
    ("output", 3, 2, 1, 3, 1, False),
    ("output", 2, 2, 2, 2, 2, False),
    ("input", 2, 2, 2, 3, None, False),
    ("input", 2, 3, 1, 2, None, False),
    ("input", 3, 3, 1, 2, 1, False),
    ("input", 2, 2, 2, 2, 2, False),
    ("input", 3, 3, 2, 3, None, True),
]


def problem(seed, n, d, c):
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((n, d)) * np.exp(0.5 * generator.standard_normal(d))
    return x, generator.standard_normal((n, c)), generator.standard_normal((d, c))


def assert_equals_enumeration(case, keep_prob, rates):
    placement, n, d, c, steps, batch_size, shared = case
    x, y, w_true = problem(1, n, d, c)
    options = {"batch_size": batch_size, "shared_mask": shared}
    root = np.random.default_rng(2).standard_normal((d, d))
    sigma = root @ root.T
    run = trajectory(x, y, keep_prob, rates, steps, placement, w_true=w_true, risk_covariance=sigma, **options)
    mean, covariance, average, average_covariance = brute_force.trajectory(x, y, keep_prob, rates, placement, **options)
    gram = x.T @ x
    close = {"rtol": 1e-10, "atol": 1e-10}
    np.testing.assert_allclose(run.mean, mean, **close)
    np.testing.assert_allclose(run.covariance, covariance[-1], **close)
    np.testing.assert_allclose(run.covariance_trace, np.einsum("tcdd->t", np.array(covariance)), **close)
    np.testing.assert_allclose(run.average_covariance, average_covariance[-1], **close)
    np.testing.assert_allclose(
        run.average_covariance_trace, np.einsum("tcdd->t", np.array(average_covariance)), **close
    )
    for t in range(steps + 1):
        loss = np.sum((y - x @ mean[t]) ** 2) + np.einsum("ij,cij->", gram, covariance[t])
        gap, average_gap = mean[t] - w_true, average[t] - w_true
        risk = np.trace(gap.T @ sigma @ gap) + np.einsum("ij,cij->", sigma, covariance[t])
        averaged = np.trace(average_gap.T @ sigma @ average_gap) + np.einsum("ij,cij->", sigma, average_covariance[t])
        seen = [run.training_loss[t], run.risk[t], run.risk_average[t]]
        np.testing.assert_allclose(seen, [loss, risk, averaged], **close)


@pytest.mark.parametrize("keep_prob", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_moments_equal_the_enumeration(case, keep_prob):
    generator = np.random.default_rng(3)
    assert_equals_enumeration(case, keep_prob, list(generator.uniform(0.01, 0.3, case[4])))


@pytest.mark.parametrize("case", [CASES[0], CASES[5], CASES[9]], ids=["output", "input", "shared"])
@pytest.mark.parametrize("wrong", ["no feedback of the covariance", "a fourth moment of the mask missing"])
def test_a_wrong_noise_is_rejected(case, wrong, monkeypatch):
    kind = {"output": OutputMasks, "input": InputMasks}[case[0]]
    kind = SharedInputMask if case[6] else kind
    right = kind.noise

    def planted(self, targets, mean, covariance):
        if wrong.startswith("no feedback"):
            return right(self, targets, mean, 0 * covariance)
        value = right(self, targets, mean, covariance)
        return value - 0.01 * self.mask_variance * np.eye(value.shape[-1]) * value

    monkeypatch.setattr(kind, "noise", planted)
    assert_rejects(assert_equals_enumeration, case, 0.6, [0.1] * case[4])


@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize(("placement", "shared"), [("output", False), ("input", False), ("input", True)])
def test_columns_may_come_at_once_or_in_parts(placement, shared, batch_size, monkeypatch):
    x, y, w_true = problem(5, 4, 3, 5)
    options = {"w_true": w_true, "batch_size": None if shared else batch_size, "shared_mask": shared}
    whole = trajectory(x, y, 0.7, 0.01, 6, placement, **options)
    monkeypatch.setattr(moments, "AT_ONCE", 2 * x.size)  # two columns, two, and the last
    parts = trajectory(x, y, 0.7, 0.01, 6, placement, **options)
    np.testing.assert_allclose(parts.covariance, whole.covariance, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(parts.risk, whole.risk, rtol=1e-12)


@pytest.mark.parametrize("placement", ["output", "input"])
def test_losses_and_descents_are_those_of_explicit_gradient_descent(placement):
    x, y, w_true = problem(4, 9, 4, 2)
    p, rate, steps = 0.7, 0.004, 12
    gram, k = x.T @ x, 3 / 7
    penalty = k * gram if placement == "output" else k * np.diag(np.diag(gram))
    run = trajectory(x, y, p, rate, steps, placement, w_true=w_true)
    w = plain = np.zeros_like(w_true)
    for t in range(steps + 1):
        np.testing.assert_allclose(run.mean[t], w, rtol=1e-12, atol=1e-14)
        for name, point in (("marginal", w), ("plain", plain)):
            loss = np.sum((y - x @ point) ** 2)
            objective = loss + np.trace(point.T @ penalty @ point)
            seen = [getattr(run, f"{what}_{name}")[t] for what in ("training_loss", "objective", "risk")]
            np.testing.assert_allclose(seen, [loss, objective, np.sum((point - w_true) ** 2)], rtol=1e-12)
        w = w - rate * (2 * (gram + penalty) @ w - 2 * x.T @ y)
        plain = plain - rate * (2 * gram @ plain - 2 * x.T @ y)
    added = np.einsum("ij,cji->", gram + penalty, run.covariance)
    np.testing.assert_allclose(run.objective[-1] - run.objective_marginal[-1], added, rtol=1e-9)


def test_crossover_is_the_first_step_with_a_lower_risk():
    generator = np.random.default_rng(5)
    x = generator.standard_normal((40, 20))
    w_true = generator.standard_normal((20, 1)) / np.sqrt(20)
    noise = generator.standard_normal((40, 1))
    rate = 0.1 * stability_limits(x, 0.8, "output").mean_square
    noisy = trajectory(x, x @ w_true + 2 * noise, 0.8, rate, 200, "output", w_true=w_true)
    below = noisy.risk < noisy.risk_plain
    assert 1 < noisy.crossover < 200
    assert below[noisy.crossover]
    assert not below[2 : noisy.crossover].any()
    clean = trajectory(x, x @ w_true, 0.8, rate, 200, "output", w_true=w_true)
    assert clean.crossover is None
    assert np.all(clean.risk >= clean.risk_plain * (1 - 1e-12))


def test_without_dropout_it_is_plain_gradient_descent():
    x, y, w_true = problem(6, 8, 3, 2)
    for placement in ("output", "input"):
        run = trajectory(x, y, 1.0, 0.01, 20, placement, w_true=w_true)
        assert not run.covariance_trace.any()
        np.testing.assert_array_equal(run.risk, run.risk_plain)
        assert run.crossover is None


def test_one_feature_makes_input_masks_output_masks():
    x, y, _ = problem(7, 5, 1, 1)
    output, masked = (trajectory(x, y, 0.6, 0.02, 10, placement, batch_size=3) for placement in ("output", "input"))
    np.testing.assert_allclose(masked.covariance_trace, output.covariance_trace, rtol=1e-11)


def test_one_row_makes_shared_masks_rows_masks():
    x, y, _ = problem(8, 1, 4, 2)
    own, shared = (trajectory(x, y, 0.6, 0.02, 10, "input", shared_mask=flag) for flag in (False, True))
    np.testing.assert_allclose(shared.covariance, own.covariance, rtol=1e-10, atol=1e-14)


def test_columns_do_not_change_one_another():
    x, y, _ = problem(9, 6, 3, 3)
    for placement in ("output", "input"):
        together = trajectory(x, y, 0.7, 0.002, 8, placement, batch_size=2)
        alone = trajectory(x, y[:, 1:2], 0.7, 0.002, 8, placement, batch_size=2)
        np.testing.assert_allclose(together.covariance[1], alone.covariance[0], rtol=1e-10, atol=1e-15)


def test_what_never_moves_has_no_moments():
    x, y, _ = problem(10, 4, 3, 1)
    x[:, 1] = 0
    for placement in ("output", "input"):
        run = trajectory(x, y, 0.5, 0.01, 5, placement)
        assert np.abs(run.mean[:, 1]).max() < 1e-15
        assert np.abs(run.covariance[:, 1]).max() < 1e-18
        still = trajectory(0 * x, y, 0.5, 100.0, 5, placement, w_true=np.ones((3, 1)))
        assert not still.mean.any()
        assert not still.covariance.any()
        assert still.crossover is None


def test_a_constant_schedule_is_the_constant():
    x, y, _ = problem(11, 6, 3, 1)
    constant, schedule = (trajectory(x, y, 0.7, rate, 6, "input") for rate in (0.01, [0.01] * 6))
    np.testing.assert_array_equal(constant.covariance, schedule.covariance)
    paused = trajectory(x, y, 0.7, [0.01, 0.0, 0.01], 3, "input")
    np.testing.assert_array_equal(paused.mean[1], paused.mean[2])


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 6),
    d=st.integers(1, 5),
    keep_prob=st.floats(0.1, 1.0),
    scale=st.floats(0.1, 10.0),
    batch_size=st.none() | st.integers(1, 4),
    placement=st.sampled_from(["output", "input"]),
)
def test_units_order_and_positivity(seed, n, d, keep_prob, scale, batch_size, placement):
    x, y, _ = problem(seed, n, d, 1)
    rate = 0.5 * stability_limits(x, keep_prob, placement, batch_size).mean_square
    run = trajectory(x, y, keep_prob, rate, 6, placement, batch_size=batch_size)
    # X in other units: l and W follow; Y in other units: W follows; rows in another order: nothing changes.
    rescaled = trajectory(scale * x, y, keep_prob, rate / scale**2, 6, placement, batch_size=batch_size)
    turned = trajectory(x[::-1], scale * y[::-1], keep_prob, rate, 6, placement, batch_size=batch_size)
    size = max(np.abs(run.covariance).max(), np.abs(run.mean).max() ** 2)
    np.testing.assert_allclose(rescaled.mean * scale, run.mean, rtol=1e-7, atol=1e-10 * np.sqrt(size))
    np.testing.assert_allclose(rescaled.covariance * scale**2, run.covariance, rtol=1e-7, atol=1e-10 * size)
    np.testing.assert_allclose(turned.covariance / scale**2, run.covariance, rtol=1e-7, atol=1e-10 * size)
    eigenvalues = np.linalg.eigvalsh(np.concatenate([run.covariance, run.average_covariance]))
    assert eigenvalues.min() >= -1e-10 * size


def test_output_masks_do_not_see_a_rotation_of_the_features():
    x, y, _ = problem(12, 7, 4, 1)
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    run, turned = trajectory(x, y, 0.6, 0.005, 9), trajectory(x @ q, y, 0.6, 0.005, 9)
    np.testing.assert_allclose(q @ turned.covariance[0] @ q.T, run.covariance[0], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_the_rank_of_a_design_does_not_depend_on_its_unit(unit):
    """Rank 2: what is not 0 beside the second singular value is rounding, whatever the unit."""
    rng = np.random.default_rng(3)
    x = unit * rng.standard_normal((20, 2)) @ rng.standard_normal((2, 12))
    process = build(checked(x, np.ones((20, 1)), 0.5, "output", None, False))
    assert process.basis.shape == (12, 2)
    np.testing.assert_allclose(x @ process.basis @ process.basis.T, x, atol=1e-12 * np.abs(x).max())
