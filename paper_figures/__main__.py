"""`python -m paper_figures [NAME…] [--out FOLDER]`: the paper's figures and tables, and those that it lacks."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from allora_analysis import cli, outputs
from allora_analysis.validation import ArgumentError, choice
from paper_figures import NAMES

if TYPE_CHECKING:
    from types import ModuleType


@dataclass(frozen=True)
class Arguments:
    """Draw the paper's figures and tables from what is committed: .png and .pdf, or .md and .tex.

    A picture whose records are missing says which command makes them; the exit status is then 1.
    """

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="[NAME ...]", help_behavior_hint="")] = ()
    """Which: figure_1 … figure_5, table_1 … table_4, eta_squared, ripple, transformer, zero_initialisation, deviation,
    crossover, escape, width, learning_rates, procedures, laboratory, screening; default: all."""
    out: Annotated[Path, arg(metavar="FOLDER")] = Path("docs")
    """Where the files go; made where there is none."""


def run(arguments: Arguments) -> int:
    """Draw what is asked for.

    Returns:
        The exit status: 1 if a record is missing.

    Raises:
        ArgumentError: no such name, a folder that cannot be made, or a file that cannot be written.
    """
    names = [choice("NAME", name, NAMES) for name in dict.fromkeys(arguments.names or NAMES)]
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError(f"--out {arguments.out}: cannot be made ({error.strerror}); name another folder") from None
    lacking = []
    for name in names:
        module = importlib.import_module(f"paper_figures.{name}")
        loaded = module.load_data()
        for ending, write in _writers(name, module, loaded).items():
            path = arguments.out / f"{name}.{ending}"
            try:
                outputs.write_atomically(path, write)
            except OSError as error:
                raise ArgumentError(f"--out {path}: {error.strerror}; name a folder you can write to") from None
            print(path)
        if loaded.missing:
            lacking.append(f"{name}: {'; '.join(missing.words() for missing in loaded.missing)}")
    for line in lacking:
        print(line, file=sys.stderr)
    return 1 if lacking else 0


def _writers(name: str, module: ModuleType, loaded: Any) -> dict[str, Callable[[Path], None]]:
    from allora_analysis import plotting
    from paper_figures.sources import provenance

    source = provenance(loaded.records)
    title = module.__doc__.partition("\n")[0]
    if name.startswith("table_"):
        table = module.make_table(loaded)
        texts = {"md": table.markdown(source), "tex": table.latex(source)}
        return {
            ending: lambda path, text=text: path.write_text(text, encoding="utf-8") and None
            for ending, text in texts.items()
        }
    figure = module.make_figure(loaded)
    return dict.fromkeys(("png", "pdf"), lambda path: plotting.save(figure, path, f"{name}: {title}", source))


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    return cli.guarded(lambda: run(cli.parse(Arguments, "python -m paper_figures", argv)))


if __name__ == "__main__":
    raise SystemExit(main())
