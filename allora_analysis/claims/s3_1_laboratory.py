"""Figure 2's left half where a run takes a second: dropout after few and after many steps, with a hundred seeds.

The row reads the table of `python -m experiments.laboratory`, which states network, data, seeds and how each arm's rate
is chosen. Checked by `tests/test_claims_laboratory.py`, which plants differences.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from allora_analysis.claims.cases import Cases
from allora_analysis.claims.claim import Evidence, Finding, Size, claim, in_part, not_run
from allora_analysis.laboratory.design import STEPS, Cell, contrasts
from allora_analysis.laboratory.table import ALL_SEEDS, RESULTS, STUDY, Table, read
from allora_analysis.statistics import decide, in_every, one_sided

POINTS = 100.0
LEAST = 30  # seeds below which nothing is judged


def cells(steps: int) -> dict[float, Cell]:
    """LoRA under AdamW by drop rate, after so many steps."""
    named = {one.name: one for one in contrasts()}
    found = {rate: named[f"LoRA, dropout {rate:g} − none, {steps} steps"] for rate in (0.05, 0.4)}
    return {0.0: found[0.4].second} | {rate: one.first for rate, one in found.items()}


def samples(table: Table) -> dict[str, np.ndarray]:
    """What the sentence says is above 0: lower rates minus 0.4 after few steps, 0.4 minus lower ones after many."""
    found = {}
    for steps, sign in zip(STEPS, (-1, 1), strict=True):
        by_rate = cells(steps)
        for other in (0.0, 0.05):
            gaps = table.differences(by_rate[0.4], by_rate[other], "accuracy")
            words = f"0.4 minus {other:g}" if sign > 0 else f"{other:g} minus 0.4"
            found[f"{words}, {steps} steps"] = sign * POINTS * np.array(gaps)
    return found


def verdict(of: Mapping[str, np.ndarray]) -> str:
    """Student's t one-sided, Holm over the four."""
    return in_every(decide({name: (gaps,) for name, gaps in of.items()}, test="t"))


@claim(
    "3.1-figure-2-left-laboratory",
    where="Figure 2 left, Table 2; on a small network",
    says="High value of Dropout provides the strongest performance after long fine-tuning and the weakest performance "
    "after short fine-tuning.",
    reading="LoRA under AdamW on a network pretrained on half of the digits, adapted to the others: test accuracy at "
    "drop rate 0.4 is below that at 0 and 0.05 after 50 steps and above both after 300, each at its own best rate.",
    command="python -m experiments.laboratory --part contrasts",
    test="tests/test_claims_laboratory.py",
    reads=STUDY,
)
def dropout_few_and_many_steps(cases: Cases, folder: Path | None = None) -> Finding:
    """Accuracies by seed at drop rate 0.4 against 0.05 and none, after few steps and after many."""
    path = (RESULTS if folder is None else folder) / "digits.jsonl"
    known = samples(read(path)) if path.is_file() else {}
    if not known or min(map(len, known.values())) < LEAST:
        return not_run("the laboratory's contrasts are not recorded")
    tested = cases.test(known, verdict)
    few, many = (f"0 minus 0.4, {STEPS[0]} steps", f"0.4 minus 0, {STEPS[1]} steps")
    of = {name: one_sided(gaps, "t") for name, gaps in known.items()}
    lost, gained = of[few].mean, of[many].mean
    seeds = min(map(len, known.values()))
    return tested.finding(
        {
            "holds": f"Yes: drop rate 0.4 costs {lost:.1f} points after {STEPS[0]} steps and gains {gained:.1f} after "
            f"{STEPS[1]}."
        },
        evidence=Evidence(
            {"difference": "above 0 in each"},
            {name: {"points": one.mean, "p": one.p_above, "interval": one.interval} for name, one in of.items()},
            f"Student's t over seeds, one-sided at 0.05, Holm over the four; {seeds} of {len(ALL_SEEDS)} seeds",
            n=seeds,
        ),
        at_paper=None,
        size=Size(
            gained,
            "points",
            f"test accuracy of a small network on digits, drop rate 0.4 minus none after {STEPS[1]} steps"
            f"{in_part(seeds, len(ALL_SEEDS), 'seeds')}",
            *of[many].interval,
        ),
        condition="more seeds" if tested.verdict == "undecided" else None,
        flips_if="drop rate 0.4 not below the others after few steps, or not above them after many",
    )
