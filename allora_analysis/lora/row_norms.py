"""§4.1: the row norms ‖(BA)_i‖ that ALLoRA's factor is made of, without forming BA, and the factor itself.

With Aᵀ = QR (Q orthonormal columns), ‖(BA)_i‖ = ‖B_i Rᵀ‖: an r×r matrix does for an n₁×n₂ one, whatever the rank of A.
The Gram form √(B_i(AAᵀ)B_iᵀ) is the same number, but where BA nearly vanishes without B doing so it loses half of its
digits, and in float32 the square comes out negative. In float64 half of the digits are as many as float32 has: that
form serves where QR is slow (one kernel launch a column on a GPU) and the parameters have at most float32.
Checked by `tests/test_lora_functional_norms.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from allora_analysis.adaptors import ADAPTORS


def triangular_norms(a: Tensor, b: Tensor) -> Tensor:
    """‖B_i Rᵀ‖ with Aᵀ = QR: error a few units in the last place of ‖B_i‖‖A‖, in the dtype of `a` and `b`.

    Args:
        a: A, (r, n₂).
        b: B, (n₁, r).

    Returns:
        Norms, (n₁,).
    """
    triangle = torch.linalg.qr(a.mT, mode="r").R
    return torch.linalg.vector_norm(b @ triangle.mT, dim=-1)


def gram_norms(a: Tensor, b: Tensor) -> Tensor:
    """√(B_i(AAᵀ)B_iᵀ) in float64: error about 1e-8 ‖B_i‖‖A‖; arguments as in `triangular_norms`.

    Returns:
        Norms, (n₁,), in the dtype of `a`.
    """
    wide_a, wide_b = a.double(), b.double()
    squares = ((wide_b @ (wide_a @ wide_a.mT)) * wide_b).sum(-1)
    return squares.clamp_min(0).sqrt().to(a.dtype)


def _norms(a: Tensor, b: Tensor) -> Tensor:
    # In float32 or better, whatever autocast says.
    dtype, kind = torch.promote_types(a.dtype, torch.float32), a.device.type
    method = gram_norms if kind == "cuda" and dtype == torch.float32 else triangular_norms
    if kind != "meta" and torch.is_autocast_enabled(kind):
        with torch.autocast(kind, enabled=False):
            return method(a.to(dtype), b.to(dtype))
    return method(a.to(dtype), b.to(dtype))


class _RowNorms(torch.autograd.Function):
    """The norms n with their derivative: n_i dn_i = (BA)_i · d(BA)_i, and the subgradient 0 where n_i = 0.

    Written out, because QR's own derivative needs R⁻¹: A may be rank-deficient, or 0.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return _norms(a, b)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx, grad: Tensor):
        a, b, norms = ctx.saved_tensors
        zero = norms == 0
        weights = torch.where(zero, 0, grad / torch.where(zero, 1, norms))
        wide_a, wide_b = a.to(norms.dtype), b.to(norms.dtype)
        weighted = weights[:, None] * wide_b
        grad_a = (wide_b.mT @ weighted) @ wide_a if ctx.needs_input_grad[0] else None
        grad_b = weighted @ (wide_a @ wide_a.mT) if ctx.needs_input_grad[1] else None
        return (
            None if grad_a is None else grad_a.to(a.dtype),
            None if grad_b is None else grad_b.to(b.dtype),
        )


def norms_of_rows(a: Tensor, b: Tensor) -> Tensor:
    """‖(BA)_i‖, differentiable where a graph is being built; unchecked core of `functional.row_norms`.

    Args:
        a: A, (r, n₂).
        b: B, (n₁, r).

    Returns:
        Norms, (n₁,), float32 or better.
    """
    return _RowNorms.apply(a, b) if torch.is_grad_enabled() else _norms(a, b)


def factor_of_rows(a: Tensor, b: Tensor, eta: float, adaptor: str) -> Tensor:
    """d_i = adaptor(‖(BA)_i‖); unchecked core of `functional.row_factor`.

    Args:
        a: A, (r, n₂).
        b: B, (n₁, r).
        eta: the factor at 0.
        adaptor: a key of `ADAPTORS`.

    Returns:
        Factors, (n₁,), float32 or better.
    """
    return ADAPTORS[adaptor](norms_of_rows(a, b), eta)
