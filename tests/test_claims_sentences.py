"""The map from the paper's sentences to rows: every sentence has rows or a reason, every row a sentence."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files

from allora_analysis.claims.ledger import all_claims
from allora_analysis.render.view import BEYOND

SENTENCES = tomllib.loads(files("allora_analysis.claims").joinpath("sentences.toml").read_text(encoding="utf-8"))[
    "sentence"
]
CLAIMS = {claim.id: claim for claim in all_claims()}


def test_a_sentence_has_rows_or_a_reason_why_not():
    assert len(SENTENCES) > 200
    for one in SENTENCES:
        assert set(one) in ({"says", "rows"}, {"says", "none"}), one
        assert one["says"]
        assert one.get("rows") or one.get("none"), one
    letters = [re.sub(r"[\W\d_]+", "", one["says"]).casefold() for one in SENTENCES]
    assert len(set(letters)) == len(letters)


def test_the_rows_named_are_there_and_every_row_of_the_paper_is_named():
    named = {identifier for one in SENTENCES for identifier in one.get("rows", ())}
    assert named <= set(CLAIMS)
    assert {name for name, claim in CLAIMS.items() if not claim.where.startswith(BEYOND)} <= named
