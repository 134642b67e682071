"""Figure 1 for real: `python -m experiments.gradient_std --data mnist --data-root FOLDER`.

**Question.** While an MLP trains, does the standard deviation over dropout masks of the entries of ∂L/∂W₂ fall on
average over entries, and rise for the worst entry? The paper's caption says so of MNIST and CIFAR-10, and names
neither optimizer, width, drop rate nor number of masks.

**Arms.** Data {MNIST, CIFAR-10} × optimizer {SGD at learning rate 0.1; momentum 0.9 at 0.02; Adam at 0.001; AdamW at
0.001 with weight decay 0.01}, constant rates chosen before any run, one for both data sets. Inputs-512-512-classes,
ReLU, inverted dropout after each hidden layer's ReLU, drop rate 0.5 in training and in the masks measured, batch 128,
10 epochs, K = 500 masks. Epoch 0 is before training. Extra, for SGD and Adam: drop rates 0 (then the masks have no
spread at all and only minibatches do) and 0.2.

**Seeds.** 0, 1, 2, 3, 4: of the initial weights, the order of the images, the masks.

**Controls.** A fixed probe batch beside a fresh one every epoch; the spread over minibatches of the gradient without
dropout; the variance split into masks and minibatch by a nested design; the worst entry chosen on half of the masks
and measured on the other half, since the maximum of estimates is biased upward.

**Test.** Stated in `allora_analysis.gradient_std.summary`: per data set, optimizer and statistic (average, worst
entry), on the probe batch at drop rate 0.5, Δ = log(value after the last epoch / value at epoch 0) of each seed,
Student's t over seeds, 95 % intervals, Holm over all 16 cases at 0.05. Secondary, reported beside it: from epoch 1,
since the paper's axis may begin there. The caption's sentence agrees with a setting if the average falls and the worst
rises, contradicts it if either goes the other way. The verdicts over settings are the ledger's rows 3.1-figure-1
(MNIST) and 3.1-figure-1-cifar10, one-sided, a data set by itself; that rule came after the runs.

**From epoch 1**, a rule added when those five seeds had been read, before its own runs. From the end of the first epoch
they left MNIST open: the average falls under every optimizer, the worst entry's rise is clear under AdamW alone (log
changes, 95 %: SGD 0.21 ± 0.19, momentum 0.23 ± 0.31, Adam 0.48 ± 0.49). The seeds 5 to 17, which nothing has used, run
the four optimizers at drop rate 0.5 and judge alone: on the probe batch, log(value after the last epoch / value after
epoch 1) of the average is below 0 and of the worst entry above it, Student's t over the thirteen seeds, one-sided, Holm
over the four settings at 0.05, as rows 3.1-figure-1 and 3.1-figure-1-cifar10 judge from epoch 0. Row
3.1-figure-1-from-epoch-1 was judged when all 52 runs were there (undecided: the worst entry under SGD and momentum);
the first five seeds were no part of it. Were their means and spreads the true ones, each of the three settings would be
told from 0 at Holm's strictest step with a probability of 0.98, 0.78 and 0.95. CIFAR-10 gets no fresh seeds: there
SGD's average clearly rises from epoch 1, too (0.16 ± 0.02), which contradicts the sentence.

**From epoch 1, within a factor of 1.25**, a rule added when those thirteen seeds had been read, before its own runs.
They left the worst entry open under SGD and momentum (log changes 0.04 and -0.03, standard deviations 0.34 and 0.36),
which as many as 769 and 1,478 seeds would tell from 0; the first five had 0.21 and 0.23 there. So the sentence is
restated as one that thirty seeds can decide: from the end of the first epoch to the last the worst entry rises under
Adam and AdamW, and under SGD and momentum ends, on average over seeds, within a factor of 1.25 of where it was (-20 to
+25 %). The seeds 18 to 47, which nothing has used, run SGD and momentum, 18 to 32 Adam and AdamW, and judge alone:
under Adam and AdamW the log change is above 0, Student's t, one-sided; under SGD and momentum its 90 % interval lies
within ±log 1.25; each tested alone at 0.05, as all four must hold. It is refuted if an adaptive one's change is clearly
below 0 or one of the others' interval lies beyond ±log 1.25, and is undecided else. (Made stricter while runs were
going on, before a result was read: such a refutation is by Holm over the four.) At the thirteen seeds' standard
deviations thirty seeds are within the margin with probability 0.94 and 0.90 where the truth is 0, 0.89 and 0.87 where
it is what the thirteen showed, and AdamW's rise is clear with 0.89, so that all four hold with 0.75 or 0.69 (normal
changes). Row `3.1-figure-1-after-epoch-1` is judged when all ninety runs are there, whatever they show; the thirteen
stand beside. That the caption's own sentence is true under SGD and momentum stays open from epoch 1.

**Stopping rule.** The grid is fixed. Every run is recorded whatever it shows; nothing is added, dropped or rerun
because of a result, but for the fresh seeds; a setting is tested when its 5 seeds (its fresh ones) are there and not
before. A run whose loss is no longer finite stops and is reported as such.

Runs follow one another, every optimizer before the next seed. What is recorded is skipped, and a run that was
stopped goes on after its last finished epoch, so the same command resumes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from allora_analysis import cli, outputs, records
from allora_analysis.gradient_std.grid import FIGURE_1, PROTOCOL, RESULTS, STUDY, Arm, Grid
from allora_analysis.study import INTERRUPTED, progress
from allora_analysis.validation import choice, count

if TYPE_CHECKING:
    from allora_analysis.images import Images


@dataclass(frozen=True)
class Arguments:
    """Run Figure 1's fixed grid on one data set; what is recorded is skipped. Two data sets run side by side."""

    data: Annotated[str, arg(metavar="mnist|cifar10|FILE.npz")]
    """The images: mnist, cifar10, or an .npz with x_train, y_train, x_test and y_test."""
    data_root: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """torchvision's folder, for mnist and cifar10."""
    download: bool = False
    """Fetch the data into the data root where it is missing."""
    only: Annotated[tuple[str, ...], arg(metavar="[WORD ...]", help_behavior_hint="")] = ()
    """Only runs of these optimizers."""
    seeds: int | None = None
    """Only this many seeds, from 0; default: all."""
    data_name: Annotated[str | None, arg(metavar="NAME")] = None
    """mnist or cifar10, whichever the .npz holds; default: the file's stem."""
    results: Annotated[Path, arg(metavar="FOLDER")] = RESULTS
    """Where the records go; default: experiments/results/gradient_std of this repository."""
    dry_run: bool = False
    """List the runs, and which of them are recorded, and run none."""


def run(arguments: Arguments, grid: Grid = FIGURE_1) -> int:
    """Run what the grid has on this data set and the folder has not.

    Returns:
        The exit status: 1 if a run diverged, 130 after Ctrl-C.
    """
    from allora_analysis import images

    loaded = images.load(arguments.data, arguments.data_root, arguments.download, arguments.data_name)
    choice("--data-name", loaded.name, grid.data)
    runs = _chosen(list(grid.runs(loaded.name)), arguments)
    found = {each: _record(arguments.results, grid, each, loaded.digest) for each in runs}
    todo = [each for each, record in found.items() if record is None]
    if arguments.dry_run:
        outputs.list_runs((_words(*each) for each in runs), (record is not None for record in found.values()))
    outputs.say(f"{loaded.name}: {len(runs) - len(todo)} of {len(runs)} runs recorded in {arguments.results}")
    if arguments.dry_run:
        return 0
    _tidy(arguments.results, found.values())
    try:
        failed = [each for each in todo if not _run(arguments.results, grid, each, loaded)]
    except KeyboardInterrupt:
        outputs.remark("interrupted: the same command goes on after the last finished epoch")
        return INTERRUPTED
    return 1 if failed else 0


def _chosen(runs: list[tuple[Arm, int]], arguments: Arguments) -> list[tuple[Arm, int]]:
    optimizers = dict.fromkeys(arm.optimizer for arm, _ in runs)
    for word in arguments.only:
        choice("--only", word, tuple(optimizers))
    seeds = len(runs) if arguments.seeds is None else count("--seeds", arguments.seeds)
    only = arguments.only or tuple(optimizers)
    return [(arm, seed) for arm, seed in runs if arm.optimizer in only and seed < seeds]


def _words(arm: Arm, seed: int) -> str:
    return f"{arm.data}, {arm.optimizer}, drop rate {arm.drop_rate:g}, seed {seed}"


def _record(folder: Path, grid: Grid, run: tuple[Arm, int], digest: str) -> records.Record | None:
    return records.lookup(folder, STUDY, grid.setting(*run), PROTOCOL, {"data": digest})


def _tidy(folder: Path, found: Iterable[records.Record | None]) -> None:
    from allora_analysis.gradient_std.run import tidy

    for record in found:
        if record is not None:
            tidy(folder, record.key)


def _run(folder: Path, grid: Grid, run: tuple[Arm, int], loaded: Images) -> bool:
    import torch

    from allora_analysis.gradient_std.run import Data, Diverged, Run

    if _record(folder, grid, run, loaded.digest) is not None:  # by a neighbor, meanwhile
        return True
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = Data.of(loaded, device)
    start, words = time.monotonic(), _words(*run)
    opened = Run(grid.setting(*run), data, loaded.classes, loaded.digest, folder)
    try:
        for epoch in progress(range(grid.epochs + 1), f"{words}: epochs measured"):
            opened.entry(epoch)
    except Diverged as error:
        outputs.remark(f"diverged, not recorded: {words}: {error}")
        return False
    outputs.say(f"recorded {words}: {time.monotonic() - start:.0f} s")
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """The experiment's command."""
    name = "python -m experiments.gradient_std"
    return cli.guarded(lambda: run(cli.parse(Arguments, name, argv)))


if __name__ == "__main__":
    raise SystemExit(main())
