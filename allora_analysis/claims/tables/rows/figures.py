"""Rows about Figures 3 and 4 against Tables 3 and 4, and about the runs that a cell is the mean of."""

from __future__ import annotations

from collections.abc import Callable

from allora_analysis.claims.ledger import Claim, Evidence, Finding, settle
from allora_analysis.claims.reported import FIGURE_3, FIGURE_4, PERCEPTION_LABELS, Panel
from allora_analysis.claims.tables import arithmetic, granularity
from allora_analysis.claims.tables.rows.numbers import COMMAND, TEST, evidence, numbers_agree

# The accuracy that no whole number of right answers in five runs on 1,066 sentences gives (nearest: 78.18 and 78.20).
UNREACHABLE = ("Snowflake-Arctic-L", "rotten_tomatoes", 1.0, "ALLoRA-0")


def figure_cells(panels: tuple[Panel, ...], exchanged: bool) -> Callable[[], Finding]:
    """The check of a figure's cells against its table.

    Args:
        panels: of the figure.
        exchanged: try the table with LoRA's and ALLoRA's accuracies exchanged at one place.

    Returns:
        The check.
    """

    def check() -> Finding:
        printed = {panel.name: arithmetic.panel_cells(panel) for panel in panels}
        mended = {
            panel.name: arithmetic.panel_cells(panel, arithmetic.with_exchanged()) for panel in panels if exchanged
        }
        verdict = settle(
            {name: numbers_agree(items) for name, items in printed.items()},
            {name: numbers_agree(items) for name, items in mended.items()},
        )
        wrong = [item for items in printed.values() for item in items if not item.explained]
        model, dataset, eta = arithmetic.EXCHANGED
        words = (
            f"both panels follow once LoRA's and ALLoRA's accuracies at {model}, {dataset}, η² = {eta:g} are exchanged "
            "(64.76, 64.61): table or figure has them the wrong way round"
        )
        return Finding(
            verdict,
            evidence(
                [item for items in (mended if verdict == "holds_corrected" else printed).values() for item in items],
                more={"as_printed_disagreeing": {i.where: float(i.recomputed) for i in wrong}} if wrong else None,
            ),
            words if verdict in ("holds_corrected", "conditional") else None,
        )

    return check


def figure_averages(panels: tuple[Panel, ...]) -> Callable[[], Finding]:
    """The check of a figure's averages against its own cells.

    Args:
        panels: of the figure.

    Returns:
        The check.
    """

    def check() -> Finding:
        comparisons = [item for panel in panels for item in arithmetic.panel_averages(panel)]
        missing = [panel.name for panel in panels if panel.column_averages is None]
        verdict = settle({item.where: item.explained for item in comparisons})
        return Finding(verdict, evidence(comparisons, more={"without_average_row": missing}))

    return check


def named(key: arithmetic.Key) -> str:
    """A cell's name.

    Args:
        key: model, data set, η², arm.

    Returns:
        The name.
    """
    model, dataset, eta, arm = key
    return f"{model}, {dataset}, {arm}, η² = {eta:g}"


def five_runs() -> Finding:
    """Whether rotten_tomatoes accuracies are k/(5·1066): the only data set small enough for the digits to tell.

    Returns:
        The finding.
    """
    from scipy.special import bdtrc

    answers = {runs: runs * PERCEPTION_LABELS["rotten_tomatoes"].examples for runs in range(1, 7)}
    cells = {
        (c.model, c.dataset, c.eta_squared, c.arm): c.accuracy for c in granularity.distinct_cells("rotten_tomatoes")
    }
    reached = {key: granularity.reachable(value, 2, answers[5]) for key, value in cells.items()}
    hits = {runs: sum(granularity.reachable(v, 2, m) for v in cells.values()) for runs, m in answers.items()}
    chance = granularity.reachable_share(2, answers[5])
    gaps = granularity.restored_gaps("rotten_tomatoes", 5)
    verdict = settle(
        {named(key): value for key, value in reached.items()},
        {named(key): value == (key != UNREACHABLE) for key, value in reached.items()},
    )
    measured = {
        "reachable_by_runs": {str(runs): number for runs, number in hits.items()},
        "p_value_of_chance": float(bdtrc(sum(reached.values()) - 1, len(reached), chance)),
        "unreachable": {named(key): cells[key] for key, value in reached.items() if not value},
        "gaps_of_figures_restored": sum(item.agrees for item in gaps),
        "gaps_disagreeing": {item.where: float(item.recomputed) for item in gaps if not item.agrees},
    }
    source = "whole numbers of right answers on 1,066 test sentences; rounding to two decimals"
    predicted = {"cells": len(cells), "share_by_chance": chance, "gaps": len(gaps)}
    condition = f"all rotten_tomatoes cells but {named(UNREACHABLE)}; the other data sets are too large to tell"
    found = Evidence(predicted, measured, source, n=len(cells))
    return Finding(verdict, found, condition if verdict == "conditional" else None)


def claims() -> tuple[Claim, ...]:
    """The rows about the figures.

    Returns:
        The claims.
    """
    gap, average = "Accuracy gap: the differences of {}'s accuracies", "Average: by row, by column and over all"
    rows = (
        ("T3-five-runs", "Tables 3 and 4, captions", "Each cell is an average over 5 runs", five_runs),
        ("F3-cells", "Figure 3", gap.format("Table 3"), figure_cells(FIGURE_3, True)),
        ("F3-averages", "Figure 3", average, figure_averages(FIGURE_3)),
        ("F4-cells", "Figure 4", gap.format("Table 4"), figure_cells(FIGURE_4, False)),
        ("F4-averages", "Figure 4", average, figure_averages(FIGURE_4)),
    )
    return tuple(Claim(id, where, statement, check, COMMAND, TEST) for id, where, statement, check in rows)
