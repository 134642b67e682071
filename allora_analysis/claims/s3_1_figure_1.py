"""Figure 1 on runs that were recorded here.

The runs are long: the rows read what `python -m experiments.gradient_std` recorded, which states arms, tests and
stopping rule, and are `not_run` without a record. Verdicts follow the rule of `statistics.directional`, one-sided, Holm
over a row's settings; it was changed after these runs, which were two-sided, over both data sets at once. Directions in
the evidence are two-sided still. Checked by `tests/test_claims_3_1_figure_1.py`, which plants records.
"""

import dataclasses
import functools
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from allora_analysis.claims.cases import Cases
from allora_analysis.claims.claim import Evidence, Finding, claim, not_run, ranged
from allora_analysis.gradient_std import grid as grids
from allora_analysis.gradient_std import summary
from allora_analysis.gradient_std.grid import Arm
from allora_analysis.gradient_std.summary import (
    AVERAGE,
    LEVEL,
    POWER,
    WORST,
    Trend,
    family_of_trends,
    seed_component,
    values,
)
from allora_analysis.statistics import decide, paired_family, required_n
from allora_analysis.statistics.paired import TIE

COMMAND = "python -m experiments.gradient_std --data mnist --data-root FOLDER"
PRIMARY, LATER = "from epoch 0", "from epoch 1"
TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
# Which spread, and the epoch that the last one is compared with. The verdict is the first's; the rest stand beside it.
BASELINES = {
    PRIMARY: ("probe", 0),
    LATER: ("probe", 1),
    "fresh batches, from epoch 0": ("fresh", 0),
    "over minibatches without dropout, from epoch 0": ("no_dropout_fresh", 0),
}
Changes = Mapping[tuple[Arm, str], np.ndarray]
Pairs = Mapping[Arm, tuple[Trend, Trend]]


def series(runs: Mapping[Arm, Mapping[int, Any]], arms: Iterable[Arm], batch: str) -> dict[tuple[Arm, str], np.ndarray]:
    """The average and the worst entry, (seeds, epochs), of each setting."""
    return {
        (arm, statistic): values([runs[arm][seed] for seed in sorted(runs[arm])], statistic, batch)
        for arm in arms
        for statistic in (AVERAGE, WORST)
    }


def all_changes(runs: Mapping[Arm, Mapping[int, Any]], arms: Sequence[Arm]) -> dict[str, Changes]:
    """By baseline, each seed's log change to the last epoch."""
    return {
        name: {case: summary.changes(of, first) for case, of in series(runs, arms, batch).items()}
        for name, (batch, first) in BASELINES.items()
    }


def tested(changes: Changes) -> Pairs:
    """The trends of each setting's average and worst entry, p-values adjusted over all of them."""
    found = {case: Trend(change) for case, change in paired_family(changes, LEVEL, POWER).items()}
    return {arm: (found[arm, AVERAGE], found[arm, WORST]) for arm in dict.fromkeys(arm for arm, _ in changes)}


def decided(changes: Changes) -> dict[Arm, str]:
    """What each setting says of "the average falls and the worst entry rises": it agrees, contradicts or is undecided.

    Holm over the settings given, by `statistics.directional`'s rule for a sentence with two sides.
    """
    arms = dict.fromkeys(arm for arm, _ in changes)
    found = decide({arm: (-changes[arm, AVERAGE], changes[arm, WORST]) for arm in arms}, "t", LEVEL)
    words = {"holds": "agrees", "refuted": "contradicts", "undecided": "undecided"}
    return {arm: words[one.verdict] for arm, one in found.items()}


def verdict_on_figure_1(changes: Changes, arms: Sequence[Arm]) -> str:
    """The verdict over one data set's settings: one that contradicts refutes, one open or missing leaves it open."""
    outcomes = decided(changes)
    if "contradicts" in outcomes.values():
        return "refuted"
    return "undecided" if "undecided" in outcomes.values() or set(arms) - set(outcomes) else "holds"


def setting_name(arm: Arm) -> str:
    """A setting in two words."""
    return f"{arm.data} {arm.optimizer}"


def _directions(pairs: Pairs, outcomes: Mapping[Arm, str]) -> str:
    # What the settings that contradict show.
    told = dict.fromkeys(
        f"the average {average.direction}, the worst {worst.direction}".replace("unclear", "is unclear")
        for arm, (average, worst) in pairs.items()
        if outcomes[arm] == "contradicts"
    )
    return "; or ".join(told)


def _falling(pairs: Pairs, outcomes: Mapping[Arm, str], later: Pairs) -> str:
    # Where the average, which rises in the first setting that contradicts, falls if the first epoch is left out.
    contrary = next((average.direction for arm, (average, _) in pairs.items() if outcomes[arm] == "contradicts"), None)
    falls = sum(average.direction == "falls" for average, _ in later.values())
    told = falls and contrary == "rises"
    return f"; from epoch 1 the average falls under {falls} of {len(later)} optimizers" if told else ""


def _seeds(trend: Trend, settings: int) -> int | None:
    # For a power of 0.8, one-sided at Holm's first step; None where no number would do or none is needed.
    mean, spread = trend.change.mean, float(trend.change.differences.std(ddof=1))
    if trend.direction != "unclear" or abs(mean) <= TIE or spread <= TIE:
        return None
    return required_n(mean, spread, POWER, 2 * LEVEL / settings)


def needed(pairs: Pairs, outcomes: Mapping[Arm, str], missing: Sequence[Arm]) -> str:
    """What would decide the open settings."""
    parts = []
    for arm, pair in pairs.items():
        if outcomes[arm] == "undecided":
            seeds = [n for trend in pair if (n := _seeds(trend, len(pairs))) is not None]
            name = setting_name(arm)
            parts.append(f"{name} needs {max(seeds)} seeds" if seeds else f"{name} no change to detect")
    return "; ".join(parts + ([f"not run in full: {', '.join(map(setting_name, missing))}"] if missing else []))


def _counts(outcomes: Mapping[Arm, str], later: Pairs) -> dict[str, int]:
    counted = Counter(outcomes.values())
    return {f"settings: {word}": counted[word] for word in ("agrees", "contradicts", "undecided")} | {
        f"settings with a clear change from epoch 1: {what}": sum(
            pair[index].direction != "unclear" for pair in later.values()
        )
        for index, what in enumerate(("average", "worst"))
    }


def measured_trends(pairs: Mapping[str, Pairs], arm: Arm) -> dict[str, Any]:
    """What stands in the evidence of a setting's trends, by baseline."""
    return {
        f"{what}, {baseline}": {
            "direction": (trend := both[arm][index]).direction,
            "log_change": trend.change.mean,
            "interval": trend.change.interval,
            "p_value": trend.change.p_value,
            "adjusted_p_value": trend.change.adjusted_p_value,
            "detectable": trend.change.detectable,
        }
        for baseline, both in pairs.items()
        for index, what in enumerate(("average", "worst"))
    }


def _other_drop_rates(runs: Mapping[Arm, Mapping[int, Any]], grid: grids.Grid) -> dict[str, Any]:
    # A family of its own, beside the verdict: over masks, or over minibatches where training has no dropout.
    arms = [arm for arm in runs if arm.drop_rate in grid.extra_drop_rates and len(runs[arm]) == grid.seeds]
    found: dict[Any, Trend] = {}
    for_each = [series(runs, [arm], "probe" if arm.drop_rate else "no_dropout_fresh") for arm in arms]
    if for_each:
        found = family_of_trends({case: of for one in for_each for case, of in one.items()})
    return {
        f"drop rate {arm.drop_rate:g}, {setting_name(arm)}": {
            what: {
                "direction": (trend := found[arm, what_is]).direction,
                "log_change": trend.change.mean,
                "interval": trend.change.interval,
            }
            for what, what_is in (("average", AVERAGE), ("worst", WORST))
        }
        for arm in arms
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


figure_claim = functools.partial(
    claim,
    where="beyond the paper: Figure 1, caption, in our network",
    test="tests/test_gradient_std_summary.py",
    reads=grids.STUDY,
)
SAYS = (
    "In our network on {}, the gradient's standard deviation over masks falls in training on average, and its worst "
    "entry's rises."
)
READING = (
    "From before training to the last epoch the average over entries falls, by however much, and the worst entry "
    "rises, as the caption says of the paper's network, which it does not state. One-sided since the runs, two-sided "
    "before them. From epoch 1: row 3.1-figure-1-after-epoch-1."
)


def _judged(cases: Cases, changes: Changes, arms: Sequence[Arm]):
    case_of = {f"{setting_name(arm)}, {statistic}": (arm, statistic) for arm, statistic in changes}
    return cases.test(
        {name: changes[case] for name, case in case_of.items()},
        lambda samples: verdict_on_figure_1({case_of[name]: of for name, of in samples.items()}, arms),
    )


def on_figure_1(cases: Cases, folder: Path | None, data: str) -> Finding:
    """Log changes over training of the average and of the worst entry's Std over masks, per setting over seeds."""
    grid = grids.FIGURE_1
    runs = grids.recorded(grids.RESULTS if folder is None else folder, grid)
    runs = {arm: of for arm, of in runs.items() if arm.data == data}
    arms = [arm for arm in grid.arms() if arm.data == data]
    complete = [arm for arm in arms if len(runs.get(arm, ())) == grid.seeds]
    if not complete:
        return not_run("no setting is recorded in full")
    changes = all_changes(runs, complete)
    judged = _judged(cases, changes[PRIMARY], arms)
    pairs = {name: tested(of) for name, of in changes.items()}
    outcomes = decided(changes[PRIMARY])
    measured: dict[str, Any] = _counts(outcomes, pairs[LATER])
    measured |= {f"verdict {name}": verdict_on_figure_1(of, arms) for name, of in changes.items() if name != PRIMARY}
    measured |= {setting_name(arm): measured_trends(pairs, arm) | _components(runs[arm]) for arm in complete}
    measured |= _other_drop_rates(runs, grid)
    source = f"Student's t over seeds, one-sided at {LEVEL}, Holm over {len(complete)} settings; {PRIMARY} to the last"
    wanted = needed(pairs[PRIMARY], outcomes, [arm for arm in arms if arm not in complete])
    contrary, title = _directions(pairs[PRIMARY], outcomes), TITLES.get(data, data)
    beside = _falling(pairs[PRIMARY], outcomes, pairs[LATER])
    average = [100 * math.expm1(pair[0].change.mean) for pair in pairs[PRIMARY].values()]
    return judged.finding(
        holds=f"Yes, on {title} in our network: with every optimizer the average falls and the worst entry rises.",
        refuted=f"No, on {title}: {contrary.split(';')[0]}{beside}.",
        undecided=f"Undecided on {title}: some settings show no clear change.",
        evidence=Evidence({"average": "falls", "worst": "rises"}, measured, source, n=grid.seeds),
        size=ranged(average, "%", "change of the average over training"),
        corrected={"holds": None, "undecided": wanted}.get(judged.verdict, contrary),
        flips_if="more seeds, or an optimizer of the grid, that go clearly the other way",
    )


@figure_claim("3.1-figure-1", says=SAYS.format("MNIST"), command=COMMAND, reading=READING)
def figure_1(cases: Cases, folder: Path | None) -> Finding:
    """`on_figure_1` for MNIST."""
    return on_figure_1(cases, folder, "mnist")


@figure_claim(
    "3.1-figure-1-cifar10",
    says=SAYS.format("CIFAR-10"),
    command=COMMAND.replace("mnist", "cifar10"),
    reading=READING,
)
def figure_1_cifar10(cases: Cases, folder: Path | None) -> Finding:
    """`on_figure_1` for CIFAR-10."""
    return on_figure_1(cases, folder, "cifar10")
