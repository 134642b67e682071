"""A split of a data set. Checked by `tests/test_finetune_data.py`."""

from __future__ import annotations

from dataclasses import dataclass

NAMES = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Sentences and their labels.

    Attributes:
        texts: the sentences.
        labels: an integer each, from 0.
    """

    texts: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)


def whole(text: str) -> bool:
    """Whether a text can be written as UTF-8, and so tokenised and recorded: it has no half of a surrogate pair.

    Args:
        text: as JSON or the file system has it.

    Returns:
        True if it can.
    """
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
