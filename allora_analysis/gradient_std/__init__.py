"""Figure 1 (§3.1): the standard deviation of a network's gradient across dropout masks, over training.

- `masks`, `mlp`, `linear`: masks from random bytes; the network and the linear model as functions of a mask
- `moments`, `estimator`, `entries`: streaming moments over K masks, memory independent of K
- `enumeration`: over all masks, exact; `oracle`: the linear model's closed form beside the estimator, in every run
- `summary`, `decomposition`, `seeds`: what is reported of them; variance components of masks, minibatches and the seed
- `setting`, `training`, `measurement`, `run`: one run, measured at each epoch, recorded, safe against interruption
- `grid`, `trends`: Figure 1's runs, and the tests of its sentence, stated before them
- `study`, `figure`: `python -m allora_analysis.gradient_std`

Names that need torch are loaded when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from allora_analysis.gradient_std.decomposition import Components, components
from allora_analysis.gradient_std.entries import GradientMoments
from allora_analysis.gradient_std.seeds import SeedComponent, seed_component
from allora_analysis.gradient_std.setting import Setting
from allora_analysis.gradient_std.summary import summarise, worst_held_out

if TYPE_CHECKING:
    from allora_analysis.gradient_std.enumeration import exact_moments
    from allora_analysis.gradient_std.estimator import gradient_moments, streaming_moments
    from allora_analysis.gradient_std.linear import LinearGradient
    from allora_analysis.gradient_std.mlp import MLP, MLPGradient, initialise

_LAZY = {
    "LinearGradient": "linear",
    "MLP": "mlp",
    "MLPGradient": "mlp",
    "exact_moments": "enumeration",
    "gradient_moments": "estimator",
    "initialise": "mlp",
    "streaming_moments": "estimator",
}

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
    if name in _LAZY:
        return getattr(import_module(f"allora_analysis.gradient_std.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
