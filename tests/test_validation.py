"""What validation lets through, what it turns away, and in which words."""

import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from allora_analysis import validation
from allora_analysis.validation import ArgumentError

REAL_DTYPES = ("float64", "float32", "float16", "int64", "int8", "uint8", "bool")


def test_masked_entries_are_refused():
    masked = np.ma.masked_values([1.0, 999.0], 999.0)
    with pytest.raises(ArgumentError, match="x: has masked entries"):
        validation.vector("x", masked)
    with pytest.raises(ArgumentError, match="x: has masked entries"):
        validation.matrix("x", [masked, masked])
    assert list(validation.vector("x", np.ma.masked_values([1.0, 2.0], 999.0))) == [1.0, 2.0]


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(REAL_DTYPES).flatmap(
        lambda dtype: st_numpy.arrays(
            dtype,
            st_numpy.array_shapes(min_dims=1, max_dims=3, max_side=4),
            elements=st_numpy.from_dtype(np.dtype(dtype), allow_nan=False, allow_infinity=False),
        )
    )
)
def test_arrays_become_float64_copies_of_the_same_values(array):
    checks = {1: validation.vector, 2: validation.matrix}
    for check in {validation.finite, checks.get(array.ndim, validation.finite)}:
        converted = check("x", array)
        assert converted.dtype == np.float64
        assert converted.shape == array.shape
        np.testing.assert_array_equal(converted, array.astype(float))
        assert not np.shares_memory(converted, array)


def test_lists_and_scalars_are_arrays_too():
    assert validation.matrix("x", [[1, 2], [3, 4]]).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert validation.vector("x", [1, 2.5]).tolist() == [1.0, 2.5]
    assert validation.finite("x", 3).shape == ()
    assert validation.matrix_of("w", [[1.0], [2.0]], (2, None), "D of x").shape == (2, 1)
    assert validation.matrix_of("w", [[1.0], [2.0]], (None, 1), "C of y").shape == (2, 1)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: validation.matrix("x", [1.0, 2.0]), "x: shape (2,) received; give a matrix (two dimensions)"),
        (lambda: validation.matrix("x", np.ones((2, 0))), "x: shape (2, 0) received"),
        (lambda: validation.matrix("x", [[1.0], [1.0, 2.0]]), "x: rows of different lengths; give a matrix"),
        (lambda: validation.matrix("x", [[1j]]), "x: real numbers wanted, received dtype complex128"),
        (lambda: validation.matrix("x", [["a"]]), "x: real numbers wanted"),
        (lambda: validation.matrix("x", [[1.0, math.nan]]), "every entry must be finite, received nan at index (0, 1)"),
        (lambda: validation.matrix("x", [[1.0], [-math.inf]]), "received -inf at index (1, 0)"),
        (lambda: validation.vector("x", [[1.0]]), "x: shape (1, 1) received; give a vector (one dimension)"),
        (lambda: validation.vector("x", []), "x: shape (0,) received"),
        (lambda: validation.finite("x", []), "x: shape (0,) received; give numbers"),
        (lambda: validation.finite("x", math.nan), "received nan at index ()"),
        (
            lambda: validation.matrix_of("w", [[1.0]], (2, None), "D of x"),
            "w: shape (1, 1) received, 2 × any wanted, to match D of x",
        ),
        (lambda: validation.number("eta", "1.0"), "eta must be a finite number, received '1.0'"),
        (lambda: validation.number("eta", None), "eta must be a finite number, received None"),
        (lambda: validation.number("eta", True), "eta must be a finite number, received True"),
        (lambda: validation.number("eta", np.array([1.0])), "eta must be a finite number, received array([1.])"),
        (lambda: validation.number("eta", math.nan), "received nan"),
        (lambda: validation.number("eta", -math.inf), "received -inf"),
        (lambda: validation.number("eta", 10**400), "eta must be a finite number"),
        (lambda: validation.number("eta", 1j), "eta must be a finite number"),
        (lambda: validation.keep_probability(0.0), "keep_prob must be a keep probability in (0, 1]: 1 - (drop rate)"),
        (lambda: validation.keep_probability(-0.1), "received -0.1"),
        (lambda: validation.keep_probability(1.0000001), "received 1.0000001"),
        (lambda: validation.keep_probability(math.nan), "received nan"),
        (lambda: validation.keep_probability("half", "keep"), "keep must be a keep probability"),
        (lambda: validation.positive("rate", 0.0), "rate must be a finite number above 0, received 0.0"),
        (lambda: validation.positive("rate", -1), "received -1"),
        (lambda: validation.positive("rate", math.inf), "rate must be a finite number above 0, received inf"),
        (lambda: validation.non_negative("penalty", -1e-9), "penalty must be a finite number, 0 or above"),
        (lambda: validation.non_negative("penalty", math.inf), "received inf"),
        (lambda: validation.count("steps", 0), "steps must be a whole number, 1 or above, received 0"),
        (lambda: validation.count("steps", 2.0), "steps must be a whole number, 1 or above, received 2.0"),
        (lambda: validation.count("steps", True), "received True"),
        (lambda: validation.count("steps", "3"), "received '3'"),
        (lambda: validation.count("steps", 5, 1, 4), "steps must be a whole number in [1, 4], received 5"),
        (lambda: validation.count("steps", 10**19), "steps must be at most 9.2e+18, received 10000000000000000000"),
        (lambda: validation.count("steps", -1, 0), "steps must be a whole number, 0 or above, received -1"),
        (lambda: validation.adapter_rank(5, 4, 8), "rank must be at most min(n1, n2) = 4, received 5"),
        (lambda: validation.adapter_rank(0, 4, 8), "rank must be a whole number, 1 or above"),
        (lambda: validation.choice("placement", "in", ("output", "input")), "one of output, input; received 'in'"),
        (
            lambda: validation.count("steps", -(10**5000)),
            "steps must be a whole number, 1 or above, received an integer",
        ),
        (lambda: validation.number("eta", [0.5] * 10**5), "… (500,000 characters)"),
        (lambda: validation.matrix("x", [[np.longdouble("1e4000")]]), "x: every entry must be finite, received inf"),
        (lambda: validation.choice("placement", ["in"], ("in", "out")), "one of in, out; received ['in']"),
        (lambda: validation.one_or_more("eta", [1.0, (1.0,)]), "eta: rows of different lengths"),
        (lambda: validation.one_or_more("eta", [[1.0]]), "eta: shape (1, 1) received; give a vector"),
        (lambda: validation.fits("draws", 2.0**28, "so many"), "draws: so many would need 2 GiB, more than 1"),
        (lambda: validation.several("eta", ()), "eta must have at least one value, received none"),
        (lambda: validation.several("eta", iter([])), "eta must have at least one value"),
        (lambda: validation.several("eta", "0.5"), "eta must be a sequence of values, received '0.5'"),
    ],
)
def test_bad_input_is_named_with_what_was_received_and_what_would_work(call, words):
    with pytest.raises(ArgumentError) as error:
        call()
    assert words in str(error.value)
    assert isinstance(error.value, ValueError)


@pytest.mark.bad_input
def test_an_error_is_one_line_even_for_an_array():
    with pytest.raises(ArgumentError) as error:
        validation.number("eta", np.arange(4000.0).reshape(2, 2000))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("eta must be a finite number, received array([[")


@settings(deadline=None, max_examples=40)
@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**9), 10**9))
def test_numbers_pass_unchanged_on_their_side_of_zero(value):
    assert validation.number("x", value) == value
    assert validation.number("x", np.float64(value)) == value
    for check, allowed in ((validation.positive, value > 0), (validation.non_negative, value >= 0)):
        if allowed:
            assert check("x", value) == value
        else:
            with pytest.raises(ArgumentError):
                check("x", value)


def test_edges_that_are_allowed():
    assert validation.keep_probability(1) == 1.0
    assert validation.keep_probability(sys.float_info.min) == sys.float_info.min
    with pytest.raises(ArgumentError, match="keep_prob"):
        validation.keep_probability(5e-324)  # its inverse is no number
    assert validation.non_negative("x", 0) == 0.0
    assert validation.count("x", np.int32(4), 4, 4) == 4
    assert type(validation.count("x", np.uint8(3))) is int
    assert validation.adapter_rank(4, 4, 8) == 4
    assert validation.choice("placement", "input", ("output", "input")) == "input"
    assert validation.several("eta", [1]) == (1,)
    assert validation.several("eta", (value for value in "ab")) == ("a", "b")


@validation.representable("x", "rows")
def table(x, rows=1, kind=float):
    if kind is MemoryError:
        raise MemoryError
    return {"a": (kind(x * x), np.full(rows, x * x))}


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: table(np.float64(1e200)), "x 1e+200: the result leaves double precision's range"),
        (lambda: table(10**200, kind=lambda square: float(square**2)), "the result leaves double precision's range"),
        (lambda: table(2.0, kind=lambda square: square / 0), "the result leaves double precision's range"),
        (lambda: table(2.0, 10**19), "x, rows: an array larger than any memory; ask for less"),
        (lambda: table(2.0, kind=MemoryError), "x, rows: not enough memory; ask for smaller sizes"),
    ],
)
def test_a_result_that_is_no_number_is_refused_at_the_door(call, words):
    with pytest.raises(ArgumentError) as error:
        call()
    assert words in str(error.value).replace("np.float64(1e+200)", "1e+200")


def test_a_result_of_numbers_passes_the_door_and_so_does_another_error():
    assert table(2.0)["a"][0] == 4.0
    with pytest.raises(ValueError, match="could not convert"):
        table(2.0, kind=lambda square: float("four"))
