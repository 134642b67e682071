"""Accuracy over η², the main result: in print ALLoRA rises with η² as LoRA at η·l does; under AdamW it does not.

Left: the paper's Table 3, what each method gains from η² = 1, averaged over its nine pairs of model and data set.
Right: ours under AdamW, `experiments.perception`, the same arms at the same rates, means over seeds (paired) with 95 %
intervals, on the same scale. LoRA trains at η·l, ALLoRA and ALLoRA-0 at l. Titles say what these two gain. Checked by
`tests/test_paper_figures_lacking.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from allora_analysis.claims.tables.reported import COLUMNS_3, ETA_SQUARED, TABLE_3
from allora_analysis.grid.presets import LISTS
from allora_analysis.plotting import ARMS, COLOURS, page, page_style
from paper_figures.cells import Case, accuracies, both, cases
from paper_figures.numbers import Average, over_seeds
from paper_figures.sources import Loaded, runs, say_missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST = 0.5  # points; what the experiments ask for
METHODS = {"lora_eta": "LoRA", "allora": "ALLoRA", "allora_0": "ALLoRA-0"}  # the paper's words


class Gains(NamedTuple):
    """What is gained from η² = 1, percentage points, by arm.

    Attributes:
        paper: at each η², the mean over Table 3's columns.
        ours: over seeds at each η²; an arm with a seed missing is left out.
        setting: ours: model and data set.
    """

    paper: Mapping[str, np.ndarray]
    ours: Mapping[str, Average]
    setting: tuple[str, str]


def load_data(folder: Path | str | None = None) -> Loaded[Gains]:
    """The printed gains and ours."""
    desk = LISTS["perception"]["desk"]
    known, of = runs(desk, folder), cases(desk)
    printed = both(TABLE_3, known, (), ()).printed
    paper, ours = {}, {}
    setting = desk[0].model, desk[0].data
    for arm, method in METHODS.items():
        columns = np.array([[printed[(*pair, eta2, method)] for eta2 in ETA_SQUARED] for pair in COLUMNS_3])
        paper[arm] = (columns - columns[:, :1]).mean(axis=0)
        seeds = [accuracies(known, of[Case(*setting, eta2, arm)]) for eta2 in ETA_SQUARED]
        if None not in seeds:
            values = np.array(seeds).T
            ours[arm] = over_seeds(values - values[:, :1])
    return Loaded(Gains(paper, ours, setting), known.names(desk), known.missing(desk, "perception"))


@page_style()
def make_figure(loaded: Loaded[Gains]) -> Figure:
    """Draw the figure."""
    data = loaded.data
    figure, ((left, right),) = page(2.0 if data.ours else 2.4, 1, 2, sharey=bool(data.ours))
    for arm, values in data.paper.items():
        _line(left, arm, values, None)
    printed = {arm: values[-1] for arm, values in data.paper.items()}
    left.set_title(f"In print {both_arms(printed)}\n(from η² = 1 to 4; Table 3, nine pairs)")
    for arm, average in data.ours.items():
        _line(right, arm, average.mean, average.half)
    if data.ours:
        told = both_arms({arm: average.mean[-1] for arm, average in data.ours.items()})
        right.set_title(f"{f'Here {told}'.rstrip()}\n({', '.join(('AdamW', *data.setting))})")
    if not data.ours:
        say_missing(right, *loaded.missing)
    for axis in (left, right) if data.ours else (left,):
        axis.axhline(0, color=COLOURS["measured"], lw=0.6)
        axis.set_xscale("log")
        axis.set_xticks(ETA_SQUARED, [f"η² = {eta2:g}" for eta2 in ETA_SQUARED])
        axis.minorticks_off()
        axis.locator_params(axis="y", integer=True, nbins=4)
    left.set_ylabel("points gained\nfrom η² = 1")
    seeds = len({run.seed for run in LISTS["perception"]["desk"]})
    bars = f"bars: 95 % over {seeds} seeds" if data.ours else None
    figure.legend(*left.get_legend_handles_labels(), ncols=3, loc="outside lower center", title=bars)
    return figure


def both_arms(gains: Mapping[str, float]) -> str:
    """What ALLoRA and ALLoRA-0 do from η² = 1 to the largest, in two lines or one; gains by arm, percentage points."""
    known = {METHODS[arm]: gains[arm] for arm in ("allora", "allora_0") if arm in gains}
    told = {name: finding(gain) for name, gain in known.items()}
    if len(known) == 2 and (len(set(told.values())) == 1 or all(abs(gain) < LEAST for gain in known.values())):
        verb, _, rest = finding(max(known.values(), key=abs)).partition(" ")
        return f"{' and '.join(known)}\n{verb.removesuffix('s')} {rest}"
    return ",\n".join(f"{name} {words}" for name, words in told.items())


def finding(gain: float) -> str:
    """What one of them does, in words; the gain in percentage points."""
    if abs(gain) < LEAST:
        return f"stays within {max(abs(gain), 0.1):.1f} points on average"
    return f"{'gains' if gain > 0 else 'loses'} {abs(gain):.1f} points"


def _line(axis: Axes, arm: str, values: np.ndarray, half: np.ndarray | None) -> None:
    label, colour, marker = ARMS[arm]
    shift = 1.02 ** (list(METHODS).index(arm) - 1)  # intervals side by side
    written = label if arm == "lora_eta" else f"{label} at l"
    axis.errorbar(
        shift * np.array(ETA_SQUARED), values, half, color=colour, marker=marker, elinewidth=0.7, label=written
    )
