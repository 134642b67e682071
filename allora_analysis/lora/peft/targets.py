"""Which layers an ALLoRA adapter may be put on: plain, dense, finite `nn.Linear` weights.

Checked by `tests/test_lora_peft_refusals.py`.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from allora_analysis.validation import ArgumentError, adapter_rank

# What a DTensor and DeepSpeed's ZeRO-3 have.
SHARDED = ("device_mesh", "ds_id")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_target(layer: nn.Module, rank: int, name: str = "") -> None:
    """The layer can carry an adapter of this rank.

    Args:
        layer: the base layer.
        rank: r.
        name: the layer's path in the model, for the error.

    Raises:
        ArgumentError: no `nn.Linear`, quantised, sharded, r above min(n₁, n₂), a weight that is not finite.
    """
    where = f"target_modules: layer {name!r}" if name else f"the layer {type(layer).__name__}"
    if not isinstance(layer, nn.Linear) or isinstance(layer, NonDynamicallyQuantizableLinear):
        refuse(layer, target_name=name)
    weight = layer.weight
    if any(hasattr(weight, mark) for mark in SHARDED) or getattr(layer, "_hf_tp_plan", None) is not None:
        raise ArgumentError(
            f"{where} has a sharded weight, which is not supported: call get_peft_model first, then shard whole "
            "transformer blocks, the adapters' A and B with them"
        )
    if type(weight) not in (nn.Parameter, torch.Tensor) or weight.dtype not in DTYPES:
        raise ArgumentError(
            f"{where} has a quantised weight ({type(layer).__name__}, {weight.dtype}), which is not supported: load "
            "the model in float32, bfloat16 or float16"
        )
    try:
        adapter_rank(rank, *weight.shape)
    except ArgumentError as error:
        raise ArgumentError(f"{where}: {error}; lower r or leave the layer out of target_modules") from None
    if not is_finite(weight):
        raise ArgumentError(f"{where} has NaN or infinity in its weight: load the base model again")


def is_finite(tensor: torch.Tensor) -> bool:
    """Every entry is a finite number; in one pass and without a copy. A tensor without data (meta) passes.

    Args:
        tensor: any floating tensor.

    Returns:
        Whether it is.
    """
    if tensor.is_meta or tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor.detach())
    return bool(torch.isfinite(low) & torch.isfinite(high))


def refuse(target: nn.Module, *args: Any, **kwargs: Any) -> NoReturn:
    """PEFT's dispatcher calls this for a target that is no `nn.Linear`, on which it would train plain LoRA in silence.

    Args:
        target: the layer.
        *args: PEFT's.
        **kwargs: PEFT's; `target_name` is the layer's path.

    Raises:
        ArgumentError: always.
    """
    raise ArgumentError(
        f"target_modules: layer {kwargs.get('target_name', '')!r} is a {type(target).__name__}; ALLoRA is for nn.Linear"
        " that is called (no Embedding, convolution, Conv1D of GPT-2, or nn.MultiheadAttention): leave it "
        "out of target_modules"
    )
