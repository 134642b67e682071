"""The paper's tables and figures as typed data, read from `reported.toml`, which says where the text is damaged.

Percent and percentage points throughout; None where the source shows no number. `tests/test_reported.py` compares every
number with a second transcription.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Cell:
    """One accuracy of Table 3 or 4, percent; η multiplies the base learning rate or, for LoRA×η, the output."""

    table: str
    model: str
    dataset: str
    eta_squared: float
    arm: str
    accuracy: float


@dataclass(frozen=True)
class CommonsenseRow:
    """One row of Table 1: "# Params %", the accuracies in the order of `TASKS`, "Avg"."""

    model: str
    rank: int
    arm: str
    parameters: float
    accuracies: tuple[float, ...]
    average: float


@dataclass(frozen=True)
class DropoutColumn:
    """One column of Table 2: accuracies after 3 and 10 epochs, the best over the epochs, and its epoch."""

    drop_rate: float
    at_epoch_3: float
    at_epoch_10: float
    best: float
    best_epoch: int


@dataclass(frozen=True)
class GapRow:
    """One row of a panel of Figure 3 or 4: the gaps in the order of `ETA_SQUARED`, and "Average"."""

    model: str
    dataset: str
    gaps: tuple[float, ...]
    average: float


@dataclass(frozen=True)
class Panel:
    """A panel of Figure 3 or 4, the accuracy of `minuend` minus that of `subtrahend`; its last row, "Average"."""

    name: str
    table: str
    minuend: str
    subtrahend: str
    rows: tuple[GapRow, ...]
    column_averages: tuple[float, ...] | None
    average: float | None


@dataclass(frozen=True)
class LabelCounts:
    """An evaluation split's size and its most frequent label's rows (None if not published) and share, percent."""

    dataset: str
    examples: int
    majority: int | None
    majority_percent: float
    source: str


@dataclass(frozen=True)
class Architecture:
    """What a LLaMA decoder's parameter count depends on; `key_value` is the key and value projections' output width."""

    model: str
    hidden: int
    intermediate: int
    key_value: int
    layers: int
    vocabulary: int
    source: str


def _labels(rows: list) -> dict[str, LabelCounts]:
    found = {}
    for dataset, examples, number, source in rows:
        counted = isinstance(number, int)  # a whole number counts rows, another is a percentage
        percent = 100 * number / examples if counted else number
        found[dataset] = LabelCounts(dataset, examples, number if counted else None, percent, source)
    return found


def _columns(table: dict) -> tuple[tuple[str, str], ...]:
    return tuple(tuple(column) for column in table["columns"])


def _cells(name: str, table: dict) -> tuple[Cell, ...]:
    return tuple(
        Cell(name, model, dataset, eta_squared, arm, accuracy)
        for eta_squared, arm, row in table["rows"]
        for (model, dataset), accuracy in zip(_columns(table), row, strict=True)
    )


def _panel(panel: dict, columns: tuple[tuple[str, str], ...]) -> Panel:
    rows = tuple(GapRow(*column, tuple(row[:3]), row[3]) for column, row in zip(columns, panel["rows"], strict=True))
    *last, average = panel.get("last", [None])
    return Panel(panel["name"], panel["table"], *panel["arms"], rows, tuple(last) or None, average)


_DATA = tomllib.loads(files(__package__).joinpath("reported.toml").read_text(encoding="utf-8"))
ETA_SQUARED: tuple[float, ...] = tuple(_DATA["eta_squared"])
TASKS: tuple[str, ...] = tuple(_DATA["table_1"]["tasks"])
TABLE_1 = tuple(CommonsenseRow(*row[:4], tuple(row[4]), row[5]) for row in _DATA["table_1"]["rows"])
TABLE_2 = tuple(DropoutColumn(*column) for column in _DATA["table_2"]["rows"])
COLUMNS_3, COLUMNS_4 = _columns(_DATA["table_3"]), _columns(_DATA["table_4"])
TABLE_3, TABLE_4 = _cells("Table 3", _DATA["table_3"]), _cells("Table 4", _DATA["table_4"])
_PANELS = tuple(_panel(one, COLUMNS_3 if one["table"] == "Table 3" else COLUMNS_4) for one in _DATA["panels"])
FIGURE_3, FIGURE_4 = _PANELS[:2], _PANELS[2:]
DORA_SOURCE: str = _DATA["dora_published"]["source"]
DORA_PUBLISHED: dict[tuple[str, str, int], tuple[float, ...]] = {
    (model, method, rank): (*accuracies, average)
    for model, method, rank, accuracies, average in _DATA["dora_published"]["rows"]
}
"""(model, method, rank) → eight accuracies and their average."""
PERCEPTION_LABELS, COMMONSENSE_LABELS = (_labels(_DATA["labels"][kind]) for kind in ("perception", "commonsense"))
ARCHITECTURES = {row[0]: Architecture(*row) for row in _DATA["architectures"]["rows"]}
ADAPTED_MODULES: tuple[str, ...] = tuple(_DATA["architectures"]["adapted"])
