"""`network_spectrum` against a dense Hessian by double backward, and what it leaves untouched."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from allora_analysis.hessian import LowRankLinear, add_adapters, factor_spectrum, network
from allora_analysis.hessian.empirical_risk import EmpiricalRisk, empirical_risk
from allora_analysis.hessian.network import HessianProducts, network_spectrum
from allora_analysis.validation import ArgumentError
from tests.brute_force import hessian as brute
from tests.stat_assert import assert_rejects

DATA = tuple(torch.randn(9, n, generator=torch.Generator().manual_seed(n)).double() for n in (6, 5))
LOSSES = {"squares": nn.MSELoss, "entropy": nn.CrossEntropyLoss}


def problem(sizes, rank, kind, seed, n=11, eta=0.7, b_scale=0.0, dtype=torch.float64):
    """A tanh MLP with adapters, data, the summed loss, and the same loss by hand with its parameters."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for n2, n1 in itertools.pairwise(sizes):
        layers += [nn.Linear(n2, n1, dtype=dtype), nn.Tanh()]
    model = add_adapters(nn.Sequential(*layers[:-1]), rank, eta, generator)
    adapted = [layer for layer in model if isinstance(layer, LowRankLinear)]
    with torch.no_grad():
        for layer in adapted:
            for value in (layer.base.weight, layer.base.bias):
                value.copy_(torch.randn(value.shape, generator=generator, dtype=dtype))
            layer.b.copy_(b_scale * torch.randn(layer.b.shape, generator=generator, dtype=dtype))
    x = torch.randn(n, sizes[0], generator=generator, dtype=dtype)
    targets = torch.randn(n, sizes[-1], generator=generator, dtype=dtype)
    targets = targets.argmax(1) if kind == "entropy" else targets
    weights, biases = ([getattr(layer.base, name).detach() for layer in adapted] for name in ("weight", "bias"))
    theta = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])
    return (
        model,
        LOSSES[kind](reduction="sum"),
        (x, targets),
        theta,
        lambda t: brute.adapted_loss(t, weights, biases, rank, eta, kind, x, targets),
    )


def assert_spectrum(spectrum, dense, k, tolerance=1e-10):
    values = np.linalg.eigvalsh(dense)
    scale = np.max(np.abs(values))
    np.testing.assert_allclose(spectrum.smallest, values[:k], rtol=0, atol=tolerance * scale)
    np.testing.assert_allclose(spectrum.largest, values[-k:], rtol=0, atol=tolerance * scale)
    assert max(spectrum.smallest_residuals.max(), spectrum.largest_residuals.max()) <= 10 * tolerance * scale


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("b_scale", [0.0, 0.4])
@pytest.mark.parametrize(
    ("sizes", "rank", "k", "method"),
    [
        ((4, 3, 2), 1, 3, "dense"),
        ((5, 4, 3), 2, 32, "dense"),
        ((8, 8, 8), 2, 4, "dense"),  # 64 parameters: the last that are
        ((9, 8, 6), 3, 4, "lanczos"),
        ((9, 8, 6), 3, 46, "dense"),
    ],
)
def test_both_ends_against_double_backward(sizes, rank, k, method, kind, b_scale):
    model, loss, data, theta, by_hand = problem(sizes, rank, kind, seed=1, b_scale=b_scale)
    spectrum = network_spectrum(model, loss, data, k)
    assert (spectrum.method, spectrum.dimension) == (method, len(theta))
    assert spectrum.loss == pytest.approx(by_hand(theta).item(), rel=1e-12)
    assert_spectrum(spectrum, brute.dense_hessian(by_hand, theta), k)
    assert max(vars(spectrum.certificate).values()) <= 1e-5


@pytest.mark.parametrize("size", [1.0, 1e6])
def test_a_product_that_is_a_tenth_off_is_refused_however_large_the_parameters(size):
    model, loss, data, *_ = problem((4, 3), 1, "squares", seed=1, b_scale=1.0)
    with torch.no_grad():
        for value in (model[0].a, model[0].b):
            value.mul_(size)
    risk, generator = empirical_risk(model, loss, data), np.random.default_rng(0)
    right = HessianProducts(risk).vector
    network._certify(risk, right, generator)
    with pytest.raises(ArgumentError, match="Hv differs from the gradient's differences"):
        network._certify(risk, lambda v: 1.1 * right(v), generator)


def test_the_same_assertion_rejects_a_wrong_hessian():
    """Negative controls: C halved, and the Gauss–Newton part alone, which is what a linearized network has."""
    model, loss, data, theta, by_hand = problem((9, 8, 6), 3, "squares", seed=1)
    dense = brute.dense_hessian(by_hand, theta)
    is_a = np.concatenate(
        [np.full(p.numel(), name.endswith("a")) for name, p in model.named_parameters() if p.requires_grad]
    )
    halved = np.where(is_a[:, None] == is_a[None, :], 1.0, 0.5) * dense
    spectrum = network_spectrum(model, loss, data, 4)
    assert_spectrum(spectrum, dense, 4)
    assert_rejects(assert_spectrum, spectrum, halved, 4)
    assert_rejects(assert_spectrum, spectrum, np.where(is_a[:, None] | is_a[None, :], 0.0, dense), 4)


def test_one_linear_layer_is_the_closed_form():
    """q ± √(q² + σ²) of `factor_spectrum`, here of an 11 × 8 layer, r = 4: P = 76, by Lanczos."""
    generator = torch.Generator().manual_seed(3)
    layer = LowRankLinear(nn.Linear(8, 11, bias=False).double(), 4, 1.0, generator)
    x, y = torch.randn(20, 8, generator=generator).double(), torch.randn(20, 11, generator=generator).double()
    g = 2 * (layer(x) - y).detach().T @ x
    expected = factor_spectrum(x.numpy(), g.numpy(), layer.a.detach().numpy())
    spectrum = network_spectrum(layer, nn.MSELoss(reduction="sum"), (x, y), 6)
    assert spectrum.method == "lanczos"
    np.testing.assert_allclose(spectrum.smallest, expected[:6], rtol=1e-10)
    np.testing.assert_allclose(spectrum.largest, expected[-6:], rtol=1e-10)


def test_at_a_and_b_zero_every_singular_value_comes_r_times_with_both_signs():
    model, loss, data, theta, by_hand = problem((9, 8, 6), 3, "entropy", seed=2)
    with torch.no_grad():
        model[0].a.zero_(), model[2].a.zero_()
    spectrum = network_spectrum(model, loss, data, 7)
    assert_spectrum(spectrum, brute.dense_hessian(by_hand, torch.zeros_like(theta)), 7)
    np.testing.assert_allclose(spectrum.smallest, -spectrum.largest[::-1], rtol=1e-10)
    np.testing.assert_allclose(spectrum.largest[-3:], spectrum.largest[-1], rtol=1e-10)
    assert spectrum.gradient_norm == 0


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), rank=st.integers(1, 3))
def test_batches_order_and_reduction_do_not_matter(seed, rank):
    model, loss, (x, targets), *_ = problem((6, 5, 4), rank, "entropy", seed, b_scale=0.3)
    whole = network_spectrum(model, loss, (x, targets), 3)
    batches = network_spectrum(model, loss, [(x[:4], targets[:4]), (x[4:], targets[4:])], 3)
    mean = network_spectrum(model, nn.CrossEntropyLoss(), ((x[i], targets[i]) for i in (slice(9, 11), slice(0, 9))), 3)
    scale = np.abs(whole.largest).max() + np.abs(whole.smallest).max()
    for other, factor in ((batches, 1), (mean, len(x))):
        np.testing.assert_allclose(factor * other.smallest, whole.smallest, rtol=0, atol=1e-10 * scale)
        np.testing.assert_allclose(factor * other.largest, whole.largest, rtol=0, atol=1e-10 * scale)
        assert factor * other.loss == pytest.approx(whole.loss)


def test_float32_agrees_with_float64_to_its_own_precision():
    model, loss, (x, targets), theta, by_hand = problem((9, 8, 6), 3, "entropy", seed=4, b_scale=0.2)
    dense = brute.dense_hessian(by_hand, theta)
    spectrum = network_spectrum(model.float(), loss, (x.float(), targets), 4)
    assert_spectrum(spectrum, dense, 4, tolerance=1e-5)
    assert_rejects(assert_spectrum, spectrum, 1.0001 * dense, 4, tolerance=1e-5)


def test_the_model_is_left_as_it_was():
    model, loss, data, *_ = problem((6, 5, 4), 2, "squares", seed=5)
    model.append(nn.Dropout(0.5))
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = {name: value.requires_grad for name, value in model.named_parameters()}
    spectrum = network_spectrum(model, loss, data, 2)
    assert [module.training for module in model] == [True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert flags == {name: value.requires_grad for name, value in model.named_parameters()}
    assert all(value.grad is None for value in model.parameters())
    again = network_spectrum(model[:-1], loss, data, 2)
    assert again.smallest.tobytes() == spectrum.smallest.tobytes()


def test_the_mode_is_restored_after_an_error():
    model, loss, (x, targets), *_ = problem((6, 5, 4), 2, "squares", seed=5)
    with pytest.raises(ArgumentError):
        network_spectrum(model.train(), loss, (x[:, :2], targets), 2)
    assert model.training


def test_all_p_eigenvalues_of_least_squares():
    """(2/NC) I ⊗ S of a linear layer: k = P returns every eigenvalue at both ends."""
    model, (x, y) = nn.Linear(6, 5, bias=False).double(), DATA
    spectrum = network_spectrum(model, nn.MSELoss(), (x, y), 30)
    expected = np.sort(np.repeat(2 * np.linalg.eigvalsh((x.T @ x).numpy()) / y.numel(), 5))
    np.testing.assert_allclose(spectrum.smallest, expected, rtol=1e-10)
    assert np.array_equal(spectrum.smallest, spectrum.largest)


def test_least_squares_with_columns_of_many_scales(rng):
    """The smallest eigenvalues lie closer together than Lanczos on ‖H‖'s scale can tell: the whole space is taken."""
    x = torch.tensor(rng.standard_normal((90, 70)) * np.geomspace(1e-3, 1, 70))
    spectrum = network_spectrum(nn.Linear(70, 1, bias=False).double(), nn.MSELoss(), (x, x[:, :1]), 3)
    assert_spectrum(spectrum, 2 / 90 * (x.T @ x).numpy(), 3)
    assert spectrum.products < 12 * 70


class Unused(nn.Module):
    """A hundred parameters that the loss never sees, beside a layer that it does."""

    def __init__(self):
        super().__init__()
        self.linear, self.spare = nn.Linear(6, 5).double(), nn.Parameter(torch.ones(100, dtype=torch.float64))

    def forward(self, x):
        return self.linear(x)


def test_unused_parameters_and_a_constant_loss_give_zeros():
    model = Unused()
    np.testing.assert_allclose(network_spectrum(model, nn.MSELoss(), DATA, 3).smallest, 0, atol=1e-12)
    model.linear.requires_grad_(False)
    spectrum = network_spectrum(model, nn.MSELoss(), DATA, 3)
    assert (spectrum.method, spectrum.gradient_norm, list(spectrum.largest)) == ("lanczos", 0.0, [0.0] * 3)


def test_relu_in_place_is_accepted():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 7), nn.ReLU(inplace=True), nn.Linear(7, 5)).double()
    spectrum = network_spectrum(model, nn.MSELoss(), DATA, 3)
    weights = [p.detach() for p in model.parameters()]

    def by_hand(theta):
        w1, c1, w2, c2 = (
            piece.reshape(w.shape) for piece, w in zip(theta.split([w.numel() for w in weights]), weights, strict=True)
        )
        return ((torch.relu(DATA[0] @ w1.T + c1) @ w2.T + c2 - DATA[1]) ** 2).mean()

    assert_spectrum(spectrum, brute.dense_hessian(by_hand, torch.cat([w.flatten() for w in weights])), 3)


class Attention(nn.Module):
    """Takes a mapping, as language models do; fused attention has no second derivative."""

    def __init__(self):
        super().__init__()
        self.project, self.head = nn.Linear(6, 12).double(), nn.Linear(4, 3).double()
        self.register_buffer("scale", torch.tensor(0.5, dtype=torch.float64))

    def forward(self, inputs):
        q, k, v = self.project(inputs["x"])[inputs["rows"]].chunk(3, dim=-1)
        return self.head(nn.functional.scaled_dot_product_attention(q, k, v * self.scale).mean(1))


def test_attention_and_a_mapping_of_inputs():
    torch.manual_seed(2)
    inputs = {"x": torch.randn(4, 5, 6).double(), "rows": torch.arange(4)}
    spectrum = network_spectrum(Attention(), nn.CrossEntropyLoss(), [(inputs, torch.tensor([0, 2, 1, 1]))], 3)
    assert spectrum.method == "lanczos"
    assert spectrum.smallest[0] < 0 < spectrum.largest[-1]


def test_the_certificate_measures_what_it_says():
    """On a quadratic risk central differences are exact: a planted error of each kind comes back in its own size."""
    torch.manual_seed(0)
    risk = empirical_risk(nn.Linear(6, 5, bias=False).double(), nn.MSELoss(), (10 * DATA[0], DATA[1]))
    generator, vector, theta = np.random.default_rng(0), HessianProducts(risk).vector, risk.theta()
    u, v = (network._unit(generator, theta.size) for _ in range(2))
    assert [np.linalg.norm(u), np.linalg.norm(v)] == pytest.approx([1, 1])
    of_product = network._product_error(risk, lambda w: 1.01 * vector(w), theta, 1.0, 1e-12, u)
    assert of_product == pytest.approx(0.01 / 2.01, rel=1e-3)
    skew = generator.standard_normal((theta.size, theta.size))
    skew -= skew.T
    images = [vector(w) + skew @ w for w in (u, v)]
    of_symmetry = network._symmetry_error(lambda w: vector(w) + skew @ w, u, v)
    assert of_symmetry == pytest.approx(abs(2 * u @ skew @ v) / sum(map(np.linalg.norm, images)))

    class Rescaled(EmpiricalRisk):
        def value_and_gradient(self, theta=None, names=None):
            value, gradients = super().value_and_gradient(theta, names)
            return value, [1.01 * part for part in gradients]

    # Along g/‖g‖ and a random unit vector: 0.01/1.01 at least once, and never twice that.
    of_gradient = network._gradient_error(Rescaled(**vars(risk)), theta, 1.0, 1e-12, generator)
    assert 0.99 * 0.01 / 1.01 <= of_gradient <= 2 * 0.01 / 1.01
