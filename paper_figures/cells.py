"""The cells of Tables 3 and 4 in our runs, beside the printed ones; Figures 3 and 4 read them too.

A cell is one arm on one model and data set at one η²; LoRA's learning rate is η·l_b. Checked by
`tests/test_paper_figures_3_to_5.py` and `tests/test_paper_tables.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import NamedTuple

from allora_analysis.claims.tables.reported import ETA_SQUARED, Cell, Key, by_key
from allora_analysis.finetune.setting import Setting
from allora_analysis.grid.presets import RATE
from allora_analysis.grid.reading import after_epoch
from paper_figures.sources import Loaded, Runs
from paper_figures.tables import NONE, Table, averaged

OWN_HEAD = "lora_eta, classifier at l_b"


class Case(NamedTuple):
    """A cell; the arm as `plotting.ARMS` names it, or `OWN_HEAD`: LoRA at η·l_b whose classifier stays at l_b."""

    model: str
    data: str
    eta2: float
    arm: str


class Cells(NamedTuple):
    """Printed accuracies by (model, data set, η², method); ours by cell, one a seed, None while a seed is missing."""

    printed: Mapping[Key, float]
    ours: Mapping[Case, list[float] | None]


def cases(wanted: Iterable[Setting]) -> dict[Case, list[Setting]]:
    """Runs of `experiments.perception` and `experiments.ablation` by cell.

    Returns:
        The runs of each cell, in the order of seeds. At η² = 1 the three LoRA arms are one.
    """
    found: dict[Case, list[Setting]] = {}
    for run in wanted:
        eta2, arms = run.eta2, (run.arm,)
        if run.arm == "lora":
            eta2 = float(round((run.learning_rate / RATE) ** 2))
            arms = ("lora_eta",) if run.head_learning_rate == run.learning_rate else (OWN_HEAD,)
            arms = ("lora_eta", OWN_HEAD, "lora_x_eta") if eta2 == 1 else arms
        for arm in arms:
            found.setdefault(Case(run.model, run.data, eta2, arm), []).append(run)
    return {case: sorted(runs, key=lambda run: run.seed) for case, runs in found.items()}


def accuracies(known: Runs, runs: Sequence[Setting]) -> list[float] | None:
    """Final test accuracies, percent, one a seed; None where one is missing, or diverged before its evaluation."""
    if not runs or not known.whole(runs):
        return None
    values = [after_epoch(known.results[run]) for run in runs]
    return None if None in values else [100 * value for value in values]


def both(printed: Iterable[Cell], known: Runs, desk: Iterable[Setting], paper: Iterable[Setting]) -> Cells:
    """A table's printed cells and ours.

    Args:
        printed: the table's.
        known: what is recorded.
        desk: runs whose cells always have a place.
        paper: runs whose cells have one where they are recorded.
    """
    ours: dict[Case, list[float] | None] = {case: accuracies(known, runs) for case, runs in cases(desk).items()}
    extra = {case: accuracies(known, runs) for case, runs in cases(paper).items()}
    return Cells(by_key(tuple(printed)), ours | {case: values for case, values in extra.items() if values is not None})


def side_by_side(
    title: str,
    caption: str,
    methods: Mapping[str, str],
    columns: Sequence[tuple[str, str]],
    loaded: Loaded[Cells],
    finding: str = "",
) -> Table:
    """Table 3 or 4: a row an η² and a method, the paper's columns, then ours.

    Args:
        title: "Table 3".
        caption: what it shows.
        methods: arms by the paper's word, or by ours where the paper has no such method.
        columns: the paper's (model, data set).
        loaded: the cells.
        finding: what came out, in a sentence.

    Returns:
        The table; a cell that the paper or the records lack is "—".
    """
    printed, ours = loaded.data
    own = list(dict.fromkeys((case.model, case.data) for case in ours))
    rows = []
    for eta2 in ETA_SQUARED:
        for method, arm in methods.items():
            theirs = [printed.get((*column, eta2, method)) for column in columns]
            cells = [NONE if value is None else f"{value:.2f}" for value in theirs]
            cells += [averaged(ours.get(Case(*column, eta2, arm)), 2) for column in own]
            rows.append([f"{eta2:g}", method, *cells])
    heads = ["η²", "method", *("\n".join(column) for column in (*columns, *own))]
    groups = (("", 2), ("the paper", len(columns)), ("ours", len(own)))
    notes = tuple(f"Ours: {missing.what}; `{missing.command}` makes them." for missing in loaded.missing)
    return Table(title, caption, groups, heads, rows, notes, finding)


def difference(
    data: Cells, first: tuple[float, str, str], second: tuple[float, str, str]
) -> tuple[float, float | None]:
    """The mean difference in points of two (η², method, arm), printed and ours, over the models and data of each.

    Ours is None where a seed is missing.
    """
    columns = dict.fromkeys(key[:2] for key in data.printed)
    printed = [data.printed[(*one, *first[:2])] - data.printed[(*one, *second[:2])] for one in columns]
    pairs = [
        [data.ours.get(Case(*one, eta2, arm)) for eta2, _, arm in (first, second)]
        for one in dict.fromkeys(case[:2] for case in data.ours)
    ]
    whole = bool(pairs) and all(values is not None for pair in pairs for values in pair)
    return mean(printed), mean(mean(one) - mean(other) for one, other in pairs) if whole else None
