"""What `doctor` has to say about its findings, and the way out of each.

Checked case by case by `tests/test_lora_doctor_advice.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from allora_analysis.lora.doctor.layer_report import LayerReport, holds
from allora_analysis.lora.doctor.prognosis import Clipping, OptimizerEffect
from allora_analysis.lora.doctor.texts import ALLORA_ADAMW, LAYER_TEXTS, NO_GRADIENTS, TEXTS
from allora_analysis.lora.pairs import PLAIN, Pair

LEVELS = ("problem", "note", "ok")
ON_GRADIENT = ("on the gradient", "clipped")
IDLE = ("merged", "disabled", "inactive", "frozen")


@dataclass(frozen=True)
class Advice:
    """One line.

    Attributes:
        level: "problem", "note" or "ok".
        code: what it is about, one word or a few.
        text: what was found and what to do.
    """

    level: str
    code: str
    text: str


def advise(
    pairs: Sequence[Pair],
    layers: Sequence[LayerReport],
    optimizer: OptimizerEffect | None,
    clipping: Clipping | None,
    homes: dict[int, dict[str, Any]],
    configs: dict[str, Any],
) -> tuple[Advice, ...]:
    """All that there is to say.

    Args:
        pairs: the adapters.
        layers: their reports, in the same order.
        optimizer: what it makes of a row factor.
        clipping: what it makes of the last gradients.
        homes: by a parameter's id, the optimizer's group that holds it.
        configs: PEFT's configs by adapter.

    Returns:
        The advice, the worst first.
    """
    lines = [
        *_on_effects(layers, optimizer),
        *_on_layers(pairs, layers, configs),
        *_on_groups(pairs, homes, optimizer),
        *_on_gradients(pairs, layers, optimizer, clipping),
    ]
    return tuple(sorted(lines, key=lambda line: LEVELS.index(line.level)))


def which(names: Sequence[str]) -> str:
    """A few names, or their number.

    Args:
        names: of layers.

    Returns:
        Words.
    """
    return names[0] if len(names) == 1 else f"{len(names)} layers ({names[0]}, …)"


def _on_effects(layers: Sequence[LayerReport], optimizer: OptimizerEffect | None) -> Iterator[Advice]:
    if all(layer.effect in IDLE for layer in layers):
        yield Advice("problem", "nothing trained", "no adapter is trained; load with is_trainable=True, or set_adapter")
    name = "no optimizer" if optimizer is None else optimizer.name
    response = "what it does to a factor is not known"
    if optimizer is not None and optimizer.response is not None:
        source = "measured" if optimizer.measured else "by its name"
        response = f"a factor c on a row becomes c^{abs(optimizer.response):.2f}, {source}"
    for effect, (level, text) in TEXTS.items():
        found = [layer for layer in layers if layer.effect == effect]
        if found:
            words = {"layers": which([layer.name for layer in found]), "optimizer": name, "response": response}
            yield Advice(
                level, effect, text.format(variants=", ".join(sorted({one.variant for one in found})), **words)
            )
    if optimizer is not None and optimizer.momentum and any(layer.effect in ON_GRADIENT for layer in layers):
        yield Advice("note", "momentum", f"{name}'s momentum carries earlier factors on: the step lags behind d")


def _on_layers(pairs: Sequence[Pair], layers: Sequence[LayerReport], configs: dict[str, Any]) -> Iterator[Advice]:
    stated = {key: getattr(config, "variant", None) for key, config in configs.items()}
    rows = list(zip(pairs, layers, strict=True))
    found = {
        "registration lost": [p.variant == "lora" and stated.get(p.adapter) not in (None, *PLAIN) for p in pairs],
        "backward": [row.backward == "another" and (p.variant in PLAIN or p.eta is not None) for p, row in rows],
        "scaling": [p.variant not in PLAIN and p.eta is not None and p.scaling != 1 for p in pairs],
        "unmeasured": [row.backward is None and row.effect not in (*IDLE, "not BA") for row in layers],
        "not finite": [row.norms is not None and not math.isfinite(sum(row.norms)) for row in layers],
        "gradient not finite": [not (_finite(pair.a.grad) and _finite(pair.b.grad)) for pair in pairs],
        "dropout": [row.drop_rate > 0 for row in layers],
        "quantised": [row.quantised for row in layers],
    }
    for code, flags in found.items():
        names = [pair.label for pair, flag in zip(pairs, flags, strict=True) if flag]
        if names:
            level, text = LAYER_TEXTS[code]
            yield Advice(level, code, text.format(layers=which(names)))


def _finite(gradient: Tensor | None) -> bool:
    if gradient is None:
        return True
    return bool(torch.isfinite(gradient.coalesce().values() if gradient.is_sparse else gradient).all())


def _on_groups(
    pairs: Sequence[Pair], homes: dict[int, dict[str, Any]], optimizer: OptimizerEffect | None
) -> Iterator[Advice]:
    if optimizer is None or not optimizer.on_update:
        return
    groups = [(pair, homes.get(id(pair.b))) for pair in pairs]
    held = [(pair, group) for pair, group in groups if holds(group, pair)]
    names = [pair.label for pair, group in held if not math.isclose(group["scaling"], pair.scaling)]
    if names:
        yield Advice(
            "problem",
            "pair scaling",
            f"ALLoRAAdamW takes the norms of {which(names)} at another LoRA scaling than the layer's; build the groups "
            "with param_groups(model)",
        )


def _on_gradients(
    pairs: Sequence[Pair], layers: Sequence[LayerReport], optimizer: OptimizerEffect | None, clipping: Clipping | None
) -> Iterator[Advice]:
    if all(pair.a.grad is None and pair.b.grad is None for pair in pairs):
        yield Advice("note", "no gradients", NO_GRADIENTS)
    scaling = [layer for layer in layers if layer.effect in (*ON_GRADIENT, "unknown", "partly undone")]
    acting = scaling and any(pair.variant not in PLAIN for pair in pairs)
    if acting and clipping is None:
        text = "transformers' Trainer clips the gradient's norm at 1 unless max_grad_norm=0; pass max_grad_norm to see"
        yield Advice("note", "max_grad_norm", text)
    if clipping is not None and acting and clipping.removed > 0:
        yield _on_clipping(clipping, scaling)


def _on_clipping(clipping: Clipping, layers: Sequence[LayerReport]) -> Advice:
    text = (
        f"clipping at {clipping.max_norm:g} takes {clipping.removed:.0%} of the gradient's norm, {clipping.norm:.3g}: "
    )
    if clipping.gain is None or clipping.gain_after is None:
        names = which([layer.name for layer in layers])
        text += f"how much of the factor in {names} that undoes cannot be told; max_grad_norm=0 leaves all of it"
        return Advice("note", "clipping", text)
    text += (
        f"the gradient of B is {clipping.gain:.3g} times LoRA's, and {clipping.gain_after:.3g} times with both clipped"
    )
    if not clipping.undoes:
        return Advice("note", "clipping", text)
    return Advice("problem", "clipping", text + "; set max_grad_norm=0, or use " + ALLORA_ADAMW)
