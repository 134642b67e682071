"""Tables 3 and 4, §5 and Table 3's rise where a run takes a second: every arm at one base rate, with sixty seeds.

The rows read what `python -m experiments.one_rate` recorded on a small network that sees digits; its docstring states
network, arms, rates and rules, written before the runs. No row here is a statement about language models. Checked by
`tests/test_claims_one_rate.py`, which plants differences.
"""

import functools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from allora_analysis.arms import OPTIMIZERS as LABELS
from allora_analysis.claims.cases import Case, Cases, each_above
from allora_analysis.claims.claim import Evidence, Finding, Size, claim, not_run
from allora_analysis.claims.laboratory_noise import POINTS
from allora_analysis.claims.tables.procedures import LISTED, PROCEDURES, TRAINED, mean_shape, reported_ratio
from allora_analysis.laboratory.one_rate import (
    AFTER,
    ALLORA,
    CANDIDATES,
    ETA2,
    FAMILY,
    LORA,
    OPTIMIZERS,
    SEEDS,
    Point,
    arm,
    lora,
)
from allora_analysis.laboratory.table import STUDY, Table, recorded, validation
from allora_analysis.statistics import decide, one_sided, ratio_of_means
from allora_analysis.study import bound, signed

one_rate_claim = functools.partial(
    claim, command="python -m experiments.one_rate", test="tests/test_claims_one_rate.py", reads=STUDY
)
NOT_RUN = not_run("the laboratory's arms at one rate are not recorded")
AVERAGES = (*((ALLORA, name) for name in FAMILY), ("LoRA × η", "ASF-LoRA"))  # Table 4's question, one family
FAMILY_OF_FOUR = "Holm over four averages, which was fixed when the differences had been seen."
MARGIN = 0.5  # points by which the fixed factor may trail and the adaptive one is "not better"
EQUAL = 0.3  # points within which two arms are equivalent, as in all of the laboratory
DRAWS = tuple(range(40))  # of the linear layer
LOTS = (range(20), range(20, 40), range(40, 60))
IN_ALL = {
    "refuted": "No: on digits, at a low rate, clearly behind in {worse} of {n} cases, {mean} points on average.",
    "undecided": "Undecided: on digits, no language model, clearly ahead in {better} of {n} cases, behind in none.",
    "holds": "Yes, on digits, no language model: clearly ahead in all {n} cases, {mean} points on average.",
}
IN_FAMILY = {"refuted": "No, on digits: at a low rate {least} points, at LoRA's best {best}."}
FLIPS = {"holds": "not clearly above", "refuted": "not clearly below", "undecided": "clearly above or below"}
Arm = tuple[str, str, float]  # its name, the optimizer, η²
Samples = Mapping[str, Float[np.ndarray, " seeds"]]


def over_lora() -> dict[str, tuple[Arm, Arm]]:
    """ALLoRA and LoRA at η·l, case by case; under AdamW with the factor after Adam's division as well."""
    ways = [(ALLORA, "adamw"), (AFTER, "adamw"), (ALLORA, "sgd")]
    return {
        f"{name}, {LABELS[optimizer]}, η² = {eta2:g}": ((name, optimizer, eta2), (LORA, optimizer, eta2))
        for name, optimizer in ways
        for eta2 in ETA2
    }


def over(first: str, second: str) -> dict[str, tuple[Arm, Arm]]:
    """Two arms, case by case."""
    return {
        f"{first} − {second}, {LABELS[optimizer]}, η² = {eta2:g}": (
            (first, optimizer, eta2),
            (second, optimizer, eta2),
        )
        for optimizer in OPTIMIZERS
        for eta2 in ETA2
    }


def gaps(
    table: Table, pairs: Mapping[str, tuple[Arm, Arm]], level: str = "quarter", endpoint: str = "accuracy"
) -> dict[str, Float[np.ndarray, " seeds"]]:
    """The first arm minus the second by seed, points or nats; pairs that lack a seed are left out."""
    found = {}
    for name, both in pairs.items():
        ours, theirs = (_values(table, one, level, endpoint) for one in both)
        if ours is not None and theirs is not None:
            found[name] = ours - theirs
    return found


def _values(table: Table, one: Arm, level: str, endpoint: str) -> Float[np.ndarray, " seeds"] | None:
    name, optimizer, eta2 = one
    return of_seeds(Point(arm(name, optimizer, eta2), optimizer, level).values(table, endpoint), endpoint)


def of_seeds(
    by_seed: Mapping[int, float], endpoint: str, seeds: Collection[int] = SEEDS
) -> Float[np.ndarray, " seeds"] | None:
    """The values of an endpoint, points or nats, of those seeds; None where one is lacking."""
    if not set(seeds) <= set(by_seed):
        return None
    return np.array([by_seed[seed] for seed in seeds]) * (POINTS if endpoint == "accuracy" else 1.0)


def best_of_three(table: Table, name: str, optimizer: str) -> Float[np.ndarray, " seeds"] | None:
    """Each seed's accuracy, points, at the η² of the least validation loss, at a quarter of LoRA's best rate."""
    runs = [Point(arm(name, optimizer, eta2), optimizer, "quarter").runs(table) for eta2 in ETA2]
    common = set.intersection(*map(set, runs))
    chosen = {seed: min((of[seed] for of in runs), key=validation) for seed in common}
    return of_seeds({seed: table.value(run, "accuracy") for seed, run in chosen.items()}, "accuracy")


def shown(of: Samples) -> dict[str, Any]:
    """Means, one-sided p-values and 90 % intervals."""
    found = {name: one_sided(values, "t") for name, values in of.items()}
    return {name: {"mean": one.mean, "p": one.p_above, "interval": list(one.interval)} for name, one in found.items()}


def beside(table: Table, pairs: Mapping[str, tuple[Arm, Arm]], at_best: Samples) -> dict[str, Any]:
    """What decides nothing: test loss, LoRA's best rate as l, and each arm at the best of its three η²."""
    ways = {(ours[:2], theirs[:2]) for ours, theirs in pairs.values()}
    best = {}
    for ours, theirs in sorted(ways):
        both = [best_of_three(table, *one) for one in (ours, theirs)]
        if all(one is not None for one in both):
            best[f"{ours[0]} − {theirs[0]}, {LABELS[ours[1]]}"] = both[0] - both[1]
    return {
        "test loss, nats": shown(gaps(table, pairs, endpoint="loss")),
        "at LoRA's best rate, points": shown(at_best),
        "each at the best of its three η², points": shown(best),
    }


def over_each(of: Samples, pairs: Mapping[str, tuple[Arm, Arm]]) -> dict[str, Float[np.ndarray, " seeds"]]:
    """The mean over η² and optimizers of each comparison, by the other arm."""
    parts: dict[str, list[np.ndarray]] = {}
    for name, (_, theirs) in pairs.items():
        parts.setdefault(theirs[0], []).append(of[name])
    return {other: np.mean(values, axis=0) for other, values in parts.items()}


def _at_best_rate(at_best: Samples, pairs: Mapping[str, tuple[Arm, Arm]]) -> str:
    # With LoRA's best rate as l, from case to case, in words.
    means = [float(at_best[name].mean()) for name in pairs if name in at_best]
    return f"{signed(min(means), 1)} to {signed(max(means), 1)}" if len(means) == len(pairs) else "not recorded"


def in_all(cases: Cases, folder: Path | None, pairs: Mapping[str, tuple[Arm, Arm]]) -> Finding:
    """A sentence about every case: each must be clearly above 0, one that is clearly below refutes.

    Where the other arm is not one and the same, the leads over each are told apart.
    """
    table = recorded(folder)
    known = gaps(table, pairs) if table else {}
    if len(known) < len(pairs):
        return NOT_RUN
    tested = cases.test(known, each_above)
    verdicts = [one.verdict for one in decide({name: (values,) for name, values in known.items()}, test="t").values()]
    overall = one_sided(np.mean(list(known.values()), axis=0), "t")
    told = {"better": verdicts.count("holds"), "worse": verdicts.count("refuted"), "n": len(known)}
    told["mean"], means = signed(overall.mean, 1), over_each(known, pairs)
    unlike = len(means) > 1
    least = min(means, key=lambda other: means[other].mean())
    told["least"] = f"over {least} {signed(means[least].mean(), 1)}"
    at_best = gaps(table, pairs, "best")
    told["best"] = _at_best_rate(at_best, {name: both for name, both in pairs.items() if both[1][0] == least})
    size, size_of = one_sided(means[least], "t"), f"test accuracy on digits, ALLoRA minus {least}"
    return tested.finding(
        **{word: text.format(**told) for word, text in (IN_ALL | (IN_FAMILY if unlike else {})).items()},
        evidence=Evidence(
            {"difference": "above 0 in each"},
            {
                "points of test accuracy": shown(known),
                "clearly ahead, clearly behind": [told["better"], told["worse"]],
                **({"mean over η² and optimizers, points": shown(means)} if unlike else {}),
                **beside(table, pairs, at_best),
            },
            f"Student's t over seeds, these 191 images, one-sided at 0.05, Holm over the {len(known)}; intervals: 90 %",
            n=len(SEEDS),
        ),
        size=Size(
            size.mean, "points", size_of + (", the least of three means" if unlike else ", mean"), *size.interval
        ),
        wanted="more seeds",
        flips_if="no case in which it is clearly behind"
        if tested.verdict == "refuted"
        else "one case in which it is clearly behind",
    )


def on_average(
    cases: Cases, folder: Path | None, arms: tuple[str, str], answers: Mapping[str, str], margin: float = 0.0
) -> Finding:
    """A sentence about one of `AVERAGES`, a mean over η² and both optimizers, Holm over all of them."""
    table = recorded(folder)
    pairs = {" − ".join(both): over(*both) for both in dict.fromkeys((arms, *AVERAGES))}
    by_case = {name: gaps(table, those) if table else {} for name, those in pairs.items()}
    if any(len(by_case[name]) < len(those) for name, those in pairs.items()):
        return NOT_RUN
    name = " − ".join(arms)

    def averages(samples: Samples) -> dict[str, np.ndarray]:
        return {other: np.mean([samples[case] for case in those], axis=0) for other, those in pairs.items()}

    def rule(samples: Samples) -> str:
        return decide({other: (mean,) for other, mean in averages(samples).items()}, test="t")[name].verdict

    def above(least: float) -> dict[str, np.ndarray]:
        return {case: values + least * (other == name) for other, of in by_case.items() for case, values in of.items()}

    means, tested = averages(above(0.0)), cases.test(above(margin), rule)
    one = one_sided(means[name], "t")
    level = {} if not margin else {f"margin {m:g}": rule(above(m)) for m in (margin / 2, 2 * margin)}
    at_best = gaps(table, pairs[name], "best")
    told = {"mean": signed(one.mean, 1), "gap": f"{abs(one.mean):.1f}", "best": _at_best_rate(at_best, pairs[name])}
    return tested.finding(
        **{word: text.format(**told) for word, text in answers.items()},
        evidence=Evidence(
            {name: f"above {-margin:g}" if margin else "above 0"},
            {
                "mean over η² and optimizers, points": shown(means),
                "case by case, points": shown(by_case[name]),
                **beside(table, pairs[name], at_best),
                **level,
            },
            f"Student's t over seeds, on these 191 images, one-sided at 0.05, Holm over {len(means)}; intervals: 90 %",
            tolerance=margin or None,
            n=len(SEEDS),
        ),
        size=Size(one.mean, "points", f"test accuracy on digits, {name}, mean", *one.interval),
        wanted="more seeds",
        flips_if=f"a mean {FLIPS[tested.verdict]} {f'−{margin:g}' if margin else '0'} points",
    )


@one_rate_claim(
    "4-table-3-laboratory",
    where="beyond the paper: Appendix D, on a small network",
    says="On another model too ALLoRA is universally better than LoRA at η·l_b.",
    reading="A network pretrained on half of the digits, no language model, a fresh classifier beside its adapters, "
    "l_b a quarter of LoRA's best rate: in each η² of 1, 2, 4, under AdamW, under SGD, and with the factor after "
    "Adam's division; LoRA's classifier at η·l_b too, as its one printed rate can be read. At LoRA's best rate as l_b "
    "(evidence) it is clearly behind in one of the nine, and 50 points ahead in another, where LoRA at η·l_b breaks "
    "down.",
    depends_on=("D-universally-better",),
)
def table_3(cases: Cases, folder: Path | None) -> Finding:
    """ALLoRA, and ALLoRAAdamW, minus LoRA at η·l."""
    return in_all(cases, folder, over_lora())


@one_rate_claim(
    "4-table-4-laboratory",
    where="beyond the paper: Appendix E, on a small network",
    says="On another model too ALLoRA is universally better than the rest in the family.",
    reading="On the same network, no language model, at the same l_b: ALLoRA-OD, ASF-LoRA and LoRA × η at each η² of "
    "1, 2, 4, under AdamW and under SGD.",
    depends_on=("E-universally-better",),
)
def table_4(cases: Cases, folder: Path | None) -> Finding:
    """ALLoRA minus each of the three."""
    return in_all(cases, folder, dict(pair for other in FAMILY for pair in over(ALLORA, other).items()))


@one_rate_claim(
    "5.1-better-than-od-laboratory",
    where="beyond the paper: §5.1, on a small network",
    says="On digits, too, ALLoRA is more accurate than ALLoRA-OD on average.",
    reading="ALLoRA minus ALLoRA-OD on a network pretrained on half of the digits, no language model, l a quarter of "
    f"LoRA's best rate: the mean over η² of 1, 2, 4 and over AdamW and SGD is above 0. {FAMILY_OF_FOUR}",
    depends_on=("5.1-better-than-od",),
)
def better_than_od(cases: Cases, folder: Path | None) -> Finding:
    """ALLoRA minus ALLoRA-OD."""
    answers = {
        "refuted": "No: on digits, at a low rate {gap} points behind on average; at LoRA's best {best}.",
        "undecided": "Undecided, on digits, at a low rate: {mean} points on average may be chance.",
        "holds": "Yes, on digits, at a low rate: by {gap} points on average; at LoRA's best rate {best}.",
    }
    return on_average(cases, folder, (ALLORA, "ALLoRA-OD"), answers)


@one_rate_claim(
    "5.2-asf-significantly-laboratory",
    where="beyond the paper: §5.2, on a small network",
    says="On digits, too, ASF-LoRA is significantly less accurate than LoRA × η on average.",
    reading="On the same network, no language model: LoRA × η minus ASF-LoRA, the mean over η² of 1, 2, 4 and over "
    f"AdamW and SGD, is above 0. {FAMILY_OF_FOUR}",
    depends_on=("5.2-asf-lower-beyond-chance",),
)
def asf_significantly(cases: Cases, folder: Path | None) -> Finding:
    """LoRA × η minus ASF-LoRA."""
    answers = {
        "refuted": "No: on digits, no language model, the adaptive factor is {gap} points ahead on average.",
        "undecided": "Undecided, on digits, at a low rate: {mean} points on average may be chance.",
        "holds": "Yes, on digits, at a low rate: by {gap} points on average; at LoRA's best rate {best}.",
    }
    return on_average(cases, folder, ("LoRA × η", "ASF-LoRA"), answers)


@one_rate_claim(
    "5.2-asf-not-better-laboratory",
    where="beyond the paper: Figure 4, caption, on a small network",
    says="On digits, too, an adaptive scale factor is not better than a fixed one.",
    reading=f"On the same network, no language model: the fixed one is on average at most {MARGIN:g} points behind; "
    "half and twice that are in the evidence. It follows where ASF-LoRA is significantly worse "
    f"(5.2-asf-significantly-laboratory). {FAMILY_OF_FOUR}",
    depends_on=("5.2-asf-not-better",),
)
def asf_not_better(cases: Cases, folder: Path | None) -> Finding:
    """LoRA × η minus ASF-LoRA against minus the margin."""
    answers = {
        "refuted": "No: on digits, no language model, the fixed factor is {gap} points behind on average.",
        "undecided": "Undecided, on digits, no language model: the fixed factor is {mean} points ahead on average.",
        "holds": "Yes, on digits, at a low rate: {gap} points behind the fixed one; at LoRA's best rate {best}.",
    }
    return on_average(cases, folder, ("LoRA × η", "ASF-LoRA"), answers, MARGIN)


def measured_shape(table: Table, name: str, seeds: range = SEEDS) -> dict[str, float] | None:
    """A procedure's shape over some seeds: ALLoRA's rise over LoRA's with Fieller's 95 % interval, and LoRA's progress.

    Progress is LoRA's accuracy above a guess at η = 1 over what it is under AdamW. None where a seed is lacking.
    """
    one = CANDIDATES[name]
    cells = [*one.cells(1.0), *one.cells(4.0), lora("adamw")]
    found = [of_seeds(Point(cell, "adamw", "quarter").values(table, "accuracy"), "accuracy") for cell in cells]
    if any(values is None for values in found):
        return None
    ours, theirs, ours_at_4, theirs_at_4, adamw = (values[seeds.start : seeds.stop] for values in found)
    guess = POINTS / table.header["classes"]
    ratio = ratio_of_means(ours_at_4 - ours, theirs_at_4 - theirs)
    return ratio._asdict() | {"progress": float((theirs.mean() - guess) / (adamw.mean() - guess))}


def consistent(seen: Mapping[str, float]) -> bool:
    """Whether LoRA trains and the interval meets that of Table 3's own ratio."""
    _, low, high = reported_ratio()
    return seen["progress"] >= TRAINED and seen["low"] <= high and seen["high"] >= low


def rises(table: Table) -> dict[str, Any]:
    """By procedure, ALLoRA's and LoRA's accuracies over η², points, means of all seeds."""
    found = {}
    for name, one in CANDIDATES.items():
        for place, label in enumerate((ALLORA, LORA)):
            values = [Point(one.cells(eta2)[place], "adamw", "quarter").values(table, "accuracy") for eta2 in ETA2]
            found[f"{name}: {label}"] = [float(POINTS * np.mean([of[seed] for seed in SEEDS])) for of in values]
    return found


def _beside(table: Table, whole: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    # What stands beside the verdict: all candidates, what theory foretold, and ALLoRA's own rise under AdamW.
    flat = Point(arm(ALLORA, "adamw", 4.0), "adamw", "quarter"), Point(arm(ALLORA, "adamw", 1.0), "adamw", "quarter")
    rise = one_sided(np.subtract(*(of_seeds(point.values(table, "accuracy"), "accuracy") for point in flat)), "t")
    return {
        "all seeds": whole,
        "consistent with Table 3, all seeds": [name for name, seen in whole.items() if consistent(seen)],
        "foretold by a linear layer": {one.name: mean_shape(one, DRAWS).ratio for one in PROCEDURES},
        "accuracies at η² = 1, 2, 4, points": rises(table),
        "ALLoRA's rise under AdamW as listed, points": {
            "mean": rise.mean,
            "interval": list(rise.interval),
            f"within ± {EQUAL:g}": bool(max(-rise.interval[0], rise.interval[1]) < EQUAL),
        },
        "Table 3's own ratio": list(reported_ratio()),
    }


@one_rate_claim(
    "T3-procedure-laboratory",
    where="beyond the paper: Table 3, caption, and Listing 1, on a small network",
    says="On digits, too, training as listed under AdamW, ε up to a tenth of its gradients, gives a rise with η² "
    "like Table 3's.",
    reading="On a network pretrained on half of the digits, no language model, l a quarter of LoRA's best "
    "rate: ALLoRA's rise of test accuracy from η² = 1 to 4 is such a share of LoRA's as in Table 3, so that the two "
    "intervals meet, by one of the listed procedures in each of three lots of twenty seeds. Neither ε nor the "
    "classifier's rate is named: ε of a tenth of the gradients or the classifier at η·l may do it, too (with "
    "this, at ε = 1e-8, the share is largest); larger ε are T3-procedure's, and so is another optimizer, SGD at a "
    "rate of its own. "
    "Which procedures judge was fixed when the shares had been seen: before, all eight did, and the row was "
    "conditional.",
    depends_on=("T3-procedure",),
)
def procedure(cases: Cases, folder: Path | None) -> Finding:
    """The listed procedures against Table 3's ratio, lot by lot; the others beside them."""
    table = recorded(folder)
    whole = {name: measured_shape(table, name) if table else None for name in CANDIDATES}
    if any(seen is None for seen in whole.values()):
        return NOT_RUN
    listed = [one.name for one in LISTED if one.name in CANDIDATES]
    judged = cases.judge(
        [Case(f"seeds {lot.start} to {lot[-1]}", lot) for lot in LOTS],
        measure=lambda lot: {name: measured_shape(table, name, lot) for name in CANDIDATES},
        printed=lambda lot, seen: any(consistent(seen[name]) for name in listed),
    )
    (_, low, high), own = reported_ratio(), whole[listed[0]]
    shares = [whole[name]["value"] for name in listed]
    return judged.finding(
        holds="Yes, on digits (no language model): a listed procedure gives Table 3's share.",
        refuted=f"Not on digits, AdamW's ε ≤ a tenth of its gradients: {min(shares):.2f} to {max(shares):.2f} of "
        f"LoRA's rise; Table 3: {bound(low, 2, False):.2f}–{bound(high, 2, True):.2f}.",
        evidence=judged.evidence(
            "Fieller's 95 % interval over seeds; sign flips over Table 3's nine pairs, 90 %",
            lambda lot: f"one of {', '.join(listed)}",
            more=_beside(table, whole),
            n=len(LOTS[0]),
        ),
        size=Size(
            own["value"],
            "of LoRA's rise",
            "ALLoRA's as listed, under AdamW, on digits",
            own["low"],
            own["high"],
            "95 %",
        ),
        flips_if="in each lot a listed procedure under AdamW that trains and whose interval meets Table 3's",
    )
