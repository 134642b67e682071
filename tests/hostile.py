"""Hostile arguments for the fuzz tests: what a public function may answer is finite numbers, or one line of refusal."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from allora_analysis.validation import ArgumentError

EXAMPLES = settings(deadline=None, max_examples=60)
SIZES = (5e-324, 1e-310, 1e-300, 1e-170, 1e-9, 1.0, 3.0, 1e9, 1e160, 1e300, 1.7e308)
NO_NUMBERS = (float("nan"), float("inf"), -1.0, -0.0, 0.0, 10**400, 1j, "0.5", None, True, (1.0,), np.array([[0.5]]))
KINDS = (
    ("plain",) * 9
    + ("scaled",) * 6
    + ("mixed",) * 6
    + ("strided", "frozen", "object", "complex", "nan", "empty", "flat")
)


def mostly(usual, *others):
    """The usual in nine draws of ten."""
    return st.integers(0, 9).flatmap(lambda draw: st.one_of(*others) if draw == 0 else usual)


scales = st.sampled_from(SIZES)
numbers = mostly(scales, st.sampled_from(NO_NUMBERS), st.floats(allow_nan=True, allow_infinity=True))
keep_probs = mostly(st.floats(0.01, 1.0), st.sampled_from((1e-9, 1e-300, 1.0)), numbers)
counts = mostly(st.integers(1, 5), st.sampled_from((0, -1, 10**9, 10**12, 10**19, 10**400, 2.0, True, None, "3")))
ordinary = st.sampled_from((0.0, 1.0, -1.0, 0.3, 2.0, -0.7))
extreme = ordinary | st.builds(float.__mul__, st.sampled_from((-1.0, 1.0)), scales)


def words(*usual):
    """One of these, or a word that is none of them."""
    return mostly(st.sampled_from(usual), st.sampled_from(("", "latent", "bottleneck", None)))


@st.composite
def matrices(draw, rows=None, columns=None):
    """Mostly a matrix of these sizes with entries over the whole range; now and then none, or of another kind."""
    n, d = rows or draw(st.integers(1, 4)), columns or draw(st.integers(1, 4))
    kind = draw(st.sampled_from(KINDS))
    entries = extreme if kind == "mixed" else ordinary
    values = np.array(draw(st.lists(entries, min_size=n * d, max_size=n * d))).reshape(n, d)
    if kind == "scaled":
        return np.clip(values, -1.0, 1.0) * draw(scales)
    if kind == "strided":
        return np.repeat(np.repeat(values, 2, axis=0), 2, axis=1)[::2, ::2]
    if kind == "frozen":
        values.setflags(write=False)
    return {
        "object": values.astype(object),
        "complex": values.astype(complex),
        "nan": np.full((n, d), np.nan),
        "empty": values[:0],
        "flat": values.ravel(),
    }.get(kind, values)


def numbers_in(result, infinite):
    if dataclasses.is_dataclass(result):
        result = tuple(getattr(result, field.name) for field in dataclasses.fields(result))
    if isinstance(result, tuple | list):
        return all(numbers_in(item, infinite) for item in result)
    if isinstance(result, dict):
        return numbers_in(tuple(result.values()), infinite)
    if isinstance(result, float | np.ndarray):
        return not np.isnan(result).any() if infinite else np.isfinite(result).all()
    return result is None or isinstance(result, bool | int | str | np.integer | np.random.Generator)


def answers(function, *arguments, infinite=False, **options):
    """Finite numbers (or ±∞ where that is an answer), or one line of refusal; never a warning, never anything else."""
    refusal = None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            result = function(*arguments, **options)
        except TypeCheckError:
            return  # the typing hook was first
        except ArgumentError as error:
            refusal = str(error)
    if refusal is None:
        assert numbers_in(result, infinite), result
    else:
        assert 10 < len(refusal) < 1000
        assert "\n" not in refusal


def is_refused(call, words):
    """One line of refusal that says this, and no warning; with the typing hook and without."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ArgumentError, match=words) as refusal:
            call()
    assert "\n" not in str(refusal.value)
