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
    # A gradient-aligned start whose B takes the same directions as its A.
    (
        "first_direction",
        hessian,
        "start_pair",
        lambda name, g, rank, rng, weight: (np.linalg.svd(g)[2][:rank], np.linalg.svd(g)[0][:, :rank]),
        "refuted",
    ),
    ("first_direction", section, "first_cosine", lambda one: 1.0, "holds"),
]


@pytest.mark.parametrize(("row", "where", "name", "wrong", "expected"), PLANTED)
def test_a_planted_wrong_formula_changes_the_verdict(monkeypatch, row, where, name, wrong, expected):
    monkeypatch.setattr(where, name, wrong)
    assert finding(getattr(section, row)).verdict == expected
