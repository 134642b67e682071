"""Standard output that nobody reads, that is full, missing, narrow, not UTF-8: no traceback, and files written."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from allora_analysis import outputs
from allora_analysis.claims.claim import Claim, Evidence, Finding, Size
from allora_analysis.claims.ledger import Row
from allora_analysis.render.terminal import ENOUGH, table
from allora_analysis.render.view import view

ROOT = Path(__file__).parents[1]
LEDGER = f"'{sys.executable}' -m allora_analysis --only 3.1-minimiser"
RIPPLE = f"'{sys.executable}' -m allora_analysis.ripple --depth 4 --width 16 --rank 2 --replicas 8"
LONG = "Not as printed: with a formula of forty characters: " + "x" * 40
ROW = Row(
    Claim("3.1-a-long-identifier", "§3.1, the place", "the statement", print, "command", "test"),
    Finding(
        "holds_corrected", Evidence({}, {}, ""), "the correction", LONG, False, Size(0.5, "of it", "it", 0.25, 0.75)
    ),
)


def run(command, **environment):
    return subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        errors="replace",
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        timeout=120,
    )


@pytest.mark.parametrize("command", [f"{LEDGER} --report FOLDER/page.html", RIPPLE], ids=["ledger", "study"])
@pytest.mark.parametrize("out", ["FOLDER/all.json", "-"])
def test_a_closed_pipe_is_no_error_and_loses_no_file(tmp_path, command, out):
    command = f"{command} --json {out}".replace("FOLDER", str(tmp_path))
    done = run(command + " | true; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "all.json").exists() == (out != "-")
    assert (tmp_path / "page.html").exists() == ("--report" in command)


@pytest.mark.parametrize("command", [LEDGER, RIPPLE], ids=["ledger", "study"])
def test_letters_that_the_encoding_lacks_are_escaped(command):
    for more in ("", " --json -"):
        done = run(command + more, LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="latin-1")
        assert (done.returncode, "Traceback" in done.stderr) == (0, False)


def test_a_full_device_is_one_line():
    done = run(f"{LEDGER} > /dev/full")
    assert (done.returncode, done.stderr) == (2, "error: standard output: No space left on device; send it elsewhere\n")


@pytest.mark.parametrize(("spoken", "into"), [("say", "| true"), ("remark", "2>&1 >/dev/null | true")])
def test_long_work_goes_on_where_nobody_reads(tmp_path, spoken, into):
    """Planted: a reader that closed the pipe ended the work between two runs, with status 0."""
    script = tmp_path / "work.py"
    script.write_text(
        f"from allora_analysis import outputs\nfor run in range(3):\n    outputs.{spoken}('x' * 100000)\n"
        f"open({str(tmp_path / 'done')!r}, 'w').close()\n"
    )
    done = run(f"'{sys.executable}' {script} {into}; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize(("name", "drawn"), [("xterm", True), ("dumb", False), ("unknown", False)])
def test_a_dumb_terminal_gets_lines_and_no_bar(monkeypatch, capsys, name, drawn):
    """Planted: a bar on a terminal that cannot redraw showed nothing at all."""
    monkeypatch.setenv("TERM", name)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert outputs.redraws() == drawn


def test_streams_that_are_missing():
    assert run(f"{LEDGER} >&-").returncode == 0
    done = run(f"{LEDGER} 2>&-")
    assert done.returncode == 0
    assert "3.1-minimiser" in done.stdout


@pytest.mark.parametrize("width", [40, 80, 109, 110, 200])
def test_the_ledger_cuts_nothing_at_any_width(width):
    console = Console(width=width, file=io.StringIO())
    console.print(table([view(ROW)], narrow=width < ENOUGH))
    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    letters = "".join(shown.split())
    for part in ("holds_corrected", "0.5ofit(0.25to0.75)"):
        assert part in letters or width == 40
    assert shown.count("x") >= 40
