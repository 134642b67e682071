"""Text with formulas in it, as HTML: Unicode as it is written, sub- and superscripts set.

The statements are written in Unicode in the middle of sentences. A browser shows that as it stands; what it lacks are
subscripts (B_l, s_max, Σ_{k≥2}) and powers ((1 + η)^L, 1.7e-16). Checked by `tests/test_report.py`.
"""

from __future__ import annotations

import re
from functools import lru_cache

from markupsafe import Markup, escape

WORDS = "max|min|vec|true|drop|one|two|out|in|lin|new"  # subscripts that are words
SUBSCRIPT = re.compile(
    rf"(?<=[^\W_]|[‖)\]̃̄∇])_(?:\{{(?P<braced>[^{{}}]+)\}}|(?P<word>(?:{WORDS})(?![a-z])|\d+|[^\W\d_](?![a-z])\*?|[*]))"
)
SUPERSCRIPT = re.compile(r"(?<=\S)\^(?:\{(?P<braced>[^{}]+)\}|(?P<word>-?\w+|[*]))")
POWER = re.compile(r"(?<![\w.])(-?\d+(?:\.\d+)?e[+-]?\d+)(?!\w)")


def _set(tag: str) -> str:
    return rf"<{tag}>\g<braced>\g<word></{tag}>"


@lru_cache(maxsize=4096)  # many quantities share a name
def html(text: str) -> Markup:
    """A text as HTML."""
    parts = POWER.split(text)
    return Markup("").join(number(part) if index % 2 else _prose(part) for index, part in enumerate(parts))


def _prose(text: str) -> Markup:
    marked = SUPERSCRIPT.sub(_set("sup"), SUBSCRIPT.sub(_set("sub"), str(escape(text))))
    return Markup(marked)


def number(text: str) -> Markup:
    """A number as HTML: minus signs, and powers of ten written out, 1.7 × 10⁻¹⁶ for 1.7e-16."""
    mantissa, _, exponent = text.partition("e")
    if not exponent:
        return escape(text.replace("-", "−"))
    factor = "" if mantissa == "1" else f"{mantissa.replace('-', '−')} × "
    return Markup("{}10<sup>{}</sup>").format(factor, str(int(exponent)).replace("-", "−"))
