"""The map from the paper's sentences to rows: every sentence is in it, with rows or a reason; every row has one."""

import re
import tomllib
from importlib.resources import files

from allora_analysis.claims.ledger import all_claims
from allora_analysis.render.view import BEYOND
from tests import sentences

SENTENCES = tomllib.loads(files("allora_analysis.claims").joinpath("sentences.toml").read_text(encoding="utf-8"))[
    "sentence"
]
CLAIMS = {claim.id: claim for claim in all_claims()}


def test_a_sentence_has_rows_or_a_reason_why_not():
    """Both where a part of it has no row; the part is quoted first."""
    assert len(SENTENCES) > 200
    for one in SENTENCES:
        assert set(one) - {"says"} in ({"rows"}, {"none"}, {"rows", "none"}), one
        assert all(one.values()), one
    for one in (one for one in SENTENCES if {"rows", "none"} <= set(one)):
        parts = re.findall(r'"(.*?)"', one["none"].partition(":")[0])
        assert parts
        assert all(part in one["says"] for part in parts), one
    letters = [re.sub(r"[\W\d_]+", "", one["says"]).casefold() for one in SENTENCES]
    assert len(set(letters)) == len(letters)


def test_the_rows_named_are_there_and_every_row_of_the_paper_is_named():
    named = {identifier for one in SENTENCES for identifier in one.get("rows", ())}
    assert named <= set(CLAIMS)
    assert {name for name, claim in CLAIMS.items() if not claim.where.startswith(BEYOND)} <= named


def test_every_sentence_of_the_paper_is_there_and_is_missed_where_it_is_taken_out():
    places = sentences.places_of(sentences.beginnings(), [one["says"] for one in SENTENCES])
    assert len(places) > 260
    assert all(places.values()), sentences.lacking(sentences.beginnings(), sentences.mapped())
    alone = {those[0] for those in places.values() if len(those) == 1}
    others = [one["says"] for place, one in enumerate(SENTENCES) if place not in alone]
    assert len(others) <= 18  # formulas, four headings, and sentences that other places have too


PAGE = """# TITLE

An author

## ABSTRACT

034 LLMs, e.g. those of Liu et al. (2024a), are large. The *rank of it*, $r \\ll n$ , is a
035 constant. We have the prop-036 erty that

040

Figure 1: What a figure shows<sup>1</sup>.

model\t1.0\t2.0

## 2 A HEADING

motivated us:

$$W = p X$$

where $p$ is kept. (1)
  - 083 We list:
  - 1. An item of a list. Another of it.

# 540 REFERENCES

Somebody. A title.

Table 2: A caption.
"""


def test_sentences_of_a_page():
    found = sentences.sentences(PAGE)
    assert [sentences.beginning(one) for one in found] == [
        "LLMs, e.g. those of Liu et al. (2024a), are large.",
        "The rank of it, … , is a constant.",
        "We have the prop- erty that",
        "Figure 1: What a figure shows.",
        "motivated us:",
        "An item of a list.",
        "Another of it.",
        "Table 2: A caption.",
    ]
    known = [
        "LLMs, e.g., those of Liu et al. (2024a), are large.",
        "We have the property that motivated us",
        *found[3:],
    ]
    assert sentences.lacking(found, known) == [found[1]]


def test_the_command_names_what_is_lacking(tmp_path, capsys, monkeypatch):
    page = tmp_path / "paper.md"
    page.write_text(PAGE, encoding="utf-8")
    monkeypatch.setattr(sentences, "BEGINNINGS", tmp_path / "beginnings.txt")
    assert sentences.main([str(page), "--write"]) == 1
    assert capsys.readouterr().out.endswith("8 sentences, 8 of them not in the map\n")
    assert sentences.beginnings()[0].startswith("LLMs, e.g.")
