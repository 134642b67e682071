"""Does a layer's backward pass do what it states? Measured on the layer alone, with a few random inputs.

Checked by `tests/test_lora_doctor_probe.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from allora_analysis.adaptors import ADAPTORS
from allora_analysis.lora.gradients import without_autocast
from allora_analysis.lora.pairs import PLAIN, Pair
from allora_analysis.lora.row_norms import norms_of_rows

TOKENS = 4
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
LOW_PRECISION = 0.1


def backward_word(pair: Pair) -> str | None:
    """∂L/∂B of the layer, dropout off, for L = Σ v ⊙ layer(X), beside s·(v ⊙ T)ᵀ(XAᵀ).

    T is 1 for LoRA, d_i for ALLoRA, adaptor(|f|) for ALLoRA-OD and the derivative of f·adaptor(|f|) for ASF-LoRA, with
    f = XAᵀBᵀ. Random numbers come from a generator of its own, and no `.grad` is touched. Autocast is off meanwhile:
    both sides are in the layer's own precision.

    Args:
        pair: an adapter and its layer.

    Returns:
        "as stated", "lora's" (T = 1 although the layer states another) or "another"; None where the layer
            cannot be called alone, or its output does not depend on B (merged, disabled).
    """
    if not pair.is_product or pair.a.is_meta or not pair.b.requires_grad:
        return None
    with without_autocast(pair.b):
        return _word(pair)


def _word(pair: Pair) -> str | None:
    dtype = _input_dtype(pair)
    x, v = (_normal(pair.a, size).to(dtype) for size in (pair.a.shape[1], pair.b.shape[0]))
    try:
        with evaluating(pair.module), torch.enable_grad():
            (found,) = torch.autograd.grad((pair.module.forward(x) * v).sum(), pair.b, allow_unused=True)
    except Exception:  # a layer that takes no plain inputs (an embedding, a sharded or quantised base) stays unmeasured
        return None
    if found is None:
        return None
    exact = torch.promote_types(pair.b.dtype, torch.float32)
    hidden = x.to(exact) @ pair.a.detach().to(exact).T
    lora = pair.scaling * v.to(exact).T @ hidden
    stated = pair.scaling * (v.to(exact) * _factor(pair, hidden)).T @ hidden
    tolerance = max(TOLERANCES.get(kind, LOW_PRECISION) for kind in (pair.b.dtype, dtype))
    for word, expected in (("as stated", stated), ("lora's", lora)):
        if (found.to(exact) - expected).norm() <= tolerance * expected.norm():
            return word
    return "another"


def _factor(pair: Pair, hidden: Tensor) -> Tensor:
    """T, (tokens, n₁) or what broadcasts to it.

    Args:
        pair: the adapter.
        hidden: XAᵀ.

    Returns:
        The factor of each entry of ∂L/∂f.
    """
    if pair.variant in PLAIN or pair.adaptor not in ADAPTORS:
        return torch.ones((), dtype=hidden.dtype, device=hidden.device)
    adaptor, b = ADAPTORS[pair.adaptor], pair.b.detach().to(hidden.dtype)
    if pair.variant not in ("allora_od", "asf_lora"):
        return adaptor(norms_of_rows(pair.a.detach(), pair.b.detach()), pair.eta)
    output = (hidden @ b.T).requires_grad_()
    if pair.variant == "allora_od":
        return adaptor(output.detach().abs(), pair.eta)
    with torch.enable_grad():
        return torch.autograd.grad((output * adaptor(output.abs(), pair.eta)).sum(), output)[0]


def _input_dtype(pair: Pair) -> torch.dtype:
    # The base's: PEFT keeps float32 adapters over a bfloat16 base.
    base = getattr(pair.module, "base_layer", getattr(pair.module, "base", None))
    weight = getattr(base, "weight", None)
    return weight.dtype if isinstance(weight, Tensor) and weight.is_floating_point() else pair.a.dtype


def _normal(like: Tensor, size: int) -> Tensor:
    return torch.randn(TOKENS, size, generator=torch.Generator().manual_seed(0)).to(like.device)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Every part of a module in eval mode meanwhile.

    Args:
        module: the module.

    Yields:
        Nothing.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
