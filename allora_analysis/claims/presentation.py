"""The ledger as a table and as JSON. Checked by `tests/test_ledger.py`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from allora_analysis import terminal
from allora_analysis.claims.ledger import VERDICTS, Evidence, Row
from allora_analysis.study import environment, plain, text

if TYPE_CHECKING:
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
ENOUGH = 110  # for four columns
STATEMENT = "as printed → corrected, or on what it depends"
WIDE = {"verdict": {"no_wrap": True}, "claim": {"width": 30}, STATEMENT: {"ratio": 1}, "evidence": {"width": 28}}
NARROW = {"verdict, claim": {"width": 18}, f"{STATEMENT}; evidence": {"ratio": 1}}


def evidence_text(evidence: Evidence) -> str:
    """An evidence's cell: the error beside its tolerance, or the interval, and n.

    Args:
        evidence: the evidence.

    Returns:
        One short line; empty where nothing was run.
    """
    parts = []
    if evidence.error is not None:
        limit = "" if evidence.tolerance is None else f" (allowed {text(evidence.tolerance, 2)})"
        parts.append(f"error {text(evidence.error, 2)}{limit}")
    if evidence.interval is not None:
        parts.append("interval [{}, {}]".format(*(text(end, 3) for end in evidence.interval)))
    if not parts:
        parts = [f"{name}: {number}" for name, number in list(_numbers(evidence.measured).items())[:2]]
    if evidence.n is not None:
        parts.append(f"n = {evidence.n}")
    return ", ".join(parts)


def _numbers(measured: Mapping[str, Any]) -> dict[str, str]:
    scalars = {name: plain(value) for name, value in measured.items()}
    return {
        name: str(value) if isinstance(value, bool) else text(value, 3)
        for name, value in scalars.items()
        if isinstance(value, int | float)
    }


def statement_text(row: Row) -> str:
    """A row's statement as printed; below it the correction, the condition or the command that decides it.

    Args:
        row: the row.

    Returns:
        One or two lines.
    """
    if row.finding is None:
        return f"{row.claim.statement}\n→ the check failed: {row.error}"
    below = row.finding.corrected or ("run: " + row.claim.command if row.finding.verdict == "not_run" else None)
    return row.claim.statement if below is None else f"{row.claim.statement}\n→ {below}"


def table(rows: Sequence[Row], narrow: bool = False) -> Table:
    """The ledger's table, verdict first.

    Args:
        rows: the rows.
        narrow: two columns, the place under the verdict and the evidence under the statement.

    Returns:
        A rich table.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.HORIZONTALS, show_lines=True)
    for heading, options in (NARROW if narrow else WIDE).items():
        grid.add_column(heading, overflow="fold", **options)
    for row in rows:
        verdict = row.finding.verdict if row.finding else "error"
        evidence = evidence_text(row.finding.evidence) if row.finding else ""
        where = f"{row.claim.id}\n{row.claim.where}"
        style = COLOURS.get(verdict, "bold red")
        cells = Text(verdict, style=style), Text(where), Text(statement_text(row)), Text(evidence)
        if narrow:
            cells = Text("\n").join(cells[:2]), Text("\n").join(cell for cell in cells[2:] if cell)
        grid.add_row(*cells)
    return grid


def summary(rows: Sequence[Row]) -> str:
    """The verdicts counted, in one line.

    Args:
        rows: the rows.

    Returns:
        For example "12 holds, 3 refuted".
    """
    counts = Counter(row.finding.verdict if row.finding else "error" for row in rows)
    return f"{len(rows)} claims: " + ", ".join(f"{counts[v]} {v}" for v in (*VERDICTS, "error") if counts[v])


def show(rows: Sequence[Row]) -> None:
    """Print the ledger to standard output, in colour if it is a terminal.

    Args:
        rows: the rows.
    """
    console = terminal.console(None if sys.stdout.isatty() else WIDTH)
    console.print(table(rows, narrow=console.width < ENOUGH))
    console.print(summary(rows), highlight=False)


def as_json(rows: Sequence[Row], own: bool = False, interrupted: bool = False) -> str:
    """The ledger's document: {"claims": [...], "environment": {...}}; a check that raised has verdict null and "error".

    Args:
        rows: the rows.
        own: whether rows that read records read the caller's own; "own_records": true then says so.
        interrupted: whether others were to follow; "interrupted": true then says so.

    Returns:
        The document, indented, without NaN.
    """
    document = {"claims": [_entry(row) for row in rows], "environment": environment()}
    document |= {name: True for name, so in (("own_records", own), ("interrupted", interrupted)) if so}
    return json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)


def _entry(row: Row) -> dict[str, Any]:
    claim, finding = row.claim, row.finding
    entry = {"id": claim.id, "where": claim.where, "statement": claim.statement}
    entry |= {"verdict": finding and finding.verdict, "corrected": finding and finding.corrected}
    entry |= {"evidence": finding and finding.evidence, "command": claim.command, "test": claim.test}
    if row.error is not None:
        entry["error"] = row.error
    return plain(entry)
