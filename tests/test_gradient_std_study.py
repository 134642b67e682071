"""`python -m allora_analysis.gradient_std`: table, JSON, figure, refusals; what one epoch's entry holds."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import allora_analysis.gradient_std as package
from allora_analysis import cli, images, records
from allora_analysis.gradient_std import run as run_module
from allora_analysis.gradient_std import study
from allora_analysis.gradient_std.estimator import MLPGradient, gradient_moments, initialise
from allora_analysis.gradient_std.run import Data, generator, measure, minibatch
from allora_analysis.gradient_std.study import STUDY, Config
from allora_analysis.gradient_std.summary import BATCHES, KEPT, worst_held_out
from tests.brute_force import gradient_std as reference

ROOT = Path(__file__).parents[1]
FLAGS = ["--hidden", "16", "12", "--epochs", "2", "--masks", "20", "--control-minibatches", "10"]
FLAGS += ["--nested-minibatches", "3", "--nested-masks", "4"]
FIELDS = {"hidden": (16, 12), "epochs": 2, "masks": 20, "control_minibatches": 10}
FIELDS |= {"nested_minibatches": 3, "nested_masks": 4}


@pytest.fixture(scope="module")
def result():
    return study.run(Config(**FIELDS, seeds=(2,)))


def test_entries_hold_what_is_promised(result):
    assert result.measured["seeds"] == [0, 1]
    for run in result.measured["runs"]:
        assert [entry["epoch"] for entry in run] == [0, 1, 2]
        for entry in run:
            assert {name: tuple(entry[name]) for name in KEPT} == KEPT
            for batch in BATCHES:
                assert 0 < entry[batch]["mean"] < entry[batch]["worst_held_out"]
            assert 0 <= entry["probe"]["q05"] <= entry["probe"]["q25"] <= entry["probe"]["q95"]
            split = entry["decomposition"]
            assert split["total"] == pytest.approx(split["mask"] + split["minibatch"])
            assert 0 < split["total_stderr"] < split["total"]
        assert run[0]["train_loss"] > run[2]["train_loss"]


def test_averages_over_seeds(result):
    m, runs = result.measured, result.measured["runs"]
    values = np.array([[entry["probe"]["mean"] for entry in run] for run in runs])
    np.testing.assert_allclose(m["probe_mean"], values.mean(axis=0))
    np.testing.assert_allclose(m["probe_mean_stderr"], values.std(axis=0, ddof=1) / math.sqrt(2))
    masks = np.array([[entry["decomposition"]["mask"] for entry in run] for run in runs])
    np.testing.assert_allclose(m["decomposition_mask"], masks.mean(axis=0))
    alone = study.over_seeds(runs[:1])
    assert alone["test_accuracy_stderr"] == [None] * 3
    assert alone["test_accuracy"].tolist() == [entry["test_accuracy"] for entry in runs[0]]
    assert len(study.over_seeds([runs[0], runs[1][:1]])["probe_mean"]) == 1  # interrupted in the second


def test_the_linear_model_stands_beside_its_closed_form(result):
    predicted, measured = result.predicted["linear_mean"], result.measured
    assert abs(measured["linear_mean"] / predicted - 1) < 0.25
    assert 0 < measured["linear_mean_stderr"] < 0.2 * predicted
    exact = study.run(Config(**(FIELDS | {"epochs": 1, "drop_rate": 0.0})))
    assert exact.predicted["linear_mean"] == exact.measured["linear_mean"] == 0


def test_a_second_seed_does_not_change_the_first(result):
    alone = study.run(Config(**FIELDS, seeds=(1,), seed=1))
    assert alone.measured["runs"] == result.measured["runs"][1:]
    assert study.run(Config(**FIELDS, seeds=(1, 0))).measured["seeds"] == [1, 0]


@pytest.fixture(scope="module")
def network():
    loaded = images.load("digits")
    return initialise((64, 16, 12, 10), np.random.default_rng(0)), Data.of(loaded)


def gradient(mlp, data, chosen):
    kept = [np.ones((len(chosen), width)) for width in (16, 12)]
    weights, biases = ([tensor.double() for tensor in part] for part in (mlp.weights, mlp.biases))
    return reference.second_layer_gradient(weights, biases, data.x[chosen].double(), data.y[chosen], kept, 1.0)


def test_the_control_is_the_spread_over_minibatches_of_autograds_gradient(network):
    mlp, data = network
    setting = study.settings(Config(**FIELDS), "digits")[0]
    draws = generator(setting, "control", 1)
    gradients = [gradient(mlp, data, minibatch(data, setting, draws)) for _ in range(10)]
    entry = measure(mlp, data, setting, 1)
    _, std = reference.two_pass(gradients)
    assert entry["no_dropout_fresh"]["mean"] == pytest.approx(std.mean(), rel=1e-5)
    halves = [reference.two_pass(gradients[first::2])[1] for first in (0, 1)]
    assert entry["no_dropout_fresh"]["worst_held_out"] == pytest.approx(worst_held_out(*halves), rel=1e-4)


def test_without_dropout_masks_have_no_spread_and_minibatches_do(network):
    mlp, data = network
    setting = study.settings(Config(**FIELDS, drop_rate=0.0), "digits")[0]
    entry = measure(mlp, data, setting, 0)
    for batch in ("probe", "fresh"):
        assert entry[batch]["mean"] == entry[batch]["worst_held_out"] == 0
    assert entry["decomposition"]["mask"] == 0
    draws = generator(setting, "nested", 0)
    means = np.array([gradient(mlp, data, minibatch(data, setting, draws)).ravel() for _ in range(3)])
    assert entry["decomposition"]["minibatch"] == pytest.approx(means.var(axis=0, ddof=1).mean(), rel=1e-5)


def test_the_probe_batch_stays_and_the_fresh_one_does_not(network):
    mlp, data = network
    setting = study.settings(Config(**(FIELDS | {"masks": 400})), "digits")[0]
    first, second = measure(mlp, data, setting, 0), measure(mlp, data, setting, 1)
    # The same network: the probe's averages differ by the masks alone, the fresh batches' means are other means.
    gap = abs(first["probe"]["mean"] - second["probe"]["mean"])
    chosen = minibatch(data, setting, generator(setting, "batch"))
    model = MLPGradient(mlp, data.x[chosen], data.y[chosen], setting.keep_prob)
    with torch.no_grad():
        own = [gradient_moments(model, setting.masks, generator(setting, "probe", epoch)) for epoch in (0, 1)]
    assert [first["probe"]["mean"], second["probe"]["mean"]] == pytest.approx([one.average for one in own], rel=1e-6)
    assert 0 < gap < 8 * math.hypot(*(one.average_stderr for one in own))
    assert first["fresh"]["mean"] != second["fresh"]["mean"]
    batches = [minibatch(data, setting, generator(setting, "fresh", epoch)).tolist() for epoch in (0, 1)]
    assert batches[0] != batches[1]
    assert len(set(batches[0])) == setting.batch_size


# --- command line --------------------------------------------------------------------------------------------------


def test_table_figure_and_records(capsys, tmp_path):
    folder, figure = tmp_path / "records", tmp_path / "figure.png"
    flags = [*FLAGS, "--optimizer", "adam", "--results", str(folder), "--figure", str(figure)]
    assert cli.main(STUDY, flags) == 0
    printed = capsys.readouterr().out
    assert "digits, adam, drop rate 0.5, 1 seed(s)" in printed
    assert printed.count("%") == 3
    assert figure.stat().st_size > 10_000
    (record,) = records.find(folder, "gradient_std", optimizer="adam", learning_rate=1e-3)
    assert len(record.result["epochs"]) == 3
    assert "/" not in json.dumps(record.config)
    assert cli.main(STUDY, [*FLAGS, "--drop-rate", "0", "--epochs", "1", "--figure", str(figure), "--seeds", "2"]) == 0
    assert "±" in capsys.readouterr().out


def test_figure_draws_what_was_measured(result):
    left, right = STUDY.plot(Config(**FIELDS), result).axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), result.measured["probe_mean"])
    np.testing.assert_allclose(left.lines[1].get_ydata(), result.measured["probe_worst_held_out"])
    np.testing.assert_allclose(right.lines[2].get_ydata(), result.measured["no_dropout_fresh_mean"])
    assert left.get_yscale() == right.get_yscale() == "log"


def test_an_npz_is_called_by_its_name_and_its_path_stays_out_of_the_record(tmp_path, rng):
    x = rng.standard_normal((60, 3, 2)).astype(np.float32)
    y = np.arange(60) % 3
    path = tmp_path / "mine.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    config = Config(**(FIELDS | {"epochs": 1}), data=str(path), batch_size=20, results=tmp_path / "r", data_name="ours")
    found = study.run(config)
    assert found.measured["data"] == "ours"
    (record,) = records.find(tmp_path / "r", "gradient_std")
    assert record.config["data"] == "ours"
    assert str(tmp_path) not in record.path.read_text(encoding="utf-8")
    assert record.digests == {"data": images.load(str(path)).digest}


def test_ctrl_c_keeps_the_finished_epochs(monkeypatch, capsys):
    def interrupted(mlp, data, setting, epoch):
        if (setting.seed, epoch) == (1, 1):
            raise KeyboardInterrupt
        return measure(mlp, data, setting, epoch)

    monkeypatch.setattr(run_module, "measure", interrupted)
    assert cli.main(STUDY, [*FLAGS, "--seeds", "2", "--json", "-"]) == 130
    document = json.loads(capsys.readouterr().out)
    assert document["interrupted"]
    assert [len(run) for run in document["measured"]["runs"]] == [3, 1]


def test_lazy_names():
    assert package.MLP is run_module.MLP
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        package.nothing_of_ours  # noqa: B018


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--masks", "1"], "--masks must be a whole number, 4 or above, received 1"),
        (["--drop-rate", "1"], "--drop-rate must be a drop rate in [0, 1), received 1.0"),
        (["--drop-rate", "-0.1"], "--drop-rate must be a drop rate in [0, 1), received -0.1"),
        (["--drop-rate", "nan"], "--drop-rate must be a drop rate in [0, 1), received nan"),
        (["--optimizer", "lion"], "--optimizer must be one of sgd, momentum, adam, adamw; received 'lion'"),
        (["--epochs", "0"], "--epochs must be a whole number, 1 or above, received 0"),
        (["--batch-size", "0"], "--batch-size must be a whole number, 1 or above, received 0"),
        (["--batch-size", "2000"], "--batch-size must be at most the 1438 training images of digits, received 2000"),
        (["--hidden"], "--hidden must have at least one value"),
        (["--hidden", "8", "0"], "--hidden must be a whole number, 1 or above, received 0"),
        (["--seeds", "0"], "--seeds must be a whole number in [1, 1000000], received 0"),
        (["--seeds", "2", "2"], "--seeds must differ from one another, received (2, 2)"),
        (["--seeds", "2", "-1"], "--seeds must be a whole number, 0 or above, received -1"),
        (["--seed", "-1"], "--seed must be a whole number, 0 or above, received -1"),
        (["--learning-rate", "0"], "--learning-rate must be a finite number above 0, received 0.0"),
        (["--weight-decay", "-1"], "--weight-decay must be a finite number, 0 or above, received -1.0"),
        (["--control-minibatches", "1"], "--control-minibatches must be a whole number, 4 or above, received 1"),
        (["--nested-minibatches", "2"], "--nested-minibatches must be a whole number, 3 or above, received 2"),
        (["--nested-masks", "1"], "--nested-masks must be a whole number, 2 or above, received 1"),
        (["--device", "abacus"], "--device must be one of auto, cpu, cuda; received 'abacus'"),
        (["--data", "imagenet"], "--data must be one of digits, mnist, cifar10"),
        (["--data", "mnist"], "--data mnist needs --data-root FOLDER"),
        (["--learning-rate", "1e30"], "the loss is not finite in epoch 1 (data digits, optimizer sgd"),
    ],
)
def test_a_mistake_is_one_line(flags, told, capsys):
    small = FLAGS if flags[0] != "--hidden" else FLAGS[3:]
    assert cli.main(STUDY, [*small, *flags]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert told in errors[0]


@pytest.mark.bad_input
def test_a_data_set_with_one_class_and_a_size_that_does_not_fit(tmp_path, rng, capsys):
    x, y = rng.standard_normal((40, 6)), np.arange(40) % 2
    for name, arrays, told in (
        ("one", {"x_train": x, "y_train": y * 0, "x_test": x, "y_test": y * 0}, "y_train has one class"),
        ("size", {"x_train": x, "y_train": y, "x_test": x[:, :5], "y_test": y}, "must have one size"),
    ):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        assert cli.main(STUDY, [*FLAGS, "--data", str(tmp_path / f"{name}.npz")]) == 2
        assert told in capsys.readouterr().err


@pytest.mark.bad_input
def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(STUDY, [*FLAGS, "--results", str(tmp_path / "file")]) == 2
    assert "results must be a folder" in capsys.readouterr().err


@pytest.mark.bad_input
def test_cuda_where_there_is_none(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(STUDY, [*FLAGS, "--device", "cuda"]) == 2
    assert "device must be cpu or auto here" in capsys.readouterr().err
