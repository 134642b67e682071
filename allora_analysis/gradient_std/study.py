"""The study of Figure 1: trains an MLP and measures, at each epoch, how much ∂L/∂W₂ varies across dropout masks.

Predicted: the linear model's entrywise closed form; measured: the same estimator on it, then the network. Checked by
`tests/test_gradient_std_study.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from tyro.conf import arg

from allora_analysis import outputs
from allora_analysis.gradient_std.grid import LEARNING_RATES, OPTIMIZERS, WEIGHT_DECAYS, Setting
from allora_analysis.gradient_std.summary import over_seeds
from allora_analysis.study import Result, Study, Table, sweep, text
from allora_analysis.validation import ArgumentError, choice, count, drop_rate, non_negative, positive, several

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from allora_analysis.images import Images


@dataclass(frozen=True)
class Config(Setting):
    """Figure 1: the standard deviation of the second layer's gradient across dropout masks, over training.

    Trains an MLP (ReLU, dropout after each hidden layer, mean cross-entropy). Before training and after each epoch it
    measures every entry of the gradient of the second weight matrix over masks, on a fixed probe batch and on a fresh
    one; across minibatches without dropout; and splits the variance into masks and minibatches.
    """

    data_root: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """torchvision's folder, for mnist and cifar10."""
    download: bool = False
    """Fetch the data into the data root where it is missing."""
    data_name: Annotated[str | None, arg(metavar="NAME")] = None
    """What records call the data; default: its own name, or the file's stem."""
    learning_rate: float | None = None
    """Learning rate; default: 0.1 for sgd, 0.02 for momentum, 0.001 for adam and adamw."""
    weight_decay: float | None = None
    """Weight decay, decoupled for adamw; default: 0.01 for adamw, 0 for the others."""
    seeds: tuple[int, ...] = (1,)
    """One number: how many seeds, from `seed` on. Several: the seeds themselves."""
    seed: int = 0
    """The first seed, where `seeds` is a number of seeds."""
    results: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Record each finished run in this folder, and go on there after an interruption; default: nothing is kept."""
    device: Annotated[str, arg(metavar="auto|cpu|cuda")] = "auto"
    """auto is cuda where there is one."""


def _check(config: Config) -> None:
    for width in several("hidden", config.hidden):
        count("hidden", width)
    drop_rate("drop_rate", config.drop_rate)
    choice("optimizer", config.optimizer, OPTIMIZERS)
    if config.learning_rate is not None:
        positive("learning_rate", config.learning_rate)
    if config.weight_decay is not None:
        non_negative("weight_decay", config.weight_decay)
    for name, minimum in (("epochs", 1), ("batch_size", 1), ("masks", 4), ("control_minibatches", 4)):
        count(name, getattr(config, name), minimum)
    count("nested_minibatches", config.nested_minibatches, 3)
    count("nested_masks", config.nested_masks, 2)
    choice("device", config.device, ("auto", "cpu", "cuda"))
    if config.results is not None:
        outputs.refuse_file("results", config.results)
    if len(set(seeds(config))) < len(seeds(config)):
        raise ArgumentError(f"seeds must differ from one another, received {config.seeds!r}")


def seeds(config: Config) -> tuple[int, ...]:
    """The seeds: `seeds` themselves, or so many from `seed` on."""
    first, given = count("seed", config.seed, 0), several("seeds", config.seeds)
    if len(given) == 1:
        return tuple(range(first, first + count("seeds", given[0], 1, 10**6)))
    return tuple(count("seeds", seed, 0) for seed in given)


def settings(config: Config, name: str) -> list[Setting]:
    """The runs, one a seed."""
    rate, decay = config.learning_rate, config.weight_decay
    own = {field.name: getattr(config, field.name) for field in dataclasses.fields(Setting)} | {"data": name}
    own["learning_rate"] = LEARNING_RATES[config.optimizer] if rate is None else rate
    own["weight_decay"] = WEIGHT_DECAYS[config.optimizer] if decay is None else decay
    return [Setting(**own | {"seed": seed}) for seed in seeds(config)]


def run(config: Config) -> Result:
    """Check the estimator on the linear model, then train and measure, a run a seed."""
    _check(config)
    from allora_analysis import images

    loaded = images.load(config.data, config.data_root, config.download, config.data_name)
    if len(loaded.x_train) < config.batch_size:
        raise ArgumentError(
            f"batch_size must be at most the {len(loaded.x_train)} training images of {loaded.name}, "
            f"received {config.batch_size}"
        )
    from allora_analysis.gradient_std.run import linear_average

    predicted, measured = linear_average(loaded, config.batch_size, 1.0 - config.drop_rate, config.masks, config.seed)
    runs, interrupted = _runs(config, loaded)
    measured |= {"data": loaded.name, "seeds": list(runs), "runs": list(runs.values())}
    measured |= over_seeds(list(runs.values()))
    return Result(predicted, measured, interrupted)


def _runs(config: Config, loaded: Images) -> tuple[dict[int, list[dict[str, Any]]], bool]:
    import torch

    from allora_analysis.gradient_std.run import Data, Run

    cuda = torch.cuda.is_available()
    if config.device == "cuda" and not cuda:
        raise ArgumentError("device must be cpu or auto here, received 'cuda': PyTorch finds no CUDA device")
    device = "cuda" if cuda and config.device != "cpu" else "cpu"
    data = Data.of(loaded, device)
    opened: dict[int, Run] = {}
    wanted = settings(config, loaded.name)

    def step(task: tuple[Setting, int]) -> tuple[int, dict[str, Any]]:
        setting, epoch = task
        if setting.seed not in opened:
            opened.clear()
            opened[setting.seed] = Run(setting, data, loaded.classes, loaded.digest, config.results)
        return setting.seed, opened[setting.seed].entry(epoch)

    tasks = [(setting, epoch) for setting in wanted for epoch in range(config.epochs + 1)]
    done, interrupted = sweep(tasks, step, f"{loaded.name}, {config.optimizer}: epochs measured")
    runs: dict[int, list[dict[str, Any]]] = {}
    for seed, entry in done:
        runs.setdefault(seed, []).append(entry)
    return runs, interrupted


def table(config: Config, result: Result) -> Table:
    """A row an epoch: averages over seeds, ± their standard error where there are several."""
    m, p = result.measured, result.predicted
    names = ("probe_mean", "probe_worst_held_out", "fresh_mean", "no_dropout_fresh_mean")
    rows = []
    for epoch, accuracy in enumerate(m["test_accuracy"]):
        mask, minibatch = m["decomposition_mask"][epoch], m["decomposition_minibatch"][epoch]
        share = mask / (mask + minibatch) if mask + minibatch > 0 else None
        cells = [_cell(m[name][epoch], m[f"{name}_stderr"][epoch]) for name in names]
        rows.append((str(epoch), f"{accuracy:.4f}", *cells, "–" if share is None else f"{100 * share:.1f} %"))
    columns = ("epoch", "test accuracy", "mean std", "worst, held out", "fresh batch", "no dropout, minibatches")
    title = (
        f"Std of the entries of ∂L/∂W₂ over {config.masks} masks: {m['data']}, {config.optimizer}, "
        f"drop rate {config.drop_rate:g}, {len(m['seeds'])} seed(s)"
    )
    stderr = m["linear_mean_stderr"]
    check = f"{text(m['linear_mean'], 5)}{'' if stderr is None else f' ± {text(stderr, 2)}'}"
    note = f"the estimator on a linear model: {check}, closed form {text(p['linear_mean'], 5)}"
    return Table(title, (*columns, "variance due to masks"), rows, (note, *_seeds(m)))


def _seeds(m: Mapping[str, Any]) -> tuple[str, ...]:
    if "log_total_seed_variance" not in m:
        return ()
    component, stderr, error = (
        text(m[f"log_total_{name}"][-1], 2)
        for name in ("seed_variance", "seed_variance_stderr", "measurement_variance")
    )
    return (
        f"log of the total variance, last epoch: variance over seeds {component} ± {stderr}, of one seed's {error}",
    )


def _cell(value: float, stderr: float | None) -> str:
    return text(value) if stderr is None else f"{text(value)} ± {text(stderr, 2)}"


def plot(config: Config, result: Result) -> Figure:
    """Left: the paper's figure, average and worst case over training. Right: the controls that it lacks."""
    from allora_analysis.plotting import COLOURS, panels

    figure, (left, right) = panels(columns=2)
    m = result.measured
    lines = (
        (left, "probe_mean", "dropout", "average over entries"),
        (left, "probe_worst_held_out", "bound", "worst entry, held out"),
        (right, "probe_mean", "dropout", "masks, probe batch"),
        (right, "fresh_mean", "other", "masks, fresh batch"),
        (right, "no_dropout_fresh_mean", "plain", "minibatches, no dropout"),
    )
    for axes, name, colour, label in lines:
        value = np.asarray(m[name], dtype=float)
        error = np.array([0.0 if e is None else e for e in m[f"{name}_stderr"]], dtype=float)
        epochs = np.arange(len(value))
        if (value > 0).any():
            axes.plot(epochs, value, marker=".", color=COLOURS[colour], label=label)
            axes.fill_between(epochs, value - error, value + error, color=COLOURS[colour], alpha=0.25, linewidth=0)
    for axes, title in ((left, "Across dropout masks"), (right, "Beside its controls: average over entries")):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel="epoch (0: before training)", ylabel="std of an entry of ∂L/∂W₂", yscale="log", title=title)
        if axes.lines:  # none without dropout: nothing varies across its masks
            axes.legend(fontsize=7)
    return figure


STUDY = Study("gradient_std", Config, run, table, plot, "--data digits --epochs 3 --masks 50")
