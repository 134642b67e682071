"""The size of an effect and the ends of an interval as a reader sees them: no more digits than they carry.

Checked by `tests/test_ledger.py`.
"""

import math
from collections.abc import Callable, Sequence

from allora_analysis.claims.claim import USUAL, Size
from allora_analysis.study import bound, text


def size_text(size: Size | None) -> str:
    """How large an effect is, in one line; an interval's ends are rounded outwards and named unless they are usual."""
    if size is None:
        return ""
    unit = f" {size.unit}" if size.unit and not size.unit.startswith("%") else f" {size.unit}".replace(" %", " %")
    value, *ends = _around_zero(size) or _in_digits(size)
    between = " to ".join(ends)
    if len(ends) == 1:
        between = f"at {'least' if size.low is not None else 'most'} {between}"
    kind = "" if size.ends == USUAL else f"{size.ends}: "
    return f"{value}{unit.rstrip()}{between and f' ({kind}{between})'}"


def _in_digits(size: Size) -> list[str]:
    # The value and the ends that there are, in significant digits.
    sides = [(end, up) for end, up in ((size.low, False), (size.high, True)) if end is not None]
    near = _nearest if size.ends == "range" else outwards
    digits = _digits(sides, near)
    ends = [_rounded(near(end, digits, up), digits, end) for end, up in sides if digits]
    return [_rounded(size.value, max(digits, 2), size.value), *ends]


def _around_zero(size: Size) -> list[str]:
    # The value and both ends of an interval that holds 0, in the places that two digits of its width take, or three
    # where two move an end by a twentieth of the width: an end near 0 would look more exact than the other with two
    # digits of its own. Of any other size nothing.
    low, high = size.low, size.high
    if size.ends == "range" or low is None or high is None or not -math.inf < low < 0 < high < math.inf:
        return []
    places = max(1 - math.floor(math.log10(high - low)), 0)
    places += max(low - bound(low, places, False), bound(high, places, True) - high) > (high - low) / 20
    told = (size.value, bound(low, places, False), bound(high, places, True))
    return [f"{one if round(one, places) else 0:.{places}f}" for one in told]


def _digits(sides: Sequence[tuple[float, bool]], near: Callable[[float, int, bool], float]) -> int:
    # Two, or three where two move an end by a tenth of the width; none for ends that are one number, which say nothing.
    if len({text(end, 3) for end, _ in sides}) < len(sides):
        return 0
    width = sides[-1][0] - sides[0][0] if len(sides) > 1 else math.inf
    return 2 if all(abs(near(end, 2, up) - end) <= width / 10 for end, up in sides) else 3


def _nearest(end: float, digits: int, up: bool) -> float:
    return float(f"{end:.{digits}g}")


def outwards(end: float, digits: int, up: bool) -> float:
    """An interval's end rounded to so many significant digits, up or down: away from the interval's middle."""
    return bound(end, digits - 1 - math.floor(math.log10(abs(end))), up) if end and math.isfinite(end) else end


def _rounded(value: float, digits: int, exact: float) -> str:
    # As `text`, without an exponent for what is read at a glance: 300, not 3e+02; what is no whole number as 1.0.
    found = text(value, digits)
    if found.lstrip("-").isdigit() and abs(exact) < 10 and abs(exact - round(exact)) > 1e-6:
        return f"{value:.{digits - 1}f}"
    return f"{float(found):.0f}" if "e+0" in found else found
