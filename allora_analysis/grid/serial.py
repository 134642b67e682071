"""A grid's runs one after the other, in this process. Checked by `tests/test_grid_serial.py`."""

from __future__ import annotations

import time
import traceback

from allora_analysis import terminal
from allora_analysis.grid.plan import Grid, Summary, Task, data_of, digests, recorded, sweep
from allora_analysis.records.files import Busy
from allora_analysis.validation import ArgumentError

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


def run(grid: Grid) -> Summary:
    """Run what is not recorded; a run that another process is at is looked at again when the others are done.

    Args:
        grid: the grid.

    Returns:
        What became of the runs.
    """
    known = recorded(grid)
    sweep(grid, known)
    todo = [task for task, record in known.items() if record is None]
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
                        terminal.remark(
                            f"recorded {task.setting.words()}: {time.monotonic() - start:.0f} s, {left} to go"
                        )
            todo = list(busy)
            if todo:
                if not waited:
                    terminal.remark(f"waiting for {len(todo)} of the runs: {busy[todo[0]]}")
                waited = True
                time.sleep(PATIENCE)
    except KeyboardInterrupt:
        return Summary(before, ran, tuple(failed), interrupted=True)
    return Summary(before, ran, tuple(failed))


def _told(task: Task, error: Exception) -> str:
    if isinstance(error, ArgumentError):
        words = f"{task.setting.words()}: {error}"
    else:  # not the user's mistake: whoever repairs it wants to see where it came from
        terminal.remark("".join(traceback.format_exception(error)).rstrip())
        words = f"{task.setting.words()}: {type(error).__name__}: {' '.join(str(error).split()):.200}"
    terminal.remark(f"not run: {words}")
    return words
