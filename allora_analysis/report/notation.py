"""Text with formulas in it, as HTML: prose escaped, each formula as MathML. Checked by `tests/test_report_notation.py`.

Why not a library: those at hand read LaTeX (latex2mathml, ziamath), and the statements are written in Unicode, in the
middle of sentences. Finding the formulas is the work; a tree that is found is MathML already.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from markupsafe import Markup, escape

from allora_analysis.report import symbols
from allora_analysis.report.reader import RELATIONS, SUMS, Reader
from allora_analysis.report.tree import Fence, Node, Operator, Row, is_formula, length, mathml, row

# What is skipped at once where no formula starts: an abbreviation, a word or number with its hyphens, one character.
SKIP = re.compile(r"(?:[A-Za-z]\.){2,}|[A-Za-z0-9]+(?:[-–_.'’][A-Za-z0-9]+)*|.", re.DOTALL)
HEAD = re.compile(r"[(\[]*$")
TAIL = re.compile(r"(?:['’]s)?[)\],.;:]*")
POWERS = re.compile(r"(?<![\w.])(-?\d+(?:\.\d+)?e[+-]?\d+)(?!\w)")
LONG = 20  # characters: a longer formula may be broken before its relations, sums and dots
WIDE = 22  # characters: what is still longer then is set smaller on a narrow screen


@dataclass(frozen=True)
class Formula:
    """A formula found in a text: its text there, and its tree."""

    text: str
    tree: Node


def pieces(text: str) -> Iterator[str | Formula]:
    """Prose and formulas in turn; their texts joined are the text.

    Args:
        text: the text.

    Yields:
        Each piece.
    """
    reader, prose, at = Reader(text), 0, 0
    while at < len(text):
        found = reader.expression(at) if symbols.starts_a_word(text, at) else None
        if found is None or not is_formula(found[0]) or (isinstance(found[0], Fence) and found[0].opening in "([{"):
            at = SKIP.match(text, at).end()  # a formula's own brackets alone belong to the sentence
            continue
        if prose < at:
            yield text[prose:at]
        yield Formula(text[at : found[1]], found[0])
        prose = at = found[1]
    if prose < len(text):
        yield text[prose:]


@lru_cache(maxsize=4096)  # many quantities share a name
def html(text: str) -> Markup:
    """A text as HTML.

    Args:
        text: the text.

    Returns:
        The prose escaped, the formulas as MathML.
    """
    return Markup("").join(_kept_together(list(pieces(text))))


def _kept_together(found: list[str | Formula]) -> Iterator[Markup]:
    # A bracket before a formula and a comma behind it stay on its line.
    for before, piece, after in zip((None, *found), found, (*found[1:], None), strict=False):
        if isinstance(piece, str):
            start = TAIL.match(piece).end() if isinstance(before, Formula) else 0
            yield _prose(piece[start : HEAD.search(piece, start).start() if isinstance(after, Formula) else None])
            continue
        head = HEAD.search(before).group() if isinstance(before, str) else ""
        tail = TAIL.match(after).group() if isinstance(after, str) else ""
        lines = [_math(line) for line in _lines(piece.tree)]
        lines[0] = escape(head) + lines[0]
        lines[-1] += escape(tail)
        yield Markup("<wbr>").join(Markup('<span class="line">{}</span>').format(line) for line in lines)


def number(text: str) -> Markup:
    """A number as HTML: minus signs, and powers of ten written out, 1.7 × 10⁻¹⁶ for 1.7e-16.

    Args:
        text: the number, as Python writes it.

    Returns:
        The HTML.
    """
    mantissa, _, exponent = text.partition("e")
    if not exponent:
        return escape(text.replace("-", "−"))
    factor = "" if mantissa == "1" else f"{mantissa.replace('-', '−')} × "
    return Markup("{}10<sup>{}</sup>").format(factor, str(int(exponent)).replace("-", "−"))


def _prose(text: str) -> Markup:
    return Markup("").join(number(part) if index % 2 else escape(part) for index, part in enumerate(POWERS.split(text)))


def _math(tree: Node) -> Markup:
    wide = Markup(' class="long"') if length(tree) > WIDE else ""
    return Markup('<math displaystyle="true"{}>{}</math>').format(wide, mathml(tree))


def _lines(tree: Node) -> list[Node]:
    # Browsers do not break a formula over lines. A long one is several: before its relations, sums, dots.
    lines = [tree]
    for signs in (RELATIONS, SUMS, "⋯"):
        lines = [part for line in lines for part in (_split(line, signs) if length(line) > LONG else [line])]
    return lines


def _split(tree: Node, signs: str) -> list[Node]:
    parts = tree.parts if isinstance(tree, Row) else (tree,)
    breaks = [
        index
        for index, part in enumerate(parts)
        if index and isinstance(part, Operator) and part.text in signs and not part.prefix
    ]
    return [row(parts[start:end]) for start, end in itertools.pairwise([0, *breaks, len(parts)])]
