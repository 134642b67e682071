"""What was run, and what the best of several settings gains by chance: closed forms, simulation, planted errors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from allora_analysis.claims import section_4_tables
from allora_analysis.claims.ledger import examine
from allora_analysis.claims.tables import selection
from allora_analysis.claims.tables.rows import setup
from allora_analysis.validation import ArgumentError


def finding(id):
    claim = next(claim for claim in section_4_tables.claims() if claim.id == id)
    row = examine(claim)
    assert row.error is None
    return row.finding


@pytest.mark.parametrize(("tries", "expected"), [*setup.CLOSED_FORM.items(), (4, 1.0293753730), (10, 1.5387527308)])
def test_expected_maximum_against_known_values(tries, expected):
    """Up to 3 closed forms; 4 and 10 from Harter's table of normal order statistics (1961)."""
    assert selection.expected_maximum(tries) == pytest.approx(expected, abs=1e-9)


@pytest.mark.statistical
@pytest.mark.parametrize("tries", [2, 3, 7])
def test_expected_maximum_against_draws(rng, tries):
    largest = rng.standard_normal((200_000, tries)).max(axis=1)
    assert selection.expected_maximum(tries) == pytest.approx(largest.mean(), abs=5 * largest.std() / np.sqrt(200_000))


@pytest.mark.bad_input
@pytest.mark.parametrize("tries", [0, 1001])
def test_bad_tries(tries):
    with pytest.raises(ArgumentError, match="tries must be"):
        selection.expected_maximum(tries)


def test_which_pairs_are_absent():
    found = finding("D-all-experiments")
    assert found.verdict == "refuted"
    assert found.corrected == (
        "in 9 of 12 (model, data set); absent: Qwen2-0.5B, yelp; Snowflake-Arctic-L, bias_in_bios; "
        "OpenELM-450M, bias_in_bios"
    )
    assert (finding("5-same-setup").verdict, finding("5-same-setup").corrected[:10]) == ("refuted", "in 6 of 12")


@pytest.mark.parametrize("id", ["D-all-experiments", "5-same-setup"])
def test_a_table_with_every_pair_would_hold(monkeypatch, id):
    whole = tuple(itertools.product(setup.MODELS, setup.DATASETS))
    monkeypatch.setattr(setup, "COLUMNS_3" if id.startswith("D") else "COLUMNS_4", whole)
    assert finding(id).verdict == "holds"


def test_best_of_three(monkeypatch):
    found = finding("4.5-best-of-three")
    assert found.verdict == "refuted"
    assert "0.85σ too high against 0.56σ, 0.28σ in favour of ALLoRA" in found.corrected
    monkeypatch.setattr(setup, "DORA_RATES", (1e-4, 2e-4, 3e-4))
    assert finding("4.5-best-of-three").verdict == "holds"


def test_a_wrong_expectation_of_the_largest_is_found_out(monkeypatch):
    right = selection.expected_maximum
    monkeypatch.setattr(selection, "expected_maximum", lambda n: right(n) * (1 + 1e-6))
    assert finding("4.5-best-of-three").verdict == "undecided"
