"""What a record may hold, as plain JSON; the canonical JSON of a value; the key of a run; a file's digest.

Checked by `tests/test_records.py` and `tests/test_records_digests.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from allora_analysis.validation import ArgumentError, count, ending

# Text that is a machine's path: absolute (POSIX, Windows, UNC), under a home or this folder, or a file: address.
_PATH = re.compile(r"/|\\|\.{1,2}[\\/]|~([A-Za-z_][\w.-]*)?(/|$)|[A-Za-z]:[\\/]|file:/", re.IGNORECASE)


class RecordError(ArgumentError):
    """A record that cannot be written or read, in one line that names the file."""


def portable(name: str, value: Any, infinite: bool = False) -> Any:
    """A value as plain JSON, without anything that holds only on this machine.

    Args:
        name: what the value is, for the error; parts are named below it.
        value: dataclasses, mappings with text keys, sequences, arrays, numbers, text, None, nested.
        infinite: whether ±∞ becomes null (results) or is refused (configs).

    Returns:
        The same of dict, list, str, int, float, bool and None.

    Raises:
        ArgumentError: a NaN, a path, a key that is not text, or anything else.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
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
        return _infinite(name, value, infinite)
    if value is None or isinstance(value, bool | int | float):
        return value
    raise ArgumentError(f"{name}: a record holds numbers, text, lists and mappings, received {type(value).__name__}")


def _text(name: str, value: str | PurePath) -> str:
    if isinstance(value, PurePath) or _PATH.match(value):
        raise ArgumentError(f"{name}: a record holds no path of a machine, received {str(value)!r}; give its digest")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ArgumentError(f"{name}: text must be valid Unicode, received {value!r}") from None
    return value


def _infinite(name: str, value: float, infinite: bool) -> None:
    if math.isnan(value) or not infinite:
        raise ArgumentError(f"{name}: must be a finite number, received {value}")


def _by_value(value: Any) -> Any:
    # 1 and 1.0 are one number, and so are 0.0 and −0.0: whole floats are written as integers, exactly.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _by_value(item) for name, item in value.items()}
    return [_by_value(item) for item in value] if isinstance(value, list) else value


def canonical_json(name: str, value: Any) -> str:
    """The one text of a value: equal values, and only those, have equal texts.

    Keys sorted, no spaces, numbers by value (1, 1.0 and NumPy's 1 alike; other floats in the shortest form that reads
    back the same), tuples, lists and arrays alike. Booleans are no numbers. It depends on no process, no order and no
    platform.

    Args:
        name: what the value is, for the error.
        value: as in `portable`, all numbers finite.

    Returns:
        JSON in ASCII.
    """
    plain = _by_value(portable(name, value))
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key(config: Any, protocol: int, digests: Mapping[str, str] | None = None) -> str:
    """The address of a run: SHA-256 of the canonical JSON of config, protocol and digests.

    Args:
        config: a dataclass or a mapping, every field of it.
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
    return hashlib.sha256(canonical_json("run", parts).encode("ascii")).hexdigest()


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
