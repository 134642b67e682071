"""The paper's Figure 4 redrawn: printed gaps, ours from planted records of two experiments."""

from __future__ import annotations

import pytest

from allora_analysis.claims.tables.reported import FIGURE_4
from allora_analysis.grid.presets import ablation, perception
from allora_analysis.plotting import ARMS
from paper_figures import figure_4
from paper_figures.gaps import AVERAGE
from tests.figure_layout import assert_readable
from tests.planted_finetune import plant

LEVELS = {"allora": 0.80, "allora_od": 0.79, "asf_lora": 0.76, "lora_x_eta": 0.73, "lora": 0.70, "allora_0": 0.5}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    plant(folder, [*ablation.PRESETS["desk"], *perception.PRESETS["desk"]], lambda run: [0.1, LEVELS[run.arm]])
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
        for data in ("rotten_tomatoes", "emotion"):
            found = comparison.ours[""]["all-MiniLM-L6-v2", data]
            assert [gap.value for gap in found.values()] == pytest.approx(gaps)
    assert loaded.missing == ()
    # ALLoRA at three η² and LoRA at one, for two data sets and three seeds; all of the ablation.
    assert len(loaded.records) == len(ablation.PRESETS["desk"]) + 24


def test_each_experiment_that_is_missing_has_its_command(tmp_path):
    plant(tmp_path, ablation.PRESETS["desk"], lambda run: [0.5])
    (one,) = figure_4.load_data(tmp_path).missing
    assert one.what == "24 of 24 runs are not recorded"
    assert "experiments.perception" in one.command
    assert ["ablation" in one.command for one in figure_4.load_data("nowhere").missing] == [True, False]


def test_panels(loaded):
    figure = figure_4.make_figure(loaded)
    assert len(figure.axes) == 8
    titles = [axis.get_title().partition("\n")[0] for axis in figure.axes[::2]]
    assert titles == [f"{panel.minuend} − {panel.subtrahend}" for panel in FIGURE_4]
    colours = [axis.containers[0][0].get_color() for axis in figure.axes[::2]]
    assert colours == [ARMS[arm].colour for arm in ("allora_od", "asf_lora", "lora_x_eta", "asf_lora")]
    assert [len(axis.containers) for axis in figure.axes] == [21, 6, 21, 6, 18, 6, 18, 6]
    assert_readable(figure)


def test_without_records():
    figure = figure_4.make_figure(figure_4.load_data("nowhere"))
    assert all("experiments.ablation" in " ".join(t.get_text() for t in axis.texts) for axis in figure.axes[1::2])
    assert_readable(figure)


def test_what_both_experiments_lack_fits_below_a_panel(tmp_path):
    listed = [*ablation.PRESETS["desk"], *perception.PRESETS["desk"]]
    plant(tmp_path, [one for one in listed if one.data == "rotten_tomatoes"], lambda run: [LEVELS[run.arm]])
    loaded = figure_4.load_data(tmp_path)
    assert len(loaded.missing) == 2
    figure = figure_4.make_figure(loaded)
    assert all(figure.axes[1].get_xlabel().count(one.what) for one in loaded.missing)
    assert_readable(figure)
