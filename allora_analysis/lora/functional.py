"""§4: ALLoRA's forward and backward passes, and its family's, as functions of tensors.

| function | output | gradient of A and B | ∂/∂x |
| --- | --- | --- | --- |
| `allora` | f = xAᵀBᵀ | LoRA's with row i of ∂L/∂(BA) times d_i = adaptor(‖(BA)_i‖) | LoRA's |
| `allora_od` | f | LoRA's with entry (token, i) of ∂L/∂f times adaptor(abs f_i) | LoRA's |
| `asf_lora` | f_i · adaptor(abs f_i) | the output's own | the output's own |

The first two are no gradients of anything. A second backward pass through them gives no Hessian, nor the Jacobian of
the update field: the curvature of a loss of the output comes back through the scaled rule, with d_i² where the Jacobian
has d_i (`adaptive.layer_double_backward`). d is computed in the backward pass, from A and B as they are stored (before
autocast), in float32 or better. Nothing of size n₁×n₂, and no weight gradient per token, is ever formed.

All take x with any leading dimensions, on any device, under autocast as `nn.Linear` does, and compose with
`torch.compile`, `torch.func` (reverse mode and vmap), activation checkpointing and DDP. Checked by
`tests/test_lora_functional.py` against a hand-written twin of the paper's Listing 1.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from allora_analysis.adaptors import ADAPTORS
from allora_analysis.lora.gradients import adapter_gradients, tangents_of, without_autocast
from allora_analysis.lora.row_norms import factor_of_rows, norms_of_rows
from allora_analysis.validation import ArgumentError, choice, positive


def row_norms(a: Float[Tensor, "r n2"], b: Float[Tensor, "n1 _"]) -> Float[Tensor, " n1"]:
    """‖(BA)_i‖ for each row i, without forming BA; differentiable, with the subgradient 0 where a row vanishes.

    Args:
        a: A.
        b: B.

    Returns:
        Norms, float32 or better.
    """
    _check_pair(a, b)
    return norms_of_rows(a, b)


def row_factor(
    a: Float[Tensor, "r n2"], b: Float[Tensor, "n1 _"], eta: float, adaptor: str = "inverse_sqrt"
) -> Float[Tensor, " n1"]:
    """d_i = adaptor(‖(BA)_i‖), the paper's 1/√(‖(BA)_i‖ + 1/η²) by default (§4.1).

    Args:
        a: A.
        b: B.
        eta: the factor of a row of zeros.
        adaptor: a key of `allora_analysis.adaptors.ADAPTORS`.

    Returns:
        Factors, float32 or better.
    """
    _check_pair(a, b)
    return factor_of_rows(a, b, *check_rule(eta, adaptor))


def allora(
    x: Float[Tensor, "*batch n2"],
    a: Float[Tensor, "r _"],
    b: Float[Tensor, "n1 _"],
    eta: float,
    adaptor: str = "inverse_sqrt",
) -> Float[Tensor, "*batch n1"]:
    """xAᵀBᵀ, with ∂L/∂A = BᵀD_dG and ∂L/∂B = D_dGAᵀ, G = ∂L/∂(BA), d = `row_factor` (§4.1; Listing 1); ∂/∂x is LoRA's.

    Args:
        x: inputs.
        a: A.
        b: B.
        eta: the factor of a row of zeros, the paper's η.
        adaptor: a key of `allora_analysis.adaptors.ADAPTORS`.

    Returns:
        Outputs, in x's dtype or autocast's.
    """
    return _adapt(x, a, b, eta, adaptor, per_token=False)


def allora_od(
    x: Float[Tensor, "*batch n2"],
    a: Float[Tensor, "r _"],
    b: Float[Tensor, "n1 _"],
    eta: float,
    adaptor: str = "inverse_sqrt",
) -> Float[Tensor, "*batch n1"]:
    """ALLoRA-OD (§4.3): as `allora`, the factor from each token's own output, adaptor(|f(x)_i|), on ∂L/∂f.

    Args:
        x: inputs.
        a: A.
        b: B.
        eta: the factor of an output of 0.
        adaptor: a key of `allora_analysis.adaptors.ADAPTORS`.

    Returns:
        Outputs, as of `allora`.
    """
    return _adapt(x, a, b, eta, adaptor, per_token=True)


def asf_lora(
    x: Float[Tensor, "*batch n2"],
    a: Float[Tensor, "r _"],
    b: Float[Tensor, "n1 _"],
    eta: float,
    adaptor: str = "inverse_sqrt",
) -> Float[Tensor, "*batch n1"]:
    """ASF-LoRA (§4.3): f̃_i = f_i · adaptor(|f_i|), f = xAᵀBᵀ; every gradient is f̃'s own.

    Not linear in x, so no matrix is merged from it. |f̃_i| ≤ min(η|f_i|, √|f_i|) for the inverse square root.

    Args:
        x: inputs.
        a: A.
        b: B.
        eta: the slope at an output of 0.
        adaptor: a key of `allora_analysis.adaptors.ADAPTORS`.

    Returns:
        Outputs, as of `allora`.
    """
    dtype, eta, adaptor = check(x, a, b, eta, adaptor)
    return scaled_output(x.to(dtype) @ a.to(dtype).mT @ b.to(dtype).mT, eta, adaptor)


def scaled_output(f: Tensor, eta: float, adaptor: str) -> Tensor:
    """ASF-LoRA's f̃ = f · adaptor(|f|) of an output f, formed in float32 or better; unchecked core of `asf_lora`.

    Returns:
        f̃, in f's dtype.
    """
    wide = f.to(torch.promote_types(f.dtype, torch.float32))
    return (wide * ADAPTORS[adaptor](wide, eta)).to(f.dtype)


def check(x: Tensor, a: Tensor, b: Tensor, eta: float, adaptor: str) -> tuple[torch.dtype, float, str]:
    """What a call needs: matching shapes, devices and dtypes, a rule; cheap, and no value of a tensor is read.

    Args:
        x: inputs.
        a: A.
        b: B.
        eta: the factor at 0.
        adaptor: a name.

    Returns:
        The dtype to compute in (x's, or autocast's), η, the adaptor.

    Raises:
        ArgumentError: what does not match, or what `check_rule` refuses.
    """
    _check_pair(a, b)
    if x.ndim == 0 or x.shape[-1] != a.shape[1]:
        raise ArgumentError(
            f"x: shape {tuple(x.shape)} received, n2 = {a.shape[1]} wanted on the last axis, to match a"
        )
    if x.device != a.device:
        raise ArgumentError(f"x: it must be on the device of a and b ({a.device}), received {x.device}")
    if autocasts(x):
        return torch.get_autocast_dtype(x.device.type), *check_rule(eta, adaptor)
    if x.dtype != a.dtype:
        raise ArgumentError(f"x: {x.dtype} received with a and b of {a.dtype}; cast x, or use torch.autocast")
    return x.dtype, *check_rule(eta, adaptor)


def autocasts(x: Tensor) -> bool:
    """Whether a product with x is autocast's; float64 is left as it is, by `nn.Linear` too.

    Args:
        x: inputs.

    Returns:
        False outside autocast.
    """
    return x.device.type != "meta" and x.dtype != torch.float64 and torch.is_autocast_enabled(x.device.type)


def check_rule(eta: float, adaptor: str) -> tuple[float, str]:
    """A finite η above 0 and the name of an adaptor.

    Args:
        eta: η.
        adaptor: the name.

    Returns:
        Both.
    """
    if adaptor not in ADAPTORS:
        choice("adaptor", adaptor, ADAPTORS)
    if type(eta) is not float or not 0 < eta < math.inf:
        eta = positive("eta", eta)
    return eta, adaptor


def _check_pair(a: Tensor, b: Tensor) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)} received"
        raise ArgumentError(f"a, b: shapes {shapes}; A is r × n2 and B is n1 × r, of the same rank r")
    if a.device != b.device:
        raise ArgumentError(f"a, b: they must be on the same device, received {a.device} and {b.device}")
    if a.dtype != b.dtype or not a.dtype.is_floating_point:
        raise ArgumentError(f"a, b: they must have the same floating dtype, received {a.dtype} and {b.dtype}")


def _adapt(x: Tensor, a: Tensor, b: Tensor, eta: float, adaptor: str, per_token: bool) -> Tensor:
    dtype, eta, adaptor = check(x, a, b, eta, adaptor)
    flat = x.to(dtype).reshape(-1, x.shape[-1])
    output, _ = recorded(_Adapter, _DualAdapter, (flat, a, b), eta, adaptor, per_token)
    return output.reshape(*x.shape[:-1], b.shape[0])


def recorded(
    plain: type[torch.autograd.Function], dual: type, tensors: tuple[Tensor | None, ...], *rule: Any
) -> tuple[Tensor, Tensor]:
    """`dual.apply`. Dynamo records no function with a `jvp`, and none at all where no gradient is needed."""
    if not torch.compiler.is_compiling():
        return dual.apply(*tensors, *rule)
    if torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in tensors):
        return plain.apply(*tensors, *rule)
    return plain.forward(*tensors)


class _Adapter(torch.autograd.Function):
    """x ↦ (xAᵀBᵀ, xAᵀ) of a matrix x, with the family's gradients.

    xAᵀ is an output so that it can be saved and still be differentiated through in a second backward pass.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs):  # unnamed: `apply` binds names anew on each call, at a cost
        x, a, b = inputs[:3]
        hidden = x @ a.to(x.dtype).mT
        return hidden @ b.to(x.dtype).mT, hidden

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, a, b, *ctx.rule = inputs
        ctx.save_for_backward(x, a, b, output[1])
        ctx.save_for_forward(x, a, b, output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad, grad_hidden):
        saved, needs = ctx.saved_tensors, ctx.needs_input_grad
        with without_autocast(grad, grad_hidden):
            found = adapter_gradients(grad, grad_hidden, saved, tuple(ctx.rule), needs[:3])
            grad_x = None if found.hidden is None else found.hidden @ saved[1].to(found.hidden.dtype)
        return grad_x, found.a, found.b, None, None, None


class _DualAdapter(_Adapter):
    """`_Adapter` in forward mode too, where the derivative is the output's own."""

    @staticmethod
    def jvp(ctx, *tangents):
        return tangents_of(ctx.saved_tensors, tangents[:3])
