"""The showcase of §4.2's escape: what LoRA at l, LoRA at η·l and ALLoRA do from B = 0 under each optimizer.

Checked by `tests/test_escape_study.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from allora_analysis import validation
from allora_analysis.adaptors import ADAPTORS
from allora_analysis.escape.optimizers import OPTIMIZERS, Recipe, check
from allora_analysis.escape.prediction import measure, predict, scalar_part
from allora_analysis.escape.scalar import usable_eta
from allora_analysis.escape.teacher import ARMS, Drift, Teacher, compared, linear_teacher
from allora_analysis.study import Result, Study, Table, sweep, text
from allora_analysis.validation import ArgumentError, representable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


LEARNING_RATES = {"sgd": 0.02, "momentum": 0.002, "adamw": 0.005, "allora_adamw": 0.005}
LABELS = {"lora": "LoRA at l", "lora_eta": "LoRA at η·l", "allora": "ALLoRA at l"}
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


@representable(infinite=True)
def run(config: Config) -> Result:
    """Train every arm under every optimizer, from the same starts."""
    chosen = recipes(config)
    sizes = ("seeds", "seed", "n_outputs", "n_inputs", "samples", "rank", "teacher_rank", "noise")
    teacher = linear_teacher(**{name: getattr(config, name) for name in sizes})
    drifts, interrupted = sweep(chosen, lambda recipe: _train(config, teacher, recipe), "optimizers")
    done = list(zip(chosen, drifts, strict=False))
    scalar = scalar_part(config, teacher)
    predicted = {recipe.optimizer: predict(config, teacher, recipe) for recipe, _ in done}
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


def plot(config: Any, result: Result) -> Figure:
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


def _escape(axis: Axes, result: Result, name: str) -> None:
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


def _scalar(axis: Axes, result: Result) -> None:
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


def _distances(axis: Axes, result: Result, names: list[str]) -> None:
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
    axis.set(xscale="log", ylim=(0, 2), xlabel="step", ylabel="‖difference of BA‖ / ‖BA‖", title="ALLoRA's distance")
    axis.legend(fontsize=7, ncols=2, loc="lower right")


STUDY = Study("escape", Config, run, table, plot, "--eta 2 --figure escape.png")
