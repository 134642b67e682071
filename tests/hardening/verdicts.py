"""The whole ledger on other processors' kernels and other numbers of threads: `python -m tests.hardening.verdicts`.

NumPy's and SciPy's OpenBLAS, oneMKL and ATen choose their kernels by the processor; each is told here to take those of
another. Every row must have the recorded verdict, answer and size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.hardening import progress, record

ROOT = Path(__file__).parents[2]
COMMAND = "python -m tests.hardening.verdicts"
RECORDED = ROOT / "allora_analysis" / "claims" / "recorded.json"
WAYS: dict[str, dict[str, str]] = {
    "2 threads, OpenBLAS of Haswell and Zen": {"OMP_NUM_THREADS": "2", "OPENBLAS_CORETYPE": "Haswell"},
    "4 threads, OpenBLAS of Sandy Bridge": {"OMP_NUM_THREADS": "4", "OPENBLAS_CORETYPE": "Sandybridge"},
    "1 thread, OpenBLAS of Katmai, torch without AVX": {
        "OPENBLAS_CORETYPE": "Prescott", "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    },
}  # fmt: skip


def differing(environment: dict[str, str], prefix: tuple[str, ...] = (), cwd: Path = ROOT) -> tuple[int, list[str]]:
    """How many rows the ledger has in this environment, and what differs from the recorded."""
    command = [*prefix, sys.executable, "-m", "allora_analysis", "--json", "-"]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return 0, [f"status {done.returncode}: {done.stderr.strip()[-200:]}"]
    rows, recorded = json.loads(done.stdout)["claims"], json.loads(RECORDED.read_text(encoding="utf-8"))
    seen = {row["id"]: {key: row[key] for key in recorded.get(row["id"], row)} for row in rows}
    return len(rows), sorted(name for name in seen.keys() | recorded.keys() if seen.get(name) != recorded.get(name))


def main() -> int:
    """All ways; a table of which rows differ."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", default="", help="a word in the names of ways; nothing is recorded")
    arguments = parser.parse_args()
    names = [name for name in WAYS if arguments.only in name]
    rows, tried, wrong = [["way", "rows", "differ"]], 0, 0
    for done, name in enumerate(names, 1):
        count, differ = differing(os.environ | {"OMP_NUM_THREADS": "1"} | WAYS[name])
        rows.append([name, f"{count:,}", ", ".join(differ) or "none"])
        tried, wrong = tried + count, wrong + len(differ)
        progress(done, len(names), f": {name}: {count} rows, differing: {differ}")
    if not arguments.only:
        found = "every verdict, answer and size as recorded" if not wrong else f"{wrong:,} rows differ"
        what = "the ledger under 1, 2 and 4 threads and other processors' kernels"
        record("verdicts", what, COMMAND, tried, f"rows in {len(names)} ways", found, "nothing", rows=rows)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
