"""Worst case, aligned network, forward pass, scales: against dense singular values and plain loops."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis import ripple
from allora_analysis.ripple import bounds, monte_carlo
from allora_analysis.validation import ArgumentError
from tests.brute_force import ripple as brute

SHAPES = [((5, 5, 5, 5), 2), ((6, 4, 7, 3), 1), ((6, 4, 7, 3), 3), ((4, 4), 4), ((1, 1, 1), 1), ((8, 3, 3, 8), 3)]
ETAS = (0.0, 1e-3, 0.5, 3.0, 100.0)


def random_layers(widths, rank, rng, scale=1.0):
    return [
        (scale * rng.standard_normal((n, m)), rng.standard_normal((n, rank)), rng.standard_normal((rank, m)))
        for m, n in itertools.pairwise(widths)
    ]


@pytest.mark.parametrize(("widths", "rank"), SHAPES)
@pytest.mark.parametrize("eta", ETAS)
def test_worst_case_is_the_product_of_dense_norms(widths, rank, eta, rng):
    layers = random_layers(widths, rank, rng)
    worst = ripple.worst_case(*ripple.spectral_norms(layers), eta)
    depth, ratio, c = len(layers), brute.mean_ratio(layers), brute.constant(layers)
    assert worst.log_bound == pytest.approx(math.log(brute.product_bound(layers, eta)), abs=1e-12)
    assert worst.log_amgm_bound == pytest.approx(math.log(c * (1 + eta * ratio) ** depth), abs=1e-11)
    assert worst.log_c == pytest.approx(math.log(c), abs=1e-12)
    assert worst.mean_ratio == pytest.approx(ratio, rel=1e-12)
    x = rng.standard_normal(widths[0])
    grown = math.log(np.linalg.norm(brute.forward(layers, x, eta)) / np.linalg.norm(x))
    assert grown <= worst.log_bound + 1e-12 <= worst.log_amgm_bound + 2e-12


@pytest.mark.parametrize(("widths", "rank"), SHAPES)
@pytest.mark.parametrize("architecture", ["linear", "relu"])
def test_aligned_network_attains_both_bounds(widths, rank, architecture, rng):
    network = ripple.aligned_network(widths, rank, 1.7, 0.6, generator=rng, architecture=architecture)
    norms = ripple.spectral_norms(network.layers)
    assert np.linalg.norm(network.x) == pytest.approx(1, abs=1e-14)
    np.testing.assert_allclose(norms[0], 1.7, rtol=1e-12)
    np.testing.assert_allclose(norms[1], 0.6, rtol=1e-12)
    for layer in network.layers:
        assert np.linalg.matrix_rank(layer.b @ layer.a) == rank
        assert np.linalg.matrix_rank(layer.w) == min(layer.w.shape)
    for eta in ETAS:
        reached = math.log(np.linalg.norm(brute.forward(network.layers, network.x, eta, architecture)))
        worst = ripple.worst_case(*norms, eta)
        assert reached == pytest.approx(worst.log_bound, abs=1e-10)
        assert reached == pytest.approx(worst.log_amgm_bound, abs=1e-10)
        assert reached == pytest.approx(len(network.layers) * math.log(1.7 + 0.6 * eta), abs=1e-10)


def test_unequal_ratios_attain_the_product_bound_but_not_the_amgm_bound(rng):
    weights, adapters = [1.0, 2.0, 0.5], [0.1, 3.0, 1.0]
    network = ripple.aligned_network((6, 5, 6, 4), 2, weights, adapters, generator=rng)
    reached = math.log(np.linalg.norm(brute.forward(network.layers, network.x, 2.0)))
    worst = ripple.worst_case(weights, adapters, 2.0)
    assert reached == pytest.approx(worst.log_bound, abs=1e-10)
    assert worst.log_amgm_bound - reached > 0.1


def test_residual_bound_is_attained_and_respected(rng):
    weights, adapters = [1.0, 2.0, 0.5], [0.1, 3.0, 1.0]
    network = ripple.aligned_network((6,) * 4, 2, weights, adapters, generator=rng, architecture="prelayernorm")
    start = math.sqrt(6) * network.x
    for eta in (0.0, 0.5, 20.0):
        bound = bounds.residual_bound_of(np.array(weights), np.array(adapters), eta)
        reached = np.linalg.norm(brute.forward(network.layers, start, eta, "prelayernorm")) / math.sqrt(6)
        assert math.log(reached) == pytest.approx(bound, abs=1e-10)
        of_a_unit = ripple.log_output_growth(network.layers, network.x, [eta], architecture="prelayernorm")[0]
        assert of_a_unit == pytest.approx(math.log1p(math.sqrt(6) * math.expm1(bound)), abs=1e-10)
        layers = random_layers((6,) * 4, 2, rng)
        x = rng.standard_normal(6)
        x *= math.sqrt(6) / np.linalg.norm(x)
        grown = np.linalg.norm(brute.forward(layers, x, eta, "prelayernorm")) / math.sqrt(6)
        assert math.log(grown) <= bounds.residual_bound_of(*ripple.spectral_norms(layers), eta)


def test_a_closed_stack_returns_to_its_start(rng):
    network = ripple.aligned_network((5, 3, 5), 2, 1.0, 1.0, generator=rng, closed=True)
    out = brute.forward(network.layers, network.x, 1.0)
    np.testing.assert_allclose(out / np.linalg.norm(out), network.x, atol=1e-13)


def test_depth_1e5_at_eta_100_has_a_finite_logarithm(rng):
    worst = ripple.worst_case(np.ones(100_000), np.ones(100_000), 100.0)
    assert worst.log_bound == pytest.approx(1e5 * math.log(101), rel=1e-12)
    assert 200_000 < worst.log_bound / math.log(10) < 200_500
    network = ripple.aligned_network((4, 4), 2, generator=rng, closed=True)
    reached = ripple.log_output_growth(network.layers, network.x, [100.0], repeats=2000)
    assert reached[0] == pytest.approx(2000 * math.log(101), rel=1e-12)
    once = monte_carlo.forward_growth(network.layers, network.x, np.array([100.0]), False, "linear")
    assert once[0] == pytest.approx(math.log(101), rel=1e-12)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(0, 1e3)), min_size=1, max_size=8),
    st.floats(0, 100),
    st.floats(1e-2, 1e2),
)
def test_worst_case_properties(pairs, eta, factor):
    weights, adapters = (np.array(column) for column in zip(*pairs, strict=True))
    worst = ripple.worst_case(weights, adapters, eta)
    assert worst.log_amgm_bound >= worst.log_bound - 1e-9
    assert worst.log_bound >= worst.log_c - 1e-12
    scaled = ripple.worst_case(factor * weights, factor * adapters, eta)
    assert scaled.log_bound == pytest.approx(worst.log_bound + len(pairs) * math.log(factor), abs=1e-9)
    assert scaled.mean_ratio == pytest.approx(worst.mean_ratio)
    swapped = ripple.worst_case(weights[::-1], adapters[::-1], eta)
    assert swapped.log_amgm_bound == pytest.approx(worst.log_amgm_bound, abs=1e-9)
    equal = ripple.worst_case(weights, 0.7 * weights, eta)
    assert equal.log_amgm_bound == pytest.approx(equal.log_bound, abs=1e-9)


def test_no_weights_leave_the_amgm_bound_without_content():
    worst = ripple.worst_case([0.0, 1.0], [1.0, 1.0], 2.0)
    assert worst.log_bound == pytest.approx(math.log(2 * 3))
    assert (worst.log_amgm_bound, worst.log_c, worst.mean_ratio) == (math.inf, -math.inf, math.inf)


def test_a_bound_of_layers_whose_sums_are_beyond_floats():
    worst = ripple.worst_case([1e308, 1.0], [1e308, 1.0], 10.0)
    assert worst.log_bound == pytest.approx(math.log(1e308) + 2 * math.log(11), rel=1e-15)


@pytest.mark.parametrize("architecture", bounds.ARCHITECTURES)
@pytest.mark.parametrize("damped", [False, True])
def test_forward_pass_equals_the_plain_loop(architecture, damped, rng):
    layers, x = random_layers((24,) * 5, 2, rng), rng.standard_normal(24)  # 2⁻²⁴ a layer to die
    for eta in (0.3, 2.0, 50.0):
        plain = np.linalg.norm(brute.forward(layers, x, eta, architecture, damped)) / np.linalg.norm(x)
        grown = ripple.log_output_growth(layers, x, eta, architecture=architecture, damped=damped)
        assert grown[0] == pytest.approx(math.log(plain), abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.floats(-1e6, 1e6), st.floats(0, 1e3), st.floats(-5, 5))
def test_damped_branch_lies_below_both_of_its_bounds(f, eta, log_scale):
    damped = ripple.damped_branch([f], eta)[0]
    assert abs(damped) <= min(eta * abs(f), math.sqrt(abs(f))) * (1 + 1e-12)
    assert math.copysign(1, damped) == math.copysign(1, f) or damped == 0
    unscaled = ripple.damped_branch([f * math.exp(log_scale)], eta)[0] / math.exp(log_scale)
    scaled = monte_carlo._damped(np.array([f]), np.array(eta), np.array(log_scale))[0]
    assert scaled == pytest.approx(unscaled, rel=1e-9, abs=1e-300)


def test_damped_branch_at_extreme_lengths():
    f, eta = np.ones(1), np.full(1, 2.0)
    assert monte_carlo._damped(f, eta, np.array(1e9)) == pytest.approx(0, abs=1e-100)  # f̃ ≈ √f: nothing beside Wx
    assert monte_carlo._damped(f, eta, np.array(-math.inf)) == 2.0  # LoRA's ηf
    assert ripple.damped_branch(3.0, 0.0) == 0.0
    assert ripple.damped_branch(np.ones((2, 3)), [1.0, 2.0, 3.0]).shape == (2, 3)


@pytest.mark.parametrize(("eta", "f"), [(1e160, 1.0), (1e300, 1e300), (1e308, 1e-300), (1e160, -1e-200)])
def test_damped_branch_is_a_square_root_however_large_eta(eta, f):
    np.testing.assert_allclose(ripple.damped_branch([0.0, f], eta), [0.0, math.copysign(math.sqrt(abs(f)), f)])


def test_damped_branch_is_loras_however_small_eta():
    np.testing.assert_allclose(ripple.damped_branch([3.0, -1e200], 1e-200), [3e-200, -1.0], rtol=1e-12)


@pytest.mark.parametrize("size", [1e-300, 1e-170, 1e160, 1e300])
@pytest.mark.parametrize("architecture", ["linear", "relu"])
def test_growth_of_layers_whose_squares_leave_the_range(size, architecture):
    layer, dead = ((scale * np.eye(2), np.zeros((2, 1)), np.zeros((1, 2))) for scale in (size, 0.0))
    for x in ([1.0, 1.0], [1.0, 0.0]):
        grown = ripple.log_output_growth([layer, layer], x, [1.0], architecture=architecture)
        assert grown[0] == pytest.approx(2 * math.log(size), rel=1e-14)
    assert np.isneginf(ripple.log_output_growth([layer, dead, layer], [1.0, 1.0], 1.0, architecture=architecture))


def test_layer_norm_has_norm_root_n(rng):
    out = monte_carlo.layer_norm(rng.standard_normal((3, 7, 2)))
    np.testing.assert_allclose(np.linalg.norm(out, axis=-2), math.sqrt(7), rtol=1e-14)
    np.testing.assert_allclose(out.mean(axis=-2), 0, atol=1e-14)


def test_a_dead_relu_network_has_log_growth_minus_infinity():
    layer = (-np.eye(2), np.zeros((2, 1)), np.zeros((1, 2)))
    grown = ripple.log_output_growth([layer, layer], [1.0, 1.0], [1.0, 2.0], architecture="relu", damped=True)
    assert np.all(np.isneginf(grown))


@pytest.mark.parametrize("rank", [1, 16, 200, 400])
def test_adapter_norm_limit_against_drawn_matrices(rank, rng):
    layer = (np.eye(400), rng.standard_normal((400, rank)), rng.standard_normal((rank, 400)))
    # The edge fluctuates by about n^{−2/3} and, for small r, the two norms of length √n by n^{−1/2}.
    assert ripple.spectral_norms([layer])[1][0] == pytest.approx(ripple.adapter_norm_limit(400, rank), rel=0.17)
    assert ripple.adapter_norm_limit(400, 400) == pytest.approx(400 * math.sqrt(27 / 4))


def test_fair_scales_follow_their_rule():
    scales = ripple.fair_scales(100, 4)
    assert scales[:2] == (0.1, 0.1)
    assert scales.a_std * scales.b_std * ripple.adapter_norm_limit(100, 4) == pytest.approx(2)  # = ‖W‖'s limit
    assert ripple.fair_scales(100, 4, "relu").w_std == pytest.approx(math.sqrt(2) / 10)
    assert ripple.fair_scales(100, 4, w_std=0.0) == (0.0, 0.1, 0.1)
    for size in (1e-300, 1e-170, 1e170):
        tiny = ripple.fair_scales(100, 4, w_std=size, a_std=size)
        assert tiny.b_std == pytest.approx(ripple.fair_scales(100, 4, w_std=1.0, a_std=1.0).b_std, rel=1e-12)
    assert ripple.fair_scales(100, 4, "linear", 0.3, 0.2, 0.1) == (0.3, 0.2, 0.1)


BAD_LAYER = (np.ones((2, 3)), np.ones((2, 1)), np.ones((1, 3)))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ripple.worst_case([1.0, -1.0], [1.0, 1.0], 1.0), "weight_norms must be norms"),
        (lambda: ripple.worst_case([1.0], [1.0, 1.0], 1.0), "adapter_norms: 2 received, 1 wanted"),
        (lambda: ripple.worst_case([1.0], [1.0], -0.1), "eta must be"),
        (lambda: ripple.worst_case([1.0], [math.nan], 1.0), "adapter_norms: every entry must be finite"),
        (lambda: ripple.worst_case([0.0], [1.0], 0.0), "maps everything to 0"),
        (lambda: ripple.worst_case([], [], 1.0), "weight_norms: shape"),
        (lambda: ripple.spectral_norms([]), "layers must have at least one value"),
        (lambda: ripple.spectral_norms([BAD_LAYER, BAD_LAYER]), r"layers\[1\] W: shape"),
        (lambda: ripple.spectral_norms([BAD_LAYER[:2]]), "a triple .W, B, A., must have 3 values, received 2"),
        (lambda: ripple.spectral_norms([(*BAD_LAYER[:2], np.ones((2, 3)))]), r"layers\[0\] A: shape"),
        (lambda: ripple.log_output_growth([BAD_LAYER], np.ones(2), 1.0), "x: shape"),
        (lambda: ripple.log_output_growth([BAD_LAYER], np.zeros(3), 1.0), "x must not be 0"),
        (lambda: ripple.log_output_growth([BAD_LAYER], np.ones(3), [-1.0]), "eta must be 0 or above"),
        (lambda: ripple.log_output_growth([BAD_LAYER], np.ones(3), 1.0, architecture="gelu"), "architecture must be"),
        (
            lambda: ripple.log_output_growth([BAD_LAYER], np.ones(3), 1.0, repeats=10**6 + 1),
            "repeats must be .* 1000000",
        ),
        (lambda: ripple.damped_branch([math.nan], 1.0), "f: every entry"),
        (lambda: ripple.damped_branch([1.0], -1.0), "eta must be 0 or above"),
        (lambda: ripple.adapter_norm_limit(4, 5), "rank must be at most"),
        (lambda: ripple.fair_scales(4, 2, w_std=-1.0), "w_std must be"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ArgumentError, match=words):
        call()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("widths", "rank", "extra", "words"),
    [
        ((4,), 2, {}, "widths must name"),
        ((4, 3), 4, {}, "rank must be at most"),
        ((4, 0), 1, {}, "widths must be a whole number"),
        ((4, 3), 2, {"architecture": "prelayernorm"}, "widths must be equal"),
        ((4, 3), 2, {"closed": True}, "widths must end as they begin"),
        ((4, 3), 2, {"weight_norms": [1.0, 2.0]}, "weight_norms must be one norm or 1"),
        ((4, 3), 2, {"adapter_norms": -1.0}, "adapter_norms must be one norm"),
    ],
)
def test_aligned_network_names_bad_input(widths, rank, extra, words):
    with pytest.raises(ArgumentError, match=words):
        ripple.aligned_network(widths, rank, generator=np.random.default_rng(0), **extra)


@pytest.mark.parametrize("architecture", ["linear", "relu", "prelayernorm"])
def test_an_aligned_layer_has_its_norm_once_and_smaller_singular_values(architecture, rng):
    """The top direction is one alone, so that x is the worst input; the others are a fifth to nine tenths of it."""
    network = ripple.aligned_network((6,) * 4, 3, 2.0, 0.5, generator=rng, architecture=architecture)
    for layer in network.layers:
        for matrix, top, rank in ((layer.w, 2.0, 6), (layer.b @ layer.a, 0.5, 3)):
            values = np.linalg.svd(matrix, compute_uv=False)
            assert values[0] == pytest.approx(top, rel=1e-12)
            assert 0.2 * top <= values[rank - 1] <= values[1] <= 0.9 * top
            np.testing.assert_allclose(values[rank:], 0, atol=1e-12)
    # Both of a layer's top right directions are what the layer before puts out.
    h = network.x
    for layer in network.layers:
        for matrix in (layer.w, layer.b @ layer.a):
            assert np.abs(np.linalg.svd(matrix)[2][0] @ h) == pytest.approx(np.linalg.norm(h), rel=1e-10)
        h = layer.w @ h if architecture != "prelayernorm" else h


def test_norms_of_each_layer_are_its_own(rng):
    weights, adapters = [1.0, 2.0, 3.0], [0.3, 0.2, 0.0]
    network = ripple.aligned_network((5, 6, 4, 5), 2, weights, adapters, generator=rng, closed=True)
    np.testing.assert_allclose(ripple.spectral_norms(network.layers), [weights, adapters], rtol=1e-12)
    end = network.layers[2].w @ network.layers[1].w @ network.layers[0].w @ network.x
    np.testing.assert_allclose(end, 6.0 * network.x, atol=1e-12)
