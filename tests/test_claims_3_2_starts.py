"""The ledger's rows on starts: a wrong formula planted behind a row changes its verdict."""

import dataclasses

import numpy as np
import pytest

from allora_analysis import hessian
from allora_analysis.claims import s3_2_starts as section
from tests.ledger_rows import Rows

ROWS = Rows(section)


def fewer(right, *args):
    found = right(*args)
    return dataclasses.replace(found, negative=found.negative - 1)


RIGHT_CONDITION = section.shares_out


def first_right_ones(one):
    rows = np.abs(one.a @ np.linalg.svd(one.gradient(one.b @ one.a))[2].T)
    return bool(RIGHT_CONDITION(one) and rows[:, : len(rows)].sum() > 0.999 * rows.sum())


def singular_vectors_themselves(one):
    """Each row of A and column of B is a singular vector, and each of the first 2r is taken once."""
    u, _, vt = np.linalg.svd(one.gradient(one.b @ one.a))
    found = [np.abs(one.a @ vt.T), np.abs(one.b.T @ u)]
    sizes = [np.linalg.norm(part, axis=1, keepdims=True) for part in found]
    taken = [place for part, size in zip(found, sizes, strict=True) for place in np.nonzero(part > 0.999 * size)[1]]
    return sorted(taken) == list(range(2 * len(one.a)))


def of_both_at_once(one):
    """Planted: the condition for G of rank 2r and above, also where the rank is lower."""
    return bool(RIGHT_CONDITION(one) and one.b.any())


def smallest_that_is_not_0(values):
    """Planted: κ of the eigenvalues that are not 0."""
    sizes = np.abs(values)
    return float(sizes.max() / sizes[sizes > section.ZERO * sizes.max()].min())


def still_negative(right, one):
    return right(one) | {"lowest at the end": -0.1}


PLANTED = [  # row, where, function, wrong formula, the verdict that it must lead to
    ("worst_place", hessian, "restricted_spectrum", lambda right, *args: np.abs(right(*args)), "refuted"),
    # As if r singular values of the change to be learned were enough, equal to the next or not.
    ("worst_place", section, "lead", lambda one: float(np.linalg.matrix_rank(one.fit) >= len(one.a)), "refuted"),
    # The start's own flat directions not counted; a start told flat by its shape alone, or never.
    ("worst_place", section, "condition", smallest_that_is_not_0, "refuted"),
    ("worst_place", section, "flat_at_start", lambda one: len(one.b) < one.a.shape[1] - len(one.a), "refuted"),
    ("worst_place", section, "flat_at_start", lambda one: False, "refuted"),
    # A path that ends where directions are still negative: no eigenvalue has passed 0 or tends to it.
    ("worst_place", section, "_worst_on_the_way", still_negative, "refuted"),
    # A landscape on whose every path no eigenvalue changes sign and none comes near 0.
    ("worst_place", section, "eigenvalues", lambda one, a, b: np.array([1e4, 2e4]), "holds"),
    ("start_has_most", hessian, "inertia", fewer, "refuted"),
    # As if there were always enough samples.
    ("start_has_most", section, "largest_rank", lambda one: min(one.g.shape), "refuted"),
    ("start_has_most", section, "negative", lambda values: 1, "holds"),
    ("start_has_most", hessian, "dense_hessian", lambda right, *args: -right(*args), "refuted"),
    # The gradient-aligned start alone; no bases but the singular vectors themselves; G of rank 2r and above alone.
    ("first_direction", section, "shares_out", first_right_ones, "refuted"),
    ("first_direction", section, "shares_out", singular_vectors_themselves, "refuted"),
    ("first_direction", section, "shares_out", of_both_at_once, "refuted"),
    ("first_direction", section, "first_cosine", lambda one: 1.0, "holds"),
]


test_a_planted_wrong_formula_changes_the_verdict = ROWS.plants(
    [(getattr(section, row).id, *rest) for row, *rest in PLANTED]
)


def test_what_the_answer_on_the_worst_place_says_is_true_of_every_case():
    """Without flat directions κ passes ∞ or tends to it; it need not end lower than it began, which is not said."""
    found = ROWS.as_is("3.2-worst-place")
    seen = [one for one in found.evidence.measured.values() if "flat" in one]
    flat, others = ([one for one in seen if (one["flat"] > 0) == wanted] for wanted in (True, False))
    assert len(flat) + len(others) == found.evidence.cases
    assert all(np.isinf(one["start"]) for one in flat)
    assert all(one["worst"] > section.WORSE * one["start"] and one["negative"] > 0 for one in others)
    assert {one["lowest at the end"] > section.FLAT for one in others} == {True, False}
    assert all(one["lowest at the end"] > -section.FLAT for one in others)
    assert any(one["end"] > one["start"] for one in others)
    assert "lower" not in found.answer
    worse = [one["worst, without them"] > section.WORSE * one["start, without flat directions"] for one in seen]
    assert all(worse)
    assert found.answer.endswith(f"without counting them in 0 of {len(seen)} cases.")


def unseen_tokens_in_x(apart, rng):
    """Errors on every so many-th of 128 tokens, the others' curvature kept, as if the loss saw them."""
    every = section._of_errors(1, rng)
    errors = rng.standard_normal((16, 128)) * (np.arange(1, 129) % apart == 0)
    return every._replace(g=-2 * errors @ every.x)


def test_errors_linear_in_the_inputs_alone_make_it_mixed_at_the_papers_setting(monkeypatch):
    found = ROWS.as_is("3.2-most-negative")
    seen = {name: one for name, one in found.evidence.measured.items() if "start" in one}
    false = [name for name, one in seen.items() if one["most"] > one["start"] and not name.startswith("draw")]
    assert (found.at_paper, [name.partition(", ")[2][:13] for name in false]) == ("mixed", ["errors linear"])
    right = section._of_errors
    monkeypatch.setattr(section, "_of_errors", lambda apart, rng, kind="at random": right(apart, rng))
    assert ROWS.finding("3.2-most-negative").at_paper is True


def test_no_point_has_more_negative_directions_than_the_rows_that_the_loss_sees_allow():
    """Four of 128: r times four at the start and at most elsewhere; more where the others stay in the curvature."""
    rng = np.random.default_rng(0)
    seen = section._most_negative(section._of_errors(32, rng), rng)
    assert seen["start"] == 8 * 4 == seen["most"]
    seen = section._most_negative(unseen_tokens_in_x(32, rng), rng)
    assert seen["start"] == 8 * 4 < seen["most"] <= 8 * 16


def test_errors_linear_in_the_inputs_leave_more_to_a_rank():
    """Two inputs of variance 1 and 1/4, two outputs: G has the inputs' variances, the square of their roots."""
    x = np.diag([1.0, 0.5])
    assert section.best_cosine(x, 1) == pytest.approx(1.0)
    g = np.diag([1.0, 0.5, 0.5])
    assert section.best_cosine(g, 1) == pytest.approx((1.25 / 1.5) ** 0.5)
    at_random, linear = section.possible(np.random.default_rng(0))
    assert 0.7 < at_random < 0.8 < 0.95 < linear < 1


def test_eigenvalues_are_those_of_the_dense_hessian():
    """Where B = 0 and A is one row the rescaling is a direction of A alone."""
    rng = np.random.default_rng(3)
    one = section.begin(rng.standard_normal((9, 4)), section.target(3, 4, 2, rng), "b_zero", 1, rng)
    dense = hessian.dense_hessian(one.x, one.slope, one.a, one.b)
    away = np.linalg.svd(np.concatenate([np.zeros(3), one.a[0]])[None])[2][1:]
    told = np.linalg.eigvalsh(away @ dense @ away.T)
    np.testing.assert_allclose(section.eigenvalues(one, one.a, one.b), told, atol=1e-8 * np.abs(told).max())


def test_with_as_many_rows_of_a_as_inputs_no_direction_is_negative():
    """A's kernel is {0}: that r is left out."""
    rng = np.random.default_rng(1)
    one = section.begin(rng.standard_normal((8, 2)) / 3, section.target(4, 2, 1, rng), "b_zero", 2, rng)
    seen = section._worst_on_the_way(one)
    assert seen["negative"] == 0
    assert seen["worst"] <= section.WORSE * seen["start"]
