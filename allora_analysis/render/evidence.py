"""A claim's evidence as a reader sees it: facts, and a row for each quantity with what is predicted and measured.

Its text has formulas in Unicode in the middle of sentences. A browser shows that as it stands; what it lacks are
subscripts (B_l, s_max, Σ_{k≥2}) and powers ((1 + η)^L, 1.7e-16): `html` sets them. Checked by `tests/test_report.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from allora_analysis.claims.claim import Evidence
from allora_analysis.render.terminal import evidence_text
from allora_analysis.study import text

WORDS = "max|min|vec|true|drop|one|two|out|in|lin|new"  # subscripts that are words
SUBSCRIPT = re.compile(
    rf"(?<=[^\W_]|[‖)\]̃̄∇])_(?:\{{(?P<braced>[^{{}}]+)\}}|(?P<word>(?:{WORDS})(?![a-z])|\d+|[^\W\d_](?![a-z])\*?|[*]))"
)
SUPERSCRIPT = re.compile(r"(?<=\S)\^(?:\{(?P<braced>[^{}]+)\}|(?P<word>-?\w+|[*]))")
POWER = re.compile(r"(?<![\w.])(-?\d+(?:\.\d+)?e[+-]?\d+)(?!\w)")
NOTHING = Markup("–")
FEW = 4  # predictions that fit a line
FIELD = re.compile(r"[A-Za-z0-9.]+(?:_[A-Za-z0-9.]+)+")  # log_change, a name out of the program


def _set(tag: str) -> str:
    return rf"<{tag}>\g<braced>\g<word></{tag}>"


@lru_cache(maxsize=4096)  # many quantities share a name
def html(text: str) -> Markup:
    """A text as HTML."""
    parts = POWER.split(text)
    parts[::2] = [SUPERSCRIPT.sub(_set("sup"), SUBSCRIPT.sub(_set("sub"), str(escape(part)))) for part in parts[::2]]
    return Markup("").join(number(part) if index % 2 else Markup(part) for index, part in enumerate(parts))


def number(text: str) -> Markup:
    """A number as HTML: minus signs, and powers of ten written out, 1.7 × 10⁻¹⁶ for 1.7e-16."""
    mantissa, _, exponent = text.partition("e")
    if not exponent:
        return escape(text.replace("-", "−"))
    factor = "" if mantissa == "1" else f"{mantissa.replace('-', '−')} × "
    return Markup("{}10<sup>{}</sup>").format(factor, str(int(exponent)).replace("-", "−"))


@dataclass(frozen=True)
class Quantity:
    """A row of the evidence's table, as HTML."""

    name: Markup
    predicted: Markup
    measured: Markup


def summary(evidence: Evidence) -> Markup:
    """The evidence in one line, as the ledger's table has it."""
    return html(FIELD.sub(_spaced, evidence_text(evidence)))


def value(thing: Any) -> Markup:
    """Anything that evidence holds, as HTML."""
    if isinstance(thing, np.ndarray | np.generic):
        thing = thing.tolist()
    match thing:
        case None:
            return NOTHING
        case bool():
            return Markup("yes" if thing else "no")
        case int() | float():
            return number(text(thing) if isinstance(thing, float) else str(thing))
        case list() | tuple():
            between = Markup("; " if any(isinstance(item, str) for item in thing) else ", ")
            return Markup("[{}]").format(between.join(value(item) for item in thing)) if thing else Markup("none")
        case Mapping():
            parts = (Markup("{} {}").format(label(str(name)), value(item)) for name, item in thing.items())
            return Markup("; ").join(parts)
    return html(str(thing))


def label(name: str) -> Markup:
    """A quantity's name: formulas set, a field's underscores as spaces."""
    return html(FIELD.sub(_spaced, name) if FIELD.fullmatch(name) else name)


def _spaced(field: re.Match[str]) -> str:
    return field.group().replace("_", " ")


def compared(evidence: Evidence) -> bool:
    """Whether the table sets predictions beside measurements: some share a name, or they are too many for a line."""
    predicted, measured = dict(flat(evidence.predicted)), dict(flat(evidence.measured))
    return len(predicted) > FEW or not predicted.keys().isdisjoint(measured)


def quantities(evidence: Evidence) -> list[Quantity]:
    """Every measured quantity in one table, beside its prediction if they are `compared`, in the evidence's order."""
    predicted = dict(flat(evidence.predicted)) if compared(evidence) else {}
    measured = dict(flat(evidence.measured))
    paths = dict.fromkeys([*predicted, *measured])
    return [
        Quantity(
            Markup(", ").join(label(name) for name in path),
            *(value(side[path]) if path in side else NOTHING for side in (predicted, measured)),
        )
        for path in paths
    ]


def flat(mapping: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Paths of names and what is there; a mapping of no further mappings that lies two deep stays whole, as one row."""
    for name, item in mapping.items():
        path = (*above, str(name))
        together = above and isinstance(item, Mapping) and not any(isinstance(x, Mapping) for x in item.values())
        if isinstance(item, Mapping) and not together:
            yield from flat(item, path)
        else:
            yield path, item


def facts(evidence: Evidence) -> dict[str, Markup]:
    """What the verdict rests on besides the table: error or interval, tolerance and its source, n, seed, seconds."""
    told = bool(evidence.predicted) and not compared(evidence)
    known = {
        "predicted": value(evidence.predicted) if told else None,
        "error": evidence.error if evidence.error is None else number(text(float(evidence.error), 2)),
        "interval": evidence.interval and value([float(end) for end in evidence.interval]),
        "tolerance": evidence.tolerance if evidence.tolerance is None else number(text(float(evidence.tolerance), 2)),
        "judged by": html(evidence.tolerance_source) if evidence.tolerance_source else None,
        "n": evidence.n if evidence.n is None else number(str(evidence.n)),
        "seed": evidence.seed if evidence.seed is None else escape(evidence.seed),
        "seconds": evidence.seconds if evidence.seconds is None else number(text(float(evidence.seconds), 2)),
    }
    return {name: fact for name, fact in known.items() if fact is not None}
