"""Two processes on the CPU: the run of one process at the same batch size, one record, one table."""

import json

import pytest
from torch.utils.data import BatchSampler

from allora_analysis.cli import main
from allora_analysis.finetune import machine
from allora_analysis.finetune.study import STUDY
from tests import tiny_finetune as tiny
from tests import warm

pytest.importorskip("peft")
from accelerate.data_loader import BatchSamplerShard

from allora_analysis.finetune import trainer


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    made = tmp_path_factory.mktemp("processes")
    tiny.bert(made / "bert", 0.0)
    tiny.sentences(made / "films", 26)  # of the last batch of 8, one process has two rows and the other none
    return made


def flags(root, results, *more):
    given = {"--model": root / "bert", "--data": root / "films", "--arm": "allora", "--eta2": 2, "--rank": 2}
    given |= {"--batch-size": 8, "--learning-rate": 0.01, "--epochs": 2, "--device": "cpu", "--results": results}
    return [str(word) for pair in given.items() for word in pair] + list(more)


def record(results):
    (path,) = results.iterdir()
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.filterwarnings("ignore:.*barrier.*:UserWarning")
def test_two_processes_are_one_run(root, tmp_path, capsys):
    launch = ["--nproc-per-node", "2", "--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    command = [*launch, "-m", "allora_analysis.finetune", *flags(root, tmp_path / "two")]
    launcher = warm.Popen("torch.distributed.run", *command)
    told, errors = launcher.communicate()
    assert launcher.returncode == 0, errors
    assert told.count("always saying") == 1
    assert main(STUDY, flags(root, tmp_path / "one")) == 0
    one, two = record(tmp_path / "one"), record(tmp_path / "two")
    assert one["key"] == two["key"]
    assert two["provenance"]["processes"] == 2
    ours, theirs = one["result"], two["result"]
    assert theirs["loss"]["step"] == ours["loss"]["step"]
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
def test_a_batch_that_the_processes_cannot_share(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(machine, "world", lambda: 3)
    monkeypatch.setattr(machine, "agree", lambda value, device: value)
    assert main(STUDY, flags(root, tmp_path, "--accumulation", "2")) == 2
    assert "multiple of accumulation × processes = 2 × 3, received 8" in capsys.readouterr().err


def test_one_process_agrees_with_itself(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (machine.rank(), machine.world()) == (0, 1)
    assert machine.agree("value", "cpu") == "value"
