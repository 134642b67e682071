"""The ledger's rows around Definition 2: verdicts, and what a wrong formula or another loss does to them."""

from __future__ import annotations

import numpy as np
import pytest

from allora_analysis.claims import layer_runs
from allora_analysis.claims import section_4_framework as section
from allora_analysis.lora import functional
from tests.ledger_rows import Rows

VERDICTS = {
    "4-without-loss-of-generality": "conditional",
    "4-dropout-other-rows": "conditional",
    "4-subsumes": "conditional",
}
ROWS = Rows(VERDICTS, section)
ALLORA, LORA = functional.allora, layer_runs.lora
LOSSES, GRADIENTS = section.losses(), section._gradients


def test_every_row_has_a_verdict_here():
    ROWS.check_all_are_here()


@pytest.mark.parametrize("identifier", VERDICTS)
def test_verdict(identifier):
    ROWS.check(identifier)


def of_f_alone(y, f):
    """Its gradients know neither y nor W*."""
    return f.sum() + (y**2).sum()


def without_the_frozen_weight(loss, y, frozen, parts):
    return GRADIENTS(loss, y, 0 * frozen, parts)


def frozen_factor(x, a, b, eta, adaptor="inverse_sqrt"):
    return ALLORA(x, a, b, eta, "constant")


def by_row(x, a, b, eta, adaptor="inverse_sqrt"):
    return ALLORA(x, a, b, eta)


def cut_off_from_a(x, a, b):
    """No gradient reaches A: rows of BA share nothing."""
    return LORA(x, a.detach() + 0 * a, b)


PLANTED = [  # row, module, function, wrong formula, the verdict that it must lead to
    (
        "4-without-loss-of-generality",
        section,
        "losses",
        lambda: {**LOSSES, "cross-entropy": of_f_alone},
        "holds",
    ),
    ("4-without-loss-of-generality", section, "_gradients", without_the_frozen_weight, "refuted"),
    ("4-dropout-other-rows", layer_runs, "lora", cut_off_from_a, "refuted"),
    ("4-subsumes", functional, "allora", frozen_factor, "refuted"),
    ("4-subsumes", functional, "allora_od", by_row, "refuted"),
    ("4-subsumes", functional, "asf_lora", lambda x, a, b, eta: LORA(x, a, b) * a.norm(), "refuted"),
    ("4-subsumes", section, "NEEDS_MORE", {}, "refuted"),
]


@pytest.mark.parametrize(("identifier", "module", "name", "wrong", "expected"), PLANTED)
def test_a_planted_wrong_formula_changes_the_verdict(monkeypatch, identifier, module, name, wrong, expected):
    monkeypatch.setattr(module, name, wrong)
    assert expected != VERDICTS[identifier]
    assert ROWS.verdict(identifier) == expected


def test_without_cross_entropy_the_frozen_weight_drops_out(monkeypatch):
    monkeypatch.setattr(section, "losses", lambda: {name: LOSSES[name] for name in ("squared", "Huber")})
    assert ROWS.verdict("4-without-loss-of-generality") == "holds"


def test_the_condition_is_the_shift_of_both_not_the_losss_name(monkeypatch):
    monkeypatch.setattr(section, "losses", lambda: {**LOSSES, "sum": lambda y, f: ((y + f) ** 2).sum()})
    assert ROWS.verdict("4-without-loss-of-generality") == "conditional"


def test_the_changed_step_by_brute_force():
    """l(B_j·B_i)g_i against two finite SGD steps with output i kept and dropped."""
    x, upstream, a, b = layer_runs.draws()
    rate, mask = 1e-6, np.array([1.0, 0.0, 1.0, 1.0])
    ends = []
    for keep in (np.ones(4), mask):
        g = (upstream * keep).T @ x
        ends.append((b - rate * g @ a.T) @ (a - rate * b.T @ g))
    change = (ends[1] - ends[0])[[0, 2, 3]] / rate
    np.testing.assert_allclose(change, np.outer(b[[0, 2, 3]] @ b[1], (upstream.T @ x)[1]), rtol=1e-4)
