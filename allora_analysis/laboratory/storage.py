"""The files of the laboratory's compact table: lines that are appended, and lines that are packed.

Lines are appended to `NAME.jsonl`, plain, so that a run that is killed loses at most the last. When a list is complete
`pack` puts all of them into `NAME.jsonl.bz2` beside it, a fifth as large: without their checksums but the last, which
proves them all. Either is a table, and both are one. Checked by `tests/test_laboratory_storage.py`.
"""

import bz2
import hashlib
import os
from pathlib import Path

from allora_analysis.laboratory.design import STUDY
from allora_analysis.records import files
from allora_analysis.validation import ArgumentError, ending

_TAG = f'"study":"{STUDY}"'.encode()
_SUM = ',"sum":"{}"}}\n'
_SIZE = len(_SUM.format("0" * 16))


def sealed(last: str, body: bytes) -> tuple[bytes, str]:
    """A line, its JSON and a checksum of it and of all lines before, and that checksum."""
    own = hashlib.sha256(last.encode("ascii") + body).hexdigest()[:16]
    return body[:-1] + _SUM.format(own).encode("ascii"), own


def unsealed(line: bytes) -> bytes:
    """The JSON of a line."""
    return line[:-_SIZE] + b"}"


def packed(path: Path) -> Path:
    """Where a table's lines go when a list is complete."""
    return path.with_name(f"{path.name}.bz2")


def present(path: Path) -> bool:
    """Whether a table has begun, plain or packed."""
    return any(one.is_file() and one.stat().st_size > 0 for one in (path, packed(path)))


def within(folder: Path) -> list[Path]:
    """The tables of this laboratory in a folder: `read` says whether they are whole.

    A plain file whose first line is not a table's is taken for one of another kind; so is a packed one, but where its
    beginning cannot be unpacked.
    """
    plain = {path for path in folder.glob("*.jsonl") if _is_table(path)}
    return sorted(plain | {path.with_suffix("") for path in folder.glob("*.jsonl.bz2") if _is_packed_table(path)})


def _is_table(path: Path) -> bool:
    try:
        with ending(path).open("rb") as stream:
            return _TAG in stream.readline(1000)
    except OSError:
        return False


def _is_packed_table(path: Path) -> bool:
    try:
        with bz2.open(ending(path)) as stream:
            return _TAG in stream.read(2**20).partition(b"\n")[0]  # a block at least, whose checksum is looked at
    except (OSError, EOFError):
        return True


def content(path: Path) -> bytes:
    """A table's lines, the packed and those appended since."""
    return joined(path, *parts(path))


def parts(path: Path) -> tuple[bytes, bytes]:
    """The appended lines, and the packed ones compressed: in this order who reads while another packs has all."""
    try:
        added, whole = _bytes(path), _bytes(packed(path))
        if not (added or whole or path.exists() or packed(path).exists()):
            raise ArgumentError(f"{path}: is not there")
    except OSError as error:
        raise ArgumentError(f"{path}: cannot be read ({error})") from None
    return added, whole


def _bytes(path: Path) -> bytes:
    try:
        return ending(path).read_bytes()
    except FileNotFoundError:  # not asked before: who packs may take the file away in between
        return b""


def joined(path: Path, added: bytes, whole: bytes) -> bytes:
    """All lines. Those in the plain file are all of them, or among the packed (who packed was killed), or further."""
    before = _unpacked(path, whole) if whole else b""
    if added.startswith(before):
        return added
    return before if before.startswith(added) or before.endswith(added) else before + added


def place(path: Path, number: int, added: bytes, whole: bytes) -> tuple[Path, int]:
    """Which file holds a table's line of this number, and which of its own lines that is."""
    before = _unpacked(path, whole) if whole else b""
    if added.startswith(before):
        return path, number
    behind = number - before.count(b"\n")
    return (path, behind) if behind > 0 else (packed(path), number)


def _unpacked(path: Path, whole: bytes) -> bytes:
    found = _all_sealed(files.decompressed(packed(path), whole))
    if found is None:
        raise ArgumentError(f"{packed(path)}: was cut or altered; take the file from git")
    return found


def _all_sealed(lines: bytes) -> bytes | None:
    # All lines with their checksums; None where the last one's is another than theirs.
    *several, end = lines.splitlines(keepends=True) or [b""]
    found, last = [], ""
    for line in several:
        whole, last = sealed(last, line.removesuffix(b"\n"))
        found.append(whole)
    return b"".join([*found, end]) if sealed(last, unsealed(end))[0] == end else None


def _last_sealed(lines: bytes) -> bytes:
    *several, end = lines.splitlines(keepends=True)
    return b"".join([*(unsealed(line) + b"\n" for line in several), end])


def tidy(path: Path) -> None:
    """Take away the line at which a table was cut off, and lines that are packed: who packed them was killed."""
    added, whole = parts(path)
    if whole and joined(path, added, whole) == _unpacked(path, whole):
        path.unlink(missing_ok=True)
    elif cut := len(added) - added.rfind(b"\n") - 1:
        os.truncate(path, len(added) - cut)


def pack(path: Path) -> None:
    """Put the lines that were appended to those that are packed: all, whole or not at all. Who holds the table may.

    Appended lines that do not go on from the packed ones, since these were replaced meanwhile, stay where they are.
    """
    if not path.exists():
        return
    try:
        lines = content(path)
        proven = _last_sealed(lines)
        if _all_sealed(proven) != lines:
            raise ArgumentError(
                f"{path}: does not go on from {packed(path).name} as that is now, so both stay; take back the "
                f"{packed(path).name} that it went on from, and run again"
            )
        files.replace(packed(path), bz2.compress(proven))
        path.unlink()
    except OSError as error:
        told = f"cannot be packed ({error.strerror or error}); it is whole as it is"
        raise ArgumentError(f"{path}: {told}") from None
