"""Rows about Figures 3 and 4 against Tables 3 and 4, and about the runs that a cell is the mean of."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from allora_analysis.claims.ledger import Claim, Evidence, Finding, settle
from allora_analysis.claims.reported import FIGURE_3, FIGURE_4, PERCEPTION_LABELS, Panel
from allora_analysis.claims.tables import arithmetic, granularity
from allora_analysis.claims.tables.rows.numbers import COMMAND, TEST, evidence, numbers_agree

CHANCE = 1e-6  # the rate at which made-up numbers may pass for means of five runs


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

    The condition under which a cell that is not can be a mean of five runs: each is noted to two decimals first.
    Either way more cells than of made-up numbers must be.

    Returns:
        The finding.
    """
    from scipy.special import bdtrc

    examples = PERCEPTION_LABELS["rotten_tomatoes"].examples
    cells = {
        (c.model, c.dataset, c.eta_squared, c.arm): c.accuracy for c in granularity.distinct_cells("rotten_tomatoes")
    }
    hits = {runs: [granularity.reachable(v, 2, runs * examples) for v in cells.values()] for runs in range(1, 7)}
    chance = granularity.reachable_share(2, 5 * examples)
    p_value = float(bdtrc(sum(hits[5]) - 1, len(cells), chance))
    printed = dict(zip(map(named, cells), hits[5], strict=True))
    noted_first = {named(key): granularity.ways(value, 2, examples, 5) > 0 for key, value in cells.items()}
    beyond = {"more cells than by chance": p_value <= CHANCE}
    verdict = settle(printed | beyond, noted_first | beyond)
    left = {key: value for key, value in cells.items() if not printed[named(key)]}
    gaps = granularity.restored_gaps("rotten_tomatoes", 5)
    measured = {
        "reachable_by_runs": {str(runs): sum(of) for runs, of in hits.items()},
        "p_value_of_chance": p_value,
        "unreachable_unless_noted_first": {named(key): value for key, value in left.items()},
        "gaps_of_figures_restored": sum(item.agrees for item in gaps),
        "gaps_disagreeing": {item.where: float(item.recomputed) for item in gaps if not item.agrees},
    }
    source = f"whole numbers of right answers on {examples} test sentences; rounding to two decimals"
    predicted = {"cells": len(cells), "share_by_chance": chance, "gaps": len(gaps)}
    found = Evidence(predicted, measured, source, n=len(cells))
    return Finding(verdict, found, _only_if_noted_first(left, examples) if verdict == "conditional" else None)


def _only_if_noted_first(left: Mapping[arithmetic.Key, float], examples: int) -> str:
    def told(key: arithmetic.Key, value: float) -> str:
        others = [str(n) for n in range(1, 7) if granularity.reachable(value, 2, n * examples)]
        often = granularity.frequency(value, 2, examples, 5)
        return (
            f"{named(key)} ({value:.2f}) only if each run is rounded to two decimals before they are averaged, which "
            f"gives it {often:.1g} times as often as the average number near it; unrounded, of 1 to 6 runs "
            f"{', '.join(others) or 'no number'} would give it"
        )

    return f"all cells but {len(left)} by averaging unrounded; " + "; ".join(told(*item) for item in left.items())


def claims() -> tuple[Claim, ...]:
    """The rows about the figures.

    Returns:
        The claims.
    """
    gap, average = (
        "Accuracy gap: the differences of {}'s accuracies",
        "Average (read: by row, by column and over all{})",
    )
    whole = sum(panel.column_averages is not None for panel in FIGURE_4)
    upper = f"; by row alone in {len(FIGURE_4) - whole} of {len(FIGURE_4)} panels, whose last row is not at hand"
    cell = (
        "Each cell is an average over 5 runs (read: on rotten_tomatoes, whose test set alone is small enough to tell)"
    )
    rows = (
        ("T3-five-runs", "Tables 3 and 4, captions", cell, five_runs),
        ("F3-cells", "Figure 3", gap.format("Table 3"), figure_cells(FIGURE_3, True)),
        ("F3-averages", "Figure 3", average.format(""), figure_averages(FIGURE_3)),
        ("F4-cells", "Figure 4", gap.format("Table 4"), figure_cells(FIGURE_4, False)),
        ("F4-averages", "Figure 4", average.format(upper), figure_averages(FIGURE_4)),
    )
    return tuple(Claim(id, where, statement, check, COMMAND, TEST) for id, where, statement, check in rows)
