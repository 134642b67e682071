"""The ledger's rows on §4.1–4.2 (framework, definition, descent): verdicts, and what a wrong formula does to them."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from allora_analysis import adaptive, adaptors
from allora_analysis.adaptive.fixed_points import truncated
from allora_analysis.claims import layer_runs
from allora_analysis.claims import section_4_allora as framework
from allora_analysis.claims import section_4_definition as definition
from allora_analysis.claims import section_4_descent as descent
from allora_analysis.lora import functional
from tests.ledger_rows import Rows, lora_instead

VERDICTS = {
    "4-dropout-forward": "conditional",
    "4-dropout-gradient": "conditional",
    "4-dropout-rate": "conditional",
    "4-identity": "holds",
    "4-scaled-gradient": "conditional",
    "4-scaling-as-rate": "conditional",
    "4-adaptor": "holds",
    "4-inversely-proportional": "holds_corrected",
    "4-per-sample": "refuted",
    "4-definition": "holds",
    "4-not-back-propagated": "holds",
    "4-backward-ripple": "conditional",
    "4-descent": "conditional",
    "4-per-parameter": "conditional",
    "4-optimal-direction": "conditional",
}
ROWS = Rows(VERDICTS, framework, definition, descent)


def test_every_row_has_a_verdict_here():
    ROWS.check_all_are_here()


@pytest.mark.parametrize("identifier", VERDICTS)
def test_verdict(identifier):
    ROWS.check(identifier)


RIGHT = {
    module: {name: getattr(module, name) for name in names}
    for module, names in (
        (adaptive, adaptive.__all__),
        (functional, ("allora", "row_factor")),
        (adaptors, adaptors.__all__),
        (layer_runs, ("products", "lora")),
        (framework, ("row_scaled",)),
    )
}


def scaled_input_gradient(x, a, b, eta, adaptor="inverse_sqrt"):
    """∂/∂x scaled too: autograd through d·f with the forward value of f."""
    f = x @ a.mT @ b.mT
    return (f * functional.row_factor(a, b, eta).detach()) + (f * (1 - functional.row_factor(a, b, eta))).detach()


def per_sample(x, a, b, eta, adaptor="inverse_sqrt"):
    return functional.allora_od(x, a, b, eta)


def norms_of_b(a, b, eta, adaptor="inverse_sqrt"):
    return (b.norm(dim=1) + eta**-2 + 1).rsqrt()


def no_d(a, b, g, eta):
    return RIGHT[adaptive]["update_field"](a, b, g, eta)[0] * 2, RIGHT[adaptive]["update_field"](a, b, g, eta)[1]


def b_unscaled(a, b, g, factor):
    return b.T @ g, g @ a.T


def never_scaled(task, optimiser, arm, *args):
    return RIGHT[layer_runs]["products"](task, optimiser, "lora", *args)


def never_clipped(task, optimiser, arm, eta, rate, steps, clip=None):
    return RIGHT[layer_runs]["products"](task, optimiser, arm, eta, rate, steps)


def lora_after_step(example, factor):
    return RIGHT[adaptive]["loss_after_step"](example, [Fraction(1), Fraction(1)])


def climbing_b(a, b, g, eta):
    change = RIGHT[adaptive]["first_order_change"](a, b, g, eta)
    return dataclasses.replace(change, b_part=-change.b_part)


PLANTED = [  # row, module, function, wrong formula, the verdict that it must lead to
    ("4-dropout-forward", framework, "row_scaled", lambda p, f, x: x @ p.T, "refuted"),
    ("4-dropout-rate", adaptive, "masked_field", b_unscaled, "refuted"),
    ("4-identity", functional, "allora", scaled_input_gradient, "refuted"),
    ("4-scaling-as-rate", layer_runs, "products", never_scaled, "refuted"),
    ("4-scaling-as-rate", layer_runs, "products", never_clipped, "refuted"),
    ("4-scaling-as-rate", layer_runs, "gradient_norms", lambda task, path: np.zeros(len(path)), "refuted"),
    ("4-adaptor", adaptors, "inverse_sqrt", RIGHT[adaptors]["inverse"], "refuted"),
    ("4-adaptor", functional, "row_factor", norms_of_b, "refuted"),
    ("4-inversely-proportional", adaptors, "inverse_sqrt", lambda x, eta: 1 / x, "holds"),
    ("4-inversely-proportional", adaptors, "inverse_sqrt", RIGHT[adaptors]["inverse"], "refuted"),
    ("4-per-sample", functional, "allora", per_sample, "holds"),
    ("4-per-sample", adaptive, "row_factor", lambda a, b, eta: np.full(len(b), eta), "undecided"),
    ("4-definition", functional, "allora", lora_instead, "refuted"),
    ("4-definition", adaptive, "update_field", no_d, "refuted"),
    ("4-not-back-propagated", functional, "allora", scaled_input_gradient, "refuted"),
    ("4-backward-ripple", functional, "allora", scaled_input_gradient, "refuted"),
    ("4-backward-ripple", functional, "row_factor", norms_of_b, "refuted"),
    ("4-descent", functional, "allora", lora_instead, "holds"),
    ("4-descent", adaptive, "first_order_change", climbing_b, "refuted"),
    ("4-descent", adaptive, "loss_after_step", lora_after_step, "refuted"),
    ("4-per-parameter", functional, "allora", lora_instead, "holds"),
    ("4-optimal-direction", adaptive, "run_to_rest", lambda t, *args: truncated(t, 1), "holds"),
    (
        "4-optimal-direction",
        adaptive,
        "rest_point",
        lambda t, rank, eta: RIGHT[adaptive]["rest_point"](t, rank, 0.3 * eta),
        "refuted",
    ),
]


@pytest.mark.parametrize(("identifier", "module", "name", "wrong", "expected"), PLANTED)
def test_a_planted_wrong_formula_changes_the_verdict(monkeypatch, identifier, module, name, wrong, expected):
    monkeypatch.setattr(module, name, wrong)
    assert expected != VERDICTS[identifier]
    assert ROWS.verdict(identifier) == expected


def test_one_mask_for_all_tokens_would_make_the_rows_hold(monkeypatch):
    one = {"one token": np.array([[1.0, 0.0, 1.0, 1.0]])}
    monkeypatch.setattr(framework, "_masks", lambda: one)
    assert ROWS.verdict("4-dropout-forward") == "holds"
    assert ROWS.verdict("4-dropout-gradient") == "holds"


def test_a_squared_loss_is_what_tells_the_scaled_gradients_apart(monkeypatch):
    """With η = 1 in the draws' place nothing distinguishes g(f) from g(ηf): the row can hold."""
    x, y, a, b = layer_runs.draws()
    monkeypatch.setattr(layer_runs, "draws", lambda: (x, y, a, 0 * b))
    assert ROWS.verdict("4-scaled-gradient") == "holds"


def test_without_unequal_factors_the_example_descends(monkeypatch):
    """The planted alternative at the example itself: equal factors, and the polynomial falls."""
    example = dataclasses.replace(adaptive.EXAMPLE, b=(Fraction(8), Fraction(8)), y=(Fraction(10), Fraction(7)))
    monkeypatch.setattr(adaptive, "EXAMPLE", example)
    assert ROWS.verdict("4-descent") == "holds"


def test_the_text_quotes_the_exact_derivative():
    assert "41/15" in ROWS.finding("4-descent").corrected


def test_the_text_says_how_the_draws_were_made(monkeypatch):
    """Shares without B's size and the number of tokens say nothing: both stand beside them, one setting with B as A."""
    monkeypatch.setattr(descent, "DRAWS", 2000)
    found = ROWS.finding("4-descent")
    shares = found.evidence.measured["share of draws that ascend, its standard error"]
    assert 0.05 < max(share for share, _ in shares["B 30 times A, one token"].values()) < 0.08
    assert max(share for share, _ in shares["B as large as A, one token"].values()) < 0.005
    assert max(share for share, _ in shares["B 30 times A, 32 tokens"].values()) < 0.01
    assert all(f"({case})" in found.corrected for case in shares)


def test_the_text_names_the_misprint_of_equation_6():
    assert "κ∘f" in ROWS.claims["4-scaled-gradient"].statement
    assert "κ∘g (not κ∘f)" in ROWS.finding("4-scaled-gradient").corrected
