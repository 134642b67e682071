"""§5.1's conjecture on digits: does its noise leave ALLoRA-OD behind ALLoRA after few steps?

The row reads what `python -m experiments.one_rate` recorded, whose docstring states arms, seeds and the rule, written
before these runs: its question (c). Checked by `tests/test_claims_5_1_early_steps.py`, which plants differences.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.arms import OPTIMIZERS as LABELS
from allora_analysis.claims.cases import Cases
from allora_analysis.claims.claim import Evidence, Finding, Size, claim, not_run, units_wanted
from allora_analysis.claims.s4_4_one_rate import Samples, gaps, of_seeds, over, shown
from allora_analysis.laboratory.one_rate import ALLORA, EARLY, EARLY_SEEDS, STEPS, early
from allora_analysis.laboratory.table import STUDY, Table, recorded
from allora_analysis.statistics import judge_family, one_sided, within
from allora_analysis.study import bound, signed

LEVEL, NONE = 0.05, 0.1  # NONE: points within which there is no lead, a fifth of one of 191 test images
OTHER = "ALLoRA-OD"


def early_gaps(table: Table, endpoint: str = "accuracy") -> dict[str, Float[np.ndarray, " seeds"]]:
    """ALLoRA minus ALLoRA-OD by seed, points or nats, by optimizer and η²; pairs that lack a seed are left out."""
    by_case: dict[str, dict[str, np.ndarray | None]] = {}
    for point in early():
        case = f"{LABELS[point.optimizer]}, η² = {point.cell.eta2:g}"
        values = of_seeds(point.values(table, endpoint), endpoint, EARLY_SEEDS)
        by_case.setdefault(case, {})[point.cell.rule] = values
    whole = {case: of for case, of in by_case.items() if all(values is not None for values in of.values())}
    return {case: of["allora"] - of["allora_od"] for case, of in whole.items()}


def ahead(differences: ArrayLike) -> str:
    """The verdict on "ahead": clearly above 0, by however little; or clearly below it or within ±`NONE` points."""
    one = one_sided(differences, "t", LEVEL)
    if one.p_above <= LEVEL:
        return "holds"
    return "refuted" if within(one.interval, NONE) or one.p_below <= LEVEL else "undecided"


def _mean(cases: Samples) -> Float[np.ndarray, " seeds"]:
    return np.mean([*cases.values()], axis=0)


@claim(
    "5.1-early-steps-laboratory",
    where="beyond the paper: §5.1, on a small network",
    says="On digits, too, ALLoRA is more accurate than ALLoRA-OD early.",
    reading=f"After {EARLY} steps, in runs of that length (a whole run here has {STEPS}), at one base rate l, a "
    "quarter of LoRA's best: the mean over η² of 1, 2, 4 and over AdamW and SGD, on a network pretrained on half of "
    "the digits, no language model. Holds if a lead of any size is clear; refuted if not and the interval is within "
    f"±{NONE:g} points, or it is clearly behind. The paper conjectures that noise drags ALLoRA-OD down at early "
    "epochs: a lead may have other reasons, as the two factors differ in size, too, and it is no larger early than "
    "after a whole run. Two hundred fresh seeds, by a rule written before they ran. On all-MiniLM-L6-v2 at 1e-4 "
    "under AdamW three seeds leave it open: +0.04 points after the first of two epochs (-0.07 to 0.16; evidence of "
    "4-table-4-desk).",
    command="python -m experiments.one_rate",
    test="tests/test_claims_5_1_early_steps.py",
    depends_on=("5.1-better-than-od", "4-od-noise"),
    reads=STUDY,
)
def early_steps(cases: Cases, folder: Path | None) -> Finding:
    """ALLoRA minus ALLoRA-OD after few steps; after a whole run beside it."""
    table = recorded(folder)
    known = early_gaps(table) if table else {}
    if len(known) < len(early()) / 2:
        return not_run("the runs of few steps are not recorded")
    tested = cases.test(known, lambda samples: ahead(_mean(samples)))
    mean, late = _mean(known), gaps(table, over(ALLORA, OTHER))
    one = one_sided(mean, "t", LEVEL)
    low, high = one.interval
    told = (
        f"{signed(one.mean, 2)} points ({bound(low, 2, False):.2f} to {bound(high, 2, True):.2f}) after {EARLY} steps"
    )
    told += f", {signed(float(_mean(late).mean()), 2)} after {STEPS}." if late else "."
    losses = early_gaps(table, "loss")
    return tested.finding(
        holds=f"Yes, on digits{', by little' * (one.mean < NONE)}: {told}",
        refuted=f"No, on digits: {told}",
        undecided=f"Undecided, on digits: {told}",
        evidence=Evidence(
            {"difference": "above 0"},
            {
                "case by case, points": shown(known),
                "test loss, nats": shown({"mean": _mean(losses)} | losses),
                f"after {STEPS} steps, points": shown({"mean": _mean(late)} | late) if late else {},
            },
            "Student's t over seeds, on these 191 images, one-sided at 0.05, one comparison; interval: 90 %",
            interval=one.interval,
            n=len(mean),
        ),
        size=Size(one.mean, "points", f"test accuracy on digits after {EARLY} steps, ALLoRA minus {OTHER}", low, high),
        wanted=units_wanted([*judge_family({"mean": mean}, "t").values()], "seeds"),
        flips_if={
            "holds": "a mean not clearly above 0",
            "refuted": f"a mean clearly above 0, or not within ±{NONE:g} points",
        }.get(tested.verdict, f"a mean clearly above or below 0, or within ±{NONE:g} points"),
    )
