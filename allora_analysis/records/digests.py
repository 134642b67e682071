"""Content digests: what a record names in place of a path. Checked by `tests/test_records_digests.py`."""

from __future__ import annotations

import hashlib
from pathlib import Path

from allora_analysis.records.canonical import RecordError


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
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror}); name a readable file") from None
