"""The types of a reported number: where it stands in the paper and what it says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """One accuracy of Table 3 or 4.

    Attributes:
        table: "Table 3" or "Table 4".
        model: the pre-trained model.
        dataset: the data set.
        eta_squared: η²; η multiplies the base learning rate or, for LoRA×η, the output.
        arm: the method.
        accuracy: percent, two decimals, the mean of five runs.
    """

    table: str
    model: str
    dataset: str
    eta_squared: float
    arm: str
    accuracy: float


@dataclass(frozen=True)
class CommonsenseRow:
    """One row of Table 1.

    Attributes:
        model: the pre-trained model.
        rank: LoRA's rank r.
        arm: "DoRA", "ALLoRA" or "ALLoRA-0".
        parameters: the column "# Params %", percent, two decimals.
        accuracies: percent, one decimal, in the order of `TASKS`.
        average: the column "Avg", percent, one decimal.
    """

    model: str
    rank: int
    arm: str
    parameters: float
    accuracies: tuple[float, ...]
    average: float


@dataclass(frozen=True)
class DropoutColumn:
    """One column of Table 2: Qwen2-0.5B on Bias in Bios, the mean of three runs.

    Attributes:
        drop_rate: the dropout rate, 1 − keep probability.
        at_epoch_3: accuracy after 3 epochs, percent.
        at_epoch_10: accuracy after 10 epochs, percent.
        best: the best accuracy over the epochs, percent.
        best_epoch: the epoch of the best accuracy.
    """

    drop_rate: float
    at_epoch_3: float
    at_epoch_10: float
    best: float
    best_epoch: int


@dataclass(frozen=True)
class GapRow:
    """One row of a panel of Figure 3 or 4.

    Attributes:
        model: the pre-trained model.
        dataset: the data set.
        gaps: accuracy gaps in percentage points, two decimals, in the order of `ETA_SQUARED`.
        average: the row's "Average".
    """

    model: str
    dataset: str
    gaps: tuple[float, ...]
    average: float


@dataclass(frozen=True)
class Panel:
    """A panel of Figure 3 or 4: the accuracy of one arm minus that of another.

    Attributes:
        name: figure and place, for example "Figure 3 left".
        table: the table that holds both arms.
        minuend: the arm whose accuracy is better where a gap is positive.
        subtrahend: the other arm.
        rows: one a (model, data set).
        column_averages: the row "Average" by η²; None where the source at hand does not show it.
        average: the average of all cells; None likewise.
    """

    name: str
    table: str
    minuend: str
    subtrahend: str
    rows: tuple[GapRow, ...]
    column_averages: tuple[float, ...] | None
    average: float | None


@dataclass(frozen=True)
class LabelCounts:
    """How often each label occurs in an evaluation split.

    Attributes:
        dataset: the data set's name as in the tables.
        examples: rows of the split.
        majority: rows of its most frequent label; None where only a share is published.
        majority_percent: that label's share, percent.
        source: where the counts come from.
    """

    dataset: str
    examples: int
    majority: int | None
    majority_percent: float
    source: str


@dataclass(frozen=True)
class Architecture:
    """What a decoder-only model's parameter count depends on (LLaMA family; untied embeddings, no biases).

    Attributes:
        model: the name as in Table 1.
        hidden: width of the residual stream.
        intermediate: width of the MLP.
        key_value: output width of the key and value projections (below `hidden` with grouped-query attention).
        layers: decoder layers.
        vocabulary: tokens.
        source: where the sizes come from.
    """

    model: str
    hidden: int
    intermediate: int
    key_value: int
    layers: int
    vocabulary: int
    source: str
