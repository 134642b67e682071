"""The sentences that rest on Tables 3 and 4 and Figures 3 and 4: better, comparable, fair, optimal.

The wording of a sentence decides how it is judged. One that says "significant", "leans" or that nothing differs is
tested by the rule of `statistics.directional`, within its question (`contrasts.QUESTIONS`), but for cells, which
cannot be tested (`5.2-asf-significantly`, by a bar of ours); every other one is judged by the printed averages, and its
test is a row of ours (`beyond_chance`). ALLoRA against DoRA: `table_1`; "universally", "consistently": `universally`.
Checked by `tests/test_claims_tables_rows.py`, which plants wrong numbers.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from allora_analysis.claims.cases import Case, Cases
from allora_analysis.claims.claim import Finding, Size, ranged
from allora_analysis.claims.tables import contrasts, reported
from allora_analysis.claims.tables.contrasts import (
    BY_PRINT,
    MARGIN,
    against_print,
    ahead_on_average,
    average_is,
    by_the_rule,
    chance,
    everywhere,
)
from allora_analysis.claims.tables.reported import COLUMNS_3, FIGURE_3, FIGURE_4
from allora_analysis.claims.tables.table_1 import SECTION_6, reported_claim
from allora_analysis.statistics import judge_family
from allora_analysis.study import signed

OVER_HALF = (
    "ASF-LoRA is not a competitive method, as over half of cases see ASF-LoRA's accuracy significantly lower than LoRA "
    "with a comparable fixed scaling factor (positive numbers in Figure 4 Bottom Right)."
)
DIFFERENCE = (
    "Overall speaking, ALLoRA has better accuracy than ALLoRA-OD. But the difference is moderate, as average "
    "improvement over all cases is 0.3%."
)
ADVANTAGE = "ALLoRA has a significant advantage over ASF-LoRA as average improvement over all cases is 1.0%."
OVER_ETA = (
    "ALLoRA is significantly better than LoRA with a comparable fixed scaling factor, as average improvement over all "
    "cases is 0.9%."
)
ON_YELP = "On yelp ALLoRA is 0.045 points behind by Table 3, with Figure 3's numbers less than 0.01 ahead."
MULTIPLE = 2  # models, data sets and rates that "multiple" asks for
SIGNIFICANTLY = (MARGIN / 2, MARGIN, 2 * MARGIN)  # "significantly lower", and half and twice of it
CELL_BY = 0.015 + 1e-9  # what rounding of a figure's gap and of its two accuracies allows
NOT_CELLS = "a printed gap that Table 4's accuracies do not give"
RATES = (1e-4, 2**0.5 * 1e-4, 2e-4)  # LoRA's learning rates l as §4.4 lists them
BASE = 1e-4  # Table 3's caption: "LoRA's learning rate is η × 1e-4"
ANSWERS = {
    "holds": "Yes: by {mean} points on average, in {clusters} pairs of model and data set (p = {p}).",
    "undecided": "Undecided: {mean} points on average, better in {clusters} pairs; may be chance (p = {p}).",
    "refuted": "No: by {mean} points on average, better in {clusters} pairs (p = {p}).",
}


def _rows(name: str, panel: int) -> Mapping[str, float]:
    # A panel's row averages, as printed.
    (one,) = [
        each for each in (*FIGURE_3, *FIGURE_4)[panel : panel + 1] if name == f"{each.minuend} − {each.subtrahend}"
    ]
    return {f"{row.model}, {row.dataset}": row.average for row in one.rows}


def stated(cases: Cases, value: float, name: str, panel: int) -> Finding:
    """A stated average against the table's cells, and pair by pair against the figure's printed averages."""
    return average_is(cases, value, (name,), lambda which: _rows(which, panel))


def exchanged(name: str) -> dict[str, object]:
    """A contrast of Table 3 with the two accuracies exchanged that Figure 3 has the other way round."""
    found = contrasts.of(name, reported.with_exchanged())
    pairs = found.by_cluster()
    p = contrasts.judged(contrasts.family(name, reported.with_exchanged()))[name].adjusted_p_value
    more = {"by part": found.by_part(), "above 0": f"{contrasts.above(pairs)} of {len(pairs)}", "adjusted p": p}
    return {"as Figure 3 has the cells": {"mean": float(found.values.mean())} | more}


@reported_claim(
    "4.4-average",
    where="§4.4",
    says="Average improvement over all cases is 0.3%.",
    reading=f"In Table 3; {BY_PRINT}.",
)
def average_over_lora(cases: Cases) -> Finding:
    """ALLoRA − LoRA."""
    return stated(cases, 0.3, "ALLoRA − LoRA", 0)


@reported_claim("5.1-average", where="§5.1", says=DIFFERENCE, reading=f"The average is 0.3; {BY_PRINT}.")
def average_over_od(cases: Cases) -> Finding:
    """ALLoRA − ALLoRA-OD."""
    return stated(cases, 0.3, "ALLoRA − ALLoRA-OD", 2)


@reported_claim("5.2-average-asf", where="§5.2", says=ADVANTAGE, reading=f"The average is 1.0; {BY_PRINT}.")
def average_over_asf(cases: Cases) -> Finding:
    """ALLoRA − ASF-LoRA."""
    return stated(cases, 1.0, "ALLoRA − ASF-LoRA", 3)


@reported_claim("5.2-average-eta", where="§5.2", says=OVER_ETA, reading=f"The average is 0.9; {BY_PRINT}.")
def average_over_eta(cases: Cases) -> Finding:
    """ALLoRA − LoRA×η."""
    return stated(cases, 0.9, "ALLoRA − LoRA×η", 4)


@reported_claim(
    "4.4-better-than-lora",
    where="§4.4, Figure 3 left",
    says="The result shows that ALLoRA in general admits better accuracy over plain LoRA.",
    reading=f"By the mean of Table 3's 27 cells, which is that of its nine pairs of model and data set; {BY_PRINT}. "
    f"LoRA is at η·l_b. {ON_YELP} Table and figure differ in one cell (F3-cells). At η² = 1 ALLoRA's factor is at "
    "most 1 and LoRA has the same rate, and throughout Table 3 larger rates are better: a higher rate does not explain "
    "the lead there (looked at afterwards). Each at its best of three settings, the lead is +0.18 points by Table 3 "
    "(p = 0.041 alone), +0.21 by Figure 3 (0.0078; 4.4-fair-to-lora's evidence).",
    depends_on=("F3-cells", "4.4-fair-to-lora"),
)
def better_than_lora(cases: Cases) -> Finding:
    """ALLoRA − LoRA in Table 3; beside it by η², which was looked at after the runs."""
    name = "ALLoRA − LoRA"
    yes = "Yes: better in {clusters} model–data pairs{figure_3}, mean {mean} points; {chance}."
    return ahead_on_average(cases, name, lambda which: _rows(which, 0), yes, exchanged(name))


@reported_claim(
    "A-dropout-free-better",
    where="Abstract",
    says="Empirical results show that ALLoRA admits better accuracy than LoRA on various settings",
    reading='ALLoRA-0, as the abstract calls its solution "Dropout-free", by the mean of Table 3\'s 27 cells; what '
    f"is printed is the sum of Figure 3's two panels, and {BY_PRINT}. LoRA has dropout 0.05 there, without it no LoRA "
    "is printed, so what the drop rate adds is open. Each at its best of three settings, the lead is +0.19 points by "
    "Table 3, which may be chance (p = 0.086 alone), and +0.21 by Figure 3, which is more than chance (p = 0.049 "
    "alone); that of ALLoRA with dropout is more than chance by both (4.4-better-than-lora). The lead over DoRA, as "
    "the sentence goes on, is row 4.5-average's, with dropout 4.5-better-than-dora's.",
    depends_on=("F3-cells",),
)
def dropout_free_better(cases: Cases) -> Finding:
    """ALLoRA-0 − LoRA in Table 3."""
    name = "ALLoRA-0 − LoRA"

    def printed(_: str) -> dict[str, float]:
        with_dropout, without = _rows("ALLoRA − LoRA", 0), _rows(contrasts.EQUAL.name, 1)
        return {pair: with_dropout[pair] + without[pair] for pair in without}

    yes = "Yes, over LoRA with dropout in {clusters} model–data pairs{figure_3}: mean {mean} points, p = {p}."
    more = exchanged(name) | {"each at its best setting": _leads("ALLoRA-0")}
    return ahead_on_average(cases, name, printed, yes, more)


@reported_claim(
    "4.4-no-difference",
    where="§4.4, Figure 3 right",
    says="Figure 3 Right shows that there is no evident difference between ALLoRA and ALLoRA-0",
    reading="Less than a quarter of a point apart: half a point, our margin before, is more than ALLoRA's lead over "
    "LoRA, and was changed after the numbers were seen; at an eighth it is not shown (evidence). Whether it matches "
    "§3.1, as the sentence goes on, is row 3.1-not-a-must-have's.",
)
def no_difference(cases: Cases) -> Finding:
    """ALLoRA-0 − ALLoRA in Table 3, by equivalence."""
    lead = contrasts.of("ALLoRA − LoRA").values.mean()
    answers = {
        "holds": f"Yes: {{mean}} points, between {{interval}}; ALLoRA's lead over LoRA is {signed(lead, 2)}.",
        "undecided": f"Undecided: {{mean}} points, not shown to be within ± {MARGIN:g} (adjusted p = {{p}}).",
    }
    return by_the_rule(cases, "ALLoRA-0 − ALLoRA", answers, contrasts.at_other_margins())


@reported_claim(
    "6-better-than-lora",
    where="§6",
    says=SECTION_6,
    reading="ALLoRA is ahead of LoRA by the mean of Table 3's cells and by the averages over a model, a data set and a "
    f"rate, for at least two of each; {BY_PRINT}. {ON_YELP} Whether the mean is more than chance is row "
    "4.4-better-than-lora-beyond-chance.",
    depends_on=("F3-cells",),
)
def better_over_multiple(cases: Cases) -> Finding:
    """ALLoRA − LoRA in Table 3 by model, data set and η²; with Figure 3's numbers, and its test, beside it."""
    name = "ALLoRA − LoRA"
    gaps, kinds = contrasts.of(name), ("models", "data sets", "rates")
    parts = {kind: list(gaps.by_part((i,))) for i, kind in enumerate(kinds)}

    def multiple(seen: Mapping[str, float]) -> bool:
        return seen["mean"] > 0 and all(sum(seen[part] > 0 for part in of) >= MULTIPLE for of in parts.values())

    judged = against_print(cases, (name,), lambda which: _rows(which, 0), multiple, paper=True)
    (seen,) = judged.measured
    ahead = ", ".join(f"{sum(seen[part] > 0 for part in of)} of {len(of)} {kind}" for kind, of in parts.items())
    told = f"{signed(seen['mean'], 2)} points on average; on {ahead}."
    more = exchanged(name) | {"judged": contrasts.judged(contrasts.family(name))[name]}
    return judged.finding(
        holds=f"Yes: {told}",
        refuted=contrasts.refusal(judged, f"No: {told}"),
        evidence=judged.evidence("signs of averages of printed numbers", lambda one: one[1], more=more),
        size=ranged(
            gaps.by_cluster().values(), "percentage points", f"the mean gap {name}; range: pairs", seen["mean"]
        ),
        flips_if="a mean not above 0, fewer than two models, data sets or rates with an average above 0, or "
        f"{contrasts.NOT_PRINTED}",
    )


FAMILY = ("ALLoRA − ALLoRA-OD", "ALLoRA − ASF-LoRA", "ALLoRA − LoRA×η")


@reported_claim(
    "6-optimal",
    where="Abstract; §6",
    says="Ablation studies show our solution is the optimal in a family of weight-dependent / output-dependent "
    "approaches.",
    reading="It has the highest average of Table 4 at each η²; that each lead is more than chance is row "
    "6-optimal-beyond-chance.",
)
def highest_in_family(cases: Cases) -> Finding:
    """ALLoRA's average at each η² against each other member's."""
    leads = {f"{name}, {eta}": lead for name in FAMILY for eta, lead in contrasts.of(name).by_part((2,)).items()}
    yes = f"Yes, in Table 4: the highest average at each η²; the lead over ALLoRA-OD {chance('ALLoRA − ALLoRA-OD')}."
    return everywhere(
        cases, leads, "No: its average is above the other's in {k} of {n} comparisons at one η².", yes=yes
    )


@reported_claim(
    "5.1-better-than-od",
    where="§5.1",
    says=DIFFERENCE,
    reading='"Overall": by the averages over a model, a data set or an η² of Table 4; pairs are in the answer, whether '
    "more than chance is row 6-optimal-beyond-chance.",
)
def better_than_od(cases: Cases) -> Finding:
    """ALLoRA − ALLoRA-OD, average by average; pair by pair beside it."""
    found = contrasts.of("ALLoRA − ALLoRA-OD")
    parts, pairs, mean = found.by_part(), found.by_cluster(), float(found.values.mean())
    told = f"{signed(mean, 2)} points, in all {{n}} averages and {contrasts.above(pairs)} of {len(pairs)} pairs"
    return everywhere(
        cases,
        parts,
        "No: in {k} of {n} averages by model, data set or η².",
        {"by model and data set": {", ".join(pair): value for pair, value in pairs.items()}},
        yes=f"Yes, overall: {told}; it {chance('ALLoRA − ALLoRA-OD')}.",
        size=ranged(pairs.values(), "percentage points", "the mean gap ALLoRA − ALLoRA-OD; range: pairs", mean),
    )


@reported_claim("5.2-better-than-asf", where="§5.2", says=ADVANTAGE)
def better_than_asf(cases: Cases) -> Finding:
    """ALLoRA − ASF-LoRA in Table 4."""
    return by_the_rule(cases, "ALLoRA − ASF-LoRA", ANSWERS)


@reported_claim("5.2-better-than-eta", where="§5.2", says=OVER_ETA)
def better_than_eta(cases: Cases) -> Finding:
    """ALLoRA − LoRA×η in Table 4."""
    return by_the_rule(cases, "ALLoRA − LoRA×η", ANSWERS)


def _in_over_half(cases: Cases, by: float, yes: str, no: str) -> Finding:
    """Whether ASF-LoRA is `by` points lower or more in over half of Figure 4's cells, bottom right.

    The 18 gaps are held against Table 4's accuracies; the answers may hold {k} of {n} cells, {any} that are lower
    at all, {clearly} by `MARGIN`, and {small}, the least gap above 0.
    """
    comparisons = reported.panel_cells(FIGURE_4[3])
    lower = sorted(float(item.printed) for item in comparisons if item.printed > 0)
    n, counts = len(comparisons), {bar: sum(gap >= bar for gap in lower) for bar in (0.0, *SIGNIFICANTLY)}
    judged = cases.judge(
        [Case(item.where, item, True) for item in comparisons],
        measure=lambda item: float(item.recomputed),
        printed=lambda item, seen: 2 * counts[by] > n and abs(float(item.printed) - seen) <= CELL_BY,
    )
    told = {
        "k": counts[by],
        "n": n,
        "small": f"{min(lower, default=0):.2f}",
        "clearly": counts[MARGIN],
        "any": counts[0.0],
    }
    of = f"have ASF-LoRA {f'{by:g} points or more ' if by else ''}below LoRA × η"
    enough = f"gaps {f'of {by:g} or more' if by else 'above 0'} in {{}} of the cells"
    return judged.finding(
        holds=yes.format(**told),
        refuted=no.format(**told) if 2 * counts[by] <= n else "No: a printed gap is not Table 4's.",
        evidence=judged.evidence(
            "rounding; order of printed numbers",
            lambda item: float(item.printed),
            more={"lower by, in order": lower, "cells lower by so much": {f"{bar:g}": k for bar, k in counts.items()}},
            tolerance=0.015,
        ),
        size=Size(float(counts[by]), "cells", f"of {n} {of}"),
        flips_if=f"{enough.format('half or fewer')}, or {NOT_CELLS}"
        if judged.verdict == "holds"
        else enough.format("over half") + f", each within {CELL_BY:g} of Table 4's",
    )


@reported_claim(
    "5.2-over-half",
    where="§5.2",
    says=OVER_HALF,
    reading="Lower in over half of the cells, by however little; whether significantly is row 5.2-asf-significantly.",
)
def over_half(cases: Cases) -> Finding:
    """How many gaps of Figure 4, bottom right, are positive."""
    yes = f"Yes: lower in {{k}} of {{n}} cells, if {{small}} points count; by {MARGIN:g} or more in {{clearly}}."
    return _in_over_half(cases, 0.0, yes, "No: lower in {k} of {n} cells.")


@reported_claim(
    "5.2-asf-significantly",
    where="§5.2",
    says=OVER_HALF,
    reading=f"A less kind reading: lower by {MARGIN:g} points or more, a bar of ours set when the numbers were known, "
    "in over half of the cells. At half of it 9 of 18 are, which is not over half, at twice of it 5; 10 are at any bar "
    "up to 0.08. No cell can be tested: no spread over its runs is printed; the mean over the cells is row "
    "5.2-asf-lower-beyond-chance.",
)
def asf_significantly(cases: Cases) -> Finding:
    """How many gaps of Figure 4, bottom right, are `MARGIN` or more."""
    told = f"by {MARGIN:g} points or more in {{k}} of {{n}} cells; by any amount in {{any}}."
    return _in_over_half(cases, MARGIN, f"Yes: {told}", f"No: {told}")


@reported_claim(
    "5.2-asf-not-better",
    where="Figure 4, caption",
    says="Bottom right: Adaptive scale factor is not better than a fixed scale factor.",
    reading="By the average of the figure's cells, which must be Table 4's within rounding; whether more than chance "
    "is row 5.2-asf-lower-beyond-chance.",
)
def asf_not_ahead(cases: Cases) -> Finding:
    """The 18 gaps of Figure 4, bottom right, against Table 4's, and their mean."""
    panel = reported.panel_cells(FIGURE_4[3])
    mean = float(np.mean([float(item.printed) for item in panel]))
    judged = cases.judge(
        [Case(item.where, item, True) for item in panel],
        measure=lambda item: float(item.recomputed),
        printed=lambda item, seen: mean > 0 and abs(float(item.printed) - seen) <= CELL_BY,
    )
    told = f"the fixed one is {signed(mean, 2)} points ahead on average"
    return judged.finding(
        holds=f"Yes, in Table 4: {told}, which {chance('LoRA×η − ASF-LoRA')}.",
        refuted=f"No: {told}." if mean <= 0 else "No: a printed gap is not Table 4's.",
        evidence=judged.evidence(
            "rounding; order of printed numbers", lambda item: float(item.printed), tolerance=0.015
        ),
        size=ranged(
            contrasts.of("LoRA×η − ASF-LoRA").by_cluster().values(),
            "percentage points",
            "the gap LoRA×η − ASF-LoRA; range: pairs",
            mean,
        ),
        flips_if=f"a mean of the printed gaps not above 0, or {NOT_CELLS}",
    )


@reported_claim(
    "5.2-better-family",
    where="§5.2",
    says="Since we know that ALLoRA-OD is only slightly worse than ALLoRA, the evidence leans toward that Adaptive "
    "Learning Rate is in general a better solution family than Adaptive Scaling Factor.",
    reading='Both members, ALLoRA and ALLoRA-OD, are better than ASF-LoRA; "leans": each by its own test alone, since '
    "both must be better (intersection–union).",
)
def better_family(cases: Cases) -> Finding:
    """ALLoRA-OD − ASF-LoRA and ALLoRA − ASF-LoRA in Table 4, each alone; the adjusted p of the first in the answer."""
    name, other = "ALLoRA-OD − ASF-LoRA", "ALLoRA − ASF-LoRA"
    adjusted = contrasts.judged(contrasts.family(name))[name].adjusted_p_value
    better = contrasts.judged({other: contrasts.family(other)[other]})[other]
    words = (
        f"Yes, as hedged: tested alone, ALLoRA-OD {{mean}} points over ASF-LoRA (p = {{p}}; adjusted {adjusted:.2g}), "
        f"ALLoRA {signed(better.mean, 2)} (p = {better.p_value:.2g})."
    )
    return by_the_rule(cases, name, ANSWERS | {"holds": words}, {"adjusted": adjusted}, alone=(name, other))


@reported_claim(
    "4.4-fair-to-lora",
    where="§4.4",
    says="To be fair for LoRA, we run LoRA at learning rate l ∈ {1e−4, √2e−4, 2e−4}, respectively.",
    reading="Fair as far as print tells: LoRA has the rates listed, as many as ALLoRA has η², and their end cuts it "
    "short (the last is the best) in no more pairs of model and data set than ALLoRA's does: our bar, set after the "
    "table was read. Table 3 labels LoRA's rows by η², of which its caption makes the rates. What was run, and "
    "whether three are enough to be fair, nothing printed can check. Who is ahead decides nothing.",
)
def fair_to_lora(cases: Cases) -> Finding:
    """Both arms' settings by (model, data set), and in how many the last is the best; ALLoRA's lead beside them."""
    found = {arm: _best(arm).values() for arm in ("LoRA", "ALLoRA")}
    judged = cases.judge(
        [Case("Table 3", RATES, True)],
        measure=lambda _: {
            arm: ([one.settings for one in of], sum(one.at == max(one.settings) for one in of))
            for arm, of in found.items()
        },
        printed=_fair,
    )
    (lora, ours), n = (cut_short for _, cut_short in judged.measured[0].values()), len(COLUMNS_3)
    told = (
        f"the best of both is the largest tried, in {lora} of {n} pairs"
        if lora == ours
        else f"the best is the largest tried in {lora} of {n} pairs of LoRA's, {ours} of ALLoRA's"
    )
    return judged.finding(
        holds=f"Yes: {len(RATES)} settings each; {told}.",
        evidence=judged.evidence(
            "the rates listed, 1e-4·η; order of printed accuracies",
            {"LoRA's rates": RATES},
            more={"ALLoRA's lead, each at its best": _leads()},
            n=n,
        ),
        size=Size(float(lora), f"of {n} pairs", f"in which LoRA's best is the largest rate tried; ALLoRA's: {ours}"),
        flips_if="LoRA's accuracies best at its largest rate in more pairs than ALLoRA's at its largest η²; other "
        "rates than those listed, or fewer than ALLoRA has settings",
    )


class _Best(NamedTuple):
    """The settings of an arm on a (model, data set), in LoRA's rates, the one of the best accuracy, and this."""

    settings: list[float]
    at: float
    accuracy: float


def _best(arm: str, cells: Sequence[reported.Cell] | None = None) -> dict[tuple[str, str], _Best]:
    found: dict[tuple[str, str], dict[float, float]] = {}
    for cell in reported.TABLE_3 if cells is None else cells:
        if cell.arm == arm:
            found.setdefault((cell.model, cell.dataset), {})[BASE * cell.eta_squared**0.5] = cell.accuracy
    return {pair: _Best(sorted(of), max(of, key=lambda rate: of[rate]), max(of.values())) for pair, of in found.items()}


def _fair(rates: Sequence[float], seen: Mapping[str, tuple[list[list[float]], int]]) -> bool:
    (lora, cut_short), (ours, cut_short_too) = seen["LoRA"], seen["ALLoRA"]
    listed = all(len(one) == len(rates) and np.allclose(one, rates) for one in lora)
    return listed and list(map(len, lora)) == list(map(len, ours)) and cut_short <= cut_short_too


def _leads(arm: str = "ALLoRA") -> dict[str, object]:
    # What decides nothing: an arm's lead over LoRA, each at its best setting, as printed and as Figure 3 has the cells.
    found = {}
    for name, cells in (("as printed", None), (contrasts.AS_FIGURE_3, reported.with_exchanged())):
        ours, lora = (_best(one, cells) for one in (arm, "LoRA"))
        leads = [ours[pair].accuracy - lora[pair].accuracy for pair in COLUMNS_3]
        found[name] = judge_family({"best": leads}, grain=1e-9)["best"]
    return found
