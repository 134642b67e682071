"""SGD under dropout in finitely many steps (paper §3.1): exact mean and covariance of the weights at every step.

| file | what it holds |
| --- | --- |
| `process` | one step as an affine random map; the two moments' recursion |
| `placements` | the curvature and the noise covariance of each placement of the mask |
| `stability` | the two limits past which moments grow, learning rates, and the limit t → ∞ at a stable one |
| `moments` | the run, and the entry point `trajectory` |
| `monte_carlo` | the simulation that the closed forms are checked against |
| `study` | the command line's study and its figure |
"""

from allora_analysis.dropout_sgd.moments import Trajectory, trajectory
from allora_analysis.dropout_sgd.monte_carlo import Simulation, simulate
from allora_analysis.dropout_sgd.stability import (
    StabilityLimits,
    Stationary,
    stability_limits,
    stationary_moments,
)

__all__ = [
    "Simulation",
    "StabilityLimits",
    "Stationary",
    "Trajectory",
    "simulate",
    "stability_limits",
    "stationary_moments",
    "trajectory",
]
