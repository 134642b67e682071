"""The ledger's rows on §3.2: each verdict as computed, and another one as soon as a formula behind it is wrong."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from allora_analysis import hessian
from allora_analysis.claims import section_3_2_zero_initialisation as section
from tests.ledger_rows import Rows

VERDICTS = {
    "3.2-gradient": "holds_corrected",
    "3.2-hessian": "holds_corrected",
    "3.2-vectorisation": "conditional",
    "3.2-semidefinite": "holds",
    "3.2-start-conditioning": "refuted",
    "3.2-degenerate-rank": "conditional",
    "3.2-degenerate-condition": "conditional",
    "3.2-b-conditioning": "conditional",
    "3.2-b-degenerate": "conditional",
    "3.2-saddle-lora": "holds_corrected",
    "3.2-saddle-starts": "conditional",
    "3.2-escape": "conditional",
    "3.2-slow-start": "conditional",
}
ROWS = Rows(VERDICTS, section)


def test_every_row_has_a_verdict_here():
    ROWS.check_all_are_here()


@pytest.mark.parametrize("identifier", VERDICTS)
def test_verdict(identifier):
    ROWS.check(identifier)


def off_by_one(x, g, a):
    counts = RIGHT["inertia"](x, g, a)
    return dataclasses.replace(counts, negative=counts.negative - 1, zero=counts.zero + 1)


def block_without_s(x, a):
    found = RIGHT["block_conditioning"](x, a)
    return dataclasses.replace(found, block=found.adapter)


def halved(name):
    return lambda *args: RIGHT[name](*args) / 2


RIGHT = {name: getattr(hessian, name) for name in hessian.__all__ if name not in hessian._LAZY}
PLANTED = [  # row, function, wrong formula, the verdict that it must lead to
    ("3.2-gradient", "product_gradient", halved("product_gradient"), "refuted"),
    ("3.2-hessian", "product_hessian", halved("product_hessian"), "refuted"),
    ("3.2-hessian", "product_hessian", lambda x, c: 2 * np.kron(np.eye(len(x)), x.T @ x), "refuted"),
    ("3.2-semidefinite", "product_spectrum", lambda x, c: RIGHT["product_spectrum"](x, c) - 1, "refuted"),
    # A gradient whose derivative does depend on Δ, and is worst conditioned at 0: the printed statement would hold.
    (
        "3.2-start-conditioning",
        "product_gradient",
        lambda *args: RIGHT["product_gradient"](*args) + 1e3 * max(np.linalg.norm(args[3]) - 1, 0) * args[3],
        "holds",
    ),
    ("3.2-degenerate-rank", "product_spectrum", lambda x, c: RIGHT["product_spectrum"](x, c) + 1, "refuted"),
    ("3.2-degenerate-condition", "marchenko_pastur_condition", lambda gamma: (1 + gamma) ** 2, "refuted"),
    ("3.2-degenerate-condition", "fixed_gram_design", lambda x, n, generator: x[: n // 2], "refuted"),
    ("3.2-b-conditioning", "block_conditioning", block_without_s, "refuted"),
    ("3.2-b-degenerate", "block_conditioning", block_without_s, "refuted"),
    ("3.2-saddle-lora", "inertia", off_by_one, "refuted"),
    ("3.2-saddle-lora", "factor_spectrum", halved("factor_spectrum"), "refuted"),
    ("3.2-saddle-lora", "is_stationary", lambda *args: True, "refuted"),
    ("3.2-saddle-starts", "is_stationary", lambda *args: True, "refuted"),
    ("3.2-saddle-starts", "is_stationary", lambda *args: False, "refuted"),
    ("3.2-escape", "escape_time", halved("escape_time"), "refuted"),
    ("3.2-slow-start", "initial_speed_ratio", lambda n2, rank, s: s**2 * (rank * n2) ** 0.5, "refuted"),
]


@pytest.mark.parametrize(("identifier", "name", "wrong", "expected"), PLANTED)
def test_a_planted_wrong_formula_changes_the_verdict(monkeypatch, identifier, name, wrong, expected):
    monkeypatch.setattr(hessian, name, wrong)
    assert expected != VERDICTS[identifier]
    assert ROWS.verdict(identifier) == expected


def test_another_loss_changes_the_vectorisation(monkeypatch):
    right = section._loss
    monkeypatch.setattr(section, "_loss", lambda *args: lambda columns: 2 * right(*args)(columns))
    assert ROWS.verdict("3.2-vectorisation") == "refuted"
    assert ROWS.verdict("3.2-gradient") == "refuted"
