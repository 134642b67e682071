"""One run's setting, which its record's key holds beside the data's digest; Figure 1's runs and their records.

The grid is stated in full by `experiments/gradient_std.py`, which runs it; the ledger's row and the figure read it.
Numbers only, no torch. Checked by `tests/test_gradient_std_study.py` and `tests/test_experiment_gradient_std.py`.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from allora_analysis import records

STUDY = "gradient_std"
RESULTS = records.results_folder(STUDY)
# Grows when the meaning of a run with the same setting changes.
PROTOCOL = 1
LOTS = ("first", "fresh", "again")  # of seeds
OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")
# One stated rate each, neither tuned on Figure 1's statistics.
LEARNING_RATES = {"sgd": 0.1, "momentum": 0.02, "adam": 1e-3, "adamw": 1e-3}
WEIGHT_DECAYS = {"sgd": 0.0, "momentum": 0.0, "adam": 0.0, "adamw": 1e-2}
MOMENTUM = 0.9
BETAS = (0.9, 0.999)
EPSILON = 1e-8


@dataclass(frozen=True)
class Setting:
    """A run: its training and what is measured at each epoch; flags of `python -m allora_analysis.gradient_std` too."""

    data: Annotated[str, arg(metavar="digits|mnist|cifar10|FILE.npz")] = "digits"
    """The images: digits (embedded), mnist, cifar10, or an .npz with x_train, y_train, x_test and y_test."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers, at least one. The paper's figure does not say; the real runs take 512 512."""
    drop_rate: float = 0.5
    """Drop rate 1 - keep_prob in [0, 1), in training and in the masks measured; 0 is the control without dropout."""
    optimizer: Annotated[str, arg(metavar="sgd|momentum|adam|adamw")] = "sgd"
    """momentum is SGD with momentum 0.9."""
    learning_rate: float = LEARNING_RATES["sgd"]
    """Learning rate."""
    weight_decay: float = WEIGHT_DECAYS["sgd"]
    """Weight decay, decoupled for adamw."""
    epochs: int = 5
    """Epochs of training, 1 or more; epoch 0 is measured before training."""
    batch_size: int = 128
    """Images in a batch, in training and when measured."""
    masks: int = 100
    """K, masks on the probe batch and on the fresh one, 4 or more: two for each half."""
    control_minibatches: int = 100
    """Minibatches of the control without dropout, 4 or more."""
    nested_minibatches: int = 16
    """Minibatches of the nested design minibatch × mask, 3 or more."""
    nested_masks: int = 16
    """Masks on each minibatch of the nested design, 2 or more."""
    seed: int = 0
    """Of everything random."""

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
    """What runs of one kind share."""

    data: str
    optimizer: str
    drop_rate: float


@dataclass(frozen=True)
class Grid:
    """The runs: data × optimizers × seeds at the main drop rate, then the extra drop rates for some optimizers, then
    fresh seeds of some data at the main one, and fresh ones again.

    Attributes:
        data: names of the data sets.
        optimizers: each at its one learning rate and weight decay, chosen before any run.
        drop_rate: the main one.
        extra_drop_rates: the others.
        extra_optimizers: those that run at the others too.
        seeds: 0, …, seeds − 1.
        fresh_data: the data sets that have fresh seeds too.
        fresh_seeds: how many, from `seeds` on; they judged the change from epoch 1 and left it open.
        again_seeds: by optimizer how many, from there on; they judge that change within a margin.
        hidden, epochs, batch_size, masks, control_minibatches, nested_minibatches, nested_masks: as in `Setting`.
    """

    data: tuple[str, ...] = ("mnist", "cifar10")
    optimizers: tuple[str, ...] = OPTIMIZERS
    drop_rate: float = 0.5
    extra_drop_rates: tuple[float, ...] = (0.0, 0.2)
    extra_optimizers: tuple[str, ...] = ("sgd", "adam")
    seeds: int = 5
    fresh_data: tuple[str, ...] = ("mnist",)
    fresh_seeds: int = 13
    again_seeds: tuple[tuple[str, int], ...] = (("sgd", 30), ("momentum", 30), ("adam", 15), ("adamw", 15))
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
        """All runs on one data set, in the order in which they are run: every optimizer before the next seed."""
        main = [Arm(data, optimizer, self.drop_rate) for optimizer in self.optimizers]
        extra = [Arm(data, name, rate) for rate in self.extra_drop_rates for name in self.extra_optimizers]
        for arms in (main, extra):
            yield from ((arm, seed) for seed in range(self.seeds) for arm in arms)
        if data in self.fresh_data:
            yield from ((arm, seed) for seed in self.fresh for arm in main)
            again = {arm: self.again(arm.optimizer) for arm in main}
            last = max((seeds.stop for seeds in again.values()), default=0)
            yield from ((arm, seed) for seed in range(self.fresh.stop, last) for arm in main if seed in again[arm])

    @property
    def fresh(self) -> range:
        """The fresh seeds."""
        return range(self.seeds, self.seeds + self.fresh_seeds)

    def again(self, optimizer: str) -> range:
        """An optimizer's fresh seeds after these."""
        return range(self.fresh.stop, self.fresh.stop + dict(self.again_seeds).get(optimizer, 0))

    def lot(self, seed: int) -> str:
        """Which of `LOTS` a seed is of."""
        return LOTS[(seed >= self.seeds) + (seed >= self.fresh.stop)]

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


def found(
    folder: Path | str = RESULTS, grid: Grid = FIGURE_1, lot: str = "first"
) -> dict[Arm, dict[int, records.Record]]:
    """The records of one of a grid's `LOTS`. Others, and those of an older protocol, are left."""
    runs = {run: grid.setting(*run) for data in grid.data for run in grid.runs(data) if grid.lot(run[1]) == lot}
    one_each: dict[Arm, dict[int, records.Record]] = {}
    for (arm, seed), record in records.find_each(folder, STUDY, PROTOCOL, runs).items():
        one_each.setdefault(arm, {})[seed] = record
    return one_each


def recorded(
    folder: Path | str = RESULTS, grid: Grid = FIGURE_1, lot: str = "first"
) -> dict[Arm, dict[int, list[dict[str, Any]]]]:
    """What is recorded of one of a grid's `LOTS`; refuses what `found` refuses."""
    return {
        arm: {seed: record.result["epochs"] for seed, record in runs.items()}
        for arm, runs in found(folder, grid, lot).items()
    }
