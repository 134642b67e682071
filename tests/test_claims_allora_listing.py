"""The ledger's rows on Listing 1: verdicts; what other listings would get; autograd and a batched gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from allora_analysis import adaptive
from allora_analysis.claims import section_4_listing as section
from allora_analysis.lora import functional
from tests.ledger_rows import Rows

VERDICTS = {
    "4-listing-1": "holds_corrected",
    "4-listing-inputs": "conditional",
    "4-listing-eta": "conditional",
    "4-listing-cost": "holds",
}
ROWS = Rows(VERDICTS, section)


def test_every_row_has_a_verdict_here():
    ROWS.check_all_are_here()


@pytest.mark.parametrize("identifier", VERDICTS)
def test_verdict(identifier):
    ROWS.check(identifier)


def test_the_outcomes_as_they_are():
    printed = ROWS.finding("4-listing-1").evidence.measured
    assert all(
        text.startswith("NameError: name 'LinearLayer2'") for case, text in printed.items() if "mended" not in case
    )
    mended = ROWS.finding("4-listing-inputs").evidence.measured
    assert [text.split(":")[0] for text in mended.values()] == ["IndexError", "IndexError", "runs", "RuntimeError"]


def test_autograd_sums_a_gradient_with_a_batch_axis():
    """The listing returns (batch, r, n2) for a weight of (r, n2); autograd sums it to the weight's shape."""

    class Batched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, weight):
            return weight.sum()

        @staticmethod
        def backward(ctx, grad):
            return torch.arange(24.0).reshape(4, 2, 3)

    weight = torch.ones(2, 3, requires_grad=True)
    Batched.apply(weight).backward()
    assert weight.grad.shape == (2, 3)
    torch.testing.assert_close(weight.grad, torch.arange(24.0).reshape(4, 2, 3).sum(0))


GOOD = section.LISTING.replace("LinearLayer2", "ALLoRA")
LAYER = """
class ALLoRA:
  @staticmethod
  def apply(x, a, b):
    return layer(x, a, b, 2.0)
"""
PLANTED = [  # row, listing, verdict
    ("4-listing-1", GOOD.replace("torch.transpose(temp, 1, 2)", "temp"), "refuted"),
    ("4-listing-1", section.LISTING.replace("norms +", "norms ** 2 +"), "refuted"),
    ("4-listing-inputs", section.LISTING.replace("norms +", "norms ** 2 +"), "refuted"),
    ("4-listing-eta", section.LISTING.replace("1. / 4.", "1. / 2."), "refuted"),
    ("4-listing-cost", section.LISTING.replace("weight_B @ weight_A, dim=1", "weight_B, dim=1"), "refuted"),
]


@pytest.mark.parametrize(("identifier", "listing", "expected"), PLANTED)
def test_another_listing_changes_the_verdict(monkeypatch, identifier, listing, expected):
    monkeypatch.setattr(section, "LISTING", listing)
    assert expected != VERDICTS[identifier]
    assert ROWS.verdict(identifier) == expected


def test_a_listing_that_is_the_layer_would_hold(monkeypatch):
    def layer(x, a, b, eta):
        return functional.allora(x, a, b, eta)

    right = section.compiled
    monkeypatch.setattr(section, "LISTING", LAYER)
    monkeypatch.setattr(section, "compiled", lambda source: right(source, layer=layer))
    for identifier in ("4-listing-1", "4-listing-inputs"):
        assert ROWS.verdict(identifier) == "holds"
    assert ROWS.verdict("4-listing-cost") == "refuted"


@pytest.mark.parametrize("identifier", ["4-listing-1", "4-listing-inputs", "4-listing-eta"])
def test_a_wrong_definition_changes_the_verdict(monkeypatch, identifier):
    monkeypatch.setattr(adaptive, "update_field", lambda a, b, g, eta: (b.T @ g, g @ a.T))
    assert ROWS.verdict(identifier) == "refuted"


def test_the_layer_that_forms_ba_is_noticed(monkeypatch):
    def wasteful(x, a, b, eta):
        return x @ (b @ a).mT

    monkeypatch.setattr(functional, "allora", wasteful)
    assert ROWS.verdict("4-listing-cost") == "refuted"


def test_names_can_be_handed_in():
    class LinearLayer2:
        rsq_scale = 0.25

    function = section.compiled(section.LISTING, LinearLayer2=LinearLayer2)
    found, outcome, parts = section._run(function, (3, 4))
    assert outcome == "runs"
    assert section._errors(found, parts, 2.0) < 1e-12
    assert np.isfinite(found[2]).all()
