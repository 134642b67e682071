"""TeX to MathML: browsers draw it themselves, so that no script is fetched. Checked by `tests/test_docs.py`."""

import html
import re

from latex2mathml.converter import convert

MARKED = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
"""What the Markdown extension `pymdownx.arithmatex` makes of $…$ and $$…$$."""
BARE = re.compile(r"\\(mathbb|mathcal|mathbf|mathfrak)\s*([A-Za-z])")
LIMITS = re.compile(r"\\(min|max|sup|inf|lim)(?=_)")
ALIGNED = re.compile(r"\\(begin|end)\{aligned\}")
SIZES = re.compile(r"\\[bB]igg?[lrm]?\s*(?=\\)")
UNKNOWN = re.compile(r">\s*(\\[A-Za-z]+)")


def rendered(page: str) -> str:
    """A page's HTML with its mathematics as MathML.

    Args:
        page: the HTML.
    """
    return MARKED.sub(lambda match: _drawn(html.unescape(match[3]).strip(), display=match[2] == "["), page)


def _drawn(tex: str, display: bool) -> str:
    # A formula on a line of its own scrolls in its box rather than widening the page; the box clips no superscript.
    made = mathml(tex, display)
    return f'<div class="formula">{made}</div>' if display else made


def mathml(tex: str, display: bool) -> str:
    """A formula as MathML.

    Args:
        tex: the formula.
        display: on a line of its own.

    Returns:
        A <math> element.

    Raises:
        ValueError: a command that the converter does not know, which it would leave as it stands.
    """
    tex = ALIGNED.sub(r"\\\1{align*}", tex)  # the same table, under the name that the converter knows
    tex = BARE.sub(r"\\\1{\2}", tex)  # only the letter in braces becomes one that every browser draws
    tex = SIZES.sub("", tex)  # the converter knows \\big before a bracket alone
    tex = LIMITS.sub(r"\\\1\\limits", tex) if display else tex
    made = convert(tex, display="block" if display else "inline")
    if unknown := UNKNOWN.search(made):
        raise ValueError(f"no MathML for {unknown[1]} in {tex!r}: write it another way")
    return made
