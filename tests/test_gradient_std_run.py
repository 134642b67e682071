"""Runs: an epoch of training against PyTorch's own modules and loops; a finished epoch is never measured twice,
whatever killed the run; a record is the uninterrupted one's.
"""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from allora_analysis import images, records
from allora_analysis.gradient_std import run as run_module
from allora_analysis.gradient_std import study
from allora_analysis.gradient_std.estimator import MLP, MaskStream, initialise
from allora_analysis.gradient_std.grid import OPTIMIZERS, Setting
from allora_analysis.gradient_std.run import (
    PROTOCOL,
    Data,
    Diverged,
    Run,
    batches,
    evaluate,
    make_optimizer,
    measure,
    rounded,
    train_epoch,
)
from allora_analysis.gradient_std.study import Config
from allora_analysis.validation import ArgumentError

SETTING = Setting("tiny", (6, 5), 0.5, "sgd", 0.1, 0.0, 1, 8, 4, 4, 3, 2, 0)
ROOT = Path(__file__).parents[1]
SMALL = {"hidden": (16, 12), "masks": 16, "control_minibatches": 8, "nested_minibatches": 3, "nested_masks": 2}


def problem(dtype=torch.float64):
    rng = np.random.default_rng(0)
    mlp = initialise((4, 6, 5, 3), rng, dtype)
    for tensor in mlp.parameters:
        tensor.requires_grad_(True)
    x = torch.as_tensor(rng.standard_normal((43, 4)), dtype=dtype)
    return mlp, x, torch.as_tensor(rng.integers(0, 3, 43))


def peer(mlp, x, y, setting, generator):
    """torch.nn modules, masks by hand in the order in which the toolkit draws them, torch.optim by name."""
    linears = []
    for weight, bias in zip(mlp.weights, mlp.biases, strict=True):
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        linears.append(linear)
    parameters = [parameter for linear in linears for parameter in linear.parameters()]
    optimizer = {
        "sgd": lambda: torch.optim.SGD(parameters, lr=setting.learning_rate),
        "momentum": lambda: torch.optim.SGD(parameters, lr=setting.learning_rate, momentum=0.9),
        "adam": lambda: torch.optim.Adam(parameters, lr=setting.learning_rate),
        "adamw": lambda: torch.optim.AdamW(parameters, lr=setting.learning_rate, weight_decay=setting.weight_decay),
    }[setting.optimizer]()
    stream, order = MaskStream(1 - setting.drop_rate, generator), generator.permutation(43)
    for chosen in order[:40].reshape(5, 8):
        drawn = np.empty((1, 8 * 11), dtype=np.uint8)
        if setting.drop_rate:
            stream.fill(drawn)
        kept = torch.as_tensor((drawn[0] < stream.threshold) | (setting.drop_rate == 0)).double()
        masks = [part.reshape(8, -1) / (1 - setting.drop_rate) for part in kept.split([48, 40])]
        hidden = torch.relu(linears[0](x[chosen])) * masks[0]
        hidden = torch.relu(linears[1](hidden)) * masks[1]
        loss = torch.nn.CrossEntropyLoss()(linears[2](hidden), y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return parameters


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("drop_rate", [0.0, 0.5])
def test_an_epoch_is_pytorchs(optimizer, drop_rate):
    setting = dataclasses.replace(
        SETTING, optimizer=optimizer, drop_rate=drop_rate, weight_decay=0.01 * (optimizer == "adamw")
    )
    mlp, x, y = problem()
    wanted = peer(mlp, x, y, setting, np.random.default_rng(7))
    start = [tensor.detach().clone() for tensor in mlp.parameters]
    assert train_epoch(mlp, make_optimizer(setting, mlp), (x, y), setting, np.random.default_rng(7))
    for got, want, before in zip(mlp.parameters, wanted, start, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)
        assert (got - before).abs().max() > 1e-4
    other, x, y = problem()
    train_epoch(other, make_optimizer(setting, other), (x, y), setting, np.random.default_rng(8))
    assert not torch.allclose(other.weights[1], mlp.weights[1], rtol=1e-6)


def test_batches_are_one_shuffled_pass_of_whole_batches(rng):
    seen = np.concatenate(list(batches(43, 8, rng)))
    assert seen.size == np.unique(seen).size == 40
    assert [len(batch) for batch in batches(8, 8, rng)] == [8]
    assert (seen != np.sort(seen)).any()


def test_evaluation_is_the_mean_over_all_images_whatever_the_chunks():
    mlp, x, y = problem()
    x, y = x.repeat(60, 1), y.repeat(60)  # more than a chunk
    loss, accuracy = evaluate(mlp, x, y)
    logits = torch.relu(torch.relu(x @ mlp.weights[0].T + mlp.biases[0]) @ mlp.weights[1].T + mlp.biases[1])
    logits = logits @ mlp.weights[2].T + mlp.biases[2]
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, y).item(), rel=1e-12)
    assert accuracy == pytest.approx(float((logits.argmax(1) == y).double().mean()), abs=1e-12)


def test_a_loss_that_is_not_finite_stops_the_epoch():
    mlp, x, y = problem()
    setting = dataclasses.replace(SETTING, learning_rate=1e200)
    assert not train_epoch(mlp, make_optimizer(setting, mlp), (x, y), setting, np.random.default_rng(0))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits():
    return images.load("digits")


@pytest.fixture
def open_run(digits):
    data = Data.of(digits)

    def make(results, **fields):
        setting = study.settings(Config(**(SMALL | fields)), "digits")[0]
        return Run(setting, data, digits.classes, digits.digest, results)

    return make


@pytest.fixture
def measured(monkeypatch):
    """The epochs measured in this process, in order."""
    seen = []

    def counted(mlp, data, setting, epoch):
        seen.append(epoch)
        return measure(mlp, data, setting, epoch)

    monkeypatch.setattr(run_module, "measure", counted)
    monkeypatch.setattr(records, "provenance", lambda packages=(), begun=None: {"time_utc": "then"})
    return seen


def finish(run):
    return [run.entry(epoch) for epoch in range(run.setting.epochs + 1)]


def test_a_record_holds_seven_digits_of_each_number_and_the_committed_ones_do():
    entry = {"epoch": 3, "test_accuracy": 0.9639, "probe": {"mean": 0.0009850959297901377, "q05": 1 / 3, "none": None}}
    assert rounded(entry) == entry | {"probe": {"mean": 0.0009850959, "q05": 0.3333333, "none": None}}
    committed = records.find(ROOT / "experiments" / "results" / "gradient_std", "gradient_std")
    assert len(committed) > 100
    for record in committed:
        assert rounded(record.result["epochs"]) == record.result["epochs"], record.path.name


def only_record(folder):
    (path,) = folder.glob("*.json")
    assert not (folder / "unfinished").exists()
    text = path.read_text(encoding="utf-8")
    # Whether it was resumed, how long it took, and so the checksum, may differ; not a byte else.
    return re.sub(r'"(resumed|seconds|checksum)":\s?[^,}\s]+', r'"\1": …', text)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_in_pieces_gives_the_record_of_a_run_in_one(open_run, measured, tmp_path, optimizer):
    fields = {"epochs": 3, "optimizer": optimizer, "learning_rate": 0.01}
    whole = finish(open_run(tmp_path / "whole", **fields))
    assert measured == [0, 1, 2, 3]
    for epoch in range(4):  # each epoch by a process of its own, as far as the run can tell
        open_run(tmp_path / "pieces", **fields).entry(epoch)
    assert measured == [0, 1, 2, 3] * 2
    assert only_record(tmp_path / "whole") == only_record(tmp_path / "pieces")
    assert finish(open_run(tmp_path / "pieces", **fields)) == whole
    assert len(measured) == 8, "a recorded run is not measured again"
    assert finish(open_run(None, **fields)) == whole
    assert finish(open_run(None, **fields, seed=1)) != whole


class OnAGpu:
    """What `Run._restore` reads of a parameter; a true one on a GPU cannot be filled where there is none."""

    device = torch.device("cuda:0")

    def __init__(self):
        self.data = torch.empty(3, 2)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_what_is_restored_is_where_a_fused_optimizer_wants_it(optimizer):
    """Planted: Adam's step count came back on the CPU, where a GPU's fused kernel refuses it. Devices alone, no GPU."""
    setting = study.settings(Config(**SMALL, optimizer=optimizer), "digits")[0]
    with FakeTensorMode(allow_non_fake_inputs=True):
        parameter, bias = (torch.nn.Parameter(torch.empty(n, 2, device=OnAGpu.device)) for n in (3, 1))
        fresh = make_optimizer(setting, MLP((parameter,), (bias,)))
        parameter.grad = torch.empty_like(parameter)
        fresh.step()
        wanted = {name: value.device for name, value in fresh.state[parameter].items() if value is not None}
        arrays = {f"optimizer_0_{name}": np.zeros(fresh.state[parameter][name].shape, np.float32) for name in wanted}
        arrays |= {"key": np.array("k"), "epochs": np.array("[]"), "parameter_0": np.zeros((3, 2), np.float32)}
        restored, state = OnAGpu(), {}
        mlp, again = types.SimpleNamespace(parameters=[restored]), types.SimpleNamespace(state=state)
        Run._restore(types.SimpleNamespace(_key="k", _mlp=mlp, _optimizer=again), arrays)
        assert {name: value.device for name, value in state[restored].items()} == wanted


def test_a_folder_that_cannot_be_written_is_told_before_an_epoch(open_run, measured, tmp_path):
    """Planted: it was told after the first epoch's measurement."""
    (tmp_path / "folder").symlink_to(tmp_path / "nowhere" / "at all")
    with pytest.raises(ArgumentError, match=r"--results .*folder: cannot be written .*; name another folder"):
        open_run(tmp_path / "folder", epochs=1).entry(0)
    assert measured == []


def test_kill_9_measures_no_finished_epoch_twice(open_run, measured, tmp_path):
    fields = {"epochs": 12, "learning_rate": 0.05}
    finish(open_run(tmp_path / "whole", **fields))
    flags = ["--epochs", "12", "--learning-rate", "0.05", "--hidden", "16", "12", "--masks", "16"]
    flags += ["--control-minibatches", "8", "--nested-minibatches", "3", "--nested-masks", "2"]
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "allora_analysis.gradient_std", *flags, "--results", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    finished = _killed_after(process, folder, 3)
    assert 3 <= finished < 13
    measured.clear()
    finish(open_run(folder, **fields))
    assert measured == list(range(finished, 13))
    assert only_record(folder) == only_record(tmp_path / "whole")


def _killed_after(process, folder, epochs):
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline and _kept(folder) < epochs:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended by itself"
    return _kept(folder)


def _kept(folder):
    for path in folder.glob("unfinished/gradient_std-*.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            return len(json.loads(str(arrays["epochs"])))
    return 0


def test_a_state_left_by_a_kill_after_the_record_is_taken_away(open_run, measured, tmp_path):
    """Planted: it stayed for good, and was said to be unfinished."""
    run = open_run(tmp_path, epochs=1)
    run.entry(0)
    content = run._state.read_bytes()
    finish(run)
    run._state.parent.mkdir()
    run._state.write_bytes(content)
    open_run(tmp_path, epochs=1)
    only_record(tmp_path)


def test_what_a_kill_left_half_written_is_taken_away_after_an_hour(open_run, measured, tmp_path):
    """Planted: it stayed for good, and the folder with it."""
    finish(open_run(tmp_path, epochs=1))
    left = tmp_path / "unfinished" / ".writing-abc.npz"
    left.parent.mkdir()
    left.touch()
    open_run(tmp_path, epochs=1)
    assert left.exists(), "its writer may live"
    os.utime(left, (time.time() - 4000,) * 2)
    open_run(tmp_path, epochs=1)
    only_record(tmp_path)


def test_a_neighbour_that_takes_the_empty_folder_away_is_survived(open_run, measured, tmp_path, monkeypatch):
    run, write = open_run(tmp_path, epochs=1), run_module.write_atomically
    calls = []

    def removed_first(path, writer):
        calls.append(path)
        if len(calls) == 1:
            path.parent.rmdir()
        write(path, writer)

    monkeypatch.setattr(run_module, "write_atomically", removed_first)
    run.entry(0)
    assert (len(calls), run._state.exists()) == (2, True)


def test_a_torn_state_is_told_and_started_again(open_run, measured, tmp_path, capsys):
    open_run(tmp_path, epochs=2).entry(0)
    (state,) = (tmp_path / "unfinished").glob("*.npz")
    state.write_bytes(state.read_bytes()[:-200])
    finish(open_run(tmp_path, epochs=2))
    assert measured == [0, 0, 1, 2]
    assert "starts again" in capsys.readouterr().err
    only_record(tmp_path)


def test_a_state_of_another_run_is_not_taken(open_run, measured, tmp_path, capsys):
    first, other = open_run(tmp_path, epochs=2), open_run(tmp_path, epochs=2, seed=5)
    first.entry(0)
    first._state.rename(other._state)
    assert open_run(tmp_path, epochs=2, seed=5).epochs == []
    assert "the state of another run" in capsys.readouterr().err
    assert measured == [0]


def test_the_key_is_the_settings_and_the_datas(open_run, tmp_path, digits):
    run = open_run(tmp_path, epochs=1)
    finish(run)
    record = records.lookup(tmp_path, "gradient_std", run.setting, PROTOCOL, {"data": digits.digest})
    assert record.config["data"] == "digits"
    assert record.config["weight_decay"] == 0
    assert record.config["seed"] == 0
    assert {
        "epochs",
        "masks",
        "hidden",
        "batch_size",
        "drop_rate",
        "optimizer",
        "learning_rate",
    } <= record.config.keys()
    assert record.provenance["device"] == "cpu"
    for name, value in dataclasses.asdict(run.setting).items():
        changed = value + 1 if isinstance(value, int | float) else (3,) if name == "hidden" else "other"
        assert records.key(dataclasses.replace(run.setting, **{name: changed}), PROTOCOL, {"data": "x"}) != record.key


def test_divergence_keeps_what_was_measured(open_run, measured, tmp_path):
    fields = {"epochs": 3, "learning_rate": 1e30}
    for _ in range(2):
        run = open_run(tmp_path, **fields)
        run.entry(0)
        with pytest.raises(
            Diverged, match=r"not finite in epoch 1 \(data digits, optimizer sgd, learning_rate 1e\+30"
        ) as told:
            run.entry(1)
        assert [entry["epoch"] for entry in told.value.epochs] == [0]
        assert "unfinished" in str(told.value)
    assert measured == [0]
    run = open_run(None, **fields)
    run.entry(0)
    with pytest.raises(Diverged, match="in memory only"):
        run.entry(1)


def test_a_loss_that_is_not_finite_when_measured_stops_too(open_run, monkeypatch):
    run = open_run(None, epochs=1)
    monkeypatch.setattr("allora_analysis.gradient_std.run.evaluate", lambda *_: (float("nan"), 0.1))
    with pytest.raises(Diverged, match="epoch 0"):
        run.entry(0)
    monkeypatch.undo()
    with torch.no_grad():
        run._mlp.weights[0].fill_(float("inf"))
    with pytest.raises(Diverged, match="epoch 0"):
        run.entry(0)
