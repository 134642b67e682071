"""The ways to E|L̄_n − E L| against one another and on large grids: hand-over, honest bars, the transform; binomial
probabilities and mean absolute deviations against high precision.
"""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from allora_analysis.deviation import law, methods
from tests.brute_force import deviation as reference
from tests.test_deviation_exact import check, exact


def probability(k, n, p):
    with mpmath.workdps(50):
        log = mpmath.loggamma(n + 1) - mpmath.loggamma(k + 1) - mpmath.loggamma(n - k + 1)
        return float(mpmath.exp(log + k * mpmath.log(mpmath.mpf(p)) + (n - k) * mpmath.log(1 - mpmath.mpf(p))))


@pytest.mark.parametrize("p", [1e-6, 1e-3, 0.1, 0.5])
@pytest.mark.parametrize("n", [1, 2, 7, 40, 1000, 10**6, 10**9, 10**12])
def test_probabilities(n, p):
    spread = math.sqrt(n * p * (1 - p))
    k = np.unique(np.clip(np.round(n * p + spread * np.array([-7, -3, -1, 0, 0.5, 2, 6, 8])), 0, n))
    k = np.union1d(k, np.arange(min(n, 3) + 1)) if n < 100 else k
    found = methods.binomial_probabilities(k, np.full_like(k, float(n)), p)
    for value, chance in zip(k, found, strict=True):
        truth = probability(int(value), n, p)
        assert chance == pytest.approx(truth, rel=1e-11)


@pytest.mark.parametrize("p", [1e-6, 0.001, 0.2, 0.5])
@pytest.mark.parametrize("n", [1, 2, 5, 10, 1000, 10**6, 10**12])
def test_mean_absolute_deviation(n, p):
    found = methods.binomial_deviation(np.array([float(n)]), p)[0]
    assert found == pytest.approx(reference.binomial_deviation(n, p), rel=1e-11)


def test_series_meets_the_table():
    k = np.arange(1.0, 40.0)
    with mpmath.workdps(30):
        truth = [
            float(mpmath.loggamma(v + 1) - (v + 0.5) * mpmath.log(v) + v - mpmath.log(2 * mpmath.pi) / 2)
            for v in map(int, k)
        ]
    np.testing.assert_allclose(methods.stirling_error(k), truth, rtol=2e-14, atol=2e-15)


@pytest.mark.parametrize("trials", [1.0, 30.0, 1e4, 1e8])
@pytest.mark.parametrize("p", [1e-4, 0.5])
def test_window_holds_all_that_matters(trials, p):
    k = methods.window(trials, p)
    assert len(k) == methods.window_length(trials, p)
    assert np.sum(methods.binomial_probabilities(k, np.full_like(k, trials), p)) == pytest.approx(1.0, abs=1e-11)
    if trials == 1:
        assert list(k) == [0, 1]
    assert len(k) < 60 + 25 * math.sqrt(trials * p)


def units(groups):
    return groups, law.floor_ratio(groups) * math.sqrt(float(np.sum(groups.variance)))


def test_large_lattice_beyond_enumeration():
    # δ = 1 … 48: 2^48 outcomes that merge; and by the series, where φ returns to 1.
    groups, floor = units(methods.group(np.arange(1.0, 49.0), 1, 0.75))
    merged, bar = methods.meet_in_the_middle(groups, floor)
    truth = reference.on_integers(range(1, 49), Fraction(3, 4), 1)
    assert abs(merged - truth) <= min(bar, 1e-11 * truth)
    value, error, _ = law.by_characteristic_function(groups, floor)
    assert abs(value - truth) <= error <= 1e-8 * truth


@pytest.mark.parametrize("entries", [45, 80, 1500])
@pytest.mark.parametrize("keep_prob", [0.05, 0.5, 0.999])
def test_certified_error_is_honest_on_large_grids(rng, entries, keep_prob):
    delta = rng.integers(1, 400 if entries > 1000 else 3000, size=entries).astype(float)
    truth = reference.on_a_grid(delta, keep_prob)
    check(exact(delta, keep_prob, 1), truth)
    scale = math.sqrt(keep_prob * (1 - keep_prob) * np.sum(delta**2))
    groups, floor = units(methods.group(delta / scale, 1, keep_prob))
    value, error, _ = law.by_characteristic_function(groups, floor)
    assert abs(scale * value - truth) <= scale * error + 1e-13 * truth <= 5e-8 * truth


def test_peeling_stops_before_it_grows_too_large(rng):
    wide = methods.group(rng.standard_normal(3), 10**6, 0.5)
    assert [state.depth for state in law.peel(wide, 0.0, most=10**6)] == [0, 1]
    assert len(law.peel(methods.group(rng.standard_normal(40), 1, 0.5), 0.0, most=8)) < 6
    assert law.smoothness(wide.tail(3)) == math.inf


def test_a_half_that_cannot_fit_is_given_up():
    groups, floor = units(methods.group(np.array([1.0, 2.0**0.5, 3.0**0.5, 5.0**0.5]), 10**6, 0.5))
    assert methods.meet_in_the_middle(groups, floor) is None


def test_what_cannot_be_enumerated_is_refused_before_its_atoms_are_built(monkeypatch):
    """Planted: half a gigabyte of atoms, of groups of which no two fit."""
    groups, floor = units(methods.group(np.sqrt([1.0, 2.0, 3.0, 5.0]), 10**9, 0.5))
    monkeypatch.setattr(methods, "atoms_of", None)
    assert methods.meet_in_the_middle(groups, floor) is None


@pytest.mark.parametrize("n", [10**12, 10**14, 10**16])
def test_a_group_that_cannot_be_peeled_is_left_before_its_atoms_are_built(n, monkeypatch):
    """Planted: up to 10⁹ atoms of one group. So many masks are the central limit's, up to O(1/n)."""
    monkeypatch.setattr(methods, "atoms_of", None)
    found = exact([1.0, -0.3], 0.3, n)
    assert found.method == "characteristic function"
    assert found.ratio == pytest.approx(law.LIMIT, rel=1e-8)
    assert found.error <= 1e-6 * found.value


def test_what_may_be_peeled_is_peeled():
    """1.02·10⁶ atoms and 1.05·10⁶ are on either side of 2²⁰; the answers go on across it."""
    found = []
    for n, depths in ((120 * 10**8, [0, 1]), (132 * 10**8, [0])):
        groups, floor = units(methods.group(np.array([1.0, -0.3]), n, 0.3))
        assert [state.depth for state in law.peel(groups, 1e-14 * floor, most=2**20)] == depths
        found.append(exact([1.0, -0.3], 0.3, n).ratio)
    assert found[0] == pytest.approx(found[1], rel=1e-9)


HANDOVER = {
    "few entries, many masks": (3, 0.8, 120),
    "many entries, one mask": (24, 0.95, 1),
    "even masks": (30, 0.5, 1),
    "rare drops": (22, 0.99, 2),
}


@pytest.mark.parametrize("name", HANDOVER)
def test_methods_agree_where_both_are_feasible(rng, name):
    entries, keep_prob, n = HANDOVER[name]
    groups, floor = units(methods.group(rng.standard_normal(entries), n, keep_prob))
    met, bar = methods.meet_in_the_middle(groups, floor)
    value, error = methods.expectation(groups, np.zeros(1), np.ones(1), 2e-9 * floor)
    assert abs(met - value) <= 1e-8 * met
    assert abs(met - value) <= error + bar
    peeled, error, method = law.by_characteristic_function(groups, floor)
    assert method in law.METHODS
    assert abs(met - peeled) <= min(1e-8 * met, error + bar)


@pytest.mark.parametrize(("keep_prob", "n"), [(0.5, 1), (0.9, 500), (0.3, 10**6)])
def test_closed_form_agrees_with_both_enumerations(keep_prob, n):
    groups, floor = units(methods.group(np.full(3, -2.5), n, keep_prob))
    closed, bar, method = law.expected_absolute(groups)
    assert (method, bar) == ("closed form", pytest.approx(1e-13 * closed, rel=1e-9, abs=0.0))
    assert closed == pytest.approx(methods.meet_in_the_middle(groups, floor)[0], rel=1e-12)
    peeled, _, method = law.by_characteristic_function(groups, floor)
    assert method == "enumeration"
    assert closed == pytest.approx(peeled, rel=1e-12)
    # An atom at 0 is what the series resolves worst: its bar says so.
    value, error = methods.expectation(groups, np.zeros(1), np.ones(1), 1e-7 * floor)
    assert abs(value - closed) <= error <= 1e-4 * closed


def test_a_characteristic_function_planted_wrong_breaks_the_handover(rng, monkeypatch):
    groups, floor = units(methods.group(rng.standard_normal(24), 1, 0.95))
    right = methods.log_phi

    def wrong(groups, t):
        result, done = right(groups, t)
        result[1] *= 0.99
        return result, done

    monkeypatch.setattr(methods, "log_phi", wrong)
    value, error = methods.expectation(groups, np.zeros(1), np.ones(1), 1e-7 * floor)
    met, _ = methods.meet_in_the_middle(groups, floor)
    assert abs(met - value) > max(1e-6 * met, error)


def test_dominant_part_is_enumerated_before_the_series(rng):
    # Two of three entries tie at ±1 and leave the small ones alone near 0: the series by itself cannot resolve that.
    small = 1e-6 * rng.standard_normal(18)
    delta = np.r_[1.0, 1.0, small]
    truth = reference.by_tree(delta, 0.5)
    check(exact(delta, 0.5, 1), truth)
    groups, floor = units(methods.group(delta, 1, 0.5))
    value, error, _ = law.by_characteristic_function(groups, floor)
    assert abs(value - truth) <= error + 1e-13 * truth <= 1e-8 * truth


def test_a_second_split_where_the_first_leaves_atoms(rng, monkeypatch):
    """Four of ±½, 0 with chance 6/16 and E|·| = ¾, and a sum S too small to turn one: E|T| = ¾ + ⅜E|S|."""
    monkeypatch.setattr(methods, "EVALUATIONS", 1e6)
    small = 1e-6 * rng.standard_normal(30)
    groups, floor = units(methods.group(np.r_[1.0, -1.0, 1.0, -1.0, small], 1, 0.5))
    rest, own = units(methods.group(small, 1, 0.5))
    value, error, _ = law.by_characteristic_function(groups, floor)
    assert abs(value - 0.75 - 0.375 * law.by_characteristic_function(rest, own)[0]) <= error <= 1e-10 * floor
    assert law._finish(groups, law.peel(groups, 1e-14 * floor)[0], floor)[1] > 1e-8 * floor


def test_series_with_an_enumerated_part(rng):
    groups, floor = units(methods.group(np.r_[4.0, 3.0, rng.standard_normal(20)], 1, 0.6))
    met, _ = methods.meet_in_the_middle(groups, floor)
    state = law.peel(groups, 1e-14)[2]
    value, error = law._finish(groups, state, floor)
    assert abs(value - met) <= min(error, 1e-8 * met)


@pytest.mark.parametrize("keep_prob", [1e-9, 1 - 1e-9, 1 - 1e-7])
@pytest.mark.parametrize("entries", [50, 200])
def test_masks_that_change_an_entry_seldom(rng, entries, keep_prob):
    """q, the rarer chance: E|T| from none, one and two changed entries; three of them have a share of about (Nq)²."""
    delta, q = rng.standard_normal(entries), min(keep_prob, 1 - keep_prob)
    mean, pairs = q * delta.sum(), delta[:, None] + delta
    none, one = abs(mean), np.abs(delta - mean).sum()
    two = np.abs(pairs - mean)[np.triu_indices(entries, 1)].sum()
    truth = (1 - q) ** (entries - 2) * ((1 - q) ** 2 * none + q * (1 - q) * one + q * q * two)
    found = exact(delta, keep_prob, 1)
    assert found.method == "enumeration"
    assert abs(found.value - truth) <= found.error + ((entries * q) ** 2 + 1e-13) * truth
    assert found.error <= 2 * law.TARGET * truth


def test_what_is_settled_early_is_within_its_error():
    groups, _ = units(methods.group(np.sqrt([1.0, 2.0, 3.0, 5.0, 7.0]), 1, 0.7))
    truth, _ = methods.meet_in_the_middle(groups, 1.0)
    lost = []
    for spare in (0.0, 0.1, 0.3, 1.0):
        last = law.peel(groups, 0.0, spare=spare)[-1]
        assert len(last.place) == 0
        lost.append(truth - last.settled)
        assert -1e-13 <= lost[-1] <= last.error + 1e-13  # |x| in the place of E|x + S| is too little
        assert last.error <= spare
    assert 1e-3 < lost[1] < lost[2] < lost[3]
    assert abs(lost[0]) < 1e-13


def test_up_to_256_groups_are_met_in_the_middle():
    """Σ ±j/2 for j = 1 … 256: all on one lattice, so that no half has too many atoms."""
    groups, floor = units(methods.group(np.arange(1.0, 257.0), 1, 0.5))
    value, error = methods.meet_in_the_middle(groups, floor)
    direct = np.array([1.0])
    for step in range(1, 257):
        direct = (np.pad(direct, (0, step)) + np.pad(direct, (step, 0))) / 2
    places = np.arange(len(direct)) - (len(direct) - 1) / 2
    told = float(direct @ np.abs(places)) / math.sqrt(float(direct @ places**2))
    assert value / math.sqrt(float(np.sum(groups.variance))) == pytest.approx(told, rel=1e-11)
    assert error < 1e-8 * value
    assert methods.meet_in_the_middle(*units(methods.group(np.arange(1.0, 258.0), 1, 0.5))) is None


def test_scales_apart_are_enumerated_to_the_end():
    found = exact(2.0 ** -np.arange(60), 0.5, 1)
    assert found.method == "enumeration"
    # Uniform on an interval: E|U − mean|/Std = √3/2, up to 2^-60.
    assert found.ratio == pytest.approx(math.sqrt(3) / 2, rel=1e-12)


@pytest.mark.parametrize("last", [9, 101, 8191])
def test_what_is_left_of_the_series(last):
    """Σ 1/k² over odd k > last: ζ(2, (last + 2)/2)/4 of Hurwitz."""
    truth = float(mpmath.zeta(2, mpmath.mpf(last + 2) / 2) / 4)
    assert methods._odd_remainder(float(last)) == pytest.approx(truth, rel=max(1e-15, 0.1 * (2 / last) ** 6))


@pytest.mark.parametrize("phi", [0.0, 1.0])
def test_the_bar_has_what_was_cut_off(phi):
    """φ = 0, total mass ½: E is half the wave's mean M/2, the bar what smoothing leaves. φ = 1, T = 0: E|σG| less half
    the bound of its bias, which is itself.
    """
    k, period = 2 * np.arange(50) + 1.0, 3.0
    value, error = methods._sum_up(k, phi + 0 * k, period, 0.5 + 0.5 * phi)
    rest, sigma = math.pi**2 / 8 - np.sum(1 / k**2), 6 * period / (math.pi * k[-1])
    half = phi * sigma / math.sqrt(2 * math.pi)
    assert value == pytest.approx(half if phi else period / 4, rel=1e-6)
    cut = (0.5 + 0.5 * phi) * math.exp(-18) * (4 * period / math.pi**2 * rest + sigma)
    assert error == pytest.approx(half + cut, rel=1e-6 if phi else 1e-9)


def test_many_entries_refine_to_what_is_asked_for(rng):
    delta = rng.standard_normal(250)
    groups, floor = units(methods.group(delta, 1, 0.99))
    coarse = methods.expectation(groups, np.zeros(1), np.ones(1), 1e-5 * floor)
    fine = methods.expectation(groups, np.zeros(1), np.ones(1), 2e-9 * floor)
    assert fine[1] <= 2e-9 * floor < coarse[1]
    assert abs(fine[0] - coarse[0]) <= fine[1] + coarse[1]
    shifted = methods.expectation(groups, np.array([-0.3, 0.7]), np.array([0.7, 0.3]), 1e-8 * floor)
    two = methods.group(np.r_[1.0, delta], 1, 0.99)  # another law: only that atoms go into the sum
    assert shifted[1] < 1e-6 < shifted[0] < math.sqrt(float(np.sum(two.variance)) + 1)


def test_joined_atoms_keep_their_mean_and_tell_how_far_they_moved():
    value, weight = np.array([1.0, 0.1, 3.0, 0.0, 3.05]), np.array([0.4, 0.2, 0.0, 0.3, 0.1])
    joined, mass, error = methods.merge(value, weight, 0.2)
    np.testing.assert_allclose(joined, [0.2 * 0.1 / 0.5, 1.0, 3.05], rtol=1e-15)
    np.testing.assert_allclose(mass, [0.5, 0.4, 0.1], rtol=1e-15)
    assert error == pytest.approx(0.5 * 0.1 + 0.1 * 0.05, rel=1e-12)
    nowhere, mass, _ = methods.merge(np.array([3.0, 3.05]), np.zeros(2), 0.2)  # an atom whose weight underflowed
    assert (nowhere.tolist(), mass.tolist()) == ([3.0], [0.0])


def test_the_bar_adds_up_what_every_step_may_have_moved(monkeypatch):
    groups, floor = units(methods.group(np.sqrt([1.0, 2.0, 3.0]), 3, 0.4))
    true_merge, true_radius, true_series = methods.merge, methods.radius, methods.expectation
    value, bar = methods.meet_in_the_middle(groups, floor)
    monkeypatch.setattr(methods, "merge", lambda *atoms: (*true_merge(*atoms)[:2], 0.25))
    monkeypatch.setattr(methods, "radius", lambda *rest: (true_radius(*rest)[0], 0.125))
    monkeypatch.setattr(methods, "expectation", lambda *part: (true_series(*part)[0], 0.0625))
    states = law.peel(groups, 0.0)
    assert [state.error for state in states] == [0.5 * depth for depth in range(4)]
    met, wider = methods.meet_in_the_middle(groups, floor)
    assert met == pytest.approx(value, rel=1e-13)
    assert wider - bar == pytest.approx(3 * 0.25, rel=1e-9)  # one step for each of the three groups, on two sides
    assert law._finish(groups, states[1], floor)[1] == pytest.approx(0.5 + 0.0625, rel=1e-9)
    assert law.by_characteristic_function(groups, floor)[1] == pytest.approx(1.5, rel=1e-9)


def test_rounding_is_in_the_bar(monkeypatch):
    groups, floor = units(methods.group(np.sqrt([1.0, 2.0, 3.0]), 3, 0.4))
    true_series = methods.expectation
    monkeypatch.setattr(methods, "expectation", lambda *part: (true_series(*part)[0], 0.0))
    state = law.peel(groups, 0.0)[1]
    value, bar = law._finish(groups, state, floor)
    assert bar - state.error == pytest.approx(1e-13 * value, rel=1e-3, abs=0.0)
    value, bar, method = law.by_characteristic_function(groups, floor)
    assert (method, bar) == ("enumeration", pytest.approx(1e-13 * value, rel=1e-6, abs=0.0))
    value, bar = methods.meet_in_the_middle(groups, floor)
    assert bar == pytest.approx((3e-14 + methods.EPS * (16 + 4)) * value, rel=1e-12, abs=0.0)  # four values each


def test_atoms_that_the_rest_cannot_bring_to_0_are_settled():
    """E|T| is what is settled and what is left, after every number of groups enumerated."""
    groups, floor = units(methods.group(np.array([5.0, 1.0, 0.5, 0.25]), 2, 0.3))
    truth, _ = methods.meet_in_the_middle(groups, floor)
    for state in law.peel(groups, 0.0)[1:-1]:
        assert law._finish(groups, state, floor)[0] == pytest.approx(truth, rel=1e-7)
        assert 0 <= state.settled < truth


def atoms(groups):
    return [methods.atoms_of(groups, index) for index in range(len(groups.size))]


def outcomes(groups):
    """All values of T, by brute force, and their chances."""
    value, weight = np.zeros(1), np.ones(1)
    for places, chances in atoms(groups):
        value, weight = (value[:, None] + places).ravel(), (weight[:, None] * chances).ravel()
    return value, weight


def test_the_radius_of_very_many_trials_is_a_normal_laws():
    reach, _ = methods.radius(methods.group(np.ones(1), 10**14, 0.5), 50.0)
    assert reach == pytest.approx(10 * 0.5e7, rel=1e-3)  # √(2·50) standard deviations


@pytest.mark.parametrize("keep_prob", [0.1, 0.5])
def test_the_radius_is_below_bernsteins_bound(keep_prob):
    """√(2ve) + ce/3, of variance v and terms of c at most, which Bennett's is below: of 1,000 trials at e = 42."""
    reach, _ = methods.radius(methods.group(np.ones(1), 1000, keep_prob), 42.0)
    variance, largest = 1000 * keep_prob * (1 - keep_prob), 1 - keep_prob
    assert reach < math.sqrt(2 * 42 * variance) + largest * 42 / 3


@pytest.mark.parametrize("exponent", [0.0, 1.0, 3.0, 8.0, 60.0])
@pytest.mark.parametrize(
    ("delta", "n", "keep_prob"),
    [((1.0, -0.4), 1, 0.3), ((1.0, 0.7), 40, 0.02), ((3.0,), 9, 0.5), (np.ones(14), 1, 0.5), (np.ones(14), 3, 0.1)],
)
def test_beyond_the_radius_is_as_little_as_told(delta, n, keep_prob, exponent):
    groups = methods.group(np.array(delta), n, keep_prob)
    value, weight = outcomes(groups)
    reach, beyond = methods.radius(groups, exponent)
    far = np.abs(value) > reach
    assert weight[far].sum() <= 2 * math.exp(-exponent)
    assert (weight * np.abs(value))[far].sum() <= beyond
    assert reach <= np.abs(groups.size) @ groups.trials * (1 - groups.probability) * (1 + 1e-11)


@pytest.mark.parametrize(
    ("delta", "n", "keep_prob"),
    [((1.0, -0.4), 1, 0.3), ((1.0, 1.0, 0.2), 2, 0.5), ((3.0,), 4, 0.1), (np.linspace(1, 2, 8), 1, 0.3)],
)
def test_the_floor_is_the_better_of_two_lower_bounds(delta, n, keep_prob):
    """Jensen's and Hölder's by brute force over all outcomes, neither above the truth."""
    groups = methods.group(np.array(delta), n, keep_prob)
    value, weight = outcomes(groups)
    second, fourth = weight @ value**2, weight @ value**4
    own = max(chances @ np.abs(places) for places, chances in atoms(groups))
    expected = max(own / math.sqrt(second), math.sqrt(second**2 / fourth))
    assert law.floor_ratio(groups) == pytest.approx(expected, rel=1e-10)
    assert expected <= weight @ np.abs(value) / math.sqrt(second) * (1 + 1e-12)
