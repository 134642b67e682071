"""A grid's jobs as processes on this machine, a few at a time. Checked by `tests/test_grid_jobs.py`."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from submitit import LocalExecutor

from allora_analysis.grid.job import Fleet, Job, write_down
from allora_analysis.grid.plan import Grid, Task, key
from allora_analysis.validation import ArgumentError, count

TIMEOUT_MIN = 7 * 24 * 60  # submitit's own is 2 minutes
CORES_EACH = 4  # a process for so many cores, where there is no GPU
GRACE = 3.0  # seconds after Ctrl-C in which processes end by themselves
PARAMETERS = ("processes", "timeout_min")


class Processes(Fleet):
    """A process for each run; as many at a time as there are GPUs, each with one of its own.

    Args:
        folder: where submitit keeps its files.
        grid: the grid.
        todo: its tasks to run.
        parameters: `processes`, how many at a time (default: the GPUs, or else one for each four cores), and
            `timeout_min`, the minutes that one may take (default: a week).

    Raises:
        ArgumentError: another parameter.
        OSError: the runs cannot be written down.
    """

    def __init__(self, folder: Path, grid: Grid, todo: list[Task], parameters: dict[str, Any]):
        for name in parameters:
            if name not in PARAMETERS:
                raise ArgumentError(f"executor local: knows no parameter {name!r}, but {', '.join(PARAMETERS)}")
        gpus = [] if grid.device == "cpu" else visible_gpus()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        size = count("processes", parameters.get("processes", len(gpus) or max(1, cores // CORES_EACH)))
        self.size = min(size, len(todo))
        self.threads = max(1, cores // self.size)
        self.folder, self.grid, self.queue, self.paths = folder, grid, deque(todo), {}
        self.slots: list[Any] = [None] * self.size
        write_down(folder, {str(number): key(grid, task) for number, task in enumerate(todo)})
        self.executors = [_executor(folder, gpus, slot, parameters) for slot in range(self.size)]

    def look(self) -> str | None:
        """Start the next runs where a process has ended."""
        for slot, executor in enumerate(self.executors):
            if self.queue and not self._running(slot):
                task = self.queue.popleft()
                with _threads(self.threads):
                    job = self.slots[slot] = executor.submit(Job(self.folder), self.grid, task)
                self.paths[task] = job.paths
        running = sum(self._running(slot) for slot in range(self.size))
        if not running and not self.queue:
            return None
        return f"{len(self.paths) - running} runs done, {running} running, {len(self.queue)} to come"

    def _running(self, slot: int) -> bool:
        return self.slots[slot] is not None and not self.slots[slot].done()

    def stop(self) -> str:
        """End the processes: on a terminal they had the Ctrl-C too, elsewhere they are sent it."""
        until = time.monotonic() + GRACE
        while any(self._running(slot) for slot in range(self.size)) and time.monotonic() < until:
            time.sleep(0.1)
        for job in (job for slot, job in enumerate(self.slots) if self._running(slot)):
            job.cancel()
        while any(self._running(slot) for slot in range(self.size)) and time.monotonic() < until + 2 * GRACE:
            time.sleep(0.1)
        self.clean()
        return "the processes are stopped; the same command goes on from their runs' checkpoints"

    def clean(self) -> None:
        """Delete what submitit keeps."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _executor(folder: Path, gpus: list[int], slot: int, parameters: dict[str, Any]) -> LocalExecutor:
    executor = LocalExecutor(folder=folder)
    own = (gpus[slot % len(gpus)],) if gpus else ()
    executor.update_parameters(
        timeout_min=count("timeout_min", parameters.get("timeout_min", TIMEOUT_MIN)),
        gpus_per_node=len(own),
        visible_gpus=own,
    )
    return executor


def visible_gpus() -> list[int]:
    """The GPUs that this process may use, by number."""
    import torch

    given = [word.strip() for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    if (count := torch.cuda.device_count()) and (named := next((word for word in given if word[:1].isalpha()), None)):
        raise ArgumentError(
            f"executor local: CUDA_VISIBLE_DEVICES names a GPU {named!r}, where it must give numbers; set it to those "
            "of nvidia-smi -L, or take serial"
        )
    return [int(word) for word in given if word.isdecimal()] or list(range(count))


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    # A job inherits the environment; the user's own choice stands. A Ctrl-C between the lines is no loss.
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(number)
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
