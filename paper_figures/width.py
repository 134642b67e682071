"""Width (§4.2, beyond the paper): ALLoRA's factor tends to the constant η; only LoRA+'s rate stays right under Adam.

Left: the mean of d_i/η by width n after training at a stable rate, in closed form and trained, with the end of our
recorded runs of ALLoRA under AdamW. Right: the largest stable rate under Adam, with the predicted powers of n as lines.
From `allora_analysis.width`. Checked by `tests/test_paper_figures_lacking.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from allora_analysis.grid.presets import LISTS
from allora_analysis.grid.reading import average_norm
from allora_analysis.plotting import ARMS, COLOURS, page, page_style
from allora_analysis.study import Result
from allora_analysis.width import taper
from allora_analysis.width.study import ETA, Config, kept_panel, rates_panel, run
from paper_figures.sources import Loaded, runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIG = Config(ranks=(4, 8), width=64)  # the powers of r are the study's own
WIDTHS = {"all-MiniLM-L6-v2": 384, "SmolLM2-135M": 576}


class Width(NamedTuple):
    """The study's config and result, and by recorded model the mean d/η at the end, a number a seed."""

    config: Config
    result: Result
    ends: dict[str, list[float]]


def load_data(config: Config = CONFIG, folder: Path | str | None = None) -> Loaded[Width]:
    """Run the study, and read what is recorded of ALLoRA under AdamW.

    Returns:
        Both; at the mean row norm, so that the mean factor has fallen no further.
    """
    wanted = [one for one in LISTS["row_norms"]["desk"] if (one.arm, one.optimizer) == ("allora", "adamw")]
    known = runs(wanted, folder)
    ends: dict[str, list[float]] = {model: [] for model in WIDTHS}
    for one, found in known.results.items():
        ends[one.model].append(taper([average_norm(found, found["row_norms"]["step"][-1])], ETA).kept)
    return Loaded(Width(config, run(config), ends), known.names(wanted), known.missing(wanted, "row_norms"))


@page_style()
def make_figure(loaded: Loaded[Width]) -> Figure:
    """Draw the figure."""
    config, result, ends = loaded.data
    figure, ((left, right),) = page(2.7, 1, 2)
    kept_panel(left, config, result)
    star = {"marker": "*", "ms": 8, "ls": "none", "color": ARMS["allora"].colour, "mec": COLOURS["measured"]}
    for model, values in ends.items():
        if values:
            left.plot(WIDTHS[model], np.mean(values), **star)
    left.plot([], [], **star, label="our runs of ALLoRA, AdamW")
    rates_panel(right, config, result)
    left.legend(loc="lower right")
    right.legend(loc="lower left")
    return figure
