"""What was tried against this toolkit, how often, and what was found: the figures of `docs/hardening.md`.

Each file here tries one kind of harm at scale, for minutes or hours, outside `make test`; it writes what it counted
into `figures.json` beside it, and `python -m tests.hardening` writes the page from that file. Every file starts from a
seed, so that a finding can be seen again.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).with_name("figures.json")


def record(line: str, what: str, command: str, tried: int, unit: str, found: str, lost: str, **more: Any) -> None:
    """Keep a line of the page in place of the one of the same name.

    Args:
        line: its name, which also gives its place.
        what: what was tried, in words.
        command: what repeats it.
        tried: how often.
        unit: of what.
        found: what came out.
        lost: what of a user's was lost, or which answer was wrong.
        **more: `rows`, a table of its own: a list of rows, the first their heads; `note`, a sentence below it.
    """
    lines = read()
    lines[line] = {"what": what, "command": command, "tried": tried, "unit": unit, "found": found, "lost": lost} | more
    FIGURES.write_text(json.dumps(dict(sorted(lines.items())), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read() -> Mapping[str, dict[str, Any]]:
    """The recorded lines, by name."""
    return json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}


def progress(done: int, of: int, words: str = "") -> None:
    """A line on standard error, now and then."""
    if done == of or done % max(of // 20, 1) == 0:
        print(f"{done} of {of}{words}", file=sys.stderr, flush=True)


def command_line(
    command: str,
    doc: str | None,
    only: str,
    add: Mapping[str, Mapping[str, Any]] | None = None,
    **numbers: tuple[int, str],
) -> argparse.Namespace:
    """What a command of this folder was asked for.

    Args:
        command: as it is typed.
        doc: its module's docstring, of which the first line is shown.
        only: what `--only WORD` chooses among, in words; "" for a command that has no `--only`.
        add: further flags, each with argparse's own words.
        **numbers: further flags of a whole number, each with its default and what it is.
    """
    parser = argparse.ArgumentParser(prog=command, description=(doc or "").split("\n\n")[0])
    if only:
        parser.add_argument("--only", default="", metavar="WORD", help=f"a word in the names of {only}")
    for name, (default, words) in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{words} (default: {default:,})")
    for flag, words in (add or {}).items():
        parser.add_argument(flag, **words)
    return parser.parse_args()
