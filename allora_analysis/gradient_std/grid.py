"""One run's setting, which its record's key holds beside the data's digest; Figure 1's runs and their records.

The grid is stated in full by `experiments/gradient_std.py`, which runs it; the ledger's row and the figure read it.
Numbers only, no torch. Checked by `tests/test_gradient_std_study.py` and `tests/test_gradient_std_grid.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allora_analysis import records

STUDY = "gradient_std"
RESULTS = records.results_folder(STUDY)
# Grows when the meaning of a run with the same setting changes.
PROTOCOL = 1
OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")
# One stated rate each, neither tuned on Figure 1's statistics.
LEARNING_RATES = {"sgd": 0.1, "momentum": 0.02, "adam": 1e-3, "adamw": 1e-3}
WEIGHT_DECAYS = {"sgd": 0.0, "momentum": 0.0, "adam": 0.0, "adamw": 1e-2}
MOMENTUM = 0.9
BETAS = (0.9, 0.999)
EPSILON = 1e-8


@dataclass(frozen=True)
class Setting:
    """A run: its training and what is measured at each epoch.

    Attributes:
        data: the data set's name.
        hidden: widths of the hidden layers.
        drop_rate: 1 − p, in training and in the masks measured.
        optimizer: its name.
        learning_rate: l.
        weight_decay: λ, coupled but for adamw.
        epochs: of training.
        batch_size: images in a batch, in training and when measured.
        masks: K, on the probe and on the fresh batch.
        control_minibatches: minibatches for the control without dropout.
        nested_minibatches: minibatches of the nested design.
        nested_masks: masks on each.
        seed: of everything random.
    """

    data: str
    hidden: tuple[int, ...]
    drop_rate: float
    optimizer: str
    learning_rate: float
    weight_decay: float
    epochs: int
    batch_size: int
    masks: int
    control_minibatches: int
    nested_minibatches: int
    nested_masks: int
    seed: int

    @property
    def keep_prob(self) -> float:
        """The keep probability p = 1 − drop_rate."""
        return 1.0 - self.drop_rate

    def words(self) -> str:
        """The setting in words, for an error: what decides whether training diverges."""
        return (
            f"data {self.data}, optimizer {self.optimizer}, learning_rate {self.learning_rate:g}, "
            f"drop_rate {self.drop_rate:g}, seed {self.seed}"
        )


@dataclass(frozen=True)
class Arm:
    """What runs of one kind share.

    Attributes:
        data: the data set's name.
        optimizer: its name.
        drop_rate: in training and in the masks measured.
    """

    data: str
    optimizer: str
    drop_rate: float


@dataclass(frozen=True)
class Grid:
    """The runs: data × optimizers × seeds at the main drop rate, then the extra drop rates for some optimizers.

    Attributes:
        data: names of the data sets.
        optimizers: each at its one learning rate and weight decay, chosen before any run.
        drop_rate: the main one.
        extra_drop_rates: the others.
        extra_optimizers: those that run at the others too.
        seeds: 0, …, seeds − 1.
        hidden: widths of the hidden layers.
        epochs: of training.
        batch_size: images in a batch, in training and when measured.
        masks: K.
        control_minibatches: minibatches of the control without dropout.
        nested_minibatches: minibatches of the nested design.
        nested_masks: masks on each.
    """

    data: tuple[str, ...] = ("mnist", "cifar10")
    optimizers: tuple[str, ...] = OPTIMIZERS
    drop_rate: float = 0.5
    extra_drop_rates: tuple[float, ...] = (0.0, 0.2)
    extra_optimizers: tuple[str, ...] = ("sgd", "adam")
    seeds: int = 5
    hidden: tuple[int, ...] = (512, 512)
    epochs: int = 10
    batch_size: int = 128
    masks: int = 500
    control_minibatches: int = 100
    nested_minibatches: int = 16
    nested_masks: int = 16

    def arms(self) -> tuple[Arm, ...]:
        """The arms at the main drop rate: the family that is tested."""
        return tuple(Arm(data, optimizer, self.drop_rate) for data in self.data for optimizer in self.optimizers)

    def runs(self, data: str) -> Iterator[tuple[Arm, int]]:
        """All runs on one data set, in the order in which they are run: every optimizer before the second seed."""
        main = [Arm(data, optimizer, self.drop_rate) for optimizer in self.optimizers]
        extra = [Arm(data, name, rate) for rate in self.extra_drop_rates for name in self.extra_optimizers]
        for arms in (main, extra):
            yield from ((arm, seed) for seed in range(self.seeds) for arm in arms)

    def setting(self, arm: Arm, seed: int) -> Setting:
        """A run in full: what its record's config holds."""
        shared = {field.name for field in dataclasses.fields(Setting)} & {
            field.name for field in dataclasses.fields(self)
        }
        return Setting(
            data=arm.data,
            optimizer=arm.optimizer,
            drop_rate=arm.drop_rate,
            learning_rate=LEARNING_RATES[arm.optimizer],
            weight_decay=WEIGHT_DECAYS[arm.optimizer],
            seed=seed,
            **{name: getattr(self, name) for name in shared - {"data", "drop_rate"}},
        )


FIGURE_1 = Grid()


def found(folder: Path | str = RESULTS, grid: Grid = FIGURE_1) -> dict[Arm, dict[int, records.Record]]:
    """The records of a grid. Others, and those of an older protocol, are left alone."""
    runs = {run: grid.setting(*run) for data in grid.data for run in grid.runs(data)}
    one_each: dict[Arm, dict[int, records.Record]] = {}
    for (arm, seed), record in records.find_each(folder, STUDY, PROTOCOL, runs).items():
        one_each.setdefault(arm, {})[seed] = record
    return one_each


def recorded(folder: Path | str = RESULTS, grid: Grid = FIGURE_1) -> dict[Arm, dict[int, list[dict[str, Any]]]]:
    """What is recorded of a grid; refuses what `found` refuses."""
    return {
        arm: {seed: record.result["epochs"] for seed, record in runs.items()}
        for arm, runs in found(folder, grid).items()
    }
