"""Ours: the screening of `experiments.laboratory`, each cell at its own best rate and ten seeds, minus LoRA.

For each level of each factor the mean difference in test accuracy from LoRA under the same optimizer, dropout and
length, over the cells at that level, after few steps (hollow) and many (filled), with Student's 95 % interval over
seeds. Left the rules that scale the update (ALLoRA and ALLoRAAdamW), right the one that scales the output (ASF-LoRA),
at a scale of its own. The title has the paper's adaptor, and what is furthest from LoRA. It tests nothing: its
intervals stand alone, and the cells are a quarter of all combinations.
Checked by `tests/test_paper_figures_laboratory.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from allora_analysis.laboratory.design import FAMILY, STEPS, reference, screening
from allora_analysis.laboratory.table import SCREENING
from allora_analysis.plotting import COLOURS, OPTIMIZERS, page, page_style
from allora_analysis.statistics import Difference
from allora_analysis.study import signed
from paper_figures.laboratory import draw_difference, recorded, step_handles
from paper_figures.sources import Loaded, Missing, say_missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COMMAND = "python -m experiments.laboratory --part screening"
GROUPS = {"update scaled": ("allora", "allora_adamw"), "output scaled (ASF-LoRA)": ("asf_lora",)}
FACTORS = {"rule": "rule", "optimizer": "optimizer", "adaptor": "adaptor", "eta2": "η²", "drop_rate": "drop rate"}
WORDS = {"allora": "ALLoRA", "allora_adamw": "ALLoRAAdamW", "inverse_sqrt": "inverse square root"}
Place = tuple[str, object]  # factor, level
PAPERS = ("adaptor", "inverse_sqrt")


class Levels(NamedTuple):
    """The mean differences from LoRA.

    Attributes:
        of: by group, place and number of steps.
        cells: what they rest on, by group.
    """

    of: Mapping[str, Mapping[Place, Mapping[int, Difference]]]
    cells: Mapping[str, int]


def load_data(folder: Path | str | None = None) -> Loaded[Levels]:
    """The recorded cells' means by level; cells that lack seeds are left out.

    Returns:
        By group, level and number of steps.
    """
    table, files = recorded(folder)
    found: dict[str, dict[Place, dict[int, Difference]]] = {group: {} for group in GROUPS}
    wanted, whole = [cell for cell in screening() if cell.rule in FAMILY], []
    if table is not None:
        n = len(SCREENING)
        whole = [one for one in wanted if len(table.differences(one, reference(one), "loss", SCREENING)) == n]
        for (group, rules), steps in itertools.product(GROUPS.items(), STEPS):
            cells = [cell for cell in whole if cell.rule in rules and cell.steps == steps]
            for factor in FACTORS if len(rules) > 1 else [one for one in FACTORS if one != "rule"]:
                for level, one in table.marginal(cells, factor, "accuracy").items():
                    found[group].setdefault((factor, level), {})[steps] = one
    lacking = len(wanted) - len(whole)
    missing = (Missing(f"{lacking} of {len(wanted)} cells lack their {len(SCREENING)} seeds", COMMAND),)
    cells = {group: sum(cell.rule in rules for cell in whole) for group, rules in GROUPS.items()}
    return Loaded(Levels(found, cells), files, missing if lacking else ())


def finding(levels: Levels) -> str:
    """For each group the paper's adaptor minus LoRA by number of steps, and the level furthest from it: two lines."""
    told = []
    for group, of in levels.of.items():
        flat = {(*place, steps): one for place, by in of.items() for steps, one in by.items()}
        if flat:
            means = ", ".join(f"{minus(one)} after {steps}" for steps, one in of.get(PAPERS, {}).items())
            (factor, level, steps), one = max(flat.items(), key=lambda item: abs(item[1].mean))
            own = f"{group[0].upper()}{group[1:]} by the paper's adaptor: {means} steps;\n"
            told.append(f"{own}furthest at {FACTORS[factor]} {_written(level)}, {steps} steps: {minus(one)}.")
    return "\n".join(told)


def minus(one: Difference) -> str:
    """A mean difference in points, "(open)" where its interval holds 0."""
    low, high = one.interval
    return f"{signed(100 * one.mean, 1)}{' (open)' if low <= 0 <= high else ''}"


def _written(level: object) -> str:
    words = {name: look.label for name, look in OPTIMIZERS.items()} | WORDS
    return f"{level:g}" if isinstance(level, float) else words.get(str(level), str(level))


@page_style()
def make_figure(loaded: Loaded[Levels]) -> Figure:
    """Draw the figure."""
    order = {name: place for place, name in enumerate(FACTORS)}
    found = {one for of in loaded.data.of.values() for one in of}
    levels = sorted(found, key=lambda one: (order[one[0]], one[1] if isinstance(one[1], float) else 0.0, str(one[1])))
    figure, axes = page(1.7 + 0.17 * max(len(levels), 8), 1, 2, sharey=bool(levels))
    if not levels:
        for axis in axes.flat:
            say_missing(axis, *loaded.missing)
        return figure
    figure.suptitle(finding(loaded.data), fontsize=7.5)
    places: dict[Place, float] = {}
    for before, one in itertools.pairwise([None, *levels]):
        places[one] = places[before] + (1.0 if before[0] == one[0] else 1.6) if before else 0.0
    heads = {factor: next(one for one in levels if one[0] == factor) for factor in dict(levels)}
    names = [f"{FACTORS[one[0]]}: {_written(one[1])}" if one in heads.values() else _written(one[1]) for one in levels]
    for axis, (group, of) in zip(axes.flat, loaded.data.of.items(), strict=True):
        _draw(axis, {places[place]: by_steps for place, by_steps in of.items()})
        axis.set_title(f"{group}, {loaded.data.cells[group]} cells")
    axes[0, 0].set_yticks(list(places.values()), names)
    axes[0, 0].set_ylim(places[levels[-1]] + 0.6, -0.6)
    handles = step_handles()
    told = f"each level over all cells that have it; bars: 95 % over {len(SCREENING)} seeds"
    figure.legend(handles=handles, ncols=len(handles), loc="outside lower center", title=told)
    return figure


def _draw(axis: Axes, rows: Mapping[float, Mapping[int, Difference]]) -> None:
    axis.axvline(0, color="0.4", lw=0.6)
    for place, row in rows.items():
        for steps, one in row.items():
            draw_difference(axis, place, steps, one, 100.0, COLOURS["measured"])
    axis.set_xlabel("minus LoRA, points of test accuracy")
    axis.grid(axis="y", visible=False)
