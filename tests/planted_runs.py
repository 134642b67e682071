"""Records of a grid as if it had been run, with planted changes of the average and of the worst entry."""

import dataclasses

import numpy as np

from allora_analysis import records
from allora_analysis.gradient_std.grid import FIGURE_1, PROTOCOL, STUDY
from allora_analysis.gradient_std.summary import KEPT

# Figure 1's own arms and seeds, but short runs: many are written and read.
MAIN = dataclasses.replace(FIGURE_1, extra_drop_rates=(), epochs=2, fresh_seeds=0, again_seeds=())
LATER = dataclasses.replace(MAIN, fresh_seeds=5)
AGAIN = dataclasses.replace(LATER, again_seeds=(("sgd", 10), ("momentum", 10), ("adam", 5), ("adamw", 5)))


def summary(batch: str, average: float, worst: float) -> dict[str, float]:
    spread = {name: average * (1 + 0.1 * index) for index, name in enumerate(KEPT[batch])}
    return spread | {"mean": average, "worst_held_out": worst}


def epochs(average, worst) -> list[dict]:
    """Epochs whose probe has these values; the fresh batch's are another ten times as large."""
    return [
        {
            "epoch": epoch,
            "test_accuracy": 0.5,
            "train_loss": 1.0,
            "probe": summary("probe", a, w),
            "fresh": summary("fresh", 10 * a, 10 * w),
            "no_dropout_fresh": summary("no_dropout_fresh", a / 2, w / 2),
            "decomposition": {"mask": 3 * a, "minibatch": a, "total": 4 * a, "total_stderr": 0.4 * a},
        }
        for epoch, (a, w) in enumerate(zip(average, worst, strict=True))
    ]


def plant(folder, changes, grid=MAIN, deviation=0.01, seeds=None, protocol=PROTOCOL, digest="0" * 64):
    """Save a run for each arm and seed.

    `changes(arm)`: the mean log change of the average and of the worst entry, first to last epoch, in a straight line;
    each seed's own differs by a fixed pattern of this deviation. None: the arm has no record.
    """
    for data in grid.data:
        for arm, seed in grid.runs(data):
            if (pair := changes(arm)) is None or (seeds is not None and seed >= seeds):
                continue
            steps, wiggle = np.linspace(0, 1, grid.epochs + 1), deviation * (seed % 5 - 2)
            average, worst = (np.exp((change + wiggle) * steps) for change in pair)
            result = {"epochs": epochs(average, 5 * worst)}
            digests = {"data": digest}
            setting = grid.setting(arm, seed)
            records.save(folder, STUDY, setting, result, protocol=protocol, digests=digests, provenance={})
