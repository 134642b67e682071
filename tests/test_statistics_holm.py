"""Holm's correction: its definition walked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis.statistics import holm
from allora_analysis.validation import ArgumentError


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_its_definition(p_values):
    adjusted = holm(p_values)
    m = len(p_values)
    for level in (0.01, 0.05, 0.3):
        # Step-down by hand: walk up from the smallest, stop at the first that is not rejected.
        rejected = set()
        for rank, index in enumerate(np.argsort(p_values, kind="stable")):
            if p_values[index] * (m - rank) > level:
                break
            rejected.add(int(index))
        assert rejected == set(np.flatnonzero(adjusted <= level).tolist())
    assert (adjusted >= np.asarray(p_values)).all()
    assert (adjusted <= 1).all()


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@pytest.mark.bad_input
@pytest.mark.parametrize(("values", "words"), [([0.1, 1.2], "p_values must be in [0, 1]"), ([], "p_values: shape")])
def test_bad_input(values, words):
    with pytest.raises(ArgumentError) as error:
        holm(values)
    assert words in str(error.value)
