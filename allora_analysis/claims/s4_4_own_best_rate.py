"""§4.4 on models that fit a desk: ALLoRA against LoRA, each at its own best learning rate.

The runs are long: the rows read what `experiments/own_best_rate.py` recorded, seed after seed until e-values decide,
and `experiments/own_best_fresh.py`, a fixed number of seeds; both state arms, rates and rules. Checked by
`tests/test_claims_own_best_rate.py`, which plants records.
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from allora_analysis.arms import ARMS
from allora_analysis.claims.cases import Cases
from allora_analysis.claims.claim import Evidence, Finding, Size, claim, not_run, units_wanted
from allora_analysis.claims.s4_2_factor import lost, rate_in_words
from allora_analysis.claims.s4_4_our_runs import (
    all_within,
    every_seed,
    failed,
    failed_in_words,
    in_orders,
    on_runs,
    robust,
    shown,
)
from allora_analysis.finetune.setting import STUDY, Setting
from allora_analysis.finetune.sources import INSTRUCT
from allora_analysis.grid import reading
from allora_analysis.grid.presets import (
    LISTS,
    MARGINS,
    MINILM,
    OWN_BEST,
    OWN_BEST_FRESH,
    OWN_BEST_ONCE_MORE,
    REFERENCE,
    command,
    own_best_pairs,
    own_best_verdicts,
)
from allora_analysis.grid.reading import (
    Pairs,
    average_norm,
    differences,
    judged,
    paired_differences,
    recorded,
    right_differences,
)
from allora_analysis.records import Record
from allora_analysis.statistics import OneSided, one_sided, two_level
from allora_analysis.statistics.e_values import CAP, EFFECT, THRESHOLD, Sequential
from allora_analysis.statistics.e_values import decide as decide_by_e_values
from allora_analysis.statistics.paired import TIE
from allora_analysis.study import bound, signed

decide_sequentially = functools.partial(decide_by_e_values, grain=TIE)
our_claim = functools.partial(claim, test="tests/test_claims_own_best_rate.py", reads=STUDY)
ON_THE_UPDATE = "allora_adamw"  # its factor on AdamW's update
OURS = "allora_0"  # the paper's ALLoRA, as all arms here without dropout: the others stand beside it in the evidence


def listed(name: str, model: str, optimizer: str) -> list[Setting]:
    """The runs of an experiment on a model and under an optimizer."""
    return [one for one in LISTS[name]["desk"] if (one.model, one.optimizer) == (model, optimizer)]


MARGIN = MARGINS["test_accuracy"]
STOPPED = "those {} seeds run anew; none beyond them, as the rule has stopped"
SEQUENTIAL = {"above": "holds", "below": "refuted", "equivalent": "refuted", "open": "undecided"}
SEQUENTIAL_RULE = (
    "e-values of Student's t, which takes differences as normal (a run that stays at chance is not), at ±0.5 "
    f"standard deviations, {{threshold:g}} either way or both bounds within the margin, at most {CAP} seeds, none of "
    "which chose a rate (20 for {first}'s accuracy, which has a level of its own; for other arms and the loss, read "
    "together with it, 20 times the number of comparisons); interval: bounds of all seeds recorded, right at every n "
    "at once, each with {each:g} %, so both with {both:g} %, the row's in points"
)


def on_list(
    cases: Cases, name: str, arm: str, folder: Path | None, compared: str = "", more: Mapping[str, Any] | None = None
) -> Finding:
    """An arm minus LoRA on a list of `experiments.own_best_rate`, by e-values, from the second seed on.

    The verdict is that of the first decision, the size of all seeds recorded; `more` stands beside it.
    """
    found = own_best_verdicts(name, folder=folder).get(arm)
    if found is None or len(found[0]) < 2:
        return not_run(f"{len(found[0]) if found else 0} of {CAP} seeds are recorded", "Not run: fewer than two seeds.")
    (spent, one), threshold = found, OWN_BEST[name].threshold(arm)
    tested = cases.test(
        {arm: spent[: one.n]},
        lambda of: SEQUENTIAL[decide_sequentially(of[arm], margin=MARGIN, threshold=threshold).verdict],
    )
    measured = _seen(name, arm, found, folder)
    whole, sentences = measured["all seeds recorded"], measured["over seeds and sentences, 95 %"]
    measured |= {"test loss": _losses(name, folder), **(more or {}), "learning_rate": OWN_BEST[name].rates}
    bounds = (whole["low"], whole["high"])
    ends = [100 * end for end in (one_sided(spent, "t").interval if None in bounds else bounds)]
    rule = f"{_spent_in_words(whole, sentences)}; {_rule_in_words(name, threshold, None in bounds)}"
    wanted = _wanted(one, spent, threshold)
    return tested.finding(
        **_in_words(compared or f"on {OWN_BEST[name].model}, each at the best rate tried", one, spent, whole, ends),
        evidence=Evidence({"difference": "above 0"}, measured, rule, interval=(ends[0], ends[1]), n=len(spent)),
        size=Size(
            round(100 * whole["mean"], 10) + 0.0,
            "points",
            f"test accuracy, {ARMS[arm].label} minus LoRA{_at(name)}, {len(spent)} seeds",
            *ends,
            f"{100 - 200 / threshold:g} %",
        ),
        wanted=wanted,
        flips_if=wanted if one.verdict == "open" else STOPPED.format(one.n),
    )


def _seen(name: str, arm: str, found: tuple[list[float], Sequential], folder: Path | None) -> dict[str, Any]:
    # What a list's seeds say of an arm: the first decision, all seeds, these and sentences, what was looked at since.
    (spent, one), threshold = found, OWN_BEST[name].threshold(arm)
    pairs = own_best_pairs(name, arm)[: len(spent)]
    runs = reading.found([run for pair in pairs for run in pair], folder)
    whole = every_seed(spent, MARGIN, threshold)
    if one.verdict != "open":
        whole["share of orders of the seeds"] = in_orders(spent, MARGIN, threshold)
    decided = functools.partial(decide_sequentially, margin=MARGIN, threshold=threshold)
    return {
        arm: dataclasses.asdict(one) | {"differences": spent[: one.n]},
        "all seeds recorded": whole,
        "over seeds and sentences, 95 %": _over_sentences(runs, pairs),
        **_afterwards(spent, decided, pairs, runs),
    }


def _over_sentences(runs: Mapping[Setting, Record], pairs: Pairs) -> dict[str, Any] | None:
    table = right_differences({run: record.result for run, record in runs.items()}, pairs)
    return None if table is None else dataclasses.asdict(two_level(table))


def _spent_in_words(whole: Mapping[str, Any], sentences: Mapping[str, Any] | None) -> str:
    # E-values of all seeds recorded, and the interval over sentences, too.
    told = f"e-values {whole['above']:.3g} above 0 and {whole['below']:.3g} below"
    return told if sentences is None else f"{told}; {_sentences_in_words(sentences)}"


def _sentences_in_words(of: Mapping[str, Any]) -> str:
    low, high = (100 * end for end in of["interval"])
    return f"{bound(low, 2, False):.2f} to {bound(high, 2, True):.2f} over seeds and sentences (95 %)"


def _losses(name: str, folder: Path | None) -> dict[str, Any]:
    found = own_best_verdicts(name, "test_loss", folder)
    return {arm: dataclasses.asdict(one) for arm, (_, one) in found.items()}


def _rule_in_words(name: str, threshold: float, no_bounds: bool) -> str:
    levels = {"threshold": threshold, "each": 100 - 100 / threshold, "both": 100 - 200 / threshold}
    rule = SEQUENTIAL_RULE.format(first=ARMS[OWN_BEST[name].compared[0]].label, **levels)
    return rule + " (no bounds yet: Student's t interval)" * no_bounds


def _at(name: str) -> str:
    # LoRA's rate where validation did not choose it, as 2e-3.
    of = OWN_BEST[name]
    return "" if of.chosen else f" at {rate_in_words(of.rates[REFERENCE])}"


def _processor(record: Record) -> str:
    # Its name alone, which is what older records have.
    return (record.provenance.get("cpu") or "unknown").partition(", family ")[0]


def _afterwards(
    spent: Sequence[float], decided: Callable[..., Sequential | OneSided], pairs: Pairs, runs: Mapping[Setting, Record]
) -> dict[str, Any]:
    # What was looked at after the runs and decides nothing: ALLoRA's factor, the machines, failed runs.
    ends = [(one.eta2, runs[one].result) for one, _ in pairs]
    kept = [1 - lost(eta2, average_norm(of, of["row_norms"]["step"][-1])) for eta2, of in ends]
    told: dict[str, Any] = {"factor at the end, of η": statistics.fmean(kept)}
    kinds = [" and ".join(sorted({_processor(runs[run]) for run in pair})) for pair in pairs]
    if len(set(kinds)) > 1:
        by_kind = {kind: [x for x, own in zip(spent, kinds, strict=True) if own == kind] for kind in sorted(set(kinds))}
        told["by CPU"] = {kind: {"n": len(of), "mean": statistics.fmean(of)} for kind, of in by_kind.items()}
    same = [x for x, kind in zip(spent, kinds, strict=True) if " and " not in kind]
    if 1 < len(same) < len(spent):
        told["without seeds on two kinds of CPU"] = dataclasses.asdict(decided(same))
    if any(failed(spent).values()):
        told["where an arm failed"] = robust(spent, [one.seed for one, _ in pairs], decided)
    return {"looked at afterwards": told}


def _wanted(one: Sequential, spent: Sequence[float], threshold: float) -> str:
    # What would decide an open list: what is left of it, and seeds at a number fixed beforehand.
    found = [*judged({"gap": list(spent)}).values()] if len(spent) > 1 else []
    fixed = units_wanted(found, "seeds")
    if found and found[0].verdict != "undecided":
        fixed = f"these {one.n} would have done"
    margin, left, nearest = 100 * one.margin, CAP - one.n, 100 * EFFECT / 2 * (one.standard_deviation or 0.0)
    by_rule = f"an e-value of {threshold:g} in the {left} seeds left, or both bounds within ±{margin:g} points"
    if nearest >= margin:
        by_rule += f" (which cannot be: they stay {nearest:.1f} from the mean)"
    beforehand = f"; fixed beforehand, {fixed}" * (threshold == THRESHOLD)
    return f"{by_rule if left else 'nothing by this rule, which ends here'}{beforehand}"


def _in_words(
    compared: str, one: Sequential, spent: Sequence[float], whole: Mapping[str, Any], ends: Sequence[float]
) -> dict[str, str]:
    # The answers by verdict; seeds after the decision are told beside it.
    n, mean = one.n, signed(100 * one.mean, 2)
    where = f"{mean} points {compared}, {n} seeds."
    near = f"less than {100 * one.margin:g} points either way"
    said = {"holds": f"Yes: {where}", "refuted": f"No: {where}"}
    said |= {"refuted": f"No, {near}: {where}"} if one.verdict == "equivalent" else {}
    if len(spent) > n:
        later = f"{mean} points; over all {len(spent)} {signed(100 * whole['mean'], 2)}, {whole['they say']}."
        stopped = f"by its stopping rule, {n} seeds: {later}"
        said = {"holds": f"Yes {stopped}", "refuted": f"No {stopped}"}
    orders = whole.get("share of orders of the seeds", {one.verdict: 1.0})
    alike = sum(share for verdict, share in orders.items() if SEQUENTIAL[verdict] == SEQUENTIAL[one.verdict])
    if alike < 0.5:
        hangs = f"by its stopping rule: {mean} points, {n} seeds; in {100 * (1 - alike):.0f} % of orders not."
        said = {"holds": f"Yes {hangs}", "refuted": f"No {hangs}"}
    low, high = bound(ends[0], 1, False), bound(ends[1], 1, True)
    after = f" after {'all' if one.at_cap else f'{n} of'} {CAP} seeds"
    excluded = f"leads above {high:.1f}, deficits beyond {-low:.1f} points are excluded"
    if None in (whole["low"], whole["high"]):
        excluded = f"{signed(100 * whole['mean'], 1)} points ({low:.1f} to {high:.1f})"
    if off := failed_in_words(spent):
        after = f", {n} seeds"
        excluded = f"{signed(100 * whole['mean'], 1)} points, {off}; beyond {low:.1f} and {high:.1f} excluded if normal"
    return said | {"undecided": f"Undecided{after}: {excluded}."}


SAME = (
    f"refuted too where both bounds lie within ±{100 * MARGIN:g} points, which the rule, "
    "written before its runs, calls the same. The first decision stands; the size is of all seeds recorded, later ones "
    "too"
)
FRESH_FLIPS = {
    "holds": "thirty seeds in which ALLoRA is not clearly ahead, or the interval is within the margin",
    "refuted": "thirty seeds in which ALLoRA is clearly ahead, and the interval not within the margin",
}


def best_rate_claim(
    identifier: str,
    name: str,
    spelt: str,
    *,
    own: str = "the model's own of 0.1 stays on",
    rule: str = SAME,
    runs: Sequence[str] = ("own_best_rate",),
    beside: str = "",
) -> Callable:
    """A row's sentence on a list's model, under its optimizer as `spelt`, at each method's own best learning rate.

    In words: the model's `own` dropout, the `rule` that judges, what was seen `beside` it. `runs`: its experiments.
    """
    model, optimizer = OWN_BEST[name][:2]
    return our_claim(
        identifier,
        where=f"beyond the paper: Abstract, on {model} under {spelt}",
        says=f"On {model}, too, ALLoRA is more accurate than LoRA, under {spelt}.",
        reading=f"ALLoRA-0 against LoRA, as no arm here has dropout in its adapters ({own}), each at its own best "
        "learning rate of those tried, half a decade apart, on rotten_tomatoes' 1,066 test sentences; "
        f"{rule}.{beside}",
        command=_rerun(model, optimizer, *runs),
        depends_on=("4-figure-2-factor",),
    )


def _rerun(model: str, optimizer: str, *names: str) -> str:
    return " && ".join(command(name, listed(name, model, optimizer)) for name in ("learning_rates", *names))


@best_rate_claim(
    "4-own-best-rate",
    "minilm-adamw",
    "AdamW",
    rule=f"refuted, too, where the 90 % interval lies within ±{100 * MARGIN:g} points, which is the same; thirty fresh "
    "seeds, a number fixed before they ran",
    runs=("own_best_fresh", "own_best_rate"),
    beside=" Twenty before them, whose number was fixed, too, had left it open (-0.13 points, -0.31 to 0.06). The 24 "
    "before those were judged as they came, by a rule whose first decision was to stand: it was 'ahead', at the "
    "twentieth (e-value 29), and was set aside, as it hung on their order: four seeds later the e-value was 1, and in "
    "295 of 300 orders the rule says 'the same' (evidence). Adam divides the factor out, so that only its fall, 0.07 "
    "of η by the end, and rounding part the two.",
)
def own_best_rate_adamw(cases: Cases, folder: Path | None) -> Finding:
    """On all-MiniLM-L6-v2 under AdamW, on thirty fresh seeds; those before them beside."""
    records = reading.found([run for pair in OWN_BEST_ONCE_MORE for run in pair], folder)
    runs, of = {run: record.result for run, record in records.items()}, {OURS: OWN_BEST_ONCE_MORE}
    told = "{lead} points ({low} to {high}), {seeds} fresh seeds."
    answers = {"holds": f"Yes: {told}", "refuted": f"No{{same}}: {told}", "undecided": f"Undecided: {told}"}
    size_of = f"test accuracy, {ARMS[OURS].label} minus LoRA"
    found = on_runs(cases, runs, of, answers, size_of=size_of, flips=FRESH_FLIPS, margin=MARGIN)
    if not (gaps := differences(runs, of).get(OURS)):
        return found
    sentences, lower = _over_sentences(records, OWN_BEST_ONCE_MORE), judged(differences(runs, of, "test_loss"))
    more = {
        "test loss within its margin": bool(lower) and all_within(lower, MARGINS["test_loss"]),
        "over seeds and sentences, 95 %": sentences,
        **_seeds_before(gaps, folder),
        **_afterwards(gaps, functools.partial(one_sided, test="t"), OWN_BEST_ONCE_MORE, records),
        "learning_rate": OWN_BEST["minilm-adamw"].rates,
    }
    rule = "; ".join([*([_sentences_in_words(sentences)] if sentences else []), found.evidence.tolerance_source])
    evidence = dataclasses.replace(found.evidence, measured=found.evidence.measured | more, tolerance_source=rule)
    return dataclasses.replace(found, evidence=evidence)


def _seeds_before(gaps: Sequence[float], folder: Path | None) -> dict[str, Any]:
    # The twenty whose number was fixed, those by e-values before them, and all together: they judge nothing.
    runs = recorded([run for pair in OWN_BEST_FRESH for run in pair], folder)
    twenty = differences(runs, {OURS: OWN_BEST_FRESH}).get(OURS, [])
    before = own_best_verdicts("minilm-adamw", folder=folder).get(OURS)
    spent = before[0] if before else []
    told = {"the twenty before": twenty, "all seeds together": [*spent, *twenty, *gaps]}
    return {name: shown(judged({OURS: of})) for name, of in told.items() if len(of) > 1} | {
        "the seeds before those, by e-values": _seen("minilm-adamw", OURS, before, folder) if len(spent) > 1 else {}
    }


@our_claim(
    "4-own-best-rate-on-the-update",
    where="beyond the paper: §4.2, the factor on AdamW's update, on all-MiniLM-L6-v2",
    says="On all-MiniLM-L6-v2 ALLoRAAdamW, §4.2's factor on AdamW's update, is more accurate than LoRA under AdamW, "
    "each at the best of the rates tried.",
    reading="The rates tried are half a decade apart, the best is 1e-3 for both arms; no dropout in the adapters, "
    "1,066 test sentences, margin and cap as in 4-own-best-rate-sgd. At 1e-3 it starts as LoRA at 2e-3 and keeps "
    "most of η, and 2e-3 was not on LoRA's list: 4-own-best-rate-control asks of it. Made a row when 24 seeds had "
    "been seen (e-value 6.7 above 0), so that it is judged as the list's rule asks of comparisons read beside "
    "ALLoRA-0's, at an e-value of 80; no seed after them had been run. Test loss, another of these comparisons, is "
    "decided too: ALLoRAAdamW's is lower.",
    command=_rerun("all-MiniLM-L6-v2", "adamw", "own_best_rate"),
    depends_on=("4-figure-2-factor",),
)
def factor_on_the_update(cases: Cases, folder: Path | None) -> Finding:
    """ALLoRAAdamW minus LoRA on all-MiniLM-L6-v2."""
    name, doubled = "minilm-adamw", own_best_verdicts("minilm-control", folder=folder).get(ON_THE_UPDATE)
    over = {"above": " (and over LoRA at 2e-3)", "open": ""}.get(
        doubled[1].verdict if doubled else "open", " (but not over LoRA at 2e-3)"
    )
    return on_list(cases, name, ON_THE_UPDATE, folder, f"on {OWN_BEST[name].model}, at the best rates tried{over}")


@our_claim(
    "4-own-best-rate-control",
    where="beyond the paper: §4.2, the factor on AdamW's update against the rate at which it starts",
    says="On all-MiniLM-L6-v2 ALLoRAAdamW at 1e-3 is more accurate than LoRA under AdamW at 2e-3, where it starts.",
    reading="The control of 4-own-best-rate-on-the-update: ALLoRAAdamW's runs of there beside LoRA at η·1e-3, η² = "
    "4, on the same seeds, run afterwards; test sentences, margin and cap as in 4-own-best-rate-sgd, an e-value of "
    "20. They stopped where ALLoRAAdamW led LoRA at 1e-3, which favors it here, too. Fifteen have their arms on two "
    "kinds of CPU: without them, looked at afterwards, it is open. LoRA at 2e-3 is 0.46 points ahead of LoRA at "
    "1e-3, which decides nothing here (evidence).",
    command=_rerun("all-MiniLM-L6-v2", "adamw", "own_best_rate"),
    depends_on=("4-own-best-rate-on-the-update",),
)
def control(cases: Cases, folder: Path | None) -> Finding:
    """ALLoRAAdamW minus LoRA at the rate at which it starts."""
    return _against_its_start(cases, "minilm-control", "minilm-adamw", folder)


@our_claim(
    "4-own-best-rate-sgd-control",
    where="beyond the paper: §4.2, the factor on the gradient against a fixed one",
    says="On all-MiniLM-L6-v2 under SGD ALLoRA at 1 is more accurate than LoRA at 2, η times that rate.",
    reading="The control of 4-own-best-rate-sgd: its runs of ALLoRA-0 at 1, the best rate tried, beside LoRA at η·1 on "
    "the same seeds (η² = 4, clipped at 1), run afterwards by a rule written before them; test sentences, margin and "
    "cap as there. A row of its own since ten seeds, when +0.34 points (e-value 6.4) had been read; nothing else "
    "changed. The factor keeps 0.97 of η to the end; clipping, too, may part the two, as it divides η out again where "
    "A and B make up the gradient's norm. In eight pairs the arms ran on two kinds of CPU; the five others, +0.5 "
    "points, are open alone. LoRA at 3, its best on validation of 1, 3 and 10, is ahead of LoRA at 2 in ten of the "
    "thirteen, by 0.6 points without the one run at 3 that stays at chance, with which it is 1.8 behind (evidence); it "
    "decides nothing.",
    command=_rerun(MINILM, "sgd", "own_best_rate"),
    depends_on=("4-own-best-rate-sgd",),
)
def control_sgd(cases: Cases, folder: Path | None) -> Finding:
    """ALLoRA-0 minus LoRA at η times its rate, under SGD."""
    return _against_its_start(cases, "minilm-sgd-control", "minilm-sgd", folder, " (not its best rate)")


def _against_its_start(cases: Cases, name: str, tuned: str, folder: Path | None, more: str = "") -> Finding:
    # The first arm of a list against LoRA at η times its rate; beside it, LoRA there minus LoRA at the best rate tried.
    arm = OWN_BEST[name].compared[0]
    doubled, best = ([lora for _, lora in own_best_pairs(of, arm)] for of in (name, tuned))
    pairs = list(zip(doubled, best, strict=True))
    gaps = paired_differences(recorded([*doubled, *best], folder), pairs, "test_accuracy")
    rates = (rate_in_words(OWN_BEST[of].rates[REFERENCE]) for of in (name, tuned))
    words = " minus ".join(f"LoRA at {rate}" for rate in rates)
    beside = {words: every_seed(gaps, MARGIN, THRESHOLD)} if gaps else {}
    return on_list(cases, name, arm, folder, f"against LoRA{_at(name)}{more}", beside)


@best_rate_claim(
    "4-own-best-rate-sgd",
    "minilm-sgd",
    "SGD",
    own="the model's own of 0.1 stays on; clipped at 1",
    beside=" At 1, its best rate, ALLoRA's factor keeps nearly all of η = 2 to the end, so that the row compares "
    "LoRA's training at about 2 with that at 3, its best of 1, 3 and 10: 4-own-best-rate-sgd-control has LoRA at 2. "
    "One run of LoRA at 3 stays at chance, so that differences are not normal. Looked at afterwards, what one run "
    "hardly moves: the median is 0.23 points ahead (-0.1 to 0.5, sign test, 95 %), so that a typical gap above 0.5 is "
    "excluded either way; Wilcoxon's test says ahead (one-sided p = 0.018), the sign test does not (p = 0.11); without "
    "that pair the mean is 0.25 (0.05 to 0.44), open by this rule. The cap was fixed beforehand; 121 more pairs, some "
    "14 hours of a core, would be a new rule.",
)
def own_best_rate_sgd(cases: Cases, folder: Path | None) -> Finding:
    """On all-MiniLM-L6-v2 under SGD."""
    return on_list(cases, "minilm-sgd", OURS, folder)


@best_rate_claim(
    "4-own-best-rate-smollm2",
    "smollm2-adamw",
    "AdamW",
    own="the model has none of its own",
    beside=INSTRUCT,
)
def own_best_rate_smollm2(cases: Cases, folder: Path | None) -> Finding:
    """On SmolLM2-135M under AdamW."""
    return on_list(cases, "smollm2-adamw", OURS, folder)
