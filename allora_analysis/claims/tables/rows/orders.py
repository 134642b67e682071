"""Sentences that the paper's own tables confirm or deny by order alone: "universally", "for all cases", "over half".

Whether a difference is more than chance is another question: see `gaps`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from allora_analysis.claims.ledger import Claim, Evidence, Finding, settle
from allora_analysis.claims.reported import TABLE_1
from allora_analysis.claims.tables import arithmetic, contrasts, majority
from allora_analysis.claims.tables.rounding import exact, mean
from allora_analysis.claims.tables.rows.everywhere import everywhere
from allora_analysis.claims.tables.rows.numbers import COMMAND, TEST

PRINTED = "order of printed numbers; whether it is more than chance: the rows on gaps"
LOW = (("Qwen2-0.5B", "emotion"), ("Qwen2-0.5B", "rotten_tomatoes"))


def universally(table: str, better: str, others: tuple[str, ...]) -> Callable[[], Finding]:
    """The check that an arm is above others in every cell of a table.

    Args:
        table: "Table 3" or "Table 4".
        better: the arm.
        others: the arms that it is compared with.

    Returns:
        The check.
    """

    def check() -> Finding:
        named = {
            f"{', '.join(label)}: {better} − {other}": float(value)
            for other in others
            for found in (contrasts.gaps(table, better, other),)
            for label, value in zip(found.labels, found.values, strict=True)
        }
        cases = {name: value > 0 for name, value in named.items()}
        against = {name: value for name, value in named.items() if value <= 0}
        measured = {"better": sum(cases.values()), "not_better": against}
        if others == ("LoRA",):
            mended = contrasts.gaps(table, better, "LoRA", arithmetic.with_exchanged())
            measured["better_as_figure_3_has_it"] = int((mended.values > 0).sum())
        verdict, instead = everywhere(cases, "cells")
        return Finding(verdict, Evidence({"better": len(cases)}, measured, PRINTED, n=len(cases)), instead)

    return check


def consistently(table: str, pairs: tuple[tuple[str, str], ...]) -> Callable[[], Finding]:
    """The check that an arm's mean gap is positive in every (model, data set) or (model, rank).

    Args:
        table: the table.
        pairs: (better, worse) arms.

    Returns:
        The check.
    """

    def check() -> Finding:
        means = {
            f"{', '.join(cluster)}: {better} − {worse}": value
            for better, worse in pairs
            for cluster, value in contrasts.gaps(table, better, worse).by_cluster().items()
        }
        cases = {name: value > 0 for name, value in means.items()}
        found = Evidence({"mean_gap": "> 0 in each"}, means, PRINTED, n=len(cases))
        verdict, instead = everywhere(cases, "(model, setting) means")
        return Finding(verdict, found, instead)

    return check


def best_average() -> Finding:
    """§4.5's "for all cases" over the six (model, rank), by the printed averages and by the recomputed ones.

    A tie is no exception if "best" is read as "none is better": the condition.

    Returns:
        The finding.
    """
    printed = {(row.model, row.rank, row.arm): exact(row.average) for row in TABLE_1}
    recomputed = {(row.model, row.rank, row.arm): mean(row.accuracies) for row in TABLE_1}

    def leads(averages: dict) -> dict[str, float]:
        settings = dict.fromkeys((model, rank) for model, rank, _ in averages)
        best = {s: max(averages[(*s, "ALLoRA")], averages[(*s, "ALLoRA-0")]) for s in settings}
        return {f"{s[0]}, r = {s[1]}": float(best[s] - averages[(*s, "DoRA")]) for s in settings}

    lead, exactly = leads(printed), leads(recomputed)
    verdict = settle({s: value > 0 for s, value in lead.items()}, {s: value >= 0 for s, value in lead.items()})
    ties = [setting for setting, value in lead.items() if value == 0]
    behind = ", ".join(f"{-exactly[setting]:.4f}" for setting in ties)
    words = (
        f"if a tie counts as best: ahead by the printed averages in {len(lead) - len(ties)} of {len(lead)}, tied at "
        f"{'; '.join(ties)}, where the cells put DoRA {behind} ahead"
    )
    source = f"{PRINTED}; the better of two arms, each the best of three η², against the best of two learning rates"
    found = Evidence({"lead_of_printed_averages": lead}, {"lead_of_recomputed_averages": exactly}, source, n=len(lead))
    return Finding(verdict, found, words if verdict == "conditional" else None)


def optimal_in_family() -> Finding:
    """Whether ALLoRA has the best average over the six (model, data set) of Table 4 at each η².

    Returns:
        The finding.
    """
    leads = {}
    for other in ("ALLoRA-OD", "ASF-LoRA", "LoRA×η"):
        found = contrasts.gaps("Table 4", "ALLoRA", other)
        for eta in dict.fromkeys(label[2] for label in found.labels):
            chosen = [v for label, v in zip(found.labels, found.values, strict=True) if label[2] == eta]
            leads[f"{eta}: ALLoRA − {other}"] = float(np.mean(chosen))
    cases = {name: value > 0 for name, value in leads.items()}
    source = f"averages over six (model, data set) at each η²; {PRINTED}"
    return Finding(settle(cases), Evidence({"lead": "> 0 in each"}, leads, source, n=len(cases)))


def over_half() -> Finding:
    """How many of the 18 cells have ASF-LoRA below LoRA×η at all; whether significantly, no table tells.

    Returns:
        The finding.
    """
    values = contrasts.gaps("Table 4", "LoRA×η", "ASF-LoRA").values
    lower = int((values > 0).sum())
    measured = {"asf_lower": lower, "cells": int(values.size), "largest_gap_against": float(values.min())}
    source = f'{PRINTED}; "significantly" is row 5.2-asf-significantly'
    found = Evidence({"asf_lower": "> 9 of 18"}, measured, source, n=int(values.size))
    return Finding(settle({"count": 2 * lower > values.size}), found)


def asf_not_better() -> Finding:
    """Figure 4's caption: ASF-LoRA no better than LoRA×η on the average of each (model, data set), but on Qwen2-0.5B.

    Returns:
        The finding.
    """
    found = contrasts.gaps("Table 4", "ASF-LoRA", "LoRA×η")
    ahead = found.by_cluster()
    cases = {", ".join(pair): value <= 0 for pair, value in ahead.items()}
    verdict = settle(cases, {", ".join(pair): (value <= 0) == (pair not in LOW) for pair, value in ahead.items()})
    cells = int((found.values > 0).sum())
    measured = {"asf_ahead": {", ".join(pair): value for pair, value in ahead.items()}, "cells_with_asf_ahead": cells}
    best = ", ".join(f"{ahead[pair]:+.2f} on {pair[1]}" for pair in LOW)
    words = (
        f"in {sum(cases.values())} of {len(cases)}: not on {LOW[0][0]} ({best}); ahead in {cells} of "
        f"{found.values.size} cells, by {float(found.values.mean()):+.2f} points on the average of all"
    )
    evidence = Evidence({"asf_ahead": "≤ 0 in each"}, measured, PRINTED, n=found.values.size)
    return Finding(verdict, evidence, words if verdict == "conditional" else None)


def subpar() -> Finding:
    """Which (model, data set) stay nearer to the majority label's rate than to 100 % in every cell of Table 3.

    Returns:
        The finding.
    """
    cells = [cell for cell in majority.perception_cells() if cell.where.startswith("Table 3")]
    used = {
        key: [c.headroom_used for c in cells if (c.model, c.dataset) == key and c.headroom_used is not None]
        for key in dict.fromkeys((c.model, c.dataset) for c in cells)
    }
    cases = {key: max(shares) < 0.5 for key, shares in used.items()}
    verdict = settle(
        {", ".join(key): low for key, low in cases.items()},
        {", ".join(key): low == (key in LOW) for key, low in cases.items()},
    )
    everything = majority.perception_cells()
    near = [c.where for c in everything if c.beyond(1.96) is False]
    measured = {
        "largest_share_of_headroom": {", ".join(key): max(shares) for key, shares in used.items()},
        "not_above_majority_by_1.96_stderr": near,
    }
    source = "(accuracy − majority)/(100 − majority) below ½, every arm and η²; majority rates from the test splits"
    found = Evidence({"share_of_headroom": "< 0.5"}, measured, source, n=len(cells))
    condition = "Qwen2-0.5B on emotion and rotten_tomatoes stays near the majority label's rate; no other pair does"

    return Finding(verdict, found, condition if verdict == "conditional" else None)


def claims() -> tuple[Claim, ...]:
    """The rows about orders.

    Returns:
        The claims.
    """
    lora, dora = (("ALLoRA", "LoRA"),), (("ALLoRA", "DoRA"), ("ALLoRA-0", "DoRA"))
    contribution, outperform = "§1, contribution 3", "ALLoRA … is able to outperform {} consistently"
    its, recent = outperform.format("its counter part [LoRA]"), outperform.format("recent variants such as DoRA")
    low = "we observe subpar accuracy when finetuning popular open-weight models for NLU and SA tasks (see Table 3)"
    best = "for all cases, either ALLoRA or ALLoRA-0 has the best average accuracy"
    half = (
        "over half of cases see ASF-LoRA's accuracy significantly lower than LoRA with a comparable fixed scaling "
        'factor (read without "significantly", which is row 5.2-asf-significantly)'
    )
    not_better = (
        "Adaptive scale factor is not better than a fixed scale factor (read: on the average of each (model, data set))"
    )
    optimal = "our solution is the optimal in a family of … approaches (read: by the averages printed, at each η²)"
    than_lora = "ALLoRA is universally better than LoRA in terms of accuracy"
    in_family = "ALLoRA is universally better than the rest in the family"
    family = ("ALLoRA-OD", "ASF-LoRA", "LoRA×η")
    rows = (
        ("1-consistently-lora", contribution, its, consistently("Table 3", lora)),
        ("1-consistently-dora", contribution, recent, consistently("Table 1", dora)),
        ("4.4-subpar", "§4.4", low, subpar),
        ("4.5-best-average", "§4.5", best, best_average),
        ("5.2-over-half", "§5.2", half, over_half),
        ("5.2-asf-not-better", "Figure 4, caption", not_better, asf_not_better),
        ("6-optimal", "Abstract, §6", optimal, optimal_in_family),
        ("D-universally-better", "Appendix D", than_lora, universally("Table 3", "ALLoRA", ("LoRA",))),
        ("E-universally-better", "Appendix E", in_family, universally("Table 4", "ALLoRA", family)),
    )
    return tuple(Claim(id, where, statement, check, COMMAND, TEST) for id, where, statement, check in rows)
