"""What all studies share: a frozen `Config` → `run(config)` → `Result` → a table, JSON, a figure; and the command line.

A study is four things: a frozen dataclass whose fields are its flags, `run`, `table` and `plot`. Its `__main__` says
`raise SystemExit(main(STUDY))`. Exit status: 0 success, 2 a mistake of the caller's (one line, no traceback), 130
Ctrl-C (after printing what was finished). Checked by `tests/test_study.py`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from tyro.conf import arg

from allora_analysis import terminal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INTERRUPTED = 130
INTERVAL = 2.0  # seconds to the first line of progress, where standard error is no terminal; each next waits longer
LONGEST = 60.0


@dataclass(frozen=True)
class Result:
    """A study's outcome: what the closed forms predict beside what was measured. Arrays and numbers, by name.

    `interrupted` says that Ctrl-C ended the run and only what was finished is here.
    """

    predicted: Mapping[str, Any]
    measured: Mapping[str, Any]
    interrupted: bool = False


@dataclass(frozen=True)
class Table:
    """What a study prints: a title, column headings, rows of text, and notes below."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Study:
    """A study as the command line sees it: its name and its four parts."""

    name: str
    config: type
    run: Callable[[Any], Result]
    table: Callable[[Any, Result], Table]
    plot: Callable[[Any, Result], Figure]


@dataclass(frozen=True)
class Output:
    """Where the result goes besides the table on standard output."""

    json: Annotated[str | None, arg(metavar="PATH|-")] = None
    """Write the result as JSON to this path; - prints it to standard output instead of the table."""
    figure: Annotated[Path | None, arg(metavar="PATH")] = None
    """Draw the result to this path; its ending chooses the format (.png, .pdf, .svg)."""


def text(value: float | None, digits: int = 4) -> str:
    """A number for a table's cell, in `digits` significant digits; "∞" for infinity, "–" for none."""
    if value is None:
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.{digits}g}"


def plain(value: Any) -> Any:
    """A value as JSON has it: arrays as lists, NumPy scalars as numbers, infinity as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and math.isnan(value):
        raise ValueError("a result holds a NaN; this is an error of the toolkit, please report it with the command")
    if isinstance(value, float) and math.isinf(value):
        return None
    return str(value) if isinstance(value, Path) else value


def environment() -> dict[str, Any]:
    """Versions, platform and threads: what a result depends on besides its config."""
    import os
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from threadpoolctl import threadpool_info

    from allora_analysis import __version__

    def installed(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return {
        "allora_analysis": __version__,
        "python": platform.python_version(),
        "platform": platform.system() + "-" + platform.machine(),
        **{package: installed(package) for package in ("numpy", "scipy", "torch", "curvlinops-for-pytorch")},
        "threads": max((pool["num_threads"] for pool in threadpool_info()), default=os.cpu_count()),
    }


def as_json(study: Study, config: Any, result: Result) -> str:
    """The study's JSON document: {"study", "config", "predicted", "measured", "environment"}."""
    document = {"study": study.name, "config": config, "predicted": result.predicted, "measured": result.measured}
    if result.interrupted:
        document["interrupted"] = True
    return json.dumps(plain(document | {"environment": environment()}), indent=2, allow_nan=False, ensure_ascii=False)


def progress(items: Sequence[Any], description: str) -> Iterator[Any]:
    """Iterate with a progress bar on standard error; where that is no terminal, lines."""
    # After 2 s, then ever less often.
    if terminal.redraws():
        from rich.console import Console
        from rich.progress import track

        yield from track(items, description, console=Console(stderr=True), transient=True)
        return
    done, finished = 0, threading.Event()

    def report() -> None:  # from a thread: the first item alone may take minutes
        wait = INTERVAL
        while not finished.wait(wait):
            terminal.remark(f"{description}: {done} of {len(items)}")
            wait = min(1.5 * wait, LONGEST)

    threading.Thread(target=report, daemon=True).start()
    try:
        for item in items:
            yield item
            done += 1
    finally:
        finished.set()


def sweep(items: Iterable[Any], task: Callable[[Any], Any], description: str) -> tuple[list[Any], bool]:
    """Run a task on each item with a progress bar; Ctrl-C keeps what was finished."""
    finished: list[Any] = []
    try:
        for item in progress(list(items), description):
            finished.append(task(item))
    except KeyboardInterrupt:
        if not finished:
            raise
        return finished, True
    return finished, False


def show(table: Table) -> None:
    """Print a table to standard output: as wide as the terminal, or as the table needs where there is none."""
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    # Text, because a title's or a heading's square brackets are no markup; fold, because a cut number is a wrong one.
    grid = RichTable(title=Text(table.title), title_justify="left")
    for index, column in enumerate(table.columns):
        grid.add_column(Text(column), justify="left" if index == 0 else "right", overflow="fold")
    for row in table.rows:
        grid.add_row(*(Text(cell) for cell in row))
    needed = Console(width=100_000).measure(grid).maximum
    console = terminal.console(None if sys.stdout.isatty() else max(160, needed, shutil.get_terminal_size().columns))
    console.print(grid, highlight=False, markup=False)
    for note in table.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
