"""The ledger's mechanics; each section's checks have tests of their own (`test_claims_*.py`)."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from allora_analysis.__main__ import main
from allora_analysis.claims import ledger
from allora_analysis.claims.claim import OPENINGS, VERDICTS, Claim, Evidence, Finding, Size, not_run, ranged
from allora_analysis.claims.claim import claim as claimed
from allora_analysis.claims.ledger import Row
from allora_analysis.render import terminal as written
from allora_analysis.render.size import size_text
from allora_analysis.render.view import CUT, LESS_KIND, recorded, said_by, sentence, summary, view
from allora_analysis.study import plain
from allora_analysis.validation import ArgumentError
from tests.ledger_rows import as_is

EVIDENCE = Evidence({"a": 1.0}, {"a": np.float64(1.0)}, "rounding", error=1e-16, tolerance=1e-12)


def claim(name="3.1-test", check=lambda cases: Finding("holds", EVIDENCE)):
    return Claim(name, "§3.1", "1 = 1", check, "python -m allora_analysis", "tests/test_ledger.py")


@pytest.fixture
def few(monkeypatch):
    """A ledger of four claims: one holds, one is corrected, one raises, one was not run."""

    def raises(cases):
        raise RuntimeError("planted")

    corrected = Finding("holds_corrected", EVIDENCE, "2 = 2")
    claims = (
        claim(),
        claim("3.1-corrected", lambda cases: corrected),
        claim("3.2-raises", raises),
        claim("4-later", lambda cases: not_run("nothing was run")),
    )
    monkeypatch.setattr(ledger, "all_claims", lambda: claims)
    return claims


@pytest.mark.parametrize("verdict", ["holds_corrected", "conditional", "undecided"])
def test_a_verdict_that_needs_a_text_must_have_one(verdict):
    with pytest.raises(ValueError, match="must say"):
        Finding(verdict, EVIDENCE)


def test_unknown_verdict():
    with pytest.raises(ValueError, match="none of"):
        Finding("true", EVIDENCE)


def test_examine_times_a_check_and_catches_what_it_raises(few):
    rows = [ledger.examine(item) for item in few]
    assert rows[0].finding.evidence.seconds >= 0
    assert rows[2].finding is None
    assert rows[2].error == "RuntimeError: planted"
    assert rows[3].finding.verdict == "not_run"


def test_json(few, capsys):
    assert main(["--json", "-", "--only", "3.1", "4-later"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"claims", "environment"}
    first, second, third = document["claims"]
    wanted = "id where statement reading verdict answer at_paper size corrected condition flips_if depends_on supports "
    wanted += "relied_on_by check code test command evidence"
    assert list(first) == wanted.split()
    assert first["verdict"] == "holds"
    assert first["corrected"] is None
    assert {
        "predicted",
        "measured",
        "error",
        "interval",
        "tolerance",
        "tolerance_source",
        "n",
        "cases",
        "seed",
        "seconds",
    } == set(first["evidence"])
    assert second["corrected"] == "2 = 2"
    assert third["verdict"] == "not_run"


def test_what_the_paper_does_not_print_is_no_printed_statement():
    norm = next(item for item in ledger.all_claims() if item.id == "3.3-norm")
    rows = [dataclasses.replace(norm, statement=text, where=where) for text, where in (("a", "§1"), ("b", "§2"))]
    rows.append(dataclasses.replace(norm, statement="c", where="beyond the paper: §3"))
    found = summary([view(Row(row, Finding("holds", Evidence({}, {}, "none")))) for row in rows])
    assert found == "2 claims: 2 holds; 1 beyond the paper: 1 holds"


def test_what_is_refuted_in_a_less_kind_reading_is_counted_as_such():
    norm = next(item for item in ledger.all_claims() if item.id == "3.3-norm")
    readings = ("A less kind reading: in every cell.", "On average.", None)
    rows = [dataclasses.replace(norm, statement=text, reading=text) for text in map(str, readings)]
    seen = [view(Row(row, Finding("refuted", Evidence({}, {}, "none")))) for row in rows]
    assert summary(seen) == "3 claims: 3 refuted (1 less kind)"
    assert summary(seen, brief=True) == "3 claims: 3 refuted", "no kinder row stands"


def test_what_hangs_on_an_assumption_or_is_one_fault_again_is_counted_as_such():
    known = {one.id: one for one in ledger.all_claims()}
    again = {name: one.same_fault_as for name, one in known.items() if one.same_fault_as}
    assert len(again) == 6
    for name, other in again.items():
        assert recorded()[name]["verdict"] == recorded()[other]["verdict"] == "holds_corrected"
        corrected = Finding("holds_corrected", Evidence({}, {}, "none"), "2 = 2")
        both = [view(Row(known[one], corrected)) for one in (other, name)]
        less_kind = sum((known[one].reading or "").startswith(LESS_KIND) for one in (other, name))
        fault = "1 fault" if less_kind < 2 else ""
        told = "; ".join(filter(None, (fault, f"{less_kind} less kind" if less_kind else "")))
        assert summary(both).partition(": ")[2] == f"2 holds_corrected ({told})"
        assert "fault" not in summary(both[1:])
    names = (*next(iter(again.items())), "3.3-mean-ratio")
    of_copy = [view(Row(known[one], Finding("holds_corrected", Evidence({}, {}, "none"), "2 = 2"))) for one in names]
    assert summary(of_copy).partition(": ")[2] == "3 holds_corrected (1 fault; 1 perhaps our copy's)"
    row = view(Row(known["4-escape"], Finding("refuted", Evidence({}, {}, "none"), at_paper="no, if AdamW")))
    assert row.setting == "no, if AdamW"
    assert summary([row]) == "1 claim: 1 refuted (1 assuming AdamW)"


def test_a_less_kind_reading_stands_beside_a_kinder_one():
    """Of one statement there is another row, or the reading names one, whose own reading does not begin so."""
    less_kind = [one for one in CLAIMS.values() if (one.reading or "").startswith(LESS_KIND)]
    assert len(less_kind) > 9
    for one in less_kind:
        others = [
            other
            for other in CLAIMS.values()
            if other is not one and (other.statement in one.statement or other.id in one.reading)
        ]
        assert any(not (other.reading or "").startswith(LESS_KIND) for other in others), one.id


def test_a_check_that_raises_is_exit_1_and_the_rest_is_printed(few, capsys, tmp_path):
    path = tmp_path / "ledger.json"
    assert main(["--json", str(path)]) == 1
    out, err = capsys.readouterr()
    assert "error of the toolkit in the check of 3.2-raises: RuntimeError: planted" in err
    assert "4 claims on 1 printed statements: 1 holds, 1 holds_corrected, 1 not_run, 1 error" in out
    assert "Not as printed" in out
    entry = json.loads(path.read_text(encoding="utf-8"))["claims"][2]
    assert entry["verdict"] is None
    assert entry["error"] == "RuntimeError: planted"


def test_ctrl_c_prints_what_was_finished(few, capsys, monkeypatch):
    def interrupted(cases):
        raise KeyboardInterrupt

    monkeypatch.setattr(ledger, "all_claims", lambda: (few[0], claim("3.1-slow", interrupted), few[1]))
    assert main([]) == 130
    out, err = capsys.readouterr()
    assert "1 claim: 1 holds" in out
    assert "interrupted: 1 of 3 claims checked" in err


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "3.1-tets"], "unknown claim id '3.1-tets'; did you mean 3.1-test"),
        (["--only", "zzz"], "unknown claim id 'zzz'; --list shows the ids"),
        (["--only"], "--only must have at least one value"),
        (["--section", "9"], "--section: unknown section '9'"),
        (["--verdict", "true"], "--verdict must be one of holds, holds_corrected,"),
        (["--seed", "-1"], "--seed must be a whole number, 0 or above, received -1"),
        (["--json", "/nowhere/ledger.json"], "--json /nowhere/ledger.json: cannot be written"),
        (["--list", "--json", "-"], "--json is for a run, and --list runs nothing; leave one of the two out"),
        (["--list", "--report", "x.html"], "--report is for a run, and --list runs nothing"),
        (["--list", "--long"], "--long is for a run"),
        (["--list", "--results", "."], "--results is for a run"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(few, capsys, arguments, message):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.bad_input
def test_select_raises_for_an_unknown_id(few):
    with pytest.raises(ArgumentError, match="unknown claim id"):
        ledger.select(few, ["nope"])


def test_select_keeps_the_ledgers_order(few):
    assert ledger.select(few, ["3.1-corrected", "3.1-test"]) == few[:2]
    assert ledger.select(few, None) == few


def test_two_claims_with_one_id(monkeypatch):
    monkeypatch.setattr(ledger, "SECTIONS", ("s3_3_worst_case", "s3_3_worst_case"))
    with pytest.raises(ValueError, match="share an id"):
        ledger.all_claims()


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (EVIDENCE, "error 1e-16 (allowed 1e-12)"),
        (Evidence({}, {}, "", error=0.5, n=3), "error 0.5, n = 3"),
        (Evidence({}, {}, "", interval=(0.1, 2.0), n=9), "interval [0.1, 2], n = 9"),
        (Evidence({}, {"one case": 0.3}, "", cases=20, n=9), "20 cases, n = 9"),
        (Evidence({}, {"cells": 19, "ok": True, "names": ["a"]}, "", n=27), "cells: 19, ok: True, n = 27"),
        (Evidence({}, {}, ""), ""),
    ],
)
def test_evidence_text(evidence, words):
    assert written.evidence_text(evidence) == words


def test_colour_only_on_a_terminal(capsys):
    written.show([view(Row(claim(), Finding("refuted", EVIDENCE)))])
    assert "\x1b[" not in capsys.readouterr().out


@pytest.fixture
def reading(monkeypatch):
    """A ledger of one claim that reads records: it holds if its folder has a file `true`, and says where it looked."""

    def check(cases, folder):
        if folder is not None and (folder / "twice").exists():
            raise ArgumentError("recorded twice")
        measured = {"folder": "the committed one" if folder is None else folder.name}
        there = folder is None or (folder / "true").exists()
        return Finding("holds" if there else "refuted", Evidence({}, measured, "records"))

    one = dataclasses.replace(claim("4-reads", check), reads="finetune")
    monkeypatch.setattr(ledger, "all_claims", lambda: (claim(), one))


def _read(arguments, capsys):
    assert main(["--json", "-", *arguments]) == 0
    entry = json.loads(capsys.readouterr().out)["claims"][1]
    return entry["verdict"], entry["evidence"]["measured"]["folder"]


def test_results_are_read_in_place_of_the_committed_ones(reading, tmp_path, capsys):
    assert _read([], capsys) == ("holds", "the committed one")
    assert _read(["--results", str(tmp_path)], capsys) == ("refuted", tmp_path.name)
    (tmp_path / "true").touch()
    assert _read(["--results", str(tmp_path)], capsys) == ("holds", tmp_path.name)
    (tmp_path / "finetune").mkdir()
    assert _read(["--results", str(tmp_path)], capsys) == ("refuted", "finetune")


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "--results must be a folder of records, received "),
        ("file", "--results must be a folder of records, received "),
        ("folder", "--results {}: recorded twice"),
    ],
)
def test_a_bad_folder_of_results_is_one_line_and_exit_2(reading, tmp_path, capsys, name, message):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "twice").touch()
    assert main(["--results", str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message.format(tmp_path / name) in err
    assert err.count("\n") == 1


def test_the_rows_that_read_records_say_so_and_take_a_folder(tmp_path):
    reads = [item for item in ledger.all_claims() if item.reads is not None]
    assert {item.id for item in reads} == {
        item.id for item in ledger.all_claims() if item.command.startswith("python -m experiments")
    }
    for item in reads:
        assert ledger.examine(item, tmp_path).finding.verdict == "not_run"


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (None, ""),
        (Size(1.234, "points", "of"), "1.2 points"),
        (Size(1.04, "points", "of"), "1.0 points"),
        (Size(-1.0, "points", "of"), "-1 points"),
        (Size(1.2, "", "of", 0.5, 2), "1.2 (0.5 to 2)"),
        (Size(0.1, "nats", "of", high=0.25), "0.1 nats (at most 0.25)"),
        (Size(5.0, "%", "of", low=4.0), "5 % (at least 4)"),
        (Size(-0.196, "points", "of", -0.3105, -0.0822), "-0.2 points (-0.32 to -0.082)"),
        (Size(-0.126, "points", "of", -0.3055, 0.0527), "-0.13 points (-0.31 to 0.06)"),
        (Size(0.0043, "nats", "of", -0.0095, 0.0178), "0.004 nats (-0.010 to 0.018)"),
        (Size(-0.01, "points", "of", -0.7, 2.3, "95 %"), "0.0 points (95 %: -0.7 to 2.3)"),
        (Size(22.0, "%", "of", -31.2, 70.9), "22 % (-32 to 71)"),
        (Size(4.8, "points", "of", -0.02, 10.4), "4.8 points (-0.1 to 10.4)"),
        (Size(0.13, "", "of", -1.5, 0.004), "0.13 (-1.50 to 0.01)"),
        (Size(22.1, "%", "of", -2.94, 70.9, "range"), "22 % (range: -2.9 to 71)"),
        (Size(0.0, "", "of", float("-inf"), 2.0), "0 (−∞ to 2)"),
        (Size(1.26, "", "of", 1.058, 1.4656, "95 %"), "1.26 (95 %: 1.05 to 1.47)"),
        (Size(1.0325, "times", "of", 1.0204, 1.0451, "range"), "1.03 times (range: 1.02 to 1.05)"),
        (Size(0.8452, "of η", "of", 0.8452, 0.9535, "range"), "0.85 of η (range: 0.85 to 0.95)"),
        (Size(0.2, "", "of", 0.1 + 0.2, 0.0), "0.2 (0.3 to 0)"),
        (Size(2.0, "", "of", 1.5, float("inf")), "2 (1.5 to ∞)"),
        (Size(1.0, "", "of", 1 - 1e-9, 1.0), "1"),
        (ranged([1.0, 1.0], "", "of"), "1"),
        (ranged([0.5, 1.0], "", "of"), "0.75 (range: 0.5 to 1)"),
    ],
)
def test_size_text(size, words):
    assert size_text(size) == words


def test_a_number_and_its_percent_sign_stand_apart_in_our_words_and_the_paper_s_stay_as_printed():
    evidence = Evidence({"within 1%": 2.0}, {"b": {"2% of c": [0.5]}}, "to 3%", n=4)
    finding = Finding("conditional", evidence, "5%", "Yes: 6%.", None, Size(7.0, "8%", "9.5% of it"), "10%", "11%")
    seen = view(Row(dataclasses.replace(CLAIMS["4.5-average"], reading='12%, "%"'), finding))
    assert (seen.corrected, seen.answer, seen.condition, seen.flips_if) == ("5 %", "Yes: 6 %.", "10 %", "11 %")
    assert (seen.size, seen.reading) == (Size(7.0, "8 %", "9.5 % of it"), '12 %, "%"')
    assert seen.evidence == Evidence({"within 1 %": 2.0}, {"b": {"2 % of c": [0.5]}}, "to 3 %", n=4)
    assert "0.3%" in seen.statement


# --- every row of the real ledger -------------------------------------------------------------------------------------

CLAIMS = {one.id: one for one in ledger.all_claims()}
RESULTS = Path(__file__).parents[1] / "experiments" / "results"
ROUNDS = 20


def test_what_rests_on_what_is_there():
    ledger.supports(tuple(CLAIMS.values()))
    with pytest.raises(ValueError, match=r"3\.1-nowhere"):
        ledger.supports((dataclasses.replace(claim(), depends_on=("3.1-nowhere",)),))


@pytest.mark.parametrize("identifier", CLAIMS)
def test_a_row(identifier):
    """It answers as recorded, its verdict falls with scrambled outcomes, its cases are near its boundary."""
    one = CLAIMS[identifier]
    for said in (one.where, one.statement, one.command, one.test):
        assert said
    assert "(read:" not in one.statement
    cases, finding = as_is(one)
    row = view(Row(one, finding))
    json.dumps(plain(row), allow_nan=False)
    golden = recorded()[identifier]
    assert (row.statement, row.verdict, row.at_paper) == (golden["statement"], golden["verdict"], golden["at_paper"])
    assert re.sub(r"[\d.,]+", "#", row.answer) == re.sub(r"[\d.,]+", "#", golden["answer"])
    assert row.answer.startswith(OPENINGS)
    assert (finding.condition is not None) == (finding.verdict == "conditional")
    if finding.verdict == "not_run":
        return
    assert finding.flips_if
    assert finding.evidence.measured
    assert cases.judged is not None, "the verdict rests on no cases"
    assert cases.judged.verdict == finding.verdict
    if finding.verdict in ("holds", "holds_corrected", "conditional"):
        stays = sum(cases.judged.scrambled(np.random.default_rng(round)) == finding.verdict for round in range(ROUNDS))
        assert stays <= 1, f"the verdict survives {stays} of {ROUNDS} scramblings"
    near = getattr(cases.judged, "near", None)
    assert near is None or near >= 0.5


@pytest.mark.parametrize("identifier", {one.reads: one.id for one in CLAIMS.values() if one.reads}.values())
def test_the_committed_records_given_by_name_change_nothing(identifier):
    """One row of each study."""
    found, named = as_is(CLAIMS[identifier])[1], ledger.examine(CLAIMS[identifier], RESULTS).finding
    assert (named.verdict, named.corrected) == (found.verdict, found.corrected)
    assert named.evidence.measured == found.evidence.measured


def test_the_recorded_answers_are_of_this_ledger():
    assert list(recorded()) == list(CLAIMS)
    assert {one["verdict"] for one in recorded().values()} <= set(VERDICTS)


def test_list_runs_nothing(monkeypatch, capsys):
    monkeypatch.setattr(ledger, "examine", None)
    assert main(["--list", "--section", "3.3", "--verdict", "holds,refuted"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "3.3-worst-case  holds" in lines
    assert all(line.split()[1] in ("holds", "refuted") for line in lines if not line.startswith(" "))
    said, came_out = (line.strip() for line in lines[lines.index("3.3-worst-case  holds") + 1 :][:2])
    assert CLAIMS["3.3-worst-case"].statement.startswith(said.removesuffix(" …"))
    assert recorded()["3.3-worst-case"]["answer"].startswith(came_out)


def test_a_statement_in_a_table_is_cut_at_a_word_and_says_whose_it_is():
    for claim in CLAIMS.values():
        shown, who = sentence(claim.statement, claim.where), said_by(claim.where)
        words = shown.removesuffix(f" ({who})")
        assert len(words) <= CUT
        assert (shown != words) == (who is not None)
        cut = words.removesuffix(" …")
        assert f"{' '.join(claim.statement.split())} ".startswith(f"{cut} ")
        assert words.endswith(" …") == (len(" ".join(claim.statement.split())) > CUT)
    assert sentence("a" * CUT, "§3.1") == "a" * CUT
    assert sentence("One two. " * 9, "beyond the paper: §3.1") == "One two. " * 8 + "… (not in the paper)"


def test_one_row_in_full(capsys):
    assert main(["--only", "3.3-norm"]) == 0
    out = capsys.readouterr().out
    for words in (
        "the paper says",
        "true at the",
        "paper's setting",
        "changes if",
        "allora_analysis/claims/s3_3_worst_case.py: norm",
    ):
        assert words in out


def test_the_decorator_puts_a_claim_in_the_functions_place():
    @claimed("3.1-x", where="§3.1", says="1 = 1", command="c", test="t", depends_on=("3.1-y",))
    def check(cases):
        """A line."""

    assert (check.id, check.statement, check.section, check.depends_on) == ("3.1-x", "1 = 1", "3.1", ("3.1-y",))
