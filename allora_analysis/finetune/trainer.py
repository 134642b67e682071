"""transformers' Trainer, set up as a `Setting` says. Checked by `tests/test_finetune_run.py`."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    DataCollatorWithPadding,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from allora_analysis.finetune import arms
from allora_analysis.finetune.data import Split, TextData
from allora_analysis.finetune.history import LOSSES, Diverged, History
from allora_analysis.finetune.models import Pretrained
from allora_analysis.finetune.progress import Progress
from allora_analysis.finetune.setting import Setting
from allora_analysis.validation import ArgumentError

TWICE = {
    "gradient_checkpointing": True,
    "gradient_checkpointing_kwargs": {"use_reentrant": False},  # the other kind wants inputs with a gradient
}
EVALUATED = ("validation", "test")


class Watched(Trainer):
    """The Trainer, which stops at the first loss that is not finite, before its gradient is used."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The loss of one part of a batch; its gradient is added.

        Args:
            *args: the Trainer's.
            **kwargs: the Trainer's.

        Returns:
            The loss.

        Raises:
            Diverged: it is not finite, on this process or another.
        """
        loss = super().training_step(*args, **kwargs)
        if not self.accelerator.gather(loss.reshape(1)).isfinite().all():
            raise Diverged(self.state.global_step + 1)
        return loss


class Encoded(Dataset):
    """A split as token ids, unpadded.

    Args:
        split: sentences and labels.
        tokenizer: the model's.
        max_length: tokens after which a sentence is cut.
    """

    def __init__(self, split: Split, tokenizer: Any, max_length: int):
        encoded = tokenizer(list(split.texts), truncation=True, max_length=max_length, padding=False)
        self.rows = [
            {name: encoded[name][i] for name in encoded} | {"labels": label} for i, label in enumerate(split.labels)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self.rows[index])


def last_step(setting: Setting, rows: int) -> int:
    """The run's number of optimiser steps.

    Args:
        setting: the run.
        rows: of the training split.

    Returns:
        The steps.
    """
    return setting.max_steps or setting.epochs * math.ceil(rows / setting.batch_size)


def accuracy(prediction: Any) -> dict[str, float]:
    """The share of sentences whose largest logit is the label's.

    Args:
        prediction: logits and labels, as the Trainer has them.

    Returns:
        {"accuracy": share}.
    """
    return {"accuracy": float(np.mean(prediction.predictions.argmax(axis=-1) == prediction.label_ids))}


def cross_entropy(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """The classifier's loss, meaned over the whole batch, whatever its parts.

    transformers believes of every PEFT model that its own loss knows the batch's size, and BERT's does not: with
    accumulation the gradient would be the sum of the parts' means.

    Args:
        outputs: the model's, with `logits`, (rows, classes).
        labels: (rows,).
        num_items_in_batch: labels in the whole batch; None: these are all.

    Returns:
        The sum over these rows, divided by that number.
    """
    total = torch.nn.functional.cross_entropy(outputs["logits"].float(), labels, reduction="sum")
    return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)


def make(
    setting: Setting,
    pretrained: Pretrained,
    data: TextData,
    folder: Path,
    *,
    save_steps: int,
    device: str,
    gradient_checkpointing: bool = False,
) -> Trainer:
    """The Trainer of a run; adapters are drawn here, from torch's global generator.

    Args:
        setting: the run.
        pretrained: its model, whose classifier is drawn.
        data: its sentences.
        folder: where checkpoints go.
        save_steps: steps between two of them.
        device: "cpu" or "auto".
        gradient_checkpointing: compute activations twice and keep fewer of them.

    Returns:
        The Trainer.
    """
    model = arms.adapt(pretrained.model, setting)
    encoded = {name: Encoded(split, pretrained.tokenizer, setting.max_length) for name, split in data.splits.items()}
    for name in EVALUATED:
        if name in encoded:
            encoded[name].rows.sort(key=lambda row: len(row["input_ids"]))  # short ones together: less padding
    total = last_step(setting, len(data.splits["train"]))
    callbacks: list[TrainerCallback] = [
        History(total, math.ceil(len(data.splits["train"]) / setting.batch_size)),
        Progress(setting.words()),
    ]
    made = Watched(
        model=model,
        args=_arguments(setting, folder, total, save_steps, device, gradient_checkpointing),
        data_collator=DataCollatorWithPadding(pretrained.tokenizer),
        train_dataset=encoded["train"],
        eval_dataset={name: encoded[name] for name in EVALUATED if name in encoded},
        processing_class=pretrained.tokenizer,
        compute_metrics=accuracy,
        compute_loss_func=cross_entropy,
        callbacks=callbacks,
        optimizers=(arms.optimizer(model, setting), None),
    )
    for theirs in (PrinterCallback, ProgressCallback):  # they print to standard output
        made.remove_callback(theirs)
    return made


def _arguments(
    setting: Setting, folder: Path, total: int, save_steps: int, device: str, gradient_checkpointing: bool
) -> TrainingArguments:
    part = _part(setting)
    window = max(1, total // LOSSES)
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=part,
        gradient_accumulation_steps=setting.accumulation,
        per_device_eval_batch_size=64,
        num_train_epochs=setting.epochs,
        max_steps=setting.max_steps or -1,
        learning_rate=setting.learning_rate,
        lr_scheduler_type="constant_with_warmup" if setting.schedule == "constant" else setting.schedule,
        warmup_steps=setting.warmup_steps,
        max_grad_norm=setting.max_grad_norm,
        bf16=setting.precision == "bf16",
        eval_strategy="no",  # `History` asks for it: the Trainer would leave it out where a checkpoint ends an epoch
        logging_steps=window,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=window * math.ceil(save_steps / window),  # the mean loss over a window must not be cut in two
        save_total_limit=2,
        **(TWICE if gradient_checkpointing else {}),
        seed=setting.seed,
        use_cpu=device == "cpu" or not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available() and device != "cpu",
        report_to="none",
        remove_unused_columns=False,
        label_names=["labels"],
    )
    if arguments.n_gpu > 1:  # several GPUs are several processes' (accelerate, torchrun): one would split each batch
        arguments._n_gpu = 1
    return arguments


def _part(setting: Setting) -> int:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if setting.batch_size % (setting.accumulation * processes):
        raise ArgumentError(
            f"batch_size must be a multiple of accumulation × processes = {setting.accumulation} × {processes}, "
            f"received {setting.batch_size}"
        )
    return setting.batch_size // (setting.accumulation * processes)
