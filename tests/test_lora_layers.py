"""`ALLoRALinear` as a module: each variant against the twin, states, merging, and what it refuses."""

import copy
import subprocess
import sys

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from allora_analysis.adaptors import ADAPTORS
from allora_analysis.arms import VARIANTS
from allora_analysis.hessian import LowRankLinear
from allora_analysis.hessian.network import network_spectrum
from allora_analysis.lora import layers
from allora_analysis.lora.functional import allora_linear
from allora_analysis.lora.layers import ALLoRALinear
from allora_analysis.validation import ArgumentError
from tests.brute_force import lora as twin
from tests.test_lora_functional import assert_agree, by_hand, problem

TWINS = {
    "allora": twin.listing_1,
    "allora_0": twin.listing_1,
    "allora_od": twin.allora_od,
    "asf_lora": twin.asf_lora,
    "lora_x_eta": lambda x, a, b, grad, eta, _: [eta * part for part in twin.lora(x, a, b, grad)],
}


def built(variant="allora", n2=7, n1=5, rank=2, bias=True, dtype=torch.float64, **arguments) -> ALLoRALinear:
    module = ALLoRALinear(nn.Linear(n2, n1, bias=bias, dtype=dtype), rank, 2.0, variant, **arguments)
    nn.init.normal_(module.b)
    return module


def arrays_of(module: ALLoRALinear) -> list[np.ndarray]:
    return [part.detach().double().numpy() for part in (module.a, module.b)]


def through(module: ALLoRALinear, x, grad):
    """(output, ∂/∂x, of A, of B)."""
    leaves = [torch.as_tensor(x).requires_grad_(True), module.a, module.b]
    output = module(leaves[0])
    return [output.detach(), *torch.autograd.grad(output, leaves, torch.as_tensor(grad))]


def with_base(module: ALLoRALinear, four, x):
    """The twin's four with the frozen layer's output and ∂/∂x added."""
    weight = module.base.weight.detach().numpy()
    bias = 0 if module.base.bias is None else module.base.bias.detach().numpy()
    return [x @ weight.T + bias + four[0], *four[1:]]


def expected(module: ALLoRALinear, x, grad, adaptor="inverse_sqrt"):
    four = by_hand(TWINS[module.variant], x, *arrays_of(module), grad, 2.0, adaptor)
    four = with_base(module, four, x)
    four[1] = four[1] + grad @ module.base.weight.detach().numpy()
    return four


@settings(deadline=None, max_examples=40)
@given(
    variant=st.sampled_from(VARIANTS),
    adaptor=st.sampled_from(sorted(ADAPTORS)),
    leading=st.lists(st.integers(0, 4), max_size=3),
    bias=st.booleans(),
    hooked=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_the_layer_is_its_twin(variant, adaptor, leading, bias, hooked, seed):
    x, _, _, grad = problem(np.random.default_rng(seed), tuple(leading))
    module = built(variant, bias=bias, adaptor=adaptor)
    if hooked:  # the unfused path
        module.base.register_forward_hook(lambda *_: None)
    assert_agree(through(module, x, grad), expected(module, x, grad, adaptor))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("hooked", [False, True])
def test_autocast(variant, hooked, rng):
    x, _, _, grad = (part.astype(np.float32) for part in problem(rng, (3, 4)))
    module = built(variant, dtype=torch.float32)
    if hooked:
        module.base.register_forward_hook(lambda *_: None)
    leaves = [torch.as_tensor(x).requires_grad_(True), module.a, module.b]
    with torch.autocast("cpu", torch.bfloat16):
        output = module(leaves[0])
    assert output.dtype == torch.bfloat16
    found = torch.autograd.grad(output, leaves, torch.as_tensor(grad).bfloat16())
    assert all(part.dtype == torch.float32 for part in found)
    theirs = expected(module, x, grad)
    for own, other, bound in zip([output.detach(), *found], theirs, rounding(module, x, grad, rng), strict=True):
        gap = np.abs(own.double().numpy() - other).max()
        assert gap <= bound <= 0.6 * np.abs(other).max()


def rounding(module: ALLoRALinear, x, grad, rng) -> list[float]:
    """Twice the worst of 100 changes of the twin's four when inputs and weights move by bfloat16's spacing.

    ASF-LoRA's slope changes by η² per unit of the output where that is near 0: what a rounding does to it depends on
    the problem.
    """
    exact, moved = expected(module, x, grad), copy.deepcopy(module)
    worst = [0.0] * len(exact)
    for _ in range(100):
        arrays = [part.detach().numpy() for part in module.parameters()]
        nudged = [part * (1 + 2**-7 * rng.uniform(-1, 1, part.shape)) for part in (x, grad, *arrays)]
        for own, values in zip(moved.parameters(), nudged[2:], strict=True):
            own.data = torch.as_tensor(values, dtype=torch.float32)
        gaps = zip(expected(moved, *nudged[:2]), exact, strict=True)
        worst = [max(largest, float(np.abs(a - b).max())) for largest, (a, b) in zip(worst, gaps, strict=True)]
    return [2 * gap for gap in worst]


@pytest.mark.parametrize("variant", ["allora", "allora_od", "asf_lora", "lora_x_eta"])
def test_dropout_is_on_the_adapters_input_and_in_training_alone(variant):
    module = built(variant, drop_rate=0.5)
    x = torch.randn(6, 7, dtype=torch.float64)
    torch.manual_seed(3)
    dropped = module(x)
    torch.manual_seed(3)
    inputs = nn.functional.dropout(x, 0.5)
    plain = copy.deepcopy(module)
    plain.drop_rate = 0.0
    torch.testing.assert_close(dropped, module.base(x) + plain(inputs) - module.base(inputs))
    assert not torch.allclose(dropped, plain(x))
    torch.testing.assert_close(module.eval()(x), plain(x))


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_starts_as_the_base_and_moves(variant):
    generator = torch.Generator().manual_seed(1)
    base = nn.Linear(7, 5, dtype=torch.float64)
    module = ALLoRALinear(base, 2, 2.0, variant, generator=generator)
    x, y = torch.randn(9, 7, dtype=torch.float64), torch.randn(9, 5, dtype=torch.float64)
    torch.testing.assert_close(module(x), base(x))
    assert [name for name, part in module.named_parameters() if part.requires_grad] == ["a", "b"]
    start, before = copy.deepcopy(module.state_dict()), (module(x) - y).square().mean().item()
    optimizer = torch.optim.SGD([module.a, module.b], lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        (module(x) - y).square().mean().backward()
        optimizer.step()
    assert (module(x) - y).square().mean().item() < before
    for name, part in module.state_dict().items():
        assert torch.equal(part, start[name]) == name.startswith("base"), name


def test_the_first_step_is_loras_at_eta_times_the_rate():
    """§4.2, Figure 2 right: at B = 0 every d_i is η."""
    torch.manual_seed(0)
    module = ALLoRALinear(nn.Linear(7, 5, dtype=torch.float64), 2, 3.0)
    lora = LowRankLinear(copy.deepcopy(module.base), 2, 1.0, torch.Generator())
    with torch.no_grad():
        lora.a.copy_(module.a)
    x = torch.randn(9, 7, dtype=torch.float64)
    for each in (module, lora):
        each(x).sin().sum().backward()
    torch.testing.assert_close(module.b.grad, 3.0 * lora.b.grad)
    assert module.a.grad.abs().max() == lora.a.grad.abs().max() == 0


def test_the_same_generator_starts_it_as_low_rank_linear():
    base = nn.Linear(7, 5)
    first = ALLoRALinear(base, 3, 2.0, generator=torch.Generator().manual_seed(4))
    second = LowRankLinear(base, 3, 2.0, torch.Generator().manual_seed(4))
    assert torch.equal(first.a, second.a)
    assert first.b.count_nonzero() == 0


@pytest.mark.parametrize("variant", ["allora", "allora_0", "allora_od", "lora_x_eta"])
@pytest.mark.parametrize("bias", [True, False])
def test_merged_equals_unmerged(variant, bias, rng):
    module = built(variant, bias=bias).eval()
    x = torch.as_tensor(rng.standard_normal((3, 7)))
    merged = module.merge()
    assert type(merged) is nn.Linear
    assert not merged.training
    assert not any(part.requires_grad for part in merged.parameters())
    torch.testing.assert_close(merged(x), module(x), rtol=1e-12, atol=1e-12)
    if bias:
        assert merged.bias.data_ptr() != module.base.bias.data_ptr()
    half = built(variant, dtype=torch.bfloat16)
    assert half.merge().weight.dtype == torch.bfloat16


def test_the_hessian_refuses_what_is_none():
    assert ALLoRALinear.double_backward_is_hessian is False
    assert [built(variant).double_backward_is_hessian for variant in VARIANTS] == [False, False, False, True, True]


@pytest.mark.parametrize("variant", VARIANTS)
def test_curvature_is_refused_where_the_double_backward_is_no_hessian(variant, rng):
    module = built(variant)
    data = tuple(torch.as_tensor(rng.standard_normal((9, size))) for size in (7, 5))
    if not module.double_backward_is_hessian:
        with pytest.raises(ArgumentError, match=r"itself \(ALLoRALinear\) rescales its gradients"):
            network_spectrum(module, nn.MSELoss(), data, 2)
        return
    spectrum = network_spectrum(module, nn.MSELoss(), data, 2)
    parameters = {"a": module.a.detach(), "b": module.b.detach()}

    def loss(flat):
        parts = {"a": flat[:14].view(2, 7), "b": flat[14:].view(5, 2)}
        return (torch.func.functional_call(module, parts, (data[0],)) - data[1]).square().mean()

    flat = torch.cat([part.flatten() for part in parameters.values()])
    dense = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))
    np.testing.assert_allclose([*spectrum.smallest, *spectrum.largest], [*dense[:2], *dense[-2:]], rtol=1e-8)


def test_it_says_what_it_is():
    assert repr(built("allora", drop_rate=0.25)).startswith(
        "ALLoRALinear(\n  allora, rank=2, eta=2.0, adaptor=inverse_sqrt"
    )
    assert "drop_rate=0.25" in repr(built("allora", drop_rate=0.25))


def test_peft_is_imported_when_it_is_asked_for():
    code = "import sys; import allora_analysis.lora.layers; print('peft' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
    assert layers.allora_config(2.0, r=3).eta == 2.0
    with pytest.raises(AttributeError, match="no attribute 'dora_config'"):
        layers.dora_config  # noqa: B018


class Sharded(torch.Tensor):
    """Stands for a quantizer's or a sharder's tensor class."""


def spoilt(part: str, value: float) -> nn.Linear:
    base = nn.Linear(7, 5)
    with torch.no_grad():
        getattr(base, part).view(-1)[3] = value
    return base


def sharded() -> nn.Linear:
    base = nn.Linear(7, 5)
    base.weight = nn.Parameter(base.weight.detach().as_subclass(Sharded), requires_grad=False)
    return base


def quantised() -> nn.Linear:
    base = nn.Linear(7, 5)
    base.weight = nn.Parameter(torch.zeros(5, 7, dtype=torch.int8), requires_grad=False)
    return base


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"eta": 0.0}, "eta must be a finite number above 0, received 0.0"),
        ({"eta": 1e-160}, r"eta must be in \[1e-18, 1e\+18\], received 1e-160: 1/eta² leaves float32's range"),
        ({"eta": -2.0}, "eta must be"),
        ({"rank": 6}, r"rank must be at most min\(n1, n2\) = 5, received 6"),
        ({"rank": 0}, "rank must be"),
        ({"variant": "dora"}, "variant must be one of allora, allora_0, allora_od, asf_lora, lora_x_eta"),
        ({"adaptor": "square"}, "adaptor must be one of"),
        ({"drop_rate": 1.0}, r"drop_rate must be a drop rate in \[0, 1\)"),
        ({"drop_rate": -0.1}, "drop_rate must be"),
        ({"drop_rate": 0.1, "variant": "allora_0"}, "drop_rate must be 0 for 'allora_0'"),
        ({"base": spoilt("weight", float("nan"))}, "base.weight: every entry must be finite"),
        ({"base": spoilt("bias", float("inf"))}, "base.bias: every entry must be finite"),
        ({"base": sharded()}, "quantized and sharded weights are not supported, received Sharded"),
        ({"base": quantised()}, "quantized and sharded weights are not supported, received Parameter of torch.int8"),
    ],
)
def test_a_mistake_is_one_clear_line_and_changes_nothing(change, words):
    arguments = {"base": nn.Linear(7, 5), "rank": 2, "eta": 2.0} | change
    trainable = [part.requires_grad for part in arguments["base"].parameters()]
    with pytest.raises(ArgumentError, match=words):
        ALLoRALinear(**arguments)
    assert [part.requires_grad for part in arguments["base"].parameters()] == trainable


@pytest.mark.bad_input
def test_only_a_linear_layer_is_a_base():
    with pytest.raises((ArgumentError, jaxtyping.TypeCheckError)):
        ALLoRALinear(nn.Conv1d(7, 5, 1), 2, 2.0)


@pytest.mark.bad_input
@pytest.mark.parametrize("variant", ["asf_lora", "allora"])
def test_what_cannot_be_merged_says_why_and_stays(variant):
    module = built(variant)
    if variant == "allora":
        with torch.no_grad():
            module.b[1, 1] = float("nan")
    before = copy.deepcopy(module.state_dict())
    words = "not linear in x" if variant == "asf_lora" else "b: every entry must be finite"
    with pytest.raises(ArgumentError, match=words):
        module.merge()
    for name, part in module.state_dict().items():
        torch.testing.assert_close(part, before[name], equal_nan=True)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": torch.zeros(5, 6)}, r"weight, bias: shapes \(5, 6\) and \(5,\) received, \(5, 7\) and \(5,\)"),
        ({"bias": torch.zeros(4)}, "weight, bias: shapes"),
        ({"weight": torch.zeros(5, 7, requires_grad=True)}, "weight: it is frozen here"),
        ({"bias": torch.zeros(5, requires_grad=True)}, "bias: it is frozen here"),
        ({"weight": torch.zeros(5, 7, device="meta")}, "weight: it must be on the device of a and b"),
        ({"b": torch.zeros(5, 3)}, "same rank r"),
        ({"eta": 0.0}, "eta must be"),
    ],
)
def test_mistakes_with_the_fused_function(change, words):
    arguments = {"x": torch.zeros(4, 7), "weight": torch.zeros(5, 7), "bias": torch.zeros(5)}
    arguments |= {"a": torch.zeros(2, 7), "b": torch.zeros(5, 2), "eta": 2.0} | change
    with pytest.raises(ArgumentError, match=words):
        allora_linear(**arguments)
