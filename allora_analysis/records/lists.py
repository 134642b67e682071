"""The records of a list of runs, found by their configs alone. Checked by `tests/test_grid_reading.py`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from allora_analysis.records.canonical import canonical_json
from allora_analysis.records.record import Record
from allora_analysis.records.storage import standing
from allora_analysis.validation import ArgumentError

Run = TypeVar("Run", bound=Hashable)


def find_each(folder: Path | str, study: str, protocol: int, wanted: Mapping[Run, Any]) -> dict[Run, Record]:
    """The records of those runs that have one, whatever the machine had for a model's or a data set's folder.

    Nothing is moved: a torn or altered file is named in a `SetAsideWarning`, and left where it is.

    Args:
        folder: the folder of records, which need not exist.
        study: the study's name.
        protocol: the present one; records of another are left alone.
        wanted: each run's full config.

    Returns:
        The record by run, in the order wanted.

    Raises:
        ArgumentError: a run recorded twice, on models or data of one name and different content.
    """
    known: dict[str, list[Record]] = {}
    for record in standing(folder, study) if Path(folder).is_dir() else ():
        if record.protocol == protocol:
            known.setdefault(canonical_json("config", record.config), []).append(record)
    found = {}
    for run, config in wanted.items():
        same = known.get(canonical_json("config", config), [])
        if len(same) > 1:
            names = ", ".join(record.path.name for record in same)
            raise ArgumentError(
                f"{folder}: one run is recorded on several models or data sets of one name, in {names}; keep one there"
            )
        if same:
            found[run] = same[0]
    return found
