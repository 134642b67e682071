"""A command in this process: its switches, its outputs, what stops it and what it refuses."""

import dataclasses
import functools
import importlib
import json
import math
import os
import sys
from dataclasses import dataclass

import pytest
from matplotlib.figure import Figure

from allora_analysis import cli
from allora_analysis.study import Result, Study, Table, plain
from allora_analysis.validation import ArgumentError
from tests import tiny_finetune


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
    assert ("Seed 1, run at once" in " ".join(out.split())) != stopped
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


@pytest.mark.bad_input
def test_what_an_extra_installs_is_asked_for_in_one_line(capsys, monkeypatch, tmp_path):
    """Planted: a traceback, from each command that loads a model."""
    data, base, adapter = tiny_finetune.sentences(tmp_path / "films", 700), tmp_path / "model", tmp_path / "adapter"
    tiny_finetune.bert(base)
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 2, "peft_type": "LORA"}')
    (adapter / "adapter_model.safetensors").touch()
    finetune = functools.partial(cli.main, importlib.import_module("allora_analysis.finetune.study").STUDY)
    doctor, ripple, hessian, features = (
        importlib.import_module(name).main
        for name in (
            "allora_analysis.doctor.__main__",
            "allora_analysis.claims.pretrained_ripple",
            "experiments.hessian",
            "experiments.dropout_features",
        )
    )
    of_model = f"--model {base} --data {data}"
    for name, command, words in (
        ("transformers", finetune, f"--arm lora --max-steps 1 {of_model}"),
        ("transformers", doctor, f"--r 16 --alpha 16 --lr 1e-3 {of_model}"),
        ("transformers", ripple, f"{base} all-MiniLM-L6-v2 --data {data}"),
        ("transformers", hessian, f"--model-name all-MiniLM-L6-v2 {of_model} --results {tmp_path / 'results'}"),
        ("transformers", features, f"{of_model} --results {tmp_path / 'results'}"),
        ("safetensors", doctor, str(adapter)),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            assert command(words.split()) == 2, words
        told = f"error: {name} is not installed: pip install 'allora-analysis[llm]'\n"
        assert capsys.readouterr().err.endswith(told), words
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert finetune(f"--model {tmp_path / 'none'} --data {data} --arm lora".split()) == 2
    assert "is no folder or file here, and huggingface_hub is not installed: pip" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shapes"), OSError("no file's"), ModuleNotFoundError("No module named 'tyro'", name="tyro")],
    ids=lambda error: type(error).__name__,
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


def _lines_of(main, words, capsys):
    try:
        status = main(words)
    except SystemExit as ended:
        status = ended.code
    out, err = capsys.readouterr()
    assert (status, out, err.count("\n")) == (2, "", 1)
    return err


PARSED = [
    (["--depth", "abc"], "--depth must be a whole number, received 'abc'"),
    (["--depth", "1" * 5000], "--depth: Exceeds the limit"),
    (["--a-std", "x" * 5000], f"--a-std must be a number, received '{'x' * 90}"),
    (["--eta", "1", "x]"], "--eta must be numbers, received '1', 'x]'"),
    (["--eta", "1", "x"], "--eta must be numbers, received '1', 'x'"),
    (["--architecture", "foo"], "--architecture must be one of 'linear', 'relu', 'prelayernorm'; received 'foo'"),
    (["--depth"], "--depth takes a value, received none"),
    (["--depht", "3"], "--depht: no such flag; perhaps --depth; --help lists all"),
    (["--bogus=3"], "--bogus: no such flag; --help lists all"),
    (["--depth", "3", "4"], "'4' belongs to no flag; name its flag before it, or leave it out"),
    (["--depth", "-3"], "--depth must be a whole number"),
]


@pytest.mark.bad_input
@pytest.mark.parametrize(("words", "says"), PARSED)
@pytest.mark.parametrize("columns", ["40", "200", None])
def test_what_cannot_be_parsed_is_one_line_whatever_the_terminal(words, says, columns, capsys, monkeypatch):
    """Planted: tyro's boxes, of 5 to 16 lines, which break long words at the terminal's width."""
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    before = dict(os.environ)
    study = importlib.import_module("allora_analysis.ripple.study").STUDY
    assert _lines_of(lambda argv: cli.main(study, argv), words, capsys).startswith(f"error: {says}")
    assert dict(os.environ) == before


COMMANDS = [
    *("allora_analysis.__main__", "allora_analysis.doctor.__main__", "notebooks.__main__", "paper_figures.__main__"),
    *("experiments.own_best_rate", "experiments.laboratory", "experiments.one_rate", "experiments.stable_rates"),
]


@pytest.mark.bad_input
@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_flag_is_one_line_in_every_family_of_commands(name, capsys):
    main = importlib.import_module(name).main
    assert _lines_of(main, ["--bogus"], capsys) == "error: --bogus: no such flag; --help lists all\n"


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("name", "words", "says"),
    [
        ("allora_analysis.__main__", ["--seed", "x"], "--seed must be a whole number, received 'x'"),
        (
            "allora_analysis.__main__",
            ["3.3-worst-case"],
            "'3.3-worst-case' belongs to no flag; claims and sections are",
        ),
        ("allora_analysis.__main__", ["3.3-worst-case"], "named after --only: --only 3.3-worst-case"),
        (
            "allora_analysis.__main__",
            ["--only", "3.3-worst-case", "--section", "4"],
            "--section 4: holds no claim of --only's",
        ),
        (
            "allora_analysis.doctor.__main__",
            ["--optimizer", "adagrad"],
            "must be one of 'adamw', 'adam', 'sgd', 'alloraadamw'; rec",
        ),
        ("allora_analysis.doctor.__main__", ["--gap", "0.5", "--arms", "lora"], "--arms takes 2 values, received few"),
        ("allora_analysis.doctor.__main__", ["--gap", "0.5", "--arms", "foo", "lora"], "--arms must be one of lora, "),
    ],
)
def test_first_mistakes_are_one_line_with_the_way_out(name, words, says, capsys):
    assert says in _lines_of(importlib.import_module(name).main, words, capsys)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("name", "words", "says"),
    [
        ("finetune", [], "--model, --data, --arm must be given; --help says what each takes"),
        ("finetune", ["--arm", "lora", "--model", "m"], "--data must be given"),
        (
            "dropout_sgd",
            ["--placement", "bottleneck"],
            "--placement bottleneck is of factors; give --parameters factors",
        ),
        ("dropout_sgd", ["--seed", "-1"], "--seed must be a whole number"),
    ],
)
def test_a_study_s_refusals_name_flags(name, words, says, capsys):
    study = importlib.import_module(f"allora_analysis.{name}.study").STUDY
    assert _lines_of(lambda argv: cli.main(study, argv), words, capsys).startswith(f"error: {says}")


@pytest.mark.parametrize(
    ("box", "line"),
    [
        (
            "╭─ Bad ─────╮\n│ A new     │\n│ mistake.  │\n│ ───────── │\n│ See --help│\n╰───────────╯\n",
            "A new mistake.",
        ),
        (" Bad      \n --------\n  A new  \n  mistake.  \n  ------ \n  See --help\n   \n", "A new mistake."),
        ("\x1b[31m╭─ Bad ──╮\x1b[0m\n\x1b[31m│\x1b[0m Worse. \x1b[31m│\x1b[0m\n╰────────╯\n", "Worse."),
        ("no box: bad\nand worse", "no box: bad and worse"),
        ("", ""),
    ],
)
def test_the_words_of_another_tyro_stand_in_the_line(box, line):
    assert cli._in_a_line(box, "") == line


@pytest.mark.parametrize("words", [[], ["--list"]])
def test_a_verdict_that_no_claim_has_is_said(words, capsys):
    """Planted: an empty line."""
    from allora_analysis.__main__ import main

    assert main(["--only", "3.3-worst-case", "--verdict", "undecided,not_run", *words]) == 0
    assert capsys.readouterr() == ("None of the claims asked for is undecided or not_run.\n", "")


@pytest.mark.bad_input
def test_a_folder_without_data_is_told_its_form(tmp_path):
    with pytest.raises(
        ArgumentError, match=r"holds no train\.jsonl .*; write one JSON object a line, with text and label"
    ):
        importlib.import_module("allora_analysis.finetune.data").load(str(tmp_path), None)


def test_a_refusal_in_a_box_is_no_refusal_in_one_line(monkeypatch):
    """Planted: the check of hostile command lines counted every status 2 without a traceback."""
    from tests.hardening import fuzz

    assert fuzz.line("ripple", ["--depth", "abc"]) == "refused"
    monkeypatch.setattr(cli, "_in_a_line", lambda box, bare: sys.stderr.write("two\nlines\n") and "of a box")
    assert fuzz.line("ripple", ["--depth", "abc"]) == "a refusal that is not one line"
