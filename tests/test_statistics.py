"""Accuracies and Holm's correction: against their definitions and simulation with stated power."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis.statistics import accuracy_stderr, holm
from allora_analysis.validation import ArgumentError
from tests.stat_assert import assert_mean, assert_rejects


def test_one_accuracy_over_rotten_tomatoes_test_set():
    assert accuracy_stderr(0.8, 1066) == pytest.approx(0.4 / math.sqrt(1066), rel=1e-12)
    assert accuracy_stderr(1.0, 5) == accuracy_stderr(0, 5) == 0.0


@pytest.mark.statistical
def test_accuracy_stderr_is_the_spread_of_accuracies(rng):
    squares = (rng.binomial(50, 0.3, 25_000) / 50 - 0.3) ** 2
    assert_mean(squares, accuracy_stderr(0.3, 50) ** 2, smallest_error=4e-4)
    assert_rejects(assert_mean, squares, accuracy_stderr(0.3, 50) ** 2 * 49 / 50 * 0.8, smallest_error=4e-4)


# --- bad input, imports, the hook -------------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: accuracy_stderr(1.001, 100), "accuracy must be a fraction in [0, 1]"),
        (lambda: accuracy_stderr(-0.1, 100), "accuracy must be a finite number, 0 or above"),
        (lambda: accuracy_stderr(0.5, 0), "n must be a whole number"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ArgumentError) as error:
        call()
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_importing_pays_for_no_scipy():
    check = "import allora_analysis.statistics, sys; print([n for n in sys.modules if n.startswith('scipy')])"
    finished = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


# --- Holm -------------------------------------------------------------------------------------------------------------


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
def test_p_values_that_are_none(values, words):
    with pytest.raises(ArgumentError) as error:
        holm(values)
    assert words in str(error.value)
