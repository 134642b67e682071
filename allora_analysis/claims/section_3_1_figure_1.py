"""Figure 1: over training, does the gradient's standard deviation over masks fall on average and rise at worst?

The runs are long: the row reads what `python -m experiments.gradient_std` recorded, and is `not_run` without a record.
The tests were stated before the runs, in that file and in `gradient_std.trends`. Checked by
`tests/test_claims_figure_1.py`, which plants trends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from allora_analysis.claims.ledger import Claim, Evidence, Finding, settle
from allora_analysis.gradient_std import grid as grids
from allora_analysis.gradient_std.grid import Arm
from allora_analysis.gradient_std.trends import AVERAGE, LEVEL, WORST, Trend, agreement, family_of_trends, values

COMMAND = "python -m experiments.gradient_std --data mnist --data-root FOLDER"
BASELINES = {"epoch 0": 0, "epoch 1": 1}
PRIMARY = "epoch 0"
Pairs = Mapping[Arm, tuple[Trend, Trend]]


def figure_1() -> Finding:
    """The verdict over the settings of the grid whose seeds are all recorded; the rest count as undecided.

    Returns:
        The finding.
    """
    grid = grids.FIGURE_1
    runs = grids.recorded(grids.RESULTS, grid)
    complete = [setting for setting in grid.arms() if len(runs.get(setting, ())) == grid.seeds]
    if not complete:
        return Finding("not_run", Evidence({}, {}, "none: no setting is recorded in full"))
    pairs = {name: _pairs(runs, complete, first) for name, first in BASELINES.items()}
    outcomes = {setting: agreement(*pairs[PRIMARY][setting]) for setting in complete}
    missing = [setting for setting in grid.arms() if setting not in complete]
    verdict, text = judged(pairs[PRIMARY], outcomes, missing)
    counted = Counter(outcomes.values())
    measured: dict[str, Any] = {f"settings: {word}": counted[word] for word in ("agrees", "contradicts", "undecided")}
    measured |= {_name(setting): _measured(pairs, setting) for setting in complete}
    source = f"Student's t over seeds at {LEVEL}, Holm over {2 * len(complete)} cases; {PRIMARY} to the last"
    return Finding(verdict, Evidence({"average": "falls", "worst": "rises"}, measured, source, n=grid.seeds), text)


def _pairs(runs: Mapping[Arm, Mapping[int, Any]], settings: Sequence[Arm], first: int) -> Pairs:
    series = {
        (setting, statistic): values([runs[setting][seed] for seed in sorted(runs[setting])], statistic)
        for setting in settings
        for statistic in (AVERAGE, WORST)
    }
    found = family_of_trends(series, first)
    return {setting: (found[setting, AVERAGE], found[setting, WORST]) for setting in settings}


def _measured(pairs: Mapping[str, Pairs], setting: Arm) -> dict[str, Any]:
    return {
        f"{what}, from {baseline}": {
            "direction": (trend := both[setting][index]).direction,
            "log_change": trend.change,
            "interval": trend.interval,
            "adjusted_p_value": trend.adjusted_p_value,
            "detectable": trend.detectable,
        }
        for baseline, both in pairs.items()
        for index, what in enumerate(("average", "worst"))
    }


def judged(pairs: Pairs, outcomes: Mapping[Arm, str], missing: Sequence[Arm] = ()) -> tuple[str, str | None]:
    """The verdict over settings, and what it depends on, what is true instead, or the seeds that it needs.

    Undecided and missing settings matter only as long as the others all say one thing.

    Args:
        pairs: the trends of the average and of the worst entry.
        outcomes: "agrees", "contradicts" or "undecided" by setting.
        missing: settings that are not recorded in full.

    Returns:
        The verdict and the text; None where the sentence holds as printed.
    """
    decided = {setting: word == "agrees" for setting, word in outcomes.items() if word != "undecided"}
    open_ones = [setting for setting, word in outcomes.items() if word == "undecided"]
    if len(set(decided.values())) < 2 and (open_ones or missing):
        return "undecided", _needed(pairs, decided, open_ones, missing)
    if all(decided.values()):
        return "holds", None
    if any(decided.values()):
        rest = f"; undecided: {_names(open_ones)}" if open_ones else ""
        return settle(_named(decided), dict.fromkeys(_named(decided), True)), condition(decided) + rest
    patterns = {setting: (average.direction, worst.direction) for setting, (average, worst) in pairs.items()}
    one = len(set(patterns.values())) == 1 and "unclear" not in next(iter(patterns.values()))
    text = "; ".join(
        f"the average {average}, the worst {worst}: {_names([key for key, value in patterns.items() if value == pair])}"
        for pair in dict.fromkeys(patterns.values())
        for average, worst in [pair]
    )
    return settle(_named(decided), dict.fromkeys(_named(decided), one)), text


def condition(decided: Mapping[Arm, bool]) -> str:
    """Which settings the sentence holds for: told by the data set alone, by the optimiser alone, or by both.

    Args:
        decided: whether it holds, by setting; true of some.

    Returns:
        The condition.
    """
    for factor, field in (("data set", "data"), ("optimiser", "optimizer")):
        by_value: dict[str, set[bool]] = {}
        for setting, holds in decided.items():
            by_value.setdefault(getattr(setting, field), set()).add(holds)
        if all(len(outcomes) == 1 for outcomes in by_value.values()):
            true, false = ([key for key, value in by_value.items() if value == {holds}] for holds in (True, False))
            return f"depends on the {factor}: true of {', '.join(true)}, false of {', '.join(false)}"
    true, false = (_names([key for key, value in decided.items() if value == holds]) for holds in (True, False))
    return f"depends on data set and optimiser: true of {true}; false of {false}"


def _needed(pairs: Pairs, decided: Mapping[Arm, bool], open_ones: Sequence[Arm], missing: Sequence[Arm]) -> str:
    parts = [f"{'true' if holds else 'false'} of {_name(setting)}" for setting, holds in decided.items()]
    for setting in open_ones:
        seeds = [trend.required_n for trend in pairs[setting] if trend.required_n is not None]
        needs = f"needs {max(seeds)} seeds" if seeds else "no change to detect"
        parts.append(f"{_name(setting)} {needs}")
    if missing:
        parts.append(f"not run in full: {_names(missing)}")
    return "; ".join(parts)


def _name(setting: Arm) -> str:
    return f"{setting.data} {setting.optimizer}"


def _names(settings: Sequence[Arm]) -> str:
    return ", ".join(_name(setting) for setting in settings)


def _named(decided: Mapping[Arm, bool]) -> dict[str, bool]:
    return {_name(setting): holds for setting, holds in decided.items()}


def claims() -> tuple[Claim, ...]:
    """The row of Figure 1.

    Returns:
        The claim.
    """
    return (
        Claim(
            "3.1-figure-1",
            "Figure 1, caption",
            (
                "While the average variance of the gradient decreases slightly during training, the worst case "
                "increases."
            ),
            figure_1,
            COMMAND,
            "tests/test_gradient_std_trends.py",
        ),
    )
