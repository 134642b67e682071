"""Fine-tuning runs compared in pairs that share a seed: what rows about "better" rest on.

`judged` follows the rule of `statistics.directional`: Student's t over seeds, one-sided, Holm over the cases that were
run. Accuracies are shares, so 0.01 is a point. Checked by `tests/test_claims_our_runs.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from allora_analysis.finetune.setting import Setting
from allora_analysis.statistics import Judgement, judge_family
from allora_analysis.statistics.paired import TIE

LEVEL = 0.05
ENDPOINTS = {"test_accuracy": 1, "test_loss": -1}
"""What a run is judged by, and the sign that makes more of it better."""
Case = TypeVar("Case")
Runs = Mapping[Setting, Mapping[str, Any]]
Pairs = Sequence[tuple[Setting, Setting]]
RULE = f"Student's t over seeds, one-sided at {LEVEL}, Holm over the cases run; interval: 90 %, a case alone"


def value(run: Mapping[str, Any], endpoint: str = "test_accuracy", epoch: int = -1) -> float | None:
    """An endpoint of a run after an epoch, the last by default; None where the run diverged or the record lacks it."""
    if run.get("diverged_at_step") is not None or not run["epochs"]:
        return None
    return run["epochs"][epoch].get(endpoint)


def differences(
    runs: Runs, cases: Mapping[str, Pairs], endpoint: str = "test_accuracy", epoch: int = -1
) -> dict[str, list[float]]:
    """The first minus the second run, pair by pair, more being better; of the cases that are recorded in full."""
    found, sign = {}, ENDPOINTS[endpoint]
    for case, pairs in cases.items():
        values = [[value(runs[one], endpoint, epoch) if one in runs else None for one in pair] for pair in pairs]
        if all(one is not None for pair in values for one in pair):
            found[case] = [sign * (first - second) for first, second in values]
    return found


def diverged(runs: Runs, cases: Mapping[str, Pairs]) -> list[str]:
    """The cases that are recorded in full, and yet have no difference, since a run diverged."""
    full = {case: {one for pair in pairs for one in pair} for case, pairs in cases.items()}
    return [
        case
        for case, those in full.items()
        if all(one in runs for one in those) and any(value(runs[one]) is None for one in those)
    ]


def judged(differences: Mapping[Case, Sequence[float]]) -> dict[Case, Judgement]:
    """The cases that were run, judged together; none gives none."""
    return judge_family(differences, "t", LEVEL, grain=TIE) if differences else {}


def needed(family: Mapping[str, Judgement]) -> str:
    """The seeds that the open cases would need, were mean and spread the true ones, with the spread's interval."""
    open_ones = [one for one in family.values() if one.needed is not None]
    if not open_ones:
        return "more seeds"
    low, high = min(one.needed for one in open_ones), max(one.needed for one in open_ones)
    ends = [end for one in open_ones for end in one.needed_interval]
    between = f"{low}" if low == high else f"{low} to {high}"
    return f"{between} seeds ({min(ends)} to {_short(max(ends))} as the spread's interval has it)"


def _short(number: int) -> str:
    return str(number) if number < 10_000 else f"10^{math.floor(math.log10(number))} and more"


def units_wanted(one: Judgement, unit: str) -> str:
    """How many units would decide an open comparison, with that number's interval; "more" where none is known."""
    if one.needed is None:
        return f"more {unit}"
    interval = (
        ""
        if one.needed_interval is None
        else " ({} to {})".format(*(f"{n:,}" if n < 10**7 else _short(n) for n in one.needed_interval))
    )
    return f"{one.needed:,} {unit}{interval}"
