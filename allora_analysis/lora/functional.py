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
`torch.compile`, `torch.func` (reverse and forward mode, vmap), activation checkpointing and DDP. `allora_linear` is a
frozen linear layer and its adapter in one, for speed. The arguments are checked here; the passes are in `autograd.py`.
Checked by `tests/test_lora_functional.py` against a hand-written twin of the paper's Listing 1, and by
`tests/test_lora_functional_transforms.py`.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from allora_analysis.adaptors import ADAPTORS
from allora_analysis.lora import autograd
from allora_analysis.validation import ArgumentError, choice, positive

__all__ = ["allora", "allora_linear", "allora_od", "asf_lora", "row_factor", "row_norms"]

# Shapes by the paper's letters: inputs, A and B (r and n₁ from each other, n₂ from x), outputs.
X, A, B, F = Float[Tensor, "*batch n2"], Float[Tensor, "r _"], Float[Tensor, "n1 _"], Float[Tensor, "*batch n1"]
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def row_norms(a: Float[Tensor, "r n2"], b: B) -> Float[Tensor, " n1"]:
    """‖(BA)_i‖ for each row i, without forming BA; differentiable, with the subgradient 0 where a row vanishes.

    Args:
        a: A.
        b: B.

    Returns:
        Norms, float32 or better. On a CPU float32 squares them and holds norms from about 1e-19 to 1e19: below, digits
        are lost (all of them from 1e-23), above, the norm is infinite. On a GPU, and in float64, the range is wider.
    """
    _check_pair(a, b)
    return autograd.norms_of_rows(a, b)


def row_factor(a: Float[Tensor, "r n2"], b: B, eta: float, adaptor: str = "inverse_sqrt") -> Float[Tensor, " n1"]:
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
    return autograd.factor_of_rows(a, b, *check_rule(eta, adaptor))


def allora(x: X, a: A, b: B, eta: float, adaptor: str = "inverse_sqrt") -> F:
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


def allora_od(x: X, a: A, b: B, eta: float, adaptor: str = "inverse_sqrt") -> F:
    """ALLoRA-OD (§4.3): as `allora`, the factor from each token's own output, adaptor(|f(x)_i|), on ∂L/∂f.

    Arguments as in `allora`; `eta` is the factor of an output of 0.

    Returns:
        Outputs, as of `allora`.
    """
    return _adapt(x, a, b, eta, adaptor, per_token=True)


def asf_lora(x: X, a: A, b: B, eta: float, adaptor: str = "inverse_sqrt") -> F:
    """ASF-LoRA (§4.3): f̃_i = f_i · adaptor(|f_i|), f = xAᵀBᵀ; every gradient is f̃'s own.

    Not linear in x, so no matrix is merged from it. |f̃_i| ≤ min(η|f_i|, √|f_i|) for the inverse square root.

    Arguments as in `allora`; `eta` is the slope at an output of 0.

    Returns:
        Outputs, as of `allora`.
    """
    dtype, eta, adaptor = _check(x, a, b, eta, adaptor)
    return scaled_output(x.to(dtype) @ a.to(dtype).mT @ b.to(dtype).mT, eta, adaptor)


def scaled_output(f: Tensor, eta: float, adaptor: str) -> Tensor:
    """ASF-LoRA's f̃ = f · adaptor(|f|) of an output f, formed in float32 or better; unchecked core of `asf_lora`."""
    wide = f.to(torch.promote_types(f.dtype, torch.float32))
    return (wide * ADAPTORS[adaptor](wide, eta)).to(f.dtype)


def _check(x: Tensor, a: Tensor, b: Tensor, eta: float, adaptor: str) -> tuple[torch.dtype, float, str]:
    """What a call needs: matching shapes, devices and dtypes, a rule; cheap, and no value of a tensor is read."""
    _check_pair(a, b)
    _check_tensors(x=x)
    if x.ndim == 0 or x.shape[-1] != a.shape[1]:
        raise ArgumentError(
            f"x: shape {tuple(x.shape)} received, n2 = {a.shape[1]} wanted on the last axis, to match a"
        )
    if x.device != a.device:
        raise ArgumentError(f"x: it must be on the device of a and b ({a.device}), received {x.device}")
    if _autocasts(x):
        return torch.get_autocast_dtype(x.device.type), *check_rule(eta, adaptor)
    if x.dtype != a.dtype:
        raise ArgumentError(f"x: {x.dtype} received with a and b of {a.dtype}; cast x, or use torch.autocast")
    return x.dtype, *check_rule(eta, adaptor)


def _autocasts(x: Tensor) -> bool:
    """Whether a product with x is autocast's; float64 is left as it is, by `nn.Linear` too."""
    return x.device.type != "meta" and x.dtype != torch.float64 and torch.is_autocast_enabled(x.device.type)


_LEAST, _MOST = 1e-18, 1e18  # η² and 1/η² are numbers of float32; beyond, every gradient is 0 or infinite


def check_eta(eta: float) -> float:
    """η above 0, neither so small nor so large that 1/η² is no number where models are trained."""
    eta = positive("eta", eta)
    if not _LEAST <= eta <= _MOST:
        raise ArgumentError(f"eta must be in [{_LEAST:g}, {_MOST:g}], received {eta!r}: 1/eta² leaves float32's range")
    return eta


def check_rule(eta: float, adaptor: str) -> tuple[float, str]:
    """An η that `check_eta` takes and the name of an adaptor."""
    if adaptor not in ADAPTORS:
        choice("adaptor", adaptor, ADAPTORS)
    if type(eta) is not float or not _LEAST <= eta <= _MOST:
        eta = check_eta(eta)
    return eta, adaptor


def _check_pair(a: Tensor, b: Tensor) -> None:
    _check_tensors(a=a, b=b)
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)} received"
        raise ArgumentError(f"a, b: shapes {shapes}; A is r × n2 and B is n1 × r, of the same rank r")
    if a.device != b.device:
        raise ArgumentError(f"a, b: they must be on the same device, received {a.device} and {b.device}")
    if a.dtype != b.dtype or not a.dtype.is_floating_point:
        raise ArgumentError(f"a, b: they must have the same floating dtype, received {a.dtype} and {b.dtype}")


def _check_tensors(**parts: Any) -> None:
    for name, part in parts.items():
        if not isinstance(part, Tensor):
            raise ArgumentError(f"{name}: a torch.Tensor wanted, received {type(part).__name__}; use torch.as_tensor")


def _adapt(x: Tensor, a: Tensor, b: Tensor, eta: float, adaptor: str, per_token: bool) -> Tensor:
    dtype, eta, adaptor = _check(x, a, b, eta, adaptor)
    flat = _tokens(x.to(dtype))
    output = autograd.adapter(flat, a, b, eta, adaptor, per_token)
    return output.reshape(*x.shape[:-1], b.shape[0])


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(0, -2) if x.ndim > 1 else x[None]  # of n2 = 0, too


def allora_linear(
    x: X,
    weight: Float[Tensor, "n1 _"],
    bias: Float[Tensor, " _"] | None,
    a: A,
    b: Float[Tensor, "_ _"],
    eta: float,
    adaptor: str = "inverse_sqrt",
    per_token: bool = False,
) -> F:
    """xWᵀ + bias + `allora(x, a, b, eta, adaptor)` in one function; W and the bias get no gradient.

    Args:
        x: inputs.
        weight: W, frozen, of x's dtype; under autocast of any of `_FLOATS`.
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
    dtype, eta, adaptor = _check(x, a, b, eta, adaptor)
    _check_layer(weight, bias, a, b, _FLOATS if _autocasts(x) else (dtype,))
    flat = _tokens(x.to(dtype))
    output = autograd.adapted_linear(flat, weight, bias, a, b, eta, adaptor, per_token)
    return output.reshape(*x.shape[:-1], b.shape[0])


def fusible(base: nn.Module) -> bool:
    """Whether calling a layer is xWᵀ + bias and nothing else, W and the bias frozen: `allora_linear` may do it then."""
    if type(base) is not nn.Linear or "forward" in base.__dict__ or any(getattr(base, name) for name in HOOKS):
        return False
    return all(
        type(part) in (Tensor, nn.Parameter) and not part.requires_grad
        for part in (base.weight, base.bias)
        if part is not None
    )


def _check_layer(weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    _check_tensors(weight=weight, **({} if bias is None else {"bias": bias}))
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
