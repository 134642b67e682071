"""What is recorded of a list of runs. Checked by `tests/test_claims_pretrained.py`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from allora_analysis import records
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
    where = settings.RESULTS if folder is None else folder
    found = records.find_each(where, STUDY, PROTOCOL, {run: run for run in wanted})
    return {run: record.result for run, record in found.items()}
