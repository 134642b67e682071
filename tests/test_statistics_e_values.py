"""Sequential e-values: by another formula, and by simulation of their errors, power and bounds."""

import math
import sys

import mpmath as mp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis.statistics import e_values as module
from allora_analysis.statistics.e_values import CAP, EFFECT, THRESHOLD, bounds, decide, e_values
from allora_analysis.validation import ArgumentError
from tests.stat_assert import assert_rejects, threshold

RUNS = 4000  # paths, fixed beforehand


def paths(effect: float, seed: int, runs: int = RUNS) -> np.ndarray:
    return np.random.default_rng(seed).normal(effect, 1.0, (runs, CAP))


def grids(x: np.ndarray) -> np.ndarray:
    """z after each pair, path by path: what `e_values` has on one path."""
    return np.cumsum(x, axis=1) / np.sqrt(np.maximum(np.cumsum(x * x, axis=1), 1e-300))


def tables() -> tuple[np.ndarray, np.ndarray]:
    """By n: the z at which e₊ reaches 20 (2: never), from the module's own t*."""
    critical = [module._critical_t(n, THRESHOLD, EFFECT) for n in range(1, CAP + 1)]
    t = np.array([np.inf if value is None else value for value in critical])
    n = np.arange(1, CAP + 1)
    with np.errstate(invalid="ignore"):
        z = np.where(np.isinf(t), np.inf, t * np.sqrt(n / (t * t + n - 1)))
    return t, z


def crossed(x: np.ndarray) -> np.ndarray:
    """Whether e₊ is ever 20 or more along each path."""
    return (grids(x) >= tables()[1]).any(axis=1)


def assert_share_at_most(hits: np.ndarray, level: float, smallest_error: float) -> None:
    """A share is at most the level, by a one-sided z-test at 1e-6 whose power at level + smallest_error is asserted."""
    stderr = math.sqrt(level * (1 - level) / hits.size)
    limit = threshold(2e-6) * stderr
    assert limit + 3.1 * stderr <= smallest_error, "no power: raise n"
    assert hits.mean() <= level + limit, f"{hits.mean():.4f} where at most {level:.4f} is right"


@given(
    n=st.integers(2, 200),
    t=st.floats(-12, 12),
    delta=st.sampled_from([0.1, 0.5, 1.0]),
)
@settings(max_examples=150, deadline=None)
def test_the_noncentral_t_density_over_the_central_one(n, t, delta):
    z = t * math.sqrt(n / (t * t + n - 1))
    above = scipy.stats.nct.logpdf(t, n - 1, math.sqrt(n) * delta) - scipy.stats.t.logpdf(t, n - 1)
    if math.isfinite(above) and above > -25:  # SciPy's own accuracy ends in the far tail
        assert module._log_e(n, z, delta) == pytest.approx(above, rel=1e-6, abs=1e-6)


def test_one_pair_two_pairs_and_a_path():
    phi = scipy.stats.norm.cdf(EFFECT)
    assert e_values([3.0, 4.0])[0].tolist() == [1.0, 1.0]  # one pair has no spread
    assert math.exp(module._log_e(1, 1.0, EFFECT)) == pytest.approx(2 * phi, rel=1e-12)
    x = np.random.default_rng(0).normal(0.3, 2.0, 30)
    found = e_values(x)
    for n in (2, 7, 30):
        t = scipy.stats.ttest_1samp(x[:n], 0.0).statistic
        wanted = [
            scipy.stats.nct.pdf(s * t, n - 1, math.sqrt(n) * EFFECT) / scipy.stats.t.pdf(t, n - 1) for s in (1, -1)
        ]
        np.testing.assert_allclose(found[n - 1], wanted, rtol=1e-8)


def test_no_unit_and_no_sign_counts():
    x = np.random.default_rng(1).normal(0.2, 1.0, 25)
    np.testing.assert_allclose(e_values(1e4 * x)[1:], e_values(x)[1:], rtol=1e-10)
    np.testing.assert_allclose(e_values(-x)[:, ::-1], e_values(x), rtol=1e-12)
    low, high = bounds(x)
    assert bounds(-x) == pytest.approx((-high, -low))
    assert bounds(1e3 * x + 5) == pytest.approx((1e3 * low + 5, 1e3 * high + 5))


@pytest.mark.parametrize("exponent", [-1000, -40, 500, 1000])
def test_neither_does_a_unit_beyond_which_squares_are_numbers(exponent):
    """Powers of two: nothing rounds."""
    x, unit = np.random.default_rng(1).normal(0.2, 1.0, 25), 2.0**exponent
    np.testing.assert_array_equal(e_values(unit * x), e_values(x))
    assert bounds(unit * x) == tuple(unit * end for end in bounds(x))
    one, other = decide(x, 0.5), decide(unit * x, 0.5 * unit)
    assert (other.verdict, other.above, other.standard_deviation) == (
        one.verdict,
        one.above,
        unit * one.standard_deviation,
    )


def test_differences_within_the_grain_are_equal():
    x = 0.0009380863039399335 + 1e-14 * np.arange(5)  # one sentence of 1,066, and what rounding left
    assert e_values(x, grain=1e-12)[-1].tolist() == [1.0, 1.0]
    assert bounds(x, grain=1e-12) == (None, None)
    assert decide(x, 0.5, grain=1e-12).above == 1.0 != decide(x, 0.5).above


def test_the_bounds_are_where_the_e_values_are_20():
    x = np.random.default_rng(2).normal(0.0, 1.0, 25)
    low, high = bounds(x)
    assert e_values(x - low)[-1, 0] == pytest.approx(THRESHOLD, rel=1e-9)
    assert e_values(x - high)[-1, 1] == pytest.approx(THRESHOLD, rel=1e-9)


def test_two_pairs_reach_20_where_the_effect_is_large():
    t = module._critical_t(2, THRESHOLD, 10.0)
    assert math.exp(module._log_e(2, t * math.sqrt(2 / (t * t + 1)), 10.0)) == pytest.approx(THRESHOLD, rel=1e-6)
    assert module._critical_t(1, THRESHOLD, 10.0) is None


@pytest.mark.parametrize("n", [2, 5, 20])
def test_the_mean_is_one_under_no_effect(n):
    """By integration over the central t: a likelihood ratio has mean 1. Planted: the plain normal's, without σ."""

    def mean(log_e):
        def integrand(t):
            return math.exp(log_e(t) + scipy.stats.t.logpdf(t, n - 1))

        return scipy.integrate.quad(integrand, -np.inf, np.inf, epsabs=1e-10, limit=400)[0]

    def right(t):
        return module._log_e(n, t * math.sqrt(n / (t * t + n - 1)), EFFECT)

    def planted(t):  # σ taken from the sample as if it were known
        return EFFECT * math.sqrt(n) * t - n * EFFECT**2 / 2

    assert mean(right) == pytest.approx(1.0, abs=1e-7)
    t = np.random.default_rng(3).standard_t(n - 1, 200_000)
    assert np.exp(planted(np.clip(t, -50, 50))).mean() > 1.2


def test_looked_at_after_every_pair_it_errs_at_most_once_in_twenty():
    """Type I error at δ = 0 and on its boundary's far side. Planted: Student's p ≤ 0.05 after every pair."""
    null = paths(0.0, 10)
    assert_share_at_most(crossed(null), 1 / THRESHOLD, 0.03)
    assert crossed(paths(-0.3, 11)).mean() < 0.01
    t = np.array([scipy.stats.t.isf(0.05, n - 1) if n > 1 else np.inf for n in range(1, CAP + 1)])
    n = np.arange(1, CAP + 1)
    z = grids(null)
    with np.errstate(divide="ignore", invalid="ignore"):
        student = z * np.sqrt((n - 1) / (n - z * z))
    peeking = (student >= t)[:, 1:].any(axis=1)
    assert_rejects(assert_share_at_most, peeking, 1 / THRESHOLD, 0.03)


def test_shares_of_1066_sentences_do_not_inflate_it():
    """Differences of accuracies are multiples of 1/1066, about a sixth of their deviation."""
    grain = 0.15
    rounded = np.round(paths(0.0, 12) / grain) * grain
    assert_share_at_most(crossed(rounded), 1 / THRESHOLD, 0.03)


def test_a_rare_failure_of_one_arm_breaks_the_level():
    """As the module says: with one in 45 pairs 36 deviations up, and a mean of 0, "below" is found in 7 of 10 paths."""
    x = paths(0.0, 13) + 36 * (np.random.default_rng(14).random((RUNS, CAP)) < 1 / 45) - 36 / 45
    assert crossed(-x).mean() == pytest.approx(0.72, abs=0.04)


def test_the_bounds_come_no_nearer_than_a_quarter_of_the_deviation():
    """As t* over the root of n tends to δ/2: ever nearer, never there."""
    halves = [module._critical_t(n, THRESHOLD, EFFECT) / math.sqrt(n) for n in (60, 600, 6000, 60_000)]
    assert halves == sorted(halves, reverse=True)
    assert halves[0] == pytest.approx(0.355, abs=5e-4)
    assert 0.25 < halves[-1] < 0.2505


def test_power_within_the_cap():
    """P(e₊ ≥ 20 within 60 pairs), as the module says from 60,000 other paths, ± 4.9 standard errors of these 4000."""
    for effect, power in ((0.5, 0.928), (0.3, 0.525), (1.0, 1.0)):
        share = crossed(paths(effect, 20 + int(10 * effect))).mean()
        assert share == pytest.approx(power, abs=4.9 * math.sqrt(0.25 / RUNS)), effect


def test_the_bounds_hold_at_all_n_at_once():
    """P(the lower bound is ever above the mean) ≤ 1/20. Planted: Student's one-sided bound at each n."""
    x = paths(0.7, 30)
    assert_share_at_most(crossed(x - 0.7), 1 / THRESHOLD, 0.03)
    n = np.arange(1, CAP + 1)
    mean = np.cumsum(x, axis=1) / n
    deviation = np.sqrt(np.maximum(np.cumsum(x * x, axis=1) - n * mean**2, 0) / np.maximum(n - 1, 1))
    t = np.nan_to_num(tables()[0], posinf=1e9)
    assert_share_at_most((mean - t * deviation / np.sqrt(n) > 0.7)[:, 7:].any(axis=1), 1 / THRESHOLD, 0.03)
    student = np.array([scipy.stats.t.isf(0.05, max(k - 1, 1)) for k in n])
    wrong = (mean - student * deviation / np.sqrt(n) > 0.7)[:, 7:].any(axis=1)
    assert_rejects(assert_share_at_most, wrong, 1 / THRESHOLD, 0.03)


def decided(effect: float, margin: float, seed: int, runs: int = 300) -> dict[str, float]:
    found = [decide(x, margin).verdict for x in paths(effect, seed, runs)]
    return {word: found.count(word) / runs for word in ("above", "below", "equivalent", "open")}


def test_equivalence_is_found_and_not_at_the_margin():
    at_zero, at_margin = decided(0.0, 0.5, 40), decided(0.5, 0.5, 41)
    assert at_zero["equivalent"] == pytest.approx(0.81, abs=4 * math.sqrt(0.81 * 0.19 / 300))
    assert at_zero["above"] + at_zero["below"] < 0.1 + 4 * math.sqrt(0.09 / 300)
    assert at_margin["equivalent"] < 0.05 + 4 * math.sqrt(0.0475 / 300)
    assert at_margin["above"] > 0.75


def test_the_first_decision_stands():
    x = np.array([1.0, 1.2, 0.8, 1.1, 0.9, 1.3, 0.7, 1.0, 1.1])
    one = decide(x, 0.1)
    assert (one.verdict, one.n, one.at_cap) == ("above", 8, False)
    assert decide(np.concatenate([x, -5 * x]), 0.1) == one
    assert decide(-x, 0.1).verdict == "below"
    assert one.above >= THRESHOLD > e_values(x)[6, 0]
    assert one.low > 0


def test_open_equal_and_at_the_cap():
    assert (decide([0.1], 0.1).low, decide([0.1], 0.1).standard_deviation) == (None, None)
    assert decide([0.1, 0.3], 0.1).standard_deviation == pytest.approx(0.02**0.5)
    assert decide([0.25] * 40, 0.1).verdict == "open"  # no spread: nothing to measure the mean by
    x = np.random.default_rng(4).normal(0.0, 1.0, 80)
    one = decide(x, 0.01)
    assert (one.verdict, one.n, one.at_cap) == ("open", 60, True)
    assert one.low < 0 < one.high
    assert decide(x[: CAP - 1], 0.01).at_cap is False


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([], 0.1), "differences"),
        (([1.0, math.nan], 0.1), "differences"),
        (([1.0], 0.0), "margin"),
        (([1.0], 0.1, 1.0), "threshold must be a number above 1"),
        (([1.0], 0.1, 20.0, 0), "cap"),
        (([1.0], 0.1, 20.0, 60, -0.5), "effect"),
        (([1.0, 2.0], 0.1, 20.0, 60, 1e160), r"effect must be at most 1e\+06 standard deviations, received 1e\+160"),
        (([1.0, 2.0], 0.1, 20.0, 60, 1.1e6), r"effect must be at most 1e\+06 standard deviations"),
        (([1.0], 0.1, 20.0, 60, 0.5, -1.0), "grain"),
    ],
)
def test_refusals(arguments, words):
    with pytest.raises(ArgumentError, match=words):
        decide(*arguments)


def test_the_largest_effect_keeps_five_digits():
    """Of two pairs, in fifty digits: e = exp(−δ²) · (1 + a√(2π) exp(a²/2) Φ(a)), a = δz, z² = 2t²/(1 + t²)."""
    t, delta = module._critical_t(2, 20.0, module.MOST_EFFECT), mp.mpf(module.MOST_EFFECT)
    with mp.workdps(50):

        def e_value(t):
            a = delta * mp.sqrt(2 * t**2 / (1 + t**2))
            return mp.exp(-(delta**2)) + a * mp.sqrt(2 * mp.pi) * mp.exp(a**2 / 2 - delta**2) * mp.ncdf(a)

        assert e_value(mp.mpf(t) * (1 - 1e-5)) < 20 < e_value(mp.mpf(t) * (1 + 1e-5))
    with pytest.raises(ArgumentError, match="effect must be at most"):
        bounds([1.0, 2.0, 4.0], effect=1e8)
    with pytest.raises(ArgumentError, match="effect must be at most"):
        e_values([1.0, 2.0, 4.0], effect=1e20)


def test_an_e_value_beyond_the_largest_number_is_finite():
    differences = 1 + 1e-6 * np.random.default_rng(0).standard_normal(8000)
    above, below = module._both(differences, 0.5, 0.0)
    assert (above, below) == (pytest.approx(sys.float_info.max, rel=1e-9), 0.0)
    assert module.decide(differences, 0.5).verdict == "above"
