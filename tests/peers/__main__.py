"""PEFT's own tests with ALLoRA in LoRA's place: `python -m tests.peers [PEER …] [--fast]`, or `make peers`.

Fetches the source distribution of the PEFT that is installed, which holds its tests, fills a hub's cache with tiny
models (`hub.py`), and runs the files that bear on LoRA (`lists.toml`) as they are under `plain`, the control, and with
another config in LoRA's place under each variant (`plugin.py`). Exit status 1: a failure that `lists.toml` does not
list, or a listed one that passes. `--fast`, which is part of CI: under two variants at once, in the files that are
quick, every test that is listed and every tenth of the others. Further options are pytest's.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "peers"
LISTS = tomllib.loads((Path(__file__).parent / "lists.toml").read_text(encoding="utf-8"))
EVERY = 10
PEERS = ("plain", "allora", "allora_0", "allora_od", "asf_lora", "lora_x_eta")


def sources() -> Path:
    """The folder that holds `tests` of the PEFT installed; fetched once."""
    release = version("peft")
    folder = BUILD / f"peft-{release}"
    if not folder.exists():
        fetch = ["pip", "download", "--quiet", "--no-deps", "--no-binary", "peft", "--dest", BUILD, f"peft=={release}"]
        subprocess.run([sys.executable, "-m", *fetch], check=True)
        with tarfile.open(BUILD / f"peft-{release}.tar.gz") as archive:
            archive.extractall(BUILD, filter="data")  # into the folder of that name
        (folder / "tests" / "__init__.py").touch()
        (folder / "pytest.ini").write_text("[pytest]\n")
    return folder


def hub() -> Path:
    """The hub's cache; filled once."""
    folder = BUILD / f"hub-{version('transformers')}-{version('peft')}"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-W", "ignore", "-m", "tests.peers.hub", folder], check=True, cwd=ROOT)
    return folder


def check_files(folder: Path) -> None:
    """Every file of PEFT's tests that names LoRA's config is run or left out with a reason."""
    lora = [one for one in folder.glob("test_*.py") if re.search(r"\bLoraConfig\b", one.read_text(encoding="utf-8"))]
    unknown = {one.name for one in lora} - set(LISTS["run"]["files"]) - set(LISTS["left_out"])
    if unknown:
        raise SystemExit(f"error: lists.toml neither runs nor leaves out {', '.join(sorted(unknown))}")


def run(peer: str, names: list[str], options: list[str], quiet: bool = False) -> int:
    """PEFT's tests under one peer, in a process of their own; pytest's exit status. Quiet: it prints at its end."""
    folder = sources()
    check_files(folder / "tests")
    environment = os.environ | {
        "HF_HUB_CACHE": str(hub()),
        "HF_HOME": str(BUILD / "home"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",  # `tests` is PEFT's there, so this package is `peers`
    }
    paths = [f"tests/{name}" for name in names if (folder / "tests" / name).exists()]
    plugins = ["-p", "peers.plugin", "-p", "no:cacheprovider", f"--peer={peer}"]
    said = f"{peer}: the tests of PEFT {version('peft')}, {len(paths)} files"
    trace = "--tb=line" if quiet else "--tb=native"  # of 3,000 failures that are expected, too
    command = [sys.executable, "-m", "pytest", *plugins, "-q", "-W", "ignore", trace, *options, *paths]
    if quiet:
        done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
        print(f"{said}\n{done.stdout}", flush=True)
        return done.returncode
    print(said, flush=True)
    return subprocess.run(command, cwd=folder, env=environment).returncode


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.peers", description=__doc__.partition("\n")[0])
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"of {', '.join(PEERS)}; default: all")
    parser.add_argument("--fast", action="store_true", help="what is listed, and a sample, under two variants")
    arguments, options = parser.parse_known_args()
    of = LISTS["run"]
    if not arguments.fast:
        return max(run(peer, of["files"], options) for peer in arguments.peers or PEERS)
    sources(), hub()  # before two processes want them
    files, options = [name for name in of["files"] if name not in of["slow"]], [f"--every={EVERY}", *options]
    with ThreadPoolExecutor() as pool:
        return max(pool.map(lambda peer: run(peer, files, options, quiet=True), arguments.peers or of["fast_peers"]))


if __name__ == "__main__":
    raise SystemExit(main())
