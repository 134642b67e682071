"""Commands and tests on other terminals and machines: `python -m tests.hardening.machines`, as root.

Under each environment: the ledger's command, a study and a refusal; with `--tests` those test files too. A command
must end with its status and without a traceback, say the same as in the ordinary environment (but for the width), and
leave the source tree as it was, so nothing else may work in it meanwhile.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.hardening import command_line, progress, record

ROOT = Path(__file__).parents[2]
COMMAND = "python -m tests.hardening.machines"
WORDS = {
    "the ledger": ("allora_analysis --only 3.1-expectation 3.1-minimiser", 0),
    "a study": ("allora_analysis.tikhonov --draws 100", 0),
    "a refusal": ("allora_analysis.tikhonov --keep-prob 2", 2),
}
TESTS = ("tests/test_outputs.py", "tests/test_finetune_study.py", "tests/test_study.py")
NOBODY = (
    "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=+dac_read_search --ambient-caps=+dac_read_search"
)


class Machine(NamedTuple):
    """An environment: variables set (None: removed), the words before a command, and whether the width is another."""

    variables: dict[str, str | None]
    prefix: str = ""
    narrow: bool = False


MACHINES = {
    "TERM=dumb": Machine({"TERM": "dumb"}),
    "no TERM": Machine({"TERM": None}),
    "no HOME": Machine({"HOME": None}),
    "a HOME that is not there": Machine({"HOME": "/nonexistent", "XDG_CACHE_HOME": None, "MPLCONFIGDIR": None}),
    "LANG=C, no UTF-8": Machine({"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "40 columns": Machine({"COLUMNS": "40"}, narrow=True),
    "another user, for whom the source tree is read-only": Machine({"HOME": "/nonexistent"}, NOBODY),
    "one core": Machine({}, "taskset -c 0"),
    "offline": Machine({}, "unshare -n"),
}


def environment(machine: Machine, home: Path) -> dict[str, str]:
    """The variables that a command has there; `home` is where it may write."""
    base = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    base |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(home)}
    changed = {key: value for key, value in machine.variables.items() if value is not None}
    return {key: value for key, value in (base | changed).items() if machine.variables.get(key, "") is not None}


def said(machine: Machine, words: str, home: Path) -> subprocess.CompletedProcess[bytes]:
    """A command's end, from an empty folder."""
    (home / "empty").mkdir(exist_ok=True)
    command = [*machine.prefix.split(), sys.executable, "-m", *words.split()]
    return subprocess.run(command, cwd=home / "empty", env=environment(machine, home), capture_output=True, check=False)


def wrong(machine: Machine, plain: dict[str, bytes], home: Path, tests: tuple[str, ...]) -> Iterator[str]:
    """What is not as it should be."""
    for name, (words, status) in WORDS.items():
        done = said(machine, words, home)
        text, errors = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        if done.returncode != status or "Traceback" in errors:
            yield f"{name}: status {done.returncode}: {errors[-200:]}"
        elif "…" in text:
            yield f"{name}: words are cut"
        elif _letters(done.stdout, machine.narrow) != _letters(plain[name], machine.narrow):
            yield f"{name}: says something else than in an ordinary environment"
    if list((home / "empty").iterdir()):
        yield f"files that nobody asked for: {list((home / 'empty').iterdir())}"
    if not tests:
        return
    command = [*machine.prefix.split(), sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(machine, home), capture_output=True, text=True, check=False
    )
    if done.returncode:
        yield (
            "tests: "
            + " ".join(line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR")))[:400]
        )


def _letters(text: bytes, folded: bool = False) -> str:
    # Letters and digits alone, without times: without UTF-8 there are other frames, and \\u03bb for a letter.
    words = re.sub(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4})", lambda found: chr(int(found[1][1:], 16)), text.decode("utf-8"))
    kept = [c for c in re.sub(r"[\d.]+ s\b", "", words) if c.isalnum()]
    return "".join(sorted(kept) if folded else kept)  # a narrow table folds its cells


def _state() -> str:
    command = ["git", "status", "--porcelain", "--", "allora_analysis", "experiments", "paper_figures"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def main() -> int:
    """All environments."""
    tests = {"nargs": "*", "default": [], "metavar": "FILE", "help": f"such as {' '.join(TESTS)}"}
    arguments = command_line(COMMAND, __doc__, "environments; nothing is recorded", {"--tests": tests})
    before, rows, found = (
        _state(),
        [["environment", "commands and test files" if arguments.tests else "commands", "wrong"]],
        [],
    )
    names = [name for name in MACHINES if arguments.only in name]
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        ordinary = Path(folder) / "ordinary"
        ordinary.mkdir()
        plain = {name: said(Machine({}), words, ordinary).stdout for name, (words, _) in WORDS.items()}
        for done, name in enumerate(names, 1):
            home = Path(folder) / str(done)
            home.mkdir()
            (home / "empty").mkdir()
            for path in (home, home / "empty"):
                os.chmod(path, 0o777)
            own = [*wrong(MACHINES[name], plain, home, tuple(arguments.tests))]
            own += [f"the source tree changed: {_state()}"] if _state() != before else []
            shutil.rmtree(home, ignore_errors=True)
            rows.append([name, len(WORDS) + len(arguments.tests), "; ".join(own) or "none"])
            found += [f"{name}: {one}" for one in own]
            print(*own, sep="\n", flush=True)
            progress(done, len(names), f": {name}, {len(own)} wrong")
    if not arguments.only:
        tried = len(names) * (len(WORDS) + len(arguments.tests))
        what = "the ledger's command, a study and a refusal on other terminals and machines"
        told = "statuses and words as in an ordinary environment" if not found else found[0]
        unit = f"commands in {len(names)} environments"
        record(
            "machines",
            what,
            " ".join([COMMAND, *["--tests"] * bool(arguments.tests), *arguments.tests]),
            tried,
            unit,
            told,
            "nothing",
            rows=rows,
        )
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
