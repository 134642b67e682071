"""§3.3, the ripple effect of the scaling factor: the worst case, the network that attains it, and typical growth.

| file | object |
| --- | --- |
| `bounds.py` | the product bound, the AM–GM bound C(1 + ηm̄)^L, their derivation line by line |
| `aligned.py` | the network that attains them |
| `growth.py` | exact mean and variance of a random layer's log growth, linear and ReLU; fluctuation band |
| `residual.py` | the pre-LayerNorm residual stack, whose square grows additively |
| `forward.py` | one layer's forward pass without over- or underflow; ASF-LoRA's damped branch |
| `monte_carlo.py`, `chi_square.py` | simulation: whole matrices, isotropic vectors, norms alone |
| `scales.py` | standard deviations that make the comparison fair |
| `stack.py`, `study.py`, `summary.py`, `figure.py` | the study: `python -m allora_analysis.ripple` |

All growth is in natural logarithms.
"""

from allora_analysis.ripple.aligned import AlignedNetwork, aligned_network
from allora_analysis.ripple.bounds import Layer, WorstCase, residual_bound, spectral_norms, worst_case
from allora_analysis.ripple.forward import damped_branch, log_output_growth
from allora_analysis.ripple.growth import (
    Growth,
    adapter_gain,
    fluctuation_band,
    growth_exponent,
    log_survival,
    network_growth,
)
from allora_analysis.ripple.monte_carlo import Simulation, simulate
from allora_analysis.ripple.residual import residual_growth, residual_log_growth, residual_square
from allora_analysis.ripple.scales import adapter_norm_limit, fair_scales

__all__ = [
    "AlignedNetwork",
    "Growth",
    "Layer",
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
    "residual_bound",
    "residual_growth",
    "residual_log_growth",
    "residual_square",
    "simulate",
    "spectral_norms",
    "worst_case",
]
