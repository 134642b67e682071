"""The pack of a folder: its complete records in one tar file, compressed, some six times smaller than loose.

Who reads asks for a loose file first and then here. `tar -xf records.tar.bz2` makes a pack loose again.
Checked by `tests/test_records_packs.py`.
"""

import bz2
import functools
import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from allora_analysis.records import files
from allora_analysis.records.record import NAME, Record, RecordError, TornRecord, decode
from allora_analysis.validation import ending

PACK = "records.tar.bz2"


class Packed(NamedTuple):
    """What `pack` did: how many files it packed, and the bytes of these and the pack before, of the pack after."""

    records: int
    before: int
    after: int


def packed(folder: Path) -> Mapping[str, bytes]:
    """The content of each record's file in the folder's pack, by its name; none where there is no pack."""
    path = folder / PACK
    try:
        seen = os.stat(path)
        return _unpacked(path, seen.st_ino, seen.st_mtime_ns, seen.st_size)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from None


@functools.lru_cache(maxsize=8)  # a folder's records are asked for one by one
def _unpacked(path: Path, *_: int) -> Mapping[str, bytes]:
    content = files.decompressed(path, ending(path).read_bytes())
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            found = {one.name: content[one.offset_data : one.offset_data + one.size] for one in tar}
    except (tarfile.TarError, ValueError, OverflowError, RecursionError):
        found = {}
    if not all(map(NAME.fullmatch, found)) or _tar(found) != content:  # tarfile alone would pass over a bad header
        raise RecordError(f"{path}: was cut or altered; take the file from git")
    return MappingProxyType(found)


def _tar(contents: Mapping[str, bytes]) -> bytes:
    # Of the contents alone: no owner, no time, no order of the disk's.
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in sorted(contents):
            one = tarfile.TarInfo(name)
            one.size = len(contents[name])
            tar.addfile(one, io.BytesIO(contents[name]))
    return stream.getvalue()


def read(path: Path) -> Record | None:
    """The record of this file's name in its folder's pack, verified; None where it has none."""
    content = packed(path.parent).get(path.name)
    try:
        return None if content is None else decode(path, content)
    except TornRecord as error:
        why = str(error).partition("; delete it")[0]
        raise TornRecord(f"{why}, inside {PACK}; take that file from git") from None


def present(path: Path) -> bool:
    """Whether a record's file is there, loose or packed, as it is."""
    return path.exists() or path.name in packed(path.parent)


def pack(folder: Path | str) -> Packed:
    """Put a folder's loose records into its pack, byte for byte, and delete their files once the pack reads back.

    Killed in between, a record is in both, counts once, and the next call finishes. What is read stays what it was: a
    loose file replaces what the pack has of its name. Torn ones stay where they are, and so does what is unfinished.

    Args:
        folder: the folder of records.

    Returns:
        How many were loose, and the sizes.

    Raises:
        RecordError: a pack that was cut or altered, or a folder that is not there or cannot be written.
    """
    folder = Path(folder)
    path = folder / PACK
    if not folder.is_dir():
        raise RecordError(f"{folder}: is not a folder; name a folder of records")
    try:
        with files.locked(folder):
            files.part(path).unlink(missing_ok=True)
            size = path.stat().st_size if path.exists() else 0
            loose = {name: ending(folder / name).read_bytes() for name in os.listdir(folder) if NAME.fullmatch(name)}
            added = {name: content for name, content in loose.items() if _is_sound(folder / name, content)}
            if not added:
                return Packed(0, size, size)
            whole = {**packed(folder), **added}
            if len(content := _tar(whole)) > files.LARGEST:
                raise RecordError(f"{path}: would hold over {files.LARGEST} bytes; move some records to another folder")
            files.replace(path, bz2.compress(content))
            if packed(folder) != whole:
                raise RecordError(f"{path}: reads back otherwise than written; the loose files are where they were")
            for name in added:
                (folder / name).unlink()
            return Packed(len(added), size + sum(map(len, added.values())), path.stat().st_size)
    except OSError as error:
        raise RecordError(f"{path}: cannot be written ({error.strerror}); every record is whole as it is") from None


def _is_sound(path: Path, content: bytes) -> bool:
    try:
        return bool(decode(path, content))
    except TornRecord:
        return False
