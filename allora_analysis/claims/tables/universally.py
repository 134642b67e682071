"""Where ALLoRA is "universally" (Appendices D and E) or "consistently" (§1) better in Tables 1, 3 and 4.

Both words have one bar: every average over a model, a data set, a rank or an η². Judged by the order of the printed
numbers. Checked by `tests/test_claims_tables_rows.py`, which plants wrong numbers.
"""

import functools
from collections.abc import Callable

from allora_analysis.claims.cases import Cases
from allora_analysis.claims.claim import Finding, ranged
from allora_analysis.claims.tables import contrasts, reported
from allora_analysis.claims.tables.contrasts import (
    AS_FIGURE_3,
    OTHER_AVERAGE,
    above,
    by_average,
    by_cell,
    everywhere,
    over_dora,
)
from allora_analysis.claims.tables.prose_of_results import FAMILY
from allora_analysis.claims.tables.table_1 import reported_claim
from allora_analysis.study import bound

LORA, WITHOUT_DROPOUT = ("ALLoRA − LoRA",), ("ALLoRA-0 − LoRA",)
over_lora = functools.partial(
    reported_claim,
    where="Appendix D",
    says="Each cell is an average of 5 runs. ALLoRA is universally better than LoRA in terms of accuracy.",
    depends_on=("F3-cells",),
)
over_family = functools.partial(
    reported_claim,
    where="Appendix E",
    says="Each cell is an average of 5 runs. ALLoRA is universally better than the rest in the family.",
)
BY_PAIRS = "A less kind reading: in every pair of model and data set too, as Figure {n} prints them."
BY_CELLS = 'A less kind reading: in every cell of Table {n}, what "universally" often means.'


def in_averages(
    cases: Cases,
    names: tuple[str, ...],
    pairs: bool,
    words: str,
    yes: str = "Yes: in all {n}.",
    at_paper: Callable[[bool], bool | str] = bool,
) -> Finding:
    """By the averages over a model, a data set or an η², with `pairs` over a model and data set too.

    `words` and `yes` may hold {with_pairs}, in how many it is ahead once pairs count, and {behind}, by how much at most
    it is behind; over LoRA {figure}, with Figure 3's numbers, {other} and {other_figure}, of ALLoRA-0, and
    {figure_least}, the least lead by Figure 3's numbers.
    """
    parts, every = (by_average(names, pairs=those) for those in (pairs, True))
    told = {"k": "{k}", "n": "{n}", "with_pairs": f"{above(every)} of {len(every)}"}
    told["behind"] = f"{bound(max(0.0, -min(parts.values())), 2, True):.2f}"
    mended = more = None
    if names == LORA:
        exchanged, beside = reported.with_exchanged(), by_average(WITHOUT_DROPOUT, pairs=pairs)
        figure, beside_figure = (by_average(arm, exchanged, pairs) for arm in (LORA, WITHOUT_DROPOUT))
        told |= {"figure": str(above(figure)), "figure_least": f"{min(figure.values()):.3f}"}
        told |= {"other": str(above(beside)), "other_figure": str(above(beside_figure))}
        mended = AS_FIGURE_3, figure
        more = {"of ALLoRA-0": beside, f"of ALLoRA-0, {AS_FIGURE_3}": beside_figure}
        more |= {"with pairs of model and data set": every}
    return everywhere(cases, parts, words.format(**told), more, mended, yes.format(**told), at_paper=at_paper)


CONSISTENTLY = (
    "We obtain that despite ALLoRA employing less hyperparameters than LoRA, it is able to outperform its counter part "
    "and recent variants such as DoRA consistently."
)
ONE_ARM = (
    "One arm must make the whole sentence true: here the one called ALLoRA, with dropout. That it has fewer "
    "hyper-parameters is granted, not shown: with dropout we count none fewer (4-fewer-hyper-parameters); of ALLoRA-0, "
    "which has, is 1-consistently-dora-without-dropout."
)
consistently = functools.partial(reported_claim, where="§1, contribution 3", says=CONSISTENTLY)


def both_halves(arm: str) -> tuple[dict[str, float], dict[str, float]]:
    """An arm minus LoRA in Table 3, minus DoRA in Table 1: points by average."""
    return contrasts.of(f"{arm} − LoRA").by_part(), contrasts.of(f"{arm} − DoRA").by_part((0, 1))


def in_full(arm: str, half: bool) -> bool | str:
    """Whether the sentence is true of the paper, one half of it judged: mixed where the other half fails."""
    return "mixed" if half and any(above(gaps) < len(gaps) for gaps in both_halves(arm)) else half


@consistently(
    "1-consistently-lora",
    reading="By the averages over a model, a data set or an η² of Table 3, judged as D-universally-better is: on yelp "
    "it leads if Figure 3 is right, not Table 3, and by less than rounding can tell. ALLoRA-0's lead there is 0.003 by "
    "Table 3, which rounding alone could make, and 0.028 by Figure 3, which it could not. "
    f"{ONE_ARM} The other half: 1-consistently-dora.",
    depends_on=("4-fewer-hyper-parameters", "F3-cells"),
    same_fault_as="D-universally-better",
)
def consistently_lora(cases: Cases) -> Finding:
    """ALLoRA − LoRA, average by average; ALLoRA-0 − LoRA, and ALLoRA − DoRA, beside it."""
    _, dora = both_halves("ALLoRA")
    told = f"of DoRA in {above(dora)} of {len(dora)}."
    words = f"Mostly: ahead of LoRA in {{k}} of {{n}} averages (Figure 3: {{figure}}), {told}"
    at_paper = functools.partial(in_full, "ALLoRA")
    return in_averages(cases, LORA, False, words, f"Yes: ahead of LoRA in all {{n}} averages, {told}", at_paper)


def _consistently_over_dora(cases: Cases, arm: str, other: str) -> Finding:
    """An arm − DoRA by model and by rank; by setting and task, and the other arm, beside it."""
    (_, parts), found, beside = both_halves(arm), contrasts.of(f"{arm} − DoRA"), contrasts.of(f"{other} − DoRA")
    judged, every = over_dora(cases, arm, parts), found.averages((0, 1))
    models, behind = found.by_part((0,)), [part for part, gap in parts.items() if gap <= 0]
    told = f"{arm} leads DoRA in {above(parts)} of {len(parts)} averages, {above(every)} of {len(every)}"
    told += " counting model–rank pairs."
    return judged.finding(
        holds=f"Yes, of the accuracies: {told}",
        refuted=f"No: {told}" if behind else "No: an average is not that of the averages printed.",
        evidence=judged.evidence(
            "order of printed numbers; rounding of averages",
            lambda one: one[1],
            more={"by setting and task": every | found.by_part((2,)), f"of {other}": beside.averages((0, 1))},
            tolerance=contrasts.PRINTED_BY,
        ),
        size=ranged(
            models.values(),
            "percentage points",
            f"{arm}'s gap, the least model; range: models",
            min(models.values()),
        ),
        flips_if=f"{arm} behind on average over a model or a rank, or {OTHER_AVERAGE}"
        if judged.verdict == "holds" or not behind
        else f"{arm} ahead on average over {' and '.join(behind)}, too",
        at_paper=in_full(arm, judged.verdict == "holds"),
    )


@consistently(
    "1-consistently-dora",
    reading="By the averages over a model or a rank of Table 1, each within 0.1 of that of the averages printed. "
    "One lead, LLaMA-7B's, is 0.075 points, and rounding of the accuracies printed could make up to 0.1. "
    f"{ONE_ARM} Mixed where the other half fails by Table 3: 1-consistently-lora.",
    depends_on=("4-fewer-hyper-parameters", "F3-cells"),
)
def consistently_dora(cases: Cases) -> Finding:
    """ALLoRA − DoRA; ALLoRA-0 − DoRA beside it."""
    return _consistently_over_dora(cases, "ALLoRA", "ALLoRA-0")


@consistently(
    "1-consistently-dora-without-dropout",
    reading="A less kind reading: as 1-consistently-dora, of ALLoRA-0, since with dropout there are, by our count, as "
    "many hyper-parameters as LoRA's. Over LoRA ALLoRA-0 leads in every such average (1-consistently-lora).",
    depends_on=("4-fewer-hyper-parameters",),
)
def consistently_dora_without_dropout(cases: Cases) -> Finding:
    """ALLoRA-0 − DoRA; ALLoRA − DoRA beside it."""
    return _consistently_over_dora(cases, "ALLoRA-0", "ALLoRA")


@over_lora(
    "D-universally-better",
    reading="By the averages over a model, a data set or an η² of Table 3; on average over all is "
    "4.4-better-than-lora, whether more than chance 4.4-better-than-lora-beyond-chance. Which of table and figure is "
    "right nothing printed can tell (F3-cells); if the table is, the sentence fails on yelp. Accuracies are printed to "
    "0.01, so that rounding could make yelp's lead by Figure 3's numbers alone.",
)
def universally_better_than_lora(cases: Cases) -> Finding:
    """ALLoRA − LoRA, average by average; ALLoRA-0 − LoRA beside it."""
    words = "Mostly: ahead of LoRA in {k} of {n} averages; by Figure 3's numbers in {figure} "
    words += "(one by {figure_least} points)."
    return in_averages(cases, LORA, False, words)


@over_lora(
    "D-universally-better-by-pairs",
    reading=f"{BY_PAIRS.format(n=3)} ALLoRA is Table 3's arm of that name; ALLoRA-0 has rows of its own there.",
)
def better_than_lora_in_every_pair(cases: Cases) -> Finding:
    """The same, pairs of model and data set among the averages."""
    words = "Not in all {n} averages: ahead of LoRA in {k} (Figure 3: {figure}), "
    words += "ALLoRA-0 in {other} (Figure 3: {other_figure})."
    return in_averages(cases, LORA, True, words)


@over_lora("D-universally-better-cells", reading=BY_CELLS.format(n=3))
def better_than_lora_in_every_cell(cases: Cases) -> Finding:
    """ALLoRA − LoRA, cell by cell."""
    figure = by_cell(LORA, reported.with_exchanged())
    words = f"Not in every cell: in {{k}} of {{n}}, with Figure 3's numbers in {above(figure)}."
    return everywhere(cases, by_cell(LORA), words, mended=(AS_FIGURE_3, figure))


@over_family(
    "E-universally-better",
    reading="By the averages over a model, a data set or an η² of Table 4; at each η² is row 6-optimal, whether more "
    "than chance 6-optimal-beyond-chance.",
)
def universally_better_in_family(cases: Cases) -> Finding:
    """ALLoRA against the three others of Table 4, average by average."""
    yes = "Yes, on average: in all {n} averages; with pairs of model and data set in {with_pairs}."
    return in_averages(cases, FAMILY, False, "Not in all: ahead in {k} of {n} averages.", yes)


@over_family("E-universally-better-by-pairs", reading=BY_PAIRS.format(n=4))
def better_in_family_in_every_pair(cases: Cases) -> Finding:
    """The same, pairs of model and data set among the averages."""
    return in_averages(
        cases, FAMILY, True, "Not in all: ahead in {k} of {n} averages, behind by at most {behind} points."
    )


@over_family("E-universally-better-cells", reading=BY_CELLS.format(n=4))
def better_in_family_in_every_cell(cases: Cases) -> Finding:
    """ALLoRA against the three others of Table 4, cell by cell."""
    return everywhere(cases, by_cell(FAMILY), "Not in every cell: in {k} of {n}.")
