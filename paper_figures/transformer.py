"""What becomes of "exponential in L" (§3.3) in two pretrained transformers: how far η moves the stream.

The (residual) stream is what the blocks add to, h₀ where it begins.

A column for each of two pretrained models, adapters of every linear map at random, of the size recorded, and trained.
By η (the paper's shaded): what it adds to the last stream's logarithm, beside a product of the paper's form, cut off,
whose m̄ is of row norms and so bounds nothing (the paper's is of induced norms); to that of the gradient of the output
in the first stream; attention's entropy. By depth: the stream at the largest η. Dotted: predicted for adapters at
random by `ripple.mean_field`. From `allora_analysis.claims.pretrained_ripple`, whose numbers are committed. Checked by
`tests/test_claims_pretrained_ripple.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D

from allora_analysis.claims import pretrained_ripple
from allora_analysis.plotting import COLOURS, page, page_style
from allora_analysis.ripple.mean_field import attention_entropy
from paper_figures.sources import Loaded, Missing, say_missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODELS = {
    "SmolLM2-135M": "SmolLM2: normalized in each branch",
    "all-MiniLM-L6-v2": "MiniLM: normalized after each sum",
}
LARGEST = 2.0  # the paper's η
KINDS = {"random": ("at random", "-", "measured"), "trained": ("trained", "-", "attained")}
LABELS = (
    "last residual stream:\nlog(norm at η / at 0)",
    "stream at η = 1024:\nlog(norm / norm of h₀)",
    "gradient of the output:\nlog(norm at η / at 0)",
    "attention's entropy /\nits maximum",
)


def load_data() -> Loaded[dict[str, dict[str, Any] | None]]:
    """The committed sweeps.

    Returns:
        By model; what is missing.
    """
    sweeps = {name: pretrained_ripple.read(name) for name in MODELS}
    lacking = (
        Missing(f"{name} is not swept", pretrained_ripple.command(name))
        for name, sweep in sweeps.items()
        if sweep is None
    )
    return Loaded(sweeps, missing=tuple(lacking))


@page_style()
def make_figure(loaded: Loaded[dict[str, dict[str, Any] | None]]) -> Figure:
    """Draw the figure: a column for each model, a row for each quantity."""
    figure, axes = page(6.2, 4, 2)
    missing = {one.what.split()[0]: one for one in loaded.missing}
    for column, (name, sweep) in zip(axes.T, loaded.data.items(), strict=True):
        column[0].set_title(MODELS[name])
        if sweep is None:
            say_missing(column[0], missing[name])
            for axis in column[1:]:
                axis.set_axis_off()
            continue
        for axis, draw in zip(column, (_streams, _depths, _gradients, _entropies), strict=True):
            draw(axis, sweep)
    for axis, label in zip(axes[:, 0], LABELS, strict=True):
        axis.set_ylabel(label)
    handles, labels = axes[0, -1].get_legend_handles_labels()
    handles += [Line2D([], [], color=COLOURS["predicted"], ls=":")]
    figure.legend(handles, [*labels, "at random, predicted"], ncols=3, loc="outside lower center")
    figure.suptitle(finding({name: sweep for name, sweep in loaded.data.items() if sweep is not None}))
    return figure


def finding(sweeps: Mapping[str, Mapping[str, Any]]) -> str:
    """How far η moves the last stream's norm at most, with either adapters: up to the paper's η, and at the end."""
    moved = {name: [_moved(sweep, last) for last in (LARGEST, np.inf)] for name, sweep in sweeps.items()}
    if not moved:
        return ""
    end = max(max(sweep["eta"]) for sweep in sweeps.values())
    far = " and ".join(f"e^{last:.1f} ({MODELS[name].partition(':')[0]})" for name, (_, last) in moved.items())
    near = max(first for first, _ in moved.values())
    told = f"Up to the paper's η of {LARGEST:g} the last stream's norm changes by at most a factor of e^{near:.1f};"
    return f"{told}\nup to {end:,.0f} by {far}"


def _moved(sweep: Mapping[str, Any], last: float) -> float:
    logs = np.array([[one[-1] for one in sweep[kind]["log_stream"]] for kind in KINDS])
    return float(np.abs(logs - logs[:, :1])[:, np.array(sweep["eta"]) <= last].max())


def _streams(axis: Axes, sweep: dict[str, Any]) -> None:
    told = np.array(sweep["predicted_log_stream"])[:, -1]
    axis.plot(sweep["eta"][1:], told[1:] - told[0], ":", color=COLOURS["predicted"])
    blocks, ratio = len(sweep["random"]["entropy"][0]), sweep["row_norm"]["random"] / sweep["weight_row_norm"]
    top = _by_eta(axis, sweep, lambda one: np.array(one["log_stream"])[:, -1])
    product = blocks * np.log1p(np.array(sweep["eta"][1:]) * ratio)
    axis.plot(sweep["eta"][1:], product, color=COLOURS["bound"], label="(1 + ηm̄)$^L$, m̄ of row norms: no bound")
    axis.set_ylim(-0.05 * top, 2.2 * top)


def _by_eta(axis: Axes, sweep: dict[str, Any], value: Callable[[dict[str, Any]], np.ndarray]) -> float:
    """Growth over η = 0 of both kinds of adapters; returns the largest."""
    growths = {kind: value(sweep[kind])[1:] - value(sweep[kind])[0] for kind in KINDS}
    for kind, (label, dash, role) in KINDS.items():
        axis.plot(sweep["eta"][1:], growths[kind], dash, color=COLOURS[role], label=f"adapters {label}")
    axis.axvspan(1, LARGEST, color=COLOURS["other"], alpha=0.25, lw=0, label="the paper's η")
    axis.set(xscale="log", xlabel="η")
    return max(growth.max() for growth in growths.values())


def _depths(axis: Axes, sweep: dict[str, Any]) -> None:
    told = np.array(sweep["predicted_log_stream"][-1])
    axis.plot(np.arange(len(told)), told - told[0], ":", color=COLOURS["predicted"])
    for kind, (_, dash, role) in KINDS.items():
        stream = np.array(sweep[kind]["log_stream"][-1])
        axis.plot(np.arange(len(stream)), stream - stream[0], dash, color=COLOURS[role])
    axis.set(xlabel="block l")


def _gradients(axis: Axes, sweep: dict[str, Any]) -> None:
    _by_eta(axis, sweep, lambda one: np.array(one["log_output_gradient"]))


def _entropy(sigma: float, sweep: dict[str, Any]) -> float:
    # Of random logits, over a sentence's tokens: each sees as many as come before it where the model is causal.
    tokens = sweep["tokens"]
    seen = range(1, tokens + 1) if sweep["causal"] else [tokens]
    return float(np.mean([attention_entropy(sigma, count) for count in seen]))


def predicted_entropy(sweep: dict[str, Any]) -> np.ndarray:
    """Of random logits whose σ is that of η = 0, as its mean entropy tells, times 1 + η²m̄²: q and k each grow so."""
    from scipy.optimize import brentq

    start = min(float(np.mean(sweep["random"]["entropy"][0])), 0.9999 * _entropy(0.0, sweep))
    sigma = brentq(lambda s: _entropy(s, sweep) - start, 1e-3, 1e3, xtol=1e-4)
    growth = 1 + np.square(np.array(sweep["eta"]) * sweep["row_norm"]["random"] / sweep["weight_row_norm"])
    return np.array([_entropy(sigma * float(one), sweep) for one in growth])


def _entropies(axis: Axes, sweep: dict[str, Any]) -> None:
    most = _entropy(0.0, sweep)  # uniform attention's
    for kind, (_, dash, role) in KINDS.items():
        axis.plot(sweep["eta"][1:], np.mean(sweep[kind]["entropy"], axis=1)[1:] / most, dash, color=COLOURS[role])
    axis.plot(sweep["eta"][1:], predicted_entropy(sweep)[1:] / most, ":", color=COLOURS["predicted"])
    axis.axvspan(1, LARGEST, color=COLOURS["other"], alpha=0.25, lw=0)
    axis.set(xscale="log", xlabel="η", ylim=(0, 1))
