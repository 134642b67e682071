"""§3.3, the ripple effect of the scaling factor: the worst case, the network that attains it, and typical growth.

| file | object |
| --- | --- |
| `bounds.py` | the product bound, the AM–GM bound C(1 + ηm̄)^L, their derivation line by line; what attains them |
| `growth.py` | exact mean and variance of a random layer's log growth, linear and ReLU, and of a residual stack's |
| `monte_carlo.py` | a given network's forward pass; simulation: whole matrices, isotropic vectors, norms alone |
| `transformer.py` | a transformer of maps W + ηBA at real and complex η: what is a polynomial, what is bounded |
| `series.py` | its output's power series in η: coefficients, and the radius of convergence three ways |
| `mean_field.py` | streams, gradients and attention's entropy at random, predicted |
| `study.py`, `figure.py` | the study, `python -m allora_analysis.ripple`: a square stack of like layers |

All growth is in natural logarithms.
"""

from allora_analysis.ripple.bounds import (
    AlignedNetwork,
    Layer,
    Scales,
    WorstCase,
    adapter_norm_limit,
    aligned_network,
    fair_scales,
    spectral_norms,
    worst_case,
)
from allora_analysis.ripple.growth import (
    Growth,
    adapter_gain,
    fluctuation_band,
    growth_exponent,
    log_survival,
    network_growth,
    residual_square,
)
from allora_analysis.ripple.monte_carlo import Simulation, damped_branch, log_output_growth, simulate

__all__ = [
    "AlignedNetwork",
    "Growth",
    "Layer",
    "Scales",
    "Simulation",
    "WorstCase",
    "adapter_gain",
    "adapter_norm_limit",
    "aligned_network",
    "damped_branch",
    "fair_scales",
    "fluctuation_band",
    "growth_exponent",
    "log_output_growth",
    "log_survival",
    "network_growth",
    "residual_square",
    "simulate",
    "spectral_norms",
    "worst_case",
]
