"""What the doctor measures on a layer alone: whether the backward pass is the one that the layer states."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from allora_analysis.hessian import LowRankLinear
from allora_analysis.lora.doctor.probe import backward_word
from allora_analysis.lora.layers import VARIANTS, ALLoRALinear
from allora_analysis.lora.pairs import lora_pairs

peft = pytest.importorskip("peft")


def started(layer, seed=0):
    """B away from 0, so that d differs by row and from η."""
    with torch.no_grad():
        for pair in lora_pairs(layer):
            pair.b.copy_(torch.randn(pair.b.shape, generator=torch.Generator().manual_seed(seed)))
    return layer


def word(layer):
    (pair,) = lora_pairs(layer)
    return backward_word(pair)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_does_what_it_states(variant, dtype):
    drop = 0.0 if variant == "allora_0" else 0.4
    layer = started(ALLoRALinear(nn.Linear(6, 8), 2, 3.0, variant, drop_rate=drop).to(dtype))
    assert word(layer) == "as stated"


@pytest.mark.parametrize("adaptor", ["inverse", "exponential", "constant"])
def test_every_adaptor_does(adaptor):
    assert word(started(ALLoRALinear(nn.Linear(6, 8), 2, 0.7, adaptor=adaptor))) == "as stated"


def test_plain_layers_do():
    assert word(started(LowRankLinear(nn.Linear(6, 8), 2, 5.0, torch.Generator()))) == "as stated"
    model = peft.get_peft_model(
        nn.Sequential(nn.Linear(6, 8)), peft.LoraConfig(r=2, lora_alpha=6, lora_dropout=0.3, target_modules=["0"])
    )
    assert word(started(model)) == "as stated"


@pytest.mark.parametrize("variant", [None, "allora", "allora_od", "asf_lora"])
def test_adapters_in_float32_over_a_base_in_bfloat16(variant):
    """As PEFT makes them unless told otherwise."""
    fields = {"r": 2, "target_modules": ["0"]}
    if variant is None:
        config = peft.LoraConfig(**fields)
    else:
        from allora_analysis.lora.peft import allora_config

        config = allora_config(eta=3.0, variant=variant, **fields)
    model = started(peft.get_peft_model(nn.Sequential(nn.Linear(6, 8)).to(torch.bfloat16), config))
    assert lora_pairs(model)[0].b.dtype == torch.float32
    assert word(model) == "as stated"


@pytest.mark.parametrize("variant", VARIANTS)
def test_called_inside_autocast_it_measures_in_the_layers_own_precision(variant):
    """Planted: in bfloat16, against float32's tolerance, every layer did "another" than it states."""
    layer = started(ALLoRALinear(nn.Linear(64, 48), 4, 3.0, variant))
    with torch.autocast("cpu", torch.bfloat16):
        assert word(layer) == "as stated"
        layer.forward = lambda x: layer.base(x) + 1.1 * x @ layer.a.T @ layer.b.T
        assert word(layer) == "another"
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("variant", ["allora", "allora_0", "allora_od", "asf_lora"])
def test_a_forward_put_in_the_layers_place_is_found_out(variant):
    layer = started(ALLoRALinear(nn.Linear(6, 8), 2, 3.0, variant))
    layer.forward = lambda x: layer.base(x) + x @ layer.a.T @ layer.b.T
    assert word(layer) == "lora's"
    layer.forward = lambda x: layer.base(x) + 1.1 * x @ layer.a.T @ layer.b.T
    assert word(layer) == "another"


@pytest.mark.parametrize(("size", "expected"), [(1.0, "another"), (0.0, "as stated")])
def test_a_wrong_norm_is_found_out(size, expected):
    """d from B's own rows: right at B = 0 alone."""

    class NormsOfB(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(2, 6)), nn.Parameter(size * torch.randn(8, 2))
            self.variant, self.eta, self.adaptor = "allora", 3.0, "inverse_sqrt"

        def forward(self, x):
            b = self.b
            d = (b.detach().norm(dim=1) + 1 / 9).rsqrt()
            scaled = (d[:, None] * b) + ((1 - d[:, None]) * b).detach()
            return x @ self.a.T @ scaled.T

    torch.manual_seed(0)
    assert word(NormsOfB()) == expected


def test_what_cannot_be_called_alone_is_left_unmeasured():
    model = peft.get_peft_model(
        nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4)), peft.LoraConfig(r=2, target_modules=["0"])
    )
    assert word(model) is None
    merged = started(peft.get_peft_model(nn.Sequential(nn.Linear(6, 8)), peft.LoraConfig(r=2, target_modules=["0"])))
    merged.merge_adapter()
    assert word(merged) is None
    frozen = ALLoRALinear(nn.Linear(6, 8), 2, 3.0)
    frozen.b.requires_grad_(False)
    assert word(frozen) is None


def test_nothing_is_left_behind():
    model = started(ALLoRALinear(nn.Linear(6, 8), 2, 3.0, drop_rate=0.5)).train()
    model.base.eval()
    state, modes = torch.get_rng_state(), [part.training for part in model.modules()]
    with torch.no_grad():
        assert word(model) == "as stated"
    assert torch.equal(state, torch.get_rng_state())
    assert [part.training for part in model.modules()] == modes
    assert model.b.grad is None
