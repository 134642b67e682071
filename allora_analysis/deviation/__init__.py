"""§3.1 and Appendix A: how far an average over n dropout masks is from its expectation, exactly, beside the bound.

| file | object |
| --- | --- |
| `law` | moments of loss and gradient, the paper's bound Std/√n, E|L̄_n − E L| exactly and sampled |
| `methods` | the two ways to that number: meet in the middle, the characteristic function |
| `study` | the command line |
"""

from allora_analysis.deviation.law import (
    LIMIT,
    Deviation,
    bound,
    exact_deviation,
    gradient_std,
    loss_moments,
    mean_absolute_deviation,
    ratio,
)

__all__ = [
    "LIMIT",
    "Deviation",
    "bound",
    "exact_deviation",
    "gradient_std",
    "loss_moments",
    "mean_absolute_deviation",
    "ratio",
]
