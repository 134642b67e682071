"""Coverage by line and by branch, a test file at a time: `python -m tests.hardening.branches`.

Each test file runs in a child of one session, in one process; what it covered is kept in `.coverage_mutants/`, so that
a run that was stopped goes on with the next file. What child processes of the tests run is not counted.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from pathlib import Path

from tests.hardening import forks, record

COMMAND = "python -m tests.hardening.branches"
LONGEST = 1e5  # seconds: no test is stopped


def covered(files: list[str]) -> dict[str, dict[str, int]]:
    """Lines and branches, and how many of each ran in these test files, per part of the package."""
    from coverage import Coverage

    with tempfile.TemporaryDirectory() as folder:
        settings = {"config_file": str(forks.ROOT / "pyproject.toml"), "data_file": f"{folder}/data", "branch": True}
        both = Coverage(**settings)
        kept = [str(forks.KEPT / f"{name}.coverage") for name in (forks.IMPORTED, *files)]
        both.combine(kept, keep=True)
        both.json_report(outfile=f"{folder}/report.json", contexts=None)
        report = json.loads(Path(f"{folder}/report.json").read_text(encoding="utf-8"))
    parts: dict[str, dict[str, int]] = {}
    for path, found in report["files"].items():
        part = Path(path).relative_to("allora_analysis").parts[0].removesuffix(".py")
        sums = parts.setdefault(part, dict.fromkeys(COUNTS, 0))
        for key in COUNTS:
            sums[key] += found["summary"][key]
    return parts


COUNTS = ("num_statements", "covered_lines", "num_branches", "covered_branches")


def _share(counts: dict[str, int]) -> tuple[str, str]:
    lines, ran, branches, taken = (counts[key] for key in COUNTS)
    return f"{ran / max(lines, 1):.1%}", f"{taken / branches:.1%}" if branches else ""


def main() -> int:
    """All test files that `make test` runs."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.parse_args()
    import matplotlib, pytest, scipy.integrate, scipy.optimize, scipy.stats, torch  # noqa: E401, F401, I001

    torch.set_num_threads(1)
    files = sorted(path.name for path in (forks.ROOT / "tests").glob("test_*.py"))
    told = forks.teller()
    measured = multiprocessing.get_context("fork").Process(target=forks.measure, args=(files, told, LONGEST))
    measured.start()
    measured.join()
    parts = covered(files)
    total = {key: sum(counts[key] for counts in parts.values()) for key in COUNTS}
    rows = [["part", "lines", "branches"], *([name, *_share(counts)] for name, counts in sorted(parts.items()))]
    lines, branches = _share(total)
    found = f"{lines} of lines and {branches} of branches run"
    record(
        "branches", "coverage by branch, in one process", COMMAND, total["num_branches"], "branches", found, "nothing",
        rows=rows,
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
