"""What `ALLoRALinear` and the fused function refuse, in one clear line, leaving the model as it was."""

from __future__ import annotations

import copy

import jaxtyping
import pytest
import torch
from torch import nn

from allora_analysis.lora.functional import allora_linear
from allora_analysis.lora.layers import ALLoRALinear
from allora_analysis.validation import ArgumentError
from tests.test_lora_layers import built


class Sharded(torch.Tensor):
    """Stands for a quantiser's or a sharder's tensor class."""


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
        ({"base": sharded()}, "quantised and sharded weights are not supported, received Sharded"),
        ({"base": quantised()}, "quantised and sharded weights are not supported, received Parameter of torch.int8"),
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


def test_the_hook_rejects_a_wrong_shape(request):
    if not request.config.option.untyped:
        with pytest.raises(jaxtyping.TypeCheckError):
            allora_linear(torch.zeros(4, 7), torch.zeros(5), None, torch.zeros(2, 7), torch.zeros(5, 2), 2.0)
        with pytest.raises(jaxtyping.TypeCheckError):
            built()(torch.zeros(4, 7, dtype=torch.int64))
