"""Each arm at its own best rate: the rules stand beside what the old records say, and verdicts follow them."""

import dataclasses
import math
import re
from functools import cache

import numpy as np
import pytest

from allora_analysis import records
from allora_analysis.finetune.setting import PROTOCOL, STUDY, check
from allora_analysis.grid.presets import (
    BLOCK,
    FIRST_SEED,
    LISTS,
    MARGINS,
    OWN_BEST,
    OWN_BEST_FRESH,
    OWN_BEST_ONCE_MORE,
    blocks,
    own_best_decided,
    own_best_pairs,
    own_best_verdicts,
)
from allora_analysis.grid.reading import final_value, paired_differences, recorded
from allora_analysis.statistics.e_values import CAP
from experiments import own_best_fresh, own_best_rate
from tests.planted_finetune import DIGESTS
from tests.test_experiments_finetune import STATED


def plant(folder, runs, accuracy, loss=lambda run: 0.4):
    """Records with these test values; a None of accuracy: the run diverged."""
    for one in runs:
        value = accuracy(one)
        ended = value is not None
        epochs = [{"epoch": 1.0, "step": 2, "test_accuracy": value, "test_loss": loss(one)}] if ended else []
        result = {"epochs": epochs, "diverged_at_step": None if ended else 3, "majority_rates": {"test": 0.5}}
        records.save(folder, STUDY, one, result, protocol=PROTOCOL, digests=DIGESTS, provenance={})


def seeds_of(name, seeds):
    return [one for listed, runs in blocks() if listed == name for one in runs if one.seed < FIRST_SEED + seeds]


@cache
def old():
    return recorded(LISTS["learning_rates"]["desk"])


def noise(run):
    return float(np.random.default_rng([run.seed, len(run.arm)]).normal(0.0, 0.003))


def test_the_rules_are_stated_and_the_runs_are_valid():
    words = own_best_rate.__doc__
    assert [title for title in re.findall(r"^\*\*(.+?)\.\*\*", words, re.MULTILINE) if title in STATED] == list(STATED)
    runs = LISTS["own_best_rate"]["desk"]
    assert [check(one) for one in runs] == runs
    shared = CAP  # ALLoRAAdamW's at 1e-3, which its control has, too
    assert len(set(runs)) == len(runs) == CAP * sum(len(listed.rates) for listed in OWN_BEST.values()) - shared
    assert not set(runs) & set(LISTS["learning_rates"]["desk"]), "a seed that chose the rates would judge them"


def test_the_fresh_seeds_are_of_the_first_list_s_arms_and_no_other_list_has_them():
    words = own_best_fresh.__doc__
    titles = re.findall(r"^\*\*(.+?)\.\*\*", words, re.MULTILINE)
    assert [title for title in titles if title in STATED] == list(STATED)
    assert "python -m experiments.own_best_fresh" in words.splitlines()[0]
    pairs = [*OWN_BEST_FRESH, *OWN_BEST_ONCE_MORE]
    assert [[one.seed for one in pair] for pair in pairs] == [[seed, seed] for seed in range(63, 113)]
    assert len(OWN_BEST_FRESH) == 20
    first = dict(own_best_pairs("minilm-adamw", "allora_0"))
    assert {tuple(dataclasses.replace(one, seed=3) for one in pair) for pair in pairs} == {
        (ours, lora) for ours, lora in first.items() if ours.seed == 3
    }
    runs = {one for pair in pairs for one in pair}
    assert LISTS["own_best_fresh"]["desk"] == [one for pair in pairs for one in pair]
    others = {one for name, of in LISTS.items() if name != "own_best_fresh" for those in of.values() for one in those}
    assert not runs & others


def test_every_arm_of_a_list_has_the_same_seeds_in_blocks():
    for _, runs in blocks():
        assert len({one.seed for one in runs}) == 1
    first = [(name, runs[0].seed) for name, runs in blocks()]
    assert first[: 2 * BLOCK] == [
        *(("minilm-adamw", seed) for seed in range(3, 3 + BLOCK)),
        *(("minilm-sgd", seed) for seed in range(3, 3 + BLOCK)),
    ]
    for name, listed in OWN_BEST.items():
        assert [runs[0].seed for other, runs in blocks() if other == name] == list(range(3, 3 + CAP))
        for arm in listed.rates:
            assert [first.seed for first, _ in own_best_pairs(name, arm)] == list(range(3, 3 + CAP))


def test_the_control_is_lora_at_the_rate_at_which_the_arm_starts():
    control, of = OWN_BEST["minilm-control"], OWN_BEST["minilm-adamw"]
    assert [name for name, listed in OWN_BEST.items() if not listed.chosen] == ["minilm-control"]
    assert control[:3] == of[:3]
    assert control.rates == {"allora_adamw": of.rates["allora_adamw"], "lora": 2 * of.rates["allora_adamw"]}
    (arm, lora), *_ = own_best_pairs("minilm-control", "allora_adamw")
    assert (arm, arm.eta2) == (own_best_pairs("minilm-adamw", "allora_adamw")[0][0], 4.0)
    assert dataclasses.replace(lora, learning_rate=1e-3) == own_best_pairs("minilm-adamw", "allora_adamw")[0][1]


@pytest.mark.parametrize("name", [name for name, of in OWN_BEST.items() if of.chosen])
def test_the_frozen_rates_are_what_the_old_records_chose(name, monkeypatch):
    monkeypatch.setattr(own_best_rate, "recorded", lambda runs: old())
    scores = own_best_rate.best_rates(name)
    assert scores.keys() == OWN_BEST[name].rates.keys()
    for arm, by_rate in scores.items():
        frozen = OWN_BEST[name].rates[arm]
        assert max(by_rate, key=by_rate.get) == frozen
        first, second = sorted(by_rate.values(), reverse=True)[:2]
        assert f"| {first:.4f} | {second:.4f} at" in own_best_rate.__doc__


def test_the_margin_of_loss_is_what_the_margin_of_accuracy_costs_along_loras_curve():
    scores = {}
    for one, result in old().items():
        if (one.model, one.optimizer, one.arm) == ("all-MiniLM-L6-v2", "adamw", "lora"):
            last = result["epochs"][-1]
            scores.setdefault(one.learning_rate, []).append((last["validation_accuracy"], last["validation_loss"]))
    low, high = (np.mean(scores[rate], axis=0) for rate in (3e-4, 1e-3))
    slope = (low[1] - high[1]) / (high[0] - low[0])
    assert MARGINS["test_loss"] == round(slope * MARGINS["test_accuracy"], 3)


def test_a_clear_difference_stops_a_list_and_a_later_seed_changes_nothing(tmp_path):
    better = {"allora_0": 0.02, "allora_adamw": 0.03, "lora": 0.0}
    plant(tmp_path, seeds_of("minilm-adamw", 9), lambda one: 0.8 + better[one.arm] + noise(one))
    first = own_best_verdicts("minilm-adamw", folder=tmp_path)
    assert {arm: one.verdict for arm, (_, one) in first.items()} == {"allora_0": "above", "allora_adamw": "open"}
    assert first["allora_adamw"][1].above > 20  # the arm beside it is one of four: 80 decides it
    assert not own_best_decided("minilm-adamw", tmp_path)
    plant(tmp_path, seeds_of("minilm-adamw", 12), lambda one: 0.8 + better[one.arm] + noise(one))
    found = own_best_verdicts("minilm-adamw", folder=tmp_path)
    assert (found["allora_0"][1], found["allora_adamw"][1].verdict) == (first["allora_0"][1], "above")
    assert own_best_decided("minilm-adamw", tmp_path)
    plant(tmp_path, [one for one in seeds_of("minilm-adamw", 14) if one.seed >= FIRST_SEED + 12], lambda one: 0.5)
    again = own_best_verdicts("minilm-adamw", folder=tmp_path)
    assert [one for _, one in again.values()] == [one for _, one in found.values()]
    assert [len(values) for values, _ in again.values()] == [14, 14]


def test_equal_arms_end_equivalent_and_few_seeds_stay_open(tmp_path):
    plant(tmp_path, seeds_of("minilm-sgd", 30), lambda one: 0.8 + noise(one) / 3)
    assert own_best_verdicts("minilm-sgd", folder=tmp_path)["allora_0"][1].verdict == "equivalent"
    plant(tmp_path, seeds_of("smollm2-adamw", 5), lambda one: 0.8 + 0.1 * (one.arm == "lora") + noise(one))
    assert not own_best_decided("smollm2-adamw", tmp_path)
    assert not own_best_decided("minilm-adamw", tmp_path)


@pytest.mark.parametrize(("seeds", "decided"), [(CAP - 1, False), (CAP, True)])
def test_a_list_ends_at_its_cap_with_an_arm_open(tmp_path, seeds, decided):
    runs = seeds_of("minilm-sgd", seeds)
    plant(tmp_path, runs, lambda one: 0.8 + 0.02 * (-1) ** one.seed * (one.arm != "lora") + noise(one))
    assert own_best_verdicts("minilm-sgd", folder=tmp_path)["allora_0"][1].verdict == "open"
    assert own_best_decided("minilm-sgd", tmp_path) == decided


def test_differences_end_at_the_first_gap_and_a_diverged_run_counts_as_a_guess(tmp_path):
    runs = seeds_of("minilm-sgd", 4)
    plant(tmp_path, [one for one in runs if one.seed != 5], lambda one: None if one.arm == "lora" else 0.8)
    found, listed = recorded(runs, tmp_path), own_best_pairs("minilm-sgd", "allora_0")
    assert paired_differences(found, listed, "test_accuracy") == pytest.approx([0.3, 0.3])
    assert paired_differences(found, listed, "test_loss") == pytest.approx([0.4 - math.log(2)] * 2)
    assert paired_differences(found, listed[2:], "test_loss") == []
    assert final_value({"epochs": [{"validation_loss": 0.3}]}, "validation_loss") == 0.3


def test_the_command_runs_only_what_is_open(tmp_path, capsys, monkeypatch):
    plant(tmp_path, seeds_of("minilm-adamw", 12), lambda one: 0.8 + 0.02 * (one.arm != "lora") + noise(one))
    asked = []

    def run(presets, arguments):
        asked.append((presets["desk"], arguments.source))
        plant(tmp_path, presets["desk"], lambda one: 0.8 + 0.02 * (one.arm != "lora") + noise(one))
        return 0

    monkeypatch.setattr(own_best_rate.command, "run", run)
    sources = ["all-MiniLM-L6-v2=here", "rotten_tomatoes=there"]
    command = ["--results", str(tmp_path), "--only", "all-MiniLM-L6-v2", "--source", *sources]
    assert own_best_rate.main(command) == 0
    asked_for = [(one.optimizer, one.learning_rate) for runs, _ in asked for one in runs if one.arm == "lora"]
    # A clear difference is decided at the first number of pairs that can decide.
    assert sorted(asked_for) == [("adamw", 2e-3)] * 8 + [("sgd", 3.0)] * 8
    assert asked[0][1] == tuple(sources)
    said = capsys.readouterr().out
    assert "minilm-sgd, allora_0 − lora, test_accuracy: above after 8 seeds" in said
    assert own_best_rate.main([*command, "--dry-run"]) == 0
    assert asked[16:] == []
    assert capsys.readouterr().out == "nothing to run: what was asked for is decided\n"


def test_a_dry_run_lists_each_run_once(tmp_path, capsys):
    """ALLoRAAdamW's runs are of two lists."""
    assert own_best_rate.main(["--results", str(tmp_path), "--seeds", "1", "--dry-run"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("to run ")]
    assert len(lines) == len(set(lines)) == len({one for _, runs in blocks() for one in runs if one.seed == FIRST_SEED})


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("nonsense", "--source must be NAME=FOLDER, received 'nonsense'"),
        ("SmolLM-typo=x", "--source SmolLM-typo=…: the runs know no such name"),
    ],
)
def test_a_source_that_no_run_reads_is_refused(tmp_path, capsys, source, told):
    assert own_best_rate.main(["--results", str(tmp_path), "--source", source, "--dry-run"]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.bad_input
@pytest.mark.parametrize("seeds", ["0", "-3"])
def test_no_seeds_are_refused(tmp_path, capsys, seeds):
    assert own_best_rate.main(["--results", str(tmp_path), "--seeds", seeds, "--dry-run"]) == 2
    assert "--seeds must be a whole number, 1 or above" in capsys.readouterr().err


def test_a_diverged_run_is_a_guess_of_its_own_split():
    result = {"epochs": [], "diverged_at_step": 3, "majority_rates": {"test": 0.5, "validation": 0.25}}
    assert final_value(result, "validation_accuracy") == 0.25
    assert final_value(result, "validation_loss") == pytest.approx(-math.log(0.25))
