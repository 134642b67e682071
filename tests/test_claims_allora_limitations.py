"""The ledger's row on the three limitations: verdict, and what a wrong formula does to it."""

from __future__ import annotations

import numpy as np
import pytest

from allora_analysis import ripple
from allora_analysis.claims import layer_runs
from allora_analysis.claims import section_4_limitations as section
from allora_analysis.lora import functional
from tests.ledger_rows import Rows, lora_instead

VERDICTS = {"4-three-limitations": "conditional"}
ROWS = Rows(VERDICTS, section)
ALLORA, PRODUCTS = functional.allora, layer_runs.products


def test_every_row_has_a_verdict_here():
    ROWS.check_all_are_here()


@pytest.mark.parametrize("identifier", VERDICTS)
def test_verdict(identifier):
    ROWS.check(identifier)


def by_token(x, a, b, eta, adaptor="inverse_sqrt"):
    return functional.allora_od(x, a, b, eta)


def scaled_output(x, a, b, eta, adaptor="inverse_sqrt"):
    return eta * ALLORA(x, a, b, eta, adaptor)


def sgd_always(task, optimiser, *args):
    return PRODUCTS(task, "sgd", *args)


def never_clipped(task, optimiser, arm, eta, rate, steps, clip=None):
    return PRODUCTS(task, optimiser, arm, eta, rate, steps)


PLANTED = [  # module, function, wrong formula, the verdict that it must lead to
    (functional, "allora", lora_instead, "refuted"),
    (functional, "allora", by_token, "refuted"),
    (functional, "allora", scaled_output, "refuted"),
    (layer_runs, "products", sgd_always, "refuted"),
    (layer_runs, "products", never_clipped, "refuted"),
    (ripple, "log_output_growth", lambda stack, x, eta: np.zeros(1), "refuted"),
    (section, "_mask_spread", lambda arm, drop_rate: np.ones(3), "refuted"),
    (section, "SMALLER", 1.01, "holds"),
]


@pytest.mark.parametrize(("module", "name", "wrong", "expected"), PLANTED)
def test_a_planted_wrong_formula_changes_the_verdict(monkeypatch, module, name, wrong, expected):
    monkeypatch.setattr(module, name, wrong)
    assert ROWS.verdict("4-three-limitations") == expected


def test_dropout_is_gone_where_it_is_switched_off_and_there_alone():
    cases, error = section.dropout()
    assert [alleviated for _, alleviated in cases.values()] == [False, True]
    np.testing.assert_allclose([ratio for ratio, _ in cases.values()], [1.0, 0.0], atol=1e-12)
    assert error < 1e-12


def test_the_first_step_is_eta_times_loras_under_sgd_alone():
    cases, _ = section.leaving_zero()
    np.testing.assert_allclose([ratio for ratio, _ in cases.values()], [1 / section.ETA, 1.0, 1.0, 1.0], rtol=1e-6)
