"""SGD under dropout in finitely many steps (paper §3.1): exact mean and covariance of the weights at every step.

| file | what it holds |
| --- | --- |
| `placements` | one step as an affine random map; curvature and noise covariance of each placement of the mask |
| `stability` | the two limits past which moments grow, learning rates, and the limit t → ∞ at a stable one |
| `moments` | the run, and the entry point `trajectory` |
| `factors` | the same in LoRA's factors A and B, to first order in the learning rate: `factor_flow` |
| `online` | masks on hidden nodes, each sample seen once, in high dimension: exact equations, `online_curve` |
| `monte_carlo` | the simulation that the closed forms are checked against |
| `study` | the command line's study and its figure |
"""

from allora_analysis.dropout_sgd.factors import FactorFlow, factor_flow
from allora_analysis.dropout_sgd.moments import Trajectory, trajectory
from allora_analysis.dropout_sgd.monte_carlo import Simulation, simulate, simulate_factors
from allora_analysis.dropout_sgd.online import Online, online_curve
from allora_analysis.dropout_sgd.stability import StabilityLimits, Stationary, stability_limits, stationary_moments

__all__ = [
    "FactorFlow",
    "Online",
    "Simulation",
    "StabilityLimits",
    "Stationary",
    "Trajectory",
    "factor_flow",
    "online_curve",
    "simulate",
    "simulate_factors",
    "stability_limits",
    "stationary_moments",
    "trajectory",
]
