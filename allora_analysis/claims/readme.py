"""`python -m allora_analysis.claims.readme README.md docs/ledger.md`: the verdicts in prose, from a fresh run.

The README gets the counts by section and the rows of `SELECTED`, between two markers; the ledger's page is written
whole, with a row for each claim. Checked by `tests/test_readme.py`, which fails when either and the ledger disagree.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from allora_analysis import outputs
from allora_analysis.claims import behind, ledger, presentation
from allora_analysis.claims.ledger import VERDICTS, Row
from allora_analysis.study import progress

BEGIN, END = "<!-- ledger: written by `make readme` -->", "<!-- end of the ledger -->"
PARTS = {
    "3.1": "§3.1, dropout",
    "3.2": "§3.2, initialisation at zero",
    "3.3": "§3.3, the ripple effect",
    "4": "§4, ALLoRA",
}
REPORTED = "Tables 1–4, Figures 3–4 and their prose, as reported"
SELECTED = (
    "3.1-general-spectrum",
    "3.1-sgd-expectation",
    "3.1-figure-1",
    "3.2-start-conditioning",
    "3.2-saddle-lora",
    "3.2-escape",
    "3.3-worst-case",
    "3.3-typical",
    "4-figure-2-right",
    "4-descent",
    "4-two-hyper-parameters",
    "D-universally-better",
    "4.4-better-than-lora",
    "4-table-3-desk",
    "4-own-best-rate",
)
"""What a reader with one minute wants to know: the three flaws, the layer, what the tables show, what our runs show."""


def part(row: Row) -> str:
    """The part of the paper that a row belongs to: one of `PARTS`, or the results as the paper reports them.

    Args:
        row: the row.

    Returns:
        The part's title.
    """
    return PARTS.get(ledger.section(row.claim), REPORTED)


def by_part(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows by the part of the paper, in the paper's order.

    Args:
        rows: the rows.

    Returns:
        Those of each part; no part without rows.
    """
    parts = {title: [row for row in rows if part(row) == title] for title in (*PARTS.values(), REPORTED)}
    return {title: members for title, members in parts.items() if members}


def verdict(row: Row) -> str:
    """A row's verdict; "error" where its check raised.

    Args:
        row: the row.

    Returns:
        The word.
    """
    return row.finding.verdict if row.finding else "error"


def counts(rows: Sequence[Row]) -> str:
    """How many claims of each part have each verdict, as a Markdown table.

    Args:
        rows: the rows.

    Returns:
        A row for each part and one for all; a column for each verdict that occurs.
    """
    shown = [word for word in (*VERDICTS, "error") if any(verdict(row) == word for row in rows)]
    lines = [_line(["", "claims", *(f"`{word}`" for word in shown)]), _line(["---", *["---:"] * (1 + len(shown))])]
    for title, members in (*by_part(rows).items(), ("**all**", rows)):
        count = Counter(map(verdict, members))
        lines.append(_line([title, str(len(members)), *(str(count[word] or "") for word in shown)]))
    return "\n".join(lines)


HEADING = ("verdict", "where", "as printed → corrected, or on what it depends", "rerun: `--only`", "code", "tests")


def table(rows: Sequence[Row], columns: int = len(HEADING)) -> str:
    """Rows of the ledger as a Markdown table.

    Args:
        rows: the rows.
        columns: how many of `HEADING`, from the left.

    Returns:
        The table, with a row for each claim.
    """
    lines = [HEADING, ["---"] * len(HEADING), *map(_claim, rows)]
    return "\n".join(_line(line[:columns]) for line in lines)


def block(rows: Sequence[Row], selected: Sequence[str] = SELECTED) -> str:
    """What the README shows of the ledger: the counts by part, and the selected rows.

    Args:
        rows: the ledger's rows.
        selected: the ids of the rows to show, in the order wanted.

    Returns:
        The text between the README's two markers.

    Raises:
        ValueError: an id that the ledger does not have.
    """
    known = {row.claim.id: row for row in rows}
    if missing := [name for name in selected if name not in known]:
        raise ValueError(f"selected claims that the ledger does not have: {', '.join(missing)}")
    shown = table([known[name] for name in selected], HEADING.index("code"))
    return "\n\n".join([presentation.summary(rows) + ".", counts(rows), shown])


def page(rows: Sequence[Row]) -> str:
    """The whole ledger as a Markdown page, part by part.

    Args:
        rows: the ledger's rows.

    Returns:
        The page.
    """
    about = "Written by `make readme` from a fresh run of every check. The verdicts explained: [README](../README.md)."
    parts = [f"## {title}\n\n{table(members)}" for title, members in by_part(rows).items()]
    return "\n\n".join(["# The ledger", about, presentation.summary(rows) + ".", counts(rows), *parts]) + "\n"


def rewrite(text: str, rows: Sequence[Row], selected: Sequence[str] = SELECTED) -> str:
    """A README with its ledger replaced.

    Args:
        text: the README.
        rows: the ledger's rows.
        selected: the ids of the rows to show.

    Returns:
        The new text.

    Raises:
        ValueError: a marker is missing.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"the markers {BEGIN} and {END} are wanted, around the ledger")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return f"{before}{BEGIN}\n{block(rows, selected)}\n{END}{after}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    # |, * and < mean something to Markdown wherever they stand, _ where no letter stands before it (‖·‖_F).
    return re.sub(r"[|*]|(?<!\w)_", r"\\\g<0>", text).replace("<", "&lt;")


def _claim(row: Row) -> list[str]:
    statement = _escape(presentation.statement_text(row)).replace("\n", "<br>")
    code = "<br>".join(f"`{name.removeprefix(behind.PACKAGE)}`" for name in behind.modules(row.claim))
    words = (word.strip() for word in row.claim.test.split(", "))
    tests = "<br>".join(f"`{word}`" if word.startswith("tests/") else word for word in words)
    return [f"**{verdict(row)}**", _escape(row.claim.where), statement, f"`{row.claim.id}`", code, tests]


if __name__ == "__main__":
    checked = [ledger.examine(claim) for claim in progress(ledger.all_claims(), "claims checked")]
    readme, full = map(Path, sys.argv[1:])
    # Read after the checks, which take a while: another hand may have written into the README meanwhile.
    outputs.write_text("README", readme, rewrite(readme.read_text(encoding="utf-8"), checked))
    outputs.write_text("ledger", full, page(checked))
