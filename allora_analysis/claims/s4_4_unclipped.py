"""Tables 3 and 4 under SGD with nothing clipped, where ALLoRA's factor on the gradient acts, on a language model.

The rows read what `python -m experiments.unclipped` recorded, whose docstring states arms, rates, seeds and rules; they
were written before its runs. Checked by `tests/test_claims_unclipped.py`, which plants records.
"""

import functools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from allora_analysis.claims.cases import Cases
from allora_analysis.claims.claim import Finding, claim
from allora_analysis.claims.s4_2_factor import ends, lost
from allora_analysis.claims.s4_4_on_the_update import (
    LORA,
    OVER_LORA,
    Comparisons,
    Tables,
    ahead,
    ahead_of_each,
    means,
)
from allora_analysis.claims.s4_4_our_runs import failed, robust, shown
from allora_analysis.finetune.setting import STUDY, Setting
from allora_analysis.grid.presets import (
    ETA,
    ETA2,
    HALF_FAMILY_SEEDS,
    HALF_SEEDS,
    LISTS,
    UNCLIPPED,
    UNCLIPPED_CHOSE,
    UNCLIPPED_HALF,
    UNCLIPPED_RATE,
    UNCLIPPED_SEEDS,
    command,
)
from allora_analysis.grid.reading import Runs, final_value, judged, recorded
from allora_analysis.study import bound, signed

AT_ETA2 = f"η² = {ETA2:g}"
WHOLE, HALF = UNCLIPPED_RATE, UNCLIPPED_RATE / 2  # ALLoRA's best rate of those tried, and half of it
OURS = Tables(
    [run for run in UNCLIPPED_HALF if run.arm == "lora" or run.learning_rate == HALF],
    "allora",
    "ALLoRA",
    f"base rate {HALF:g}, {AT_ETA2}",
)
FIRST = Tables([run for run in UNCLIPPED if run.learning_rate >= WHOLE], "allora", "ALLoRA", AT_ETA2)
FIRST_AT_HALF = Tables([run for run in UNCLIPPED if run.learning_rate < WHOLE], "allora", "ALLoRA", AT_ETA2)
TRIALS = [run for run in LISTS["unclipped"]["desk"] if run.seed in UNCLIPPED_CHOSE]
LOW = 0.6  # of test accuracy, below which a run has hardly learned
SETTING = (
    f"SGD, nothing clipped; the classifier at 0.1 in all arms, no dropout in the adapters, {AT_ETA2}, one epoch of "
    "rotten_tomatoes; the rules were written before the runs that judge."
)
unclipped_claim = functools.partial(
    claim, command=command("unclipped", LISTS["unclipped"]["desk"]), test="tests/test_claims_unclipped.py", reads=STUDY
)


def by_rate(folder: Path | None) -> dict[str, dict[float, float]]:
    """What chose the rate: by arm and rate the mean validation loss, infinite where a run diverged."""
    runs, found = recorded(TRIALS, folder), {}
    for one in (one for one in TRIALS if one in runs):
        gone = runs[one]["diverged_at_step"] is not None
        value = float("inf") if gone else final_value(runs[one], "validation_loss")
        found.setdefault(one.arm, {}).setdefault(one.learning_rate, []).append(value)
    return {arm: {rate: statistics.fmean(of) for rate, of in rates.items()} for arm, rates in found.items()}


def kept(runs: Runs, own: Iterable[Setting]) -> float:
    """The share of η that ALLoRA's factor keeps at the mean row at the end, averaged over its runs."""
    allora = [run for run in own if run.arm == OURS.arm]
    return 1 - statistics.fmean(lost(run.eta2, norm) for run, norm in ends(runs, allora).items())


def beside(runs: Runs, of: Comparisons, folder: Path | None) -> dict[str, Any]:
    """What stands beside the test: runs that hardly learned, the factor's fall, the trials."""
    compared = {run: None for cases in of.values() for pairs in cases.values() for pair in pairs for run in pair}
    last = {run.words(): final_value(runs[run], "test_accuracy") for run in compared}
    return {
        "runs below 60 %": {words: value for words, value in last.items() if value < LOW},
        "the factor at the mean row at the end, of η": kept(runs, compared),
        "validation loss that chose the rate": {
            arm: {f"{rate:g}": loss for rate, loss in rates.items()} for arm, rates in by_rate(folder).items()
        },
    }


def of_first_lot(of: Comparisons, folder: Path | None) -> dict[str, list[float]]:
    """The first lot's comparisons, seed by seed."""
    return means(recorded(UNCLIPPED, folder), of)


def hardly_moved(spent: Sequence[float], seeds: Sequence[int]) -> dict[str, Any]:
    """What single runs hardly move, of ALLoRA minus LoRA, seed by seed; nothing of none."""
    return robust(spent, seeds, lambda rest: judged({LORA: rest})[LORA]) if spent else {}


def others_in_words(spent: Sequence[float], rest: Mapping[str, Any]) -> str:
    """Which runs stayed at chance, and the mean of the others, as `hardly_moved` has it; empty where none did."""
    by_arm = {arm: len(places) for arm, places in failed(spent).items() if places} if spent else {}
    if not by_arm or rest["interval of the others"] is None:
        return ""
    runs = " and ".join(f"{count} of {len(spent)} {arm} runs" for arm, count in by_arm.items())
    mean = signed(100 * rest["mean of the others"], 2)
    return f"{runs} at chance; the others: {mean} points ({ends_in_words(rest['interval of the others'])})"


def ends_in_words(interval: Iterable[float]) -> str:
    """An interval in points, rounded outwards."""
    low, high = (100 * end for end in interval)
    return f"{bound(low, 2, False):.2f} to {bound(high, 2, True):.2f}"


@unclipped_claim(
    "4-table-3-unclipped",
    where="beyond the paper: Appendix D, on all-MiniLM-L6-v2, under SGD with nothing clipped",
    says="On one language model, under SGD with nothing clipped, at half its best rate, ALLoRA is more accurate than "
    "LoRA at η·l_b.",
    reading=f"{SETTING} {len(HALF_SEEDS)} seeds, ALLoRA and LoRA each at half its own best rate (so l_b = {HALF:g}) of "
    "those tried on other seeds, by validation loss. Refuted, too, where it is neither ahead nor behind and the 90 % "
    "interval lies within ±0.3 points. At the best rates themselves, on twelve seeds before, one run of ALLoRA stays "
    "at chance, and the eleven others leave it open (−0.02 points, −0.36 to 0.33; evidence): hence half, where all "
    "runs that had been seen learn. ALLoRA's factor keeps 98 % of η, so that it is LoRA at nearly η·l_b: the row says "
    "little of a factor that adapts.",
    depends_on=("D-universally-better", "4-table-3-desk"),
)
def table_3(cases: Cases, folder: Path | None) -> Finding:
    """ALLoRA minus LoRA at η·l, each at half its own best rate; at the whole beside."""
    of, before = OURS.against_lora(), of_first_lot(FIRST.against_lora(), folder)
    spent = means(recorded(OURS.wanted, folder), of).get(LORA, [])
    moved = hardly_moved(spent, HALF_SEEDS)
    others = others_in_words(spent, moved)
    answers = OVER_LORA | ({"undecided": f"Undecided: {others}."} if others else {})

    def more(runs: Runs) -> dict[str, Any]:
        robustly = "what single runs hardly move"
        first = shown(judged(before)) | {robustly: hardly_moved(before.get(LORA, []), UNCLIPPED_SEEDS)}
        told = {robustly: moved, f"before, ALLoRA at {WHOLE:g}, LoRA at {ETA * WHOLE:g}": first}
        return beside(runs, of, folder) | told

    return ahead(cases, folder, OURS, of, answers, beside=more)


def equal_steps() -> Comparisons:
    """ALLoRA and each of its family where BA's first step is alike: at l, and at l/2 for ALLoRA-OD, they at l/2."""
    own = {(run.learning_rate, run.seed): run for run in UNCLIPPED_HALF if run.arm == OURS.arm}
    return {
        name: {
            case: [(own[HALF if theirs.arm == "allora_od" else WHOLE, theirs.seed], theirs) for _, theirs in pairs]
            for case, pairs in by_eta.items()
        }
        for name, by_eta in OURS.against_family().items()
    }


def first_family() -> Comparisons:
    """The first lot's ALLoRA and each of the rest of its family, at l and at l/2."""
    rates = {f"at {WHOLE:g}": FIRST, f"at {HALF:g}": FIRST_AT_HALF}
    return {f"{name} {at}": cases for at, of in rates.items() for name, cases in of.against_family().items()}


def in_words(spent: Sequence[float]) -> str:
    """The mean in points, and its 90 % interval."""
    one = judged({"": spent})[""]
    return f"{signed(100 * one.mean, 2)} ({ends_in_words(one.interval)})"


@unclipped_claim(
    "4-table-4-unclipped",
    where="beyond the paper: Appendix E, on all-MiniLM-L6-v2, under SGD with nothing clipped",
    says="On one language model, under SGD with nothing clipped, ALLoRA is more accurate than the rest of its family.",
    reading=f"{SETTING} Every arm at l_b = {HALF:g}, {len(HALF_FAMILY_SEEDS)} seeds; against ALLoRA-OD, ASF-LoRA and "
    "LoRA × η, Holm over the three; refuted, too, where one is neither ahead nor behind and within ±0.3 points. One "
    "base rate is Table 4's comparison; steps differ in length: ASF-LoRA and LoRA × η start as LoRA at η²·l_b = "
    f"{ETA2 * HALF:g}, its best rate, and ALLoRA at half of that, so that it was foreseen to be behind. The answer "
    f"tells equal first steps, too, ALLoRA at {WHOLE:g} on the same seeds, which judge nothing.",
    depends_on=("E-universally-better", "4-table-4-desk"),
)
def table_4(cases: Cases, folder: Path | None) -> Finding:
    """ALLoRA minus each of ALLoRA-OD, ASF-LoRA and LoRA × η at one rate; with equal first steps beside."""
    of, equal = OURS.against_family(), equal_steps()
    runs = recorded(UNCLIPPED_HALF, folder)
    alike, at_one_rate = means(runs, equal), means(runs, of)
    other = ahead_of_each(at_one_rate)[1] if at_one_rate else ""
    steps = f"; with equal first steps {in_words(alike[other])}" if other in alike else ""
    answers = {
        "holds": "Yes, by {lead} points or more" + f"{steps}.",
        "refuted": "No: {mean} points against {other} ({low} to {high})" + f"{steps}.",
        "undecided": "Undecided, {seeds} seeds: {mean} points against {other} (above {high} excluded) may be chance.",
    }

    def more(_: Runs) -> dict[str, Any]:
        first = shown(judged(of_first_lot(first_family(), folder)))
        told = {"with equal first steps": shown(judged(alike)), "before": first}
        every = {**of, **{f"{name}, equal steps": equal[name] for name in alike}}
        return beside(runs, every, folder) | told

    return ahead(cases, folder, OURS, of, answers, instead=OURS.lora_in_its_place(of), beside=more)
