"""Checks of what a caller passes in: each returns the value in the toolkit's own type or raises `ArgumentError`.

Every public function converts its arguments here, once, and hands the shape-typed cores behind it float64 arrays that
are finite, non-empty and of the right rank. Each error names the argument, the value received and what would work.
Checked by `tests/test_validation.py`.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import inspect
import math
import operator
import os
import stat
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

P, R = ParamSpec("P"), TypeVar("R")

# How NumPy refuses an array whose size in bytes is no 64-bit number: as a ValueError.
TOO_LARGE = ("array is too big", "Maximum allowed dimension", "Maximum allowed size", "iterator is too large")
LONGEST = 200  # characters of a received value that an error shows
COUNTABLE = 2**63 - 1  # no loop ends and no array begins beyond
HELD = 2**27  # numbers that one call may hold: 1 GiB


class ArgumentError(ValueError):
    """A caller's mistake, in one line: which argument, what was received, what would work."""

    def __init__(self, message: str):
        # A received array prints on several lines.
        super().__init__(" ".join(line.strip() for line in message.splitlines()))


def shown(value: Any) -> str:
    """A received value as an error shows it: cut where it is long, whatever its type makes of `repr`."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        text = f"an integer of {value.bit_length()} bits"
    return cut(text)


def cut(text: str) -> str:
    """A text as an error shows it: cut where it is long."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text):,} characters)"


def representable(
    *names: str, infinite: bool = False, undefined: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A public function's results are numbers of float64, or refused in a line that names these arguments, or all."""

    # Nothing on the way warns: what overflowed shows in the result. `infinite` lets ±∞ pass where it is an answer,
    # `undefined` NaN.
    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def door(*args: P.args, **options: P.kwargs) -> R:
            try:
                with np.errstate(all="ignore"):
                    result = function(*args, **options)
                if undefined or _has_numbers_only(result, infinite):
                    return result
            except (OverflowError, ZeroDivisionError, np.linalg.LinAlgError):
                pass
            except MemoryError as error:
                raise ArgumentError(
                    f"{', '.join(names or signature.parameters)}: not enough memory; ask for smaller sizes"
                ) from error
            except ValueError as error:
                if not str(error).startswith(TOO_LARGE):
                    raise
                told = ", ".join(names or signature.parameters)
                raise ArgumentError(f"{told}: an array larger than any memory; ask for less") from error
            received = signature.bind(*args, **options).arguments
            sizes = ", ".join(f"{name} {_size(received[name])}" for name in names or received if name in received)
            raise ArgumentError(f"{sizes}: the result leaves double precision's range; give less extreme numbers")

        return door

    return decorate


def _size(value: Any) -> str:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, OverflowError):
        return shown(value)
    if array.dtype.kind not in "biuf":
        return shown(value)
    if array.size > 10**7:  # may be a view that repeats one number
        return f"of shape {array.shape}"
    return shown(value) if array.ndim == 0 or not array.size else f"of up to {np.abs(array).max():.3g}"


def _has_numbers_only(result: Any, infinite: bool) -> bool:
    if dataclasses.is_dataclass(result):
        return all(_has_numbers_only(getattr(result, field.name), infinite) for field in dataclasses.fields(result))
    if isinstance(result, Mapping):
        result = tuple(result.values())
    if isinstance(result, tuple | list):
        return all(_has_numbers_only(item, infinite) for item in result)
    if not isinstance(result, float | np.floating | np.ndarray) or np.asarray(result).dtype.kind != "f":
        return True
    return not np.isnan(result).any() if infinite else bool(np.isfinite(result).all())


def fits(name: str, numbers: float, what: str) -> None:
    """Refuse what would hold more than 1 GiB, before it is allocated, on whatever machine."""
    if numbers > HELD:  # of whole numbers beyond float64 too
        size = "more than 1e300" if numbers > 1e300 else f"{numbers * 8 / 2**30:.3g}"
        raise ArgumentError(f"{name}: {what} would need {size} GiB, more than 1; ask for less")


def _array(name: str, value: ArrayLike, dimensions: int | None, shape_words: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ArgumentError(f"{name}: rows of different lengths; give {shape_words}") from error
    except (TypeError, OverflowError, RuntimeError) as error:  # RuntimeError: a tensor that wants its gradient
        raise ArgumentError(f"{name}: no array ({error}); give {shape_words}") from error
    if any(map(np.ma.is_masked, value if isinstance(value, list | tuple) else (value,))):
        raise ArgumentError(f"{name}: has masked entries; fill them or leave their rows out")
    if array.dtype.kind not in "biuf":
        raise ArgumentError(f"{name}: real numbers wanted, received dtype {array.dtype}")
    if (dimensions is not None and array.ndim != dimensions) or array.size == 0:
        raise ArgumentError(f"{name}: shape {array.shape} received; give {shape_words}, none of its sizes 0")
    try:
        with np.errstate(over="ignore"):  # a longdouble beyond float64's range becomes ∞, which is refused below
            array = array.astype(np.float64)
    except MemoryError as error:
        raise ArgumentError(f"{name}: shape {array.shape} is more than memory holds; give a smaller one") from error
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ArgumentError(f"{name}: every entry must be finite, received {array[where]} at index {where}")
    return array


def matrix(name: str, value: ArrayLike) -> Float[np.ndarray, "rows columns"]:
    """A finite float64 matrix with at least one row and one column (a copy)."""
    return _array(name, value, 2, "a matrix (two dimensions)")


def vector(name: str, value: ArrayLike) -> Float[np.ndarray, " size"]:
    """A finite, non-empty float64 vector (a copy); arguments as in `matrix`."""
    return _array(name, value, 1, "a vector (one dimension)")


def ascending(times: ArrayLike) -> Float[np.ndarray, " size"]:
    """Moments, each later than the one before, from 0 or later to above 0."""
    result = vector("times", times)
    if result[0] < 0 or not result[-1] > 0 or (np.diff(result) <= 0).any():
        raise ArgumentError("times must ascend, each later than the one before, from 0 or later to above 0")
    return result


def finite(name: str, value: ArrayLike) -> Float[np.ndarray, "*shape"]:
    """A finite, non-empty float64 array of any rank, a scalar's included (a copy); arguments as in `matrix`."""
    return _array(name, value, None, "numbers or an array of them")


def one_or_more(name: str, value: ArrayLike) -> Float[np.ndarray, " size"]:
    """One finite number or a vector of them, as a float64 vector (a copy)."""
    array = finite(name, value)
    return array.reshape(1) if array.ndim == 0 else vector(name, array)


def matrix_of(name: str, value: ArrayLike, shape: tuple[int | None, int | None], why: str) -> np.ndarray:
    """A matrix whose shape must match; None in `shape` leaves that size free."""
    array = matrix(name, value)
    if any(want is not None and want != got for want, got in zip(shape, array.shape, strict=True)):
        wanted = " × ".join("any" if size is None else str(size) for size in shape)
        raise ArgumentError(f"{name}: shape {array.shape} received, {wanted} wanted, to match {why}")
    return array


def number(name: str, value: Any, allowed: str = "a finite number") -> float:
    """A finite real number."""
    try:
        result = math.nan if isinstance(value, bool | np.bool_ | str | np.ndarray) else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ArgumentError(f"{name} must be {allowed}, received {shown(value)}") from error
    if not math.isfinite(result):
        raise ArgumentError(f"{name} must be {allowed}, received {shown(value)}")
    return result


def keep_probability(value: Any, name: str = "keep_prob") -> float:
    """A keep probability, in (0, 1]: 1 keeps everything. PyTorch's `Dropout` takes 1 − keep_prob."""
    allowed = "a keep probability in (0, 1]: 1 - (drop rate)"
    result = number(name, value, allowed)
    if not sys.float_info.min <= result <= 1.0:  # below that 1/p is no number
        raise ArgumentError(f"{name} must be {allowed}, received {shown(value)}")
    return result


def drop_rate(name: str, value: Any) -> float:
    """A drop rate, in [0, 1): 0 drops nothing."""
    allowed = "a drop rate in [0, 1)"
    result = number(name, value, allowed)
    if not 0.0 <= result < 1.0:
        raise ArgumentError(f"{name} must be {allowed}, received {shown(value)}")
    return result


def probability(name: str, value: Any) -> float:
    """A probability strictly between 0 and 1."""
    allowed = "a probability strictly between 0 and 1"
    result = number(name, value, allowed)
    if not 0.0 < result < 1.0:
        raise ArgumentError(f"{name} must be {allowed}, received {value!r}")
    return result


def positive(name: str, value: Any) -> float:
    """A finite number above 0."""
    result = number(name, value, "a finite number above 0")
    if result <= 0:
        raise ArgumentError(f"{name} must be a finite number above 0, received {shown(value)}")
    return result


def non_negative(name: str, value: Any) -> float:
    """A finite number, 0 or above."""
    result = number(name, value, "a finite number, 0 or above")
    if result < 0:
        raise ArgumentError(f"{name} must be a finite number, 0 or above, received {shown(value)}")
    return result


def count(name: str, value: Any, minimum: int = 1, maximum: int | None = None) -> int:
    """A whole number in [minimum, maximum]."""
    allowed = f"a whole number, {minimum} or above" if maximum is None else f"a whole number in [{minimum}, {maximum}]"
    try:
        result = operator.index(value)
    except TypeError as error:
        raise ArgumentError(f"{name} must be {allowed}, received {shown(value)}") from error
    if isinstance(value, bool) or result < minimum or (maximum is not None and result > maximum):
        raise ArgumentError(f"{name} must be {allowed}, received {shown(value)}")
    if result > COUNTABLE:
        raise ArgumentError(f"{name} must be at most {COUNTABLE:.2g}, received {shown(value)}")
    return result


def adapter_rank(value: Any, n1: int, n2: int) -> int:
    """A LoRA rank, 1 ≤ r ≤ min(n₁, n₂)."""
    result = count("rank", value)
    if result > min(n1, n2):
        raise ArgumentError(f"rank must be at most min(n1, n2) = {min(n1, n2)}, received {shown(value)}")
    return result


def choice(name: str, value: Any, allowed: Collection[str]) -> str:
    """One of a few words."""
    if not isinstance(value, str) or value not in allowed:
        raise ArgumentError(f"{name} must be one of {', '.join(allowed)}; received {shown(value)}")
    return value


def several(name: str, values: Iterable[Any], size: int | None = None) -> tuple[Any, ...]:
    """At least one value, or exactly `size`."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        raise ArgumentError(f"{name} must be a sequence of values, received {shown(values)}")
    result = tuple(values)
    if not result or (size is not None and len(result) != size):
        wanted = "at least one value" if size is None else f"{size} values"
        raise ArgumentError(f"{name} must have {wanted}, received {len(result) or 'none'}")
    return result


def named(name: str, values: Mapping[Any, ArrayLike]) -> dict[Any, Float[np.ndarray, " size"]]:
    """At least one vector, each under its key."""
    return {key: vector(name, values[key]) for key in several(name, mapping(name, values, "vectors"))}


def mapping(name: str, values: Mapping[Any, Any], what: str) -> Mapping[Any, Any]:
    """A mapping of names to what the words say; their values are not looked at."""
    if not isinstance(values, Mapping):
        raise ArgumentError(f"{name} must be a mapping of names to {what}, received {shown(values)}")
    return values


def ending(path: Path) -> Path:
    """The path, unless it is a pipe or a device, whose reading may wait for ever or never end; raises OSError."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "a pipe or a device, a file wanted", str(path))
    return path


# Packages that the extra `llm` installs, directly or through these.
LLM = ("accelerate", "datasets", "gguf", "huggingface_hub", "peft", "safetensors", "tokenizers", "transformers")


def not_installed(name: str) -> str:
    """What is said of a package of the extra `llm` that is not there."""
    return f"{name} is not installed: pip install 'allora-analysis[llm]'"


def installed(*names: str) -> None:
    """Refuse to go on without packages of the extra `llm`."""
    for name in names:
        if find_spec(name) is None:
            raise ArgumentError(not_installed(name))


def unit_scaled(array: Float[np.ndarray, "*shape"]) -> tuple[Float[np.ndarray, "*shape"], int]:
    """The array over the power of two 2ᵉ just above its largest entry, in [−1, 1] without rounding, and e."""
    exponent = math.frexp(float(np.abs(array).max()))[1]
    return np.ldexp(array, -exponent), exponent
