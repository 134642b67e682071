"""Closed forms against mpmath at 50 digits, at points in the corners: `python -m tests.hardening.numerics`.

`closed_forms` has them. A function's points come from its own seed. An error is relative to the reference; where the
function refuses a point, that is counted apart, since a refusal is an answer.
"""

import math
import sys
from typing import NamedTuple

import mpmath as mp
import numpy as np

from allora_analysis.validation import ArgumentError
from tests.hardening import command_line, progress, read, record
from tests.hardening.closed_forms import FORMS, Arguments

POINTS = 5_000
DIGITS = 50
COMMAND = "python -m tests.hardening.numerics"
HEADS = ["function", "points", "largest relative error", "at", "corners", "refused"]


class Worst(NamedTuple):
    """The largest relative error of a function, where, and how many points it refused in one line."""

    error: float
    at: str
    refused: int


def _words(arguments: Arguments) -> str:
    return ", ".join(f"{a:.3g}" if isinstance(a, int | float) else str(np.shape(a)) for a in arguments)


def sweep(name: str, points: int, seed: int = 0) -> Worst:
    """One function over its points.

    Raises:
        AssertionError: a value that is no finite number where the reference is one.
    """
    form, rng = FORMS[name], np.random.default_rng([seed, *name.encode()])
    worst, refused = Worst(0.0, "", 0), 0
    with mp.workdps(DIGITS):
        for _ in range(points):
            arguments = form.draw(rng)
            try:
                value = float(np.asarray(form.value(*arguments)).reshape(-1)[0])
            except ArgumentError:
                refused += 1
                continue
            exact = form.reference(*arguments)
            assert math.isfinite(value), f"{name}({_words(arguments)}) = {value}, and is {mp.nstr(exact, 8)}"
            error = float(abs(mp.mpf(value) - exact) / abs(exact)) if exact else abs(value)
            if not error <= worst.error:
                worst = Worst(error, _words(arguments), 0)
    return worst._replace(refused=refused)


def main() -> int:
    """All functions; each has its row as soon as it is done."""
    arguments = command_line(COMMAND, __doc__, "functions", points=(POINTS, "of each function"))
    names = [name for name in FORMS if arguments.only in name]
    for done, name in enumerate(names, 1):
        found = sweep(name, arguments.points)
        print(f"{name}: {found.error:.2g} at {found.at}; {found.refused} refused")
        keep(name, arguments.points, found)
        progress(done, len(names), f": {name}")
    return 0


def keep(name: str, points: int, found: Worst) -> None:
    """A function's row, in place of the one that was there; the line is the sum of the rows."""
    known = {row[0]: row for row in read().get("numerics", {}).get("rows", [HEADS])[1:] if len(row) == len(HEADS)}
    known[name] = [name, f"{points:,}", f"{found.error:.1e}", found.at, FORMS[name].corners, f"{found.refused:,}"]
    rows = [known[one] for one in FORMS if one in known]
    largest = max(rows, key=lambda row: float(row[2]))
    record(
        "numerics",
        "closed forms against mpmath at 50 digits",
        COMMAND,
        sum(int(row[1].replace(",", "")) for row in rows),
        f"points of {len(rows)} functions",
        f"largest relative error {largest[2]}, of {largest[0]}",
        "nothing",
        rows=[HEADS, *rows],
    )


if __name__ == "__main__":
    sys.exit(main())
