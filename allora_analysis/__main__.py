"""`python -m allora_analysis`: the ledger, a verdict with evidence for each statement of the paper.

Exit status: 0 every check ran, whatever its verdict; 1 a check raised (an error of the toolkit; the rest is printed);
2 a mistake of the caller's; 130 Ctrl-C, after printing what was finished. Checked by `tests/test_ledger.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from allora_analysis import cli, outputs, terminal
from allora_analysis.claims import ledger, presentation
from allora_analysis.study import INTERRUPTED, sweep
from allora_analysis.validation import ArgumentError


@dataclass(frozen=True)
class Arguments:
    """A computed verdict on each statement of the ALLoRA paper, with the evidence for it."""

    only: Annotated[tuple[str, ...] | None, arg(metavar="ID [ID ...]")] = None
    """Check only these claims: ids as the table shows them, or a section (3.1, 3.2, 3.3, 4) for all of its claims."""
    json: Annotated[str | None, arg(metavar="PATH|-")] = None
    """Write the ledger as JSON to this path; - prints it to standard output instead of the table."""
    report: Annotated[Path | None, arg(metavar="PATH.html")] = None
    """Write the ledger as a page to this path: one HTML file that loads nothing from elsewhere."""
    results: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Records of your own runs, for the claims that long runs decide; default: the committed ones. The folder that an
    experiment's --results named, or one that holds finetune/ and gradient_std/."""


def run(arguments: Arguments) -> int:
    """Check the claims asked for, print the ledger and write it.

    Args:
        arguments: the flags.

    Returns:
        The exit status.
    """
    if arguments.json not in (None, "-"):
        outputs.check_writable("--json", Path(arguments.json))
    _check_paths(arguments)
    claims = ledger.select(ledger.all_claims(), arguments.only)
    rows, interrupted = sweep(claims, lambda claim: ledger.examine(claim, arguments.results), "claims checked")
    own = arguments.results is not None
    document = presentation.as_json(rows, own, interrupted)
    terminal.tell(lambda: print(document) if arguments.json == "-" else presentation.show(rows))
    if arguments.json not in (None, "-"):
        outputs.write_text("--json", Path(arguments.json), document + "\n")
    if arguments.report is not None:
        from allora_analysis import report

        outputs.write_text("--report", arguments.report, report.page(rows, own=own, interrupted=interrupted))
    failed = [row for row in rows if row.error is not None]
    for row in failed:
        print(f"error of the toolkit in the check of {row.claim.id}: {row.error}", file=sys.stderr)
    if interrupted:
        print(f"interrupted: {len(rows)} of {len(claims)} claims checked", file=sys.stderr)
        return INTERRUPTED
    return 1 if failed else 0


def _check_paths(arguments: Arguments) -> None:
    if arguments.report is not None:
        if arguments.report.suffix.lower() not in (".html", ".htm"):
            raise ArgumentError(f"--report must end in .html, received {str(arguments.report)!r}")
        outputs.check_writable("--report", arguments.report)
        if arguments.json not in (None, "-"):
            outputs.check_apart({"--json": Path(arguments.json), "--report": arguments.report})
    if arguments.results is not None and not os.path.isdir(arguments.results):
        raise ArgumentError(
            f"--results must be a folder of records, received {str(arguments.results)!r}; "
            "the experiments write one where their own --results says"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """The ledger's command.

    Args:
        argv: the words after the command; None for those of this process.

    Returns:
        The exit status.
    """
    return cli.guarded(lambda: run(cli.parse(Arguments, "python -m allora_analysis", argv)))


if __name__ == "__main__":
    raise SystemExit(main())
