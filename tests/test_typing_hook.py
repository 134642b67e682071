"""The hook that checks every array's shape: what was checked once is remembered, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from jaxtyping import Float, TypeCheckError

from tests import typing_hook

Rows = Float[np.ndarray, "n d"]
Row = Float[np.ndarray, " d"]
RIGHT = np.zeros((3, 2)), np.zeros(2)


def hooked(function):
    return typing_hook.jaxtyped(function, typechecker=typing_hook.checked)


@hooked
def taken(x: Rows, y: Row, *others: int, result: object = None) -> Row:
    return y if result is None else result


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((np.zeros((3, 2)), np.zeros(3)), {}),  # the axis that they share
        ((np.zeros((3, 2, 1)), np.zeros(2)), {}),
        ((np.zeros((3, 2), dtype=int), np.zeros(2)), {}),
        (([[0.0, 0.0]], np.zeros(2)), {}),
        ((*RIGHT, 1.5), {}),
        (RIGHT, {"result": np.zeros(3)}),
        (RIGHT, {"result": np.zeros((2, 1))}),
        (RIGHT, {"result": [0.0, 0.0]}),
        (RIGHT, {"result": {}}),
    ],
)
def test_a_wrong_call_is_found_after_right_ones(arguments, options):
    for _ in range(3):
        taken(*RIGHT)
        taken(*RIGHT, 1, 2, result=np.ones(2))
    for _ in range(2):  # what was wrong once is not remembered as right
        with pytest.raises(TypeCheckError):
            taken(*arguments, **options)


def test_a_result_of_another_kind_than_before_is_checked():
    results = [np.zeros(2), np.zeros(2), np.zeros(3), {}]

    @hooked
    def changing(x: Rows) -> Row:
        return results.pop(0)

    changing(RIGHT[0]), changing(RIGHT[0])
    for _ in range(2):
        with pytest.raises(TypeCheckError, match="the return value of"):
            changing(RIGHT[0])


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (tuple[Row, Row], RIGHT[1:] * 2, (RIGHT[1], np.zeros(3))),
        (list[Row], [*RIGHT[1:]], [np.zeros(2, dtype=int)]),
        (Mapping[str, Row], {"a": RIGHT[1]}, {"a": np.zeros((2, 2))}),
        (list[Row], [*RIGHT[1:]] * 20, [np.zeros((2, 2))] * 20),
        (Mapping[int, Row], dict.fromkeys(range(20), RIGHT[1]), dict.fromkeys(range(20), np.zeros((2, 2)))),
    ],
)
def test_what_a_container_holds_is_checked(kind, right, wrong):
    def held(x, y):
        return y

    held.__annotations__ = {"x": Rows, "y": kind, "return": kind}
    function = hooked(held)
    assert function(RIGHT[0], right) is function(RIGHT[0], right) is right
    with pytest.raises(TypeCheckError):
        function(RIGHT[0], wrong)


def test_what_was_checked_once_is_not_checked_again(monkeypatch):
    @hooked
    def last(rows: Mapping[str, Row]) -> Row:
        return rows["b"]

    taken(*RIGHT), last({"a": np.zeros(2), "b": RIGHT[1]})
    monkeypatch.setattr(typing_hook, "both", None)
    monkeypatch.setattr(type(Row), "__instancecheck__", lambda *_: pytest.fail("checked again"))
    assert taken(*(array.copy() for array in RIGHT)).shape == (2,)
    assert last({"a": np.ones(2), "b": RIGHT[1]}).shape == (2,)


def test_a_function_without_shapes_is_beartype_s():
    @hooked
    def plain(x: float) -> float:
        return x

    assert plain(1) == 1
    with pytest.raises(TypeCheckError):
        plain("1")


def test_functions_of_one_code_share_their_check_and_nothing_else():
    def adding(n):
        @hooked
        def added(x: float) -> float:
            return x + n

        return added

    assert [adding(n)(1.0) for n in (1, 2, 2.5)] == [2.0, 3.0, 3.5]
    assert len({one for one in typing_hook.ONCE if (one[0].co_name, one[0].co_filename) == ("added", __file__)}) == 1
    for wrong, x in ((1, "1"), (1j, 1.0)):
        with pytest.raises(TypeCheckError):
            adding(wrong)(x)
