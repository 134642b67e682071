"""Which letters of a text are symbols: `B` and `A` in "BA ≠ 0" are, "A" in "A mask" and "BA" in "BAD" are not.

Checked by `tests/test_report_notation.py`.
"""

from __future__ import annotations

import re

FUNCTIONS = frozenset(("Std", "Var", "Cov", "Tr", "tr", "diag", "vec", "log", "exp", "cos", "sym", "rank", "ker"))
PAIRS = frozenset(("BA", "XW", "AB", "ab", "kc", "gt", "dL", "dl"))  # products of symbols that could be words
DIFFERENTIALS = ("dL", "dl")
SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ᵀᵗᵐ", "0123456789+−Ttm", strict=True))
SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₙₜₖᵢ", "0123456789+−ntki", strict=True))
NUMBERED = ("n", "L", "ℓ")  # n2, L2, ℓ2: a digit behind them is an index
INDEXED_WORDS = ("init",)
INDICES = ("max", "min", "vec")
OPENING = ("(", "[", "|", "‖")
# One symbol, with its tilde or bar. Σ is a sum's sign and read elsewhere.
SYMBOL = re.compile("[A-Za-zα-ωΑ-ΡΤ-Ωℓℝ∇∞][\u0303\u0304]?")
RUN = re.compile("[A-Za-z]+")
INDEX = re.compile("|".join(INDICES) + r"|[A-Za-zα-ω*]|[0-9]+")
INSIDE_A_WORD = re.compile(r"(?:[A-Za-zα-ω0-9_'’]|[A-Za-z0-9][-.])$")
TAIL_OF_A_WORD = re.compile(r"[-.][A-Za-z]|['’][A-Za-z]{2}|[0-9]")  # of t-test, i.e., T3


def starts_a_word(text: str, start: int) -> bool:
    """Whether a word can start here: the character before is no letter, digit, hyphen, underscore or apostrophe.

    Args:
        text: the text.
        start: a place in it.

    Returns:
        True if so.
    """
    return INSIDE_A_WORD.search(text[max(0, start - 2) : start]) is None


def function(text: str, start: int) -> str | None:
    """The function's name here, if one stands before its argument.

    Args:
        text: the text.
        start: a place in it.

    Returns:
        The name, or None.
    """
    run = RUN.match(text, start)
    if run is None or run.group() not in FUNCTIONS:
        return None
    after = text[run.end() : run.end() + 1]
    return run.group() if after in OPENING or after == " " or after in SUPERSCRIPTS else None


def symbol(text: str, start: int, attached: bool) -> str | None:
    """The one symbol that stands here.

    Args:
        text: the text.
        start: a place in it.
        attached: whether the text right before is part of the same formula.

    Returns:
        The letter with its tilde or bar; None where the letters here are a word, or there are none.
    """
    found, run = SYMBOL.match(text, start), RUN.match(text, start)
    if found is None or run is None:  # no letter, or one that no word of English has
        return found and found.group()
    letters, end = run.group(), run.end()
    marked = _marked(text, end)
    if letters in INDEXED_WORDS and marked:
        return letters
    if (TAIL_OF_A_WORD.match(text, end) and letters not in NUMBERED) or (text[end : end + 1] == "_" and not marked):
        return None
    if letters in ("a", "A"):
        good = marked or (not text[start - 1].isdigit() if attached else _operand(text, start))  # no a of 2024a
    else:
        good = len(letters) == 1 or (len(letters) <= 3 and (attached or marked or letters in PAIRS))
    return found.group() if good else None


def index(text: str, underscore: int) -> str | None:
    """What stands lowered behind an underscore: a word of `INDICES`, digits, a star or one letter.

    Args:
        text: the text.
        underscore: where the underscore is.

    Returns:
        The index; None where the underscore joins two words, as in p_value.
    """
    found = INDEX.match(text, underscore + 1)
    if found is None:
        return None
    rest = RUN.match(text, found.end())
    return None if rest and len(rest.group()) > 2 else found.group()


def _marked(text: str, end: int) -> bool:
    # Whether a script follows, or a tilde or bar on the last letter.
    after = text[end : end + 1]
    if after == "_":
        return text[end + 1 : end + 2] == "{" or index(text, end) is not None
    return after in SUPERSCRIPTS or after in SUBSCRIPTS or after in tuple("^\u0303\u0304")


def _operand(text: str, start: int) -> bool:
    # a and A are articles, unless a sign or bracket follows; A is none in the middle of a sentence either.
    sign = re.compile(r" ?[=≤≥≠<>·/⊙⊗×]|[(\[,;)'’]").match(text, start + 1)
    opens = start == 0 or text[:start].endswith((". ", "(", ": "))
    return sign is not None or (text[start] == "A" and not opens)
