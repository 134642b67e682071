"""Hostile arguments to everything that `ripple` hands on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allora_analysis import ripple
from tests.hostile import EXAMPLES, answers, counts, is_refused, matrices, mostly, numbers, words

norms = st.lists(numbers, max_size=3) | st.lists(st.sampled_from((0.0, 1e-310, 1.0, 1e308)), min_size=2, max_size=2)
kinds = words("linear", "relu", "prelayernorm")
widths = mostly(st.lists(st.integers(2, 4), min_size=2, max_size=3), st.lists(counts, max_size=3))
RNG = np.random.default_rng(0)


@EXAMPLES
@given(counts, counts, counts, numbers, numbers, numbers, numbers, kinds, widths)
def test_typical_growth(depth, width, rank, eta, w_std, a_std, b_std, kind, widths):
    scales = eta, w_std, a_std, b_std
    answers(ripple.growth_exponent, width, rank, *scales, architecture=kind)
    answers(ripple.adapter_gain, rank, *scales)
    answers(ripple.network_growth, widths, rank, *scales, architecture=kind)
    answers(ripple.log_survival, depth, width)
    answers(ripple.residual_growth, depth, width, rank, *scales)
    answers(ripple.residual_log_growth, depth, width, rank, *scales)
    answers(ripple.residual_square, depth, width, rank, *scales, eta)
    answers(ripple.adapter_norm_limit, width, rank)
    answers(ripple.fair_scales, width, rank, kind, w_std, a_std)
    answers(ripple.fluctuation_band, ripple.Growth(0.0, 1.0), eta)


@EXAMPLES
@given(norms, norms, numbers, counts)
def test_worst_case(weights, adapters, eta, width):
    answers(ripple.worst_case, weights, adapters, eta, infinite=0 in weights)  # there m̄ is ∞
    answers(ripple.residual_bound, weights, adapters, eta, width)


@EXAMPLES
@given(matrices(3, 2), matrices(3, 1), matrices(1, 2), matrices(2, 1), numbers, kinds, counts, st.booleans())
def test_given_networks(w, b, a, x, eta, kind, repeats, damped):
    answers(ripple.spectral_norms, [(w, b, a)])
    options = {"architecture": kind, "damped": damped}
    answers(ripple.log_output_growth, [(w, b, a)], np.ravel(x), eta, infinite=True, **options)
    square = [(np.asarray(w)[:2], np.asarray(b)[:2], a)]
    answers(ripple.log_output_growth, square, np.ravel(x), [eta], infinite=True, repeats=repeats, **options)
    answers(ripple.damped_branch, w, eta)


@EXAMPLES
@given(widths, counts, numbers, norms, norms, kinds, counts, words("matrices", "isotropy", "chi_square"))
def test_drawn_networks(widths, rank, eta, weights, adapters, kind, replicas, method):
    rng = np.random.default_rng(0)
    options = {"generator": rng, "architecture": kind}
    answers(ripple.aligned_network, widths, rank, weights, adapters, **options)
    found = ripple.Simulation
    stds = [*weights, 1.0, 1.0, 1.0][:3]

    def growths(*arguments, **more):
        result = ripple.simulate(*arguments, **more)
        assert isinstance(result, found)
        return result.log_growth  # a cosine that is defined nowhere is NaN

    answers(growths, widths, rank, eta, *stds, replicas=replicas, method=method, infinite=True, **options)


NARROWS = [(np.ones((2, 3)), np.ones((2, 1)), np.ones((1, 3)))]
FOUND = [
    (lambda: ripple.log_output_growth(NARROWS, [1, 2, 3], 1.0, architecture="prelayernorm"), "widths must be equal"),
    (lambda: ripple.log_output_growth(NARROWS, [1, 2, 3], 1.0, repeats=2), "repeats must be 1 for a stack that ends 2"),
    (lambda: ripple.damped_branch(np.ones(2), np.ones(3)), "f and eta: shapes .2,. and .3,. do not broadcast"),
    (lambda: ripple.aligned_network((3, 3), 1, [1.0, (1.0,)], generator=RNG), "weight_norms: rows of different"),
    (lambda: ripple.aligned_network((10**9, 10**9), 1, generator=RNG), "widths: the orthogonal bases .* GiB"),
    (lambda: ripple.simulate((4, 4), 1, 1.0, 1.0, 1.0, 1.0, replicas=10**9, generator=RNG), "replicas: .* GiB"),
    (lambda: ripple.worst_case([1e-310], [1e300], 1.0), "weight_norms of up to 1e-310"),
    (lambda: ripple.residual_growth(1, 4, 1, 1e300, 1e300, 1.0, 1.0), "w_std 1e.300"),
    (
        lambda: ripple.growth_exponent(10**12, 1, 1.0, 1.0, 1.0, 1.0, architecture="relu"),
        "width must be .* 1000000000]",
    ),
]


@pytest.mark.bad_input
@pytest.mark.parametrize(("call", "words"), FOUND)
def test_what_was_found_is_refused(call, words):
    is_refused(call, words)


def test_bounds_beyond_the_floats_are_numbers_all_the_same():
    """Planted: ∞ for W and ηBA whose sum or product overflows, and a map of 0 for a product that vanishes."""
    log = math.log(10)
    assert ripple.worst_case([1.0], [1e308], 1e308).log_bound == pytest.approx(616 * log)
    assert ripple.worst_case([1.0], [1e308], 1e308).log_amgm_bound == pytest.approx(616 * log)
    assert ripple.worst_case([1e308] * 2, [1e308] * 2, 1.0).log_bound == pytest.approx(616 * log + 2 * math.log(2))
    assert ripple.worst_case([0.0], [1e-300], 1e-300).log_bound == pytest.approx(-600 * log)
    assert ripple.residual_bound([1e308] * 2, [1.0] * 2, 1e308, 4) == pytest.approx(308 * log + math.log(4))


def test_a_wide_relu_layer_is_the_limit_of_wide_ones():
    """Half of the units live: as wide as this, the mean is log(n/2)/2 and the variance (1/2 + 1/4)·2/n, up to 1/n."""
    mean, variance = ripple.growth_exponent(10**8, 1, 0.0, 1.0, 1.0, 1.0, architecture="relu")
    assert mean == pytest.approx(math.log(10**8 / 2) / 2, abs=1e-7)
    assert variance == pytest.approx(1.25e-8, rel=1e-3)
