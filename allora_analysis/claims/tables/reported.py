"""The paper's tables and figures as typed data, and its printed numbers against the same recomputed from others.

The data are read from `reported.toml`, which says where the text is damaged: percent and percentage points throughout,
None where the source shows no number. `tests/test_reported.py` compares every number with a second transcription.

A number printed with u decimals stands for an interval of half-width h = 10^{−u}/2. A value x recomputed in exact
decimals from printed inputs *agrees* with a printed y if |x − y| ≤ h, and rounding *explains* the difference if
|x − y| ≤ h + H, where H bounds what the inputs' own rounding can do to x. Recomputed here: Table 1's "Avg" and
"# Params %", every cell and average of Figures 3 and 4. Checked by `tests/test_claims_tables.py`, parameters against
models built in torch.
"""

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib.resources import files

from allora_analysis.validation import adapter_rank, choice


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
class Training:
    """The learning rate and the epochs of a published run."""

    rate: float
    epochs: int


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
RIVALS_SOURCE: str = _DATA["dora_rivals"]["source"]
DORA_RIVALS: dict[tuple[str, str], tuple[float, ...]] = {
    (model, method): (*accuracies, average) for model, method, accuracies, average in _DATA["dora_rivals"]["rows"]
}
"""(model, method) → the same of other methods, beside DoRA where it is printed with them alone."""
SETUP_SOURCE: str = _DATA["dora_setup"]["source"]
DORA_SETUP = {(model, rank): Training(rate, epochs) for model, rank, rate, epochs in _DATA["dora_setup"]["rows"]}
PERCEPTION_LABELS, COMMONSENSE_LABELS = (_labels(_DATA["labels"][kind]) for kind in ("perception", "commonsense"))
ARCHITECTURES = {row[0]: Architecture(*row) for row in _DATA["architectures"]["rows"]}
ADAPTED_MODULES: tuple[str, ...] = tuple(_DATA["architectures"]["adapted"])


Key = tuple[str, str, float, str]
TABLES = {"Table 3": TABLE_3, "Table 4": TABLE_4}
# The cells that Table 3 and Figure 3 show the other way round (see `with_exchanged`).
EXCHANGED = ("Snowflake-Arctic-L", "yelp", 4.0)
DENOMINATORS = ("pretrained", "all")


@dataclass(frozen=True)
class Comparison:
    """A printed number, by its place, beside the same recomputed from others that the paper prints, the basis."""

    where: str
    basis: str
    printed: Decimal
    recomputed: Decimal
    half_unit: Decimal  # of the printed number's last digit
    input_error: Decimal  # the most that rounding of the basis can move the recomputed value

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
    """The comparisons whose recomputed value does not round to the printed one."""
    return tuple(
        Disagreement(item.where, item.basis, float(item.printed), float(item.recomputed), item.explained)
        for item in comparisons
        if not item.agrees
    )


def disagreements(explained: bool = True) -> tuple[Disagreement, ...]:
    """Every printed number that its recomputation does not round to: of Table 1, then of Figures 3 and 4.

    Parameters are compared as §4.5 words it (of the pre-trained ones); of all parameters one row is left.
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
    """2·vocabulary·hidden + layers·(Σ out·in + 2·hidden) + hidden: embeddings, head, layers, RMS norms."""
    matrices = sum(out * size for out, size in module_shapes(architecture).values())
    hidden = architecture.hidden
    return 2 * architecture.vocabulary * hidden + architecture.layers * (matrices + 2 * hidden) + hidden


def trainable_parameters(
    architecture: Architecture, rank: int, method: str, modules: Sequence[str] = ADAPTED_MODULES
) -> int:
    """layers·Σ r(in + out), and with DoRA Σ out magnitudes a layer more; ALLoRA has LoRA's."""
    choice("method", method, ("LoRA", "DoRA"))
    shapes = module_shapes(architecture)
    adapted = [shapes[choice("modules", name, tuple(shapes))] for name in modules]
    r = adapter_rank(rank, min(out for out, _ in adapted), min(size for _, size in adapted))
    magnitudes = sum(out for out, _ in adapted) if method == "DoRA" else 0
    return architecture.layers * (r * sum(out + size for out, size in adapted) + magnitudes)


def trainable_percent(architecture: Architecture, rank: int, method: str, denominator: str) -> float:
    """Trainable parameters as a percentage of the "pretrained" ones, as §4.5 says, or of "all", as PEFT prints it."""
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
