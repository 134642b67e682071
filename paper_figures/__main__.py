"""`python -m paper_figures`: draw every figure of the paper from the committed records."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from allora_analysis import cli
from allora_analysis.validation import ArgumentError, choice, several
from paper_figures import FIGURES


@dataclass(frozen=True)
class Arguments:
    """Draw the paper's figures from the committed records."""

    only: tuple[str, ...] = FIGURES
    """Which figures."""
    folder: Path = Path("docs")
    """Where the pictures go."""


def run(arguments: Arguments) -> int:
    """Draw the figures asked for.

    Args:
        arguments: the flags.

    Returns:
        The exit status.

    Raises:
        ArgumentError: no such folder.
    """
    from allora_analysis import plotting

    if not arguments.folder.is_dir():
        raise ArgumentError(f"--folder {arguments.folder}: is not a folder; name one that is there")
    for name in [choice("--only", name, FIGURES) for name in several("--only", arguments.only)]:
        module = importlib.import_module(f"paper_figures.{name}")
        path = arguments.folder / f"{name}.png"
        with plotting.style():
            figure = module.make_figure(module.load_data())
        cli.write_atomically(path, lambda target, drawn=figure, of=name: plotting.save(drawn, target, of))
        print(path)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command.

    Args:
        argv: the words after the command; None for those of this process.

    Returns:
        The exit status.
    """
    return cli.guarded(lambda: run(cli.parse(Arguments, "python -m paper_figures", argv)))


if __name__ == "__main__":
    raise SystemExit(main())
