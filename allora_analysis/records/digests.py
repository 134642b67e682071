"""Content digests: what a record names in place of a path. Checked by `tests/test_records_digests.py`."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from allora_analysis.records.canonical import RecordError
from allora_analysis.validation import ending


def digest_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes, streamed.

    Args:
        path: the file.

    Returns:
        64 hexadecimal digits.

    Raises:
        RecordError: the file cannot be read.
    """
    try:
        with ending(Path(path)).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror}); name a readable file") from None


def digest_folder(path: Path | str) -> str:
    """SHA-256 over the names and contents of all files below a folder, whatever its own name and place.

    Each file adds its relative name (with /), a zero byte and its digest, in the order of the names' bytes; times,
    modes and empty folders do not count. Links to files are followed, links to folders refused.

    Args:
        path: the folder.

    Returns:
        64 hexadecimal digits.

    Raises:
        RecordError: no folder, no file in it, a link to a folder, or a file that cannot be read.
    """
    root = Path(path)
    if not root.is_dir():
        raise RecordError(f"{path}: is not a folder; name a folder with at least one file")
    files: dict[bytes, Path] = {}
    for folder, folders, names in os.walk(root):
        if links := sorted(name for name in folders if (Path(folder) / name).is_symlink()):
            raise RecordError(f"{Path(folder) / links[0]}: is a link to a folder; copy the folder in its place")
        files |= {os.fsencode((found := Path(folder) / name).relative_to(root).as_posix()): found for name in names}
    if not files:
        raise RecordError(f"{path}: holds no file; name a folder with at least one file")
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(name + b"\0" + digest_file(files[name]).encode("ascii"))
    return whole.hexdigest()
