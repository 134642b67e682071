"""Ours: the contrasts of `experiments.laboratory`, each arm at its own best rate, on digits; ALLoRA's on MNIST and
CIFAR-10, too.

Left test accuracy, right test loss: the difference of two arms, paired by seed, with its 95 % interval, after few steps
(hollow) and many (filled). In color where Holm's p-value within the question is at most 0.05, gray otherwise. Right of
0 in accuracy and left of 0 in loss the first arm is better. Checked by `tests/test_paper_figures_laboratory.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.lines import Line2D

from allora_analysis.laboratory.design import ELSEWHERE, STEPS, Contrast, contrasts, elsewhere, fresh_seeds
from allora_analysis.laboratory.storage import present
from allora_analysis.laboratory.table import ENDPOINTS, RESULTS, Table, read
from allora_analysis.plotting import ARMS, COLOURS, OPTIMIZERS, page, page_style
from allora_analysis.statistics import Difference
from paper_figures.sources import Loaded, Missing, say_missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DATA = "digits"
LEAST = 30  # seeds below which a contrast is not drawn
CONTROLS = {one.name.rpartition(", ")[0] for one in contrasts() if one.question == "control"}
COMMAND = "python -m experiments.laboratory"
LABELS = {DATA: "", "mnist": "MNIST: ", "cifar10": "CIFAR-10: "}  # before a contrast's name
PARTS = {DATA: "--part contrasts"} | {
    data: f"--data {data} --data-root FOLDER --part {part}"
    for data, part in (("mnist", "lead-shifted"), ("cifar10", "lead-by-accuracy"))
}
COLOUR = {
    1: (COLOURS["predicted"], "first is better"),
    -1: (COLOURS["bound"], "first is worse"),
    0: ("0.6", "not clear"),
}
UNITS = {"accuracy": ("points of test accuracy", 100.0), "loss": ("nats of test loss", 1.0)}


class Contrasts(NamedTuple):
    """By endpoint, name and number of steps the recorded contrasts."""

    of: Mapping[str, Mapping[str, Mapping[int, Difference]]]


def load_data(folder: Path | str | None = None) -> Loaded[Contrasts]:
    """The recorded contrasts, of at least `LEAST` seeds.

    Returns:
        By endpoint, name and number of steps.
    """
    found: dict[str, dict[str, dict[int, Difference]]] = {endpoint: {} for endpoint in ENDPOINTS}
    files, missing = [], []
    for data, label in LABELS.items():
        wanted = contrasts() if data == DATA else elsewhere("rule", **ELSEWHERE[data])
        table, own = recorded(folder, data)
        files += own
        if lacking := _take(found, table, wanted, label):
            told = f"{lacking} of {len(wanted)} contrasts on {data} lack some of their seeds"
            missing.append(Missing(told, f"{COMMAND} {PARTS[data]}"))
    return Loaded(Contrasts(found), tuple(files), tuple(missing))


def _take(
    found: dict[str, dict[str, dict[int, Difference]]], table: Table | None, wanted: Sequence[Contrast], label: str
) -> int:
    # Puts what a table has of some contrasts to what is found; returns how many lack seeds.
    if table is None:
        return len(wanted)
    seeds = {one: len(table.of(one, "loss")) for one in wanted}
    for endpoint in ENDPOINTS:
        for of in table.contrasts([one for one in wanted if seeds[one] >= LEAST], endpoint).values():
            for name, one in of.items():
                base, _, steps = name.rpartition(", ")
                found[endpoint].setdefault(label + base, {})[int(steps.split()[0])] = one
    return sum(
        n < one.seeds or len(table.judging(one, "loss")) < len(fresh_seeds(one) or ()) for one, n in seeds.items()
    )


def recorded(folder: Path | str | None, data: str = DATA) -> tuple[Table | None, tuple[str, ...]]:
    """The laboratory's table of some data and what a picture calls it; None and nothing where none is recorded."""
    path = Path(RESULTS if folder is None else folder) / f"{data}.jsonl"
    return (read(path), (f"laboratory/{data}",)) if present(path) else (None, ())


def finding(data: Contrasts) -> str:
    """In two lines: in how many contrasts ALLoRA's accuracy is clearly below LoRA's, in how many above; of what."""
    of_allora = [of for name, of in data.of["accuracy"].items() if name.startswith("ALLoRA − LoRA, ")]
    flat = [one for of in of_allora for one in of.values()]
    n = {len(one.differences) for one in flat} or {0}
    seeds = f"{min(n)} seeds" if len(n) == 1 else f"{min(n)} to {max(n)} seeds"
    signs = [one.sign for one in flat]
    return (
        f"On digits ALLoRA's accuracy is clearly below LoRA's in {signs.count(-1)} of {len(signs)} contrasts, above in "
        f"{signs.count(1)}\n(neither with dropout; by seeds alone; each arm at its best rate, {seeds} in these)"
    )


def written(name: str) -> str:
    """A contrast as a reader writes it: arms and optimizers by their labels; a control is called one."""
    labels = {key: look.label for key, look in (ARMS | OPTIMIZERS).items()} | {"inverse_sqrt": "inverse square root"}
    told = re.sub(r"\w+", lambda word: labels.get(word[0], word[0]), name)
    return f"control: {told}" if name in CONTROLS else told


@page_style()
def make_figure(loaded: Loaded[Contrasts]) -> Figure:
    """Draw the figure."""
    names = list(loaded.data.of["loss"])
    figure, axes = page(1.1 + 0.2 * max(len(names), 8), 1, 2, sharey=bool(names))
    if not names:
        for axis in axes.flat:
            say_missing(axis, *loaded.missing)
        return figure
    figure.suptitle(finding(loaded.data), fontsize=7.5)
    for axis, endpoint in zip(axes.flat, ENDPOINTS, strict=True):
        _forest(axis, endpoint, names, loaded.data.of[endpoint])
    axes[0, 0].set_yticks(range(len(names)), [written(name) for name in names])
    axes[0, 0].set_ylim(len(names) - 0.4, -0.6)
    handles = step_handles() + [Line2D([], [], color=colour, label=label) for colour, label in COLOUR.values()]
    figure.legend(handles=handles, ncols=len(handles), loc="outside lower center")
    return figure


def step_handles() -> list[Line2D]:
    """The legend of few steps (hollow) and many (filled)."""
    ink = {"color": COLOURS["measured"], "ls": "", "marker": "o"}
    return [
        Line2D([], [], mfc="white" if steps == STEPS[0] else None, label=f"{steps} steps", **ink) for steps in STEPS
    ]


def draw_difference(axis: Axes, place: float, steps: int, one: Difference, scale: float, colour: str) -> None:
    """A mean difference and its interval, on the line of its place: few steps hollow and above, many filled."""
    few = steps == STEPS[0]
    y = place + (-0.17 if few else 0.17)
    axis.plot([scale * end for end in one.interval], [y, y], color=colour, lw=0.9)
    axis.plot(scale * one.mean, y, "o", ms=2.8, color=colour, mfc="white" if few else colour)


def _forest(axis: Axes, endpoint: str, names: list[str], of: Mapping[str, Mapping[int, Difference]]) -> None:
    unit, scale = UNITS[endpoint]
    axis.axvline(0, color="0.4", lw=0.6)
    for place, name in enumerate(names):
        for steps, one in of[name].items():
            better = one.sign * (1 if endpoint == "accuracy" else -1)
            draw_difference(axis, place, steps, one, scale, COLOUR[better][0])
    axis.set_xlabel(f"difference, {unit}")
    axis.grid(axis="y", visible=False)
