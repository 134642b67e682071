"""What the doctor says: its advice with the way out of each finding, and a diagnosis as text.

Checked case by case by `tests/test_lora_doctor_advice.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from allora_analysis.adaptive import in_words
from allora_analysis.lora.doctor.effects import ALLORA_ADAMW, Effect
from allora_analysis.lora.doctor.measured import Clipping, LayerReport, OptimizerEffect, holds
from allora_analysis.lora.doctor.rates import on_rates
from allora_analysis.lora.pairs import PLAIN, Pair

# Where nobody meant ALLoRA to be on.
_NOT_MEANT = {
    Effect.OFF: ("ok", "{layers} are plain LoRA"),
    Effect.UNKNOWN: ("note", "no optimizer: rates are not known"),
}

_LAYER_TEXTS = {
    "registration lost": (
        "problem",
        "the config states a variant of ALLoRA, but {layers} are plain LoRA; make the adapter with get_peft_model and "
        "allora_config, or load it with allora_analysis.lora.peft.load",
    ),
    "backward": (
        "problem",
        "the gradient of B in {layers} is neither LoRA's nor what the layer states (measured); look for hooks or a "
        "replaced forward",
    ),
    "scaling": (
        "note",
        "{layers} have a LoRA scaling s other than 1: d is of ‖s(BA)_i‖, and SGD at rate l trains s·BA as it would at "
        "s = 1, rate s·l, from √s times A and B",
    ),
    "unmeasured": (
        "note",
        "the backward pass of {layers} could not be tried on the layer alone: it is taken to be what the layer states",
    ),
    "not finite": ("problem", "BA of {layers} is not finite; go back to an earlier checkpoint"),
    "gradient not finite": (
        "problem",
        "the gradient of {layers} is not finite, and a step would ruin the weights; leave this step out (a GradScaler "
        "does), and look at the loss, the data and the learning rate",
    ),
    "dropout not applied": (
        "problem",
        "{layers} state a dropout, and two passes in training are the same (measured): it is never applied; look where "
        "the forward pass uses it",
    ),
    "dropout": ("note", "{layers} have dropout on the adapter; lora_dropout=0 is the paper's ALLoRA-0"),
    "quantised": ("note", "the base weight of {layers} is quantized: d is of BA alone and does not see it"),
}

_NO_GRADIENTS = (
    "no gradient yet: call doctor after loss.backward() and before the step; with a GradScaler, after "
    "scaler.unscale_(optimizer)"
)


_LEVELS = ("problem", "note", "ok")
_ON_GRADIENT = (Effect.ON_GRADIENT, Effect.CLIPPED)


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
    allora: bool = True,
) -> tuple[Advice, ...]:
    """All that there is to say."""
    lines = [
        *_on_effects(layers, optimizer, allora),
        *(Advice(*told) for told in on_rates(pairs, layers, homes, optimizer)),
        *_on_layers(pairs, layers, configs),
        *_on_groups(pairs, homes, optimizer),
        *_on_gradients(pairs, layers, optimizer, clipping),
    ]
    return tuple(sorted(lines, key=lambda line: _LEVELS.index(line.level)))


def which(names: Sequence[str]) -> str:
    """A few names, or their number."""
    return names[0] if len(names) == 1 else f"{len(names)} layers ({names[0]}, …)"


def _on_effects(
    layers: Sequence[LayerReport], optimizer: OptimizerEffect | None, allora: bool = True
) -> Iterator[Advice]:
    if all(layer.effect.idle for layer in layers):
        yield Advice("problem", "nothing trained", "no adapter is trained; load with is_trainable=True, or set_adapter")
    name = "no optimizer" if optimizer is None else optimizer.name
    response = "what it does to a factor is not known"
    if optimizer is not None and optimizer.response is not None:
        source = "measured" if optimizer.measured else "by its name"
        response = f"a factor c on a row becomes c^{abs(optimizer.response):.2f}, {source}"
    for effect in Effect:
        level, text = (effect.level, effect.text) if allora else _NOT_MEANT.get(effect, (effect.level, effect.text))
        found = [layer for layer in layers if layer.effect == effect]
        if found and text:
            words = {"layers": which([layer.name for layer in found]), "optimizer": name, "response": response}
            words["factor"] = getattr(getattr(optimizer, "row_factor", None), "words", "")
            kinds = {one.variant for one in found}
            told = sorted("measured" if kind == "another" else f"PEFT's {kind}" for kind in kinds)
            yield Advice(level, effect, text.format(variants=", ".join(told), **words))
    if optimizer is not None and optimizer.momentum and any(layer.effect in _ON_GRADIENT for layer in layers):
        yield Advice("note", "momentum", f"{name}'s momentum carries earlier factors on: the step lags behind d")


def _on_layers(pairs: Sequence[Pair], layers: Sequence[LayerReport], configs: dict[str, Any]) -> Iterator[Advice]:
    stated = {key: getattr(config, "variant", None) for key, config in configs.items()}
    rows = list(zip(pairs, layers, strict=True))
    found = {
        "registration lost": [p.variant == "lora" and stated.get(p.adapter) not in (None, *PLAIN) for p in pairs],
        "backward": [row.backward == "another" and (p.variant in PLAIN or p.eta is not None) for p, row in rows],
        "scaling": [p.variant not in PLAIN and p.eta is not None and p.scaling != 1 for p in pairs],
        "unmeasured": [row.backward is None and not row.effect.idle and row.effect != Effect.NOT_BA for row in layers],
        "not finite": [row.norms is not None and not math.isfinite(sum(row.norms)) for row in layers],
        "gradient not finite": [not (_finite(pair.a.grad) and _finite(pair.b.grad)) for pair in pairs],
        "dropout not applied": [row.dropout_applied is False for row in layers],
        "dropout": [row.drop_rate > 0 and row.dropout_applied is not False for row in layers],
        "quantised": [row.quantised for row in layers],
    }
    for code, flags in found.items():
        names = [pair.label for pair, flag in zip(pairs, flags, strict=True) if flag]
        if names:
            level, text = _LAYER_TEXTS[code]
            yield Advice(level, code, text.format(layers=which(names)))
    rates = {row.drop_rate for row, dropped in zip(layers, found["dropout"], strict=True) if dropped}
    if len(rates) == 1:
        yield Advice("note", "dropout pays", f"dropout pays {in_words.dropout_pays(rates.pop())}")


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
        yield Advice("note", "no gradients", _NO_GRADIENTS)
    scaling = [layer for layer in layers if layer.effect in (*_ON_GRADIENT, Effect.UNKNOWN, Effect.PARTLY_UNDONE)]
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


_HEAD = ("layer", "variant", "s", "r", "‖s(BA)_i‖ min/median/max", "d min/median/max", "‖g_B‖/LoRA's", "effect")
_VERDICTS = {
    "on": "ALLoRA is on.",
    "clipped": "ALLoRA is on, and clipping undoes it, in part or altogether.",
    "off": "ALLoRA is OFF.",
    "plain": "Plain LoRA.",
    "partly": "ALLoRA is on in part.",
    "unknown": "Whether ALLoRA is on depends on the optimizer.",
}
_ABSENT = "–"


def table(
    verdict: str,
    layers: Sequence[LayerReport],
    optimizer: OptimizerEffect | None,
    clipping: Clipping | None,
    advice: Sequence[Advice],
) -> str:
    """A diagnosis, readable."""
    rows = [_HEAD, *(_cells(layer) for layer in layers)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    if optimizer is not None:
        lines.append(_optimizer(optimizer))
    if clipping is not None:
        lines.append(
            f"clipping at {clipping.max_norm:g}: {clipping.removed:.0%} of the gradient's norm, {clipping.norm:.3g}"
        )
    said = [f"[{line.level}] {line.text}" for line in advice]
    return "\n".join([_VERDICTS[verdict], "", *lines, "", *said])


def _optimizer(effect: OptimizerEffect) -> str:
    if effect.on_update:
        return f"optimizer: {effect.name}, which puts the factor on its update"
    response = "unknown" if effect.response is None else f"{abs(effect.response):.2f}"
    return f"optimizer: {effect.name}, where a factor c on a gradient's row becomes c^h on the step, h = {response}"


def _cells(layer: LayerReport) -> tuple[str, ...]:
    return (
        f"{layer.name} ({layer.adapter})" if layer.adapter else layer.name,
        _rule(layer),
        f"{layer.scaling:g}",
        str(layer.rank),
        _spread(layer.norms),
        _spread(layer.factors),
        _ABSENT if layer.gradient_ratio is None else f"{layer.gradient_ratio:.3g}",
        layer.effect,
    )


def _rule(layer: LayerReport) -> str:
    if layer.variant == "lora_x_eta":  # its η is the scaling; another is ALLoRAAdamW's
        own = f"lora_x_eta, η = {layer.scaling:g}"
        return own if layer.eta is None else f"{own}; update's η = {layer.eta:g}"
    return layer.variant if layer.eta is None else f"{layer.variant}, η = {layer.eta:g}"


def _spread(values: tuple[float, float, float] | None) -> str:
    return _ABSENT if values is None else "/".join(f"{value:.3g}" for value in values)
