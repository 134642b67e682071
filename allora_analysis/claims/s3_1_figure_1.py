"""Figure 1, and Figure 2's left half with Table 2, on runs that were recorded here.

The runs are long: the rows read what `python -m experiments.gradient_std` and `python -m experiments.dropout_rates`
recorded, which state arms, tests and stopping rule, and are `not_run` without a record. Verdicts follow the rule of
`statistics.directional`, one-sided, Holm over a row's settings; it was changed after these runs, which were two-sided,
Figure 1's over both data sets at once. Directions in the evidence are two-sided still. Checked by
`tests/test_claims_3_1_figure_1.py`, which plants records.
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
from jaxtyping import Float

from allora_analysis.claims.cases import Cases
from allora_analysis.claims.claim import Evidence, Finding, Size, claim, not_run, ranged, units_wanted
from allora_analysis.finetune.setting import STUDY
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
from allora_analysis.grid.presets import AT_INPUT, DROP_RATES, command
from allora_analysis.grid.reading import RULE, recorded
from allora_analysis.grid.reading import judged as judged_pairs
from allora_analysis.statistics import Judgement, decide, in_every, paired_family, required_n
from allora_analysis.statistics.paired import TIE

COMMAND = "python -m experiments.gradient_std --data mnist --data-root FOLDER"
PRIMARY = "from epoch 0"
TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
# Which spread, and the epoch that the last one is compared with. The verdict is the first's; the rest stand beside it.
BASELINES = {
    PRIMARY: ("probe", 0),
    "from epoch 1": ("probe", 1),
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


def _name(arm: Arm) -> str:
    return f"{arm.data} {arm.optimizer}"


def _directions(pairs: Pairs, outcomes: Mapping[Arm, str]) -> str:
    # What the settings that contradict show.
    told = dict.fromkeys(
        f"the average {average.direction}, the worst {worst.direction}".replace("unclear", "is unclear")
        for arm, (average, worst) in pairs.items()
        if outcomes[arm] == "contradicts"
    )
    return "; or ".join(told)


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
            parts.append(f"{_name(arm)} needs {max(seeds)} seeds" if seeds else f"{_name(arm)} no change to detect")
    return "; ".join(parts + ([f"not run in full: {', '.join(map(_name, missing))}"] if missing else []))


def _counts(outcomes: Mapping[Arm, str], later: Pairs) -> dict[str, int]:
    counted = Counter(outcomes.values())
    return {f"settings: {word}": counted[word] for word in ("agrees", "contradicts", "undecided")} | {
        f"settings with a clear change from epoch 1: {what}": sum(
            pair[index].direction != "unclear" for pair in later.values()
        )
        for index, what in enumerate(("average", "worst"))
    }


def _measured(pairs: Mapping[str, Pairs], arm: Arm) -> dict[str, Any]:
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
        f"drop rate {arm.drop_rate:g}, {_name(arm)}": {
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
    "before them."
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
    changes = {
        name: {case: summary.changes(of, first) for case, of in series(runs, complete, batch).items()}
        for name, (batch, first) in BASELINES.items()
    }
    case_of = {f"{_name(arm)}, {statistic}": (arm, statistic) for arm, statistic in changes[PRIMARY]}
    judged = cases.test(
        {name: changes[PRIMARY][case] for name, case in case_of.items()},
        lambda samples: verdict_on_figure_1({case_of[name]: of for name, of in samples.items()}, arms),
    )
    pairs = {name: tested(of) for name, of in changes.items()}
    outcomes = decided(changes[PRIMARY])
    measured: dict[str, Any] = _counts(outcomes, pairs["from epoch 1"])
    measured |= {f"verdict {name}": verdict_on_figure_1(of, arms) for name, of in changes.items() if name != PRIMARY}
    measured |= {_name(arm): _measured(pairs, arm) | _components(runs[arm]) for arm in complete}
    measured |= _other_drop_rates(runs, grid)
    source = f"Student's t over seeds, one-sided at {LEVEL}, Holm over {len(complete)} settings; {PRIMARY} to the last"
    wanted = needed(pairs[PRIMARY], outcomes, [arm for arm in arms if arm not in complete])
    contrary, title = _directions(pairs[PRIMARY], outcomes), TITLES.get(data, data)
    average = [100 * math.expm1(pair[0].change.mean) for pair in pairs[PRIMARY].values()]
    return judged.finding(
        holds=f"Yes, on {title} in our network: with every optimizer the average falls and the worst entry rises.",
        refuted=f"No, on {title} in our network: {contrary.split(';')[0]}.",
        undecided=f"Undecided on {title}: some settings show no clear change.",
        evidence=Evidence({"average": "falls", "worst": "rises"}, measured, source, n=grid.seeds),
        size=ranged(average, "%", "change of the average over training"),
        corrected={"holds": None, "undecided": wanted}.get(judged.verdict, contrary),
        flips_if="more seeds, or an optimizer of the grid, that go clearly the other way",
    )


@figure_claim("3.1-figure-1", says=SAYS.format("MNIST"), command=COMMAND, reading=READING)
def figure_1(cases: Cases, folder: Path | None = None) -> Finding:
    """`on_figure_1` for MNIST."""
    return on_figure_1(cases, folder, "mnist")


@figure_claim(
    "3.1-figure-1-cifar10",
    says=SAYS.format("CIFAR-10"),
    command=COMMAND.replace("mnist", "cifar10"),
    reading=READING,
)
def figure_1_cifar10(cases: Cases, folder: Path | None = None) -> Finding:
    """`on_figure_1` for CIFAR-10."""
    return on_figure_1(cases, folder, "cifar10")


EARLY, LATE = 3, 8  # epochs; the paper has 3 and 10
HIGH = max(DROP_RATES)
ACCURACY = "test_accuracy"
PERMUTATIONS, SEED = 9999, 0
Gaps = Mapping[tuple[float, float, int], np.ndarray]


def best_epoch(epochs: Sequence[Mapping[str, Any]]) -> int:
    """The first epoch of the highest accuracy, from 1."""
    accuracies = [entry[ACCURACY] for entry in epochs]
    return 1 + accuracies.index(max(accuracies))


def correlation(best: Mapping[float, Sequence[int]]) -> dict[str, float] | None:
    """Spearman's, of the best epoch with the drop rate over all runs, and its p by permutations; None for one epoch."""
    pairs = np.array([(rate, epoch) for rate, epochs in best.items() for epoch in epochs])
    rates, epochs = map(_ranks, pairs.T)
    scale = float(np.linalg.norm(rates) * np.linalg.norm(epochs))
    if scale == 0:
        return None
    shuffled = np.random.default_rng(SEED).permuted(np.tile(epochs, (PERMUTATIONS, 1)), axis=1) @ rates
    extreme = np.abs(shuffled) >= abs(rates @ epochs) * (1 - 1e-9)
    return {"correlation": float(rates @ epochs) / scale, "p_value": (1 + int(extreme.sum())) / (1 + PERMUTATIONS)}


def _ranks(of: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    # From the mean rank; equal numbers have the mean of theirs.
    below, up_to = (np.searchsorted(np.sort(of), of, side) for side in ("left", "right"))
    return (below + up_to - len(of)) / 2


def compared(gaps: Gaps) -> dict[tuple[float, float, int], Judgement]:
    """By `statistics.directional`'s rule, Holm over the cases given; accuracies are shares, equal up to a grain."""
    return judged_pairs({case: list(of) for case, of in gaps.items()})


def as_printed(gaps: Gaps) -> dict[tuple[float, float, int], np.ndarray]:
    """The gaps with the sign that the caption gives them: below 0 early, above 0 late."""
    return {case: -np.asarray(of) if case[-1] == EARLY else np.asarray(of) for case, of in gaps.items()}


def verdict_on_figure_2(gaps: Gaps, whole: bool) -> str:
    """HIGH minus each other rate: below 0 early and above 0 late in all cases, the contrary in one, or neither."""
    together = in_every(decide({case: [of] for case, of in as_printed(gaps).items()}, "t", LEVEL, TIE))
    return "undecided" if together == "holds" and not whole else together


def sign(one: Judgement) -> int:
    """1 where a difference is clearly above 0, −1 where it is clearly below, 0 where neither is shown."""
    return {"holds": 1, "refuted": -1}.get(one.verdict, 0)


def _counted(family: Mapping[tuple[float, float, int], Judgement]) -> dict[str, str]:
    signs = {epoch: [sign(one) for case, one in family.items() if case[-1] == epoch] for epoch in (EARLY, LATE)}
    return {
        f"drop rate {HIGH:g} after {epoch} epochs": ", ".join(
            f"{word} {of.count(sign)}" for word, sign in (("better than", 1), ("worse than", -1), ("open against", 0))
        )
        for epoch, of in signs.items()
    }


def _wanted(family: Mapping[tuple[float, float, int], Judgement], rest: Sequence[str]) -> str:
    named = {f"{other:g} after {epoch} epochs": one for (_, other, epoch), one in family.items()}
    clear = [f"{name}: {'above' if sign(one) > 0 else 'below'}" for name, one in named.items() if sign(one)]
    against = [f"drop rate {HIGH:g} against {', '.join(clear)}"] if clear else []
    return "; ".join([*against, units_wanted(named.values(), "seeds"), *rest])


def gaps(
    known: Mapping[tuple[float, int], Sequence[Mapping[str, Any]]], pairs: Iterable[tuple[float, float]]
) -> dict[tuple[float, float, int], np.ndarray]:
    """Accuracy at one drop rate minus another's, seed by seed, early and late."""
    seeds = sorted({seed for _, seed in known})
    return {
        (one, two, epoch): np.array(
            [known[one, seed][epoch - 1][ACCURACY] - known[two, seed][epoch - 1][ACCURACY] for seed in seeds]
        )
        for one, two in pairs
        for epoch in (EARLY, LATE)
    }


def _lacking(rates: Sequence[float], stopped: Sequence[float]) -> list[str]:
    told = [f"a run diverged at drop rate {', '.join(f'{rate:g}' for rate in stopped)}"] if stopped else []
    missing = len(DROP_RATES) - len(rates) - len(stopped)
    return told + ([f"{missing} drop rates not recorded in full"] if missing else [])


def _measured_gaps(family: Mapping[tuple[float, float, int], Judgement]) -> dict[str, Any]:
    return {
        f"drop rate {first:g} minus {second:g}, epoch {epoch}": dataclasses.asdict(one)
        for (first, second, epoch), one in family.items()
    }


def _measured_epochs(best: Mapping[float, Sequence[int]]) -> dict[str, Any]:
    return {
        "epoch of the best accuracy": {f"{rate:g}": epochs for rate, epochs in best.items()},
        "Spearman's correlation of that epoch with the drop rate": correlation(best),
    }


@claim(
    "3.1-figure-2-left",
    where="beyond the paper: Figure 2 left, caption, on all-MiniLM-L6-v2",
    says="On all-MiniLM-L6-v2 the highest drop rate is last after short training and first after long training.",
    reading=f"Test accuracy at drop rate {HIGH:g} is below that at each other rate after {EARLY} epochs and above "
    f"it after {LATE}, on a model that fits a desk; one-sided since the runs, two-sided before them.",
    command=command("dropout_rates", AT_INPUT),
    test="tests/test_claims_3_1_figure_1.py",
    reads=STUDY,
)
def figure_2_left(cases: Cases, folder: Path | None = None) -> Finding:
    """The highest drop rate minus each other at an early and at a late epoch; each minus none beside them."""
    runs = recorded(AT_INPUT, folder)
    seeds = sorted({one.seed for one in AT_INPUT})
    known = {(one.drop_rate, one.seed): runs[one]["epochs"] for one in AT_INPUT if one in runs}
    rates = [rate for rate in DROP_RATES if all(len(known.get((rate, seed), ())) >= LATE for seed in seeds)]
    stopped = [rate for rate in DROP_RATES if rate not in rates and all((rate, seed) in known for seed in seeds)]
    rest = _lacking(rates, stopped)
    if HIGH not in rates or len(rates) < 2:
        if stopped:
            return Finding("undecided", Evidence({}, {}, RULE), rest[0], answer="Undecided: a run diverged.")
        return not_run(f"{len(runs)} of {len(AT_INPUT)} runs are recorded")

    others = [rate for rate in rates if rate != HIGH]
    high = gaps(known, ((HIGH, other) for other in others))
    case_of = {f"{HIGH:g} minus {case[1]:g}, epoch {case[2]}": case for case in high}
    judged = cases.test(
        {name: high[case] for name, case in case_of.items()},
        lambda samples: verdict_on_figure_2({case_of[name]: of for name, of in samples.items()}, not rest),
    )
    family = compared(high)
    beside = compared(gaps(known, ((rate, 0.0) for rate in others if rate > 0 and 0.0 in rates)))
    best = {rate: [best_epoch(known[rate, seed]) for seed in seeds] for rate in rates}
    measured = _measured_gaps(family | beside) | _counted(family) | _measured_epochs(best)
    late = family[HIGH, min(others), LATE]
    return judged.finding(
        holds=f"Yes: drop rate {HIGH:g} is last after {EARLY} epochs and first after {LATE}.",
        refuted=f"No: drop rate {HIGH:g} is ahead of another early, or behind another late.",
        undecided=f"Undecided: {len(seeds)} seeds on a small model tell no drop rate from another.",
        evidence=Evidence({"epoch 3": "below 0 for each", "epoch 8": "above 0 for each"}, measured, RULE, n=len(seeds)),
        size=Size(
            100 * late.mean,
            "points of accuracy",
            f"drop rate {HIGH:g} minus {min(others):g} after {LATE} epochs",
            *(100 * end for end in late.interval),
        ),
        corrected=None if judged.verdict == "holds" else _wanted(family, rest),
        flips_if="more seeds, at which the drop rate of 0.4 is clearly above each other late and below it early, or "
        "not",
    )
