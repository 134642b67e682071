"""What the laboratory varies: cells, the screening design, the contrasts that statements name.

Checked by `tests/test_laboratory.py`.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from allora_analysis.adaptors import ADAPTORS
from allora_analysis.validation import ArgumentError, choice, count, drop_rate, positive

Rates = tuple[float, ...]
STUDY = "laboratory"
PROTOCOL = 1  # grows when the meaning of a run changes
FAMILY = ("allora", "asf_lora", "allora_adamw")  # rules with an adaptor and η
PEFT = ("rslora", "pissa", "dora", "loraplus")
TABLE_4 = ("allora_od", "lora_x_eta")  # the rest of the paper's family
RULES = ("lora", *FAMILY, *TABLE_4, *PEFT)
OPTIMIZERS = ("sgd", "momentum", "adamw")
ETA2 = (1.0, 2.0, 4.0, 16.0)
DROP_RATES = (0.0, 0.05, 0.4)
FEW, MANY = 50, 300
STEPS = (FEW, MANY)
PLACEMENTS = ("input", "bottleneck")
CRITERIA = ("loss", "accuracy")
SEEDS = 100  # that judge a contrast
FEWER = {"placement": 60, "rule elsewhere": 60, "control elsewhere": 60}  # of questions added later, by their own rules
BY_ACCURACY = range(100, 160)  # seeds that judge where validation accuracy chooses the rates
SHIFTED = {FEW: range(60, 180), MANY: range(60, 120)}
"""By length, the seeds that judge where rates are shifted."""
SHIFTS = tuple((k + 0.5) / 6 - 0.5 for k in range(6))  # of the rates, in eighths of a decade
SHIFTED_BY = 10  # seeds, from a multiple of it, that share a shift
ELSEWHERE: dict[str, dict[str, Any]] = {"mnist": {"shifted": True}, "cifar10": {"chosen_by": "accuracy"}}
"""How rates are chosen in the contrasts that judge on other images, by fields of `Cell`."""
AGAIN = {
    "placement": range(200, 400),
    "adaptor": range(3000, 4000),
    "eta2": range(4000, 6000),
    "rule": range(6000, 6400),
    "rule elsewhere": range(200, 500),
}
"""By question, fresh seeds that judge it again, alone."""
FINE_SEEDS = 200  # that judge a contrast whose seeds choose among nine rates
COARSE = ("dropout", "placement")  # questions whose seeds choose among three rates after few steps too


@dataclass(frozen=True)
class Cell:
    """One combination of levels; its learning rate is chosen on validation.

    Attributes:
        rule: "lora"; "allora" (the factor on the gradient), "asf_lora" (on the output; with the constant adaptor this
            is LoRA × η), "allora_adamw" (on AdamW's update), "allora_od" (on the gradient, token by token),
            "lora_x_eta" (a fixed factor on the output); or a baseline of PEFT's.
        optimizer: "sgd", "momentum" (0.9) or "adamw".
        steps: of training.
        drop_rate: of the adapters' dropout.
        adaptor: of `FAMILY`'s rules and "allora_od"; None for the others.
        eta2: η² of all rules that have an η, or whose rates are multiplied by it; None for the others.
        placement: of the dropout: "input" of A, as in LoRA's code, or "bottleneck", between A and B.
        head: None: the last layer is adapted as the others are; "l" or "eta_l": it is a fresh classifier, trained at
            the learning rate l or at η·l.
        scaled: whether the adapters' rate is η·l.
        epsilon: AdamW's ε as a multiple of the median |∂L/∂B| at the start; 0: 1e-8.
        chosen_by: what of the validation images chooses its rates, "loss" or "accuracy".
        shifted: whether the rates among which a judging seed chooses are others from one ten of seeds to the next.
    """

    rule: str = "lora"
    optimizer: str = "adamw"
    steps: int = FEW
    drop_rate: float = 0.0
    adaptor: str | None = None
    eta2: float | None = None
    placement: str = "input"
    head: str | None = None
    scaled: bool = False
    epsilon: float = 0.0
    chosen_by: str = "loss"
    shifted: bool = False

    def given(self) -> dict[str, Any]:
        """Its fields that are not at their default, as a line of the table holds them."""
        default = Cell()
        return {name: value for name, value in dataclasses.asdict(self).items() if value != getattr(default, name)}

    def words(self) -> str:
        """The cell in a few words."""
        parts = [self.adaptor, None if self.eta2 is None else f"η² = {self.eta2:g}"]
        own = f" ({', '.join(filter(None, parts))})" if any(parts) else ""
        place = "" if self.placement == "input" else f" in the {self.placement}"
        dropped = f", drop rate {self.drop_rate:g}{place}" if self.drop_rate else ""
        chosen = "" if self.chosen_by == "loss" else f", rates by {self.chosen_by}"
        chosen += ", rates shifted" * self.shifted
        return f"{self.rule}{own}, {self.optimizer}{dropped}, {self.steps} steps{chosen}"


def check(cell: Cell) -> Cell:
    """Refuse a cell that makes no sense."""
    choice("rule", cell.rule, RULES)
    choice("optimizer", cell.optimizer, OPTIMIZERS)
    count("steps", cell.steps)
    drop_rate("drop_rate", cell.drop_rate)
    if cell.rule in (*FAMILY, "allora_od"):
        choice("adaptor", str(cell.adaptor), tuple(ADAPTORS))
    elif cell.adaptor is not None or (cell.eta2 is not None and not _has_eta(cell)):
        raise ArgumentError(f"adaptor and eta2 must be left out for the rule {cell.rule}, which has neither")
    if _has_eta(cell):
        positive("eta2", cell.eta2)
    if choice("placement", cell.placement, PLACEMENTS) != "input" and (cell.rule != "lora" or not cell.drop_rate):
        raise ArgumentError("placement must be 'input' but for LoRA with dropout, received 'bottleneck'")
    choice("head", str(cell.head), ("None", "l", "eta_l"))
    choice("chosen_by", cell.chosen_by, CRITERIA)
    if cell.head is None and (cell.scaled or cell.epsilon):
        raise ArgumentError("scaled and epsilon must be left out where head is None")
    if cell.rule in ("allora_adamw", "loraplus") and cell.optimizer != "adamw":
        raise ArgumentError(f"optimizer must be adamw for the rule {cell.rule}, received {cell.optimizer!r}")
    return cell


def _has_eta(cell: Cell) -> bool:
    return cell.rule in (*FAMILY, *TABLE_4) or cell.scaled or cell.head == "eta_l"


def screening() -> list[Cell]:
    """At most 200 cells: LoRA at every level, a quarter of the family's factorial, PEFT's baselines under AdamW.

    The family's 672 combinations have seven ways (rule and optimizer), four adaptors, four η², three drop rates and two
    lengths. Those are kept whose indices add up to a multiple of 4 (the length counts twice): each combination of all
    factors but the adaptor then has one adaptor, and the pairs of two factors' levels occur equally often, up to one.
    """
    ways = [(rule, optimizer) for rule in ("allora", "asf_lora") for optimizer in OPTIMIZERS]
    ways.append(("allora_adamw", "adamw"))
    levels = (enumerate(ways), enumerate(ADAPTORS), enumerate(ETA2), enumerate(DROP_RATES), enumerate(STEPS))
    family = [
        Cell(rule, optimizer, steps, drop_rate, adaptor, eta2)
        for (w, (rule, optimizer)), (a, adaptor), (e, eta2), (d, drop_rate), (s, steps) in itertools.product(*levels)
        if (w + a + e + d + 2 * s) % 4 == 0
    ]
    plain = [Cell("lora", *of) for of in itertools.product(OPTIMIZERS, STEPS, DROP_RATES)]
    return plain + [Cell(rule, "adamw", steps) for rule, steps in itertools.product(PEFT, STEPS)] + family


def reference(cell: Cell) -> Cell:
    """LoRA under the same optimizer, dropout and length: what a cell of another rule is compared with."""
    return dataclasses.replace(cell, rule="lora", adaptor=None, eta2=None)


def own_rates(grids: Sequence[Rates], seed: int) -> Rates:
    """Of a cell's grids, one for each of `SHIFTS` or one alone, the rates among which a judging seed chooses."""
    return grids[seed // SHIFTED_BY % len(grids)]


def tuned_as(cell: Cell) -> Cell:
    """The cell whose tuning seeds choose a cell's best rate: itself, or the one without shifts."""
    return dataclasses.replace(cell, shifted=False)


class Contrast(NamedTuple):
    """Two cells whose difference, first − second, a statement names; Holm's correction is over a question's."""

    question: str
    name: str
    first: Cell
    second: Cell

    @property
    def fine(self) -> bool:
        """Whether each seed chooses among nine rates, an eighth of a decade apart, instead of three."""
        return self.first.shifted or (self.first.steps == FEW and self.question not in COARSE)

    @property
    def seeds(self) -> int:
        """How many seeds judge it."""
        return len(self.judges)

    @property
    def judges(self) -> range:
        """Those seeds."""
        if self.first.shifted:
            return SHIFTED[self.first.steps]
        if self.first.chosen_by == "accuracy":
            return BY_ACCURACY
        return range(FEWER.get(self.question, FINE_SEEDS if self.fine else SEEDS))


def contrasts() -> list[Contrast]:
    """The contrasts that statements name, few steps and many each."""
    return [one for steps in STEPS for one in _contrasts(steps)]


def _contrasts(steps: int) -> list[Contrast]:
    def allora(optimizer: str, adaptor: str = "inverse_sqrt", eta2: float = 4.0, rule: str = "allora") -> Cell:
        return Cell(rule, optimizer, steps, 0.0, adaptor, eta2)

    lora = {optimizer: Cell("lora", optimizer, steps) for optimizer in OPTIMIZERS}
    adamw, sgd = lora["adamw"], allora("sgd")
    dropped = {rate: dataclasses.replace(adamw, drop_rate=rate) for rate in DROP_RATES[1:]}
    after = allora("adamw", rule="allora_adamw")
    found = []
    for name in ("sgd", "momentum"):  # names of one arm, whose best rates are at one ηl; no two controls share a cell
        two, four, sixteen = (allora(name, "constant", eta2) for eta2 in ETA2[1:])
        found.append(Contrast("control", f"constant η² = 2 − LoRA, {name}", two, lora[name]))
        found.append(Contrast("control", f"constant η² = 16 − 4, {name}", sixteen, four))
    found += [Contrast("rule", f"ALLoRA − LoRA, {name}", allora(name), lora[name]) for name in OPTIMIZERS]
    found += [Contrast("rule", "ALLoRAAdamW − LoRA, adamw", after, adamw)]
    found += [Contrast("rule", "ALLoRA − LoRA with dropout 0.05, adamw", allora("adamw"), dropped[0.05])]
    found += [Contrast("dropout", f"LoRA, dropout {rate:g} − none", dropped[rate], adamw) for rate in dropped]
    others = [name for name in ADAPTORS if name != "inverse_sqrt"]
    found += [Contrast("adaptor", f"{name} − inverse_sqrt, sgd", allora("sgd", name), sgd) for name in others]
    rest = [eta2 for eta2 in ETA2 if eta2 != 4]
    found += [Contrast("eta2", f"η² = {eta2:g} − 4, sgd", allora("sgd", eta2=eta2), sgd) for eta2 in rest]
    between = {rate: dataclasses.replace(dropped[rate], placement="bottleneck") for rate in dropped}
    found += [
        Contrast("placement", f"LoRA, bottleneck dropout {rate:g} − none", between[rate], adamw) for rate in dropped
    ]
    found.append(Contrast("placement", "LoRA, dropout 0.4: bottleneck − input", between[0.4], dropped[0.4]))
    found += [Contrast("baselines", f"{rule} − LoRA, adamw", Cell(rule, "adamw", steps), adamw) for rule in PEFT]
    return [one._replace(name=f"{one.name}, {steps} steps") for one in found]


def judged_again(question: str) -> list[Contrast]:
    """The contrasts that `AGAIN` judges: LoRA's masks between A and B; after few steps the adaptors and the controls,
    η² of 1 and 2, and ALLoRA − LoRA, on MNIST too.
    """
    if question == "placement":
        return [one for one in contrasts() if one.name.startswith("LoRA, bottleneck")]
    if question == "eta2":
        return [one for one in contrasts() if one.question == question and one.fine and one.first.eta2 in (1.0, 2.0)]
    if question == "rule elsewhere":
        return [one for one in elsewhere("rule", **ELSEWHERE["mnist"]) if one.first.steps == FEW]
    if question == "rule":
        return [one for one in contrasts() if one.fine and one.name.startswith("ALLoRA − LoRA, ")]
    return [one for one in contrasts() if one.question in (question, "control") and one.fine]


def fresh_seeds(one: Contrast) -> range | None:
    """The seeds that judge a contrast again; None of one that its first seeds judge."""
    return next((seeds for question, seeds in AGAIN.items() if one in judged_again(question)), None)


def elsewhere(question: str, **rates: Any) -> list[Contrast]:
    """The contrasts that are judged on MNIST and CIFAR-10: of "rule" ALLoRA − LoRA under each optimizer, of "control"
    all. `rates` are fields of `Cell` which say how rates are chosen, as `ELSEWHERE` has them; both data sets' first
    rules had none.
    """
    wanted = {"rule": "ALLoRA − LoRA, ", "control": "constant "}[question]
    return [
        Contrast(
            f"{question} elsewhere",
            one.name,
            *(dataclasses.replace(cell, **rates) for cell in (one.first, one.second)),
        )
        for one in contrasts()
        if one.question == question and one.name.startswith(wanted)
    ]
