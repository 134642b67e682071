"""§4: the backward passes: row norms without BA, the weight gradients of ALLoRA and ALLoRA-OD, what flows on to x.

Row norms: with Aᵀ = QR (Q orthonormal columns), ‖(BA)_i‖ = ‖B_iRᵀ‖: an r×r matrix does for an n₁×n₂ one, whatever the
rank of A. The Gram form √(B_i(AAᵀ)B_iᵀ) is the same number, but where BA nearly vanishes without B doing so it loses
half of its digits, and in float32 the square comes out negative. In float64 half of the digits are as many as float32
has: that form serves where QR is slow (one kernel launch a column on a GPU) and the parameters have at most float32.

Weight gradients: with g = ∂L/∂f (tokens × n₁), h = xAᵀ (tokens × r), LoRA's are (gB)ᵀx and gᵀh, and ∂L/∂h = gB. ALLoRA
scales row i of ∂L/∂(BA) by d_i: (gD_dB)ᵀx and D_d gᵀh, where gB and gD_dB are one product g[B, D_dB]. ALLoRA-OD scales
entry (token, i) of g itself. Summed over tokens by the products; nothing has a token axis and a weight's shape.

Two functions for autograd, unchecked cores of `functional.py`: the adapter alone, and a frozen linear with its adapter,
whose products are added in place to the frozen layer's output and to its ∂/∂x, so that nothing of size tokens × n₁ or
n₁×n₂ is written beside the two results, and autograd records one node for about eight. Two exceptions: per token, the
backward pass computes f and its factor again, tokens × n₁ in float32 or better; under autocast W is written in
autocast's dtype. What is left above the frozen layer is the arithmetic of the adapter, 7r/(2n) of the layer's own at
n₁ = n₂ = n. Everything is differentiable, for a second backward pass. Checked by `tests/test_lora_functional.py`,
`tests/test_lora_functional_norms.py` and `tests/test_lora_fused.py`; measured by `benchmarks/layer.py`.
"""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from allora_analysis.adaptors import ADAPTORS
from allora_analysis.lora.watch import FactorUndone

_WITHOUT_FLOAT64 = ("mps",)  # Apple's
_EPS = torch.finfo(torch.float64).eps
LARGEST_CONDITION = 8.0  # of A, up to which float32 is enough for AAᵀ: 5e-7 of ‖A‖‖B_i‖ at worst
SMALLEST_TRACE = 1e-25  # of AAᵀ: below, squares vanish in float32


def doubled(tensor: Tensor) -> Tensor:
    """In float64, on the CPU where the device has none."""
    return (tensor.cpu() if tensor.device.type in _WITHOUT_FLOAT64 else tensor).double()


def triangular_norms(a: Tensor, b: Tensor) -> Tensor:
    """‖B_i Rᵀ‖ with Aᵀ = QR: error a few units in the last place of ‖B_i‖‖A‖, in the dtype of `a` and `b`, whose range
    the squares must not leave (in float32 norms from about 1e-18 to 1e18).
    """
    triangle = torch.linalg.qr(a.mT, mode="r").R
    return torch.linalg.vector_norm(b @ triangle.mT, dim=-1)


def gram_norms(a: Tensor, b: Tensor) -> Tensor:
    """√(B_i(AAᵀ)B_iᵀ) in float64: error about 1e-8 ‖B_i‖‖A‖."""
    wide_a, wide_b = a.double(), b.double()
    squares = ((wide_b @ (wide_a @ wide_a.mT)) * wide_b).sum(-1)
    return squares.clamp_min(0).sqrt().to(a.dtype)


def norms_of_pairs(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """‖(BA)_i‖ of pairs of one shape, without a graph: (pairs, n₁), float32 or better."""
    dtype = torch.promote_types(pairs[0][0].dtype, torch.float32)
    if pairs[0][0].device.type != "cpu" or torch.compiler.is_compiling():
        a, b = (torch.stack(parts).to(dtype) for parts in zip(*pairs, strict=True))
        return torch.linalg.vector_norm(b @ _safe_roots(a), dim=-1)
    roots = _roots([a.to(dtype) for a, _ in pairs])
    squares = torch.empty(len(pairs), len(pairs[0][1]), dtype=dtype)
    product = torch.empty(squares.shape[1], roots.shape[2], dtype=dtype)
    ones = torch.ones(roots.shape[2], dtype=dtype)
    for (_, b), root, row in zip(pairs, roots.unbind(), squares.unbind(), strict=True):  # one by one, it stays in cache
        torch.mm(b.to(dtype), root, out=product)
        torch.mv(product.square_(), ones, out=row)
    return squares.sqrt_()


# R with RRᵀ = AAᵀ for a stack of A, so that ‖(BA)_i‖ = ‖B_iR‖ to a few units in the last place of ‖B_i‖‖A‖: the
# Cholesky factor of AAᵀ in float32 where that is as good, else of AAᵀ in float64, else QR's.


def _safe_roots(a: Tensor) -> Tensor:
    # AAᵀ in float64, its diagonal raised by what rounding may take.
    rank = a.shape[1]
    if a.dtype == torch.float64 or rank > a.shape[2]:
        return torch.linalg.qr(a.mT, mode="r").R.mT
    grams = (wide := doubled(a)) @ wide.mT
    diagonals = grams.diagonal(dim1=-2, dim2=-1)
    diagonals += 4 * rank * _EPS * diagonals.sum(-1, keepdim=True)
    return torch.linalg.cholesky_ex(grams).L.to(a)


def _roots(parts: Sequence[Tensor]) -> Tensor:
    # AAᵀ in float32 errs by a few u‖A‖², the norm by a few uκ‖A‖‖B_i‖, u = 6e-8; κ < 2(tr(G)/r)^(r/2)/√det(G), G = AAᵀ
    # (Guggenheimer, Edelman & Johnson 1995, of the Cholesky factor).
    rank, dtype = parts[0].shape[0], parts[0].dtype
    if dtype == torch.float64 or rank > parts[0].shape[1]:
        return _safe_roots(torch.stack(list(parts)))
    grams = torch.empty(len(parts), rank, rank, dtype=dtype)
    for a, gram in zip(parts, grams.unbind(), strict=True):
        torch.mm(a, a.mT, out=gram)
    lower, failed = torch.linalg.cholesky_ex(grams.double())
    diagonals, traces = lower.diagonal(dim1=-2, dim2=-1), grams.diagonal(dim1=-2, dim2=-1).sum(-1)
    condition = 2 * (diagonals / (traces[:, None] / rank).sqrt()).prod(-1).reciprocal()
    roots = lower.to(dtype)
    bad = ~((failed == 0) & (condition <= LARGEST_CONDITION) & (traces > SMALLEST_TRACE))
    if bad.any():
        at = bad.nonzero().flatten()
        roots[at] = _safe_roots(torch.stack([parts[k] for k in at.tolist()]))
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
        return (None if grad_a is None else grad_a.to(a.dtype), None if grad_b is None else grad_b.to(b.dtype))


def norms_of_rows(a: Tensor, b: Tensor) -> Tensor:
    """‖(BA)_i‖, differentiable where a graph is being built; unchecked."""
    return _RowNorms.apply(a, b) if torch.is_grad_enabled() else _norms(a, b)


def factor_of_rows(a: Tensor, b: Tensor, eta: float, adaptor: str) -> Tensor:
    """d_i = adaptor(‖(BA)_i‖); unchecked core of `functional.row_factor`."""
    return ADAPTORS[adaptor](norms_of_rows(a, b), eta)


class _Gradients(NamedTuple):
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
    """What a backward pass runs in: in the dtypes of its forward pass, also where it is called inside autocast."""
    kinds = [tensor.device.type for tensor in tensors if tensor is not None]  # torch 2.7 does not compile next()
    kind = kinds[0] if kinds else "meta"
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def _row_gradients(grad: Tensor, saved, eta: float, adaptor: str, needs: tuple[bool, ...]) -> _Gradients:
    """ALLoRA's: the factor of row i of ∂L/∂(BA) is d_i = adaptor(‖(BA)_i‖)."""
    x, a, b, hidden = saved
    if not (needs[1] or needs[2]):
        return _Gradients(grad @ b.to(grad.dtype), None, None)
    factor = factor_of_rows(a, b, eta, adaptor)[:, None]
    both = grad @ torch.cat([b.to(grad.dtype), (factor * b).to(grad.dtype)], 1)
    through, scaled = both.split([a.shape[0]] * 2, 1)  # a list: of rank 0, too
    return _Gradients(
        through if needs[0] else None,
        (scaled.mT @ x).to(a.dtype) if needs[1] else None,
        (factor * (grad.mT @ hidden)).to(b.dtype) if needs[2] else None,
    )


def _token_gradients(grad: Tensor, saved, eta: float, adaptor: str, needs: tuple[bool, ...]) -> _Gradients:
    """ALLoRA-OD's: the factor of entry (token, i) of g is adaptor(|f_i|); f is computed again, not kept."""
    x, a, b, hidden = saved
    weights = b.to(grad.dtype)
    output = (hidden @ weights.mT).to(torch.promote_types(grad.dtype, torch.float32))
    scaled = (grad * ADAPTORS[adaptor](output, eta)).to(grad.dtype)
    return _Gradients(
        grad @ weights if needs[0] else None,
        ((scaled @ weights).mT @ x).to(a.dtype) if needs[1] else None,
        (scaled.mT @ hidden).to(b.dtype) if needs[2] else None,
    )


def _adapter_gradients(grad: Tensor | None, grad_hidden: Tensor | None, saved, rule: tuple, needs) -> _Gradients:
    """The gradients of the two outputs f and h; h's is None but in a second backward pass, and LoRA's own."""
    eta, adaptor, per_token = rule
    found = _Gradients(None, None, None)
    if grad is not None:
        found = (_token_gradients if per_token else _row_gradients)(grad, saved, eta, adaptor, needs)
    if grad_hidden is None:
        return found
    own = _Gradients(grad_hidden, (grad_hidden.mT @ saved[0]).to(saved[1].dtype), None)
    return _Gradients(
        *(_sum(*pair) if need else None for pair, need in zip(zip(found, own, strict=True), needs, strict=True))
    )


def _tangents_of(saved, tangents: tuple[Tensor | None, ...]) -> tuple[Tensor, Tensor]:
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


def _warn_of_tracing(*tensors: Tensor | None) -> None:
    """A graph of the forward pass alone has its operations' backward passes; which one is traced is not known here."""
    traced = torch.compiler.is_exporting() if torch.compiler.is_compiling() else get_proxy_mode() is not None
    if not traced or torch._C._are_functorch_transforms_active():  # torch.func.grad is traced with its backward pass
        return
    if torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in tensors):
        warnings.warn(
            "a graph of torch.export or make_fx that holds the forward pass alone has no rule of ALLoRA's, one that "
            "has its own backward pass keeps it: train the layers themselves, or by torch.compile, and export under "
            "torch.no_grad()",
            FactorUndone,
            stacklevel=2,
        )


def _recorded(
    plain: type[torch.autograd.Function], dual: type, tensors: tuple[Tensor | None, ...], *rule: Any
) -> tuple[Tensor, Tensor]:
    """`dual.apply`. Dynamo records no function with a `jvp`, and none at all where no gradient is needed."""
    _warn_of_tracing(*tensors)
    if not torch.compiler.is_compiling():
        return dual.apply(*tensors, *rule)
    if torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in tensors):
        return plain.apply(*tensors, *rule)
    return plain.forward(*tensors)


def adapter(x: Tensor, a: Tensor, b: Tensor, eta: float, adaptor: str, per_token: bool) -> Tensor:
    """xAᵀBᵀ of a matrix x, with ALLoRA's gradients or ALLoRA-OD's."""
    return _recorded(_Adapter, _DualAdapter, (x, a, b), eta, adaptor, per_token)[0]


def adapted_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, eta: float, adaptor: str, per_token: bool
) -> Tensor:
    """xWᵀ + bias + `adapter(x, …)`, W and the bias frozen."""
    return _recorded(_AdaptedLinear, _DualAdaptedLinear, (x, weight, bias, a, b), eta, adaptor, per_token)[0]


class _Adapter(torch.autograd.Function):
    """x ↦ (xAᵀBᵀ, xAᵀ) of a matrix x, with the family's gradients.

    xAᵀ is an output so that it can be saved and still be differentiated through in a second backward pass.
    """

    generate_vmap_rule = True
    scales_gradients = True  # so that its backward pass has no Hessian

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
            found = _adapter_gradients(grad, grad_hidden, saved, tuple(ctx.rule), needs[:3])
            grad_x = None if found.hidden is None else found.hidden @ saved[1].to(found.hidden.dtype)
        return grad_x, found.a, found.b, None, None, None


class _DualAdapter(_Adapter):
    """`_Adapter` in forward mode too, where the derivative is the output's own."""

    @staticmethod
    def jvp(ctx, *tangents):
        return _tangents_of(ctx.saved_tensors, tangents[:3])


def split_gradient(through: Tensor, own: Tensor, factor: Tensor) -> Tensor:
    """`through`, which equals `own`; what comes back goes to the first as it is, to the second times `factor`."""
    _warn_of_tracing(own)
    return _Split.apply(through, own, factor)


class _Split(torch.autograd.Function):
    """See `split_gradient`."""

    generate_vmap_rule = True
    scales_gradients = True  # so that its backward pass has no Hessian

    @staticmethod
    def forward(through: Tensor, own: Tensor, factor: Tensor) -> Tensor:
        return through.view_as(through)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx, grad):
        needs = ctx.needs_input_grad
        scaled = (grad * ctx.saved_tensors[0]).to(grad.dtype) if needs[1] else None
        return grad if needs[0] else None, scaled, None


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
    """x ↦ (xWᵀ + bias + xAᵀBᵀ, xAᵀ) of a matrix x; the second output as in `_Adapter`."""

    scales_gradients = True  # so that its backward pass has no Hessian

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
            found = _adapter_gradients(grad, grad_hidden, saved, tuple(ctx.rule), (needs[0], needs[3], needs[4]))
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
        (*saved, frozen), (output, hidden) = ctx.saved_tensors, _tangents_of(ctx.saved_tensors[:4], (x, a, b))
        if x is not None:
            output = output + x @ frozen.to(x.dtype).mT
        if weight is not None:
            output = output + saved[0] @ weight.mT
        return output if bias is None else output + bias, hidden
