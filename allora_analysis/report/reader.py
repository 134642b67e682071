"""A formula in the house's notation, read into a tree: `W = (XᵀX + λI)⁻¹XᵀY`, `Std[L]/√N`, `‖B_lA_l‖²_F`.

The notation is what `claims/` and the docstrings are written in: letters are symbols and stand side by side for
products; `_x`, `^2.1`, `^(…)` and Unicode's own raised and lowered characters are scripts; `a/b` is a fraction where
the denominator ends without doubt, otherwise it keeps its slash. Each method takes a place in the text and gives a node
and the place where it ends, or None where no formula starts. Checked by `tests/test_report_notation.py`.
"""

from __future__ import annotations

import re

from allora_analysis.report import symbols
from allora_analysis.report.tree import (
    Fence,
    Fraction,
    Name,
    Node,
    Number,
    Operator,
    Root,
    Row,
    Script,
    flat,
    is_formula,
    row,
    unwrapped,
)

Found = tuple[Node, int]

CLOSING = {"(": ")", "[": "]", "{": "}", "|": "|", "‖": "‖"}
NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:\.\d+)?(?:e[-−+]?\d+)?|[½¼]")
RELATIONS = "=≤≥≈≠<>∈→↦∝≪≫"
SUMS = "+−±"
JOINT = re.compile(rf" ?[{RELATIONS}{SUMS}] ?| - ")
TIMES = re.compile(r" ?[·×⊙⊗⋯] ?|/")
SIGNS = ("+", "−", "±", "-")


class Reader:
    """Reads formulas out of one text."""

    def __init__(self, text: str):
        self.text = text

    def _at(self, index: int) -> str:
        return self.text[index : index + 1]

    def expression(self, start: int, bar: str = "") -> Found | None:
        """Terms joined by relations and sums.

        Args:
            start: where it starts.
            bar: the bar that is open around it: it closes there and opens no second time.

        Returns:
            The tree and its end.
        """
        found = self._signed(start, bar)
        if found is None:
            return None
        parts, end = found
        while (joint := JOINT.match(self.text, end)) and (found := self._signed(joint.end(), bar)):
            parts = [*parts, Operator(joint.group().strip()), *found[0]]
            end = found[1]
        return row(parts), end

    def _signed(self, start: int, bar: str) -> tuple[list[Node], int] | None:
        sign = [Operator(self._at(start), prefix=True)] if self._at(start) in SIGNS else []
        found = self._term(start + len(sign), bar)
        return None if found is None else ([*sign, found[0]], found[1])

    def _term(self, start: int, bar: str) -> Found | None:
        found = self._factor(start, bar)
        if found is None:
            return None
        parts, end = [found[0]], found[1]
        product = 0  # where the factors side by side begin: a numerator, if a fraction's line follows
        while True:
            if self._at(end) == "/" and (below := self._denominator(end + 1, bar)):
                parts[product:] = [Fraction(unwrapped(row(parts[product:])), unwrapped(below[0]))]
                end = below[1]
                continue
            times = TIMES.match(self.text, end)
            found = self._factor(times.end(), bar) if times else self._beside(parts[-1], end, bar)
            if found is None:
                return row(parts), end
            if product == len(parts) - 1 and isinstance(inside := unwrapped(parts[-1]), Fraction):
                parts[-1] = inside  # (1/N)Σ: its line groups a fraction
            if times:
                parts.append(Operator(times.group().strip()))
            if times or _is_sum(parts[-1]):
                product = len(parts)
            parts.append(found[0])
            end = found[1]

    def _denominator(self, start: int, bar: str) -> Found | None:
        # None where another factor stands right behind: in 1/ab, b may be above or below.
        found = self._factor(start, bar)
        return None if found is None or self._factor(found[1], bar, attached=True) else found

    def _beside(self, left: Node, start: int, bar: str) -> Found | None:
        # A factor that follows without a sign: at once, or after a space where both are symbols beyond doubt.
        found = self._factor(start, bar, attached=True)
        if found is not None or self._at(start) != " ":
            return found
        found = self._factor(start + 1, "")
        if found is None or _is_sum(left) or (isinstance(left, Name) and left.text in symbols.FUNCTIONS):
            return found
        if _is_sum(found[0]) or (isinstance(left, Number) and isinstance(found[0], Script)):  # 2 I_C
            return found
        bracket = self._at(start + 1) in ("(", "[", "{")
        article = self.text[start + 1 : found[1]] in ("a", "A")
        return found if is_formula(left) and is_formula(found[0]) and not (bracket or article) else None

    def _factor(self, start: int, bar: str, attached: bool = False) -> Found | None:
        if attached and (NUMBER.match(self.text, start) or (bar and self._at(start) == bar)):
            return None
        found = self._base(start, attached)
        return None if found is None else self._scripts(*found)

    def _base(self, start: int, attached: bool) -> Found | None:
        character = self._at(start)
        if number := NUMBER.match(self.text, start):
            half = {"½": "2", "¼": "4"}.get(number.group())
            return (Fraction(Number("1"), Number(half)) if half else Number(number.group())), number.end()
        if character == "…":
            return Operator("…"), start + 1
        if character == "√" and (found := self._factor(start + 1, "")):
            return Root(unwrapped(found[0])), found[1]
        if character == "∂" and (found := self._factor(start + 1, "", attached=True)):
            return row([Name("∂", upright=True), found[0]]), found[1]
        if self.text[start : start + 2] in symbols.DIFFERENTIALS and symbols.symbol(self.text, start, attached):
            return row([Name("d", upright=True), Name(self._at(start + 1))]), start + 2
        if character and character in "Σ∏":  # UΣVᵀ is a product
            beside = self._at(start - 1).isalpha() and self._at(start + 1).isalpha()
            return Name("Σ", upright=True) if beside else Operator(character), start + 1
        if character in CLOSING:
            return self._fence(start, character)
        if (attached or symbols.starts_a_word(self.text, start)) and (word := symbols.function(self.text, start)):
            return self._function(word, start + len(word))
        letter = symbols.symbol(self.text, start, attached)
        if letter is None:
            return None
        return Name(letter, upright=letter == "E" or letter in symbols.INDEXED_WORDS), start + len(letter)

    def _function(self, word: str, end: int) -> Found | None:
        # A word unless an argument follows: rank G, but "rank with".
        name = Name(word, upright=True)
        argument = self._factor(end + 1, "") if self._at(end) == " " else None
        taken = argument is not None and (word == "log" or not NUMBER.match(self.text, end + 1))
        return (name, end) if taken or self._at(end) != " " else None

    def _fence(self, start: int, opening: str) -> Found | None:
        parts: list[Node] = []
        end = start + 1
        while found := self.expression(end, opening if opening in "|‖" else ""):
            parts.append(found[0])
            end = found[1]
            if not self.text.startswith(", ", end):
                break
            parts.append(Operator(","))
            end += 2
        closed = found is not None and self._at(end) == CLOSING[opening]
        return (Fence(opening, row(parts), CLOSING[opening]), end + 1) if closed else None

    def _scripts(self, base: Node, end: int) -> Found:
        sub = sup = None
        while True:
            if found := self._raised(base, end):
                sup, end = found
            elif found := self._lowered(base, end):
                sub, end = found
            else:
                return (base if sub is None and sup is None else Script(base, sub, sup)), end

    def _raised(self, base: Node, end: int) -> Found | None:
        if self._at(end) == "^":
            found = self._factor(end + 1, "") if self._at(end + 1) in ("(", "{") else self._single(end + 1)
            return None if found is None else (flat(unwrapped(found[0])), found[1])
        if self._at(end) == "*" and isinstance(base, Name) and not self._at(end + 1).isalnum():
            return Operator("*"), end + 1
        return _run(self.text, end, symbols.SUPERSCRIPTS)

    def _lowered(self, base: Node, end: int) -> Found | None:
        if self._at(end) != "_":
            digits = re.compile(r"\d+").match(self.text, end)
            if digits and isinstance(base, Name) and base.text in symbols.NUMBERED:
                return Number(digits.group()), digits.end()
            return _run(self.text, end, symbols.SUBSCRIPTS)
        index = symbols.index(self.text, end)
        if index is None:
            return self._factor(end + 1, "") if self._at(end + 1) == "{" else None
        after = end + 1 + len(index)
        if index == "vec" and self._at(after) == "(" and (argument := self._fence(after, "(")):
            return Row((Name("vec", upright=True), argument[0])), argument[1]
        return (Number(index) if index.isdigit() else Operator("*") if index == "*" else Name(index)), after

    def _single(self, start: int) -> Found | None:
        if number := NUMBER.match(self.text, start):
            return Number(number.group()), number.end()
        letter = symbols.SYMBOL.match(self.text, start)
        return None if letter is None else (Name(letter.group()), letter.end())


def _run(text: str, start: int, characters: dict[str, str]) -> Found | None:
    end = start
    while end < len(text) and text[end] in characters:
        end += 1
    plain = "".join(characters[character] for character in text[start:end])
    parts = [
        Number(part)
        if part.isdigit()
        else Operator(part, prefix=True)
        if part in SIGNS
        else Name(part, upright=part == "T")
        for part in re.findall(r"\d+|\D", plain)
    ]
    return (row(parts), end) if parts else None


def _is_sum(node: Node) -> bool:
    base = node.base if isinstance(node, Script) else node
    return isinstance(base, Operator) and base.text in ("Σ", "∏")
