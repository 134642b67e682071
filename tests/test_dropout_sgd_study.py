"""The study as a user runs it; the simulation against the closed forms; what `dropout_sgd` refuses."""

import json
import re

import numpy as np
import pytest

from allora_analysis import cli, study
from allora_analysis.dropout_sgd import (
    monte_carlo,
    simulate,
    simulate_factors,
    stability_limits,
    stationary_moments,
    trajectory,
)
from allora_analysis.dropout_sgd import study as module
from allora_analysis.dropout_sgd.study import STUDY, Config, plot, run, snapshots, table
from allora_analysis.validation import ArgumentError
from tests.stat_assert import assert_mean, assert_rejects

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
        (["--rank", "3"], "--rank is of factors; give --parameters factors too"),
        (["--steps", "1000000000"], "--steps: a rate for each would need 7.45 GiB"),
        (["--parameters", "factors", "--learning-rate", "9"], "a tenth of"),
        (["--learning-rate", "-1"], "--learning-rate"),
        (["--samples", "0"], "--samples"),
        (["--replicas", "1"], "--replicas"),
        (["--steps", "0"], "--steps"),
        (["--noise", "-1"], "--noise"),
        (["--noise", "1e100"], "--noise: 1e+100 is too large for its squares in double precision; give at most 1e70"),
        (["--noise", "1e200"], "--noise: 1e+200 is too large"),
        (["--noise", "1e308", "--parameters", "factors"], "--noise: 1e+308 is too large"),
        (["--keep-prob", "1e-200"], "--keep-prob: 1e-200 is too small"),
        (["--keep-prob", "1e-200", "--parameters", "factors"], "--keep-prob: 1e-200 is too small for the factors"),
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


# -- the simulation, at a fixed number of replicas and with stated power


N, D, C, STEPS, REPLICAS = 6, 3, 2, 12, 20_000
CASES = [
    ("output", None, False),
    ("output", 4, False),
    ("input", None, False),
    ("input", 4, False),
    ("input", None, True),
]


def problem():
    generator = np.random.default_rng(0)
    x = generator.standard_normal((N, D))
    return x, x @ np.ones((D, C)) + generator.standard_normal((N, C)), np.ones((D, C))


def squares(values):
    return np.einsum("rdc,rdc->r", values, values)


@pytest.mark.statistical
@pytest.mark.parametrize(("placement", "batch_size", "shared"), CASES)
def test_simulated_moments_are_the_predicted_ones(placement, batch_size, shared, rng):
    x, y, w_true = problem()
    options = {"batch_size": batch_size, "shared_mask": shared}
    rate = 0.3 * stability_limits(x, 0.7, placement, **options).mean_square
    run = trajectory(x, y, 0.7, rate, STEPS, placement, w_true=w_true, **options)
    twin = simulate(x, y, 0.7, rate, STEPS, placement, replicas=REPLICAS, generator=rng, record=(3, STEPS), **options)
    for i, t in enumerate((3, STEPS)):
        spread = np.sqrt(run.covariance_trace[t])
        assert_mean(twin.iterates[i], run.mean[t], smallest_error=0.06 * spread)
        variance, size = squares(twin.iterates[i] - run.mean[t]), run.covariance_trace[t]
        assert_mean(variance, size, smallest_error=0.15 * size)
        assert_rejects(assert_mean, variance, 1.3 * size, smallest_error=0.15 * size)
        average, size = squares(twin.averages[i] - run.mean[1 : t + 1].mean(0)), run.average_covariance_trace[t]
        assert_mean(average, size, smallest_error=0.15 * size)
        assert_mean(squares(twin.iterates[i] - w_true), run.risk[t], smallest_error=0.1 * run.risk[t])
        assert_mean(squares(twin.averages[i] - w_true), run.risk_average[t], smallest_error=0.1 * run.risk_average[t])
    # The other placement's covariance, and that of independent masks for shared ones, is not this one's.
    other = trajectory(x, y, 0.7, 0.5 * rate, STEPS, "output" if placement == "input" else "input")
    wrong = (rate / (0.5 * rate)) ** 2 * other.covariance_trace[STEPS]
    assert_rejects(assert_mean, squares(twin.iterates[1] - run.mean[STEPS]), wrong, smallest_error=0.15 * size + wrong)


@pytest.mark.statistical
def test_reported_estimates_agree_within_their_standard_errors(rng):
    x, y, w_true = problem()
    rate = 0.3 * stability_limits(x, 0.7, "output").mean_square
    run = trajectory(x, y, 0.7, rate, STEPS, "output", w_true=w_true)
    twin = simulate(x, y, 0.7, rate, STEPS, "output", replicas=5000, generator=rng)
    for (value, stderr), exact in (
        (twin.covariance_trace(), run.covariance_trace[-1]),
        (twin.risk(w_true), run.risk[-1]),
        (twin.risk(w_true, averaged=True), run.risk_average[-1]),
    ):
        assert 0 < stderr[0] < 0.1 * exact
        assert abs(value[0] - exact) < 5.5 * stderr[0]
        assert abs(1.5 * value[0] - exact) > 5.5 * stderr[0]


@pytest.mark.parametrize(("placement", "batch_size", "shared"), CASES)
def test_the_same_generator_gives_the_same_runs_block_by_block(placement, batch_size, shared, monkeypatch):
    x, y, _ = problem()
    monkeypatch.setattr(monte_carlo, "BLOCK", 7 * N * (D + C))
    options = {"replicas": 20, "record": (0, 2, 5), "batch_size": batch_size, "shared_mask": shared}
    first, second = (
        simulate(x, y, 0.7, 0.01, 5, placement, generator=np.random.default_rng(1), **options) for _ in range(2)
    )
    np.testing.assert_array_equal(first.iterates, second.iterates)
    assert not first.iterates[0].any()
    assert not first.averages[0].any()
    assert len(np.unique(first.iterates[2, :, 0, 0])) == 20


@pytest.mark.parametrize("columns", [1, C, D])
def test_without_dropout_each_run_is_gradient_descent(columns):
    x, y, _ = problem()
    y = np.hstack([y, y])[:, :columns]
    for placement in ("output", "input"):
        run = trajectory(x, y, 1.0, 0.01, 5, placement)
        twin = simulate(x, y, 1.0, 0.01, 5, placement, replicas=3, generator=np.random.default_rng(1))
        told = np.broadcast_to(run.mean[-1], (3, D, columns))
        np.testing.assert_allclose(twin.iterates[0], told, rtol=1e-12, atol=1e-15)


@pytest.mark.bad_input
def test_a_run_of_more_than_a_minute_is_refused_unasked(rng):
    with pytest.raises(ValueError, match=r"most_seconds above 60$"):
        simulate(np.zeros((800, 400)), np.zeros((800, 30)), 0.5, 0.1, 10_000, replicas=50, generator=rng)


# -- refusals, each with the argument, the value and what is allowed


GOOD = {
    "x": np.eye(3),
    "y": np.ones((3, 1)),
    "keep_prob": 0.5,
    "learning_rate": 0.01,
    "steps": 3,
    "placement": "output",
}


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"keep_prob": 0.0}, "keep_prob.*received 0"),
        ({"keep_prob": 1.5}, "keep_prob.*received 1.5"),
        ({"x": np.full((3, 3), np.nan)}, "x: every entry must be finite"),
        ({"x": np.zeros((0, 3))}, r"x: shape \(0, 3\)"),
        ({"y": np.ones((4, 1))}, r"y: shape \(4, 1\) received"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"steps": 2**24}, r"steps: the means at 1.678e\+07 steps would need"),  # 3 and 12 numbers a step
        ({"placement": "bottleneck"}, "bottleneck.*not affine"),
        ({"placement": "latent"}, "placement must be one of"),
        ({"learning_rate": -1.0}, "learning_rate must be a finite number above 0"),
        ({"learning_rate": [0.1, 0.1]}, "schedule of 2 rates received; give one a step, 3"),
        ({"learning_rate": [0.1, -0.1, 0.1]}, "received -0.1 at index 1"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"shared_mask": True}, "shared_mask is for input masks"),
        ({"placement": "input", "shared_mask": True, "batch_size": 2}, "shared_mask is for input masks"),
        ({"w_true": np.ones((2, 1))}, r"w_true: shape \(2, 1\)"),
        ({"risk_covariance": np.eye(3)}, "risk_covariance: received without w_true"),
        ({"w_true": np.ones((3, 1)), "risk_covariance": np.triu(np.ones((3, 3)))}, "must be symmetric"),
        ({"w_true": np.ones((3, 1)), "risk_covariance": np.diag([1.0, -0.5, 2.0])}, "an eigenvalue of -0.5"),
    ],
)
def test_what_cannot_be_used_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        trajectory(**{**GOOD, **change})


@pytest.mark.bad_input
def test_a_schedule_stops_at_the_first_value_that_is_not_finite():
    x, y = np.arange(15.0).reshape(5, 3), np.ones((5, 1))
    with pytest.raises(ValueError, match=r"first non-finite value at step 4 \(its rate 1e\+150\)"):
        trajectory(x, y, 0.5, [0.01, 0.01, 1e120, 1e150, 0.01], 5, "input")


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"replicas": 1}, "replicas must be a whole number, 2 or above"),
        ({"record": (4,)}, r"record must be a whole number in \[0, 3\]"),
        ({"replicas": 10**9}, "1 GiB; give fewer than"),
        ({"learning_rate": [0.1] * 2}, "learning_rate"),
        ({"batch_size": 2**26}, "rows and masks would need 2 GiB"),  # four numbers a row
    ],
)
def test_what_cannot_be_simulated_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        simulate(**{**GOOD, "replicas": 4, "generator": np.random.default_rng(0), **change})


@pytest.mark.bad_input
def test_the_other_entry_points_refuse_too():
    with pytest.raises(ValueError, match="keep_prob"):
        stability_limits(np.eye(2), 2.0)
    with pytest.raises(ValueError, match="x: shape"):
        stability_limits(3.0, 0.5)
    with pytest.raises(ValueError, match="past the mean-square stability limit"):
        stationary_moments(np.eye(2), np.ones((2, 1)), 0.5, 10.0)


SIZES = {"n": 800, "d": 400, "c": 30, "r": 20, "steps": 5, "replicas": 50}


def seconds(run, n, d, c, r, steps, replicas, most="1e-09"):
    """How long a run is told to take, which is refused as too long."""
    x, y, options = np.zeros((n, d)), np.zeros((n, c)), {"most_seconds": 1e-9} if most == "1e-09" else {}
    options |= {} if run is trajectory else {"replicas": replicas, "generator": np.random.default_rng(0)}
    start = (np.zeros((r, d)), np.zeros((c, r))) if run is simulate_factors else ()
    with pytest.raises(ArgumentError, match=f"take about .* most_seconds above {most}$") as caught:
        run(x, y, *start, 0.5, 0.1, steps, **options)
    return float(re.search(r"take about (\S+) s", str(caught.value))[1])


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("run", "sizes"), [(trajectory, "n d c"), (simulate, "n d c replicas"), (simulate_factors, "n d r replicas")]
)
def test_what_is_twice_as_large_takes_longer(run, sizes):
    one = seconds(run, **SIZES)
    assert seconds(run, **SIZES | {"steps": 10}) == pytest.approx(2 * one, rel=0.1)
    assert seconds(run, **SIZES | {"steps": 10_000}, most="60") > 60
    for name in sizes.split():
        assert 1.3 * one < seconds(run, **SIZES | {name: 2 * SIZES[name]}) < 8 * one
