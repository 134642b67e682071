"""The type checker that the import hook applies to every function of the package.

jaxtyping binds and checks the arguments of every call twice, for the axes that its shapes share; a protocol is asked
for its methods at every call; a function within another is decorated at every call of that: in more time than most of
our functions take. So these are checked once for each combination of types, dtypes and shapes that their code is called
with: nothing else makes a difference to the answer. The others are beartype's alone. Where a formula is planted in a
row that is checked elsewhere as it is, even to ask whether a kind is known takes more time than the formula: `off`.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Collection, Iterator
from threading import local
from types import FunctionType
from typing import Any, ParamSpecArgs, ParamSpecKwargs, get_args, get_origin, get_type_hints

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


def known_hints(function: FunctionType) -> dict[str, Any] | None:
    """A function's annotations; None where they are not all known yet: a class not made, a name for type checkers."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception:
        return None
    for name, hint in [*hints.items()]:
        if isinstance(hint, ParamSpecArgs | ParamSpecKwargs):  # anything, and beartype wants no text of it
            del function.__annotations__[name], hints[name]
    return hints


class Anew(Exception):
    """A value that every call checks anew: what it holds can change, or is too much to remember."""


def anew(value: Any) -> Any:
    raise Anew


def of_items(value: tuple | list) -> Any:
    return (type(value), *map(kind, value)) if len(value) <= 16 else anew(value)


def of_mapping(value: dict) -> Any:
    return (type(value), of_items([*value]), of_items([*value.values()]))


class Signers(dict):
    """By a value's type, the function that gives all that a check can ask of it."""

    def __missing__(self, of: type) -> Callable[[Any], Any]:
        if hasattr(of, "shape") and hasattr(of, "dtype"):
            self[of] = lambda value: (of, value.dtype, value.shape)
        elif issubclass(of, str | type):  # a Literal's choice, a class where one is wanted
            self[of] = lambda value: value
        elif issubclass(of, tuple | list):
            self[of] = of_items
        elif issubclass(of, dict):
            self[of] = of_mapping
        else:
            self[of] = anew if issubclass(of, Collection) else type
        return self[of]


SIGNERS = Signers()


def kind(value: Any) -> Any:
    """The value's type; of arrays the dtype and shape too, of tuples, lists and dicts those of what is in them."""
    return SIGNERS[type(value)](value)


both = _decorator.jaxtyped


on = True


@contextlib.contextmanager
def off() -> Iterator[None]:
    """Arrays' shapes are not checked in here."""
    global on
    before, on = on, False
    try:
        yield
    finally:
        on = before


class Once:
    """The check, by jaxtyping or beartype alone, of all functions with one code and its annotations."""

    def __init__(self, function: FunctionType, hints: dict[str, Any], check: Callable[[FunctionType], Any]):
        now = self.now = local()

        def called(*args, **kwargs):
            return now.function(*args, **kwargs)

        # jaxtyping looks the annotations' names up where the function was written.
        called = FunctionType(called.__code__, function.__globals__, closure=called.__closure__)
        functools.update_wrapper(called, function)
        called.__annotations__ = hints
        self.called, self.check, self.seen = called, check, set()

    @functools.cached_property
    def checked(self) -> FunctionType:
        return self.check(self.called)

    def __call__(self, function: FunctionType) -> FunctionType:
        """The function, checked at the first call of each kind: of arguments, and of results to them."""
        seen = self.seen

        def checked(of, args, kwargs):
            __tracebackhide__ = True
            self.now.function = of
            return self.checked(*args, **kwargs)

        @functools.wraps(function)
        def remembered(*args, **kwargs):
            __tracebackhide__ = True
            if not on:
                return function(*args, **kwargs)
            try:
                key = (*map(kind, args), *kwargs, *map(kind, kwargs.values()))
            except Anew:
                return checked(function, args, kwargs)
            known = key in seen
            out = function(*args, **kwargs) if known else checked(function, args, kwargs)
            try:
                whole = (key, kind(out))
            except Anew:
                whole = key
            else:
                if whole in seen:
                    return out
            if known:
                checked(lambda *_, **__: out, args, kwargs)
            seen.update((key, whole))
            return out

        return remembered


def has_protocol(hint: Any) -> bool:
    """Whether an annotation asks a value for its methods, as NumPy's ArrayLike does."""
    return getattr(get_origin(hint) or hint, "_is_protocol", False) or any(map(has_protocol, get_args(hint)))


ONCE: dict[tuple[Any, ...], Once] = {}


def jaxtyped(function: Any = None, *, typechecker: Any) -> Any:
    """In the place of jaxtyping's decorator, which the hook writes above every function and class."""
    if function is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if not inspect.isfunction(function):
        return both(function, typechecker=typechecker)
    code = (function.__code__, *function.__annotations__.values())
    if code not in ONCE:
        if (hints := known_hints(function)) is None:  # jaxtyping's to sort out
            return both(function, typechecker=typechecker)
        shaped, slow = (any(map(of, hints.values())) for of in (has_shape, has_protocol))
        if not shaped and not slow and "<locals>" not in function.__qualname__:
            return checked(function)
        ONCE[code] = Once(function, hints, functools.partial(both, typechecker=typechecker) if shaped else checked)
    return ONCE[code](function)


jaxtyping.jaxtyped = _decorator.jaxtyped = jaxtyped
