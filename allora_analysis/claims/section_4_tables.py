"""Claim 23: Tables 1–4 and Figures 3 and 4 as reported, and the sentences that rest on them.

The numbers stand in `reported`, the arithmetic and the tests in `tables`, the checks by kind in `tables.rows`.
"""

from __future__ import annotations

from allora_analysis.claims.ledger import Claim
from allora_analysis.claims.tables.rows import averages, dropout, figures, gaps, numbers, orders, setup


def claims() -> tuple[Claim, ...]:
    """Every row about the reported numbers.

    Returns:
        The claims.
    """
    return tuple(
        claim for kind in (numbers, figures, dropout, averages, setup, orders, gaps) for claim in kind.claims()
    )
