"""The type checker that the import hook applies to every function of the package.

jaxtyping binds and checks the arguments of every call twice, for the axes that its shapes share. A function without a
shape in its signature shares none: beartype alone checks the same there, in a fraction of the time.
"""

from __future__ import annotations

import inspect
from functools import partial
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


def alone(function: Any) -> bool:
    """Whether beartype alone does: every annotation is known already, and none has a shape."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception:  # a class that is not made yet, a name for type checkers only: jaxtyping's to sort out
        return False
    for name, hint in hints.items():
        if isinstance(hint, ParamSpecArgs | ParamSpecKwargs):  # anything, and beartype wants no text of it
            del function.__annotations__[name]
    return not any(map(has_shape, hints.values()))


both = _decorator.jaxtyped


def jaxtyped(function: Any = None, *, typechecker: Any) -> Any:
    """In the place of jaxtyping's decorator, which the hook writes above every function and class."""
    if function is None:
        return partial(jaxtyped, typechecker=typechecker)
    if inspect.isfunction(function) and alone(function):
        return checked(function)
    return both(function, typechecker=typechecker)


jaxtyping.jaxtyped = _decorator.jaxtyped = jaxtyped
