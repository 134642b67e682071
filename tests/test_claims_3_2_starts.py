"""The ledger's rows on starts: a wrong formula planted behind a row changes its verdict."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from allora_analysis import hessian
from allora_analysis.claims import s3_2_starts as section
from tests.ledger_rows import finding

RIGHT = {name: getattr(hessian, name) for name in ("restricted_spectrum", "inertia", "start_pair", "dense_hessian")}


def fewer(*args):
    found = RIGHT["inertia"](*args)
    return dataclasses.replace(found, negative=found.negative - 1)


RIGHT_CONDITION = section.takes_each_once


def first_right_ones(one):
    rows = np.abs(one.a @ np.linalg.svd(one.gradient(one.b @ one.a))[2].T)
    return bool(RIGHT_CONDITION(one) and rows[:, : len(rows)].sum() > 0.999 * rows.sum())


def any_singular_ones(one):
    rows = np.abs(one.a @ np.linalg.svd(one.gradient(one.b @ one.a))[2].T)
    return bool(rows.max() > 0 and (rows.max(axis=1) > 0.999 * np.linalg.norm(rows, axis=1)).all())


PLANTED = [  # row, where, function, wrong formula, the verdict that it must lead to
    (
        "worst_place",
        hessian,
        "restricted_spectrum",
        lambda *args: np.abs(RIGHT["restricted_spectrum"](*args)),
        "undecided",
    ),
    # A landscape on whose every path no eigenvalue changes sign and none comes near 0.
    ("worst_place", section, "eigenvalues", lambda one, a, b: np.array([1e4, 2e4]), "holds"),
    ("start_has_most", hessian, "inertia", fewer, "refuted"),
    ("start_has_most", section, "negative", lambda values: 1, "holds"),
    ("start_has_most", hessian, "dense_hessian", lambda *args: -RIGHT["dense_hessian"](*args), "refuted"),
    # The gradient-aligned start alone; shares of singular vectors without the first too.
    ("first_direction", section, "takes_each_once", first_right_ones, "refuted"),
    ("first_direction", section, "takes_each_once", any_singular_ones, "refuted"),
    ("first_direction", section, "first_cosine", lambda one: 1.0, "holds"),
]


@pytest.mark.parametrize(("row", "where", "name", "wrong", "expected"), PLANTED)
def test_a_planted_wrong_formula_changes_the_verdict(monkeypatch, row, where, name, wrong, expected):
    monkeypatch.setattr(where, name, wrong)
    assert finding(getattr(section, row)).verdict == expected
