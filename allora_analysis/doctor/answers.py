"""What the doctor says of a recipe and of a saved adapter, by topic. Checked by `tests/test_doctor_command.py`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from allora_analysis.adaptive import recipe as recipes
from allora_analysis.adaptive.recipe import Recipe
from allora_analysis.doctor.saved import Saved, SavedPair
from allora_analysis.hessian.starts import expected_cosine
from allora_analysis.study import Table
from allora_analysis.width.exponents import flow_eta_to_taper, flow_factor, taper

_SHARE = 0.1  # a fall of the mean factor by so much counts as tapering
_ON_ROWS = ("allora", "allora_0")
_CONSTANT = 0.95  # of η, as in `lora.doctor.rates`, which needs torch
_PISSA = ("pissa", "olora", "corda", "loftq", "eva", "orthogonal", "lora_ga")


@dataclass(frozen=True)
class Section:
    """A part of what is printed.

    Attributes:
        name: in JSON.
        lines: topic and answer.
        table: below them.
        numbers: in JSON beside the lines.
    """

    name: str
    lines: Sequence[tuple[str, str]]
    table: Table | None = None
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Switches:
    """What may be on.

    Attributes:
        eta: of ALLoRA's rule, or None.
        variant: the rule's name.
        drop_rate: of LoRA's dropout.
        dora: weight-decomposed.
        init: PEFT's word for the start, where it is no plain one.
    """

    eta: float | None = None
    variant: str = "allora"
    drop_rate: float = 0.0
    dora: bool = False
    init: str | None = None


def of_recipe(
    recipe: Recipe, switches: Switches, clip: float | None, warmup: int, alpha: float | None
) -> list[Section]:
    """The rates, what is on, and the equivalent settings.

    Args:
        recipe: the settings.
        switches: what may be on beside.
        clip: the largest gradient norm, or None.
        warmup: steps.
        alpha: at which the equivalent settings are said; None for s = 1.

    Returns:
        Two sections.
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
    # What starting at 0 costs: not a bad place, but a first step along r of the gradient's directions.
    if recipe.zero == "b" and recipe.width is not None and switches.init is None:
        cosine = expected_cosine(recipe.r, recipe.width)
        yield (
            "start at B = 0",
            f"costs the first step's direction: its cosine with full fine-tuning's is about {cosine:.2g} under "
            f"gradient descent, √(r/(n₂ + r + 1)); a start along the gradient (init_lora_weights='lora_ga') has the "
            "most that a rank allows",
        )


def _at_width(recipe: Recipe, switches: Switches) -> Iterator[tuple[str, str]]:
    # Does ALLoRA's factor taper in a layer of this width, and what does it do to the stable rates?
    if switches.eta is None or switches.variant not in _ON_ROWS:
        return
    if recipe.width is not None:
        kept = flow_factor("allora", recipe.width, recipe.r, switches.eta)
        needed = flow_eta_to_taper("allora", recipe.width, recipe.r)
        word = "a constant" if kept > 1 - _SHARE else "it tapers"
        yield (
            "factor at this width",
            f"{word}: {kept:.3g} of η on average over rows once a linear teacher of n = {recipe.width} is learned; "
            f"below {1 - _SHARE:g} from η = {needed:.3g} on",
        )
    if recipe.optimizer == "sgd":
        yield (
            "stable step",
            f"1/η = {1 / switches.eta:.3g} of LoRA's while rows of BA are short, as ALLoRA's factor "
            "1/√(‖(BA)_i‖ + 1/η²) is η there; more as they grow: one over the factor, at a good fit",
        )


def switched(switches: Switches, recipe: Recipe | None, clip: float | None = None) -> Iterator[tuple[str, str]]:
    """Whether ALLoRA's rule, dropout, DoRA and LoRA+ are on, and what undoes them.

    Args:
        switches: what may be on.
        recipe: the optimizer's settings, or None.
        clip: the largest gradient norm, or None.

    Yields:
        Topic and answer.
    """
    if switches.eta is not None:
        yield "ALLoRA's rule", _rule(switches, recipe, clip)
    if switches.drop_rate:
        yield (
            "dropout",
            f"{switches.drop_rate:g}, on the adapter's input, in train() alone; eval(), a merged adapter and a forward "
            "pass that leaves it out undo it: lora.doctor.doctor tries it on the live model",
        )
        yield "dropout pays", _dropout_pays(switches.drop_rate)
    if switches.dora:
        yield (
            "DoRA",
            "on: ΔW is more than s·BA, so the rates above are of its BA alone; exporting A and B alone undoes it",
        )
    if switches.init is not None:
        yield "start", f"init_lora_weights={switches.init!r}: neither A nor B starts at 0, the first step is another"
    if recipe is not None and recipe.loraplus_ratio != 1:
        yield (
            "LoRA+",
            f"B's rate is {recipe.loraplus_ratio:g} times A's; a scheduler or a resumed run that sets one rate for all "
            "groups undoes it; PEFT's create_loraplus_optimizer decays by loraplus_weight_decay alone (default 0), and "
            "trains a head's bias at B's rate: at ratio 1 too",
        )


def _dropout_pays(drop_rate: float) -> str:
    # White inputs: flow under dropout is flow without it towards keep_prob of the fit, 1/keep_prob times as fast.
    keep_prob = 1 - drop_rate
    return (
        "late, if at all; for a linear layer, squared loss and uncorrelated inputs: in a few steps the mean of BA is "
        "as without it and the masks add "
        f"noise; at the end BA is {keep_prob:.3g} of the fit, which takes off at most {1 - keep_prob**2:.2g} of the "
        "error that noise in the labels causes"
    )


def _rule(switches: Switches, recipe: Recipe | None, clip: float | None) -> str:
    told = f"{switches.variant}, η = {switches.eta:.4g}"
    if switches.variant in ("asf_lora", "lora_x_eta"):
        return f"{told}: in the forward pass, where no optimizer undoes it"
    if recipe is None:
        return f"{told}: on gradients, so Adam undoes it (SGD does not); give --optimizer"
    if recipe.optimizer != "sgd":
        return f"{told}: undone, Adam divides a gradient's factor out again; ALLoRAAdamW puts it on the update"
    if clip:
        return f"{told}: on, but for clipping at {clip:g}, which divides the factor out of a longer gradient"
    return f"{told}: on"


def of_saved(saved: Saved, eta: float | None) -> Section:
    """What a saved adapter holds.

    Args:
        saved: the adapter.
        eta: η of the rule for which the rows are judged; None: the config's.

    Returns:
        A section.
    """
    eta = saved.config.get("eta") if eta is None else eta
    told = [("pairs", _pairs(saved)), ("trained", _trained(saved))]
    if eta is not None and _finite(saved.pairs):
        told += [("factor", _taper(saved, float(eta))), ("stable step", _stable_step(saved, float(eta)))]
    groups: dict[str, list] = {}
    for pair in saved.pairs:
        groups.setdefault(pair.name.rpartition(".")[2] or pair.name, []).append(pair)
    rows = [
        (
            name,
            str(len(own)),
            _range([f"{one.n1}×{one.n2}" for one in own]),
            _range([str(one.r) for one in own]),
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
    named = init if isinstance(init, str) and init.lower().startswith(_PISSA) else None
    return Switches(
        config.get("eta"),
        config.get("variant", "allora"),
        float(config.get("lora_dropout") or 0.0),
        bool(config.get("use_dora")) or saved.magnitudes > 0,
        named,
    )


def _pairs(saved: Saved) -> str:
    alpha, pairs = saved.config.get("lora_alpha"), saved.pairs
    rule = "α/√r (rsLoRA)" if saved.config.get("use_rslora") else "α/r"
    by = f" = {rule}, α = {alpha:g}" if alpha is not None else ""
    told = f"{len(pairs)}, r = {saved.common('r')}, s = {saved.common('scaling'):.4g}{by}"
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
    return f"yes: rows of s·BA are {low:.3g} to {high:.3g} long, {middle:.3g} in the median"


def _spread(pairs: Sequence[SavedPair]) -> tuple[float, float, float]:
    lows, middles, highs = zip(*(pair.norms for pair in pairs), strict=True)
    return min(lows), sorted(middles)[len(middles) // 2], max(highs)


def _taper(saved: Saved, eta: float) -> str:
    most, middle, least = ((1 + eta**2 * value) ** -0.5 for value in _spread(saved.pairs))
    share = _spread(saved.pairs)[1] * eta**2
    needed = taper([pair.norms[1] for pair in saved.pairs], eta).eta_to_taper
    word = "a constant so far" if least > _CONSTANT else "it tapers"
    return (
        f"{word}: rows are {share:.3g} of 1/η² = {eta**-2:.3g} in the median, so ALLoRA's factor is {least:.3g} to "
        f"{most:.3g} of η = {eta:g} ({middle:.3g}); from η = {needed:.3g} on it is below nine tenths on average"
    )


def _stable_step(saved: Saved, eta: float) -> str:
    low, high = ((1 + eta**2 * value) ** 0.5 / eta for value in (_spread(saved.pairs)[0], _spread(saved.pairs)[2]))
    return (
        f"{low:.3g} to {high:.3g} of LoRA's here, at a good fit and with the factor on the gradient (SGD): one over "
        "ALLoRA's factor, from its largest to its smallest row"
    )


def _range(values: Sequence[str]) -> str:
    kinds = list(dict.fromkeys(values))
    return kinds[0] if len(kinds) == 1 else f"{kinds[0]} … ({len(kinds)} kinds)"
