"""A grid's jobs on a Slurm cluster, as one array. Checked by `tests/test_grid_slurm.py`.

A job that is preempted, out of time or on a node that dies is requeued and goes on from its run's checkpoint. Jobs are
watched through `squeue`, which needs no accounting. A grid that is started again waits for the jobs that it left.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from submitit import AutoExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError, JobPaths

from allora_analysis.grid.job import Fleet, Job, write_down, written_down
from allora_analysis.grid.plan import Grid, Task, key
from allora_analysis.validation import ArgumentError

TIMEOUT_MIN = 240  # submitit's own is 5 minutes
TIMEOUTS = 1000  # how often a job that is out of time is requeued; each goes on where the last stopped
GONE = 15.0  # seconds after which a job that squeue no longer lists has left what it will leave


class Array(Fleet):
    """The runs as an array of Slurm jobs, each with one GPU unless the grid is for CPUs.

    Args:
        folder: where submitit keeps its files; on a disk that all nodes share.
        grid: the grid.
        todo: its tasks to run.
        parameters: submitit's: timeout_min, mem_gb, cpus_per_task, gpus_per_node and slurm_<any of sbatch's>.

    Raises:
        ArgumentError: no Slurm here, or a parameter or partition that it does not know.
        OSError: the jobs cannot be written down; they are canceled, as by Ctrl-C before they are.
    """

    def __init__(self, folder: Path, grid: Grid, todo: list[Task], parameters: dict[str, Any]):
        for program in ("sbatch", "srun", "squeue"):
            if shutil.which(program) is None:
                raise ArgumentError(f"executor slurm: no {program} here; run on a cluster's login node, or take local")
        keys = {task: key(grid, task) for task in todo}
        queue = _queue()
        if queue is None:
            raise ArgumentError("executor slurm: squeue does not answer; is the cluster up?")
        self.gone: dict[Task, float] = {}
        self.paths = _left(folder.parent, {run: task for task, run in keys.items()}, queue)
        rest = [task for task in todo if task not in self.paths]
        if rest:
            self.paths |= zip(rest, _submit(folder, grid, rest, parameters), strict=True)
            ids = {self.paths[task].job_id: keys[task] for task in rest}
            try:
                write_down(folder, ids)
            except BaseException:  # the next start would not know these jobs, and submit all again
                with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                    subprocess.run(["scancel", *ids], capture_output=True, timeout=60)
                raise

    def look(self) -> str | None:
        """Ask which jobs are queued or run."""
        queue = _queue()
        states: dict[str, int] = {}
        for task, paths in self.paths.items():
            if paths.result_pickle.exists():
                continue
            if queue is None or paths.job_id in queue:
                self.gone.pop(task, None)
                state = "squeue does not answer" if queue is None else queue[paths.job_id]
                states[state] = states.get(state, 0) + 1
            elif time.monotonic() - self.gone.setdefault(task, time.monotonic()) < GONE:
                states["ending"] = states.get("ending", 0) + 1
        if not states:
            return None
        done = len(self.paths) - sum(states.values())
        return f"{done} jobs done, " + ", ".join(f"{number} {state}" for state, number in states.items())

    def stop(self) -> str:
        """Leave the jobs to the cluster."""
        arrays = " ".join(dict.fromkeys(str(paths.job_id).split("_")[0] for paths in self.paths.values()))
        return f"the jobs go on, and the same command waits for them again; to end them: scancel {arrays}"

    def clean(self) -> None:
        """Delete what submitit keeps of these jobs, also of those that an earlier start submitted."""
        folders = {paths.folder for paths in self.paths.values()}
        until = time.monotonic() + GONE  # a job that has left its result is in the queue for some seconds more
        while folders and time.monotonic() < until:
            queue = _queue()
            ended = {one for one in folders if queue is not None and not written_down(one).keys() & queue.keys()}
            for folder in ended:
                shutil.rmtree(folder, ignore_errors=True)
            if folders := folders - ended:
                time.sleep(1)


def _queue() -> dict[str, str] | None:
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i|%T|%r"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    rows = [line.strip().split("|") for line in done.stdout.splitlines() if line.count("|") == 2]
    return {job: state.lower() + (f" ({why})" if why not in ("None", "") else "") for job, state, why in rows}


def _left(top: Path, tasks: dict[str, Task], queue: dict[str, str]) -> dict[Task, JobPaths]:
    # Jobs that an earlier start of this grid, or a grid beside it, has in the queue.
    found = {}
    for folder in sorted(path for path in top.iterdir() if path.is_dir()):
        for job, run in written_down(folder).items():
            paths = JobPaths(folder, job_id=job)
            if run in tasks and job in queue and not paths.result_pickle.exists():
                found[tasks[run]] = paths
    return found


def _submit(folder: Path, grid: Grid, todo: list[Task], parameters: dict[str, Any]) -> list[JobPaths]:
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints sbatch's error, and raises it too
            executor = AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=TIMEOUTS)
            executor.update_parameters(**_parameters(grid, parameters))
            jobs = executor.map_array(Job(folder), [grid] * len(todo), todo)
    except NameError as error:  # an unknown parameter: the first line says which
        raise ArgumentError(f"executor slurm: {str(error).splitlines()[0]}") from None
    except (FailedJobError, FailedSubmissionError, AssertionError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Try ")]
        raise ArgumentError(f"executor slurm: {'; '.join(lines) or type(error).__name__}") from None
    return [job.paths for job in jobs]


def _parameters(grid: Grid, given: dict[str, Any]) -> dict[str, Any]:
    defaults = {"name": "allora", "timeout_min": TIMEOUT_MIN, "gpus_per_node": int(grid.device != "cpu")}
    chosen = defaults | given
    if not chosen["gpus_per_node"]:
        del chosen["gpus_per_node"]
    if "cpus_per_task" in chosen:  # srun no longer takes it from sbatch
        chosen.setdefault("slurm_srun_args", [f"--cpus-per-task={chosen['cpus_per_task']}"])
    chosen["slurm_additional_parameters"] = {"requeue": True} | chosen.get("slurm_additional_parameters", {})
    return chosen
