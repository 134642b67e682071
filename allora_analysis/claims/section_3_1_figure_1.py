"""Figure 1: over training, does the gradient's standard deviation over masks fall on average and rise at worst?

The runs are long: the row reads what `python -m experiments.gradient_std` recorded, and is `not_run` without a record.
The tests were stated before the runs, in that file and in `gradient_std.trends`. Checked by
`tests/test_claims_figure_1.py`, which plants trends.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from allora_analysis.claims.ledger import Claim, Evidence, Finding, not_run, settle
from allora_analysis.gradient_std import grid as grids
from allora_analysis.gradient_std.grid import Arm
from allora_analysis.gradient_std.summary import seed_component
from allora_analysis.gradient_std.trends import AVERAGE, LEVEL, WORST, Trend, agreement, family_of_trends, values

COMMAND = "python -m experiments.gradient_std --data mnist --data-root FOLDER"
PRIMARY = "from epoch 0"
# Which spread, and the epoch that the last one is compared with. The verdict is the first's; the rest stand beside it.
BASELINES = {
    PRIMARY: ("probe", 0),
    "from epoch 1": ("probe", 1),
    "fresh batches, from epoch 0": ("fresh", 0),
    "over minibatches without dropout, from epoch 0": ("no_dropout_fresh", 0),
}
Pairs = Mapping[Arm, tuple[Trend, Trend]]


def figure_1(folder: Path | None = None) -> Finding:
    """The verdict over the settings of the grid whose seeds are all recorded; the rest count as undecided.

    Args:
        folder: the folder of records; None for the repository's own.

    Returns:
        The finding.
    """
    grid = grids.FIGURE_1
    runs = grids.recorded(grids.RESULTS if folder is None else folder, grid)
    complete = [arm for arm in grid.arms() if len(runs.get(arm, ())) == grid.seeds]
    if not complete:
        return not_run("no setting is recorded in full")
    cases = 2 * len(grid.arms())
    pairs = {name: _pairs(runs, complete, *baseline, cases) for name, baseline in BASELINES.items()}
    outcomes = {arm: agreement(*pairs[PRIMARY][arm]) for arm in complete}
    verdict, text = judged(pairs[PRIMARY], outcomes, [arm for arm in grid.arms() if arm not in complete])
    counted = Counter(outcomes.values())
    measured: dict[str, Any] = {f"settings: {word}": counted[word] for word in ("agrees", "contradicts", "undecided")}
    measured |= {_name(arm): _measured(pairs, arm) | _components(runs[arm]) for arm in complete}
    measured |= _other_drop_rates(runs, grid)
    source = f"Student's t over seeds at {LEVEL}, Holm over {cases} cases; {PRIMARY} to the last"
    text = None if text is None else f"{text}; {_later(pairs['from epoch 1'])}"
    return Finding(verdict, Evidence({"average": "falls", "worst": "rises"}, measured, source, n=grid.seeds), text)


def _later(pairs: Pairs) -> str:
    # What the verdict owes to its baseline, the network before training.
    clear = [sum(pair[i].direction != "unclear" for pair in pairs.values()) for i in (0, 1)]
    words = "all this since before training; from epoch 1 on, the average's change is clear in {} and the worst's in {}"
    return f"{words.format(*clear)} of {len(pairs)} settings"


def _pairs(runs: Mapping[Arm, Mapping[int, Any]], arms: Sequence[Arm], batch: str, first: int, cases: int) -> Pairs:
    series = {
        (arm, statistic): values([runs[arm][seed] for seed in sorted(runs[arm])], statistic, batch)
        for arm in arms
        for statistic in (AVERAGE, WORST)
    }
    found = family_of_trends(series, first, cases)
    return {arm: (found[arm, AVERAGE], found[arm, WORST]) for arm in arms}


def _measured(pairs: Mapping[str, Pairs], arm: Arm) -> dict[str, Any]:
    return {
        f"{what}, {baseline}": {
            "direction": (trend := both[arm][index]).direction,
            "log_change": trend.change.mean,
            "interval": trend.change.interval,
            "adjusted_p_value": trend.change.adjusted_p_value,
            "detectable": trend.change.detectable,
        }
        for baseline, both in pairs.items()
        for index, what in enumerate(("average", "worst"))
    }


def _other_drop_rates(runs: Mapping[Arm, Mapping[int, Any]], grid: grids.Grid) -> dict[str, Any]:
    # A family of its own, beside the verdict: over masks, or over minibatches where training has no dropout.
    series = {
        (arm, statistic): values(
            [runs[arm][seed] for seed in sorted(runs[arm])], statistic, "probe" if arm.drop_rate else "no_dropout_fresh"
        )
        for arm in runs
        if arm.drop_rate in grid.extra_drop_rates and len(runs[arm]) == grid.seeds
        for statistic in (AVERAGE, WORST)
    }
    found = family_of_trends(series) if series else {}
    return {
        f"drop rate {arm.drop_rate:g}, {_name(arm)}": {
            statistic: {
                "direction": trend.direction,
                "log_change": trend.change.mean,
                "interval": trend.change.interval,
            }
            for statistic, trend in (("average", found[arm, AVERAGE]), ("worst", found[arm, WORST]))
        }
        for arm in dict.fromkeys(arm for arm, _ in found)
    }


def _components(runs: Mapping[int, Any]) -> dict[str, Any]:
    # Of the gradient's variance: the masks' share, averaged over seeds, and what the seed adds to its logarithm.
    found: dict[str, Any] = {}
    for when, epoch in (("before training", 0), ("at the end", -1)):
        parts = [run[epoch]["decomposition"] for run in runs.values()]
        share = statistics.fmean(part["mask"] / part["total"] for part in parts)
        seed = seed_component([part["total"] for part in parts], [part["total_stderr"] for part in parts])
        found[f"variance components, {when}"] = {"mask_share": share, **dataclasses.asdict(seed)}
    return found


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
    decided = {arm: word == "agrees" for arm, word in outcomes.items() if word != "undecided"}
    open_ones = [arm for arm, word in outcomes.items() if word == "undecided"]
    if len(set(decided.values())) < 2 and (open_ones or missing):
        return "undecided", _needed(pairs, decided, open_ones, missing)
    if all(decided.values()):
        return "holds", None
    against = {arm: pair for arm, pair in pairs.items() if outcomes[arm] == "contradicts"}
    if any(decided.values()):
        parts = [condition(decided), *_patterns(against)]
        parts += [f"{what}: {_names(arms)}" for what, arms in (("undecided", open_ones), ("not run", missing)) if arms]
        return settle(_named(decided), dict.fromkeys(_named(decided), True)), "; ".join(parts)
    return settle(_named(decided)), "; ".join(_patterns(against))


def _patterns(pairs: Pairs) -> list[str]:
    by_directions: dict[tuple[str, str], list[Arm]] = {}
    for arm, pair in pairs.items():
        by_directions.setdefault((pair[0].direction, pair[1].direction), []).append(arm)
    words = {"falls": "falls", "rises": "rises", "unclear": "is unclear"}
    return [
        f"the average {words[average]}, the worst {words[worst]}: {_names(arms)}"
        for (average, worst), arms in by_directions.items()
    ]


def condition(decided: Mapping[Arm, bool]) -> str:
    """Which settings the sentence holds for: told by the data set alone, by the optimiser alone, or by both.

    Args:
        decided: whether it holds, by setting; true of some.

    Returns:
        The condition.
    """
    for factor, field in (("data set", "data"), ("optimiser", "optimizer")):
        by_value: dict[str, set[bool]] = {}
        for arm, holds in decided.items():
            by_value.setdefault(getattr(arm, field), set()).add(holds)
        if all(len(outcomes) == 1 for outcomes in by_value.values()):
            true, false = ([key for key, value in by_value.items() if value == {holds}] for holds in (True, False))
            return f"depends on the {factor}: true of {', '.join(true)}, false of {', '.join(false)}"
    true, false = (_names([key for key, value in decided.items() if value == holds]) for holds in (True, False))
    return f"depends on data set and optimiser: true of {true}; false of {false}"


def _needed(pairs: Pairs, decided: Mapping[Arm, bool], open_ones: Sequence[Arm], missing: Sequence[Arm]) -> str:
    parts = [f"{'true' if holds else 'false'} of {_name(arm)}" for arm, holds in decided.items()]
    for arm in open_ones:
        seeds = [n for trend in pairs[arm] if (n := trend.change.required_n) is not None]
        needs = f"needs {max(seeds)} seeds" if seeds else "no change to detect"
        parts.append(f"{_name(arm)} {needs}")
    if missing:
        parts.append(f"not run in full: {_names(missing)}")
    return "; ".join(parts)


def _name(arm: Arm) -> str:
    return f"{arm.data} {arm.optimizer}"


def _names(settings: Sequence[Arm]) -> str:
    return ", ".join(_name(arm) for arm in settings)


def _named(decided: Mapping[Arm, bool]) -> dict[str, bool]:
    return {_name(arm): holds for arm, holds in decided.items()}


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
                "increases […] (read: it falls, by however much)"
            ),
            figure_1,
            COMMAND,
            "tests/test_gradient_std_trends.py",
            reads=grids.STUDY,
        ),
    )
