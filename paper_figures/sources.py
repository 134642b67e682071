"""What a picture is drawn from: data, the records behind them, and what is not recorded yet.

Checked by `tests/test_paper_figures.py`.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from allora_analysis import __version__
from allora_analysis.finetune.setting import Setting
from allora_analysis.grid.presets import command
from allora_analysis.grid.reading import found
from allora_analysis.records.record import git

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Data = TypeVar("Data")
ROOT = Path(__file__).resolve().parents[1]
MADE_OF = ("allora_analysis", "paper_figures", "experiments/results")


class Missing(NamedTuple):
    """What is not recorded, and the command that records it."""

    what: str
    command: str

    def words(self) -> str:
        """Both in a line."""
        return f"{self.what}; run {self.command}"


@dataclass(frozen=True)
class Loaded(Generic[Data]):
    """What `load_data` hands to `make_figure` or `make_table`.

    Attributes:
        data: the numbers.
        records: names of the records that they come from; none for a closed form.
        missing: what is not recorded yet.
    """

    data: Data
    records: tuple[str, ...] = ()
    missing: tuple[Missing, ...] = ()


class Runs(NamedTuple):
    """Recorded fine-tuning runs: results by setting, and the names of their records."""

    results: Mapping[Setting, Mapping[str, Any]]
    records: Mapping[Setting, str]

    def whole(self, case: Iterable[Setting]) -> bool:
        """Whether every run of a case is recorded.

        Args:
            case: the runs.

        Returns:
            True if so.
        """
        return all(run in self.results for run in case)

    def names(self, used: Iterable[Setting]) -> tuple[str, ...]:
        """The records of those runs that have one.

        Args:
            used: the runs.

        Returns:
            Their names, each once.
        """
        return tuple(dict.fromkeys(self.records[run] for run in used if run in self.records))

    def missing(self, wanted: Iterable[Setting], experiment: str) -> tuple[Missing, ...]:
        """What of a list of runs is not recorded.

        Args:
            wanted: the runs.
            experiment: whose list they are of.

        Returns:
            One entry, with the experiment's command and the models and data that these runs need; or none if all are
            recorded.
        """
        known = list(dict.fromkeys(wanted))
        lacking = [run for run in known if run not in self.results]
        if not lacking:
            return ()
        told = f"{len(lacking)} of {len(known)} runs are not recorded"
        return (Missing(told, command(experiment, lacking)),)


def runs(wanted: Iterable[Setting], folder: Path | str | None = None) -> Runs:
    """What is recorded of a list of fine-tuning runs.

    Returns:
        The runs that have a record.
    """
    records = found(wanted, folder)
    return Runs({run: one.result for run, one in records.items()}, {run: one.path.stem for run, one in records.items()})


def say_missing(axis: Axes, *missing: Missing) -> None:
    """Fill an empty panel with what is missing and the commands that make it.

    Args:
        axis: the panel.
        *missing: what is missing, one entry a command.
    """
    wrap = partial(textwrap.fill, width=32, break_on_hyphens=False, break_long_words=False, subsequent_indent="  ")
    first = [one.command.split(" --")[0] + " …" for one in missing]  # the whole of several would not fit
    words = "\n".join(first) if len(missing) > 1 else wrap(missing[0].command)
    axis.grid(False)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set(visible=True, color="0.75", linestyle=":")
    told = "".join(f"{one.what}.\n" for one in missing)
    axis.text(0.08, 0.9, f"{told}This makes them:", va="top", transform=axis.transAxes)
    below = 0.8 - 0.12 * len(missing)
    axis.text(0.08, below, words, va="top", family="monospace", fontsize=6, transform=axis.transAxes)


def provenance(records: Iterable[str]) -> str:
    """Where a picture comes from, for its metadata.

    Args:
        records: names of the records.

    Returns:
        JSON, ASCII alone: the last git revision that touched code or records, with a "+" where the files differ from
        it (None outside a repository), the package's version, the records.
    """
    revision = git(ROOT, "log", "-1", "--format=%H", "--", *MADE_OF)
    changed = git(ROOT, "status", "--porcelain", "--untracked-files=no", "--", *MADE_OF)
    told = revision + ("+" if changed else "") if revision else None
    return json.dumps({"git_revision": told, "allora_analysis": __version__, "records": sorted(records)})
