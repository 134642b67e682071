"""The reported numbers' arithmetic, tests and rows: against enumeration, other libraries and planted errors."""

import dataclasses
import itertools
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis.claims.tables import accuracies, contrasts, reported, study, table_1
from allora_analysis.validation import ArgumentError
from tests.brute_force import llama_parameters

# ---- rounding


def comparison(printed, recomputed, half="0.05", inputs="0.05"):
    return reported.Comparison("here", "there", *(Decimal(x) for x in (printed, recomputed, half, inputs)))


@pytest.mark.parametrize(
    ("printed", "recomputed", "agrees", "explained"),
    [
        ("77.5", "77.4625", True, True),
        ("77.5", "77.45", True, True),  # a tie rounds either way
        ("85.8", "85.7375", False, True),
        ("85.8", "85.7", False, True),  # the last that rounding can do
        ("85.8", "85.6999", False, False),
    ],
)
def test_agreement_and_explanation(printed, recomputed, agrees, explained):
    item = comparison(printed, recomputed)
    assert (item.agrees, item.explained) == (agrees, explained)
    assert item.difference == Decimal(printed) - Decimal(recomputed)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=9), st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_true_values_are_always_explained(thousandths, shift):
    """Round true values and their mean to one decimal: rounding must explain what the rounded inputs give."""
    true = [Fraction(100 * t + shift, 10_000) for t in thousandths]
    printed = [float(round(float(value), 1)) for value in true]
    average = float(round(float(sum(true) / len(true)), 1))
    item = reported.Comparison(
        "", "", reported.exact(average), reported.mean(printed), reported.half_unit(1), reported.half_unit(1)
    )
    assert item.explained


# ---- averages and gaps


def test_averages_against_floats():
    for item, row in zip(reported.table_1_averages(), reported.TABLE_1, strict=True):
        assert float(item.recomputed) == pytest.approx(np.mean(row.accuracies), abs=1e-12)
        assert float(item.printed) == row.average


def test_panel_cells_against_a_double_loop():
    panels = (*reported.FIGURE_3, *reported.FIGURE_4)
    expected = []
    for panel in panels:
        cells = reported.TABLE_3 if "3" in panel.name else reported.TABLE_4
        for row in panel.rows:
            for eta in (1.0, 2.0, 4.0):
                better, worse = (
                    next(
                        cell.accuracy
                        for cell in cells
                        if (cell.model, cell.dataset, cell.eta_squared, cell.arm) == (row.model, row.dataset, eta, arm)
                    )
                    for arm in (panel.minuend, panel.subtrahend)
                )
                expected.append(better - worse)
    found = [float(item.recomputed) for panel in panels for item in reported.panel_cells(panel)]
    assert len(found) == 2 * 27 + 4 * 18
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_panel_averages_against_numpy():
    for panel in (*reported.FIGURE_3, *reported.FIGURE_4):
        values = np.array([row.gaps for row in panel.rows])
        expected = [*values.mean(axis=1)]
        if panel.column_averages is not None:
            expected += [*values.mean(axis=0), values.mean()]
        found = [float(item.recomputed) for item in reported.panel_averages(panel)]
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_every_disagreement_beyond_rounding():
    beyond = {row.where: (row.printed, row.recomputed) for row in reported.disagreements(explained=False)}
    figure = {where: pair for where, pair in beyond.items() if where.startswith("Figure")}
    assert figure == {
        "Figure 3 left, Snowflake-Arctic-L, yelp, η² = 4": (0.14, -0.15),
        "Figure 3 right, Snowflake-Arctic-L, yelp, η² = 4": (0.0, 0.15),
    }
    assert len(beyond) == 8
    assert all("# Params %" in where for where in beyond.keys() - figure.keys())
    everything = reported.disagreements()
    assert {row.where for row in everything} > beyond.keys()
    assert sum(row.explained_by_rounding for row in everything) == len(everything) - 8


def test_a_planted_error_is_listed():
    row = reported.TABLE_1[0]
    wrong = dataclasses.replace(row, average=row.average + 0.2)
    (found,) = reported.disagreements_among(reported.table_1_averages((wrong,)))
    assert not found.explained_by_rounding
    assert (found.printed, found.recomputed) == (77.7, 77.4625)


def test_exchange_is_an_involution_and_mends_figure_3():
    once = reported.with_exchanged()
    assert reported.with_exchanged(once) == reported.TABLE_3
    assert sum(a != b for a, b in zip(once, reported.TABLE_3, strict=True)) == 2
    for panel in reported.FIGURE_3:
        assert not all(item.explained for item in reported.panel_cells(panel))
        assert all(item.explained for item in reported.panel_cells(panel, once))


# ---- parameters


@pytest.mark.parametrize("model", list(llama_parameters.SIZES))
def test_parameters_against_models_in_torch(model):
    sizes, architecture = llama_parameters.SIZES[model], reported.ARCHITECTURES[model]
    assert reported.pretrained_parameters(architecture) == llama_parameters.pretrained(sizes)
    for rank, method in itertools.product((16, 32), ("LoRA", "DoRA")):
        expected = llama_parameters.trainable(sizes, rank, method == "DoRA")
        assert reported.trainable_parameters(architecture, rank, method) == expected


def test_known_sizes():
    """The published totals: 6.74 and 8.03 billion."""
    counts = [reported.pretrained_parameters(reported.ARCHITECTURES[m]) for m in ("LLaMA-7B", "LLaMA3-8B")]
    assert counts == [6_738_415_616, 8_030_261_248]


def test_percent_conventions():
    architecture = reported.ARCHITECTURES["LLaMA3-8B"]
    trainable, base = reported.trainable_parameters(architecture, 32, "LoRA"), 8_030_261_248
    of_base, of_all = (reported.trainable_percent(architecture, 32, "LoRA", d) for d in reported.DENOMINATORS)
    assert of_base == pytest.approx(100 * trainable / base, rel=1e-14)
    assert 1 / of_all - 1 / of_base == pytest.approx(0.01, rel=1e-9)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda a: reported.trainable_parameters(a, 0, "LoRA"), "rank must be"),
        (lambda a: reported.trainable_parameters(a, 2000, "LoRA"), "rank must be at most"),
        (lambda a: reported.trainable_parameters(a, 8, "PiSSA"), "method must be one of"),
        (lambda a: reported.trainable_parameters(a, 8, "LoRA", ("q",)), "modules must be one of"),
        (lambda a: reported.trainable_percent(a, 8, "LoRA", "none"), "denominator must be one of"),
        (lambda a: accuracies.reachable(50.0, 2, 0), "answers must be"),
        (lambda a: accuracies.reachable(float("nan"), 2, 5), "percent must be"),
        (lambda a: accuracies.reachable(50.0, -1, 5), "decimals must be"),
        (lambda a: accuracies.ways(50.0, 2, 1066, 7), "runs: .* must be below"),
        (lambda a: accuracies.ways(50.0, 2, 0, 5), "examples must be"),
        (lambda a: accuracies.restored_gaps("rotten_tomatoes", 0), "runs must be"),
        (lambda a: contrasts.gaps("Table 2", "LoRA", "DoRA"), "table must be one of"),
        (lambda a: contrasts.gaps("Table 3", "DoRA", "LoRA"), "better must be one of"),
        (lambda a: contrasts.gaps("Table 1", "ALLoRA", "LoRA"), "worse must be one of"),
        (lambda a: study.seeds_needed(0.3, (0.0,)), "standard_deviations must be"),
        (lambda a: study.seeds_needed(0.3, ()), "at least one"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ArgumentError, match=words):
        call(reported.ARCHITECTURES["LLaMA3-8B"])


# ---- granularity


@pytest.mark.parametrize(("answers", "decimals"), [(1, 0), (7, 1), (53, 1), (160, 1), (533, 1)])
def test_reachable_against_every_k(answers, decimals):
    unit = 10**decimals
    expected = np.zeros(100 * unit + 1, dtype=bool)
    for k in range(answers + 1):
        exactly = Fraction(100 * k * unit, answers)
        for step in (int(exactly), int(exactly) + 1):
            expected[step : step + 1] |= abs(step - exactly) <= Fraction(1, 2)
    found = [accuracies.reachable(step / unit, decimals, answers) for step in range(100 * unit + 1)]
    assert found == expected.tolist()
    assert accuracies.reachable_share(decimals, answers) == pytest.approx(expected.mean(), abs=1e-15)


@given(st.integers(1, 10_000), st.data())
@settings(deadline=None, max_examples=60)
def test_true_accuracies_are_reachable_and_restored(answers, data):
    k = data.draw(st.integers(0, answers))
    printed = round(100 * k / answers, 2)
    assert accuracies.reachable(printed, 2, answers)
    if answers < 5_000:  # then neighbors are further apart than the printed digits blur
        assert accuracies.restored(printed, answers) == Fraction(100 * k, answers)


@pytest.mark.parametrize(("examples", "runs", "decimals"), [(1, 2, 0), (7, 3, 1), (13, 2, 1), (17, 3, 0), (53, 2, 1)])
def test_ways_against_every_tuple(examples, runs, decimals):
    """Each run noted first: all tuples one by one, ties of a run upwards and of the mean to both sides."""
    unit = 10**decimals
    noted = [int(Fraction(100 * k * unit, examples) + Fraction(1, 2)) for k in range(examples + 1)]
    expected = np.zeros(100 * unit + 1, dtype=int)
    for those in itertools.product(noted, repeat=runs):
        mean = Fraction(sum(those), runs)
        for step in {int(mean), int(mean) + 1}:
            expected[step : step + 1] += abs(step - mean) <= Fraction(1, 2)
    found = [accuracies.ways(step / unit, decimals, examples, runs) for step in range(100 * unit + 1)]
    assert found == expected.tolist()


def test_runs_noted_first_give_a_mean_that_unrounded_ones_do_not():
    right = (823, 831, 831, 831, 852)
    noted = [round(100 * k / 1066, 2) for k in right]
    assert noted == [77.2, 77.95, 77.95, 77.95, 79.92]
    assert round(sum(noted) / 5, 2) == 78.19
    assert not accuracies.reachable(78.19, 2, 5 * 1066)
    assert accuracies.ways(78.19, 2, 1066, 5) > 0
    assert accuracies.ways(30.46, 2, 1066, 5) == 0
    assert accuracies.frequency(78.19, 2, 1066, 5) < 1e-5
    assert accuracies.frequency(78.20, 2, 1066, 5) > 1
    # An allowance of half a digit for it, instead of the count, no number could fail.
    assert 100 / (5 * 1066) < 0.02
    assert accuracies.reachable_share(2, 5 * 2000) == 1.0  # the other test sets cannot tell


def test_distinct_cells_are_distinct_runs():
    cells = accuracies.distinct_cells("rotten_tomatoes")
    keys = [(c.model, c.eta_squared, c.arm) for c in cells]
    assert len(cells) == len(set(keys)) == 27 + 24
    assert not any(c.arm == "LoRA×η" and c.eta_squared == 1.0 for c in cells)


def test_rotten_tomatoes_gaps_are_exact_but_one():
    wrong = [item for item in accuracies.restored_gaps("rotten_tomatoes", 5) if not item.agrees]
    assert [item.where for item in wrong] == ["Figure 3 right, Snowflake-Arctic-L, rotten_tomatoes, η² = 1"]
    # A wrong number of runs is found out: the figures do not follow from fourths of the answers.
    assert sum(not item.agrees for item in accuracies.restored_gaps("rotten_tomatoes", 4)) > 10


# ---- majority


def test_majority_by_hand():
    cell = next(c for c in accuracies.perception_cells() if "Qwen2-0.5B, emotion, LoRA, η² = 1" in c.where)
    assert cell.distance == pytest.approx(35.59 - 34.75)
    assert cell.stderr == pytest.approx(100 * np.sqrt(0.3559 * 0.6441 / 2000))
    assert cell.headroom_used == pytest.approx((35.59 - 34.75) / 65.25)
    assert cell.beyond(0.5) is True
    assert cell.beyond(1.96) is False


def test_majority_covers_every_cell_and_hellaswag_is_open():
    assert len(accuracies.perception_cells()) == 81 + 54
    cells = accuracies.commonsense_cells()
    assert len(cells) == 18 * 8
    open_cells = [cell for cell in cells if cell.majority is None]
    assert {cell.dataset for cell in open_cells} == {"HSwag"}
    assert all(cell.beyond(1.0) is None and cell.stderr is None for cell in open_cells)
    assert all(cell.beyond(1.96) for cell in cells if cell.majority is not None)


# ---- the largest of several tries


@pytest.mark.parametrize(("tries", "expected"), [*table_1.CLOSED_FORM.items(), (4, 1.0293753730), (10, 1.5387527308)])
def test_expected_maximum_against_known_values(tries, expected):
    """Up to 3 closed forms; 4 and 10 from Harter's table of normal order statistics (1961)."""
    assert table_1.expected_maximum(tries) == pytest.approx(expected, abs=1e-9)


@pytest.mark.statistical
@pytest.mark.parametrize("tries", [2, 3, 7])
def test_expected_maximum_against_draws(rng, tries):
    largest = rng.standard_normal((200_000, tries)).max(axis=1)
    assert table_1.expected_maximum(tries) == pytest.approx(largest.mean(), abs=5 * largest.std() / np.sqrt(200_000))


@pytest.mark.bad_input
@pytest.mark.parametrize("tries", [0, 1001])
def test_bad_tries(tries):
    with pytest.raises(ArgumentError, match="tries must be"):
        table_1.expected_maximum(tries)
