"""§4: a frozen linear layer and its ALLoRA adapter as one function, for speed.

y = xWᵀ + bias + xAᵀBᵀ with ALLoRA's gradients (`gradients.py`); W and the bias are frozen. The adapter's products are
added in place to the frozen layer's output and to its ∂/∂x, so that nothing of size tokens × n₁ or n₁×n₂ is written
beside the two results, and autograd records one node for about eight. Two exceptions: per token, the backward pass
computes f and its factor again, tokens × n₁ in float32 or better; under autocast W is written in autocast's dtype. What
is left above the frozen layer is the arithmetic of the adapter, 7r/(2n) of the layer's own at n₁ = n₂ = n. The constant
adaptor with η = 1 is LoRA, at this speed. Checked by `tests/test_lora_fused.py`, measured by `benchmarks/layer.py`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from allora_analysis.lora.functional import autocasts, check, recorded
from allora_analysis.lora.gradients import adapter_gradients, tangents_of, without_autocast
from allora_analysis.validation import ArgumentError

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def allora_linear(
    x: Float[Tensor, "*batch n2"],
    weight: Float[Tensor, "n1 _"],
    bias: Float[Tensor, " _"] | None,
    a: Float[Tensor, "r _"],
    b: Float[Tensor, "_ _"],
    eta: float,
    adaptor: str = "inverse_sqrt",
    per_token: bool = False,
) -> Float[Tensor, "*batch n1"]:
    """xWᵀ + bias + `allora(x, a, b, eta, adaptor)` in one function; W and the bias get no gradient.

    Args:
        x: inputs.
        weight: W, frozen, of x's dtype; under autocast of any of `FLOATS`.
        bias: the layer's, frozen, or None; of the same dtype.
        a: A.
        b: B.
        eta: the factor of a row of zeros.
        adaptor: a key of `allora_analysis.adaptors.ADAPTORS`.
        per_token: `allora_od` in the place of `allora`.

    Returns:
        Outputs, in x's dtype or autocast's.

    Raises:
        ArgumentError: W or the bias is trainable, shapes, dtypes or devices do not match, no such rule.
    """
    dtype, eta, adaptor = check(x, a, b, eta, adaptor)
    _check_layer(weight, bias, a, b, FLOATS if autocasts(x) else (dtype,))
    flat = x.to(dtype).reshape(-1, x.shape[-1])
    output, _ = recorded(_AdaptedLinear, _DualAdaptedLinear, (flat, weight, bias, a, b), eta, adaptor, per_token)
    return output.reshape(*x.shape[:-1], b.shape[0])


def fusible(base: nn.Module) -> bool:
    """Whether calling a layer is nothing but xWᵀ + bias with W and the bias frozen, so that `allora_linear` may do it.

    Args:
        base: a layer.

    Returns:
        False for a subclass of `nn.Linear` (quantised, parametrised), for one with hooks, a replaced `forward`, a
        weight of another tensor class (sharded) or a trainable parameter.
    """
    if type(base) is not nn.Linear or "forward" in base.__dict__ or any(getattr(base, name) for name in HOOKS):
        return False
    return all(
        type(part) in (Tensor, nn.Parameter) and not part.requires_grad
        for part in (base.weight, base.bias)
        if part is not None
    )


def _check_layer(weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    shape = (b.shape[0], a.shape[1])
    if tuple(weight.shape) != shape or (bias is not None and tuple(bias.shape) != shape[:1]):
        received = f"{tuple(weight.shape)} and {None if bias is None else tuple(bias.shape)} received"
        raise ArgumentError(
            f"weight, bias: shapes {received}, {shape} and {shape[:1]} or None wanted, to match a and b"
        )
    for name, part in (("weight", weight), ("bias", bias)):
        if part is None:
            continue
        if part.requires_grad:
            raise ArgumentError(
                f"{name}: it is frozen here, received one that requires grad; call requires_grad_(False)"
            )
        if part.device != a.device:
            raise ArgumentError(f"{name}: it must be on the device of a and b ({a.device}), received {part.device}")
        if part.dtype not in dtypes:
            wanted = " or ".join(map(str, dtypes))
            raise ArgumentError(f"{name}: {wanted} wanted, as of x or for autocast, received {part.dtype}; cast it")


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return nn.functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def _through(grad: Tensor | None, hidden: Tensor | None, weight: Tensor, a: Tensor) -> Tensor | None:
    # ∂L/∂x
    if grad is None:  # nothing comes back along this layer's output, and perhaps nothing at all
        return None if hidden is None else hidden @ a
    if torch.is_grad_enabled():  # a second backward pass, or torch.func, is to follow
        return torch.addmm(grad @ weight.to(grad.dtype), hidden, a)
    return (grad @ weight.to(grad.dtype)).addmm_(hidden, a)


class _AdaptedLinear(torch.autograd.Function):
    """x ↦ (xWᵀ + bias + xAᵀBᵀ, xAᵀ) of a matrix x; the second output as in `functional._Adapter`."""

    @staticmethod
    def forward(*inputs):  # unnamed: `apply` binds the names anew on each call, and that takes longer than a product
        x, weight, bias, a, b = inputs[:5]
        hidden = x @ a.to(x.dtype).mT
        return _product(x, weight, bias).addmm_(hidden, b.to(x.dtype).mT), hidden

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, _, a, b, *ctx.rule = inputs
        ctx.save_for_backward(x, a, b, output[1], weight)
        ctx.save_for_forward(x, a, b, output[1], weight)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad, grad_hidden):
        (*saved, weight), needs = ctx.saved_tensors, ctx.needs_input_grad
        with without_autocast(grad, grad_hidden):
            found = adapter_gradients(grad, grad_hidden, saved, tuple(ctx.rule), (needs[0], needs[3], needs[4]))
            grad_x = _through(grad, found.hidden, weight, saved[1].to(saved[0].dtype)) if needs[0] else None
        return grad_x, None, None, found.a, found.b, None, None, None

    @staticmethod
    def vmap(info, in_dims, x, weight, bias, a, b, *rule):
        def separate(x, weight, bias, a, b):
            hidden = x @ a.to(x.dtype).mT
            return _product(x, weight, bias) + hidden @ b.to(x.dtype).mT, hidden

        # The products cannot be added in place where only A or B has the mapped axis.
        mapped = torch.vmap(separate, in_dims=in_dims[:5], randomness=info.randomness)
        return mapped(x, weight, bias, a, b), (0, 0)


class _DualAdaptedLinear(_AdaptedLinear):
    """`_AdaptedLinear` in forward mode too, where the derivative is the output's own."""

    @staticmethod
    def jvp(ctx, x, weight, bias, a, b, *rule):
        (*saved, frozen), (output, hidden) = ctx.saved_tensors, tangents_of(ctx.saved_tensors[:4], (x, a, b))
        if x is not None:
            output = output + x @ frozen.to(x.dtype).mT
        if weight is not None:
            output = output + saved[0] @ weight.mT
        return output if bias is None else output + bias, hidden
