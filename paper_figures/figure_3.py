"""Figure 3 of the paper: accuracy gaps of ALLoRA over LoRA, and of ALLoRA-0 over ALLoRA, by data set and η².

Above the line the printed gaps (means of five runs; the paper prints no spread), with a cross at what Table 3's own
cells give where rounding cannot explain the difference. Below it ours, `experiments.perception`, on the same scale,
paired by seed, with 95 % intervals; hollow: LoRA's classifier at l_b like ALLoRA's, the confound taken out. A gap is
drawn when all seeds of both arms are recorded. Checked by `tests/test_paper_figures_3_to_5.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from allora_analysis.claims.tables.reported import FIGURE_3
from allora_analysis.grid.presets import LISTS
from allora_analysis.plotting import page_style
from paper_figures.cells import OWN_HEAD, cases
from paper_figures.gaps import Comparison, drawn, measured, printed
from paper_figures.sources import Loaded, runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def load_data(folder: Path | str | None = None) -> Loaded[tuple[Comparison, ...]]:
    """The printed gaps and ours.

    Returns:
        The two panels; the paper's own models are among ours where they are recorded.
    """
    desk = LISTS["perception"]["desk"]
    wanted = [*desk, *LISTS["perception"]["paper"]]
    known, of = runs(wanted, folder), cases(wanted)
    left, right = FIGURE_3
    fair = measured(known, of, "allora", OWN_HEAD)
    without = measured(known, of, "allora_0", "allora")
    data = (
        Comparison(left, "lora_eta", printed(left), {"": measured(known, of, "allora", "lora_eta"), OWN_HEAD: fair}),
        Comparison(right, "allora_0", printed(right), {"": without}),
    )
    return Loaded(data, known.names(wanted), known.missing(desk, "perception"))


@page_style()
def make_figure(loaded: Loaded[tuple[Comparison, ...]]) -> Figure:
    """Draw the figure."""
    return drawn(loaded, height=4.2)
