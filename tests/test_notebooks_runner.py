"""The runner that executes the notebooks: in place, cleaned, compared; a kernel that does not answer."""

import asyncio
import os
import time
from pathlib import Path

import nbformat
import pytest
import zmq
import zmq.asyncio
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from allora_analysis import notebook as shared
from notebooks import NOTEBOOKS, execution
from notebooks.__main__ import main


@pytest.fixture
def folder(tmp_path):
    """Notebooks of a few cells: the first one is to be filled."""
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


def written(folder, *sources) -> Path:
    cells = [new_markdown_cell("# Title"), *(new_code_cell(source, id=f"c{i}") for i, source in enumerate(sources))]
    path = folder / f"{NOTEBOOKS[0]}.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def command(folder, *flags):
    return main(["--only", NOTEBOOKS[0], "--folder", str(folder), *flags])


GOOD = (
    "from allora_analysis import notebook\nnotebook.begin()",
    "import os, sys\nprint('claims checked: 1 of 2', file=sys.stderr)\nprint(os.getcwd())",
    "from allora_analysis.plotting import panels\nnotebook.slider(lambda eta: panels()[0], eta=(1, 2, 3))",
    "notebook.verdicts('T1-averages')",
)


def test_executed_in_place_and_cleaned(folder, capsys):
    path = written(folder, *GOOD)
    assert command(folder) == 0, capsys.readouterr().err
    first = path.read_bytes()
    content = nbformat.read(path, as_version=4)
    assert execution.blemishes(content) == []
    assert content.metadata == {"kernelspec": execution.KERNEL, "language_info": {"name": "python"}}
    begun, where, slider, _ = (cell.outputs for cell in content.cells[1:])
    assert begun[0].data["text/markdown"].endswith("full sizes")
    assert where[0].text == "notebooks\n"  # the folder above is cut off, and no progress is kept
    assert set(slider[0].data) == {"image/png", "text/plain"}
    assert execution.shown_verdicts(content) == [("T1-averages", "holds")]
    assert command(folder) == 0
    assert path.read_bytes() == first  # the same seed, the same file


def test_a_check_writes_nothing_and_sees_an_old_verdict(folder, capsys):
    path = written(folder, GOOD[0], GOOD[-1])
    assert command(folder, "--check", "--small") == 1  # no verdict was committed
    assert "make notebooks" in capsys.readouterr().err
    assert command(folder) == 0
    good = path.read_bytes()
    assert command(folder, "--check", "--small") == 0
    assert path.read_bytes() == good
    path.write_text(good.decode().replace("| holds |", "| refuted |"), encoding="utf-8")
    old = path.read_bytes()
    capsys.readouterr()
    assert command(folder, "--check") == 1
    assert "T1-averages" in capsys.readouterr().err
    assert path.read_bytes() == old
    assert os.environ[shared.SMALL] == "0"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("assert 1 + 1 == 3", "AssertionError"),
        ("import warnings\nwarnings.warn('something changed')", "something changed"),
        ("print('/home/someone/file.txt')", "/home/someone/file.txt"),
        ("print(object())", "0x"),
    ],
)
def test_what_may_not_be_kept_is_not_written(source, said, folder, capsys):
    path = written(folder, source)
    before = path.read_bytes()
    assert command(folder) == 1
    assert said in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize(("lost", "status"), [(1, 0), (2, 1)])
def test_a_kernel_whose_answer_is_lost_is_asked_once_more(lost, status, folder, capsys, monkeypatch):
    right, calls = execution._run, []

    def run(notebook, where):
        calls.append(where)
        if len(calls) <= lost:
            raise RuntimeError("Kernel didn't respond in 60 seconds")
        right(notebook, where)

    monkeypatch.setattr(execution, "_run", run)
    path = written(folder, "1 + 1")
    assert command(folder) == status
    said = capsys.readouterr().err
    assert "no answer from the kernel; once more" in said
    assert ("Kernel didn't respond" in said) == bool(status)
    assert len(calls) == 2
    assert bool(nbformat.read(path, as_version=4).cells[1].outputs) == (not status)


def test_a_message_that_wakes_nobody_is_seen_at_the_next_look(folder, monkeypatch):
    looks = []

    async def asleep(self, timeout=None, flags=zmq.POLLIN):  # sees what is there; what comes later wakes nobody
        ready = bool(zmq.Socket.shadow(self.underlying).poll(0, flags))
        if not ready:
            looks.append(timeout)
            await asyncio.sleep(10_000 if timeout is None else timeout / 1000)
        return ready

    monkeypatch.setattr(zmq.asyncio.Socket, "poll", asleep)
    monkeypatch.setattr(execution, "PAUSE", 0.5)
    monkeypatch.setattr(execution, "SECONDS", 60)
    path, start = written(folder, "1 + 1", "2 + 2"), time.monotonic()
    assert command(folder) == 0
    assert looks
    assert time.monotonic() - start < 60  # not waited for until the limit, and then run once more
    assert [cell.outputs[0].data["text/plain"] for cell in nbformat.read(path, as_version=4).cells[1:]] == ["2", "4"]


def test_a_cell_that_takes_too_long_is_named(folder, capsys, monkeypatch):
    monkeypatch.setattr(execution, "SECONDS", 1)
    written(folder, "import time\ntime.sleep(30)")
    assert command(folder) == 1
    assert "timed out" in capsys.readouterr().err


def test_looks_change_no_output(folder, monkeypatch):
    path = written(folder, *GOOD)
    assert command(folder) == 0
    first = path.read_bytes()
    monkeypatch.setattr(execution, "PAUSE", 0.05)
    assert command(folder) == 0
    assert path.read_bytes() == first


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--small"], "--check"),
        (["--only", "6_conclusion"], "6_conclusion"),
        (["--folder", "."], "has no"),
        (["--only"], "only"),
    ],
)
def test_a_users_mistake_is_one_line(flags, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(flags) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert said in error
