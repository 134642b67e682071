"""A small share of what `tests.hardening` tries at scale, and that its page says what was recorded."""

from __future__ import annotations

import pytest

from allora_analysis import adaptors
from tests.hardening import fuzz, numerics
from tests.hardening.__main__ import PAGE, page

# The largest that 5,000 points of each have shown is below a tenth of it.
TOLERANCE = 1e-11


@pytest.mark.parametrize("name", numerics.FORMS)
def test_closed_forms_against_fifty_digits(name):
    worst = numerics.sweep(name, 8, seed=1)
    assert worst.error < TOLERANCE, worst


def test_a_planted_slope_is_seen(monkeypatch):
    form = numerics.FORMS["adaptors.exponential"]
    wrong = form._replace(value=lambda x, eta: adaptors.exponential(x, eta) * (1 + 1e-9))
    monkeypatch.setitem(numerics.FORMS, "adaptors.exponential", wrong)
    assert numerics.sweep("adaptors.exponential", 4).error > TOLERANCE


def test_every_function_answers_or_refuses_in_one_line():
    ends = fuzz.calls(400, seed=2)
    assert set(ends) <= {"answered", "refused"}, ends


@pytest.mark.parametrize(
    ("function", "how"),
    [
        (lambda x: x[5], "IndexError"),
        (lambda x: float("nan"), "NaN in silence"),
        (lambda x: adaptors.inverse(x, -1.0), "refused"),
        (lambda x: 1.0, "answered"),
    ],
)
def test_what_the_fuzz_would_report(function, how):
    assert fuzz.outcome(function, {"x": [1.0]}, 0)[0] == how


def test_the_same_numbers_in_another_dress_are_compared():
    assert not fuzz.same([1.0, 2.0], [1.0, 2.1])
    assert fuzz.same({"a": 1.0}, {"a": 1.0 + 1e-12})


def test_the_page_is_what_was_recorded():
    assert PAGE.read_text(encoding="utf-8") == page(), "stale: python -m tests.hardening"
