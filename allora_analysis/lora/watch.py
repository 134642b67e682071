"""§4, the doctor where nobody asked: an optimizer that divides ALLoRA's factor out is named at its first step.

The layers call `watch`; torch calls `_look` before each step of any optimizer, but for a compiled one. Checked by
`tests/test_lora_watch.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import distributed, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from allora_analysis.lora.pairs import Pair, lora_pairs

_LAYERS: WeakSet[nn.Module] = WeakSet()
_KNOWN: WeakSet[Optimizer] = WeakSet()  # named, or found to keep the factor, or asked about
_LOOKED: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()  # by the number of parameters that it trained then


class FactorUndone(UserWarning):
    """ALLoRA's layers train as plain LoRA under this optimizer. `warnings` makes it an error, or nothing."""


def watch(layer: nn.Module) -> None:
    """From now on an optimizer that undoes this layer's factor is named, once, at its first step with the layer.

    Args:
        layer: scales the gradients of its adapter: `ALLoRALinear`, or PEFT's layer under an `allora_config`.
    """
    _LAYERS.add(layer)


class Watched:
    """A layer that is watched as a copy, and read from a file, too."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        watch(self)


def known(optimizer: Any) -> None:
    """No warning of this optimizer: the doctor has looked at it, or it is what is to be measured.

    Args:
        optimizer: torch's own; any other is not watched.
    """
    if isinstance(optimizer, Optimizer):
        _KNOWN.add(optimizer)


def _look(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    if torch.compiler.is_compiling() or not _LAYERS or optimizer in _KNOWN:
        return
    number = sum(one.requires_grad for group in optimizer.param_groups for one in group["params"])
    if number == _LOOKED.get(optimizer):  # what is thawed, or added, later is looked at again
        return
    _LOOKED[optimizer] = number
    homes = {id(one): group for group in optimizer.param_groups for one in group["params"]}
    pairs = [pair for layer in list(_LAYERS) for pair in lora_pairs(layer) if _scaled(pair) and id(pair.b) in homes]
    if pairs:
        known(optimizer)
        if said := _said(optimizer, homes[id(pairs[0].b)], pairs):
            warnings.warn(said, FactorUndone, stacklevel=4)


def _scaled(pair: Pair) -> bool:
    trained = pair.active and pair.b.requires_grad and not (pair.merged or pair.disabled)
    return trained and pair.eta is not None and pair.variant not in ("asf_lora", "lora_x_eta")


def _said(optimizer: Optimizer, group: dict[str, Any], pairs: Sequence[Pair]) -> str | None:
    from allora_analysis.lora.doctor.effects import Effect
    from allora_analysis.lora.doctor.measured import of_response, optimizer_effect

    with torch.no_grad():
        found = optimizer_effect(optimizer, group)
    first = not distributed.is_available() or not distributed.is_initialized() or distributed.get_rank() == 0
    if not first or found.on_update or found.response is None:
        return None
    if (effect := of_response(found.response)) == Effect.ON_GRADIENT:
        return None
    words = {"optimizer": found.name, "response": found.words, "layers": f"ALLoRA's layers ({len(pairs)})"}
    return "ALLoRA is OFF: " * (effect == Effect.UNDONE) + effect.text.format(**words)


register_optimizer_step_pre_hook(_look)
