"""One process a run: a lock that its holder's death releases. Checked by `tests/test_finetune_claim.py`."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from allora_analysis.validation import ArgumentError

TRIES = 100


class Busy(ArgumentError):
    """Another process is at this run."""


@contextlib.contextmanager
def claim(path: Path, words: str) -> Iterator[None]:
    """Hold a run while the block runs; the lock file is gone afterwards.

    The lock is the kernel's (`flock`), so a killed process holds nothing; what it left of the file is taken over.

    Args:
        path: the lock file; its folder is made.
        words: the run, for the error.

    Yields:
        Nothing.

    Raises:
        Busy: another process holds it.
        OSError: the folder cannot be written, or its file system has no locks.
    """
    while True:
        handle = _open(path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if not isinstance(error, BlockingIOError):  # a file system without locks: nobody is at the run
                raise
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


def _open(path: Path) -> int:
    def attempt() -> int:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    for _ in range(TRIES):
        try:
            return attempt()
        except (FileNotFoundError, FileExistsError):
            if path.parent.exists() and not path.parent.is_dir():
                raise
            time.sleep(0.01)  # a neighbour that ended took the folder away, empty as it was, between the two
    return attempt()
