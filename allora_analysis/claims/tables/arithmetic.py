"""Printed numbers against the same numbers recomputed from others that the paper prints, in exact decimals.

A number printed with u decimals stands for an interval of half-width h = 10^{−u}/2. A recomputed value x from printed
inputs *agrees* with a printed y if |x − y| ≤ h, and rounding *explains* the difference if |x − y| ≤ h + H, where H
bounds what the inputs' own rounding can do to x. Recomputed here: Table 1's "Avg" and "# Params %", every cell and
average of Figures 3 and 4. Checked by `tests/test_claims_tables.py`, parameters against models built in torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from allora_analysis.claims.tables.reported import (
    ADAPTED_MODULES,
    ARCHITECTURES,
    ETA_SQUARED,
    FIGURE_3,
    FIGURE_4,
    TABLE_1,
    TABLE_3,
    TABLE_4,
    Architecture,
    Cell,
    CommonsenseRow,
    Panel,
)
from allora_analysis.validation import adapter_rank, choice

Key = tuple[str, str, float, str]
TABLES = {"Table 3": TABLE_3, "Table 4": TABLE_4}
# The cells that Table 3 and Figure 3 show the other way round (see `with_exchanged`).
EXCHANGED = ("Snowflake-Arctic-L", "yelp", 4.0)
DENOMINATORS = ("pretrained", "all")


@dataclass(frozen=True)
class Comparison:
    """A printed number beside the same number recomputed from others that the paper prints.

    Attributes:
        where: the printed number's place.
        basis: what it is recomputed from.
        printed: as printed.
        recomputed: from the basis.
        half_unit: half a unit of the printed number's last digit.
        input_error: the most that rounding of the basis can move the recomputed value.
    """

    where: str
    basis: str
    printed: Decimal
    recomputed: Decimal
    half_unit: Decimal
    input_error: Decimal

    @property
    def difference(self) -> Decimal:
        """Printed − recomputed, exactly."""
        return self.printed - self.recomputed

    @property
    def agrees(self) -> bool:
        """Whether the recomputed value rounds to the printed one, ties either way."""
        return abs(self.difference) <= self.half_unit

    @property
    def explained(self) -> bool:
        """Whether rounding, of the inputs and of the result, can explain the difference."""
        return abs(self.difference) <= self.half_unit + self.input_error


def exact(value: float) -> Decimal:
    """The decimal number that a printed literal means: 0.1 is one tenth."""
    return Decimal(repr(float(value)))


def half_unit(decimals: int) -> Decimal:
    """Half a unit of the last of `decimals` digits after the point."""
    return Decimal(5).scaleb(-decimals - 1)


def mean(values: Sequence[float]) -> Decimal:
    """The mean of printed numbers, to 28 digits."""
    return sum((exact(value) for value in values), Decimal(0)) / len(values)


@dataclass(frozen=True)
class Disagreement:
    """A printed number that its recomputation does not round to, and whether rounding can explain it."""

    where: str
    basis: str
    printed: float
    recomputed: float
    explained_by_rounding: bool


def disagreements_among(comparisons: Iterable[Comparison]) -> tuple[Disagreement, ...]:
    """The comparisons whose recomputed value does not round to the printed one.

    Args:
        comparisons: any.

    Returns:
        One row each, both numbers in it.
    """
    return tuple(
        Disagreement(item.where, item.basis, float(item.printed), float(item.recomputed), item.explained)
        for item in comparisons
        if not item.agrees
    )


def disagreements(explained: bool = True) -> tuple[Disagreement, ...]:
    """Every printed number that its recomputation does not round to: of Table 1, then of Figures 3 and 4.

    Parameters are compared as §4.5 words it (of the pre-trained ones); of all parameters one row is left.

    Args:
        explained: with the differences that rounding alone can explain.

    Returns:
        One row a disagreement.
    """
    comparisons = (*table_1_averages(), *table_1_parameters("pretrained"), *figure_comparisons())
    return tuple(row for row in disagreements_among(comparisons) if explained or not row.explained_by_rounding)


def by_key(cells: Sequence[Cell]) -> dict[Key, float]:
    """Accuracies of a table by (model, data set, η², arm)."""
    return {(cell.model, cell.dataset, cell.eta_squared, cell.arm): cell.accuracy for cell in cells}


def table_1_averages(rows: Sequence[CommonsenseRow] = TABLE_1) -> tuple[Comparison, ...]:
    """Table 1's "Avg" against the mean of the row's eight accuracies."""
    return tuple(
        Comparison(
            f"Table 1, {row.model}, r = {row.rank}, {row.arm}, Avg",
            "the row's eight accuracies",
            exact(row.average),
            mean(row.accuracies),
            half_unit(1),
            half_unit(1),
        )
        for row in rows
    )


def panel_cells(panel: Panel, cells: Sequence[Cell] | None = None) -> tuple[Comparison, ...]:
    """Each gap of a panel against the difference of the two accuracies in its table, or in the cells given."""
    accuracies = by_key(TABLES[panel.table] if cells is None else cells)
    return tuple(
        Comparison(
            f"{panel.name}, {row.model}, {row.dataset}, η² = {eta:g}",
            f"{panel.table}: {panel.minuend} − {panel.subtrahend}",
            exact(gap),
            exact(accuracies[row.model, row.dataset, eta, panel.minuend])
            - exact(accuracies[row.model, row.dataset, eta, panel.subtrahend]),
            half_unit(2),
            2 * half_unit(2),
        )
        for row in panel.rows
        for eta, gap in zip(ETA_SQUARED, row.gaps, strict=True)
    )


def panel_averages(panel: Panel) -> tuple[Comparison, ...]:
    """Each printed average of a panel, by row, by column and over all, against the mean of the panel's own cells."""

    def compared(label: str, printed: float, gaps: Sequence[float]) -> Comparison:
        where = f"{panel.name}, average of {label}"
        return Comparison(where, "the panel's own cells", exact(printed), mean(gaps), half_unit(2), half_unit(2))

    rows = [compared(f"{row.model}, {row.dataset}", row.average, row.gaps) for row in panel.rows]
    if panel.column_averages is None or panel.average is None:
        return tuple(rows)
    columns = [
        compared(f"η² = {eta:g}", printed, [row.gaps[index] for row in panel.rows])
        for index, (eta, printed) in enumerate(zip(ETA_SQUARED, panel.column_averages, strict=True))
    ]
    return (*rows, *columns, compared("all cells", panel.average, [gap for row in panel.rows for gap in row.gaps]))


def with_exchanged(cells: Sequence[Cell] = TABLE_3) -> tuple[Cell, ...]:
    """Table 3 with LoRA's and ALLoRA's accuracies exchanged in the one place where Figure 3 has them so.

    Both panels of Figure 3 disagree with Table 3 at Snowflake-Arctic-L, yelp, η² = 4 (LoRA 64.76, ALLoRA 64.61,
    ALLoRA-0 64.76), by 0.29 and 0.15 points; exchanging the first two numbers mends both. Which of the two places has
    the error cannot be told from the paper. `TABLE_3` itself stays as printed.
    """
    accuracies = by_key(cells)
    other = {"LoRA": "ALLoRA", "ALLoRA": "LoRA"}
    return tuple(
        Cell(cell.table, *EXCHANGED, cell.arm, accuracies[(*EXCHANGED, other[cell.arm])])
        if (cell.model, cell.dataset, cell.eta_squared) == EXCHANGED and cell.arm in other
        else cell
        for cell in cells
    )


def figure_comparisons() -> tuple[Comparison, ...]:
    """Every cell and every average of Figures 3 and 4."""
    panels = (*FIGURE_3, *FIGURE_4)
    return tuple(item for panel in panels for item in (*panel_cells(panel), *panel_averages(panel)))


def module_shapes(architecture: Architecture) -> dict[str, tuple[int, int]]:
    """The (out, in) sizes of one decoder layer's linear modules."""
    hidden, wide, narrow = architecture.hidden, architecture.intermediate, architecture.key_value
    return {
        "q_proj": (hidden, hidden),
        "k_proj": (narrow, hidden),
        "v_proj": (narrow, hidden),
        "o_proj": (hidden, hidden),
        "gate_proj": (wide, hidden),
        "up_proj": (wide, hidden),
        "down_proj": (hidden, wide),
    }


def pretrained_parameters(architecture: Architecture) -> int:
    """2·vocabulary·hidden + layers·(Σ out·in + 2·hidden) + hidden: embeddings, head, layers, RMS norms.

    Args:
        architecture: the model's sizes.

    Returns:
        The count.
    """
    matrices = sum(out * size for out, size in module_shapes(architecture).values())
    hidden = architecture.hidden
    return 2 * architecture.vocabulary * hidden + architecture.layers * (matrices + 2 * hidden) + hidden


def trainable_parameters(
    architecture: Architecture, rank: int, method: str, modules: Sequence[str] = ADAPTED_MODULES
) -> int:
    """layers·Σ r(in + out), and with DoRA Σ out magnitudes a layer more.

    Args:
        architecture: the model's sizes.
        rank: r, at most the smallest size of an adapted module.
        method: "LoRA" (ALLoRA has the same parameters) or "DoRA".
        modules: names of the adapted modules.

    Returns:
        The count.
    """
    choice("method", method, ("LoRA", "DoRA"))
    shapes = module_shapes(architecture)
    adapted = [shapes[choice("modules", name, tuple(shapes))] for name in modules]
    r = adapter_rank(rank, min(out for out, _ in adapted), min(size for _, size in adapted))
    magnitudes = sum(out for out, _ in adapted) if method == "DoRA" else 0
    return architecture.layers * (r * sum(out + size for out, size in adapted) + magnitudes)


def trainable_percent(architecture: Architecture, rank: int, method: str, denominator: str) -> float:
    """Trainable parameters as a percentage of the pre-trained ones, or of all (pre-trained and trainable).

    Args:
        architecture: the model's sizes.
        rank: r.
        method: "LoRA" or "DoRA".
        denominator: "pretrained", as §4.5 says, or "all", as PEFT prints it.

    Returns:
        The percentage.
    """
    trainable = trainable_parameters(architecture, rank, method)
    base = pretrained_parameters(architecture)
    total = base if choice("denominator", denominator, DENOMINATORS) == "pretrained" else base + trainable
    return 100 * trainable / total


def table_1_parameters(denominator: str) -> tuple[Comparison, ...]:
    """Table 1's "# Params %", DoRA's and ALLoRA's (whose two arms print the same), against the architectures."""
    words = "trainable / pre-trained" if denominator == "pretrained" else "trainable / all"
    distinct = {(row.model, row.rank, row.arm.removesuffix("-0")): row.parameters for row in TABLE_1}
    return tuple(
        Comparison(
            f"Table 1, {model}, r = {rank}, {arm}, # Params %",
            f"architecture, {words}",
            exact(printed),
            exact(trainable_percent(ARCHITECTURES[model], rank, "DoRA" if arm == "DoRA" else "LoRA", denominator)),
            half_unit(2),
            exact(0.0),
        )
        for (model, rank, arm), printed in distinct.items()
    )
