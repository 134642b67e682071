"""§5.1's conjecture after few steps: the verdict follows from a planted table, and from nothing else."""

import numpy as np
import pytest
from scipy import stats

from allora_analysis.claims import s4_4_our_runs as our_runs
from allora_analysis.claims import s5_1_early_steps as section
from allora_analysis.laboratory.one_rate import EARLY, EARLY_SEEDS, early, lora, points
from allora_analysis.laboratory.table import Row
from tests.ledger_rows import as_is, finding
from tests.planted_one_rate import ALL, IMAGES, planted

SEEDS = len(EARLY_SEEDS)


def table_of(gain, spread=0.005, seeds=SEEDS, case=lambda point: True, whole=0.8):
    """ALLoRA is `gain` above ALLoRA-OD on average in the runs of few steps of the cases named; level in the others."""
    table = planted(lambda point: whole, ALL)
    draws = np.random.default_rng(3).normal(0.0, spread, seeds)
    for point in early():
        ours = point.cell.rule == "allora"
        shares = 0.7 + ours * (gain * case(point) + draws - draws.mean())
        right = tuple(int(one) for one in np.rint(IMAGES * shares))
        losses = tuple(float(1 - share) for share in shares)
        table.rows[point.cell][point.rate(table), EARLY_SEEDS[0], seeds] = Row(losses, right, losses)
    return table


HALF = 0.005 * stats.t.ppf(0.95, SEEDS - 1) / SEEDS**0.5  # of the planted interval, but for the draws' own spread


@pytest.mark.parametrize(
    ("gain", "verdict", "begins"),
    [
        (0.01, "holds", "Yes, on digits: +1.00 points (0.9"),
        (1.3 * HALF, "holds", "Yes, on digits, by little: +0.0"),
        (0.0, "refuted", "No, on digits: 0.00 points (-0.0"),
        (-0.01, "refuted", "No, on digits: -1.00 points (-1.0"),
    ],
)
def test_a_lead_of_any_size_is_one_and_less_than_a_tenth_either_way_is_none(monkeypatch, gain, verdict, begins):
    monkeypatch.setattr(section, "recorded", lambda folder: table_of(gain))
    found = finding(section.early_steps)
    assert (found.verdict, found.evidence.n) == (verdict, SEEDS)
    assert found.answer.startswith(begins)
    assert found.answer.endswith(f" after {EARLY} steps, 0.00 after 100.")
    assert found.size.value == pytest.approx(100 * gain, abs=0.01)
    assert found.evidence.interval == (found.size.low, found.size.high)


@pytest.mark.parametrize(
    ("mean", "half", "verdict"),
    [
        (0.05, 0.0499, "holds"),
        (0.05, 0.0501, "undecided"),
        (0.049, 0.0501, "refuted"),
        (0.0, 0.0999, "refuted"),
        (0.0, 0.1001, "undecided"),
        (-0.06, 0.0599, "refuted"),
        (-0.06, 0.0601, "undecided"),
    ],
)
def test_the_verdict_turns_where_an_end_of_the_interval_meets_0_or_a_tenth(mean, half, verdict):
    values = np.random.default_rng(0).normal(size=SEEDS)
    values = (values - values.mean()) / values.std(ddof=1)
    scale = half / stats.t.ppf(0.95, SEEDS - 1) * SEEDS**0.5
    assert section.ahead(mean + scale * values) == verdict


def test_the_mean_over_cases_decides(monkeypatch):
    """Planted: behind under SGD by half of what it is ahead under AdamW, and the reverse."""
    for sign, verdict in ((1, "holds"), (-1, "refuted")):
        table = table_of(0.0)
        other = table_of(0.02 * sign, case=lambda point: point.optimizer == "adamw")
        behind = table_of(-0.01 * sign, case=lambda point: point.optimizer == "sgd")
        for point in early():
            source = other if point.optimizer == "adamw" else behind
            table.rows[point.cell] = source.rows[point.cell]
        monkeypatch.setattr(section, "recorded", lambda folder, table=table: table)
        found = finding(section.early_steps)
        assert found.verdict == verdict
        assert found.size.value == pytest.approx(0.5 * sign, abs=0.01)


def test_it_waits_for_every_seed_of_every_case(monkeypatch):
    monkeypatch.setattr(section, "recorded", lambda folder: table_of(0.01, seeds=SEEDS - 1))
    assert finding(section.early_steps).verdict == "not_run"
    monkeypatch.setattr(section, "recorded", lambda folder: None)
    assert finding(section.early_steps).verdict == "not_run"


def test_the_runs_are_short_fresh_and_at_the_other_runs_rate():
    table = planted(lambda point: 0.8, ALL)
    rates = {point.optimizer: point.rate(table) for point in points() if point.cell == lora(point.optimizer)}
    assert {(point.cell.steps, point.cell.rule) for point in early()} == {(EARLY, "allora"), (EARLY, "allora_od")}
    assert not {point.cell for point in early()} & {point.cell for point in points()}
    for point in early():
        assert point.rate(table) == pytest.approx(table.best_rate(lora(point.optimizer)) / 4)
    assert len(rates) == 2


def test_what_the_reading_says_of_whole_runs_and_of_the_language_model_is_what_is_recorded():
    early = as_is(section.early_steps)[1]
    late = early.evidence.measured["after 100 steps, points"]["mean"]["mean"]
    assert early.verdict == "holds"
    assert early.size.value < late, "no larger early than after a whole run"
    told = as_is(our_runs.table_4)[1].evidence.measured["over ALLoRA-OD after the first epoch"]["mean"]
    mean, low, high = (100 * value for value in (told["mean"], *told["interval"]))
    assert f"{mean:+.2f} points" in section.early_steps.reading
    assert "(-0.07 to 0.16; evidence of 4-table-4-desk)" in section.early_steps.reading
    assert -0.07 < low < -0.06
    assert 0.15 < high < 0.16
    assert told["verdict"] == "undecided"
