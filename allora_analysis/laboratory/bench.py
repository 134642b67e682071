"""What runs the laboratory's cells: tunes them, and judges them at the rates among which each seed chooses.

Checked by `tests/test_laboratory.py` and `tests/test_laboratory_shifted.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from allora_analysis.laboratory import table as tables
from allora_analysis.laboratory.design import Cell, Rates, own_rates, tuned_as
from allora_analysis.laboratory.table import TUNING, Row, Table

if TYPE_CHECKING:
    from allora_analysis.laboratory.training import Task


class Bench:
    """Runs what a table has not.

    Args:
        table: as `tables.begin` returned it.
        task: the pretrained network and its images.
    """

    def __init__(self, table: Table, task: Task):
        from allora_analysis.laboratory.training import run

        self.table, self._task, self._run = table, task, run

    def ask(self, cell: Cell, rate: float, seeds: range) -> None:
        """Run those seeds that the table has not, and write them: a line, or one for each gap that they fill.

        Args:
            cell: the cell.
            rate: its learning rate.
            seeds: of a line, where none of them is known.
        """
        lacking = enumerate(self.table.lacking(cell, rate, seeds))
        for _, gap in itertools.groupby(lacking, key=lambda one: one[1] - one[0]):
            own = [seed for _, seed in gap]
            outcomes = [self._run(self._task, cell, rate, seed) for seed in own]
            columns = (tuple(getattr(one, name) for one in outcomes) for name in Row._fields)
            tables.add(self.table, (cell, rate, own[0], len(own)), Row(*columns))

    def tune(self, cell: Cell) -> float:
        """Choose a cell's rate.

        Args:
            cell: the cell.

        Returns:
            The best on the tuning seeds.
        """
        cell = tuned_as(cell)
        for rate in tables.rates(cell):
            self.ask(cell, rate, TUNING)
        while (rate := tables.further(self.table.scores(cell))) is not None:
            self.ask(cell, rate, TUNING)
        return self.table.best_rate(cell)

    def judge(self, cell: Cell, chunks: Sequence[range], fine: bool = False) -> None:
        """Run a cell's judging seeds at the rates among which they choose.

        Args:
            cell: the cell.
            chunks: the seeds, by lines.
            fine: whether they choose among nine rates or more.
        """
        self.tune(cell)
        grids: tuple[Rates, ...] = ()
        while grids != (grids := self.table.grids(cell, fine)):
            for seeds in chunks:
                for rate in own_rates(grids, seeds.start):
                    self.ask(cell, rate, seeds)
