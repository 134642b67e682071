"""What the doctor says of a recipe and of a saved adapter, by topic. Checked by `tests/test_doctor_command.py`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from allora_analysis.adaptive import recipe as recipes
from allora_analysis.adaptive.recipe import Recipe
from allora_analysis.adaptors import ADAPTORS
from allora_analysis.doctor.saved import Saved, SavedPair
from allora_analysis.study import Table
from allora_analysis.validation import ArgumentError

_ON_ROWS, _ON_OUTPUTS = ("allora", "allora_0"), ("allora_od", "asf_lora")
_OTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # starts that change the base weight
_STARTS = (*_OTHER_BASE, "eva", "orthogonal")


@dataclass(frozen=True)
class Section:
    """A part of what is printed: topics with their answers, a table below; `numbers` stand beside them in JSON."""

    name: str
    lines: Sequence[tuple[str, str]]
    table: Table | None = None
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Switches:
    """What may be on: a rule of ALLoRA's (η None: none), dropout, DoRA, PEFT's word for a start that is not plain."""

    eta: float | None = None
    variant: str = "allora"
    adaptor: str = "inverse_sqrt"
    drop_rate: float = 0.0
    dora: bool = False
    init: str | None = None


def of_recipe(
    recipe: Recipe, switches: Switches, clip: float | None, warmup: int, alpha: float | None
) -> list[Section]:
    """The rates, what is on, and the equivalent settings at `alpha`; None: at s = 1. `clip` is the largest gradient
    norm, or None.
    """
    told = [*recipes.lines(recipe, clip, warmup), ("α × 4 or rate × 4", recipes.four_times_alpha(recipe))]
    told += [*_start(recipe, switches), *switched(switches, recipe, clip), *_at_width(recipe, switches)]
    numbers = vars(recipes.rates(recipe)) | {"recipe": vars(recipe)}
    found = recipes.equivalents(recipe, alpha)
    start = "init of A" if recipe.zero == "b" else "init of B"
    columns = ("settings that train alike", "α", start, "rate of A", "rate of B", "ε of A, B", "decay of A, B")
    rows = [
        (
            one.name,
            f"{one.alpha:.4g}",
            f"× {one.setting.init_a:.4g}",
            *(f"{value:.4g}" for value in (one.setting.rate_a, one.setting.rate_b)),
            "–" if recipe.optimizer == "sgd" else _both(one.setting.eps_a, one.setting.eps_b),
            _both(one.setting.decay_a, one.setting.decay_b),
        )
        for one in found
    ]
    notes = ["Exact for any data, schedule and momentum, without clipping."]
    alone = [("trains alike", "s is 1 and both rates are equal: --as-alpha says the same settings at another α")]
    alike = [{"name": one.name, "alpha": one.alpha, **vars(one.setting)} for one in found]
    return [
        Section("recipe", told, None, numbers),
        Section("equivalent", [], Table("", columns, rows, notes), {"settings": alike})
        if len(rows) > 1
        else Section("equivalent", alone, None, {"settings": alike}),
    ]


def _both(one: float, other: float) -> str:
    return f"{one:.3g}" if math.isclose(one, other) else f"{one:.3g}, {other:.3g}"


def _start(recipe: Recipe, switches: Switches) -> Iterator[tuple[str, str]]:
    if recipe.zero == "b" and recipe.width is not None and switches.init is None:
        yield "start at B = 0", recipes.start_at_zero(recipe.r, recipe.width)


def _at_width(recipe: Recipe, switches: Switches) -> Iterator[tuple[str, str]]:
    # Does ALLoRA's factor taper in a layer of this width, and what does it do to the stable rates?
    if switches.eta is None or switches.variant not in _ON_ROWS or switches.adaptor != "inverse_sqrt":
        return
    if recipe.width is not None:
        knobs = recipe.scaling, recipe.loraplus_ratio
        yield "factor at this width", recipes.factor_at_width(knobs, recipe.r, recipe.width, switches.eta)
    if recipe.optimizer == "sgd":
        yield "stable step", recipes.stable_step(switches.eta)


def switched(switches: Switches, recipe: Recipe | None, clip: float | None = None) -> Iterator[tuple[str, str]]:
    """Topic and answer: whether ALLoRA's rule, dropout, DoRA and LoRA+ are on, and what undoes them."""
    if switches.eta is not None:
        yield "ALLoRA's rule", _rule(switches, recipe, clip)
    if switches.drop_rate:
        yield (
            "dropout",
            f"{switches.drop_rate:g}, on the adapter's input, in train() alone; eval(), a merged adapter and a forward "
            "pass that leaves it out undo it: lora.doctor.doctor tries it on the live model",
        )
        yield "dropout pays", recipes.dropout_pays(switches.drop_rate)
    if switches.dora:
        yield (
            "DoRA",
            "on: ΔW is more than s·BA, so the rates above are of its BA alone; exporting A and B alone undoes it",
        )
    if switches.init is not None:
        from_inputs = switches.init.lower().startswith("eva")
        word = "A starts along the inputs" if from_inputs else "neither A nor B starts at 0"
        yield "start", f"init_lora_weights={switches.init!r}: {word}, the first step is another"
    if recipe is not None and recipe.loraplus_ratio != 1:
        yield (
            "LoRA+",
            f"B's rate is {recipe.loraplus_ratio:g} times A's; a scheduler or a resumed run that sets one rate for all "
            "groups undoes it; PEFT's create_loraplus_optimizer decays by loraplus_weight_decay alone (default 0), and "
            "trains a head's bias at B's rate: at ratio 1 too",
        )


def _rule(switches: Switches, recipe: Recipe | None, clip: float | None) -> str:
    by = "" if switches.adaptor == "inverse_sqrt" else f", adaptor {switches.adaptor}"
    told = f"{switches.variant}, η = {switches.eta:.4g}{by}"
    if switches.variant in ("asf_lora", "lora_x_eta"):
        return f"{told}: in the forward pass, where no optimizer undoes it"
    if recipe is None:
        return f"{told}: on gradients, so Adam undoes it (SGD does not); give --lr and --optimizer"
    if recipe.optimizer != "sgd":
        return f"{told}: undone, Adam divides a gradient's factor out again; ALLoRAAdamW puts it on the update"
    if clip:
        return f"{told}: on, but for clipping at {clip:g}, which divides the factor out of a longer gradient"
    return f"{told}: on"


def of_saved(saved: Saved, eta: float | None) -> Section:
    """What a saved adapter holds; its rows are judged for the rule with this η, or else the config's."""
    switches = switches_of(saved)
    eta = switches.eta if eta is None else eta
    told = [("pairs", _pairs(saved)), ("trained", _trained(saved))]
    if eta is not None and _finite(saved.pairs):
        told += _factor(saved.pairs, eta, switches)
    groups: dict[str, list] = {}
    for pair in saved.pairs:
        groups.setdefault(pair.name.rpartition(".")[2] or pair.name, []).append(pair)
    rows = [
        (
            name,
            str(len(own)),
            _range([f"{one.n1}×{one.n2}" for one in own]),
            _range([str(one.r) if one.experts == 1 else f"{one.r} of {one.experts} experts" for one in own]),
            _range([f"{one.scaling:.4g}" for one in own]),
            "/".join(f"{value:.3g}" for value in _spread(own)) if _finite(own) else "not finite",
        )
        for name, own in groups.items()
    ]
    table = Table("", ("layers", "pairs", "n₁×n₂", "r", "s", "‖s(BA)_i‖ min/median/max"), rows)
    return Section("adapter", told, table, {"pairs": [vars(pair) for pair in saved.pairs], "config": saved.config})


def switches_of(saved: Saved) -> Switches:
    """What a saved adapter's config and tensors say is on."""
    config = saved.config
    init = config.get("init_lora_weights")
    named = init if isinstance(init, str) and init.lower().startswith(_STARTS) else None
    return Switches(
        config.get("eta"),
        config.get("variant", "allora"),
        config.get("adaptor", "inverse_sqrt"),
        float(config.get("lora_dropout") or 0.0),
        bool(config.get("use_dora")) or saved.magnitudes > 0,
        named,
    )


def check_is_lora(saved: Saved, path: Any) -> None:
    """Refuse what does not add s·BA to its base model: DoRA, ASF-LoRA, a start that changed the base weight."""
    switches = switches_of(saved)
    init = (switches.init or "").lower().startswith(_OTHER_BASE)
    words = {
        "DoRA": switches.dora,
        "ASF-LoRA": switches.variant == "asf_lora",
        f"init_lora_weights={switches.init!r}, of a base weight that it changed": init,
    }
    if found := [name for name, is_so in words.items() if is_so]:
        raise ArgumentError(
            f"{path}: is {found[0]}, which adds more to the base model than s·BA, so that its strength there is not "
            "known from the file; leave --model out, or convert it to LoRA first"
        )


def _pairs(saved: Saved) -> str:
    alpha, pairs = saved.config.get("lora_alpha"), saved.pairs
    rule = "α/√r (rsLoRA)" if saved.config.get("use_rslora") else "α/r"
    by = f" = {rule}, α = {alpha:g}" if alpha is not None else ""
    r, scaling, _ = saved.common()
    told = f"{len(pairs)}, r = {r}, s = {scaling:.4g}{by}"
    if len({(pair.r, pair.scaling) for pair in pairs}) > 1:
        told += " in most"
    if not saved.scaled:
        told += ": the file holds no α, so s = 1 is a guess; give --alpha"
    return told + (f"; {saved.left_out} with no other half or no matrix are left out" if saved.left_out else "")


def _finite(pairs: Sequence[SavedPair]) -> bool:
    return all(pair.norms is not None for pair in pairs)


def _trained(saved: Saved) -> str:
    if not _finite(saved.pairs):
        count = sum(pair.norms is None for pair in saved.pairs)
        return f"NO: A or B of {count} pairs is not finite; go back to an earlier checkpoint"
    zeros = [pair.zero for pair in saved.pairs]
    if all(zeros):
        which = {"a": "A", "b": "B"}.get(zeros[0], "a matrix")
        return f"NO: {which} is 0 in all pairs, so BA is: never trained, or saved before the first step"
    if any(zeros):
        return f"in part: BA is 0 in {sum(map(bool, zeros))} of {len(zeros)} pairs"
    low, middle, high = _spread(saved.pairs)
    rows = f"rows of s·BA are {low:.3g} to {high:.3g} long, {middle:.3g} in the median"
    init = saved.config.get("init_lora_weights")
    if init is False or (isinstance(init, str) and init.lower().startswith((*_OTHER_BASE, "orthogonal"))):
        return f"cannot be told: init_lora_weights={init!r} starts with both of A and B off 0; {rows}"
    return f"yes: {rows}"


def _spread(pairs: Sequence[SavedPair]) -> tuple[float, float, float]:
    lows, middles, highs = zip(*(pair.norms for pair in pairs), strict=True)
    return min(lows), sorted(middles)[len(middles) // 2], max(highs)


def _factor(pairs: Sequence[SavedPair], eta: float, switches: Switches) -> Iterator[tuple[str, str]]:
    # The rule's factor at these rows, and what it does to the stable rates.
    if switches.variant in _ON_OUTPUTS:
        yield "factor", f"of each output, not of rows, as {switches.variant} has it: the inputs decide, not the file"
    if switches.variant not in _ON_ROWS:
        return
    least, middle, most = (float(ADAPTORS[switches.adaptor](value, eta)) / eta for value in reversed(_spread(pairs)))
    told = "a constant so far: " if least > recipes.CONSTANT else "it tapers: "
    if switches.adaptor == "inverse_sqrt":
        share = _spread(pairs)[1] * eta**2
        told += f"rows are {share:.3g} of 1/η² = {eta**-2:.3g} in the median, so "
    told += f"ALLoRA's factor is {least:.3g} to {most:.3g} of η = {eta:g} ({middle:.3g})"
    if switches.adaptor == "inverse_sqrt":
        told += f"; {recipes.eta_to_taper([pair.norms[1] for pair in pairs], eta)}"
    yield "factor", told
    yield "stable step", recipes.stable_step_at(least * eta, most * eta)


def _range(values: Sequence[str]) -> str:
    kinds = list(dict.fromkeys(values))
    return kinds[0] if len(kinds) == 1 else f"{kinds[0]} … ({len(kinds)} kinds)"
