"""What rounding takes of A and B in bfloat16 or float16: the doctor's shares against models that really step."""

import copy

import pytest
import torch
from torch import nn

from allora_analysis.hessian import LowRankLinear
from allora_analysis.lora.doctor import doctor
from allora_analysis.lora.layers import ALLoRALinear
from allora_analysis.lora.optim import ALLoRAAdamW, param_groups

BF16 = torch.bfloat16


def model(dtype, size=0.5, allora=True):
    torch.manual_seed(0)
    base, generator = nn.Linear(96, 64), torch.Generator().manual_seed(0)
    layer = ALLoRALinear(base, 8, 2.0) if allora else LowRankLinear(base, 8, 1.0, generator)
    with torch.no_grad():
        layer.b.copy_(size * torch.randn(layer.b.shape))
    return layer.to(dtype)


def backward(layer):
    x = torch.randn(32, 96, generator=torch.Generator().manual_seed(1)).to(layer.a.dtype)
    layer(x).square().mean().backward()
    return layer


def rounding(layer, optimizer=None):
    return [(line.level, line.text) for line in doctor(layer, optimizer).advice if line.code == "rounding"]


def trained(layer):
    return [part for part in layer.parameters() if part.requires_grad]


@pytest.mark.parametrize("dtype", [BF16, torch.float16], ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_threshold_that_is_stated(dtype, sign):
    """A quarter of ε never moves an entry, half of it always does: every number of the format in [1, 4)."""
    eps = torch.finfo(dtype).eps
    numbers = torch.cat([torch.arange(1, 2, eps / 2), torch.arange(2, 4, eps)]).double()
    numbers = numbers.to(dtype).double()

    def moved(part):
        return (numbers + sign * part * numbers * eps).to(dtype).double() != numbers

    assert not moved(0.25).any()
    assert moved(0.26).any()
    assert moved(0.501).all()
    assert not moved(0.49).all()


@pytest.mark.parametrize("lr", [0.01, 0.3])
@pytest.mark.parametrize(("way", "dtype"), [("sgd", BF16), ("sgd", torch.float16), ("on the update", BF16)], ids=str)
def test_the_shares_against_a_step(way, lr, dtype):
    """SGD's to the entry; Adam's first step is ±l in each."""
    lr = lr if way == "sgd" else lr / 1000
    layer = backward(model(dtype, allora=way == "sgd"))
    make = torch.optim.SGD if way == "sgd" else lambda params, lr: ALLoRAAdamW(param_groups(layer), lr, 2.0, eps=0)
    optimizer = make(trained(layer), lr=lr)
    ((level, text),) = rounding(layer, optimizer)
    before = copy.deepcopy(layer)
    optimizer.step()
    still = []
    for name in "ab":
        old, new = (getattr(one, name) for one in (before, layer))
        asked = getattr(layer, name).grad != 0
        still.append(float((old == new)[asked].float().mean()))
    told = [f"{share:.0%} of {name}'s" for share, name in zip(still, "AB", strict=True) if share]
    if way == "sgd":
        assert all(one in text for one in told), (text, still)
    else:
        said = [float(word.rstrip("%")) / 100 for word in text.split() if word.endswith("%")]
        assert said == pytest.approx([one for one in still if one], abs=0.05), (text, still)
    assert level == ("problem" if max(still) > 0.01 else "note")
    assert f"1/{512 if dtype == BF16 else 4096} of an entry" in text
    assert "float32" in text


def test_float32_and_what_an_optimizer_makes_up_for_have_no_line():
    assert not rounding(backward(model(torch.float32)), torch.optim.SGD(trained(model(torch.float32)), lr=1e-9))
    layer = backward(model(BF16))
    assert not rounding(layer, Kahan(trained(layer), lr=1e-4))
    assert rounding(layer, torch.optim.SGD(trained(layer), lr=1e-4, momentum=0.9))


def test_before_the_gradients_it_is_a_note_under_sgd_and_a_number_under_adam():
    layer = model(BF16, size=0.0)
    ((level, text),) = rounding(layer, torch.optim.SGD(trained(layer), lr=0.1))
    assert (level, "%" in text) == ("note", False)
    ((level, text),) = rounding(layer, torch.optim.AdamW(trained(layer), lr=1e-5))
    assert level == "problem"
    assert "of A's entries" in text
    assert "of B's" not in text  # B is 0 and takes any update
    ((level, _),) = rounding(layer)
    assert level == "note"


class Kahan(torch.optim.SGD):
    """SGD that keeps what rounding took, and adds it at the next step."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in (one for one in group["params"] if one.grad is not None):
                rest = self.state[p].setdefault("rest", torch.zeros_like(p, dtype=torch.float64))
                with torch.no_grad():
                    exact = p.double() + rest - group["lr"] * p.grad.double()
                    p.copy_(exact)
                    rest.copy_(exact - p.double())
