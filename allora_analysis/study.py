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
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from tyro.conf import arg

from allora_analysis import outputs
from allora_analysis.validation import COUNTABLE

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
    """What a study prints: its finding in a sentence, a title, column headings, rows of text, and notes below.

    The first columns name a row.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    keys: int = 1
    finding: str = ""


@dataclass(frozen=True)
class Study:
    """A study as the command line sees it: its name and its four parts.

    `example` is a call's flags, for its help; `z` gives the standardized differences between prediction and simulation,
    which the command doubts where one is large.
    """

    name: str
    config: type
    run: Callable[[Any], Result]
    table: Callable[[Any, Result], Table]
    plot: Callable[[Any, Result], Figure]
    example: str = ""
    z: Callable[[Result], Sequence[float | None]] | None = None


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


def bound(value: float, places: int, up: bool) -> float:
    """A bound as a reader sees it, rounded outwards: up or down to so many decimals, of its first twelve digits."""
    rounding = ROUND_CEILING if up else ROUND_FLOOR
    return float(Decimal(f"{value:.12g}").quantize(Decimal(1).scaleb(-places), rounding)) + 0.0


def signed(value: float, places: int) -> str:
    """A difference with its sign and so many decimals, "+0.3"; what rounds to 0 has none, "0.0"."""
    told = f"{value:+.{places}f}"
    return told if float(told) else told[1:]


def plain(value: Any, infinity: str | None = None) -> Any:
    """A value as JSON has it: arrays as lists, NumPy scalars as numbers, infinity as null or the sign that is given."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item, infinity) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item, infinity) for item in value]
    if isinstance(value, float) and math.isnan(value):
        raise ValueError("a result holds a NaN; this is an error of the toolkit, please report it with the command")
    if isinstance(value, float) and math.isinf(value):
        return infinity and "−" * (value < 0) + infinity
    return str(value) if isinstance(value, Path) else value


def installed(package: str) -> str | None:
    """A package's version; None where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def environment() -> dict[str, Any]:
    """Versions, platform and threads: what a result depends on besides its config."""
    import os
    import platform

    from threadpoolctl import threadpool_info

    from allora_analysis import __version__

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
    if outputs.redraws():
        from rich.console import Console
        from rich.progress import track

        yield from track(items, description, console=Console(stderr=True), transient=True)
        return
    done, finished = 0, threading.Event()

    def report() -> None:  # from a thread: the first item alone may take minutes
        wait = INTERVAL
        while not finished.wait(wait):
            outputs.remark(f"{description}: {done} of {len(items)}")
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


LARGE = 3.0  # |z| above which a simulation is doubted


def doubt(study: Study, config: Any, result: Result) -> str | None:
    """What to think of a large |z|: how often chance gives one, and what a second seed says, run at once."""
    known = [z for z in study.z(result) if z is not None] if study.z and not result.interrupted else []
    worst = max(map(abs, known), default=0.0)
    if worst <= LARGE:
        return None
    chance = min(1.0, len(known) * math.erfc(worst / math.sqrt(2)))
    often = f"at most one seed in {1 / chance:,.0f}" if chance > 0 else "no seed"
    other = config.seed + 1 if config.seed < COUNTABLE else config.seed - 1
    again = study.run(dataclasses.replace(config, seed=other))
    second = ", ".join("–" if z is None else f"{z:+.2f}" for z in study.z(again))
    return (
        f"|z| = {worst:.2f} is above {LARGE:g}: were z normal, chance would give one so large among {len(known)} "
        f"numbers under {often}; of few draws or rare masks it gives more. Seed {other}, run at once: z = {second}."
    )


def show(table: Table) -> None:
    """Print a table to standard output, as wide as the terminal or, where there is none, as it needs.

    A cell stays on one line, since a number on two is another number. What is wider than the terminal is shown in
    parts, one below the other, each with the key columns; notes are no wider than the table.
    """
    from rich.console import Console

    width = shutil.get_terminal_size().columns
    whole = [_grid(table, range(len(table.columns)), table.title)]
    parts = _parts(table, width) if sys.stdout.isatty() else whole
    widths = [Console(width=100_000).measure(part).maximum for part in parts]
    console = outputs.console(width if sys.stdout.isatty() else max(160, width, *widths))
    if table.finding:
        note(f"{table.finding}\n", max(NARROWEST, *widths))
    for part in parts:
        console.print(part, highlight=False, markup=False)
    for one in table.notes:
        note(one, max(NARROWEST, *widths))


def note(text: str, width: int = 100) -> None:
    """Print a note to standard output, in lines no wider than this, nor than the terminal."""
    wide = min(width, shutil.get_terminal_size().columns) if sys.stdout.isatty() else width
    print("\n".join(textwrap.wrap(text, wide, **NOTES)))


NARROWEST = 60  # characters that a line of a note may have below a narrow table
NOTES: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False, "subsequent_indent": "  "}


def _least(table: Table, column: int) -> int:
    # The width that no cell and no word of the heading needs to be broken in.
    from rich.cells import cell_len

    words = [row[column] for row in table.rows] + table.columns[column].split()
    return max((cell_len(word) for word in words), default=1)


def _parts(table: Table, width: int) -> list[Any]:
    # Columns in their order, as many a part as fit beside the key columns.
    keys = list(range(min(table.keys, len(table.columns))))
    parts = [keys[:]]
    for column in range(len(keys), len(table.columns)):
        if parts[-1] != keys and sum(_least(table, one) + 3 for one in [*parts[-1], column]) + 1 > width:
            parts.append(keys[:])
        parts[-1].append(column)
    return [_grid(table, of, table.title if of is parts[0] else None, width) for of in parts]


def _grid(table: Table, columns: Sequence[int], title: str | None, width: int = 100_000) -> Any:
    from rich.cells import cell_len
    from rich.table import Table as RichTable
    from rich.text import Text

    # Text, because a title's or a heading's square brackets are no markup; fold, because a cut number is a wrong one.
    grid = RichTable(title=None if title is None else Text(title), title_justify="left")
    full = [max(_least(table, one), cell_len(table.columns[one])) for one in columns]
    least = sum(_least(table, one) + 3 for one in columns) + 1
    narrow = sum(one + 3 for one in full) + 1 > width >= least
    for one in columns:
        justify = "left" if one < table.keys else "right"
        wanted = _least(table, one) if narrow else None
        grid.add_column(Text(table.columns[one]), justify=justify, overflow="fold", width=wanted)
    for row in table.rows:
        grid.add_row(*(Text(row[one]) for one in columns))
    return grid
