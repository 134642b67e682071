"""What a formula is made of, and its MathML. Checked by `tests/test_report_notation.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from markupsafe import Markup, escape

ACCENTS = {"\u0303": "~", "\u0304": "¯"}
THIN = Markup('<mspace width="0.17em"/>')


@dataclass(frozen=True)
class Number:
    """A number, as written."""

    text: str


@dataclass(frozen=True)
class Name:
    """A letter (italic), or an upright word: a function's name, or what stands as a subscript."""

    text: str
    upright: bool = False


@dataclass(frozen=True)
class Operator:
    """A sign between two operands, or before one (`prefix`)."""

    text: str
    prefix: bool = False


@dataclass(frozen=True)
class Script:
    """A base with a subscript, a superscript or both."""

    base: Node
    sub: Node | None = None
    sup: Node | None = None


@dataclass(frozen=True)
class Fraction:
    """One thing over another."""

    above: Node
    below: Node


@dataclass(frozen=True)
class Root:
    """A square root."""

    of: Node


@dataclass(frozen=True)
class Fence:
    """Something in brackets or between bars."""

    opening: str
    inside: Node
    closing: str


@dataclass(frozen=True)
class Row:
    """Parts side by side."""

    parts: tuple[Node, ...]


Node: TypeAlias = Number | Name | Operator | Script | Fraction | Root | Fence | Row


def is_formula(node: Node) -> bool:
    """Whether a reader would call it mathematics: more than numbers and signs.

    Args:
        node: a node.

    Returns:
        True if there is a name, a script or a root in it.
    """
    match node:
        case Number() | Operator():
            return False
        case Fraction(above, below):
            return is_formula(above) or is_formula(below)
        case Fence(_, inside, _):
            return is_formula(inside)
        case Row(parts):
            return any(is_formula(part) for part in parts)
    return True


def length(node: Node) -> int:
    """How many characters a node shows.

    Args:
        node: a node.

    Returns:
        Their number; a fraction has the longer of its two sides.
    """
    match node:
        case Number(text) | Name(text) | Operator(text):
            return len(text)
        case Fraction(above, below):
            return max(length(above), length(below))
        case Root(inside):
            return 1 + length(inside)
        case Fence(_, inside, _):
            return 2 + length(inside)
        case Script(base, sub, sup):
            return length(base) + max(length(part) for part in (sub, sup) if part is not None)
        case Row(parts):
            return sum(length(part) for part in parts)


def unwrapped(node: Node) -> Node:
    """A node without the round brackets around it, for where a fraction's bar, a root or a raised size groups it.

    Args:
        node: a node.

    Returns:
        What is inside, or the node itself.
    """
    return node.inside if isinstance(node, Fence) and node.opening == "(" else node


def flat(node: Node) -> Node:
    """A node with fractions written by a slash, for a raised place, where their line would be too small.

    Args:
        node: a node.

    Returns:
        The node.
    """
    match node:
        case Fraction(above, below):
            return Row((above, Operator("/"), below))
        case Row(parts):
            return Row(tuple(flat(part) for part in parts))
    return node


def row(parts: Sequence[Node]) -> Node:
    """Parts side by side; a single one is itself.

    Args:
        parts: one or more nodes.

    Returns:
        The node.
    """
    return parts[0] if len(parts) == 1 else Row(tuple(parts))


def mathml(node: Node) -> Markup:
    """A node as a MathML element.

    Args:
        node: the node.

    Returns:
        The element, escaped.
    """
    match node:
        case Number(text):
            return _number(text)
        case Name():
            return _name(node)
        case Operator():
            return _operator(node)
        case Script():
            return _script(node)
        case Fraction(above, below):
            return Markup("<mfrac>{}{}</mfrac>").format(mathml(above), mathml(below))
        case Root(inside):
            return Markup("<msqrt>{}</msqrt>").format(mathml(inside))
        case Fence(opening, inside, closing):
            first, last = (Markup('<mo form="{}" fence="true">{}</mo>').format(*side)
                           for side in (("prefix", opening), ("postfix", closing)))  # fmt: skip
            return Markup("<mrow>{}{}{}</mrow>").format(first, mathml(inside), last)
        case Row(parts):
            return Markup("<mrow>{}</mrow>").format(Markup("").join(_spaced(parts)))


def _number(text: str) -> Markup:
    mantissa, _, exponent = text.partition("e")
    if not exponent:
        return Markup("<mn>{}</mn>").format(text)
    factor = "" if mantissa == "1" else Markup("<mn>{}</mn><mo>×</mo>").format(mantissa)
    raised = str(int(exponent.replace("−", "-"))).replace("-", "−")
    return Markup("<mrow>{}<msup><mn>10</mn><mn>{}</mn></msup></mrow>").format(factor, raised)


def _name(node: Name) -> Markup:
    if node.text[1:] in ACCENTS:
        accented = '<mover accent="true"><mi>{}</mi><mo stretchy="false">{}</mo></mover>'
        return Markup(accented).format(node.text[0], ACCENTS[node.text[1:]])
    plain = Markup(' mathvariant="normal"') if node.upright and len(node.text) == 1 else ""
    return Markup("<mi{}>{}</mi>").format(plain, node.text)


def _spaced(parts: Sequence[Node]) -> Iterator[Markup]:
    # A thin space around a function's name where no sign or bracket is: k diag S.
    for before, part, after in zip((None, *parts), parts, (*parts[1:], None), strict=False):
        function = isinstance(part, Name) and part.upright and part.text not in ("∂", "d", "Σ")
        if function and isinstance(before, Number | Name | Script | Fence):
            yield THIN
        yield mathml(part)
        if function and after is not None and not isinstance(after, Fence | Operator):
            yield THIN


def _operator(node: Operator) -> Markup:
    if node.text == "/":
        return Markup('<mo lspace="0" rspace="0">/</mo>')
    if node.text in "Σ∏":  # the sum's own sign, at the size of the text around it
        return Markup('<mo largeop="false" movablelimits="false" rspace="0.17em">{}</mo>').format(
            {"Σ": "∑"}.get(node.text, node.text)
        )
    shown = {"-": "−", "·": "⋅"}.get(node.text, node.text)
    return Markup('<mo form="{}">{}</mo>').format("prefix" if node.prefix else "infix", escape(shown))


def _script(node: Script) -> Markup:
    base = mathml(node.base)
    if node.sub is None:
        return Markup("<msup>{}{}</msup>").format(base, mathml(node.sup))
    if node.sup is None:
        return Markup("<msub>{}{}</msub>").format(base, mathml(node.sub))
    return Markup("<msubsup>{}{}{}</msubsup>").format(base, mathml(node.sub), mathml(node.sup))
