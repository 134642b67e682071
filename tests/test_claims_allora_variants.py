"""The ledger's rows on §4.3: verdicts, and what a wrong formula does to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from allora_analysis import adaptive, ripple
from allora_analysis.claims import layer_runs
from allora_analysis.claims import section_4_output_dependent as output_dependent
from allora_analysis.claims import section_4_variants as asf
from allora_analysis.lora import functional, layers
from tests.ledger_rows import Rows

VERDICTS = {
    "4-define-each-other": "conditional",
    "4-od-noise": "conditional",
    "4-od-update": "conditional",
    "4-asf-similar": "conditional",
    "4-asf-gradient": "holds",
    "4-asf-ripple": "conditional",
    "4-asf-merge": "holds",
}
ROWS = Rows(VERDICTS, output_dependent, asf)
RIGHT = {name: getattr(adaptive, name) for name in adaptive.__all__}
PRODUCTS = layer_runs.products
LOG_GROWTH = ripple.log_output_growth


def test_every_row_has_a_verdict_here():
    ROWS.check_all_are_here()


@pytest.mark.parametrize("identifier", VERDICTS)
def test_verdict(identifier):
    ROWS.check(identifier)


def by_row(x, a, b, eta, adaptor="inverse_sqrt"):
    return functional.allora(x, a, b, eta)


def plain(x, a, b, eta, adaptor="inverse_sqrt"):
    return x @ a.mT @ b.mT


def scaled(x, a, b, eta, adaptor="inverse_sqrt"):
    return eta * (x @ a.mT @ b.mT)


def doubled_variance(sigma, eta):
    law = RIGHT["output_factor"](sigma, eta)
    return replace(law, variance=2 * law.variance)


def isotropic(sigma, eta):
    law = RIGHT["output_factor"](sigma, eta)
    return replace(law, along=law.mean)


def undamped(layers_, x, eta, damped=False):
    return LOG_GROWTH(layers_, x, eta)


class Merging(layers.ALLoRALinear):
    def merge(self):
        return self.base


def allora_for_asf(task, optimiser, arm, *args, **options):
    return PRODUCTS(task, optimiser, "allora", *args, **options)


def lora_for_asf(task, optimiser, arm, *args, **options):
    return PRODUCTS(task, optimiser, "lora" if arm == "asf" else arm, *args, **options)


PLANTED = [  # row, module, function, wrong formula, the verdict that it must lead to
    ("4-od-noise", functional, "allora_od", by_row, "refuted"),
    ("4-od-noise", adaptive, "output_factor", doubled_variance, "refuted"),
    ("4-od-update", adaptive, "output_factor", isotropic, "refuted"),
    ("4-od-update", functional, "allora_od", by_row, "holds"),
    ("4-od-update", output_dependent, "inverse_sqrt", lambda m, eta: eta, "refuted"),
    ("4-asf-similar", layer_runs, "products", allora_for_asf, "holds"),
    ("4-asf-similar", layer_runs, "products", lora_for_asf, "refuted"),
    ("4-asf-similar", adaptive, "asf", lambda f, eta: eta * f, "refuted"),
    ("4-asf-similar", asf, "SIMILAR", 1.0, "holds"),
    ("4-asf-gradient", functional, "asf_lora", scaled, "refuted"),
    ("4-asf-gradient", adaptive, "asf_derivative", lambda f, eta: (abs(f) + eta**-2) ** -0.5, "refuted"),
    ("4-asf-ripple", ripple, "log_output_growth", undamped, "refuted"),
    ("4-asf-ripple", functional, "asf_lora", scaled, "holds"),
    ("4-asf-ripple", adaptive, "asf", lambda f, eta: eta * f, "refuted"),
    ("4-asf-merge", functional, "asf_lora", scaled, "refuted"),
    ("4-asf-merge", layers, "ALLoRALinear", Merging, "refuted"),
]


@pytest.mark.parametrize(("identifier", "module", "name", "wrong", "expected"), PLANTED)
def test_a_planted_wrong_formula_changes_the_verdict(monkeypatch, identifier, module, name, wrong, expected):
    monkeypatch.setattr(module, name, wrong)
    assert expected != VERDICTS[identifier]
    assert ROWS.verdict(identifier) == expected


def test_enough_inputs_define_the_row(monkeypatch):
    """The rank is what decides: if every draw spanned the inputs, the row would hold."""
    monkeypatch.setattr(np.linalg, "matrix_rank", lambda x: x.shape[1])
    assert ROWS.verdict("4-define-each-other") == "holds"
