"""Figure 4 of the paper: accuracy gaps of ALLoRA over the rest of its family, by data set and η².

Above the line the printed gaps (means of five runs; the paper prints no spread), with a cross at what Table 4's own
cells give where rounding cannot explain the difference. Below it ours, `experiments.ablation` with ALLoRA's runs of
`experiments.perception`, on the same scale, paired by seed, with 95 % intervals. A gap is drawn when all seeds of both
arms are recorded. Checked by `tests/test_paper_figures_3_to_5.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from allora_analysis.claims.tables.reported import FIGURE_4
from allora_analysis.finetune.setting import Setting
from allora_analysis.grid.presets import ABLATION_DATA, LISTS, RATE
from allora_analysis.plotting import page_style
from paper_figures.cells import cases
from paper_figures.gaps import Comparison, drawn, measured, printed
from paper_figures.sources import Loaded, Missing, Runs, runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ARM_OF = {"ALLoRA": "allora", "ALLoRA-OD": "allora_od", "ASF-LoRA": "asf_lora", "LoRA×η": "lora_x_eta"}


def lists(preset: str) -> list[Setting]:
    """The runs behind Table 4 and Figure 4.

    Args:
        preset: "desk" or "paper".

    Returns:
        The ablation's, and of `experiments.perception` ALLoRA's and, as LoRA × 1, LoRA's at l_b.
    """
    shared = [run for run in LISTS["perception"][preset] if run.arm == "allora" or _is_lora_at_base(run)]
    return [run for run in (*LISTS["ablation"][preset], *shared) if preset == "desk" or run.data in ABLATION_DATA]


def _is_lora_at_base(run: Setting) -> bool:
    return run.arm == "lora" and run.learning_rate == RATE


def missing(known: Runs) -> tuple[Missing, ...]:
    """What of the desk runs is not recorded, experiment by experiment."""
    own = LISTS["ablation"]["desk"]
    shared = [run for run in lists("desk") if run not in own]
    parts = {"ablation": own, "perception": shared}
    return tuple(one for name, runs in parts.items() for one in known.missing(runs, name))


def load_data(folder: Path | str | None = None) -> Loaded[tuple[Comparison, ...]]:
    """The printed gaps and ours.

    Returns:
        The four panels; the paper's own models are among ours where they are recorded.
    """
    wanted = [*lists("desk"), *lists("paper")]
    known, of = runs(wanted, folder), cases(wanted)
    data = []
    for panel in FIGURE_4:
        first, second = ARM_OF[panel.minuend], ARM_OF[panel.subtrahend]
        data.append(Comparison(panel, second, printed(panel), {"": measured(known, of, first, second)}))
    return Loaded(tuple(data), known.names(wanted), missing(known))


@page_style()
def make_figure(loaded: Loaded[tuple[Comparison, ...]]) -> Figure:
    """Draw the figure."""
    return drawn(loaded, height=4.6)
