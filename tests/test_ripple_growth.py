"""The exact moments of a layer's log growth against mpmath, SciPy and exact binomial weights."""

import math

import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis import ripple
from allora_analysis.ripple import growth
from allora_analysis.validation import ArgumentError
from tests.brute_force import ripple as brute
from tests.stat_assert import assert_mean, assert_rejects

RATIOS = (1e-8, 1e-3, 0.25, 1.0, 7.0, 100.0, 1e8)


@pytest.mark.parametrize("rank", [1, 2, 8, 1000])
@pytest.mark.parametrize("eta", RATIOS)
def test_moments_equal_mpmath_to_1e_10(rank, eta):
    """Relative to the moment itself, however small (ρ from 1e-16 to 1e16)."""
    mean, variance = brute.log_scale_moments(rank, eta, 1.0, 1.0, 1.0)
    ours = growth.log1p_chi_square(rank, 2 * math.log(eta))
    assert ours.mean == pytest.approx(mean, rel=1e-10)
    assert ours.variance == pytest.approx(variance, rel=1e-10)
    assert ripple.adapter_gain(rank, eta, 1.0, 1.0, 1.0) == pytest.approx(mean / 2, rel=1e-10)


@pytest.mark.parametrize("rank", [1, 5, 200, 3_000_000])
def test_moments_at_extreme_ratios_have_their_limits(rank):
    """ρ → ∞: log ρ + log χ²_r; ρ → 0: mean ρr, variance 2ρ²r."""
    mean, variance = brute.log_chi_square_moments(rank)
    large = growth.log1p_chi_square(rank, 600.0)
    assert large.mean == pytest.approx(600 + mean, rel=1e-13)
    assert large.variance == pytest.approx(variance, rel=1e-10)
    small = growth.log1p_chi_square(rank, -300.0)
    assert small.mean == pytest.approx(math.exp(-300) * rank, rel=1e-10)
    assert small.variance == pytest.approx(2 * math.exp(-600) * rank, rel=1e-10)
    assert growth.log1p_chi_square(rank, -5000.0) == (0.0, 0.0)  # underflows cleanly


@pytest.mark.parametrize("n", [1, 2, 7, 300])
def test_growth_exponent_assembles_both_parts(n):
    mean, variance = brute.log_chi_square_moments(n)
    scale, spread = brute.log_scale_moments(1, 0.8, 0.3, 2.0, 0.5)
    ours = ripple.growth_exponent(n, 1, 0.8, 0.3, 2.0, 0.5)
    assert ours.mean == pytest.approx(0.5 * (2 * math.log(0.3) + scale + mean), abs=1e-12)
    assert ours.variance == pytest.approx((spread + variance) / 4, rel=1e-10)
    frozen = ripple.growth_exponent(n, 1, 0.0, 0.3, 2.0, 0.5)
    assert frozen.mean == pytest.approx(math.log(0.3) + mean / 2, abs=1e-12)
    assert frozen.variance == pytest.approx(variance / 4, rel=1e-10)
    alone = ripple.growth_exponent(n, 1, 0.8, 0.0, 2.0, 0.5)
    single = brute.log_chi_square_moments(1)
    assert alone.mean == pytest.approx(math.log(0.8) + (single[0] + mean) / 2, abs=1e-12)
    assert alone.variance == pytest.approx((single[1] + variance) / 4, rel=1e-10)


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_relu_moments_equal_exact_binomial_weights(n):
    mean, variance = brute.relu_log_moments(n)
    ours = growth.log_chi_square_relu(n)
    assert ours.mean == pytest.approx(mean, abs=1e-11)
    assert ours.variance == pytest.approx(variance, rel=1e-10)
    layer = ripple.growth_exponent(n, 1, 0.0, 1.0, 1.0, 1.0, architecture="relu")
    assert layer == pytest.approx((mean / 2, variance / 4))


def test_relu_at_large_width_is_finite_and_near_half_the_width():
    assert growth.log_chi_square_relu(100_000).mean == pytest.approx(math.log(50_000), abs=1e-4)


def test_survival_counts_dead_layers():
    assert ripple.log_survival(3, 1) == pytest.approx(3 * math.log(0.5))
    assert ripple.log_survival(10, 2000) == 0.0


def test_small_eta_is_quadratic_where_the_bound_is_linear():
    gains = [ripple.adapter_gain(8, eta, 0.1, 0.1, 0.1) for eta in (1e-6, 2e-6)]
    bounds = [ripple.worst_case([1.0], [1.0], eta).log_bound for eta in (1e-6, 2e-6)]
    assert math.log2(gains[1] / gains[0]) == pytest.approx(2, abs=1e-6)
    assert math.log2(bounds[1] / bounds[0]) == pytest.approx(1, abs=1e-6)
    assert gains[0] == pytest.approx(0.5 * 1e-12 * 8 * 0.1**2, rel=1e-6)


def test_network_growth_sums_rectangular_layers():
    stds = (2.0, 0.3, 0.4, 0.5)
    total = ripple.network_growth((9, 4, 7, 4), 3, *stds)
    layers = [ripple.growth_exponent(n, 3, *stds) for n in (4, 7, 4)]
    assert total.mean == pytest.approx(sum(layer.mean for layer in layers))
    assert total.variance == pytest.approx(sum(layer.variance for layer in layers))


def test_fluctuation_band_is_the_central_normal_interval():
    low, high = ripple.fluctuation_band(ripple.Growth(1.0, 4.0))
    assert (low, high) == pytest.approx((1 - 2 * 1.959963985, 1 + 2 * 1.959963985))


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 300),
    st.floats(0, 100),
    st.floats(1e-3, 10),
    st.floats(1e-3, 10),
    st.floats(1e-3, 10),
    st.floats(0.1, 10),
)
def test_growth_properties(rank, eta, w_std, a_std, b_std, factor):
    width = rank + 5
    mean, variance = ripple.growth_exponent(width, rank, eta, w_std, a_std, b_std)
    assert variance > 0
    # Scaling the whole layer shifts the mean; only the product η s_A s_B matters; more η, more growth.
    scaled = ripple.growth_exponent(width, rank, eta, factor * w_std, factor * a_std, b_std)
    assert scaled.mean == pytest.approx(mean + math.log(factor), abs=1e-9)
    assert scaled.variance == pytest.approx(variance, rel=1e-8)
    moved = ripple.growth_exponent(width, rank, eta * factor, w_std, a_std / factor, b_std)
    assert moved == pytest.approx((mean, variance), rel=1e-8, abs=1e-9)
    assert ripple.growth_exponent(width, rank, eta + 0.1, w_std, a_std, b_std).mean >= mean
    # Jensen: mean log ≤ log mean.
    square = width * (w_std**2 + (eta * a_std * b_std) ** 2 * rank)
    assert mean <= 0.5 * math.log(square) + 1e-9


@pytest.mark.statistical
def test_one_layer_by_monte_carlo_and_a_planted_error(rng):
    draws = 400_000
    scale = 0.2**2 + (1.5 * 0.3 * 0.4) ** 2 * rng.chisquare(1, draws)
    samples = 0.5 * (np.log(scale) + np.log(rng.chisquare(6, draws)))
    mean, variance = ripple.growth_exponent(6, 1, 1.5, 0.2, 0.3, 0.4)
    assert_mean(samples, mean, smallest_error=0.01)
    assert_mean((samples - mean) ** 2, variance, smallest_error=0.01)
    jensen = 0.5 * (math.log(0.2**2 + (1.5 * 0.3 * 0.4) ** 2) + math.log(6))
    assert_rejects(assert_mean, samples, jensen, smallest_error=0.01)


BAD = [
    ((4, 5, 1.0, 1.0, 1.0, 1.0), "rank must be at most"),
    ((0, 1, 1.0, 1.0, 1.0, 1.0), "width must be"),
    ((4, 0, 1.0, 1.0, 1.0, 1.0), "rank must be"),
    ((4, 1, -1.0, 1.0, 1.0, 1.0), "eta must be"),
    ((4, 1, 1.0, -1.0, 1.0, 1.0), "w_std must be"),
    ((4, 1, 1.0, 1.0, math.inf, 1.0), "a_std must be"),
    ((4, 1, 1.0, 1.0, 1.0, math.nan), "b_std must be"),
    ((4, 1, 0.0, 0.0, 1.0, 1.0), "w_std is 0"),
    ((4, 1, 1.0, 0.0, 1.0, 0.0), "w_std is 0"),
]


@pytest.mark.bad_input
@pytest.mark.parametrize(("arguments", "words"), BAD)
def test_growth_names_bad_input(arguments, words):
    with pytest.raises(ArgumentError, match=words):
        ripple.growth_exponent(*arguments)


@pytest.mark.bad_input
def test_other_bad_input(request):
    with pytest.raises(ArgumentError, match="architecture must be"):
        ripple.growth_exponent(4, 1, 1.0, 1.0, 1.0, 1.0, architecture="prelayernorm")
    with pytest.raises(ArgumentError, match="w_std must be a finite number above 0"):
        ripple.adapter_gain(1, 1.0, 0.0, 1.0, 1.0)
    with pytest.raises(ArgumentError, match="coverage must be in"):
        ripple.fluctuation_band(ripple.Growth(0.0, 1.0), 1.0)
    with pytest.raises(ArgumentError, match=r"growth.mean must be a finite number, received nan"):
        ripple.fluctuation_band(ripple.Growth(math.nan, 1.0))
    error = ArgumentError if request.config.option.untyped else jaxtyping.TypeCheckError
    with pytest.raises(error, match=r"growth"):
        ripple.fluctuation_band((0.0, 1.0))
    with pytest.raises(ArgumentError, match="depth must be"):
        ripple.log_survival(0, 3)
    assert ripple.growth_exponent(10**9 + 1, 1, 0.0, 1.0, 1.0, 1.0).mean > 10
    with pytest.raises(ArgumentError, match="width must be"):
        ripple.growth_exponent(10**9 + 1, 1, 0.0, 1.0, 1.0, 1.0, architecture="relu")
    assert ripple.adapter_gain(1, 0.0, 1.0, 1.0, 1.0) == 0.0
