"""The files that a user asks for: tried before anything is computed, then written whole or not at all.

Checked by `tests/test_outputs.py`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from allora_analysis.validation import ArgumentError


def check_writable(flag: str, path: Path) -> None:
    """Refuse a path that cannot be written, before anything is computed."""
    target = _target(path)
    if os.path.isdir(target):
        raise ArgumentError(f"{flag} {path}: is a folder; name a file in it")
    try:
        if _is_stream(path):
            return  # the write itself will tell
        with contextlib.suppress(FileNotFoundError):
            os.stat(target)  # a name that is too long
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise ArgumentError(
            f"{flag} {path}: cannot be written ({error.strerror}); name a file in a folder you can write to"
        ) from None


def check_folder(flag: str, folder: Path) -> None:
    """Make a folder of records where there is none; refuse one that cannot be written, before anything is computed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ArgumentError(f"{flag} {folder}: cannot be written ({error.strerror}); name another folder") from None


def _target(path: Path) -> Path:
    return Path(os.path.realpath(path))  # a link stays one: what it leads to is written


def _is_stream(path: Path) -> bool:
    # A device or a pipe, or one that was redirected to a file, whose reader holds that file open.
    return path.absolute().parts[1:2] in (("dev",), ("proc",)) or (os.path.exists(path) and not os.path.isfile(path))


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file whole or not at all: a neighbor, to the disk, then renamed."""
    # Devices and pipes are written directly.
    if _is_stream(path):
        write(path)
        return
    target = _target(path)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".writing-", suffix=path.suffix)
    neighbour = Path(name)
    try:
        write(neighbour)
        os.fsync(handle)
        os.chmod(neighbour, 0o666 & ~_umask())
        os.replace(neighbour, target)
    finally:
        os.close(handle)
        neighbour.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(flag: str, path: Path, content: str) -> None:
    """Write a text file atomically."""
    try:
        write_atomically(path, lambda target: _write_text(target, content))
    except OSError as error:
        raise ArgumentError(
            f"{flag} {path}: {error.strerror}; what was computed is printed above, the file is not written"
        ) from None


def _write_text(path: Path, content: str) -> None:
    # A file name's bytes that are no text are written as JSON escapes them.
    path.write_text(content, encoding="utf-8", errors="backslashreplace")


def check_apart(written: Mapping[str, Path], read: Mapping[str, Any] | None = None) -> None:
    """Refuse two outputs in one file, and an output over a file that is read."""
    named = {flag: Path(value) for flag, value in (read or {}).items() if isinstance(value, str | Path)}
    taken = {_target(path): flag for flag, path in named.items() if os.path.isfile(path)}
    for flag, path in written.items():
        if (other := taken.setdefault(_target(path), flag)) != flag:
            raise ArgumentError(f"{other} and {flag} must be two files, received {str(path)!r} for both")
