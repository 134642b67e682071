"""The showcase of §4.2's escape: what LoRA at l, LoRA at η·l and ALLoRA do from B = 0 under each optimizer.

The scalar model takes the gradient at B = 0 and the initial A as they are, for good. Row i of BA then grows along
C_iAᵀA with g_i = ‖C_iAᵀA‖ under SGD and, Adam making every entry of B's gradient ±1, g_i = ‖sign(C_iAᵀ)A‖ under
AdamW. Under AdamW ALLoRA's factor cancels, up to the second moment's memory of earlier, larger factors, which makes
ALLoRA a little slower than LoRA at l and vanishes with the learning rate at a fixed time: its prediction is LoRA's at
l. Under "allora_adamw" nothing cancels. Left out: A's training (under AdamW A moves at the full rate from the second
step on, however small its gradient), the residual's decline, decay, and, for SGD, clipping beyond the first step.
Checked by `tests/test_escape_study.py` and `tests/test_escape_teacher.py`.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from allora_analysis import validation
from allora_analysis.adaptors import ADAPTORS
from allora_analysis.escape.optimizers import OPTIMIZERS, Recipe, check, clipped_step, rate_factor
from allora_analysis.escape.scalar import levels, tradeoff, trajectory, usable_eta
from allora_analysis.escape.teacher import ARMS, Drift, Teacher, compared, constant_gradient, iterate, linear_teacher
from allora_analysis.study import Result, Study, Table, sweep, text
from allora_analysis.validation import ArgumentError, representable

LEARNING_RATES = {"sgd": 0.02, "momentum": 0.002, "adamw": 0.005, "allora_adamw": 0.005}
LABELS = {"lora": "LoRA at l", "lora_eta": "LoRA at η·l", "allora": "ALLoRA at l"}
EXACT = 1e-5  # relative: what rounding and the ε of Adam's denominator leave of a first step that is the same
OPTIONS = ("momentum", "betas", "eps", "weight_decay", "max_grad_norm", "warmup", "schedule", "steps")


@dataclass(frozen=True)
class Config:
    """Escape from B = 0 (§4.2) on a linear teacher: LoRA at l, LoRA at η·l and ALLoRA under each optimizer.

    Mean row norms ‖(BA)_i‖ by step, beside the scalar model's closed form.
    """

    eta: float = 2.0
    """η, the row factor at BA = 0, above 0; the paper's η² = 4."""
    optimizer: tuple[Literal["sgd", "momentum", "adamw", "allora_adamw"], ...] = OPTIMIZERS
    """Optimizers; allora_adamw is AdamW with ALLoRA's factor on its update (LoRA's arms there are AdamW's)."""
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
    """Refuse a config that makes no sense; its optimizers."""
    usable_eta(config.eta)
    validation.choice("adaptor", config.adaptor, ADAPTORS)
    validation.count("seeds", config.seeds, 2)
    for level in validation.several("levels", config.levels):
        validation.positive("levels", level)
    options = {name: getattr(config, name) for name in OPTIONS}
    names = [
        validation.choice("optimizer", name, OPTIMIZERS) for name in validation.several("optimizer", config.optimizer)
    ]
    rates = LEARNING_RATES if config.learning_rate is None else dict.fromkeys(names, config.learning_rate)
    return [check(Recipe(name, rates[name], **options)) for name in dict.fromkeys(names)]


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


def _predicted_norms(
    teacher: Teacher, arm: str, eta: float, recipe: Recipe, adaptor: str
) -> Float[np.ndarray, "seeds times"]:
    """Mean over rows of the scalar model's m_i by step."""
    rule = (eta if arm == "lora_eta" else 1.0), "constant"
    if arm == "allora" and recipe.optimizer != "adamw":
        rule = eta, adaptor
    times, of_seeds = clock(recipe), row_gradients(teacher, recipe.optimizer)
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


def _predict(config: Any, teacher: Teacher, recipe: Recipe) -> dict[str, Any]:
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


def _scalar_part(config: Any, teacher: Teacher) -> Result:
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


@representable(infinite=True)
def run(config: Config) -> Result:
    """Train every arm under every optimizer, from the same starts."""
    chosen = recipes(config)
    sizes = ("seeds", "seed", "n_outputs", "n_inputs", "samples", "rank", "teacher_rank", "noise")
    teacher = linear_teacher(**{name: getattr(config, name) for name in sizes})
    drifts, interrupted = sweep(chosen, lambda recipe: _train(config, teacher, recipe), "optimizers")
    done = list(zip(chosen, drifts, strict=False))
    scalar = _scalar_part(config, teacher)
    predicted = {recipe.optimizer: _predict(config, teacher, recipe) for recipe, _ in done}
    measured = {recipe.optimizer: measure(config, teacher, recipe, drift) for recipe, drift in done}
    return Result(predicted | scalar.predicted, measured | scalar.measured, interrupted)


def _train(config: Config, teacher: Teacher, recipe: Recipe) -> Drift:
    result = compared(teacher, config.eta, recipe, config.adaptor)
    if not np.isfinite(result.losses).all():
        raise ArgumentError(
            f"learning_rate {recipe.learning_rate:g}: training diverged under {recipe.optimizer}; "
            "a smaller one, or fewer steps, would work"
        )
    return result


def table(config: Any, result: Result) -> Table:
    """One row per optimizer and arm: the first step, steps to each level, the final loss; predicted beside measured."""
    done = [name for name in dict.fromkeys(config.optimizer) if name in result.measured]
    rows = []
    for name in done:
        for arm in ARMS:
            said, seen = result.predicted[name][arm], result.measured[name][arm]
            cells = [text(said["first_ratio"]), _pair(seen, "first_ratio")]
            for index in range(len(config.levels)):
                cells += [text(said["steps"][index], 3), _pair(seen, "steps", index)]
            label = "ALLoRAAdamW at l" if (name, arm) == ("allora_adamw", "allora") else LABELS[arm]
            rows.append([name, label, text(result.predicted[name]["learning_rate"]), *cells, _pair(seen, "final_loss")])
    columns = ["optimizer", "arm", "l", "first step: predicted", "first step: measured"]
    columns += [f"steps to {level:g}: {what}" for level in config.levels for what in ("scalar model", "measured")]
    title = f"Leaving B = 0 on a linear teacher: η = {config.eta:g}, {config.adaptor}, {config.seeds} seeds"
    return Table(title, [*columns, "loss"], rows, _notes(config, result, done), keys=2)


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


def plot(config: Any, result: Result) -> Any:
    """A panel per optimizer (mean row norm by step, scalar model dotted), the scalar model, ALLoRA's distances."""
    from allora_analysis.plotting import panels

    names = [name for name in dict.fromkeys(config.optimizer) if name in result.measured]
    columns = min(3, len(names) + 2)
    rows = -(-(len(names) + 2) // columns)
    figure, axes = panels(columns, rows)
    for axis, name in zip(axes, names, strict=False):
        _escape(axis, result, name)
    _scalar(axes[len(names)], result)
    _distances(axes[len(names) + 1], result, names)
    for axis in axes[len(names) + 2 :]:
        axis.remove()
    axes[0].legend(fontsize=8, loc="lower right")
    figure.suptitle(f"Leaving B = 0 on a linear teacher: η = {config.eta:g}, {config.seeds} seeds")
    return figure


def _escape(axis: Any, result: Result, name: str) -> None:
    from allora_analysis.plotting import ARMS, COLOURS, OPTIMIZERS

    measured, predicted = result.measured[name], result.predicted[name]
    top = 0.0
    for arm, label in LABELS.items():
        colour = ARMS[arm].colour
        norms, errors = np.asarray(measured[arm]["norms"]), np.asarray(measured[arm]["norms_stderr"])
        steps = np.arange(len(norms))
        axis.plot(steps, norms, color=colour, label=label)
        axis.fill_between(steps, norms - 2 * errors, norms + 2 * errors, color=colour, alpha=0.12, lw=0)
        if predicted[arm]["norms"] is not None:
            axis.plot(steps, predicted[arm]["norms"], ":", color=colour, lw=1)
        top = max(top, float(norms.max()))
    axis.axhline(measured["target"], color=COLOURS["measured"], lw=0.8, ls="--")
    axis.plot([], [], ":", color=COLOURS["measured"], lw=1, label="scalar model")
    axis.plot([], [], "--", color=COLOURS["measured"], lw=0.8, label="teacher")
    axis.set_ylim(0, 1.15 * max(top, measured["target"]))
    axis.set_xlim(0, None)
    axis.set(xlabel="step", ylabel="mean ‖(BA)$_i$‖")
    axis.set_title(f"{OPTIMIZERS[name].label}, l = {predicted['learning_rate']:g}")


def _scalar(axis: Any, result: Result) -> None:
    from allora_analysis.plotting import ARMS, COLOURS

    predicted, measured = result.predicted["scalar"], result.measured["scalar"]
    every = slice(None, None, 40)
    for arm in LABELS:
        axis.plot(predicted["times"], predicted[arm], color=ARMS[arm].colour)
        axis.plot(measured["times"][every], measured[arm][every], "o", ms=3.5, color=ARMS[arm].colour)
    axis.plot([], [], color=COLOURS["measured"], label="closed form")
    axis.plot([], [], "o", ms=3.5, color=COLOURS["measured"], label="SGD, small steps")
    axis.set(xlabel="time g·l·steps", ylabel="m", title="scalar model: A and the gradient fixed")
    axis.set_xlim(0, None)
    axis.set_ylim(0, None)
    axis.legend(fontsize=8)


def _distances(axis: Any, result: Result, names: list[str]) -> None:
    from allora_analysis.plotting import COLOURS, OPTIMIZERS

    for name in names:
        label, colour, _ = OPTIMIZERS[name]
        for key, dashes in (("to_lora", "-"), ("to_lora_eta", "--")):
            values = np.asarray(result.measured[name][key])
            steps = np.arange(1, len(values))
            axis.plot(steps, values[1:], dashes, color=colour)
            axis.plot(1, values[1], "o", ms=5, mfc="none", color=colour, clip_on=False, zorder=3)
        axis.plot([], [], color=colour, label=label)
    for dashes, label in (("-", "from LoRA at l"), ("--", "from LoRA at η·l")):
        axis.plot([], [], dashes, color=COLOURS["measured"], lw=1, label=label)
    axis.set_yscale("symlog", linthresh=1e-4, linscale=0.5)  # with 0 on it: a ring there is an exact match
    axis.set(xscale="log", ylim=(0, 2), xlabel="step", ylabel="‖difference of BA‖ / ‖BA‖")
    axis.set_title(_starts(result, names))
    axis.legend(fontsize=7, ncols=2, loc="lower right")


def _starts(result: Result, names: list[str]) -> str:
    """Which LoRA's first step ALLoRA's is, under which optimizers."""
    from allora_analysis.plotting import OPTIMIZERS

    of = {name: [key for key in ("to_lora_eta", "to_lora") if result.measured[name][key][1] < EXACT] for name in names}
    groups = (("at η·l", ["to_lora_eta"]), ("at l", ["to_lora"]), ("at neither rate", []))
    told = [(how, [OPTIMIZERS[name].label for name in names if of[name][:1] == keys]) for how, keys in groups]
    return "ALLoRA's first step is LoRA's\n" + ";\n".join(f"{how}: {', '.join(them)}" for how, them in told if them)


STUDY = Study("escape", Config, run, table, plot, "--eta 2 --figure escape.png")
