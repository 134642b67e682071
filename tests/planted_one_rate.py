"""A planted table of the laboratory's arms at one rate, for the rows and the picture that read it."""

import math

import numpy as np

from allora_analysis.laboratory import table as tables
from allora_analysis.laboratory.one_rate import OPTIMIZERS, SEEDS, lora, points
from allora_analysis.laboratory.table import Row, Table

IMAGES, ALL = 10_000, len(SEEDS)


def planted(accuracy, seeds=ALL) -> Table:
    """A table in which every cell has `accuracy(cell)` on average, and noise of its own of half a point."""
    table = Table(tables.header("toy", "0", 5, IMAGES))
    for optimizer, best in zip(OPTIMIZERS, (0.01, 0.1), strict=True):
        for factor in (0.1, 1.0, 10.0):
            table.rows[lora(optimizer)][best * factor, 1000, 5] = Row(
                (1 + abs(math.log(factor)),) * 5, (0,) * 5, (1.0,) * 5
            )
    for index, point in enumerate(points()):
        noise = np.random.default_rng(index).normal(0, 0.005, seeds)
        shares = accuracy(point) + noise - noise.mean()
        right = tuple(int(one) for one in np.rint(IMAGES * shares))
        losses = tuple(float(1 - share) for share in shares)
        table.rows[point.cell][point.rate(table), 0, seeds] = Row(losses, right, losses)
    return table


def rising(share):
    """LoRA rises by four points from η² = 1 to 4; a candidate by a share of it."""

    def accuracy(point):
        cell = point.cell
        steps = 0.02 * math.log2(cell.eta2 or 1)
        if cell.rule == "lora":
            return 0.8 + steps * (cell.head == "eta_l")
        return 0.8 + steps * share(cell)

    return accuracy


def both(cell):
    return 1.0 * (cell.scaled and cell.head == "eta_l")
