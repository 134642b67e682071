"""The whole ledger on other draws of its cases: `python -m tests.hardening.redraws`.

A verdict is that of its statement and not of its seed: with `--seed N` every row that draws its cases draws others,
and must come to the recorded verdict, and to the same answer at the paper's own setting.
"""

import os
import sys

from tests.hardening import command_line, progress, record
from tests.hardening.verdicts import differing

COMMAND = "python -m tests.hardening.redraws"
KEPT = ("verdict", "at_paper")


def main() -> int:
    """Seeds 1, 2, …; which rows differ on which."""
    arguments = command_line(COMMAND, __doc__, "", seeds=(20, "how many other seeds"))
    tried, wrong = 0, []
    for seed in range(1, arguments.seeds + 1):
        count, differ = differing(dict(os.environ), ("--seed", str(seed)), KEPT)
        tried += count
        wrong += [f"{one} on seed {seed}" for one in differ]
        progress(seed, arguments.seeds, f": {count} rows, differing: {differ}")
    found = f"{len(wrong)} rows differ: {'; '.join(wrong)}" if wrong else "every verdict as on the recorded seed"
    what = "the ledger on other draws of all its cases"
    record("redraws", what, COMMAND, tried, f"rows on {arguments.seeds} seeds", found, "nothing")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
