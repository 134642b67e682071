"""Tables 3 and 4 on a model that fits a desk: from the recorded runs.

The runs are long: the rows read what `experiments/perception.py` and `ablation.py` recorded, which state arms, tests
and stopping rules. Checked by `tests/test_claims_fine_tuning.py`, which plants records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from allora_analysis.claims.accuracy import Pairs, compared, described, differences, universally_better
from allora_analysis.claims.ledger import Claim, Finding
from allora_analysis.finetune.setting import STUDY, Setting
from allora_analysis.grid.presets import ablation, perception
from allora_analysis.grid.reading import recorded
from allora_analysis.grid.sources import command

TEST = "tests/test_claims_fine_tuning.py"


def _by_case(wanted: Iterable[Setting], first: Mapping[str, Any], second: Any) -> dict[str, Pairs]:
    # Pairs of one seed for each data set and η²: `first` names fields of the one, `second(first run)` finds the other.
    known = list(wanted)
    cases: dict[str, list[tuple[Setting, Setting]]] = {}
    for one in known:
        if all(getattr(one, name) == value for name, value in first.items()):
            other = next(run for run in known if second(one, run))
            cases.setdefault(f"{one.data}, η² = {one.eta2:g}", []).append((one, other))
    return cases


def _same(one: Setting, other: Setting) -> bool:
    return (one.data, one.seed) == (other.data, other.seed)


def _lora(own_head: bool) -> Any:
    def is_lora(one: Setting, run: Setting) -> bool:
        rate = one.eta * perception.RATE
        head = perception.RATE if own_head else rate
        rates = (run.learning_rate, run.head_learning_rate) == (rate, head)
        return _same(one, run) and run.arm == "lora" and rates

    return is_lora


def table_3(folder: Path | None = None) -> Finding:
    """ALLoRA minus LoRA at η·l_b, the classifier at η·l_b as in the paper; beside it with the classifier at l_b.

    Args:
        folder: the folder of records; None for the repository's own.

    Returns:
        The finding.
    """
    wanted = perception.PRESETS["desk"]
    runs = recorded(wanted, folder)
    beside = {
        "classifier at l_b in both": _lora(own_head=True),
        "ALLoRA with dropout minus without": lambda one, run: (
            _same(one, run) and run.arm == "allora_0" and run.eta2 == one.eta2
        ),
    }
    extra = {}
    for name, other in beside.items():
        cases = _by_case(wanted, {"arm": "allora"}, other)
        family = compared(differences(runs, cases), len(cases))
        extra[name] = {case: described(one) for case, one in family.items()}
    return universally_better(runs, _by_case(wanted, {"arm": "allora"}, _lora(own_head=False)), extra)


def table_4(folder: Path | None = None) -> Finding:
    """ALLoRA minus each of ALLoRA-OD, ASF-LoRA and LoRA × η.

    Args:
        folder: the folder of records; None for the repository's own.

    Returns:
        The finding.
    """
    wanted = [*perception.PRESETS["desk"], *ablation.PRESETS["desk"]]
    cases: dict[str, Pairs] = {}
    for arm in ablation.ARMS:

        def other(one: Setting, run: Setting, arm: str = arm) -> bool:
            if arm == "lora_x_eta" and one.eta2 == 1:  # LoRA × 1 is LoRA at l_b
                return _lora(own_head=False)(one, run)
            return _same(one, run) and (run.arm, run.eta2) == (arm, one.eta2)

        pairs = _by_case(wanted, {"arm": "allora"}, other)
        cases |= {f"over {arm}, {case}": those for case, those in pairs.items()}
    return universally_better(recorded(wanted, folder), cases)


def claims() -> tuple[Claim, ...]:
    """The statements about accuracy that desk runs can test.

    Returns:
        The claims.
    """
    perceived = command("perception", perception.PRESETS["desk"])
    ablated = command("ablation", ablation.PRESETS["desk"])
    return (
        Claim(
            "4-table-3-desk",
            "App. D, on all-MiniLM-L6-v2",
            "ALLoRA is universally better than LoRA in terms of accuracy (LoRA at η·l_b, its classifier too)",
            table_3,
            perceived,
            TEST,
            reads=STUDY,
        ),
        Claim(
            "4-table-4-desk",
            "App. E, on all-MiniLM-L6-v2",
            "ALLoRA is universally better than the rest in the family",
            table_4,
            f"{perceived} && {ablated}",
            TEST,
            reads=STUDY,
        ),
    )
