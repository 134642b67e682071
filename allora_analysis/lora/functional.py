"""§4: ALLoRA's forward and backward passes, and its family's, as functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor

VARIANTS = ("lora", "allora", "allora_od", "asf_lora")


def row_norms(a: Tensor, b: Tensor) -> Tensor:
    """‖(BA)_i‖ for each row i, in float32 or better, through the triangular factor of Aᵀ."""
    dtype = torch.promote_types(a.dtype, torch.float32)
    triangle = torch.linalg.qr(a.to(dtype).mT, mode="r").R
    return torch.linalg.vector_norm(b.to(dtype) @ triangle.mT, dim=-1)


def row_factor(a: Tensor, b: Tensor, eta: float, adaptor: str = "inverse_sqrt") -> Tensor:
    """d_i = 1/√(‖(BA)_i‖ + 1/η²)."""
    return (row_norms(a, b) + eta**-2).rsqrt()


class _ALLoRA(torch.autograd.Function):
    @staticmethod
    def forward(x, a, b, eta):
        return x @ a.mT @ b.mT

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, a, b, ctx.eta = inputs
        ctx.save_for_backward(x, a, b)

    @staticmethod
    def backward(ctx, grad):
        x, a, b = ctx.saved_tensors
        d = row_factor(a, b, ctx.eta).to(b.dtype)
        flat, inputs = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        grad_a = (flat @ (d[:, None] * b)).mT @ inputs
        grad_b = d[:, None] * (flat.mT @ (inputs @ a.mT))
        return grad @ b @ a, grad_a, grad_b, None


def allora(x: Tensor, a: Tensor, b: Tensor, eta: float, adaptor: str = "inverse_sqrt") -> Tensor:
    """x AᵀBᵀ, with the gradients of A and B scaled by d; ∂/∂x is not."""
    return _ALLoRA.apply(x, a, b, float(eta))


def allora_od(x: Tensor, a: Tensor, b: Tensor, eta: float, adaptor: str = "inverse_sqrt") -> Tensor:
    """x AᵀBᵀ, with the gradients of A and B scaled per token by 1/√(|f(x)_i| + 1/η²); ∂/∂x is not."""
    raise NotImplementedError


def asf_lora(x: Tensor, a: Tensor, b: Tensor, eta: float, adaptor: str = "inverse_sqrt") -> Tensor:
    """f̃_i = f_i/√(|f_i| + 1/η²), f = x AᵀBᵀ."""
    f = x @ a.mT @ b.mT
    return f * (f.abs() + eta**-2).rsqrt()
