"""The ledger in a terminal: a table of answers, one row in full, a list. Checked by `tests/test_ledger.py`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from allora_analysis import outputs
from allora_analysis.claims.claim import Claim, Evidence
from allora_analysis.render.size import outwards, size_text
from allora_analysis.render.view import SETTING, View, line, recorded, said_by, sentence, summary
from allora_analysis.study import plain, text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

COLOURS = {
    "holds": "green",
    "holds_corrected": "cyan",
    "conditional": "yellow",
    "refuted": "red",
    "undecided": "magenta",
    "not_run": "bright_black",
}
WIDTH = 140  # characters, where standard output is no terminal
ENOUGH = 100  # for five columns
INDENT = 4  # of what stands below a row's id in the list


def evidence_text(evidence: Evidence) -> str:
    """An evidence in one line: cases, the error beside its tolerance or the interval, n; else two numbers by name."""
    parts = [] if evidence.cases is None else [f"{evidence.cases} case{'s' * (evidence.cases != 1)}"]
    if evidence.error is not None:
        limit = "" if evidence.tolerance is None else f" (allowed {text(evidence.tolerance, 2)})"
        parts.append(f"error {text(evidence.error, 2)}{limit}")
    if evidence.interval is not None:
        ends = (text(outwards(end, 3, bool(up)), 3) for up, end in enumerate(evidence.interval))
        parts.append("interval [{}, {}]".format(*ends))
    if not parts:
        parts = [f"{name}: {number}" for name, number in list(_numbers(evidence.measured).items())[:2]]
    if evidence.n is not None:
        parts.append(f"n = {evidence.n}")
    return ", ".join(parts)


def sourced(evidence: Evidence | None) -> str:
    """The same, and what its tolerance or its interval is."""
    return "; ".join(filter(None, (evidence_text(evidence), evidence.tolerance_source))) if evidence else ""


def _numbers(measured: Mapping[str, Any]) -> dict[str, str]:
    scalars = {name: plain(value) for name, value in measured.items()}
    return {
        name: str(value) if isinstance(value, bool) else text(value, 3)
        for name, value in scalars.items()
        if isinstance(value, int | float)
    }


def table(of: Sequence[View], narrow: bool = False) -> Table:
    """The answers: verdict, id, answer, whether it is true at the paper's setting, how large the effect is."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.HORIZONTALS, show_lines=narrow)
    headings = (
        ("verdict, id", "answer")
        if narrow
        else ("verdict", "id", "answer", SETTING.replace(" the paper's ", "\nthe\npaper's\n"), "size")
    )
    for heading in headings:
        fixed = heading.startswith(("verdict", "id", "true"))
        grid.add_column(heading, overflow="fold", no_wrap=fixed and not narrow, ratio=None if fixed else 1)
    for one in of:
        verdict = Text(one.word, style=COLOURS.get(one.word, "bold red"))
        cells = [verdict, Text(one.id), Text(one.answer), Text(one.setting), Text(size_text(one.size))]
        if narrow:
            below = [Text(f"{SETTING}: {one.setting}")] if one.at_paper is not None else []
            cells = [Text("\n").join(cells[:2]), Text("\n").join([cells[2], *below, *[c for c in cells[4:] if c]])]
        grid.add_row(*cells)
    return grid


def _in_full(one: View) -> Iterator[tuple[str, str]]:
    # Label and text of each thing that a row holds.
    yield said_by(one.where) or "the paper says", f"{one.statement}  ({one.where})"
    yield from ((label.lower(), words) for label, words in one.told.items())
    yield "evidence", sourced(one.evidence)
    yield from (("rests on", ", ".join(one.depends_on)), ("supports", ", ".join(one.supports)))
    at = line(one)
    yield from (("check", f"{one.check} (line {at})" if at else one.check or ""), ("code", ", ".join(one.code)))
    yield from (("tests", one.test), ("rerun", one.command))


def _print_in_full(console: Console, of: Sequence[View]) -> None:
    from rich.table import Table
    from rich.text import Text

    for one in of:
        heading = Text.assemble((one.word, COLOURS.get(one.word, "bold red")), "  ", (one.id, "bold"), "  ", one.answer)
        console.print(heading, highlight=False)
        grid = Table.grid(padding=(0, 0, 0, 2), pad_edge=True)
        grid.add_column(style="dim", width=18)
        grid.add_column(overflow="fold")
        for label, words in _in_full(one):
            if words:
                grid.add_row(Text(label), Text(words))
        console.print(grid)
        console.print()


def show(of: Sequence[View], long: bool = False) -> None:
    """Print the ledger to standard output, in color if it is a terminal."""
    console = outputs.console(None if sys.stdout.isatty() else WIDTH)
    if long:
        _print_in_full(console, of)
    else:
        console.print(table(of, narrow=console.width < ENOUGH))
    console.print(summary(of), highlight=False)
    if not long:
        console.print("One row in full: --only ID; all of them: --long.", highlight=False, style="dim")


def none(verdicts: Sequence[str]) -> str:
    """What is said where no claim has one of the verdicts asked for."""
    return f"None of the claims asked for is {' or '.join(verdicts)}."


def show_list(claims: Sequence[Claim], verdicts: Sequence[str]) -> None:
    """Print claims, each with its statement and the answer that the last full run recorded; nothing is run."""
    from rich.text import Text

    known = {name: one for name, one in recorded().items() if one["verdict"] in verdicts}
    shown = [claim for claim in claims if claim.id in known]
    if not shown:
        print(none(verdicts))
    console = outputs.console(None if sys.stdout.isatty() else WIDTH)
    for claim in shown:
        verdict, answer = known[claim.id]["verdict"], known[claim.id]["answer"]
        console.print(Text.assemble((claim.id, "bold"), "  ", (verdict, COLOURS[verdict])))
        for words, style in ((sentence(claim.statement, claim.where), "dim"), (answer, "")):
            for written in Text(words, style=style).wrap(console, max(console.width - INDENT, 20)):
                written.rstrip()
                console.print(Text(INDENT * " ").append_text(written))
