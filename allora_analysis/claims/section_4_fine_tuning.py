"""Tables 3 and 4 on models that fit a desk, and every arm at its own best learning rate: from the recorded runs.

The runs are long: the rows read what `experiments/perception.py`, `ablation.py` and `learning_rates.py` recorded, which
state arms, tests and stopping rules. Checked by `tests/test_claims_fine_tuning.py`, which plants records.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from allora_analysis.claims.accuracy import (
    LEVEL,
    Pairs,
    Runs,
    described,
    differences,
    diverged,
    universally_better,
    words,
)
from allora_analysis.claims.ledger import Claim, Evidence, Finding, not_run
from allora_analysis.finetune.setting import STUDY, Setting
from allora_analysis.grid.presets import ablation, learning_rates, perception
from allora_analysis.grid.reading import final_accuracy, recorded
from allora_analysis.statistics import paired_family

MODEL = "all-MiniLM-L6-v2"
COMMAND = "python -m experiments.{} --source all-MiniLM-L6-v2=FOLDER {}"
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
        complete = differences(runs, _by_case(wanted, {"arm": "allora"}, other))
        extra[name] = {case: described(one) for case, one in paired_family(complete, LEVEL).items()} if complete else {}
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


def own_best_rate(folder: Path | None = None) -> Finding:
    """Each arm at the rate that validation chose, minus LoRA at its own, on the test split.

    Args:
        folder: the folder of records; None for the repository's own.

    Returns:
        The finding.
    """
    wanted = [one for one in learning_rates.PRESETS["desk"] if one.model == MODEL and one.optimizer == "adamw"]
    runs, arms = recorded(wanted, folder), learning_rates.ARMS["adamw"]
    chosen = {arm: best for arm in arms if (best := _best(runs, wanted, arm)) is not None}
    if "lora" not in chosen or not any(_ours(arm) for arm in chosen):
        return not_run(f"{len(runs)} of {len(wanted)} runs are recorded")
    cases = {arm: list(zip(best, chosen["lora"], strict=True)) for arm, best in chosen.items() if arm != "lora"}
    complete = differences(runs, cases)
    family = paired_family(complete, LEVEL, cases=len(arms) - 1) if complete else {}
    ours = {arm: one for arm, one in family.items() if _ours(arm)}
    signs = [one.sign for one in ours.values()]
    verdict = "holds" if signs == [1] * sum(map(_ours, arms)) else "refuted" if -1 in signs else "undecided"
    measured = {arm: described(one) | {"learning_rate": chosen[arm][0].learning_rate} for arm, one in family.items()}
    measured["lora"] = {"learning_rate": chosen["lora"][0].learning_rate}
    source = f"Student's t over seeds at {LEVEL}, Holm over the arms; the rate is chosen on validation"
    text = None if verdict == "holds" else words(ours, len(arms) - len(chosen), diverged(runs, cases))
    return Finding(verdict, Evidence({"difference": "above 0"}, measured, source, n=len(chosen["lora"])), text)


def _ours(arm: str) -> bool:
    return arm.startswith("allora")


def _best(runs: Runs, wanted: Iterable[Setting], arm: str) -> list[Setting] | None:
    # The runs of an arm at the rate of the best average validation accuracy; None while a run is missing.
    by_rate: dict[float, list[Setting]] = {}
    for one in wanted:
        if one.arm == arm:
            by_rate.setdefault(one.learning_rate, []).append(one)
    if not all(one in runs for those in by_rate.values() for one in those):
        return None
    scores = {
        rate: statistics.fmean(final_accuracy(runs[one], "validation") or 0.0 for one in those)
        for rate, those in by_rate.items()
    }
    return sorted(by_rate[max(scores, key=scores.get)], key=lambda one: one.seed)


ROWS = (
    (
        "4-table-3-desk",
        "App. D, on all-MiniLM-L6-v2",
        "ALLoRA is universally better than LoRA in terms of accuracy (LoRA at η·l_b, its classifier too)",
        table_3,
        "perception",
        "rotten_tomatoes=FOLDER emotion=FOLDER",
    ),
    (
        "4-table-4-desk",
        "App. E, on all-MiniLM-L6-v2",
        "ALLoRA is universally better than the rest in the family",
        table_4,
        "ablation",
        "rotten_tomatoes=FOLDER emotion=FOLDER",
    ),
    (
        "4-own-best-rate",
        "Abstract, read: at each method's own best learning rate, on all-MiniLM-L6-v2 under AdamW",
        "ALLoRA admits better accuracy than LoRA",
        own_best_rate,
        "learning_rates",
        "rotten_tomatoes=FOLDER",
    ),
)


def claims() -> tuple[Claim, ...]:
    """The statements about accuracy that desk runs can test.

    Returns:
        The claims.
    """
    return tuple(
        Claim(name, where, text, check, COMMAND.format(of, data), TEST, reads=STUDY)
        for name, where, text, check, of, data in ROWS
    )
