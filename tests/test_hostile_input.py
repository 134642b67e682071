"""Numbers and arrays at the ends of their range, as the fuzz of `tests.hardening` and readers found them: a line each.

Every function with drawn ones: `tests/test_hardening.py::test_every_function_answers_or_refuses_in_one_line`.
"""

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest

from allora_analysis import (
    adaptive,
    deviation,
    dropout_sgd,
    escape,
    gradient_std,
    hessian,
    ripple,
    statistics,
    tikhonov,
)
from allora_analysis.escape import study
from allora_analysis.gradient_std.estimator import initialise
from allora_analysis.ripple.bounds import residual_bound_of
from allora_analysis.study import as_json
from allora_analysis.validation import ArgumentError
from tests.hardening import fuzz

RNG = np.random.default_rng(0)
ONE, HUGE = np.ones((2, 1)), np.array([[1.7e308], [1.7e308]])
EYE, LONG = np.eye(3), np.ones((3, 1))
RUN = {"replicas": 2, "generator": np.random.default_rng(0)}
NARROWS = [(np.ones((2, 3)), np.ones((2, 1)), np.ones((1, 3)))]
FOUND = [
    (lambda: tikhonov.expected_loss(1e200 * ONE, ONE, [[1.0]], 0.5, "output"), "x of up to 1e.200, .* range"),
    (lambda: tikhonov.dropout_solution(HUGE, ONE, 0.5, "input"), "double precision's range"),  # silently 0
    (lambda: tikhonov.nearest_ridge(5e-324 * ONE, ONE, 0.5, "output"), "x of up to 4.94e-324"),
    (
        lambda: statistics.ratio_of_means([0.0, 1e299, 3e159], [1e-11, 2e-11, 4e-11]),
        "first of up to 1e.299, .* range",
    ),  # a warning
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
    (
        lambda: ripple.growth_exponent(10**12, 1, 1.0, 1.0, 1.0, 1.0, architecture="relu"),
        "width must be .* 1000000000]",
    ),
    (lambda: statistics.detectable_effect(2, 1.0, 0.5, 5e-324), "level 5e-324"),
    (lambda: statistics.accuracy_stderr(0.5, 10**400), "must be at most 9.2e"),
    (lambda: hessian.product_spectrum([[1.0]], 10**18), "n_outputs: the spectrum would need .* GiB, more than 1"),
    (
        lambda: hessian.product_spectrum([[1e200]], 1),
        r"x of up to 1e\+200, .*: the result leaves double precision's range",
    ),
    (lambda: hessian.product_hessian([[1.0]], 10**12), "n_outputs: the Hessian would need .* GiB, more than 1"),
    (
        lambda: hessian.sample_log_conditions(1, 1, 10**15, np.random.default_rng(0)),
        "draws: their singular values would need .* GiB, more than 1",
    ),
    (lambda: hessian.initial_speed_ratio(10**400, 1, 1.0), "n2 must be at most 9.2e"),
    (lambda: hessian.dense_factor_hessian(np.ones((1, 10**5)), np.ones((1, 10**5)), np.ones((1, 10**5))), "g, a: "),
    (lambda: hessian.simulated_escape_time([[1e200]], [[1.0]], [[1e200]], [[0.0]], 1.0), "the flow is too fast"),
    (lambda: adaptive.run_to_rest([[1.0]], [[1.0]], 1e-200, 1.0, 1), "eta 1e-200, .*: the result leaves"),
    (lambda: adaptive.run_to_rest([[1.0]], [[1e300]], 1.0, 1.0, 9), r"a of up to 1e\+300, .*: the result leaves"),
    (lambda: adaptive.rescaled(adaptive.Setting(), 1e300, 1.0, "sgd"), r"a 1e\+300, .*: the result leaves"),
    (lambda: adaptive.update_field([[1e300]], [[1e300]], [[1.0]], 1.0), "a, b: BA leaves float64's range"),
    (lambda: escape.trajectory([1e300], 1e300, 1.0), r"t of up to 1e\+300, gradient 1e\+300, .*: the result leaves"),
    (lambda: escape.linear_teacher(seeds=10**9), "seeds, n_outputs, n_inputs, samples: the teachers would need .* GiB"),
    (lambda: escape.drift("sgd", 2.0, 1e200, 9), r"learning_rate 1e\+200, .*: the result leaves"),
    (lambda: escape.clipped_step(1e300, 1e300, 1.0), "gradient_norm, eta, other_norm: a norm leaves"),
    (
        lambda: adaptive.ascent_frequency((2, 2, 1), 1.0, 1e200, 1e200, samples=1, draws=9, generator=RNG),
        "a_std, b_std: rows of BA leave",
    ),
    (lambda: adaptive.rank_one_lyapunov([[2.0]], [[1e-200]], [[0.3]], 1.0), "a of up to 1e-200, .*: the result leaves"),
    (
        lambda: adaptive.first_return((Fraction(1), Fraction(2), Fraction(0))),
        "loss: its last coefficient must not be 0",
    ),
    (
        lambda: adaptive.gradient_flow(EYE[:2, :2], [[1.0, 0.5], [0.0, 1.0]], [[1.0, 0.0]], [[0.0], [0.0]], 1.0, [1.0]),
        "s must be symmetric",
    ),
    (lambda: ripple.fluctuation_band(ripple.Growth(0.0, -1.0)), "growth.variance must be a finite number, 0 or above"),
    (lambda: statistics.one_sided([0.1, 0.2, 0.4], level=0.6), "level must be below 0.5, .* received 0.6"),
    (lambda: statistics.one_sided([0.1, 0.2, 0.4], "t", level=0.5), "level must be below 0.5"),
    (lambda: statistics.in_every({}), "family must hold at least one comparison"),
    (lambda: initialise([0, 3], RNG), "sizes must be a whole number, 1 or above, received 0"),
    (lambda: initialise([5], RNG), "sizes must hold inputs and classes at least"),
    (lambda: gradient_std.worst_held_out(np.ones((0, 2)), np.ones((0, 2))), "even, odd: two arrays of one shape"),
    (lambda: gradient_std.seed_component([5e-324] * 3, [0.0, 0.0, 1e-150]), "totals of up to .*: the result leaves"),
]


@pytest.mark.bad_input
@pytest.mark.parametrize(("call", "words"), FOUND)
def test_what_was_found_is_refused(call, words):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ArgumentError, match=words):
            call()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "call",
    [
        lambda: adaptive.rank_one_lyapunov([[2.0]], [[1.0]], [[0.5]], np.int64(3)),  # NumPy's have no negative powers
        lambda: ripple.residual_square(3, 4, 2, 1.0, 5e299, np.broadcast_to(1.0, (10**5, 10**5)), 1.0),  # 75 GiB
    ],
)
def test_what_was_found_is_answered_or_refused(call):
    assert fuzz.outcome(call, {}, 0)[0] in ("answered", "refused")


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
    bound = residual_bound_of(np.array([1e308] * 2), np.ones(2), 1e308)
    assert bound == pytest.approx(308 * log + math.log(4))


def test_a_wide_relu_layer_is_the_limit_of_wide_ones():
    """Half of the units live: as wide as this, the mean is log(n/2)/2 and the variance (1/2 + 1/4)·2/n, up to 1/n."""
    mean, variance = ripple.growth_exponent(10**8, 1, 0.0, 1.0, 1.0, 1.0, architecture="relu")
    assert mean == pytest.approx(math.log(10**8 / 2) / 2, abs=1e-7)
    assert variance == pytest.approx(1.25e-8, rel=1e-3)


def test_a_size_never_reached_ends_at_once():
    """From A = 1, B = 0 the flow comes to rest at BA = −1/2."""
    assert hessian.simulated_escape_time([[1.0]], [[1.0]], [[1.0]], [[0.0]], 1.0) is None
    assert hessian.simulated_escape_time([[1.0]], [[1.0]], [[1.0]], [[0.0]], 0.4) > 0
    assert hessian.simulated_escape_time([[1.0]], [[1.0]], [[1.0]], [[2.0]], 0.4) == 0


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_scales_whose_squares_leave_the_range_change_no_answer(scale):
    x, g, a, b = np.array([[3.0, 1.0]]), np.array([[3.0, 4.0], [6.0, 8.0]]), np.array([[0.6, 0.8]]), np.ones((2, 1))
    assert hessian.inertia(scale * x, g / scale, scale * a) == hessian.inertia(x, g, a)
    assert hessian.is_stationary(scale * g, [[0.8, -0.6]])
    assert not hessian.is_stationary(scale * g, a)
    assert hessian.log_condition(scale * np.diag([1.0, 10.0])) == pytest.approx(math.log(100))
    np.testing.assert_allclose(hessian.factor_spectrum(scale * x, g, a / scale), hessian.factor_spectrum(x, g, a))
    assert hessian.escape_rate(scale * g) == pytest.approx(scale * hessian.escape_rate(g))
    assert hessian.block_conditioning(scale * x, a) == hessian.block_conditioning(x, a)
    np.testing.assert_allclose(adaptive.row_factor(scale * a, b, 2.0), (scale + 0.25) ** -0.5)


def test_a_level_below_the_smallest_number_is_reached_at_once():
    assert study.crossing(np.array([[0.0, 1.0]]), np.array([0.0])) == [0.0]
    sizes = {"n_outputs": 3, "n_inputs": 3, "rank": 1, "teacher_rank": 1, "samples": 4, "steps": 6, "seeds": 2}
    config = study.Config(levels=(5e-324,), learning_rate=1e-310, **sizes)
    as_json(study.STUDY, config, study.run(config))
