"""ALLoRA's rule on embeddings, convolutions, experts and DoRA, against the gradient with respect to ΔW formed whole."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import peft
import pytest
import torch
from packaging.version import Version
from peft import get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from allora_analysis.lora.pairs import lora_pairs
from allora_analysis.lora.peft import allora_config, load
from allora_analysis.validation import ArgumentError
from tests.brute_force.lora import adaptor, row_norms
from tests.brute_force.lora import row_norms as norms_of_rows

pytestmark = pytest.mark.filterwarnings(
    "ignore:Could not find a config file", "ignore:.*gradient_checkpointing", "ignore:.*invalid shape"
)
ETA, SCALING = 3.0, 1.5


class Experts(nn.Module):
    """A mixture by a softmax gate; the stack is (experts, outputs, inputs), or (experts, inputs, outputs)."""

    def __init__(self, transposed: bool = False):
        super().__init__()
        self.is_transposed = transposed
        self.stack = nn.Parameter(torch.randn((3, 8, 6) if transposed else (3, 6, 8)))
        self.gate = nn.Linear(8, 3)

    def forward(self, x):
        return mixture(x, self.stack.mT if self.is_transposed else self.stack, self.gate(x).softmax(-1))


def mixture(x, stack, gates):
    return torch.einsum("ni,eoi,ne->no", x, stack, gates)


class Matrix(nn.Module):
    """A parameter that no layer holds."""

    def __init__(self):
        super().__init__()
        self.stack = nn.Parameter(torch.randn(6, 8))

    def forward(self, x):
        return x @ self.stack.mT


def linear(layer, x, delta):
    return functional.linear(x, layer.weight + delta, layer.bias)


def dora(layer, x, delta):
    """DoRA by hand: the norm is no variable of the gradient, and the magnitude is at its start, ‖W‖, times 1.3."""
    moved = layer.weight + delta
    magnitude = 1.3 * layer.weight.norm(dim=1)
    return functional.linear(x, (magnitude / moved.norm(dim=1).detach())[:, None] * moved, layer.bias)


@dataclass(frozen=True)
class Kind:
    """A layer, how to call it with W + ΔW for W, and an input."""

    make: Callable[[], nn.Module]
    called: Callable[[nn.Module, Tensor, Tensor], Tensor]
    x: Callable[[], Tensor]
    fields: dict[str, Any] = field(default_factory=dict)
    experts: int = 0


KINDS = {
    "linear": Kind(lambda: nn.Linear(8, 6), linear, lambda: torch.randn(5, 8)),
    "lora_bias": Kind(lambda: nn.Linear(8, 6), linear, lambda: torch.randn(5, 8), {"lora_bias": True}),
    "dora": Kind(lambda: nn.Linear(8, 6), dora, lambda: torch.randn(5, 8), {"use_dora": True}),
    "embedding": Kind(
        lambda: nn.Embedding(9, 6),
        lambda layer, x, delta: functional.embedding(x, layer.weight + delta.mT),
        lambda: torch.tensor([[0, 3, 3], [8, 1, 0]]),
    ),
    "conv1d": Kind(
        lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1),
        lambda layer, x, delta: functional.conv1d(x, layer.weight + delta.view(6, 4, 3), layer.bias, 2, 1),
        lambda: torch.randn(2, 4, 7),
    ),
    "conv2d": Kind(
        lambda: nn.Conv2d(4, 6, (3, 2)),
        lambda layer, x, delta: functional.conv2d(x, layer.weight + delta.view(6, 4, 3, 2), layer.bias),
        lambda: torch.randn(2, 4, 5, 5),
    ),
    "conv3d": Kind(
        lambda: nn.Conv3d(4, 6, 1),
        lambda layer, x, delta: functional.conv3d(x, layer.weight + delta.view(6, 4, 1, 1, 1), layer.bias),
        lambda: torch.randn(2, 4, 2, 2, 3),
    ),
    "experts": Kind(
        Experts,
        lambda layer, x, delta: mixture(x, layer.stack + delta, layer.gate(x).softmax(-1)),
        lambda: torch.randn(5, 8),
        {"target_modules": [], "target_parameters": ["0.stack"]},
        experts=3,
    ),
    "transposed experts": Kind(
        lambda: Experts(transposed=True),
        lambda layer, x, delta: mixture(x, layer.stack.mT + delta, layer.gate(x).softmax(-1)),
        lambda: torch.randn(5, 8),
        {"target_modules": [], "target_parameters": ["0.stack"]},
        experts=3,
    ),
    "a bare matrix": Kind(
        Matrix,
        lambda layer, x, delta: x @ (layer.stack + delta).mT,
        lambda: torch.randn(5, 8),
        {"target_modules": [], "target_parameters": ["0.stack"]},
    ),
}


def adapted(kind: Kind, variant: str = "allora", **fields: Any):
    """The model, its adapter away from 0, and a copy of the base layer; all in float64."""
    torch.manual_seed(0)
    base = kind.make().double()
    twin = kind.make().double()
    twin.load_state_dict(base.state_dict())
    fields = {"r": 2, "lora_alpha": 2 * SCALING, "target_modules": ["0"]} | kind.fields | fields
    model = get_peft_model(nn.Sequential(base), allora_config(ETA, variant, **fields)).double()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 1.3 * parameter.data if "magnitude" in name else 0.4 * torch.randn_like(parameter)
    return model, twin


def factors(model):
    """A and B of the one pair by PEFT's own layout, as a list of pairs: one for each expert."""
    (pair,) = lora_pairs(model)
    a, b = (part.detach().numpy() for part in (pair.a, pair.b))
    experts = getattr(pair.module, "num_experts", 1)
    a = a.reshape(experts, -1, a.shape[-1]) if experts > 1 else a.reshape(1, len(a), -1)
    b = np.moveaxis(b.reshape(len(b), -1, experts), 2, 0)
    return a, b


def expected(kind: Kind, twin, model, x, weights):
    """∂L/∂x and, by pair, the rule's gradients of A and B from G = ∂L/∂ΔW: s·Bᵀ(D G) and s·(D G)Aᵀ."""
    a, b = factors(model)
    delta = torch.from_numpy(SCALING * (b @ a)).requires_grad_()
    x = x.detach().clone().requires_grad_(x.is_floating_point())
    output = kind.called(twin, x, delta if kind.experts else delta[0])
    (output * weights).sum().backward()
    found = [], []
    for one_a, one_b, grad in zip(a, b, delta.grad.numpy(), strict=True):
        d = adaptor("inverse_sqrt", SCALING * norms_of_rows(one_a, one_b), ETA)[:, None]
        found[0].append(SCALING * one_b.T @ (d * grad))
        found[1].append(SCALING * (d * grad) @ one_a.T)
    return output.detach(), x.grad, np.stack(found[0]), np.stack(found[1])


def gradients(model):
    """In the layout of `factors`."""
    (pair,) = lora_pairs(model)
    kept = pair.a.data, pair.b.data
    pair.a.data, pair.b.data = pair.a.grad, pair.b.grad
    found = factors(model)
    pair.a.data, pair.b.data = kept
    return found


def close(found, wanted, tolerance=1e-10):
    return np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


def named(*names):
    """The kinds by name; an older PEFT's experts are refused."""
    old = Version(peft.__version__) < Version("0.21")
    refused = pytest.mark.xfail(old, reason="PEFT below 0.21 exchanges an expert's axes", raises=ArgumentError)
    return [pytest.param(name, marks=refused) if "experts" in name else name for name in names]


@pytest.mark.parametrize("through", [True, False], ids=["x trained", "x not"])
@pytest.mark.parametrize("name", named(*KINDS))
def test_rows_of_the_gradient_are_scaled(name, through):
    kind = KINDS[name]
    model, twin = adapted(kind)
    x = kind.x()
    x = x.double().requires_grad_(through) if x.is_floating_point() else x
    output = model(x)
    weights = torch.randn_like(output)
    (output * weights).sum().backward()
    bias = model.base_model.model[0].lora_B["default"].bias if name == "lora_bias" else None
    wanted, grad_x, grad_a, grad_b = expected(kind, twin, model, x, weights)
    shift = 0 if bias is None else SCALING * bias.detach()
    torch.testing.assert_close(output.detach(), wanted + shift, rtol=1e-12, atol=1e-12)
    assert x.grad is None or close(x.grad.numpy(), grad_x.numpy())
    found_a, found_b = gradients(model)
    assert close(found_a, grad_a)
    assert close(found_b, grad_b)
    if bias is not None:  # LoRA's own
        torch.testing.assert_close(bias.grad, SCALING * weights.sum(0))
    # Planted: the norms at scaling 1, which the same assertion must reject.
    a, b = factors(model)
    wrong = [adaptor("inverse_sqrt", row_norms(*pair), ETA)[:, None] for pair in zip(a, b, strict=True)]
    right = [adaptor("inverse_sqrt", SCALING * row_norms(*pair), ETA)[:, None] for pair in zip(a, b, strict=True)]
    assert not close(found_b, grad_b * np.stack(wrong) / np.stack(right), 1e-3)


def test_a_convolutions_own_bias_is_added_and_trained_as_in_lora():
    kind = replace(KINDS["conv1d"], fields={"lora_bias": True})
    (model, twin), x = adapted(kind), kind.x().double()
    bias, output = model.base_model.model[0].lora_B["default"].bias, model(x)
    weights = torch.randn_like(output)
    (output * weights).sum().backward()
    wanted = expected(kind, twin, model, x.requires_grad_(), weights)[0]
    torch.testing.assert_close(output.detach(), wanted + SCALING * bias.detach()[:, None], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(bias.grad, SCALING * weights.sum((0, 2)))


@pytest.mark.parametrize("name", named(*(name for name in KINDS if name != "embedding")))
def test_what_is_below_a_frozen_adapter_is_still_trained_through_it(name):
    kind = KINDS[name]
    model, twin = adapted(kind)
    model.requires_grad_(False)
    x = kind.x().double().requires_grad_()
    output = model(x)
    weights = torch.randn_like(output)
    (output * weights).sum().backward()
    _, wanted, *_ = expected(kind, twin, model, x, weights)
    assert close(x.grad.numpy(), wanted.numpy())


@pytest.mark.parametrize(
    "name", [name for name in KINDS if name not in ("experts", "transposed experts", "a bare matrix")]
)
def test_the_factor_of_each_output(name):
    """ALLoRA-OD: each entry of ∂L/∂f times adaptor(|f|), f the adapter's output s·BAx."""
    kind = KINDS[name]
    model, twin = adapted(kind, "allora_od")
    x = kind.x()
    x = x.double() if x.is_floating_point() else x
    weights = torch.randn_like(model(x))
    (model(x) * weights).sum().backward()
    found = gradients(model)
    a, b = factors(model)
    delta = torch.from_numpy(SCALING * (b @ a)[0]).requires_grad_()
    base = kind.called(twin, x, torch.zeros_like(delta))
    plain = KINDS["linear"] if name in ("dora", "lora_bias") else kind
    f = plain.called(twin, x, delta) - plain.called(twin, x, torch.zeros_like(delta))
    ratio = 1.0
    if name == "dora":  # what comes back to f is g m/‖W + sBA‖
        ratio = 1.3 * twin.weight.norm(dim=1) / (twin.weight + delta).norm(dim=1).detach()
    scaled = torch.from_numpy(adaptor("inverse_sqrt", f.detach().numpy(), ETA))
    (grad,) = torch.autograd.grad(f, delta, (weights * ratio * scaled).detach())
    assert base.shape == f.shape
    assert close(found[0][0], SCALING * b[0].T @ grad.numpy())
    assert close(found[1][0], SCALING * grad.numpy() @ a[0].T)


@pytest.mark.parametrize("name", named(*KINDS))
def test_merging_saving_and_switching_off(name, tmp_path):
    kind = KINDS[name]
    model, twin = adapted(kind)
    x = kind.x()
    x = x.double() if x.is_floating_point() else x
    with torch.no_grad():
        before = model(x)
        with model.disable_adapter():
            torch.testing.assert_close(model(x), twin(x))
        model.save_pretrained(tmp_path)
        again = load(nn.Sequential(kind.make().double()), tmp_path)
        assert again.peft_config["default"].variant == "allora"
        same = get_peft_model_state_dict(again, save_embedding_layers=False)
        for key, value in get_peft_model_state_dict(model, save_embedding_layers=False).items():
            torch.testing.assert_close(same[key], value.to(same[key].dtype), msg=key)
        torch.testing.assert_close(model.merge_and_unload()(x), before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora"])
def test_initialisations_that_start_from_the_base_weight(init, tmp_path):
    """W + sBA is the pretrained weight, rows of BA do not start at 0, and the rule is that of the rows as they are."""
    torch.manual_seed(0)
    base = nn.Linear(8, 6)
    weight, x = base.weight.detach().clone(), torch.randn(5, 8)
    net = nn.Sequential(base, nn.Linear(6, 6))
    twin = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 6))
    twin.load_state_dict(net.state_dict())
    model = get_peft_model(net, allora_config(ETA, r=2, lora_alpha=3, target_modules=["0"], init_lora_weights=init))
    torch.testing.assert_close(model(x), twin(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model.base_model.model[0].get_base_layer().weight, weight, atol=1e-2)
    (pair,) = lora_pairs(model)
    a, b = pair.a.detach().numpy(), pair.b.detach().numpy()
    d = adaptor("inverse_sqrt", SCALING * row_norms(a, b), ETA)[:, None]
    assert (d < 0.9 * ETA).all()
    model(x).square().sum().backward()
    grad = torch.autograd.grad(twin(x).square().sum(), twin[0].weight)[0].numpy()
    assert close(pair.b.grad.numpy(), SCALING * (d * grad) @ a.T, 1e-3)
    assert close(pair.a.grad.numpy(), SCALING * b.T @ (d * grad), 1e-3)
    pair.b.data += 0.1
    model.save_pretrained(tmp_path)
    if init == "pissa_niter_4":  # drawn anew where it is loaded: `tests/test_lora_peft_saving.py`
        return
    fresh = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 6))
    fresh.load_state_dict(twin.state_dict())
    again = load(fresh, tmp_path)
    torch.testing.assert_close(again(x), model(x), rtol=1e-3, atol=1e-4)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("fields", "layer", "match"),
    [
        (
            {"init_lora_weights": "olora"},
            lambda: nn.Embedding(9, 6),
            r"'olora' changes the base weight, and",
        ),
        (
            {"use_dora": True},
            lambda: nn.Conv1d(6, 6, 1),
            r"use_dora: for dense linear layers alone; leave",
        ),
        ({"variant": "asf_lora"}, lambda: nn.Embedding(9, 6), r"variant 'asf_lora': for linear layers alone"),
        (
            {"init_lora_weights": "pissa", "variant": "asf_lora"},
            lambda: nn.Linear(6, 6),
            r"'pissa' changes the base weight, and .* would start from another function under ASF-LoRA",
        ),
        ({"init_lora_weights": "olora"}, lambda: Conv1D(6, 6), r"'olora' takes a Conv1D's weight for its transpose"),
        ({}, lambda: nn.Conv1d(6, 6, 1, groups=2), r"layer '1' has groups = 2, whose ΔW PEFT cannot merge"),
        (
            {"target_parameters": ["1.stack"], "target_modules": ["0"], "variant": "allora_od"},
            Experts,
            r"target_parameters: variant 'allora_od' needs the layer's output",
        ),
    ],
)
def test_what_has_no_meaning_there(fields, layer, match):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), layer())
    before, kinds = {key: value.clone() for key, value in model.state_dict().items()}, [type(part) for part in model]
    with pytest.raises(ArgumentError, match=match):
        get_peft_model(model, allora_config(**{"eta": ETA, "r": 2, "target_modules": ["0", "1"]} | fields))
    assert [type(part) for part in model] == kinds
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.bad_input
def test_an_older_peft_exchanges_an_experts_axes(monkeypatch):
    monkeypatch.setattr("peft.__version__", "0.19.0")
    with pytest.raises(ArgumentError, match=r"PEFT 0\.19\.0 reads a stack of experts .* install peft>=0\.21"):
        get_peft_model(
            nn.Sequential(Experts()), allora_config(ETA, r=2, target_modules=[], target_parameters=["0.stack"])
        )


@pytest.mark.bad_input
def test_an_initialisation_that_would_change_what_another_adapter_sees():
    model = get_peft_model(nn.Sequential(nn.Linear(6, 6)), allora_config(ETA, r=2, target_modules=["0"]))
    with pytest.raises(ArgumentError, match=r"'pissa' changes the base weight, and layer '0' has adapters"):
        model.add_adapter("second", allora_config(ETA, r=2, target_modules=["0"], init_lora_weights="pissa"))


def test_a_parameter_with_a_parametrization_of_its_own_has_the_adapter_once():
    """Planted: a proxy that PEFT did not know stayed, and each forward pass added the adapter once more."""

    class Twice(nn.Module):
        def forward(self, weight):
            return 2 * weight

    torch.manual_seed(0)
    base = nn.Sequential(Matrix())
    nn.utils.parametrize.register_parametrization(base[0], "stack", Twice())
    config = allora_config(ETA, r=2, target_modules=[], target_parameters=["0.stack"], init_lora_weights=False)
    model, x = get_peft_model(base, config), torch.randn(5, 8)
    first = model(x)
    torch.testing.assert_close(model(x), first, rtol=0, atol=0)
    layer = model.base_model.model[0]
    torch.testing.assert_close(first, x @ (layer.get_base_layer().stack + layer.get_delta_weight("default")).mT)
