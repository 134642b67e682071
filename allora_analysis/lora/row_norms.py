"""§4.1: the row norms ‖(BA)_i‖ that ALLoRA's factor is made of, without forming BA, and the factor itself.

With Aᵀ = QR (Q orthonormal columns), ‖(BA)_i‖ = ‖B_i Rᵀ‖: an r×r matrix does for an n₁×n₂ one, whatever the rank of A.
The Gram form √(B_i(AAᵀ)B_iᵀ) is the same number, but where BA nearly vanishes without B doing so it loses half of its
digits, and in float32 the square comes out negative. In float64 half of the digits are as many as float32 has: that
form serves where QR is slow (one kernel launch a column on a GPU) and the parameters have at most float32.
Checked by `tests/test_lora_functional_norms.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from allora_analysis.adaptors import ADAPTORS

EPS = torch.finfo(torch.float64).eps
LARGEST_CONDITION = 4.0  # of A, up to which float32 is enough for AAᵀ
SMALLEST_TRACE = 1e-25  # of AAᵀ: below, squares vanish in float32


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


def norms_of_pairs(pairs: Sequence[tuple[Tensor, Tensor]], many: int) -> Tensor:
    """‖(BA)_i‖ of pairs of one shape, `many` at a time, without a graph: (pairs, n₁), float32 or better."""
    dtype = torch.promote_types(pairs[0][0].dtype, torch.float32)
    roots = _roots(torch.stack([a for a, _ in pairs]).to(dtype))
    starts = range(0, len(pairs), many)
    stacks = (torch.stack([b for _, b in pairs[start : start + many]]).to(dtype) for start in starts)
    products = (b @ roots[start : start + many] for start, b in zip(starts, stacks, strict=True))
    return torch.cat([torch.linalg.vector_norm(product, dim=-1) for product in products])


def _roots(a: Tensor) -> Tensor:
    """R with RRᵀ = AAᵀ for a stack of A, so that ‖(BA)_i‖ = ‖B_iR‖ to a few units in the last place of ‖B_i‖‖A‖."""
    # The Cholesky factor where that is as good as QR's: AAᵀ in float32 errs by a few u‖A‖², the norm by a few
    # uκ‖A‖‖B_i‖, u = 6e-8; and κ(A)² ≤ tr(G)tr(G⁻¹) − r² + 2. On a GPU and in a compiled step, where asking costs more
    # than computing, AAᵀ is in float64 and its diagonal raised by what rounding may take.
    rank, triangles = a.shape[1], lambda stack: torch.linalg.qr(stack.mT, mode="r").R.mT
    if a.dtype == torch.float64 or rank > a.shape[2]:
        return triangles(a)
    if a.is_cuda or torch.compiler.is_compiling():
        grams = (wide := a.double()) @ wide.mT
        diagonals = grams.diagonal(dim1=-2, dim2=-1)
        diagonals += 4 * rank * EPS * diagonals.sum(-1, keepdim=True)
        return torch.linalg.cholesky_ex(grams).L.to(a.dtype)
    grams = (a @ a.mT).double()
    lower, failed = torch.linalg.cholesky_ex(grams)
    eye = torch.eye(rank, dtype=torch.float64, device=a.device)
    of_inverses = torch.linalg.solve_triangular(lower, eye, upper=False).square().sum((-2, -1))
    traces = grams.diagonal(dim1=-2, dim2=-1).sum(-1)
    good = (failed == 0) & (traces * of_inverses - rank**2 + 2 <= LARGEST_CONDITION**2) & (traces > SMALLEST_TRACE)
    roots, bad = lower.to(a.dtype), (~good).nonzero().flatten()
    if len(bad):
        roots[bad] = triangles(a[bad])
    return roots


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
