"""The study of §3.2: condition numbers over N/D, and the spectrum in (B, A) at LoRA's start and at A = B = 0.

Predicted: Marchenko–Pastur, Edelman's peak, closed-form spectra. Measured: sampled designs, a dense Hessian by
differences; with `--network` both ends of a real network's Hessian. Checked by `tests/test_hessian.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from tyro.conf import arg

from allora_analysis.hessian.factors import dense_factor_hessian, factor_gradient, factor_spectrum, inertia
from allora_analysis.hessian.product import (
    block_conditioning,
    fixed_gram_design,
    log_condition,
    marchenko_pastur_condition,
    sample_log_conditions,
    square_log_condition,
)
from allora_analysis.hessian.starts import STARTS as NAMED
from allora_analysis.hessian.starts import start_report
from allora_analysis.study import Result, Study, Table, plain, sweep, text
from allora_analysis.validation import ArgumentError, adapter_rank, choice, count, fits, positive, several

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from allora_analysis.hessian.network import NetworkSpectrum


STARTS = {"lora": ("B = 0, A random", "predicted"), "both_zero": ("A = B = 0", "attained")}
DENSE_LIMIT = 1500  # parameters up to which the dense Hessian is built: 2 s


@dataclass(frozen=True)
class Config:
    """Zero initialization (§3.2): how the Hessian's conditioning depends on N/D, and what LoRA's start looks like.

    X has i.i.d. standard normal entries; targets are i.i.d. standard normal residuals; A is drawn as LoRA ships it,
    uniform in ±1/√features.
    """

    features: int = 64
    """D = n₂, the module's input size (columns of X)."""
    outputs: int = 16
    """C = n₁, the module's output size."""
    rank: int = 4
    """r, LoRA's rank, at most min(features, outputs)."""
    ratios: tuple[float, ...] = (0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.4, 2.0, 3.0, 5.0, 7.0, 10.0)
    """N/D, samples per feature, each rounded to a whole N."""
    draws: int = 200
    """Designs X drawn at each ratio."""
    samples: int = 96
    """N of the one problem whose spectrum in (B, A) is computed."""
    network: bool = False
    """Also both ends of the Hessian of a small MLP with LoRA on the digits, before and after training (6 s)."""
    starts: Annotated[tuple[str, ...], arg(help_behavior_hint="")] = ()
    """Also what these starts are like, from the first step to the solution (2 s each): b_zero, a_zero, both_zero,
    both_random, pissa, orthogonal, gradient_aligned."""
    seed: int = 0
    """Seed of all random numbers."""


def _check(config: Config) -> None:
    count("features", config.features)
    count("outputs", config.outputs)
    adapter_rank(config.rank, config.outputs, config.features)
    size = max(config.features, config.outputs)
    fits("features, outputs", 4 * size**2, "a design")
    for ratio in several("ratios", config.ratios):
        n = positive("ratios", ratio) * config.features
        if n <= 0.5:
            least = f"{0.5 / config.features:.4g}"
            raise ArgumentError(f"ratios must give N of 1 or more, above {least} here, received {ratio!r}")
        fits("ratios", n * size, f"the design of N/D = {ratio!r}")
    for name in config.starts:
        if choice("starts", name, NAMED) == "orthogonal" and config.rank % 2:
            raise ArgumentError(f"rank must be even for the start orthogonal, received {config.rank}")
    fits("draws", count("draws", config.draws, minimum=2), "their condition numbers")
    fits("samples", count("samples", config.samples) * size, "a design")
    count("seed", config.seed, minimum=0, maximum=2**64 - 1 if config.network else None)  # torch's


def run(config: Config) -> Result:
    """Sample condition numbers over N/D, then compute the (B, A) spectra of one problem."""
    _check(config)
    starts = {"lora": _start(config, zero_a=False), "both_zero": _start(config, zero_a=True)}
    rows, interrupted = sweep(config.ratios, lambda ratio: _ratio(config, ratio), "condition numbers")
    predicted, measured = ({name: [row[side][name] for row in rows] for name in rows[0][side]} for side in (0, 1))
    if config.network and not interrupted:
        starts["network"] = _digits_part(config.seed, config.rank)
    for name, (theory, dense) in starts.items():
        predicted[name], measured[name] = theory, dense
    if config.starts and not interrupted:
        predicted["starts"], measured["starts"] = _starts(config)
    return Result(predicted, measured, interrupted)


def _ratio(config: Config, ratio: float) -> tuple[dict[str, Any], dict[str, Any]]:
    # One row: what is predicted at this N, and what was sampled there.
    d, n = config.features, round(ratio * config.features)
    # Each N has its own stream: a row does not depend on which others were asked for.
    logs = sample_log_conditions(n, d, config.draws, np.random.default_rng([config.seed, 0, n]))
    reference = np.random.default_rng([config.seed, 1]).standard_normal((4 * d, d))
    fixed = fixed_gram_design(reference, n, np.random.default_rng([config.seed, 2, n])) if n >= d else None
    predicted = {
        "n_samples": n,
        "rank": min(n, d),
        "log_condition": math.log(marchenko_pastur_condition(d / n)),
        "log_condition_square": square_log_condition(n)[0] if n == d else None,
        "log_condition_fixed_gram": log_condition(reference) if n >= d else None,
    }
    measured = {
        "rank": int(np.linalg.matrix_rank(np.random.default_rng([config.seed, 0, n]).standard_normal((n, d)))),
        "log_condition": float(logs.mean()),
        "log_condition_stderr": float(logs.std(ddof=1) / math.sqrt(len(logs))),
        "log_condition_median": float(np.median(logs)),
        "log_condition_fixed_gram": None if fixed is None else log_condition(fixed),
    }
    return predicted, measured


def problem(config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The problem whose (B, A) spectrum is computed: X (N×n₂), G = −2RᵀX (n₁×n₂), A (r×n₂)."""
    generator = np.random.default_rng([config.seed, 3])
    x = generator.standard_normal((config.samples, config.features))
    residual = generator.standard_normal((config.samples, config.outputs))
    bound = 1 / math.sqrt(config.features)
    return x, -2 * residual.T @ x, generator.uniform(-bound, bound, (config.rank, config.features))


def _start(config: Config, zero_a: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    x, g, a = problem(config)
    a = np.zeros_like(a) if zero_a else a
    counts, eigenvalues = inertia(x, g, a), factor_spectrum(x, g, a)
    conditioning = None if zero_a else block_conditioning(x, a)
    predicted = {
        "negative": counts.negative,
        "zero": counts.zero,
        "positive": counts.positive,
        "eigenvalues": eigenvalues,
        "gradient_norm": float(np.linalg.norm(factor_gradient(g, a)[0])),
        "log_condition_b_block": conditioning and math.log(conditioning.block),
        "log_condition_gram": conditioning and math.log(conditioning.gram),
    }
    return predicted, _dense(x, g, a)


def _starts(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """The largest possible count of negative directions and cosine, beside what each start has."""
    x, g, _ = problem(config)
    weight = np.random.default_rng([config.seed, 4]).standard_normal(g.shape) / math.sqrt(config.features)
    target, scale = -g @ np.linalg.pinv(x.T @ x) / 2, 1 / math.sqrt(config.samples)
    reports, _ = sweep(
        config.starts,
        lambda name: start_report(scale * x, target, name, config.rank, weight=weight, seed=config.seed),
        "starts",
    )
    most = config.rank * min(len(g), int(np.linalg.matrix_rank(x)))
    predicted = {"negative_at_most": most, "best_cosine": reports[0].best_cosine}
    return predicted, dict(zip(config.starts, map(plain, reports), strict=False))


def _start_notes(predicted: dict[str, Any], measured: dict[str, Any]) -> list[str]:
    """A line a start, below the study's table."""
    notes = [
        f"Starts, rescalings (BK⁻¹, KA) left out; no point has more than {predicted['negative_at_most']} negative "
        f"directions, and no first step is nearer to full fine-tuning's than cosine {predicted['best_cosine']:.2f}:"
    ]
    for name, one in measured.items():
        stages = ", ".join(
            f"{stage} {of['inertia']['negative']} (κ = {text(math.exp(of['log_condition']), 2)})"
            for stage, of in one["stages"].items()
        )
        steps = ", ".join(f"{optimizer} {text(n, 4)}" for optimizer, n in one["steps"].items())
        cosines = " | ".join(f"{one['cosine'][optimizer]:.2f}" for optimizer in ("sgd", "adam"))
        notes.append(f"  {name}: negative at {stages}; cosine SGD | Adam {cosines}; half of the way in steps: {steps}")
    return notes


def _dense(x: np.ndarray, g: np.ndarray, a: np.ndarray) -> dict[str, Any]:
    if len(a) * sum(g.shape) > DENSE_LIMIT:
        return {"negative": None, "zero": None, "positive": None, "eigenvalues": None, "log_condition_b_block": None}
    hessian, split = dense_factor_hessian(x, g, a), len(a) * len(g)
    eigenvalues = np.linalg.eigvalsh((hessian + hessian.T) / 2)
    block = np.linalg.eigvalsh(hessian[:split, :split])
    # A dense matrix's eigenvalues mean something only above its rounding error: below it they are reported as 0.
    limit = len(eigenvalues) * np.finfo(np.float64).eps * float(np.abs(eigenvalues).max())
    eigenvalues[np.abs(eigenvalues) <= limit] = 0.0
    negative, positive_ = int((eigenvalues < -limit).sum()), int((eigenvalues > limit).sum())
    return {
        "negative": negative,
        "zero": len(eigenvalues) - negative - positive_,
        "positive": positive_,
        "eigenvalues": eigenvalues,
        "log_condition_b_block": math.log(block[-1] / block[0])
        if block[0] > limit
        else (math.inf if a.any() else None),
    }


def table(config: Config, result: Result) -> Table:
    """The result as text: a row per ratio, then what the two starts look like."""
    p, m = result.predicted, result.measured
    rows = []
    for i, n in enumerate(p["n_samples"]):
        limit = p["log_condition"][i]
        square, fixed = p["log_condition_square"][i], m["log_condition_fixed_gram"][i]
        row = [f"{n / config.features:.3g}", str(n), f"{m['rank'][i]} of {config.features}"]
        row += [text(math.exp(limit)), text(math.exp(m["log_condition_median"][i]))]
        row += [text(limit) if square is None else f"∞, at finite N {text(square)}"]
        row += [f"{m['log_condition'][i]:.3f} ± {m['log_condition_stderr'][i]:.3f}"]
        rows.append([*row, text(None if fixed is None else math.exp(fixed))])
    columns = ["N/D", "N", "rank S", "κ predicted", "κ median", "log κ predicted", "log κ mean ± s.e."]
    columns += ["κ, S held fixed"]
    notes = [note for name in STARTS for note in _notes(name, p[name], m[name])]
    if "starts" in p:
        notes += _start_notes(p["starts"], m["starts"])
    if "network" in p:
        notes += _digits_notes(p["network"], m["network"])
    return Table(f"Condition number of the non-zero part of S = XᵀX, D = {config.features}", columns, rows, notes)


def _notes(name: str, predicted: dict[str, Any], measured: dict[str, Any]) -> list[str]:
    where = f"Hessian in (B, A) at {STARTS[name][0]}"
    eigenvalues, dense = predicted["eigenvalues"], measured["eigenvalues"]
    ends = f"{text(eigenvalues[0], 6)} to {text(eigenvalues[-1], 6)}"
    seen = "not measured at this size" if dense is None else f"{text(dense[0], 6)} to {text(dense[-1], 6)}"
    counts = "; ".join(
        f"{sign} {predicted[sign]} ({text(measured[sign])})" for sign in ("negative", "zero", "positive")
    )
    slope = text(predicted["gradient_norm"])
    notes = [f"{where}: predicted (measured): {counts}; eigenvalues {ends} ({seen}); ‖∇_B‖ = {slope}"]
    if predicted["log_condition_b_block"] is not None:
        block, gram = (math.exp(predicted[f"log_condition_{part}"]) for part in ("b_block", "gram"))
        notes.append(f"  its B block: κ(ASAᵀ) = {text(block)}, where κ(S) = {text(gram)}")
    return notes


def _digits_part(seed: int, rank: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The digits MLP with LoRA: the counts that §3.2's structure predicts, and what Lanczos measures."""
    from allora_analysis.hessian.network_inertia import digits_spectra

    spectra = digits_spectra(seed, min(rank, 10))
    counts = spectra.inertia
    predicted = {
        "rank": min(rank, 10),
        "layer_gradient_ranks": dict(counts.layer_ranks),
        "negative_at_least": counts.bound,
        "negative": counts.negative,
        "zero": counts.zero,
        "positive": counts.positive,
        "gradient_a_norm": 0.0,
    }
    measured = {
        "gradient_a_norm": spectra.gradient_a,
        "gradient_b_norm": spectra.gradient_b,
        "start": _ends(spectra.start),
        "trained": _ends(spectra.trained),
    }
    return predicted, measured


def _ends(spectrum: NetworkSpectrum) -> dict[str, Any]:
    worst = max(np.max(spectrum.smallest_residuals), np.max(spectrum.largest_residuals))
    return {
        "parameters": spectrum.dimension,
        "loss": spectrum.loss,
        "smallest": spectrum.smallest,
        "largest": spectrum.largest,
        "largest_residual": float(worst),
        "hessian_vector_products": spectrum.products,
    }


def _digits_notes(predicted: dict[str, Any], measured: dict[str, Any]) -> list[str]:
    """The part's lines below the study's table."""
    start, trained = measured["start"], measured["trained"]
    signs = f"{predicted['negative']} negative directions of {start['parameters']}, predicted from the ranks of G"
    signs += f" (at least {predicted['negative_at_least']})"
    return [
        f"Digits MLP with LoRA (r = {predicted['rank']}) at B = 0: {signs}; "
        f"eigenvalues {_range(start)}; ‖∇_A‖ = {text(measured['gradient_a_norm'])}, "
        f"‖∇_B‖ = {text(measured['gradient_b_norm'])}; loss {text(start['loss'])}",
        f"  after training the adapters: eigenvalues {_range(trained)}; loss {text(trained['loss'])}",
    ]


def _range(ends: dict[str, Any]) -> str:
    return (
        f"{text(ends['smallest'][0])} to {text(ends['largest'][-1])} (residuals ≤ {text(ends['largest_residual'], 2)})"
    )


def plot(config: Config, result: Result) -> Figure:
    """Left: κ of S's non-zero part against N/D, predicted and measured. Right: sorted eigenvalues of both starts."""
    from allora_analysis.plotting import panels

    figure, (left, right) = panels(2)
    _conditions(left, config.features, result)
    _spectra(right, result)
    return figure


def _conditions(axes: Axes, features: int, result: Result) -> None:
    from allora_analysis.plotting import COLOURS

    order = np.argsort(result.predicted["n_samples"])
    ratios = np.array(result.predicted["n_samples"])[order] / features
    mean, stderr, median = (
        np.array(result.measured[f"log_condition{part}"])[order] for part in ("", "_stderr", "_median")
    )
    # A grid that avoids N = D itself, where the limit is infinite.
    grid = np.geomspace(min(ratios.min(), 0.5), max(ratios.max(), 2.0), 400)
    curve = np.array([marchenko_pastur_condition(1 / value) for value in grid])
    axes.plot(grid, curve, color=COLOURS["predicted"], label="Marchenko–Pastur limit")
    below, above = -np.exp(mean) * np.expm1(-2 * stderr), np.exp(mean) * np.expm1(2 * stderr)
    axes.errorbar(
        ratios,
        np.exp(mean),
        yerr=[below.tolist(), above.tolist()],  # lists: Matplotlib 3.8 to 3.10 trip over arrays of one element
        fmt="o",
        markersize=4,
        color=COLOURS["measured"],
        label="exp(mean log κ) ± 2 s.e.",
    )
    axes.plot(ratios, np.exp(median), "x", color=COLOURS["plain"], label="median κ")
    for ratio, square in zip(
        ratios, np.array(result.predicted["log_condition_square"], dtype=object)[order], strict=True
    ):
        if square is not None:
            axes.plot(ratio, math.exp(square), "D", mfc="none", color=COLOURS["bound"], label="Edelman at N = D")
    axes.set(xscale="log", yscale="log", xlabel="N/D, samples per feature", ylabel="κ of the non-zero part of XᵀX")
    axes.set_ylim(1, 3 * max(float(np.exp(mean.max())), 10.0))
    axes.set_title(f"Conditioning peaks at N = D (D = {features})")
    axes.legend(fontsize=7, frameon=False, loc="upper left", handlelength=1.2)


def _spectra(axes: Axes, result: Result) -> None:
    from allora_analysis.plotting import COLOURS

    for name, (label, colour) in STARTS.items():
        predicted, dense = (
            np.array(side[name]["eigenvalues"], dtype=object) for side in (result.predicted, result.measured)
        )
        index = np.arange(1, predicted.size + 1)
        axes.step(index, predicted.astype(float), where="mid", color=COLOURS[colour], label=f"{label}: closed form")
        if dense.shape == predicted.shape:
            shown = slice(None, None, max(1, predicted.size // 60))
            axes.plot(index[shown], dense[shown].astype(float), ".", markersize=4, color=COLOURS["measured"])
    axes.plot([], [], ".", color=COLOURS["measured"], label="dense Hessian (every few)")
    axes.set(xlabel="eigenvalue, in ascending order", ylabel="eigenvalue of ∇²L in (B, A)")
    axes.set_title("At zero initialization the Hessian is indefinite")
    axes.legend(fontsize=7, frameon=False)


STUDY = Study("hessian", Config, run, table, plot, "--features 32 --figure hessian.png")
