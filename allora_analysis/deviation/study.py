"""`python -m allora_analysis.deviation`: how far an average over n masks is from its expectation, beside the bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from allora_analysis import validation
from allora_analysis.deviation.law import (
    LIMIT,
    Deviation,
    Estimate,
    deviation_of,
    gradient_std,
    jumps,
    moments_of,
    sample_of,
)
from allora_analysis.study import Result, Study, Table, sweep, text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Config:
    """The average of dropout's loss over n masks: exact mean distance from its expectation, and the bound (§3.1)."""

    samples: int = 16
    """N, rows of X."""
    features: int = 4
    """D, columns of X."""
    outputs: int = 2
    """C, columns of Y; the masks act on the N × C outputs XW."""
    keep_prob: float = 0.9
    """Probability in (0, 1] that a mask keeps an entry: 1 - (drop rate)."""
    masks: tuple[int, ...] = (1, 10, 100, 1000)
    """Numbers n of masks in an average (the paper's N, training steps), each 1 or above."""
    weight_scale: float = 1.0
    """Scale of the weights W, where the targets' own have 1; 0 is LoRA's zero initialization."""
    noise: float = 1.0
    """Standard deviation of the targets' noise, where the signal has one of about 1."""
    draws: int = 4000
    """Averages drawn to measure each deviation, 2 or more."""
    seed: int = 0
    """Seed of the data and of the masks."""


def _validate(config: Config) -> None:
    """Refuse a config that makes no sense, before anything is computed."""
    for name in ("samples", "features", "outputs"):
        validation.count(name, getattr(config, name))
    validation.keep_probability(config.keep_prob)
    for n in validation.several("masks", config.masks):
        validation.count("masks", n, maximum=10**9)
    validation.non_negative("weight_scale", config.weight_scale)
    validation.non_negative("noise", config.noise)
    validation.count("draws", config.draws, minimum=2, maximum=10**9)
    validation.count("seed", config.seed, minimum=0)


def data(config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X standard normal, Y = XW_true + noise, and weights W of their own, drawn afresh and scaled."""
    generator = np.random.default_rng([config.seed, 0])
    x = generator.standard_normal((config.samples, config.features))
    true, other = generator.standard_normal((2, config.features, config.outputs)) / math.sqrt(config.features)
    y = x @ true + config.noise * generator.standard_normal((config.samples, config.outputs))
    return x, y, config.weight_scale * other


def standardised(measured: Estimate, exact: Deviation) -> float:
    """z, measured minus exact in the exact standard error √((E D² − (E D)²)/draws), D = |L̄_n − E L|."""
    # E D² = Std[L]²/n.
    # The sample's own error is 0 where no draw has met a rare mask that makes the mean.
    gap = measured.mean - exact.value
    if abs(gap) <= 1e-10 * exact.value:
        return 0.0
    spread = math.sqrt(max(0.0, exact.bound - exact.value)) * math.sqrt(exact.bound + exact.value)
    stderr = spread / math.sqrt(measured.draws)
    return gap / stderr if stderr > 0 else math.copysign(math.inf, gap)


def run(config: Config) -> Result:
    """The exact law and its sampled twin for each number of masks."""
    _validate(config)
    x, y, w = data(config)
    delta = jumps(x @ w, y, config.keep_prob).ravel()
    generators = np.random.default_rng([config.seed, 1]).spawn(len(config.masks))

    def task(item: tuple[int, np.random.Generator]) -> tuple[Deviation, Estimate]:
        n, generator = item
        exact = deviation_of(delta, config.keep_prob, n)
        return exact, sample_of(delta, config.keep_prob, n, config.draws, generator)

    tasks = list(zip(config.masks, generators, strict=True))
    rows, interrupted = sweep(tasks, task, "numbers of masks")
    mean, std = moments_of(x, y, w, config.keep_prob)
    gradient = gradient_std(x, y, w, config.keep_prob)
    predicted: dict[str, Any] = {
        "loss_mean": mean,
        "loss_std": std,
        "gradient_std_mean": float(np.mean(gradient)),
        "gradient_std_max": float(np.max(gradient)),
        "masks": config.masks[: len(rows)],
        "bound": [exact.bound for exact, _ in rows],
        "deviation": [exact.value for exact, _ in rows],
        "deviation_error": [exact.error for exact, _ in rows],
        "ratio": [exact.ratio for exact, _ in rows],
        "ratio_limit": LIMIT,
        "method": [exact.method for exact, _ in rows],
    }
    measured = {
        "masks": config.masks[: len(rows)],
        "deviation": [estimate.mean for _, estimate in rows],
        "deviation_stderr": [estimate.stderr for _, estimate in rows],
        "z": [standardised(estimate, exact) for exact, estimate in rows],
    }
    return Result(predicted, measured, interrupted)


def table(config: Config, result: Result) -> Table:
    """A row for each number of masks."""
    p, m = result.predicted, result.measured
    names = (p["bound"], p["deviation"], p["ratio"], p["method"], m["deviation"], m["deviation_stderr"], m["z"])
    rows = [
        (f"{n:,}", text(bound), text(exact, 10), text(ratio, 6), method, f"{text(mean)} ± {text(error, 2)}", text(z, 2))
        for n, bound, exact, ratio, method, mean, error, z in zip(p["masks"], *names, strict=True)
    ]
    notes = [
        f"Std[L] = {text(p['loss_std'])} around E L = {text(p['loss_mean'])}; the bound is Std[L]/√n, and the "
        f"exact value tends to √(2/π) = {LIMIT:.4f} of it.",
        f"Std over masks of the gradient's entries: mean {text(p['gradient_std_mean'])}, worst "
        f"{text(p['gradient_std_max'])}.",
    ]
    if p["loss_std"] == 0:
        notes.append(
            "No mask changes this loss, so bound and deviation are 0 and the ratio is its limit by convention."
        )
    columns = ("masks n", "bound", "exact E|L̄ₙ − E L|", "exact / bound", "method", "measured ± s.e.", "z")
    title = f"{config.samples} × {config.outputs} outputs, keep probability {config.keep_prob:g}"
    return Table(title, columns, rows, notes)


def plot(config: Config, result: Result) -> Figure:
    """Left: deviation and bound over n. Right: their ratio, approaching √(2/π)."""
    from allora_analysis.plotting import COLOURS, panels

    p, m = result.predicted, result.measured
    order = np.argsort(p["masks"], kind="stable")
    n, bound, exact, ratio = (np.asarray(p[name], float)[order] for name in ("masks", "bound", "deviation", "ratio"))
    mean, error = (np.asarray(m[name], float)[order] for name in ("deviation", "deviation_stderr"))
    figure, (left, right) = panels(columns=2)
    left.plot(n, bound, color=COLOURS["bound"], label="the paper's bound, Std[L]/√n")
    left.plot(n, exact, color=COLOURS["predicted"], label="exact")
    left.errorbar(n, mean, 2 * error, fmt="o", ms=4, color=COLOURS["measured"], label="drawn masks, ± 2 s.e.")
    left.set(xscale="log", xlabel="masks in the average, n", ylabel="E|mean loss − expected loss|")
    left.set_yscale("log" if bound.min() > 0 else "linear")
    left.legend()
    left.set_title(f"At n = {n[-1]:g} the mean loss is off\nby {100 * ratio[-1]:.0f} % of the paper's bound")
    right.plot(n, ratio, color=COLOURS["predicted"], label="exact / bound")
    if bound.min() > 0:
        right.errorbar(n, mean / bound, 2 * error / bound, fmt="o", ms=4, color=COLOURS["measured"])
    right.axhline(LIMIT, color=COLOURS["other"], linestyle="--", label="√(2/π), the limit")
    right.axhline(1.0, color=COLOURS["bound"], label="the bound")
    right.set(xscale="log", xlabel="masks in the average, n", ylabel="share of the bound", ylim=(0, 1.08))
    right.legend(loc="lower right")
    return figure


STUDY = Study("deviation", Config, run, table, plot, "--masks 1 10 100", z=lambda result: result.measured["z"])
