"""What a task asks of the Trainer. Checked by `tests/test_finetune_run.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch.utils.data import Dataset
from transformers import Trainer

from allora_analysis.finetune.history import Diverged

EVALUATED = ("validation", "test")


def packed(right: Bool[np.ndarray, " rows"]) -> str:
    """Which rows were right, eight to a byte, as hexadecimal digits: what a record keeps of each prediction.

    `grid.reading.right_rows` unpacks them.
    """
    return np.packbits(right).tobytes().hex()


class Watched(Trainer):
    """The Trainer, which stops at the first loss that is not finite, before its gradient is used."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The loss of one part of a batch; its gradient is added.

        A loss that is not finite, on this process or another, raises `Diverged`.
        """
        loss = super().training_step(*args, **kwargs)
        if not self.accelerator.gather(loss.reshape(1)).isfinite().all():
            raise Diverged(self.state.global_step + 1)
        return loss


class Encoded(Dataset):
    """Rows of token ids, unpadded.

    Args:
        rows: what the collator takes.
    """

    def __init__(self, rows: list[dict[str, Any]]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self.rows[index])


@dataclass(frozen=True)
class TrainerParts:
    """A task's parts of a Trainer.

    Attributes:
        trainer: its class.
        train: rows to train on.
        evaluated: rows to evaluate on, by split.
        collator: pads a batch.
        loss: of the model's outputs and labels, meaned over the whole batch, whatever its parts.
        metrics: of an evaluation's predictions.
        evaluation_batch: rows in a batch of an evaluation, which changes no result.
    """

    trainer: type[Watched]
    train: Encoded
    evaluated: dict[str, Encoded]
    collator: Callable[..., Any]
    loss: Callable[..., torch.Tensor]
    metrics: Callable[[Any], dict[str, float | str]]
    evaluation_batch: int
