"""Figure 2 (right) as measured in fine-tuning: how the row norms of BA leave 0, and whether they taper off.

The runs are long: the rows read what `python -m experiments.row_norms` recorded, whose file states the arms, the test
and the stopping rule of the first two. Checked by `tests/test_claims_4_2_row_norms.py`, which plants records.
"""

import functools
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from allora_analysis.claims.cases import Cases
from allora_analysis.claims.claim import Evidence, Finding, Size, claim, not_run, ranged
from allora_analysis.finetune.setting import STUDY, Setting
from allora_analysis.finetune.sources import INSTRUCT
from allora_analysis.grid.presets import ETA, LISTS, ROW_NORM_RATES, base_rate, command
from allora_analysis.grid.reading import average_norm, final_value, recorded
from allora_analysis.statistics import holm, one_sided
from allora_analysis.statistics.paired import student

FIGURE_ITSELF = "What Figure 2 itself shows, the authors' runs under an optimizer not named, is not judged."
START = (1, 10)
MARGIN = math.log(1.1)
MOST_SEEDS = 10**6
FAST, SLOW = "from LoRA at η·l", "from LoRA at l"
FORETOLD = {"sgd": True, "adamw": False}  # by 4-figure-2-right, nothing being clipped
MINILM, SMOLLM2 = "all-MiniLM-L6-v2", "SmolLM2-135M"
Runs = Mapping[Setting, Mapping[str, Any]]
Gap = tuple[float, tuple[float, float]]  # mean of log(n_ALLoRA/n_other) and its 95 % interval over seeds


def wanted(model: str) -> list[Setting]:
    """The runs on one model."""
    return [one for one in LISTS["row_norms"]["desk"] if one.model == model]


def reached(runs: Runs, one: Setting, steps: Sequence[int]) -> bool:
    """Whether a run is recorded, and did not diverge before one of these steps."""
    return one in runs and {*steps} <= {*runs[one]["row_norms"]["step"]}


def of_arm(own: Sequence[Setting], arm: str, rate: float | None = None) -> list[Setting]:
    """An arm's runs, at a rate, by seed."""
    same = [one for one in own if one.arm == arm and rate in (None, one.learning_rate)]
    return sorted(same, key=lambda one: one.seed)


def log_gaps(runs: Runs, own: Sequence[Setting], steps: Sequence[int], arm: str = "allora") -> dict[str, np.ndarray]:
    """An arm's log n(t) less LoRA's at η·l and at l, a number a seed, by "from which arm, step"."""
    base = base_rate(own[0])

    def logs(arm: str, rate: float | None, step: int) -> np.ndarray:
        return np.array([math.log(average_norm(runs[one], step)) for one in of_arm(own, arm, rate)])

    return {
        f"{what}, step {t}": logs(arm, None, t) - logs("lora", factor * base, t)
        for what, factor in ((FAST, ETA), (SLOW, 1.0))
        for t in steps
    }


def beside(runs: Runs, own: Sequence[Setting]) -> dict[str, np.ndarray]:
    """What stands beside the sentence's steps: the gaps at the last step, and ALLoRAAdamW's where it was run."""
    last = own[0].max_steps
    steps = (*START, last) if all(reached(runs, one, [last]) for one in own) else START
    found = log_gaps(runs, own, steps[2:])
    if of_arm(own, "allora_adamw"):
        found |= {f"ALLoRAAdamW {name}": gaps for name, gaps in log_gaps(runs, own, steps, "allora_adamw").items()}
    return found


def gap(differences: np.ndarray) -> Gap:
    """Their mean and its 95 % interval, Student's."""
    return float(differences.mean()), student(differences, 0.95)[0]


def matches(of: Gap) -> bool:
    """Whether the whole interval is within the margin."""
    return max(abs(end) for end in of[1]) <= MARGIN


def differs(of: Gap) -> bool:
    """Whether the interval excludes 0 and the mean is beyond the margin."""
    return of[1][0] * of[1][1] > 0 and abs(of[0]) > MARGIN


def outcome(fast: Mapping[int, Gap], slow: Mapping[int, Gap]) -> bool | None:
    """Does ALLoRA match LoRA at η·l, and is LoRA at l slower, at both steps? None where the runs leave it open."""
    ahead = {t: differs(slow[t]) and slow[t][0] > 0 for t in START}
    if all(matches(fast[t]) and ahead[t] for t in START):
        return True
    return False if any(differs(fast[t]) or (differs(slow[t]) and not ahead[t]) for t in START) else None


def seeds_to_decide(fast: Mapping[int, Gap], slow: Mapping[int, Gap], seeds: int) -> int | None:
    """The seeds at which `outcome` decides, were every later seed to leave means and spreads as they are.

    An interval's half-width is t_{0.975, n − 1}·s/√n; once it decides, a narrower one says the same. None where even
    `MOST_SEEDS` do not decide: a mean that meets neither condition.
    """
    from scipy.special import stdtrit

    def decided(n: int) -> bool:
        narrower = float(stdtrit(n - 1, 0.975) / stdtrit(seeds - 1, 0.975)) * math.sqrt(seeds / n)

        def at_n(gaps: Mapping[int, Gap]) -> dict[int, Gap]:
            return {
                t: (m, (m - (m - low) * narrower, m + (high - m) * narrower)) for t, (m, (low, high)) in gaps.items()
            }

        return outcome(at_n(fast), at_n(slow)) is not None

    if not decided(MOST_SEEDS):
        return None
    return bisect_left(range(seeds, MOST_SEEDS), True, key=decided) + seeds


def outcomes(samples: Mapping[str, np.ndarray]) -> dict[str, bool | None]:
    """`outcome` by optimizer, from differences named "optimizer, from which arm, step"."""
    gaps: dict[str, dict[str, dict[int, Gap]]] = {}
    for name, values in samples.items():
        optimizer, what, step = name.split(", ")
        gaps.setdefault(optimizer, {FAST: {}, SLOW: {}})[what][int(step.removeprefix("step "))] = gap(values)
    return {name: outcome(own[FAST], own[SLOW]) for name, own in gaps.items()}


def verdict(found: Mapping[str, bool | None], open_ones: Sequence[str]) -> str:
    """True under SGD and false under AdamW, as foretold: conditional; with an optimizer open: undecided, unless so."""
    decided = {name: holds for name, holds in found.items() if holds is not None}
    if len(decided) < len(found) or open_ones:
        return "undecided"
    if all(decided.values()):
        return "holds"
    return "conditional" if decided == FORETOLD else "refuted"


def wanting(found: Mapping[str, bool | None], samples: Mapping[str, np.ndarray], open_ones: Sequence[str]) -> str:
    """What is true, what is false, and what would decide the rest."""
    said = [f"{'true' if holds else 'false'} under {name}" for name, holds in found.items() if holds is not None]
    for name in (name for name, holds in found.items() if holds is None):
        gaps = {what: {t: gap(samples[f"{name}, {what}, step {t}"]) for t in START} for what in (FAST, SLOW)}
        n = seeds_to_decide(gaps[FAST], gaps[SLOW], len(samples[f"{name}, {FAST}, step {START[0]}"]))
        said.append(
            f"open under {name}: at these means {MOST_SEEDS} seeds do not decide it either"
            if n is None
            else f"open under {name}: would need {n} seeds of these means and spreads"
        )
    return "; ".join([*said, *open_ones])


GIVEN_UP = (
    " One rate under SGD is judged; a first list at 0.5, with a classifier's rate at which this model is unstable, was "
    "given up, and stands in the evidence."
)
ANSWERS = {
    "holds": "Yes, under both optimizers.",
    "conditional": "Only under SGD, at the rate judged ({rate:g}): under AdamW ALLoRA's rows grow as LoRA's at l_b do.",
    "refuted": "No: not under the optimizers where theory expects it.",
    "undecided": "Undecided: the runs leave an optimizer open.",
}


def given_up() -> list[Setting]:
    """The list of SmolLM2 under SGD at MiniLM's rates, which trained nothing: see `experiments/row_norms.py`."""
    rate, head = ROW_NORM_RATES[MINILM]["sgd"]
    times = rate / ROW_NORM_RATES[SMOLLM2]["sgd"][0]
    own = (one for one in wanted(SMOLLM2) if one.optimizer == "sgd")
    return [replace(one, learning_rate=times * one.learning_rate, head_learning_rate=head) for one in own]


def trained(result: Mapping[str, Any]) -> bool:
    """Whether a run ended with a better accuracy than the most frequent label's share."""
    return final_value(result, "test_accuracy") > result["majority_rates"]["test"]


def left_out(folder: Path | None) -> tuple[str, bool]:
    """What `given_up` shows, in words, and whether a pair of it that trained belies the condition.

    A pair is ALLoRA and LoRA at η·l; it does where their mean rows after 10 steps differ by more than the margin.
    """
    own, ratios, belied = given_up(), [], False
    runs = recorded(own, folder)
    rate = min(one.learning_rate for one in own)
    for pair in zip(of_arm(own, "allora"), of_arm(own, "lora", ETA * rate), strict=True):
        if all(reached(runs, one, START) for one in pair):
            first, second = (average_norm(runs[one], START[1]) for one in pair)
            ratios.append(first / second)
            belied |= abs(math.log(first / second)) > MARGIN and all(trained(runs[one]) for one in pair)
    told = f"; given up, SGD at {rate:g}: {sum(map(trained, runs.values()))} of {len(runs)} runs ended above chance"
    of = f", ALLoRA's rows after 10 steps {', '.join(f'{one:.2g}' for one in ratios)} times LoRA's at η·l_b"
    return (told + (of if ratios else "") if runs else ""), belied


def figure_2(cases: Cases, model: str, folder: Path | None) -> Finding:
    """The verdict over the optimizers whose runs are all recorded."""
    listed = wanted(model)
    runs = recorded(listed, folder)
    by_optimizer = {name: [one for one in listed if one.optimizer == name] for name in ROW_NORM_RATES[model]}
    complete = [name for name, own in by_optimizer.items() if all(reached(runs, one, START) for one in own)]
    missing = [name for name, own in by_optimizer.items() if not all(one in runs for one in own)]
    stopped = [name for name in by_optimizer if name not in complete and name not in missing]
    if not complete:
        return not_run(f"{len(runs)} of {len(listed)} runs are recorded")
    beyond, belied = left_out(folder) if model == SMOLLM2 else ("", False)
    samples = {
        f"{name}, {what}": values
        for name in complete
        for what, values in log_gaps(runs, by_optimizer[name], START).items()
    }
    open_ones = [f"open under {name}: not recorded in full" for name in missing]
    open_ones += [f"open under {name}: a run diverged" for name in stopped]
    open_ones += ["open under sgd: at another rate runs train, and go otherwise"] * belied
    rate = ROW_NORM_RATES[model]["sgd"][0]
    tested = cases.test(samples, lambda values: verdict(outcomes(values), open_ones))
    found = outcomes(samples)
    others = {f"{name}, {what}": v for name in complete for what, v in beside(runs, by_optimizer[name]).items()}
    gaps = {name: gap(values) for name, values in (samples | others).items()}
    measured = {name: {"log_ratio": mean, "interval": interval} for name, (mean, interval) in gaps.items()}
    ahead = gaps.get(f"adamw, {SLOW}, step {START[1]}")
    size = ahead and (math.exp(ahead[0]), [math.exp(end) for end in ahead[1]])
    return tested.finding(
        **{word: text.format(rate=rate) for word, text in ANSWERS.items()},
        evidence=Evidence(
            {FAST: "0", SLOW: "above 0"},
            measured,
            f"95 % intervals over seeds; ALLoRA matches another within ±log 1.1 = ±{MARGIN:.3f}{beyond}",
            n=len({one.seed for one in listed}),
        ),
        size=size
        and Size(size[0], "times LoRA's at l_b", "ALLoRA's mean row norm after 10 steps of AdamW", *size[1], "95 %"),
        corrected=wanting(found, samples, open_ones) if tested.verdict != "conditional" else None,
        condition=f"SGD at {rate:g}, the one rate judged; nothing is clipped",
        flips_if="runs under AdamW in which ALLoRA's rows are as long as those of LoRA at η·l_b",
    )


def figure_claim(identifier: str, model: str) -> Any:
    """A row of Figure 2 (right) on one model."""
    return claim(
        identifier,
        where=f"beyond the paper: Figure 2, right, caption, in fine-tuning {model}, nothing clipped",
        says=f"In fine-tuning {model}, too, ALLoRA's rows start as those of LoRA at η·l_b, and LoRA's at l_b grow "
        "slower.",
        reading="At steps 1 and 10 ALLoRA's mean row norm is within 10 % of LoRA's at η·l_b, and LoRA's at l_b is "
        "behind by more than that; the rule, 95 % intervals without Holm's adjustment, is older than the ledger's own."
        + (GIVEN_UP + INSTRUCT if model == SMOLLM2 else ""),
        command=command("row_norms", wanted(model)),
        test="tests/test_claims_4_2_row_norms.py",
        reads=STUDY,
        depends_on=("4-figure-2-right",),
    )


@figure_claim("4-figure-2-measured", MINILM)
def measured_minilm(cases: Cases, folder: Path | None) -> Finding:
    """ALLoRA's mean row norm beside LoRA's at η·l_b and at l_b, seeds paired."""
    return figure_2(cases, MINILM, folder)


@figure_claim("4-figure-2-measured-smollm2", SMOLLM2)
def measured_smollm2(cases: Cases, folder: Path | None) -> Finding:
    """ALLoRA's mean row norm beside LoRA's at η·l_b and at l_b, seeds paired."""
    return figure_2(cases, SMOLLM2, folder)


def complete_runs(folder: Path | None) -> tuple[Runs, dict[str, list[Setting]]]:
    """Records and, by model and optimizer, the lists of runs that are recorded to their last step."""
    listed = [one for model in (MINILM, SMOLLM2) for one in wanted(model)]
    runs = recorded(listed, folder)
    lists = {
        f"{model}, {optimizer}": [one for one in listed if (one.model, one.optimizer) == (model, optimizer)]
        for model in (MINILM, SMOLLM2)
        for optimizer in ROW_NORM_RATES[model]
    }
    return runs, {
        name: own for name, own in lists.items() if all(reached(runs, one, (*START, one.max_steps)) for one in own)
    }


def below_zero(samples: Mapping[str, np.ndarray]) -> dict[str, float]:
    """By case, the one-sided p that the mean is 0 or above, Student's, Holm-adjusted over the cases."""
    raw = [one_sided(values, "t").p_below for values in samples.values()]
    return dict(zip(samples, map(float, holm(raw)), strict=True))


def p_values(samples: Mapping[str, np.ndarray]) -> str:
    """The p-values of `below_zero`, in words."""
    return "; ".join(f"{name}: p = {value:.2g}" for name, value in below_zero(samples).items())


def _all_below(samples: Mapping[str, np.ndarray], yes: str, no: str) -> str:
    """`yes` where every mean is below 0, `no` where every mean is above it, at 0.05; otherwise undecided."""
    if max(below_zero(samples).values()) < 0.05:
        return yes
    return no if max(below_zero({name: -values for name, values in samples.items()}).values()) < 0.05 else "undecided"


JUDGED = {"second half over first": (0.0, 0.5, 0.5, 1.0), "last quarter over first": (0.0, 0.25, 0.75, 1.0)}
BENDS = JUDGED | {"steps 30 to 100 over 10 to 30": (10, 30, 30, 100)}


def bend(result: Mapping[str, Any], ends: tuple[float, float, float, float]) -> float:
    """The logarithm of growth a step in the second of two phases over that in the first; ends: steps, or shares."""
    steps = result["row_norms"]["step"]
    whole = [end * steps[-1] if ends[3] == 1 else end for end in ends]
    near = [min(steps, key=lambda step, end=end: abs(step - end)) for end in whole]
    speed = np.diff([average_norm(result, step) for step in near])[::2] / np.diff(near)[::2]
    return math.log(speed[1] / speed[0])


def slowing(runs: Runs, own: Sequence[Setting]) -> dict[str, list[float]]:
    """`bend` of some runs, a number a seed, by pair of phases."""
    return {name: [bend(runs[one], ends) for one in own] for name, ends in BENDS.items()}


def _by_arm(runs: Runs, own: Sequence[Setting]) -> dict[str, dict[str, list[float]]]:
    """`slowing` of ALLoRA's runs and of LoRA's at l."""
    lora = of_arm(own, "lora", base_rate(own[0]))
    return {"ALLoRA": slowing(runs, of_arm(own, "allora")), "LoRA at l": slowing(runs, lora)}


norms_claim = functools.partial(
    claim,
    command=command("row_norms", LISTS["row_norms"]["desk"]),
    test="tests/test_claims_4_2_row_norms.py",
    reads=STUDY,
)


@norms_claim(
    "4-figure-2-tapers",
    where="beyond the paper: Figure 2, right, caption, in our fine-tuning",
    says="In fine-tuning under AdamW ALLoRA's rows grow less per step late in a run than early.",
    reading="At a constant rate, nothing clipped (under the linear schedule of most runs growth falls of itself): "
    "the mean row norm, over a run's second half and its first, and over its last quarter and its first. Until "
    "other phases were looked at, the row said that growth falls throughout: it rises again within the first half. "
    "Of the caption it has the end alone, and under AdamW, where rows leave 0 as LoRA's at l_b do; under SGD, where "
    "they leave it faster (4-figure-2-measured), seeds do not show that they slow down (size)." + INSTRUCT,
    depends_on=("4-escape",),
)
def tapers(cases: Cases, folder: Path | None) -> Finding:
    """Late growth over early growth, on two models; LoRA's at l_b, other phases and SGD beside it."""
    runs, lists = complete_runs(folder)
    adamw = {name: own for name, own in lists.items() if name.endswith("adamw")}
    if not adamw:
        return not_run(f"{len(runs)} runs are recorded, none in full")
    measured = {name: _by_arm(runs, own) for name, own in lists.items()}
    halves, _, between = BENDS
    samples = {f"{name}, {of}": np.array(measured[name]["ALLoRA"][of]) for name in adamw for of in JUDGED}
    tested = cases.test(samples, lambda values: _all_below(values, "holds", "refuted"))
    ratios = {name: math.exp(np.mean(measured[name]["ALLoRA"][halves])) for name in adamw}
    lora = [math.exp(np.mean(measured[name]["LoRA at l"][halves])) for name in adamw]
    beside = max(abs(of / own - 1) for of, own in zip(lora, ratios.values(), strict=True))
    under_sgd = [math.exp(one) for name in lists.keys() - adamw.keys() for one in measured[name]["ALLoRA"][halves]]
    by_run = f"; under SGD {min(under_sgd):.2g} to {max(under_sgd):.2g} by run, not judged" if under_sgd else ""
    again = sorted(math.exp(np.mean(measured[name]["ALLoRA"][between])) for name in adamw)
    rise = " to ".join(f"{times:.1f}" for times in dict.fromkeys((again[0], again[-1])))
    return tested.finding(
        holds=f"Yes, as LoRA's rows do, to within {beside:.1%}; but growth in steps 30–100 is {rise} times 10–30's.",
        refuted="No: they grow ever faster.",
        undecided="Undecided: seeds disagree.",
        evidence=Evidence({"ALLoRA": "below 0"}, measured, f"Student's t, one-sided, Holm: {p_values(samples)}", n=3),
        size=ranged(
            ratios.values(),
            "times",
            f"growth a step in the second half over that in the first, AdamW, two models{by_run}",
            float(np.mean([*ratios.values()])),
        ),
        wanted="more seeds",
        flips_if="growth a step that does not fall",
    )
