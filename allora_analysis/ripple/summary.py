"""From simulated networks to the study's measured numbers and its table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from allora_analysis.study import Result, Table, text


def estimate(
    growth: Float[np.ndarray, " replicas"], predicted: float | None, architecture: str
) -> tuple[float | None, float | None, float | None]:
    """Mean log growth, its standard error, and z against the prediction; over networks that did not die.

    For "prelayernorm", whose closed form is for the mean *square*: the growth of the root mean square, its standard
    error by the delta method and z of the mean square itself.

    Args:
        growth: log growths, −∞ for a dead network.
        predicted: the closed form, or None where there is none.
        architecture: "linear", "relu" or "prelayernorm".

    Returns:
        (mean, standard error, z), None where fewer than two networks lived or no prediction exists.
    """
    alive = growth[np.isfinite(growth)]
    if len(alive) < 2:
        return None, None, None
    root = math.sqrt(len(alive))
    if architecture != "prelayernorm":
        mean, stderr = float(alive.mean()), float(alive.std(ddof=1)) / root
        return mean, stderr, None if predicted is None or stderr == 0 else (mean - predicted) / stderr
    top = float(alive.max())
    squares = np.exp(2 * (alive - top))
    mean, stderr = float(squares.mean()), float(squares.std(ddof=1)) / root
    z = None if predicted is None or stderr == 0 else (mean - math.exp(2 * (predicted - top))) / stderr
    return top + math.log(mean) / 2, stderr / (2 * mean), z


def summarise(config: Any, predicted: dict[str, Any], parts: Sequence[Any]) -> dict[str, Any]:
    """The measured numbers, lists over η.

    `log_typical` (± `log_typical_stderr`, `log_typical_z`): LoRA; `log_asf`: ASF-LoRA's branch from ‖x‖ = √n;
    `log_allora`: ALLoRA's forward pass; `cosine_square`: mean cos²(Wu, BAu) over layers; `survival`: the share of
    networks alive (ReLU). `log_typical_chi_square`: as `log_typical`, from many networks by the norms' law, where the
    main simulation was another; `replicas` counts those of the main one.

    Args:
        config: the study's config.
        predicted: the study's predictions.
        parts: (method, columns, simulation) of every piece, the main method's first.

    Returns:
        The numbers by name.
    """
    main = parts[0][0]
    samples = _columns(part for part in parts if part[0] == main or part[1][0][1])
    second = _columns(part for part in parts if part[0] == "chi_square" != main)
    cosines = [
        simulation.cosine_square[:, : len(config.eta)].mean(axis=1)
        for _, chosen, simulation in parts
        if simulation.cosine_square is not None and not chosen[0][1]
    ]

    def of(
        columns: dict[tuple[float, bool], np.ndarray], key: tuple[float, bool], prediction: float | None
    ) -> tuple[float | None, float | None, float | None]:
        return estimate(columns.get(key, np.empty(0)), prediction, config.architecture)

    pairs = list(zip(config.eta, predicted["log_typical"], strict=True))
    lora = [of(samples, (eta, False), value) for eta, value in pairs]
    norms = [of(second, (eta, False), value) for eta, value in pairs]
    asf = [of(samples, (eta, True), None) for eta in config.eta]
    allora = of(samples, (1.0, False), predicted["log_allora"])
    cosine = estimate(np.concatenate(cosines) if cosines else np.empty(0), predicted["cosine_square"], "linear")
    alive = [samples.get((eta, False), np.empty(0)) for eta in config.eta]
    return {
        "log_typical": [row[0] for row in lora],
        "log_typical_stderr": [row[1] for row in lora],
        "log_typical_z": [row[2] for row in lora],
        "log_typical_chi_square": [row[0] for row in norms],
        "log_typical_chi_square_stderr": [row[1] for row in norms],
        "log_typical_chi_square_z": [row[2] for row in norms],
        "replicas_chi_square": max((column.size for column in second.values()), default=0),
        "log_asf": [row[0] for row in asf],
        "log_asf_stderr": [row[1] for row in asf],
        "log_allora": allora[0],
        "log_allora_stderr": allora[1],
        "cosine_square": cosine[0],
        "cosine_square_stderr": cosine[1],
        "survival": [float(np.isfinite(column).mean()) if column.size else None for column in alive],
        "replicas": max((column.size for column in alive), default=0),
    }


def _columns(parts: Iterable[Any]) -> dict[tuple[float, bool], np.ndarray]:
    # Log growths by (η, damped), all pieces of a column together.
    columns: dict[tuple[float, bool], list[np.ndarray]] = {}
    for _, chosen, simulation in parts:
        for index in {key: index for index, key in enumerate(chosen)}.values():  # η = 1 may stand twice
            columns.setdefault(chosen[index], []).append(simulation.log_growth[:, index])
    return {key: np.concatenate(pieces) for key, pieces in columns.items()}


def _pair(value: float | None, spread: float | None) -> str:
    return "–" if value is None else f"{value:.3f} ± {text(spread, 2)}"


def _decimal(value: float) -> str:
    return f"{value:.4f}" if value == 0 or 1e-3 <= value < 1e6 else text(value)


def table(config: Any, result: Result) -> Table:
    """One row per η: bounds, aligned network, typical growth predicted and measured, the adapters' share, ASF-LoRA.

    Args:
        config: the study's config.
        result: its result.

    Returns:
        The table.
    """
    predicted, measured = result.predicted, result.measured
    rows = [
        [
            text(eta),
            text(predicted["log_amgm_bound"][i], 6),
            text(predicted["log_bound"][i], 6),
            text(float(measured["log_aligned"][i]), 6),
            _pair(predicted["log_typical"][i], predicted["log_typical_std"][i]),
            _pair(measured["log_typical"][i], measured["log_typical_stderr"][i]),
            "–" if measured["log_typical_z"][i] is None else f"{measured['log_typical_z'][i]:+.2f}",
            text(predicted["log_bound_adapter"][i], 4),
            text(predicted["log_typical_adapter"][i], 4),
            _pair(measured["log_asf"][i], measured["log_asf_stderr"][i]),
        ]
        for i, eta in enumerate(config.eta)
    ]
    columns = ["η", "AM–GM bound", "bound", "aligned", "typical ± std", "measured ± s.e.", "z"]
    columns += ["bound: η's share", "typical: η's share", "ASF-LoRA ± s.e."]
    title = f"log(‖f_L(x)‖/‖x‖), natural logarithm: {config.architecture}, L = {config.depth}, "
    title += f"n = {config.width}, r = {config.rank}"
    return Table(title, columns, rows, _notes(config, predicted, measured))


def _notes(config: Any, predicted: Any, measured: Any) -> list[str]:
    top = int(np.argmax(config.eta))
    digits = [value / math.log(10) for value in (predicted["log_bound"][top], predicted["log_typical"][top])]
    stds = ", ".join(f"{name} = {predicted[name]:.4g}" for name in ("w_std", "a_std", "b_std"))
    notes = [
        f"At η = {text(config.eta[top])} the worst case is 10^{digits[0]:.1f}, a typical network 10^{digits[1]:.1f} "
        "(divide by log 10 = 2.303 for powers of ten).",
        f"Drawn layers: {stds}; mean ‖W_l‖ = {_decimal(measured['mean_weight_norm'])}, "
        f"m̄ = {text(measured['mean_ratio'])}. Unless given: W neither grows nor shrinks a typical x, and m ≈ 1.",
        "Bounds use these layers' spectral norms; aligned: the forward pass of a network that has the same norms and "
        "lines up all top singular vectors.",
        f"{measured['replicas']} networks simulated; ALLoRA's forward pass (η absent) is LoRA's at η = 1: predicted "
        f"{text(predicted['log_allora'])}, measured {_pair(measured['log_allora'], measured['log_allora_stderr'])}.",
    ]
    known = [z for z in measured["log_typical_chi_square_z"] if z is not None]
    if known:
        zs = ", ".join(f"{z:+.2f}" for z in known)
        notes.append(
            f"A second simulation, {measured['replicas_chi_square']} networks by the law of their norms: z = {zs}. "
            "Within a simulation the rows share their draws and are not independent."
        )
    if measured["cosine_square"] is not None:
        pair = _pair(1e3 * measured["cosine_square"], 1e3 * measured["cosine_square_stderr"])
        notes.append(
            f"Alignment: mean cos²(Wx, BAx) = ({pair})·10⁻³ where independent directions have 1/n = "
            f"{1e3 * predicted['cosine_square']:.3f}·10⁻³ and the aligned network 1."
        )
    if config.architecture == "relu":
        notes.append("ReLU: means are over networks that did not die (probability 2⁻ⁿ a layer).")
    if config.architecture == "prelayernorm":
        notes.append(
            "Pre-LayerNorm: growth of the root mean square, from ‖h₀‖ = √n; std: of log ‖h_L‖, whose mean is lower; "
            "the bound is additive, not a product."
        )
    return notes
