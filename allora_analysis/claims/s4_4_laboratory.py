"""§4.4 to §6 where a run takes a second: ALLoRA, its η², its adaptor and DoRA, with a hundred seeds.

The rows read the table of `python -m experiments.laboratory`, which states network, data, seeds and how each arm's rate
is chosen; the comparisons are those that it names, but for those with DoRA, which were formed after the runs. The
choice of rates has a noise of its own, which no seed shows: four controls a length compare two names of one arm. What
counts as clear is beyond `QUANTILE` times their root mean square, in a mean over settings beyond what that comes to in
it; `experiments.laboratory` has the rule and says what had been seen before it. Checked by
`tests/test_claims_laboratory.py`, which plants differences.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from allora_analysis.claims.cases import Cases
from allora_analysis.claims.claim import Evidence, Finding, Size, claim, in_part, not_run
from allora_analysis.claims.s3_1_small_runs import LEAST, POINTS, in_words
from allora_analysis.laboratory.design import STEPS, Cell, Contrast, contrasts, reference
from allora_analysis.laboratory.table import ALL_SEEDS, STUDY, Table, recorded
from allora_analysis.statistics import OneSided, decide, one_sided
from allora_analysis.study import bound

laboratory_claim = functools.partial(
    claim,
    command="python -m experiments.laboratory --part contrasts",
    test="tests/test_claims_laboratory.py",
    reads=STUDY,
)
Samples = Mapping[str, np.ndarray]
QUANTILE = float(stdtrit(4, 0.95))  # of Student's t; four controls, no two of which share a cell
FLIPS = {
    "holds": "not clearly above {0}",
    "refuted": "not clearly below −{0}",
    "undecided": "clearly above {0} or clearly below −{0}",
}
RULE = "Student's t over seeds, on these 191 images, one-sided at 0.05{holm}; intervals: 90 %; {seeds}"


def named(question: str, keep: Callable[[str], bool] = lambda _: True) -> dict[str, Contrast]:
    """The contrasts of a question, by name."""
    return {one.name: one for one in contrasts() if one.question == question and keep(one.name)}


def in_points(table: Table | None, pairs: Mapping[str, Contrast]) -> dict[str, np.ndarray] | None:
    """Differences in points of test accuracy, seed by seed; None if a pair has too few."""
    if table is None:
        return None
    known = {name: POINTS * np.array(table.of(one, "accuracy")) for name, one in pairs.items()}
    return known if min(map(len, known.values())) >= LEAST else None


def mean_of(of: Samples) -> np.ndarray:
    """The mean over the settings, for each seed that all of them have."""
    seeds = min(map(len, of.values()))
    return np.mean([gaps[:seeds] for gaps in of.values()], axis=0)


def on_average(of: Samples, margin: float) -> str:
    """The mean over the settings is above the margin: one test; refuted where it is below minus the margin."""
    mean = mean_of(of)
    ahead, behind = (decide({"mean": [mean + shift]}, test="t")["mean"].verdict for shift in (-margin, margin))
    return "holds" if ahead == "holds" else "refuted" if behind == "refuted" else "undecided"


def length(name: str) -> str:
    """The length of training in a contrast's name: "50 steps"."""
    return name.rpartition(", ")[2]


def noise(control: Samples) -> dict[str, float]:
    """What choosing rates makes of a difference of 0, by length: the root mean square of the controls' means."""
    means: dict[str, list[float]] = {}
    for name, gaps in control.items():
        means.setdefault(length(name), []).append(float(gaps.mean()))
    return {steps: math.sqrt(float(np.mean(np.square(of)))) for steps, of in means.items()}


def in_some(of: Samples, margins: Mapping[str, float]) -> str:
    """At least one comparison is above its length's margin, Holm over all: refuted where each is below it."""
    ahead = {name: [gaps - margins[length(name)]] for name, gaps in of.items()}
    verdicts = [one.verdict for one in decide(ahead, test="t").values()]
    return "holds" if "holds" in verdicts else "refuted" if set(verdicts) == {"refuted"} else "undecided"


def in_none(of: Samples, margins: Mapping[str, float]) -> str:
    """No comparison is above its margin: the opposite of `in_some`."""
    return {"holds": "refuted", "refuted": "holds", "undecided": "undecided"}[in_some(of, margins)]


def _evidence(of: Samples, holm: str) -> tuple[Evidence, dict[str, OneSided]]:
    found, told = in_words(of)
    seeds = {length(name): len(gaps) for name, gaps in of.items()}
    rule = RULE.format(holm=holm, seeds=", ".join(f"{n} seeds after {steps}" for steps, n in seeds.items()))
    return Evidence({"difference": "above 0"}, told, rule, n=min(seeds.values())), found


def _by_length(known: Samples) -> str:
    # The mean gap by length of training: "-0.8 points after 50 steps, 0.0 after 300".
    means: dict[str, list[float]] = {}
    for name, gaps in known.items():
        means.setdefault(length(name).removesuffix(" steps"), []).append(float(gaps.mean()))
    told = [f"{value if abs(value) >= 0.05 else 0:.1f}" for value in map(np.mean, means.values())]
    first, *others = (f"{value} after {steps}" for value, steps in zip(told, means, strict=True))
    return ", ".join([first.replace(" after", " points after") + " steps", *others])


def averaged(
    cases: Cases,
    folder: Path | None,
    pairs: Mapping[str, Contrast],
    answers: Mapping[str, str],
    beside: Mapping[str, Contrast] | None = None,
) -> Finding:
    """A sentence about the mean over settings; the settings and what stands beside them in the evidence."""
    table, arms = recorded(folder), next(iter(pairs)).partition(",")[0].replace(" − ", " minus ")
    known, control = in_points(table, pairs), in_points(table, named("control"))
    if known is None or control is None:
        return not_run("the laboratory's contrasts are not recorded")
    spread = noise(control)
    margin = QUANTILE * math.hypot(*(spread[length(name)] for name in known)) / len(known)
    tested = cases.test(known, lambda of: on_average(of, margin))
    overall = one_sided(mean_of(known), "t")
    more = in_points(table, beside) if beside else {}
    holm = f" of the mean over the settings, margin {margin:.2f} points; one by one unadjusted"
    evidence, _ = _evidence({**known, **control, **(more or {})}, holm)
    clear = decide({name: [gaps] for name, gaps in known.items()}, test="t")
    verdicts = [one.verdict for one in clear.values()]
    told = {
        "mean": f"{overall.mean + 0.0:+.1f}",
        "exact": f"{overall.mean + 0.0:+.2f}",
        "better": verdicts.count("holds"),
        "worse": verdicts.count("refuted"),
        "n": len(known),
        "by_length": _by_length(known),
        "beside": f"{float(np.mean(mean_of(more))) + 0.0:+.1f}" if more else "",
        "bound": f"{bound(max(overall.interval[1] + margin, 0), 2, up=True):.2f}",
    }
    seeds = in_part(evidence.n, len(ALL_SEEDS), "seeds")
    return tested.finding(
        **{word: text.format(**told) for word, text in answers.items()},
        evidence=evidence,
        size=Size(
            overall.mean,
            "points",
            f"test accuracy on digits, {arms}, over {len(known)} settings{seeds}; undecided within "
            f"±{margin:.2f}, which choosing rates alone makes",
            *overall.interval,
        ),
        flips_if=f"a mean {FLIPS[tested.verdict].format(f'{margin:.2f}')} points",
        wanted="more seeds",
    )


def best_of(
    cases: Cases,
    folder: Path | None,
    question: str,
    rule: Callable[[Samples, Mapping[str, float]], str],
    answers: Mapping[str, str],
) -> Finding:
    """A sentence about the best of several comparisons, by more than the controls' margin."""
    table = recorded(folder)
    known, control = in_points(table, named(question)), in_points(table, named("control"))
    if known is None or control is None:
        return not_run("the laboratory's contrasts are not recorded")
    margins = {steps: QUANTILE * spread for steps, spread in noise(control).items()}
    tested = cases.test(known, lambda of: rule(of, margins))
    words = ", ".join(f"{margin:.2f} points after {steps}" for steps, margin in margins.items())
    evidence, found = _evidence({**known, **control}, f", Holm over the {len(known)}; margins {words}")
    name, best = max(((name, found[name]) for name in known), key=lambda item: item[1].mean)
    seeds = in_part(evidence.n, len(ALL_SEEDS), "seeds")
    told = {"best": f"{best.mean:.1f}", "name": name.split(" − ")[0], "steps": length(name)}
    told["margin"] = f"{margins[length(name)]:.1f}"
    return tested.finding(
        **{word: text.format(**told) for word, text in answers.items()},
        evidence=evidence,
        size=Size(best.mean, "points", f"test accuracy on digits, {name}{seeds}", *best.interval),
        flips_if=f"a difference clearly above its margin ({words}), or all clearly below it",
        wanted="more seeds, and rates chosen with less noise",
    )


@laboratory_claim(
    "4-better-than-lora-laboratory",
    where="beyond the paper: Abstract, on a small network",
    says="On digits, too, ALLoRA is more accurate than LoRA.",
    reading="On one network pretrained on half of the digits and adapted to the others, 191 test images: ALLoRA at "
    "η² = 4 minus LoRA, each at its best rate, no dropout, on average over three optimizers and two lengths.",
)
def better_than_lora(cases: Cases, folder: Path | None = None) -> Finding:
    """ALLoRA minus LoRA under SGD, momentum and AdamW, after few steps and many."""
    pairs = named("rule", lambda name: name.startswith("ALLoRA − LoRA, "))
    answers = {
        "refuted": "No, on digits at η² = 4: {by_length}.",
        "holds": "Yes, on a small network: {mean} points on average, better in {better} of {n} settings.",
        "undecided": "Undecided on digits: {exact} points on average; gains above {bound} are excluded.",
    }
    etas = [one.first for one in named("eta2").values()]
    names = [f"η² = {cell.eta2:g} − LoRA, sgd, {cell.steps} steps" for cell in etas]
    others = {name: Contrast("rule", name, cell, reference(cell)) for name, cell in zip(names, etas, strict=True)}
    return averaged(cases, folder, pairs, answers, others)


@laboratory_claim(
    "4.5-better-than-dora-laboratory",
    where="beyond the paper: §1, second contribution, on a small network",
    says="On digits, too, ALLoRA improves performance over DoRA.",
    reading="On the same network: ALLoRA at η² = 4 minus PEFT's DoRA, both under AdamW and each at its best rate, on "
    "average over two lengths; beside it LoRA minus DoRA, what of the gap is no work of ALLoRA's factor. Both "
    "comparisons were formed after the runs.",
)
def better_than_dora(cases: Cases, folder: Path | None = None) -> Finding:
    """ALLoRA minus DoRA under AdamW, after few steps and many; LoRA minus DoRA beside it."""

    def over_dora(arm: str, *knobs: float | str) -> dict[str, Contrast]:
        pairs = [(Cell(arm.lower(), "adamw", steps, *knobs), Cell("dora", "adamw", steps)) for steps in STEPS]
        found = [Contrast("rule", f"{arm} − DoRA, adamw, {one.steps} steps", one, dora) for one, dora in pairs]
        return {one.name: one for one in found}

    told = "on a small network: {mean} points on average over {n} lengths of training; LoRA minus DoRA is {beside}."
    answers = {"refuted": f"No, {told}", "holds": f"Yes, {told}", "undecided": f"Undecided {told}"}
    return averaged(cases, folder, over_dora("ALLoRA", 0.0, "inverse_sqrt", 4.0), answers, over_dora("LoRA"))


@laboratory_claim(
    "4-eta-needs-no-tuning-laboratory",
    where="beyond the paper: §4.2, below the effective learning rate η·l_b, on a small network",
    says="Beside the learning rate, η² needs no choice.",
    reading="On digits, under SGD, each at its best rate, no η² of 1, 2 and 16 is "
    "better than 4, after few steps or many.",
)
def no_eta_is_better(cases: Cases, folder: Path | None = None) -> Finding:
    """Each η² minus 4."""
    answers = {
        "refuted": "No: {name} is {best} points better than 4 after {steps} on a small network.",
        "holds": "Yes, on a small network: no other η² is {margin} points better than 4.",
        "undecided": "Undecided: at best {best} points ({name}, {steps}), where choosing a rate alone makes {margin}.",
    }
    return best_of(cases, folder, "eta2", in_none, answers)


@laboratory_claim(
    "6-other-adaptors-laboratory",
    where="beyond the paper: §6, last item, on a small network",
    says="On digits another adaptor function is more accurate than the inverse square root.",
    reading="Under SGD at η² = 4, each at its best rate: the inverse, the exponential or the constant adaptor (LoRA at "
    "η times the rate) is better than the inverse square root, after few steps or many.",
)
def another_adaptor_is_better(cases: Cases, folder: Path | None = None) -> Finding:
    """Each adaptor minus the inverse square root."""
    answers = {
        "holds": "Yes: the {name} adaptor is {best} points better after {steps} on a small network.",
        "refuted": "No, on a small network: no other adaptor is {margin} points better.",
        "undecided": "Undecided: at best {best} points ({name}, {steps}), where choosing a rate alone makes {margin}.",
    }
    return best_of(cases, folder, "adaptor", in_some, answers)
