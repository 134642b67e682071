"""Training an arm on the linear teacher, step by step: LoRA at l, LoRA at η·l, ALLoRA; under any optimiser.

LoRA's gradients are ∇A = BᵀG, ∇B = GAᵀ; ALLoRA's ∇A = BᵀD_dG, ∇B = D_dGAᵀ with d_i = h(‖(BA)_i‖) (§4.2). Under
"allora_adamw" ALLoRA's arm has LoRA's gradients and its factor acts on the update. Full-batch gradients: no noise.
Checked by `tests/test_escape_optimisers.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from allora_analysis.adaptors import ADAPTORS
from allora_analysis.escape.optimisers import memory, step
from allora_analysis.escape.recipe import Recipe
from allora_analysis.escape.teacher import Teacher, product_gradient

ARMS = ("lora", "lora_eta", "allora")


@dataclass(frozen=True)
class Iterate:
    """An arm after some steps."""

    a: Float[np.ndarray, "seeds r n2"]
    b: Float[np.ndarray, "seeds n1 r"]
    loss: Float[np.ndarray, " seeds"]
    norms: Float[np.ndarray, "seeds n1"]
    """‖(BA)_i‖."""


def iterate(
    teacher: Teacher, arm: str, eta: float, recipe: Recipe, adaptor: str = "inverse_sqrt", train_a: bool = True
) -> Iterator[Iterate]:
    """The iterates of one arm: first the start, then one after each of `recipe.steps` steps. Checks nothing.

    Args:
        teacher: the loss and the initial A.
        arm: "lora" (at l), "lora_eta" (at η·l) or "allora".
        eta: η.
        recipe: the optimiser.
        adaptor: ALLoRA's row factor, a name of `adaptors.ADAPTORS`.
        train_a: False keeps A as drawn (the scalar model's assumption).

    Yields:
        steps + 1 iterates.
    """
    rate = recipe.learning_rate * (eta if arm == "lora_eta" else 1.0)
    pair = teacher.a, np.zeros((len(teacher.a), teacher.cross.shape[1], teacher.a.shape[1]))
    state = memory(pair)
    for index in range(recipe.steps + 1):
        a, b = pair
        gradient, loss, norms = product_gradient(teacher, a, b)
        yield Iterate(a, b, loss, norms)
        if index == recipe.steps:
            return
        factor = ADAPTORS[adaptor](norms, eta) if arm == "allora" else None
        if factor is not None and recipe.optimiser != "allora_adamw":
            gradient, factor = factor[:, :, None] * gradient, None
        gradients = b.swapaxes(1, 2) @ gradient, gradient @ a.swapaxes(1, 2)
        if not train_a:
            gradients = np.zeros_like(a), gradients[1]
        pair, state = step(recipe, pair, gradients, state, rate, factor)
