"""Zero initialisation (§3.2): the Hessian in the product Δ and in LoRA's own (A, B), of a layer and of a network.

- `product`: Eqs. (1) and (2), mended: gradient, Hessian and spectrum in Δ
- `conditioning`: κ of S over N/D (Marchenko–Pastur, Edelman's peak), of a fixed S, of the B block
- `factors`: the spectrum in (B, A) at B = 0 with multiplicities, and the inertia
- `stationarity`: which starts are critical points, and the rate and time of leaving them
- `monte_carlo`: sampled condition numbers, a dense Hessian by differences, integrated gradient flow
- `network`, with `lanczos`, `certificate`, `empirical_risk` and `batches`: both ends of a torch model's spectrum,
  matrix-free; `network_inertia`: the exact count of its negative directions; `lowrank`: a plain LoRA layer;
  `digits_mlp`: all of it on the digits. These import torch, when a name of theirs is first asked for
- `study`: `python -m allora_analysis.hessian`
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from allora_analysis.hessian.conditioning import (
    BlockConditioning,
    block_conditioning,
    fixed_gram_design,
    log_condition,
    marchenko_pastur_condition,
    square_log_condition,
)
from allora_analysis.hessian.factors import (
    FactorSpectrum,
    Inertia,
    factor_spectrum,
    factor_spectrum_multiplicities,
    inertia,
)
from allora_analysis.hessian.monte_carlo import dense_factor_hessian, sample_log_conditions, simulated_escape_time
from allora_analysis.hessian.product import product_gradient, product_hessian, product_spectrum
from allora_analysis.hessian.stationarity import (
    escape_rate,
    escape_time,
    factor_gradient,
    initial_speed_ratio,
    is_stationary,
    linearised_flow,
)

if TYPE_CHECKING:
    from allora_analysis.hessian.lowrank import LowRankLinear, add_adapters
    from allora_analysis.hessian.network import NetworkSpectrum, network_spectrum
    from allora_analysis.hessian.network_inertia import NetworkInertia, layer_gradient_ranks, negative_directions

_LAZY = {
    "LowRankLinear": "lowrank",
    "NetworkInertia": "network_inertia",
    "NetworkSpectrum": "network",
    "add_adapters": "lowrank",
    "layer_gradient_ranks": "network_inertia",
    "negative_directions": "network_inertia",
    "network_spectrum": "network",
}

__all__ = [
    "BlockConditioning",
    "FactorSpectrum",
    "Inertia",
    "LowRankLinear",
    "NetworkInertia",
    "NetworkSpectrum",
    "add_adapters",
    "block_conditioning",
    "dense_factor_hessian",
    "escape_rate",
    "escape_time",
    "factor_gradient",
    "factor_spectrum",
    "factor_spectrum_multiplicities",
    "fixed_gram_design",
    "inertia",
    "initial_speed_ratio",
    "is_stationary",
    "layer_gradient_ranks",
    "linearised_flow",
    "log_condition",
    "marchenko_pastur_condition",
    "negative_directions",
    "network_spectrum",
    "product_gradient",
    "product_hessian",
    "product_spectrum",
    "sample_log_conditions",
    "simulated_escape_time",
    "square_log_condition",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"allora_analysis.hessian.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
