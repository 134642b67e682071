"""Sequence classification for the Trainer: rows, loss, accuracy. Checked by `tests/test_finetune_run.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import DataCollatorWithPadding

from allora_analysis.finetune.data import Split, TextData
from allora_analysis.finetune.models import Pretrained, check_rows
from allora_analysis.finetune.setting import Setting
from allora_analysis.finetune.trainer import EVALUATED, Encoded, TrainerParts, Watched, packed
from allora_analysis.validation import ArgumentError


def encode(split: Split, tokenizer: Any, max_length: int) -> list[dict[str, Any]]:
    """A split as token ids, unpadded."""
    encoded = tokenizer(list(split.texts), truncation=True, max_length=max_length, padding=False)
    return [{name: encoded[name][i] for name in encoded} | {"labels": label} for i, label in enumerate(split.labels)]


class Classifying(Watched):
    """A Trainer whose predictions are the sentences' logits; the loss is `measured`'s, exact for any batch."""

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None):
        """Logits of a batch's sentences."""
        inputs = self._prepare_inputs(inputs)
        labels = torch.stack([inputs.pop("labels"), inputs.pop("place")], dim=1)
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(**inputs).logits.float()
        return None, logits, labels


def measured(prediction: Any) -> dict[str, float | str]:
    """The share of sentences whose largest logit is the label's, and the mean of −log of its softmax.

    `right` says which sentences, `packed` in the split's order.
    """
    logits, (labels, places) = prediction.predictions.astype(np.float64), prediction.label_ids.T
    right = logits.argmax(axis=-1) == labels
    in_order = right[np.argsort(places)]
    with np.errstate(invalid="ignore"):  # broken weights: the loss says so
        losses = np.logaddexp.reduce(logits, axis=-1) - logits[np.arange(len(labels)), labels]
    return {"accuracy": float(right.mean()), "loss": float(losses.mean()), "right": packed(in_order)}


def cross_entropy(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """The classifier's loss, meaned over the whole batch, whatever its parts.

    transformers believes of every PEFT model that its own loss knows the batch's size, and BERT's does not: with
    accumulation the gradient would be the sum of the parts' means.
    """
    total = torch.nn.functional.cross_entropy(outputs["logits"].float(), labels, reduction="sum")
    return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)


def trainer_parts(setting: Setting, pretrained: Pretrained, data: TextData) -> TrainerParts:
    """What classification asks of the Trainer."""
    rows = {name: encode(split, pretrained.tokenizer, setting.max_length) for name, split in data.splits.items()}
    for name, of in rows.items():
        if (empty := next((place for place, row in enumerate(of, 1) if not row["input_ids"]), None)) is not None:
            text = data.splits[name].texts[empty - 1]
            raise ArgumentError(f"data {data.name!r}: row {empty} of {name} has no token for this model: {text!r:.60}")
    check_rows(setting.model, pretrained.model, (row["input_ids"] for of in rows.values() for row in of))
    evaluated = {name: Encoded(_short_first(rows[name])) for name in EVALUATED if name in rows}
    collator = DataCollatorWithPadding(pretrained.tokenizer)
    return TrainerParts(Classifying, Encoded(rows["train"]), evaluated, collator, cross_entropy, measured, 64)


def _short_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # Sentences of about one length stand together, so that little is padded.
    placed = [row | {"place": place} for place, row in enumerate(rows)]
    return sorted(placed, key=lambda row: len(row["input_ids"]))
