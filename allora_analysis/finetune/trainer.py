"""transformers' Trainer, set up as a `Setting` says. Checked by `tests/test_finetune_run.py`."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from allora_analysis.finetune import arms, classification, multiple_choice, processes
from allora_analysis.finetune.data import TextData
from allora_analysis.finetune.history import LOSSES, History
from allora_analysis.finetune.models import Pretrained
from allora_analysis.finetune.progress import Progress
from allora_analysis.finetune.setting import Setting
from allora_analysis.validation import ArgumentError

TWICE = {
    "gradient_checkpointing": True,
    "gradient_checkpointing_kwargs": {"use_reentrant": False},  # the other kind wants inputs with a gradient
}


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
    """The Trainer of a run; adapters are drawn here, from torch's global generator."""
    model = arms.adapt(pretrained.model, setting)
    total = setting.steps(len(data.splits["train"]))
    parts = (classification if data.classes is not None else multiple_choice).trainer_parts(setting, pretrained, data)
    callbacks: list[TrainerCallback] = [
        History(total, math.ceil(len(data.splits["train"]) / setting.batch_size)),
        Progress(setting.words()),
    ]
    made = parts.trainer(
        model=model,
        args=_arguments(setting, folder, total, parts.evaluation_batch, save_steps, device, gradient_checkpointing),
        data_collator=parts.collator,
        train_dataset=parts.train,
        eval_dataset=parts.evaluated,
        processing_class=pretrained.tokenizer,
        compute_metrics=parts.metrics,
        compute_loss_func=parts.loss,
        callbacks=callbacks,
        optimizers=(arms.optimizer(model, setting), None),
    )
    for theirs in (PrinterCallback, ProgressCallback):  # they print to standard output
        made.remove_callback(theirs)
    return made


def _arguments(
    setting: Setting, folder: Path, total: int, batch: int, save_steps: int, device: str, gradient_checkpointing: bool
) -> TrainingArguments:
    part = _part(setting)
    window = max(1, total // LOSSES)
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=part,
        gradient_accumulation_steps=setting.accumulation,
        per_device_eval_batch_size=batch,
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
        data_seed=setting.seed,  # one order for all processes, whose own seeds differ
        ddp_find_unused_parameters=False,
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
    parts = setting.accumulation * processes.world()
    if setting.batch_size % parts:
        raise ArgumentError(
            f"batch_size must be a multiple of accumulation × processes = {setting.accumulation} × "
            f"{processes.world()}, received {setting.batch_size}"
        )
    return setting.batch_size // parts
