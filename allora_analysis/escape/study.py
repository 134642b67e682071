"""The showcase of §4.2's escape: what LoRA at l, LoRA at η·l and ALLoRA do from B = 0 under each optimiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from allora_analysis import validation
from allora_analysis.adaptors import ADAPTORS
from allora_analysis.escape.drift import Drift, drift
from allora_analysis.escape.figure import plot
from allora_analysis.escape.recipe import OPTIMISERS, Recipe, check
from allora_analysis.escape.scalar import usable_eta
from allora_analysis.escape.summary import measure, predict, scalar_part, table
from allora_analysis.escape.teacher import Teacher, linear_teacher
from allora_analysis.study import Result, Study, sweep
from allora_analysis.validation import ArgumentError

LEARNING_RATES = {"sgd": 0.02, "momentum": 0.002, "adamw": 0.005, "allora_adamw": 0.005}
OPTIONS = ("momentum", "betas", "eps", "weight_decay", "max_grad_norm", "warmup", "schedule", "steps")


@dataclass(frozen=True)
class Config:
    """Escape from B = 0 (§4.2) on a linear teacher: LoRA at l, LoRA at η·l and ALLoRA under each optimiser.

    Mean row norms ‖(BA)_i‖ by step, beside the scalar model's closed form.
    """

    eta: float = 2.0
    """η, the row factor at BA = 0, above 0; the paper's η² = 4."""
    optimiser: tuple[Literal["sgd", "momentum", "adamw", "allora_adamw"], ...] = OPTIMISERS
    """Optimisers; allora_adamw is AdamW with ALLoRA's factor on its update (LoRA's arms there are AdamW's)."""
    learning_rate: float | None = None
    """l, above 0, for all; None: 0.02 for sgd, 0.002 for momentum, 0.005 for the others."""
    steps: int = 300
    """Steps of each run."""
    adaptor: Literal["inverse_sqrt", "inverse", "exponential", "constant"] = "inverse_sqrt"
    """ALLoRA's row factor as a function of ‖(BA)_i‖; the paper's is inverse_sqrt."""
    levels: tuple[float, ...] = (0.1, 0.5)
    """Row norms to reach, as parts of the teacher's mean row norm, above 0."""
    max_grad_norm: float | None = None
    """Clip at this norm of the gradients of A and B together; None: no clipping. transformers clips at 1."""
    momentum: float = 0.9
    """Momentum's μ, in [0, 1)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's β₁ and β₂, each in [0, 1)."""
    eps: float = 1e-8
    """AdamW's ε, above 0."""
    weight_decay: float = 0.0
    """λ, 0 or above: part of the gradient in sgd and momentum, decoupled in AdamW."""
    warmup: int = 0
    """Steps over which the learning rate rises linearly from 0, below the number of steps."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """The learning rate after warm-up: constant, or falling to 0 at the last step."""
    n_outputs: int = 16
    """n₁, rows of B."""
    n_inputs: int = 16
    """n₂, columns of A."""
    rank: int = 4
    """Rank r of the adapter, at most n₁ and n₂."""
    teacher_rank: int = 4
    """Rank of the teacher T, at most n₁ and n₂."""
    samples: int = 64
    """N, inputs."""
    noise: float = 0.0
    """Standard deviation of the noise on the targets, 0 or above."""
    seeds: int = 8
    """Teachers, inputs and initial A's to average over, at least 2."""
    seed: int = 0
    """Seed of every draw."""


def recipes(config: Config) -> list[Recipe]:
    """Refuse a config that makes no sense; its optimisers.

    Args:
        config: the config.

    Returns:
        A recipe for each optimiser, in the config's order, each once.

    Raises:
        ArgumentError: which flag, what was received, what would work.
    """
    usable_eta(config.eta)
    validation.choice("adaptor", config.adaptor, ADAPTORS)
    validation.count("seeds", config.seeds, 2)
    for level in validation.several("levels", config.levels):
        validation.positive("levels", level)
    options = {name: getattr(config, name) for name in OPTIONS}
    names = [
        validation.choice("optimiser", name, OPTIMISERS) for name in validation.several("optimiser", config.optimiser)
    ]
    rates = LEARNING_RATES if config.learning_rate is None else dict.fromkeys(names, config.learning_rate)
    return [check(Recipe(name, rates[name], **options)) for name in dict.fromkeys(names)]


def run(config: Config) -> Result:
    """Train every arm under every optimiser, from the same starts.

    Args:
        config: the config.

    Returns:
        By optimiser and arm, what `summary.predict` and `summary.measure` say; "scalar": the closed form beside its
        simulation; "tradeoff": what a fixed rate gives up.
    """
    chosen = recipes(config)
    sizes = ("seeds", "seed", "n_outputs", "n_inputs", "samples", "rank", "teacher_rank", "noise")
    teacher = linear_teacher(**{name: getattr(config, name) for name in sizes})
    drifts, interrupted = sweep(chosen, lambda recipe: _train(config, teacher, recipe), "optimisers")
    done = list(zip(chosen, drifts, strict=False))
    scalar = scalar_part(config, teacher)
    predicted = {recipe.optimiser: predict(config, teacher, recipe) for recipe, _ in done}
    measured = {recipe.optimiser: measure(config, teacher, recipe, drift) for recipe, drift in done}
    return Result(predicted | scalar.predicted, measured | scalar.measured, interrupted)


def _train(config: Config, teacher: Teacher, recipe: Recipe) -> Drift:
    options = {name: getattr(config, name) for name in OPTIONS if name != "steps"}
    with np.errstate(over="ignore", invalid="ignore"):
        result = drift(
            recipe.optimiser,
            config.eta,
            recipe.learning_rate,
            config.steps,
            teacher=teacher,
            adaptor=config.adaptor,
            **options,
        )
    if not np.isfinite(result.losses).all():
        raise ArgumentError(
            f"learning_rate {recipe.learning_rate:g}: training diverged under {recipe.optimiser}; "
            "a smaller one, or fewer steps, would work"
        )
    return result


STUDY = Study("escape", Config, run, table, plot)
