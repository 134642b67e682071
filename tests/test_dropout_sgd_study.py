"""The study as a user runs it."""

import json

import numpy as np
import pytest

from allora_analysis import cli, study
from allora_analysis.dropout_sgd import study as module
from allora_analysis.dropout_sgd.study import STUDY, Config, plot, run, snapshots, table

SMALL = ["--samples", "12", "--features", "4", "--steps", "30", "--replicas", "40", "--noise", "2"]


def test_table_and_json_and_figure(capsys, tmp_path):
    paths = tmp_path / "a.json", tmp_path / "a.png"
    assert cli.main(STUDY, [*SMALL, "--json", str(paths[0]), "--figure", str(paths[1])]) == 0
    printed = capsys.readouterr().out
    assert "First step with a lower risk than plain gradient descent: step" in printed
    assert "As t → ∞" in printed
    assert paths[1].stat().st_size > 10_000
    document = json.loads(paths[0].read_text(encoding="utf-8"))
    predicted, measured = document["predicted"], document["measured"]
    assert predicted["step"] == [1, 2, 5, 10, 20, 30]
    assert predicted["learning_rate"] == pytest.approx(0.1 * predicted["limit_mean_square"])
    for name in ("covariance_trace", "risk", "risk_average"):
        gap = np.abs(np.subtract(measured[name], predicted[name]))
        assert np.all(gap < 6 * np.array(measured[f"{name}_stderr"]))
    assert np.all(np.array(measured["mean_gap"]) < 4 * np.array(predicted["mean_gap"]))


@pytest.mark.parametrize("placement", ["input", "bottleneck", "output"])
def test_the_factors_too(placement, capsys, tmp_path):
    paths = tmp_path / "a.json", tmp_path / "a.png"
    flags = [*SMALL, "--parameters", "factors", "--placement", placement, "--outputs", "2", "--steps", "60"]
    assert cli.main(STUDY, [*flags, "--json", str(paths[0]), "--figure", str(paths[1])]) == 0
    printed = capsys.readouterr().out
    assert "in A and B of rank 2" in printed
    assert "averaged" not in printed
    assert paths[1].stat().st_size > 10_000
    document = json.loads(paths[0].read_text(encoding="utf-8"))
    predicted, measured = document["predicted"], document["measured"]
    assert predicted["step_size"] < 0.1
    for name in ("covariance_trace", "risk"):
        gap = np.abs(np.subtract(measured[name], predicted[name]))
        assert np.all(gap < 6 * np.array(measured[f"{name}_stderr"]) + 1e-3 * np.array(predicted[name]))
    assert np.all(np.array(measured["mean_gap"]) < 4 * np.array(predicted["mean_gap"]))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--keep-prob", "0"], "--keep-prob"),
        (["--placement", "bottleneck"], "bottleneck"),
        (["--learning-rate", "9"], "mean-square limit"),
        (["--parameters", "layers"], "weights, factors"),
        (["--parameters", "factors", "--batch-size", "3"], "batch_size"),
        (["--parameters", "factors", "--rank", "0"], "--rank"),
        (["--parameters", "factors", "--learning-rate", "9"], "a tenth of"),
        (["--learning-rate", "-1"], "--learning-rate"),
        (["--samples", "0"], "--samples"),
        (["--replicas", "1"], "--replicas"),
        (["--steps", "0"], "--steps"),
        (["--noise", "-1"], "--noise"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_mistakes_are_one_line(flags, word, capsys):
    assert cli.main(STUDY, [*SMALL, *flags]) == 2
    error = capsys.readouterr().err
    assert word in error
    assert error.count("\n") == 1


def test_without_crossover_and_without_dropout():
    config = Config(samples=12, features=4, steps=20, replicas=4, keep_prob=1.0)
    result = run(config)
    assert result.predicted["crossover"] is None
    assert any("none within T" in note for note in table(config, result).notes)
    (axis,) = plot(config, result).axes
    assert len(axis.lines) == 5
    assert axis.get_title() == "Dropout is never ahead within 20 steps\n(output masks, keep_prob = 1, noise 1)"
    ahead = Config(samples=12, features=6, steps=60, replicas=4, noise=2.0)
    found = run(ahead)
    title = plot(ahead, found).axes[0].get_title()
    assert title.startswith(f"Dropout is ahead from step {found.predicted['crossover']}\n")


def test_an_interrupted_run_shows_what_was_finished(monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "replicas_of", interrupted)
    config = Config(samples=12, features=4, steps=20, replicas=4)
    result = run(config)
    assert result.interrupted
    assert not result.measured
    assert table(config, result).rows[0][4] == study.text(None)
    assert plot(config, result).axes[0].get_xscale() == "log"


def test_snapshots():
    assert snapshots(1) == (1,)
    assert snapshots(20) == (1, 2, 5, 10, 20)
    assert snapshots(250) == (1, 2, 5, 10, 20, 50, 100, 200, 250)
