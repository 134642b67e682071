"""What a row's view says of its claim: what it rests on and supports, its label, its line, a ledger cut short."""

import dataclasses
import json
from pathlib import Path

import pytest

from allora_analysis.claims import ledger
from allora_analysis.claims.claim import Evidence, Finding
from allora_analysis.claims.ledger import Row
from allora_analysis.render import markdown, terminal
from allora_analysis.render.view import as_json, line, view

CLAIMS = {one.id: one for one in ledger.all_claims()}
EVIDENCE = Evidence({"a": 1.0}, {"a": 1.0}, "rounding")


@pytest.fixture
def row():
    return Row(CLAIMS["3.3-norm"], Finding("holds", EVIDENCE))


def test_what_supports_a_row_is_what_it_rests_on():
    one, other = (
        dataclasses.replace(CLAIMS["3.3-norm"], id=id, depends_on=of) for id, of in (("a", ()), ("b", ("a",)))
    )
    assert ledger.supports((one, other)) == {"a": ("b",), "b": ()}
    known = ledger.supports(tuple(CLAIMS.values()))
    real = next(one for one in CLAIMS.values() if one.depends_on and known[one.id])
    seen = view(Row(real, Finding("holds", EVIDENCE)))
    assert (seen.depends_on, seen.supports) == (real.depends_on, known[real.id])


def test_what_a_row_rests_on_and_what_it_supports_are_told_apart(row):
    seen = dataclasses.replace(view(row), depends_on=("3.1-a",), supports=("3.1-b",))
    shown, told = markdown.in_full(seen), dict(terminal._in_full(seen))
    assert "- **Rests on:** [`3.1-a`](#31-a)" in shown
    assert "- **Supports:** [`3.1-b`](#31-b)" in shown
    assert (told["rests on"], told["supports"]) == ("3.1-a", "3.1-b")


@pytest.mark.parametrize(("verdict", "label"), [("undecided", "Would decide it"), ("holds_corrected", "Corrected")])
def test_what_would_decide_is_no_correction(row, verdict, label):
    told = view(dataclasses.replace(row, finding=Finding(verdict, EVIDENCE, "more seeds"))).told
    assert [name for name in ("Would decide it", "Corrected") if told.get(name)] == [label]


@pytest.mark.parametrize("interrupted", [True, False])
def test_a_ledger_that_was_cut_short_says_so_in_its_json(row, interrupted):
    assert json.loads(as_json([view(row)], interrupted=interrupted)).get("interrupted", False) is interrupted


def test_the_line_of_a_check_is_where_its_claim_begins(row):
    seen = view(row)
    words = (Path(__file__).parents[1] / seen.check.partition(":")[0]).read_text(encoding="utf-8").splitlines()
    assert words[line(seen) - 1].startswith("@")
    assert '"3.3-norm"' in words[line(seen)]
