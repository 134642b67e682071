"""Dropout in LoRA on a language model's features: `python -m experiments.dropout_features`.

**Question.** On a linear teacher and on digits' pixels, early stopping or weight decay do as well as drop rate 0.05,
and after a few steps dropout costs. On real features of text too, in batches, and under AdamW?

**Arms.** all-MiniLM-L6-v2's mean-pooled features of rotten_tomatoes, centered and scaled so that their mean square over
the training sentences is 1; softmax of W = BA, rank 8, B = 0, masks on the features as LoRA has them, 400 steps of 32
sentences, of 100 in all or of all 8,530, at a constant rate, under SGD and under AdamW (`laboratory.features.TRIALS`).
No dropout and no decay; drop rates 0.05, 0.2 and 0.5; three weight decays a decade apart. Seven learning rates half a
decade apart. *One rate*: the one of the least mean validation loss after 400 steps without dropout and decay. *Own
rates*: for each arm the one of the least mean validation loss at its best of twelve times.

**Seeds.** 1000 to 1003 choose the rates, 0 to 19 judge: of the sentences drawn, their order, A, the masks. Arms share
them. What seeds do not vary is the model, the data and the test sentences.

**Test.** Logarithms of ratios of test losses by seed, Student's t, one-sided at 0.05 either way, Holm over the cases.
`3.1-not-a-must-have-minilm`, four cases (trials): with own rates, the better of stopping alone and of stopping with
weight decay, the arm and the time chosen on validation sentences by each seed, is at most 5 % above drop rate 0.05 at
the time that its validation sentences choose. `3.1-few-steps-minilm`, twelve cases (trials × drop rates): at one rate,
after 20 of 400 steps, the drop rate's loss is above that of none. A sentence holds if it holds in every case, is
refuted if its opposite is shown in one, and undecided else. These are the digits' rows (`3.1-not-a-must-have-softmax`,
`3.1-few-steps-softmax`), whose outcomes had been seen; none on these features had.

**Few steps again**, a rule added when these twenty had been read, before its own trials. They left
`3.1-few-steps-minilm` open: in 7 of twelve cases dropout did not clearly cost, and one would need 200,000 seeds. For
100 sentences the one rate is so low that 20 steps hardly move the loss, so that the case asks for nothing; on all
sentences 20 steps move it little, too. The row asks now of all sentences alone, six cases (two optimizers × three drop
rates), after 80 of the 400 steps (2,560 sentences, 0.3 of a pass), by the same test at rates chosen in the same way. Of
the times recorded 80 is the one at which the twenty's least cost was largest; all six cases hold on them there. The
seeds 20 to 119, which nothing has used, judge it alone, whatever they show; the twenty stand beside. At the twenty's
spread they show all six where each truth is what it was there (0.19 % of test loss at the least), and with probability
0.88 where each is half of that.

**Stopping rule.** The list is fixed; every trial is recorded whatever it shows.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from tyro.conf import arg

from allora_analysis import cli, outputs, records
from allora_analysis.laboratory.features import (
    DATA,
    FRESH,
    MODEL,
    PROTOCOL,
    RESULTS,
    STUDY,
    TRIALS,
    Features,
    Trial,
    run,
)
from allora_analysis.study import progress
from allora_analysis.validation import ArgumentError, choice, count

if TYPE_CHECKING:
    from allora_analysis.finetune.data import Split
    from allora_analysis.finetune.models import Pretrained

BATCH, LONGEST = 64, 128  # sentences of a pass, tokens of a sentence
LISTED = (*TRIALS, *FRESH)


@dataclass(frozen=True)
class Arguments:
    """Train LoRA on a language model's features with dropout and without; what is recorded is skipped."""

    model: Annotated[str, arg(metavar="FOLDER|HUB_ID|PACKAGE")]
    """all-MiniLM-L6-v2, as transformers loads it."""
    data: Annotated[str, arg(metavar="FOLDER|HUB_ID")]
    """rotten_tomatoes: train, validation and test.jsonl (or .jsonl.gz), rows with text and label."""
    only: Annotated[tuple[str, ...], arg(metavar="[WORD ...]", help_behavior_hint="")] = ()
    """Only trials of these optimizers: sgd, adamw."""
    seeds: int | None = None
    """Only this many judging seeds, each trial's first; default: all. A trial of fewer is another: no row reads it."""
    results: Annotated[Path, arg(metavar="FOLDER")] = RESULTS
    """Where the records go; default: experiments/results/dropout_features of this repository."""
    dry_run: bool = False
    """List the trials, and which of them are recorded, and run none."""


def pooled(pretrained: Pretrained, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """The last states' mean over a sentence's tokens (N×n₂), and the labels."""
    import torch

    found = []
    for start in progress(range(0, len(split), BATCH), "features"):
        texts = list(split.texts[start : start + BATCH])
        tokens = pretrained.tokenizer(texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
        with torch.no_grad():
            states = pretrained.model.eval()(**tokens, output_hidden_states=True).hidden_states[-1]
        mask = tokens["attention_mask"][..., None]
        found.append(((states * mask).sum(dim=1) / mask.sum(dim=1)).numpy())
    return np.concatenate(found).astype(np.float32), np.array(split.labels)


def scaled(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> Features:
    """Centered on the first part's mean and divided by the root of its mean square."""
    center = parts[0][0].mean(axis=0)
    size = np.sqrt(np.mean((parts[0][0] - center) ** 2))
    return Features(*(((x - center) / size, labels) for x, labels in parts))


def chosen(arguments: Arguments) -> list[Trial]:
    """The trials asked for."""
    for word in arguments.only:
        choice("--only", word, tuple(dict.fromkeys(one.optimizer for one in LISTED)))
    wanted = [one for one in LISTED if not arguments.only or one.optimizer in arguments.only]
    if arguments.seeds is None:
        return wanted
    most = count("--seeds", arguments.seeds)
    return [dataclasses.replace(one, seeds=min(most, one.seeds)) for one in wanted]


def experiment(arguments: Arguments) -> int:
    """Run what is not recorded.

    Args:
        arguments: the flags.

    Raises:
        ArgumentError: results that are no folder, data without a validation split or with other labels.
    """
    from allora_analysis.finetune import data as texts
    from allora_analysis.finetune import models, sources

    outputs.refuse_file("--results", arguments.results)
    wanted = chosen(arguments)
    data = texts.load(arguments.data, DATA)
    if data.classes is None or "validation" not in data.splits:
        raise ArgumentError(f"--data {arguments.data}: labels and a validation split are needed; give {DATA}")
    digests = sources.digests(arguments.model, data.digest, arguments.dry_run)
    known = records.known(arguments.results, STUDY, PROTOCOL, wanted, digests)
    todo = [one for one, is_known in zip(wanted, known, strict=True) if not is_known]
    if arguments.dry_run:
        told = (f"{one.words}, {one.seeds} seeds from {one.first_seed}" for one in wanted)
        outputs.list_runs(told, known)
    outputs.say(f"{len(wanted) - len(todo)} of {len(wanted)} trials recorded in {arguments.results}")
    if not todo or arguments.dry_run:
        return 0
    outputs.check_folder("--results", arguments.results)
    pretrained = models.load(arguments.model, data.classes)
    features = scaled([pooled(pretrained, data.splits[name]) for name in Features._fields])
    with cli.goes_on():
        for one in progress(todo, f"{MODEL}'s features"):
            facts, begun = records.provenance(("transformers",)), time.perf_counter()
            found = run(features, one)
            facts["seconds"] = time.perf_counter() - begun
            records.save(arguments.results, STUDY, one, found, protocol=PROTOCOL, digests=digests, provenance=facts)
            outputs.say(f"recorded {one.words}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The experiment's command."""
    return cli.guarded(lambda: experiment(cli.parse(Arguments, "python -m experiments.dropout_features", argv)))


if __name__ == "__main__":
    raise SystemExit(main())
