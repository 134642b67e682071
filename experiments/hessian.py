"""LoRA's Hessian at zero initialization in pretrained models: `python -m experiments.hessian --model FOLDER`.

**Question.** The paper says that the parameters "start from a saddle point" and that zero initialization makes the
landscape "poorly conditioned". In a network with B = 0 the Hessian is [[0, C], [Cᵀ, K]], so that the ranks of
G = ∂L/∂(BA) foretell how many directions have a negative curvature (`hessian.negative_directions`). Do the ends of the
spectrum of real pretrained models agree, layer by layer, and how deep is the negative end?

**Arms.** LoRA at B = 0, A as PEFT draws it, α = r, on the query and value maps of one layer at a time, all else frozen,
a classifier as it is drawn, no dropout, mean cross-entropy over sentences of rotten_tomatoes. r = 4 and 5 eigenvalues
at each end, by Lanczos in float32: of each of all-MiniLM-L6-v2's 6 layers on 16 sentences; of SmolLM2-135M's last of
30 on 8, and of layers 20, 10 and 0 on 2 (sizes from trials of the cost on layer 5; the list was cut once, for want of
time, before any run of it but SmolLM2's last layer was finished). And all 768 eigenvalues, in float64, at r = 1 of the
last layer's query and of its value on all-MiniLM-L6-v2, 8 sentences, to count directions.

**Seeds.** 0, of the classifier, of A and of the sentences: the sizes are of this draw; the signs are foretold for any.

**Test.** Exact, no statistics: ∂L/∂A = 0 and ∂L/∂B ≠ 0; of each end at least as many eigenvalues have the sign foretold
as the ranks say, each further from 0 than its residual; in a whole spectrum the counts are equal. The verdict is the
ledger's row 3.2-pretrained-saddle; −λ_min/λ_max and the ends over σ₁(G), which they are where K is 0, stand beside it.

**Stopping rule.** The list is fixed; every run is recorded whatever it shows. A row says how many of them it rests on.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from allora_analysis import cli, outputs, records
from allora_analysis.study import INTERRUPTED, progress
from allora_analysis.validation import ArgumentError, choice, count
from allora_analysis.zero_initialisation import run as runs
from allora_analysis.zero_initialisation.run import PROTOCOL, RESULTS, STUDY, Setting, check


@dataclass(frozen=True)
class Arguments:
    """Measure the Hessian of a pretrained model's layers at LoRA's start; what is recorded is skipped."""

    model: Annotated[str, arg(metavar="FOLDER|FILE.gguf|HUB_ID|PACKAGE")]
    """The pretrained model, as transformers loads it, or the installed package that carries it."""
    data: Annotated[str, arg(metavar="FOLDER|HUB_ID")]
    """train.jsonl and test.jsonl (or .jsonl.gz), rows with text and label; or a hub id."""
    model_name: str | None = None
    """What records call the model: all-MiniLM-L6-v2 and SmolLM2-135M have a list of runs; default: as the folder."""
    data_name: str | None = None
    """What records call the data; default: as the folder."""
    layers: Annotated[tuple[int, ...], arg(metavar="[INT ...]", help_behavior_hint="")] = ()
    """Only these layers, from 0; they need not be of the list."""
    modules: Annotated[tuple[str, ...], arg(metavar="[NAME ...]", help_behavior_hint="")] = ()
    """The linear maps to adapt, for layers that are not of the list; default: query and value."""
    sentences: int | None = None
    """This many sentences instead of the list's."""
    rank: int | None = None
    """This rank instead of the list's."""
    k: int | None = None
    """This many eigenvalues at each end instead of the list's; 0: all of them."""
    precision: Annotated[str | None, arg(metavar="float32|float64")] = None
    """float64 is the default with --k 0; a Llama, which computes parts in float32, fails it."""
    only: Annotated[tuple[str, ...], arg(metavar="[WORD ...]", help_behavior_hint="")] = ()
    """Only runs on one of these linear maps, alone or with others; only of this precision; of both kinds both count."""
    seed: int = 0
    """Seed of the classifier, of A and of the sentences."""
    seeds: int = 1
    """This many seeds, from --seed on; the list has one."""
    results: Annotated[Path, arg(metavar="FOLDER")] = RESULTS
    """Where the records go; default: experiments/results/hessian of this repository."""
    dry_run: bool = False
    """List the runs, and which of them are recorded, and run none."""


def chosen(arguments: Arguments, model: str, data: str) -> list[Setting]:
    """The runs asked for: the model's list, or the layers named.

    Args:
        arguments: the flags.
        model: what records call the model.
        data: what records call the data.

    Raises:
        ArgumentError: a model without a list, and no layers named.
    """
    own = runs.runs(model)
    given = {name: getattr(arguments, name) for name in ("sentences", "rank", "k", "precision")}
    changes = {name: value for name, value in given.items() if value is not None}
    if arguments.k == 0:
        changes.setdefault("precision", "float64")
    for layer in arguments.layers:
        count("--layers", layer, 0)
    if not own and not arguments.layers:
        raise ArgumentError(
            f"--layers: {model!r} has no list of runs; name layers, or say --model-name {' or '.join(runs.ENDS)}"
        )
    if arguments.modules and not arguments.layers:
        raise ArgumentError("--modules: are those of --layers; name layers too, or choose of the list by --only")
    if arguments.layers:
        modules = arguments.modules or runs.MODULES.get(model, runs.MODULES[runs.BERT])
        listed = [] if changes or arguments.modules else own
        at = {layer: [one for one in listed if one.layer == layer] for layer in arguments.layers}
        own = [one for layer, known in at.items() for one in known or [Setting(model, data, layer, modules)]]
    seeds = range(arguments.seed, arguments.seed + count("--seeds", arguments.seeds))
    made = [dataclasses.replace(one, data=data, seed=seed, **changes) for seed in seeds for one in own]
    for word in arguments.only:
        choice("--only", word, tuple(dict.fromkeys(name for one in made for name in (*one.modules, one.precision))))
    precisions = set(arguments.only) & set(runs.PRECISIONS)
    maps = set(arguments.only) - precisions
    return [
        check(one)
        for one in dict.fromkeys(made)
        if (not maps or maps & set(one.modules)) and (not precisions or one.precision in precisions)
    ]


def run(arguments: Arguments) -> int:
    """Run what is asked for and not recorded.

    Returns:
        The exit status: 130 after Ctrl-C.

    Raises:
        ArgumentError: results that are no folder.
    """
    from allora_analysis.finetune import data as text_data
    from allora_analysis.finetune import sources

    outputs.refuse_file("--results", arguments.results)
    name = arguments.model_name or sources.name_of(arguments.model)
    data = text_data.load(arguments.data, arguments.data_name)
    wanted = chosen(arguments, name, data.name)
    digests = sources.digests(arguments.model, data.digest, arguments.dry_run)
    known = records.known(arguments.results, STUDY, PROTOCOL, wanted, digests)
    if arguments.dry_run:
        outputs.list_runs((one.words() for one in wanted), known)
    else:  # a run takes minutes: its folder is tried before the first
        outputs.check_folder("--results", arguments.results)
    outputs.say(f"{sum(known)} of {len(wanted)} runs recorded in {arguments.results}")
    todo = [one for one, is_known in zip(wanted, known, strict=True) if not is_known]
    try:
        for one in () if arguments.dry_run else progress(todo, "layers measured"):
            start = time.monotonic()
            runs.run(one, arguments.model, data, digests, arguments.results)
            outputs.say(f"recorded {one.words()}: {time.monotonic() - start:.0f} s")
    except KeyboardInterrupt:
        outputs.remark("interrupted: the same command goes on with the layers that are not recorded")
        return INTERRUPTED
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The experiment's command."""
    name = "python -m experiments.hessian"
    return cli.guarded(lambda: run(cli.parse(Arguments, name, argv)))


if __name__ == "__main__":
    raise SystemExit(main())
