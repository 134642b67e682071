"""A run from its start to its record: learns, is found again, and goes on from its checkpoints to the same result."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest

from allora_analysis import records
from allora_analysis.finetune import data as text_data
from allora_analysis.finetune.setting import Setting, check
from tests import tiny_finetune as tiny

pytest.importorskip("peft")
from allora_analysis.finetune import history, models, run, trainer


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    return str(tiny.bert(root / "bert")), text_data.load(str(tiny.sentences(root / "films")))


def setting(**fields):
    given = {"arm": "lora", "rank": 2, "learning_rate": 0.01, "head_learning_rate": 0.01, "epochs": 3, "batch_size": 8}
    return check(Setting("bert", "films", **(given | fields)))


def start(films, made, results=None, **options):
    model, data = films
    digests = {"model": "0", "data": data.digest}
    return run.run(made, lambda: models.load(model, data.classes), data, digests, results, device="cpu", **options)


def test_a_recorded_run_is_not_run_again(films, tmp_path):
    first = start(films, setting(), tmp_path)
    assert first.ran
    data = films[1]

    def never():
        raise AssertionError("the model was loaded")

    again = run.run(setting(), never, data, {"model": "0", "data": data.digest}, tmp_path)
    assert not again.ran
    assert again.result == json.loads(json.dumps(first.result))
    (path,) = tmp_path.iterdir()
    record = records.load(path)
    assert record.config["arm"] == "lora"
    assert record.provenance["processes"] == 1
    assert record.provenance["resumed"] is False
    assert [entry["step"] for entry in first.result["epochs"]] == [6, 12, 18]
    assert [entry["epoch"] for entry in first.result["epochs"]] == [1, 2, 3]
    assert first.result["rows"] == {"train": 48, "validation": 16, "test": 24}
    assert first.result["loss"]["step"] == list(range(1, 19))


def test_learns(films, tmp_path):
    """One word tells the label: a tiny model with random weights finds it, far above the most frequent label's rate."""
    made = setting(epochs=8, batch_size=20, learning_rate=0.02, head_learning_rate=0.02, rank=8)
    data = text_data.load(str(tiny.sentences(tmp_path / "films", 200)))
    result = start((films[0], data), made).result
    assert result["loss"]["value"][-1] < 0.3
    assert result["epochs"][-1]["test_accuracy"] > 0.85
    assert result["majority_rates"]["test"] < 0.7


@pytest.mark.parametrize("total", [1, 5, 10, 11, 500])
def test_norms_are_taken_at_the_first_steps_and_the_last(total):
    steps = history.norm_steps(total)
    assert steps[:1] == (0,)
    assert steps[-1] == total
    assert list(steps) == sorted(set(steps))
    assert set(range(min(10, total) + 1)) <= set(steps)


def test_the_last_step(films):
    assert trainer.last_step(setting(batch_size=7), 48) == 21
    assert trainer.last_step(setting(max_steps=5), 48) == 5
    result = start(films, setting(max_steps=8)).result
    assert result["steps"] == 8
    assert [entry["step"] for entry in result["epochs"]] == [6, 8]


def test_a_loss_that_is_not_finite_ends_the_run_and_is_recorded(films, tmp_path):
    made = setting(optimizer="sgd", learning_rate=1e30, head_learning_rate=1e30, max_grad_norm=0.0)
    result = start(films, made, tmp_path).result
    assert result["diverged_at_step"] is not None
    assert result["steps"] < 18
    assert start(films, made, tmp_path).result == json.loads(json.dumps(result))


def test_accumulated_parts_are_the_whole_batchs_gradient(tmp_path):
    """Without dropout; the last batch of an epoch has 7 rows in parts of 2, 2, 2 and 1."""
    films = str(tiny.bert(tmp_path / "bert", 0.0)), text_data.load(str(tiny.sentences(tmp_path / "films", 47)))
    fields = {"optimizer": "sgd", "batch_size": 10, "learning_rate": 1.0, "head_learning_rate": 1.0}
    whole = start(films, setting(**fields)).result
    parts = start(films, setting(**fields, accumulation=5)).result
    assert parts["loss"]["step"] == whole["loss"]["step"]
    assert parts["loss"]["value"] == pytest.approx(whole["loss"]["value"], rel=1e-4)
    assert max(abs(b - a) for a, b in itertools.pairwise(whole["loss"]["value"])) > 0.01


def test_bf16_runs_on_the_cpu(films):
    made = setting(precision="bf16", epochs=1)
    result = start(films, made).result
    exact = start(films, dataclasses.replace(made, precision="fp32")).result
    assert result["loss"]["value"] != exact["loss"]["value"]
    assert result["loss"]["value"] == pytest.approx(exact["loss"]["value"], rel=0.05)
