"""What becomes of "exponential in L" (§3.3) in a transformer: the stream is bounded, or a power of η at any depth.

Above: η swept in two pretrained models, SmolLM2-135M (normalised in each branch) and all-MiniLM-L6-v2 (after each
sum), adapters at random of the recorded size and trained ones: what η adds to the logarithm of the last stream,
beside the paper's product C(1 + ηm̄)^L; by depth at the largest η; and attention's entropy. Below: the gradient
likewise. From `allora_analysis.claims.pretrained_ripple`, whose numbers are committed. Checked by
`tests/test_claims_pretrained_ripple.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from allora_analysis.claims import pretrained_ripple
from allora_analysis.plotting import COLOURS, page, page_style
from paper_figures.sources import Loaded, Missing, say_missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODELS = {
    "SmolLM2-135M": "SmolLM2, 30 blocks,\nnormalised in the branch",
    "all-MiniLM-L6-v2": "MiniLM, 6 blocks,\nnormalised after the sum",
}
KINDS = {"random": ("at random", "-", "measured"), "trained": ("trained", "--", "attained")}
COMMAND = "python -m allora_analysis.claims.pretrained_ripple FOLDER {} --data FOLDER"


def load_data() -> Loaded[dict[str, dict[str, Any] | None]]:
    """The committed sweeps.

    Returns:
        By model; what is missing.
    """
    sweeps = {name: pretrained_ripple.read(name) for name in MODELS}
    lacking = (Missing(f"{name} is not swept", COMMAND.format(name)) for name, sweep in sweeps.items() if sweep is None)
    return Loaded(sweeps, missing=tuple(lacking))


@page_style()
def make_figure(loaded: Loaded[dict[str, dict[str, Any] | None]]) -> Figure:
    """Draw the figure: a column for each quantity, a row for each model.

    Args:
        loaded: as from `load_data`.

    Returns:
        The figure.
    """
    figure, axes = page(4.0, 2, 3)
    missing = {one.what.split()[0]: one for one in loaded.missing}
    for row, (name, sweep) in zip(axes, loaded.data.items(), strict=True):
        if sweep is None:
            for axis in row:
                say_missing(axis, missing[name])
            continue
        for axis, draw in zip(row, (_streams, _depths, _gradients), strict=True):
            draw(axis, sweep)
        row[0].set_ylabel(f"{MODELS[name]}\n\nlog growth over η = 0")
    for axis, title in zip(axes[0], ("last stream", "stream by depth, η = 1024", "gradient and entropy"), strict=True):
        axis.set_title(title)
    axes[0, 0].legend(loc="upper left")
    figure.suptitle("Normalised, the stream is no longer exponential in L: a power of η, or bounded")
    return figure


def _streams(axis: Axes, sweep: dict[str, Any]) -> None:
    eta, blocks = np.array(sweep["eta"][1:]), len(sweep["random"]["entropy"][0])
    product = blocks * np.log1p(eta * sweep["row_norm"]["random"] / sweep["weight_row_norm"])
    axis.plot(eta, product, color=COLOURS["bound"], label="(1 + ηm̄)$^L$")
    for kind, (label, dash, role) in KINDS.items():
        last = np.array([entry[-1] for entry in sweep[kind]["log_stream"]])
        axis.plot(eta, last[1:] - last[0], dash, color=COLOURS[role], label=label)
    axis.set(xscale="log", xlabel="η")
    axis.set_ylim(top=min(product.max(), 3 * max(last[1:] - last[0]) + 8))


def _depths(axis: Axes, sweep: dict[str, Any]) -> None:
    for kind, (_, dash, role) in KINDS.items():
        stream = np.array(sweep[kind]["log_stream"][-1])
        axis.plot(np.arange(len(stream)), stream - stream[0], dash, color=COLOURS[role])
    told = np.array(sweep["predicted_log_stream"][-1])
    axis.plot(np.arange(len(told)), told - told[0], ":", color=COLOURS["predicted"], label="predicted")
    axis.set(xlabel="block l")
    axis.legend(loc="lower right")


def _gradients(axis: Axes, sweep: dict[str, Any]) -> None:
    eta = np.array(sweep["eta"][1:])
    for kind, (_, dash, role) in KINDS.items():
        values = np.array(sweep[kind]["log_output_gradient"])
        axis.plot(eta, values[1:] - values[0], dash, color=COLOURS[role])
    axis.set(xscale="log", xlabel="η")
