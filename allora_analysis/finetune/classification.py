"""Sequence classification for the Trainer: rows, loss, accuracy. Checked by `tests/test_finetune_run.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import DataCollatorWithPadding

from allora_analysis.finetune.asked import EVALUATED, Asked, Encoded, Watched
from allora_analysis.finetune.data import TextData
from allora_analysis.finetune.models import Pretrained
from allora_analysis.finetune.setting import Setting
from allora_analysis.finetune.splits import Split


def encode(split: Split, tokenizer: Any, max_length: int) -> list[dict[str, Any]]:
    """A split as token ids, unpadded.

    Args:
        split: sentences and labels.
        tokenizer: the model's.
        max_length: tokens after which a sentence is cut.

    Returns:
        A row a sentence.
    """
    encoded = tokenizer(list(split.texts), truncation=True, max_length=max_length, padding=False)
    return [{name: encoded[name][i] for name in encoded} | {"labels": label} for i, label in enumerate(split.labels)]


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


def asked(setting: Setting, pretrained: Pretrained, data: TextData) -> Asked:
    """What classification asks of the Trainer.

    Args:
        setting: the run.
        pretrained: its model.
        data: its sentences.

    Returns:
        The parts.
    """
    rows = {name: encode(split, pretrained.tokenizer, setting.max_length) for name, split in data.splits.items()}
    for name in EVALUATED:
        rows.get(name, []).sort(key=lambda row: len(row["input_ids"]))  # short ones together: less padding
    evaluated = {name: Encoded(rows[name]) for name in EVALUATED if name in rows}
    collator = DataCollatorWithPadding(pretrained.tokenizer)
    return Asked(Watched, Encoded(rows["train"]), evaluated, collator, cross_entropy, accuracy, 64)
