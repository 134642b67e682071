"""Figure 1's grid: what it holds, in which order, and which records are its runs."""

import dataclasses
import re

import pytest

import experiments.gradient_std
from allora_analysis.gradient_std.grid import FIGURE_1, LEARNING_RATES, PROTOCOL, RESULTS, WEIGHT_DECAYS, Arm, recorded
from allora_analysis.validation import ArgumentError
from tests.planted_runs import plant

SMALL = dataclasses.replace(FIGURE_1, seeds=2, optimizers=("sgd", "adam"), extra_drop_rates=(0.0,))


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


def test_every_optimizer_runs_before_the_second_seed_and_extras_come_last():
    runs = [(arm.optimizer, arm.drop_rate, seed) for arm, seed in SMALL.runs("mnist")]
    main = [("sgd", 0.5, 0), ("adam", 0.5, 0), ("sgd", 0.5, 1), ("adam", 0.5, 1)]
    assert runs == main + [(optimizer, 0.0, seed) for optimizer, _, seed in main]
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
