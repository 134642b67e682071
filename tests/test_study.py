"""The studies' shared shape: plain JSON, environment, progress, interrupted sweeps, tables."""

import io
import json
import math
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis import study
from allora_analysis.study import Result, Study, Table


@dataclass(frozen=True)
class Config:
    eta: tuple[float, ...] = (0.5, 1.0)
    steps: int = 3
    start: Path | None = None


STUDY = Study(
    "toy", Config, run=lambda config: Result({}, {}), table=lambda *_: Table("", (), ()), plot=lambda *_: None
)


WORDS = st.text("abé[", max_size=3)

# --- numbers as text and as JSON --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [
        (None, 4, "–"),
        (math.inf, 4, "∞"),
        (-math.inf, 4, "−∞"),
        (0.0, 4, "0"),
        (2, 4, "2"),
        (1 / 3, 4, "0.3333"),
        (1 / 3, 2, "0.33"),
        (123456.0, 4, "1.235e+05"),
        (np.float64(1e-9), 3, "1e-09"),
    ],
)
def test_text_of_a_number(value, digits, expected):
    assert study.text(value, digits) == expected


@pytest.mark.parametrize(
    ("value", "places", "expected"),
    [(-0.04, 1, "0.0"), (0.04, 1, "0.0"), (-0.06, 1, "-0.1"), (0.25001, 1, "+0.3"), (-0.0, 2, "0.00"), (12, 0, "+12")],
)
def test_a_difference_that_rounds_to_0_has_no_sign(value, places, expected):
    assert study.signed(value, places) == expected


def test_plain_takes_everything_a_result_holds():
    value = {
        "array": np.array([[1.0, np.inf], [-np.inf, 2.0]]),
        "zero_d": np.array(3.5),
        "integers": np.arange(2),
        "scalar": np.float32(0.5),
        "flag": np.bool_(True),
        7: (1, None, "text"),
        "config": Config(start=Path("a") / "b"),
        "nested": [{"inner": (np.int64(4),)}],
    }
    plain = study.plain(value)
    assert plain == {
        "array": [[1.0, None], [None, 2.0]],
        "zero_d": 3.5,
        "integers": [0, 1],
        "scalar": 0.5,
        "flag": True,
        "7": [1, None, "text"],
        "config": {"eta": [0.5, 1.0], "steps": 3, "start": str(Path("a") / "b")},
        "nested": [{"inner": [4]}],
    }
    assert type(plain["flag"]) is bool
    assert type(plain["integers"][0]) is int
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert study.plain(value, infinity="∞") == plain | {"array": [[1.0, "∞"], ["−∞", 2.0]]}


@pytest.mark.parametrize(
    "value", [math.nan, np.nan, np.float32("nan"), np.array([1.0, np.nan]), {"a": [(0.0, math.nan)]}, np.array(np.nan)]
)
def test_plain_refuses_a_nan_wherever_it_hides(value):
    with pytest.raises(ValueError, match="a result holds a NaN"):
        study.plain(value)


@settings(deadline=None, max_examples=50)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
        max_leaves=10,
    )
)
def test_plain_leaves_plain_values_alone(value):
    assert study.plain(value) == value


def test_the_json_document_has_its_five_parts_and_the_same_bytes_each_time():
    result = Result({"loss": np.float64(0.1), "log_growth": math.inf}, {"loss": 0.11, "loss_stderr": 0.02})
    document = study.as_json(STUDY, Config(), result)
    parsed = json.loads(document)
    assert list(parsed) == ["study", "config", "predicted", "measured", "environment"]
    assert parsed["study"] == "toy"
    assert parsed["config"] == {"eta": [0.5, 1.0], "steps": 3, "start": None}
    assert parsed["predicted"] == {"loss": 0.1, "log_growth": None}
    assert parsed["measured"] == {"loss": 0.11, "loss_stderr": 0.02}
    assert document == study.as_json(STUDY, Config(), result)


def test_the_json_document_says_if_it_was_interrupted_and_keeps_unicode():
    document = study.as_json(STUDY, Config(), Result({"σ": 1.0}, {}, interrupted=True))
    assert json.loads(document)["interrupted"] is True
    assert "σ" in document


def test_a_nan_never_reaches_the_document():
    with pytest.raises(ValueError, match="NaN"):
        study.as_json(STUDY, Config(), Result({}, {"x": np.array([0.0, np.nan])}))


def test_environment_names_versions_and_threads_and_imports_no_heavy_library():
    code = (
        "import json, sys; from allora_analysis.study import environment; facts = environment();"
        "heavy = {'torch', 'scipy', 'matplotlib', 'sklearn', 'transformers', 'curvlinops'} & set(sys.modules);"
        "print(json.dumps([facts, sorted(heavy)]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    facts, heavy = json.loads(run.stdout)
    assert heavy == []
    versions = {"allora_analysis", "python", "numpy", "scipy", "torch", "curvlinops-for-pytorch"}
    assert set(facts) == versions | {"platform", "threads"}
    assert all(facts[name] for name in versions)
    assert facts["numpy"] == np.__version__
    assert facts["threads"] == 1  # conftest sets OMP_NUM_THREADS for child processes


def test_environment_of_a_package_that_is_not_installed(monkeypatch):
    import importlib.metadata

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert study.environment()["torch"] is None


# --- progress and sweeps ----------------------------------------------------------------------------------------------


def test_progress_off_a_terminal_prints_lines_also_within_one_item(capsys, monkeypatch):
    monkeypatch.setattr(study, "INTERVAL", 0.05)
    for item in study.progress(list("ab"), "training"):
        if item == "b":
            threading.Event().wait(0.6)
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = set(printed.err.splitlines())
    assert "training: 1 of 2" in lines
    assert lines <= {"training: 0 of 2", "training: 1 of 2"}


def test_progress_ends_with_the_loop(capsys, monkeypatch):
    monkeypatch.setattr(study, "INTERVAL", 0.05)
    before = threading.active_count()
    steps = study.progress([1, 2, 3], "left")
    next(steps)
    steps.close()
    threading.Event().wait(0.3)
    assert threading.active_count() <= before
    assert capsys.readouterr().err.count("left") <= 1


def test_progress_of_something_quick_is_silent(capsys):
    assert list(study.progress(range(5), "quick")) == [0, 1, 2, 3, 4]
    assert list(study.progress([], "nothing")) == []
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal_is_a_bar_on_standard_error(capsys, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert list(study.progress([1, 2, 3], "training")) == [1, 2, 3]
    assert "training" in terminal.getvalue()
    assert capsys.readouterr().out == ""


def test_sweep_returns_results_in_order():
    assert study.sweep((i for i in range(4)), lambda i: i**2, "squares") == ([0, 1, 4, 9], False)
    assert study.sweep([], abs, "nothing") == ([], False)


@pytest.mark.parametrize("terminal", [False, True])
def test_sweep_keeps_what_was_finished_before_ctrl_c(monkeypatch, terminal):
    if terminal:
        monkeypatch.setattr(sys, "stderr", Terminal())
    asked = []

    def task(item):
        asked.append(item)
        if item == 2:
            raise KeyboardInterrupt
        return item * 10

    assert study.sweep(range(5), task, "tens") == ([0, 10], True)
    assert asked == [0, 1, 2]


def test_ctrl_c_before_anything_was_finished_goes_on_to_the_caller():
    def task(item):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.sweep(range(5), task, "none")


def test_an_error_in_a_sweep_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        study.sweep([1, 0], lambda item: 1 / item, "reciprocals")


# --- tables -----------------------------------------------------------------------------------------------------------


def test_a_table_on_a_pipe_is_as_wide_as_it_needs_and_cuts_no_number(capsys):
    columns = [f"column {index}" for index in range(40)]
    cells = [f"{index + 0.123456789:.9f}" for index in range(40)]
    study.show(Table("wide", columns, [cells], notes=["n" * 500]))
    printed = capsys.readouterr().out
    assert all(cell in printed for cell in cells)
    assert all(column in printed for column in columns)
    assert "n" * 500 in printed
    assert "…" not in printed


def test_what_came_out_stands_above_the_table(capsys):
    study.show(Table("a title", ["a wide column"], [["1"]], ["a note"], finding="What came out."))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "What came out."
    assert "a title" in lines[1]
    assert lines[-1] == "a note"


def test_a_table_on_a_narrow_terminal_folds_and_still_cuts_no_number(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "dumb")
    study.show(Table("narrow", ["a", "b", "c"], [["1234567890123456", "2234567890123456", "3234567890123456"]]))
    assert "…" not in terminal.getvalue()
    digits = "".join(character for character in terminal.getvalue() if character.isdigit())
    assert len(digits) == 64  # the key stands in both parts


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_wide_table_comes_in_parts_that_fit_with_whole_cells_and_notes_below(monkeypatch, width):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "dumb")
    columns = ["arm", *(f"quantity {index}: measured" for index in range(9))]
    rows = [[f"ALLoRA {row}", *(f"{row}.{index}234 ± 0.00{index}" for index in range(9))] for row in range(3)]
    study.show(Table("many columns", columns, rows, notes=["a note of words " * 20]))
    lines = terminal.getvalue().splitlines()
    assert all(cell in "\n".join(lines) for row in rows for cell in row)
    table = max(len(line) for line in lines if line.startswith("│"))
    assert table <= width
    notes = lines[max(index for index, line in enumerate(lines) if line.startswith("└")) + 1 :]
    assert max(map(len, notes)) <= min(width, max(table, study.NARROWEST))
    parts = sum(line.startswith("└") for line in lines)
    assert (parts > 1) == (parts == sum("ALLoRA 2" in line for line in lines) > 1)
    assert sum("many columns" in line for line in lines) == 1


# --- a large |z| ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seeded:
    seed: int = 4


def test_a_large_z_is_doubted_with_its_chance_and_a_second_seed_at_once():
    asked = []

    def run(config):
        asked.append(config.seed)
        return Result({}, {"z": [0.1, None, 3.5 if config.seed == 4 else -0.2]})

    toy = Study(
        "toy", Seeded, run, lambda *_: Table("", (), ()), lambda *_: None, z=lambda result: result.measured["z"]
    )
    line = study.doubt(toy, Seeded(), run(Seeded()))
    assert asked == [4, 5]
    # Two numbers of which chance gives 4.7e-4 each.
    assert line.startswith(
        "|z| = 3.50 is above 3: were z normal, chance would give one so large among 2 numbers under at most one seed "
        "in 1,07"
    )
    assert line.endswith("Seed 5, run at once: z = +0.10, –, -0.20.")
    assert study.doubt(toy, Seeded(5), run(Seeded(5))) is None
    last = Result({}, {"z": [9.0]})
    assert f"Seed {2**63 - 2}, run at once" in study.doubt(toy, Seeded(2**63 - 1), last)
    assert study.doubt(toy, Seeded(), Result({}, {"z": [9.0]}, interrupted=True)) is None
    assert "under no seed" in study.doubt(toy, Seeded(), Result({}, {"z": [-math.inf]}))
    assert study.doubt(STUDY, Config(), Result({}, {})) is None


def test_square_brackets_are_text_and_no_markup(capsys):
    study.show(Table("title [bold]x", ["[red]head"], [["[blue]cell"]], notes=["note [italic]y", "[/bold]"]))
    printed = capsys.readouterr().out
    for text in ("title [bold]x", "[red]head", "[blue]cell", "note [italic]y", "[/bold]"):
        assert text in printed


def test_a_table_without_rows_still_shows_its_headings(capsys):
    study.show(Table("empty", ["a", "b"], []))
    printed = capsys.readouterr().out
    assert "a" in printed
    assert "b" in printed
