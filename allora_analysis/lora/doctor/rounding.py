"""What rounding takes where A and B are held in bfloat16 or float16: an optimizer rounds each entry after each step.

An update of p below |p|·ε/4 leaves p where it is, one above |p|·ε/2 never does (ε the format's: in bfloat16 1/512 and
1/256 of an entry). B starts at 0 and takes any update; A, and B as it grows, stand still where updates are small, as at
the end of a schedule. Checked by `tests/test_lora_doctor_rounding.py`, by really stepping.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from allora_analysis.lora.doctor.advice import Advice, which
from allora_analysis.lora.doctor.effect import Effect
from allora_analysis.lora.doctor.measured import Clipping, LayerReport
from allora_analysis.lora.doctor.trial import fresh_optimizer
from allora_analysis.lora.pairs import Pair

_FORMATS = (torch.bfloat16, torch.float16)
_SERIOUS = 0.01  # of a matrix's entries
_PART, _STEPS = 1 / 64, 128  # of ε, a step of the trial, and how many: 2ε in all, which nothing rounds away


def rounded_away(
    optimizer: Any,
    homes: dict[int, dict[str, Any]],
    pairs: Sequence[Pair],
    layers: Sequence[LayerReport],
    clipping: Clipping | None,
) -> Iterator[Advice]:
    """A problem where entries of A or B in few bits would stand still at the next step, else a note that they can."""
    whole = [
        (pair, row)
        for pair, row in zip(pairs, layers, strict=True)
        if not (row.effect.idle or row.effect == Effect.NOT_HELD or pair.flattened or pair.a.is_meta)
    ]
    for dtype in _FORMATS:
        held = [(pair, row) for pair, row in whole if pair.a.dtype == dtype]
        group = next((homes[key] for pair, _ in held for key in (id(pair.b), id(pair.a)) if key in homes), None)
        if not held or (group is not None and _adds_up(optimizer, group, dtype)):
            continue
        left = 1.0 if clipping is None else 1 - clipping.removed
        found = {name: _standing([_update(*each, k, left) for each in held]) for k, name in enumerate("AB")}
        told = " and ".join(f"{share:.0%} of {name}'s entries" for name, share in found.items() if share)
        now = f"; of the next step's updates about {told} would be, at this rate" if told else ""
        yield Advice(
            "problem" if any(share > _SERIOUS for share in found.values()) else "note",
            "rounding",
            f"A and B of {which([pair.label for pair, _ in held])} are {str(dtype).removeprefix('torch.')}: updates "
            f"below 1/{4 / torch.finfo(dtype).eps:.0f} of an entry are rounded away{now}; keep A and B in float32, as "
            "get_peft_model does (autocast_adapter_dtype): cast the base before it, not the model after it",
        )


def _update(pair: Pair, row: LayerReport, k: int, left: float) -> tuple[Tensor, Tensor] | None:
    """A (k = 0) or B, and about by how much the next step moves it; None where that is not known."""
    part, rate = (pair.a, pair.b)[k], row.rates[k]
    gradient = part.grad
    kind = getattr(row.optimizer, "first_step", None)
    if rate is None or kind is None or (kind == "sgd" and gradient is None):
        return None
    part, gradient = (one.to_local() if hasattr(one, "to_local") else one for one in (part, gradient))
    if kind == "sgd":
        return part, left * rate * gradient.float()
    factor = row.factors[1] if row.optimizer.on_update and row.factors is not None else 1.0
    sign = torch.ones_like(part) if gradient is None else gradient.sign()
    return part, factor * rate * sign.float()


def _standing(updates: Sequence[tuple[Tensor, Tensor] | None]) -> float:
    """The share of entries that an update leaves where they are."""
    known = [(part.detach(), update) for part, update in filter(None, updates)]
    asked = sum(int((update != 0).sum()) for _, update in known)
    still = sum(int(((update != 0) & ((part.float() - update).to(part.dtype) == part)).sum()) for part, update in known)
    return still / asked if asked else 0.0


def _adds_up(optimizer: Any, group: dict[str, Any], dtype: torch.dtype) -> bool:
    """Small updates move an entry in the end: the optimizer keeps what rounding took, or rounds at random; tried."""
    parameter = nn.Parameter(torch.ones(64, 1, dtype=dtype))
    try:
        fresh = fresh_optimizer(optimizer, group, parameter, _PART * torch.finfo(dtype).eps)
        for _ in range(_STEPS):
            parameter.grad = -torch.ones_like(parameter)
            fresh.step()
    except Exception:  # another's code, called in a way that it may not foresee
        return False
    return bool((parameter != 1).any())
