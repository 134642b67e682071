"""The package as pip installs it: `python -m tests.wheel [--record] [PYTHON …]`, or `make wheel-check`.

Builds the source distribution, a wheel from it and a wheel from the clone, which must hold the same files; then, per
interpreter, installs the wheel into a new virtual environment and runs the whole ledger from an empty folder: every
verdict and answer must be the recorded one, as in a clone. Needs the network; torch may be large.
"""

import argparse
import json
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

from tests.hardening import read, record

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "wheel"
HEADS = ["Python", "rows of the ledger", "differ"]
RECORDED = ROOT / "allora_analysis" / "claims" / "recorded.json"


def call(*command: str | Path, cwd: Path = BUILD) -> str:
    """Standard output; an error stops the check."""
    return subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True).stdout


def contents(wheel: Path) -> dict[str, int]:
    """Check sums by name of the files within."""
    with zipfile.ZipFile(wheel) as archive:
        return {one.filename: one.CRC for one in archive.infolist()}


def build() -> Path:
    """The wheel, which the source distribution gives too."""
    venv.create(BUILD / "builder", with_pip=True)
    python = BUILD / "builder" / "bin" / "python"
    call(python, "-m", "pip", "install", "--quiet", "build")
    call(python, "-m", "build", "--sdist", "--outdir", BUILD, ROOT)
    (sdist,) = BUILD.glob("*.tar.gz")
    for source, folder in ((ROOT, "of_clone"), (sdist, "of_sdist")):
        call(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", BUILD / folder, source)
    (of_clone,), (of_sdist,) = ((BUILD / folder).glob("*.whl") for folder in ("of_clone", "of_sdist"))
    if contents(of_clone) != contents(of_sdist):
        differ = sorted(name for name, _ in contents(of_clone).items() ^ contents(of_sdist).items())
        raise SystemExit(f"error: clone and source distribution do not give one wheel: {', '.join(differ)}")
    return of_sdist


def ledger(wheel: Path, interpreter: str) -> tuple[str, int, list[str]]:
    """Installs the wheel for an interpreter: its release, how many rows its ledger has, and which differ."""
    release = call(interpreter, "-c", "import sys; print('.'.join(map(str, sys.version_info[:3])))").strip()
    environment, empty = BUILD / f"python-{release}", BUILD / "empty"
    empty.mkdir(exist_ok=True)
    call(interpreter, "-m", "venv", environment)
    python = environment / "bin" / "python"
    call(python, "-m", "pip", "install", "--quiet", wheel)
    where = call(python, "-I", "-c", "import allora_analysis; print(allora_analysis.__file__)", cwd=empty).strip()
    assert Path(where).is_relative_to(environment), where
    rows = json.loads(call(python, "-I", "-m", "allora_analysis", "--json", "-", cwd=empty))["claims"]
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    seen = {row["id"]: {key: row[key] for key in recorded[row["id"]]} for row in rows}
    differ = sorted(name for name in seen.keys() | recorded.keys() if seen.get(name) != recorded.get(name))
    return release, len(rows), differ


def keep(release: str, rows: int, differ: list[str]) -> None:
    """An interpreter's row on the page of what was tried, in place of the one that was there."""
    known = {row[0]: row for row in read().get("wheel", {}).get("rows", [HEADS])[1:]}
    known[release] = [release, rows, ", ".join(differ) or "none"]
    table = [known[one] for one in sorted(known, key=lambda of: [*map(int, of.split("."))])]
    wrong = [row for row in table if row[2] != "none"]
    record(
        "wheel",
        "the wheel, the same from the clone and from the source distribution, in a clean environment of each Python",
        "python -m tests.wheel --record PYTHON…",
        sum(row[1] for row in table),
        f"rows in {len(table)} releases of Python",
        "every verdict, answer and size as in the clone" if not wrong else f"otherwise under {wrong[0][0]}",
        "nothing",
        rows=[HEADS, *table],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.wheel", description=__doc__.partition("\n")[0])
    parser.add_argument("interpreters", nargs="*", metavar="PYTHON", help="to install it for (default: this one)")
    parser.add_argument("--record", action="store_true", help="keep what came out for docs/hardening.md")
    asked = parser.parse_args()
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True)
    built = build()
    print(f"{built.name}: {len(contents(built))} files, the same from the clone and from the source distribution")
    bad = 0
    for name in asked.interpreters or [sys.executable]:
        release, count, differ = ledger(built, str(Path(shutil.which(name) or name).absolute()))
        told = f"other verdicts or answers than recorded: {', '.join(differ)}" if differ else "each as recorded"
        print(f"Python {release}: {count} rows, {told}", flush=True)
        bad += bool(differ)
        if asked.record:
            keep(release, count, differ)
    raise SystemExit(bad)
