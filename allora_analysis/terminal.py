"""Standard output and error as they may be: closed by their reader, full, missing, or without our letters.

Checked by `tests/test_terminal.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

from allora_analysis.validation import ArgumentError


def prepare() -> None:
    """Let both streams take any text: what the encoding lacks is escaped, a stream that is missing swallows it."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif "utf" not in (stream.encoding or "utf").lower() and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def console(width: int | None = None) -> Any:
    """A rich console on standard output that leaves a closed pipe to its caller."""
    from rich.console import Console

    class Unbroken(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    # With a height as well: a width alone is not taken where TERM=dumb.
    return Unbroken(width=width, height=None if width is None else 25)


def redraws() -> bool:
    """Whether standard error is a terminal on which a bar can be redrawn; TERM=dumb is none."""
    return sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def tell(say: Callable[[], None]) -> None:
    """Print; where nobody reads on, go on: what is to be written to files still is."""
    try:
        say()
        sys.stdout.flush()
    except BrokenPipeError:
        swallow()
    except OSError as error:
        swallow()  # or the interpreter would try again at its end
        raise ArgumentError(f"standard output: {error.strerror or error}; send it elsewhere") from None


def say(line: str) -> None:
    """Print a line to standard output as `tell` does."""
    tell(lambda: print(line))


def remark(line: str) -> None:
    """Print a line to standard error; where it cannot be read or written, long work goes on without."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        swallow(sys.stderr)


def swallow(stream: TextIO | None = None) -> None:
    """From here on, take what is printed and print it nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), (stream or sys.stdout).fileno())
