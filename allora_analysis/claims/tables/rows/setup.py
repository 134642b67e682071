"""Sentences about what was run: which models on which data sets, and the best of how many settings is reported."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

from allora_analysis.claims.ledger import Claim, Evidence, Finding, relative_error, settle
from allora_analysis.claims.reported import COLUMNS_3, COLUMNS_4, ETA_SQUARED
from allora_analysis.claims.tables import contrasts, selection
from allora_analysis.claims.tables.rows.everywhere import everywhere
from allora_analysis.claims.tables.rows.numbers import COMMAND

TEST = "tests/test_claims_tables_setup.py"
# §4.4: "we pick three midsized LLMs … and four NLU and SA datasets".
MODELS = ("Qwen2-0.5B", "Snowflake-Arctic-L", "OpenELM-450M")
DATASETS = ("bias_in_bios", "emotion", "rotten_tomatoes", "yelp")
# §4.5: DoRA's learning rates, of which its authors report the best.
DORA_RATES = (1e-4, 2e-4)
CLOSED_FORM = {1: 0.0, 2: 1 / math.sqrt(math.pi), 3: 1.5 / math.sqrt(math.pi)}
"""The expected largest of so many standard normals."""


def all_of(columns: tuple[tuple[str, str], ...]) -> Callable[[], Finding]:
    """The check that a table has each of §4.4's models on each of its data sets.

    Args:
        columns: the table's (model, data set).

    Returns:
        The check.
    """

    def check() -> Finding:
        cases = {", ".join(pair): pair in columns for pair in product(MODELS, DATASETS)}
        verdict, instead = everywhere(cases, "(model, data set)")
        absent = [pair for pair, there in cases.items() if not there]
        found = Evidence({"pairs": len(cases)}, {"absent": absent}, "counting", n=len(cases))
        return Finding(verdict, found, instead and f"{instead}; absent: {'; '.join(absent)}")

    return check


def best_of_three() -> Finding:
    """Whether the best of three η² is as favoured by chance as DoRA's best of two learning rates.

    Settings of equal accuracy, independent normal noise of one deviation σ in each: the closed form of the expected
    largest against its integral.

    Returns:
        The finding.
    """
    tries = {"ALLoRA": len(ETA_SQUARED), "DoRA": len(DORA_RATES)}
    closed = {arm: CLOSED_FORM[n] for arm, n in tries.items()}
    integral = {arm: selection.expected_maximum(n) for arm, n in tries.items()}
    error = relative_error([*integral.values()], [*closed.values()])
    tolerance = 1e-10
    lead = integral["ALLoRA"] - integral["DoRA"]
    alike = {"as many tries": tries["ALLoRA"] == tries["DoRA"]}
    verdict = settle(alike, {"closed form": error <= tolerance}, contrary=True)
    reported = float(contrasts.gaps("Table 1", "ALLoRA", "DoRA").values.mean())
    words = (
        f"the best of {tries['ALLoRA']} settings against the best of {tries['DoRA']}: of equally good settings "
        f"measured with noise of deviation σ the best is reported {integral['ALLoRA']:.2f}σ too high against "
        f"{integral['DoRA']:.2f}σ, {lead:.2f}σ in favour of ALLoRA"
    )
    if lead > 0:
        words += f" (its reported {reported:.2f} points over DoRA if σ = {reported / lead:.2f} points)"
    source = "quadrature; independent normal noise of one deviation in each setting, none of them better, assumed"
    found = Evidence(closed, integral, source, error, tolerance)
    return Finding(verdict, found, None if verdict == "holds" else words)


def claims() -> tuple[Claim, ...]:
    """The rows about what was run.

    Returns:
        The claims.
    """
    grid = "(read: each of §4.4's three models on each of its four data sets)"
    everything = f"Table 3 shows the accuracy data of all of our experiments on perception tasks {grid}"
    same = f"Using the same setup in 4.4, we run experiments with ALLoRA-OD […] and ASF-LoRA {grid}"
    best = (
        "we run experiments with various η² ∈ {1, 2, 4} and report the best accuracy, this follows DoRA's practices to "
        "run with various learning rate l ∈ {1e-4, 2e-4} and report the best (read: chance favours both alike)"
    )
    rows = (
        ("D-all-experiments", "Appendix D; §4.4", everything, all_of(COLUMNS_3)),
        ("5-same-setup", "§5, Table 4; §4.4", same, all_of(COLUMNS_4)),
        ("4.5-best-of-three", "§4.5", best, best_of_three),
    )
    return tuple(Claim(id, where, statement, check, COMMAND, TEST) for id, where, statement, check in rows)
