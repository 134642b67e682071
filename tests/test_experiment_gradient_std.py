"""Figure 1's runs: the grid, in its order; the command on tiny runs of the digits: skipped when recorded, resumed."""

import dataclasses
import json
import re

import numpy as np
import pytest

import experiments.gradient_std
from allora_analysis import records
from allora_analysis.gradient_std import grid as grids
from allora_analysis.gradient_std import run as runs
from allora_analysis.gradient_std.grid import FIGURE_1, LEARNING_RATES, PROTOCOL, RESULTS, WEIGHT_DECAYS, Arm, recorded
from allora_analysis.gradient_std.run import Diverged
from allora_analysis.validation import ArgumentError
from experiments import gradient_std as experiment
from tests.planted_runs import plant
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
    assert (still["probe"]["worst_held_out"], still["decomposition"]["mask"]) == (0, 0)
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


# -- the grid


SMALL = dataclasses.replace(
    FIGURE_1, seeds=2, fresh_seeds=1, again_seeds=(), optimizers=("sgd", "adam"), extra_drop_rates=(0.0,)
)


def test_the_grid_is_what_the_issue_asks_for():
    assert FIGURE_1.data == ("mnist", "cifar10")
    assert len(FIGURE_1.arms()) == 8
    assert FIGURE_1.seeds >= 5
    assert FIGURE_1.epochs >= 10
    assert FIGURE_1.masks >= 500
    assert RESULTS.parts[-3:] == ("experiments", "results", "gradient_std")


def test_the_statement_of_the_experiment_says_the_grid_s_numbers():
    text = " ".join(experiments.gradient_std.__doc__.split())
    for optimizer, words in (("sgd", "SGD at learning rate {}"), ("momentum", "at {}"), ("adam", "Adam at {}")):
        assert words.format(LEARNING_RATES[optimizer]) in text
    assert f"AdamW at {LEARNING_RATES['adamw']} with weight decay {WEIGHT_DECAYS['adamw']}" in text
    assert f"drop rate {FIGURE_1.drop_rate}" in text
    assert f"batch {FIGURE_1.batch_size}, {FIGURE_1.epochs} epochs, K = {FIGURE_1.masks} masks" in text
    assert "Inputs-{}-{}-classes".format(*FIGURE_1.hidden) in text
    assert re.search(r"\*\*Seeds\.\*\* " + ", ".join(map(str, range(FIGURE_1.seeds))), text)
    assert f"all {2 * len(FIGURE_1.arms())} cases" in text
    assert f"The seeds {FIGURE_1.fresh[0]} to {FIGURE_1.fresh[-1]}, which nothing has used" in text
    sgd, adam = FIGURE_1.again("sgd"), FIGURE_1.again("adam")
    assert (
        f"The seeds {sgd[0]} to {sgd[-1]}, which nothing has used, run SGD and momentum, {adam[0]} to {adam[-1]}"
        in text
    )


def test_every_optimizer_runs_before_the_next_seed_extras_and_fresh_seeds_come_last():
    runs = [(arm.optimizer, arm.drop_rate, seed) for arm, seed in SMALL.runs("mnist")]
    main = [("sgd", 0.5, 0), ("adam", 0.5, 0), ("sgd", 0.5, 1), ("adam", 0.5, 1)]
    fresh = [("sgd", 0.5, 2), ("adam", 0.5, 2)]
    assert runs == main + [(optimizer, 0.0, seed) for optimizer, _, seed in main] + fresh
    assert len(list(FIGURE_1.runs("cifar10"))) == 4 * 5 + 2 * 2 * 5


def test_a_run_in_full():
    setting = FIGURE_1.setting(Arm("cifar10", "adamw", 0.2), 3)
    assert (setting.data, setting.optimizer, setting.drop_rate, setting.seed) == ("cifar10", "adamw", 0.2, 3)
    assert (setting.learning_rate, setting.weight_decay, setting.masks, setting.hidden) == (1e-3, 1e-2, 500, (512, 512))


def test_recorded_reads_the_grid_and_leaves_the_rest_alone(tmp_path):
    assert recorded(tmp_path / "nowhere", SMALL) == {}
    assert recorded(tmp_path, SMALL) == {}
    plant(tmp_path, lambda arm: (-1.0, 1.0) if arm.data == "mnist" else None, SMALL, seeds=1)
    plant(tmp_path, lambda arm: (5.0, 5.0), dataclasses.replace(SMALL, masks=7))
    plant(tmp_path, lambda arm: (5.0, 5.0), SMALL, protocol=PROTOCOL + 1)
    found = recorded(tmp_path, SMALL)
    assert list(found) == [Arm("mnist", name, rate) for rate in (0.5, 0.0) for name in ("sgd", "adam")]
    assert all(list(runs) == [0] for runs in found.values())
    run = found[Arm("mnist", "adam", 0.5)][0]
    assert [epoch["epoch"] for epoch in run] == list(range(SMALL.epochs + 1))
    assert run[-1]["probe"]["mean"] < 1 < run[-1]["probe"]["worst_held_out"]


@pytest.mark.bad_input
def test_one_run_on_two_data_sets_of_one_name(tmp_path):
    for digest in ("0" * 64, "1" * 64):
        plant(tmp_path, lambda arm: (1.0, 1.0), SMALL, digest=digest)
    with pytest.raises(ArgumentError, match="several models or data sets of one name, in gradient_std-"):
        recorded(tmp_path, SMALL)
