"""Table 2's sentences: what a larger dropout rate does after 3 and 10 epochs, and to the best epoch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from allora_analysis.claims.ledger import Claim, Evidence, Finding, settle
from allora_analysis.claims.reported import PERCEPTION_LABELS, TABLE_2
from allora_analysis.claims.tables import contrasts
from allora_analysis.claims.tables.rows.numbers import COMMAND, TEST
from allora_analysis.statistics import accuracy_stderr


def epoch_of_best() -> list[float]:
    """Table 2's last row.

    Returns:
        One epoch a drop rate.
    """
    return [float(column.best_epoch) for column in TABLE_2]


def after_10_epochs() -> list[float]:
    """Accuracy after long fine-tuning.

    Returns:
        Percent by drop rate.
    """
    return [column.at_epoch_10 for column in TABLE_2]


def after_3_epochs() -> list[float]:
    """Accuracy after short fine-tuning.

    Returns:
        Percent by drop rate.
    """
    return [column.at_epoch_3 for column in TABLE_2]


def lost_since_best() -> list[float]:
    """Overfitting: how far the accuracy after 10 epochs is below the best.

    Returns:
        Percentage points by drop rate.
    """
    return [contrasts.gap(column.best, column.at_epoch_10) for column in TABLE_2]


def ordered(values: Callable[[], list[float]], sign: int, peak: float | None, words: str) -> Callable[[], Finding]:
    """The check that a value rises (sign 1) or falls (−1) at each step to the next larger drop rate.

    Args:
        values: by drop rate.
        sign: 1 or −1.
        peak: the weaker statement: it rises up to this drop rate and falls after it; None: it never goes the other way.
        words: the weaker statement.

    Returns:
        The check.
    """

    def check() -> Finding:
        rates, numbers = [column.drop_rate for column in TABLE_2], values()
        steps = {
            (low, high): contrasts.gap(after, before)
            for (low, high), (before, after) in zip(pairwise(rates), pairwise(numbers), strict=True)
        }
        printed = {f"{low:g} to {high:g}": sign * step > 0 for (low, high), step in steps.items()}
        weaker = {
            f"{low:g} to {high:g}": sign * step >= 0 if peak is None else (step > 0 if high <= peak else step < 0)
            for (low, high), step in steps.items()
        }
        verdict = settle(printed, weaker)
        measured = {
            "values": numbers,
            "steps": {f"{low:g} to {high:g}": step for (low, high), step in steps.items()},
            "accuracy_stderr_of_one_test_set": 100 * accuracy_stderr(0.8, PERCEPTION_LABELS["bias_in_bios"].examples),
        }
        source = "order of printed numbers, each the mean of three runs"
        found = Evidence({"sign_of_steps": sign}, measured, source, n=len(steps))
        return Finding(verdict, found, words if verdict in ("conditional", "holds_corrected") else None)

    return check


def claims() -> tuple[Claim, ...]:
    """The rows about Table 2's sentences.

    Returns:
        The claims.
    """
    rows = (
        (
            "T2-epoch-of-best",
            "Table 2, caption",
            "the epoch at which the LoRA fine-tuned model reaches the best accuracy increases with the Dropout rate",
            ordered(epoch_of_best, 1, None, "it never decreases; 0.05 and 0.1 share epoch 8"),
        ),
        (
            "T2-long",
            "Table 2, caption",
            "the larger the probability to drop dimensions, … the better the final performance [after 10 epochs]",
            ordered(after_10_epochs, 1, 0.2, "up to the drop rate 0.2; 0.4 ends 0.12 points lower"),
        ),
        (
            "T2-short",
            "§3.1",
            "large dropout rates [come] at the cost of lower accuracy at lower number of epochs",
            ordered(after_3_epochs, -1, 0.05, "from the drop rate 0.05 on, which is 0.04 points above no dropout"),
        ),
        (
            "T2-overfit",
            "§3.1",
            "large dropout rates successfully avoid overfitting, [while no dropout] will overfit at later epochs",
            ordered(lost_since_best, -1, None, "overfitting never increases with the drop rate"),
        ),
    )
    return tuple(Claim(id, where, statement, check, COMMAND, TEST) for id, where, statement, check in rows)
