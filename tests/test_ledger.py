"""The ledger's mechanics; each section's checks have tests of their own (`test_claims_*.py`)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from allora_analysis.__main__ import main
from allora_analysis.claims import ledger, presentation
from allora_analysis.claims.ledger import Claim, Evidence, Finding, Row, relative_error, settle
from allora_analysis.validation import ArgumentError

EVIDENCE = Evidence({"a": 1.0}, {"a": np.float64(1.0)}, "rounding", error=1e-16, tolerance=1e-12)


def claim(name="3.1-test", check=lambda: Finding("holds", EVIDENCE)):
    return Claim(name, "§3.1", "1 = 1", check, "python -m allora_analysis", "tests/test_ledger.py")


@pytest.fixture
def few(monkeypatch):
    """A ledger of four claims: one holds, one is corrected, one raises, one has no check."""

    def raises():
        raise RuntimeError("planted")

    corrected = Finding("holds_corrected", EVIDENCE, "2 = 2")
    claims = (
        claim(),
        claim("3.1-corrected", lambda: corrected),
        claim("3.2-raises", raises),
        claim("4-later", None),
    )
    monkeypatch.setattr(ledger, "all_claims", lambda: claims)
    return claims


@pytest.mark.parametrize(
    ("printed", "corrected", "verdict"),
    [
        ({"a": True, "b": True}, None, "holds"),
        ({"a": True, "b": True}, {"a": False}, "holds"),
        ({"a": False, "b": False}, {"a": True, "b": True}, "holds_corrected"),
        ({"a": True, "b": False}, {"a": True, "b": True}, "conditional"),
        ({"a": True, "b": False}, {"a": True, "b": False}, "refuted"),
        ({"a": False}, {"a": False}, "refuted"),
        ({"a": False}, None, "refuted"),
        ({"a": True, "b": False}, {}, "refuted"),
    ],
)
def test_settle(printed, corrected, verdict):
    assert settle(printed, corrected) == verdict


@pytest.mark.parametrize(
    ("printed", "opposite", "verdict"),
    [
        ({"a": True, "b": True}, {"a": True, "b": True}, "holds"),
        ({"a": False, "b": False}, {"a": True, "b": True}, "refuted"),
        ({"a": False, "b": False}, {"a": True, "b": False}, "undecided"),
        ({"a": True, "b": False}, {"a": True, "b": True}, "undecided"),
        ({"a": False}, {}, "undecided"),
    ],
)
def test_settle_by_the_contrary(printed, opposite, verdict):
    assert settle(printed, opposite, contrary=True) == verdict


def test_settle_needs_a_case():
    with pytest.raises(ValueError, match="at least one case"):
        settle({})


@pytest.mark.parametrize("verdict", ["holds_corrected", "conditional", "undecided"])
def test_a_verdict_that_needs_a_text_must_have_one(verdict):
    with pytest.raises(ValueError, match="must say"):
        Finding(verdict, EVIDENCE)


def test_unknown_verdict():
    with pytest.raises(ValueError, match="none of"):
        Finding("true", EVIDENCE)


def test_relative_error():
    assert relative_error([1.0, 2.0], [1.0, 2.5]) == 0.2
    assert relative_error([0.5], [0.0]) == 0.5
    assert relative_error([1.0, 2.0], [[1.0, 2.0]]) == float("inf")
    assert relative_error([float("nan")], [1.0]) == float("inf")


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
    wanted = {"id", "where", "statement", "verdict", "corrected", "evidence", "command", "test"}
    assert set(first) == wanted
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
        "seed",
        "seconds",
    } == set(first["evidence"])
    assert second["corrected"] == "2 = 2"
    assert third["verdict"] == "not_run"


def test_a_check_that_raises_is_exit_1_and_the_rest_is_printed(few, capsys, tmp_path):
    path = tmp_path / "ledger.json"
    assert main(["--json", str(path)]) == 1
    out, err = capsys.readouterr()
    assert "error of the toolkit in the check of 3.2-raises: RuntimeError: planted" in err
    assert "4 claims: 1 holds, 1 holds_corrected, 1 not_run, 1 error" in out
    assert "→ 2 = 2" in out
    assert "→ run: python -m allora_analysis" in out
    entry = json.loads(path.read_text())["claims"][2]
    assert entry["verdict"] is None
    assert entry["error"] == "RuntimeError: planted"


def test_ctrl_c_prints_what_was_finished(few, capsys, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(ledger, "all_claims", lambda: (few[0], claim("3.1-slow", interrupted), few[1]))
    assert main([]) == 130
    out, err = capsys.readouterr()
    assert "1 claims: 1 holds" in out
    assert "interrupted: 1 of 3 claims checked" in err


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "3.1-tets"], "unknown claim id '3.1-tets'; did you mean 3.1-test"),
        (["--only", "zzz"], "unknown claim id 'zzz'; the ledger's table lists the ids"),
        (["--only"], "--only must have at least one value"),
        (["--json", "/nowhere/ledger.json"], "--json /nowhere/ledger.json: cannot be written"),
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
    monkeypatch.setattr(ledger, "SECTIONS", ("s4_1_framework", "s4_1_framework"))
    with pytest.raises(ValueError, match="share an id"):
        ledger.all_claims()


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (EVIDENCE, "error 1e-16 (allowed 1e-12)"),
        (Evidence({}, {}, "", error=0.5, n=3), "error 0.5, n = 3"),
        (Evidence({}, {}, "", interval=(0.1, 2.0), n=9), "interval [0.1, 2], n = 9"),
        (Evidence({}, {"cells": 19, "ok": True, "names": ["a"]}, "", n=27), "cells: 19, ok: True, n = 27"),
        (Evidence({}, {}, ""), ""),
    ],
)
def test_evidence_text(evidence, words):
    assert presentation.evidence_text(evidence) == words


def test_colour_only_on_a_terminal(capsys):
    presentation.show([Row(claim(), Finding("refuted", EVIDENCE))])
    assert "\x1b[" not in capsys.readouterr().out


def test_the_real_ledger_is_well_formed():
    claims = ledger.all_claims()
    assert len(claims) >= 40
    for item in claims:
        assert item.where
        assert item.statement
        assert item.command
        assert item.test


@pytest.fixture
def reading(monkeypatch):
    """A ledger of one claim that reads records: it holds if its folder has a file `true`, and says where it looked."""

    def check(folder=None):
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


def test_the_committed_records_given_by_name_change_nothing():
    folder = Path(ledger.__file__).parents[2] / "experiments" / "results"
    for item in ledger.all_claims():
        if item.reads is not None:
            committed, named = (ledger.examine(item, where).finding for where in (None, folder))
            assert named.verdict == committed.verdict
            assert named.corrected == committed.corrected
            assert named.evidence.measured == committed.evidence.measured
