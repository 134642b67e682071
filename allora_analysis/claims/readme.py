"""`python -m allora_analysis.claims.readme README.md`: rewrite the README's ledger from a fresh run of every check.

Checked by `tests/test_readme.py`, which fails when the README and the ledger disagree.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from allora_analysis.claims import ledger, presentation
from allora_analysis.claims.ledger import Row
from allora_analysis.study import progress

BEGIN, END = "<!-- ledger: written by `make readme` -->", "<!-- end of the ledger -->"


def block(rows: Sequence[Row]) -> str:
    """The ledger as Markdown: the counts, then a table with a row for each claim.

    Args:
        rows: the ledger's rows.

    Returns:
        The text between the README's two markers.
    """
    lines = [presentation.summary(rows) + ".", ""]
    lines += [
        "| verdict | where | as printed → corrected, or on what it depends | rerun: `--only` | tests |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        verdict = row.finding.verdict if row.finding else "error"
        statement = presentation.statement_text(row).replace("|", "\\|").replace("\n", "<br>")
        tests = "<br>".join(
            f"`{word.strip()}`" if word.startswith("tests/") else word for word in row.claim.test.split(", ")
        )
        lines.append(f"| **{verdict}** | {row.claim.where} | {statement} | `{row.claim.id}` | {tests} |")
    return "\n".join(lines)


def rewrite(text: str, rows: Sequence[Row]) -> str:
    """A README with its ledger replaced.

    Args:
        text: the README.
        rows: the ledger's rows.

    Returns:
        The new text.

    Raises:
        ValueError: a marker is missing.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"the markers {BEGIN} and {END} are wanted, around the ledger")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return f"{before}{BEGIN}\n{block(rows)}\n{END}{after}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    checked = [ledger.examine(claim) for claim in progress(ledger.all_claims(), "claims checked")]
    path.write_text(rewrite(path.read_text(encoding="utf-8"), checked), encoding="utf-8")
