"""The study of §3.2: condition numbers over N/D, and the spectrum in (B, A) at LoRA's start and at A = B = 0.

Predicted: Marchenko–Pastur, Edelman's peak, closed-form spectra. Measured: sampled designs, a dense Hessian by
differences. Checked by `tests/test_hessian_study.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from allora_analysis.hessian.conditioning import (
    block_conditioning,
    fixed_gram_design,
    log_condition,
    marchenko_pastur_condition,
    square_log_condition,
)
from allora_analysis.hessian.digits_part import LARGEST_SEED, digits_notes, digits_part
from allora_analysis.hessian.factors import factor_spectrum, inertia
from allora_analysis.hessian.monte_carlo import dense_factor_hessian, sample_log_conditions
from allora_analysis.hessian.stationarity import factor_gradient
from allora_analysis.study import Result, Study, Table, sweep, text
from allora_analysis.validation import ArgumentError, adapter_rank, count, positive, several

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DENSE_LIMIT = 1500  # parameters up to which the dense Hessian is built: 2 s

ENTRIES = 1 << 59  # of a matrix: beyond, its bytes are no size that NumPy knows


@dataclass(frozen=True)
class Config:
    """Zero initialisation (§3.2): how the Hessian's conditioning depends on N/D, and what LoRA's start looks like.

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
    seed: int = 0
    """Seed of all random numbers."""


def _check(config: Config) -> None:
    count("features", config.features)
    count("outputs", config.outputs)
    adapter_rank(config.rank, config.outputs, config.features)
    most = ENTRIES // (4 * max(config.features, config.outputs))
    if most < max(config.features, config.outputs):
        raise ArgumentError(
            f"features, outputs: {config.features} and {config.outputs} received, matrices that fit into no memory; "
            "give smaller ones"
        )
    for ratio in several("ratios", config.ratios):
        if not 0.5 < positive("ratios", ratio) * config.features <= most:
            raise ArgumentError(
                f"ratios must give N of 1 or more, in X that memory can hold: above {0.5 / config.features:.4g} and at "
                f"most {most / config.features:.4g} here, received {ratio!r}"
            )
    count("draws", config.draws, minimum=2)
    count("samples", config.samples, maximum=most)
    count("seed", config.seed, minimum=0, maximum=LARGEST_SEED if config.network else None)


def run(config: Config) -> Result:
    """Sample condition numbers over N/D, then compute the (B, A) spectra of one problem.

    Args:
        config: the study's settings.

    Returns:
        Predicted and measured, by ratio (lists in the order of `ratios`) and for the two starts.
    """
    _check(config)
    starts = {"lora": _start(config, zero_a=False), "both_zero": _start(config, zero_a=True)}
    rows, interrupted = sweep(config.ratios, lambda ratio: _ratio(config, ratio), "condition numbers")
    predicted, measured = ({name: [row[side][name] for row in rows] for name in rows[0][side]} for side in (0, 1))
    if config.network and not interrupted:
        starts["network"] = digits_part(config.seed, config.rank)
    for name, (theory, dense) in starts.items():
        predicted[name], measured[name] = theory, dense
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
    """The problem whose (B, A) spectrum is computed: X (N×n₂), G = −2RᵀX (n₁×n₂), A (r×n₂).

    Args:
        config: the study's settings.

    Returns:
        X, G and A.
    """
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
    """The result as text: a row per ratio, then what the two starts look like.

    Args:
        config: the study's settings.
        result: what `run` returned.

    Returns:
        The table.
    """
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
    notes = [note for name in ("lora", "both_zero") for note in _notes(name, p[name], m[name])]
    if "network" in p:
        notes += digits_notes(p["network"], m["network"])
    return Table(f"Condition number of the non-zero part of S = XᵀX, D = {config.features}", columns, rows, notes)


def _notes(name: str, predicted: dict[str, Any], measured: dict[str, Any]) -> list[str]:
    where = {"lora": "Hessian in (B, A) at B = 0, A random", "both_zero": "Hessian in (B, A) at A = B = 0"}[name]
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


def plot(config: Config, result: Result) -> Figure:
    """Two panels; see `allora_analysis.hessian.figure`.

    Args:
        config: the study's settings.
        result: what `run` returned.

    Returns:
        The figure.
    """
    from allora_analysis.hessian.figure import draw

    return draw(config.features, result)


STUDY = Study("hessian", Config, run, table, plot)
