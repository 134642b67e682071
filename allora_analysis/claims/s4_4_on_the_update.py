"""Tables 3 and 4 with ALLoRA's factor on AdamW's update, from the recorded runs on a language model.

The rows read what `python -m experiments.on_the_update` recorded, whose docstring states arms, seeds and rules; they
were written before ALLoRAAdamW's runs. Checked by `tests/test_claims_on_the_update.py`, which plants records.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from allora_analysis.claims.cases import Cases
from allora_analysis.claims.claim import Evidence, Finding, Size, claim, not_run, run_diverged, units_wanted
from allora_analysis.claims.s4_4_our_runs import (
    AS_PRINTED,
    PERCEIVED,
    arm_at_eta,
    by_case,
    lora_at_eta_l,
    over_seeds,
    shown,
)
from allora_analysis.claims.tables.procedures import reported_ratio
from allora_analysis.finetune.setting import STUDY, Setting
from allora_analysis.grid.presets import LISTS, MARGINS, UPDATE_SEEDS, command
from allora_analysis.grid.reading import LEVEL, Pairs, Runs, differences, diverged, judged, recorded
from allora_analysis.statistics import one_sided, ratio_of_means, within
from allora_analysis.statistics.intervals import Ratio
from allora_analysis.statistics.paired import TIE
from allora_analysis.study import bound, signed

LORA = "LoRA at η·l"
MARGIN = MARGINS["test_accuracy"]
WAYS = {"factor after AdamW's division": "allora_adamw", "as listed, under AdamW": "allora"}  # by procedure the arm
LONGEST = 0.5  # of the share's interval, beyond which it tells too little
RULE = (
    f"Student's t over seeds, one-sided at 0.05, Holm over the comparisons; the same within ±{100 * MARGIN:g} points, "
    "at 0.05 over their number each; interval: 90 %, a comparison alone; the row's in points"
)
WANTED = LISTS["on_the_update"]["desk"]
SETTING = (
    "ALLoRAAdamW, every arm at the paper's l_b = 1e-4, the classifier too, drop rate 0.05, two epochs of "
    "rotten_tomatoes; the rules were written before its runs"
)
update_claim = functools.partial(
    claim, command=command("on_the_update", WANTED), test="tests/test_claims_on_the_update.py", reads=STUDY
)
OVER_LORA = {
    "holds": "Yes: {lead} points ahead of LoRA at η·l_b ({low} to {high}), {seeds} seeds.",
    "refuted": "No: {mean} points from LoRA at η·l_b ({low} to {high}), {seeds} seeds.",
    "undecided": "Undecided after {seeds} seeds: leads above {high} points over LoRA at η·l_b are excluded.",
}
Comparisons = Mapping[str, Mapping[str, Pairs]]  # by the other arm, the pairs of each η²


@dataclass(frozen=True)
class Tables:
    """Tables 3 and 4 where the factor acts: the runs, the arm that has it, what that is called, what is averaged."""

    wanted: Sequence[Setting]
    arm: str
    name: str
    over: str = "mean over η²"

    def against_lora(self) -> Comparisons:
        """The arm and LoRA at η·l, where η is above 1."""
        ours = [run for run in self.wanted if run.arm != self.arm or run.eta2 > 1]
        return {LORA: by_case(ours, {"arm": self.arm}, lora_at_eta_l(own_head=True))}

    def against_family(self) -> Comparisons:
        """The arm and each other member of Table 4, on the seeds and at the η² of the latter."""
        found = {}
        for arm, label in AS_PRINTED.items():
            theirs = [run for run in self.wanted if run.arm == arm]
            known = {(run.seed, run.eta2) for run in theirs}
            ours = [run for run in self.wanted if run.arm == self.arm and (run.seed, run.eta2) in known]
            found[label] = by_case([*ours, *theirs], {"arm": self.arm}, arm_at_eta(arm))
        return found

    def lora(self, one: Setting) -> Setting:
        """LoRA at η·l, its classifier at l, for an arm's η and seed."""
        is_lora = lora_at_eta_l(own_head=True)
        return next(run for run in self.wanted if is_lora(one, run))

    def lora_in_its_place(self, of: Comparisons) -> Comparisons:
        """The same comparisons with LoRA at η·l for the arm."""
        return {
            name: {case: [(self.lora(ours), theirs) for ours, theirs in pairs] for case, pairs in by_eta.items()}
            for name, by_eta in of.items()
        }


OURS = Tables(WANTED, "allora_adamw", "ALLoRAAdamW")


def means(runs: Runs, of: Comparisons, endpoint: str = "test_accuracy") -> dict[str, list[float]]:
    """By comparison the mean over η², seed by seed; those with a run that is not recorded are left out."""
    found = {name: differences(runs, by_eta, endpoint) for name, by_eta in of.items()}
    return {name: over_seeds(cases) for name, cases in found.items() if cases.keys() == of[name].keys()}


def ahead_of_each(complete: Mapping[str, Sequence[float]]) -> tuple[str, str]:
    """The verdict on "ahead of each", and the comparison that decides it, that of the least mean where several do.

    Holds where the mean is clearly above 0 in each; refuted where it is clearly below in one, or is not clearly above
    and has an interval within ±`MARGIN` at the family's level, 1 − 2·0.05/m.
    """
    family = judged(complete)
    behind = [name for name, one in family.items() if one.verdict == "refuted"]
    others = [name for name, one in family.items() if one.verdict != "holds"]
    level = LEVEL / len(family)
    same = [name for name in others if within(one_sided(complete[name], "t", level, TIE).interval, MARGIN)]
    which = min(behind or same or others or family, key=lambda name: family[name].mean)
    return "refuted" if behind or same else "undecided" if others else "holds", which


def ahead(
    cases: Cases,
    folder: Path | None,
    tables: Tables,
    of: Comparisons,
    answers: Mapping[str, str],
    *,
    instead: Comparisons | None = None,
    beside: Callable[[Runs], Mapping[str, Any]] = lambda runs: {},
) -> Finding:
    """Whether the arm is ahead of each other.

    `answers` may hold {mean}, {lead}, unsigned, {low} and {high} of the lead that decides, {other}, whom it is over,
    {seeds} and {lora}, the least lead in `instead`: comparisons of LoRA at η·l, in the arm's place. `beside`: more
    evidence from the runs.
    """
    runs = recorded(tables.wanted, folder)
    complete = means(runs, of)
    if len(complete) < len(of):
        return _unfinished(runs, of, tables.wanted)
    tested = cases.test(complete, lambda samples: ahead_of_each({name: [*v] for name, v in samples.items()})[0])
    family, in_place = judged(complete), judged(means(runs, instead or {}))
    other = ahead_of_each(complete)[1]
    one = family[other]
    low, high = (100 * end for end in one.interval)
    told = {
        "mean": signed(100 * one.mean, 2),
        "lead": f"{abs(100 * one.mean):.2f}",
        "low": _end(low, False),
        "high": _end(high, True),
    }
    lora = signed(100 * min(each.mean for each in in_place.values()), 2) if in_place else ""
    told |= {"other": other, "seeds": one.n, "lora": lora}
    by_eta = {f"over {name}, {case}": pairs for name, cases_of in of.items() for case, pairs in cases_of.items()}
    wanted = units_wanted(family.values(), "seeds")
    measured = {f"over {name}": judgment for name, judgment in shown(family).items()}
    measured |= {"each η²": shown(judged(differences(runs, by_eta)))} if len(by_eta) > len(of) else {}
    measured |= {"test loss, its fall": shown(judged(means(runs, of, "test_loss")))}
    measured |= {f"LoRA at η·l in {tables.name}'s place": shown(in_place)} if in_place else {}
    measured |= beside(runs)
    return tested.finding(
        **{word: text.format(**told) for word, text in answers.items()},
        evidence=Evidence({"difference": "above 0"}, measured, RULE, interval=(low, high), n=one.n),
        size=Size(100 * one.mean, "points", f"test accuracy, {tables.name} minus {other}, {tables.over}", low, high),
        wanted=wanted,
        flips_if={
            "holds": "seeds in which it is not clearly ahead of one",
            "refuted": "seeds in which it is clearly behind none, and the same, within ±0.3 points, as none",
        }.get(tested.verdict, wanted),
    )


def _end(value: float, up: bool) -> float:
    # Outwards to two decimals; to three where that is 0, so that its side is seen.
    return bound(value, 2, up) or bound(value, 3, up)


def _unfinished(runs: Runs, of: Comparisons, wanted: Sequence[Setting]) -> Finding:
    # Where one of the runs wanted is lacking, or has diverged.
    stopped = [name for name, by_eta in of.items() if diverged(runs, by_eta)]
    if stopped:
        return run_diverged(f"a run diverged among the pairs with {', '.join(stopped)}", RULE)
    return not_run(f"{len(runs)} of {len(wanted)} runs are recorded", "Not run: runs are lacking.")


@update_claim(
    "4-table-3-on-the-update",
    where="beyond the paper: Appendix D, on all-MiniLM-L6-v2, §4.2's factor on AdamW's update",
    says="With its factor on AdamW's update ALLoRA is more accurate than LoRA at η·l_b, as in Table 3.",
    reading=f"{SETTING}. On average over η² of 2 and 4, five seeds; at 1 the factor is at most 1, and the two are one "
    "but for that. Refuted, too, where the 90 % interval lies within ±0.3 points, which is the same. At this rate no "
    "row of BA grows long: the factor stays near η, so that LoRA at nearly η·l_b is compared with LoRA at η·l_b.",
    depends_on=("D-universally-better", "4-table-3-desk"),
)
def table_3(cases: Cases, folder: Path | None) -> Finding:
    """ALLoRAAdamW minus LoRA at η·l."""
    return ahead(cases, folder, OURS, OURS.against_lora(), OVER_LORA)


@update_claim(
    "4-table-4-on-the-update",
    where="beyond the paper: Appendix E, on all-MiniLM-L6-v2, §4.2's factor on AdamW's update",
    says="With its factor on AdamW's update ALLoRA is more accurate than each other of its family, as in Table 4.",
    reading=f"{SETTING}. On average over η² of 1, 2 and 4 (LoRA × η: 2 and 4), three seeds of five planned "
    "(docs/experiments.md), against ALLoRA-OD, ASF-LoRA and LoRA × η under AdamW, whose own factors stand where they "
    "are listed. LoRA at η·l_b in its place is told beside it: where that leads as far, the lead is the longer "
    "step's, and not the adaptive factor's.",
    depends_on=("E-universally-better", "4-table-4-desk"),
)
def table_4(cases: Cases, folder: Path | None) -> Finding:
    """ALLoRAAdamW minus each of ALLoRA-OD, ASF-LoRA and LoRA × η."""
    answers = {
        "holds": "Yes, by {lead} points or more on average; LoRA at η·l_b, without the factor: {lora}.",
        "refuted": "No: {mean} points over {other} on average ({low} to {high}).",
        "undecided": "Undecided after {seeds} seeds: {mean} points over {other} may be chance.",
    }
    of = OURS.against_family()
    return ahead(cases, folder, OURS, of, answers, instead=OURS.lora_in_its_place(of))


def ends() -> Comparisons:
    """By procedure of `WAYS`, the runs at η² = 4 and 1, seed by seed: its arm's and LoRA's at η·l on the same seeds."""
    found = {}
    for name, arm in WAYS.items():
        known = {(run.seed, run.eta2): run for run in (*WANTED, *PERCEIVED) if run.arm == arm}
        pairs = [(known[seed, 4.0], one) for (seed, eta2), one in known.items() if eta2 == 1]
        found[name] = {arm: pairs, LORA: [(OURS.lora(last), OURS.lora(first)) for last, first in pairs]}
    return found


def rises(runs: Runs) -> dict[str, dict[str, list[float]]]:
    """By procedure of `WAYS` what these `ends` differ by; a procedure that lacks a run is left out."""
    found = {name: differences(runs, pairs) for name, pairs in ends().items()}
    return {name: seen for name, seen in found.items() if len(seen) == 2}


def share(of: Mapping[str, ArrayLike]) -> Ratio:
    """ALLoRA's mean rise over LoRA's, which stands second, with Fieller's 95 % interval."""
    return ratio_of_means(*of.values())


def like_table_3(share: Ratio) -> str:
    """The verdict on "rises like Table 3's": Fieller's interval meets Table 3's and is short; or they do not meet."""
    _, low, high = reported_ratio()
    if share.low > high or share.high < low:
        return "refuted"
    return "holds" if share.high - share.low <= LONGEST else "undecided"


@update_claim(
    "T3-procedure-on-the-update",
    where="beyond the paper: Table 3, caption, on all-MiniLM-L6-v2",
    says="On a language model a factor on AdamW's update gives a rise with η² like Table 3's.",
    reading=f"{SETTING}. ALLoRAAdamW's mean rise of test accuracy from η² = 1 to 4 over that of LoRA at η·l_b, five "
    f"seeds: its 95 % interval meets the 90 % interval of Table 3's own ratio, and is at most {LONGEST:g} long. "
    "Refuted where they do not meet. ALLoRA as listed, under AdamW, on three of the seeds, stands in the answer.",
    depends_on=("T3-procedure", "T3-procedure-laboratory"),
)
def procedure(cases: Cases, folder: Path | None) -> Finding:
    """ALLoRAAdamW's rise over LoRA's beside Table 3's ratio; the listed procedure's beside it."""
    compared = ends()
    every = [run for of in compared.values() for pairs in of.values() for pair in pairs for run in pair]
    wanted = list(dict.fromkeys(every))
    runs = recorded(wanted, folder)
    found = rises(runs)
    if found.keys() != WAYS.keys():
        return _unfinished(runs, compared, wanted)
    ours, as_listed = (share(of) for of in found.values())
    tested = cases.test(next(iter(found.values())), lambda samples: like_table_3(share(samples)))
    printed, low, high = reported_ratio()
    table = f"Table 3: {bound(low, 2, False):.2f} to {bound(high, 2, True):.2f}"
    told = f"{ours.value:.2f} of LoRA's rise at η·l_b; as listed {as_listed.value:.2f} of it; {table}."
    return tested.finding(
        holds=f"Yes: {told}",
        refuted=f"No: {told}",
        undecided=f"Undecided, five seeds: {told}",
        evidence=Evidence(
            {"Table 3's own ratio": [printed, low, high]},
            {name: share(of)._asdict() | {"rises": of} for name, of in found.items()},
            "Fieller's 95 % interval over seeds; of Table 3 sign flips over its nine pairs, 90 %",
            n=UPDATE_SEEDS,
        ),
        size=Size(ours.value, "of LoRA's rise", "ALLoRAAdamW's, η² from 1 to 4", ours.low, ours.high, "95 %"),
        wanted="more seeds",
        flips_if="an interval that does not meet Table 3's"
        if tested.verdict == "holds"
        else "an interval that meets Table 3's and is short",
    )
