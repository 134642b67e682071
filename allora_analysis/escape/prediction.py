"""What the scalar model says of the linear teacher, beside what training did: by optimizer and arm, for the study.

The scalar model takes the gradient at B = 0 and the initial A as they are, for good. Row i of BA then grows along
C_iAᵀA with g_i = ‖C_iAᵀA‖ under SGD and, Adam making every entry of B's gradient ±1, g_i = ‖sign(C_iAᵀ)A‖ under
AdamW. Under AdamW ALLoRA's factor cancels, up to the second moment's memory of earlier, larger factors, which makes
ALLoRA a little slower than LoRA at l and vanishes with the learning rate at a fixed time: its prediction is LoRA's at
l. Under "allora_adamw" nothing cancels. Left out: A's training (under AdamW A moves at the full rate from the second
step on, however small its gradient), the residual's decline, decay, and, for SGD, clipping beyond the first step.
Checked by `tests/test_escape_study.py` and `tests/test_escape_teacher.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from allora_analysis.escape.first_step import clipped_step
from allora_analysis.escape.optimizers import Recipe, rate_factor
from allora_analysis.escape.scalar import levels, tradeoff, trajectory
from allora_analysis.escape.teacher import ARMS, Drift, Teacher, constant_gradient, iterate
from allora_analysis.study import Result

LEAST = 1e-100  # a norm to clip at far below `CLIP_EPS`: every arm is clipped, and no ratio depends on it
SCALAR_STEPS = 400
SMALLEST = 1e-150  # norms: the squares of smaller ones lose digits
SCALAR_REACH = 4.0  # the scalar panel's last time, in units in which LoRA at η·l reaches the teacher's row norm


def clock(recipe: Recipe) -> Float[np.ndarray, " times"]:
    """The time after each step: what the optimizer moves a parameter by under the constant gradient −1."""
    rates = recipe.learning_rate * np.array([rate_factor(recipe, index) for index in range(recipe.steps)])
    if recipe.optimizer == "momentum":
        rates *= (1 - recipe.momentum ** np.arange(1, recipe.steps + 1)) / (1 - recipe.momentum)
    return np.concatenate([[0.0], np.cumsum(rates)])


def row_gradients(teacher: Teacher, optimizer: str) -> Float[np.ndarray, "seeds n1"]:
    """g_i, the speed at which row i of BA leaves 0 per unit of time under LoRA at l."""
    gradient = teacher.cross @ teacher.a.swapaxes(1, 2)
    if optimizer in ("adamw", "allora_adamw"):
        gradient = np.sign(gradient)
    return np.linalg.norm(gradient @ teacher.a, axis=-1)


def _scalar_rule(arm: str, optimizer: str, eta: float, adaptor: str) -> tuple[float, str]:
    """The scalar model's η and adaptor for an arm."""
    if arm == "allora" and optimizer != "adamw":
        return eta, adaptor
    return (eta if arm == "lora_eta" else 1.0), "constant"


def _predicted_norms(
    teacher: Teacher, arm: str, eta: float, recipe: Recipe, adaptor: str
) -> Float[np.ndarray, "seeds times"]:
    """Mean over rows of the scalar model's m_i by step."""
    times, rule = clock(recipe), _scalar_rule(arm, recipe.optimizer, eta, adaptor)
    of_seeds = row_gradients(teacher, recipe.optimizer)
    return np.stack([levels(rows[:, None] * times, *rule).mean(axis=0) for rows in of_seeds])


def first_ratio(teacher: Teacher, arm: str, eta: float, recipe: Recipe) -> Float[np.ndarray, " seeds"]:
    """‖BA‖ of an arm over that of LoRA at l after the first step whose rate is not 0."""
    if recipe.optimizer in ("adamw", "allora_adamw"):
        fast = arm == "lora_eta" or (arm == "allora" and recipe.optimizer == "allora_adamw")
        return np.full(len(teacher.a), eta if fast else 1.0)
    sizes = np.linalg.norm(teacher.cross @ teacher.a.swapaxes(1, 2), axis=(1, 2))
    limit = None if recipe.max_grad_norm is None else max(recipe.max_grad_norm, LEAST)
    steps = [clipped_step(float(size), eta, limit) for size in sizes]
    return np.array([getattr(step, arm) / step.lora for step in steps])


def crossing(norms: Float[np.ndarray, "seeds times"], level: Float[np.ndarray, " seeds"]) -> list[float | None]:
    """The step, interpolated, at which each seed's mean row norm first reaches its level."""
    found: list[float | None] = []
    for path, goal in zip(norms, level, strict=True):
        above = np.flatnonzero(path >= goal)
        if not above.size:
            found.append(None)
            continue
        last = int(above[0])
        found.append(float(last - (path[last] - goal) / (path[last] - path[last - 1])) if last else 0.0)
    return found


def _mean(values: list[float | None] | np.ndarray) -> tuple[float | None, float | None]:
    # Mean and standard error over seeds; None as soon as one seed has none.
    if any(value is None for value in values):
        return None, None
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()), float(array.std(ddof=1) / np.sqrt(len(array)))


def _steps(norms: np.ndarray, teacher: Teacher, config: Any) -> dict[str, list[float | None]]:
    goals = teacher.target.mean(axis=1)
    pairs = [_mean(crossing(norms, part * goals)) for part in config.levels]
    return {"steps": [mean for mean, _ in pairs], "steps_stderr": [error for _, error in pairs]}


def predict(config: Any, teacher: Teacher, recipe: Recipe) -> dict[str, Any]:
    """The scalar model's account of each arm under one optimizer."""
    # `first_ratio` is exact but for O(ε/|g|) and weight decay. `steps` to each level and `norms` by step are None under
    # clipped SGD, which the scalar model does not treat.
    clipped = recipe.max_grad_norm is not None and recipe.optimizer in ("sgd", "momentum")
    found: dict[str, Any] = {"learning_rate": recipe.learning_rate}
    for arm in ARMS:
        ratio = _mean(first_ratio(teacher, arm, config.eta, recipe))[0]
        norms = None if clipped else _predicted_norms(teacher, arm, config.eta, recipe, config.adaptor)
        none = [None] * len(config.levels)
        steps = none if norms is None else _steps(norms, teacher, config)["steps"]
        found[arm] = {"first_ratio": ratio, "steps": steps, "norms": None if norms is None else norms.mean(axis=0)}
    return found


def measure(config: Any, teacher: Teacher, recipe: Recipe, drift: Drift) -> dict[str, Any]:
    """What training did under one optimizer, means over seeds."""
    # `first_ratio`: ‖BA‖ over LoRA's at l after the first step whose rate is not 0; None where a norm is below 1e-150.
    # `steps`: to reach each level; None if a seed does not. `norms`, `max_norms`: mean and largest ‖(BA)_i‖.
    # `final_loss`: over the loss at B = 0. `to_…`: ALLoRA's relative distances of BA, `parameters_to_…`: of the way
    # that A and B have traveled.
    first = 2 if recipe.warmup else 1
    found: dict[str, Any] = {"target": float(teacher.target.mean())}
    for index, arm in enumerate(ARMS):
        norms, loss = drift.norms[index], drift.losses[index]
        ratio, ratio_error = _mean(_ratios(norms[:, first], drift.norms[0, :, first]))
        final, final_error = _mean(loss[:, -1] / teacher.offset)
        found[arm] = {"first_ratio": ratio, "first_ratio_stderr": ratio_error, **_steps(norms, teacher, config)}
        found[arm] |= _by_step("norms", norms) | _by_step("max_norms", drift.max_norms[index]) | _by_step("loss", loss)
        found[arm] |= {"final_loss": final, "final_loss_stderr": final_error}
    for name in ("to_lora", "to_lora_eta", "parameters_to_lora", "parameters_to_lora_eta"):
        found |= _by_step(name, getattr(drift, name))
    return found


def _ratios(norms: Float[np.ndarray, " seeds"], of: Float[np.ndarray, " seeds"]) -> list[float | None]:
    return [float(norm / size) if min(norm, size) >= SMALLEST else None for norm, size in zip(norms, of, strict=True)]


def _by_step(name: str, values: Float[np.ndarray, "seeds times"]) -> dict[str, np.ndarray]:
    return {name: values.mean(axis=0), f"{name}_stderr": values.std(axis=0, ddof=1) / np.sqrt(len(values))}


def scalar_part(config: Any, teacher: Teacher) -> Result:
    """The scalar model by itself: one row, constant gradient 1, A fixed; the closed form beside SGD's small steps."""
    goal = float(teacher.target.mean())
    rate = SCALAR_REACH * goal / config.eta / SCALAR_STEPS
    times = rate * np.arange(SCALAR_STEPS + 1)
    rules = {"lora": (1.0, "constant"), "lora_eta": (config.eta, "constant"), "allora": (config.eta, config.adaptor)}
    predicted = {arm: trajectory(times, 1.0, *rule) for arm, rule in rules.items()}
    recipe, model = Recipe("sgd", rate, steps=SCALAR_STEPS), constant_gradient([[1.0]], [[1.0]])
    measured = {
        arm: np.array([step.norms[0, 0] for step in iterate(model, arm, config.eta, recipe, config.adaptor, False)])
        for arm in ARMS
    }
    trade = tradeoff(goal / 2, 1.0, config.eta, config.adaptor)
    return Result(
        {"scalar": {"times": times, **predicted}, "tradeoff": {"level": goal / 2, **vars(trade)}},
        {"scalar": {"times": times, **measured}},
    )
