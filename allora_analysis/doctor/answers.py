"""What the doctor says of a recipe and of a saved adapter, by topic; and how many seeds until a gap of x points between
two methods means anything, from one's own numbers or from records.

The differences of two methods on the same seeds have a standard deviation; the paired t-test needs so many seeds to see
a gap with power 0.8 at level 0.05 (`statistics.required_n`), and as many at the ends of that deviation's 90 % interval.
Checked by `tests/test_doctor_answers.py`, `tests/test_doctor_command.py` and `tests/test_doctor_seeds.py`.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from allora_analysis import records
from allora_analysis.adaptive import recipe as recipes
from allora_analysis.adaptive.recipe import Recipe
from allora_analysis.adaptors import ADAPTORS
from allora_analysis.arms import HEADS, IN_FORWARD, NO_LAYER, ON_OUTPUTS, ON_ROWS, TRAINED, not_adapted, not_saved
from allora_analysis.doctor.saved import Saved, SavedPair
from allora_analysis.grid.reading import every, final_value
from allora_analysis.statistics import required_n, required_n_interval
from allora_analysis.study import Table
from allora_analysis.validation import ArgumentError, choice, positive

_OTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # starts that change the base weight
_STARTS = (*_OTHER_BASE, "eva", "orthogonal")
# PEFT's words for adapters whose change is no s·BA, or not on every token.
_MORE = ("kasa_config", "monteclora_config", "use_bdlora", "use_qalora", "arrow_config", "alora_invocation_tokens")
LEAST = 3
_OWN = ("arm", "eta2", "seed")


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
    factor = 1.0 if switches.eta is None or switches.variant == "lora_x_eta" else switches.eta  # LoRA×η's is its s
    output = factor if switches.variant == "asf_lora" else 1.0
    told = [
        *recipes.lines(recipe, clip, warmup, factor, output),
        ("α × 4 or rate × 4", recipes.four_times_alpha(recipe)),
    ]
    told += [*_start(recipe, switches), *switched(switches, recipe, clip), *_at_width(recipe, switches)]
    numbers = vars(recipes.rates(recipe, factor, output)) | {"recipe": vars(recipe)}
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
        ruled = switches.eta is not None and not recipe.on_update
        yield "start at B = 0", recipes.start_at_zero(recipe.r, recipe.width, ruled)


def _at_width(recipe: Recipe, switches: Switches) -> Iterator[tuple[str, str]]:
    # Does ALLoRA's factor taper in a layer of this width, and what does it do to the stable rates?
    if switches.eta is None or switches.variant not in ON_ROWS or switches.adaptor != "inverse_sqrt":
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
    if recipe is not None and recipe.on_update:
        return f"ALLoRAAdamW, η = {switches.eta:.4g}{by}: on AdamW's update, where neither Adam nor clipping undoes it"
    told = f"{switches.variant}, η = {switches.eta:.4g}{by}"
    if switches.variant in IN_FORWARD:
        return f"{told}: in the forward pass, where no optimizer undoes it"
    if recipe is None:
        return f"{told}: on gradients, so Adam undoes it (SGD does not); give --lr and --optimizer"
    return f"{told}: {recipes.rule_on_gradients(recipe.optimizer, clip)}"


def of_saved(saved: Saved, eta: float | None) -> Section:
    """What a saved adapter holds; its rows are judged for the rule with this η, or else the config's."""
    switches = switches_of(saved)
    eta = switches.eta if eta is None else eta
    told = [("pairs", _pairs(saved)), ("trained", _trained(saved)), *_unsaved(saved), *_beside(saved)]
    if saved.config.get("use_dora") and not saved.magnitudes:
        told.append(("magnitudes", "use_dora is on and the file holds none: PEFT takes the base weight's row norms"))
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
    """Refuse what does not add s·BA to its base model: DoRA, ASF-LoRA, KaSA …, a start that changed the base weight."""
    switches = switches_of(saved)
    init = (switches.init or "").lower().startswith(_OTHER_BASE)
    words = {
        "DoRA": switches.dora,
        "ASF-LoRA": switches.variant == "asf_lora",
        f"init_lora_weights={switches.init!r}, of a base weight that it changed": init,
        **dict.fromkeys(more(saved), True),
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
    if saved.assumed:
        told += " (PEFT's default: the config has no lora_alpha)"
    if not saved.scaled:
        told += ": the file holds no α, so s = 1 is a guess; give --alpha"
    if wrong := [pair for pair in pairs if pair.stated is not None]:
        told += (
            f"; the config says r = {wrong[0].stated} for {len(wrong)} that have r = {wrong[0].r}, and PEFT does not "
            "load them: save the adapter again"
        )
    return told + (f"; {saved.left_out} with no other half or no matrix are left out" if saved.left_out else "")


def more(saved: Saved) -> list[str]:
    """What is on, by PEFT's words, that makes an adapter's change no s·BA, or not on every token."""
    return [name for name in _MORE if saved.config.get(name)]


def _beside(saved: Saved) -> Iterator[tuple[str, str]]:
    found = more(saved)
    if names := [name for name in saved.beside if name.partition(".")[0] not in HEADS]:
        found.append(f"{', '.join(names[:2])}{f', … ({len(names)} in all)' if len(names) > 2 else ''}")
    if found:
        yield "beside A and B", f"{'; '.join(found)}: not looked at, all that is said here is of s·BA alone"


def _unsaved(saved: Saved) -> Iterator[tuple[str, str]]:
    modules = [name.rpartition(".")[0] for name in saved.beside]
    if lost := not_saved(saved.config.get("modules_to_save") or (), modules):
        names = ", ".join(map(repr, lost))
        yield "NOT saved", f"the config's modules_to_save names {names}, and the file holds none: give a module's name"
    # What is left out, a convolution's or a half, may be the layer that is asked for.
    layers = [pair.name.partition(" (")[0] for pair in saved.pairs]
    targets, whole = saved.config.get("target_modules"), saved.config.get("modules_to_save") or ()
    if not saved.left_out and (lost := not_adapted(targets, whole, layers, modules)):
        yield "NOT adapted", f"the config's target_modules names {', '.join(map(repr, lost))}, and {NO_LAYER}"


def _finite(pairs: Sequence[SavedPair]) -> bool:
    return all(pair.norms is not None for pair in pairs)


def _trained(saved: Saved) -> str:
    if not _finite(saved.pairs):
        count = sum(pair.norms is None for pair in saved.pairs)
        return f"NO: A or B of {count} pairs is not finite; go back to an earlier checkpoint"
    if not any(pair.scaling for pair in saved.pairs):
        return "NO: s = 0, so the adapter adds nothing, whatever A and B are; give --alpha"
    zeros = [pair.zero for pair in saved.pairs]
    if all(zeros):
        which = {"a": "A", "b": "B"}.get(zeros[0] if len(set(zeros)) == 1 else "", "a matrix")
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
    if switches.variant in ON_OUTPUTS:
        yield "factor", f"of each output, not of rows, as {switches.variant} has it: the inputs decide, not the file"
    if switches.variant not in ON_ROWS:
        return
    least, middle, most = (float(ADAPTORS[switches.adaptor](value, eta)) / eta for value in reversed(_spread(pairs)))
    told = "a constant so far: " if least > recipes.CONSTANT else "it tapers: "
    if switches.adaptor == "inverse_sqrt":
        share = _spread(pairs)[1] * eta**2
        told += f"rows are {share:.3g} of 1/η² = {eta**-2:.3g} in the median, so "
    told += f"ALLoRA's factor is {recipes.span(least, most)} of η = {eta:g} ({middle:.3g})"
    if switches.adaptor == "inverse_sqrt" and all(pair.norms[1] for pair in pairs):  # as rows of 0 taper at no η
        told += f"; {recipes.eta_to_taper([pair.norms[1] for pair in pairs], eta)}"
    yield "factor", told
    yield "stable step", recipes.stable_step_at(least * eta, most * eta)


def _range(values: Sequence[str]) -> str:
    kinds = list(dict.fromkeys(values))
    return kinds[0] if len(kinds) == 1 else f"{kinds[0]} … ({len(kinds)} kinds)"


@dataclass(frozen=True)
class Needed:
    """The seeds that a gap needs, from a deviation of the paired differences, in points.

    `pairs` is how many seeds it comes from, `low` and `high` are the seeds at the ends of its interval, `mean` is the
    differences'; all None where the deviation was given.
    """

    what: str
    pairs: int | None
    mean: float | None
    deviation: float
    seeds: int
    low: int | None
    high: int | None


def from_deviation(gap: float, deviation: float) -> Needed:
    """The seeds to see a gap, of a deviation of the paired differences that is known; both in points."""
    gap, deviation = positive("--gap", gap), positive("--sd", deviation)
    with _seen(gap, deviation):
        return Needed("the deviation given", None, None, deviation, required_n(gap, deviation), None, None)


@contextlib.contextmanager
def _seen(gap: float, deviation: float) -> Iterator[None]:
    # What is too small for any number of seeds is the flag's fault.
    try:
        yield
    except ArgumentError:
        told = f"so small beside a standard deviation of {deviation:.3g} that no feasible number of seeds sees it"
        raise ArgumentError(f"--gap: {told}, received {gap!r}; give a larger one") from None


def from_scores(gap: float, scores: Sequence[float], baseline: Sequence[float], what: str = "your scores") -> Needed:
    """Of two methods' scores on the same seeds, in order, all in points; refuses fewer than two, or differences that
    are all one.
    """
    if len(scores) != len(baseline) or len(scores) < 2:
        raise ArgumentError(
            f"--scores and --baseline must be of the same seeds, 2 or more, received {len(scores)} and {len(baseline)}"
        )
    differences = np.subtract(scores, baseline)
    if not np.isfinite(differences).all():
        raise ArgumentError("--scores and --baseline must be finite numbers")
    deviation = float(np.std(differences, ddof=1))
    if deviation <= 1e-9 * float(np.abs(differences).max()):
        raise ArgumentError("--scores and --baseline differ by the same on every seed: no spread to judge a gap by")
    gap = positive("--gap", gap)
    with _seen(gap, deviation):
        low, high = required_n_interval(gap, deviation, len(scores) - 1)
        return Needed(what, len(scores), float(differences.mean()), deviation, required_n(gap, deviation), low, high)


def from_records(gap: float, folder: Path | None, arm: str = "allora_0", reference: str = "lora") -> list[Needed]:
    """Of recorded runs: two arms at the same settings on three shared seeds or more; a setting each, those with most
    seeds first. `gap` is in points of test accuracy.
    """
    for name in (arm, reference):
        choice("--arms", name, TRAINED)
    if arm == reference:
        raise ArgumentError(f"--arms must be two different ones, received {arm} twice")
    groups: dict[tuple, dict[str, dict[float | None, dict[int, float]]]] = {}
    for record in every(folder, lambda config: config["arm"] in (arm, reference)):
        config = record.config
        key = tuple((name, str(value)) for name, value in sorted(config.items()) if name not in _OWN)
        of = groups.setdefault(key, {arm: {}, reference: {}})[config["arm"]]
        of.setdefault(config["eta2"], {})[config["seed"]] = _points(record)
    found = []
    for key, arms in groups.items():
        # Of several η² the largest with enough seeds: the paper's strongest.
        by_size = [sorted(arms[name].items(), key=lambda one: -(one[0] or 0)) for name in (arm, reference)]
        for (eta2, runs), (other_eta2, others) in itertools.product(*by_size):
            shared = sorted(set(runs) & set(others))
            if len(shared) < LEAST:
                continue
            one, other = ([of[seed] for seed in shared] for of in (runs, others))
            if np.ptp(np.subtract(one, other)) > 0:
                what = f"{_arm(arm, eta2)} − {_arm(reference, other_eta2)}: {_setting_words(dict(key))}"
                found.append(from_scores(gap, one, other, what))
            break
    if not found:
        raise ArgumentError(f"--results: no setting has {arm} and {reference} on {LEAST} shared seeds; give --scores")
    return sorted(found, key=lambda one: (-(one.pairs or 0), one.deviation))


def _points(record: records.Record) -> float:
    return 100 * final_value(record.result, "test_accuracy")


def _arm(name: str, eta2: float | None) -> str:
    return name if eta2 is None else f"{name} (η² = {eta2:g})"


def _setting_words(config: dict[str, str]) -> str:
    return (
        f"{config['model']}, {config['optimizer']} at {float(config['learning_rate']):g}, {config['schedule']}"
        + (f", drop rate {config['drop_rate']}" if float(config["drop_rate"]) else "")
        + ("" if config["own_dropout"] == "True" else ", own dropout off")
    )


def seeds_for(needed: Needed, gap: float) -> str:
    """The seeds for a gap, in points, in a line."""
    interval = "" if needed.low is None else f" ({needed.low} to {needed.high})"
    seen = "" if needed.pairs is None else f" over {needed.pairs} seeds, mean {needed.mean:+.2f}"
    return (
        f"{needed.seeds} seeds{interval} to see a gap of {gap:g} points: differences have a standard deviation of "
        f"{needed.deviation:.2f}{seen}"
    )


def table_of_seeds(found: Sequence[Needed]) -> Table:
    """The seeds of several settings, from records, as a table."""
    columns = ("differences, same seeds", "seeds recorded", "mean", "standard deviation", "seeds needed", "90 %")
    rows = [
        (
            one.what,
            str(one.pairs),
            f"{one.mean:+.2f}",
            f"{one.deviation:.2f}",
            str(one.seeds),
            f"{one.low} to {one.high}",
        )
        for one in found
    ]
    return Table("", columns, rows, ["Points; paired t-test, power 0.8, level 0.05, two-sided."])
