"""Table 4 of the paper: ALLoRA against the rest of its family by model, data set and η², the paper's beside ours.

Ours, `experiments.ablation` with ALLoRA's runs of `experiments.perception`: means over seeds with half of the 95 %
interval. The paper's own models are among ours where they are recorded. Checked by `tests/test_paper_tables.py`.
"""

from pathlib import Path
from statistics import mean

from allora_analysis.claims.tables.reported import COLUMNS_4, ETA_SQUARED, TABLE_4
from allora_analysis.study import signed
from paper_figures.cells import Cells, both, difference, side_by_side
from paper_figures.figure_4 import ARM_OF, lists, missing
from paper_figures.sources import Loaded, runs
from paper_figures.tables import Table


def load_data(folder: Path | str | None = None) -> Loaded[Cells]:
    """The printed cells; ours where a cell is recorded in full."""
    desk, paper = lists("desk"), lists("paper")
    known = runs([*desk, *paper], folder)
    return Loaded(both(TABLE_4, known, desk, paper), known.names(known.results), missing(known))


def make_table(loaded: Loaded[Cells]) -> Table:
    """The table: a row an η² and a method.

    Returns:
        The paper's columns, and ours.
    """
    seeds = len({run.seed for run in lists("desk")})
    caption = (
        "Test accuracy (%) after two epochs at learning rate 1e-4. The paper: means of 5 runs. Ours, AdamW: means over "
        f"{seeds} seeds ± half of the 95 % interval; at η = 1, LoRA×η is LoRA."
    )
    return side_by_side("Table 4", caption, ARM_OF, COLUMNS_4, loaded, _finding(loaded.data))


def _finding(data: Cells) -> str:
    others = [method for method in ARM_OF if method != "ALLoRA"]
    leads = [
        [difference(data, (eta2, "ALLoRA", ARM_OF["ALLoRA"]), (eta2, other, ARM_OF[other])) for eta2 in ETA_SQUARED]
        for other in others
    ]
    printed = [mean(one for one, _ in lead) for lead in leads]
    told = "ALLoRA minus " + ", ".join(f"{other} {signed(gap, 1)}" for other, gap in zip(others, printed, strict=True))
    ours = [[own for _, own in lead if own is not None] for lead in leads]
    if any(len(lead) < len(ETA_SQUARED) for lead in ours):
        return f"{told} points in print on average."
    own = ", ".join(signed(mean(lead), 1) for lead in ours)
    return f"{told} points in print on average; in ours, AdamW's, on one pair, {own}."
