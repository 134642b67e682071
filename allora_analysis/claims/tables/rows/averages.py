"""Sentences that state an average improvement: "0.3 %", "1.0 %", "0.9 %", against the mean gap over all cells."""

from __future__ import annotations

from collections.abc import Callable

from allora_analysis.claims.ledger import Claim, Evidence, Finding, settle
from allora_analysis.claims.tables import arithmetic, contrasts
from allora_analysis.claims.tables.rounding import exact, half_unit, mean
from allora_analysis.claims.tables.rows.numbers import COMMAND, TEST


def average_is(stated: float, table: str, pairs: tuple[tuple[str, str], ...]) -> Callable[[], Finding]:
    """The check that a mean gap over all cells rounds to the stated one decimal.

    Args:
        stated: percentage points, one decimal.
        table: the table.
        pairs: (better, worse) arms, each of which must have it.

    Returns:
        The check.
    """

    def check() -> Finding:
        means = {f"{b} − {w}": mean([float(v) for v in contrasts.gaps(table, b, w).values]) for b, w in pairs}
        cases = {name: abs(value - exact(stated)) <= half_unit(1) for name, value in means.items()}
        error = max(abs(value - exact(stated)) for value in means.values())
        return Finding(
            settle(cases),
            Evidence(
                dict.fromkeys(means, stated),
                {name: float(value) for name, value in means.items()},
                'rounding to the one stated decimal; "%" read as percentage points',
                float(error),
                float(half_unit(1)),
            ),
        )

    return check


def marginals() -> Finding:
    """ALLoRA − LoRA averaged by model, by data set and by η², in Table 3; all but one data set are positive.

    The sentence says "multiple", not "every": an exception makes it conditional (see `everywhere`).

    Returns:
        The finding.
    """

    def averages(found: contrasts.Gaps) -> dict[str, float]:
        kinds = dict.fromkeys(part for column in zip(*found.labels, strict=True) for part in column)
        chosen = {k: [float(v) for v, c in zip(found.values, found.labels, strict=True) if k in c] for k in kinds}
        return {kind: float(mean(values)) for kind, values in chosen.items()}

    printed = averages(contrasts.gaps("Table 3", "ALLoRA", "LoRA"))
    mended = averages(contrasts.gaps("Table 3", "ALLoRA", "LoRA", arithmetic.with_exchanged()))
    cases = {kind: value > 0 for kind, value in printed.items()}
    verdict = settle(cases, {kind: better == (kind != "yelp") for kind, better in cases.items()})
    words = (
        f"in {sum(cases.values())} of {len(cases)} averages: not on yelp, {printed['yelp']:+.3f} points "
        f"({mended['yelp']:+.3f} as Figure 3 has the cells)"
    )
    source = "order of averages of printed numbers; whether it is more than chance: the rows on gaps"
    evidence = Evidence({"average": "> 0 in each"}, {"table": printed, "figure": mended}, source, n=len(cases))
    return Finding(verdict, evidence, words if verdict == "conditional" else None)


def claims() -> tuple[Claim, ...]:
    """The rows about stated averages.

    Returns:
        The claims.
    """
    stated = "average improvement over all cases is"
    dora = (("ALLoRA", "DoRA"), ("ALLoRA-0", "DoRA"))
    rows = (
        ("4.4-average", "§4.4", f"Over LoRA, {stated} 0.3 %", average_is(0.3, "Table 3", (("ALLoRA", "LoRA"),))),
        (
            "4.5-average",
            "§4.5",
            "On average, ALLoRA and ALLoRA-0 each boosted accuracy by 0.3 % over DoRA",
            average_is(0.3, "Table 1", dora),
        ),
        (
            "5.1-average",
            "§5.1",
            f"Over ALLoRA-OD, {stated} 0.3 %",
            average_is(0.3, "Table 4", (("ALLoRA", "ALLoRA-OD"),)),
        ),
        (
            "5.2-average-asf",
            "§5.2",
            f"Over ASF-LoRA, {stated} 1.0 %",
            average_is(1.0, "Table 4", (("ALLoRA", "ASF-LoRA"),)),
        ),
        (
            "5.2-average-eta",
            "§5.2",
            f"Over LoRA with a comparable fixed scaling factor, {stated} 0.9 %",
            average_is(0.9, "Table 4", (("ALLoRA", "LoRA×η"),)),
        ),
        (
            "6-better-than-lora",
            "§6",
            "ALLoRA admits better accuracy than plain LoRA over multiple backbones, datasets, and learning rates "
            "(read: on the average of each model, each data set and each η² of Table 3)",
            marginals,
        ),
    )
    return tuple(Claim(id, where, statement, check, COMMAND, TEST) for id, where, statement, check in rows)
