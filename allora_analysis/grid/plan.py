"""What a grid is to run, what is recorded of it, and how long the rest will take.

`listed` and `forecast` go by the records alone. Checked by `tests/test_grid_plan.py`.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import time
import traceback
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from allora_analysis import outputs, records
from allora_analysis.finetune import sources
from allora_analysis.finetune.setting import PROTOCOL, STUDY, Setting
from allora_analysis.finetune.sources import where_from
from allora_analysis.records.files import Busy
from allora_analysis.validation import ArgumentError, choice, installed

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
    """Run every task that has no record yet, and say what became of each.

    Args:
        grid: the grid.
        executor: "serial", in this process; "local", processes beside it; "slurm", an array of jobs.
        **options: of `jobs.Processes` or of `jobs.Array`; serial has none.

    Raises:
        ArgumentError: no such executor, one that is not installed, or an option that it has not.
    """
    choice("executor", executor, EXECUTORS)
    if executor == "serial":
        if options:
            raise ArgumentError(f"executor serial: knows no parameter {next(iter(options))!r}; it has none")
        return _one_by_one(grid)
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
def model_digest(source: str, remote_code: bool) -> str:
    """A model's content digest, computed once a process."""
    return sources.digest(source, remote_code)


def digests(task: Task, remote_code: bool = False) -> dict[str, str]:
    """The content digests that stand in a task's key."""
    return {"model": model_digest(task.model, remote_code), "data": data_of(task.data, task.setting.data).digest}


def key(grid: Grid, task: Task) -> str:
    """The key of a task's record."""
    return records.key(task.setting, PROTOCOL, digests(task, grid.trust_remote_code))


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
    outputs.refuse_file("--results", grid.results)


class Forecast(NamedTuple):
    """Seconds that runs will take one after the other, and how many more have no record of their like."""

    seconds: float
    unknown: int


def _present(grid: Grid) -> list[records.Record]:
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
    for record in _present(grid):
        by_config.setdefault(record.text, []).append(record)
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


def refuse_another(grid: Grid, by_default: Container[str]) -> None:
    """Refuse a model or data set that nobody gave a source, where the hub's is not that of the folder's records.

    Its runs would be recorded beside those under one name, and no row could tell which to read.

    Args:
        grid: the runs.
        by_default: names whose source is the hub's because none was given.

    Raises:
        ArgumentError: the first of such.
    """
    recorded_of: dict[tuple[str, str], set[str]] = {}
    for record in _present(grid) if by_default else ():
        for kind, digest in record.digests.items():
            recorded_of.setdefault((kind, record.config[kind]), set()).add(digest)
    for task in grid.tasks:
        for kind in ("model", "data"):
            name = getattr(task.setting, kind)
            known = recorded_of.get((kind, name))
            if name in by_default and known and digests(task, grid.trust_remote_code)[kind] not in known:
                raise ArgumentError(
                    f"--source: {name}: {getattr(task, kind)} on the hub is not what the runs in {grid.results} were "
                    f"made with; say --source {name}=FOLDER{where_from(name)}, or --results with another folder"
                )


def forecast(grid: Grid, known: Mapping[Task, records.Record | None]) -> Forecast:
    """How long the runs without a record will take.

    A run takes its steps times the median seconds a step of the records of its like: the same model, data, batch size
    and precision, and the same arm where there is one of it.
    """
    like: dict[tuple[Any, ...], list[records.Record]] = {}
    for record in (one for one in _present(grid) if _pace(one)):
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


def to_run(known: Mapping[Task, records.Record | None]) -> list[Task]:
    """The tasks without a record; refused where there are some and what trains them is not installed."""
    todo = [task for task, record in known.items() if record is None]
    if todo:
        installed("transformers", "peft", "accelerate")
    return todo


PATIENCE = 5.0  # seconds between two looks at runs that a neighbor is at


def run_task(grid: Grid, task: Task) -> bool:
    """Run one task, or find it recorded."""
    from allora_analysis.finetune import models
    from allora_analysis.finetune import run as runs

    data = data_of(task.data, task.setting.data)

    def load() -> models.Pretrained:
        return models.load_to_train(
            task.model, data.classes, grid.trust_remote_code, task.setting.precision, grid.device
        )

    options = {"save_steps": grid.checkpoint_steps, "device": grid.device}
    return runs.run(task.setting, load, data, digests(task, grid.trust_remote_code), grid.results, **options).ran


def _one_by_one(grid: Grid) -> Summary:
    """Run what is not recorded; a run that another process is at is looked at again when the others are done."""
    known = recorded(grid)
    sweep(grid, known)
    todo = to_run(known)
    before, ran, failed, waited = len(known) - len(todo), 0, [], False
    try:
        while todo:
            busy: dict[Task, Busy] = {}
            for position, task in enumerate(todo):
                start = time.monotonic()
                try:
                    mine = run_task(grid, task)
                except Busy as error:
                    busy[task] = error
                except Exception as error:  # of this run: the others need not wait for its repair
                    failed.append(_told(task, error))
                else:
                    ran, before = ran + mine, before + (not mine)  # not mine: a neighbor recorded it meanwhile
                    if mine:
                        left = len(todo) - position - 1 + len(busy)
                        outputs.remark(
                            f"recorded {task.setting.words()}: {time.monotonic() - start:.0f} s, {left} to go"
                        )
            todo = list(busy)
            if todo:
                if not waited:
                    outputs.remark(f"waiting for {len(todo)} of the runs: {busy[todo[0]]}")
                waited = True
                time.sleep(PATIENCE)
    except KeyboardInterrupt:
        return Summary(before, ran, tuple(failed), interrupted=True)
    return Summary(before, ran, tuple(failed))


def _told(task: Task, error: Exception) -> str:
    if isinstance(error, ArgumentError):
        words = f"{task.setting.words()}: {error}"
    else:  # not the user's mistake: whoever repairs it wants to see where it came from
        outputs.remark("".join(traceback.format_exception(error)).rstrip())
        words = f"{task.setting.words()}: {type(error).__name__}: {' '.join(str(error).split()):.200}"
    outputs.remark(f"not run: {words}")
    return words
