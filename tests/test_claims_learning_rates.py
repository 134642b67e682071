"""The rows of each arm at its own best rate: verdicts follow from planted records, and from nothing else."""

from __future__ import annotations

import pytest

from allora_analysis.claims import section_4_learning_rates as section
from allora_analysis.claims.accuracy import LEVEL
from allora_analysis.finetune import setting as settings
from allora_analysis.grid.presets.learning_rates import PRESETS
from allora_analysis.statistics import required_n
from tests import ledger_rows
from tests.planted_finetune import better, plant, wiggle

CLAIMS = {claim.id: claim for claim in section.claims()}
ADAMW = ("all-MiniLM-L6-v2", "adamw")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "RESULTS", tmp_path)
    return tmp_path


def finding(identifier):
    return ledger_rows.finding(CLAIMS[identifier])


@pytest.mark.parametrize("identifier", CLAIMS)
def test_not_run_without_records_and_says_the_command(folder, identifier):
    assert finding(identifier).verdict == "not_run"
    assert CLAIMS[identifier].command.startswith("python -m experiments.learning_rates --only ")


@pytest.mark.parametrize("identifier", CLAIMS)
def test_every_row_reads_its_own_list(folder, identifier):
    """Planted: ALLoRA is better on this row's list, LoRA on the other two."""
    for name, of in section.LISTS.items():
        gain = 0.02 if name == identifier else -0.02
        plant(folder, section.wanted(*of), better(("allora_0", "allora_adamw"), gain))
    assert finding(identifier).verdict == "holds"
    assert all(finding(name).verdict == "refuted" for name in CLAIMS if name != identifier)


def test_the_lists_are_the_preset():
    listed = [run for of in section.LISTS.values() for run in section.wanted(*of)]
    assert sorted(map(repr, listed)) == sorted(map(repr, PRESETS["desk"]))


def test_own_best_rate_is_chosen_on_validation(folder):
    wanted = section.wanted(*ADAMW)
    best = {"lora": 1e-3, "allora_0": 3e-4}

    def accuracy(run):
        at_best = run.learning_rate == best.get(run.arm, 1e-4)
        return [0.7 + 0.1 * at_best + (0.02 + wiggle(run)) * (run.arm.startswith("allora"))]

    plant(folder, wanted, accuracy)
    found = finding("4-own-best-rate")
    assert found.verdict == "holds"
    assert found.evidence.measured["lora"] == {"learning_rate": 1e-3}
    assert found.evidence.measured["best at an end of their range"] == []
    assert found.evidence.measured["allora_0"]["learning_rate"] == 3e-4
    assert found.evidence.measured["allora_0"]["difference"] == pytest.approx(0.02)


def test_own_best_rate_waits_for_every_rate_of_an_arm(folder):
    wanted = section.wanted(*ADAMW)
    plant(folder, wanted, better(("allora_0", "allora_adamw")), skip=lambda run: run.arm == "dora" and run.seed == 2)
    assert "dora" not in finding("4-own-best-rate").evidence.measured
    plant(folder, wanted, better(("allora_0", "allora_adamw")))
    assert "dora" in finding("4-own-best-rate").evidence.measured


def test_a_rate_at_which_a_run_diverged_is_not_the_best(folder):
    wanted = section.wanted(*ADAMW)

    def accuracy(run):
        gone = run.learning_rate == 3e-3 and run.seed == 0
        return [None] if gone else [0.9 if run.learning_rate == 3e-3 else 0.8 + wiggle(run)]

    plant(folder, wanted, accuracy)
    assert finding("4-own-best-rate").evidence.measured["lora"] == {"learning_rate": 3e-5}
    everywhere = folder / "everywhere"
    plant(everywhere, wanted, lambda run: [None] if (run.arm, run.seed) == ("lora", 0) else [0.8 + wiggle(run)])
    found = section.own_best_rate(*ADAMW, everywhere)
    assert found.verdict == "undecided"
    assert "a run diverged among the pairs of ALLoRA-0" in found.corrected


@pytest.mark.parametrize("identifier", CLAIMS)
@pytest.mark.parametrize(("gain", "verdict"), [(0.02, "holds"), (-0.02, "refuted")])
def test_own_best_rate_judges_the_papers_own_layer(folder, identifier, gain, verdict):
    """ALLoRAAdamW, which the paper does not have, goes the other way by as much."""
    model = section.LISTS[identifier]

    def accuracy(run):
        of = {"allora_0": gain, "allora_adamw": -gain}.get(run.arm, 0.0)
        return [0.8 + of + wiggle(run) * (run.arm != "lora")]

    plant(folder, section.wanted(*model), accuracy)
    assert finding(identifier).verdict == verdict


def test_own_best_rate_waits_for_lora_and_allora_alone(folder):
    wanted = section.wanted(*ADAMW)
    plant(folder, wanted, better(("allora_0",)), skip=lambda run: run.arm not in ("lora", "allora_0"))
    found = finding("4-own-best-rate")
    assert found.evidence.measured["allora_0"]["difference"] == pytest.approx(0.02)
    assert found.verdict == "holds"
    for name, without in (("others", "allora_0"), ("judge", "lora")):
        plant(folder / name, wanted, better(()), skip=lambda run, arm=without: run.arm == arm)
        assert section.own_best_rate(*ADAMW, folder / name).verdict == "not_run"


def test_arms_that_are_missing_belong_to_the_family(folder):
    wanted = section.wanted(*ADAMW)
    plant(folder, wanted, better(("allora_0",)))
    whole = finding("4-own-best-rate").evidence.measured["allora_0"]["adjusted_p_value"]
    alone = folder / "alone"
    plant(alone, wanted, better(("allora_0",)), skip=lambda run: run.arm not in ("lora", "allora_0"))
    found = section.own_best_rate(*ADAMW, alone).evidence.measured["allora_0"]["adjusted_p_value"]
    assert found == pytest.approx(whole)


def test_half_a_point_is_asked_of_the_whole_family(folder):
    """Planted: no difference at all; Holm's family has every arm but LoRA, recorded or not."""
    arms = {run.arm for run in section.wanted(*ADAMW)} - {"lora"}
    plant(
        folder,
        section.wanted(*ADAMW),
        lambda run: [0.8 + (run.arm == "allora_0") * 0.02 * (run.seed - 1)],
        skip=lambda run: run.arm not in ("lora", "allora_0"),
    )
    needed, alone = (required_n(0.005, 0.02, level=LEVEL / n) for n in (len(arms), 1))
    assert needed > alone
    assert f"half a point would need {needed} seeds" in finding("4-own-best-rate").corrected


@pytest.mark.parametrize("rate", [3e-5, 1e-2])
def test_a_best_rate_at_an_end_of_the_range_is_told(folder, rate):
    def accuracy(run):
        best = rate if run.arm == "lora" else 3e-4
        return [0.7 + 0.1 * (run.learning_rate == best) + wiggle(run) * (run.seed == 1)]

    plant(folder, section.wanted(*ADAMW), accuracy)
    found = finding("4-own-best-rate")
    assert found.verdict == "undecided"
    assert found.evidence.measured["best at an end of their range"] == ["lora"]
    assert found.corrected.endswith("best at an end of their range, so that better may lie beyond: LoRA")
