"""Figure 1 (§3.1): the standard deviation of a network's gradient across dropout masks, over training.

- `mlp`: the network and the linear model as functions of a mask
- `estimator`: streaming moments over K masks, memory independent of K
- `summary`: what is reported of them; variance components of masks, minibatches and the seed; the tests of Figure 1's
  sentence, stated before the runs
- `grid`, `run`: Figure 1's runs; one run, measured at each epoch, beside the linear model's closed form; recorded, safe
  against interruption
- `study`: `python -m allora_analysis.gradient_std`

Names that need torch are loaded when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from allora_analysis.gradient_std.grid import Setting
from allora_analysis.gradient_std.summary import (
    Components,
    GradientMoments,
    SeedComponent,
    components,
    seed_component,
    summarise,
    worst_held_out,
)

if TYPE_CHECKING:
    from allora_analysis.gradient_std.estimator import gradient_moments, streaming_moments
    from allora_analysis.gradient_std.mlp import MLP, LinearGradient, MLPGradient, initialise

_LAZY = dict.fromkeys(("gradient_moments", "streaming_moments"), "estimator") | dict.fromkeys(
    ("MLP", "LinearGradient", "MLPGradient", "initialise"), "mlp"
)

__all__ = [
    "MLP",
    "Components",
    "GradientMoments",
    "LinearGradient",
    "MLPGradient",
    "SeedComponent",
    "Setting",
    "components",
    "gradient_moments",
    "initialise",
    "seed_component",
    "streaming_moments",
    "summarise",
    "worst_held_out",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"allora_analysis.gradient_std.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
