"""What a folder of records holds, and what is wrong in it. Checked by `tests/test_records_torn.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from allora_analysis.records import files
from allora_analysis.records.storage import find, record_files


@dataclass(frozen=True)
class Status:
    """A folder of records. Files are given by name, sorted.

    Attributes:
        counts: verified records by study, of every protocol.
        older: records of a protocol below the study's present one.
        newer: records of a protocol above it: written by a later version of the toolkit.
        unknown: records of a study that has no present protocol.
        set_aside: torn or altered files in `set_aside/`, those found just now among them.
        torn: those that could not be set aside, as in a folder that cannot be written.
        foreign: other JSON files in the folder, which are not read.
        cleaned: neighbours of killed writers, deleted just now.
    """

    counts: dict[str, int]
    older: tuple[str, ...]
    newer: tuple[str, ...]
    unknown: tuple[str, ...]
    set_aside: tuple[str, ...]
    torn: tuple[str, ...]
    foreign: tuple[str, ...]
    cleaned: tuple[str, ...]


def status(folder: Path | str, protocols: Mapping[str, int]) -> Status:
    """Verify every record of a folder, set torn ones aside, delete what killed writers left, and count.

    Args:
        folder: the folder of records.
        protocols: each study's present protocol.

    Returns:
        The status.
    """
    folder = Path(folder)
    before, records = record_files(folder), find(folder)
    sound = {record.path.name for record in records}

    def names(wanted: int) -> tuple[str, ...]:
        return tuple(
            sorted(
                record.path.name
                for record in records
                if record.study in protocols and _sign(record.protocol - protocols[record.study]) == wanted
            )
        )

    others = {path.name for path in folder.glob("*.json")} - {path.name for path in record_files(folder)}
    return Status(
        counts=dict(sorted(Counter(record.study for record in records).items())),
        older=names(-1),
        newer=names(1),
        unknown=tuple(sorted(record.path.name for record in records if record.study not in protocols)),
        set_aside=tuple(sorted(path.name for path in (folder / files.SET_ASIDE).glob("*"))),
        torn=tuple(path.name for path in before if path.name not in sound and path.exists()),
        foreign=tuple(sorted(others)),
        cleaned=tuple(files.remove_stale(folder)),
    )


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)
