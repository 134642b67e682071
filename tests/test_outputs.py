"""Files that a user asks for: tried before anything is computed, written whole or not at all."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest

from allora_analysis import outputs
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
