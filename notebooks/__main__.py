"""`python -m notebooks`: execute the notebooks and keep what they show, clean of whatever holds on this machine alone.

Exit status: 0 all ran; 1 a cell raised, an output names a place on this machine, a warning was printed, or (with
`--check`) a committed verdict is no longer the ledger's; 2 a mistake of the caller's. Checked by
`tests/test_notebooks.py`.
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from allora_analysis import cli, notebook
from allora_analysis.validation import ArgumentError, choice, several
from notebooks import NOTEBOOKS

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Arguments:
    """Execute the notebooks, in place."""

    only: tuple[str, ...] = NOTEBOOKS
    """Which notebooks."""
    folder: Path = FOLDER
    """Where they are."""
    small: bool = False
    """Small sizes, as continuous integration runs them; with --check only, as outputs are kept at full size."""
    check: bool = False
    """Execute and compare the verdicts shown with those committed; write nothing."""
    ledger: Path | None = None
    """With --check, a run of the ledger (python -m allora_analysis --json PATH) that need not be made again; if it is
    older than the package or the records, or of other ones, the notebooks check their rows themselves."""


def run(arguments: Arguments) -> int:
    """Execute the notebooks asked for.

    Raises:
        ArgumentError: small sizes or a ledger without --check; a file that is not there, an extra not installed.
    """
    if arguments.small and not arguments.check:
        raise ArgumentError("--small: outputs are committed at full size; add --check")
    if arguments.ledger is not None and not (arguments.check and arguments.ledger.is_file()):
        raise ArgumentError(f"--ledger {arguments.ledger}: must be a file, and goes with --check only")
    names = [choice("--only", name, NOTEBOOKS) for name in several("--only", arguments.only)]
    paths = [arguments.folder / f"{name}.ipynb" for name in names]
    for path in paths:
        if not path.is_file():
            raise ArgumentError(f"--folder {arguments.folder}: has no {path.name}")
    try:
        from notebooks.execution import Failed, execute
    except ImportError as error:
        raise ArgumentError(f"{error.name} is not installed; pip install -e '.[notebooks,llm]'") from None
    os.environ[notebook.SMALL] = "1" if arguments.small else "0"
    os.environ[notebook.LEDGER] = ""
    if arguments.ledger is not None and notebook.of_today(arguments.ledger, FOLDER.parent):
        os.environ[notebook.LEDGER] = str(arguments.ledger.resolve())
    elif arguments.ledger is not None:
        print(f"--ledger {arguments.ledger}: not what a run would give now; the rows are checked", file=sys.stderr)
    status = 0
    for path in paths:
        start = time.perf_counter()
        try:
            execute(path, write=not arguments.check)
        except Failed as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            status = 1
        else:
            print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    return cli.guarded(lambda: run(cli.parse(Arguments, "python -m notebooks", argv)))


if __name__ == "__main__":
    raise SystemExit(main())
