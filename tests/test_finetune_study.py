"""The command: a table, JSON alone, a figure, one-line errors; progress on standard error; two processes."""

import io
import json
import types
from pathlib import Path

import pytest
from torch.utils.data import BatchSampler

from allora_analysis import records
from allora_analysis.cli import main
from allora_analysis.finetune import machine
from allora_analysis.finetune.study import STUDY
from tests import tiny_finetune as tiny
from tests import warm

pytest.importorskip("peft")
from accelerate.data_loader import BatchSamplerShard

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
        (
            {"--optimizer": "momentum"},
            "clipping at 1, which divides the factor out of a longer gradient as far as A and B make up its norm",
        ),
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


# -- two processes on the CPU: the run of one at the same batch size


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    made = tmp_path_factory.mktemp("processes")
    tiny.bert(made / "bert", 0.0)
    tiny.sentences(made / "films", 26)  # of the last batch of 8, one process has two rows and the other none
    return made


def shared_flags(root, results, *more):
    given = {"--model": root / "bert", "--data": root / "films", "--arm": "allora", "--eta2": 2, "--rank": 2}
    given |= {"--batch-size": 8, "--learning-rate": 0.01, "--epochs": 2, "--device": "cpu", "--results": results}
    return [str(word) for pair in given.items() for word in pair] + list(more)


def record(results):
    (path,) = results.iterdir()
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.filterwarnings("ignore:.*barrier.*:UserWarning")
def test_two_processes_are_one_run(uneven, tmp_path, capsys):
    launch = ["--nproc-per-node", "2", "--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    command = [*launch, "-m", "allora_analysis.finetune", *shared_flags(uneven, tmp_path / "two")]
    launcher = warm.Popen("torch.distributed.run", *command)
    told, errors = launcher.communicate()
    assert launcher.returncode == 0, errors
    assert told.count("always saying") == 1
    assert main(STUDY, shared_flags(uneven, tmp_path / "one")) == 0
    one, two = record(tmp_path / "one"), record(tmp_path / "two")
    assert one["key"] == two["key"]
    assert two["provenance"]["processes"] == 2
    ours, theirs = one["result"], two["result"]
    assert theirs["loss"]["every"] == ours["loss"]["every"]
    assert theirs["loss"]["value"] == pytest.approx(ours["loss"]["value"], rel=1e-4)
    for first, second in zip(ours["epochs"], theirs["epochs"], strict=True):
        assert second == pytest.approx(first, rel=1e-3, abs=1 / 24)  # a sentence on the edge may fall either way
        assert second["test_loss"] == pytest.approx(first["test_loss"], rel=1e-4)
    capsys.readouterr()


@pytest.mark.parametrize(("rows", "size", "processes"), [(26, 4, 2), (32, 4, 2), (3, 4, 2), (25, 2, 3), (24, 2, 3)])
def test_each_row_is_read_once_in_the_batches_of_one_process(rows, size, processes):
    whole = list(BatchSampler(range(rows), size * processes, drop_last=False))

    def read(batches):
        shards = [list(BatchSamplerShard(batches, processes, place)) for place in range(processes)]
        return [[row for batch in at_once for row in batch] for at_once in zip(*shards, strict=True)]

    parts = BatchSampler(range(rows), size, drop_last=False)
    filled = trainer.Filled(parts, processes)
    assert [[row for row in batch if row is not None] for batch in read(filled)] == whole
    assert len(filled) == len(list(filled)) == len(whole) * processes
    assert (read(parts) == whole) == (rows % (size * processes) == 0)  # planted: accelerate alone reads rows twice


def test_a_place_without_a_row_has_no_label():
    for labels, none in ((1, -100), ([-100, 7, 8], [-100] * 3)):
        made = trainer.Encoded([{"input_ids": [5, 7, 8], "labels": labels}])
        assert made[0]["labels"] == labels
        assert made[None] == {"input_ids": [5, 7, 8], "labels": none}


@pytest.mark.bad_input
def test_a_batch_that_the_processes_cannot_share(uneven, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(machine, "world", lambda: 3)
    monkeypatch.setattr(machine, "agree", lambda value, device: value)
    assert main(STUDY, shared_flags(uneven, tmp_path, "--accumulation", "2")) == 2
    assert "multiple of accumulation × processes = 2 × 3, received 8" in capsys.readouterr().err


def test_one_process_agrees_with_itself(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (machine.rank(), machine.world()) == (0, 1)
    assert machine.agree("value", "cpu") == "value"
