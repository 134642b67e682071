"""The ledger's row of Figure 1: its verdict follows from the records, and from nothing else."""

import dataclasses

import numpy as np
import pytest

from allora_analysis.claims import section_3_1_figure_1 as section
from allora_analysis.claims.ledger import all_claims
from allora_analysis.gradient_std import grid, trends
from allora_analysis.statistics import required_n
from tests import ledger_rows
from tests.planted_runs import MAIN, plant

(CLAIM,) = section.claims()
EXTRA = dataclasses.replace(grid.FIGURE_1, epochs=2)
AGREES, BOTH_RISE, BOTH_FALL, FLAT = (-1.0, 1.0), (1.0, 1.0), (-1.0, -1.0), (0.0, 0.0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "RESULTS", tmp_path)
    monkeypatch.setattr(grid, "FIGURE_1", MAIN)
    return tmp_path


def finding():
    return ledger_rows.finding(CLAIM)


def test_without_a_record_it_is_not_run_and_says_the_command(folder):
    assert finding().verdict == "not_run"
    assert CLAIM.id == "3.1-figure-1"
    assert CLAIM.command.startswith("python -m experiments.gradient_std --data")


def test_the_row_is_in_the_ledger():
    assert CLAIM.id in [claim.id for claim in all_claims()]


def test_with_too_few_seeds_it_is_not_run(folder):
    plant(folder, lambda arm: AGREES, seeds=4)
    assert finding().verdict == "not_run"


def test_holds_where_every_average_falls_and_every_worst_rises(folder):
    plant(folder, lambda arm: AGREES)
    found = finding()
    assert (found.verdict, found.corrected, found.evidence.n) == ("holds", None, 5)
    assert found.evidence.measured["settings: agrees"] == 8
    average = found.evidence.measured["cifar10 adam"]["average, from epoch 0"]
    assert average["direction"] == "falls"
    assert average["log_change"] == pytest.approx(-1)
    assert average["interval"][0] < -1 < average["interval"][1]
    control = found.evidence.measured["cifar10 adam"]["worst, over minibatches without dropout, from epoch 0"]
    assert control["log_change"] == pytest.approx(1)
    # From epoch 1 half of the straight line is left.
    assert found.evidence.measured["cifar10 adam"]["worst, from epoch 1"]["log_change"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("planted", "text"),
    [
        (
            lambda arm: AGREES if arm.data == "mnist" else BOTH_RISE,
            "the data set: true of mnist, false of cifar10; the average rises, the worst rises: cifar10 sgd",
        ),
        (
            lambda arm: AGREES if arm.optimizer in ("sgd", "momentum") else BOTH_FALL,
            "the optimiser: true of sgd, momentum, false of adam, adamw",
        ),
        (
            lambda arm: AGREES if (arm.data, arm.optimizer) == ("mnist", "adam") else BOTH_FALL,
            "data set and optimiser: true of mnist adam; false of mnist sgd",
        ),
    ],
)
def test_conditional_says_on_what(folder, planted, text):
    plant(folder, planted)
    found = finding()
    assert found.verdict == "conditional"
    assert text in found.corrected


def test_conditional_names_what_is_undecided(folder):
    plant(folder, lambda arm: {"mnist": AGREES, "cifar10": BOTH_RISE}[arm.data] if arm.optimizer != "adam" else FLAT)
    found = finding()
    assert found.verdict == "conditional"
    assert "; undecided: mnist adam, cifar10 adam; all this since before training" in found.corrected


@pytest.mark.parametrize(("adam", "clear"), [(AGREES, (8, 8)), ((0.0, 1.0), (7, 8)), (FLAT, (7, 7))])
def test_conditional_says_what_is_clear_from_epoch_1(folder, adam, clear):
    plant(folder, lambda arm: BOTH_RISE if arm.data != "mnist" else adam if arm.optimizer == "adam" else AGREES)
    average, worst = clear
    text = f"from epoch 1 on, the average's change is clear in {average} and the worst's in {worst} of 8 settings"
    assert finding().corrected.endswith(text)


@pytest.mark.parametrize(
    ("change", "words"),
    [(BOTH_FALL, "the average falls, the worst falls"), ((1.0, -1.0), "the average rises, the worst falls")],
)
def test_where_everything_goes_one_other_way_that_is_no_correction(folder, change, words):
    plant(folder, lambda arm: change)
    found = finding()
    assert found.verdict == "refuted"
    assert found.corrected.startswith(f"{words}: mnist sgd")


def test_refuted_where_it_fails_in_several_ways(folder):
    plant(folder, lambda arm: BOTH_FALL if arm.data == "mnist" else BOTH_RISE)
    found = finding()
    assert found.verdict == "refuted"
    assert "the average rises, the worst rises: cifar10 sgd" in found.corrected


def test_undecided_says_the_seeds_it_needs(folder):
    plant(folder, lambda arm: AGREES if arm.optimizer != "sgd" else (-0.01, 1.0), deviation=0.02)
    found = finding()
    assert found.verdict == "undecided"
    change = 0.02 * np.arange(-2, 3) - 0.01
    needed = required_n(change.mean(), change.std(ddof=1), trends.POWER, trends.LEVEL / 16)
    assert f"mnist sgd needs {needed} seeds" in found.corrected
    assert "true of mnist adam" in found.corrected


def test_undecided_where_nothing_changes_at_all(folder):
    plant(folder, lambda arm: FLAT, deviation=0.0)
    found = finding()
    assert found.verdict == "undecided"
    assert "mnist sgd no change to detect" in found.corrected


def test_undecided_while_settings_are_missing(folder):
    plant(folder, lambda arm: AGREES if arm.data == "mnist" else None)
    found = finding()
    assert found.verdict == "undecided"
    assert "not run in full: cifar10 sgd, cifar10 momentum" in found.corrected
    assert found.evidence.measured["settings: agrees"] == 4


def test_settings_that_are_missing_belong_to_the_family(folder):
    plant(folder, lambda arm: AGREES if arm == MAIN.arms()[0] else None, deviation=0.3)
    adjusted = finding().evidence.measured["mnist sgd"]["average, from epoch 0"]["adjusted_p_value"]
    alone = trends.family_of_trends({"case": np.exp([[0, -1 + 0.3 * i] for i in range(-2, 3)])})["case"].change.p_value
    assert adjusted == pytest.approx(16 * alone)


def test_a_planted_wrong_worst_entry_changes_the_verdict(folder, monkeypatch):
    plant(folder, lambda arm: AGREES)
    assert finding().verdict == "holds"
    monkeypatch.setattr(section, "WORST", "mean")
    assert finding().verdict == "refuted"


def test_a_planted_reversal_of_time_changes_the_verdict(folder, monkeypatch):
    plant(folder, lambda arm: AGREES)
    right = trends.changes
    monkeypatch.setattr(trends, "changes", lambda series, first=0: -right(series, first))
    assert finding().verdict == "refuted"


def test_the_probe_batch_counts(folder):
    """The fresh batch is reported by the figure's study; a verdict from it would see a jump of the batch, not time."""
    plant(folder, lambda arm: AGREES)
    values = trends.values([grid.recorded(folder, MAIN)[grid.Arm("mnist", "sgd", 0.5)][0]], trends.AVERAGE)
    assert values[0, 0] == 1.0


def test_the_seeds_component_stands_beside_the_masks_share(folder):
    """Planted: a total variance of 4·average, with a standard error of a tenth, seeds apart by `wiggle`."""
    plant(folder, lambda arm: AGREES, deviation=0.5)
    measured = finding().evidence.measured["mnist sgd"]
    before, end = (measured[f"variance components, {when}"] for when in ("before training", "at the end"))
    assert before["mask_share"] == end["mask_share"] == 0.75
    assert before["seed"] == pytest.approx(-0.01)
    assert end["seed"] == pytest.approx(0.5**2 * np.var([-2, -1, 0, 1, 2], ddof=1) - 0.01)
    assert end["measurement"] == pytest.approx(0.01)


def test_other_drop_rates_stand_beside_and_change_no_verdict(folder, monkeypatch):
    monkeypatch.setattr(grid, "FIGURE_1", EXTRA)
    plant(folder, lambda arm: AGREES if arm.drop_rate == 0.5 else BOTH_FALL, grid=EXTRA)
    found = finding()
    assert found.verdict == "holds"
    assert found.evidence.measured["drop rate 0.2, mnist sgd"]["worst"]["direction"] == "falls"
    assert found.evidence.measured["drop rate 0, cifar10 adam"]["average"]["log_change"] == pytest.approx(-1)
    assert sum(name.startswith("drop rate") for name in found.evidence.measured) == 8


def test_committed_records_if_any_are_of_whole_runs():
    """What is committed is whole: every run has all its epochs, and the same grid's settings."""
    for arm, runs in grid.recorded().items():
        for seed, epochs in runs.items():
            assert [epoch["epoch"] for epoch in epochs] == list(range(grid.FIGURE_1.epochs + 1)), (arm, seed)
