"""The rows that read fine-tuning runs: verdicts follow from planted records, and from nothing else."""

from __future__ import annotations

import pytest

from allora_analysis.claims import section_4_fine_tuning as section
from allora_analysis.finetune import setting as settings
from allora_analysis.grid.presets import ablation, perception
from tests import ledger_rows
from tests.planted_finetune import better, plant, wiggle

CLAIMS = {claim.id: claim for claim in section.claims()}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "RESULTS", tmp_path)
    return tmp_path


def finding(identifier):
    return ledger_rows.finding(CLAIMS[identifier])


@pytest.mark.parametrize("identifier", CLAIMS)
def test_not_run_without_records_and_says_the_command(folder, identifier):
    assert finding(identifier).verdict == "not_run"
    assert CLAIMS[identifier].command.startswith("python -m experiments.")


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


def test_what_stands_beside_table_3_is_a_family_of_its_own_recorded_or_not(folder):
    """Planted: the data sets one after the other; Holm's correction is over both from the start."""
    plant(folder / "both", perception.PRESETS["desk"], better(("allora",)))
    plant(folder / "one", perception.PRESETS["desk"], better(("allora",)), skip=lambda run: run.data == "emotion")
    whole, part = (section.table_3(folder / name).evidence.measured for name in ("both", "one"))
    case, beside = "rotten_tomatoes, η² = 4", "classifier at l_b in both"
    assert set(part[beside]) < set(whole[beside])
    assert part[beside][case]["adjusted_p_value"] == pytest.approx(whole[beside][case]["adjusted_p_value"])


def test_table_4(folder):
    both = [*perception.PRESETS["desk"], *ablation.PRESETS["desk"]]
    plant(
        folder, both, lambda run: [0.9 if run.arm == "asf_lora" else 0.8 + (0.02 + wiggle(run)) * (run.arm == "allora")]
    )
    found = finding("4-table-4-desk")
    assert found.verdict == "refuted"
    assert "over asf_lora, emotion, η² = 1" in found.corrected
    assert found.evidence.measured["over lora_x_eta, emotion, η² = 1"]["difference"] == pytest.approx(0.02)
    assert len(found.evidence.measured) == 18 + 1


# -- runs that diverged


def test_a_run_that_diverged_after_an_evaluation_is_no_finished_run(folder):
    """Planted: LoRA is ahead after its first epoch and diverges in its second; ALLoRA ends."""
    plant(folder, perception.PRESETS["desk"], lambda run: [0.8, None] if run.arm == "lora" else [0.7, 0.75])
    found = finding("4-table-3-desk")
    assert found.verdict == "undecided"
    assert found.corrected.startswith("a run diverged among the pairs of rotten_tomatoes, η² = 1, ")
    assert not any("η²" in case for case in found.evidence.measured)
