"""§4.4 to §5.2 on models that fit a desk, from the recorded runs: Tables 3 and 4.

The runs are long: the rows read what `experiments/{perception,ablation}.py` recorded, which state arms and stopping
rules. Verdicts follow the rule of `statistics.directional`: cases that were not run are left out, and each row says
what it covers. The rule was changed after these runs: one-sided, Holm over the cases run, where it was two-sided over
all planned. Test loss stands beside accuracy. Checked by `tests/test_claims_our_runs.py`, which plants records.
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest, quantile_test, wilcoxon

from allora_analysis.claims.cases import Cases
from allora_analysis.claims.claim import Evidence, Finding, Size, claim, not_run, run_diverged, units_wanted
from allora_analysis.finetune.setting import STUDY, Setting
from allora_analysis.grid.presets import ABLATION_ARMS, LISTS, command
from allora_analysis.grid.reading import (
    LEVEL,
    RULE,
    Pairs,
    Runs,
    differences,
    diverged,
    judged,
    recorded,
)
from allora_analysis.statistics import Judgement, decide, in_every, one_sided, within
from allora_analysis.statistics.e_values import bounds, e_values
from allora_analysis.statistics.paired import TIE
from allora_analysis.study import bound, signed

CHANGED = "One-sided, Holm over the cases run, since the runs; before them two-sided over all planned."
DIVIDED = (
    "AdamW, at the paper's rate of 1e-4, divides ALLoRA's factor out, so that it is nearly LoRA at l_b; the best rate "
    "here is ten times that."
)
our_claim = functools.partial(claim, test="tests/test_claims_our_runs.py", reads=STUDY)
AS_PRINTED = dict(zip(ABLATION_ARMS, ("ALLoRA-OD", "ASF-LoRA", "LoRA × η"), strict=True))
FLIPS = {
    "holds": "seeds in which a case is not clearly ahead",
    "refuted": "seeds in which no case is clearly behind",
}
PERCEIVED, ABLATED = LISTS["perception"]["desk"], LISTS["ablation"]["desk"]


def shown(family: Mapping[str, Judgement]) -> dict[str, Any]:
    """Judgments for the evidence, by case."""
    return {case: dataclasses.asdict(one) for case, one in family.items()}


SIDES = (("ahead", "greater"), ("behind", "less"))
FAR = 0.1  # of test accuracy: a seed so far off the median has an arm that failed; set when one had been seen


def failed(differences: Sequence[float]) -> dict[str, list[int]]:
    """Places of the differences so far off the median that an arm stayed near chance, by the arm; of four at least."""
    middle = statistics.median(differences)
    off = {"LoRA": 1, "ALLoRA": -1} if len(differences) > 3 else {}
    return {arm: [i for i, one in enumerate(differences) if sign * (one - middle) > FAR] for arm, sign in off.items()}


def failed_in_words(differences: Sequence[float]) -> str:
    """How much of the mean failed runs make; empty where none has failed."""
    arms = {arm: those for arm, those in failed(differences).items() if those}
    if not (off := [place for those in arms.values() for place in those]):
        return ""
    part, which = 100 * sum(differences[place] for place in off) / len(differences), f"{next(iter(arms))} "
    runs = f"failed {which if len(arms) == 1 else ''}run{'s' * (len(off) > 1)}"
    return f"{part:.1f} from {len(off)} {runs}"


def robust(spent: Sequence[float], seeds: Sequence[int], decided: Callable[..., Any]) -> dict[str, Any]:
    """What single failures hardly move, of differences and their seeds; `decided` is the row's test."""
    off = {place for those in failed(spent).values() for place in those}
    ahead, behind = (sum(sign * x > TIE for x in spent) for sign in (1, -1))
    others = [x for place, x in enumerate(spent) if place not in off]
    kept = one_sided(others, "t") if len(others) > 1 else None
    return {
        "seeds": [seeds[place] for place in sorted(off)],
        "ahead in": f"{ahead} of {len(spent)}",
        "sign test, two-sided p": float(binomtest(ahead, ahead + behind).pvalue),
        "Wilcoxon's test, one-sided p": {
            word: float(wilcoxon(spent, alternative=of, method="approx").pvalue) for word, of in SIDES
        },
        "median": statistics.median(spent),
        "interval of the median by the sign test, 95 %": [*map(float, quantile_test(spent).confidence_interval(0.95))],
        "mean of the others": kept and kept.mean,
        "interval of the others": kept and kept.interval,
        "the others, by the row's test": kept and dataclasses.asdict(decided(others)),
    }


ORDERS = 300  # of the seeds: the one in which they ran, and random ones


def in_orders(differences: Sequence[float], margin: float, threshold: float) -> dict[str, float]:
    """The share of orders of the differences in which the rule of e-values gives each of its verdicts.

    Its e-value is at the threshold where a bound is at 0, and a bound is as many standard deviations from the mean in
    every order, so that the bounds of one order give those of all.
    """
    x, n, rng = np.array(differences), np.arange(1, len(differences) + 1), np.random.default_rng(0)
    ends = [bounds(x[:k], threshold, grain=TIE) for k in n]
    width = [
        np.nan if low is None else (high - low) / 2 / x[:k].std(ddof=1) for k, (low, high) in zip(n, ends, strict=True)
    ]
    orders = np.array([x, *(rng.permutation(x) for _ in range(ORDERS - 1))])
    half = np.array(width) * np.array([orders[:, :k].std(axis=1, ddof=min(k - 1, 1)) for k in n]).T
    low, high = orders.cumsum(axis=1) / n - half, orders.cumsum(axis=1) / n + half
    each = [low >= 0, high <= 0, (low > -margin) & (high < margin)]
    said = np.select(each, ["above", "below", "equivalent"], "open")
    first = said[np.arange(ORDERS), (said != "open").argmax(axis=1)]
    return {str(verdict): float(np.mean(first == verdict)) for verdict in np.unique(first)}


def every_seed(differences: Sequence[float], margin: float, threshold: float) -> dict[str, Any]:
    """What all seeds recorded say, those after the decision too: mean, e-values, bounds and what the rule calls it."""
    bounded = functools.partial(bounds, threshold=threshold, grain=TIE)
    (above, below), (low, high) = e_values(differences, grain=TIE)[-1], bounded(differences)
    every = [bounded(differences[:n]) for n in range(2, len(differences) + 1)]  # right at all n at once
    lows, highs = ([ends[side] for ends in every if ends[side] is not None] for side in (0, 1))
    same = low is not None and -margin < low and high < margin
    said = {"ahead": above >= threshold, "behind": below >= threshold, "practically equal": same}
    told = {"n": len(differences), "mean": statistics.fmean(differences), "above": float(above), "below": float(below)}
    told |= {"bounds of every n together": (max(lows, default=None), min(highs, default=None))}
    return told | {"low": low, "high": high, "they say": next((word for word, true in said.items() if true), "open")}


def over_seeds(complete: Mapping[str, list[float]]) -> list[float]:
    """The mean over the cases recorded in full, seed by seed: seeds are what is independent."""
    return [statistics.fmean(of) for of in zip(*complete.values(), strict=True)]


def _planned(left: int) -> str:
    return f"; {left} more case{'s' * (left > 1)} planned" if left else ""


def on_runs(
    cases: Cases,
    runs: Runs,
    pairs: Mapping[str, Pairs],
    answers: Mapping[str, str],
    *,
    more: Mapping[str, Any] | None = None,
    size_of: str = "the mean difference over the cases run",
    flips: Mapping[str, str] = FLIPS,
    margin: float = 0.0,
) -> Finding:
    """The first of each pair is better, case by case, by accuracy; test loss, the mean over cases and `more` beside it.

    Refuted, too, where every case's interval lies within the `margin`. `answers`, by verdict, may hold {data} sets and
    what `_told` has; where there are several rivals ("over ASF-LoRA, …") the size is the worst rival's.
    """
    complete, stopped = differences(runs, pairs), diverged(runs, pairs)
    if not complete:
        return _no_case(runs, stopped)

    def verdict(samples: Mapping[str, np.ndarray]) -> str:
        if margin and all_within(judged({case: [*sample] for case, sample in samples.items()}), margin):
            return "refuted"
        together = in_every(decide({case: [sample] for case, sample in samples.items()}, "t", LEVEL, TIE))
        return "undecided" if stopped and together == "holds" else together

    tested, family = cases.test(complete, verdict), judged(complete)
    overall, rivals = judged({"mean over the cases": over_seeds(complete)})["mean over the cases"], _by_rival(complete)
    one, told = overall, _told(family, overall, margin)
    told["data"] = " and ".join(dict.fromkeys(run.data for case in complete for run, _ in pairs[case]))
    if rivals:
        least, one = min(rivals.items(), key=lambda item: item[1].mean)
        size_of = f"{size_of}, against {least}, the worst of {len(rivals)} rivals"
    means = {"mean over the cases": overall} | {f"mean over {name}'s cases": mean for name, mean in rivals.items()}
    measured = shown(family | means) | {
        "test loss, its fall": shown(judged(differences(runs, pairs, "test_loss"))),
        "covers": ", ".join(complete) + _planned(len(pairs) - len(complete)),
        "a run diverged in": stopped,
        **(more or {}),
    }
    rule = f"{RULE}; the same within ±{100 * margin:g} points" if margin else RULE
    wanted = units_wanted(family.values(), "seeds") if tested.verdict == "undecided" else None
    wanted = f"{wanted}, or an interval within ±{100 * margin:g} points" if wanted and margin else wanted
    ends = 100 * one.interval[0], 100 * one.interval[1]
    return tested.finding(
        **{word: text.format(**told) for word, text in answers.items()},
        evidence=Evidence({"difference": "above 0"}, measured, f"{rule}; the row's in points", interval=ends, n=one.n),
        size=Size(round(100 * one.mean, 10) + 0.0, "percentage points", size_of, *ends),
        corrected=wanted,
        flips_if=flips.get(tested.verdict, wanted),
    )


def _told(family: Mapping[str, Judgement], overall: Judgement, margin: float) -> dict[str, Any]:
    # {n} cases, {better} and {worse}; {by}: those that are worse; {behind}: those of several rivals that the first is
    # behind; over {seeds} the {mean} in points, to the hundredth {lead} ({low} to {high}), and if it is the {same}.
    signs, (low, high) = [one.verdict for one in family.values()], (100 * end for end in overall.interval)
    same = f", less than {100 * margin:g} points either way" if margin and all_within(family, margin) else ""
    told = {"better": signs.count("holds"), "worse": signs.count("refuted"), "n": len(family), "seeds": overall.n}
    told |= {"mean": _points(overall.mean), "by": _worse(family), "behind": _behind(family), "same": same}
    told |= {"lead": signed(100 * overall.mean, 2), "low": f"{bound(low, 2, False):.2f}"}
    return told | {"high": f"{bound(high, 2, True):.2f}"}


def all_within(family: Mapping[str, Judgement], margin: float) -> bool:
    """Whether every interval of the family lies within ±margin."""
    return all(within(one.interval, margin) for one in family.values())


def _by_rival(complete: Mapping[str, list[float]]) -> dict[str, Judgement]:
    # The mean over a rival's cases, seed by seed, where cases are named "over ASF-LoRA, …" of several.
    cases: dict[str, dict[str, list[float]]] = {}
    for case, values in complete.items():
        if case.startswith("over "):
            cases.setdefault(case.partition(",")[0].removeprefix("over "), {})[case] = values
    return {rival: judged({rival: over_seeds(of)})[rival] for rival, of in cases.items() if len(cases) > 1}


def _worse(family: Mapping[str, Judgement]) -> str:
    # By how much in which cases the first is clearly worse: "η² = 2: -1.2, η² = 4: -2.4".
    worse = {case.rpartition(", ")[2]: one.mean for case, one in family.items() if one.verdict == "refuted"}
    return ", ".join(f"{case}: {_points(mean)}" for case, mean in worse.items())


def _behind(family: Mapping[str, Judgement]) -> str:
    # "LoRA × η at η² = 2, 4 (-0.6, -1.0 points), …" and who else perhaps; of several rivals in how many cases.
    clear = {case: one for case, one in family.items() if one.verdict == "refuted"}
    names = list(dict.fromkeys(case.partition(",")[0].removeprefix("over ") for case in clear))
    if len(names) != 1:
        return f"{' and '.join(names)} in {len(clear)} of {len(family)} cases, behind no other"
    etas = ", ".join(case.rpartition(" = ")[2] for case in clear)
    means = ", ".join(_points(one.mean) for one in clear.values())
    return f"{names[0]} at η² = {etas} ({means} points), {_behind_alone(family)}"


def _behind_alone(family: Mapping[str, Judgement]) -> str:
    # "ASF-LoRA perhaps (-0.5, -0.9)": where a case alone is behind, and not after Holm.
    alone = {case: one for case, one in family.items() if one.verdict != "refuted" and one.opposite_p_value < LEVEL}
    names = dict.fromkeys(case.partition(",")[0].removeprefix("over ") for case in alone)
    means = ", ".join(_points(one.mean) for one in alone.values())
    return f"{' and '.join(names)} perhaps ({means})" if alone else "behind no other clearly"


def _points(share: float) -> str:
    return signed(100 * share, 1)


def _no_case(runs: Runs, stopped: Sequence[str]) -> Finding:
    if not stopped:
        return not_run(f"{len(runs)} runs are recorded", "Not run: no case is recorded in full.")
    return run_diverged(f"a run diverged among the pairs of {', '.join(stopped)}", RULE)


def by_case(
    wanted: Iterable[Setting], first: Mapping[str, Any], second: Callable[[Setting, Setting], bool]
) -> dict[str, Pairs]:
    """Pairs of one seed for each data set and η²: `first` names fields of the one, `second` finds the other."""
    known = list(wanted)
    cases: dict[str, list[tuple[Setting, Setting]]] = {}
    for one in known:
        if all(getattr(one, name) == field for name, field in first.items()):
            other = next(run for run in known if second(one, run))
            cases.setdefault(f"{one.data}, η² = {one.eta2:g}", []).append((one, other))
    return cases


def _same(one: Setting, other: Setting) -> bool:
    return (one.data, one.seed) == (other.data, other.seed)


def lora_at_eta_l(own_head: bool) -> Callable[[Setting, Setting], bool]:
    """Whether a run is LoRA at η·l_b for another's η, l_b, data and seed, its classifier as the other's or at η·l_b."""

    def is_lora(one: Setting, run: Setting) -> bool:
        rate = one.eta * one.learning_rate
        head = one.head_learning_rate if own_head else rate
        return _same(one, run) and run.arm == "lora" and (run.learning_rate, run.head_learning_rate) == (rate, head)

    return is_lora


def arm_at_eta(arm: str) -> Callable[[Setting, Setting], bool]:
    """Whether a run is the arm's at another's η, data and seed; LoRA × 1 is LoRA at l_b."""

    def is_arm(one: Setting, run: Setting) -> bool:
        if arm == "lora_x_eta" and one.eta2 == 1:
            return lora_at_eta_l(own_head=False)(one, run)
        return _same(one, run) and (run.arm, run.eta2) == (arm, one.eta2)

    return is_arm


@our_claim(
    "4-table-3-desk",
    where="beyond the paper: Appendix D, on all-MiniLM-L6-v2",
    says="On another model too ALLoRA is universally better than LoRA at η·l_b.",
    reading="In each case, 3 seeds, the data sets recorded; LoRA's classifier at η·l_b too. At η² = 1 the two rates "
    f"are one. {DIVIDED} Intervals are over seeds, on one set of 1,066 test sentences. {CHANGED}",
    command=command("perception", PERCEIVED),
    depends_on=("D-universally-better",),
)
def table_3(cases: Cases, folder: Path | None) -> Finding:
    """ALLoRA minus LoRA at η·l_b; beside it with the classifier at l_b in both, and with dropout minus without."""
    runs = recorded(PERCEIVED, folder)
    beside = {
        "classifier at l_b in both": lora_at_eta_l(own_head=True),
        "ALLoRA with dropout minus without": arm_at_eta("allora_0"),
    }
    more = {
        name: shown(judged(differences(runs, by_case(PERCEIVED, {"arm": "allora"}, other))))
        for name, other in beside.items()
    }
    answers = {
        "refuted": "No: worse in {worse} of {n} cases ({by} points).",
        "undecided": "Undecided: on {data} alone, clearly better in {better} of {n} cases, {mean} points on average.",
        "holds": "Yes: clearly better in all {n} cases on {data}, {mean} points on average.",
    }
    return on_runs(
        cases, runs, by_case(PERCEIVED, {"arm": "allora"}, lora_at_eta_l(own_head=False)), answers, more=more
    )


@our_claim(
    "4-table-4-desk",
    where="beyond the paper: Appendix E, on all-MiniLM-L6-v2",
    says="On another model too ALLoRA is universally better than the rest in the family.",
    reading="In each case, 3 seeds and the data sets recorded: ALLoRA-OD, ASF-LoRA and LoRA × η at each η²; "
    "'perhaps' is clear at 0.05 taken alone, and not after Holm over the nine. "
    f"{DIVIDED} {CHANGED}",
    command=f"{command('perception', PERCEIVED)} && {command('ablation', ABLATED)}",
    depends_on=("E-universally-better",),
)
def table_4(cases: Cases, folder: Path | None) -> Finding:
    """ALLoRA minus each of ALLoRA-OD, ASF-LoRA and LoRA × η."""
    wanted = [*PERCEIVED, *ABLATED]
    pairs = {
        f"over {AS_PRINTED[arm]}, {case}": those
        for arm in ABLATION_ARMS
        for case, those in by_case(wanted, {"arm": "allora"}, arm_at_eta(arm)).items()
    }
    answers = {
        "refuted": "No: on {data} clearly behind {behind}.",
        "undecided": "Undecided: on {data} alone, clearly better in {better}, clearly worse in {worse} of {n} cases.",
        "holds": "Yes: clearly better in all {n} cases on {data}, {mean} points on average.",
    }
    runs = recorded(wanted, folder)
    early = differences(runs, by_case(wanted, {"arm": "allora"}, arm_at_eta("allora_od")), epoch=0)
    more = {"over ALLoRA-OD after the first epoch": shown(judged({"mean": over_seeds(early)})) if early else {}}
    return on_runs(cases, runs, pairs, answers, more=more)
