"""E|L̄_n − E L|: by brute force, exact rationals, high precision, each method by the others; the moments; mistakes."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis import deviation
from allora_analysis.deviation import law
from allora_analysis.validation import ArgumentError
from tests.brute_force import deviation as reference
from tests.stat_assert import assert_mean, assert_rejects
from tests.tikhonov_designs import random_problem

LIMIT = math.sqrt(2 / math.pi)


def exact(delta, keep_prob, n):
    return law.deviation_of(np.asarray(delta, dtype=float), keep_prob, n)


def check(found, truth, tolerance=1e-8):
    """Right to the tolerance, and the error bar honest."""
    gap = abs(found.value - truth)
    assert gap <= tolerance * truth
    assert gap <= found.error + 1e-13 * truth


@pytest.mark.parametrize(("samples", "outputs", "n"), [(2, 1, 4), (1, 3, 2), (3, 1, 3), (2, 2, 2)])
@pytest.mark.parametrize("keep_prob", [0.3, 0.5, 0.999])
def test_every_sequence_of_masks(rng, samples, outputs, n, keep_prob):
    x, y, w = random_problem(rng, samples, 2, outputs)
    truth = reference.over_mask_sequences(x, y, w, keep_prob, n)
    found = deviation.exact_deviation(x, y, w, keep_prob, n)
    assert found.value == pytest.approx(truth, rel=1e-10)
    assert deviation.mean_absolute_deviation(x, y, w, keep_prob, n) == found.value
    assert deviation.ratio(x, y, w, keep_prob, n) == found.ratio
    assert found.bound == deviation.bound(x, y, w, keep_prob, n)


@pytest.mark.parametrize(
    ("samples", "outputs", "n"), [(1, 1, 1), (1, 1, 4000), (2, 1, 1500), (3, 1, 100), (2, 2, 30), (3, 2, 9), (4, 4, 1)]
)
@pytest.mark.parametrize("keep_prob", [0.001, 0.5, 0.9])
def test_all_counts(rng, samples, outputs, n, keep_prob):
    x, y, w = random_problem(rng, samples, 2, outputs)
    check(deviation.exact_deviation(x, y, w, keep_prob, n), reference.over_counts(x, y, w, keep_prob, n))


def test_a_planted_wrong_jump_is_rejected(rng, monkeypatch):
    x, y, w = random_problem(rng, 2, 2, 2)
    truth = reference.over_counts(x, y, w, 0.7, 3)
    monkeypatch.setattr(law, "jumps", lambda z, y, p: z * (z / p - y) / p)  # the factor 2 forgotten
    with pytest.raises(AssertionError):
        check(deviation.exact_deviation(x, y, w, 0.7, 3), truth)


MAGNITUDES = {
    "all equal": np.ones(20),
    "from 1e-8 to 1e8": np.logspace(-8, 8, 20),
    "one dominates": np.r_[1e6, np.linspace(1, 2, 19)],
    "nearly equal": np.r_[1.0, 1.0 + 1e-12, 1.0 + 1e-9, 2.0],
    "resonance": np.arange(1.0, 20.0),
    "both signs": np.r_[np.arange(1.0, 10.0), -np.arange(1.0, 10.0)],
    "some zero": np.r_[np.zeros(10), 1.0, -3.0, 0.1],
}


@pytest.mark.parametrize("name", MAGNITUDES)
@pytest.mark.parametrize("keep_prob", [0.001, 0.5, 0.95, 0.999])
def test_hard_magnitudes(name, keep_prob):
    check(exact(MAGNITUDES[name], keep_prob, 1), reference.by_tree(MAGNITUDES[name], keep_prob))


@pytest.mark.parametrize("keep_prob", [Fraction(1, 2), Fraction(7, 8), Fraction(1, 16)])
@pytest.mark.parametrize("delta", [(1, 2, 3), (1, -1), (4, 4, 9), (1, 100), tuple(range(1, 11))])
def test_lattices_against_exact_rationals(delta, keep_prob):
    n = 12
    check(exact(delta, float(keep_prob), n), reference.on_integers(delta, keep_prob, n))


@pytest.mark.parametrize(("entries", "keep_prob", "n"), [(12, 0.5, 25), (8, 0.3, 200), (46, 0.5, 1)])
def test_beyond_enumeration_against_high_precision(rng, entries, keep_prob, n):
    delta = rng.standard_normal(entries)
    found = exact(delta, keep_prob, n)
    assert found.method == "characteristic function"
    check(found, reference.by_quadrature(delta, keep_prob, n, end=12, digits=20))


@pytest.mark.parametrize(
    ("x", "y", "w", "keep_prob"),
    [
        ([[1.0]], [[2.0]], [[0.0]], 0.5),  # LoRA's start
        ([[1.0], [2.0]], [[3.0], [1.0]], [[1.0]], 1.0),  # no dropout
        ([[1.0], [2.0]], [[1.0], [2.0]], [[1.0]], 0.5),  # Z/p = 2Y: kept or dropped, the same loss
    ],
)
def test_constant_loss(x, y, w, keep_prob):
    found = deviation.exact_deviation(x, y, w, keep_prob, 7)
    assert (found.value, found.error, found.bound, found.method) == (0.0, 0.0, 0.0, "constant")
    assert found.ratio == pytest.approx(LIMIT)


def test_bound_is_attained_by_one_active_entry_at_one_half():
    found = deviation.exact_deviation([[1.0], [0.0]], [[0.3], [1.0]], [[2.0]], 0.5, 1)
    assert found.ratio == pytest.approx(1.0, rel=1e-12)
    assert deviation.ratio([[1.0], [0.0]], [[0.3], [1.0]], [[2.0]], 0.5, 2) < 0.8


@pytest.mark.parametrize("entries", [1, 6, 50])
def test_limit(rng, entries):
    gaps = [abs(exact(rng.standard_normal(entries), 0.9, n).ratio - LIMIT) for n in (100, 10_000, 1_000_000)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-5


@pytest.mark.parametrize("function", [deviation.mean_absolute_deviation, deviation.ratio])
def test_an_answer_without_its_bar_is_known(monkeypatch, function):
    """At 50 entries and keep_prob 1 − 10⁻⁹ the answer is q(|Σδ| + Σ|δ|) to first order; one that is not known, none."""
    rng = np.random.default_rng(0)
    x, w, y = np.eye(50), rng.standard_normal((50, 1)), rng.standard_normal((50, 1))
    delta = (w * (w - 2 * y)).ravel()
    truth = 1e-9 * (abs(delta.sum()) + np.abs(delta).sum())
    scale = deviation.bound(x, y, w, 1 - 1e-9, 1) if function is deviation.ratio else 1.0
    assert function(x, y, w, 1 - 1e-9, 1) == pytest.approx(truth / scale, rel=1e-6)
    for share, known in ((0.9e-6, True), (1.1e-6, False)):
        monkeypatch.setattr(law, "expected_absolute", lambda groups, share=share: (0.5, 0.5 * share, "enumeration"))
        if known:
            assert function(x, y, w, 0.5, 1) > 0
        else:
            with pytest.raises(ArgumentError, match="keep_prob, n: the deviation is known only as"):
                function(x, y, w, 0.5, 1)


def test_a_million_entries_and_masks(rng):
    delta = rng.standard_normal(10**6)
    found = exact(delta, 0.95, 10**6)
    assert found.error < 1e-7 * found.value
    assert found.ratio == pytest.approx(LIMIT, rel=1e-8)


@settings(deadline=None, max_examples=25)
@given(
    delta=st.lists(st.floats(-100, 100).filter(lambda d: abs(d) > 1e-3), min_size=1, max_size=5),
    keep_prob=st.floats(0.01, 0.99),
    n=st.integers(1, 6),
    scale=st.sampled_from([1e-100, 0.25, 3.0, 1e100]),
)
def test_properties_of_the_deviation(delta, keep_prob, n, scale):
    found = exact(delta, keep_prob, n)
    assert 0 < found.ratio <= 1 + 1e-12
    assert exact(scale * np.array(delta[::-1]), keep_prob, n).ratio == pytest.approx(found.ratio, rel=1e-9)
    assert exact(-np.array(delta), keep_prob, n).value == pytest.approx(found.value, rel=1e-9)
    assert exact(delta, 1 - keep_prob, n).value == pytest.approx(found.value, rel=1e-9)  # Bin(n, p) mirrored
    assert exact([*delta, 1.0], keep_prob, n).value >= found.value * (1 - 1e-9)  # Jensen


@pytest.mark.bad_input
@pytest.mark.parametrize("n", [0, -3])
def test_number_of_masks(n):
    with pytest.raises(ArgumentError, match=r"n must be .* received"):
        deviation.exact_deviation([[1.0]], [[1.0]], [[1.0]], 0.5, n)


# -- moments of the masked loss and gradient


SHAPES = [(1, 1, 1), (3, 2, 2), (2, 4, 3), (5, 3, 1)]
KEEP_PROBS = [0.001, 0.3, 0.5, 0.999, 1.0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("keep_prob", KEEP_PROBS)
def test_all_masks(rng, shape, keep_prob):
    x, y, w = random_problem(rng, *shape)
    mean, std = reference.moments(lambda mask: reference.loss(x, y, w, mask), y.shape, keep_prob)
    assert deviation.loss_moments(x, y, w, keep_prob) == pytest.approx((float(mean), float(std)), rel=1e-9, abs=1e-9)
    assert deviation.bound(x, y, w, keep_prob, 9) == pytest.approx(std / 3, rel=1e-9, abs=1e-9)
    _, stds = reference.moments(lambda mask: reference.gradient(x, y, w, mask), y.shape, keep_prob)
    np.testing.assert_allclose(deviation.gradient_std(x, y, w, keep_prob), stds, rtol=1e-9, atol=1e-7)


def test_a_planted_wrong_gradient_is_rejected(rng):
    x, y, w = random_problem(rng, 3, 2, 2)
    _, stds = reference.moments(lambda mask: reference.gradient(x, y, w, mask), y.shape, 0.6)
    wrong = law.gradient_spread(x, y - x @ w, 0.6)  # Z where Z/p belongs
    assert np.max(np.abs(wrong / stds - 1)) > 1e-2


@pytest.mark.statistical
def test_drawn_masks(rng):
    x, y, w = random_problem(rng, 30, 4, 3)
    p, n = 0.8, 40_000
    z = x @ w
    mask = rng.binomial(1, p, size=(n, *y.shape)) / p
    losses = np.sum((y - z * mask) ** 2, axis=(1, 2))
    mean, std = deviation.loss_moments(x, y, w, p)
    assert_mean(losses / mean, 1.0, smallest_error=0.02)
    assert_mean((losses - mean) ** 2 / std**2, 1.0, smallest_error=0.1)
    assert_rejects(assert_mean, losses / mean, 1.03, smallest_error=0.02)
    assert_rejects(assert_mean, (losses - mean) ** 2 / std**2, 1 / p, smallest_error=0.1)  # k = 1 − p instead
    gradients = -2 * np.einsum("nd,bnc->bdc", x, mask * (y - z * mask))
    spread = deviation.gradient_std(x, y, w, p)
    squares = ((gradients - gradients.mean(axis=0)) / spread) ** 2 * n / (n - 1)
    assert_mean(squares, 1.0, smallest_error=0.12)
    assert_rejects(assert_mean, squares, 1.2, smallest_error=0.12)


def test_zero_initialisation(rng):
    x, y, _ = random_problem(rng, 6, 3, 2)
    w = np.zeros((3, 2))
    assert deviation.loss_moments(x, y, w, 0.5) == (pytest.approx(np.sum(y**2)), 0.0)
    assert deviation.bound(x, y, w, 0.5, 4) == 0.0
    np.testing.assert_allclose(deviation.gradient_std(x, y, w, 0.5), 2 * np.sqrt((x**2).T @ y**2), rtol=1e-14)


def test_small_and_large_scales_neither_underflow_nor_overflow(rng):
    x, y, w = random_problem(rng, 4, 2, 2)
    std = deviation.loss_moments(x, y, w, 0.7)[1]
    for scale in (1e-120, 1e120):
        assert deviation.loss_moments(x, scale * y, scale * w, 0.7)[1] == pytest.approx(scale**2 * std, rel=1e-12)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), keep_prob=st.floats(0.05, 1.0), scale=st.floats(0.1, 10))
def test_properties_of_the_moments(seed, keep_prob, scale):
    rng = np.random.default_rng(seed)
    x, y, w = random_problem(rng, 4, 3, 2)
    mean, std = deviation.loss_moments(x, y, w, keep_prob)
    assert mean >= np.sum((y - x @ w) ** 2) * (1 - 1e-12)
    assert deviation.loss_moments(x, scale * y, scale * w, keep_prob) == pytest.approx(
        (scale**2 * mean, scale**2 * std)
    )
    order = rng.permutation(4)
    assert deviation.loss_moments(x[order], y[order], w, keep_prob) == pytest.approx((mean, std))
    parts = [deviation.loss_moments(x[i : i + 1], y[i : i + 1], w, keep_prob)[1] for i in range(4)]
    assert std == pytest.approx(math.hypot(*parts))  # rows are independent
    gradient = deviation.gradient_std(x, y, w, keep_prob)
    np.testing.assert_allclose(deviation.gradient_std(scale * x, y, w / scale, keep_prob), scale * gradient, rtol=1e-9)


GOOD = {"x": [[1.0], [2.0]], "y": [[1.0], [0.5]], "w": [[1.0]], "keep_prob": 0.5}


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": [[1.0, 2.0], [2.0, 1.0]]}, r"w: shape \(1, 1\) received, 2 × 1 wanted"),
        ({"y": [[1.0]]}, r"y: shape \(1, 1\) received, 2 × any wanted"),
        ({"y": [[1.0], [math.nan]]}, r"y: every entry must be finite, received nan at index \(1, 0\)"),
        ({"w": [[math.inf]]}, "w: every entry must be finite"),
        ({"x": np.empty((0, 1))}, r"x: shape \(0, 1\) received"),
        ({"keep_prob": 0.0}, r"keep_prob must be a keep probability in \(0, 1\].*received 0.0"),
        ({"keep_prob": 1.5}, "received 1.5"),
        ({"w": [[1e200]]}, r"the loss overflows float64 \(max .* = 4e\+200"),
    ],
)
@pytest.mark.parametrize("function", ["loss_moments", "gradient_std", "exact_deviation", "bound"])
def test_mistakes(function, change, message):
    arguments = GOOD | change | ({"n": 2} if function in ("exact_deviation", "bound") else {})
    with pytest.raises(ArgumentError, match=message):
        getattr(deviation, function)(**arguments)


@pytest.mark.bad_input
def test_array_likes_are_converted():
    assert deviation.loss_moments([[1], [2]], [[1], [0]], [[1]], 0.5) == pytest.approx((9.0, 8.0))


@pytest.mark.parametrize(("z", "y"), [(1.2e154, 1.2e154), (-0.6e154, 0.6e154)])
def test_a_loss_of_which_each_part_is_finite_and_the_sum_is_not_is_refused(z, y):
    """Planted: a part subtracted, so that two large ones cancel."""
    with pytest.raises(ArgumentError, match="the loss overflows"):
        law.jumps(np.array([[z]]), np.array([[y]]), 1.0)


def test_the_gradients_spread_in_any_unit():
    assert deviation.gradient_std([[1e-170]], [[1.0]], [[0.0]], 0.5) == pytest.approx(2e-170)
    assert deviation.gradient_std([[1e160]], [[0.0]], [[0.0]], 0.5) == 0.0
    crossed = deviation.gradient_std([[1.0], [1e-170]], [[1e-170], [1.0]], [[0.0]], 0.5)
    assert crossed == pytest.approx(2 * np.sqrt(2) * 1e-170, rel=1e-12, abs=0.0)
