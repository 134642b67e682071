"""Files that many processes write at once, whole or not at all. Checked by `tests/test_records_writers.py`."""

import bz2
import contextlib
import errno
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from allora_analysis.records.record import RecordError
from allora_analysis.validation import ArgumentError

SET_ASIDE = "set_aside"
# A neighbor lives for the milliseconds of one write; one this old belongs to a writer that was killed.
STALE_SECONDS = 3600.0
LARGEST = 2**28  # bytes that a packed file may hold
TRIES = 100  # to open a lock file in a folder that a neighbor takes away
_PART = re.compile(r"\.[A-Za-z0-9_]+-[0-9a-f]{20}-[0-9a-f]{16}\.part")  # a record's: others' hidden files are theirs
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


def write_once(path: Path, content: bytes) -> bool:
    """Write a file unless it is there: into a neighbor, to the disk, then linked into place in one step.

    A writer killed at any moment leaves the whole file or none, and at most a hidden neighbor. Where the file system
    has no hard links the last step is a rename: still whole, but of two writers at one moment the second then stays.
    Returns whether this call wrote it.
    """
    neighbour = path.parent / f".{path.stem}-{secrets.token_hex(8)}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(neighbour, content)
            return _place(neighbour, path)
        finally:
            neighbour.unlink(missing_ok=True)
    except OSError as error:
        raise RecordError(f"{path}: not recorded ({error.strerror}); make room or name a folder to write to") from None


def _write(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _place(neighbour: Path, path: Path) -> bool:
    try:
        os.link(neighbour, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if path.exists():
            return False
        os.replace(neighbour, path)
    _sync_folder(path.parent)
    return True


def _sync_folder(folder: Path) -> None:
    # Some network file systems cannot; the file's own bytes are on the disk already.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def replace(path: Path, content: bytes) -> None:
    """Write a file whether it is there or not, to the disk, whole or not at all. Who holds it may: one at a time."""
    unfinished = part(path)
    try:
        with unfinished.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def part(path: Path) -> Path:
    """Where `replace` writes until a file is whole: one name, so that it is written anew after a kill."""
    return path.with_name(f"{path.name.partition('.')[0]}.part")


def decompressed(path: Path, content: bytes) -> bytes:
    """What is in a packed file of this content, which must be whole."""
    stream = bz2.BZ2Decompressor()
    try:
        found = stream.decompress(content, LARGEST)
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: cannot be read ({error}); take the file from git") from None
    if not stream.eof or stream.unused_data:
        raise RecordError(f"{path}: was cut or altered; take the file from git")
    return found


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, made if it is not there, against other processes that do the same, until the process ends."""
    import fcntl

    folder.mkdir(exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        # A file system without locks leaves two processes that find one torn file at the same moment to luck.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def move(path: Path, folder: Path) -> None:
    """Move a file into a folder under a name that tells its content, so that nothing there is overwritten."""
    os.replace(path, folder / f"{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.json")


def remove_stale(folder: Path) -> list[str]:
    """Delete the neighbors that killed writers left more than `STALE_SECONDS` ago."""
    removed = []
    for part in sorted(path for path in folder.glob(".*.part") if _PART.fullmatch(path.name)):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > STALE_SECONDS:
                part.unlink()
                removed.append(part.name)
    return removed


class Busy(ArgumentError):
    """Another process is at this run."""


@contextlib.contextmanager
def hold(path: Path, words: str) -> Iterator[None]:
    """Hold a run while the block runs; the lock file is gone afterwards.

    The lock is the kernel's (`flock`), so a killed process holds nothing; what it left of the file is taken over.
    Not `filelock`'s, which leaves its file behind: the folder of unfinished runs would never go away.
    """
    import fcntl

    while True:
        handle = _opened(path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if not isinstance(error, BlockingIOError):  # a file system without locks: nobody holds it
                path.unlink(missing_ok=True)
                raise RecordError(
                    f"{path}: cannot be locked ({error.strerror}): its file system has no locks, without which two "
                    "processes would train the same run; name a folder on a disk that has them, a local one"
                ) from None
            raise Busy(f"{words}: another process is at this run; wait for it, or look at its progress") from None
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(handle).st_ino:
                break
        os.close(handle)  # the last holder took the file away between our opening and our locking it
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _opened(path: Path) -> int:
    def attempt() -> int:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    for _ in range(TRIES):
        try:
            return attempt()
        except (FileNotFoundError, FileExistsError):
            if path.parent.exists() and not path.parent.is_dir():
                raise
            time.sleep(0.01)  # a neighbor that ended took the folder away, empty as it was, between the two
    return attempt()
