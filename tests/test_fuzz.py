"""Hostile arguments to everything that `tikhonov`, `deviation`, `dropout_sgd`, `ripple` and `statistics` hand on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allora_analysis import adaptive, deviation, dropout_sgd, ripple, statistics, tikhonov
from tests.hostile import EXAMPLES, answers, counts, is_refused, keep_probs, matrices, mostly, numbers, words

N, D, C, R = 3, 2, 2, 2
RNG = np.random.default_rng(0)
places = words("output", "input")
learning_rates = mostly(
    st.sampled_from((1e-3, 1e-2)) | st.lists(st.sampled_from((0.0, 1e-3, 1.0, 1e300, 1e-310)), min_size=2, max_size=2),
    numbers,
)
norms = st.lists(numbers, max_size=3) | st.lists(st.sampled_from((0.0, 1e-310, 1.0, 1e308)), min_size=2, max_size=2)
kinds = words("linear", "relu", "prelayernorm")
widths = mostly(st.lists(st.integers(2, 4), min_size=2, max_size=3), st.lists(counts, max_size=3))
rates = mostly(st.floats(0.01, 0.99), numbers)
samples = matrices(1, 6).map(lambda matrix: np.asarray(matrix).ravel())


@EXAMPLES
@given(matrices(N, D), matrices(N, C), matrices(D, C), keep_probs, places, numbers, counts)
def test_losses_solutions_and_ridges(x, y, w, keep_prob, place, penalty, rank):
    answers(tikhonov.expected_loss, x, y, w, keep_prob, place)
    answers(tikhonov.loss_std, x, y, w, keep_prob, place)
    answers(tikhonov.dropout_solution, x, y, keep_prob, place)
    answers(tikhonov.reduced_rank_solution, x, y, keep_prob, rank, place)
    answers(tikhonov.ridge_solution, x, y, penalty)
    answers(tikhonov.exact_penalty, x, keep_prob, place, "fit")
    answers(tikhonov.exact_penalty, x, keep_prob, place)
    answers(tikhonov.is_exact_ridge, x, place, "fit", penalty)
    answers(tikhonov.nearest_ridge, x, y, keep_prob, place, infinite=True)


@EXAMPLES
@given(matrices(N, D), matrices(N, C), matrices(R, D), matrices(C, R), keep_probs, counts)
def test_bottlenecks(x, y, a, b, keep_prob, rank):
    answers(tikhonov.bottleneck_loss, x, y, a, b, keep_prob)
    answers(tikhonov.bottleneck_solution, y, keep_prob, rank)
    answers(tikhonov.bottleneck_minimum, x, y, keep_prob, rank)
    answers(tikhonov.bottleneck_factors, x, y, keep_prob, rank)
    answers(tikhonov.bottleneck_threshold, np.abs(np.ravel(y)) if np.asarray(y).dtype == float else y, keep_prob, rank)


@EXAMPLES
@given(matrices(N, D), matrices(N, C), matrices(D, C), matrices(R, D), matrices(C, R), keep_probs, places, counts)
def test_masks(x, y, w, a, b, keep_prob, place, draws):
    rng = np.random.default_rng(0)
    answers(tikhonov.enumerated_loss, x, y, w, keep_prob, place)
    answers(tikhonov.enumerated_solution, x, y, keep_prob, place)
    answers(tikhonov.enumerated_bottleneck_loss, x, y, a, b, keep_prob)
    answers(tikhonov.enumerated_bottleneck_minimum, x, y, keep_prob, 1, 1, rng)
    answers(tikhonov.sampled_losses, x, y, w, keep_prob, place, draws, rng)
    answers(tikhonov.sample_mean, np.ravel(y))


@EXAMPLES
@given(matrices(2, 2), matrices(2, 2), matrices(2, 2), keep_probs, counts)
def test_moments_and_the_exact_law(x, y, w, keep_prob, n):
    answers(deviation.loss_moments, x, y, w, keep_prob)
    answers(deviation.gradient_std, x, y, w, keep_prob)
    answers(deviation.bound, x, y, w, keep_prob, n)
    answers(deviation.exact_deviation, x, y, w, keep_prob, n)
    answers(deviation.mean_absolute_deviation, x, y, w, keep_prob, n)
    answers(deviation.ratio, x, y, w, keep_prob, n)


@EXAMPLES
@given(
    matrices(3, 2),
    matrices(3, 1),
    matrices(2, 1),
    matrices(2, 2),
    keep_probs,
    learning_rates,
    mostly(st.just(2), counts),
    places,
    mostly(st.none() | st.integers(1, 3), counts),
    mostly(st.just(False), st.booleans()),
)
def test_moments_limits_and_runs(x, y, w_true, sigma, keep_prob, rate, steps, placement, batch_size, shared):
    options = {"batch_size": batch_size, "shared_mask": shared}
    answers(dropout_sgd.trajectory, x, y, keep_prob, rate, steps, placement, w_true=w_true, **options)
    if np.shape(sigma) == (2, 2) and np.asarray(sigma).dtype == float:
        sigma = np.maximum(np.abs(sigma), np.abs(sigma).T)
    given_risk = {"w_true": w_true, "risk_covariance": sigma}
    answers(dropout_sgd.trajectory, x, y, keep_prob, rate, steps, placement, **given_risk, **options)
    answers(dropout_sgd.stability_limits, x, keep_prob, placement, infinite=True, **options)
    answers(dropout_sgd.stationary_moments, x, y, keep_prob, rate, placement, **options)
    run = {"replicas": 2, "generator": np.random.default_rng(0), **options}
    answers(dropout_sgd.simulate, x, y, keep_prob, rate, steps, placement, **run)


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


@EXAMPLES
@given(samples, rates, counts)
def test_accuracies_and_p_values(p_values, accuracy, n):
    answers(statistics.accuracy_stderr, accuracy, n)
    answers(statistics.holm, np.abs(p_values) if p_values.dtype == float else p_values)


@EXAMPLES
@given(samples, samples, words("wilcoxon", "sign", "t"), rates, mostly(st.just(0.0), numbers))
def test_paired_tests(first, second, method, rate, grain):
    answers(statistics.paired_test, first, second, method, rate, infinite=True)
    answers(statistics.sign_flip_test, first, None, 99, grain)
    answers(statistics.clustered_test, first, [1, 1, 2, 2, 3, 3], rate, None, grain, infinite=True)
    answers(statistics.paired_family, {"one": first, "two": second}, rate, infinite=True)


@EXAMPLES
@given(mostly(st.integers(2, 50), counts), numbers, numbers, rates, mostly(st.just(0.05), numbers))
def test_sample_sizes(n, effect, deviation, power, level):
    answers(statistics.power, n, effect, deviation, level)
    answers(statistics.required_n, effect, deviation, power, level)
    answers(statistics.detectable_effect, n, deviation, power, level)


ONE, HUGE = np.ones((2, 1)), np.array([[1.7e308], [1.7e308]])
EYE, LONG = np.eye(3), np.ones((3, 1))
RUN = {"replicas": 2, "generator": np.random.default_rng(0)}
NARROWS = [(np.ones((2, 3)), np.ones((2, 1)), np.ones((1, 3)))]
FOUND = [
    (lambda: tikhonov.expected_loss(1e200 * ONE, ONE, [[1.0]], 0.5, "output"), "x of up to 1e.200, .* range"),
    (lambda: tikhonov.dropout_solution(HUGE, ONE, 0.5, "input"), "double precision's range"),  # silently 0
    (lambda: tikhonov.nearest_ridge(5e-324 * ONE, ONE, 0.5, "output"), "x of up to 4.94e-324"),
    (
        lambda: statistics.mean_ratio([0.0, 1e299, 3e159], [1.0, 2.0, 4.0]),
        "first of up to 1e.299, .* range",
    ),  # a warning
    (lambda: tikhonov.loss_std(HUGE, ONE, [[1.0]], 0.5, "input"), "double precision's range"),
    (lambda: tikhonov.bottleneck_factors(ONE, ONE, 0.5, 10**9), "rank: a rotation .* GiB, more than 1; ask for less"),
    (lambda: tikhonov.sampled_losses(ONE, ONE, [[1.0]], 0.5, "input", 10**9, RNG), "draws: the losses .* GiB"),
    (lambda: deviation.loss_moments([[1e200]], [[1.0]], [[1e200]], 0.5), "overflows float64"),
    (lambda: deviation.bound([[1.0]], [[1.0]], [[1.0]], 0.5, 10**400), "n must be at most 9.2e"),
    (lambda: deviation.exact_deviation([[1.0]], [[1.0]], [[1.0]], 0.5, 10**400), "n must be at most 9.2e"),
    (lambda: dropout_sgd.trajectory(EYE, LONG, 0.5, 0.01, 10**9), "steps: the means at 1e.09 steps would need .* GiB"),
    (lambda: dropout_sgd.trajectory(EYE, LONG, 0.5, 0.01, 10**6), "steps: 1e.06 of them .* at most .* most_seconds"),
    (lambda: dropout_sgd.trajectory(EYE, LONG, 0.5, 0.01, 10**5, most_seconds=1), "most_seconds above 1"),
    (lambda: dropout_sgd.trajectory(EYE, LONG, 0.5, [0.1, [0.1]], 2), "learning_rate: rows of different lengths"),
    (lambda: dropout_sgd.simulate(EYE, LONG, 0.5, 0.01, 10**8, **RUN), "steps: 1e.08 of them"),
    (lambda: dropout_sgd.simulate(EYE, LONG, 0.5, 0.01, 3, batch_size=10**9, **RUN), "batch_size: .* GiB, more than 1"),
    (lambda: dropout_sgd.stationary_moments(LONG, 1e300 * EYE[:, :1], 0.5, 0.01), "y of up to 1e.300"),
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
    (lambda: statistics.detectable_effect(2, 1.0, 0.5, 5e-324), "level 5e-324"),
    (lambda: statistics.sign_flip_test(np.linspace(-1, 1.5, 60), RNG, 10**9), "draws must be .* 10000000]"),
    (lambda: statistics.accuracy_stderr(0.5, 10**400), "must be at most 9.2e"),
]


@pytest.mark.bad_input
@pytest.mark.parametrize(("call", "words"), FOUND)
def test_what_was_found_is_refused(call, words):
    is_refused(call, words)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "call",
    [
        lambda: adaptive.rank_one_lyapunov([[2.0]], [[1.0]], [[0.5]], np.int64(3)),  # NumPy's have no negative powers
        lambda: ripple.residual_square(3, 4, 2, 1.0, 5e299, np.broadcast_to(1.0, (10**5, 10**5)), 1.0),  # 75 GiB
    ],
)
def test_what_was_found_is_answered_or_refused(call):
    answers(call)


def test_a_family_may_be_said_to_have_many_cases():
    """Planted: a list of so many p-values."""
    assert statistics.paired_family({"one": [0.1, 0.2, 0.3]}, cases=10**9)["one"].adjusted_p_value == 1.0


def test_a_tiny_column_counts_beside_its_huge_weights():
    """Planted: a penalty of 0, as the squares of the column vanish."""
    assert tikhonov.expected_loss([[1e-200]], [[0.0]], [[1e200]], 0.5, "input") == pytest.approx(2.0, rel=1e-12)
    assert tikhonov.bottleneck_loss([[1.0]], [[0.0]], [[1e-200]], [[1e200]], 0.5) == pytest.approx(2.0, rel=1e-12)


def test_a_rare_mask_is_no_trouble():
    found = deviation.exact_deviation([[1.0], [2.0]], [[1.0], [0.5]], [[1.0]], 1e-9, 1)
    assert 0 < found.ratio < 1e-3


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
