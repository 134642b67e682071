"""What users wrap the functions in: torch.func, checkpointing, deepcopy, torch.compile."""

import copy
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch.func import functional_call, grad, jacrev, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from allora_analysis.arms import VARIANTS
from allora_analysis.lora.functional import allora, allora_linear, allora_od, asf_lora, row_factor
from allora_analysis.lora.layers import ALLoRALinear
from allora_analysis.lora.watch import FactorUndone

ROOT = Path(__file__).parents[1]
RULES = {
    "allora": allora,
    "allora_od": allora_od,
    "asf_lora": asf_lora,
    "allora_linear": lambda x, a, b, eta: allora_linear(x, torch.linspace(-1, 1, 35).view(5, 7).to(x), None, a, b, eta),
}


@pytest.fixture
def tensors(rng):
    shapes = {"x": (4, 3, 7), "a": (2, 7), "b": (5, 2)}
    return {name: torch.as_tensor(rng.standard_normal(shape)) for name, shape in shapes.items()}


def loss(rule, x, a, b):
    return rule(x, a, b, 2.0).sin().sum()


def by_autograd(rule, x, a, b):
    leaves = [part.clone().requires_grad_(True) for part in (x, a, b)]
    return torch.autograd.grad(loss(rule, *leaves), leaves)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize(
    "mapped", [(True, False, False), (False, True, False), (False, False, True), (True, True, True)]
)
def test_vmap_of_values_and_gradients(rule, mapped, tensors, rng):
    arguments = [tensors["x"][0], tensors["a"], tensors["b"]]
    many = [
        torch.as_tensor(rng.standard_normal((6, *part.shape))) if each else part
        for part, each in zip(arguments, mapped, strict=True)
    ]
    one = [[part[i] if each else part for part, each in zip(many, mapped, strict=True)] for i in range(6)]
    dims = tuple(0 if each else None for each in mapped)
    outputs = vmap(lambda *parts: rule(*parts, 2.0), dims)(*many)
    torch.testing.assert_close(outputs, torch.stack([rule(*parts, 2.0) for parts in one]))
    gradients = vmap(grad(lambda *parts: loss(rule, *parts), (0, 1, 2)), dims)(*many)
    for found, expected in zip(gradients, zip(*(by_autograd(rule, *parts) for parts in one), strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_jacrev_of_the_output(rule, tensors):
    """Row by row of the output, with one-hot gradients: what autograd gives."""
    x, a, b = tensors["x"][0], tensors["a"], tensors["b"]
    jacobian = jacrev(lambda b: rule(x, a, b, 2.0))(b)
    assert jacobian.shape == (3, 5, 5, 2)
    leaf = b.clone().requires_grad_(True)
    (row,) = torch.autograd.grad(rule(x, a, leaf, 2.0)[1, 2], leaf)
    torch.testing.assert_close(jacobian[1, 2], row)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_jacobian_of_the_update_field_by_torch_func(rule, tensors):
    """jacrev of grad is double backward, and agrees with it; finite at B = 0."""
    x, a = tensors["x"], tensors["a"]
    for b in (tensors["b"], torch.zeros_like(tensors["b"])):
        jacobian = jacrev(grad(lambda b: loss(rule, x, a, b)))(b)
        leaf = b.clone().requires_grad_(True)
        (first,) = torch.autograd.grad(loss(rule, x, a, leaf), leaf, create_graph=True)
        (row,) = torch.autograd.grad(first[3, 1], leaf)
        torch.testing.assert_close(jacobian[3, 1], row)
        assert jacobian.isfinite().all()


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("needs_gradients", [False, True])
def test_forward_mode_gives_the_outputs_own_derivative(rule, needs_gradients, tensors, rng):
    """By central differences. Planted: it raised."""
    point = [tensors[name].requires_grad_(needs_gradients) for name in ("x", "a", "b")]
    directions = [torch.as_tensor(rng.standard_normal(part.shape)) for part in point]
    for chosen in ((0,), (1,), (2,), (0, 1, 2)):
        along = [d if k in chosen else torch.zeros_like(d) for k, d in enumerate(directions)]
        ends = [rule(*(p.detach() + s * d for p, d in zip(point, along, strict=True)), 2.0) for s in (1e-6, -1e-6)]

        def function(*moved, chosen=chosen):
            places = iter(moved)
            return rule(*(next(places) if k in chosen else part for k, part in enumerate(point)), 2.0)

        output, tangent = jvp(function, tuple(point[k] for k in chosen), tuple(directions[k] for k in chosen))
        torch.testing.assert_close(output, rule(*point, 2.0))
        torch.testing.assert_close(tangent, (ends[0] - ends[1]) / 2e-6, rtol=1e-7, atol=1e-8)
    batched = vmap(lambda d: jvp(lambda b: rule(*point[:2], b, 2.0), (point[2],), (d,))[1])
    torch.testing.assert_close(batched(torch.stack([directions[2]] * 2))[1], jvp_of_b(rule, point, directions[2]))


def test_forward_mode_in_the_frozen_layer_is_the_layer_itself(tensors, rng):
    point, along = ([torch.as_tensor(rng.standard_normal(shape)) for shape in ((5, 7), 5)] for _ in range(2))
    x, a, b = tensors.values()
    _, tangent = jvp(lambda weight, bias: allora_linear(x, weight, bias, a, b, 2.0), tuple(point), tuple(along))
    torch.testing.assert_close(tangent, torch.nn.functional.linear(x, *along))


def jvp_of_b(rule, point, direction):
    return jvp(lambda b: rule(*point[:2], b, 2.0), (point[2],), (direction,))[1]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_what_is_compiled_has_the_same_gradients_and_outputs(rule, tensors, monkeypatch):
    wanted, output = by_autograd(rule, *tensors.values()), rule(*tensors.values(), 2.0)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(by_autograd(rule, *tensors.values()), wanted)
    torch.testing.assert_close(rule(*tensors.values(), 2.0), output)


def test_the_factor_maps(tensors, rng):
    many = torch.as_tensor(rng.standard_normal((6, 5, 2)))
    found = vmap(lambda b: row_factor(tensors["a"], b, 2.0))(many)
    torch.testing.assert_close(found, torch.stack([row_factor(tensors["a"], b, 2.0) for b in many]))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_changes_nothing(variant, reentrant, tensors):
    module = ALLoRALinear(torch.nn.Linear(7, 5, dtype=torch.float64), 2, 2.0, variant)
    torch.nn.init.normal_(module.b)
    x = tensors["x"].requires_grad_(True)
    leaves = (x, module.a, module.b)
    plain = torch.autograd.grad(module(x).sin().sum(), leaves)
    for part in leaves:
        part.grad = None
    checkpoint(module, x, use_reentrant=reentrant).sin().sum().backward()
    torch.testing.assert_close([part.grad for part in leaves], list(plain))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_copy_trains_by_the_same_rule_and_alone(variant, tensors):
    module = ALLoRALinear(torch.nn.Linear(7, 5, dtype=torch.float64), 2, 2.0, variant)
    torch.nn.init.normal_(module.b)
    other = copy.deepcopy(module)
    for each in (module, other):
        each(tensors["x"]).sin().sum().backward()
    torch.testing.assert_close([other.a.grad, other.b.grad], [module.a.grad, module.b.grad])
    with torch.no_grad():
        other.b.add_(1)
    assert not torch.equal(other.b, module.b)


@pytest.mark.parametrize("variant", VARIANTS)
def test_functional_call_takes_other_parameters(variant, tensors):
    module = ALLoRALinear(torch.nn.Linear(7, 5, dtype=torch.float64), 2, 2.0, variant)
    parameters = {name: part.detach() for name, part in module.named_parameters()} | {
        "a": tensors["a"],
        "b": tensors["b"],
    }
    found = grad(lambda parts: functional_call(module, parts, (tensors["x"],)).sin().sum())(parameters)
    with torch.no_grad():
        module.a.copy_(tensors["a"])
        module.b.copy_(tensors["b"])
    module.base.requires_grad_(True)
    module(tensors["x"]).sin().sum().backward()
    for name, part in module.named_parameters():
        torch.testing.assert_close(found[name], part.grad)


@pytest.mark.parametrize("trace", [torch.export.export, lambda layer, given: make_fx(layer)(*given)])
def test_a_graph_of_the_forward_pass_alone_is_named_where_it_could_be_trained(trace, tensors):
    module = ALLoRALinear(torch.nn.Linear(7, 5, dtype=torch.float64), 2, 2.0)
    with pytest.warns(FactorUndone, match=r"forward pass alone has no rule.*export under torch.no_grad"):
        trace(module, (tensors["x"],))
    with warnings.catch_warnings():
        warnings.simplefilter("error", FactorUndone)
        with torch.no_grad():
            trace(module, (tensors["x"],))
        trace(module.requires_grad_(False), (tensors["x"],))
        trace(ALLoRALinear(module.base, 2, 2.0, "asf_lora"), (tensors["x"],))


def test_a_graph_that_holds_the_backward_pass_has_the_rule(tensors):
    def gradient(b):
        return grad(lambda b: loss(allora, tensors["x"], tensors["a"], b))(b)

    with warnings.catch_warnings():
        warnings.simplefilter("error", FactorUndone)
        traced = make_fx(gradient)(torch.zeros_like(tensors["b"]))
    torch.testing.assert_close(traced(tensors["b"]), gradient(tensors["b"]))


def test_a_traced_backward_pass_has_the_rule_and_the_warning_says_that(tensors):
    def gradient(b):
        b = b.detach().requires_grad_()
        return torch.autograd.grad(loss(allora, tensors["x"], tensors["a"], b), b)[0]

    with pytest.warns(FactorUndone, match="one that has its own backward pass keeps it"):
        traced = make_fx(gradient)(torch.zeros_like(tensors["b"]))
    torch.testing.assert_close(traced(tensors["b"]), gradient(tensors["b"]))


def test_compiled_equals_eager():
    # torch reads templates of its own in the locale's encoding.
    environment = os.environ | {"PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "tests.lora_compiled"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "compiled equals eager" in done.stdout
