"""The whole ledger on other draws of its cases: `python -m tests.hardening.redraws`.

A verdict is that of its statement and not of its seed: with `--seed N` every row that draws its cases draws others,
and must come to the recorded verdict, and to the same answer at the paper's own setting.
"""

from __future__ import annotations

import json
import subprocess
import sys

from tests.hardening import command_line, progress, record
from tests.hardening.verdicts import RECORDED, ROOT

COMMAND = "python -m tests.hardening.redraws"
KEPT = ("verdict", "at_paper")


def differing(seed: int) -> tuple[int, list[str]]:
    """How many rows the ledger has on this seed, and which come to something else than is recorded."""
    command = [sys.executable, "-m", "allora_analysis", "--seed", str(seed), "--json", "-"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return 0, [f"status {done.returncode}: {done.stderr.strip()[-200:]}"]
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    rows = {row["id"]: row for row in json.loads(done.stdout)["claims"]}
    return len(rows), [
        f"{name}: {' and '.join(str(row[key]) for key in KEPT)}"
        for name, row in rows.items()
        if any(row[key] != recorded[name][key] for key in KEPT)
    ]


def main() -> int:
    """Seeds 1, 2, …; a table of which rows differ on which."""
    arguments = command_line(COMMAND, __doc__, "", seeds=(20, "how many other seeds"))
    rows, tried, wrong = [["seed", "rows", "differ"]], 0, 0
    for seed in range(1, arguments.seeds + 1):
        count, differ = differing(seed)
        rows.append([str(seed), f"{count:,}", "; ".join(differ) or "none"])
        tried, wrong = tried + count, wrong + len(differ)
        progress(seed, arguments.seeds, f": {count} rows, differing: {differ}")
    found = "every verdict as on the recorded seed" if not wrong else f"{wrong:,} rows differ"
    what = "the ledger on other draws of all its cases"
    record("redraws", what, COMMAND, tried, f"rows on {arguments.seeds} seeds", found, "nothing", rows=rows)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
