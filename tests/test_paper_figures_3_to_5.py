"""The paper's Figures 3, 4 and 5 redrawn: printed gaps, ours from planted records; Figure 5 by its formula."""

import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from allora_analysis.adaptors import ADAPTORS
from allora_analysis.claims.tables.reported import FIGURE_3, FIGURE_4
from allora_analysis.grid.presets import LISTS, RATE
from allora_analysis.plotting import ARMS
from paper_figures import figure_3, figure_4, figure_5
from paper_figures.cells import OWN_HEAD, Case, cases
from paper_figures.gaps import AVERAGE
from tests.figure_layout import assert_readable
from tests.planted_finetune import plant

OURS = MODEL, DATA = "all-MiniLM-L6-v2", "rotten_tomatoes"
GAINS = (0.010, 0.016, 0.013)  # ALLoRA's by seed


def planted(run):
    """ALLoRA is better by `GAINS`; LoRA whose classifier is at l_b too is 0.05 below the other at η² = 2 and 4."""
    rate = run.head_learning_rate if run.arm == "lora" else None
    slow = -0.05 if rate == RATE and run.learning_rate != RATE else 0.0
    return [0.3, 0.7 + 0.1 * run.seed + (GAINS[run.seed] if run.arm == "allora" else slow)]


@pytest.fixture(scope="module")
def figure_3_loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    plant(folder, LISTS["perception"]["desk"], planted)
    return figure_3.load_data(folder)


def test_the_printed_gaps_are_the_figures():
    for comparison, panel in zip(figure_3.load_data("nowhere").data, FIGURE_3, strict=True):
        for row in panel.rows:
            gaps = comparison.paper[row.model, row.dataset]
            assert tuple(gap.value for gap in gaps.values()) == row.gaps
            assert list(gaps) == [1, 2, 4]
        assert tuple(gap.value for gap in comparison.paper[AVERAGE].values()) == panel.column_averages


def test_the_one_cell_that_table_3_contradicts_is_marked():
    left, right = figure_3.load_data("nowhere").data
    for comparison, value in ((left, -0.15), (right, 0.15)):
        marked = {
            (cell, eta2): gap.table
            for cell, gaps in comparison.paper.items()
            for eta2, gap in gaps.items()
            if gap.table is not None
        }
        assert marked == {(("Snowflake-Arctic-L", "yelp"), 4.0): pytest.approx(value)}


def test_ours_are_paired_by_seed(figure_3_loaded):
    left, right = figure_3_loaded.data
    assert figure_3_loaded.missing == ()
    assert len(figure_3_loaded.records) == len(LISTS["perception"]["desk"])
    points = 100 * np.array(GAINS)
    half = stats.t.ppf(0.975, 2) * stats.sem(points)
    gaps = left.ours[""][OURS]
    assert list(gaps) == [1, 2, 4]
    for gap in gaps.values():
        assert (gap.value, gap.half) == (pytest.approx(points.mean()), pytest.approx(half))
    # The confound taken out: at η² = 1 the two LoRA arms are one.
    fair = [gap.value for gap in left.ours[OWN_HEAD][OURS].values()]
    assert fair == pytest.approx([1.3, 6.3, 6.3])
    assert right.ours[""][OURS][2.0].value == pytest.approx(-1.3)


def test_cells_of_the_paper_s_own_models_are_shown_where_recorded(tmp_path):
    own = [run for run in LISTS["perception"]["paper"] if run.model == "Qwen2-0.5B" and run.data == "emotion"]
    plant(tmp_path, own, lambda run: [0.5 + 0.01 * (run.arm == "allora")])
    loaded = figure_3.load_data(tmp_path)
    assert set(loaded.data[0].ours[""]) == {("Qwen2-0.5B", "emotion")}
    assert loaded.missing[0].what == "33 of 33 runs are not recorded"


def test_a_cell_without_all_its_seeds_is_left_out(tmp_path):
    skip = lambda run: (run.arm, run.eta2, run.seed) == ("allora", 2, 1)  # noqa: E731
    plant(tmp_path, LISTS["perception"]["desk"], planted, skip=skip)
    loaded = figure_3.load_data(tmp_path)
    assert list(loaded.data[0].ours[""][OURS]) == [1, 4]
    figure = figure_3.make_figure(loaded)
    told = figure.legends[0].get_title().get_text()
    assert told.count("1 of 33 runs are not recorded; run python -m experiments.perception") == 1
    assert_readable(figure)


def test_a_run_that_diverged_leaves_its_cell_out(tmp_path):
    plant(tmp_path, LISTS["perception"]["desk"], lambda run: None if run.arm == "allora_0" and run.seed == 2 else [0.5])
    assert figure_3.load_data(tmp_path).data[1].ours[""] == {}


def test_cases_name_lora_by_its_rates():
    of = cases(LISTS["perception"]["desk"])
    fast, slow = of[Case(MODEL, DATA, 4.0, "lora_eta")], of[Case(MODEL, DATA, 4.0, OWN_HEAD)]
    assert {run.head_learning_rate for run in fast} == {2e-4}
    assert {run.head_learning_rate for run in slow} == {1e-4}
    assert [run.seed for run in fast] == [0, 1, 2]
    assert of[Case(MODEL, DATA, 1.0, "lora_eta")] == of[Case(MODEL, DATA, 1.0, OWN_HEAD)]


def markers(axis) -> list:
    """The printed points: markers without an interval."""
    ours = {id(bar[0]) for bar in axis.containers}
    return [line for line in axis.get_lines() if line.get_marker() in ("o", "s", "^") and id(line) not in ours]


def test_panels_of_figure_3(figure_3_loaded):
    figure = figure_3.make_figure(figure_3_loaded)
    first, second = figure.axes
    assert first.get_title() == "ALLoRA − LoRA:\n+0.3 points in print, +1.3 here"
    assert second.get_title() == "ALLoRA-0 − ALLoRA:\n+0.1 points in print, -1.3 here"
    assert "ours: AdamW, " in first.figure.legends[0].get_title().get_text()
    assert len(markers(first)) == 3 * 10  # nine rows and the average, three η² each
    assert len(first.containers) == 2 * 3  # two kinds of classifier, three η²
    assert all(bar.has_xerr for bar in first.containers)
    assert {0.48, 1.59, -0.13} <= {float(line.get_xdata()[0]) for line in markers(first)}
    assert {line.get_color() for line in markers(first)} == {ARMS["lora_eta"].colour}
    names = [label.get_text() for label in first.get_yticklabels()]
    assert (names[0], names[-1]) == ("Qwen2-0.5B, bias_in_bios", f"ours: {MODEL},\n{DATA}")
    assert first.get_xlim() == second.get_xlim()
    for axis in figure.axes:  # no interval leaves its axes
        ends = np.concatenate([part.get_segments()[0][:, 0] for bar in axis.containers for part in bar[2]])
        assert axis.get_xlim()[0] < ends.min()
        assert ends.max() < axis.get_xlim()[1]
    assert_readable(figure)


def test_without_records():
    figure = figure_3.make_figure(figure_3.load_data("nowhere"))
    assert "experiments.perception" in figure.legends[0].get_title().get_text()
    assert figure.axes[0].get_title() == "ALLoRA − LoRA:\n+0.3 points in print"
    assert_readable(figure)


# -- Figure 4


LEVELS = {"allora": 0.80, "allora_od": 0.79, "asf_lora": 0.76, "lora_x_eta": 0.73, "lora": 0.70, "allora_0": 0.5}


@pytest.fixture(scope="module")
def figure_4_loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    plant(folder, [*LISTS["ablation"]["desk"], *LISTS["perception"]["desk"]], lambda run: [0.1, LEVELS[run.arm]])
    return figure_4.load_data(folder)


def test_the_printed_gaps_are_the_figures_and_no_cell_is_contradicted():
    for comparison, panel in zip(figure_4.load_data("nowhere").data, FIGURE_4, strict=True):
        for row in panel.rows:
            gaps = comparison.paper[row.model, row.dataset].values()
            assert tuple(gap.value for gap in gaps) == row.gaps
            assert all(gap.table is None for gap in gaps)
        assert (AVERAGE in comparison.paper) == (panel.column_averages is not None)


def test_ours_and_lora_times_one_is_lora(figure_4_loaded):
    expected = ([1, 1, 1], [4, 4, 4], [10, 7, 7], [-6, -3, -3])  # percentage points at η² = 1, 2, 4
    for comparison, gaps in zip(figure_4_loaded.data, expected, strict=True):
        found = comparison.ours[""]["all-MiniLM-L6-v2", "rotten_tomatoes"]
        assert [gap.value for gap in found.values()] == pytest.approx(gaps)
    assert figure_4_loaded.missing == ()
    # ALLoRA at three η² and LoRA at one, for three seeds; all of the ablation.
    assert len(figure_4_loaded.records) == len(LISTS["ablation"]["desk"]) + 12


def test_each_experiment_that_is_missing_has_its_command(tmp_path):
    plant(tmp_path, LISTS["ablation"]["desk"], lambda run: [0.5])
    (one,) = figure_4.load_data(tmp_path).missing
    assert one.what == "12 of 12 runs are not recorded"
    assert "experiments.perception" in one.command
    assert ["ablation" in one.command for one in figure_4.load_data("nowhere").missing] == [True, False]


def test_panels_of_figure_4(figure_4_loaded):
    figure = figure_4.make_figure(figure_4_loaded)
    titles = [axis.get_title().partition(":")[0] for axis in figure.axes]
    assert titles == [f"{panel.minuend} − {panel.subtrahend}" for panel in FIGURE_4]
    assert figure.axes[1].get_title().endswith("+1.0 points in print, +4.0 here")
    colours = [axis.containers[0][0].get_color() for axis in figure.axes]
    assert colours == [ARMS[arm].colour for arm in ("allora_od", "asf_lora", "lora_x_eta", "asf_lora")]
    assert [len(markers(axis)) for axis in figure.axes] == [21, 21, 18, 18]
    assert [len(axis.containers) for axis in figure.axes] == [3, 3, 3, 3]
    assert len({axis.get_xlim() for axis in figure.axes}) == 1
    assert_readable(figure)


def test_what_is_missing_is_said_once(tmp_path):
    assert_readable(figure_4.make_figure(figure_4.load_data("nowhere")))
    listed = [*LISTS["ablation"]["desk"], *LISTS["perception"]["desk"]]
    plant(tmp_path, [one for one in listed if one.seed < 2], lambda run: [LEVELS[run.arm]])
    loaded = figure_4.load_data(tmp_path)
    assert len(loaded.missing) == 2
    figure = figure_4.make_figure(loaded)
    told = figure.legends[0].get_title().get_text()
    assert [told.count(one.what) for one in loaded.missing] == [1, 1]
    assert_readable(figure)


# -- Figure 5


def test_data_are_the_captions_formula():
    curves = figure_5.load_data().data["figure"]
    assert set(curves) == {"x", "1", "2", "4"}
    for square in (1, 2, 4):
        expected = [1 / math.sqrt(abs(value) + 1 / square) for value in curves["x"]]
        np.testing.assert_allclose(curves[str(square)], expected, rtol=1e-14)
        peak = int(np.argmax(curves[str(square)]))
        assert (curves["x"][peak], curves[str(square)][peak]) == (0, math.sqrt(square))


def test_panels_of_figure_5():
    loaded = figure_5.load_data()
    data, figure = loaded.data, figure_5.make_figure(loaded)
    assert loaded.records == loaded.missing == ()
    assert_readable(figure)
    assert isinstance(figure, Figure)
    left, right = figure.axes
    lines = {line.get_label(): line for line in left.get_lines()}
    assert list(lines) == [rf"$\eta^2 = {square}$" for square in (1, 2, 4)]
    np.testing.assert_array_equal(lines[r"$\eta^2 = 4$"].get_ydata(), data["figure"]["4"])
    assert (left.get_xlabel(), left.get_ylim()[0]) == ("x", 0)
    assert (right.get_xscale(), right.get_yscale()) == ("log", "log")
    assert set(figure_5.FAMILY) == set(ADAPTORS) == set(data["family"]) - {"x"}
    drawn = [line.get_ydata() for line in right.get_lines()]
    for name, curve in zip(figure_5.FAMILY, drawn, strict=True):
        np.testing.assert_array_equal(curve, data["family"][name])
        assert abs(curve[0] - 2) < 0.02  # all start from η
    # On logarithmic axes the tails' slopes are the exponents.
    x = data["family"]["x"]
    for name, slope in (("inverse_sqrt", -0.5), ("inverse", -1.0), ("constant", 0.0)):
        last = np.diff(np.log(data["family"][name][-2:])) / np.diff(np.log(x[-2:]))
        assert abs(last[0] - slope) < 0.01
