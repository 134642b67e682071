"""The showcase of §3.3: how far the worst case of a scaling factor η lies from what a network at random does.

In a square stack of like layers, of three architectures: the bound, the network that attains it, typical growth.
Checked by `tests/test_ripple_study.py`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from allora_analysis import validation
from allora_analysis.ripple.bounds import (
    ARCHITECTURES,
    Layer,
    Scales,
    WorstCase,
    aligned,
    bounds_of,
    fair_scales,
    norms_of,
    residual_bound_of,
)
from allora_analysis.ripple.growth import (
    Growth,
    band_of,
    check_scales,
    gain,
    layer_growth,
    log_survival,
    residual_log,
    residual_root,
)
from allora_analysis.ripple.monte_carlo import METHODS, forward_growth, simulated
from allora_analysis.study import Result, Study, Table, sweep, text

GROUP = {"matrices": 4, "isotropy": 64, "chi_square": 4096}  # replicas between two updates of the progress bar
MATRIX_BUDGET = 3e8  # Gaussian numbers that "auto" draws before it turns to the norms' law
VECTOR_BUDGET = 2e8  # likewise for ASF-LoRA's vectors beside "chi_square"
NORM_BUDGET = 2e7  # likewise for the many networks by the norms' law beside "matrices" and "isotropy"


@dataclass(frozen=True)
class Config:
    """The ripple effect of the scaling factor η (§3.3): worst case, the network that attains it, and typical growth.

    Growth is log(‖f_L(x)‖/‖x‖), natural logarithm.
    """

    depth: int = 48
    """Number of layers L."""
    width: int = 256
    """Width n of every layer."""
    rank: int = 8
    """Rank r of every adapter, at most the width."""
    eta: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    """Scaling factors η = α/r, each 0 or above."""
    w_std: float | None = None
    """Standard deviation of W's entries; None: 1/√n (√(2/n) for relu), so that without adapters nothing grows."""
    a_std: float | None = None
    """Standard deviation of A's entries; None: 1/√n."""
    b_std: float | None = None
    """Standard deviation of B's entries; None: such that ‖BA‖ ≈ ‖W‖ (spectral norms), m ≈ 1."""
    architecture: Literal["linear", "relu", "prelayernorm"] = "linear"
    """The paper's linear stack, ReLU after every layer, or a pre-LayerNorm residual stack."""
    replicas: int = 48
    """Random networks to simulate, at least 2."""
    seed: int = 0
    """Seed of every draw."""
    method: Literal["auto", "matrices", "isotropy", "chi_square"] = "auto"
    """Simulate with whole matrices, or by the law of the vectors or of the norms; auto: matrices where affordable."""


def _check(config: Config) -> Scales:
    """Refuse a config that makes no sense; resolve its scales."""
    validation.count("depth", config.depth)
    validation.choice("architecture", config.architecture, ARCHITECTURES)
    width = validation.count("width", config.width, 2 if config.architecture == "prelayernorm" else 1)
    validation.adapter_rank(config.rank, width, width)
    validation.choice("method", config.method, ("auto", *METHODS))
    validation.count("replicas", config.replicas, 2)
    validation.count("seed", config.seed, 0)
    stds = config.w_std, config.a_std, config.b_std
    scales = fair_scales(width, config.rank, config.architecture, *stds)
    for eta in validation.several("eta", config.eta):
        check_scales(eta, *scales)
    _check_sizes(config, scales)
    return scales


def _check_sizes(config: Config, scales: Scales) -> None:
    # Of matrices as they are drawn, with a margin for entries above their standard deviation.
    validation.fits("depth", 2.0 * config.depth, f"the norms of {config.depth} layers")
    w, a, b = (64 * math.sqrt(config.width) * std for std in scales)
    eta = max(config.eta)
    for name, size in {"w_std": w, "a_std": a, "b_std": b, "eta·a_std·b_std": eta * a * b}.items():
        if math.isinf(size):
            raise validation.ArgumentError(
                f"{name}: a layer leaves double precision's range (eta up to {eta:g}, w_std {scales.w_std:g}, a_std "
                f"{scales.a_std:g}, b_std {scales.b_std:g}); give a smaller one"
            )


Norms = tuple[np.ndarray, np.ndarray]


def _period(depth: int, width: int) -> int:
    """How many distinct layers a worst case has; a deeper stack repeats them (an SVD each costs n³)."""
    return min(depth, int(np.clip(2e9 / width**3, 4, 64)))


def drawn_norms(depth: int, width: int, rank: int, scales: Scales, generator: np.random.Generator) -> Norms:
    """Spectral norms of L drawn layers, repeated after `_period`: between layers they vary by about n^{−2/3} only."""

    def layer() -> Layer:
        shapes = ((width, width), (width, rank), (rank, width))
        stds = scales.w_std, scales.b_std, scales.a_std
        return Layer(*(std * generator.standard_normal(shape) for std, shape in zip(stds, shapes, strict=True)))

    pairs = [norms_of([layer()]) for _ in range(_period(depth, width))]
    weights, adapters = (np.resize(np.concatenate(column), depth) for column in zip(*pairs, strict=True))
    return weights, adapters


def stack_bound(norms: Norms, eta: float, width: int, architecture: str) -> WorstCase:
    """`worst_case`, or for "prelayernorm" the additive bound in its place (both fields: no AM–GM step there)."""
    if architecture != "prelayernorm":
        return bounds_of(*norms, eta)
    bound = residual_bound_of(*norms, eta)
    ratio = float(np.mean(norms[1] / norms[0])) if norms[0].min() > 0 else np.inf
    return WorstCase(bound, bound, residual_bound_of(*norms, 0.0), ratio)


def aligned_growth(
    norms: Norms, rank: int, etas: Sequence[float], width: int, architecture: str, generator: np.random.Generator
) -> Float[np.ndarray, " etas"]:
    """Forward pass through an aligned network of these norms: one log growth per η, to be equal to the bound."""
    # A deep stack repeats `_period` layers. Its direction comes back to x after each, so every period adds the same.
    depth = len(norms[0])
    layers = _period(depth, width)
    weights, adapters = (values[:layers] for values in norms)
    widths = (width,) * (layers + 1)
    network = aligned(widths, rank, weights, adapters, generator, architecture, closed=True)

    def growth(count: int) -> np.ndarray:
        if count == 0:
            return np.zeros(len(etas))
        x = np.sqrt(width) * network.x
        return forward_growth(network.layers[:count], x, np.array(etas), False, architecture)

    whole, rest = divmod(depth, layers)
    if architecture == "prelayernorm":  # what a layer adds to the length does not depend on the length
        return np.log1p(whole * np.expm1(growth(layers)) + np.expm1(growth(rest)))
    return whole * growth(layers) + growth(rest)


def _squares(eta: float, scales: Scales) -> tuple[float, float]:
    # s_W² and η²s_A²s_B².
    return scales.w_std**2, (eta * scales.a_std) ** 2 * scales.b_std**2


def typical_growth(depth: int, width: int, rank: int, eta: float, scales: Scales, architecture: str) -> Growth:
    """Mean and variance of log(‖f_L‖/‖x‖); for "prelayernorm" of the root mean square's growth (`residual_root`)."""
    if architecture == "prelayernorm":
        return residual_root(depth, width, rank, *_squares(eta, scales))
    layer = layer_growth(width, rank, eta, scales, architecture)
    return Growth(depth * layer.mean, depth * layer.variance)


def typical_band(
    depth: int, width: int, rank: int, eta: float, scales: Scales, architecture: str
) -> tuple[float, float]:
    """What holds 95 % of the networks, by `fluctuation_band` about the mean of the logarithm."""
    # For "prelayernorm" that mean is below the root mean square's growth. A normal law stands for the logarithm's:
    # there, at L = r = 1 and η = 3, the band holds 97 %. Arguments as in `typical_growth`. Checked by
    # `tests/test_ripple_study.py` and `tests/test_ripple_monte_carlo.py`.
    if architecture == "prelayernorm":
        return band_of(residual_log(depth, width, rank, *_squares(eta, scales)))
    return band_of(typical_growth(depth, width, rank, eta, scales, architecture))


def typical_adapter_share(depth: int, width: int, rank: int, eta: float, scales: Scales, architecture: str) -> float:
    """What η adds to typical log growth over η = 0, accurate however small; needs w_std > 0."""
    if architecture != "prelayernorm":
        return depth * gain(rank, eta, scales)
    w2, c = _squares(eta, scales)
    return 0.5 * float(np.log1p(depth * width * c * rank / (1 + depth * width * w2)))


def bound_adapter_share(norms: Norms, eta: float, architecture: str) -> float:
    """What η adds to the bound over η = 0, Σ log(1 + ηm_l) (additive for "prelayernorm"); needs ‖W_l‖ > 0."""
    weights, adapters = norms
    if architecture != "prelayernorm":
        return float(np.log1p(eta * adapters / weights).sum())
    return float(np.log1p(eta * adapters.sum() / (1 + weights.sum())))


def run(config: Config) -> Result:
    """Bounds from drawn layers' norms, an aligned network with these norms, typical growth predicted and simulated."""
    scales = _check(config)
    norms = drawn_norms(config.depth, config.width, config.rank, scales, np.random.default_rng([config.seed, 1]))
    predicted = _predicted(config, scales, norms)
    generator = np.random.default_rng([config.seed, 2])
    aligned = aligned_growth(norms, config.rank, config.eta, config.width, config.architecture, generator)
    parts, interrupted = sweep(_tasks(config), lambda task: _simulate(config, scales, *task), "simulated networks")
    measured = {
        "mean_ratio": float(np.mean(norms[1] / norms[0])) if norms[0].min() > 0 else None,
        "mean_weight_norm": float(norms[0].mean()),
        "log_aligned": aligned,
        **_summarise(config, predicted, parts),
    }
    return Result(predicted, measured, interrupted)


def _predicted(config: Config, scales: Scales, norms: Norms) -> dict[str, Any]:
    shape = config.depth, config.width, config.rank
    bounds = [stack_bound(norms, eta, config.width, config.architecture) for eta in config.eta]
    growths = [typical_growth(*shape, eta, scales, config.architecture) for eta in config.eta]
    shares = scales.w_std > 0
    return {
        "eta": config.eta,
        **scales._asdict(),
        "log_bound": [bound.log_bound for bound in bounds],
        "log_amgm_bound": [bound.log_amgm_bound for bound in bounds],
        "log_printed_rate": [config.depth * float(np.log1p(eta)) for eta in config.eta],
        "log_typical": [growth.mean for growth in growths],
        "log_typical_std": [growth.variance**0.5 for growth in growths],
        "log_bound_adapter": [
            bound_adapter_share(norms, eta, config.architecture) if shares else None for eta in config.eta
        ],
        "log_typical_adapter": [
            typical_adapter_share(*shape, eta, scales, config.architecture) if shares else None for eta in config.eta
        ],
        "log_allora": typical_growth(*shape, 1.0, scales, config.architecture).mean
        if shares or scales.a_std * scales.b_std > 0
        else None,
        "cosine_square": 1 / config.width,
        "survival": float(np.exp(log_survival(*shape[:2]))) if config.architecture == "relu" else 1.0,
    }


def chosen_method(config: Config) -> str:
    """The simulation that "auto" stands for."""
    if config.method != "auto":
        return config.method
    cost = config.replicas * config.depth * config.width * (config.width + 2 * config.rank)
    return "matrices" if cost <= MATRIX_BUDGET else "chi_square"


def _tasks(config: Config) -> list[tuple[int, str, str, int]]:
    # (stream, method, columns, replicas) of each piece of simulation.
    method = chosen_method(config)
    columns = "lora" if method == "chi_square" else "all"
    size = GROUP[method]
    counts = [min(size, config.replicas - start) for start in range(0, config.replicas, size)]
    tasks = [(index, method, columns, count) for index, count in enumerate(counts)]
    if method == "chi_square":
        affordable = int(VECTOR_BUDGET / (config.depth * config.width * len(config.eta)))
        return [*tasks, (len(tasks), "isotropy", "asf", min(config.replicas, max(4, affordable), 64))]
    # A second simulator that costs next to nothing: many more networks, so a sharper test of the prediction.
    affordable = int(NORM_BUDGET / (config.depth * len(config.eta)))
    return [*tasks, (len(tasks), "chi_square", "lora", int(np.clip(affordable, 16, 4096)))]


def _simulate(config: Config, scales: Scales, stream: int, method: str, columns: str, replicas: int) -> Any:
    etas: Sequence[float] = config.eta
    lora, asf = [(eta, False) for eta in etas], [(eta, True) for eta in etas]
    # ALLoRA's forward pass has no scaling factor: LoRA's at η = 1.
    chosen = {"all": [*lora, *asf, (1.0, False)], "lora": [*lora, (1.0, False)], "asf": asf}[columns]
    drawn = simulated(
        (config.width,) * (config.depth + 1),
        config.rank,
        np.array([eta for eta, _ in chosen]),
        scales,
        replicas,
        np.random.default_rng([config.seed, 3, stream]),
        config.architecture,
        np.array([damped for _, damped in chosen]),
        method,
    )
    return method, chosen, drawn


def estimate(
    growth: np.ndarray, predicted: float | None, architecture: str
) -> tuple[float | None, float | None, float | None]:
    """Mean log growth, its standard error, and z against the prediction; over networks that did not die."""
    # For "prelayernorm", whose closed form is for the mean *square*: the growth of the root mean square, its standard
    # error by the delta method and z of the mean square itself.
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


def _summarise(config: Any, predicted: dict[str, Any], parts: Sequence[Any]) -> dict[str, Any]:
    """The measured numbers, lists over η."""
    # `log_typical` (± `log_typical_stderr`, `log_typical_z`): LoRA; `log_asf`: ASF-LoRA's branch from ‖x‖ = √n;
    # `log_allora`: ALLoRA's forward pass; `cosine_square`: mean cos²(Wu, BAu) over layers; `survival`: the share of
    # networks alive (ReLU). `log_typical_chi_square`: as `log_typical`, from many networks by the norms' law, where the
    # main simulation was another; `replicas` counts those of the main one.
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
    """One row per η: bounds, aligned network, typical growth predicted and measured, the adapters' share, ASF-LoRA."""
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
    return Table(title, columns, rows, _notes(config, predicted, measured), finding=_finding(config, predicted))


def _finding(config: Any, predicted: Any) -> str:
    ends = (round(max(predicted[name]) / math.log(10), 1) + 0.0 for name in ("log_bound", "log_typical"))
    worst, typical = (f"10^{end:.1f} times as long" for end in ends)
    where = f"At η = {text(max(config.eta))} the output of {config.depth} layers is {worst} as the input"
    return f"{where} in the worst case, {typical} in a typical network."


def _notes(config: Any, predicted: Any, measured: Any) -> list[str]:
    stds = ", ".join(f"{name} = {predicted[name]:.4g}" for name in ("w_std", "a_std", "b_std"))
    notes = [
        f"Drawn layers: {stds}; mean ‖W_l‖ = {_decimal(measured['mean_weight_norm'])}, "
        f"m̄ = {text(measured['mean_ratio'])}. Unless given: W neither grows nor shrinks a typical x, and m ≈ 1.",
        "Bounds are of these layers' spectral norms: Π(‖W_l‖ + η‖B_lA_l‖), by AM–GM (1 + ηm̄)^L Π‖W_l‖; aligned: the "
        "forward pass of a network that has the same norms and lines up all top singular vectors; η's share: over η = "
        "0; z: measured minus typical in standard errors. Divide by log 10 = 2.303 for powers of ten.",
        f"{measured['replicas']} networks simulated; ALLoRA's forward pass (η absent) is LoRA's at η = 1: predicted "
        f"{text(predicted['log_allora'])}, measured {_pair(measured['log_allora'], measured['log_allora_stderr'])}.",
    ]
    zs = ", ".join(f"{z:+.2f}" for z in measured["log_typical_chi_square_z"] if z is not None)
    if zs:
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


def plot(config: Config, result: Result) -> Any:
    """Growth against η on one logarithmic axis; what η adds to the bound and to typical growth."""
    from allora_analysis.ripple import figure

    return figure.plot(config, result)


STUDY = Study(
    "ripple",
    Config,
    run,
    table,
    plot,
    "--eta 0.25 0.5 1 2 4 --figure ripple.png",
    z=lambda result: result.measured["log_typical_z"],
)
