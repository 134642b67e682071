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


@pytest.mark.parametrize(
    ("optimizer", "ratio", "power"), [("adam", 0.0, 1 / 4), ("sgd", 0.0, 1 / 4), ("sgd", 1.0, 1 / 8)]
)
def test_an_eta_that_grows_so_keeps_the_fall(optimizer, ratio, power):
    """The condition's powers, (1 − ρ)/4 under Adam and (2 − ρ)/8 under SGD: at 16 times the width the fall is as large.

    With one η it is not; nor, under SGD at ρ = 1, with Adam's power, 0.
    """
    assert power == -section.exponents(section.Method(0, ratio, "gradient"), optimizer).row_norm.width / 2
    rng, method, falls = np.random.default_rng(0), section.Method(0, ratio, "gradient"), []
    for n in section.WIDTHS:
        layers = section.width.layer(n, section.RANK, 8, rng)
        rates = section.width.largest_rate(layers, method, optimizer) / 2
        for eta in (2.0, 2.0 * (n / section.WIDTHS[0]) ** power):  # η multiplies SGD's rate
            slower = rates * 2 / eta if optimizer == "sgd" else rates
            norms = section.width.train(layers, method, optimizer, slower, section.STEPS[optimizer], eta).norms
            falls.append(float(np.mean(1 - (1 + eta**2 * norms) ** -0.5)))
    first, _, with_one, grown = falls
    assert with_one < 0.7 * first
    assert 0.85 * first < grown < 1.15 * first


def test_a_factor_that_keeps_falling_would_hold(monkeypatch):
    monkeypatch.setattr(section, "fall", lambda one, rng: 0.9)
    assert verdict(section.factor_at_width) == "holds"


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (lambda one: section.times(one), "holds"),
        (lambda one: section.times(one) if one.arm != "loraplus" else 1.0, "refuted"),  # B at A's rate
        (lambda one: 1.0, "refuted"),  # ALLoRAAdamW's rows no longer than LoRA's
        (lambda one: section.times(one) * (1 if "MiniLM" in one.model else 1.1), "refuted"),  # longer in one model
    ],
)
def test_the_first_rows_are_judged_by_the_records(runs_folder, length, expected):
    every = [one for name in ("row_norms", "learning_rates") for one in LISTS[name]["desk"]]
    runs = [one for one in every if one.optimizer == "adamw" and one.seed == 0]

    def norms(one):  # over layers the average is twice as much
        return length(one) * one.learning_rate * math.sqrt(one.rank / 3) / 2

    planted_finetune.plant(runs_folder, runs, lambda run: [0.5], norms)
    assert verdict(section.first_step) == expected


def test_not_run_without_records(runs_folder):
    assert verdict(section.first_step) == "not_run"
