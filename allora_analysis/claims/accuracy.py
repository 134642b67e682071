"""Accuracies of fine-tuning runs compared in pairs that share a seed: what rows about "better" rest on.

Checked by `tests/test_claims_accuracy.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from allora_analysis.claims.ledger import Evidence, Finding, not_run
from allora_analysis.finetune.setting import Setting
from allora_analysis.grid.reading import final_accuracy
from allora_analysis.statistics import Difference, paired_family

LEVEL = 0.05
Runs = Mapping[Setting, Mapping[str, Any]]
Pairs = Sequence[tuple[Setting, Setting]]
SOURCE = f"Student's t over seeds at {LEVEL}, Holm over the cases"


def differences(runs: Runs, cases: Mapping[str, Pairs]) -> dict[str, list[float]]:
    """Test accuracy after the last epoch, first minus second, pair by pair, of the cases that are recorded in full.

    Args:
        runs: what is recorded.
        cases: pairs of runs by case, a pair a seed.

    Returns:
        The differences by case; a case with a run that is missing, or that diverged before it was evaluated, is left
        out.
    """
    found = {}
    for case, pairs in cases.items():
        values = [[final_accuracy(runs[one]) if one in runs else None for one in pair] for pair in pairs]
        if all(value is not None for pair in values for value in pair):
            found[case] = [first - second for first, second in values]
    return found


def universally_better(runs: Runs, cases: Mapping[str, Pairs], extra: Mapping[str, Any] | None = None) -> Finding:
    """The verdict on "the first is better than the second in every case".

    It holds if the difference is clearly above 0 in every case, is refuted if it is clearly below in one, is not run
    without a case in full, and is undecided otherwise.

    Args:
        runs: what is recorded.
        cases: pairs of runs by case.
        extra: what stands beside it in the evidence.

    Returns:
        The finding.
    """
    complete = differences(runs, cases)
    if not complete:
        return not_run("no case is recorded in full")
    family = paired_family(complete, LEVEL)
    signs = [one.sign for one in family.values()]
    missing = len(cases) - len(complete)
    verdict = "undecided"
    if -1 in signs:
        verdict = "refuted"
    elif set(signs) == {1} and not missing:
        verdict = "holds"
    text = None if verdict == "holds" else words(family, missing)
    measured = {case: described(one) for case, one in family.items()} | dict(extra or {})
    n = len(next(iter(cases.values())))
    return Finding(verdict, Evidence({"difference": "above 0 in every case"}, measured, SOURCE, n=n), text)


def described(one: Difference) -> dict[str, Any]:
    """A case for the evidence.

    Args:
        one: the case.

    Returns:
        Its numbers by name; accuracies are shares, so 0.01 is a point.
    """
    return {
        "difference": one.mean,
        "interval": one.interval,
        "adjusted_p_value": one.adjusted_p_value,
        "detectable": one.detectable,
        "seeds_needed": one.required_n,
    }


def words(family: Mapping[str, Difference], missing: int) -> str:
    """Better, worse and open cases counted, and the seeds that the open ones would need.

    Args:
        family: the cases.
        missing: how many are not recorded in full.

    Returns:
        The text.
    """
    signs = [one.sign for one in family.values()]
    parts = [f"better in {signs.count(1)}, worse in {signs.count(-1)}, open in {signs.count(0)} of {len(signs)} cases"]
    if worse := [case for case, one in family.items() if one.sign < 0]:
        parts.append(f"worse: {', '.join(worse)}")
    needed = [one.required_n for one in family.values() if one.required_n is not None]
    if needed:
        parts.append(f"the open differences would need {min(needed)} to {max(needed)} seeds")
    if missing:
        parts.append(f"{missing} cases not recorded in full")
    return "; ".join(parts)
