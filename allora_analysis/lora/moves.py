"""AdamW's moves of matrices, made by torch's own kernels, times a factor: what `optim.ALLoRAAdamW` does to a pair.

Checked by `tests/test_lora_optim.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from allora_analysis.lora.pairs import stacked

_TINY = 1e-30  # a factor that moves nothing, but by which a decay can be divided
_VECTOR = 64  # bytes: torch's loops take a row at a time if its factor is one number, and rows below are no vector


class Hyper(NamedTuple):
    """What must be equal for parameters to be updated in one call."""

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    amsgrad: bool
    maximize: bool
    foreach: bool | None
    fused: bool | None


def but(hyper: Hyper, **other: Any) -> Hyper:
    """With other values; torch 2.7 does not compile `_replace`."""
    return Hyper(*[other.get(name, value) for name, value in zip(Hyper._fields, hyper, strict=True)])


class Tensors(NamedTuple):
    """What a kernel reads and writes: a list each, as torch's functions take them."""

    parameters: list[Tensor]
    gradients: list[Tensor]
    averages: list[Tensor]
    squares: list[Tensor]
    largest: list[Tensor]  # with amsgrad, else empty
    counts: list[Tensor]

    def without_gaps(self) -> bool:
        """Whether all are contiguous: the fused kernel walks through memory."""
        return all(all(map(Tensor.is_contiguous, of)) for of in self[:5])


def hyper_of(group: dict[str, Any]) -> Hyper:
    """A group's, whose betas a user may have set as a list."""
    return Hyper(
        group["lr"],
        tuple(group["betas"]),
        group["eps"],
        group["weight_decay"],
        group["amsgrad"],
        group["maximize"],
        group["foreach"],
        group["fused"],
    )


def _numbers(hyper: Hyper) -> dict[str, Any]:
    """As torch's functions name them."""
    own = dict(zip(Hyper._fields, hyper, strict=True))  # torch 2.7 does not compile `_asdict`
    own["beta1"], own["beta2"] = own.pop("betas")
    return {name: value for name, value in own.items() if name not in ("foreach", "fused")}


def adamw_on(targets: list[Tensor], own: Tensors, hyper: Hyper) -> None:
    """Torch's AdamW on `targets`, with the gradients and the state of `own`."""
    if hyper.fused and own.parameters[0].device.type == "cpu" and not own.without_gaps():
        hyper = but(hyper, fused=False)  # that kernel walks through memory and would take other entries' gradients
    _, *lists = own  # torch 2.7 compiles no slice of a named tuple
    adamw(targets, *lists, foreach=hyper.foreach, fused=hyper.fused, **_numbers(hyper))


def move_one_by_one(own: Tensors, k: int, factors: Tensor, hyper: Hyper) -> None:
    """`move_together` by torch's fused kernel on a CPU: of each matrix all that is touched stays in the cache.

    A factor for a whole matrix is one for its rate, and the kernel moves it in place.
    """
    *lists, counts = ([[one] for one in of] for of in own)
    lists[4] = lists[4] or [[]] * len(counts)
    torch._foreach_add_(own.counts, 1)
    numbers, rate, decay = _numbers(hyper), hyper.lr, hyper.weight_decay
    if k == 0 and factors.shape[1] == 1 and not isinstance(rate, Tensor):
        for *of, count, factor in zip(*lists, counts, factors.flatten().tolist(), strict=True):
            factor = max(factor, _TINY)
            numbers |= {"lr": factor * rate, "weight_decay": decay / factor}
            torch._fused_adamw_(*of, count, **numbers)
        return
    moved = torch.empty_like(first := own.parameters[0])
    spread = torch.empty_like(first) if first.ndim == 2 and first.shape[1] * first.element_size() < _VECTOR else None
    numbers["weight_decay"] = 0.0
    for (parameter,), *of, count, factor in zip(*lists, counts, factors.unbind(), strict=True):
        torch._fused_adamw_([moved.zero_()], *of, count, **numbers)
        if decay != 0:
            parameter.mul_(1 - rate * decay)
        if spread is None or len(factor) > 1:
            _add_scaled(parameter, k, moved, factor)
        else:
            parameter.addcmul_(moved, spread.copy_(factor[0]))


def move_together(own: Tensors, k: int, factors: Tensor, hyper: Hyper) -> None:
    """AdamW's step of the A (k = 0) or B (k = 1) of pairs of one shape, times their factors (pairs, experts, …)."""
    first, gaps = own.parameters[0], any(not parameter.is_contiguous() for parameter in own.parameters)
    if gaps or torch.compiler.is_compiling():  # torch's kernels want all laid out alike, compiled loops no views
        targets = [torch.zeros_like(parameter) for parameter in own.parameters]
    else:
        targets = list(torch.zeros(len(own.parameters), *first.shape, dtype=first.dtype, device=first.device).unbind())
    adamw_on(targets, own, but(hyper, weight_decay=0.0))
    if hyper.weight_decay != 0:
        torch._foreach_mul_(own.parameters, 1 - hyper.lr * hyper.weight_decay)
    for parameter, target, factor in zip(own.parameters, targets, factors.unbind(), strict=True):
        _add_scaled(parameter, k, target, factor)


def _add_scaled(parameter: Tensor, k: int, move: Tensor, factor: Tensor) -> None:
    """A ← A + mean(d)·move (k = 0) or B ← B + diag(d)·move (k = 1), of each expert with its d."""
    experts = len(factor)
    if experts == 1:
        parameter.addcmul_(move, factor.view(-1, *(1,) * (move.ndim - 1)))
        return
    stacked(parameter, k, experts).addcmul_(stacked(move, k, experts), factor)
