"""What `network_spectrum` refuses: layers whose double backward is not a Hessian, marked or not, and bad input."""

import numpy as np
import pytest
import torch
from torch import nn

from allora_analysis.hessian import LowRankLinear, add_adapters
from allora_analysis.hessian.network import network_spectrum
from allora_analysis.validation import ArgumentError
from tests.test_hessian_network import DATA


class Rescaled(torch.autograd.Function):
    """Identity whose gradient is multiplied by `factor`, complete as torch.func wants it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, factor):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0], None

    @staticmethod
    def jvp(ctx, tangent, _):
        return tangent.clone()


class OldStyle(torch.autograd.Function):
    """The same without what torch.func needs."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.save_for_backward(factor)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0], None


class Custom(nn.Module):
    """A LoRA layer with rescaled gradients: by a constant, or by ALLoRA's 1/√(‖(BA)_i‖ + 1/η²) per output."""

    def __init__(self, function, factor):
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.layer = LowRankLinear(nn.Linear(6, 5).double(), 2, 1.0, generator)
        with torch.no_grad():
            self.layer.b.normal_(generator=generator)
        self.function, self.factor = function, factor

    def forward(self, x):
        a, b = self.layer.a, self.layer.b
        if self.factor is None:
            factor = 1 / torch.sqrt(torch.linalg.vector_norm(b @ a, dim=1, keepdim=True) + 1.0)
        else:
            factor = torch.full((5, 1), self.factor, dtype=torch.float64)
        return self.layer.base(x) + (x @ a.T) @ self.function.apply(b, factor.detach()).T


@pytest.mark.bad_input
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("b_scale", [0.0, 1.0])
@pytest.mark.parametrize("factor", [1.01, 2.0, None])
def test_an_unmarked_layer_that_rescales_gradients_is_refused(factor, b_scale, dtype):
    """At B = 0 and η = 1 ALLoRA's factor is 1: only a nearby point tells."""
    model, data = Custom(Rescaled, factor).to(dtype), tuple(part.to(dtype) for part in DATA)
    with torch.no_grad():
        model.layer.b.mul_(b_scale)
    with pytest.raises(ArgumentError, match="double backward is not a Hessian"):
        network_spectrum(model, nn.MSELoss(), data, 2)


def test_a_custom_function_that_is_its_own_derivative_passes():
    model = Custom(Rescaled, 1.0)
    plain = network_spectrum(model.layer, nn.MSELoss(), DATA, 2)
    custom = network_spectrum(model, nn.MSELoss(), DATA, 2)
    np.testing.assert_allclose(custom.smallest, plain.smallest, rtol=1e-10)


@pytest.mark.bad_input
def test_a_function_that_cannot_be_differentiated_twice_is_refused():
    with pytest.raises(ArgumentError, match="double backward is not a Hessian"):
        network_spectrum(Custom(OldStyle, 1.0), nn.MSELoss(), DATA, 2)


@pytest.mark.bad_input
def test_a_marked_layer_is_refused_by_name():
    model = nn.Sequential(nn.Linear(6, 5).double())
    model[0].double_backward_is_hessian = False
    with pytest.raises(ArgumentError, match=r"model: 0 \(Linear\) rescales its gradients"):
        network_spectrum(model, nn.MSELoss(), DATA, 2)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 5).double()

    def forward(self, x):
        return self.linear(x) * (1 + torch.rand(()))


@pytest.mark.bad_input
def test_a_random_forward_is_refused():
    torch.manual_seed(0)
    with pytest.raises(ArgumentError, match="random forward"):
        network_spectrum(Noisy(), nn.MSELoss(), DATA, 2)


class Curved(nn.Module):
    """Σ w_i^1.5 has no second derivative at w = 0."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def forward(self, x):
        return x[:, :3] + self.w.pow(1.5).sum()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model, loss, data, k: (model.requires_grad_(False), loss, data, k), "at least one parameter"),
        (lambda model, loss, data, k: (model, loss, [], k), "received none"),
        (lambda model, loss, data, k: (model, loss, (data[0][:0], data[1][:0]), k), "at least one example"),
        (lambda model, loss, data, k: (model, loss, [data[0]], k), r"a pair \(inputs, targets\)"),
        (lambda model, loss, data, k: (model, loss, (data[0] * np.nan, data[1]), k), "received nan"),
        (lambda model, loss, data, k: (model, loss, (data[0][:, :3], data[1]), k), "data: model and loss cannot be"),
        (lambda model, loss, data, k: (model, nn.MSELoss(reduction="none"), data, k), "received 'none'"),
        (lambda model, loss, data, k: (model, nn.Identity(), data, k), "none at all"),
        (lambda model, loss, data, k: (model, loss, data, 0), r"k must be a whole number in \[1, 35\], received 0"),
        (lambda model, loss, data, k: (model, loss, data, 36), r"received 36"),
        (lambda model, loss, data, k: (model.bfloat16(), loss, data, k), "float64 or all float32"),
        (lambda model, loss, data, k: (nn.Sequential(model, nn.Linear(5, 5)), loss, data, k), "on one device"),
        (lambda model, loss, data, k: (Curved(), loss, (data[0], data[1][:, :3]), 1), "not finite"),
    ],
)
def test_bad_input(change, words):
    model, loss, data, k = change(nn.Linear(6, 5).double(), nn.MSELoss(), DATA, 2)
    with pytest.raises(ArgumentError, match=words):
        network_spectrum(model, loss, data, k)


WEIGHT = torch.arange(1.0, 6.0, dtype=torch.float64)
LABELS = torch.arange(9) % 5
SOME_IGNORED = torch.where(torch.arange(9) < 2, -100, LABELS)


def two(x, targets):
    return [(x[:4], targets[:4]), (x[4:], targets[4:])]


@pytest.mark.bad_input
@pytest.mark.parametrize("kind", [nn.CrossEntropyLoss, nn.NLLLoss])
@pytest.mark.parametrize(
    ("options", "labels", "words"),
    [
        (
            {"weight": WEIGHT},
            LABELS,
            'loss: "mean" with class weights divides each of 2 batches .*give reduction="sum"',
        ),
        ({}, SOME_IGNORED, 'data: targets hold ignore_index -100, .*reduction="sum" or one batch'),
        ({"ignore_index": 3}, LABELS, "data: targets hold ignore_index 3, "),
    ],
)
def test_a_mean_that_hangs_on_the_batches_is_refused(kind, options, labels, words):
    """torch divides by the weights of each batch's own labels; a sum, and one batch, have no such trouble."""
    model, x = nn.Sequential(nn.Linear(6, 5).double(), nn.LogSoftmax(1)), DATA[0]
    loss, summed = kind(**options), kind(**options, reduction="sum")
    with pytest.raises(ArgumentError, match=words):
        network_spectrum(model, loss, two(x, labels), 2)
    whole, apart = network_spectrum(model, summed, (x, labels), 2), network_spectrum(model, summed, two(x, labels), 2)
    assert apart.loss == pytest.approx(whole.loss, rel=1e-12)
    np.testing.assert_allclose(apart.largest, whole.largest, rtol=1e-10)
    one = network_spectrum(model, loss, (x, labels), 2)
    weights = torch.where(labels == loss.ignore_index, 0.0, options.get("weight", torch.ones(5))[labels.clamp(min=0)])
    assert one.loss * weights.sum().item() == pytest.approx(whole.loss, rel=1e-12)
    np.testing.assert_allclose(one.largest * weights.sum().item(), whole.largest, rtol=1e-10)


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (nn.CrossEntropyLoss(ignore_index=7), LABELS),
        (nn.CrossEntropyLoss(weight=WEIGHT), DATA[1].softmax(1)),  # probabilities: their mean is over the examples
        (nn.BCEWithLogitsLoss(weight=WEIGHT), DATA[1].sigmoid()),
    ],
)
def test_a_mean_over_the_examples_goes_by_batches(loss, targets):
    model, x = nn.Linear(6, 5).double(), DATA[0]
    whole, apart = (network_spectrum(model, loss, data, 2) for data in ((x, targets), two(x, targets)))
    assert apart.loss == pytest.approx(whole.loss, rel=1e-12)
    np.testing.assert_allclose(apart.largest, whole.largest, rtol=1e-10)


@pytest.mark.bad_input
def test_a_tolerance_must_be_positive():
    with pytest.raises(ArgumentError, match="tolerance"):
        network_spectrum(nn.Linear(6, 5).double(), nn.MSELoss(), DATA, 2, tolerance=0.0)


@pytest.mark.bad_input
def test_adapters_need_a_linear_layer_and_a_possible_rank():
    generator = torch.Generator()
    with pytest.raises(ArgumentError, match=r"nn\.Linear to adapt"):
        add_adapters(nn.Sequential(nn.Tanh()), 1, 1.0, generator)
    with pytest.raises(ArgumentError, match="rank must be at most"):
        add_adapters(nn.Sequential(nn.Linear(3, 2)), 3, 1.0, generator)
    with pytest.raises(ArgumentError, match="eta"):
        add_adapters(nn.Sequential(nn.Linear(3, 2)), 1, 0.0, generator)
