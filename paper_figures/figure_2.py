"""Figure 2 of the paper: accuracy by epoch and drop rate, and how fast the row norms of BA leave 0.

Top left: what the paper reports of its left panel, Table 2: accuracy after 3 and 10 epochs and the best one, at each
drop rate (the lines between them only guide the eye). Top right: ours, `experiments.dropout_rates`, every epoch. Below:
ours of its right panel, `experiments.row_norms`, by model and optimizer (the paper prints no number of its own): row
norm ‖(BA)_i‖ (the LoRA scaling is 1), averaged over rows and layers, by step. A case is drawn when all its seeds
are recorded; means over seeds (of logarithms, for norms) with 95 % intervals, of accuracy after the first epoch and the
last. Titles say what is seen.

Checked by `tests/test_paper_figures_1_and_2.py`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.lines import Line2D

from allora_analysis.claims.tables.reported import TABLE_2
from allora_analysis.finetune.setting import Setting
from allora_analysis.grid.presets import AT_INPUT, LISTS, ROW_NORM_RATES, base_rate
from allora_analysis.grid.reading import average_norm
from allora_analysis.plotting import ARMS, OPTIMIZERS, page, page_style, shades
from paper_figures.numbers import Curve, accuracy_by_epoch, over_seeds
from paper_figures.sources import Loaded, Missing, Runs, runs, say_missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panel = tuple[str, str]  # model, optimizer
FIRST_ROW = "drop rate (first row; dotted: through the three printed points; bars: 95 % over seeds)"


class Figure2(NamedTuple):
    """What is drawn.

    Attributes:
        reported: by drop rate, Table 2's (epoch, accuracy) in percent, in the order of epochs.
        accuracy: ours, percent, by drop rate.
        norms: by model and optimizer, then by arm as `plotting.ARMS` names it; an arm with seeds missing has None.
        missing: what is missing, by "accuracy" and by panel.
    """

    reported: Mapping[float, tuple[tuple[int, float], ...]]
    accuracy: Mapping[float, Curve]
    norms: Mapping[Panel, Mapping[str, Curve | None]]
    missing: Mapping[str | Panel, Missing]


def load_data(folder: Path | str | None = None) -> Loaded[Figure2]:
    """Table 2's points; ours where a case is recorded in full."""
    dropped, trained = AT_INPUT, LISTS["row_norms"]["desk"]
    known = runs([*dropped, *trained], folder)
    accuracy: dict[float, Curve] = {}
    used: list[Setting] = []
    for rate, case in _cases(dropped, lambda run: run.drop_rate).items():
        if known.whole(case):
            accuracy[rate] = accuracy_by_epoch([known.results[run] for run in case])
            used += case
    missing: dict[str | Panel, Missing] = {}
    for one in known.missing(dropped, "dropout_rates"):
        missing["accuracy"] = one
    norms = {}
    for panel, own in _cases(trained, lambda run: (run.model, run.optimizer)).items():
        cases = _cases(own, _arm)
        whole = {arm: case for arm, case in cases.items() if known.whole(case)}
        norms[panel] = {arm: _norms(known, case) if arm in whole else None for arm, case in cases.items()}
        used += [run for case in whole.values() for run in case]
        for one in known.missing(own, "row_norms"):
            missing[panel] = one
    data = Figure2({column.drop_rate: _points(column) for column in TABLE_2}, accuracy, norms, missing)
    told = (*known.missing(dropped, "dropout_rates"), *known.missing(trained, "row_norms"))
    return Loaded(data, known.names(used), told)


def _cases(wanted: Iterable[Setting], name) -> dict:
    found: dict = {}
    for run in wanted:
        found.setdefault(name(run), []).append(run)
    return found


def _arm(run: Setting) -> str:
    fast = run.arm == "lora" and run.learning_rate != base_rate(run)
    return "lora_eta" if fast else run.arm


def _points(column) -> tuple[tuple[int, float], ...]:
    points = {3: column.at_epoch_3, 10: column.at_epoch_10, column.best_epoch: column.best}
    return tuple(sorted(points.items()))


def _norms(known: Runs, case: list[Setting]) -> Curve:
    shared = set.intersection(*(set(known.results[run]["row_norms"]["step"]) for run in case))
    steps = sorted(step for step in shared if step > 0)
    logs = np.log([[average_norm(known.results[run], step) for step in steps] for run in case])
    return Curve(np.array(steps), over_seeds(logs), len(case))


@page_style()
def make_figure(loaded: Loaded[Figure2]) -> Figure:
    """Draw the figure."""
    data = loaded.data
    panels = list(data.norms)
    rows = 1 + (len(panels) + 1) // 2
    figure, axes = page(0.6 + 2.1 * rows, rows, 2)
    rates = sorted({*data.reported, *data.accuracy})
    colours = dict(zip(rates, shades(len(rates)), strict=True))
    _reported(axes[0, 0], data.reported, colours)
    _ours(axes[0, 1], data, colours)
    for axis, panel in zip(axes[1:].flat, panels, strict=False):
        _row_norms(axis, panel, data)
    for axis in axes[1:].flat[len(panels) :]:
        axis.remove()
    _one_scale(axes)
    handles = [Line2D([], [], color=colour, marker="o", label=f"{rate:g}") for rate, colour in colours.items()]
    figure.legend(handles=handles, ncols=len(handles), loc="outside upper center", title=FIRST_ROW)
    handles = [line for axis in axes[1:].flat for line in axis.get_lines() if not line.get_label().startswith("_")]
    arms = {line.get_label().partition(":")[0]: line for line in handles}
    if arms:
        (eta,) = {run.eta for run in LISTS["row_norms"]["desk"]} - {None}
        told = f"arm (rows below; η = {eta:g})"
        figure.legend(arms.values(), arms, ncols=len(arms), loc="outside lower center", title=told)
    return figure


def _one_scale(axes: np.ndarray) -> None:
    # Left and right, where both are drawn: an empty panel has no ticks.
    for row in axes:
        limits = np.array([axis.get_ylim() for axis in row if axis.get_lines()])
        for axis in row:
            if axis.get_lines():
                axis.set_ylim(limits.min(), limits.max())


def _reported(axis: Axes, reported: Mapping[float, tuple[tuple[int, float], ...]], colours: Mapping) -> None:
    for rate, points in reported.items():
        epochs, values = zip(*points, strict=True)
        axis.plot(epochs, values, "o:", lw=0.8, color=colours[rate], label=f"{rate:g}")
    axis.set(xlabel="epoch", ylabel="test accuracy, %")
    gains = {rate: points[-1][1] - points[0][1] for rate, points in reported.items()}
    ends = {rate: points[-1][1] for rate, points in reported.items()}
    most, highest = max(gains, key=gains.__getitem__), max(ends, key=ends.__getitem__)
    told = "\nand ends highest" if highest == most else f",\n{highest:g} ends highest"
    axis.set_title(f"The paper: drop rate {most:g} gains most{told}\n(Qwen2-0.5B, bias_in_bios, 3 runs)")


def _ours(axis: Axes, data: Figure2, colours: Mapping) -> None:
    first = LISTS["dropout_rates"]["desk"][0]
    if not data.accuracy:
        axis.set_title(f"Ours\n({first.model}, {first.data})")
        say_missing(axis, data.missing["accuracy"])
        return
    for index, (rate, curve) in enumerate(data.accuracy.items()):
        x = curve.x + 0.06 * (index - len(data.accuracy) / 2)  # intervals side by side, not one over the other
        style = {"color": colours[rate], "fmt": "o-", "ms": 2.5, "lw": 0.9, "elinewidth": 0.6}
        style |= {"errorevery": max(1, len(curve.x) - 1)}  # after the first epoch and the last
        axis.errorbar(x, curve.average.mean, curve.average.half, label=f"{rate:g}", **style)
    seeds = next(iter(data.accuracy.values())).seeds
    axis.set(xlabel="epoch", ylabel="test accuracy, %")
    last = [curve.average.mean[-1] for curve in data.accuracy.values()]
    told = f"Ours, {seeds} seeds: they end within {max(last) - min(last):.1f} points"
    axis.set_title(f"{told}\n({first.model}, {first.data};\nAdamW, own dropout of 0.1 stays on)")
    if "accuracy" in data.missing:
        axis.text(0.98, 0.02, data.missing["accuracy"].what, ha="right", transform=axis.transAxes, fontsize=6)


def _start(curves: Mapping[str, Curve]) -> str:
    # Which LoRA ALLoRA's first step is nearest to.
    first = {arm: curve.average.mean[0] for arm, curve in curves.items()}
    known = [arm for arm in ("lora", "lora_eta") if arm in first]
    if "allora" not in first or len(known) < 2:
        return "how BA leaves 0"
    nearest = min(known, key=lambda arm: abs(first[arm] - first["allora"]))
    return f"ALLoRA leaves 0 as {'LoRA at l' if nearest == 'lora' else ARMS[nearest].label}"


def _row_norms(axis: Axes, panel: Panel, data: Figure2) -> None:
    model, optimizer = panel
    curves = {arm: curve for arm, curve in data.norms[panel].items() if curve is not None}
    under = OPTIMIZERS[optimizer].label
    if not curves:
        axis.set_title(f"{under}\n({model})")
        say_missing(axis, data.missing[panel])
        return
    for index, (arm, curve) in enumerate(curves.items()):
        (label, colour, marker), norms = ARMS[arm], curve.average
        every = {"marker": marker, "markevery": (index, len(curves))}  # where curves lie on each other, all show
        axis.plot(curve.x, np.exp(norms.mean), color=colour, lw=1, label=label, **every)
        axis.fill_between(curve.x, np.exp(norms.low), np.exp(norms.high), color=colour, alpha=0.2, lw=0)
    seeds, (rate, _) = next(iter(curves.values())).seeds, ROW_NORM_RATES[model][optimizer]
    axis.set(title=f"{under}: {_start(curves)}\n({model}, {seeds} seeds, l = {rate:g})", xscale="log", yscale="log")
    axis.set(xlabel="step (shaded: 95 % over seeds)", ylabel="mean row norm of BA")
    if absent := [ARMS[arm].label for arm, curve in data.norms[panel].items() if curve is None]:
        told = textwrap.fill("seeds missing: " + ", ".join(absent), 34)  # within the axes
        axis.text(0.98, 0.02, told, ha="right", transform=axis.transAxes, fontsize=6)
