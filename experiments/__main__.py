"""What the experiments recorded, and what is wrong with it: `python -m experiments status [--results FOLDER …]`."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from allora_analysis import cli, records, terminal
from allora_analysis.finetune import setting as finetune
from allora_analysis.gradient_std import grid as gradient_std
from allora_analysis.gradient_std.grid import PROTOCOL
from allora_analysis.validation import ArgumentError
from allora_analysis.zero_initialisation import run as hessian

FOLDERS = (finetune.RESULTS, gradient_std.RESULTS, hessian.RESULTS)
PROTOCOLS = {finetune.STUDY: finetune.PROTOCOL, gradient_std.STUDY: PROTOCOL, hessian.STUDY: hessian.PROTOCOL}


@dataclass(frozen=True)
class Arguments:
    """Count and verify the records, study by study; torn or altered ones are set aside and named (exit status 1)."""

    results: Annotated[tuple[Path, ...], arg(metavar="[FOLDER ...]")] = ()
    """Folders of records, or of such folders, as experiments/results is; default: those of this repository."""


def status(arguments: Arguments) -> int:
    """Print what each folder holds.

    Args:
        arguments: the flags.

    Returns:
        The exit status: 1 if a file is torn.

    Raises:
        ArgumentError: a folder that was asked for is not there.
    """
    for folder in arguments.results:
        if not os.path.isdir(folder):
            raise ArgumentError(f"--results {folder}: is not a folder; name a folder of records")
    folders = [inner for folder in arguments.results for inner in _within(folder)]
    torn = sum(_one(folder) for folder in folders or FOLDERS if os.path.isdir(folder))
    return 1 if torn else 0


def _within(folder: Path) -> list[Path]:
    names = {known.name for known in FOLDERS} & {inner.name for inner in folder.iterdir() if inner.is_dir()}
    return [folder / name for name in sorted(names)] or [folder]


def _one(folder: Path) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", records.SetAsideWarning)  # named below, all of them
        found = records.status(folder, PROTOCOLS)
    terminal.say(f"{folder}:")
    for study, number in found.counts.items():
        terminal.say(
            f"  {study}: {number} records" + ("" if study in PROTOCOLS else ", a study that this version has not")
        )
    if not found.counts:
        terminal.say("  no records")
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
    _named("TORN or altered, in a folder that cannot be written, so they stay where they are", found.torn)
    return len(found.set_aside) + len(found.torn)


def _named(words: str, names: Sequence[str]) -> None:
    if names:
        terminal.say(f"  {len(names)} {words}:")
        for name in names:
            terminal.say(f"    {name}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command.

    Args:
        argv: the words after the command; None for those of this process.

    Returns:
        The exit status.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    program = "python -m experiments status"
    if words[:1] != ["status"] and words[:1] not in (["--help"], ["-h"]):
        names = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
        runs = f"an experiment has a command of its own, python -m experiments.NAME: {', '.join(names)}"
        print(f"error: say {program}; {runs}", file=sys.stderr)
        return 2
    words = words[words[:1] == ["status"] :]
    return cli.guarded(lambda: status(cli.parse(Arguments, program, words)))


if __name__ == "__main__":
    raise SystemExit(main())
