"""The ledger's rows on hyper-parameters: verdicts, and what a wrong exponent does to them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from allora_analysis import adaptive
from allora_analysis.claims import section_4_knobs as section
from tests.ledger_rows import Rows

VERDICTS = {
    "4-alpha": "conditional",
    "4-no-new-hyper-parameter": "refuted",
    "4-two-hyper-parameters": "holds_corrected",
}
ROWS = Rows(VERDICTS, section)
RIGHT = {name: getattr(adaptive, name) for name in adaptive.__all__}


def test_every_row_has_a_verdict_here():
    ROWS.check_all_are_here()


@pytest.mark.parametrize("identifier", VERDICTS)
def test_verdict(identifier):
    ROWS.check(identifier)


def off_by_one(name):
    def wrong(setting, a, b, optimiser):
        other = RIGHT["rescaled"](setting, a, b, optimiser)
        return replace(other, **{name: a * getattr(other, name)})

    return wrong


def cubed_always(setting, optimiser):
    return RIGHT["eta_as_scaling"](setting, "sgd")


def frozen_factor(x, y, a_draw, setting, steps, **options):
    """ALLoRA's factor at its first value: training at rate η·l."""
    if setting.eta is None:
        return RIGHT["train"](x, y, a_draw, setting, steps, **options)
    rates = {name: setting.eta * getattr(setting, name) for name in ("rate_a", "rate_b")}
    return RIGHT["train"](x, y, a_draw, replace(setting, eta=None, **rates), steps, **options)


def one_knob(*args, **options):
    return 1


PLANTED = [  # row, function, wrong formula, the verdict that it must lead to
    *(("4-alpha", "rescaled", off_by_one(name), "refuted") for name in ("scaling", "init_a", "rate_a", "decay_b")),
    ("4-alpha", "degrees_of_freedom", one_knob, "refuted"),
    ("4-no-new-hyper-parameter", "train", frozen_factor, "holds"),
    ("4-no-new-hyper-parameter", "degrees_of_freedom", one_knob, "holds"),
    ("4-two-hyper-parameters", "eta_as_scaling", cubed_always, "refuted"),
    (
        "4-two-hyper-parameters",
        "degrees_of_freedom",
        lambda x, y, a, setting, knobs, *args, **options: 2 if "scaling" in knobs else 1,
        "holds",
    ),
]


@pytest.mark.parametrize(("identifier", "name", "wrong", "expected"), PLANTED)
def test_a_planted_wrong_formula_changes_the_verdict(monkeypatch, identifier, name, wrong, expected):
    monkeypatch.setattr(adaptive, name, wrong)
    assert expected != VERDICTS[identifier]
    assert ROWS.verdict(identifier) == expected


def test_adam_at_zero_epsilon():
    assert section._first_adam_step(1e-8)
    assert not section._first_adam_step(0.0)


def test_the_two_rows_on_the_count_agree(monkeypatch):
    """η stands where LoRA's scaling factor stood: if LoRA had one knob less, the first text would be wrong."""
    new, removed = (ROWS.finding(name).evidence.measured for name in list(VERDICTS)[1:])
    for optimiser in section.OPTIMISERS:
        assert new[optimiser]["independent of (η, l_b)"] == removed[optimiser]["ALLoRA-0"]
        assert new[optimiser]["of LoRA's (s, l)"] == removed[optimiser]["LoRA"] - 1
    fewer = lambda x, y, a, setting, knobs, *args, **options: 1 if "scaling" in knobs else 2  # noqa: E731
    monkeypatch.setattr(adaptive, "degrees_of_freedom", fewer)
    assert ROWS.verdict("4-no-new-hyper-parameter") == "undecided"
