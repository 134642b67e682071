"""What a grid is to run, and what is recorded of it. Checked by `tests/test_grid_plan.py`."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allora_analysis import records
from allora_analysis.finetune import sources
from allora_analysis.finetune.setting import PROTOCOL, STUDY, Setting
from allora_analysis.validation import ArgumentError, choice

if TYPE_CHECKING:
    from allora_analysis.finetune.data import TextData

EXECUTORS = ("serial", "local", "slurm")


@dataclass(frozen=True)
class Task:
    """One run, and where it finds its model and data.

    Attributes:
        setting: the run.
        model: a folder, a GGUF file or a hub id.
        data: a folder or a hub id.
    """

    setting: Setting
    model: str
    data: str


@dataclass(frozen=True)
class Grid:
    """Runs in the order in which they are wanted, the most wanted first.

    Attributes:
        tasks: the runs.
        results: the folder of records.
        device: "auto" or "cpu".
        checkpoint_steps: steps between two checkpoints.
        trust_remote_code: run the code that a model's authors ship with it.
    """

    tasks: tuple[Task, ...]
    results: Path
    device: str = "auto"
    checkpoint_steps: int = 100
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Summary:
    """What became of a grid's runs.

    Attributes:
        known: recorded before.
        ran: recorded now.
        failed: what each that could not be run says.
        interrupted: Ctrl-C came before the last.
    """

    known: int = 0
    ran: int = 0
    failed: tuple[str, ...] = field(default=())
    interrupted: bool = False


def run(grid: Grid, executor: str = "serial", **options: Any) -> Summary:
    """Run what a grid has and its folder has not.

    Args:
        grid: the grid.
        executor: "serial", in this process; "local", processes beside it; "slurm", an array of jobs.
        **options: of `local.Processes` or of `slurm.Array`; serial has none.

    Returns:
        What became of the runs.

    Raises:
        ArgumentError: no such executor, one that is not installed, or an option that it has not.
    """
    choice("executor", executor, EXECUTORS)
    if executor == "serial":
        from allora_analysis.grid import serial

        if options:
            raise ArgumentError(f"executor serial: knows no parameter {next(iter(options))!r}; it has none")
        return serial.run(grid)
    try:
        from allora_analysis.grid import jobs
    except ModuleNotFoundError as error:
        raise ArgumentError(
            f"executor {executor}: needs {error.name}; pip install 'allora-analysis[cluster]'"
        ) from None

    return jobs.run(grid, cluster=executor, **options)


@cache
def data_of(source: str, name: str) -> TextData:
    """A task's data, read once a process."""
    from allora_analysis.finetune import data

    return data.load(source, name)


@cache
def model_digest(source: str, remote_code: bool = False) -> str:
    """A model's content digest, computed once a process."""
    return sources.digest(source, remote_code)


def digests(task: Task, remote_code: bool = False) -> dict[str, str]:
    """The content digests that stand in a task's key."""
    return {"model": model_digest(task.model, remote_code), "data": data_of(task.data, task.setting.data).digest}


def recorded(grid: Grid) -> dict[Task, records.Record | None]:
    """Each task's record, in the grid's order."""
    checked(grid)
    return {
        task: records.lookup(grid.results, STUDY, task.setting, PROTOCOL, digests(task, grid.trust_remote_code))
        for task in grid.tasks
    }


def sweep(grid: Grid, known: Mapping[Task, records.Record | None]) -> None:
    """Delete the checkpoints of recorded runs: a process may be killed between the record and its tidying up."""
    from allora_analysis.records.files import Busy, hold

    for record in (record for record in known.values() if record is not None):
        folder = records.unfinished(grid.results, STUDY, record.key)
        if folder.is_dir():
            with contextlib.suppress(Busy, OSError), hold(folder.with_suffix(".lock"), folder.name):
                shutil.rmtree(folder)
    with contextlib.suppress(OSError):  # not there, or not empty: other runs are unfinished
        (grid.results / records.UNFINISHED).rmdir()


def checked(grid: Grid) -> None:
    """Refuse what no executor could run."""
    if len(set(grid.tasks)) < len(grid.tasks):
        raise ArgumentError("tasks must differ from one another; a run is done once")
    if os.path.exists(grid.results) and not os.path.isdir(grid.results):
        raise ArgumentError(f"results must be a folder, received the file {str(grid.results)!r}")
