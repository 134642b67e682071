"""The rows of a split: sentences and labels, or multiple-choice rows in LLM-Adapters' form (Hu et al., 2023).

A multiple-choice row is an object with `instruction`, `input` (may be empty), `output` ("the correct answer is
answer2") and `answer` ("answer2"). The instruction ends with "Answer format: answer1/answer2/…", which lists what may
be answered: each answer in the output's place is a candidate.
Checked by `tests/test_finetune_data.py` and `tests/test_finetune_multiple_choice.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from allora_analysis.validation import ArgumentError

NAMES = ("train", "validation", "test")
FORMAT = re.compile(r"Answer format: *(\S+)\s*$")
# Alpaca's prompt, which LLM-Adapters trains with.
PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
PROMPT_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)


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
    """Whether a text can be written as UTF-8, and so tokenized and recorded: it has no half of a surrogate pair."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


@dataclass(frozen=True)
class Choices(Split):
    """Prompts, and for each the outputs that it may be given.

    Attributes:
        texts: the prompts.
        labels: which output is right, from 0.
        candidates: the outputs of each prompt.
        tasks: the task that each prompt is of; empty: all are of one.
    """

    candidates: tuple[tuple[str, ...], ...] = ()
    tasks: tuple[str, ...] = ()


def joined(by_task: Mapping[str, Split]) -> Choices:
    """The prompts of several tasks in one split, each with its task."""
    wrong = next((task for task, split in by_task.items() if not isinstance(split, Choices)), None)
    if wrong is not None:
        raise ArgumentError(f"data: the task {wrong} has no multiple-choice rows; a folder of tasks must have no other")
    parts = {
        name: tuple(value for split in by_task.values() for value in getattr(split, name))
        for name in ("texts", "labels", "candidates")
    }
    return Choices(**parts, tasks=tuple(task for task, split in by_task.items() for _ in split.labels))


def is_choice(row: Any) -> bool:
    """Whether a row is of this form."""
    return isinstance(row, dict) and "instruction" in row


def choices(rows: list[tuple[str, Any]]) -> Choices:
    """The prompts and candidates of a split's rows; one of another form is refused."""
    made = [_row(where, row) for where, row in rows]
    return Choices(tuple(one[0] for one in made), tuple(one[1] for one in made), tuple(one[2] for one in made))


def _row(where: str, row: Any) -> tuple[str, int, tuple[str, ...]]:
    wanted = ("instruction", "output", "answer")
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in wanted):
        raise ArgumentError(f'data: {where} has no text for each of "instruction", "output" and "answer": {row!r:.80}')
    found = FORMAT.search(row["instruction"])
    if found is None:
        raise ArgumentError(f"data: {where}: its instruction must end with 'Answer format: answer1/answer2/…'")
    answers, right = found[1].split("/"), row["answer"]
    if right not in answers or len(set(answers)) < len(answers) or len(answers) < 2:
        raise ArgumentError(f"data: {where}: answer {right!r:.40} is not one of {'/'.join(answers)!r:.60}")
    if not row["output"].endswith(right):
        raise ArgumentError(f"data: {where}: output {row['output']!r:.60} does not end with the answer {right!r:.40}")
    stem = row["output"].removesuffix(right)
    prompt = (PROMPT_WITH_INPUT if row.get("input") else PROMPT).format(**{"input": "", **row})
    if not whole(prompt + row["output"]):
        raise ArgumentError(f"data: {where}: its text has half a surrogate pair: {row!r:.80}")
    return prompt, answers.index(right), tuple(stem + answer for answer in answers)
