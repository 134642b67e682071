"""The command of one fine-tuning run. Checked by `tests/test_finetune_study.py`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from allora_analysis.finetune.results import summarised
from allora_analysis.finetune.setting import ARMS, Setting, check
from allora_analysis.study import Result, Study, Table, text
from allora_analysis.validation import ArgumentError, choice, count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAD = "head_learning_rate"


@dataclass(frozen=True)
class Config:
    """Fine-tune a pretrained model with one arm of the paper's comparison, and record accuracy and row norms.

    All linear layers are adapted; the classifier is trained in full at a rate of its own. With --results, a run that is
    recorded is not run again, and one that was stopped goes on from its last checkpoint.
    """

    model: Annotated[str, arg(metavar="FOLDER|FILE.gguf|HUB_ID")]
    """The pretrained model, as transformers loads it."""
    data: Annotated[str, arg(metavar="FOLDER|HUB_ID")]
    """train.jsonl, test.jsonl and perhaps validation.jsonl (or .jsonl.gz), rows with text and label; or a hub id."""
    arm: Annotated[str, arg(metavar="|".join(ARMS))]
    """The arm; lora_x_eta has a fixed scaling η, allora_0 no dropout, allora_adamw is LoRA under ALLoRAAdamW."""
    model_name: str | None = None
    """What records call the model; default: the folder's or the file's name, or the id's last part."""
    data_name: str | None = None
    """What records call the data; default likewise."""
    optimizer: Annotated[str, arg(metavar="sgd|momentum|adamw")] = "adamw"
    """momentum is SGD with momentum 0.9."""
    learning_rate: float = 1e-4
    """Learning rate of the adapters."""
    head_learning_rate: float | None = None
    """Learning rate of the classifier; default: the adapters'."""
    eta2: float | None = None
    """η² of the arm's rule (the paper: 1, 2, 4); only for arms that have one."""
    task: Annotated[str, arg(metavar="classification|multiple_choice")] = "classification"
    """multiple_choice is by the likelihood of each answer (a causal language model)."""
    rank: int = 16
    """Rank r of every adapter."""
    drop_rate: float = 0.0
    """Drop rate of the adapters' input; the paper takes 0.05 where its arms have dropout."""
    placement: Annotated[str, arg(metavar="input|bottleneck")] = "input"
    """Where the dropout is: at the input, as PEFT has it; in the bottleneck, between A and B (the arm lora)."""
    epochs: int = 2
    """Passes over the training split."""
    max_steps: int | None = None
    """Optimiser steps instead of epochs."""
    batch_size: int = 32
    """Sentences in a step, over all its parts and all processes."""
    accumulation: int = 1
    """Parts in which a batch's gradient is accumulated; divides the batch size."""
    max_length: int = 128
    """Tokens after which a sentence is cut."""
    schedule: Annotated[str, arg(metavar="linear|constant")] = "linear"
    """linear is to 0 at the last step."""
    warmup_steps: int = 0
    """Steps over which the learning rate first rises from 0."""
    weight_decay: float = 0.0
    """Weight decay of adapters and classifier; decoupled for adamw."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the moments."""
    epsilon: float = 1e-8
    """AdamW's ε."""
    max_grad_norm: float = 1.0
    """Clip the gradient's norm to this (transformers' default is 1); 0: no clipping."""
    precision: Annotated[str, arg(metavar="fp32|bf16")] = "fp32"
    """bf16 is autocast."""
    seed: int = 0
    """Seed of adapters, classifier, order of the data and dropout masks."""
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
    """The run that a config asks for.

    Args:
        config: the flags.
        model: what records call the model.
        data: what records call the data.

    Returns:
        The setting, checked.
    """
    same = {field.name for field in fields(Setting)} & {field.name for field in fields(Config)} - {
        "model",
        "data",
        HEAD,
    }
    rate = config.learning_rate if config.head_learning_rate is None else config.head_learning_rate
    values = {name: getattr(config, name) for name in same}
    return check(Setting(model=model, data=data, head_learning_rate=rate, **values))


def run(config: Config) -> Result:
    """Check, run or find recorded, and report.

    Args:
        config: the flags.

    Returns:
        Predicted: the majority class's rate. Measured: the record's result.

    Raises:
        ArgumentError: a setting that makes no sense, data or a model that cannot be read.
    """
    setting(config, "model", "data")
    choice("device", config.device, ("auto", "cpu"))
    count("checkpoint_steps", config.checkpoint_steps)
    if config.results is not None and config.results.exists() and not config.results.is_dir():
        raise ArgumentError(f"results must be a folder, received {str(config.results)!r}")
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


def table(config: Config, result: Result) -> Table:
    """A row an epoch.

    Args:
        config: the flags.
        result: what `run` returned.

    Returns:
        The table.
    """
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
    known = [mean for at, mean in zip(norms["step"], summarised(norms)["mean"], strict=False) if at <= step]
    return text(known[-1] if known else None)


def plot(config: Config, result: Result) -> Figure:
    """Accuracy, loss and row norms along the run.

    Args:
        config: the flags.
        result: what `run` returned.

    Returns:
        The figure.
    """
    from allora_analysis.finetune.figure import draw

    return draw(config, result)


STUDY = Study(
    "finetune",
    Config,
    run,
    table,
    plot,
    "--model FOLDER --data FOLDER --arm allora --eta2 4 --optimizer sgd --learning-rate 3 --results FOLDER",
)
