"""Table 3 of the paper: accuracy of LoRA, ALLoRA and ALLoRA-0 by model, data set and η², the paper's beside ours.

Ours, `experiments.perception`: means over seeds with half of the 95 % interval; also LoRA with its classifier at l_b
like ALLoRA's, which the paper does not have. The paper's own models are among ours where they are recorded. Checked by
`tests/test_paper_tables.py`.
"""

from pathlib import Path

from allora_analysis.claims.tables.reported import COLUMNS_3, ETA_SQUARED, TABLE_3
from allora_analysis.grid.presets import LISTS
from allora_analysis.study import signed
from paper_figures.cells import OWN_HEAD, Cells, both, difference, side_by_side
from paper_figures.sources import Loaded, runs
from paper_figures.tables import Table

METHODS = {"LoRA": "lora_eta", "LoRA, classifier at l_b": OWN_HEAD, "ALLoRA": "allora", "ALLoRA-0": "allora_0"}


def load_data(folder: Path | str | None = None) -> Loaded[Cells]:
    """The printed cells; ours where a cell is recorded in full."""
    desk = LISTS["perception"]["desk"]
    known = runs([*desk, *LISTS["perception"]["paper"]], folder)
    data = both(TABLE_3, known, desk, LISTS["perception"]["paper"])
    return Loaded(data, known.names(known.results), known.missing(desk, "perception"))


def make_table(loaded: Loaded[Cells]) -> Table:
    """The table: a row an η² and a method.

    Returns:
        The paper's columns, and ours.
    """
    seeds = len({run.seed for run in LISTS["perception"]["desk"]})
    caption = (
        "Test accuracy (%) after two epochs; ALLoRA at learning rate 1e-4, LoRA at η times that. The paper: means of 5 "
        f"runs. Ours, AdamW: means over {seeds} seeds ± half of the 95 % interval."
    )
    return side_by_side("Table 3", caption, METHODS, COLUMNS_3, loaded, _finding(loaded.data))


def _finding(data: Cells) -> str:
    last = max(ETA_SQUARED)
    gains = {
        method: difference(data, (last, method, METHODS[method]), (1.0, method, METHODS[method]))
        for method in ("ALLoRA", "LoRA")
    }
    (allora, ours), (lora, theirs) = gains["ALLoRA"], gains["LoRA"]
    told = f"From η² = 1 to {last:g} ALLoRA's accuracy moves in print by {signed(allora, 1)} points"
    told += f", LoRA's by {signed(lora, 1)}"
    if ours is None or theirs is None:
        return f"{told}."
    return f"{told}; in ours, AdamW's, by {signed(ours, 1)} and {signed(theirs, 1)}."
