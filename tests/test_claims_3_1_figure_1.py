"""The ledger's rows of Figure 1: verdicts follow from the records, and from nothing else."""

import dataclasses

import numpy as np
import pytest

from allora_analysis.claims import ledger
from allora_analysis.claims import s3_1_figure_1 as section
from allora_analysis.claims.cases import Cases
from allora_analysis.claims.ledger import all_claims
from allora_analysis.gradient_std import grid, summary
from allora_analysis.statistics import required_n
from tests import ledger_rows
from tests.planted_runs import MAIN, plant

CLAIM, CIFAR10 = ledger._of(section)
EXTRA = dataclasses.replace(grid.FIGURE_1, epochs=2)
AGREES, BOTH_RISE, BOTH_FALL, FLAT = (-1.0, 1.0), (1.0, 1.0), (-1.0, -1.0), (0.0, 0.0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "RESULTS", tmp_path)
    monkeypatch.setattr(grid, "FIGURE_1", MAIN)
    return tmp_path


def finding(claim=CLAIM):
    return ledger_rows.finding(claim)


def test_without_a_record_it_is_not_run_and_says_the_command(folder):
    assert finding().verdict == "not_run"
    assert (CLAIM.id, CIFAR10.id) == ("3.1-figure-1", "3.1-figure-1-cifar10")
    assert CLAIM.statement.replace("MNIST", "CIFAR-10") == CIFAR10.statement
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
    assert found.evidence.measured["settings: agrees"] == 4
    average = found.evidence.measured["mnist adam"]["average, from epoch 0"]
    assert average["direction"] == "falls"
    assert average["log_change"] == pytest.approx(-1)
    assert average["interval"][0] < -1 < average["interval"][1]
    control = found.evidence.measured["mnist adam"]["worst, over minibatches without dropout, from epoch 0"]
    assert control["log_change"] == pytest.approx(1)
    # From epoch 1 half of the straight line is left.
    assert found.evidence.measured["mnist adam"]["worst, from epoch 1"]["log_change"] == pytest.approx(0.5)


def test_each_data_set_has_a_row_of_its_own(folder):
    plant(folder, lambda arm: AGREES if arm.data == "mnist" else BOTH_RISE)
    mnist, cifar10 = finding(), finding(CIFAR10)
    assert (mnist.verdict, mnist.at_paper) == ("holds", None)
    assert (cifar10.verdict, cifar10.at_paper) == ("refuted", None)
    assert cifar10.answer == "No, on CIFAR-10: the average rises, the worst rises."
    assert mnist.evidence.measured["verdict from epoch 1"] == "holds"
    assert cifar10.size.value == pytest.approx(100 * (np.e - 1))


@pytest.mark.parametrize(
    "planted",
    [
        lambda arm: AGREES if arm.optimizer in ("sgd", "momentum") else BOTH_FALL,
        lambda arm: AGREES if (arm.data, arm.optimizer) == ("mnist", "adam") else BOTH_FALL,
    ],
)
def test_one_optimizer_that_contradicts_refutes(folder, planted):
    """A condition found in the outcome alone, as an optimizer's here, is none."""
    plant(folder, planted)
    assert finding().verdict == "refuted"
    assert finding().corrected == "the average falls, the worst falls"


def test_an_average_that_rises_at_first_and_then_falls_is_told():
    sgd, adam, *_ = grid.FIGURE_1.arms()
    draws = np.random.default_rng(2).normal(0, 0.01, 5)
    up, down = (
        section.tested({(arm, what): sign + draws for arm in (sgd, adam) for what in (section.AVERAGE, section.WORST)})
        for sign in (1, -1)
    )
    later = {sgd: up[sgd], adam: (down[adam][0], up[adam][1])}
    contrary = dict.fromkeys(up, "contradicts")
    assert section._falling(up, contrary, later).endswith("falls under 1 of 2 optimizers")
    assert section._falling(down, contrary, later) == ""
    assert section._falling(up, contrary, up) == ""
    assert section._falling(up, dict.fromkeys(up, "agrees"), later) == ""


def test_an_undecided_setting_leaves_open_what_others_do_not_refute(folder):
    plant(folder, lambda arm: {"mnist": AGREES, "cifar10": BOTH_RISE}[arm.data] if arm.optimizer != "adam" else FLAT)
    mnist, cifar10 = finding(), finding(CIFAR10)
    assert (mnist.verdict, cifar10.verdict) == ("undecided", "refuted")
    assert mnist.evidence.measured["settings: undecided"] == 1


@pytest.mark.parametrize(("adam", "clear"), [(AGREES, (4, 4)), ((0.0, 1.0), (3, 4)), (FLAT, (3, 3))])
def test_the_evidence_says_what_is_clear_from_epoch_1(folder, adam, clear):
    plant(folder, lambda arm: BOTH_RISE if arm.data != "mnist" else adam if arm.optimizer == "adam" else AGREES)
    measured = finding().evidence.measured
    told = [measured[f"settings with a clear change from epoch 1: {what}"] for what in ("average", "worst")]
    assert tuple(told) == clear


@pytest.mark.parametrize(
    ("change", "words"),
    [(BOTH_FALL, "the average falls, the worst falls"), ((1.0, -1.0), "the average rises, the worst falls")],
)
def test_where_everything_goes_one_other_way_that_is_no_correction(folder, change, words):
    plant(folder, lambda arm: change)
    found = finding()
    assert found.verdict == "refuted"
    assert found.corrected == words


def test_refuted_where_it_fails_in_several_ways(folder):
    plant(folder, lambda arm: BOTH_FALL if arm.optimizer == "sgd" else BOTH_RISE)
    found = finding()
    assert found.verdict == "refuted"
    assert found.corrected == "the average falls, the worst falls; or the average rises, the worst rises"


def test_undecided_says_the_seeds_it_needs(folder):
    plant(folder, lambda arm: AGREES if arm.optimizer != "sgd" else (-0.01, 1.0), deviation=0.02)
    found = finding()
    assert found.verdict == "undecided"
    change = 0.02 * np.arange(-2, 3) - 0.01
    needed = required_n(change.mean(), change.std(ddof=1), summary.POWER, 2 * summary.LEVEL / 4)
    assert f"mnist sgd needs {needed} seeds" in found.corrected


def test_undecided_where_nothing_changes_at_all(folder):
    plant(folder, lambda arm: FLAT, deviation=0.0)
    found = finding()
    assert found.verdict == "undecided"
    assert "mnist sgd no change to detect" in found.corrected


def test_undecided_while_settings_are_missing(folder):
    plant(folder, lambda arm: AGREES if arm.optimizer != "adam" else None)
    found = finding()
    assert found.verdict == "undecided"
    assert "not run in full: mnist adam" in found.corrected
    assert found.evidence.measured["settings: agrees"] == 3


def test_settings_that_are_missing_are_left_out_of_the_family(folder):
    plant(folder, lambda arm: AGREES if arm == MAIN.arms()[0] else None, deviation=0.3)
    found = finding()
    adjusted = found.evidence.measured["mnist sgd"]["average, from epoch 0"]["adjusted_p_value"]
    alone = summary.family_of_trends({"case": np.exp([[0, -1 + 0.3 * i] for i in range(-2, 3)])})["case"].change.p_value
    assert adjusted == pytest.approx(2 * alone)
    assert "Holm over 1 settings" in found.evidence.tolerance_source


def test_scrambled_signs_leave_no_verdict(folder):
    plant(folder, lambda arm: AGREES if arm.data == "mnist" else BOTH_RISE)
    cases = Cases(0, CLAIM.id)
    CLAIM.check(cases, None)
    kept = [cases.judged.scrambled(np.random.default_rng(seed)) == cases.judged.verdict for seed in range(20)]
    assert sum(kept) <= 1


def test_a_planted_wrong_worst_entry_changes_the_verdict(folder, monkeypatch):
    plant(folder, lambda arm: AGREES)
    assert finding().verdict == "holds"
    monkeypatch.setattr(section, "WORST", "mean")
    assert finding().verdict == "refuted"


def test_a_planted_reversal_of_time_changes_the_verdict(folder, monkeypatch):
    plant(folder, lambda arm: AGREES)
    right = summary.changes
    monkeypatch.setattr(summary, "changes", lambda series, first=0: -right(series, first))
    assert finding().verdict == "refuted"


def test_the_probe_batch_counts(folder):
    """The fresh batch is reported by the figure's study; a verdict from it would see a jump of the batch, not time."""
    plant(folder, lambda arm: AGREES)
    values = summary.values([grid.recorded(folder, MAIN)[grid.Arm("mnist", "sgd", 0.5)][0]], summary.AVERAGE)
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
    assert found.evidence.measured["drop rate 0, mnist adam"]["average"]["log_change"] == pytest.approx(-1)
    assert sum(name.startswith("drop rate") for name in found.evidence.measured) == 4


def test_committed_records_if_any_are_of_whole_runs():
    """What is committed is whole: every run has all its epochs, and the same grid's settings."""
    for arm, runs in grid.recorded().items():
        for seed, epochs in runs.items():
            assert [epoch["epoch"] for epoch in epochs] == list(range(grid.FIGURE_1.epochs + 1)), (arm, seed)
