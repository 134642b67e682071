"""The network, its second layer's gradient and the estimator: autograd, all masks, closed forms, two passes; memory."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from allora_analysis import deviation
from allora_analysis.gradient_std.estimator import (
    LinearGradient,
    MaskStream,
    MLPGradient,
    forward,
    gradient_moments,
    initialise,
    streaming_moments,
)
from allora_analysis.validation import ArgumentError
from tests.brute_force import gradient_std as reference
from tests.stat_assert import FALSE_FAIL, assert_close_to_stderr, assert_mean, assert_rejects


def network(rng, keep_prob, sizes=(3, 2, 2, 3), n=2, dtype=torch.float64):
    mlp = initialise(sizes, rng, dtype)
    # Biases that keep the units alive: a dead one has no spread to estimate.
    mlp = type(mlp)(mlp.weights, tuple(bias.abs() + 0.3 for bias in mlp.biases))
    x = torch.as_tensor(rng.standard_normal((n, sizes[0])), dtype=dtype)
    y = torch.as_tensor(rng.integers(0, sizes[-1], n))
    return mlp, x, y, MLPGradient(mlp, x, y, keep_prob)


def linear(rng, keep_prob, n=8, d=3, c=2):
    x, y, w = rng.standard_normal((n, d)), rng.standard_normal((n, c)), rng.standard_normal((d, c))
    return (x, y, w), LinearGradient(*(torch.as_tensor(part) for part in (x, y, w)), keep_prob)


def std_stderr(gradients_fourth, std, k):
    """Standard error of an estimated standard deviation: √(Var[d²]/K)/(2σ), from the exact fourth central moment."""
    return np.sqrt(np.maximum(gradients_fourth - std**4, 0) / k) / (2 * std)


# --- exact ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_prob", [0.5, 0.8])
def test_all_masks_of_a_tiny_network(rng, keep_prob):
    mlp, x, y, model = network(rng, keep_prob)
    assert model.mask_size == 8
    mean, std = reference.exact_moments(model)
    wanted_mean, wanted = reference.all_masks_std(mlp.weights, mlp.biases, x, y, keep_prob)
    np.testing.assert_allclose(std, wanted, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(mean, wanted_mean, rtol=1e-10, atol=1e-14)
    assert wanted.max() > 1e-3


@pytest.mark.parametrize("keep_prob", [0.3, 0.9])
def test_all_masks_of_the_linear_model_give_its_closed_form(rng, keep_prob):
    (x, y, w), model = linear(rng, keep_prob, n=4, d=3, c=2)
    closed = deviation.gradient_std(x, y, w, keep_prob)
    np.testing.assert_allclose(reference.exact_moments(model)[1], closed, rtol=1e-10)
    np.testing.assert_allclose(reference.linear_all_masks_std(x, y, w, keep_prob), closed, rtol=1e-10)


# --- K masks -------------------------------------------------------------------------------------------------------


@pytest.mark.statistical
@pytest.mark.parametrize("keep_prob", [0.5, 0.8])
def test_the_linear_models_closed_form_is_the_estimators_oracle(rng, keep_prob):
    """K masks through the estimator's own path; z-test with the standard error of a standard deviation."""
    k = 16_000
    (x, y, w), model = linear(rng, keep_prob)
    moments = gradient_moments(model, k, rng)
    std = deviation.gradient_std(x, y, w, keep_prob)
    # An entry of the gradient is a sum of independent two-point variables: its fourth moment is Σκ₄ + 3σ⁴.
    jump = (2 * x[:, :, None] * (y - x @ w / keep_prob)[:, None] / keep_prob) ** 2
    q = keep_prob * (1 - keep_prob)
    fourth = (jump**2 * q * (1 - 6 * q)).sum(axis=0) + 3 * std**4
    stderr = std_stderr(fourth, std, k)
    assert_close_to_stderr(moments.std, std, stderr, smallest_error=0.1 * std)
    assert_rejects(assert_close_to_stderr, moments.std * 1.12, std, stderr, smallest_error=0.1 * std)
    wrong = deviation.gradient_std(x, y, w, keep_prob) * np.sqrt(keep_prob)  # k without the 1/p
    assert_rejects(assert_close_to_stderr, moments.std, wrong, stderr, smallest_error=0.1 * std)
    seen = (moments.average - std.mean()) / moments.average_stderr
    assert abs(seen) < 8, "7 degrees of freedom: |t| > 8 has probability 1e-4"


@pytest.mark.statistical
def test_k_masks_agree_with_all_masks_of_the_network(rng):
    k, keep_prob = 12_000, 0.7
    *_, model = network(rng, keep_prob)
    mean, std = reference.exact_moments(model)
    moments = gradient_moments(model, k, rng)
    alive = std > 0
    assert alive.any()
    assert_close_to_stderr(moments.mean[alive], mean[alive], std[alive] / np.sqrt(k), smallest_error=0.1 * std[alive])
    gradients = []
    for code in range(2**8):
        kept = torch.as_tensor([[code >> bit & 1 for bit in range(8)]], dtype=torch.bool)
        left, right = model.factors(kept)
        weight = keep_prob ** int(kept.sum()) * (1 - keep_prob) ** (8 - int(kept.sum()))
        gradients.append(weight * ((left[0].T @ right[0]).numpy() - mean) ** 4)
    stderr = std_stderr(np.sum(gradients, axis=0)[alive], std[alive], k)
    assert_close_to_stderr(moments.std[alive], std[alive], stderr, smallest_error=0.2 * std[alive])
    assert_rejects(
        assert_close_to_stderr, moments.std[alive], 0.7 * std[alive], stderr, smallest_error=0.2 * std[alive]
    )


@pytest.mark.statistical
def test_the_standard_error_of_the_average_is_right(rng):
    """Over 200 repetitions, the spread of the average is what its standard error says.

    The spread's own relative error is 1/√400 = 5 %, and a false fail at 1e-6 lies 4.9 of these away: 25 %. The eight
    segments are long enough (40 masks) for the average to scatter almost as 1/√K, which leaves a bias of up to 15 %.
    keep_prob is not 1/2: there (V − 1)² is the same for either mask, so where one sample dominates an entry the spread
    of its standard deviation falls as 1/K, and a standard error from segments overstates it.
    """
    _, model = linear(rng, 0.8)
    found = [gradient_moments(model, 320, rng) for _ in range(200)]
    spread = np.std([moments.average for moments in found], ddof=1)
    claimed = np.sqrt(np.mean([moments.average_stderr**2 for moments in found]))
    assert 0.75 < claimed / spread < 1.4


# --- numerics ------------------------------------------------------------------------------------------------------


def stream(gradients, k, chunk=64):
    """Feed given gradients through the estimator: leftᵀ right with left = I is exact."""
    at = 0

    def draw(size):
        nonlocal at
        right = gradients[at : at + size]
        at += size
        return torch.eye(right.shape[1], dtype=right.dtype).expand(len(right), -1, -1), right

    return streaming_moments(draw, k, chunk)


@pytest.mark.parametrize("ratio", [0.0, 1.0, 1e3])
@pytest.mark.parametrize("k", [2, 3, 7, 64, 65, 500, 3000])
def test_float32_streams_are_as_good_as_two_passes_in_float64(rng, ratio, k):
    """Mean up to a thousand standard deviations, spreads over six decades, a first gradient that is an outlier."""
    scale = 10.0 ** rng.uniform(-3, 3, (5, 4))
    raw = (ratio + rng.standard_normal((k, 5, 4))) * scale
    raw[0] += 8 * scale
    gradients = torch.as_tensor(raw, dtype=torch.float32)
    mean, std = reference.two_pass(gradients.numpy())
    moments = stream(gradients, k)
    np.testing.assert_allclose(moments.std, std, rtol=2e-6)
    assert (np.abs(moments.mean - mean) <= 1e-6 * (np.abs(mean) + std)).all()
    for half, (half_mean, half_std) in enumerate(
        [(moments.mean_even, moments.std_even), (moments.mean_odd, moments.std_odd)]
    ):
        if len(gradients[half::2]) > 1:
            wanted = reference.two_pass(gradients[half::2].numpy())
            np.testing.assert_allclose(half_std, wanted[1], rtol=1e-5)
            assert (np.abs(half_mean - wanted[0]) <= 1e-6 * (np.abs(mean) + std)).all()


def test_the_naive_form_would_fail_where_the_stream_does_not(rng):
    """E[g²] − E[g]² in float32: the negative control of the test above."""
    gradients = torch.as_tensor(1e3 + rng.standard_normal((500, 5, 4)), dtype=torch.float32)
    _, std = reference.two_pass(gradients.numpy())
    naive = (gradients.square().mean(0) - gradients.mean(0).square()).clamp(min=0).sqrt()
    assert (np.abs(naive.numpy() / std - 1) > 1e-2).any()
    np.testing.assert_allclose(stream(gradients, 500).std, std, rtol=2e-6)


def test_float64_streams_are_exact_to_rounding(rng):
    gradients = torch.as_tensor(100 + rng.standard_normal((999, 3, 4)))
    mean, std = reference.two_pass(gradients.numpy())
    moments = stream(gradients, 999)
    np.testing.assert_allclose(moments.std, std, rtol=1e-12)
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-13)


@settings(deadline=None, max_examples=40)
@given(k=st.integers(2, 200), chunk=st.integers(1, 64), seed=st.integers(0, 2**32 - 1), power=st.integers(-20, 20))
def test_scaling_chunks_and_order_do_not_matter(k, chunk, seed, power):
    gradients = torch.as_tensor(np.random.default_rng(seed).standard_normal((k, 3, 2)))
    moments, other = stream(gradients, k), stream(gradients * 2.0**power, k, chunk)
    np.testing.assert_allclose(other.std, moments.std * 2.0**power, rtol=1e-11)
    np.testing.assert_allclose(other.mean, moments.mean * 2.0**power, rtol=1e-10, atol=1e-12 * 2.0**power)
    assert moments.k == k
    assert moments.average == pytest.approx(moments.std.mean())
    assert (moments.average_stderr is None) == (k < 16)


def test_constant_gradients_have_no_spread(rng):
    moments = stream(torch.as_tensor(rng.standard_normal((1, 3, 2))).expand(50, -1, -1), 50)
    np.testing.assert_allclose(moments.std, 0, atol=1e-15)
    _, model = linear(rng, 1.0)
    moments = gradient_moments(model, 10, rng)
    assert not moments.std.any()
    assert not moments.std_even.any()
    assert moments.average == moments.average_stderr == 0


def test_masks_do_not_depend_on_the_memory_limit(rng):
    *_, model = network(rng, 0.7, sizes=(4, 6, 5, 3), n=5)
    found = [gradient_moments(model, 50, np.random.Generator(np.random.SFC64(3)), limit) for limit in (1, 5000, 10**7)]
    for moments in found[1:]:
        np.testing.assert_allclose(moments.std, found[0].std, rtol=1e-12, atol=1e-18)
    again = gradient_moments(model, 50, np.random.Generator(np.random.SFC64(3)), 5000)
    np.testing.assert_array_equal(again.std, found[1].std)
    assert (gradient_moments(model, 50, np.random.Generator(np.random.SFC64(4))).std != found[0].std).any()


def test_numpys_memory_does_not_grow_with_the_number_of_masks(rng):
    *_, model = network(rng, 0.7, sizes=(4, 30, 30, 3), n=40)

    def peak(k):
        tracemalloc.start()
        gradient_moments(model, k, rng, 10 * model.bytes_per_mask)
        _, top = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return top

    peak(20)
    assert peak(2000) < 1.5 * peak(100)


# --- masks ---------------------------------------------------------------------------------------------------------


@pytest.mark.statistical
@pytest.mark.parametrize("keep_prob", [0.5, 0.8, 0.999, 1e-3, 1 / 3, 1.0])
def test_masks_are_bernoulli_and_independent(rng, keep_prob):
    n, width = 4000, 1000
    drawn = np.empty((n, width), dtype=np.uint8)
    stream = MaskStream(keep_prob, rng)
    stream.fill(drawn)
    kept = (drawn < stream.threshold).astype(float)
    deviation_ = np.sqrt(keep_prob * (1 - keep_prob))
    rate = kept.mean(axis=1)
    assert_mean(rate, keep_prob, smallest_error=0.005 * deviation_ + 1e-4)
    # A byte alone would give a multiple of 1/256.
    rounded = np.round(256 * keep_prob) / 256
    if abs(rounded - keep_prob) > 8 * deviation_ / np.sqrt(n * width):
        assert_rejects(assert_mean, rate, rounded, smallest_error=0.005 * deviation_ + 1e-4)
    # Disjoint pairs of neighbors, both of the rarer kind: a binomial count, tested exactly (where a coincidence is
    # rare, a normal approximation has no standard error to go by).
    rare = kept == (keep_prob < 0.5)
    pairs, rarer = rare[:, 0::2] & rare[:, 1::2], min(keep_prob, 1 - keep_prob)
    assert binomtest(int(pairs.sum()), pairs.size, rarer**2).pvalue > FALSE_FAIL
    if rarer > 0:  # planted: the second of a pair repeats the first one time in twenty
        planted = pairs.size * (rarer**2 + 0.05 * rarer * (1 - rarer))
        assert binomtest(int(planted), pairs.size, rarer**2).pvalue < FALSE_FAIL


def test_masks_come_one_after_the_other(rng):
    together, alone = np.empty((5, 37), dtype=np.uint8), np.empty((5, 37), dtype=np.uint8)
    MaskStream(0.8, np.random.default_rng(5)).fill(together)
    stream = MaskStream(0.8, np.random.default_rng(5))
    for row in range(5):
        stream.fill(alone[row : row + 1])
    np.testing.assert_array_equal(together, alone)


# --- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.bad_input
def test_too_few_masks_are_refused(rng):
    _, model = linear(rng, 0.5)
    for masks in (1, 0, -3):
        with pytest.raises(ArgumentError, match="masks must be a whole number, 2 or above"):
            gradient_moments(model, masks, rng)
    with pytest.raises(ArgumentError, match="memory_limit"):
        gradient_moments(model, 2, rng, 0)


def problem(rng, sizes=(6, 5, 4, 3), n=7, dtype=torch.float64):
    mlp = initialise(sizes, rng, dtype)
    return (
        mlp,
        torch.as_tensor(rng.standard_normal((n, sizes[0])), dtype=dtype),
        torch.as_tensor(rng.integers(0, sizes[-1], n)),
    )


def masks(rng, model, k, keep_prob=0.6):
    return torch.as_tensor(rng.random((k, model.mask_size)) < keep_prob)


def split(row, n, widths):
    parts = np.split(row.numpy(), np.cumsum([n * width for width in widths])[:-1])
    return [part.reshape(n, -1) for part in parts]


@pytest.mark.parametrize("sizes", [(6, 5, 3), (6, 5, 4, 3), (6, 5, 4, 8, 3), (2, 1, 1, 2)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_gradient_is_autograds_for_every_mask(rng, sizes, dtype, tolerance):
    mlp, x, y = problem(rng, sizes, dtype=dtype)
    model = MLPGradient(mlp, x, y, 0.6)
    kept = masks(rng, model, 5)
    left, right = model.factors(kept)
    for k in range(5):
        wanted = reference.second_layer_gradient(mlp.weights, mlp.biases, x, y, split(kept[k], 7, sizes[1:-1]), 0.6)
        got = (left[k].T @ right[k]).numpy()
        assert np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max()
    assert model.shape == tuple(mlp.weights[1].shape)


def test_a_dropped_first_mask_is_seen_by_the_reference(rng):
    """The negative control of the test above: another mask is another gradient."""
    mlp, x, y = problem(rng)
    model = MLPGradient(mlp, x, y, 0.6)
    kept = masks(rng, model, 1)
    left, right = model.factors(kept)
    kept[0] = ~kept[0]
    other = reference.second_layer_gradient(mlp.weights, mlp.biases, x, y, split(kept[0], 7, (5, 4)), 0.6)
    assert np.abs((left[0].T @ right[0]).numpy() - other).max() > 1e-4


def test_chunks_do_not_overwrite_each_others_answers(rng):
    mlp, x, y = problem(rng)
    model = MLPGradient(mlp, x, y, 0.6)
    kept = masks(rng, model, 6)
    together = torch.einsum("kni,knj->kij", *model.factors(kept))
    alone = torch.cat([torch.einsum("kni,knj->kij", *model.factors(kept[k : k + 1])) for k in range(6)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-15)


def test_forward_is_the_references(rng):
    mlp, x, _ = problem(rng)
    kept = [torch.as_tensor(rng.random((7, width)) < 0.6) for width in (5, 4)]
    arrays = [part.numpy() for part in kept]
    torch.testing.assert_close(
        forward(mlp, x, kept, 0.6), reference.logits(mlp.weights, mlp.biases, x, arrays, 0.6), rtol=1e-12, atol=0
    )
    ones = [np.ones((7, width)) for width in (5, 4)]
    torch.testing.assert_close(forward(mlp, x), reference.logits(mlp.weights, mlp.biases, x, ones, 1.0))


def test_initialisation_is_uniform_within_pytorchs_bound_and_depends_on_the_generator(rng):
    mlp = initialise((100, 50, 10), np.random.default_rng(1))
    for weight, bias, inputs in zip(mlp.weights, mlp.biases, (100, 50), strict=True):
        everything = torch.cat([weight.flatten(), bias])
        assert 0.95 * inputs**-0.5 < everything.abs().max() <= inputs**-0.5
        assert abs(everything.mean()) < 5 * inputs**-0.5 / (3 * len(everything)) ** 0.5
    again = initialise((100, 50, 10), np.random.default_rng(1))
    assert all(torch.equal(a, b) for a, b in zip(mlp.parameters, again.parameters, strict=True))
    assert len(mlp.parameters) == 4
    assert mlp.weights[0].dtype == torch.float32


@pytest.mark.bad_input
def test_without_a_hidden_layer_there_is_no_second_layer(rng):
    mlp, x, y = problem(rng, (6, 3))
    with pytest.raises(ArgumentError, match="hidden must have at least one width"):
        MLPGradient(mlp, x, y, 0.5)


@pytest.mark.bad_input
@pytest.mark.parametrize("keep_prob", [0.0, -0.1, 1.5, float("nan")])
def test_a_keep_probability_out_of_range_is_refused(rng, keep_prob):
    mlp, x, y = problem(rng)
    with pytest.raises(ArgumentError, match="keep_prob must be"):
        MLPGradient(mlp, x, y, keep_prob)
    with pytest.raises(ArgumentError, match="keep_prob must be"):
        LinearGradient(x, x, x[:6].T @ x[:6], keep_prob)
