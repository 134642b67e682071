"""The experiment's command on tiny runs of the digits: fixed grid, skipped when recorded, resumed when cut off."""

import dataclasses
import json

import numpy as np
import pytest

from allora_analysis import records
from allora_analysis.gradient_std import grid as grids
from allora_analysis.gradient_std import run as runs
from allora_analysis.gradient_std.run import Diverged
from allora_analysis.validation import ArgumentError
from experiments import gradient_std as experiment
from tests.tiny_figure_1 import TINY


def arguments(folder, **changed):
    return dataclasses.replace(experiment.Arguments(data="digits", results=folder), **changed)


def test_a_grid_from_start_to_end_and_not_twice(tmp_path, capsys, monkeypatch):
    assert experiment.run(arguments(tmp_path, dry_run=True), TINY) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[0] == "to run    digits, sgd, drop rate 0.5, seed 0"
    assert len(listed) == 7
    assert listed[-1].startswith("digits: 0 of 6 runs recorded in ")
    assert not list(tmp_path.iterdir())
    assert experiment.run(arguments(tmp_path), TINY) == 0
    found = grids.recorded(tmp_path, TINY)
    assert [(arm.optimizer, arm.drop_rate, list(seeds)) for arm, seeds in found.items()] == [
        ("sgd", 0.5, [0, 1]),
        ("adam", 0.5, [0, 1]),
        ("sgd", 0.0, [0, 1]),
    ]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 6
    capsys.readouterr()
    monkeypatch.setattr(runs, "measure", None)  # nothing is measured again
    assert experiment.run(arguments(tmp_path), TINY) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    # What a kill between a record and its tidying up left is taken away, though nothing is run; a list takes nothing.
    left = runs._state(tmp_path, records.find(tmp_path)[0].key)
    left.parent.mkdir()
    left.touch()
    assert experiment.run(arguments(tmp_path, dry_run=True), TINY) == 0
    assert left.exists()
    assert experiment.run(arguments(tmp_path), TINY) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    capsys.readouterr()
    assert experiment.run(arguments(tmp_path, dry_run=True), TINY) == 0
    assert "to run" not in capsys.readouterr().out
    # Without dropout the masks have no spread, the minibatches have; with dropout both have.
    still, moving = (found[grids.Arm("digits", "sgd", rate)][0][-1] for rate in (0.0, 0.5))
    assert (still["probe"]["max"], still["decomposition"]["mask"]) == (0, 0)
    assert min(still["no_dropout_fresh"]["mean"], moving["probe"]["mean"], moving["decomposition"]["mask"]) > 0
    # A record names no path, and knows the data by their digest.
    for content in before.values():
        record = json.loads(content)
        assert str(tmp_path) not in content.decode()
        assert len(record["digests"]["data"]) == 64


def test_ctrl_c_keeps_what_was_measured_and_the_same_command_goes_on(tmp_path, capsys, monkeypatch):
    tiny = dataclasses.replace(TINY, optimizers=("sgd",), seeds=1, extra_drop_rates=())
    right, measured = runs.measure, []

    def cut_off(mlp, data, setting, epoch):
        if epoch == 2 and measured.count(epoch) == 0:
            measured.append(epoch)
            raise KeyboardInterrupt
        measured.append(epoch)
        return right(mlp, data, setting, epoch)

    monkeypatch.setattr(runs, "measure", cut_off)
    assert experiment.run(arguments(tmp_path), tiny) == 130
    assert "goes on after the last finished epoch" in capsys.readouterr().err
    assert grids.recorded(tmp_path, tiny) == {}
    assert experiment.run(arguments(tmp_path), tiny) == 0
    assert measured == [0, 1, 2, 2]
    # The same numbers as without an interruption.
    monkeypatch.setattr(runs, "measure", right)
    assert experiment.run(arguments(tmp_path / "whole"), tiny) == 0
    assert grids.recorded(tmp_path, tiny) == grids.recorded(tmp_path / "whole", tiny)


def test_a_diverged_run_is_said_not_recorded_and_the_rest_goes_on(tmp_path, capsys, monkeypatch):
    right = runs.train_epoch

    def planted(mlp, optimizer, data, setting, generator):
        return (
            False
            if (setting.optimizer, setting.seed) == ("adam", 0)
            else right(mlp, optimizer, data, setting, generator)
        )

    monkeypatch.setattr(runs, "train_epoch", planted)
    assert experiment.run(arguments(tmp_path), TINY) == 1
    shown = capsys.readouterr()
    assert "diverged, not recorded: digits, adam, drop rate 0.5, seed 0" in shown.err
    assert shown.out.count("recorded digits") == 5
    assert list(grids.recorded(tmp_path, TINY)[grids.Arm("digits", "adam", 0.5)]) == [1]
    assert issubclass(Diverged, ValueError)


def test_the_command_line(tmp_path, capsys, rng):
    x, y = rng.normal(size=(20, 4)), np.arange(20) % 2
    np.savez(tmp_path / "tiny.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    command = ["--data", str(tmp_path / "tiny.npz"), "--results", str(tmp_path / "records"), "--dry-run"]
    assert experiment.main([*command, "--data-name", "cifar10"]) == 0
    assert capsys.readouterr().out.count("to run    cifar10") == 40
    assert experiment.main(command) == 2
    assert "--data-name must be one of mnist, cifar10; received 'tiny'" in capsys.readouterr().err
    assert not (tmp_path / "records").exists()


@pytest.mark.bad_input
def test_missing_data_is_one_line_that_names_both_flags(tmp_path, capsys):
    assert experiment.main(["--data", "mnist", "--data-root", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--data-root" in error
    assert "--download" in error


def test_only_some_optimizers_and_seeds(tmp_path, capsys):
    assert experiment.run(arguments(tmp_path, dry_run=True, only=("adam",), seeds=1), TINY) == 0
    listed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("to run")]
    assert len(listed) == 1
    assert "adam" in listed[0]
    assert "seed 0" in listed[0]
    with pytest.raises(ArgumentError, match="--only must be one of sgd, adam; received 'momentum'"):
        experiment.run(arguments(tmp_path, dry_run=True, only=("momentum",)), TINY)
