"""Where what is computed goes: files, tried before anything is computed, then written whole or not at all; standard
output and error as they may be, closed by their reader, full, missing, or without our letters.

Checked by `tests/test_outputs.py`.
"""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

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


def entries(flag: str, path: Path) -> dict[str, Any]:
    """What a JSON file holds, by name, before one more is written; refuses what is none or cannot be written."""
    check_writable(flag, path)
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError):
        known = None
    if not isinstance(known, dict):
        raise ArgumentError(f"{flag} {path}: holds no JSON object; name another file")
    return known


def refuse_file(flag: str, folder: Path) -> None:
    """Where a folder is, or is to be made, no file may stand."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise ArgumentError(f"{flag} must be a folder, received the file {str(folder)!r}")


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
        _as_before(neighbour, target)
        os.replace(neighbour, target)
    finally:
        os.close(handle)
        neighbour.unlink(missing_ok=True)


def _as_before(neighbour: Path, target: Path) -> None:
    # The mode and, where it may be given, the owner of the file in whose place it comes; a new file's where none is.
    mask = os.umask(0)
    os.umask(mask)
    try:
        known = target.stat()
        os.chown(neighbour, known.st_uid, known.st_gid)
        os.chmod(neighbour, known.st_mode & 0o777)
    except (FileNotFoundError, PermissionError):
        os.chmod(neighbour, 0o666 & ~mask)


def write_text(flag: str, path: Path, content: str) -> None:
    """Write a text file atomically; a file name's bytes that are no text are written as JSON escapes them."""
    try:
        write_atomically(path, lambda to: to.write_text(content, encoding="utf-8", errors="backslashreplace") and None)
    except OSError as error:
        raise ArgumentError(
            f"{flag} {path}: {error.strerror}; what was computed is printed above, the file is not written"
        ) from None


def check_apart(written: Mapping[str, Path], read: Mapping[str, Any] | None = None) -> None:
    """Refuse two outputs in one file, and an output over a file that is read."""
    named = {flag: Path(value) for flag, value in (read or {}).items() if isinstance(value, str | Path)}
    taken = {_target(path): flag for flag, path in named.items() if os.path.isfile(path)}
    for flag, path in written.items():
        if (other := taken.setdefault(_target(path), flag)) != flag:
            raise ArgumentError(f"{other} and {flag} must be two files, received {str(path)!r} for both")


def prepare() -> None:
    """Let both streams take any text: what the encoding lacks is escaped, a stream that is missing swallows it."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif "utf" not in (stream.encoding or "utf").lower() and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def console(width: int | None) -> Any:
    """A rich console on standard output that leaves a closed pipe to its caller."""
    from rich.console import Console

    class Unbroken(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    # With a height as well: a width alone is not taken where TERM=dumb.
    return Unbroken(width=width, height=None if width is None else 25)


def redraws() -> bool:
    """Whether standard error is a terminal on which a bar can be redrawn; TERM=dumb is none."""
    return sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def tell(say: Callable[[], None]) -> None:
    """Print; where nobody reads on, go on: what is to be written to files still is."""
    try:
        say()
        sys.stdout.flush()
    except BrokenPipeError:
        swallow()
    except OSError as error:
        swallow()  # or the interpreter would try again at its end
        raise ArgumentError(f"standard output: {error.strerror or error}; send it elsewhere") from None


def say(line: str) -> None:
    """Print a line to standard output as `tell` does."""
    tell(lambda: print(line))


def list_runs(runs: Iterable[str], recorded: Iterable[bool]) -> None:
    """A line for each run of a list, in words, and whether it is recorded."""
    for words, is_recorded in zip(runs, recorded, strict=True):
        say(f"{'recorded' if is_recorded else 'to run  '}  {words}")


def print_json(document: str) -> None:
    """Print JSON; letters that standard output's encoding lacks as JSON's own escapes."""
    try:
        document.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        document = "".join(letter if letter.isascii() else json.dumps(letter)[1:-1] for letter in document)
    print(document)


def remark(line: str) -> None:
    """Print a line to standard error; where it cannot be read or written, long work goes on without."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        swallow(sys.stderr)


def swallow(stream: TextIO | None = None) -> None:
    """From here on, take what is printed and print it nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), (stream or sys.stdout).fileno())
