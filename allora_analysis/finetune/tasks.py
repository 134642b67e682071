"""What each task gives the Trainer: rows, loss, accuracy. The doors are `classification` and `multiple_choice`.

Classification is of sentences, by a head's logits. Multiple choice is by the likelihood of each answer: a causal
language model gives an output y₁…y_m after a prompt x the score Σ_t log P(y_t | x, y_<t); the candidate of the largest
score is the answer. Trained is −log P of the right output's tokens, the prompt's tokens count for nothing.

Checked by `tests/test_finetune_run.py` and `tests/test_finetune_multiple_choice.py`.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding

from allora_analysis.finetune.data import Choices, Split, TextData
from allora_analysis.finetune.models import Pretrained, check_rows
from allora_analysis.finetune.setting import Setting
from allora_analysis.finetune.trainer import EVALUATED, IGNORED, Encoded, TrainerParts, Watched, packed
from allora_analysis.validation import ArgumentError

SENTENCES, ANSWERS = 64, 16  # in a batch of an evaluation: an answer's logits have a vocabulary's size at each token


def encode_sentences(split: Split, tokenizer: Any, max_length: int) -> list[dict[str, Any]]:
    """A split as token ids, unpadded."""
    encoded = tokenizer(list(split.texts), truncation=True, max_length=max_length, padding=False)
    return [{name: encoded[name][i] for name in encoded} | {"labels": label} for i, label in enumerate(split.labels)]


class Classifying(Watched):
    """A Trainer whose predictions are the sentences' logits; `measured_sentences` has the loss, exact for any batch."""

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None):
        """Logits of a batch's sentences."""
        inputs = self._prepare_inputs(inputs)
        labels = torch.stack([inputs.pop("labels"), inputs.pop("place")], dim=1)
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(**inputs).logits.float()
        return None, logits, labels


def measured_sentences(prediction: Any) -> dict[str, float | str]:
    """The share of sentences whose largest logit is the label's, and the mean of −log of its softmax.

    `right` says which sentences, `packed` in the split's order.
    """
    logits, (labels, places) = prediction.predictions.astype(np.float64), prediction.label_ids.T
    right = logits.argmax(axis=-1) == labels
    in_order = right[np.argsort(places)]
    with np.errstate(invalid="ignore"):  # broken weights: the loss says so
        losses = np.logaddexp.reduce(logits, axis=-1) - logits[np.arange(len(labels)), labels]
    return {"accuracy": float(right.mean()), "loss": float(losses.mean()), "right": packed(in_order)}


def sentence_loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    """The classifier's loss, meaned over the whole batch, whatever its parts.

    transformers believes of every PEFT model that its own loss knows the batch's size, and BERT's does not: with
    accumulation the gradient would be the sum of the parts' means.
    """
    total = cross_entropy(outputs["logits"].float(), labels, reduction="sum")
    return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)


def classification(setting: Setting, pretrained: Pretrained, data: TextData) -> TrainerParts:
    """What classification asks of the Trainer."""
    rows = {
        name: encode_sentences(split, pretrained.tokenizer, setting.max_length) for name, split in data.splits.items()
    }
    for name, of in rows.items():
        if (empty := next((place for place, row in enumerate(of, 1) if not row["input_ids"]), None)) is not None:
            text = data.splits[name].texts[empty - 1]
            raise ArgumentError(f"data {data.name!r}: row {empty} of {name} has no token for this model: {text!r:.60}")
    check_rows(setting.model, pretrained.model, (row["input_ids"] for of in rows.values() for row in of))
    evaluated = {name: Encoded(_placed(rows[name])) for name in EVALUATED if name in rows}
    collator = DataCollatorWithPadding(pretrained.tokenizer)
    return TrainerParts(
        Classifying, Encoded(rows["train"]), evaluated, collator, sentence_loss, measured_sentences, SENTENCES
    )


def _placed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return _short_first([row | {"place": place} for place, row in enumerate(rows)])


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """−log P of each answer's token given all before it, (rows, tokens − 1) in float32: logits at t foretell the token
    t + 1; 0 where the label is `IGNORED`.
    """
    ahead = logits[:, :-1].float().transpose(1, 2)
    return cross_entropy(ahead, labels[:, 1:], ignore_index=IGNORED, reduction="none")


def answer_loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    """−log P, meaned over the answers' tokens of the whole batch, whatever its parts."""
    total = token_losses(outputs["logits"], labels).sum()
    return total / ((labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch)


def encode_choices(split: Choices, tokenizer: Any, max_length: int) -> list[list[dict[str, list[int]]]]:
    """Each prompt with each of its candidates, as token ids.

    A row that is too long loses the start of its prompt, as much for each of its candidates; the answer is never cut. A
    list a prompt, of a row a candidate: `input_ids`, `attention_mask`, `labels`.
    """
    made = []
    for text, outputs in zip(split.texts, split.candidates, strict=True):
        prompt = tokenizer(text)["input_ids"]
        answers = [tokenizer(output, add_special_tokens=False)["input_ids"] for output in outputs]
        room = max_length - max(map(len, answers))
        if room < 1:
            raise ArgumentError(f"max_length must leave room for a prompt, received {max_length}: {outputs[0]!r:.60}")
        start = prompt[-room:]
        made.append([_row(start, answer) for answer in answers])
    return made


def _row(prompt: list[int], answer: list[int]) -> dict[str, list[int]]:
    tokens = prompt + answer
    return {"input_ids": tokens, "attention_mask": [1] * len(tokens), "labels": [IGNORED] * len(prompt) + answer}


class Scoring(Watched):
    """A Trainer whose predictions are the rows' scores, and whose label ids are `FACTS` of each row."""

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None):
        """Scores of a batch's rows."""
        inputs = self._prepare_inputs(inputs)
        facts, labels = inputs.pop("facts"), inputs.pop("labels")
        with torch.no_grad(), self.compute_loss_context_manager():
            scores = -token_losses(model(**inputs).logits, labels).sum(dim=1)
        return None, scores, facts


def measured_choices(prediction: Any, tasks: Sequence[str] = ()) -> dict[str, float | str]:
    """The share of prompts whose right output has the largest score, and the right outputs' mean loss by token.

    Label ids: for each row the number of its prompt, whether it is right, its answer's tokens, the place of its task in
    `tasks`. "right" is `packed` in the prompts' order; each task's share is "TASK_accuracy". Of equal scores the first
    counts.
    """
    scores, (prompt, right, tokens, task) = prediction.predictions, prediction.label_ids.T
    order = np.lexsort((np.arange(len(scores)), -scores, prompt))  # within each prompt the largest score first
    best = order[np.unique(prompt[order], return_index=True)[1]]
    chosen = right.astype(bool)
    found: dict[str, float | str] = {
        "accuracy": float(chosen[best].mean()),
        "loss": float(-scores[chosen].sum() / tokens[chosen].sum()),
    }
    own = {name: chosen[best[task[best] == place]] for place, name in enumerate(tasks)}
    found["right"] = packed(chosen[best])
    return found | {f"{name}_accuracy": float(rights.mean()) for name, rights in own.items() if len(rights)}


def multiple_choice(setting: Setting, pretrained: Pretrained, data: TextData) -> TrainerParts:
    """What multiple choice asks of the Trainer."""
    rows = {
        name: encode_choices(split, pretrained.tokenizer, setting.max_length) for name, split in data.splits.items()
    }
    tokens = (row["input_ids"] for split in rows.values() for question in split for row in question)
    check_rows(setting.model, pretrained.model, tokens)
    train = [of[right] for of, right in zip(rows["train"], data.splits["train"].labels, strict=True)]
    tasks = list(dict.fromkeys(data.splits["test"].tasks))
    evaluated = {name: Encoded(_scored(rows[name], data.splits[name], tasks)) for name in EVALUATED if name in rows}
    collator = DataCollatorForSeq2Seq(pretrained.tokenizer, label_pad_token_id=IGNORED)
    metrics = functools.partial(measured_choices, tasks=tasks)
    return TrainerParts(Scoring, Encoded(train), evaluated, collator, answer_loss, metrics, ANSWERS)


def _scored(rows: list[list[dict[str, list[int]]]], split: Choices, tasks: list[str]) -> list[dict[str, list[int]]]:
    places = [tasks.index(task) for task in split.tasks] or [-1] * len(split)
    made = []
    for number, of in enumerate(rows):
        for place, row in enumerate(of):
            answer = sum(label != IGNORED for label in row["labels"])
            made.append(row | {"facts": [number, int(place == split.labels[number]), answer, places[number]]})
    return _short_first(made)


def _short_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # Rows of about one length stand together, so that little is padded.
    return sorted(rows, key=lambda row: len(row["input_ids"]))
