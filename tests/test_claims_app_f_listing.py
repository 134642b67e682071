"""The ledger's rows on Listing 1: what other listings would get; autograd and a batched gradient."""

import numpy as np
import pytest
import torch

from allora_analysis import adaptive
from allora_analysis.claims import app_f_listing as section
from allora_analysis.lora import functional
from tests.ledger_rows import Rows

ROWS = Rows(section)


def test_the_outcomes_as_they_are():
    printed = ROWS.as_is("4-listing-1").evidence.measured
    assert all(seen["outcome"].startswith("NameError: name 'LinearLayer2'") for seen in printed.values())
    inputs = ROWS.as_is("4-listing-inputs").evidence.measured
    assert inputs["4 × 2 × 2 × n₂ = 5, r = n₁ = 2"]["outcome"] == "runs"  # and is not ALLoRA: the row is conditional
    for axes, error in {(): "IndexError", (6,): "IndexError", (3, 4): "runs", (2, 3, 4): "RuntimeError"}.items():
        call = section.Layer(section.with_axes(np.random.default_rng(0), axes, 4, 5, 2), 2.0)
        assert section.outcome(section.mended(), call)["outcome"].split(":")[0] == error


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
PLANTED = [  # row, module, name, what takes its place, verdict
    ("4-listing-1", section, "LISTING", GOOD, "holds"),
    ("4-listing-1", section, "LISTING", GOOD.replace("torch.transpose(temp, 1, 2)", "temp"), "refuted"),
    ("4-listing-1", section, "LISTING", section.LISTING.replace("norms +", "norms ** 2 +"), "refuted"),
    ("4-listing-inputs", section, "LISTING", section.LISTING.replace("norms +", "norms ** 2 +"), "refuted"),
    ("4-listing-inputs", section, "three_axes", lambda call: call.one.x.ndim == 3, "refuted"),
    ("4-listing-eta", section, "LISTING", GOOD, "holds"),
    ("4-listing-eta", section, "LISTING", section.LISTING.replace("norms +", "norms ** 2 +"), "refuted"),
    (
        "4-listing-eta",
        section,
        "LISTING",
        section.LISTING.replace("norms +", "norms.clamp(1) +"),
        "refuted",
    ),  # short rows
    ("4-listing-eta", section, "with_scale", lambda listing, eta: listing, "refuted"),  # left at η² = 4
    (
        "4-listing-cost",
        section,
        "LISTING",
        section.LISTING.replace("weight_B @ weight_A, dim=1", "weight_B, dim=1"),
        "refuted",
    ),
    ("4-listing-cost", functional, "allora", lambda x, a, b, eta: x @ (b @ a).mT, "refuted"),
    *(
        (identifier, adaptive, "update_field", lambda a, b, g, eta: (b.T @ g, g @ a.T), "refuted")
        for identifier in ("4-listing-1", "4-listing-inputs", "4-listing-eta")
    ),
]


test_another_listing_or_definition_changes_the_verdict = ROWS.plants(PLANTED)


def test_a_listing_that_is_the_layer_would_hold(monkeypatch):
    right = section.compiled
    monkeypatch.setattr(section, "LISTING", LAYER)
    monkeypatch.setattr(section, "compiled", lambda source: right(source, layer=functional.allora))
    for identifier in ("4-listing-1", "4-listing-inputs"):
        assert ROWS.finding(identifier).verdict == "holds"
    assert ROWS.finding("4-listing-cost").verdict == "refuted"


def test_names_can_be_handed_in():
    class LinearLayer2:
        rsq_scale = 0.25

    function = section.compiled(section.LISTING, LinearLayer2=LinearLayer2)
    call = section.Layer(section.with_axes(np.random.default_rng(0), (3, 4), 4, 5, 2), 2.0)
    found = section.layer_training.backward(function.apply, call.one)
    assert section.is_allora(found, call) < 1e-12
    assert np.isfinite(found[2]).all()


def test_what_a_scale_left_at_its_default_costs_is_told_of_short_rows():
    """At η² = 1 the factor is 2 for 1 at the start, and √(1.015/0.265) for 1 at rows of 0.015."""
    size = ROWS.as_is("4-listing-eta").size
    assert (size.value, size.high) == (pytest.approx(2.0), pytest.approx(2.0))
    assert size.low == pytest.approx((1.015 / 0.265) ** 0.5, abs=0.01)
