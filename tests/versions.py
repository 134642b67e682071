"""The LoRA tests under other versions: `python -m tests.versions floors|newest [--python PYTHON]`, or `make versions`.

Makes a virtual environment with the floors that pyproject.toml states for torch, transformers and PEFT, or with the
newest releases of everything; runs tests/test_lora_*.py there, and with the newest the fast part of `make peers`, whose
list is for the newest PEFT; and prints what passed (`--record`: keeps it for docs/hardening.md). Needs the network, and
disk space.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.hardening import read, record

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "versions"
HEADS = ["environment", "Python", "torch", "torchvision", "transformers", "PEFT", "LoRA tests", "PEFT's own tests"]
JUDGED = ("torch", "torchvision", "transformers", "peft")
TESTS = ("pytest", "pytest-xdist", "hypothesis", "beartype", "mpmath", "parameterized", "attrs", "bitsandbytes")


def floors() -> list[str]:
    """`name==floor` of the packages judged."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["llm"]
    return [one.replace(">=", "==") for one in wanted if one.partition(">=")[0] in JUDGED]


def environment(name: str, interpreter: str) -> Path:
    """The environment's Python; made once."""
    folder = BUILD / name
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([interpreter, "-m", "venv", "--clear", folder], check=True)
        packages = ["--editable", f"{ROOT}[llm]", *TESTS, *(floors() if name == "floors" else ())]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        (folder / "complete").touch()
    return python


def counts(python: Path, *arguments: str | Path) -> tuple[str, bool]:
    """What pytest counts at its end, run by run, and whether the command ended well."""
    done = subprocess.run([python, "-m", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    return "; ".join(re.findall(r"^=*\s*(\d+ \w+.*) in [\d.]+s", done.stdout, re.MULTILINE)), done.returncode == 0


def row(name: str, python: Path) -> tuple[list[str], bool]:
    """One row of the table, and whether everything passed."""
    asked = "import sys, importlib.metadata as m; print(sys.version.split()[0], *map(m.version, sys.argv[1:]))"
    found = subprocess.run([python, "-c", asked, *JUDGED], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    lora, well = counts(python, "pytest", "-q", *sorted((ROOT / "tests").glob("test_lora_*.py")))
    peers, too = counts(python, "tests.peers", "--fast") if name == "newest" else ("", True)
    return [*found, lora, peers], well and too


def keep(name: str, cells: list[str], well: bool) -> None:
    """The environment's row on the page of what was tried, in place of the one that was there."""
    known = {one[0]: one for one in read().get("versions", {}).get("rows", [HEADS])[1:]} | {name: [name, *cells]}
    passed = sum(int(found) for one in known.values() for found in re.findall(r"(\d+) passed", " ".join(one)))
    failed = sum(int(found) for one in known.values() for found in re.findall(r"(\d+) (?:failed|error)", " ".join(one)))
    record(
        "versions",
        "the LoRA tests under the floors of torch, transformers and PEFT, and under the newest releases",
        "python -m tests.versions floors --record",
        passed + failed,
        f"tests in {len(known)} environments",
        "all pass" if well and not failed else f"{failed} fail",
        "nothing",
        rows=[HEADS, *known.values()],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.versions", description=__doc__.partition("\n")[0])
    parser.add_argument("name", choices=("floors", "newest"))
    parser.add_argument("--python", default=sys.executable, help="the interpreter")
    parser.add_argument("--record", action="store_true", help="keep what came out for docs/hardening.md")
    asked_for = parser.parse_args()
    cells, well = row(asked_for.name, environment(asked_for.name, asked_for.python))
    print(f"| {' | '.join(cells)} |")
    if asked_for.record:
        keep(asked_for.name, cells, well)
    raise SystemExit(not well)
