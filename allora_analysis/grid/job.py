"""One run as a job of submitit's, and what all that run jobs have in common. Checked by `tests/test_grid_jobs.py`."""

from __future__ import annotations

import contextlib
import json
import os
import time
from abc import ABC, abstractmethod
from pathlib import Path

from submitit.core.utils import JobPaths
from submitit.helpers import Checkpointable, DelayedSubmission

from allora_analysis.grid import serial
from allora_analysis.grid.plan import Grid, Task
from allora_analysis.outputs import write_atomically
from allora_analysis.records.files import Busy
from allora_analysis.validation import ArgumentError

WAIT = 5.0  # seconds between two tries of a job whose run another process is at
SUBMITTED = "jobs.json"


def write_down(folder: Path, keys: dict[str, str]) -> None:
    """Keep which run each job of a folder is: the next start waits for them, or knows when nobody needs the folder."""
    write_atomically(folder / SUBMITTED, lambda path: path.write_text(json.dumps(keys)) and None)


def written_down(folder: Path) -> dict[str, str]:
    """Each job's run, by its key."""
    try:
        return json.loads((folder / SUBMITTED).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not submitted yet, or taken away meanwhile
        return {}


def use(folder: Path) -> int:
    """A handle; while it is open, at the latest until its process ends, other processes see the folder in use."""
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(handle, fcntl.LOCK_SH)
    return handle


def in_use(folder: Path) -> bool:
    """Whether a process on this machine, of a grid or of a job, holds the folder."""
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


class Job(Checkpointable):
    """One run as a job; what Slurm preempts is submitted again as it is, and goes on from its checkpoint.

    Args:
        folder: where submitit keeps its files; in use until the job's process has ended, also if the grid's was killed.
    """

    def __init__(self, folder: Path):
        self.folder = folder.absolute()

    def __call__(self, grid: Grid, task: Task) -> str | None:
        """None, or why the task could not be run."""
        use(self.folder)  # the handle stays open: submitit writes its files after this call
        while True:
            try:
                serial.run_task(grid, task)
                return None
            except Busy:  # the copy that this one was requeued for may live a little longer
                time.sleep(WAIT)
            except ArgumentError as error:
                return str(error)

    def checkpoint(self, grid: Grid, task: Task) -> DelayedSubmission:
        """What to submit when the job is preempted."""
        return DelayedSubmission(self, grid, task)


class Fleet(ABC):
    """Jobs that are handed to a machine or a cluster; `paths` tells each task's files, once it is submitted."""

    paths: dict[Task, JobPaths]

    @abstractmethod
    def look(self) -> str | None:
        """See to the jobs.

        Returns:
            How they stand, in a few words; None when all have ended.
        """

    @abstractmethod
    def stop(self) -> str:
        """After Ctrl-C: leave the jobs that have not ended, or end them.

        Returns:
            What becomes of them, and what to do.
        """

    @abstractmethod
    def clean(self) -> None:
        """Delete what submitit keeps, when all is recorded: nobody needs the logs."""
