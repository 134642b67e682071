"""§4: the weight gradients of ALLoRA and ALLoRA-OD, and what flows on to x, from products shared between the three.

With g = ∂L/∂f (tokens × n₁), h = xAᵀ (tokens × r): LoRA's gradients are (gB)ᵀx and gᵀh, and ∂L/∂h = gB. ALLoRA scales
row i of ∂L/∂(BA) by d_i: (gD_dB)ᵀx and D_d gᵀh, where gB and gD_dB are one product g[B, D_dB]. ALLoRA-OD scales entry
(token, i) of g itself. Summed over tokens by the products; nothing has a token axis and a weight's shape.
Everything is differentiable, for a second backward pass. Checked by `tests/test_lora_functional.py`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from allora_analysis.adaptors import ADAPTORS
from allora_analysis.lora.row_norms import factor_of_rows


class Gradients(NamedTuple):
    """What a backward pass hands on; None where it is not asked for.

    Attributes:
        hidden: ∂L/∂h, of which ∂L/∂x is the product with A, (tokens, r).
        a: the update direction of A, (r, n₂), in A's dtype.
        b: the update direction of B, (n₁, r), in B's dtype.
    """

    hidden: Tensor | None
    a: Tensor | None
    b: Tensor | None


def without_autocast(*tensors: Tensor | None) -> AbstractContextManager:
    """What a backward pass runs in: in the dtypes of its forward pass, also where it is called inside autocast.

    Args:
        *tensors: the first that is not None says on which device.

    Returns:
        A context, for that device.
    """
    kind = next((tensor.device.type for tensor in tensors if tensor is not None), "meta")
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def row_gradients(grad: Tensor, saved, eta: float, adaptor: str, needs: tuple[bool, ...]) -> Gradients:
    """ALLoRA's: the factor of row i of ∂L/∂(BA) is d_i = adaptor(‖(BA)_i‖).

    Args:
        grad: g, (tokens, n₁).
        saved: x, A, B and h.
        eta: the factor at 0.
        adaptor: a key of `ADAPTORS`.
        needs: which of x, A, B need a gradient.

    Returns:
        The gradients.
    """
    x, a, b, hidden = saved
    if not (needs[1] or needs[2]):
        return Gradients(grad @ b.to(grad.dtype), None, None)
    factor = factor_of_rows(a, b, eta, adaptor)[:, None]
    both = grad @ torch.cat([b.to(grad.dtype), (factor * b).to(grad.dtype)], 1)
    through, scaled = both.split(a.shape[0], 1)
    return Gradients(
        through if needs[0] else None,
        (scaled.mT @ x).to(a.dtype) if needs[1] else None,
        (factor * (grad.mT @ hidden)).to(b.dtype) if needs[2] else None,
    )


def token_gradients(grad: Tensor, saved, eta: float, adaptor: str, needs: tuple[bool, ...]) -> Gradients:
    """ALLoRA-OD's: the factor of entry (token, i) of g is adaptor(|f_i|); f is computed again, not kept.

    Args:
        grad: g, (tokens, n₁).
        saved: x, A, B and h.
        eta: the factor at 0.
        adaptor: a key of `ADAPTORS`.
        needs: which of x, A, B need a gradient.

    Returns:
        The gradients.
    """
    x, a, b, hidden = saved
    weights = b.to(grad.dtype)
    output = (hidden @ weights.mT).to(torch.promote_types(grad.dtype, torch.float32))
    scaled = (grad * ADAPTORS[adaptor](output, eta)).to(grad.dtype)
    return Gradients(
        grad @ weights if needs[0] else None,
        ((scaled @ weights).mT @ x).to(a.dtype) if needs[1] else None,
        (scaled.mT @ hidden).to(b.dtype) if needs[2] else None,
    )


def adapter_gradients(grad: Tensor | None, grad_hidden: Tensor | None, saved, rule: tuple, needs) -> Gradients:
    """The gradients of the two outputs f and h; h's is None but in a second backward pass, and LoRA's own.

    Args:
        grad: g, or None.
        grad_hidden: the gradient of the output h, or None.
        saved: x, A, B and h.
        rule: η, the adaptor, and whether the factor is per token.
        needs: which of x, A, B need a gradient.

    Returns:
        The gradients.
    """
    eta, adaptor, per_token = rule
    found = Gradients(None, None, None)
    if grad is not None:
        found = (token_gradients if per_token else row_gradients)(grad, saved, eta, adaptor, needs)
    if grad_hidden is None:
        return found
    own = Gradients(grad_hidden, (grad_hidden.mT @ saved[0]).to(saved[1].dtype), None)
    return Gradients(
        *(_sum(*pair) if need else None for pair, need in zip(zip(found, own, strict=True), needs, strict=True))
    )


def tangents_of(saved, tangents: tuple[Tensor | None, ...]) -> tuple[Tensor, Tensor]:
    """The directional derivatives of f and h, as of LoRA: the rule is the backward pass's alone."""
    (x, a, b, hidden), (dx, da, db) = saved, tangents
    dtype = x.dtype
    dh = torch.zeros_like(hidden)
    dh = dh if dx is None else dh + dx @ a.to(dtype).mT
    dh = dh if da is None else dh + x @ da.to(dtype).mT
    df = dh @ b.to(dtype).mT
    return df if db is None else df + hidden @ db.to(dtype).mT, dh


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second
