"""Table 1's row: its verdict follows from planted records, and from nothing else."""

from __future__ import annotations

import pytest

from allora_analysis.claims import section_4_commonsense as section
from allora_analysis.finetune import setting as settings
from allora_analysis.grid.presets.commonsense import PRESETS
from tests import ledger_rows
from tests.planted_finetune import plant, wiggle

DESK = PRESETS["desk"]
(CLAIM,) = section.claims()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "RESULTS", tmp_path)
    return tmp_path


def finding():
    return ledger_rows.finding(CLAIM)


def gains(allora, allora_0, on=section.DESK_DATA):
    by_arm = {"allora": allora, "allora_0": allora_0}
    return lambda run: [0.3 + (by_arm[run.arm] + wiggle(run) if run.arm in by_arm and run.data in on else 0.0)]


def test_not_run_without_records_and_says_the_command(folder):
    found = finding()
    assert found.verdict == "not_run"
    assert found.evidence.tolerance_source == "none: 0 of 24 runs are recorded"
    assert CLAIM.command.startswith("python -m experiments.commonsense --source ")


@pytest.mark.parametrize(
    ("allora", "allora_0", "verdict"),
    [(0.02, 0.03, "holds"), (0.02, -0.02, "refuted"), (-0.02, 0.03, "refuted"), (0.02, 0.0002, "undecided")],
)
def test_the_verdict(folder, allora, allora_0, verdict):
    plant(folder, DESK, gains(allora, allora_0))
    found = finding()
    assert found.verdict == verdict
    assert found.evidence.n == 3
    measured = found.evidence.measured
    assert measured["allora over dora"]["difference"] == pytest.approx(allora)
    assert measured["allora_0 over lora, boolq"]["difference"] == pytest.approx(allora_0)
    assert verdict != "undecided" or "seeds" in found.corrected


def test_the_average_is_over_the_tasks(folder):
    plant(folder, DESK, gains(0.02, 0.03, on=("boolq",)))
    measured = finding().evidence.measured
    assert measured["allora over dora"]["difference"] == pytest.approx(0.01)
    assert measured["allora over dora, openbookqa"]["difference"] == pytest.approx(0.0)


def test_an_arm_in_part_does_not_count(folder):
    plant(folder, DESK, gains(0.02, 0.03), skip=lambda run: (run.arm, run.data, run.seed) == ("allora_0", "boolq", 2))
    found = finding()
    assert found.verdict == "undecided"
    assert "1 cases not recorded in full" in found.corrected
    assert "allora_0 over dora" not in found.evidence.measured


@pytest.mark.parametrize("arms", [("allora_0",), section.ARMS])
def test_an_arm_of_which_a_run_diverged_is_named(folder, arms):
    whole = gains(0.02, 0.03)

    def accuracy(run):
        return [None] if (run.arm, run.data, run.seed) in {(arm, "boolq", 2) for arm in arms} else whole(run)

    plant(folder, DESK, accuracy)
    found = finding()
    assert found.verdict == "undecided"
    assert found.corrected.endswith(
        f"a run diverged among the pairs of {', '.join(settings.ARMS[arm] for arm in arms)}"
    )
