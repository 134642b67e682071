"""Zero initialization (§3.2): the Hessian in the product Δ and in LoRA's own (A, B), of a layer and of a network.

- `product`: Eqs. (1) and (2), mended; κ of S over N/D (Marchenko–Pastur, Edelman's peak), of a fixed S, of the B block;
  what of (B, A) a start and its target use, to which the flow keeps: the rest of H falls apart
- `factors`: the spectrum in (B, A) at B = 0 with multiplicities, the inertia; which starts are critical points, and the
  rate and time of leaving them; a dense Hessian by differences and integrated gradient flow beside them
- `starts`: B = 0, A = 0, both random or zero, PiSSA, orthogonal, gradient-aligned: inertia and κ without rescalings at
  the start, along the path and at the solution; the first step beside full fine-tuning's; steps to leave
- `network`, with `empirical_risk`: both ends of a torch model's spectrum, matrix-free; `network_inertia`: a plain LoRA
  layer and the exact count of its negative directions; all of it on the digits. These import torch, when a name of
  theirs is first asked for
- `study`: `python -m allora_analysis.hessian`
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from allora_analysis.hessian.factors import (
    FactorSpectrum,
    Inertia,
    dense_factor_hessian,
    escape_rate,
    escape_time,
    factor_gradient,
    factor_spectrum,
    factor_spectrum_multiplicities,
    inertia,
    initial_speed_ratio,
    is_stationary,
    simulated_escape_time,
)
from allora_analysis.hessian.product import (
    BlockConditioning,
    block_conditioning,
    fixed_gram_design,
    log_condition,
    marchenko_pastur_condition,
    product_gradient,
    product_hessian,
    product_spectrum,
    sample_log_conditions,
    square_log_condition,
)
from allora_analysis.hessian.starts import (
    STARTS,
    Stage,
    StartReport,
    dense_hessian,
    rescalings,
    restricted_spectrum,
    start_pair,
    start_report,
)

if TYPE_CHECKING:
    from allora_analysis.hessian.network import NetworkSpectrum, network_spectrum
    from allora_analysis.hessian.network_inertia import (
        LowRankLinear,
        NetworkInertia,
        add_adapters,
        layer_gradient_ranks,
        negative_directions,
    )

_LAZY = {"NetworkSpectrum": "network", "network_spectrum": "network"} | dict.fromkeys(
    ("LowRankLinear", "NetworkInertia", "add_adapters", "layer_gradient_ranks", "negative_directions"),
    "network_inertia",
)

__all__ = [
    "STARTS",
    "BlockConditioning",
    "FactorSpectrum",
    "Inertia",
    "LowRankLinear",
    "NetworkInertia",
    "NetworkSpectrum",
    "Stage",
    "StartReport",
    "add_adapters",
    "block_conditioning",
    "dense_factor_hessian",
    "dense_hessian",
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
    "log_condition",
    "marchenko_pastur_condition",
    "negative_directions",
    "network_spectrum",
    "product_gradient",
    "product_hessian",
    "product_spectrum",
    "rescalings",
    "restricted_spectrum",
    "sample_log_conditions",
    "simulated_escape_time",
    "square_log_condition",
    "start_pair",
    "start_report",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"allora_analysis.hessian.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
