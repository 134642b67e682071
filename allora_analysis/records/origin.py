"""Provenance of a run: outside its key, beside its result. Checked by `tests/test_records.py`."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from allora_analysis.study import environment

PACKAGE = Path(__file__).resolve().parent.parent
CPU = Path("/proc/cpuinfo")  # on Linux
# What linear algebra chooses its code by, of the names in that file.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "bf16", "sve")


def _git(*arguments: str) -> str | None:
    try:
        command = ["git", "-C", str(PACKAGE), *arguments]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return finished.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor() -> dict[str, Any]:
    """The CPU's model and which instruction sets it has: results agree bit by bit on equal ones only.

    Returns:
        `cpu` and `instructions`, each null where the system does not tell.
    """
    try:
        lines = CPU.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0].splitlines()
    except OSError:
        lines = []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    name = facts.get("model name", platform.processor()).replace("/", " ").replace("\\", " ")
    return {"cpu": name or None, "instructions": [flag for flag in INSTRUCTIONS if flag in flags] if flags else None}


def provenance(packages: Iterable[str] = ()) -> dict[str, Any]:
    """Where a result comes from: git revision of the package, versions, threads, time. No host, user or path.

    Args:
        packages: further packages whose versions count, beyond those of `study.environment`.

    Returns:
        `git_revision` (null outside a repository that tracks the package), `git_dirty` (whether the package's files
        differ from it), `time_utc`, the processor and the environment.
    """
    # A package installed below somebody else's repository is not of that repository.
    tracked = _git("ls-files", "--error-unmatch", "--", str(PACKAGE / "__init__.py")) is not None
    changes = _git("status", "--porcelain", "--", str(PACKAGE)) if tracked else None
    return {
        "git_revision": _git("rev-parse", "HEAD") if tracked else None,
        "git_dirty": None if changes is None else bool(changes),
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        **environment(),
        **processor(),
        **{package: _version(package) for package in packages},
    }
