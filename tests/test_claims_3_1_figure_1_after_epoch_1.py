"""The worst entry from epoch 1: the verdict follows from the fresh seeds' records, and from nothing else."""

import math

import numpy as np
import pytest
from scipy import stats

from allora_analysis.claims import ledger
from allora_analysis.claims import s3_1_figure_1_after_epoch_1 as section
from allora_analysis.claims.cases import Cases
from allora_analysis.gradient_std import grid, summary
from allora_analysis.statistics import one_sided
from experiments import gradient_std as experiment
from tests import ledger_rows
from tests.chances import chance_within
from tests.planted_runs import AGAIN, LATER, MAIN, plant

(CLAIM,) = ledger._of(section)
AS_SAID = {"sgd": 0.0, "momentum": 0.0, "adam": 1.0, "adamw": 1.0}
MARGIN = 2 * math.log(1.25)  # of a straight line from epoch 0 to 2, half is from epoch 1


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "RESULTS", tmp_path)
    monkeypatch.setattr(grid, "FIGURE_1", AGAIN)
    return tmp_path


def planted(folder, deviation=0.01, **worst):
    plant(folder, lambda arm: (-1.0, (AS_SAID | worst)[arm.optimizer]), grid=AGAIN, deviation=deviation)
    return ledger_rows.finding(CLAIM)


@pytest.mark.parametrize(
    ("worst", "verdict", "answer"),
    [
        ({}, "holds", "Yes: +65 and +65 % under Adam and AdamW, 0 and 0 % under SGD and momentum."),
        ({"sgd": 0.95 * MARGIN, "momentum": -0.95 * MARGIN}, "holds", "Yes: +65 and +65 %"),
        ({"sgd": MARGIN}, "undecided", "Undecided (SGD): +65, +65 % under Adam, AdamW; +25, 0 % under SGD, momentum."),
        ({"momentum": -MARGIN, "adamw": 0.0}, "undecided", "Undecided (AdamW, momentum): +65, 0 %"),
        ({"sgd": 1.05 * MARGIN}, "refuted", "No: +65 and +65 % under Adam and AdamW, +26 and 0 % under SGD"),
        ({"momentum": -1.05 * MARGIN}, "refuted", "No: "),
        ({"adam": -0.1}, "refuted", "No: -5 and +65 %"),
        ({"adam": -0.1, "sgd": MARGIN}, "refuted", "No: "),
    ],
)
def test_each_optimizer_is_judged_as_the_rule_says(folder, worst, verdict, answer):
    found = planted(folder, **worst)
    assert found.verdict == verdict
    assert found.answer.startswith(answer)
    assert found.evidence.n == 5


def test_a_change_is_within_the_margin_where_its_interval_is():
    """And not where its mean is: thirty seeds of a standard deviation as recorded, around 0 and around 0.15."""
    noise = np.random.default_rng(3).normal(0, 1, 30)
    noise = 0.35 * (noise - noise.mean()) / noise.std(ddof=1)
    half = -one_sided(noise, "t").interval[0]
    assert section.as_said("sgd", noise + section.MARGIN - 1.01 * half)
    assert not section.as_said("sgd", noise + section.MARGIN - 0.99 * half)
    assert section.as_said("adam", noise + 1.01 * half)
    assert not section.as_said("adam", noise + 0.99 * half)
    for optimizer, shift in (("sgd", section.MARGIN + half), ("momentum", -section.MARGIN - half), ("adamw", -half)):
        assert section.p_otherwise(optimizer, noise + shift) == pytest.approx(0.05)


@pytest.mark.parametrize(("quantile", "verdict"), [(0.99 * 0.9875, "undecided"), (1 - 0.99 * 0.0125, "refuted")])
def test_a_refutation_is_by_holm_over_the_four(quantile, verdict):
    """Planted: SGD's mean beyond the margin, alone, with a p-value just above and just below a quarter of 0.05."""
    noise = np.random.default_rng(3).normal(0, 1, 30)
    noise = (noise - noise.mean()) / noise.std(ddof=1) / 30
    changes = {arm: noise + (1.0 if arm.optimizer in section.RISING else 0.0) for arm in MAIN.arms()[:4]}
    sgd = next(arm for arm in changes if arm.optimizer == "sgd")
    changes[sgd] = noise + section.MARGIN + stats.t.ppf(quantile, 29) / 30 / 30**0.5
    assert section.verdict_after_epoch_1(changes) == verdict


def test_earlier_seeds_are_no_part_of_it_and_stand_beside(folder):
    plant(folder, lambda arm: (1.0, -1.0), grid=MAIN)  # a record that is there is kept
    plant(folder, lambda arm: (-1.0, -1.0), grid=LATER)
    found = planted(folder)
    assert (found.verdict, len(found.evidence.measured)) == ("holds", 5)
    before = found.evidence.measured["thirteen seeds before"]
    assert (before["verdict from epoch 1"], before["verdict from epoch 0"]) == ("refuted", "refuted")
    assert before["mnist sgd"]["worst, from epoch 1"]["log_change"] == pytest.approx(-0.5, abs=0.01)


def test_it_leaves_out_what_the_first_epoch_did(folder, monkeypatch):
    """Planted: the change from epoch 0 in its place, with which SGD's leaves the margin."""
    assert planted(folder, sgd=0.95 * MARGIN).verdict == "holds"
    right = summary.changes
    monkeypatch.setattr(summary, "changes", lambda series, first=0: right(series, 0))
    assert ledger_rows.finding(CLAIM).verdict == "refuted"


def test_all_ninety_runs_judge_and_no_fewer(folder):
    assert ledger_rows.finding(CLAIM).answer.startswith("Not run: 0 of 30 runs of fresh seeds are recorded")
    plant(folder, lambda arm: (-1.0, 1.0), grid=AGAIN, seeds=18)
    assert "26 of 30 runs of fresh seeds are recorded" in ledger_rows.finding(CLAIM).answer
    seeds = {name: grid.Grid().again(name) for name in grid.OPTIMIZERS}
    assert seeds["sgd"] == seeds["momentum"] == range(18, 48)
    assert seeds["adam"] == seeds["adamw"] == range(18, 33)
    assert sum(map(len, seeds.values())) == 90


def test_scrambled_signs_leave_no_verdict(folder):
    planted(folder)
    cases = Cases(0, CLAIM.id)
    CLAIM.check(cases, None)
    kept = [cases.judged.scrambled(np.random.default_rng(seed)) == cases.judged.verdict for seed in range(20)]
    assert sum(kept) <= 1


def test_lots_of_seeds_share_none():
    runs = list(AGAIN.runs("mnist"))
    assert len(runs) == len(set(runs)) == 4 * 5 + 4 * 5 + 30
    lots = [AGAIN.lot(seed) for _, seed in runs]
    assert [lots.count(lot) for lot in grid.LOTS] == [20, 20, 30]
    assert [lots.index(lot) for lot in grid.LOTS] == [0, 20, 40]
    assert [(arm.optimizer, seed) for arm, seed in runs[-3:]] == [("momentum", 18), ("sgd", 19), ("momentum", 19)]
    assert not [run for run in AGAIN.runs("cifar10") if AGAIN.lot(run[1]) != "first"]


def test_the_rule_says_its_power_by_what_the_thirteen_seeds_showed():
    """Normal log changes, thirty seeds, the interval within ±log 1.25: where the truth is 0, and what they showed."""
    runs = grid.recorded(lot="fresh")
    words = " ".join(experiment.__doc__.split())
    told = {0.0: [], 1.0: []}
    for optimizer in section.STAYING:
        (arm,) = (one for one in runs if one.optimizer == optimizer)
        changes = section.all_changes(runs, [arm])[section.LATER][arm, section.WORST]
        for share, found in told.items():
            chance = chance_within(section.MARGIN, share * changes.mean(), changes.std(ddof=1), 30)
            found.append(f"{chance:.2f}")
    at_0, as_shown = (" and ".join(found) for found in told.values())
    assert f"with probability {at_0} where the truth is 0, {as_shown} where it is what the thirteen showed" in words


def test_what_the_reading_says_of_single_seeds_is_in_the_committed_records():
    measured = ledger_rows.finding(CLAIM).evidence.measured
    told = " and ".join(
        f"{measured[f'mnist {name}']['seeds within a factor of 1.25']} of {measured[f'mnist {name}']['n']}"
        for name in section.STAYING
    )
    assert f"single seeds lie further apart ({told} are within it)" in CLAIM.reading
    assert all(measured[f"mnist {name}"]["average over entries"]["p_below"] < 0.001 for name in grid.OPTIMIZERS)
