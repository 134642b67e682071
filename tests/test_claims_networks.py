"""The ledger's rows on networks: each verdict as computed, and another one as soon as a formula behind it is wrong."""

from __future__ import annotations

import dataclasses
import functools

import pytest

from allora_analysis.claims import section_3_2_networks as section
from allora_analysis.hessian import digits_mlp, network, network_inertia
from tests.ledger_rows import Rows

VERDICTS = {"3.2-network-saddle": "refuted", "3.2-network-escape": "conditional"}
ROWS = Rows(VERDICTS, section)
RIGHT = {
    "negative_directions": network_inertia.negative_directions,
    "gradient_norms": digits_mlp.gradient_norms,
    "network_spectrum": network.network_spectrum,
}


@functools.cache
def unpatched(identifier):
    return ROWS.finding(identifier)


def test_every_row_has_a_verdict_here():
    ROWS.check_all_are_here()


@pytest.mark.parametrize("identifier", VERDICTS)
def test_verdict(identifier):
    ROWS.check(identifier)


def test_the_counts_are_exact_where_the_bound_is_not():
    evidence = unpatched("3.2-network-saddle").evidence
    case = "MLP 64-32-10, r = 2, 8 digits"
    assert evidence.measured[case]["negative"] == evidence.predicted[case]["negative"]
    assert evidence.measured[case]["negative"] > evidence.predicted[case]["Σ r·rank G"]


def bound_alone(model, loss, data):
    counts = RIGHT["negative_directions"](model, loss, data)
    return dataclasses.replace(counts, negative=counts.bound)


def one_too_many(model, loss, data):
    counts = RIGHT["negative_directions"](model, loss, data)
    return dataclasses.replace(counts, positive=counts.positive + 1, zero=counts.zero - 1)


@pytest.mark.parametrize("wrong", [bound_alone, one_too_many])
def test_a_wrong_count_leaves_it_undecided(wrong, monkeypatch):
    monkeypatch.setattr(network_inertia, "negative_directions", wrong)
    assert ROWS.verdict("3.2-network-saddle") == "undecided"


def test_a_wrong_end_of_the_spectrum_leaves_it_undecided(monkeypatch):
    def shifted(model, loss, data, k):
        found = RIGHT["network_spectrum"](model, loss, data, k)
        return dataclasses.replace(found, smallest=found.smallest * 1.001) if k == 2 else found

    monkeypatch.setattr(network, "network_spectrum", shifted)
    assert ROWS.verdict("3.2-network-saddle") == "undecided"


def test_a_stationary_start_would_be_a_saddle_as_printed(monkeypatch):
    monkeypatch.setattr(digits_mlp, "gradient_norms", lambda model, loss, data: (0.0, 0.0))
    assert ROWS.verdict("3.2-network-saddle") == "holds"
    assert ROWS.verdict("3.2-network-escape") == "refuted"


def test_a_descent_that_stands_still_holds_as_printed(monkeypatch):
    monkeypatch.setattr(digits_mlp, "descend", lambda *args: None)
    assert ROWS.verdict("3.2-network-escape") == "holds"
