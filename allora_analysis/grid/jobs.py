"""A grid's runs as jobs through submitit: processes on this machine, or an array of Slurm jobs.

Whether a run was done is told by its record alone; of a job only the reason matters why it left none. submitit keeps
what it sends to a job, and what comes back, as pickles in `unfinished/jobs/` below the folder of records, with the
jobs' logs; records are none. Of an array, a job that is preempted, out of time or on a node that dies is requeued and
goes on from its run's checkpoint; jobs are watched through `squeue`, which needs no accounting, and a grid that is
started again waits for those that it left. Checked by `tests/test_grid_jobs.py` and, on a Slurm of two nodes, by
`tests/test_grid_slurm.py`.
"""

import contextlib
import io
import json
import os
import secrets
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from submitit import AutoExecutor, LocalExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError, JobPaths, pickle_load
from submitit.helpers import Checkpointable, DelayedSubmission

from allora_analysis import outputs, records
from allora_analysis.finetune.setting import STUDY
from allora_analysis.grid import plan
from allora_analysis.grid.plan import Grid, Summary, Task, key, recorded, sweep, to_run
from allora_analysis.outputs import write_atomically
from allora_analysis.records.files import STALE_SECONDS, Busy
from allora_analysis.records.packs import present
from allora_analysis.records.record import record_path
from allora_analysis.validation import ArgumentError, count

WAIT = 5.0  # seconds between two tries of a job whose run another process is at
SUBMITTED = "jobs.json"


def write_down(folder: Path, keys: dict[str, str]) -> None:
    """Keep which run each job of a folder is: the next start waits for them, or knows when nobody needs the folder."""
    write_atomically(folder / SUBMITTED, lambda path: path.write_text(json.dumps(keys)) and None)


def _written_down(folder: Path) -> dict[str, str]:
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


def _in_use(folder: Path) -> bool:
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

    submitit's folder is in use until the job's process has ended, also if the grid's was killed.
    """

    def __init__(self, folder: Path):
        self.folder = folder.absolute()

    def __call__(self, grid: Grid, task: Task) -> str | None:
        """None, or why the task could not be run."""
        use(self.folder)  # the handle stays open: submitit writes its files after this call
        while True:
            try:
                plan.run_task(grid, task)
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
        """See to the jobs; how they stand, in a few words, or None when all have ended."""

    @abstractmethod
    def stop(self) -> str:
        """After Ctrl-C: leave the jobs that have not ended, or end them; what becomes of them, and what to do."""

    @abstractmethod
    def clean(self) -> None:
        """Delete what submitit keeps, when all is recorded: nobody needs the logs."""


TIMEOUT_MIN = 7 * 24 * 60  # submitit's own is 2 minutes
CORES_EACH = 4  # a process for so many cores, where there is no GPU
GRACE = 3.0  # seconds after Ctrl-C in which processes end by themselves
PARAMETERS = ("processes", "timeout_min")


class Processes(Fleet):
    """A process for each run; as many at a time as there are GPUs, each with one of its own.

    Its parameters: `processes`, how many at a time (default: the GPUs, or else one for each four cores), and
    `timeout_min`, the minutes that one may take (default: a week). OSError: the runs cannot be written down.
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


ARRAY_TIMEOUT_MIN = 240  # submitit's own is 5 minutes
TIMEOUTS = 1000  # how often a job that is out of time is requeued; each goes on where the last stopped
GONE = 15.0  # seconds after which a job that squeue no longer lists has left what it will leave


class Array(Fleet):
    """The runs as an array of Slurm jobs, each with one GPU unless the grid is for CPUs; the folder is on a shared
    disk.

    Its parameters are submitit's: timeout_min, mem_gb, cpus_per_task, gpus_per_node and slurm_<any of sbatch's>.
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
            ended = {one for one in folders if queue is not None and not _written_down(one).keys() & queue.keys()}
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
        for job, run in _written_down(folder).items():
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
    defaults = {"name": "allora", "timeout_min": ARRAY_TIMEOUT_MIN, "gpus_per_node": int(grid.device != "cpu")}
    chosen = defaults | given
    if not chosen["gpus_per_node"]:
        del chosen["gpus_per_node"]
    if "cpus_per_task" in chosen:  # srun no longer takes it from sbatch
        chosen.setdefault("slurm_srun_args", [f"--cpus-per-task={chosen['cpus_per_task']}"])
    chosen["slurm_additional_parameters"] = {"requeue": True} | chosen.get("slurm_additional_parameters", {})
    return chosen


POLL = 2.0  # seconds between two looks at the jobs
TELL = 20.0  # seconds between two lines of progress
ENDING = 20.0  # seconds in which the process of a run that is recorded ends
FLEETS = {"local": Processes, "slurm": Array}


def run(grid: Grid, cluster: str, **parameters: Any) -> Summary:
    """Hand over what is not recorded to "local" or "slurm", with the parameters of `Processes` or of `Array`, and wait.

    Refuses a parameter that the executor does not know, and a folder that cannot be written.
    """
    known = recorded(grid)
    sweep(grid, known)
    todo = to_run(known)
    top = grid.results / records.UNFINISHED / "jobs"
    try:
        return _hand_over(grid, cluster, top, todo, len(known), parameters) if todo else Summary(known=len(known))
    finally:
        _tidy(top, grid.results)


def _hand_over(grid: Grid, cluster: str, top: Path, todo: list[Task], of: int, parameters: dict[str, Any]) -> Summary:
    folder = top / secrets.token_hex(4)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ArgumentError(f"results {str(top)!r}: cannot be written ({error.strerror})") from None
    handle = use(folder)
    try:
        try:
            fleet = FLEETS[cluster](folder, grid, todo, parameters)
        except (ArgumentError, OSError):
            shutil.rmtree(folder, ignore_errors=True)  # pickles of jobs that were never submitted
            raise
        interrupted = _wait(fleet)
        lacking = [task for task, record in recorded(grid).items() if record is None]
        failed = () if interrupted else tuple(f"{task.setting.words()}: {_why(fleet, task)}" for task in lacking)
        for words in failed:
            outputs.remark(f"not run: {words}")
        if not lacking:
            fleet.clean()
        return Summary(of - len(todo), len(todo) - len(lacking), failed, interrupted)
    except OSError as error:
        raise ArgumentError(
            f"results {str(grid.results)!r}: cannot be written ({error.strerror or error}); what is recorded is kept: "
            "make room, and the same command goes on"
        ) from None
    finally:
        os.close(handle)
        with contextlib.suppress(OSError):  # not empty: logs of jobs that failed
            folder.rmdir()


def _tidy(top: Path, results: Path) -> None:
    # Of a start that was killed, or had jobs that failed, the files stay until its runs are recorded: by its own jobs,
    # which live on, or by a later start.
    until = time.monotonic() + ENDING
    for folder in sorted(top.glob("*")):
        with contextlib.suppress(OSError):  # taken away meanwhile
            keys = _written_down(folder).values()
            if not all(present(record_path(results, STUDY, key)) for key in keys):
                continue
            if not keys and time.time() - folder.stat().st_mtime < STALE_SECONDS:  # of a start that is about to submit
                continue
            while (held := _in_use(folder)) and keys and time.monotonic() < until:
                time.sleep(0.1)
            if not held:
                shutil.rmtree(folder)
    with contextlib.suppress(OSError):  # not there, or not empty
        top.rmdir()
        top.parent.rmdir()


def _wait(fleet: Fleet) -> bool:
    last = float("-inf")
    try:
        while (words := fleet.look()) is not None:
            if time.monotonic() - last > TELL:
                last = time.monotonic()
                outputs.remark(words)
            time.sleep(POLL)
        return False
    except KeyboardInterrupt:
        outputs.remark(fleet.stop())
        return True
    except OSError:  # no room for the next job's file, say
        outputs.remark(fleet.stop())
        raise


def _why(fleet: Fleet, task: Task) -> str:
    paths = fleet.paths[task]
    log = f"its log is {paths.stderr}"
    try:
        outcome, value = pickle_load(paths.result_pickle)
    except (OSError, EOFError):
        return f"its job {paths.job_id} ended without a result; {log}"
    if outcome == "success":
        return value if isinstance(value, str) else f"its job {paths.job_id} ended well, but left no record; {log}"
    return f"{_error(str(value))}; {log}"


def _error(trace: str) -> str:
    # Below the frames, which are indented, a traceback has the exception, then notes on it.
    lines = [line for line in trace.splitlines() if line.strip()]
    frames = max((index for index, line in enumerate(lines) if line.startswith(" ")), default=-1)
    return next(iter(lines[frames + 1 :]), "an error without a name")
