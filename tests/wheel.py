"""The package as pip installs it: `python -m tests.wheel [PYTHON …]`, or `make wheel-check`.

Builds the source distribution, a wheel from it and a wheel from the clone, which must hold the same files; then, per
interpreter, installs the wheel into a new virtual environment and runs the whole ledger from an empty folder: every
verdict and answer must be the recorded one, as in a clone. Needs the network; torch may be large.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "wheel"
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


def ledger(wheel: Path, interpreter: str) -> str:
    """Installs the wheel for an interpreter and says how many rows agree; an error if one does not."""
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
    if differ:
        raise SystemExit(f"error: Python {release}: other verdicts or answers than recorded: {', '.join(differ)}")
    return f"Python {release}: {len(rows)} rows, each verdict and answer as recorded"


if __name__ == "__main__":
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True)
    built = build()
    print(f"{built.name}: {len(contents(built))} files, the same from the clone and from the source distribution")
    for name in sys.argv[1:] or [sys.executable]:
        print(ledger(built, str(Path(shutil.which(name) or name).absolute())), flush=True)
