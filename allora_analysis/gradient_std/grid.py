"""Figure 1's fixed grid of runs, and what was recorded of it. Checked by `tests/test_gradient_std_grid.py`.

The grid is stated in full by `experiments/gradient_std.py`, which runs it; the ledger's row and the figure read it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allora_analysis import records
from allora_analysis.gradient_std.setting import LEARNING_RATES, OPTIMIZERS, PROTOCOL, WEIGHT_DECAYS, Setting

STUDY = "gradient_std"
RESULTS = records.results_folder(STUDY)


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
        """The arms at the main drop rate: the family that is tested.

        Returns:
            data × optimizers.
        """
        return tuple(Arm(data, optimizer, self.drop_rate) for data in self.data for optimizer in self.optimizers)

    def runs(self, data: str) -> Iterator[tuple[Arm, int]]:
        """All runs on one data set, in the order in which they are run: every optimizer before the second seed.

        Args:
            data: its name.

        Yields:
            Arm and seed.
        """
        main = [Arm(data, optimizer, self.drop_rate) for optimizer in self.optimizers]
        extra = [Arm(data, name, rate) for rate in self.extra_drop_rates for name in self.extra_optimizers]
        for arms in (main, extra):
            yield from ((arm, seed) for seed in range(self.seeds) for arm in arms)

    def setting(self, arm: Arm, seed: int) -> Setting:
        """A run in full: what its record's config holds.

        Args:
            arm: the arm.
            seed: the seed.

        Returns:
            The setting.
        """
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
    """The records of a grid. Others, and those of an older protocol, are left alone.

    Args:
        folder: the folder of records; it need not exist.
        grid: the grid.

    Returns:
        The arms that have a run, in the grid's order; of each the records by seed.

    Raises:
        ArgumentError: a run recorded twice, on two data sets of one name.
    """
    runs = {run: grid.setting(*run) for data in grid.data for run in grid.runs(data)}
    one_each: dict[Arm, dict[int, records.Record]] = {}
    for (arm, seed), record in records.find_each(folder, STUDY, PROTOCOL, runs).items():
        one_each.setdefault(arm, {})[seed] = record
    return one_each


def recorded(folder: Path | str = RESULTS, grid: Grid = FIGURE_1) -> dict[Arm, dict[int, list[dict[str, Any]]]]:
    """What is recorded of a grid; arguments and errors as in `found`.

    Args:
        folder: the folder of records.
        grid: the grid.

    Returns:
        By arm and seed, a run's epochs as recorded: {"epoch": 0, "probe": {…}, …}, ….
    """
    return {
        arm: {seed: record.result["epochs"] for seed, record in runs.items()}
        for arm, runs in found(folder, grid).items()
    }
