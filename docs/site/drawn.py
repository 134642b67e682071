"""A row's evidence, or its size, as an SVG, for pages that no figure or explorable is about.

Checked by `tests/test_docs.py`.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from allora_analysis.claims.claim import Evidence, Size
from allora_analysis.plotting import COLOURS
from allora_analysis.render.html import flat
from allora_analysis.study import text

WIDTH, SIDE, MARGIN = 480, 300, 40  # of all, of the square of predictions, around it
ROWS, DOTS, LABEL = 12, 200, 62  # the most cases, dots, and letters of a case's name
PLACE = 20  # between two columns of outcomes
ROUNDING = 1e-12
TONES = (COLOURS["predicted"], COLOURS["bound"], COLOURS["plain"])  # of a case's numbers, by name


def evidence(of: Evidence) -> Markup:
    """Predicted against measured where both are numbers; else what was measured, a line a case, numbers or words.

    Args:
        of: the evidence.

    Returns:
        A <figure>; empty where there is nothing to draw.
    """
    predicted, measured = (dict(flat(side)) for side in (of.predicted, of.measured))
    sides = [([*numbers(predicted[path])], [*numbers(measured[path])]) for path in measured if path in predicted]
    pairs = [pair for told, seen in sides if len(told) == len(seen) for pair in zip(told, seen, strict=True)]
    if len(pairs) > 1:
        return _agreement(pairs[:: math.ceil(len(pairs) / DOTS)])
    by_case = _by_case(measured) or _by_case(predicted)
    if by_case:
        return _strip(by_case)
    outcomes = _outcomes(measured) or _outcomes(predicted)
    if outcomes:
        return _grid(outcomes)
    return Markup() if of.error is None or of.tolerance is None else _allowed(of.error, of.tolerance)


def _outcomes(side: Mapping[tuple[str, ...], Any]) -> dict[str, dict[str, bool]]:
    """By case what came out, yes or no, by name; a text is the name of the outcome that it begins with."""
    found: dict[str, dict[str, bool]] = {}
    for path, thing in side.items():
        for name, one in thing.items() if isinstance(thing, Mapping) else ((path[-1], thing),):
            if not isinstance(one, bool | np.bool_ | str):
                return {}
            told = {one.partition(":")[0]: True} if isinstance(one, str) else {str(name): bool(one)}
            found.setdefault(path[0], {}).update(told)
    return found if 0 < len(_columns(found)) <= len(TONES) else {}


def _columns(by_case: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [*dict.fromkeys(name for of in by_case.values() for name in of)]


def _by_case(side: Mapping[tuple[str, ...], Any]) -> dict[str, dict[str, float]]:
    """By case the numbers and their names, of which there are at most three; empty where there are more, or lists."""
    found: dict[str, dict[str, float]] = {}
    for path, thing in side.items():
        for name, one in thing.items() if isinstance(thing, Mapping) else ((", ".join(path[1:]), thing),):
            values = [*numbers(one)]
            if len(values) > 1 or (values and isinstance(one, list | tuple | np.ndarray)):
                return {}
            if values:
                found.setdefault(path[0], {})[str(name)] = values[0]
    return found if len(_columns(found)) <= len(TONES) else {}


def size(of: Size) -> Markup:
    """The size on a line with 0, and its interval where it has one.

    Args:
        of: the size.

    Returns:
        A <figure>.
    """
    ends = [end for end in (of.low, of.high) if end is not None]
    across = _scale(values := [0.0, of.value, *ends], 20, WIDTH - 40)
    bar = (
        f'<path class="interval" d="M {across(min([of.value, *ends])):.1f} 20 H {across(max([of.value, *ends])):.1f}"/>'
    )
    zero = f'<path class="zero" d="M {across(0.0):.1f} 4 V 36"/>'
    zero += f'<circle class="mean" cx="{across(of.value):.1f}" cy="20" r="6"/>'
    ticks = "".join(f'<text class="tick" x="{across(one):.0f}" y="54">{text(one, 3)}</text>' for one in _ticks(values))
    between = " and its interval or range" if ends else ""
    return _figure(zero + bar * bool(ends) + ticks, 60, f"The size above{between}, on a line with 0.")


def numbers(thing: Any) -> Iterator[float]:
    """Every finite number in what evidence holds; truth values are none.

    Args:
        thing: a number, a text, None, an array, or sequences and mappings of these.

    Yields:
        The numbers.
    """
    if isinstance(thing, np.ndarray | np.generic):
        thing = thing.tolist()
    if isinstance(thing, Mapping):
        thing = list(thing.values())
    if isinstance(thing, list | tuple):
        for one in thing:
            yield from numbers(one)
    elif isinstance(thing, int | float) and not isinstance(thing, bool) and math.isfinite(thing):
        yield float(thing)


def _rounded(values: Sequence[float]) -> list[float]:
    """What is rounding beside the largest, or altogether, is 0."""
    largest = max(map(abs, values))
    return [value if abs(value) > 1e-9 * largest and largest > ROUNDING else 0.0 for value in values]


def _scale(values: Sequence[float], start: float, length: float) -> Callable[[float], float]:
    """A place for every value, 0 included: linear near 0, logarithmic far from it."""
    unit = statistics.median([abs(value) for value in values if value] or [1.0])
    low, high = (math.asinh(end / unit) for end in (min(values), max(values)))
    wide = high - low if high - low > ROUNDING else 0.0
    return lambda value: start + length * ((math.asinh(value / unit) - low) / wide if wide else 0.5)


def _ticks(values: Sequence[float]) -> list[float]:
    ends = [min(values), max(values)] if max(values) - min(values) > ROUNDING * max(map(abs, values)) else values[:1]
    return [ends[0], 0.0, ends[-1]] if ends[0] < 0 < ends[-1] else ends


def _agreement(pairs: Sequence[tuple[float, float]]) -> Markup:
    values = _rounded([value for pair in pairs for value in pair])
    pairs = list(zip(values[::2], values[1::2], strict=True))
    across, end = _scale(values, MARGIN, SIDE), SIDE + MARGIN
    dots = "".join(
        f'<circle cx="{across(told):.1f}" cy="{end + 20 - across(seen):.1f}" r="4"/>' for told, seen in pairs
    )
    ticks = "".join(
        f'<text class="tick" x="{across(tick):.0f}" y="{end - 2}">{text(tick, 3)}</text>' for tick in _ticks(values)
    )
    line = f'<path class="zero" d="M {MARGIN} {SIDE + 20} L {end} 20"/>'
    names = f'<text class="tick" x="{MARGIN + SIDE / 2:.0f}" y="{end + 16}">predicted</text>'
    names += f'<text x="{MARGIN - 8}" y="14" text-anchor="start">measured ↑</text>'
    what = f"Each of the {len(pairs)} dots is a number: across as predicted, up as measured. On the line they agree."
    return _figure(line + dots + ticks + names, end + 24, what)


def _strip(by_case: Mapping[str, Mapping[str, float]]) -> Markup:
    shown = dict(list(by_case.items())[:ROWS])
    values = _rounded([value for of in shown.values() for value in of.values()])
    across, left = _scale(values, 10, WIDTH - 30), iter(values)
    tones = dict(zip(_columns(shown), TONES, strict=False))
    lines, y = [], 0
    for name, of in shown.items():
        y += 40
        lines.append(f'<text x="0" y="{y - 18}">{_short(name, LABEL)}</text>')
        lines += [
            f'<circle cx="{across(next(left)):.1f}" cy="{y - 5}" r="5" style="--tone: {tones[one]}"/>' for one in of
        ]
    ticks = _ticks(values)
    anchors = ("start", *["middle"] * (len(ticks) - 2), "end") if len(ticks) > 1 else ("middle",)
    for tick, anchor in zip(ticks, anchors, strict=True):
        lines.append(f'<text x="{across(tick):.0f}" y="{y + 18}" text-anchor="{anchor}">{text(tick, 3)}</text>')
    y += 20
    for name, tone in tones.items() if any(tones) else ():
        y += 22
        lines.append(
            f'<circle cx="10" cy="{y - 5}" r="5" style="--tone: {tone}"/><text x="24" y="{y}">{escape(name)}</text>'
        )
    return _figure("".join(lines), y + 8, f"What was computed, a line a case.{_more(by_case)}")


def _grid(by_case: Mapping[str, Mapping[str, bool]]) -> Markup:
    columns, lines, y = _columns(by_case), [], 0
    for column, name in enumerate(columns):
        y += 22
        lines.append(f'<text x="{PLACE * column + 15}" y="{y}">{_short(name, LABEL)}</text>')
        lines.append(f'<path class="zero" d="M {PLACE * column + 8} {y + 4} V {22 * len(columns) + 12}"/>')
    for case, of in list(by_case.items())[:ROWS]:
        y += 24
        for column, name in enumerate(columns):
            if name in of:
                kind = "yes" if of[name] else "no"
                lines.append(f'<circle class="{kind}" cx="{PLACE * column + 8}" cy="{y - 5}" r="5"/>')
        lines.append(f'<text x="{PLACE * len(columns) + 15}" y="{y}">{_short(case, LABEL - 3 * len(columns))}</text>')
    hollow = any(not one for of in by_case.values() for one in of.values())
    legend = "a full dot is yes, a ring no" if hollow else "a dot under what came out"
    return _figure("".join(lines), y + 12, f"A line a case: {legend}.{_more(by_case)}")


def _allowed(error: float, tolerance: float) -> Markup:
    across = _scale([0.0, error, tolerance], 20, WIDTH - 40)
    marks = "".join(f'<path class="zero" d="M {across(end):.1f} 4 V 36"/>' for end in (0.0, tolerance))
    marks += f'<circle class="mean" cx="{across(error):.1f}" cy="20" r="6"/>'
    ends = "".join(f'<text class="tick" x="{across(end):.0f}" y="54">{text(end, 3)}</text>' for end in (0.0, tolerance))
    return _figure(marks + ends, 60, f"The largest error, {text(error, 2)}, between 0 and what is allowed.")


def _short(name: str, letters: int) -> Markup:
    return escape(name if len(name) <= letters else f"{name[: letters - 1]}…")


def _more(by_case: Mapping[str, Any]) -> str:
    return f" {len(by_case) - ROWS} more cases are in the evidence below." if len(by_case) > ROWS else ""


def _figure(drawn: str, height: float, what: str) -> Markup:
    return Markup(
        f'<figure class="runs evidence" style="--tone: {TONES[0]}"><svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="{what}">{drawn}</svg><figcaption>{what}</figcaption></figure>'
    )
