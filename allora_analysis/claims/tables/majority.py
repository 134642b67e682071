"""How far each accuracy is above the rate of the most frequent label, and how exactly a test set can tell.

A classifier that ignores its input and names the majority label is right on a share π of the examples. An accuracy a
over n examples has binomial standard error √(a(1 − a)/n): that is the uncertainty from the choice of test examples,
which repeated training runs on one test set do not reduce. Checked by `tests/test_claims_tables.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from allora_analysis.claims.reported import (
    COMMONSENSE_LABELS,
    PERCEPTION_LABELS,
    TABLE_1,
    TABLE_3,
    TABLE_4,
    TASKS,
    LabelCounts,
)
from allora_analysis.statistics import accuracy_stderr


@dataclass(frozen=True)
class AboveMajority:
    """An accuracy beside the majority rate of its data set, all in percent or percentage points.

    Attributes:
        where: table, model, data set, arm, setting.
        model: the pre-trained model.
        dataset: the data set.
        accuracy: as printed.
        majority: the majority label's share; None where no count is at hand.
        distance: accuracy − majority; None likewise.
        stderr: binomial standard error of the accuracy at the test set's size; None likewise.
        headroom_used: distance/(100 − majority): 0 at the majority rate, 1 at 100 %; None likewise.
    """

    where: str
    model: str
    dataset: str
    accuracy: float
    majority: float | None
    distance: float | None
    stderr: float | None
    headroom_used: float | None

    def beyond(self, z: float) -> bool | None:
        """Whether the accuracy is more than z standard errors above the majority rate.

        Args:
            z: the number of standard errors.

        Returns:
            None where the majority rate is not known.
        """
        return None if self.distance is None or self.stderr is None else self.distance > z * self.stderr


def above_majority(where: str, model: str, dataset: str, accuracy: float, labels: LabelCounts | None) -> AboveMajority:
    """One accuracy's distance to the majority rate.

    Args:
        where: its place.
        model: the pre-trained model.
        dataset: the data set.
        accuracy: percent.
        labels: counts of the evaluation split; None where they are not at hand.

    Returns:
        The distance, with None for all that needs counts where there are none.
    """
    if labels is None:
        return AboveMajority(where, model, dataset, accuracy, None, None, None, None)
    majority = labels.majority_percent
    stderr = 100 * accuracy_stderr(accuracy / 100, labels.examples)
    distance = accuracy - majority
    return AboveMajority(where, model, dataset, accuracy, majority, distance, stderr, distance / (100 - majority))


def perception_cells() -> tuple[AboveMajority, ...]:
    """Every cell of Tables 3 and 4, those that Table 4 repeats from Table 3 once.

    Returns:
        Table 3's 27 × 3 cells, then Table 4's OD, ASF and LoRA×η cells.
    """
    shared = {(cell.model, cell.dataset, cell.eta_squared, cell.arm) for cell in TABLE_3}
    cells = (*TABLE_3, *(c for c in TABLE_4 if (c.model, c.dataset, c.eta_squared, c.arm) not in shared))
    return tuple(
        above_majority(
            f"{cell.table}, {cell.model}, {cell.dataset}, {cell.arm}, η² = {cell.eta_squared:g}",
            cell.model,
            cell.dataset,
            cell.accuracy,
            PERCEPTION_LABELS.get(cell.dataset),
        )
        for cell in cells
    )


def commonsense_cells() -> tuple[AboveMajority, ...]:
    """Every cell of Table 1; HellaSwag's have no majority rate.

    Returns:
        18 × 8 cells.
    """
    return tuple(
        above_majority(
            f"Table 1, {row.model}, r = {row.rank}, {task}, {row.arm}",
            row.model,
            task,
            accuracy,
            COMMONSENSE_LABELS.get(task),
        )
        for row in TABLE_1
        for task, accuracy in zip(TASKS, row.accuracies, strict=True)
    )
