"""The rows that read fine-tuning runs: verdicts follow from planted records, and from nothing else."""

from __future__ import annotations

import json

import pytest

from allora_analysis import records
from allora_analysis.claims import section_3_1_dropout_rates as dropout
from allora_analysis.claims import section_4_fine_tuning as section
from allora_analysis.claims.ledger import examine
from allora_analysis.finetune import setting as settings
from allora_analysis.finetune.setting import PROTOCOL, STUDY
from allora_analysis.grid.presets import ablation, dropout_rates, learning_rates, perception
from allora_analysis.study import plain

CLAIMS = {claim.id: claim for claim in (*dropout.claims(), *section.claims())}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "RESULTS", tmp_path)
    return tmp_path


def plant(folder, wanted, accuracy, skip=lambda run: False):
    """Records whose test (and validation) accuracy, epoch by epoch, is what `accuracy(run)` lists."""
    for run in wanted:
        if skip(run):
            continue
        epochs = [
            {"epoch": float(i), "test_accuracy": value + 0.01 * run.seed, "validation_accuracy": value}
            for i, value in enumerate(accuracy(run), 1)
        ]
        digests = {"model": "0" * 64, "data": "1" * 64}
        records.save(folder, STUDY, run, {"epochs": epochs}, protocol=PROTOCOL, digests=digests, provenance={})


def finding(identifier):
    row = examine(CLAIMS[identifier])
    assert row.error is None, row.error
    json.dumps(plain(row.finding), allow_nan=False)
    return row.finding


@pytest.mark.parametrize("identifier", CLAIMS)
def test_not_run_without_records_and_says_the_command(folder, identifier):
    assert finding(identifier).verdict == "not_run"
    assert CLAIMS[identifier].command.startswith("python -m experiments.")


def wiggle(run):
    return 0.0005 * (run.seed - 1)


def better(arms, by=0.02):
    return lambda run: [0.5, 0.8 + (by + wiggle(run)) * (run.arm in arms)]


def test_table_3(folder):
    plant(folder, perception.PRESETS["desk"], better(("allora",)))
    found = finding("4-table-3-desk")
    assert found.verdict == "holds"
    assert found.evidence.measured["emotion, η² = 4"]["difference"] == pytest.approx(0.02)
    assert set(found.evidence.measured["classifier at l_b in both"]) == {
        f"{data}, η² = {eta2}" for data in ("rotten_tomatoes", "emotion") for eta2 in (1, 2, 4)
    }


def test_table_3_compares_with_the_papers_arm_and_not_with_the_corrected_one(folder):
    """Planted: LoRA with its classifier at η·l_b is better, with the classifier at l_b worse."""

    def accuracy(run):
        fast = run.arm == "lora" and run.head_learning_rate > perception.RATE
        return [0.8 + (0.02 + wiggle(run)) * fast + (0.01 + wiggle(run) / 2) * (run.arm == "allora")]

    plant(folder, perception.PRESETS["desk"], accuracy)
    found = finding("4-table-3-desk")
    assert found.verdict == "refuted"
    assert "worse: rotten_tomatoes, η² = 2" in found.corrected
    assert found.evidence.measured["classifier at l_b in both"]["emotion, η² = 2"]["difference"] > 0


def test_table_4(folder):
    both = [*perception.PRESETS["desk"], *ablation.PRESETS["desk"]]
    plant(
        folder, both, lambda run: [0.9 if run.arm == "asf_lora" else 0.8 + (0.02 + wiggle(run)) * (run.arm == "allora")]
    )
    found = finding("4-table-4-desk")
    assert found.verdict == "refuted"
    assert "over asf_lora, emotion, η² = 1" in found.corrected
    assert found.evidence.measured["over lora_x_eta, emotion, η² = 1"]["difference"] == pytest.approx(0.02)
    assert len(found.evidence.measured) == 18


def test_own_best_rate_is_chosen_on_validation(folder):
    wanted = [one for one in learning_rates.PRESETS["desk"] if one.model == section.MODEL]
    best = {"lora": 1e-3, "allora_0": 3e-4}

    def accuracy(run):
        at_best = run.learning_rate == best.get(run.arm, 1e-4)
        return [0.7 + 0.1 * at_best + (0.02 + wiggle(run)) * (run.arm.startswith("allora"))]

    plant(folder, wanted, accuracy)
    found = finding("4-own-best-rate")
    assert found.verdict == "holds"
    assert found.evidence.measured["lora"] == {"learning_rate": 1e-3}
    assert found.evidence.measured["allora_0"]["learning_rate"] == 3e-4
    assert found.evidence.measured["allora_0"]["difference"] == pytest.approx(0.02)


def test_own_best_rate_waits_for_every_rate_of_an_arm(folder):
    wanted = [one for one in learning_rates.PRESETS["desk"] if one.model == section.MODEL]
    plant(folder, wanted, better(("allora_0", "allora_adamw")), skip=lambda run: run.arm == "dora" and run.seed == 2)
    assert "dora" not in finding("4-own-best-rate").evidence.measured
    plant(folder, wanted, better(("allora_0", "allora_adamw")))
    assert "dora" in finding("4-own-best-rate").evidence.measured


@pytest.mark.parametrize(
    ("early", "late", "verdict"),
    [(-0.03, 0.03, "holds"), (0.03, 0.03, "refuted"), (-0.03, -0.03, "refuted"), (-0.03, 0.0, "undecided")],
)
def test_figure_2_left(folder, early, late, verdict):
    def accuracy(run):
        gain = run.drop_rate / 0.4
        return [0.7, 0.7, 0.8 + gain * (early + wiggle(run)), 0.7, 0.7, 0.7, 0.7, 0.8 + gain * (late + wiggle(run))]

    plant(folder, dropout_rates.PRESETS["desk"], accuracy)
    found = finding("3.1-figure-2-left")
    assert found.verdict == verdict
    assert found.evidence.measured["drop rate 0.4 minus 0, epoch 3"]["difference"] == pytest.approx(early)
    assert found.evidence.measured["epoch of the best accuracy"]["0"] == [3, 3, 3]


def test_a_drop_rate_in_part_does_not_count(folder):
    flat = lambda run: [0.8] * 8  # noqa: E731
    plant(folder, dropout_rates.PRESETS["desk"], flat, skip=lambda run: (run.drop_rate, run.seed) == (0.4, 2))
    assert finding("3.1-figure-2-left").verdict == "not_run"
