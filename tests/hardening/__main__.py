"""The page of what was tried, from the recorded figures: `python -m tests.hardening` writes `docs/hardening.md`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.hardening import read

PAGE = Path(__file__).parents[2] / "docs" / "hardening.md"
TOP = """# What was tried against this toolkit, how often, and what was lost

Each line is a figure that its command prints again, in minutes to hours; `make test`
runs a small share of it. What a line found when it was first run was mended with its class, and CHANGELOG names it.

| what | how many | found | lost | command |
|---|---|---|---|---|
"""
OTHERS = """
Beside it, what trusted systems of the kind state: TensorFlow Probability's statistical tests fail falsely, and pass
falsely, with probability 1e-6; SciPy compares its special functions with mpmath at some thousands of points; SQLite
crashes and fails the disk at every write of its tests.
"""


def page() -> str:
    """The page's text."""
    lines, tables = read(), []
    rows = [
        f"| {one['what']} | {one['tried']:,} {one['unit']} | {one['found']} | {one['lost']} | `{one['command']}` |"
        for one in lines.values()
    ]
    for one in lines.values():
        if "rows" in one:
            head, *body = [[str(cell).replace("|", "\\|") for cell in row] for row in one["rows"]]
            table = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body)]
            tables.append(f"\n## {one['what'][0].upper()}{one['what'][1:]}\n\n" + "\n".join(table) + "\n")
    return TOP + "\n".join(rows) + "\n" + OTHERS + "".join(tables)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"written: {PAGE.name}", file=sys.stderr)
