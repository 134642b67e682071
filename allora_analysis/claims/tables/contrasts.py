"""Paired contrasts between arms over the reported cells, and the clusters within which cells depend on one another.

A cell is one (model, data set, η²) of Tables 3 and 4 or one (model, rank, task) of Table 1. Cells are not independent:
the three η² of one (model, data set) share the model and the test set, and Table 1's eight tasks are answered by one
fine-tuned model. The unit is therefore the cluster, a (model, data set) or a (model, rank), with the mean of its
cells. Table 1 reports one run a cell, the best of several settings.
Checked by `tests/test_claims_tables_contrasts.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from allora_analysis.claims.reported import TABLE_1, TASKS, Cell
from allora_analysis.claims.tables.arithmetic import TABLES, by_key
from allora_analysis.claims.tables.rounding import exact
from allora_analysis.validation import ArgumentError

Label = tuple[str, ...]


@dataclass(frozen=True)
class Contrast:
    """Two arms of one table; a positive gap says that `better` is.

    Attributes:
        name: short name, as in the printed table of contrasts.
        table: "Table 1", "Table 3" or "Table 4".
        better: the arm that the paper says is better.
        worse: the other arm.
    """

    name: str
    table: str
    better: str
    worse: str


CONTRASTS = (
    Contrast("ALLoRA − LoRA", "Table 3", "ALLoRA", "LoRA"),
    Contrast("ALLoRA-0 − LoRA", "Table 3", "ALLoRA-0", "LoRA"),
    Contrast("ALLoRA − DoRA", "Table 1", "ALLoRA", "DoRA"),
    Contrast("ALLoRA-0 − DoRA", "Table 1", "ALLoRA-0", "DoRA"),
    Contrast("ALLoRA − ALLoRA-OD", "Table 4", "ALLoRA", "ALLoRA-OD"),
    Contrast("ALLoRA − ASF-LoRA", "Table 4", "ALLoRA", "ASF-LoRA"),
    Contrast("ALLoRA − LoRA×η", "Table 4", "ALLoRA", "LoRA×η"),
    Contrast("LoRA×η − ASF-LoRA", "Table 4", "LoRA×η", "ASF-LoRA"),
    Contrast("ALLoRA-OD − ASF-LoRA", "Table 4", "ALLoRA-OD", "ASF-LoRA"),
)


@dataclass(frozen=True)
class Gaps:
    """A contrast's gaps in percentage points, one a cell, with labels.

    Attributes:
        values: better − worse.
        labels: each cell's full label: (model, data set, η²) or (model, rank, task).
        clusters: each cell's cluster: (model, data set) or (model, rank).
    """

    values: Float[np.ndarray, " cells"]
    labels: tuple[Label, ...]
    clusters: tuple[Label, ...]

    def by_cluster(self) -> dict[Label, float]:
        """The mean gap of each cluster, in order of appearance.

        Returns:
            Means by cluster.
        """
        return {
            cluster: float(np.mean([v for v, c in zip(self.values, self.clusters, strict=True) if c == cluster]))
            for cluster in dict.fromkeys(self.clusters)
        }


def gap(better: float, worse: float) -> float:
    """Better − worse of two printed numbers, exact before the last conversion.

    Args:
        better: percent.
        worse: percent.

    Returns:
        Percentage points.
    """
    return float(exact(better) - exact(worse))


def gaps(table: str, better: str, worse: str, cells: Sequence[Cell] | None = None) -> Gaps:
    """The gaps between two arms of a table.

    Args:
        table: "Table 1", "Table 3" or "Table 4".
        better: one arm.
        worse: the other.
        cells: instead of the table's own (Tables 3 and 4 only).

    Returns:
        One gap a cell.

    Raises:
        ArgumentError: an arm that the table does not have.
    """
    accuracies = _accuracies(table, cells)
    arms = dict.fromkeys(arm for *_, arm in accuracies)
    for name, arm in (("better", better), ("worse", worse)):
        if arm not in arms:
            raise ArgumentError(f"{name} must be one of {', '.join(arms)} in {table}; received {arm!r}")
    labels = tuple(key[:3] for key in accuracies if key[3] == better)
    values = np.array([gap(accuracies[(*label, better)], accuracies[(*label, worse)]) for label in labels])
    return Gaps(values, labels, tuple(label[:2] for label in labels))


def _accuracies(table: str, cells: Sequence[Cell] | None) -> dict[Label, float]:
    if table == "Table 1":
        return {
            (row.model, f"r = {row.rank}", task, row.arm): accuracy
            for row in TABLE_1
            for task, accuracy in zip(TASKS, row.accuracies, strict=True)
        }
    if table not in TABLES:
        raise ArgumentError(f"table must be one of Table 1, {', '.join(TABLES)}; received {table!r}")
    return {
        (m, d, f"η² = {eta:g}", arm): value
        for (m, d, eta, arm), value in by_key(TABLES[table] if cells is None else cells).items()
    }
