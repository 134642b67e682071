"""The ledger's rows on width and rank: their verdicts follow from training and from records."""

import math

import numpy as np
import pytest

from allora_analysis.claims import s4_2_convergence_and_width as section
from allora_analysis.claims.cases import Cases
from allora_analysis.grid.presets import LISTS
from allora_analysis.width.exponents import Exponents, Power
from tests import ledger_rows, planted_finetune


def verdict(claim):
    return ledger_rows.finding(claim).verdict


@pytest.fixture(scope="module")
def trained():
    """What is trained in place of `fall` and `slope`, which no planted power changes: every case once."""

    def once(train):
        known = {}
        return lambda one, rng: known[one] if one in known else known.setdefault(one, train(one, rng))

    return {name: once(getattr(section, name)) for name in ("fall", "slope")}


@pytest.mark.parametrize("power", [Power(0.0, 0.0), Power(-0.5, 0.0), Power(-0.25, -0.25)], ids=str)
def test_planted_powers_are_refuted(monkeypatch, trained, power):
    """Rows that keep their length, that shrink at LoRA+'s rates too; one power for every rate."""
    for name, train in trained.items():
        monkeypatch.setattr(section, name, train)
    monkeypatch.setattr(section, "exponents", lambda *_, **__: Exponents(power, power, power))
    assert verdict(section.factor_at_width) == "refuted"
    assert verdict(section.transfer) == "refuted"


def test_which_rates_stay(monkeypatch, trained):
    """The answer's words, case by case: LoRA+'s over width, under Adam; ALLoRA's over rank, of many directions."""
    monkeypatch.setattr(section, "slope", trained["slope"])
    cases = Cases(0, section.transfer.id)
    section.transfer.check(cases)
    stays = [case.inputs for case in cases.judged.cases if cases.judged.printed[case.name]]
    assert [one[:2] for one in stays if one.axis == "width"] == [("loraplus", "adam")]
    assert [one.method for one in stays if one.many] == ["allora", "allora_adamw"]


def test_the_limits_boundary_is_not_that_of_these_widths(monkeypatch, trained):
    """Planted: ρ ≥ ½, which ρ = 0.45 contradicts from n = 128 to 2,048."""
    monkeypatch.setattr(section, "fall", trained["fall"])
    told = section.Scaling.told.fget
    monkeypatch.setattr(section.Scaling, "told", property(lambda one: told(one) * section.REACHED / section.HALF))
    assert verdict(section.factor_at_width) == "refuted"


@pytest.mark.parametrize(("optimizer", "low", "high"), [("adam", 0.25, 0.43), ("sgd", 0.5, 0.85)])
def test_on_either_side_of_the_boundary(optimizer, low, high):
    """The boundary is at ρ = 0.34 and 0.68."""
    below, above = (section.fall(section.Scaling(one, optimizer), np.random.default_rng(1)) for one in (low, high))
    assert 0.4 < below < section.HALF < above < 0.62


def test_a_factor_that_keeps_falling_would_hold(monkeypatch):
    monkeypatch.setattr(section, "fall", lambda one, rng: 0.9)
    assert verdict(section.factor_at_width) == "holds"


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (lambda one: section.FIRST[one.arm], "holds"),
        (lambda one: 1.0, "refuted"),  # ALLoRAAdamW's rows no longer than LoRA's
        (lambda one: section.FIRST[one.arm] * (1 if "MiniLM" in one.model else 1.1), "refuted"),  # longer in one model
    ],
)
def test_the_first_rows_are_judged_by_the_records(runs_folder, length, expected):
    runs = [one for one in LISTS["row_norms"]["desk"] if one.optimizer == "adamw"]

    def norms(one):  # over layers the average is twice as much
        return length(one) * one.learning_rate * math.sqrt(one.rank / 3) / 2

    planted_finetune.plant(runs_folder, runs, lambda run: [0.5], norms)
    assert verdict(section.first_step) == expected


def test_not_run_without_records(runs_folder):
    assert verdict(section.first_step) == "not_run"
