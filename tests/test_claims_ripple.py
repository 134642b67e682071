"""The ledger's rows on §3.3: their verdicts, and that planted wrong formulas change them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from allora_analysis import ripple
from allora_analysis.claims import (
    section_3_3_growth,
    section_3_3_interactions,
    section_3_3_residual,
    section_3_3_ripple,
    section_3_3_worst_case,
    student_t,
)
from allora_analysis.claims.ledger import examine
from allora_analysis.ripple import stack

VERDICTS = {
    "3.3-interactions": "refuted",
    "3.3-norm": "holds_corrected",
    "3.3-product": "holds",
    "3.3-constant": "conditional",
    "3.3-mean": "holds",
    "3.3-mean-ratio": "conditional",
    "3.3-tight": "conditional",
    "3.3-theta": "conditional",
    "3.3-worst-case": "holds",
    "3.3-typical": "conditional",
    "3.3-small-eta": "conditional",
    "3.3-residual": "conditional",
}


def claim(identity):
    return next(claim for claim in section_3_3_ripple.claims() if claim.id == identity)


def test_every_row_is_listed_here():
    assert [claim.id for claim in section_3_3_ripple.claims()] == list(VERDICTS)


@pytest.mark.parametrize("identity", VERDICTS)
def test_verdict(identity):
    row = examine(claim(identity))
    assert row.error is None
    assert row.finding.verdict == VERDICTS[identity]
    evidence = row.finding.evidence
    assert evidence.predicted
    assert set(evidence.measured) & set(evidence.predicted)


ORIGINAL = {
    name: getattr(ripple, name)
    for name in ("worst_case", "log_output_growth", "network_growth", "adapter_gain", "residual_square")
}


def bounds(weights, adapters, eta, **changes):
    worst = ORIGINAL["worst_case"](weights, adapters, eta)
    return dataclasses.replace(worst, **{name: change(worst) for name, change in changes.items()})


def longer_output(*arguments, **options):
    return ORIGINAL["log_output_growth"](*arguments, **options) + 3


def without_adapters(weights, adapters, eta):
    return bounds(weights, adapters, eta, log_bound=lambda worst: worst.log_c)


def constant_with_eta(weights, adapters, eta):
    return bounds(weights, adapters, eta, log_c=lambda worst: worst.log_c + np.log1p(eta))


def geometric_for_arithmetic(weights, adapters, eta):
    ratios = np.maximum(np.asarray(adapters) / np.asarray(weights), 1e-9)
    mean = float(np.exp(np.log(ratios).mean()))
    return bounds(
        weights, adapters, eta, log_amgm_bound=lambda worst: worst.log_c + len(ratios) * float(np.log1p(eta * mean))
    )


def printed_ratio(weights, adapters, eta):
    mean = float(np.mean(adapters)) / weights[-1]
    return bounds(
        weights, adapters, eta, log_amgm_bound=lambda worst: worst.log_c + len(weights) * float(np.log1p(eta * mean))
    )


def looser(weights, adapters, eta):
    return bounds(weights, adapters, eta, log_amgm_bound=lambda worst: worst.log_amgm_bound + 0.1)


def shifted_mean(*arguments, **options):
    growth = ORIGINAL["network_growth"](*arguments, **options)
    return growth._replace(mean=growth.mean + 0.6)


def gain_too_large(*arguments):
    return 1.3 * ORIGINAL["adapter_gain"](*arguments)


def width_once(depth, width, *rest):
    square = ORIGINAL["residual_square"](depth, width, *rest)
    return square._replace(mean=width + (square.mean - width) / width)


PLANTED = [
    ("3.3-norm", "log_output_growth", longer_output),
    ("3.3-product", "worst_case", without_adapters),
    ("3.3-constant", "worst_case", constant_with_eta),
    ("3.3-mean", "worst_case", geometric_for_arithmetic),
    ("3.3-mean-ratio", "worst_case", printed_ratio),
    ("3.3-tight", "worst_case", looser),
    ("3.3-theta", "worst_case", looser),
    ("3.3-typical", "network_growth", shifted_mean),
    ("3.3-small-eta", "adapter_gain", gain_too_large),
    ("3.3-residual", "residual_square", width_once),
]


@pytest.mark.parametrize(("identity", "name", "wrong"), PLANTED, ids=[row[0] for row in PLANTED])
def test_a_planted_formula_is_refuted(identity, name, wrong, monkeypatch):
    monkeypatch.setattr(ripple, name, wrong)
    row = examine(claim(identity))
    assert row.error is None
    assert row.finding.verdict == "refuted"


def test_only_for_large_eta_is_tested(monkeypatch):
    """Planted: the bound adds little at the smallest η, so that the sentence passes there."""
    original = stack.bound_adapter_share
    monkeypatch.setattr(
        stack, "bound_adapter_share", lambda norms, eta, kind: original(norms, eta, kind) * (1e-3 if eta < 1 else 1)
    )
    assert examine(claim("3.3-typical")).finding.verdict == "refuted"


def test_a_network_that_falls_short_refutes_proposition_1(monkeypatch):
    original = stack.aligned_growth
    monkeypatch.setattr(stack, "aligned_growth", lambda *arguments: 0.99 * original(*arguments))
    assert examine(claim("3.3-worst-case")).finding.verdict == "refuted"


def test_lines_up_knows_aligned_from_random_and_from_a_flipped_sign():
    network = ripple.aligned_network((5, 4, 6), 2, generator=np.random.default_rng(1))
    layers = list(network.layers)
    assert section_3_3_worst_case.lines_up(layers, network.x)
    assert not section_3_3_worst_case.lines_up(layers, network.x + 0.1)
    flipped = [layers[0]._replace(b=-layers[0].b), layers[1]]
    assert not section_3_3_worst_case.lines_up(flipped, network.x)


def test_what_is_no_sentence_of_the_paper_says_so():
    beyond = [claim.id for claim in section_3_3_ripple.claims() if claim.where.startswith("beyond the paper")]
    assert beyond == ["3.3-typical", "3.3-small-eta"]


def test_the_aligned_network_itself_is_run_for_small_eta(monkeypatch):
    """Planted: a network that attains the bound whose log growth is quadratic in η."""
    original = stack.aligned_growth
    monkeypatch.setattr(stack, "aligned_growth", lambda *arguments: original(*arguments) ** 2)
    assert section_3_3_growth.aligned_gains(1e-3)[1] > 3.9 * section_3_3_growth.aligned_gains(1e-3)[0]
    assert examine(claim("3.3-small-eta")).finding.verdict == "refuted"


def test_an_inequality_has_an_excess_of_0_and_is_attained(monkeypatch):
    evidence = examine(claim("3.3-norm")).finding.evidence
    assert evidence.error == 0
    assert evidence.tolerance_source.startswith("the error is the largest excess over the bound")
    right = section_3_3_ripple.product
    monkeypatch.setattr(section_3_3_ripple, "product", lambda layers, eta: np.flip(right(layers, eta), axis=1))
    assert examine(claim("3.3-norm")).finding.verdict == "refuted"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("plain_worst_case", lambda depth: 1.0),
        ("plain_random", lambda scales: np.ones((9, 2)) + 0.01 * np.random.default_rng(0).standard_normal((9, 2))),
    ],
)
def test_a_residual_stack_that_does_not_grow_without_normalisation_refutes(name, wrong, monkeypatch):
    monkeypatch.setattr(section_3_3_residual, name, wrong)
    assert examine(claim("3.3-residual")).finding.verdict == "refuted"


def test_exponential_growth_with_normalisation_too_would_hold(monkeypatch):
    monkeypatch.setattr(
        section_3_3_residual, "worst_cases", lambda: {"residual with pre-LayerNorm, worst case": (2, 2)}
    )
    monkeypatch.setattr(section_3_3_residual, "random_normalised", lambda scales: ((2.0, 2.0), 0.0))
    assert section_3_3_residual.random_plain(ripple.fair_scales(16, 2))[0][1] == pytest.approx(2, abs=0.1)
    monkeypatch.setattr(section_3_3_residual, "words", lambda measured: "")
    assert examine(claim("3.3-residual")).finding.verdict == "holds"


@pytest.mark.parametrize("n", [48, 200, 4000])
def test_standard_errors(n):
    """SciPy's own law; five standard errors are too few at n = 48."""
    from scipy import stats

    assert 2 * stats.t.sf(student_t.standard_errors(n), n - 1) == pytest.approx(student_t.FALSE_FAIL, rel=1e-6)
    assert (student_t.standard_errors(n) > 5) == (n <= 200)
    assert f"n − 1 = {n - 1}, false-fail rate 1e-6 a comparison" in student_t.source(n)


def test_interactions_that_need_a_scaling_factor_would_hold(monkeypatch):
    module, right = section_3_3_interactions, section_3_3_interactions.interaction
    monkeypatch.setattr(module, "interaction", lambda layers, x, eta: (eta != 1) * right(layers, x, eta))
    assert examine(claim("3.3-interactions")).finding.verdict == "holds"


def root_of_eta(layers, x, eta):
    return ORIGINAL["log_output_growth"](layers, x, np.sqrt(eta))


@pytest.mark.parametrize("planted", ["terms of an order too high", "a forward pass where η is no factor of B"])
def test_a_wrong_expansion_leaves_the_interactions_undecided(planted, monkeypatch):
    module, right = section_3_3_interactions, section_3_3_interactions.orders
    if planted.startswith("terms"):
        monkeypatch.setattr(module, "orders", lambda layers, x: [right(layers, x)[0], *right(layers, x)])
    else:
        monkeypatch.setattr(ripple, "log_output_growth", root_of_eta)
    assert examine(claim("3.3-interactions")).finding.verdict == "undecided"


def test_the_expansion_is_the_forward_pass():
    layers, x = section_3_3_worst_case.drawn((3, 4, 2, 3), 2)
    terms = section_3_3_interactions.orders(layers, x)
    for eta in (0.5, 3.0):
        total = sum(eta**k * term for k, term in enumerate(terms))
        growth = float(np.log(np.linalg.norm(total) / np.linalg.norm(x)))
        assert ripple.log_output_growth(layers, x, eta)[0] == pytest.approx(growth, rel=1e-12)
