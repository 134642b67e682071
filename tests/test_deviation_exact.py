"""E|L̄_n − E L|: against brute force, exact rationals, high precision, and each method against the others."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from allora_analysis import deviation
from allora_analysis.deviation import characteristic, enumeration, exponential_sums, law
from allora_analysis.validation import ArgumentError
from tests.brute_force import deviation as reference

LIMIT = math.sqrt(2 / math.pi)


def exact(delta, keep_prob, n):
    return law.deviation_of(np.asarray(delta, dtype=float), keep_prob, n)


def check(found, truth, tolerance=1e-8):
    """Right to the tolerance, and the error bar honest."""
    gap = abs(found.value - truth)
    assert gap <= tolerance * truth
    assert gap <= found.error + 1e-13 * truth


def random_problem(rng, samples, outputs, features=2):
    return (
        rng.standard_normal((samples, features)),
        rng.standard_normal((samples, outputs)),
        rng.standard_normal((features, outputs)),
    )


def units(groups):
    return groups, law.floor_ratio(groups) * math.sqrt(float(np.sum(groups.variance)))


@pytest.mark.parametrize(("samples", "outputs", "n"), [(2, 1, 4), (1, 3, 2), (3, 1, 3), (2, 2, 2)])
@pytest.mark.parametrize("keep_prob", [0.3, 0.5, 0.999])
def test_every_sequence_of_masks(rng, samples, outputs, n, keep_prob):
    x, y, w = random_problem(rng, samples, outputs)
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
    x, y, w = random_problem(rng, samples, outputs)
    check(deviation.exact_deviation(x, y, w, keep_prob, n), reference.over_counts(x, y, w, keep_prob, n))


def test_a_planted_wrong_jump_is_rejected(rng, monkeypatch):
    x, y, w = random_problem(rng, 2, 2)
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


def test_large_lattice_beyond_enumeration():
    # δ = 1 … 48: 2^48 outcomes that merge; and by the series, where φ returns to 1.
    groups, floor = units(enumeration.group(np.arange(1.0, 49.0), 1, 0.75))
    merged, bar = enumeration.meet_in_the_middle(groups, floor)
    truth = reference.on_integers(range(1, 49), Fraction(3, 4), 1)
    assert abs(merged - truth) <= min(bar, 1e-11 * truth)
    value, error, _ = law.by_characteristic_function(groups, floor)
    assert abs(value - truth) <= error <= 1e-8 * truth


HANDOVER = {
    "few entries, many masks": (3, 0.8, 120),
    "many entries, one mask": (24, 0.95, 1),
    "even masks": (30, 0.5, 1),
    "rare drops": (22, 0.99, 2),
}


@pytest.mark.parametrize("name", HANDOVER)
def test_methods_agree_where_both_are_feasible(rng, name):
    entries, keep_prob, n = HANDOVER[name]
    groups, floor = units(enumeration.group(rng.standard_normal(entries), n, keep_prob))
    met, bar = enumeration.meet_in_the_middle(groups, floor)
    value, error = characteristic.expectation(groups, np.zeros(1), np.ones(1), 2e-9 * floor)
    assert abs(met - value) <= 1e-8 * met
    assert abs(met - value) <= error + bar
    peeled, error, method = law.by_characteristic_function(groups, floor)
    assert method in law.METHODS
    assert abs(met - peeled) <= min(1e-8 * met, error + bar)


@pytest.mark.parametrize(("keep_prob", "n"), [(0.5, 1), (0.9, 500), (0.3, 10**6)])
def test_closed_form_agrees_with_both_enumerations(keep_prob, n):
    groups, floor = units(enumeration.group(np.full(3, -2.5), n, keep_prob))
    closed, _, method = law.expected_absolute(groups)
    assert method == "closed form"
    assert closed == pytest.approx(enumeration.meet_in_the_middle(groups, floor)[0], rel=1e-12)
    peeled, _, method = law.by_characteristic_function(groups, floor)
    assert method == "enumeration"
    assert closed == pytest.approx(peeled, rel=1e-12)
    # An atom at 0 is what the series resolves worst: its bar says so.
    value, error = characteristic.expectation(groups, np.zeros(1), np.ones(1), 1e-7 * floor)
    assert abs(value - closed) <= error <= 1e-4 * closed


def test_a_characteristic_function_planted_wrong_breaks_the_handover(rng, monkeypatch):
    groups, floor = units(enumeration.group(rng.standard_normal(24), 1, 0.95))
    right = characteristic.log_phi

    def wrong(groups, t):
        result, done = right(groups, t)
        result[1] *= 0.99
        return result, done

    monkeypatch.setattr(characteristic, "log_phi", wrong)
    value, error = characteristic.expectation(groups, np.zeros(1), np.ones(1), 1e-7 * floor)
    met, _ = enumeration.meet_in_the_middle(groups, floor)
    assert abs(met - value) > max(1e-6 * met, error)


def test_dominant_part_is_enumerated_before_the_series(rng):
    # Two of three entries tie at ±1 and leave the small ones alone near 0: the series by itself cannot resolve that.
    small = 1e-6 * rng.standard_normal(18)
    delta = np.r_[1.0, 1.0, small]
    truth = reference.by_tree(delta, 0.5)
    check(exact(delta, 0.5, 1), truth)
    groups, floor = units(enumeration.group(delta, 1, 0.5))
    value, error, _ = law.by_characteristic_function(groups, floor)
    assert abs(value - truth) <= error + 1e-13 * truth <= 1e-8 * truth


def test_series_with_an_enumerated_part(rng):
    groups, floor = units(enumeration.group(np.r_[4.0, 3.0, rng.standard_normal(20)], 1, 0.6))
    met, _ = enumeration.meet_in_the_middle(groups, floor)
    state = law.peel(groups, 1e-14)[2]
    value, error = law._finish(groups, state, floor)
    assert abs(value - met) <= min(error, 1e-8 * met)


def test_scales_apart_are_enumerated_to_the_end():
    found = exact(2.0 ** -np.arange(60), 0.5, 1)
    assert found.method == "enumeration"
    # Uniform on an interval: E|U − mean|/Std = √3/2, up to 2^-60.
    assert found.ratio == pytest.approx(math.sqrt(3) / 2, rel=1e-12)


def test_transform_is_the_sum(rng):
    coefficient = rng.standard_normal(40) + 1j * rng.standard_normal(40)
    angle = rng.uniform(-20, 20, 40)
    direct = np.exp(1j * np.multiply.outer(np.arange(512), angle)) @ coefficient
    assert np.max(np.abs(exponential_sums.exponential_sums(coefficient, angle, 512) - direct)) < 1e-10


def test_transform_takes_over_for_many_entries(rng):
    delta = rng.standard_normal(250)
    groups, floor = units(enumeration.group(delta, 1, 0.99))
    direct = characteristic.expectation(groups, np.zeros(1), np.ones(1), 1e-5 * floor)
    fast = characteristic.expectation(groups, np.zeros(1), np.ones(1), 2e-9 * floor)
    assert fast[1] < 1e-8 * floor < direct[1]
    assert abs(fast[0] - direct[0]) <= fast[1] + direct[1]
    shifted = characteristic.expectation(groups, np.array([-0.3, 0.7]), np.array([0.7, 0.3]), 1e-8 * floor)
    two = enumeration.group(np.r_[1.0, delta], 1, 0.99)  # another law: only that atoms go through the transform
    assert shifted[1] < 1e-6 < shifted[0] < math.sqrt(float(np.sum(two.variance)) + 1)


def test_transform_is_refused_where_its_series_is_long(rng):
    assert exponential_sums.terms(enumeration.group(rng.standard_normal(50), 1, 0.5)) > 1000
    many = enumeration.group(rng.standard_normal(50), 10**6, 0.9)
    assert not characteristic.worth_transforming(many, 1e9)


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
def test_properties(delta, keep_prob, n, scale):
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


def test_wrong_shape_is_rejected_by_the_hook(request):
    if not request.config.option.untyped:
        with pytest.raises(TypeCheckError):
            law.deviation_of(np.ones((2, 2)), 0.5, 1)
        with pytest.raises(TypeCheckError):
            characteristic.expectation(enumeration.group(np.ones(2), 1, 0.5), np.zeros((1, 1)), np.ones(1), 0.1)
        with pytest.raises(TypeCheckError):
            enumeration.group(np.ones((2, 2)), 1, 0.5)
        with pytest.raises(TypeCheckError):
            exponential_sums.exponential_sums(np.ones(2, dtype=complex), np.ones(3), 4)
