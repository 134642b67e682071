"""§4, the doctor where nobody asked: an optimizer that divides ALLoRA's factor out is named at its first step.

The layers call `watch`; torch calls `_look` before each step of any optimizer, but for a compiled one. A step with a
closure, before which there is no gradient, is waited for. Checked by `tests/test_lora_watch.py`.
"""

import sys
import warnings
from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, ref

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from allora_analysis.arms import IN_FORWARD
from allora_analysis.lora.pairs import Pair, lora_pairs

_LAYERS: WeakSet[nn.Module] = WeakSet()
# A layer by its parameters' ids: torch swaps no tensor that has a weak reference.
_PLACES: dict[int, Callable[[], nn.Module | None]] = {}
_KNOWN: WeakSet[Optimizer] = WeakSet()  # what is to be measured
# The matrices, by id, of pairs that it was named for, or keeps the factor of, or was asked about.
_JUDGED: WeakKeyDictionary[Optimizer, set[int]] = WeakKeyDictionary()
# What it trained at its steps so far, by id, negative without a gradient.
_LOOKED: WeakKeyDictionary[Optimizer, set[int]] = WeakKeyDictionary()


# What lies between a warning of a run and the line that trains.
_BETWEEN = ("torch", "accelerate", "transformers", "peft", "contextlib", __name__.partition(".")[0])


class FactorUndone(UserWarning):
    """ALLoRA's layers train as plain LoRA under this optimizer. `warnings` makes it an error, or nothing."""


def warn_of_run(text: str, category: type[Warning] = UserWarning) -> None:
    """A warning in each run of a process, at the line that trains, and as this module's.

    `warnings.warn` shows a text once a process, and names the caller: in transformers' Trainer that is torch's
    `lr_scheduler`, whose warnings accelerate ignores.
    """
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        frame = frame.f_back
    warnings.warn_explicit(text, category, frame.f_code.co_filename, frame.f_lineno, module=__name__)


def watch(layer: nn.Module) -> None:
    """From now on an optimizer that undoes this layer's factor is named, once, at its first step with the layer."""
    _LAYERS.add(layer)


class Watched:
    """A layer that is watched as a copy, and read from a file, too."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        watch(self)


def known(optimizer: Any) -> None:
    """No warning of this optimizer, ever: it is what is to be measured."""
    if isinstance(optimizer, Optimizer):
        _KNOWN.add(optimizer)


def judged(optimizer: Any, pairs: Sequence[Pair]) -> None:
    """No warning of what this optimizer trains of these pairs now: the doctor, or a warning, has spoken of it."""
    if isinstance(optimizer, Optimizer):
        homes = {id(one): group for group in optimizer.param_groups for one in group["params"]}
        _JUDGED.setdefault(optimizer, set()).update(*(_trained(pair, homes) for pair in pairs))


def _trained(pair: Pair, homes: dict[int, Any]) -> set[int]:
    return {id(part) for part in (pair.a, pair.b) if part.requires_grad and id(part) in homes}


def _look(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    try:
        said = _found(optimizer)
    except Exception as error:  # the run is worth more than what is said about it
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        name = type(optimizer).__name__
        warn_of_run(f"what {name} makes of ALLoRA's factor could not be looked at ({reason})")
        return
    if said:
        warn_of_run(said, FactorUndone)


def _found(optimizer: Optimizer) -> str | None:
    if torch.compiler.is_compiling() or not _LAYERS or optimizer in _KNOWN:
        return None
    held = [one for group in optimizer.param_groups for one in group["params"] if one.requires_grad]
    seen = {-id(one) if one.grad is None else id(one) for one in held}
    if optimizer not in _LOOKED and all(one < 0 for one in seen):
        _LOOKED[optimizer] = set()  # a closure will make the gradients, whose size decides
        return None
    if seen <= (before := _LOOKED.get(optimizer, set())):
        return None
    _LOOKED[optimizer] = seen | before  # what is thawed, added, or switched on later is looked at again
    homes = {id(one): group for group in optimizer.param_groups for one in group["params"] if one.requires_grad}
    layers = _layers_with([one for one in held if one.ndim > 1 or hasattr(one, "_fsdp_flattened")])
    pairs = [pair for layer in layers for pair in lora_pairs(layer) if scaled_by(pair, homes)]
    new = [not _trained(pair, homes) <= _JUDGED.get(optimizer, set()) for pair in pairs]
    if not any(new):
        return None
    judged(optimizer, pairs)
    return _said(optimizer, homes, pairs, new)


def _layers_with(parameters: Sequence[Tensor]) -> list[nn.Module]:
    if not all(_layer_of(one) for one in parameters):
        _PLACES.clear()
        _PLACES.update({id(one): ref(layer) for layer in list(_LAYERS) for one in layer.parameters()})
    return list({id(layer): layer for one in parameters if (layer := _layer_of(one))}.values())


def _layer_of(one: Tensor) -> nn.Module | None:
    layer = _PLACES.get(id(one), lambda: None)()  # an id may have been another's
    return layer if layer is not None and any(own is one for own in layer.parameters()) else None


def scaled_by(pair: Pair, homes: dict[int, Any]) -> bool:
    """The layer is in use and scales a gradient of what an optimizer trains; `homes`: its groups by parameters' ids."""
    acts = pair.active and not (pair.merged or pair.disabled)
    scales = pair.eta is not None and pair.variant not in IN_FORWARD and not pair.factor_is_one
    return acts and scales and bool(_trained(pair, homes))


def _said(optimizer: Optimizer, homes: dict[int, Any], pairs: Sequence[Pair], new: Sequence[bool]) -> str | None:
    # Of all pairs, where one of the new ones loses its factor.
    from allora_analysis.lora.doctor.effect import Effect
    from allora_analysis.lora.doctor.trial import effects_on, of_response, weakest

    with torch.no_grad():
        found = effects_on(optimizer, homes, pairs)
    first = not distributed.is_available() or not distributed.is_initialized() or distributed.get_rank() == 0
    tried = [not one.on_update and one.response is not None for one in found]
    gone = [one and of_response(each.response) != Effect.ON_GRADIENT for one, each in zip(tried, found, strict=True)]
    if not first or not any(compress(gone, new)):
        return None
    lost = [*compress(found, gone)]
    worst = weakest(lost)
    effect = of_response(worst.response)
    whole = all(id(pair.b) in homes or not pair.b.requires_grad for pair in pairs)
    effect = effect if whole else Effect.PARTLY_UNDONE  # some B is another optimizer's
    words = {"optimizer": worst.name, "response": worst.words, "layers": f"ALLoRA's layers ({len(lost)})"}
    off = effect == Effect.UNDONE and len(lost) == len(pairs)
    return "ALLoRA is OFF: " * off + effect.text.format(**words)


register_optimizer_step_pre_hook(_look)
