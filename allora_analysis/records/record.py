"""A record, its file's content, and its verification. Checked by `tests/test_records.py` and
`tests/test_records_torn.py`.

The file is JSON whose last entry, "checksum", is the SHA-256 of all bytes before it: any altered or missing byte shows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allora_analysis.records.canonical import RecordError, key
from allora_analysis.validation import ArgumentError, ending

UNFINISHED = "unfinished"  # the folder, below one of records, of runs that are not recorded yet
NAME = re.compile(r"([A-Za-z0-9_]+)-([0-9a-f]{20})\.json")
PACKAGE = Path(__file__).resolve().parents[1]
_CHECKSUM = ',\n  "checksum": "{}"\n}}\n'
_ENTRIES = ("study", "key", "protocol", "config", "digests", "result", "provenance")


class TornRecord(RecordError):
    """A file whose content is not what was saved."""


@dataclass(frozen=True)
class Record:
    """A verified record.

    Attributes:
        study: the study's name.
        key: the run's address.
        protocol: the run's protocol.
        config: the full config, as JSON has it (tuples are lists).
        digests: content digests by name.
        result: the result, as JSON has it (±∞ is None).
        provenance: revision, versions, time and what else the run reported of itself.
        path: the file.
    """

    study: str
    key: str
    protocol: int
    config: dict[str, Any]
    digests: dict[str, str]
    result: dict[str, Any]
    provenance: dict[str, Any]
    path: Path


def results_folder(study: str) -> Path:
    """Where the toolkit's own records of a study are: in a clone of the repository, or else in the installed package.

    Args:
        study: the study's name.

    Returns:
        experiments/results/STUDY of a clone; results/STUDY of the package, where a wheel has the same files.
    """
    clone = PACKAGE.parent / "experiments" / "results"
    return (clone if clone.is_dir() else PACKAGE / "results") / study


def stem(study: str, run_key: str) -> str:
    """What a run's file is called, but for its ending. The study and the key's first 20 digits."""
    return f"{study}-{run_key[:20]}"


def unfinished(folder: Path, study: str, run_key: str) -> Path:
    """Where a run keeps what it needs to go on, until it is recorded.

    Args:
        folder: of records.
        study: the study.
        run_key: the run's key.

    Returns:
        A path in `UNFINISHED`, below that folder.
    """
    return folder / UNFINISHED / stem(study, run_key)


def record_path(folder: Path, study: str, run_key: str) -> Path:
    """The file of a run."""
    name = f"{stem(study, run_key)}.json"
    if not NAME.fullmatch(name):
        raise ArgumentError(f"study must be of letters, digits and _, received {study!r}")
    return folder / name


def encode(document: Mapping[str, Any]) -> bytes:
    """The content of a record's file."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    body = text.removesuffix("}").encode("utf-8")
    return body + _CHECKSUM.format(hashlib.sha256(body).hexdigest()).encode("ascii")


def decode(path: Path, content: bytes) -> Record:
    """A record from its file's content, verified: checksum, key and name."""
    size = len(_CHECKSUM.format("0" * 64))
    body, checksum = content[:-size], content[-size:]
    if checksum != _CHECKSUM.format(hashlib.sha256(body).hexdigest()).encode("ascii"):
        raise TornRecord(f"{path}: torn or altered, its checksum does not match; delete it and run again")
    try:
        document = json.loads(body + b"\n}")
        record = Record(**{entry: document[entry] for entry in _ENTRIES}, path=path)
        right = key(record.config, record.protocol, record.digests) == record.key
        named = record_path(path.parent, record.study, record.key).name == path.name
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # the last: JSON nested too deep to be a record
        raise TornRecord(f"{path}: is not a record ({type(error).__name__}); delete it") from None
    if not right or not named:
        raise TornRecord(f"{path}: its {'name' if right else 'key'} is not that of its config; delete it and run again")
    return record


def load(path: Path | str) -> Record:
    """Read a record and verify its checksum, its key and its name.

    Args:
        path: the file.

    Returns:
        The record.

    Raises:
        RecordError: the file cannot be read; `TornRecord`: its content is not what was saved.
    """
    path = Path(path)
    try:
        content = ending(path).read_bytes()
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from None
    return decode(path, content)
