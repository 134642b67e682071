"""A fine-tuning run from its start, or from where it was stopped, to its record.

Checked by `tests/test_finetune_run.py`.

While it runs, checkpoints lie in `unfinished/finetune-<key>/` below the folder of records. A recorded run is not run
again; a run that was killed goes on from its newest whole checkpoint, to the same result.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from allora_analysis import records
from allora_analysis.finetune import arms, checkpoints, trainer
from allora_analysis.finetune.claim import claim
from allora_analysis.finetune.data import TextData
from allora_analysis.finetune.history import Diverged, collect
from allora_analysis.finetune.models import Pretrained
from allora_analysis.finetune.quiet import quiet
from allora_analysis.finetune.setting import PROTOCOL, STUDY, Setting
from allora_analysis.validation import ArgumentError

UNFINISHED = "unfinished"
PACKAGES = ("transformers", "peft", "accelerate", "safetensors")


@dataclass(frozen=True)
class Outcome:
    """A run's result, and whether this call ran it (False: it was recorded before)."""

    result: dict[str, Any]
    ran: bool


def lookup(results: Path, setting: Setting, digests: dict[str, str]) -> dict[str, Any] | None:
    """A run's recorded result.

    Args:
        results: the folder of records.
        setting: the run.
        digests: of its model and its data.

    Returns:
        The result, or None.
    """
    record = records.lookup(results, STUDY, setting, PROTOCOL, digests) if results.is_dir() else None
    return None if record is None else dict(record.result)


def run(
    setting: Setting,
    load_model: Any,
    data: TextData,
    digests: dict[str, str],
    results: Path | None = None,
    *,
    save_steps: int = 100,
    device: str = "auto",
) -> Outcome:
    """Run a setting, or find it recorded.

    Args:
        setting: the run.
        load_model: returns the `Pretrained` model; called after the seed is set, since the classifier is drawn in it.
        data: its sentences.
        digests: of model and data.
        results: the folder of records; None keeps nothing.
        save_steps: steps between two checkpoints.
        device: "cpu" or "auto".

    Returns:
        The outcome.

    Raises:
        ArgumentError: the disk is full, or the folder cannot be written; `Busy`: another process is at this run.
    """
    if results is not None and (known := lookup(results, setting, digests)) is not None:
        return Outcome(known, False)
    if results is None:
        with tempfile.TemporaryDirectory() as folder:
            return Outcome(_train(setting, load_model, data, Path(folder), 10**9, device)[0], True)
    folder = results / UNFINISHED / f"{STUDY}-{records.key(setting, PROTOCOL, digests)[:20]}"
    try:
        with _held(folder, setting):
            if (known := lookup(results, setting, digests)) is not None:  # by a neighbour, meanwhile
                return Outcome(known, False)
            folder.mkdir(exist_ok=True)
            result, facts = _train(setting, load_model, data, folder, save_steps, device)
            if facts is not None:
                records.save(results, STUDY, setting, result, protocol=PROTOCOL, digests=digests, provenance=facts)
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise ArgumentError(f"results {str(results)!r}: cannot be written ({error.strerror or error})") from None
    with contextlib.suppress(OSError):  # not empty: other runs are unfinished
        folder.parent.rmdir()
    return Outcome(result, True)


def _held(folder: Path, setting: Setting) -> contextlib.AbstractContextManager[None]:
    # Of several processes that train one run together, the first holds it for all.
    if int(os.environ.get("RANK", "0")):
        return contextlib.nullcontext()
    return claim(folder.with_suffix(".lock"), setting.words())


def _train(
    setting: Setting, load_model: Any, data: TextData, folder: Path, save_steps: int, device: str
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    transformers.set_seed(setting.seed)
    pretrained: Pretrained = load_model()
    with quiet():
        made = trainer.make(setting, pretrained, data, folder, save_steps=save_steps, device=device)
    parameters = arms.counts(made.model)
    with made.args.main_process_first(local=False):  # the first deletes what is broken, the others find the same
        checkpoint = checkpoints.newest_whole(folder)
    start, diverged = time.perf_counter(), None
    try:
        with quiet():
            made.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except Diverged as error:
        diverged = error.step
    steps = made.state.global_step
    begun = 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
    seconds = (time.perf_counter() - start) / max(1, steps - begun)
    result = {
        **collect(made.state.log_history),
        "steps": steps,
        "diverged_at_step": diverged,
        "parameters": parameters,
        "majority_rates": data.majority_rates(),
        "rows": {name: len(split) for name, split in data.splits.items()},
    }
    if not made.is_world_process_zero():
        return result, None
    facts = records.provenance(PACKAGES) | {
        "device": str(made.args.device.type),
        "processes": made.args.world_size,
        "seconds_a_step": seconds,
        "peak_memory_bytes": _peak(made.args.device.type),
        "resumed": checkpoint is not None,
    }
    return result, facts


def _peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
