"""The paper's Figure 4 redrawn: printed gaps, ours from planted records of two experiments."""

import pytest

from allora_analysis.claims.tables.reported import FIGURE_4
from allora_analysis.grid.presets import LISTS
from allora_analysis.plotting import ARMS
from paper_figures import figure_4
from paper_figures.gaps import AVERAGE
from tests.figure_layout import assert_readable
from tests.planted_finetune import plant
from tests.test_paper_figure_3 import markers

LEVELS = {"allora": 0.80, "allora_od": 0.79, "asf_lora": 0.76, "lora_x_eta": 0.73, "lora": 0.70, "allora_0": 0.5}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
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


def test_ours_and_lora_times_one_is_lora(loaded):
    expected = ([1, 1, 1], [4, 4, 4], [10, 7, 7], [-6, -3, -3])  # percentage points at η² = 1, 2, 4
    for comparison, gaps in zip(loaded.data, expected, strict=True):
        found = comparison.ours[""]["all-MiniLM-L6-v2", "rotten_tomatoes"]
        assert [gap.value for gap in found.values()] == pytest.approx(gaps)
    assert loaded.missing == ()
    # ALLoRA at three η² and LoRA at one, for three seeds; all of the ablation.
    assert len(loaded.records) == len(LISTS["ablation"]["desk"]) + 12


def test_each_experiment_that_is_missing_has_its_command(tmp_path):
    plant(tmp_path, LISTS["ablation"]["desk"], lambda run: [0.5])
    (one,) = figure_4.load_data(tmp_path).missing
    assert one.what == "12 of 12 runs are not recorded"
    assert "experiments.perception" in one.command
    assert ["ablation" in one.command for one in figure_4.load_data("nowhere").missing] == [True, False]


def test_panels(loaded):
    figure = figure_4.make_figure(loaded)
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
