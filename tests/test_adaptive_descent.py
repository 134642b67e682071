"""Descent and where it fails: first-order changes against differences, the exact counterexample, rest points."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial.polynomial import polymul

from allora_analysis import adaptive
from allora_analysis.adaptive import convergence, descent
from allora_analysis.validation import ArgumentError
from tests.brute_force import adaptive as brute
from tests.stat_assert import assert_close_to_stderr, assert_rejects

ONES = (Fraction(1), Fraction(1))


def draw(seed, n1=4, n2=3, rank=2):
    generator = np.random.default_rng(seed)
    x, y = generator.standard_normal((6, n2)), generator.standard_normal((6, n1))
    return x, y, generator.standard_normal((rank, n2)), generator.standard_normal((n1, rank))


def loss(x, y, a, b):
    return 0.5 * float(((x @ a.T @ b.T - y) ** 2).sum())


@pytest.mark.parametrize("shape", [(4, 3, 2), (3, 4, 1), (2, 1, 1)])
def test_first_order_change_is_the_difference_quotient(shape):
    x, y, a, b = draw(3, *shape)
    change = adaptive.first_order_change(a, b, (x @ (b @ a).T - y).T @ x, 2.0)
    step_a, step_b = brute.gradients_of_weighted_loss(x, y, a, b, brute.factor(a, b, 2.0))
    t = 1e-6
    for part, moved in (("a_part", (t, 0)), ("b_part", (0, t)), ("total", (t, t))):
        ends = [loss(x, y, a - sign * moved[0] * step_a, b - sign * moved[1] * step_b) for sign in (1, -1)]
        assert getattr(change, part) == pytest.approx((ends[0] - ends[1]) / (2 * t), rel=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10.0), st.floats(-2.0, 2.0))
def test_b_part_never_climbs(seed, eta, log_scale):
    x, y, a, b = draw(seed)
    b = 10.0**log_scale * b
    change = adaptive.first_order_change(a, b, (x @ (b @ a).T - y).T @ x, eta)
    assert change.b_part < 0
    assert change.total == change.a_part + change.b_part


@pytest.mark.parametrize("shape", [(4, 3, 2), (3, 4, 1), (6, 6, 3)])
def test_along_the_lowest_eigenvector_and_a_direction_that_a_does_not_see_allora_climbs_where_lora_descends(shape):
    _, _, a, b = draw(5, *shape)
    half = b @ (b.T * brute.factor(a, b, 3.0))
    values, vectors = np.linalg.eigh((half + half.T) / 2)
    g = np.outer(vectors[:, 0], np.linalg.svd(a)[2][-1])
    change = adaptive.first_order_change(a, b, g, 3.0)
    lora = -np.sum((b.T @ g) ** 2) - np.sum((g @ a.T) ** 2)
    assert np.linalg.norm(g) == pytest.approx(1.0)
    assert change.total == pytest.approx(-values[0])
    assert change.total > 0 > lora
    assert abs(change.b_part) < 1e-25


def test_the_counterexample_in_numbers():
    example = adaptive.EXAMPLE
    assert example.gradient() == (-2, 1)
    assert example.factor() == (Fraction(1, 3), Fraction(1, 5))
    allora = adaptive.loss_after_step(example, example.factor())
    lora = adaptive.loss_after_step(example, ONES)
    assert allora[:2] == (Fraction(5, 2), Fraction(41, 15))
    assert lora[:2] == (Fraction(5, 2), Fraction(-69))
    assert all(c > 0 for c in allora[1:])
    assert adaptive.first_return(allora) is None
    below, above = adaptive.first_return(lora)
    assert Fraction(335, 10**5) < below < above < Fraction(336, 10**5)
    assert adaptive.evaluate(lora, below) < lora[0] <= adaptive.evaluate(lora, above)
    assert adaptive.first_return(lora[:2]) is None  # a line
    # As float arrays, through the general functions.
    a, b, y = example.arrays()
    g = (b @ a - y.T) @ [[1.0]]
    assert adaptive.first_order_change(a, b, g, 1.0).total == pytest.approx(41 / 15)


rationals = st.fractions(min_value=-4, max_value=4, max_denominator=9)


@settings(deadline=None, max_examples=60)
@given(rationals, rationals, rationals, rationals, st.fractions(min_value=0, max_value=2, max_denominator=9))
def test_polynomial_is_the_loss_after_the_step(a, b, y, d, step):
    example = descent.Counterexample(a, (b, Fraction(3)), (y, Fraction(-1)), Fraction(1))
    factor = (d, Fraction(1, 7))
    expected = brute.exact_loss_after_step(a, example.b, example.y, factor, step)
    assert adaptive.evaluate(adaptive.loss_after_step(example, factor), step) == expected


@settings(deadline=None, max_examples=60)
@given(st.lists(rationals.filter(bool), min_size=1, max_size=4), rationals.filter(bool))
def test_first_return_brackets_the_smallest_positive_root(roots, scale):
    polynomial = (scale,)
    for root in roots:
        polynomial = tuple(polymul(polynomial, (-root, Fraction(1))))
    found = adaptive.first_return((Fraction(7), *polynomial))
    positive = [root for root in roots if root > 0]
    if not positive:
        assert found is None
    else:
        assert found[0] < min(positive) <= found[1]
        assert found[1] - found[0] <= found[1] / 10**12


def test_without_adaptation_the_counterexample_is_none():
    """The planted alternative: equal factors descend, so the test of the sign can fail."""
    equal = (Fraction(1, 3), Fraction(1, 3))
    assert adaptive.loss_after_step(adaptive.EXAMPLE, equal)[1] == Fraction(-69, 3)


def test_allora_rests_at_the_weighted_fit(rng):
    t = np.array([8.0, 4.0, 2.0, 1.0])[:, None] * rng.standard_normal((4, 4))
    rest = adaptive.rest_point(t, 1, 3.0)
    reached = adaptive.run_to_rest(t, 0.3 * rng.standard_normal((1, 4)), 3.0, 0.003, 60_000)
    np.testing.assert_allclose(reached, rest.product, atol=1e-8 * np.abs(t).max())
    best = convergence.truncated(t, 1)
    assert rest.excess == pytest.approx(np.sum((reached - t) ** 2) / np.sum((best - t) ** 2) - 1, rel=1e-6)
    assert rest.excess > 1e-4
    assert rest.lora_gradient > 1e-3
    assert_rejects(np.testing.assert_allclose, reached, best, atol=1e-3 * np.abs(t).max())


def test_each_step_of_the_run_is_the_update_field(rng):
    t, a = rng.standard_normal((4, 3)), rng.standard_normal((2, 3))
    moved_a, moved_b = a, np.zeros((4, 2))
    for steps in range(1, 4):
        step_a, step_b = adaptive.update_field(moved_a, moved_b, moved_b @ moved_a - t, 2.0)
        moved_a, moved_b = moved_a - 0.1 * step_a, moved_b - 0.1 * step_b
        np.testing.assert_allclose(adaptive.run_to_rest(t, a, 2.0, 0.1, steps), moved_b @ moved_a, rtol=1e-12)


def test_where_the_rank_suffices_allora_rests_where_lora_does(rng):
    t = rng.standard_normal((5, 2)) @ rng.standard_normal((2, 4))
    rest = adaptive.rest_point(t, 2, 3.0)
    np.testing.assert_allclose(rest.product, t, atol=1e-12)
    assert (rest.excess, rest.lora_gradient) == (0.0, 0.0)


def settled(t, rank, eta, mix):
    """The fit by log d ← (1 − mix)·log d + mix·log d(P) and the singular values of D^{1/2}T; None if it circles."""
    s = np.linalg.svd(t)[1]
    d = np.full(len(t), 1 / np.sqrt(s[0] + eta**-2))
    for _ in range(2000):
        u, s, v = np.linalg.svd(np.sqrt(d)[:, None] * t, full_matrices=False)
        p = (u[:, :rank] * s[:rank]) @ v[:rank] / np.sqrt(d)[:, None]
        new = 1 / np.sqrt(np.sqrt((p * p).sum(axis=1)) + eta**-2)
        if np.abs(np.log(new / d)).max() < 1e-13:
            return p, s
        d = d ** (1 - mix) * new**mix
    return None, s


CIRCLED = (
    ([[-1.0, 0.0, -3.0], [2.0, 3.0, 0.0]], 1, 2.0),
    ([[1.0, 2.0, 3.0], [3.0, 3.0, -3.0], [2.0, 0.0, 1.0]], 1, 4.0),
)


@pytest.mark.parametrize(("target", "rank", "eta"), CIRCLED)
def test_rest_points_that_the_plain_iteration_circles(target, rank, eta, rng):
    t = np.array(target)
    assert settled(t, rank, eta, 1.0)[0] is None
    expected, values = settled(t, rank, eta, 0.1)
    assert values[rank - 1] / values[rank] > 1.05  # no tie
    rest = adaptive.rest_point(t, rank, eta)
    np.testing.assert_allclose(rest.product, expected, atol=1e-12)
    reached = adaptive.run_to_rest(t, 0.3 * rng.standard_normal((rank, 3)), eta, 0.02, 20_000)
    np.testing.assert_allclose(reached, rest.product, atol=1e-9)


def test_most_gaussian_targets_have_their_rest_point(monkeypatch):
    """The plain iteration circles at 8 of these 30; all but the 2 where no damping settles have the reference's fit."""
    monkeypatch.setattr(convergence, "ITERATIONS", 2000)
    generator, refused = np.random.default_rng(0), 0
    for t in generator.standard_normal((10, 3, 3)):
        for eta in (1.0, 2.0, 4.0):
            expected = settled(t, 1, eta, 0.1)[0]
            if expected is None:
                refused += 1
                with pytest.raises(ArgumentError, match="no self-consistent fit"):
                    adaptive.rest_point(t, 1, eta)
            else:
                np.testing.assert_allclose(adaptive.rest_point(t, 1, eta).product, expected, atol=1e-11)
    assert refused == 2


def test_a_target_without_a_fit_of_its_own_weights(monkeypatch):
    """diag(1, 0.9): a fit along either axis weighs it down below the other; ALLoRA rests off both, at the tie."""
    monkeypatch.setattr(convergence, "ITERATIONS", 2000)
    t, eta = np.diag([1.0, 0.9]), 4.0
    for axis, other in ((0, 1), (1, 0)):
        root = (np.array([t[0, 0], t[1, 1]]) * (np.arange(2) == axis) + eta**-2) ** -0.25
        assert root[axis] * t[axis, axis] < root[other] * t[other, other]
    with pytest.raises(ArgumentError, match=r"no self-consistent fit of rank 1 at eta = 4 found .*run_to_rest"):
        adaptive.rest_point(t, 1, eta)
    reached = adaptive.run_to_rest(t, [[0.3, 0.2]], eta, 0.05, 20_000)
    root = (np.linalg.norm(reached, axis=1) + eta**-2)[:, None] ** -0.25
    values = np.linalg.svd(root * t, compute_uv=False)
    assert values[0] == pytest.approx(values[1], rel=1e-9)
    assert np.abs(reached).min() > 0.1


def test_rest_point_that_does_not_settle(monkeypatch):
    monkeypatch.setattr(convergence, "ITERATIONS", 1)
    with pytest.raises(ArgumentError, match="self-consistent"):
        adaptive.rest_point(np.diag([3.0, 2.0, 1.0]) + 0.5, 1, 2.0)


def ascent_twin(shape, eta, a_std, b_std, samples, draws, generator):
    """One draw at a time, in its own order of draws."""
    n1, n2, rank = shape
    climbs = []
    for _ in range(draws):
        g = generator.standard_normal((n1, samples)) @ generator.standard_normal((samples, n2))
        a, b = a_std * generator.standard_normal((rank, n2)), b_std * generator.standard_normal((n1, rank))
        a_part, b_part = brute.first_order_changes(a, b, g, eta)
        climbs.append((a_part > 0, a_part + b_part > 0))
    return np.mean(climbs, axis=0)


@pytest.mark.statistical
def test_ascent_frequency(rng):
    shape, eta, a_std, b_std, samples = (3, 2, 1), 1.0, 0.3, 20.0, 1
    found = adaptive.ascent_frequency(shape, eta, a_std, b_std, samples=samples, draws=40_000, generator=rng)
    twin = ascent_twin(shape, eta, a_std, b_std, samples, 2000, rng)
    shares = np.array([found.a_part, found.total])
    stderr = np.sqrt(shares * (1 - shares) / 2000)
    assert_close_to_stderr(twin, shares, stderr, smallest_error=0.05)
    assert_rejects(assert_close_to_stderr, twin, shares + 0.05, stderr, smallest_error=0.05)
    assert found.a_part_stderr == pytest.approx(np.sqrt(found.a_part * (1 - found.a_part) / 40_000))
    assert found.a_part >= found.total > 0.005


def test_ascent_frequency_does_not_depend_on_chunks(monkeypatch):
    args = ((4, 3, 2), 1.0, 0.3, 20.0)
    one = adaptive.ascent_frequency(*args, samples=2, draws=500, generator=np.random.default_rng(1))
    monkeypatch.setattr("allora_analysis.adaptive.descent.CHUNK", 64)
    assert adaptive.ascent_frequency(*args, samples=2, draws=500, generator=np.random.default_rng(1)) == one


def test_constant_factor_never_climbs(monkeypatch):
    monkeypatch.setattr("allora_analysis.adaptive.descent.inverse_sqrt", lambda x, eta: np.full_like(x, eta))
    found = adaptive.ascent_frequency(
        (3, 2, 1), 1.0, 0.3, 20.0, samples=1, draws=2000, generator=np.random.default_rng(1)
    )
    assert (found.a_part, found.total) == (0.0, 0.0)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: adaptive.first_order_change([[1.0]], [[1.0]], [[1.0]], -1.0), "eta"),
        (lambda: adaptive.first_return((Fraction(1), Fraction(0), Fraction(1))), "first change"),
        (lambda: adaptive.first_return((Fraction(1),)), "first change"),
        (lambda: dataclasses.replace(adaptive.EXAMPLE, eta=Fraction(2)).factor(), "square of a rational"),
        (lambda: adaptive.rest_point([[1.0, 2.0]], 2, 1.0), "rank"),
        (lambda: adaptive.rest_point([[1.0, 2.0]], 1, 0.0), "eta"),
        (lambda: adaptive.run_to_rest([[1.0, 2.0]], [[1.0]], 1.0, 0.1, 3), "a: shape"),
        (lambda: adaptive.run_to_rest([[1.0, 2.0]], [[1.0, 1.0]], 1.0, 0.1, 0), "steps"),
        (lambda: adaptive.run_to_rest([[1.0, 2.0]], [[1.0, 1.0]], 1.0, 0.1, 10**6 + 1), "steps .* 1000000"),
        (
            lambda: adaptive.ascent_frequency(
                (3, 2, 3), 1.0, 1.0, 1.0, samples=1, draws=10, generator=np.random.default_rng(0)
            ),
            "rank",
        ),
        (
            lambda: adaptive.ascent_frequency(
                (3, 2, 1), 1.0, 0.0, 1.0, samples=1, draws=10, generator=np.random.default_rng(0)
            ),
            "a_std",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
