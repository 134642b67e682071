"""A command in this process: its switches, its outputs, what stops it and what it refuses."""

import dataclasses
import importlib
import json
import math
from dataclasses import dataclass

import pytest
from matplotlib.figure import Figure

from allora_analysis import cli
from allora_analysis.study import Result, Study, Table, plain
from allora_analysis.validation import ArgumentError


@dataclass(frozen=True)
class Switches:
    """Two."""

    download: bool = False
    explained: bool = True


def test_a_switch_takes_no_value():
    both = cli.parse(Switches, "python -m allora_analysis.some", ["--download", "--no-explained"])
    assert both == Switches(download=True, explained=False)
    assert cli.parse(Switches, "python -m allora_analysis.some", []) == Switches()


@dataclass(frozen=True)
class _Config:
    """A study for these tests."""


@dataclass(frozen=True)
class _Seeded:
    """One with a seed."""

    seed: int = 0
    """Of the draws."""


def _study(run):
    return Study(
        "test", _Config, run, lambda config, result: Table("t", ["a"], [["1"]]), lambda config, result: Figure()
    )


def _finished(config):
    return Result({"a": 1.0}, {"a": 1.0})


@pytest.mark.parametrize("stopped", [False, True])
def test_what_was_computed_is_written_before_the_second_seed_is_run(stopped, tmp_path, capsys):
    path, seen = tmp_path / "a.json", []

    def compute(config):
        seen.append(path.exists())
        if stopped and config.seed:
            raise KeyboardInterrupt
        return Result({"a": 1.0}, {"a": 9.0})

    doubted = dataclasses.replace(_study(compute), config=_Seeded, z=lambda result: [result.measured["a"]])
    assert cli.main(doubted, ["--json", str(path)]) == (130 if stopped else 0)
    out, error = capsys.readouterr()
    assert seen == [False, True]
    assert json.loads(path.read_text(encoding="utf-8"))["measured"] == {"a": 9.0}
    assert ("Seed 1, run at once" in out) != stopped
    assert error == ("interrupted: the second seed was not run; the result itself is whole\n" if stopped else "")


def test_interrupted_results_are_shown_with_status_130(capsys):
    study = _study(lambda config: Result({"a": 1.0}, {"a": 1.0}, interrupted=True))
    assert cli.guarded(lambda: cli._run(study, _Config(), cli.Output(json="-"))) == 130
    out, err = capsys.readouterr()
    assert json.loads(out)["interrupted"] is True
    assert "only what was finished" in err


def test_ctrl_c_before_anything_was_finished(capsys):
    def interrupted():
        raise KeyboardInterrupt

    assert cli.guarded(interrupted) == 130
    assert "nothing was finished" in capsys.readouterr().err


def test_a_figure_that_cannot_be_written(tmp_path, monkeypatch):
    from allora_analysis import plotting

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plotting, "save", fails)
    with pytest.raises(ArgumentError, match=r"--figure .*No space left"):
        cli._draw(_study(_finished), _Config(), Result({}, {}), tmp_path / "a.png")


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError("7 TiB wanted"), "error: not enough memory (7 TiB wanted); ask for smaller sizes"),
        (MemoryError(), "error: not enough memory (no more is free); ask for smaller sizes"),
        (ValueError("array is too big; `arr.size` is"), "error: not enough memory (an array larger than any memory); "),
        (OverflowError("math range error"), "error: a number leaves double precision's range (math range error)"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you"),
            "error: not enough memory (DefaultCPUAllocator",
        ),
        (
            PermissionError(13, "Permission denied", "private/a"),
            "error: private/a: Permission denied; name one that can",
        ),
    ],
)
def test_what_no_machine_can_do_is_one_line(capsys, error, says):
    def command():
        raise error

    assert cli.guarded(command) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(says)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("tikhonov", ["--samples", str(10**18)]),
        ("deviation", ["--samples", str(10**18)]),
        ("ripple", ["--width", str(10**11)]),
        ("ripple", ["--width", str(2**62), "--method", "chi_square"]),
    ],
)
def test_sizes_beyond_any_memory_are_one_line(capsys, name, flags):
    """Planted: a traceback, as NumPy refuses such a size with a ValueError."""
    assert cli.main(importlib.import_module(f"allora_analysis.{name}.study").STUDY, flags) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: not enough memory (an array larger than any memory); ask for smaller sizes\n")


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes"), OSError("no file's")], ids=lambda error: type(error).__name__
)
def test_the_toolkits_own_errors_stay_loud(error):
    def command():
        raise error

    with pytest.raises(ValueError, match="a result holds a NaN"):
        cli.guarded(lambda: plain(math.nan))
    with pytest.raises(type(error)):
        cli.guarded(command)


@pytest.mark.bad_input
def test_two_outputs_in_one_file_and_one_over_the_data_are_refused(tmp_path, capsys):
    """Planted: the figure took the JSON's place, and the JSON the data's."""
    flags = ["--depth", "4", "--json", f"{tmp_path}/a.svg", "--figure", f"{tmp_path}/../{tmp_path.name}/a.svg"]
    assert cli.main(importlib.import_module("allora_analysis.ripple.study").STUDY, flags) == 2
    assert "--json and --figure must be two files" in capsys.readouterr().err
    data = tmp_path / "mine.npz"
    data.write_bytes(b"data")
    flags = ["--data", str(data), "--json", str(data)]
    assert cli.main(importlib.import_module("allora_analysis.gradient_std.study").STUDY, flags) == 2
    assert "--data and --json must be two files" in capsys.readouterr().err
    assert data.read_bytes() == b"data"


@pytest.mark.bad_input
def test_a_figure_that_would_run_latex_is_refused(capsys):
    assert cli.main(importlib.import_module("allora_analysis.ripple.study").STUDY, ["--figure", "a.pgf"]) == 2
    assert "must end in one of" in capsys.readouterr().err


@pytest.mark.bad_input
@pytest.mark.parametrize("words", [["--json", ""], ["--json="]])
def test_an_empty_value_is_refused_by_its_flag(words, capsys):
    assert cli.main(importlib.import_module("allora_analysis.ripple.study").STUDY, words) == 2
    assert capsys.readouterr().err == "error: --json: an empty value; give one, or leave the flag out\n"
