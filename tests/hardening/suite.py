"""The whole suite, by branch, where everything is missing at once: `python -m tests.hardening.suite`, as root.

Another user, for whom the source tree is read-only and who has no home, without a network, on a terminal that can
nothing, 40 columns wide, without UTF-8. `make test` has what a developer has; a test that needs more than this fails
here. What the tests' child processes run is counted, as in `make test`.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.hardening import command_line, record
from tests.hardening.machines import NOBODY, ROOT, Machine, environment

COMMAND = "python -m tests.hardening.suite"
BARE = Machine(
    {"TERM": "dumb", "LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "40"}
    | {"HOME": "/nonexistent", "XDG_CACHE_HOME": None, "MPLCONFIGDIR": None},
)
OFFLINE = (
    "unshare",
    "-n",
    "sh",
    "-c",
    'ip link set lo up && exec "$@"',
    "sh",
)  # the loopback alone, for process groups
COUNTS = ("num_statements", "covered_lines", "num_branches", "covered_branches")


def covered(report: Path) -> dict[str, dict[str, int]]:
    """Lines and branches, and how many of each ran, per part of the package."""
    parts: dict[str, dict[str, int]] = {}
    for path, found in json.loads(report.read_text(encoding="utf-8"))["files"].items():
        part = Path(path).relative_to("allora_analysis").parts[0].removesuffix(".py")
        sums = parts.setdefault(part, dict.fromkeys(COUNTS, 0))
        for key in COUNTS:
            sums[key] += found["summary"][key]
    return parts


def _share(counts: dict[str, int]) -> tuple[str, str]:
    lines, ran, branches, taken = (counts[key] for key in COUNTS)
    return f"{ran / max(lines, 1):.1%}", f"{taken / branches:.1%}" if branches else ""


def main() -> int:
    """The suite; its last line and its failures are printed."""
    arguments = command_line(
        COMMAND, __doc__, "", {"files": {"nargs": "*", "help": "these alone; nothing is recorded"}}
    )
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        report = Path(folder) / "report.json"
        settings = Path(folder) / "pyproject.toml"
        settings.write_text(
            (ROOT / "pyproject.toml").read_text("utf-8").replace("branch = false", "branch = true"), "utf-8"
        )
        words = f"-q -p no:cacheprovider -n auto --dist worksteal --cov --cov-config={settings}".split()
        command = [*OFFLINE, *NOBODY.split(), sys.executable, "-m", "pytest", *words, f"--cov-report=json:{report}"]
        own = environment(BARE, Path(folder)) | {"COVERAGE_FILE": f"{folder}/coverage"}
        done = subprocess.run([*command, *arguments.files], cwd=ROOT, env=own, capture_output=True, text=True)
        parts = covered(report) if report.exists() else {}
    print(*(line for line in done.stdout.splitlines() if re.match("FAILED|ERROR|.* in [0-9.]+s", line)), sep="\n")
    print(done.stderr[-2000:], file=sys.stderr)
    ends = {
        name: int(count) for count, name in re.findall(r"(\d+) (passed|failed|error)", done.stdout.splitlines()[-1])
    }
    if not arguments.files:
        what = "the whole suite as another user without a home, offline, TERM=dumb, LANG=C, 40 columns, all at once"
        found = "all pass" if not done.returncode else f"{ends.get('failed', 0) + ends.get('error', 0)} fail"
        record("suite", what, COMMAND, sum(ends.values()), "tests", found, "nothing")
        total = {key: sum(counts[key] for counts in parts.values()) for key in COUNTS}
        rows = [["part", "lines", "branches"], *([name, *_share(counts)] for name, counts in sorted(parts.items()))]
        found = "{} of lines and {} of branches run".format(*_share(total))
        record(
            "branches", "coverage by branch", COMMAND, total["num_branches"], "branches", found, "nothing", rows=rows
        )
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
