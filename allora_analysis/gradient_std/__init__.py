"""Figure 1 (§3.1): the standard deviation of a network's gradient across dropout masks, over training.

- `estimator`: the network and the linear model as functions of a mask; streaming moments over K masks, memory
  independent of K; over all masks, exact
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
    from allora_analysis.gradient_std.estimator import (
        MLP,
        LinearGradient,
        MLPGradient,
        exact_moments,
        gradient_moments,
        initialise,
        streaming_moments,
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
    "exact_moments",
    "gradient_moments",
    "initialise",
    "seed_component",
    "streaming_moments",
    "summarise",
    "worst_held_out",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("allora_analysis.gradient_std.estimator"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
