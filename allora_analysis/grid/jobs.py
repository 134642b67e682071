"""A grid's runs as jobs through submitit: processes on this machine, or an array of Slurm jobs.

Whether a run was done is told by its record alone; of a job only the reason matters why it left none. submitit keeps
what it sends to a job, and what comes back, as pickles in `unfinished/jobs/` below the folder of records, with the
jobs' logs; records are none. Checked by `tests/test_grid_jobs.py`, and on a Slurm of two nodes by
`tests/test_grid_slurm.py`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

from submitit.core.utils import pickle_load

from allora_analysis import records, terminal
from allora_analysis.finetune.setting import STUDY
from allora_analysis.grid.job import Fleet, in_use, use, written_down
from allora_analysis.grid.local import Processes
from allora_analysis.grid.plan import Grid, Summary, Task, recorded, sweep
from allora_analysis.grid.slurm import Array
from allora_analysis.records.files import STALE_SECONDS
from allora_analysis.records.record import record_path
from allora_analysis.validation import ArgumentError

POLL = 2.0  # seconds between two looks at the jobs
TELL = 20.0  # seconds between two lines of progress
ENDING = 20.0  # seconds in which the process of a run that is recorded ends
FLEETS = {"local": Processes, "slurm": Array}


def run(grid: Grid, cluster: str, **parameters: Any) -> Summary:
    """Hand over what is not recorded, and wait.

    Args:
        grid: the grid.
        cluster: "local" or "slurm".
        **parameters: those of `local.Processes` or of `slurm.Array`.

    Returns:
        What became of the runs.

    Raises:
        ArgumentError: a parameter that the executor does not know, or a folder that cannot be written.
    """
    known = recorded(grid)
    sweep(grid, known)
    todo = [task for task, record in known.items() if record is None]
    top = grid.results / records.UNFINISHED / "jobs"
    try:
        return _hand_over(grid, cluster, top, todo, len(known), parameters) if todo else Summary(known=len(known))
    finally:
        _tidy(top, grid.results)


def _hand_over(grid: Grid, cluster: str, top: Path, todo: list[Task], of: int, parameters: dict[str, Any]) -> Summary:
    folder = _folder(top)
    handle = use(folder)
    try:
        fleet = _fleet(cluster, folder, grid, todo, parameters)
        interrupted = _wait(fleet)
        lacking = [task for task, record in recorded(grid).items() if record is None]
        failed = () if interrupted else tuple(f"{task.setting.words()}: {_why(fleet, task)}" for task in lacking)
        for words in failed:
            terminal.remark(f"not run: {words}")
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
            keys = written_down(folder).values()
            if any(not record_path(results, STUDY, key).exists() for key in keys):
                continue
            if not keys and time.time() - folder.stat().st_mtime < STALE_SECONDS:  # of a start that is about to submit
                continue
            while (held := in_use(folder)) and keys and time.monotonic() < until:
                time.sleep(0.1)
            if not held:
                shutil.rmtree(folder)
    with contextlib.suppress(OSError):  # not there, or not empty
        top.rmdir()
        top.parent.rmdir()


def _folder(top: Path) -> Path:
    folder = top / secrets.token_hex(4)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ArgumentError(f"results {str(top)!r}: cannot be written ({error.strerror})") from None
    return folder


def _fleet(cluster: str, folder: Path, grid: Grid, todo: list[Task], parameters: dict[str, Any]) -> Fleet:
    try:
        return FLEETS[cluster](folder, grid, todo, parameters)
    except (ArgumentError, OSError):
        shutil.rmtree(folder, ignore_errors=True)  # pickles of jobs that were never submitted
        raise


def _wait(fleet: Fleet) -> bool:
    last = float("-inf")
    try:
        while (words := fleet.look()) is not None:
            if time.monotonic() - last > TELL:
                last = time.monotonic()
                terminal.remark(words)
            time.sleep(POLL)
        return False
    except KeyboardInterrupt:
        terminal.remark(fleet.stop())
        return True
    except OSError:  # no room for the next job's file, say
        terminal.remark(fleet.stop())
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
