"""The command: a table, JSON alone, a figure, one-line errors; progress on standard error: a bar on a terminal, now and
then a line elsewhere.
"""

import io
import json
import types
from pathlib import Path

import pytest

from allora_analysis import records
from allora_analysis.cli import main
from allora_analysis.finetune.study import STUDY
from tests import tiny_finetune as tiny

pytest.importorskip("peft")
from allora_analysis.finetune import trainer

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    made = tmp_path_factory.mktemp("study")
    tiny.bert(made / "bert")
    tiny.sentences(made / "films", 16)
    return made


def flags(root, *more, arm="lora"):
    given = {"--model": root / "bert", "--data": root / "films", "--arm": arm, "--rank": 2, "--batch-size": 8}
    given |= {"--epochs": 1, "--device": "cpu"}
    return [str(word) for pair in given.items() for word in pair] + [str(word) for word in more]


def test_a_run_as_json_is_recorded_and_found_again(root, tmp_path, capsys):
    command = flags(
        root, "--results", tmp_path, "--eta2", 2, "--json", "-", "--figure", tmp_path / "run.png", arm="allora"
    )
    assert main(STUDY, command) == 0
    first = capsys.readouterr()
    document = json.loads(first.out)
    measured = document["measured"]
    assert [entry["step"] for entry in measured["epochs"]] == [2]
    assert {"validation_accuracy", "test_accuracy", "test_loss"} <= set(measured["epochs"][0])
    assert measured["row_norms"]["step"] == [0, 1, 2]
    assert document["predicted"]["majority_rates"].keys() == {"train", "validation", "test"}
    assert "LOAD REPORT" not in first.err
    assert "Warning" not in first.err
    assert "Loading weights" not in first.err
    assert (tmp_path / "run.png").stat().st_size > 10_000
    (record,) = tmp_path.glob("finetune-*.json")
    assert json.loads(record.read_text(encoding="utf-8"))["config"]["eta2"] == 2
    assert main(STUDY, command) == 0
    assert json.loads(capsys.readouterr().out)["measured"] == measured
    assert len([*tmp_path.glob("finetune-*.json")]) == 1
    assert not (tmp_path / "unfinished").exists()


def test_the_table_has_an_epoch_a_row(root, capsys):
    assert main(STUDY, flags(root, "--epochs", 2)) == 0
    out = capsys.readouterr().out
    assert "lora, adamw at 0.0001, seed 0" in out
    assert "always saying the most frequent label" in out
    for epoch in ("1.00", "2.00"):
        assert epoch in out


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--arm", "lorra"], "--arm must be one of"),
        (["--rank", "0"], "--rank"),
        (["--device", "tpu"], "--device"),
        (["--checkpoint-steps", "0"], "--checkpoint-steps"),
        (["--data", "no/such-set"], "is no folder here"),
        (["--model", "no/such-model"], "is no folder or file here"),
        (["--results", __file__], "--results must be a folder"),
        (["--warmup-steps", "50", "--max-steps", "3"], "--warmup-steps must be below the run's 3 steps, or none is at"),
    ],
)
def test_a_mistake_is_one_line(root, capsys, more, named):
    assert main(STUDY, flags(root, *more)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert named in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "allora's factor is undone, Adam divides"),
        ({"--optimizer": "momentum"}, "allora's factor is on, but for clipping at 1, which"),
        ({"--optimizer": "sgd", "--max-grad-norm": 0}, None),
    ],
    ids=["adamw", "clipping", "on"],
)
def test_a_run_that_undoes_its_arms_factor_says_so(root, capsys, options, told):
    words = [str(word) for option in options.items() for word in option]
    assert main(STUDY, flags(root, "--eta2", 4, "--max-steps", 1, *words, arm="allora")) == 0
    error = capsys.readouterr().err
    assert (told in error) if told else ("factor" not in error)


def test_the_table_says_that_a_run_diverged(root, capsys):
    more = ("--optimizer", "sgd", "--learning-rate", "1e30", "--max-grad-norm", "0", "--epochs", "3")
    assert main(STUDY, flags(root, *more)) == 0
    assert "the loss was no longer finite at step" in capsys.readouterr().out


@pytest.mark.parametrize(("precision", "wanted"), [("bf16", "eager"), ("fp32", "sdpa")])
def test_bf16_on_a_cpu_is_trained_with_plain_products(root, tmp_path, precision, wanted):
    assert main(STUDY, flags(root, "--results", tmp_path, "--precision", precision, "--max-steps", 1)) == 0
    (record,) = records.find(tmp_path, "finetune")
    assert record.provenance["attention"] == wanted


@pytest.mark.bad_input
def test_a_row_longer_than_the_models_positions_is_one_line(root, tmp_path, capsys):
    rows = [{"text": "good film " * 100, "label": i % 2} for i in range(8)]
    (tmp_path / "long").mkdir()
    for name in ("train", "test"):
        tiny.write(tmp_path / "long" / f"{name}.jsonl", rows)
    command = flags(root, "--max-length", 200)
    command[command.index("--data") + 1] = str(tmp_path / "long")
    assert main(STUDY, command) == 2
    assert capsys.readouterr().err == (
        "error: --max-length must be at most 64, the positions of the model 'bert'; a row has 200 tokens\n"
    )


class Terminal(io.StringIO):
    def isatty(self):
        return True


def drive(shown, first=True):
    """A run of four steps."""
    state = types.SimpleNamespace(is_world_process_zero=first, max_steps=4, global_step=0)
    shown.on_train_begin(None, state, None)
    for state.global_step in range(1, 5):
        shown.on_step_end(None, state, None)
        shown.on_log(None, state, None, logs={"loss": 0.25, "epoch": 1.0})
    shown.on_log(None, state, None, logs={"eval_loss": 1.0})
    shown.stop()


def test_a_bar_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    drive(trainer.Progress("a run"))
    assert "a run" in terminal.getvalue()


def test_lines_elsewhere_not_faster_than_the_interval(monkeypatch, capsys):
    drive(trainer.Progress("a run"))
    assert capsys.readouterr().err.splitlines() == ["a run: step 1 of 4"]
    monkeypatch.setattr(trainer, "INTERVAL", 0.0)
    drive(trainer.Progress("a run"))
    captured = capsys.readouterr()
    assert captured.err.splitlines()[1:] == [f"a run: step {step} of 4, loss 0.2500" for step in (2, 3, 4)]
    assert captured.out == ""


def test_only_the_first_process_speaks(capsys):
    drive(trainer.Progress("a run"), first=False)
    assert capsys.readouterr().err == ""
