"""Rates that are shifted from one ten of seeds to the next: where they lie, who chooses among them, what for."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from allora_analysis.laboratory import table as tables
from allora_analysis.laboratory.bench import Bench
from allora_analysis.laboratory.design import MANY, SHIFTED_BY, SHIFTS, STEPS, Cell, elsewhere, fresh_seeds, tuned_as
from allora_analysis.laboratory.table import Row, Table
from experiments import laboratory

SHIFTED = Cell("lora", "sgd", shifted=True)
SEEDS = range(60, 180)


def begun(*best: tuple[Cell, float]) -> Table:
    """A table in which only tuning seeds have run, of cells without shifts."""
    table = Table(tables.header("toy", "0", 5, 1000))
    for cell, rate in best:
        for factor in (0.1, 1.0, 10.0):
            row = Row((1.0 + abs(math.log(factor)),) * 5, (0,) * 5, (1.0,) * 5)
            table.rows[tuned_as(cell)][rate * factor, 1000, 5] = row
    return table


def test_shifts_lie_evenly_around_the_tuned_rate_of_the_same_cell_without():
    assert sum(SHIFTS) == pytest.approx(0.0)
    assert np.diff([*SHIFTS, 1 + SHIFTS[0]]) == pytest.approx(np.full(6, 1 / 6))
    grids = begun((SHIFTED, 0.1)).grids(SHIFTED, fine=True)
    assert [len(rates) for rates in grids] == [9] * 6
    whole = np.log10(sorted(itertools.chain(*grids)))
    assert np.diff(whole) == pytest.approx(np.full(53, 1 / 48), abs=0.005)  # rates have three digits
    assert whole.mean() == pytest.approx(-1.0, abs=1e-3)
    for rates, shift in zip(grids, SHIFTS, strict=True):
        assert np.log10(rates) == pytest.approx(-1 + (np.arange(-4, 5) + shift) / 8, abs=0.003)


def test_without_shifts_there_is_one_grid_of_rates_that_tuned_the_cell():
    cell = tuned_as(SHIFTED)
    table = begun((cell, 0.1))
    assert table.grids(cell, fine=True) == (table.candidates(cell, fine=True),)
    assert len(table.candidates(cell, fine=True)) == 9
    assert Table(tables.header("toy", "0", 5, 1000)).candidates(cell) == ()


def test_a_seed_is_known_when_it_has_run_at_all_rates_of_its_own_ten():
    table = begun((SHIFTED, 0.1))
    grids = table.grids(SHIFTED, fine=True)
    for tens in (0, 1):
        for place, rate in enumerate(grids[tens]):
            losses = (0.1 if place == 4 + tens else 0.5,) * 10
            table.rows[SHIFTED][rate, 60 + 10 * tens, 10] = Row(losses, (800 + place,) * 10, (0.2,) * 10)
    first, second = range(60, 70), range(70, 80)
    assert table.values(SHIFTED, "accuracy", fine=True) == dict.fromkeys(first, 0.804) | dict.fromkeys(second, 0.805)
    del table.rows[SHIFTED][grids[1][0], 70, 10]
    assert table.values(SHIFTED, "accuracy", fine=True) == dict.fromkeys(first, 0.804)
    assert table.at_one_rate(SHIFTED, "accuracy", first, fine=True) == {}


def test_a_seed_does_not_choose_among_another_ten_s_rates():
    """Planted: the first ten have run at all rates of the second, too, at which they would be better."""
    table = begun((SHIFTED, 0.1))
    own, other = table.grids(SHIFTED, fine=True)[:2]
    for rates, best, right in ((own, 0.5, 800), (other, 0.1, 900)):
        for place, rate in enumerate(rates):
            loss = best if place == 4 else 0.9
            table.rows[SHIFTED][rate, 60, 10] = Row((loss,) * 10, (right,) * 10, (0.2,) * 10)
    assert table.values(SHIFTED, "accuracy", fine=True) == dict.fromkeys(range(60, 70), 0.8)


def test_an_end_that_seeds_of_any_shift_choose_is_widened_for_all():
    table = begun((SHIFTED, 0.1))
    grids = table.grids(SHIFTED, fine=True)

    def best_at(place, tens):
        for own, rate in enumerate(grids[tens]):
            losses = (0.1 if own == place else 0.5,) * 10
            table.rows[SHIFTED][rate, 60 + 10 * tens, 10] = Row(losses, (800,) * 10, (0.2,) * 10)

    for tens in range(5):
        best_at(4, tens)
    assert table.grids(SHIFTED, fine=True) == grids
    best_at(8, 5)
    wider = table.grids(SHIFTED, fine=True)
    assert [len(rates) for rates in wider] == [11] * 6
    assert all(new[:9] == old for new, old in zip(wider, grids, strict=True))
    best_at(0, 4)
    assert [rates[2:] for rates in table.grids(SHIFTED, fine=True)] == [*wider]


def test_the_command_runs_each_ten_of_seeds_at_its_own_rates():
    table, asked = begun((SHIFTED, 0.1)), []

    class Counted(Bench):
        def __init__(self, table):
            self.table = table

        def tune(self, cell):
            return self.table.best_rate(cell)

        def ask(self, cell, rate, seeds):
            asked.append((rate, seeds))
            n = len(seeds)
            loss = 0.1 + abs(math.log10(rate / 0.1))
            self.table.rows[cell][rate, seeds.start, n] = Row((loss,) * n, (800,) * n, (0.2,) * n)

    chunks = [range(start, start + SHIFTED_BY) for start in range(60, 180, 10)]
    Counted(table).judge(SHIFTED, chunks, fine=True)
    grids = table.grids(SHIFTED, fine=True)
    assert {(rate, seeds) for rate, seeds in asked} == {
        (rate, seeds) for k, seeds in enumerate(chunks) for rate in grids[k % 6]
    }
    assert len(table.values(SHIFTED, "accuracy", fine=True)) == 120


def test_the_list_has_the_seeds_that_its_rule_names():
    lists = laboratory._chosen(laboratory.Arguments(part="lead-shifted"))
    assert [(len(one.cells), one.seeds, one.fine) for one in lists] == [
        (12, SEEDS, True),
        (12, range(60, 120), True),
        (6, range(200, 500), True),
    ]
    assert [one.chunk for one in lists] == [SHIFTED_BY] * 3
    (again,) = {fresh_seeds(one) for one in elsewhere("rule", shifted=True) if one.first.steps == 50}
    assert again == range(200, 500)
    assert not any(map(fresh_seeds, (*elsewhere("rule"), *elsewhere("control", shifted=True))))
    pairs = [one for question in ("rule", "control") for one in elsewhere(question, shifted=True)]
    assert all(one.fine and one.first.shifted and one.second.shifted for one in pairs)
    by_steps = {steps: {one.seeds for one in pairs if one.first.steps == steps} for steps in STEPS}
    assert by_steps == {50: {120}, MANY: {60}}
    named = [(one.name, tuned_as(one.first), tuned_as(one.second)) for one in pairs]
    first = [one for question in ("rule", "control") for one in elsewhere(question)]
    assert named == [(one.name, one.first, one.second) for one in first]
    assert dataclasses.replace(SHIFTED, shifted=False) == tuned_as(SHIFTED)
    assert SHIFTED.words() == "lora, sgd, 50 steps, rates shifted"


def two_names(shifted: bool, apart: float) -> np.ndarray:
    """Two names of one arm, by seed, whose tuned rates are so many eighths of a decade apart for the arm.

    Planted: accuracy rises with the rate to a cliff at 0.19, which the seeds move by 5 %.
    """
    cliffs = 0.19 * np.exp(np.random.default_rng(0).normal(0, 0.05, 120))
    own = Cell("lora", "sgd", shifted=shifted)
    other = Cell("allora", "sgd", 50, 0.0, "constant", 4.0, shifted=shifted)
    table = begun((own, 0.18), (other, 0.18 / 2 * 10 ** (apart / 8)))
    for cell, factor in ((own, 1.0), (other, 2.0)):
        grids = table.grids(cell, fine=True)
        for k, start in enumerate(range(60, 180, 10)):
            for rate in grids[k % len(grids)]:
                of = factor * rate / cliffs[start - 60 : start - 50]
                right = np.where(of < 1, 900 + 100 * np.log10(of), 200)
                table.rows[cell][rate, start, 10] = Row(tuple(1 - right / 1000), tuple(map(int, right)), (0.2,) * 10)
    return np.array([*table.by_seed(other, own, "accuracy", True).values()])


def test_two_names_of_one_arm_agree_where_rates_are_shifted():
    """Where all seeds share a grid they differ by several standard errors, by where the two grids lie."""
    errors = {shifted: [] for shifted in (False, True)}
    for shifted, apart in itertools.product((False, True), (0.25, 0.5, 0.75)):
        gaps = two_names(shifted, apart)
        assert len(gaps) == 120
        errors[shifted].append(abs(gaps.mean()) / (gaps.std(ddof=1) / 120**0.5))
    assert max(errors[False]) > 5
    assert max(errors[True]) < 2.6
