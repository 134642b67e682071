"""Training: transformers' Trainer as a `Setting` says, from the start or the newest whole checkpoint, to the result.

transformers' Trainer writes a checkpoint's files one after the other, so that a kill may leave the newest half written;
an older one is then taken, or none. torch's files are zip archives, whose checksums tell without unpickling them. Which
one is whole: checked by `tests/test_finetune_resume.py`; the rest by `tests/test_finetune_run.py`.
"""

import json
import math
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from safetensors import SafetensorError
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments

from allora_analysis import outputs, records
from allora_analysis.finetune import arms, machine, tasks
from allora_analysis.finetune.data import TextData
from allora_analysis.finetune.machine import quiet
from allora_analysis.finetune.models import Pretrained, turn_dropout_off
from allora_analysis.finetune.setting import Setting
from allora_analysis.finetune.trainer import LOSSES, Diverged, History, Progress, collect
from allora_analysis.validation import ArgumentError

TWICE = {
    "gradient_checkpointing": True,
    "gradient_checkpointing_kwargs": {"use_reentrant": False},  # the other kind wants inputs with a gradient
}
PACKAGES = ("transformers", "peft", "accelerate", "safetensors")
CHECKPOINT = ("*.safetensors", "optimizer.pt", "scheduler.pt")
WRITING = ("PytorchStreamWriter", "unexpected pos", "inline_container")  # torch's words for a full disk


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
    total = setting.steps(len(data.splits["train"]))
    if setting.warmup_steps >= total:
        raise ArgumentError(
            f"warmup_steps must be below the run's {total} steps, or none is at the learning rate, received "
            f"{setting.warmup_steps}"
        )
    if not setting.own_dropout:
        turn_dropout_off(setting.model, pretrained.model)
    model = arms.adapt(pretrained.model, setting)
    parts = (tasks.multiple_choice if data.classes is None else tasks.classification)(setting, pretrained, data)
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
    parts = setting.accumulation * machine.world()
    if setting.batch_size % parts:
        raise ArgumentError(
            f"batch_size must be a multiple of accumulation × processes = {setting.accumulation} × "
            f"{machine.world()}, received {setting.batch_size}"
        )
    return setting.batch_size // parts


def train(
    setting: Setting,
    load_model: Callable[[], Pretrained],
    data: TextData,
    folder: Path,
    save_steps: int,
    device: str,
    gradient_checkpointing: bool,
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Train and measure; the model is loaded after the seed is set. The result, and what belongs to its record's
    provenance: None on all processes but the first.
    """
    begun = time.perf_counter()
    set_seed(setting.seed)
    with quiet():
        made = make(
            setting,
            load_model(),
            data,
            folder,
            save_steps=save_steps,
            device=device,
            gradient_checkpointing=gradient_checkpointing,
        )
    parameters, kind = arms.counts(made.model), str(made.args.device.type)
    set_seed(setting.seed, device_specific=True)  # each process has dropout masks of its own
    with made.args.main_process_first(local=False):  # the first deletes what is broken, the others find the same
        checkpoint = newest_whole(folder, setting.batch_size // setting.accumulation)
    machine.forget_peak(kind)
    diverged = _run(made, checkpoint)
    result = {
        **collect(made.state.log_history),
        "steps": made.state.global_step,
        "diverged_at_step": diverged,
        "parameters": parameters,
        "majority_rates": data.majority_rates(),
        "rows": {name: len(split) for name, split in data.splits.items()},
    }
    if not made.is_world_process_zero():
        return result, None
    timed = _callback(made, History)
    # Its seconds are those of this process: of a resumed run, the steps after its checkpoint alone.
    return result, records.provenance(PACKAGES, begun) | {
        "device": kind,
        "attention": made.model.config._attn_implementation,
        "processes": made.args.world_size,
        "bf16": _bf16_path(setting.precision, kind),
        "seconds_a_step": timed.seconds / timed.timed if timed.timed else None,
        "peak_memory_bytes": machine.peak_memory(kind),
        "resumed": checkpoint is not None,
    }


def _bf16_path(precision: str, kind: str) -> str | None:
    # What multiplies bf16 on a CPU decides its last bits.
    if precision != "bf16":
        return None
    if kind != "cpu":
        return kind
    flags = set(records.processor()["instructions"] or ())
    return next((path for path in ("amx_bf16", "avx512_bf16", "bf16") if path in flags), "emulated")


def _run(made: Trainer, checkpoint: Path | None) -> int | None:
    """Train, from a checkpoint if there is one; the step at which it diverged, or None."""
    try:
        with quiet():
            made.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except Diverged as error:
        return error.step
    except SafetensorError as error:
        raise OSError(str(error)) from None
    except RuntimeError as error:
        if machine.exhausted(error):
            raise ArgumentError(
                f"batch_size: a part of a batch does not fit into the memory ({error!s:.80}); raise accumulation, give "
                "gradient_checkpointing, or lower the rank"
            ) from None
        if any(word in str(error) for word in WRITING):
            raise OSError(f"{error!s:.100}") from None
        raise
    finally:
        _callback(made, Progress).stop()
    return None


def _callback(made: Trainer, kind: type) -> Any:
    return next(callback for callback in made.callback_handler.callbacks if isinstance(callback, kind))


def newest_whole(folder: Path, rows: int) -> Path | None:
    """The newest checkpoint that can be read in full; later ones that cannot are deleted and named on standard error.

    Nothing is deleted where the reason is that no memory is left to read one with, or that the disk does not answer:
    that error is raised. Of several processes each must have left its random state; what other processes than now have
    left whole is refused, since the run would go on without its random states. `rows` is how many all of them read
    before they add up gradients.
    """
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]
    for path in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        reason = _broken(path, rows)
        if reason is None:
            if (wrote := _processes(path, rows)) != machine.world():
                raise ArgumentError(
                    f"{path}: is of {wrote} process{'es' if wrote > 1 else ''}, received {machine.world()}; nothing "
                    f"was deleted: start as many as then, or delete {folder} to begin anew"
                )
            return path
        outputs.remark(f"{path.name}: half written or damaged ({reason}); an older one is taken")
        shutil.rmtree(path, ignore_errors=True)
    return None


def _state(path: Path) -> dict[str, Any]:
    return json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))


def _processes(path: Path, rows: int) -> int:
    return rows // _state(path)["train_batch_size"]


def _broken(path: Path, rows: int) -> str | None:
    from safetensors.torch import load_file

    try:
        if str(_state(path)["global_step"]) != path.name.rpartition("-")[2]:
            return "it says another step"
        wrote = _processes(path, rows)
        states = ["rng_state.pth"] if wrote == 1 else [f"rng_state_{i}.pth" for i in range(wrote)]
        for pattern in (*CHECKPOINT, *states):
            files = [*path.glob(pattern)]
            if not files:
                return f"{pattern} is missing"
            for file in files:
                if file.suffix == ".safetensors":
                    load_file(file)
                elif wrong := zipfile.ZipFile(file).testzip():
                    return f"{file.name}: {wrong} has another checksum"
    except Exception as error:  # what is damaged fails in many ways
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise ArgumentError(
                f"{path}: cannot be read ({error.strerror or error}); nothing was deleted: give the same command again "
                "once its disk answers"
            ) from None
        if machine.exhausted(error):
            raise
        return f"{type(error).__name__}: {error!s:.80}"
    return None
