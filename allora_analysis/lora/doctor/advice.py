"""What the doctor says: its advice with the way out of each finding, and a diagnosis as text.

Checked case by case by `tests/test_lora_doctor_advice.py`.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from allora_analysis.adaptive import recipe as recipes
from allora_analysis.adaptive.recipe import Recipe, rates
from allora_analysis.arms import NO_LAYER, ON_ROWS, not_adapted, not_saved
from allora_analysis.lora.doctor.effect import ALLORA_ADAMW, NOT_MEANT, OF_LAYERS, Effect
from allora_analysis.lora.doctor.measured import Clipping, LayerReport, holds, share
from allora_analysis.lora.doctor.trial import OptimizerEffect
from allora_analysis.lora.pairs import PLAIN, Pair, bare, lora_pairs

_NO_GRADIENTS = (
    "no gradient yet: call doctor after loss.backward() and before the step; with a GradScaler, after "
    "scaler.unscale_(optimizer)"
)


_LEVELS = ("problem", "note", "ok")
_ON_GRADIENT = (Effect.ON_GRADIENT, Effect.CLIPPED, Effect.CLIPPED_BEFORE)
_BARE = (Effect.NOT_BA, Effect.SHARDED)
_WHOLE = (Effect.ON_GRADIENT, Effect.ON_UPDATE)
_PAPERS = "inverse_sqrt"  # the adaptor 1/√(x + 1/η²)


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
    allora: bool,
    unasked: bool,
) -> tuple[Advice, ...]:
    """All that there is to say; `unasked`: of clipping the doctor was told nothing."""
    return (
        *_on_effects(layers, allora),
        *(Advice(*told) for told in _on_rates(pairs, layers, homes, optimizer)),
        *_on_layers(pairs, layers, configs, allora),
        *_on_groups(pairs, homes, optimizer),
        *_on_gradients(pairs, layers, clipping, unasked),
    )


def worst_first(lines: Iterable[Advice]) -> tuple[Advice, ...]:
    """Problems, then notes, then what is well."""
    return tuple(sorted(lines, key=lambda line: _LEVELS.index(line.level)))


def unsaved(model: nn.Module, configs: dict[str, Any]) -> Iterator[Advice]:
    """A problem where `modules_to_save` names no module: PEFT trains and saves nothing of that name, and is silent."""
    asked = {name for config in configs.values() for name in getattr(config, "modules_to_save", None) or ()}
    for name in not_saved(sorted(asked), (module for module, _ in model.named_modules())):
        text = f"modules_to_save names {name!r}, and no module ends so: none is trained or saved; give a name"
        yield Advice("problem", "modules_to_save", text)


def unadapted(model: nn.Module, configs: dict[str, Any]) -> Iterator[Advice]:
    """A problem where a name in `target_modules` has no adapter: PEFT is silent as long as another name has one."""
    pairs, modules = lora_pairs(model), [bare(name) for name, _ in model.named_modules()]
    for adapter, config in configs.items():
        layers = [bare(pair.name) for pair in pairs if pair.adapter == adapter]
        asked, saved = getattr(config, "target_modules", None), getattr(config, "modules_to_save", None) or ()
        for name in not_adapted(asked, saved, layers, modules) if layers else ():
            yield Advice("problem", "target_modules", f"target_modules names {name!r}, and {NO_LAYER}")


def which(names: Sequence[str]) -> str:
    """A name in quotes, as it may be a number, or how many there are."""
    return f"'{names[0]}'" if len(names) == 1 else f"{len(names)} layers ('{names[0]}', …)"


def _on_effects(layers: Sequence[LayerReport], allora: bool) -> Iterator[Advice]:
    found_out = any(layer.effect in (Effect.MERGED, Effect.DISABLED) for layer in layers)  # each has its own way out
    if all(layer.effect.idle for layer in layers) and not found_out:
        yield Advice("problem", "nothing trained", "no adapter is trained; load with is_trainable=True, or set_adapter")
    for effect in Effect:
        found = [layer for layer in layers if layer.effect == effect]
        meant = allora or (effect == Effect.NOT_BA and any(layer.eta is not None for layer in found))
        own = effect.level, effect.text
        level, text = own if meant else NOT_MEANT.get(effect, own)
        if found and text:
            one = found[0].optimizer
            words = {
                "layers": which([layer.name for layer in found]),
                "optimizer": getattr(one, "name", "no optimizer"),
            }
            words["response"] = getattr(one, "words", "what it does to a factor is not known")
            words["factor"] = getattr(getattr(one, "row_factor", None), "words", "")
            kinds = {one.variant for one in found}
            told = sorted("measured" if kind == "another" else f"PEFT's {kind}" for kind in kinds)
            yield Advice(level, effect, text.format(variants=", ".join(told), **words))
    moving = [layer.optimizer for layer in layers if layer.effect in _ON_GRADIENT and layer.optimizer.momentum]
    if moving:
        text = f"{moving[0].name}'s momentum carries earlier factors on: the step lags behind d"
        yield Advice("note", "momentum", text)


def _on_layers(
    pairs: Sequence[Pair], layers: Sequence[LayerReport], configs: dict[str, Any], allora: bool
) -> Iterator[Advice]:
    stated = {key: getattr(config, "variant", None) for key, config in configs.items()}
    rows = list(zip(pairs, layers, strict=True))
    found = {
        "registration lost": [p.variant == "lora" and stated.get(p.adapter) not in (None, *PLAIN) for p in pairs],
        "backward": [row.backward == "another" and (p.variant in PLAIN or p.eta is not None) for p, row in rows],
        "scaling": [p.variant not in PLAIN and p.eta is not None and p.scaling != 1 for p in pairs],
        "unmeasured": [row.backward is None and not (row.effect.idle or row.effect in _BARE) for row in layers],
        "hooks": [any(getattr(x, "_post_accumulate_grad_hooks", None) for x in (p.a, p.b)) for p in pairs],
        "not finite": [row.norms is not None and not math.isfinite(sum(row.norms)) for row in layers],
        "gradient not finite": [not (_finite(pair.a.grad) and _finite(pair.b.grad)) for pair in pairs],
        "constant factor": [row.adaptor == "constant" and row.effect in _WHOLE for row in layers],
        "dropout not applied": [row.dropout_applied is False for row in layers],
        "dropout": [row.drop_rate > 0 and row.dropout_applied is not False for row in layers],
        "quantised": [row.quantised for row in layers],
    }
    meant = allora or any(row.eta is not None for row in layers)
    without_dropout = "; lora_dropout=0 is the paper's ALLoRA-0" if meant else ""
    for code, flags in found.items():
        names = [pair.label for pair, flag in zip(pairs, flags, strict=True) if flag]
        if names:
            level, text = OF_LAYERS[code]
            yield Advice(level, code, text.format(layers=which(names), allora_0=without_dropout))
    yield from _on_configs(pairs, configs)
    drop_rates = {row.drop_rate for row, dropped in zip(layers, found["dropout"], strict=True) if dropped}
    if len(drop_rates) == 1:
        yield Advice("note", "dropout pays", f"dropout pays {recipes.dropout_pays(drop_rates.pop())}")


def _on_configs(pairs: Sequence[Pair], configs: dict[str, Any]) -> Iterator[Advice]:
    # PEFT saves the config; the layers keep the rule that they were made with.
    for name in ("variant", "eta", "adaptor"):
        ruled = [(pair, getattr(configs.get(pair.adapter), name, None)) for pair in pairs if pair.eta is not None]
        differ = [(pair, stated) for pair, stated in ruled if stated is not None and stated != getattr(pair, name)]
        if differ:
            (pair, stated), labels = differ[0], [one.label for one, _ in differ]
            yield Advice(
                "problem",
                "config of another rule",
                f"{which(labels)} train by {name} {getattr(pair, name)!r}, and the config, which is saved, says "
                f"{stated!r}; set it back, or make the adapter anew with that {name}",
            )


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
            f"ALLoRAAdamW takes the norms of {which(names)} at another LoRA scaling than the layer's; build the "
            "groups with param_groups(model)",
        )


def _on_gradients(
    pairs: Sequence[Pair], layers: Sequence[LayerReport], clipping: Clipping | None, unasked: bool
) -> Iterator[Advice]:
    if all(pair.a.grad is None and pair.b.grad is None for pair in pairs):
        yield Advice("note", "no gradients", _NO_GRADIENTS)
    some_left = (*_ON_GRADIENT, Effect.UNKNOWN, Effect.UNTRIED, Effect.PARTLY_UNDONE)
    scaling = [layer for layer in layers if layer.effect in some_left]
    acting = scaling and any(pair.variant not in PLAIN for pair in pairs)
    if acting and unasked:
        text = "transformers' Trainer clips the gradient's norm at 1 unless max_grad_norm=0; pass max_grad_norm to see"
        yield Advice("note", "max_grad_norm", text)
    if clipping is not None and acting and clipping.removed > 0 and not clipping.done:
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
        f"the gradient of {clipping.of} is {clipping.gain:.3g} times LoRA's, and {clipping.gain_after:.3g} times with "
        "both clipped"
    )
    if not clipping.undoes:
        return Advice("note", "clipping", text)
    return Advice("problem", "clipping", text + "; set max_grad_norm=0, or use " + ALLORA_ADAMW)


_HEAD = ("layer", "variant", "s", "r", "‖s(BA)_i‖ min/median/max", "d min/median/max", "‖g_B‖/LoRA's", "effect")
VERDICTS = {
    "on": "ALLoRA is on.",
    "clipped": "ALLoRA is on, and clipping undoes it, in part or altogether.",
    "off": "ALLoRA is OFF.",
    "plain": "Plain LoRA.",
    "partly": "ALLoRA is on in part.",
    "unknown": "Whether ALLoRA is on is not known.",
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
    as_asked = any(layer.effect == Effect.ONE for layer in layers) or all(layer.variant in PLAIN for layer in layers)
    heading = VERDICTS[verdict] if verdict != "plain" or as_asked else "No ALLoRA, and none is meant."
    return "\n".join([heading, "", *lines, "", *(f"[{line.level}] {line.text}" for line in advice)])


def _optimizer(effect: OptimizerEffect) -> str:
    if effect.on_update:
        return f"optimizer: {effect.name}, which puts the factor on its update"
    response = "unknown" if effect.response is None else f"{abs(effect.response):.2f}"
    return f"optimizer: {effect.name}, where a factor c on a gradient's rows becomes c^h on the step, h = {response}"


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
    by = "" if layer.adaptor in (None, _PAPERS) else f", {layer.adaptor}"
    return layer.variant if layer.eta is None else f"{layer.variant}, η = {layer.eta:g}{by}"


def _spread(values: tuple[float, float, float] | None) -> str:
    return _ABSENT if values is None else "/".join(f"{value:.3g}" for value in values)


_SETTINGS = ("weight_decay", "betas", "eps", "momentum")


def _on_rates(
    pairs: Sequence[Pair], layers: Sequence[LayerReport], homes: dict[int, Any], optimizer: OptimizerEffect | None
) -> Iterator[tuple[str, str, str]]:
    """Level, code and text of each finding; `homes` is each parameter's group, by its id."""
    if any("Dora" in pair.variant for pair in pairs):
        yield "note", "DoRA", "DoRA is on: ΔW is more than s·BA, and rates and row norms are of its BA alone"
    if told := _taper(layers):
        yield "note", "factor", told
    yield from _at_width(pairs, layers)
    if told := _stable_step(layers):
        yield "note", "stable step", f"the largest stable step is {told}"
    if len(shares := [found for pair in pairs if (found := share(pair))]) > 1:
        yield "note", "ripple", recipes.ripple(shares)
    # A rank above the layer's width has no rates of this kind.
    fit = [(p, row) for p, row in zip(pairs, layers, strict=True) if row.rank <= math.prod(p.a.shape[1:])]
    whole = [(pair, row) for pair, row in fit if pair.is_product and None not in row.rates]
    from_b = [each for each in whole if not _starts_at_a(*each)]
    if optimizer is None or not whole:
        return
    if not optimizer.on_update and from_b and (told := _at_scaling_one(from_b)):
        yield "note", "rates", told
    yield from _on_group_rates([pair for pair, _ in whole], homes, optimizer.name)


def _taper(layers: Sequence[LayerReport]) -> str | None:
    # How far d is from η, and under the paper's adaptor rows from 1/η²: there d is η/√2.
    ruled = [row for row in layers if None not in (row.factors, row.norms, row.eta) and row.adaptor != "constant"]
    if not ruled or any(not math.isfinite(row.norms[2]) for row in ruled):
        return None
    low, high = min(row.factors[0] / row.eta for row in ruled), max(row.factors[2] / row.eta for row in ruled)
    word = "is a constant so far" if low > recipes.CONSTANT else "tapers"
    if any(row.adaptor != _PAPERS for row in ruled):
        return f"the factor {word}: d is {recipes.span(low, high)} of η"
    if not any(row.norms[2] for row in ruled):
        return f"the factor {word}: BA = 0, and d = η at every row"
    share = median(row.norms[1] * row.eta**2 for row in ruled)
    told = (
        f"the factor {word}: d is {recipes.span(low, high)} of η, and the median ‖s(BA)_i‖ is {share:.3g} of 1/η², at "
        "which d would be 0.707 of η"
    )
    etas, norms = {row.eta for row in ruled}, [row.norms[1] for row in ruled]
    return f"{told}; {recipes.eta_to_taper(norms, etas.pop())}" if len(etas) == 1 and all(norms) else told


def _at_width(pairs: Sequence[Pair], layers: Sequence[LayerReport]) -> Iterator[tuple[str, str, str]]:
    # Before the first step, of the most frequent kind of layer.
    at_start = [
        (
            row.rank,
            math.prod(pair.a.shape[1:]),
            (abs(row.scaling), row.rates[1] / row.rates[0] if all(row.rates) else 1.0),
            pair.variant not in PLAIN and pair.eta is not None,
            row.eta if row.adaptor == _PAPERS and (row.variant in ON_ROWS or row.effect == Effect.ON_UPDATE) else None,
        )
        for pair, row in zip(pairs, layers, strict=True)
        if pair.is_product
        and pair.scaling
        and row.norms == (0.0, 0.0, 0.0)
        and not pair.b.any()
        and pair.a.any()
        and row.rank <= math.prod(pair.a.shape[1:])
    ]
    if at_start:
        (rank, width, knobs, ruled, eta), _ = Counter(at_start).most_common(1)[0]
        yield "note", "start", f"starting at B = 0 {recipes.start_at_zero(rank, width, ruled)}"
        if eta:
            yield (
                "note",
                "factor at this width",
                f"the factor at this width: {recipes.factor_at_width(knobs, rank, width, eta)}",
            )


def _stable_step(layers: Sequence[LayerReport]) -> str | None:
    # Of SGD, at the rows as they are.
    ruled = [row for row in layers if row.variant in ON_ROWS and row.effect in _ON_GRADIENT]
    if len({row.eta for row in ruled}) != 1 or not all(math.isfinite(row.norms[2]) for row in ruled):
        return None
    eta, adaptors = ruled[0].eta, {row.adaptor for row in ruled}
    least, most = min(row.factors[0] for row in ruled), max(row.factors[2] for row in ruled)
    if any(row.norms[2] for row in ruled) and adaptors != {"constant"}:
        return recipes.stable_step_at(least, most)
    if adaptors == {_PAPERS}:
        return recipes.stable_step(eta)
    where = "everywhere" if adaptors == {"constant"} else "while rows of BA are short"
    return f"1/η = {1 / eta:.3g} of LoRA's, as the factor is η {where}"


def _starts_at_a(pair: Pair, row: LayerReport) -> bool:
    # As the adapters of embeddings.
    embeds = isinstance(getattr(pair.module, "base_layer", pair.module), nn.Embedding)
    return embeds or (row.norms == (0.0, 0.0, 0.0) and not pair.a.any())


_KIND = ("what the optimizer does", "r", "s", "A's rate", "B's rate", "n₂", "the factor", "the output's factor")


def _at_scaling_one(whole: Sequence[tuple[Pair, LayerReport]]) -> str | None:
    # Of the most frequent kind of layer; an optimizer whose first step is neither Adam's nor SGD's has no such rate.
    kinds = Counter(
        (
            row.optimizer.first_step,
            row.rank,
            abs(row.scaling),
            *row.rates,
            math.prod(pair.a.shape[1:]),
            *_eta(pair, row),
        )
        for pair, row in whole
    )
    (kind, r, scaling, rate_a, rate_b, width, *eta), many = kinds.most_common(1)[0]
    if kind is None or not min(scaling, rate_a, rate_b) > 0:
        return None
    recipe = Recipe(r, scaling * r, rate_a, kind, loraplus_ratio=rate_b / rate_a, width=width)
    found = rates(recipe, *eta)
    times = recipes.as_many_times(found.times_loras)
    mean = f"unclipped, in the mean over A{times}, full fine-tuning's at rate"
    step = mean if kind == "sgd" else f"its entries move by (RMS){times}"
    columns = list(zip(*kinds, strict=True))
    differ = ", ".join(name for name, values in zip(_KIND, columns, strict=True) if len(set(values)) > 1)
    some = f"; all this of {many} of the {len(whole)} layers, the others differ in {differ}" if differ else ""
    return (
        f"s = {scaling:.4g}, rates {rate_a:.3g} (A) and {rate_b:.3g} (B): at s = 1 these are {found.a:.3g} and "
        f"{found.b:.3g}; first step of ΔW from B = 0 (A as a linear layer starts): {step} {found.first_step:.3g}{some}"
    )


def _eta(pair: Pair, row: LayerReport) -> tuple[float, float]:
    """By what the gradients of A and B are multiplied at BA = 0, 1 where the optimizer undoes that, and the output."""
    scales = pair.eta is not None and row.backward != "lora's" and row.optimizer.first_step == "sgd"
    return pair.eta if scales else 1.0, pair.eta if pair.variant == "asf_lora" else 1.0


def _on_group_rates(pairs: Sequence[Pair], homes: dict[int, Any], name: str) -> Iterator[tuple[str, str, str]]:
    ratios = {round(homes[id(pair.b)]["lr"] / homes[id(pair.a)]["lr"], 6) for pair in pairs if homes[id(pair.a)]["lr"]}
    if ratios - {1.0}:
        told = ", ".join(f"{ratio:g}" for ratio in sorted(ratios))
        yield "note", "LoRA+", f"LoRA+ is on: {name} trains B at {told} times A's rate"
    differ = [
        f"{key} {homes[id(pair.a)][key]} for A and {homes[id(pair.b)][key]} for B"
        for pair in pairs[:1]
        for key in _SETTINGS
        if key in homes[id(pair.a)] and homes[id(pair.a)][key] != homes[id(pair.b)].get(key)
    ]
    if differ:
        yield "note", "groups", f"A and B differ in more than the rate: {'; '.join(differ)}"
    own = {id(part) for pair in pairs for part in (pair.a, pair.b)}
    groups = list({id(group): group for group in homes.values()}.values())
    if len({id(homes[key]) for key in own}) < 2:
        return
    same_rate = {homes[id(pair.b)]["lr"] for pair in pairs}
    others = sum(id(p) not in own for group in groups if group["lr"] in same_rate for p in group["params"])
    if others and ratios - {1.0}:
        yield "note", "head", f"{others} other parameters (a head's, a bias) train at B's rate, not at A's"
