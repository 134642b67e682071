"""Appendices D and E: in which averages and cells of Tables 3 and 4 ALLoRA is "universally better".

Judged by the order of the printed numbers. Checked by `tests/test_claims_tables_rows.py`, which plants wrong numbers.
"""

import functools

from allora_analysis.claims.cases import Cases
from allora_analysis.claims.claim import Finding
from allora_analysis.claims.tables import reported
from allora_analysis.claims.tables.contrasts import AS_FIGURE_3, above, by_average, by_cell, everywhere
from allora_analysis.claims.tables.prose_of_results import FAMILY
from allora_analysis.claims.tables.table_1 import reported_claim

LORA = ("ALLoRA − LoRA",)
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
    cases: Cases, names: tuple[str, ...], pairs: bool, words: str, yes: str = "Yes: in all {n}."
) -> Finding:
    """By the averages over a model, a data set or an η², with `pairs` over a model and data set too.

    `words` and `yes` may hold {with_pairs}, in how many it is ahead once pairs count, and {behind}, by how much at most
    it is behind; over LoRA {figure}, with Figure 3's numbers, and {plain}, of ALLoRA-0.
    """
    parts, every = (by_average(names, pairs=those) for those in (pairs, True))
    told = {"k": "{k}", "n": "{n}", "with_pairs": f"{above(every)} of {len(every)}"}
    told["behind"] = f"{max(0.0, -min(parts.values())):.2f}"
    mended = more = None
    if names == LORA:
        figure = by_average(LORA, reported.with_exchanged(), pairs)
        plain = by_average(("ALLoRA-0 − LoRA",), pairs=pairs)
        told |= {"figure": str(above(figure)), "plain": str(above(plain))}
        mended, more = (AS_FIGURE_3, figure), {"ALLoRA-0": plain}
    return everywhere(cases, parts, words.format(**told), more, mended, yes.format(**told))


@over_lora(
    "D-universally-better",
    reading="By the averages over a model, a data set or an η² of Table 3; on average over all, and whether more than "
    "chance, is 4.4-better-than-lora.",
)
def universally_better_than_lora(cases: Cases) -> Finding:
    """ALLoRA − LoRA, average by average; ALLoRA-0 − LoRA beside it."""
    words = "Mostly: ahead in {k} of {n} averages, with Figure 3's numbers in {figure}; with pairs in {with_pairs}."
    return in_averages(cases, LORA, False, words)


@over_lora("D-universally-better-by-pairs", reading=BY_PAIRS.format(n=3))
def better_than_lora_in_every_pair(cases: Cases) -> Finding:
    """The same, pairs of model and data set among the averages."""
    words = "Not in all: ahead in {k} of {n} averages, with Figure 3's numbers in {figure}, ALLoRA-0 in {plain}."
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
