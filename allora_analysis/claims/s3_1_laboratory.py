"""Figure 2's left half where a run takes a second: dropout after few and after many steps, with a hundred seeds.

The row reads the table of `python -m experiments.laboratory`, which states network, data, seeds and how each arm's rate
is chosen. Checked by `tests/test_claims_laboratory.py`, which plants differences.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from allora_analysis.claims.cases import Cases
from allora_analysis.claims.claim import Evidence, Finding, Size, claim, in_part, not_run
from allora_analysis.laboratory.design import FEWER, STEPS, Cell, contrasts
from allora_analysis.laboratory.table import ALL_SEEDS, RESULTS, STUDY, Table, read
from allora_analysis.statistics import decide, in_every, one_sided

POINTS = 100.0
LEAST = 30  # seeds below which nothing is judged
SEEDS = {"input": len(ALL_SEEDS), "bottleneck": FEWER["placement"]}  # that the rules named, by the masks' place


def cells(steps: int, placement: str = "input") -> dict[float, Cell]:
    """LoRA under AdamW by drop rate, after so many steps, the masks at A's input or between A and B."""
    named, words = {one.name: one for one in contrasts()}, "dropout" if placement == "input" else f"{placement} dropout"
    found = {rate: named[f"LoRA, {words} {rate:g} − none, {steps} steps"] for rate in (0.05, 0.4)}
    return {0.0: found[0.4].second} | {rate: one.first for rate, one in found.items()}


def samples(table: Table, placement: str = "input") -> dict[str, np.ndarray]:
    """What the sentence says is above 0: lower rates minus 0.4 after few steps, 0.4 minus lower ones after many."""
    found = {}
    for steps, sign in zip(STEPS, (-1, 1), strict=True):
        by_rate = cells(steps, placement)
        for other in (0.0, 0.05):
            gaps = table.differences(by_rate[0.4], by_rate[other], "accuracy")
            words = f"0.4 minus {other:g}" if sign > 0 else f"{other:g} minus 0.4"
            found[f"{words}, {steps} steps"] = sign * POINTS * np.array(gaps[: SEEDS[placement]])
    return found


def verdict(of: Mapping[str, np.ndarray]) -> str:
    """Student's t one-sided, Holm over the four."""
    return in_every(decide({name: (gaps,) for name, gaps in of.items()}, test="t"))


laboratory_claim = functools.partial(
    claim,
    says="High value of Dropout provides the strongest performance after long fine-tuning and the weakest performance "
    "after short fine-tuning.",
    command="python -m experiments.laboratory --part contrasts",
    test="tests/test_claims_laboratory.py",
    reads=STUDY,
)
READING = (
    "LoRA under AdamW on a network pretrained on half of the digits, adapted to the others{}: test accuracy at drop "
    "rate 0.4 is below that at 0 and 0.05 after 50 steps and above both after 300, each at its own best rate."
)


@laboratory_claim(
    "3.1-figure-2-left-laboratory",
    where="Figure 2 left, Table 2; on a small network",
    reading=READING.format(""),
)
def dropout_few_and_many_steps(cases: Cases, folder: Path | None = None) -> Finding:
    """Accuracies by seed at drop rate 0.4 against 0.05 and none, after few steps and after many."""
    return _by_length(
        cases,
        folder,
        "input",
        {"holds": "Yes: drop rate 0.4 costs {lost} points after {few} steps and gains {gained} after {many}."},
    )


@laboratory_claim(
    "3.1-figure-2-left-bottleneck-laboratory",
    where="Figure 2 left, Table 2; on a small network, with the masks in the latent space, where §3.1 has them",
    reading=READING.format(", no language model, the masks between A and B"),
    depends_on=("3.1-placement-in-code",),
)
def dropout_in_the_bottleneck(cases: Cases, folder: Path | None = None) -> Finding:
    """The same with the masks on Ax; beside it 0.4 there minus 0.4 at the input."""
    told = "0.4 costs {lost} points after {few} steps, gains {gained} after {many}."
    excluded = "0.4 costs {lost} points after {few} steps; gains above {bound} after {many} are excluded."
    answers = {
        "holds": f"Yes, on digits, no language model: {told}",
        "refuted": f"No: on digits, no language model, {told}",
        "undecided": f"Undecided, on digits, no language model: {excluded}",
    }
    return _by_length(cases, folder, "bottleneck", answers)


def _by_length(cases: Cases, folder: Path | None, placement: str, answers: Mapping[str, str]) -> Finding:
    path = (RESULTS if folder is None else folder) / "digits.jsonl"
    table = read(path) if path.is_file() else None
    known = {} if table is None else samples(table, placement)
    planned = SEEDS[placement]
    more = {} if table is None or placement == "input" else _against_the_input(table)
    if not known or min(map(len, known.values())) < (LEAST if placement == "input" else planned):
        return not_run("the laboratory's contrasts are not recorded")
    tested = cases.test(known, verdict)
    few, many = (f"0 minus 0.4, {STEPS[0]} steps", f"0.4 minus 0, {STEPS[1]} steps")
    of = {name: one_sided(gaps, "t") for name, gaps in known.items()}
    lost, gained = of[few].mean, of[many].mean
    seeds = min(map(len, known.values()))
    most = one_sided(known[many], "t", 0.05 / len(known)).interval[1]  # of all four at once
    told = {"bound": f"{most:.2f}", "lost": f"{lost:.1f}", "gained": f"{gained:.1f}", "few": STEPS[0], "many": STEPS[1]}
    return tested.finding(
        **{word: text.format(**told) for word, text in answers.items()},
        evidence=Evidence(
            {"difference": "above 0 in each"},
            {name: {"points": one.mean, "p": one.p_above, "interval": one.interval} for name, one in of.items()} | more,
            f"Student's t over seeds, one-sided at 0.05, Holm over the four; {seeds} of {planned} seeds",
            n=seeds,
        ),
        size=Size(
            gained,
            "points",
            f"test accuracy of a small network on digits, drop rate 0.4 minus none after {STEPS[1]} steps"
            f"{in_part(seeds, planned, 'seeds')}",
            *of[many].interval,
        ),
        wanted="more seeds",
        flips_if="drop rate 0.4 not below the others after few steps, or not above them after many",
    )


def _against_the_input(table: Table) -> dict[str, dict[str, Any]]:
    # Masks on Ax minus masks at the input, drop rate 0.4, two-sided.
    named = [one for one in contrasts() if one.name.startswith("LoRA, dropout 0.4: bottleneck − input")]
    found = {
        one.name: POINTS * np.array(table.differences(one.first, one.second, "accuracy")[: SEEDS["bottleneck"]])
        for one in named
    }
    return {
        name: {"points": float(gaps.mean()), "interval": one_sided(gaps, "t", 0.025).interval}
        for name, gaps in found.items()
        if len(gaps) > 1
    }
