"""Rows about the tables themselves: averages, parameter counts, DoRA's rows, Table 2's and Table 4's derived rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from allora_analysis.claims.ledger import Claim, Evidence, Finding, settle
from allora_analysis.claims.reported import (
    ARCHITECTURES,
    DORA_PUBLISHED,
    DORA_SOURCE,
    TABLE_1,
    TABLE_2,
    TABLE_3,
    TABLE_4,
    TASKS,
)
from allora_analysis.claims.tables import arithmetic, contrasts, parameters
from allora_analysis.claims.tables.rounding import Comparison
from allora_analysis.claims.tables.rows.everywhere import everywhere

COMMAND, TEST = "python -m allora_analysis.claims.tables", "tests/test_claims_tables.py"
ROUNDING = "half a unit of the printed number's last digit, and what rounding of its inputs can add"


def numbers_agree(comparisons: Iterable[Comparison], allowed: str = "explained") -> bool:
    """Whether each comparison is explained by rounding (or, more strictly, agrees).

    Args:
        comparisons: any.
        allowed: "explained" or "agrees".

    Returns:
        True if all are.
    """
    return all(getattr(item, allowed) for item in comparisons)


def evidence(comparisons: Sequence[Comparison], source: str = ROUNDING, more: dict | None = None) -> Evidence:
    """Evidence of printed against recomputed numbers: the counts, and every disagreement with both.

    Args:
        comparisons: at least one.
        source: of the tolerance.
        more: measured besides.

    Returns:
        The evidence; its error is the largest difference, in the printed numbers' unit.
    """
    rows = arithmetic.disagreements_among(comparisons)
    worst = max(comparisons, key=lambda item: abs(item.difference))
    return Evidence(
        predicted={row.where: row.printed for row in rows},
        measured={row.where: row.recomputed for row in rows}
        | {"beyond_rounding": [row.where for row in rows if not row.explained_by_rounding]}
        | (more or {}),
        tolerance_source=source,
        error=float(abs(worst.difference)),
        tolerance=float(max(item.half_unit + item.input_error for item in comparisons)),
        n=len(comparisons),
    )


def table_1_averages() -> Finding:
    """Each "Avg" against the mean of its row.

    Returns:
        The finding.
    """
    comparisons = arithmetic.table_1_averages()
    verdict = settle({item.where: item.explained for item in comparisons})
    return Finding(verdict, evidence(comparisons))


def parameters_of(arms: tuple[str, ...], correction: str) -> Callable[[], Finding]:
    """The check of Table 1's parameter column for some methods.

    Args:
        arms: "ALLoRA" or "DoRA".
        correction: the statement with the other denominator.

    Returns:
        The check.
    """

    def check() -> Finding:
        printed, corrected = (
            [item for item in parameters.table_1_parameters(base) if any(f", {arm}," in item.where for arm in arms)]
            for base in parameters.DENOMINATORS
        )
        verdict = settle({"column": numbers_agree(printed, "agrees")}, {"column": numbers_agree(corrected, "agrees")})
        left = _left(corrected)
        return Finding(
            verdict,
            evidence(
                corrected if verdict == "holds_corrected" else printed,
                "half a unit of the second decimal",
                {"of_all_parameters_disagreeing": left, "as_printed_disagreeing": _left(printed)},
            ),
            correction if verdict != "holds" else None,
        )

    return check


def _left(comparisons: Iterable[Comparison]) -> dict[str, float]:
    return {item.where: float(item.recomputed) for item in comparisons if not item.agrees}


def dora_rows() -> Finding:
    """Table 1's DoRA rows against the table that DoRA's authors publish.

    Returns:
        The finding.
    """
    cases = {
        f"{row.model}, r = {row.rank}": (*row.accuracies, row.average) == DORA_PUBLISHED[row.model, row.arm, row.rank]
        for row in TABLE_1
        if row.arm == "DoRA"
    }
    source = f"equality; {DORA_SOURCE}"
    return Finding(settle(cases), Evidence({"rows": 6}, {"rows_equal": sum(cases.values())}, source, 0.0, 0.0))


def fewer_parameters() -> Finding:
    """LoRA's trainable parameters against DoRA's, from the architectures.

    Returns:
        The finding.
    """
    counts = {
        (model, rank): [parameters.trainable_parameters(sizes, rank, method) for method in ("LoRA", "DoRA")]
        for model, sizes in ARCHITECTURES.items()
        for rank in (16, 32)
    }
    printed = {(row.model, row.rank, row.arm): row.parameters for row in TABLE_1}
    equal = [f"{m}, r = {r}" for m, r in counts if printed[m, r, "ALLoRA"] == printed[m, r, "DoRA"]]
    verdict = settle({f"{m}, r = {r}": lora < dora for (m, r), (lora, dora) in counts.items()})
    measured = {f"{m}, r = {r}: ALLoRA / DoRA": lora / dora for (m, r), (lora, dora) in counts.items()}
    return Finding(verdict, Evidence({"ratio": "< 1"}, measured | {"printed_equal": equal}, "exact counts"))


def shared_arms() -> Finding:
    """Table 4's ALLoRA against Table 3's; its LoRA×η at η² = 1 against LoRA.

    Returns:
        The finding.
    """
    third, fourth = arithmetic.by_key(TABLE_3), arithmetic.by_key(TABLE_4)
    same = {key: third[key] == value for key, value in fourth.items() if key[3] == "ALLoRA"}
    at_one = {key: third[(*key[:3], "LoRA")] == v for key, v in fourth.items() if key[2:] == (1.0, "LoRA×η")}
    cases = {str(key): value for key, value in (same | at_one).items()}
    measured = {"allora_equal": sum(same.values()), "lora_at_eta_1_equal": sum(at_one.values())}
    predicted = {"allora_equal": len(same), "lora_at_eta_1_equal": len(at_one)}
    return Finding(settle(cases), Evidence(predicted, measured, "equality of printed numbers", n=len(cases)))


def table_2_rows() -> Finding:
    """Table 2's derived rows: the best accuracy is no lower than the two printed, and theirs where its epoch is theirs.

    Returns:
        The finding.
    """
    cases = {
        f"drop rate {column.drop_rate:g}": column.best >= max(column.at_epoch_3, column.at_epoch_10)
        and 1 <= column.best_epoch <= 10
        and (column.best_epoch != 10 or column.best == column.at_epoch_10)
        and (column.best_epoch != 3 or column.best == column.at_epoch_3)
        for column in TABLE_2
    }
    return Finding(settle(cases), Evidence({"columns": 5}, {"consistent": sum(cases.values())}, "order of numbers"))


def dora_universally() -> Finding:
    """DoRA against LoRA in the table that DoRA's authors publish, at Table 1's ranks: every task, and the averages.

    Returns:
        The finding.
    """
    gaps = {
        f"{model}, r = {rank}, {task}": contrasts.gap(dora, lora)
        for model, method, rank in DORA_PUBLISHED
        if method == "LoRA"
        for task, dora, lora in zip(
            (*TASKS, "Avg"), DORA_PUBLISHED[model, "DoRA", rank], DORA_PUBLISHED[model, "LoRA", rank], strict=True
        )
    }
    averages = [value > 0 for where, value in gaps.items() if where.endswith("Avg")]
    tasks = {where: value > 0 for where, value in gaps.items() if not where.endswith("Avg")}
    verdict, instead = everywhere(tasks, "(model, rank, task), against LoRA")
    measured = {where: value for where, value in gaps.items() if value <= 0 or where.endswith("Avg")}
    source = f"order of printed numbers, against LoRA alone; {DORA_SOURCE}"
    found = Evidence({"gap": "> 0 in each"}, measured, source, n=len(tasks))
    return Finding(verdict, found, instead and f"{instead}; of their averages, in {sum(averages)} of {len(averages)}")


def claims() -> tuple[Claim, ...]:
    """The rows about the tables' own numbers.

    Returns:
        The claims.
    """
    share = "the number of trainable parameters as a percentage of the number of pre trained parameters"
    mended = "as a percentage of all parameters, the trainable ones included"
    of_dora = f"{mended}, all but LLaMA3-8B, r = 16, where DoRA's magnitudes make 0.36, not 0.35 (0.35 is LoRA's share)"
    universal = "DoRA results are universally better than other PEFT methods"
    fewer = "its trainable parameters are slightly lower than that of DoRA"
    same = "Using the same setup in 4.4 (read: Table 4's ALLoRA, and its LoRA × η at η = 1, have Table 3's numbers)"
    derived = (
        "Max acc., Epoch of max acc. (read: no lower than the accuracies printed at epochs 3 and 10, and theirs where "
        "the epoch is 3 or 10; those between are not printed)"
    )
    rows = (
        ("T1-averages", "Table 1", "Avg: the mean accuracy of the eight tasks", table_1_averages),
        ("T1-parameters-allora", "Table 1, §4.5", f"ALLoRA: {share}", parameters_of(("ALLoRA",), mended)),
        ("T1-parameters-dora", "Table 1, §4.5", f"DoRA: {share}", parameters_of(("DoRA",), of_dora)),
        ("T1-dora-rows", "Table 1, caption", "DoRA results are taken from Liu et al. (2024a)", dora_rows),
        ("4.5-dora-universally", "§4.5", universal, dora_universally),
        ("4.5-fewer-parameters", "§4.5", fewer, fewer_parameters),
        ("T2-derived", "Table 2", derived, table_2_rows),
        ("T4-shared-arms", "§5; Tables 3 and 4", same, shared_arms),
    )
    return tuple(Claim(id, where, statement, check, COMMAND, TEST) for id, where, statement, check in rows)
