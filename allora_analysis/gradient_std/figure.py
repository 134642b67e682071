"""The study's figure and table. Draws and prints what was measured; computes nothing. matplotlib on demand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from allora_analysis.study import Result, Table, text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def tabulate(config: Any, result: Result) -> Table:
    """A row an epoch: averages over seeds, ± their standard error where there are several.

    Args:
        config: the study's settings.
        result: what its `run` returned.

    Returns:
        The table.
    """
    m, p = result.measured, result.predicted
    names = ("probe_mean", "probe_worst_held_out", "fresh_mean", "no_dropout_fresh_mean")
    rows = []
    for epoch, accuracy in enumerate(m["test_accuracy"]):
        mask, minibatch = m["decomposition_mask"][epoch], m["decomposition_minibatch"][epoch]
        share = mask / (mask + minibatch) if mask + minibatch > 0 else None
        cells = [_cell(m[name][epoch], m[f"{name}_stderr"][epoch]) for name in names]
        rows.append((str(epoch), f"{accuracy:.4f}", *cells, "–" if share is None else f"{100 * share:.1f} %"))
    columns = ("epoch", "test accuracy", "mean std", "worst, held out", "fresh batch", "no dropout, minibatches")
    title = (
        f"Std of the entries of ∂L/∂W₂ over {config.masks} masks: {m['data']}, {config.optimizer}, "
        f"drop rate {config.drop_rate:g}, {len(m['seeds'])} seed(s)"
    )
    stderr = m["linear_mean_stderr"]
    check = f"{text(m['linear_mean'], 5)}{'' if stderr is None else f' ± {text(stderr, 2)}'}"
    note = f"the estimator on a linear model: {check}, closed form {text(p['linear_mean'], 5)}"
    return Table(title, (*columns, "variance due to masks"), rows, (note, *_seeds(m)))


def _seeds(m: Mapping[str, Any]) -> tuple[str, ...]:
    if "log_total_seed_variance" not in m:
        return ()
    component, stderr, error = (
        text(m[f"log_total_{name}"][-1], 2)
        for name in ("seed_variance", "seed_variance_stderr", "measurement_variance")
    )
    return (
        f"log of the total variance, last epoch: variance over seeds {component} ± {stderr}, of one seed's {error}",
    )


def _cell(value: float, stderr: float | None) -> str:
    return text(value) if stderr is None else f"{text(value)} ± {text(stderr, 2)}"


def draw(result: Result) -> Figure:
    """Left: the paper's figure, average and worst case over training. Right: the controls that it lacks.

    Args:
        result: what the study's `run` returned.

    Returns:
        The figure.
    """
    from allora_analysis.plotting import COLOURS, panels

    figure, (left, right) = panels(columns=2)
    m = result.measured
    lines = (
        (left, "probe_mean", "dropout", "average over entries"),
        (left, "probe_worst_held_out", "bound", "worst entry, held out"),
        (right, "probe_mean", "dropout", "masks, probe batch"),
        (right, "fresh_mean", "other", "masks, fresh batch"),
        (right, "no_dropout_fresh_mean", "plain", "minibatches, no dropout"),
    )
    for axes, name, colour, label in lines:
        value = np.asarray(m[name], dtype=float)
        error = np.array([0.0 if e is None else e for e in m[f"{name}_stderr"]], dtype=float)
        epochs = np.arange(len(value))
        if (value > 0).any():
            axes.plot(epochs, value, marker=".", color=COLOURS[colour], label=label)
            axes.fill_between(epochs, value - error, value + error, color=COLOURS[colour], alpha=0.25, linewidth=0)
    for axes, title in ((left, "Across dropout masks"), (right, "Beside its controls: average over entries")):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel="epoch (0: before training)", ylabel="std of an entry of ∂L/∂W₂", yscale="log", title=title)
        if axes.lines:  # none without dropout: nothing varies across its masks
            axes.legend(fontsize=7)
    return figure
