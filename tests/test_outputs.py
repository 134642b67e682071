"""Files that a user asks for, and standard output: tried before anything is computed, whole, without a traceback."""

import io
import json
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
from allora_analysis.validation import ArgumentError


def test_atomic_writing_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")

    def fails(target):
        target.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        outputs.write_atomically(path, fails)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_keeps_its_mode(tmp_path):
    for mode in (0o600, 0o664):
        (tmp_path / "a.json").write_text("old")
        (tmp_path / "a.json").chmod(mode)
        outputs.write_text("--json", tmp_path / "a.json", "new")
        assert (tmp_path / "a.json").stat().st_mode & 0o777 == mode


def test_a_link_stays_one_and_what_it_leads_to_is_written(tmp_path):
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    outputs.write_text("--json", link, "new")
    assert link.is_symlink()
    assert target.read_text(encoding="utf-8") == "new"


def test_a_stream_that_was_redirected_to_a_file_is_written_where_it_is(tmp_path):
    """Planted: the file was replaced, and what the shell held open was lost."""
    path = tmp_path / "out.txt"
    code = "from pathlib import Path; from allora_analysis import outputs; print('first', flush=True); "
    code += "outputs.write_text('--json', Path('/dev/stdout'), 'second\\n')"
    with path.open("a") as stream:
        before = os.fstat(stream.fileno()).st_ino
        subprocess.run([sys.executable, "-c", code], stdout=stream, check=True, timeout=60)
        assert path.stat().st_ino == before
    assert "second" in path.read_text(encoding="utf-8")


def test_what_is_no_text_in_a_path_is_escaped(tmp_path):
    path = tmp_path / "a.json"
    outputs.write_text("--json", path, json.dumps({"data": "d\udcff.npz"}, ensure_ascii=False))
    assert json.loads(path.read_text(encoding="utf-8")) == {"data": "d\udcff.npz"}


def test_the_longest_name_can_be_written_and_a_longer_one_is_refused_before(tmp_path):
    path = tmp_path / ("n" * 250 + ".json")
    outputs.check_writable("--json", path)
    outputs.write_text("--json", path, "{}")
    assert path.read_text(encoding="utf-8") == "{}"
    with pytest.raises(ArgumentError, match="name too long"):
        outputs.check_writable("--json", tmp_path / ("n" * 251 + ".json"))


@pytest.mark.bad_input
def test_a_folder_is_made_or_refused(tmp_path):
    outputs.check_folder("--results", tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match=r"--results .*file: cannot be written \(File exists\)"):
        outputs.check_folder("--results", tmp_path / "file")


@pytest.mark.bad_input
def test_one_file_for_two_outputs_or_over_an_input_is_refused(tmp_path):
    one, other = tmp_path / "a", tmp_path / "b"
    one.write_text("data")
    outputs.check_apart({"--json": other}, {"--data": str(one), "--seed": 3, "--name": "mnist", "--second": str(one)})
    outputs.check_apart({"--json": other, "--figure": tmp_path / "c"})
    for written, read in (({"--json": one}, {"--data": one}), ({"--json": other, "--figure": other}, {})):
        with pytest.raises(ArgumentError, match="must be two files"):
            outputs.check_apart(written, read)


def test_json_on_a_stream_without_our_letters_is_json(monkeypatch):
    document = '{"λ": "½𝟙"}'
    for encoding, unchanged in (("utf-8", True), ("ascii", False), ("latin-1", False)):
        stream = io.TextIOWrapper(io.BytesIO(), encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        outputs.print_json(document)
        stream.flush()
        found = stream.buffer.getvalue().decode(encoding).strip()
        assert (found == document) == unchanged
        assert json.loads(found) == json.loads(document)


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
