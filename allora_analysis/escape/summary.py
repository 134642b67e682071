"""From trained arms to the study's numbers and its table."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from allora_analysis.escape.drift import Drift
from allora_analysis.escape.prediction import first_ratio, predicted_norms
from allora_analysis.escape.process import ARMS, iterate
from allora_analysis.escape.recipe import Recipe
from allora_analysis.escape.scalar import tradeoff, trajectory
from allora_analysis.escape.teacher import Teacher, constant_gradient
from allora_analysis.study import Result, Table, text

LABELS = {"lora": "LoRA at l", "lora_eta": "LoRA at η·l", "allora": "ALLoRA at l"}
SCALAR_STEPS = 400
SMALLEST = 1e-150  # norms: the squares of smaller ones lose digits
SCALAR_REACH = 4.0  # the scalar panel's last time, in units in which LoRA at η·l reaches the teacher's row norm


def crossing(norms: Float[np.ndarray, "seeds times"], level: Float[np.ndarray, " seeds"]) -> list[float | None]:
    """The step, interpolated, at which each seed's mean row norm first reaches its level.

    Args:
        norms: mean row norms by step.
        level: the level of each seed.

    Returns:
        The steps; None where it is not reached.
    """
    found: list[float | None] = []
    for path, goal in zip(norms, level, strict=True):
        above = np.flatnonzero(path >= goal)
        if not above.size:
            found.append(None)
            continue
        last = int(above[0])
        found.append(float(last - (path[last] - goal) / (path[last] - path[last - 1])))
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
    """The scalar model's account of each arm under one optimiser.

    Args:
        config: the study's config.
        teacher: the teachers.
        recipe: the optimiser.

    Returns:
        By arm: `first_ratio`, exact but for O(ε/|g|) and weight decay; `steps` to reach each level; `norms` by step.
        The last two are null under clipped SGD, which the scalar model does not treat.
    """
    clipped = recipe.max_grad_norm is not None and recipe.optimiser in ("sgd", "momentum")
    found: dict[str, Any] = {"learning_rate": recipe.learning_rate}
    for arm in ARMS:
        ratio = _mean(first_ratio(teacher, arm, config.eta, recipe))[0]
        norms = None if clipped else predicted_norms(teacher, arm, config.eta, recipe, config.adaptor)
        none = [None] * len(config.levels)
        steps = none if norms is None else _steps(norms, teacher, config)["steps"]
        found[arm] = {"first_ratio": ratio, "steps": steps, "norms": None if norms is None else norms.mean(axis=0)}
    return found


def measure(config: Any, teacher: Teacher, recipe: Recipe, drift: Drift) -> dict[str, Any]:
    """What training did under one optimiser, means over seeds.

    Args:
        config: the study's config.
        teacher: the teachers.
        recipe: the optimiser.
        drift: the trained arms.

    Returns:
        By arm: `first_ratio` (‖BA‖ over LoRA's at l after the first step whose rate is not 0; null where
        one of the norms is below 1e-150), `steps` to reach each
        level (null if a seed does not), `norms` and `max_norms` (mean and largest ‖(BA)_i‖) and `loss` by step,
        `final_loss` over the loss at B = 0; and ALLoRA's relative distances by step `to_lora`, `to_lora_eta` (of BA)
        and `parameters_to_lora`, `parameters_to_lora_eta` (of the way travelled by A and B).
    """
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
    """The scalar model by itself: one row, constant gradient 1, A fixed; the closed form beside SGD's small steps.

    Args:
        config: the study's config.
        teacher: the teachers, whose mean row norm sets the range of times and the level of the trade-off.

    Returns:
        "scalar": times and m of each arm; "tradeoff": `scalar.tradeoff` at half of the mean row norm.
    """
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


def table(config: Any, result: Result) -> Table:
    """One row per optimiser and arm: the first step, steps to each level, the final loss; predicted beside measured.

    Args:
        config: the study's config.
        result: its result.

    Returns:
        The table.
    """
    done = [name for name in dict.fromkeys(config.optimiser) if name in result.measured]
    rows = []
    for name in done:
        for arm in ARMS:
            said, seen = result.predicted[name][arm], result.measured[name][arm]
            cells = [text(said["first_ratio"]), _pair(seen, "first_ratio")]
            for index in range(len(config.levels)):
                cells += [text(said["steps"][index], 3), _pair(seen, "steps", index)]
            label = "ALLoRAAdamW at l" if (name, arm) == ("allora_adamw", "allora") else LABELS[arm]
            rows.append([name, label, text(result.predicted[name]["learning_rate"]), *cells, _pair(seen, "final_loss")])
    columns = ["optimiser", "arm", "l", "first step: predicted", "measured"]
    columns += [part for level in config.levels for part in (f"steps to {level:g}: scalar model", "measured")]
    title = f"Leaving B = 0 on a linear teacher: η = {config.eta:g}, {config.adaptor}, {config.seeds} seeds"
    return Table(title, [*columns, "loss"], rows, _notes(config, result, done))


def _pair(of: dict[str, Any], name: str, index: int | None = None) -> str:
    value, error = (of[key] if index is None else of[key][index] for key in (name, f"{name}_stderr"))
    return "–" if value is None else f"{text(value, 4)} ± {text(error, 1)}"


def _notes(config: Any, result: Result, done: list[str]) -> list[str]:
    trade = result.predicted["tradeoff"]
    notes = [
        "First step: ‖BA‖ over that of LoRA at l. Steps: until the mean row norm of BA is that part of the teacher's. "
        "Loss: the last over the first. ±: standard errors over seeds, which the arms share.",
        "Scalar model: A and the gradient stay as they are at B = 0. So it does not see A's growth, which speeds up, "
        "nor the residual's decline, which slows down. –: not reached (or, for clipped SGD, not treated).",
        f"A fixed rate cannot have both: ALLoRA's is {text(trade['rate_at_zero'])}·l at 0 and "
        f"{text(trade['rate_at_level'])}·l at half of the teacher's row norm; in the scalar model it gets there "
        f"{text(trade['advantage'])} times as fast as the fixed rate {text(trade['rate_at_level'])}·l.",
    ]
    marks = [step for step in (1, 2, 10, 100, 1000) if step <= config.steps]
    for name in done:
        pairs = [(result.measured[name]["to_lora"][k], result.measured[name]["to_lora_eta"][k]) for k in marks]
        words = ", ".join(f"{text(a, 2)} | {text(b, 2)}" for a, b in pairs)
        steps = ", ".join(map(str, marks))
        notes.append(f"{name}: ALLoRA's BA from LoRA's at l | at η·l, relatively, after {steps} steps: {words}")
    return notes
