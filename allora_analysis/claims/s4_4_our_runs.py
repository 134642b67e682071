"""§4.4 to §5.2 on models that fit a desk, from the recorded runs: Tables 3 and 4, early epochs, own best rates.

The runs are long: the rows read what `experiments/{perception,ablation,learning_rates}.py` recorded, which state arms
and stopping rules. Verdicts follow the rule of `statistics.directional`, own best rates the e-values of
`experiments.own_best_rate`: cases that were not run are left out, and each row says what it covers. The rule was
changed after these runs: one-sided, Holm over the cases run, where it was two-sided over all planned. Test loss stands
beside accuracy. Checked by `tests/test_claims_our_runs.py`, which plants records.
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from allora_analysis.claims.cases import Cases
from allora_analysis.claims.claim import Evidence, Finding, Size, claim, not_run, units_wanted
from allora_analysis.finetune.setting import STUDY, Setting
from allora_analysis.grid.presets import (
    ABLATION_ARMS,
    LISTS,
    MARGINS,
    OWN_BEST,
    RATE,
    command,
    own_best_pairs,
    own_best_verdicts,
)
from allora_analysis.grid.reading import (
    LEVEL,
    RULE,
    Pairs,
    Runs,
    after_epoch,
    differences,
    diverged,
    judged,
    recorded,
    right_differences,
)
from allora_analysis.statistics import Judgement, decide, in_every, one_sided, two_level
from allora_analysis.statistics.e_values import CAP, THRESHOLD, Sequential, e_values
from allora_analysis.statistics.e_values import bounds as bounds_of
from allora_analysis.statistics.e_values import decide as decide_by_e_values
from allora_analysis.statistics.paired import TIE
from allora_analysis.study import bound

CHANGED = "One-sided, Holm over the cases run, since the runs; before them two-sided over all planned."
decide_sequentially = functools.partial(decide_by_e_values, grain=TIE)
our_claim = functools.partial(claim, test="tests/test_claims_our_runs.py", reads=STUDY)
AS_PRINTED = dict(zip(ABLATION_ARMS, ("ALLoRA-OD", "ASF-LoRA", "LoRA × η"), strict=True))
PERCEIVED, ABLATED = LISTS["perception"]["desk"], LISTS["ablation"]["desk"]


def shown(family: Mapping[str, Judgement]) -> dict[str, Any]:
    """Judgments for the evidence, by case."""
    return {case: dataclasses.asdict(one) for case, one in family.items()}


def over_seeds(complete: Mapping[str, list[float]]) -> list[float]:
    """The mean over the cases recorded in full, seed by seed: seeds are what is independent."""
    return [statistics.fmean(of) for of in zip(*complete.values(), strict=True)]


def on_runs(
    cases: Cases,
    runs: Runs,
    pairs: Mapping[str, Pairs],
    answers: Mapping[str, str],
    *,
    own: Callable[[str], dict[str, list[float]]] | None = None,
    more: Mapping[str, Any] | None = None,
    size_of: str = "the mean difference over the cases run",
) -> Finding:
    """The first of each pair is better, case by case, by accuracy; test loss, the mean over cases and `more` beside it.

    `answers`, by verdict, may hold {better}, {worse}, {n} cases, {mean} points, {data} sets, {names} of the worse, and
    {parts}, the means by what a case's name begins with;
    `own` gives the differences by endpoint, where they are not those of `pairs`.
    """
    of = own or (lambda endpoint: differences(runs, pairs, endpoint))
    complete, stopped = of("test_accuracy"), diverged(runs, pairs)
    if not complete:
        return _no_case(runs, stopped)

    def verdict(samples: Mapping[str, np.ndarray]) -> str:
        found = decide({case: [sample] for case, sample in samples.items()}, "t", LEVEL, TIE)
        together = in_every(found)
        return "undecided" if stopped and together == "holds" else together

    tested, family = cases.test(complete, verdict), judged(complete)
    overall = judged({"mean over the cases": over_seeds(complete)})["mean over the cases"]
    signs = [one.verdict for one in family.values()]
    told = {"better": signs.count("holds"), "worse": signs.count("refuted"), "n": len(family)}
    told["data"] = " and ".join(dict.fromkeys(one.data for case in complete for one, _ in pairs.get(case, ())))
    told["mean"] = _points(overall.mean)
    parts: dict[str, list[float]] = {}
    for case, values in complete.items():
        parts.setdefault(case.partition(",")[0], []).append(statistics.fmean(values))
    told["parts"] = ", ".join(f"{name} {_points(statistics.fmean(values))}" for name, values in parts.items())
    told["names"] = "; ".join(case for case, one in family.items() if one.verdict == "refuted")
    left = 0 if own else len(pairs) - len(complete)
    planned = f"; {left} more case{'s' * (left > 1)} planned" if left else ""
    measured = shown(family | {"mean over the cases": overall}) | {
        "test loss, its fall": shown(judged(of("test_loss"))),
        "covers": ", ".join(complete) + planned,
        "a run diverged in": stopped,
    }
    wanted = units_wanted(family.values(), "seeds") if tested.verdict == "undecided" else None
    ends = [100 * end for end in overall.interval]
    return tested.finding(
        **{word: text.format(**told) for word, text in answers.items()},
        evidence=Evidence(
            {"difference": "above 0"}, measured | dict(more or {}), RULE, interval=overall.interval, n=overall.n
        ),
        size=Size(round(100 * overall.mean, 10) + 0.0, "percentage points", size_of, *ends),
        corrected=wanted,
        flips_if=wanted or "seeds in which the cases that decide are no longer clear",
    )


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def _no_case(runs: Runs, stopped: Sequence[str]) -> Finding:
    if not stopped:
        return not_run(f"{len(runs)} runs are recorded", "Not run: no case is recorded in full.")
    why = f"a run diverged among the pairs of {', '.join(stopped)}"
    return Finding("undecided", Evidence({}, {}, RULE), why, "Undecided: runs diverged.", flips_if="runs that end")


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


def _lora(own_head: bool) -> Callable[[Setting, Setting], bool]:
    def is_lora(one: Setting, run: Setting) -> bool:
        rate = one.eta * RATE
        head = RATE if own_head else rate
        return _same(one, run) and run.arm == "lora" and (run.learning_rate, run.head_learning_rate) == (rate, head)

    return is_lora


def _arm(arm: str) -> Callable[[Setting, Setting], bool]:
    def is_arm(one: Setting, run: Setting) -> bool:
        if arm == "lora_x_eta" and one.eta2 == 1:  # LoRA × 1 is LoRA at l_b
            return _lora(own_head=False)(one, run)
        return _same(one, run) and (run.arm, run.eta2) == (arm, one.eta2)

    return is_arm


@our_claim(
    "4-table-3-desk",
    where="beyond the paper: Appendix D, on all-MiniLM-L6-v2",
    says="On another model too ALLoRA is universally better than LoRA at η·l_b.",
    reading="In each case, 3 seeds, the data sets recorded; LoRA's classifier at η·l_b too. Intervals are over "
    f"seeds, on one set of 1,066 test sentences. {CHANGED}",
    command=command("perception", PERCEIVED),
    depends_on=("D-universally-better",),
)
def table_3(cases: Cases, folder: Path | None) -> Finding:
    """ALLoRA minus LoRA at η·l_b; beside it with the classifier at l_b in both, and with dropout minus without."""
    runs = recorded(PERCEIVED, folder)
    beside = {"classifier at l_b in both": _lora(own_head=True), "ALLoRA with dropout minus without": _arm("allora_0")}
    more = {
        name: shown(judged(differences(runs, by_case(PERCEIVED, {"arm": "allora"}, other))))
        for name, other in beside.items()
    }
    answers = {
        "refuted": "No: with all-MiniLM-L6-v2 on {data} clearly worse in {worse} of {n} cases, {mean} points on "
        "average.",
        "undecided": "Undecided: on {data} alone, clearly better in {better} of {n} cases, {mean} points on average.",
        "holds": "Yes: clearly better in all {n} cases on {data}, {mean} points on average.",
    }
    return on_runs(cases, runs, by_case(PERCEIVED, {"arm": "allora"}, _lora(own_head=False)), answers, more=more)


@our_claim(
    "4-table-4-desk",
    where="beyond the paper: Appendix E, on all-MiniLM-L6-v2",
    says="On another model too ALLoRA is universally better than the rest in the family.",
    reading=f"In each case, 3 seeds and the data sets recorded: ALLoRA-OD, ASF-LoRA and LoRA × η at each η². {CHANGED}",
    command=f"{command('perception', PERCEIVED)} && {command('ablation', ABLATED)}",
    depends_on=("E-universally-better",),
)
def table_4(cases: Cases, folder: Path | None) -> Finding:
    """ALLoRA minus each of ALLoRA-OD, ASF-LoRA and LoRA × η."""
    wanted = [*PERCEIVED, *ABLATED]
    pairs = {
        f"over {AS_PRINTED[arm]}, {case}": those
        for arm in ABLATION_ARMS
        for case, those in by_case(wanted, {"arm": "allora"}, _arm(arm)).items()
    }
    answers = {
        "refuted": "No, on {data} alone: {parts} points on average.",
        "undecided": "Undecided: on {data} alone, clearly better in {better}, clearly worse in {worse} of {n} cases.",
        "holds": "Yes: clearly better in all {n} cases on {data}, {mean} points on average.",
    }
    return on_runs(cases, recorded(wanted, folder), pairs, answers)


@our_claim(
    "5.1-early-epochs",
    where="beyond the paper: §5.1, on all-MiniLM-L6-v2",
    says="After the first of two epochs ALLoRA is more accurate than ALLoRA-OD.",
    reading="On average over η² and the data sets recorded; the paper conjectures it, and its Table 4 prints the last "
    f"epoch alone. {CHANGED}",
    command=f"{command('perception', PERCEIVED)} && {command('ablation', ABLATED)}",
    depends_on=("5.1-better-than-od", "4-od-noise"),
)
def early_epochs(cases: Cases, folder: Path | None) -> Finding:
    """ALLoRA minus ALLoRA-OD after epoch 1, seed by seed; case by case beside it."""
    wanted = [*PERCEIVED, *ABLATED]
    runs, pairs = recorded(wanted, folder), by_case(wanted, {"arm": "allora"}, _arm("allora_od"))

    def average(endpoint: str) -> dict[str, list[float]]:
        found = differences(runs, pairs, endpoint, epoch=0)
        return {"over allora_od, epoch 1": over_seeds(found)} if found else {}

    beside = shown(judged(differences(runs, pairs, epoch=0)))
    answers = {
        "undecided": "Undecided: {mean} points after one epoch of all-MiniLM-L6-v2; Table 4 prints no early epoch.",
        "holds": "Yes: after one epoch of all-MiniLM-L6-v2 ALLoRA is {mean} points ahead.",
        "refuted": "No: after one epoch of all-MiniLM-L6-v2 ALLoRA is {mean} points from ALLoRA-OD.",
    }
    return on_runs(cases, runs, pairs, answers, own=average, more={"case by case": beside})


OURS = "allora_0"  # the paper's ALLoRA, as all arms here without dropout: the others stand beside it in the evidence


def listed(model: str, optimizer: str) -> list[Setting]:
    """The runs of one list of `experiments.learning_rates`."""
    return [one for one in LISTS["learning_rates"]["desk"] if (one.model, one.optimizer) == (model, optimizer)]


def at_rate(wanted: Iterable[Setting], arm: str, rate: float) -> list[Setting]:
    """An arm's runs at a rate, a seed each."""
    return sorted((one for one in wanted if (one.arm, one.learning_rate) == (arm, rate)), key=lambda one: one.seed)


def best_rate(runs: Runs, wanted: Iterable[Setting], arm: str) -> float | None:
    """The rate of an arm's best average validation accuracy; None while a run is missing."""
    rates = dict.fromkeys(one.learning_rate for one in wanted if one.arm == arm)
    if not all(one in runs for one in wanted if one.arm == arm):
        return None
    return max(
        rates,
        key=lambda rate: statistics.fmean(
            after_epoch(runs[one], "validation_accuracy") or 0.0 for one in at_rate(wanted, arm, rate)
        ),
    )


FAR = 0.1  # of test accuracy: a seed so far off the median has an arm that stayed near chance
SEQUENTIAL = {"above": "holds", "below": "refuted", "equivalent": "refuted", "open": "undecided"}
SEQUENTIAL_RULE = (
    "e-values of Student's t, which takes differences as normal (a run that stays at chance is not), at ±0.5 "
    f"standard deviations, 20 either way or both bounds within the margin, at most {CAP} seeds, none of which chose a "
    "rate (20 times the number of comparisons for other arms and the loss, which are read together with it); "
    "interval: bounds of all seeds recorded, right at every n at once, each with 95 %, so both with 90 %"
)


def own_best_rate(cases: Cases, model: str, optimizer: str, folder: Path | None) -> Finding:
    """ALLoRA-0 at the rate that validation chose, minus LoRA at its own, on the test split; the other arms beside it.

    One comparison is the paper's sentence; the other arms are a family of their own in the evidence. What judges are
    the seeds of `experiments.own_best_rate`, which chose no rate, from the second on; before it the three that did.
    """
    name = next(name for name, of in OWN_BEST.items() if (of.model, of.optimizer) == (model, optimizer))
    found = own_best_verdicts(name, folder=folder)
    enough = OURS in found and len(found[OURS][0]) > 1
    return _seed_by_seed(cases, name, found, folder) if enough else _chosen_rates(cases, model, optimizer, folder)


def outlying(differences: Sequence[float]) -> str:
    """What makes an interval wide, in words: seeds so far off the median that an arm stayed near chance, if any."""
    off = sum(abs(one - statistics.median(differences)) > FAR for one in differences)
    return f", for {off} outlying seed{'s' * (off > 1)}" if off else ""


def _seed_by_seed(
    cases: Cases, name: str, found: Mapping[str, tuple[list[float], Sequential]], folder: Path | None
) -> Finding:
    # By e-values, at the frozen rates of the list: verdict of the first decision, size of all seeds recorded.
    margin, (spent, one) = MARGINS["test_accuracy"], found[OURS]
    used, whole = spent[: one.n], every_seed(spent, margin)
    tested = cases.test({OURS: used}, lambda samples: SEQUENTIAL[decide_sequentially(samples[OURS], margin).verdict])
    pairs = own_best_pairs(name, OURS)[: len(spent)]
    table = right_differences(recorded([run for pair in pairs for run in pair], folder), pairs)
    bounds = (whole["low"], whole["high"])
    ends = [100 * end for end in (one_sided(spent, "t").interval if None in bounds else bounds)]
    wanted = f"an e-value of 20 either way, or both bounds within ±{100 * margin:g} points"
    measured = {
        OURS: dataclasses.asdict(one) | {"differences": used},
        "all seeds recorded": whole,
        "over seeds and sentences, 95 %": None if table is None else dataclasses.asdict(two_level(table)),
        **_beside(name, folder),
        "learning_rate": OWN_BEST[name].rates,
    }
    rule = SEQUENTIAL_RULE + (" (no bounds yet: Student's t interval)" if None in bounds else "")
    stopped = f"those {one.n} seeds run anew; none beyond them, as the rule has stopped"
    return tested.finding(
        **_in_words(name, one, spent, whole, ends),
        evidence=Evidence(
            {"difference": "above 0"}, measured, rule, interval=(ends[0] / 100, ends[1] / 100), n=len(spent)
        ),
        size=Size(
            round(100 * whole["mean"], 10) + 0.0,
            "points",
            f"test accuracy, ALLoRA-0 minus LoRA, {len(spent)} seeds",
            *ends,
        ),
        wanted=wanted,
        flips_if=wanted if one.verdict == "open" else stopped,
    )


def every_seed(differences: Sequence[float], margin: float) -> dict[str, Any]:
    """What all seeds recorded say, those after the decision too: mean, e-values, bounds and what the rule calls it."""
    (above, below), (low, high) = e_values(differences, grain=TIE)[-1], bounds_of(differences, grain=TIE)
    every = [bounds_of(differences[:n], grain=TIE) for n in range(2, len(differences) + 1)]  # right at all n at once
    lows, highs = ([ends[side] for ends in every if ends[side] is not None] for side in (0, 1))
    within = low is not None and -margin < low and high < margin
    said = {"ahead": above >= THRESHOLD, "behind": below >= THRESHOLD, f"within ±{100 * margin:g}": within}
    told = {"n": len(differences), "mean": statistics.fmean(differences), "above": float(above), "below": float(below)}
    told |= {"bounds of every n together": (max(lows, default=None), min(highs, default=None))}
    return told | {"low": low, "high": high, "they say": next((word for word, true in said.items() if true), "open")}


def _beside(name: str, folder: Path | None) -> dict[str, Any]:
    # Test loss and the other arms: read together with the sentence's own comparison, at 20 times their number.
    loss, accuracy = (
        {arm: dataclasses.asdict(one) for arm, (_, one) in own_best_verdicts(name, of, folder, together=True).items()}
        for of in ("test_loss", "test_accuracy")
    )
    return {"test loss": loss, "other arms": {arm: one for arm, one in accuracy.items() if arm != OURS}}


def _in_words(
    name: str, one: Sequential, spent: Sequence[float], whole: Mapping[str, Any], ends: Sequence[float]
) -> dict[str, str]:
    # The answers by verdict; seeds after the decision are told beside it.
    n, mean = one.n, f"{100 * one.mean + 0.0:+.2f}"
    where = f"{mean} points on {OWN_BEST[name].model}, each at its best rate, {n} seeds."
    near = f"less than {100 * one.margin:g} points either way"
    said = {"holds": f"Yes: {where}", "refuted": f"No: {where}"}
    said |= {"refuted": f"No, {near}: {where}"} if one.verdict == "equivalent" else {}
    if len(spent) > n:
        later = f"{mean} points after {n} seeds; all {len(spent)}: {100 * whole['mean']:+.2f}, {whole['they say']}."
        said = {"holds": f"Yes by its stopping rule: {later}", "refuted": f"No by its stopping rule: {later}"}
    between = f"{bound(ends[0], 1, False):+.1f} and {bound(ends[1], 1, True):+.1f} points{outlying(spent)}"
    return said | {"undecided": f"Undecided after {n} of {CAP} seeds: ALLoRA minus LoRA is between {between}."}


def _chosen_rates(cases: Cases, model: str, optimizer: str, folder: Path | None) -> Finding:
    # By Student's t on the three seeds that chose the rates.
    wanted = listed(model, optimizer)
    runs, arms = recorded(wanted, folder), dict.fromkeys(one.arm for one in wanted)
    rates = {arm: best for arm in arms if (best := best_rate(runs, wanted, arm)) is not None}
    if "lora" not in rates or OURS not in rates:
        return not_run(f"{len(runs)} of {len(wanted)} runs are recorded", "Not run: an arm lacks runs.")
    lora = at_rate(wanted, "lora", rates["lora"])
    pairs = {
        arm: list(zip(at_rate(wanted, arm, rate), lora, strict=True)) for arm, rate in rates.items() if arm != "lora"
    }
    ends = {
        arm: (min(of), max(of)) for arm in rates for of in [{one.learning_rate for one in wanted if one.arm == arm}]
    }
    others = judged({arm: of for arm, of in differences(runs, pairs).items() if arm != OURS})
    more = {
        "learning_rate": rates,
        "best at an end of their range": [arm for arm, rate in rates.items() if rate in ends[arm]],
        "other arms": shown(others),
    }
    seeds = len(pairs[OURS])
    answers = {
        word: f"{opening}: {{mean}} points against LoRA on {model}, each at its best learning rate, {seeds} seeds."
        for word, opening in (("undecided", "Undecided"), ("holds", "Yes"), ("refuted", "No"))
    }
    spelt = {"adamw": "AdamW", "sgd": "SGD"}[optimizer]
    what = f"test accuracy of ALLoRA without dropout minus LoRA's, {wanted[0].data} under {spelt}"
    found = on_runs(cases, runs, {OURS: pairs[OURS]}, answers, more=more, size_of=what)
    still_open = found.verdict == "undecided" and found.size
    return dataclasses.replace(found, corrected=NEW_SEEDS, flips_if=NEW_SEEDS) if still_open else found


SAME = (
    f"refuted too where both bounds lie within ±{100 * MARGINS['test_accuracy']:g} points, which the rule, "
    "written before its runs, calls the same. The first decision stands; the size is of all seeds recorded, later ones "
    "too"
)
NEW_SEEDS = f"seeds that chose no rate: from two on e-values judge, {CAP} seeds at most"
CHOSEN = "by Student's t on the three seeds that chose the rates until two others are recorded, then as 4-own-best-rate"


def best_rate_claim(identifier: str, model: str, optimizer: str, spelt: str, rule: str = SAME) -> Callable:
    """A row's sentence, at each method's own best learning rate; the rule that judges it, in words."""
    frozen = [one for one in LISTS["own_best_rate"]["desk"] if (one.model, one.optimizer) == (model, optimizer)]
    return our_claim(
        identifier,
        where=f"beyond the paper: Abstract, on {model} under {spelt}",
        says=f"On {model}, too, ALLoRA is more accurate than LoRA.",
        reading="ALLoRA-0 against LoRA, as no arm here has dropout, each at its own best learning rate of those tried, "
        "half a decade apart (what choosing rates alone makes is known on digits only), on rotten_tomatoes' 1,066 test "
        f"sentences; {rule}.",
        command=f"{command('learning_rates', listed(model, optimizer))} && {command('own_best_rate', frozen)}",
    )


@best_rate_claim("4-own-best-rate", "all-MiniLM-L6-v2", "adamw", "AdamW")
def own_best_rate_adamw(cases: Cases, folder: Path | None) -> Finding:
    """On all-MiniLM-L6-v2 under AdamW."""
    return own_best_rate(cases, "all-MiniLM-L6-v2", "adamw", folder)


@best_rate_claim("4-own-best-rate-sgd", "all-MiniLM-L6-v2", "sgd", "SGD")
def own_best_rate_sgd(cases: Cases, folder: Path | None) -> Finding:
    """On all-MiniLM-L6-v2 under SGD."""
    return own_best_rate(cases, "all-MiniLM-L6-v2", "sgd", folder)


@best_rate_claim("4-own-best-rate-smollm2", "SmolLM2-135M", "adamw", "AdamW", CHOSEN)
def own_best_rate_smollm2(cases: Cases, folder: Path | None) -> Finding:
    """On SmolLM2-135M under AdamW."""
    return own_best_rate(cases, "SmolLM2-135M", "adamw", folder)
