"""The showcase of §3.3: how far the worst case of a scaling factor η lies from what a network at random does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from allora_analysis import validation
from allora_analysis.ripple import stack
from allora_analysis.ripple.figure import plot
from allora_analysis.ripple.forward import ARCHITECTURES
from allora_analysis.ripple.growth import check_scales, log_survival
from allora_analysis.ripple.monte_carlo import METHODS, simulate
from allora_analysis.ripple.scales import Scales, fair_scales
from allora_analysis.ripple.summary import summarise, table
from allora_analysis.study import Result, Study, sweep

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


def check(config: Config) -> Scales:
    """Refuse a config that makes no sense; resolve its scales.

    Args:
        config: the config.

    Returns:
        The three standard deviations.
    """
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
    return scales


def run(config: Config) -> Result:
    """Bounds from drawn layers' norms, an aligned network with these norms, typical growth predicted and simulated.

    Args:
        config: the config.

    Returns:
        Lists over η, in nats; `summary.summarise` says what each is.
    """
    scales = check(config)
    norms = stack.drawn_norms(config.depth, config.width, config.rank, scales, np.random.default_rng([config.seed, 1]))
    predicted = _predicted(config, scales, norms)
    generator = np.random.default_rng([config.seed, 2])
    aligned = stack.aligned_growth(norms, config.rank, config.eta, config.width, config.architecture, generator)
    parts, interrupted = sweep(_tasks(config), lambda task: _simulate(config, scales, *task), "simulated networks")
    measured = {
        "mean_ratio": float(np.mean(norms[1] / norms[0])) if norms[0].min() > 0 else None,
        "mean_weight_norm": float(norms[0].mean()),
        "log_aligned": aligned,
        **summarise(config, predicted, parts),
    }
    return Result(predicted, measured, interrupted)


def _predicted(config: Config, scales: Scales, norms: stack.Norms) -> dict[str, Any]:
    shape = config.depth, config.width, config.rank
    bounds = [stack.stack_bound(norms, eta, config.width, config.architecture) for eta in config.eta]
    growths = [stack.typical_growth(*shape, eta, scales, config.architecture) for eta in config.eta]
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
            stack.bound_adapter_share(norms, eta, config.architecture) if shares else None for eta in config.eta
        ],
        "log_typical_adapter": [
            stack.typical_adapter_share(*shape, eta, scales, config.architecture) if shares else None
            for eta in config.eta
        ],
        "log_allora": stack.typical_growth(*shape, 1.0, scales, config.architecture).mean
        if shares or scales.a_std * scales.b_std > 0
        else None,
        "cosine_square": 1 / config.width,
        "survival": float(np.exp(log_survival(*shape[:2]))) if config.architecture == "relu" else 1.0,
    }


def chosen_method(config: Config) -> str:
    """The simulation that "auto" stands for.

    Args:
        config: the config.

    Returns:
        "matrices" up to the budget, then "chi_square"; or what the config names.
    """
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
    simulation = simulate(
        (config.width,) * (config.depth + 1),
        config.rank,
        [eta for eta, _ in chosen],
        *scales,
        replicas=replicas,
        generator=np.random.default_rng([config.seed, 3, stream]),
        architecture=config.architecture,
        damped=[damped for _, damped in chosen],
        method=method,
    )
    return method, chosen, simulation


STUDY = Study("ripple", Config, run, table, plot)
