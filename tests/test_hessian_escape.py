"""§3.2: which starts are critical points, how gradient flow leaves zero; the digits MLP, from its start to trained."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from allora_analysis import hessian
from allora_analysis.hessian.network import network_spectrum
from allora_analysis.hessian.network_inertia import (
    adapted_mlp,
    descend,
    digits,
    digits_spectra,
    gradient_norms,
    new_digits,
)
from allora_analysis.validation import ArgumentError
from tests.brute_force import hessian as reference
from tests.stat_assert import assert_mean, assert_rejects


@pytest.fixture
def layer(rng):
    """X (12×6), G (4×6), A (3×6), B (4×3)."""
    return tuple(rng.standard_normal(shape) for shape in ((12, 6), (4, 6), (3, 6), (4, 3)))


@pytest.mark.parametrize("zero_b", [True, False])
def test_factor_gradient_is_autograds(layer, zero_b):
    x, g, a, b = layer
    b = 0 * b if zero_b else b
    of_b, of_a, _ = reference.factor_derivatives(x, g, a, b)
    at_point = g + 2 * b @ a @ x.T @ x  # ∂L/∂(BA) there
    found = hessian.factor_gradient(at_point, a, None if zero_b else b)
    np.testing.assert_allclose(found[0], of_b, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found[1], of_a, rtol=1e-10, atol=1e-10)
    assert (not found[1].any()) == zero_b


def test_is_stationary(layer):
    _, g, a, b = layer
    assert not hessian.is_stationary(g, a)  # LoRA's start
    assert not hessian.is_stationary(g, 0 * a, b)  # the other usual one: A = 0, B random
    assert not hessian.is_stationary(g, a, b)
    assert hessian.is_stationary(g, 0 * a)
    assert hessian.is_stationary(g, 0 * a, 0 * b)
    assert hessian.is_stationary(0 * g, a, b)


def test_is_stationary_up_to_rounding(layer):
    _, g, _, _ = layer
    kernel = np.linalg.svd(g)[2][4:]  # two directions with Gv = 0 up to rounding
    assert np.any(g @ kernel.T)
    assert hessian.is_stationary(g, kernel)
    assert hessian.is_stationary(g, 1e-200 * kernel)
    assert not hessian.is_stationary(g, kernel + 1e-9)


@pytest.mark.parametrize("rank", [1, 3])
def test_escape_time_against_the_flow(rng, rank):
    # Singular values with a gap: the second direction leaves a trace of e^{−2(σ₁ − σ₂)t} in the first time.
    u, v = (np.linalg.qr(rng.standard_normal((size, 4)))[0] for size in (4, 6))
    x, g = rng.standard_normal((12, 6)), u * [3.0, 2.0, 1.0, 0.5] @ v.T
    # Near the unstable direction, so that it leads from the first of the two times on.
    a = 0.1 * rng.standard_normal((rank, 6)) - np.ones((rank, 1)) * v[:, 0]
    b = 0.1 * rng.standard_normal((4, rank)) + u[:, :1]
    assert hessian.escape_rate(g) == pytest.approx(np.linalg.norm(g, 2), rel=1e-12)
    size = 1e-3 * hessian.escape_rate(g)
    times = [hessian.simulated_escape_time(x, g, scale * a, scale * b, size) for scale in (1e-6, 1e-10)]
    # The constant next to log(1/ε) drops out of the difference.
    predicted = hessian.escape_time(g, 1e-10) - hessian.escape_time(g, 1e-6)

    def close(value):
        assert abs(times[1] - times[0] - value) < 5e-3 * predicted

    close(predicted)
    sigma = np.linalg.svd(g, compute_uv=False)
    assert_rejects(close, predicted * sigma[0] / sigma[1])
    assert_rejects(close, predicted / 2)


@pytest.mark.parametrize("start", [1e-3, 1e-13, 1e-20, 1e-100, 1e-290])
def test_escape_from_however_small_a_start(start):
    """L = P² − P from a = b: m = ab has ṁ = 2m(1 − 2m), so t = ½ log[m(1 − 2m₀)/((1 − 2m)m₀)]."""
    m, log_first = 0.4, 2 * math.log(start)
    exact = 0.5 * (math.log(m / (1 - 2 * m)) - log_first + math.log1p(-2 * start**2))
    found = hessian.simulated_escape_time([[1.0]], [[-1.0]], [[start]], [[start]], m)
    assert found == pytest.approx(exact, rel=1e-7)


def test_from_a_random_a_the_time_is_finite_at_zero(layer):
    x, g, a, _ = layer
    size = 1e-6 * np.linalg.norm(g @ a.T @ a)
    time = hessian.simulated_escape_time(x, g, a, np.zeros((4, 3)), size)
    # First order: BA = −t GAᵀA.
    assert time == pytest.approx(1e-6, rel=0.01)
    assert hessian.simulated_escape_time(x, g, 0 * a, np.zeros((4, 3)), size) is None  # stationary: never


def test_loss_falls_at_first_order_from_lora_start(layer):
    x, g, a, _ = layer
    step = 1e-7
    b = -step * hessian.factor_gradient(g, a)[0]
    loss = (g * (b @ a)).sum() + ((x @ (b @ a).T) ** 2).sum()
    assert loss == pytest.approx(-step * np.linalg.norm(g @ a.T) ** 2, rel=1e-3)


@pytest.mark.statistical
@pytest.mark.parametrize(("n2", "rank", "a_std"), [(6, 1, 0.5), (8, 3, 0.3), (4, 4, 2.0)])
def test_initial_speed_ratio(rng, n2, rank, a_std):
    g = rng.standard_normal((4, n2))
    a = a_std * rng.standard_normal((60_000, rank, n2))
    squares = ((g @ a.transpose(0, 2, 1) @ a) ** 2).sum((1, 2)) / (g**2).sum()
    expected = hessian.initial_speed_ratio(n2, rank, a_std) ** 2
    assert_mean(squares, expected, smallest_error=0.12 * expected)
    wrong = a_std**4 * rank * (n2 + 2 * rank + 2)
    assert_rejects(assert_mean, squares, wrong, smallest_error=0.12 * expected)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(1e-12, 1.0), st.floats(0.1, 10))
def test_escape_scales_with_the_gradient(seed, epsilon, scale):
    g = np.random.default_rng(seed).standard_normal((3, 5))
    assert hessian.escape_rate(scale * g) == pytest.approx(scale * hessian.escape_rate(g), rel=1e-12)
    assert hessian.escape_time(scale * g, epsilon) == pytest.approx(hessian.escape_time(g, epsilon) / scale, abs=1e-12)
    lowest = hessian.factor_spectrum(np.eye(5), g, np.zeros((2, 5)))[0]
    assert hessian.escape_rate(g) == pytest.approx(-lowest, rel=1e-12)


def test_nothing_to_escape_from():
    assert hessian.escape_rate(np.zeros((2, 3))) == 0
    assert hessian.escape_time(np.zeros((2, 3)), 0.1) == math.inf
    assert hessian.escape_time(np.eye(2), 1.0) == 0


G, A, B = np.ones((2, 3)), np.ones((1, 3)), np.ones((2, 1))
BAD = [
    (lambda: hessian.factor_gradient(G, np.ones((1, 2))), "a: shape"),
    (lambda: hessian.factor_gradient(G, A, np.ones((3, 1))), "b: shape"),
    (lambda: hessian.is_stationary(G, np.ones((3, 3))), "rank must be at most"),
    (lambda: hessian.escape_rate(np.array([[np.nan]])), "g: every entry"),
    (lambda: hessian.escape_time(G, 2.0), r"epsilon must be in \(0, 1\], received 2.0"),
    (lambda: hessian.escape_time(G, 0.0), "epsilon must be"),
    (lambda: hessian.initial_speed_ratio(0, 1, 1.0), "n2 must be"),
    (lambda: hessian.initial_speed_ratio(4, 1, -1.0), "a_std must be"),
    (lambda: hessian.simulated_escape_time(np.eye(3), G, A, B, 0.0), "size must be"),
    (lambda: hessian.simulated_escape_time(np.eye(3), G, A, np.ones((2, 2)), 1.0), "b: shape"),
]


@pytest.mark.bad_input
@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_of_the_flow(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# -- the digits MLP


@pytest.fixture(scope="module")
def spectra():
    return digits_spectra(seed=0, rank=2, k=4)


def test_the_start_is_indefinite_but_not_stationary(spectra):
    assert spectra.gradient_a == 0
    assert spectra.gradient_b > 0.1
    assert spectra.start.gradient_norm == pytest.approx(spectra.gradient_b, rel=1e-12)
    assert spectra.start.smallest[-1] < 0 < spectra.start.largest[0]
    # 32 hidden units; ten logits whose gradients sum to zero
    assert spectra.inertia.layer_ranks == {"0": 32, "2": 9}
    assert spectra.inertia.negative == spectra.inertia.bound == 2 * (32 + 9)


def test_training_lowers_the_loss_and_leaves_shallow_negative_directions(spectra):
    assert spectra.trained.loss < 0.3 * spectra.start.loss
    ratios = [-s.smallest[0] / s.largest[-1] for s in (spectra.start, spectra.trained)]
    assert ratios[0] > 0.9
    assert 0 < ratios[1] < 0.05


def test_both_spectra_are_certified(spectra):
    for spectrum in (spectra.start, spectra.trained):
        assert (spectrum.method, spectrum.dimension) == ("lanczos", 2 * (64 + 32 + 32 + 10))
        scale = spectrum.largest[-1]
        assert max(spectrum.smallest_residuals.max(), spectrum.largest_residuals.max()) <= 1e-9 * scale


def test_the_trained_ends_are_the_dense_hessians(spectra):
    model, loss, data = adapted_mlp(0, 2), nn.CrossEntropyLoss(), new_digits()
    descend(model, loss, data, 300, 0.05)
    dense = network_spectrum(model, loss, data, spectra.trained.dimension)
    assert dense.method == "dense"
    np.testing.assert_allclose(spectra.trained.smallest, dense.smallest[:4], rtol=1e-8)
    np.testing.assert_allclose(spectra.trained.largest, dense.largest[-4:], rtol=1e-8)


def test_a_run_depends_on_its_seed_alone():
    torch.manual_seed(1)
    first = adapted_mlp(5, 1).state_dict()
    before = torch.random.get_rng_state()
    second = adapted_mlp(5, 1).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["0.a"], adapted_mlp(6, 1).state_dict()["0.a"])


def test_digits_are_the_classes_asked_for():
    x, y = digits(5, 9)
    assert x.shape == (len(y), 64)
    assert (x.min().item(), x.max().item()) == (0.0, 1.0)
    assert set(y.tolist()) == {5, 6, 7, 8, 9}
    assert len(digits(0, 4)[1]) + len(y) == 1797
    assert len(new_digits()[1]) == 300


def test_gradient_norms_of_b_alone_at_the_start():
    model, loss, data = adapted_mlp(0, 1), nn.CrossEntropyLoss(), digits(5, 9, 20)
    norms = gradient_norms(model, loss, data)
    weights = [model[0].base.weight.requires_grad_(), model[2].base.weight.requires_grad_()]
    gradients = torch.autograd.grad(loss(model(data[0]), data[1]), weights)
    products = [g @ model[i].a.T for g, i in zip(gradients, (0, 2), strict=True)]
    assert norms == (0.0, pytest.approx(sum(p.square().sum() for p in products).sqrt().item(), rel=1e-12))


def test_gradient_norms_of_both_factors_once_b_has_moved():
    model, loss, data = adapted_mlp(0, 1), nn.CrossEntropyLoss(), digits(5, 9, 20)
    descend(model, loss, data, 5, 0.5)
    loss(model(data[0]), data[1]).backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
    sizes = [math.sqrt(sum(float((g**2).sum()) for name, g in gradients.items() if name[-1] == end)) for end in "ab"]
    assert min(sizes) > 1e-3
    assert gradient_norms(model, loss, data) == pytest.approx(sizes, rel=1e-12)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"rank": 11}, "at most"),
        ({"rank": 0}, "rank"),
        ({"steps": 0}, "steps"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
    ],
)
def test_bad_input_of_the_digits(kwargs, words):
    with pytest.raises(ArgumentError, match=words):
        digits_spectra(**kwargs)
