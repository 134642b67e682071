"""The paper's Figure 1 redrawn: its data from fresh runs on the digits, its panels, its command."""

import dataclasses

import numpy as np
import pytest
from matplotlib.figure import Figure

from allora_analysis.gradient_std import grid as grids
from allora_analysis.validation import ArgumentError
from experiments import gradient_std as experiment
from paper_figures import FIGURES, __main__, figure_1
from tests.planted_runs import plant
from tests.tiny_figure_1 import TINY


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("records")
    assert experiment.run(experiment.Arguments(data="digits", results=path), TINY) == 0
    return path


def test_data_are_the_records(folder):
    data = figure_1.load_data(folder, TINY)
    runs = grids.recorded(folder, TINY)
    # The extra drop rates are no part of the figure.
    assert [(arm.optimizer, arm.drop_rate) for arm in data] == [("sgd", 0.5), ("adam", 0.5)]
    for arm, series in data.items():
        for seed in (0, 1):
            for name in ("mean", "worst_held_out", "q01", "q99", "median"):
                assert list(series[name][seed]) == [epoch["probe"][name] for epoch in runs[arm][seed]]
        assert series["no_dropout"].shape == series["mask_share"].shape == (2, 3)
        parts = runs[arm][1][2]["decomposition"]
        assert series["mask_share"][1, 2] == parts["mask"] / (parts["mask"] + parts["minibatch"])
        assert series["no_dropout"][1, 2] == runs[arm][1][2]["no_dropout_fresh"]["mean"]


def test_panels(folder):
    data = figure_1.load_data(folder, TINY)
    figure = figure_1.make_figure(data)
    assert isinstance(figure, Figure)
    top, middle, bottom = figure.axes
    assert top.get_title() == "digits: 2 seeds of sgd"
    lines = {line.get_label(): line for line in top.get_lines()}
    series = data[grids.Arm("digits", "sgd", 0.5)]
    np.testing.assert_allclose(lines["mean over entries"].get_ydata(), series["mean"].mean(axis=0))
    np.testing.assert_allclose(lines["worst entry, held out"].get_ydata(), series["worst_held_out"].mean(axis=0))
    np.testing.assert_allclose(
        lines["mean, over minibatches, no dropout"].get_ydata(), series["no_dropout"].mean(axis=0)
    )
    assert list(lines["mean over entries"].get_xdata()) == [0, 1, 2]
    assert len(top.collections) == 3
    ratios = {line.get_label(): line.get_ydata() for line in middle.get_lines() if "," in str(line.get_label())}
    assert set(ratios) == {"sgd, mean", "sgd, worst", "adam, mean", "adam, worst"}
    for label, ratio in ratios.items():
        assert ratio[0] == 1, label
    expected = np.exp(np.log(series["mean"][:, -1] / series["mean"][:, 0]).mean())
    np.testing.assert_allclose(ratios["sgd, mean"][-1], expected)
    assert {line.get_label() for line in bottom.get_lines()} == {"sgd", "adam"}
    assert (top.get_yscale(), middle.get_yscale(), bottom.get_ylim()) == ("log", "log", (0, 1))
    assert all(axis.get_xlabel() == "epoch" and axis.get_ylabel() for axis in figure.axes)


def test_a_column_for_each_data_set(tmp_path):
    small = dataclasses.replace(grids.FIGURE_1, seeds=2, optimizers=("momentum", "adamw"), extra_drop_rates=())
    plant(tmp_path, lambda arm: (-1.0, 1.0), small)
    figure = figure_1.make_figure(figure_1.load_data(tmp_path, small))
    assert len(figure.axes) == 6
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["MNIST: 2 seeds of momentum", "CIFAR-10: 2 seeds of momentum", "", "", "", ""]
    # The planted change of the logarithm, ∓1 in the seeds' mean but for the fixed pattern −0.02, −0.01.
    ends = {line.get_label(): float(np.log(line.get_ydata()[-1])) for line in figure.axes[2].get_lines()}
    assert ends["adamw, mean"] == pytest.approx(-1.015)
    assert ends["adamw, worst"] == pytest.approx(0.985)


@pytest.mark.bad_input
def test_without_records(tmp_path):
    with pytest.raises(ArgumentError, match="run python -m experiments"):
        figure_1.load_data(tmp_path / "nowhere")


def test_the_command_draws_into_a_folder(tmp_path, folder, monkeypatch, capsys):
    monkeypatch.setattr(figure_1, "load_data", lambda right=figure_1.load_data: right(folder, TINY))
    assert __main__.main(["--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / f"{name}.png") for name in FIGURES]
    assert (tmp_path / "figure_1.png").read_bytes().startswith(b"\x89PNG")
    assert __main__.main(["--folder", str(tmp_path / "nowhere")]) == 2
    assert __main__.main(["--only", "figure_9"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "--folder" in errors[0]
    assert "figure_1" in errors[1]
