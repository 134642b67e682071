"""The paper's Figure 2 redrawn: Table 2's points, ours from planted records, whole cases only."""

import math

import numpy as np
import pytest

from allora_analysis.claims.tables.reported import TABLE_2
from allora_analysis.grid.presets import LISTS
from allora_analysis.plotting import ARMS, page
from paper_figures import figure_2
from tests.figure_layout import assert_readable
from tests.planted_finetune import STEPS, level, plant, speed

DROPPED = [run for run in LISTS["dropout_rates"]["desk"] if run.placement == "input"]
MINI, SMALL = (
    [run for run in LISTS["row_norms"]["desk"] if run.model == model] for model in ("all-MiniLM-L6-v2", "SmolLM2-135M")
)
ADAMW, SGD = ("all-MiniLM-L6-v2", "adamw"), ("all-MiniLM-L6-v2", "sgd")
PANELS = [ADAMW, SGD, ("SmolLM2-135M", "adamw"), ("SmolLM2-135M", "sgd")]


@pytest.fixture(scope="module")
def partial(tmp_path_factory):
    """Without the last seed of drop rate 0.4 and of ALLoRA-OD under SGD, and without SmolLM2."""
    folder = tmp_path_factory.mktemp("records")
    plant(folder, DROPPED, skip=lambda run: (run.drop_rate, run.seed) == (0.4, 2))
    plant(folder, MINI, skip=lambda run: (run.optimizer, run.arm, run.seed) == ("sgd", "allora_od", 2))
    return figure_2.load_data(folder)


def test_reported_points_are_table_2():
    reported = figure_2.load_data("nowhere").data.reported
    assert list(reported) == [column.drop_rate for column in TABLE_2]
    assert reported[0.0] == ((3, 77.92), (6, 79.81), (10, 78.00))
    assert reported[0.4] == ((3, 77.22), (10, 80.65))  # its best is the last


def test_ours_are_the_records(partial):
    data = partial.data
    assert list(data.accuracy) == [0.0, 0.05, 0.1, 0.2]
    case = [run for run in DROPPED if run.drop_rate == 0.1]
    curve = data.accuracy[0.1]
    assert (list(curve.x), curve.seeds) == (list(range(1, 9)), 3)
    np.testing.assert_allclose(curve.average.mean[2], 100 * np.mean([level(run) + 0.02 for run in case]))
    norms = data.norms[ADAMW]["lora_eta"]
    assert list(norms.x) == list(STEPS[1:])
    case = [run for run in MINI if run.optimizer == "adamw" and run.learning_rate == 2e-4]
    expected = np.mean([math.log(2 * 267 * speed(run)) for run in case])  # the mean over layers is twice the first's
    np.testing.assert_allclose(norms.average.mean[-1], expected)


def test_a_case_without_all_its_seeds_is_named_and_not_drawn(partial):
    data = partial.data
    assert data.norms[SGD]["allora_od"] is None
    assert all(curve is not None for arm, curve in data.norms[SGD].items() if arm != "allora_od")
    assert [missing.what for missing in partial.missing] == [
        "1 of 15 runs are not recorded",
        "28 of 54 runs are not recorded",
    ]
    assert sorted(data.norms) == sorted(PANELS)
    assert not any(curve for panel in PANELS[2:] for curve in data.norms[panel].values())
    # No record of an incomplete case: 4 drop rates and 8 of 9 arms, three seeds each.
    assert len(partial.records) == 3 * (4 + 8)


def test_panels(partial):
    figure = figure_2.make_figure(partial)
    reported, ours, adamw, sgd = figure.axes[:4]
    assert reported.get_title().startswith("The paper: drop rate 0.4 gains most,\n0.2 ends highest\n")
    assert all("3 seeds" in axis.get_title() for axis in (ours, adamw, sgd))
    last = [curve.average.mean[-1] for curve in partial.data.accuracy.values()]
    assert ours.get_title().startswith(f"Ours, 3 seeds: they end within {max(last) - min(last):.1f} points")
    # Planted: arms with a factor are twice as fast as LoRA at l, as fast as LoRA at η·l.
    assert adamw.get_title().startswith("AdamW: ALLoRA leaves 0 as LoRA at η·l")
    for left, right in zip(figure.axes[::2], figure.axes[1::2], strict=True):
        assert left.get_ylim() == right.get_ylim() or not (left.get_lines() and right.get_lines())
    assert [line.get_label() for line in reported.get_lines()] == ["0", "0.05", "0.1", "0.2", "0.4"]
    np.testing.assert_array_equal(reported.get_lines()[0].get_xydata(), [[3, 77.92], [6, 79.81], [10, 78.0]])
    assert len(ours.containers) == 4
    lines = {line.get_label(): line for line in adamw.get_lines()}
    assert list(lines) == ["LoRA", "LoRA at η·l", "ALLoRA", "ALLoRAAdamW", "ALLoRA-OD"]
    assert lines["ALLoRA"].get_color() == ARMS["allora"].colour
    curve = partial.data.norms[ADAMW]["allora"]
    np.testing.assert_allclose(lines["ALLoRA"].get_ydata(), np.exp(curve.average.mean))
    assert len(adamw.collections) == 5  # an interval each
    assert (adamw.get_xscale(), adamw.get_yscale()) == ("log", "log")
    assert "seeds missing: ALLoRA-OD" in [text.get_text() for text in sgd.texts]
    assert_readable(figure)


def test_the_reported_title_where_one_drop_rate_is_both():
    _, ((axis,),) = page(2.0)
    points = {0.0: ((3, 70.0), (10, 71.0)), 0.4: ((3, 69.0), (10, 75.0))}
    figure_2._reported(axis, points, dict.fromkeys(points, "k"))
    assert axis.get_title().startswith("The paper: drop rate 0.4 gains most\nand ends highest\n")


def test_another_models_cases(tmp_path):
    plant(tmp_path, SMALL, skip=lambda run: run.optimizer == "sgd" or run.arm != "lora")
    data = figure_2.load_data(tmp_path).data
    assert {arm for arm, curve in data.norms["SmolLM2-135M", "adamw"].items() if curve} == {"lora", "lora_eta"}
    assert_readable(figure_2.make_figure(figure_2.load_data(tmp_path)))


def test_without_records_the_panels_say_the_commands():
    loaded = figure_2.load_data("nowhere")
    assert len(loaded.missing) == 2
    figure = figure_2.make_figure(loaded)
    told = [" ".join(text.get_text() for text in axis.texts) for axis in figure.axes]
    assert "experiments.dropout_rates" in told[1]
    assert all("experiments.row_norms" in one for one in told[2:])
    assert_readable(figure)
