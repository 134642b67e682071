"""SGD under dropout in finitely many steps (paper §3.1): exact mean and covariance of the weights at every step.

| file | what it holds |
| --- | --- |
| `process` | one step as an affine random map; the two moments' recursion |
| `output_masks`, `input_masks`, `shared_mask` | the curvature and the noise covariance of each placement |
| `step_sizes`, `stability` | learning rates, and the two limits past which moments grow |
| `recursion`, `moments` | the run, and the entry point `trajectory` |
| `stationary` | the limit t → ∞, and the averaged iterate's |
| `monte_carlo` | the simulation that the closed forms are checked against |
| `study`, `figure` | the command line's study |
"""

from allora_analysis.dropout_sgd.moments import Trajectory, trajectory
from allora_analysis.dropout_sgd.monte_carlo import Simulation, simulate
from allora_analysis.dropout_sgd.stability import StabilityLimits, stability_limits
from allora_analysis.dropout_sgd.stationary import Stationary, stationary_moments

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
