"""One run as a job of submitit's, and what all that run jobs have in common. Checked by `tests/test_grid_jobs.py`."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

from submitit.core.utils import JobPaths
from submitit.helpers import Checkpointable, DelayedSubmission

from allora_analysis.grid import serial
from allora_analysis.grid.plan import Grid, Task
from allora_analysis.records.files import Busy
from allora_analysis.validation import ArgumentError

WAIT = 5.0  # seconds between two tries of a job whose run another process is at


class Job(Checkpointable):
    """One run as a job; what Slurm preempts is submitted again as it is, and goes on from its checkpoint."""

    def __call__(self, grid: Grid, task: Task) -> str | None:
        """None, or why the task could not be run."""
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
