"""`python -m allora_analysis`: the ledger, a verdict with evidence for each statement of the paper.

Exit status: 0 every check ran, whatever its verdict; 1 a check raised (an error of the toolkit; the rest is printed);
2 a mistake of the caller's; 130 Ctrl-C, after printing what was finished. Checked by `tests/test_ledger.py`.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from allora_analysis import cli, outputs
from allora_analysis.claims import ledger
from allora_analysis.claims.claim import VERDICTS, Claim
from allora_analysis.render import terminal as written
from allora_analysis.render.view import View, as_json, views
from allora_analysis.study import INTERRUPTED
from allora_analysis.validation import ArgumentError, choice, count


@dataclass(frozen=True)
class Arguments:
    """What came out of checking each statement of the ALLoRA paper: the answer, how large the effect is, and whether
    the statement is true at the paper's setting. One row in full: --only 3.1-sgd-expectation. What failed:
    --verdict refuted. One section: --section 3.3. Nothing run: --list.

    For one part of the paper, each with its --help: python -m allora_analysis.tikhonov (dropout as ridge), .deviation
    (averages over masks), .dropout_sgd (few steps), .gradient_std (Figure 1), .hessian (starting at zero), .ripple
    (depth), .escape (leaving zero), .width (width and rank), .finetune (one run). On your own training: .doctor. For
    .adaptors, .adaptive, .lora and .grid see their own --help.
    """

    only: Annotated[tuple[str, ...] | None, arg(metavar="ID [ID ...]")] = None
    """Check only these claims, and show each in full: ids as the table shows them, or a section for its claims."""
    section: Annotated[tuple[str, ...] | None, arg(metavar="3.1 [3.2 ...]")] = None
    """Check only these sections; 3.1, 3.2, 3.3 and 4 are the paper's, T1 to T4, F3, F4, … its tables and figures."""
    verdict: Annotated[str | None, arg(metavar="WORD[,WORD...]")] = None
    """Show only rows of these verdicts: holds, holds_corrected, conditional, refuted (as it is read; where that is a
    less kind reading, a kinder one is a row of its own), undecided, not_run."""
    long: bool = False
    """Show every row in full: the printed sentence, size, correction, condition, evidence, code, tests."""
    list: bool = False
    """List ids and the recorded answers, of a --verdict or --section if given; runs nothing."""
    seed: int = 0
    """Seed of every draw of cases; the verdicts are the same under others."""
    json: Annotated[str | None, arg(metavar="PATH|-")] = None
    """Write the ledger as JSON to this path; - prints it to standard output instead of the table."""
    report: Annotated[Path | None, arg(metavar="PATH.html")] = None
    """Write the ledger as a page to this path: one HTML file that loads nothing from elsewhere."""
    results: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Records of your own runs: an experiment's --results, or a folder of finetune/, gradient_std/; default: ours."""


_OF_A_RUN = ("json", "report", "results", "long", "seed")


def _wanted(arguments: Arguments) -> tuple[str, ...]:
    words = VERDICTS if arguments.verdict is None else tuple(arguments.verdict.split(","))
    for word in words:
        choice("--verdict", word, VERDICTS)
    return words


def _claims(arguments: Arguments) -> tuple[Claim, ...]:
    everything = ledger.all_claims()
    inside = {claim.id for claim in ledger.select(everything, arguments.section, "--section")}
    claims = tuple(claim for claim in ledger.select(everything, arguments.only) if claim.id in inside)
    if not claims:
        raise ArgumentError(
            f"--section {' '.join(arguments.section or ())}: holds no claim of --only's; drop one of them"
        )
    return claims


def run(arguments: Arguments) -> int:
    """Check the claims asked for, print the ledger and write it."""
    _check(arguments)
    if arguments.json not in (None, "-"):
        outputs.check_writable("--json", Path(arguments.json))
    claims, words = _claims(arguments), _wanted(arguments)
    if arguments.list:
        outputs.tell(lambda: written.show_list(claims, words))
        return 0
    rows, interrupted = ledger.run(claims, arguments.results, arguments.seed)
    shown = [row for row in rows if row.finding is None or row.finding.verdict in words]
    _write(arguments, shown, interrupted)
    failed = [row for row in rows if row.error is not None]
    for row in failed:
        print(f"error of the toolkit in the check of {row.claim.id}: {row.error}", file=sys.stderr)
    if interrupted:
        print(f"interrupted: {len(rows)} of {len(claims)} claims checked", file=sys.stderr)
        return INTERRUPTED
    return 1 if failed else 0


def _write(arguments: Arguments, rows: Sequence[ledger.Row], interrupted: bool) -> None:
    of, own = views(rows), arguments.results is not None
    document = as_json(of, own, interrupted)
    whole = _in_full(arguments, of)
    if arguments.json == "-":
        outputs.tell(lambda: outputs.print_json(document))
    elif not rows and arguments.verdict is not None and not interrupted:
        outputs.say(written.none(_wanted(arguments)))
    else:
        outputs.tell(lambda: written.show(of, whole))
    if arguments.json not in (None, "-"):
        outputs.write_text("--json", Path(arguments.json), document + "\n")
    if arguments.report is not None:
        from allora_analysis.render import html

        outputs.write_text("--report", arguments.report, html.page(rows, own=own, interrupted=interrupted))


def _in_full(arguments: Arguments, of: Sequence[View]) -> bool:
    return arguments.long or (arguments.only is not None and {one.id for one in of} <= set(arguments.only))


def _check(arguments: Arguments) -> None:
    count("--seed", arguments.seed, minimum=0)
    of_a_run = [name for name in _OF_A_RUN if getattr(arguments, name) != getattr(Arguments, name)]
    if arguments.list and of_a_run:
        raise ArgumentError(f"--{of_a_run[0]} is for a run, and --list runs nothing; leave one of the two out")
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
    """The ledger's command."""
    bare = "claims and sections are named after --only: --only 3.3-worst-case"
    return cli.guarded(lambda: run(cli.parse(Arguments, "python -m allora_analysis", argv, bare)))


if __name__ == "__main__":
    raise SystemExit(main())
