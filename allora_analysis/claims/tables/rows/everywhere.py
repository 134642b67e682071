"""One rule for a sentence that claims every case: "universally", "consistently", "for all cases".

One exception refutes it, and the row says in how many cases it is true. `conditional` is for a sentence that does not
say "every" and is true of some cases and not of others, or that is true of all of them on one reading of a word.
"""

from __future__ import annotations

from collections.abc import Mapping

from allora_analysis.claims.ledger import settle


def everywhere(cases: Mapping[str, bool], things: str) -> tuple[str, str | None]:
    """The verdict on a sentence that claims every case.

    Args:
        cases: outcome by case.
        things: what a case is, in the plural.

    Returns:
        "holds" and nothing if all cases pass; otherwise "refuted" and what is true instead: "in k of n …".
    """
    passed = sum(cases.values())
    return settle(cases), None if passed == len(cases) else f"in {passed} of {len(cases)} {things}"
