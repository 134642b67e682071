"""Tables 3 and 4 in the laboratory: every arm at one base rate l and η² = 1, 2, 4, a fresh classifier beside it.

The adapters are on the two hidden layers; the classifier is drawn anew and trained whole, as that of a language model
is. `CANDIDATES` are the procedures of Table 3's row, each with LoRA under the same optimizer. Checked by
`tests/test_laboratory_one_rate.py`.
"""

import dataclasses
from typing import NamedTuple

from allora_analysis.laboratory.design import Cell, check
from allora_analysis.laboratory.table import ENDPOINTS, Table, rounded
from allora_analysis.validation import choice

STEPS, DROP_RATE = 100, 0.05
ETA2 = (1.0, 2.0, 4.0)
SEEDS = range(60)
OPTIMIZERS = ("adamw", "sgd")
EARLY, EARLY_SEEDS = 25, range(60, 260)  # steps; fresh seeds
LEVELS = {"quarter": 0.25, "best": 1.0}  # of LoRA's best rate: there every η·l is below it; and l at it
LORA, BASE, ALLORA, AFTER = "LoRA at η·l", "LoRA, classifier at l", "ALLoRA", "ALLoRAAdamW"
FAMILY = ("ALLoRA-OD", "ASF-LoRA", "LoRA × η")
ARMS = (LORA, BASE, ALLORA, AFTER, *FAMILY)  # ALLoRAAdamW under AdamW alone


def lora(optimizer: str) -> Cell:
    """LoRA, all at l: the reference whose best rate l is a part of, and every arm of LoRA's at η² = 1."""
    return Cell("lora", optimizer, STEPS, DROP_RATE, head="l")


def arm(name: str, optimizer: str, eta2: float) -> Cell:
    """One arm at one η²; what does nothing at η² = 1 is left out, so that equal runs are one cell."""
    plain, rule = lora(optimizer), {"eta2": eta2, "adaptor": "inverse_sqrt"}
    if name in (LORA, BASE, "LoRA × η") and eta2 == 1:
        return plain
    of = {
        LORA: {"eta2": eta2, "scaled": True, "head": "eta_l"},
        BASE: {"eta2": eta2, "scaled": True},
        ALLORA: {"rule": "allora"} | rule,
        AFTER: {"rule": "allora_adamw"} | rule,
        "ALLoRA-OD": {"rule": "allora_od"} | rule,
        "ASF-LoRA": {"rule": "asf_lora"} | rule,
        "LoRA × η": {"rule": "lora_x_eta", "eta2": eta2},
    }
    return check(dataclasses.replace(plain, **of[name]))


class Candidate(NamedTuple):
    """How ALLoRA may have been trained; LoRA is trained at η·l, its classifier too, by the same optimizer."""

    optimizer: str = "adamw"
    arm: str = ALLORA
    scaled: bool = False
    head: str = "l"
    epsilon: float = 0.0

    def cells(self, eta2: float) -> tuple[Cell, Cell]:
        """ALLoRA and LoRA at one η²."""
        ours, theirs = (arm(name, self.optimizer, eta2) for name in (self.arm, LORA))
        if eta2 != 1:
            ours = dataclasses.replace(ours, scaled=self.scaled, head=self.head)
        return tuple(check(dataclasses.replace(cell, epsilon=self.epsilon)) for cell in (ours, theirs))


CANDIDATES = {
    "as listed, under AdamW": Candidate(),
    "as listed, under SGD": Candidate("sgd"),
    "as listed, ε a tenth of the gradients": Candidate(epsilon=0.1),
    "as listed, classifier at η·l": Candidate(head="eta_l"),
    "adapters at η·l": Candidate(scaled=True),
    "factor after AdamW's division": Candidate(arm=AFTER),
    "factor after it, classifier at η·l": Candidate(arm=AFTER, head="eta_l"),
    "every rate times η as well": Candidate(scaled=True, head="eta_l"),
}


class Point(NamedTuple):
    """A cell and its rate l: a part (`LEVELS`) of the best rate of LoRA under an optimizer."""

    cell: Cell
    optimizer: str
    level: str

    def rate(self, table: Table) -> float | None:
        """l; None before it was tuned."""
        best = table.best_rate(lora(self.optimizer))
        return None if best is None else rounded(best * LEVELS[self.level])

    def runs(self, table: Table) -> dict[int, tuple[float | None, int, float | None]]:
        """Each seed's run."""
        rate = self.rate(table)
        return {} if rate is None else table.at(self.cell, rate)

    def values(self, table: Table, endpoint: str) -> dict[int, float]:
        """The test value of each seed."""
        choice("endpoint", endpoint, ENDPOINTS)
        return {seed: table.value(run, endpoint) for seed, run in self.runs(table).items()}


def arms_at(level: str) -> list[Point]:
    """All arms under both optimizers."""
    return [
        Point(arm(name, optimizer, eta2), optimizer, level)
        for optimizer in OPTIMIZERS
        for name in ARMS
        if (name, optimizer) != (AFTER, "sgd")
        for eta2 in ETA2
    ]


def points() -> list[Point]:
    """What is run, in its order: Table 3's procedures, then the arms, each once; l is AdamW's for every procedure."""
    procedures = [
        Point(cell, "adamw", "quarter") for one in CANDIDATES.values() for eta2 in ETA2 for cell in one.cells(eta2)
    ]
    return list(dict.fromkeys(procedures + arms_at("quarter") + arms_at("best")))


def early() -> list[Point]:
    """Of ALLoRA and ALLoRA-OD the runs of few steps, l still a quarter of LoRA's best rate of `STEPS`."""
    return [
        Point(dataclasses.replace(arm(name, optimizer, eta2), steps=EARLY), optimizer, "quarter")
        for optimizer in OPTIMIZERS
        for name in (ALLORA, "ALLoRA-OD")
        for eta2 in ETA2
    ]
