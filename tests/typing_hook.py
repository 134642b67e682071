"""The type checker that the import hook applies to every function of the package.

jaxtyping binds and checks the arguments of every call twice, for the axes that its shapes share, in more time than most
of our functions take. So a function without a shape in its signature is checked by beartype alone, and one with shapes
once for each combination of types, dtypes and shapes that it is called with: the answer depends on nothing else.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from threading import local
from types import FunctionType
from typing import Any, ParamSpecArgs, ParamSpecKwargs, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, TypeCheckError, _decorator

# An int is a float here, as PEP 484 has it.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=TypeCheckError))


def has_shape(hint: Any) -> bool:
    """Whether an annotation is of arrays with a shape, or of anything made of them."""
    if isinstance(hint, list):  # a Callable's arguments
        return any(map(has_shape, hint))
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or any(map(has_shape, get_args(hint)))


def shapes(function: Any) -> bool | None:
    """Whether a function's annotations have shapes; None where they are not all known yet."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception:  # a class that is not made yet, a name for type checkers only: jaxtyping's to sort out
        return None
    for name, hint in hints.items():
        if isinstance(hint, ParamSpecArgs | ParamSpecKwargs):  # anything, and beartype wants no text of it
            del function.__annotations__[name]
    return any(map(has_shape, hints.values()))


class Anew(Exception):
    """A value that every call checks anew: what it holds can change, or is too much to remember."""


def anew(value: Any) -> Any:
    raise Anew


def of_items(value: tuple | list) -> Any:
    return (type(value), *map(kind, value)) if len(value) <= 16 else anew(value)


class Signers(dict):
    """By a value's type, the function that gives all that a check can ask of it."""

    def __missing__(self, of: type) -> Callable[[Any], Any]:
        if hasattr(of, "shape") and hasattr(of, "dtype"):
            self[of] = lambda value: (of, value.dtype, value.shape)
        elif issubclass(of, str | type):  # a Literal's choice, a class where one is wanted
            self[of] = lambda value: value
        elif issubclass(of, tuple | list):
            self[of] = of_items
        else:
            self[of] = anew if issubclass(of, Collection) else type
        return self[of]


SIGNERS = Signers()


def kind(value: Any) -> Any:
    """The value's type; of arrays the dtype and shape too, of tuples and lists those of what is in them."""
    return SIGNERS[type(value)](value)


both = _decorator.jaxtyped


def once(function: FunctionType, typechecker: Any) -> FunctionType:
    """The function, checked by jaxtyping at the first call of each kind: of arguments, and of results to them."""
    result, seen = local(), set()

    def given(*args, **kwargs):
        return result.value

    @functools.cache
    def checker(of_result: bool) -> Any:
        # jaxtyping looks the annotations' names up where the function was written.
        alike = FunctionType(given.__code__, function.__globals__, closure=given.__closure__)
        return both(functools.wraps(function)(alike) if of_result else function, typechecker=typechecker)

    @functools.wraps(function)
    def remembered(*args, **kwargs):
        __tracebackhide__ = True
        try:
            key = (*map(kind, args), *kwargs, *map(kind, kwargs.values()))
        except Anew:
            return checker(False)(*args, **kwargs)
        known = key in seen
        out = (function if known else checker(False))(*args, **kwargs)
        try:
            whole = (key, kind(out))
        except Anew:
            whole = key
        else:
            if whole in seen:
                return out
        if known:
            result.value = out
            checker(True)(*args, **kwargs)
        seen.update((key, whole))
        return out

    return remembered


def jaxtyped(function: Any = None, *, typechecker: Any) -> Any:
    """In the place of jaxtyping's decorator, which the hook writes above every function and class."""
    if function is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if inspect.isfunction(function):
        shaped = shapes(function)
        if shaped is not None:
            return once(function, typechecker) if shaped else checked(function)
    return both(function, typechecker=typechecker)


jaxtyping.jaxtyped = _decorator.jaxtyped = jaxtyped
