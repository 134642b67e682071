"""§3.1 and Appendix A: how far an average over n dropout masks is from its expectation, exactly, beside the bound.

| file | object |
| --- | --- |
| `moments` | mean and Std of the loss, Std of the gradient's entries, the paper's bound Std/√n |
| `law` | E|L̄_n − E L| exactly, with method and error bar; its ratio to the bound |
| `binomial`, `enumeration`, `characteristic` | the three ways to that number |
| `monte_carlo` | its sampled twin |
| `study` | the command line |
"""

from allora_analysis.deviation.law import LIMIT, Deviation, exact_deviation, mean_absolute_deviation, ratio
from allora_analysis.deviation.moments import bound, gradient_std, loss_moments

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
