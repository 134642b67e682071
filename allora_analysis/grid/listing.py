"""What of a grid is recorded, and how long the rest will take, from the records alone: the hub is not asked.

Checked by `tests/test_grid_listing.py`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from allora_analysis import records
from allora_analysis.finetune.setting import PROTOCOL, STUDY
from allora_analysis.grid.plan import Grid, Task, checked, data_of, model_digest


class Forecast(NamedTuple):
    """Seconds that runs will take one after the other, and how many more have no record of their like."""

    seconds: float
    unknown: int


def present(grid: Grid) -> list[records.Record]:
    """The fine-tuning records in a grid's folder, of the present protocol."""
    found = records.standing(grid.results, STUDY) if grid.results.is_dir() else []
    return [record for record in found if record.protocol == PROTOCOL]


def listed(grid: Grid) -> dict[Task, records.Record | None]:
    """Each task's record, in the grid's order.

    Of a model or data set that is here, the record must be of the same content; one on the hub is not fetched for a
    list, so any record of the same setting will do.
    """
    checked(grid)
    by_config: dict[str, list[records.Record]] = {}
    for record in present(grid):
        by_config.setdefault(records.canonical_json("config", record.config), []).append(record)
    return {
        task: next((one for one in by_config.get(_config(task), ()) if _same_content(grid, task, one)), None)
        for task in grid.tasks
    }


def _config(task: Task) -> str:
    return records.canonical_json("config", task.setting)


def _same_content(grid: Grid, task: Task, record: records.Record) -> bool:
    if Path(task.model).exists() and model_digest(task.model, grid.trust_remote_code) != record.digests["model"]:
        return False
    return not Path(task.data).exists() or data_of(task.data, task.setting.data).digest == record.digests["data"]


def forecast(grid: Grid, known: Mapping[Task, records.Record | None]) -> Forecast:
    """How long the runs without a record will take.

    A run takes its steps times the median seconds a step of the records of its like: the same model, data, batch size
    and precision, and the same arm where there is one of it.
    """
    like: dict[tuple[Any, ...], list[records.Record]] = {}
    for record in (one for one in present(grid) if _pace(one)):
        base = _like(record.config)
        for key in (base, (*base, record.config["arm"])):
            like.setdefault(key, []).append(record)
    seconds, unknown = 0.0, 0
    for task in (task for task, record in known.items() if record is None):
        key = _like(vars(task.setting))
        same = like.get((*key, task.setting.arm)) or like.get(key)
        if same is None:
            unknown += 1
        else:
            pace = statistics.median(_pace(record) for record in same)
            seconds += pace * task.setting.steps(same[0].result["rows"]["train"])
    return Forecast(seconds, unknown)


def _pace(record: records.Record) -> float:
    # Of a run that diverged in its first step nothing was timed.
    return record.provenance.get("seconds_a_step") or 0.0


def _like(config: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(config[name] for name in ("model", "data", "batch_size", "max_length", "precision"))
