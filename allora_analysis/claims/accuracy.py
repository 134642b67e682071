"""Accuracies of fine-tuning runs compared in pairs that share a seed: what rows about "better" rest on.

Checked by `tests/test_claims_accuracy.py`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from allora_analysis.claims.ledger import Evidence, Finding, not_run
from allora_analysis.finetune.setting import ARMS, Setting
from allora_analysis.grid.reading import final_accuracy
from allora_analysis.statistics import Difference, paired_family, required_n
from allora_analysis.statistics.paired import TIE

LEVEL = 0.05
Case = TypeVar("Case")
Runs = Mapping[Setting, Mapping[str, Any]]
Pairs = Sequence[tuple[Setting, Setting]]
SOURCE = f"Student's t over seeds at {LEVEL}, Holm over the cases"


def differences(runs: Runs, cases: Mapping[str, Pairs]) -> dict[str, list[float]]:
    """Test accuracy after the last epoch, first minus second, pair by pair, of the cases that are recorded in full.

    Args:
        runs: what is recorded.
        cases: pairs of runs by case, a pair a seed.

    Returns:
        The differences by case; a case with a run that is missing, or that diverged, is left out.
    """
    found = {}
    for case, pairs in cases.items():
        values = [[final_accuracy(runs[one]) if one in runs else None for one in pair] for pair in pairs]
        if all(value is not None for pair in values for value in pair):
            found[case] = [first - second for first, second in values]
    return found


def compared(differences: Mapping[Case, Sequence[float]], cases: int | None = None) -> dict[Case, Difference]:
    """`statistics.paired_family` at our level, of which there may be no case yet.

    Args:
        differences: by case.
        cases: of the family, recorded or not; None for those given.

    Returns:
        The cases, in order.
    """
    return paired_family(differences, LEVEL, cases=cases, grain=TIE) if differences else {}  # accuracies are shares


def diverged(runs: Runs, cases: Mapping[str, Pairs]) -> list[str]:
    """The cases that are recorded in full, and yet have no difference, since a run diverged.

    Args:
        runs: what is recorded.
        cases: pairs of runs by case.

    Returns:
        Their names.
    """
    full = {case: {one for pair in pairs for one in pair} for case, pairs in cases.items()}
    return [
        case
        for case, those in full.items()
        if all(one in runs for one in those) and any(final_accuracy(runs[one]) is None for one in those)
    ]


def universally_better(runs: Runs, cases: Mapping[str, Pairs], extra: Mapping[str, Any] | None = None) -> Finding:
    """The verdict on "the first is better than the second in every case".

    It holds if the difference is clearly above 0 in every case, is refuted if it is clearly below in one, is not run
    without a case in full, and is undecided otherwise. Holm's correction is over all cases, recorded or not.

    Args:
        runs: what is recorded.
        cases: pairs of runs by case.
        extra: what stands beside it in the evidence.

    Returns:
        The finding.
    """
    complete, stopped = differences(runs, cases), diverged(runs, cases)
    if not complete and not stopped:
        return not_run("no case is recorded in full")
    family = compared(complete, len(cases))
    signs = [one.sign for one in family.values()]
    missing = len(cases) - len(complete) - len(stopped)
    verdict = "undecided"
    if -1 in signs:
        verdict = "refuted"
    elif signs == [1] * len(cases):
        verdict = "holds"
    text = None if verdict == "holds" else words(family, missing, stopped)
    measured = {case: described(one) for case, one in family.items()} | overall(complete, len(cases))
    n = len(next(iter(cases.values())))
    predicted = {"difference": "above 0 in every case"}
    return Finding(verdict, Evidence(predicted, measured | dict(extra or {}), SOURCE, n=n), text)


def overall(complete: Mapping[str, Sequence[float]], cases: int) -> dict[str, Any]:
    """The mean over the cases recorded in full, seed by seed, and Student's t over seeds.

    Seeds are what is independent: cases share runs (LoRA's, or ALLoRA's against several others) and data sets.

    Args:
        complete: the differences by case.
        cases: of the family, recorded or not; the name says how many of them the mean is over.

    Returns:
        Its numbers, named; none with fewer than two cases.
    """
    if len(complete) < 2:
        return {}
    those = f"all {cases}" if len(complete) == cases else f"{len(complete)} of {cases}"
    name = f"mean over {those} cases, Student's t over seeds"
    by_seed = [statistics.fmean(of) for of in zip(*complete.values(), strict=True)]
    return {name: described(compared({name: by_seed})[name])}


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


def words(family: Mapping[str, Difference], missing: int, stopped: Sequence[str] = (), cases: int | None = None) -> str:
    """Better, worse and open cases counted, and the seeds that the open ones would need.

    Args:
        family: the cases.
        missing: how many are not recorded in full.
        stopped: those in which a run diverged.
        cases: of the family that Holm's correction is over; None for those here, missing and stopped ones included.

    Returns:
        The text.
    """
    signs = [one.sign for one in family.values()]
    counts = f"better in {signs.count(1)}, worse in {signs.count(-1)}, open in {signs.count(0)} of {len(signs)} cases"
    parts = [counts] if signs else []
    if worse := [case for case, one in family.items() if one.sign < 0]:
        parts.append(f"worse: {_names(worse)}")
    whole = len(family) + missing + len(stopped) if cases is None else cases
    parts += wanting({ARMS.get(case, case): one for case, one in family.items()}, whole)
    if stopped:
        parts.append(f"a run diverged among the pairs of {_names(stopped)}")
    if missing:
        parts.append(f"{missing} cases not recorded in full")
    return "; ".join(parts)


def wanting(family: Mapping[str, Difference], cases: int) -> list[str]:
    """What would decide the open cases: the seeds that their differences, or half a point, would need.

    Args:
        family: by the name to print.
        cases: of the family that Holm's correction is over, recorded or not.

    Returns:
        Parts of a sentence; none where no case is open.
    """
    parts = []
    if needed := [one.required_n for one in family.values() if one.required_n is not None]:
        several = min(needed) < max(needed)
        seeds = f"{min(needed)} to {max(needed)}" if several else str(needed[0])
        parts.append(f"the open difference{'s' if several else ''} would need {seeds} seeds")
    unsure = {case: one.detectable for case, one in family.items() if one.sign == 0 and one.required_n is None}
    if alike := [case for case, detectable in unsure.items() if detectable == 0]:
        parts.append(f"one and the same difference in every pair of {', '.join(alike)}, and too few pairs to tell")
    if equal := {case: detectable for case, detectable in unsure.items() if detectable > 0}:
        points = 100 * max(equal.values())
        parts.append(f"no difference in {', '.join(equal)}, where {points:.1f} points would be detected")
        spread = max(float(family[case].differences.std(ddof=1)) for case in equal)
        parts.append(f"half a point would need {required_n(0.005, spread, level=LEVEL / cases)} seeds")
    return parts


def _names(cases: Iterable[str]) -> str:
    # A case may be an arm.
    return ", ".join(ARMS.get(case, case) for case in cases)
