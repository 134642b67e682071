"""The whole ledger on other processors' kernels and other numbers of threads: `python -m tests.hardening.verdicts`.

NumPy's and SciPy's OpenBLAS, oneMKL and ATen choose their kernels by the processor; each is told here to take those of
another. A way is named by what the loaded libraries report: OpenBLAS has the same kernels for several processors, and
may take others than it was asked for. Every row must have the recorded verdict, answer and size.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.hardening import command_line, progress, record

ROOT = Path(__file__).parents[2]
COMMAND = "python -m tests.hardening.verdicts"
RECORDED = ROOT / "allora_analysis" / "claims" / "recorded.json"
OLD_TORCH = {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
WAYS: tuple[dict[str, str], ...] = (
    {"OMP_NUM_THREADS": "2", "OPENBLAS_CORETYPE": "Haswell", "ATEN_CPU_CAPABILITY": "avx2"},
    {"OMP_NUM_THREADS": "4", "OPENBLAS_CORETYPE": "Sandybridge"},
    {"OMP_NUM_THREADS": "1", "OPENBLAS_CORETYPE": "Nehalem"} | OLD_TORCH,
    {"OMP_NUM_THREADS": "1", "OPENBLAS_CORETYPE": "Prescott"} | OLD_TORCH,
)
REPORT = """
import json, numpy, scipy.linalg, torch, threadpoolctl
found = {one["architecture"] for one in threadpoolctl.threadpool_info() if one["internal_api"] == "openblas"}
print(json.dumps([sorted(found), torch.backends.cpu.get_cpu_capability()]))
"""


def loaded(way: dict[str, str]) -> str:
    """A way's name: threads, and the kernels that NumPy's and SciPy's OpenBLAS and ATen say that they run."""
    command = [sys.executable, "-c", REPORT]
    done = subprocess.run(command, env=os.environ | way, capture_output=True, text=True, check=True)
    kernels, aten = json.loads(done.stdout)
    asked = way["OPENBLAS_CORETYPE"]
    said = " and ".join(kernels) + (f", asked for as {asked}" if kernels != [asked] else "")
    return f"{way['OMP_NUM_THREADS']} threads, OpenBLAS {said}, torch {aten}".replace("1 threads", "1 thread")


def differing(
    environment: dict[str, str], flags: tuple[str, ...] = (), fields: tuple[str, ...] = ()
) -> tuple[int, list[str]]:
    """How many rows the ledger has in this environment, and which differ from the recorded: in all, or in these fields.

    With fields, what they came to stands beside a row's name.
    """
    command = [sys.executable, "-m", "allora_analysis", *flags, "--json", "-"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return 0, [f"status {done.returncode}: {done.stderr.strip()[-200:]}"]
    rows, recorded = json.loads(done.stdout)["claims"], json.loads(RECORDED.read_text(encoding="utf-8"))
    seen = {row["id"]: {key: row[key] for key in fields or recorded.get(row["id"], row)} for row in rows}
    known = {name: {key: row[key] for key in fields or row} for name, row in recorded.items()}
    names = sorted(name for name in seen.keys() | known.keys() if seen.get(name) != known.get(name))
    words = {name: " and ".join(map(str, seen.get(name, {}).values())) for name in names}
    return len(rows), [f"{name}: {words[name]}" if fields else name for name in names]


def main() -> int:
    """All ways; which rows differ in which."""
    arguments = command_line(COMMAND, __doc__, "ways; nothing is recorded")
    ways = {name: way for way in WAYS if arguments.only in (name := loaded(way))}
    tried, wrong = 0, []
    for done, (name, way) in enumerate(ways.items(), 1):
        count, differ = differing(os.environ | way)
        tried += count
        wrong += [f"{one} with {name}" for one in differ]
        progress(done, len(ways), f": {name}: {count} rows, differing: {differ}")
    if not arguments.only:
        found = "every verdict, answer and size as recorded"
        if wrong:
            found = f"{len(wrong)} rows differ: {'; '.join(wrong)}"
        what = "the ledger under " + "; ".join(ways)
        record("verdicts", what, COMMAND, tried, f"rows in {len(ways)} ways", found, "nothing")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
