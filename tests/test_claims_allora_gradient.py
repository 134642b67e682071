"""The ledger's rows on the adapted gradient and on ALLoRAAdamW: verdicts, and what a wrong formula does to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from allora_analysis import adaptive
from allora_analysis.claims import layer_derivatives
from allora_analysis.claims import section_4_gradient as section
from allora_analysis.lora import functional, optim
from tests.ledger_rows import Rows, lora_instead

VERDICTS = {"4-adapted-gradient": "conditional", "4-allora-adamw": "holds"}
ROWS = Rows(VERDICTS, section)
RIGHT = {name: getattr(adaptive, name) for name in adaptive.__all__}


def test_every_row_has_a_verdict_here():
    ROWS.check_all_are_here()


@pytest.mark.parametrize("identifier", VERDICTS)
def test_verdict(identifier):
    ROWS.check(identifier)


def without_the_factors_slope(a, b, g, s, eta):
    return RIGHT["update_jacobian"](a, b, g, s, eta) - RIGHT["update_jacobian"](a, b, g, 0 * s, eta)


class AscendingAdamW(optim.ALLoRAAdamW):
    """Turns A's update round."""

    def step(self, closure=None):
        before = [p.detach().clone() for p in self.param_groups[0]["params"]]
        super().step(closure)
        a = self.param_groups[0]["params"][0]
        with torch.no_grad():
            a.copy_(2 * before[0] - a)


class PlainAdamW(torch.optim.AdamW):
    """No factor at all."""

    def __init__(self, groups, lr, eta, betas, weight_decay):
        super().__init__(groups[0]["params"], lr, betas, weight_decay=weight_decay)


PLANTED = [  # row, module, function, wrong formula, the verdict that it must lead to
    ("4-adapted-gradient", functional, "allora", lora_instead, "holds"),
    ("4-adapted-gradient", adaptive, "update_jacobian", without_the_factors_slope, "refuted"),
    ("4-adapted-gradient", adaptive, "layer_double_backward", RIGHT["update_jacobian"], "refuted"),
    ("4-allora-adamw", optim, "ALLoRAAdamW", AscendingAdamW, "refuted"),
    ("4-allora-adamw", optim, "ALLoRAAdamW", PlainAdamW, "refuted"),
    ("4-allora-adamw", adaptive, "row_factor", lambda a, b, eta: np.full(len(b), eta), "refuted"),
]


@pytest.mark.parametrize(("identifier", "module", "name", "wrong", "expected"), PLANTED)
def test_a_planted_wrong_formula_changes_the_verdict(monkeypatch, identifier, module, name, wrong, expected):
    monkeypatch.setattr(module, name, wrong)
    assert expected != VERDICTS[identifier]
    assert ROWS.verdict(identifier) == expected


def test_another_kink_changes_the_verdict(monkeypatch):
    right = RIGHT["directional_derivative"]
    assert abs(section._kink() - 1) < 1e-6
    monkeypatch.setattr(adaptive, "directional_derivative", lambda *args: tuple(2 * part for part in right(*args)))
    assert ROWS.verdict("4-adapted-gradient") == "refuted"


@pytest.mark.parametrize("case", section._further())
def test_a_case_whose_expected_outcome_is_turned_round_changes_the_verdict(monkeypatch, case):
    """So none is there without being looked at: one token is no input feature, Huber's loss couples no outputs."""
    right = section._further()
    task, loss, expected = right[case]
    monkeypatch.setattr(section, "_further", lambda: {**right, case: (task, loss, not expected)})
    assert ROWS.verdict("4-adapted-gradient") == "refuted"


def test_hubers_loss_is_clipped_in_its_case():
    """Otherwise it would be the squared loss again."""
    task, loss, _ = section._further()["one input feature, Huber"]
    b = np.random.default_rng(section.SEED).standard_normal((4, 1))
    fields = [layer_derivatives.differenced_field(task, b, 2.0, loss=name) for name in (loss, "squared")]
    assert np.abs(fields[0] - fields[1]).max() > 0.1 * np.abs(fields[1]).max()
