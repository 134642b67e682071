"""The ledger's rows on §3.2: each verdict as computed, and another one as soon as a formula behind it is wrong."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from allora_analysis import hessian
from allora_analysis.claims import section_3_2_conditioning as conditioning
from allora_analysis.claims import section_3_2_convexity as convexity
from allora_analysis.claims import section_3_2_factors as factors
from allora_analysis.claims import section_3_2_start as start
from allora_analysis.claims import section_3_2_zero_initialisation as section
from tests.ledger_rows import Rows

VERDICTS = {
    "3.2-pretrained-mapping": "holds",
    "3.2-inference-cost": "holds",
    "3.2-gradient": "holds_corrected",
    "3.2-hessian": "holds_corrected",
    "3.2-vectorisation": "holds_corrected",
    "3.2-semidefinite": "holds",
    "3.2-convex": "conditional",
    "3.2-start-conditioning": "refuted",
    "3.2-degenerate-rank": "conditional",
    "3.2-degenerate-condition": "conditional",
    "3.2-b-conditioning": "conditional",
    "3.2-b-degenerate": "conditional",
    "3.2-saddle-lora": "refuted",
    "3.2-saddle-starts": "conditional",
    "3.2-escape": "conditional",
    "3.2-slow-start": "conditional",
}
ROWS = Rows(VERDICTS, section)


def test_every_row_has_a_verdict_here():
    ROWS.check_all_are_here()


@pytest.mark.parametrize("identifier", VERDICTS)
def test_verdict(identifier):
    ROWS.check(identifier)


def off_by_one(x, g, a):
    counts = RIGHT["inertia"](x, g, a)
    return dataclasses.replace(counts, negative=counts.negative - 1, zero=counts.zero + 1)


def block_without_s(x, a):
    found = RIGHT["block_conditioning"](x, a)
    return dataclasses.replace(found, block=found.adapter)


def halved(name):
    return lambda *args: RIGHT[name](*args) / 2


RIGHT = {name: getattr(hessian, name) for name in hessian.__all__ if name not in hessian._LAZY}
PLANTED = [  # row, function, wrong formula, the verdict that it must lead to
    ("3.2-gradient", "product_gradient", halved("product_gradient"), "refuted"),
    ("3.2-hessian", "product_hessian", halved("product_hessian"), "refuted"),
    ("3.2-hessian", "product_hessian", lambda x, c: 2 * np.kron(np.eye(len(x)), x.T @ x), "refuted"),
    ("3.2-convex", "product_spectrum", lambda x, c: RIGHT["product_spectrum"](x, c) - 1, "refuted"),
    ("3.2-convex", "factor_spectrum", halved("factor_spectrum"), "refuted"),
    ("3.2-semidefinite", "product_spectrum", lambda x, c: RIGHT["product_spectrum"](x, c) - 1, "refuted"),
    # A gradient whose derivative does depend on Δ, and is worst conditioned at 0: the printed statement would hold.
    (
        "3.2-start-conditioning",
        "product_gradient",
        lambda *args: RIGHT["product_gradient"](*args) + 1e3 * max(np.linalg.norm(args[3]) - 1, 0) * args[3],
        "holds",
    ),
    ("3.2-degenerate-rank", "product_spectrum", lambda x, c: RIGHT["product_spectrum"](x, c) + 1, "refuted"),
    ("3.2-degenerate-condition", "marchenko_pastur_condition", lambda gamma: (1 + gamma) ** 2, "refuted"),
    ("3.2-degenerate-condition", "fixed_gram_design", lambda x, n, generator: x[: n // 2], "refuted"),
    ("3.2-b-conditioning", "block_conditioning", block_without_s, "refuted"),
    ("3.2-b-degenerate", "block_conditioning", block_without_s, "refuted"),
    ("3.2-saddle-lora", "inertia", off_by_one, "undecided"),
    ("3.2-saddle-lora", "factor_spectrum", halved("factor_spectrum"), "undecided"),
    ("3.2-saddle-lora", "is_stationary", lambda *args: True, "undecided"),
    ("3.2-saddle-starts", "is_stationary", lambda *args: True, "refuted"),
    ("3.2-saddle-starts", "is_stationary", lambda *args: False, "refuted"),
    ("3.2-escape", "escape_time", halved("escape_time"), "refuted"),
    ("3.2-slow-start", "initial_speed_ratio", lambda n2, rank, s: s**2 * (rank * n2) ** 0.5, "refuted"),
]


@pytest.mark.parametrize(("identifier", "name", "wrong", "expected"), PLANTED)
def test_a_planted_wrong_formula_changes_the_verdict(monkeypatch, identifier, name, wrong, expected):
    monkeypatch.setattr(hessian, name, wrong)
    assert expected != VERDICTS[identifier]
    assert ROWS.verdict(identifier) == expected


def test_another_loss_changes_the_vectorisation(monkeypatch):
    right = section._loss
    monkeypatch.setattr(section, "_loss", lambda *args: lambda columns: 2 * right(*args)(columns))
    assert ROWS.verdict("3.2-vectorisation") == "refuted"
    assert ROWS.verdict("3.2-gradient") == "refuted"


def test_a_start_without_slope_would_be_a_saddle_as_printed(monkeypatch):
    monkeypatch.setattr(factors, "loss_gradient", lambda x, g, b, a: (0 * b, 0 * a))
    assert ROWS.verdict("3.2-saddle-lora") == "holds"


def test_limit_condition():
    """Of the identity it is Marchenko and Pastur's; of a spread spectrum, drawn A at large r and D come near."""
    for gamma in (0.05, 0.3, 0.8):
        found = conditioning.limit_condition(np.ones(1000), round(1000 * gamma))
        assert found == pytest.approx(hessian.marchenko_pastur_condition(gamma), rel=1e-4)
    squares, generator = np.geomspace(1, 100, 900), np.random.default_rng(0)
    singular = np.linalg.svd(generator.standard_normal((300, 900)) * squares**0.5, compute_uv=False)
    # The ends of a sample's spectrum are within about r^(-2/3) of the limit's.
    assert (singular[0] / singular[-1]) ** 2 == pytest.approx(conditioning.limit_condition(squares, 300), rel=0.15)


@pytest.mark.parametrize("wrong", [lambda squares, rank: np.inf, lambda squares, rank: 1.0])
def test_another_condition_for_b_is_refuted(wrong, monkeypatch):
    """Planted: B always worse, as printed, and never."""
    monkeypatch.setattr(conditioning, "limit_condition", wrong)
    assert ROWS.verdict("3.2-b-conditioning") == "refuted"


def test_the_rank_decides_as_well_as_the_spread(monkeypatch):
    """Planted: what the row once said, worse for white X alone, is refuted by the larger ranks."""
    monkeypatch.setattr(
        conditioning, "limit_condition", lambda squares, rank: np.inf if np.ptp(squares) < 1e-9 else 0.0
    )
    assert ROWS.verdict("3.2-b-conditioning") == "refuted"


def test_white_designs_alone_would_hold(monkeypatch):
    monkeypatch.setattr(conditioning, "SPREADS", {1.0: (2, 16)})
    right = conditioning.design
    monkeypatch.setattr(conditioning, "design", lambda n, d, spread, generator: right(d, d, 1.0, generator))
    assert ROWS.verdict("3.2-b-conditioning") == "holds"


def test_a_problem_that_is_convex_in_the_factors_too_would_not_be_conditional(monkeypatch):
    """Planted: curvatures that are never negative and losses that are quadratic along every line."""
    right = convexity.second_difference
    monkeypatch.setattr(convexity, "second_difference", lambda *args: abs(right(*args)))
    monkeypatch.setattr(convexity, "third_difference", lambda *args: 0.0)
    assert ROWS.verdict("3.2-convex") == "refuted"


def test_another_start_is_not_the_pretrained_map(monkeypatch):
    right = start.network
    monkeypatch.setattr(start, "network", lambda dtype, a=1.0, b=0.0: right(dtype, a, b + 1e-3))
    assert ROWS.verdict("3.2-pretrained-mapping") == "refuted"


def test_a_network_that_ignores_its_adapters_says_nothing_of_the_start(monkeypatch):
    right = start.network
    monkeypatch.setattr(start, "network", lambda dtype, a=1.0, b=0.0: right(dtype, a, 0.0))
    assert ROWS.verdict("3.2-pretrained-mapping") == "refuted"


@pytest.mark.parametrize(
    "wrong", [lambda layer: layer, lambda layer: layer.base], ids=["not merged", "merged without the adapter"]
)
def test_a_merge_that_costs_or_changes_something_is_refuted(monkeypatch, wrong):
    from allora_analysis.lora.layers import ALLoRALinear

    monkeypatch.setattr(ALLoRALinear, "merge", wrong)
    assert ROWS.verdict("3.2-inference-cost") == "refuted"
