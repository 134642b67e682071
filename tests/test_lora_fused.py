"""The frozen layer and its adapter in one function: against the twin and the plain path, and when a layer fuses."""

import jaxtyping
import pytest
import torch
from torch import nn

from allora_analysis.lora import functional, layers
from allora_analysis.lora.functional import allora_linear, fusible
from allora_analysis.validation import ArgumentError
from tests.brute_force import lora as twin
from tests.test_lora_functional import assert_agree, backward, by_hand, problem
from tests.test_lora_layers import built, through


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_in_other_dtypes(per_token, dtype, rng):
    x, a, b, grad = (torch.as_tensor(part).to(dtype).double().numpy() for part in problem(rng, (3, 4), 16, 12, 4))
    weight = rng.standard_normal((12, 16))
    rule = twin.allora_od if per_token else twin.listing_1
    four = by_hand(rule, x, a, b, grad, 2.0)
    four[0], four[1] = four[0] + x @ weight.T, four[1] + grad @ weight
    frozen = torch.as_tensor(weight, dtype=dtype)
    ours = backward(
        lambda x, a, b: allora_linear(x, frozen, None, a, b, 2.0, per_token=per_token), x, a, b, grad, dtype=dtype
    )
    assert all(part.dtype == dtype for part in ours)
    assert_agree(ours, four, 2e-5 if dtype is torch.float32 else 0.04)


def test_fused_double_backward_is_the_unfused(rng):
    x, _, _, grad = map(torch.as_tensor, problem(rng))
    module = built()
    both = []
    for plain in (False, True):
        leaves = [x.clone().requires_grad_(True), module.a, module.b]
        output = module(leaves[0]) if not plain else module.base(leaves[0]) + functional.allora(*leaves, 2.0)
        first = torch.autograd.grad(output, leaves, grad, create_graph=True)
        both.append(torch.autograd.grad(sum(part.sin().sum() for part in first), leaves))
    torch.testing.assert_close(*both)


@pytest.mark.parametrize("variant", ["allora", "allora_od"])
def test_only_what_needs_a_gradient(rng, variant):
    x, _, _, grad = problem(rng)
    module = built(variant)
    everything = through(module, x, grad)[1:]
    for name, other, index in (("a", "b", 2), ("b", "a", 1)):
        getattr(module, name).requires_grad_(False)
        leaf = torch.as_tensor(x).requires_grad_(True)
        found = torch.autograd.grad(module(leaf), (leaf, getattr(module, other)), torch.as_tensor(grad))
        torch.testing.assert_close(found, (everything[0], everything[index]))
        getattr(module, name).requires_grad_(True)
    module.a.requires_grad_(False)
    module.b.requires_grad_(False)
    leaf = torch.as_tensor(x).requires_grad_(True)
    (found,) = torch.autograd.grad(module(leaf), leaf, torch.as_tensor(grad))
    torch.testing.assert_close(found, everything[0])


def calls_of_the_fused_function(monkeypatch) -> list:
    calls = []

    def spy(*args, **kwargs):
        calls.append(args)
        return allora_linear(*args, **kwargs)

    monkeypatch.setattr(layers, "allora_linear", spy)
    return calls


class Counting(nn.Linear):
    """A base that a subclass changes."""


@pytest.mark.parametrize(
    "change",
    [
        lambda base: base.register_forward_hook(lambda *_: None),
        lambda base: base.register_forward_pre_hook(lambda *_: None),
        lambda base: base.register_full_backward_hook(lambda *_: None),
        lambda base: setattr(base, "forward", lambda x: nn.functional.linear(x, base.weight, base.bias)),
        lambda base: base.weight.requires_grad_(True),
        lambda base: base.bias.requires_grad_(True),
        lambda base: nn.utils.parametrize.register_parametrization(base, "weight", nn.Identity()),
    ],
)
def test_it_fuses_only_a_plain_frozen_layer(change, rng, monkeypatch):
    x, _, _, grad = problem(rng)
    module = built()
    calls = calls_of_the_fused_function(monkeypatch)
    fused = through(module, x, grad)
    assert len(calls) == 1
    change(module.base)
    assert not fusible(module.base)
    torch.testing.assert_close(through(module, x, grad), fused)
    assert len(calls) == 1


def test_a_subclass_of_linear_is_called_as_itself():
    assert not fusible(Counting(7, 5).requires_grad_(False))
    assert fusible(nn.Linear(7, 5).requires_grad_(False))
    assert fusible(nn.Linear(7, 5, bias=False).requires_grad_(False))


def test_a_hook_on_the_base_runs_and_counts(rng):
    module = built()
    module.base.register_forward_hook(lambda layer, inputs, output: output + 1)
    x = torch.as_tensor(rng.standard_normal((3, 7)))
    with_hook = module(x)
    module.base._forward_hooks.clear()
    torch.testing.assert_close(with_hook, module(x) + 1)


def test_a_trainable_base_gets_its_gradient(rng):
    module = built()
    module.base.requires_grad_(True)
    x = torch.as_tensor(rng.standard_normal((3, 7)))
    module(x).sum().backward()
    torch.testing.assert_close(module.base.weight.grad, x.sum(0).expand(5, 7))


def test_a_gradient_that_stops_above_comes_back_as_none(rng):
    """As nn.Linear does it."""

    class Stop(torch.autograd.Function):
        @staticmethod
        def forward(ctx, output):
            return output.clone()

        @staticmethod
        def backward(ctx, grad):
            return None

    x = torch.as_tensor(problem(rng)[0]).requires_grad_(True)
    module = built()
    found = torch.autograd.grad(Stop.apply(module(x)).sum(), (x, module.a, module.b), allow_unused=True)
    assert found == (None, None, None)


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_backward_inside_autocast_of_a_forward_outside(fused, per_token, rng):
    x, a, b, grad = (torch.as_tensor(part).float() for part in problem(rng))
    found, frozen = [], torch.ones(b.shape[0], a.shape[1])
    plain = functional.allora_od if per_token else functional.allora
    for inside in (False, True):
        leaves = [part.clone().requires_grad_(True) for part in (x, a, b)]
        if fused:
            output = allora_linear(leaves[0], frozen, None, *leaves[1:], 2.0, per_token=per_token)
        else:
            output = plain(*leaves, 2.0)
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            found.append(torch.autograd.grad(output, leaves, grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.bad_input
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_base_of_another_dtype_is_refused(dtype):
    x, a, b = torch.ones(3, 4), torch.ones(2, 4), torch.ones(5, 2)
    weight, bias = torch.ones(5, 4), torch.ones(5)
    for name, parts in (("weight", (weight.to(dtype), bias)), ("bias", (weight, bias.to(dtype)))):
        with pytest.raises(ArgumentError, match=f"{name}: torch.float32 wanted, .* received {dtype}; cast it"):
            allora_linear(x, *parts, a, b, 2.0)
        with torch.autocast("cpu", torch.bfloat16):
            assert allora_linear(x, *parts, a, b, 2.0).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ArgumentError, match=r"weight: torch.float64 wanted"):
        allora_linear(x.double(), weight, bias, a.double(), b.double(), 2.0)  # autocast leaves float64 alone


@pytest.mark.bad_input
@pytest.mark.parametrize("autocast", [False, True])
def test_a_base_of_integers_is_refused(autocast, request):
    error = ArgumentError if request.config.option.untyped else jaxtyping.TypeCheckError
    frozen = torch.ones(5, 4, dtype=torch.int8)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), pytest.raises(error, match=r"weight") as caught:
        allora_linear(torch.ones(3, 4), frozen, None, torch.ones(2, 4), torch.ones(5, 2), 2.0)
    assert not request.config.option.untyped or str(caught.value).endswith("received torch.int8; cast it")
