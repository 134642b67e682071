"""The ledger's rows on the Monte Carlo bound: their verdicts, and that planted wrong formulas change them."""

import dataclasses

import numpy as np
import pytest

from allora_analysis import deviation
from allora_analysis.claims import section_3_1_deviation as section
from allora_analysis.claims import section_3_1_from_start as from_start
from tests.ledger_rows import Rows

VERDICTS = {
    "3.1-bound": "holds",
    "3.1-bound-proof": "holds_corrected",
    "3.1-bound-order": "holds",
    "3.1-benefit-large-n": "conditional",
    "3.1-loss-std-from-zero": "refuted",
    "3.1-loss-std-from-random": "conditional",
    "3.1-gradient-std-from-zero": "conditional",
}
ROWS = Rows(VERDICTS, section)


def test_every_row_is_here():
    ROWS.check_all_are_here()


@pytest.mark.parametrize("claim_id", VERDICTS)
def test_verdict_and_evidence(claim_id):
    ROWS.check(claim_id)


@pytest.mark.parametrize("field", ["bound", "value"])
def test_bound_notices_a_wrong_law(monkeypatch, field):
    right = deviation.exact_deviation

    def wrong(*arguments):
        found = right(*arguments)
        return dataclasses.replace(found, **{field: 0.99 * getattr(found, field)})

    monkeypatch.setattr(deviation, "exact_deviation", wrong)
    assert ROWS.verdict("3.1-bound") == "refuted"


@pytest.mark.parametrize("factors", [(1.0, 1.01), (1.01, 1.0)])
def test_proof_notices_wrong_moments(monkeypatch, factors):
    right = deviation.loss_moments
    monkeypatch.setattr(deviation, "loss_moments", lambda *a: tuple(np.multiply(right(*a), factors).tolist()))
    assert ROWS.verdict("3.1-bound-proof") == "refuted"


def test_proof_holds_where_it_does(monkeypatch):
    # Of a loss that is 0 or 1, E[L²] = E[L]; at N = 1 there are no cross terms: the printed line is then right.
    x, y, w = np.ones((1, 1)), np.ones((1, 1)), np.full((1, 1), 0.5)
    assert deviation.loss_moments(x, y, w, 0.5) == pytest.approx((0.5, 0.5))
    monkeypatch.setattr(section, "problem", lambda *shape: (x, y, w))
    monkeypatch.setattr(section, "KEEP_PROBS", (0.5,))
    assert ROWS.verdict("3.1-bound-proof") == "conditional"


def test_order_notices_another_limit(monkeypatch):
    right = deviation.ratio
    monkeypatch.setattr(deviation, "ratio", lambda *arguments: 0.9 * right(*arguments))
    assert ROWS.verdict("3.1-bound-order") == "refuted"


@pytest.mark.parametrize(("power", "expected"), [(0.0, "holds"), (0.21, "refuted"), (0.5, "refuted")])
def test_large_n_notices_another_rate(monkeypatch, power, expected):
    monkeypatch.setattr(deviation, "mean_absolute_deviation", lambda x, y, w, p, n: n**-power)
    assert ROWS.verdict("3.1-benefit-large-n") == expected


@pytest.mark.parametrize("start", [1.0, 1e9])
def test_loss_from_zero_notices_a_start_above_zero(monkeypatch, start):
    right = deviation.loss_moments

    def wrong(x, y, w, keep_prob):
        mean, std = right(x, y, w, keep_prob)
        return mean, std if np.any(w) else start

    monkeypatch.setattr(deviation, "loss_moments", wrong)
    assert ROWS.verdict("3.1-loss-std-from-zero") == ("holds" if start > 1e6 else "undecided")


def test_gradient_from_zero_notices_a_wrong_formula(monkeypatch):
    right = deviation.gradient_std
    monkeypatch.setattr(deviation, "gradient_std", lambda *arguments: 1.01 * right(*arguments))
    assert ROWS.verdict("3.1-gradient-std-from-zero") == "refuted"


def test_gradient_from_zero_is_reversed_where_the_signal_is_clear(monkeypatch):
    monkeypatch.setattr(from_start, "NOISES", (0.5,))
    assert ROWS.verdict("3.1-gradient-std-from-zero") == "refuted"


def test_gradient_from_zero_holds_on_data_that_show_it(monkeypatch):
    monkeypatch.setattr(from_start, "_shares", lambda x, y, p: (0.9, 1.1, 0.0, 0.1))
    assert ROWS.verdict("3.1-gradient-std-from-zero") == "holds"


def test_gradient_from_zero_notices_a_well_explained_case_that_rises(monkeypatch):
    right = from_start._shares
    monkeypatch.setattr(from_start, "_shares", lambda x, y, p: (*right(x, y, p)[:3], 0.9))
    assert ROWS.verdict("3.1-gradient-std-from-zero") == "refuted"


@pytest.mark.parametrize(("name", "factor"), [("_threshold", 5.0), ("_threshold", 0.1), ("_random_start", 1.5)])
def test_loss_from_random_notices_a_wrong_closed_form(monkeypatch, name, factor):
    right = getattr(from_start, name)
    monkeypatch.setattr(from_start, name, lambda *arguments: factor * right(*arguments))
    assert ROWS.verdict("3.1-loss-std-from-random") == "refuted"


@pytest.mark.parametrize(("scales", "expected"), [((1.0, 3.0), "holds"), ((0.01, 1.0), "conditional")])
def test_loss_from_random_depends_on_the_scales(monkeypatch, scales, expected):
    monkeypatch.setattr(from_start, "SCALES", scales)
    assert ROWS.verdict("3.1-loss-std-from-random") == expected


def test_the_threshold_is_where_the_two_closed_forms_meet():
    """The random start's Std[L] at `_threshold` times p is that at Z = pXX⁺Y, for every p."""
    x, y = from_start._trained(1)
    best = np.linalg.lstsq(x, y, rcond=None)[0]
    for p in (0.2, 0.7):
        start = from_start._random_start(x, y, p, p * from_start._threshold(x, y))
        assert start == pytest.approx(deviation.loss_moments(x, y, p * best, p)[1])
