"""A record: what it may hold, its canonical JSON, the key of its run, its provenance; its file and its verification.

The file is JSON whose last entry, "checksum", is the SHA-256 of all bytes before it: any altered or missing byte shows.
Provenance is outside the key, beside the result.
Checked by `tests/test_records.py` and `tests/test_records_torn.py`.
"""

import dataclasses
import hashlib
import json
import math
import platform
import re
import subprocess
import time
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from allora_analysis.study import environment, installed
from allora_analysis.validation import ArgumentError, count, ending

# Text that is a machine's path: absolute (POSIX, Windows, UNC), under a home or this folder, or a file: address.
_PATH = re.compile(r"/|\\|\.{1,2}[\\/]|~([A-Za-z_][\w.-]*)?(/|$)|[A-Za-z]:[\\/]|file:/", re.IGNORECASE)
LATER = {"later": True}
"""Metadata of a dataclass's field that came after runs were recorded: its default (no factory), which they had, is not
written, so that their keys stay. `later` has these defaults, for who reads a config."""
UNFINISHED = "unfinished"  # the folder, below one of records, of runs that are not recorded yet
NAME = re.compile(r"([A-Za-z0-9_]+)-([0-9a-f]{20})\.json")
PACKAGE = Path(__file__).resolve().parents[1]
_CHECKSUM = ',\n  "checksum": "{}"\n}}\n'
_ENTRIES = ("study", "key", "protocol", "config", "digests", "result", "provenance")
CPU = Path("/proc/cpuinfo")  # on Linux
# What linear algebra chooses its code by, of the names in that file.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "bf16", "sve")


class RecordError(ArgumentError):
    """A record that cannot be written or read, in one line that names the file."""


def portable(name: str, value: Any, infinite: bool = False) -> Any:
    """A value as plain JSON, without anything that holds only on this machine.

    Dataclasses (but for fields marked `LATER` at their default), mappings with text keys, sequences, arrays, numbers,
    text, None, nested. Refused by name: a NaN, a path, a key that is not text, anything else; ±∞ too, unless it is to
    become null (`infinite`, of results).
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = [field for field in dataclasses.fields(value) if not _as_before(field, getattr(value, field.name))]
        value = {field.name: getattr(value, field.name) for field in kept}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        if wrong := [item for item in value if not isinstance(item, str)]:
            raise ArgumentError(f"{name}: keys must be text, received {wrong[0]!r}")
        return {_text(f"{name}'s key", item): portable(f"{name}.{item}", value[item], infinite) for item in value}
    if isinstance(value, list | tuple):
        return [portable(f"{name}[{index}]", item, infinite) for index, item in enumerate(value)]
    if isinstance(value, str | PurePath):
        return _text(name, value)
    if isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value) or not infinite:
            raise ArgumentError(f"{name}: must be a finite number, received {value}")
        return None
    if value is None or isinstance(value, bool | int | float):
        return value
    raise ArgumentError(f"{name}: a record holds numbers, text, lists and mappings, received {type(value).__name__}")


def later(kind: type) -> dict[str, Any]:
    """The fields of a config's dataclass that came later (`LATER`), at what runs had that were recorded before.

    Args:
        kind: the dataclass.
    """
    return {field.name: field.default for field in dataclasses.fields(kind) if field.metadata.get("later")}


def _as_before(field: dataclasses.Field[Any], value: Any) -> bool:
    # A field that came later, at what all runs before it had.
    return bool(field.metadata.get("later")) and value == field.default


def _text(name: str, value: str | PurePath) -> str:
    if isinstance(value, PurePath) or _PATH.match(value):
        raise ArgumentError(f"{name}: a record holds no path of a machine, received {str(value)!r}; give its digest")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ArgumentError(f"{name}: text must be valid Unicode, received {value!r}") from None
    return value


def _by_value(value: Any) -> Any:
    # 1 and 1.0 are one number, and so are 0.0 and −0.0: whole floats are written as integers, exactly.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _by_value(item) for name, item in value.items()}
    return [_by_value(item) for item in value] if isinstance(value, list) else value


def canonical_json(name: str, value: Any) -> str:
    """The one text of a value, JSON in ASCII: equal values, and only those, have equal texts.

    Keys sorted, no spaces, numbers by value (1, 1.0 and NumPy's 1 alike; other floats in the shortest form that reads
    back the same), tuples, lists and arrays alike. Booleans are no numbers. It depends on no process, no order and no
    platform.

    Args:
        name: what the value is, for the error.
        value: as in `portable`, all numbers finite.
    """
    return _canonical(portable(name, value))


def _canonical(plain: Any) -> str:
    return json.dumps(_by_value(plain), sort_keys=True, separators=(",", ":"), allow_nan=False)


def key(config: Any, protocol: int, digests: Mapping[str, str] | None = None) -> str:
    """The address of a run: SHA-256 of the canonical JSON of config, protocol and digests.

    Args:
        config: a dataclass or a mapping, every field of it (those marked `LATER` unless at their default).
        protocol: grows when the meaning of a run with the same config changes.
        digests: content digests of what the run reads, by name.

    Returns:
        64 hexadecimal digits.

    Raises:
        ArgumentError: a config that is neither dataclass nor mapping, or that holds what a record may not.
    """
    plain = portable("config", config)
    if not isinstance(plain, dict):
        raise ArgumentError(f"config must be a dataclass or a mapping, received {type(config).__name__}")
    parts = {"config": plain, "protocol": count("protocol", protocol, 0), "digests": checked_digests(digests)}
    return hashlib.sha256(_canonical(parts).encode("ascii")).hexdigest()


def checked_digests(digests: Mapping[str, str] | None) -> dict[str, str]:
    """Digests by name, each a non-empty text that is no path."""
    plain = portable("digests", dict(digests or {}))
    for name, digest in plain.items():
        if not isinstance(digest, str) or not digest:
            raise ArgumentError(f"digests.{name}: must be a digest's text, received {digest!r}")
    return plain


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


class TornRecord(RecordError):
    """A file whose content is not what was saved."""


@dataclass(frozen=True)
class Record:
    """A verified record.

    Attributes:
        study: the study's name.
        key: the run's address.
        protocol: the run's protocol.
        config: the config that the key is of, as JSON has it (tuples are lists).
        digests: content digests by name.
        result: the result, as JSON has it (±∞ is None).
        provenance: revision, versions, time and what else the run reported of itself.
        path: the file.
        text: the canonical JSON of the config.
    """

    study: str
    key: str
    protocol: int
    config: dict[str, Any]
    digests: dict[str, str]
    result: dict[str, Any]
    provenance: dict[str, Any]
    path: Path
    text: str


_KNOWN: dict[bytes, tuple[str, str]] = {}  # by checksum a config's key and text: a process reads a record many times


def results_folder(study: str) -> Path:
    """Where the toolkit's own records of a study are: in a clone of the repository, or else in the installed package.

    Args:
        study: the study's name.

    Returns:
        experiments/results/STUDY of a clone; results/STUDY of the package, where a wheel has the same files.
    """
    clone = PACKAGE.parent / "experiments" / "results"
    return (clone if clone.is_dir() else PACKAGE / "results") / study


def _stem(study: str, run_key: str) -> str:
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
    return folder / UNFINISHED / _stem(study, run_key)


def record_path(folder: Path, study: str, run_key: str) -> Path:
    """The file of a run."""
    name = f"{_stem(study, run_key)}.json"
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
        if checksum not in _KNOWN:
            config = document["config"]
            own = key(config, document["protocol"], document["digests"])
            _KNOWN[checksum] = own, canonical_json("config", config)
        own, text = _KNOWN[checksum]
        record = Record(**{entry: document[entry] for entry in _ENTRIES}, path=path, text=text)
        right = own == record.key
        named = record_path(path.parent, record.study, record.key).name == path.name
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # the last: JSON nested too deep to be a record
        raise TornRecord(f"{path}: is not a record ({type(error).__name__}); delete it") from None
    if not right or not named:
        raise TornRecord(f"{path}: its {'name' if right else 'key'} is not that of its config; delete it and run again")
    return record


def git(folder: Path, *arguments: str) -> str | None:
    """What git says in a folder; None outside a repository, or where git fails."""
    try:
        command = ["git", "-C", str(folder), *arguments]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return finished.stdout.strip()


def processor() -> dict[str, Any]:
    """The CPU and which instruction sets it has: results agree bit by bit on equal ones only.

    Returns:
        `cpu`, its name with the family, model, stepping and cache size that the system tells, as one name has many; and
        `instructions`; each null where it does not tell.
    """
    try:
        lines = CPU.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0].splitlines()
    except OSError:
        lines = []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    name = facts.get("model name", platform.processor()).replace("/", " ").replace("\\", " ")
    kinds = {"cpu family": "family", "model": "model", "stepping": "stepping", "cache size": "cache"}
    name = ", ".join(filter(None, [name, *(f"{word} {facts[key]}" for key, word in kinds.items() if facts.get(key))]))
    return {"cpu": name or None, "instructions": [flag for flag in INSTRUCTIONS if flag in flags] if flags else None}


def apart(was: Mapping[str, Any], now: Mapping[str, Any], left_out: Container[str]) -> dict[str, tuple[Any, Any]]:
    """In what two provenances differ.

    Args:
        was: the one.
        now: the other.
        left_out: facts that do not count.

    Returns:
        By name the fact of each; None where it has none.
    """
    pairs = {name: (was.get(name), now.get(name)) for name in {**was, **now} if name not in left_out}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def provenance(packages: Iterable[str] = (), begun: float | None = None) -> dict[str, Any]:
    """Where a result comes from: git revision of the package, versions, threads, time. No host, user or path.

    Args:
        packages: further packages whose versions count, beyond those of `study.environment`.
        begun: `time.perf_counter()` when the run began in this process; None where its time does not count.

    Returns:
        `git_revision` (null outside a repository that tracks the package), `git_dirty` (whether the package's files
        differ from it), `time_utc`, the processor and the environment; with `begun` the `seconds` since.
    """
    # A package installed below somebody else's repository is not of that repository.
    tracked = git(PACKAGE, "ls-files", "--error-unmatch", "--", str(PACKAGE / "__init__.py")) is not None
    changes = git(PACKAGE, "status", "--porcelain", "--", str(PACKAGE)) if tracked else None
    return {
        "git_revision": git(PACKAGE, "rev-parse", "HEAD") if tracked else None,
        "git_dirty": None if changes is None else bool(changes),
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        **environment(),
        **processor(),
        **{package: installed(package) for package in packages},
        **({} if begun is None else {"seconds": time.perf_counter() - begun}),
    }
