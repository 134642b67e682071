"""The ledger's rows on the escape from zero (§4.2, Figure 2 right): verdicts, and what a wrong formula does to them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from allora_analysis import adaptors, escape
from allora_analysis.claims import layer_derivatives, layer_runs
from allora_analysis.claims import section_4_escape as scalar
from allora_analysis.claims import section_4_figure_2 as figure
from allora_analysis.escape import first_step
from allora_analysis.lora import functional
from tests.ledger_rows import Rows

VERDICTS = {
    "4-escape": "conditional",
    "4-escape-fixed-rate": "conditional",
    "4-figure-2-slower": "conditional",
    "4-figure-2-right": "conditional",
    "4-escape-optimisers": "conditional",
    "4-effective-rate": "conditional",
}
ROWS = Rows(VERDICTS, scalar, figure)
RIGHT = {name: getattr(escape, name) for name in escape.__all__} | {
    "inverse": adaptors.inverse,
    "clipped_step": first_step.clipped_step,
    "products": layer_runs.products,
    "pairs": layer_runs.pairs,
    "allora": functional.allora,
}


def test_every_row_has_a_verdict_here():
    ROWS.check_all_are_here()


@pytest.mark.parametrize("identifier", VERDICTS)
def test_verdict(identifier):
    ROWS.check(identifier)


def lora_everywhere(task, optimiser, arm, *args, **options):
    return RIGHT["products"](task, optimiser, "lora", *args, **options)


def lora_pairs(task, optimiser, arm, *args, **options):
    return RIGHT["pairs"](task, optimiser, "lora", *args, **options)


def never_tapering(x, a, b, eta, adaptor="inverse_sqrt"):
    return RIGHT["allora"](x, a, b, eta, "constant")


def tapering_too_fast(x, a, b, eta, adaptor="inverse_sqrt"):
    return RIGHT["allora"](x, a, b, eta, "inverse")


def never_clipped(task, optimiser, arm, eta, rate, steps, clip=None, other_norm=0.0):
    return RIGHT["products"](task, optimiser, arm, eta, rate, steps)


def sgd_always(task, optimiser, *args, **clipping):
    return RIGHT["products"](task, "sgd", *args[:4])


def drift_of_sgd(optimiser, *args, **options):
    return RIGHT["drift"]("sgd", *args, **options)


def by_itself(gradient_norm, eta, max_grad_norm, other_norm):
    return RIGHT["clipped_step"](gradient_norm, eta, max_grad_norm)


def gain_of_two(*args):
    return dataclasses.replace(RIGHT["tradeoff"](*args), advantage=2.0)


PLANTED = [  # row, module, function, wrong formula, the verdict that it must lead to
    ("4-escape", escape, "trajectory", lambda t, g, eta: eta * g * t, "refuted"),
    ("4-escape", escape, "trajectory", lambda t, g, eta: RIGHT["trajectory"](t, g, eta, "inverse"), "refuted"),
    ("4-escape-fixed-rate", adaptors, "inverse_sqrt", lambda m, eta: np.float64(eta), "refuted"),
    ("4-escape-fixed-rate", escape, "tradeoff", gain_of_two, "refuted"),
    ("4-escape-fixed-rate", adaptors, "inverse_sqrt", lambda m, eta: RIGHT["inverse"](m, eta), "refuted"),
    ("4-escape-fixed-rate", scalar, "advantageous", lambda product, target, eta: product > 1.9, "refuted"),
    ("4-escape-fixed-rate", scalar, "PRODUCTS", (1.8, 1.9), "holds"),
    ("4-figure-2-slower", escape, "time_to_reach", lambda m, g, eta: m / (g * eta), "refuted"),
    ("4-figure-2-slower", scalar, "_longest", lambda eta: 1.0, "refuted"),
    ("4-figure-2-right", layer_runs, "products", lora_everywhere, "refuted"),
    ("4-figure-2-right", layer_runs, "products", sgd_always, "holds"),
    ("4-figure-2-right", escape, "drift", drift_of_sgd, "refuted"),
    ("4-escape-optimisers", layer_runs, "products", lora_everywhere, "refuted"),
    ("4-escape-optimisers", layer_runs, "products", sgd_always, "holds"),
    ("4-escape-optimisers", escape, "drift", drift_of_sgd, "refuted"),
    ("4-figure-2-right", layer_runs, "products", never_clipped, "refuted"),
    ("4-figure-2-right", first_step, "clipped_step", by_itself, "refuted"),
    ("4-figure-2-right", figure, "OTHER", 0.0, "refuted"),
    ("4-figure-2-right", figure, "CLIPS", {"below": 0.07, "between": 1.2, "above": 0.07}, "refuted"),
    ("4-escape-optimisers", layer_runs, "products", never_clipped, "refuted"),
    ("4-effective-rate", functional, "allora", never_tapering, "refuted"),
    ("4-effective-rate", functional, "allora", tapering_too_fast, "refuted"),
    ("4-effective-rate", layer_runs, "pairs", lora_pairs, "refuted"),
]


@pytest.mark.parametrize(("identifier", "module", "name", "wrong", "expected"), PLANTED)
def test_a_planted_wrong_formula_changes_the_verdict(monkeypatch, identifier, module, name, wrong, expected):
    monkeypatch.setattr(module, name, wrong)
    assert expected != VERDICTS[identifier]
    assert ROWS.verdict(identifier) == expected


def test_the_constant_arm_is_lora_with_a_scaled_gradient():
    task = layer_runs.problem()
    one = layer_runs.products(task, "sgd", "constant", 3.0, 0.01, 4)
    np.testing.assert_allclose(one, layer_runs.products(task, "sgd", "lora", 3.0, 0.03, 4), rtol=1e-12, atol=1e-15)


def test_clipping_is_torchs():
    task = layer_runs.problem()
    step = layer_runs.products(task, "sgd", "lora", 2.0, 1.0, 1, clip=0.5)[1]
    g = -(task.y.T @ task.x) / len(task.x) @ task.a.T
    np.testing.assert_allclose(step, -0.5 / (np.linalg.norm(g) + 1e-6) * g @ task.a, rtol=1e-12)
    shared = layer_runs.products(task, "sgd", "lora", 2.0, 1.0, 1, clip=0.5, other_norm=3.0)[1]
    np.testing.assert_allclose(shared, -0.5 / (np.hypot(np.linalg.norm(g), 3.0) + 1e-6) * g @ task.a, rtol=1e-12)


def test_differences_and_double_backward_agree_for_lora(monkeypatch):
    """With d = 1 both are LoRA's Hessian: the two ways to measure are not what tells ALLoRA's apart."""

    def plain(x, a, b, eta, adaptor="inverse_sqrt"):
        return x @ a.mT @ b.mT

    task, b = layer_runs.problem(3, 2, 1), np.array([[1.0], [-0.5], [2.0]])
    monkeypatch.setattr(functional, "allora", plain)
    twice, differenced = (
        layer_derivatives.double_backward(task, b, 2.0),
        layer_derivatives.differenced_field(task, b, 2.0),
    )
    np.testing.assert_allclose(twice, differenced, rtol=1e-6, atol=1e-6 * np.abs(twice).max())
    np.testing.assert_allclose(twice, twice.T, rtol=1e-12)


def test_backward_gives_autograds():
    x, upstream, a, b = layer_runs.draws()
    output, grad_x, grad_a, grad_b = layer_runs.backward(layer_runs.lora, x, upstream, a, b)
    np.testing.assert_allclose(output, x @ (b @ a).T, rtol=1e-12)
    np.testing.assert_allclose(grad_x, upstream @ b @ a, rtol=1e-12)
    np.testing.assert_allclose(grad_a, b.T @ upstream.T @ x, rtol=1e-12)
    np.testing.assert_allclose(grad_b, upstream.T @ x @ a.T, rtol=1e-12)
    assert torch.is_grad_enabled()
