"""SGD under dropout in A and B: enumeration of every sequence of masks, the errors' orders, the Monte Carlo twin."""

import re
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis import dropout_sgd, validation
from allora_analysis.dropout_sgd import factors, monte_carlo
from allora_analysis.dropout_sgd.factors import PLACEMENTS, Factors
from allora_analysis.validation import ArgumentError
from tests.brute_force import dropout_sgd as brute
from tests.stat_assert import assert_close_to_stderr, assert_mean, assert_rejects

TINY = {"input": (1, 2, 2, 2), "output": (1, 3, 2, 2), "bottleneck": (1, 2, 2, 2)}  # N, D, C, r: 4 masks a step


def draw(seed, shape=(3, 3, 2, 2), b_size=0.5):
    rng, (n, d, c, r) = np.random.default_rng(seed), shape
    return (
        rng.standard_normal((n, d)),
        rng.standard_normal((n, c)),
        rng.standard_normal((r, d)),
        b_size * rng.standard_normal((c, r)),
    )


def model_of(x, y, a, keep_prob, placement):
    return Factors(x, y, keep_prob, placement, len(a))


@pytest.mark.parametrize("keep_prob", [0.7, 0.2, 1.0])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_mean_and_covariance_of_a_step_over_all_masks(placement, keep_prob):
    x, y, a, b = draw(1, (3, 2, 2, 3) if placement == "bottleneck" else (2, 3, 2, 3))
    model = model_of(x, y, a, keep_prob, placement)
    mean, covariance = brute.first_step(x, y, a, b, keep_prob, placement)
    np.testing.assert_allclose(model.gradient(model.flat(a, b)), mean, atol=1e-12 * np.abs(mean).max())
    np.testing.assert_allclose(model.noise(model.flat(a, b)), covariance, atol=1e-12 * (1 + np.abs(covariance).max()))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_derivatives_are_autograds_of_the_loss_over_all_masks(placement):
    x, y, a, b = draw(2, (2, 2, 2, 2))
    model, (r, d) = model_of(x, y, a, 0.6, placement), a.shape
    drawn, chance = (torch.tensor(part) for part in brute.factor_masks(2, d, 2, r, 0.6, placement))
    x_, y_ = torch.tensor(x), torch.tensor(y)

    def parts(theta):
        nodes = theta.reshape(r, -1)
        return nodes[:, :d], nodes[:, d:]

    def loss(theta):
        a_, bt = parts(theta)
        z = (x_ * drawn if placement == "input" else x_.expand(len(drawn), -1, -1)) @ a_.T
        out = (z * drawn if placement == "bottleneck" else z) @ bt
        return chance @ ((y_ - (out * drawn if placement == "output" else out)) ** 2).sum(dim=(1, 2))

    def hessian(theta):
        return torch.autograd.functional.hessian(loss, theta, create_graph=True)

    theta = torch.tensor(model.flat(a, b), requires_grad=True)
    root = np.random.default_rng(3).standard_normal((len(theta), len(theta)))
    covariance = root @ root.T
    (half,) = torch.autograd.grad(0.5 * (hessian(theta) * torch.tensor(covariance)).sum(), theta)
    jacobian = torch.autograd.functional.jacobian(lambda t: (parts(t)[0].T @ parts(t)[1]).ravel(), theta)
    at = theta.detach().numpy()
    for found, expected in (
        (model.hessian(at), hessian(theta).detach()),
        (model.bend(at, covariance), half),
        (model.jacobian(at), jacobian),
    ):
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-11 * float(expected.abs().max()))


def orders(placement, keep_prob=0.7, seeds=range(6)):
    """Powers of l by which errors of the flow, of E W and of tr Cov W fall as l halves at one time lT: medians."""
    found = []
    for seed in seeds:
        x, y, a, b = draw(seed, TINY[placement])
        model = model_of(x, y, a, keep_prob, placement)
        largest = np.linalg.eigvalsh(model.hessian(model.flat(a, b)))[-1]
        errors = []
        for share, steps in ((0.03, 3), (0.015, 6)):
            mean, trace = brute.factor_trajectory(x, y, a, b, keep_prob, share / largest, steps, placement)
            run = dropout_sgd.factor_flow(x, y, a, b, keep_prob, share / largest, steps, placement)
            gaps = run.flow_product - mean, run.mean_product - mean
            errors.append([*(np.abs(gap[-1]).max() for gap in gaps), abs(run.covariance_trace[-1] - trace[-1])])
        found.append(np.log2(np.divide(*errors)))
    return np.median(found, axis=0)


def check_orders(placement):
    flow, mean, trace = orders(placement)
    assert 0.85 < flow < 1.25  # O(l)
    assert 1.8 < mean < 2.3  # O(l²)
    assert 1.8 < trace < 2.3


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_errors_are_of_first_and_second_order_in_the_rate(placement):
    check_orders(placement)


@pytest.mark.parametrize(
    ("name", "planted"),
    [
        ("bend", lambda right: lambda self, *of: 0 * right(self, *of)),
        ("bend", lambda right: lambda self, *of: 2 * right(self, *of)),
        ("noise", lambda right: lambda self, theta: 1.1 * right(self, theta)),
        ("gradient", lambda right: lambda self, *of: 1.05 * right(self, *of)),
        ("hessian", lambda right: lambda self, *of: 0.7 * right(self, *of)),
    ],
)
@pytest.mark.parametrize("placement", ["input", "bottleneck"])
def test_a_wrong_formula_has_another_order(placement, name, planted, monkeypatch):
    monkeypatch.setattr(Factors, name, planted(getattr(Factors, name)))
    assert_rejects(check_orders, placement)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_monte_carlo_twin(placement):
    x, y, a, _ = draw(5, (8, 4, 2, 2))
    b, rate, record = np.zeros((2, 2)), 0.004 / np.linalg.norm(x, 2) ** 2, (1, 20, 80)
    run = dropout_sgd.factor_flow(x, y, a, b, 0.8, rate, 80, placement)
    seen = dropout_sgd.simulate_factors(
        x, y, a, b, 0.8, rate, 80, placement, replicas=8000, generator=np.random.default_rng(7), record=record
    )
    size = np.abs(run.mean_product[-1]).max()
    assert_mean(seen.iterates[:, :, 0, 0].T, run.mean_product[list(record), 0, 0], smallest_error=0.02 * size)
    trace, stderr = seen.covariance_trace()
    expected = run.covariance_trace[list(record)]
    assert_close_to_stderr(trace, expected, stderr, smallest_error=0.15 * expected)
    assert_rejects(assert_close_to_stderr, trace, 1.2 * expected, stderr, smallest_error=0.15 * expected)
    np.testing.assert_allclose(run.covariance_trace[-1], np.trace(run.covariance))
    last = model_of(x, y, a, 0.8, placement)
    largest = np.linalg.eigvalsh(last.hessian(last.flat(run.a, run.b)))[-1]
    assert run.step_size == pytest.approx(rate * largest, rel=1e-9)
    assert 0 < run.step_size < 0.1


def test_simulation_averages_and_restarts_are_the_generators_alone(monkeypatch):
    """Five replicas in blocks of two."""
    x, y, a, b = draw(8)
    monkeypatch.setattr(monte_carlo, "BLOCK", 2 * len(x) * (3 + 2 + 2))
    runs = [
        dropout_sgd.simulate_factors(
            x, y, a, b, 0.5, 1e-3, 3, replicas=5, generator=np.random.default_rng(0), record=(1, 2, 3)
        )
        for _ in range(2)
    ]
    np.testing.assert_array_equal(runs[0].iterates, runs[1].iterates)
    np.testing.assert_allclose(runs[0].averages[2], runs[0].iterates.mean(axis=0))
    assert len(np.unique(runs[0].iterates[2, :, 0, 0])) == 5


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**31), st.sampled_from(PLACEMENTS), st.floats(0.3, 3.0))
def test_units_nodes_and_what_masks_add(seed, placement, unit):
    x, y, a, b = draw(seed, (4, 3, 2, 2))
    rate = 0.01 / np.linalg.norm(x, 2) ** 2 / (np.linalg.norm(a) + np.linalg.norm(b)) ** 2
    run = dropout_sgd.factor_flow(x, y, a, b, 0.8, rate, 20, placement)
    # X and Y in another unit at l over its square; the nodes in another order: the same W.
    for other in (
        dropout_sgd.factor_flow(unit * x, unit * y, a, b, 0.8, rate / unit**2, 20, placement),
        dropout_sgd.factor_flow(x, y, a[::-1], b[:, ::-1], 0.8, rate, 20, placement),
    ):
        np.testing.assert_allclose(other.mean_product, run.mean_product, atol=1e-5)
        np.testing.assert_allclose(other.covariance_trace, run.covariance_trace, rtol=1e-4, atol=1e-12)
    kept = dropout_sgd.factor_flow(x, y, a, b, 1.0, rate, 20, placement)
    assert kept.covariance_trace.max() == 0
    # Without masks the corrected mean is gradient descent itself, to O(l²).
    for _ in range(20):
        g = -2 * (y - x @ a.T @ b.T).T @ x
        a, b = a - rate * b.T @ g, b - rate * g @ a.T
    gaps = [np.abs(part[-1] - (b @ a).T).max() for part in (kept.mean_product, kept.flow_product)]
    assert gaps[0] < max(0.2 * gaps[1], 1e-6)


@pytest.mark.parametrize("unit", [1e-8, 1e4])
def test_every_unit_of_the_factors_is_as_exact(unit):
    """A and B in another unit, W and Y in its square, l over its square: the same run."""
    x, y, a, b = draw(12)
    one = dropout_sgd.factor_flow(x, y, a, b, 0.6, 1e-3, 20)
    other = dropout_sgd.factor_flow(x, unit**2 * y, unit * a, unit * b, 0.6, 1e-3 / unit**2, 20)
    moved = [(run.mean_product - run.flow_product) / size for run, size in ((one, 1.0), (other, unit**2))]
    np.testing.assert_allclose(moved[1], moved[0], atol=1e-6 * np.abs(moved[0]).max())
    np.testing.assert_allclose(other.covariance_trace / unit**4, one.covariance_trace, rtol=1e-6)
    np.testing.assert_allclose(other.covariance / unit**4, one.covariance, atol=1e-9)


@pytest.mark.parametrize("unit", [1e-90, 1e100, 1e150])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_unit_of_the_inputs_is_as_exact(unit, placement):
    """X and Y in another unit, l over its square: the same steps, though squares of X leave float64's range."""
    x, y, a, b = draw(12)
    one = dropout_sgd.factor_flow(x, y, a, b, 0.6, 1e-3, 10, placement)
    other = dropout_sgd.factor_flow(unit * x, unit * y, a, b, 0.6, 1e-3 / unit**2, 10, placement)
    assert one.covariance_trace[-1] > 0
    for field in ("mean_product", "covariance_trace", "flow_product", "covariance", "a", "b", "step_size"):
        expected = getattr(one, field)
        np.testing.assert_allclose(getattr(other, field), expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())


@pytest.mark.bad_input
def test_a_rate_too_large_is_told_in_the_callers_units():
    told = []
    for unit in (1.0, 2.0**40):
        x, y, a, b = draw(4)
        with pytest.raises(ArgumentError) as caught:
            dropout_sgd.factor_flow(unit * x, unit * y, a, b, 0.8, 9.0 / unit**2, 3)
        told.append([float(word) for word in re.findall(r"\d+\.?\d*(?:e[+-]\d+)?", str(caught.value))])
    (rate, curvature, _, most), other = told
    unit = 2.0**40
    assert rate == 9
    assert other == pytest.approx([rate / unit**2, curvature * unit**2, 2, most / unit**2], rel=1e-2)


def test_targets_far_larger_than_the_inputs_have_their_covariance():
    """x = 2⁻⁵⁰⁰, y = 1: a step's only move is 2lvxya in B, so that Cov W₁ = 4l²x²y²a⁴(1 − p)/p."""
    x, rate = 2.0**-500, 2.0**250
    run = dropout_sgd.factor_flow([[x]], [[1.0]], [[3.0]], [[0.0]], 0.5, rate, 1)
    assert run.covariance_trace[1] == pytest.approx(4 * (rate * x) ** 2 * 3.0**4, rel=1e-6)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_subnormal_inputs_move_nothing(placement):
    run = dropout_sgd.factor_flow([[1e-320, 1e-320]], [[1.0]], [[0.6, -0.4]], [[0.3]], 0.5, 1e-3, 1, placement)
    assert (run.covariance_trace == 0).all()
    np.testing.assert_allclose(run.mean_product.ravel(), [0.18, -0.12, 0.18, -0.12], rtol=1e-12)


@pytest.mark.bad_input
def test_a_first_derivative_out_of_range_is_refused():
    with pytest.raises(ArgumentError, match="double precision's range"):
        dropout_sgd.factor_flow([[1.0, 0.5]], [[1.0]], [[1e80, -0.4]], [[0.3]], 0.5, 1e-165, 1)


def test_each_equation_has_a_tolerance_in_its_own_unit():
    x, y, a, b = draw(12)
    one, other = (
        factors._absolute(model_of(x, unit**2 * y, a, 0.6, "input"), model_of(x, y, a, 0.6, "input").flat(*pair))
        for unit, pair in ((1.0, (a, b)), (1e-3, (1e-3 * a, 1e-3 * b)))
    )
    size = a.size + b.size
    np.testing.assert_allclose(other / one, np.repeat([1e-3, 1e-9, 1e-12], [size, size, size**2]), rtol=1e-9)


@pytest.mark.parametrize("keep_prob", [0.5, 0.95])
def test_on_white_inputs_dropout_is_a_shorter_target_and_a_faster_clock(keep_prob):
    """The flow of A and B: without masks, towards p times the fit, 1/p times as fast; what the doctor says of it."""
    rng = np.random.default_rng(11)
    x, y = 2 * np.linalg.qr(rng.standard_normal((6, 4)))[0], rng.standard_normal((6, 3))
    a, b, rate, steps = rng.standard_normal((2, 4)) / 2, np.zeros((3, 2)), 5e-3, 200
    masked = dropout_sgd.factor_flow(x, y, a, b, keep_prob, rate, steps)
    plain = dropout_sgd.factor_flow(x, keep_prob * y, a, b, 1.0, rate / keep_prob, steps)
    np.testing.assert_allclose(masked.flow_product, plain.flow_product, atol=1e-5)  # to the integrator's tolerance
    whole = dropout_sgd.factor_flow(x, y, a, b, 1.0, rate, steps).flow_product
    early = [np.linalg.norm(path[1] - path[0]) for path in (masked.flow_product, whole)]
    assert early[0] == pytest.approx(early[1], rel=0.03)  # of the first step's mean nothing depends on p


def test_risk_is_the_mean_squares_first_order():
    x, y, a, b = draw(9)
    run, truth = dropout_sgd.factor_flow(x, y, a, b, 0.8, 1e-5, 4), np.ones((3, 2))
    exact = ((run.mean_product - truth) ** 2).sum(axis=(1, 2)) + run.covariance_trace
    np.testing.assert_allclose(run.risk(truth), exact, rtol=1e-6)
    second = ((run.mean_product - run.flow_product) ** 2).sum(axis=(1, 2))
    np.testing.assert_allclose(run.risk(truth), exact - second, rtol=1e-13)
    assert run.risk(run.flow_product[-1])[-1] == run.covariance_trace[-1] > 0


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"placement": "latent"}, "placement must be one of input, output, bottleneck"),
        ({"a": np.ones((2, 4))}, "a: shape"),
        ({"b": np.ones((2, 3))}, "b: shape"),
        ({"keep_prob": 0.0}, "keep_prob"),
        ({"learning_rate": 9.0}, "learning_rate"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"steps": 0}, "steps"),
        ({"steps": 10**9}, "steps"),
    ],
)
def test_mistakes_are_one_line(change, word):
    x, y, a, b = draw(4)
    asked = {"x": x, "y": y, "a": a, "b": b, "keep_prob": 0.8, "learning_rate": 1e-3, "steps": 3, **change}
    with pytest.raises(ArgumentError, match=word):
        dropout_sgd.factor_flow(**asked)


@pytest.mark.bad_input
def test_a_flow_that_takes_too_many_evaluations_is_refused(monkeypatch):
    monkeypatch.setattr(factors, "EVALUATIONS", 1)
    with pytest.raises(ArgumentError, match="scales too far apart to follow"):
        dropout_sgd.factor_flow(*draw(4), 0.8, 1e-3, 3)


def test_too_large_a_problem_is_refused_before_it_is_held():
    with pytest.raises(ArgumentError, match="GiB"):
        dropout_sgd.factor_flow(np.ones((2, 3000)), np.ones((2, 1)), np.ones((2, 3000)), np.ones((1, 2)), 0.9, 1e-9, 1)


@pytest.mark.parametrize(
    ("shape", "placement"),
    [
        ((3, 3, 3, 14), "bottleneck"),
        ((3, 30, 10, 1), "input"),
        ((300, 1, 6, 2), "bottleneck"),
        ((300, 12, 6, 1), "input"),
    ],
    ids=["factors", "products", "rows of factors", "rows of products"],
)
def test_what_is_told_to_be_held_is_held(shape, placement, monkeypatch):
    told = {}
    dropout_sgd.factor_flow(*draw(4, TINY[placement]), 0.9, 1e-8, 1, placement)  # what is imported is held too
    monkeypatch.setattr(validation, "fits", lambda name, numbers, what: told.update({name: 8 * numbers}))
    tracemalloc.start()
    dropout_sgd.factor_flow(*draw(4, shape), 0.9, 1e-8, 1, placement)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 1 < peak / sum(told.values()) < 5


@pytest.mark.parametrize("shape", [(3, 150, 2, 2), (20_000, 1, 10, 2)], ids=["inputs", "rows"])
def test_what_is_held_grows_with_the_square(shape):
    """304 parameters, or 20,000 rows of 20 products: far below 1 GiB, and a cube would not be; 10⁹ steps are."""
    x, y, a, b = draw(4, shape)
    with pytest.raises(ArgumentError, match="steps"):
        dropout_sgd.factor_flow(x, y, a, b, 0.9, 1e-9, 10**9)
