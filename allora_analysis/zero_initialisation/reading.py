"""What is recorded of a list of runs. Checked by `tests/test_claims_pretrained.py`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from allora_analysis import records
from allora_analysis.validation import ArgumentError
from allora_analysis.zero_initialisation import setting as settings
from allora_analysis.zero_initialisation.setting import PROTOCOL, STUDY, Setting


def recorded(wanted: Iterable[Setting], folder: Path | str | None = None) -> dict[Setting, dict[str, Any]]:
    """The results of those runs that are recorded.

    Args:
        wanted: the runs.
        folder: the folder of records, which need not exist; None for the repository's own.

    Returns:
        The result by run, in the order wanted.

    Raises:
        ArgumentError: a run recorded twice, on models or data of one name and different content.
    """
    where = Path(settings.RESULTS if folder is None else folder)
    known: dict[str, list[records.Record]] = {}
    for record in records.find(where, STUDY) if where.is_dir() else ():
        if record.protocol == PROTOCOL:
            known.setdefault(records.canonical_json("config", record.config), []).append(record)
    found = {}
    for run in wanted:
        same = known.get(records.canonical_json("config", run), [])
        if len(same) > 1:
            names = ", ".join(record.path.name for record in same)
            raise ArgumentError(f"{run.words()}: recorded on several models or data sets of one name: {names}")
        if same:
            found[run] = same[0].result
    return found
