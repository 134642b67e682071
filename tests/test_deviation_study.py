"""`python -m allora_analysis.deviation`: the table, the JSON, the figure and its mistakes; the sampled twin."""

import copy
import json
import math

import numpy as np
import pytest

from allora_analysis import deviation, tikhonov
from allora_analysis.cli import main
from allora_analysis.deviation import law, study
from allora_analysis.deviation.study import STUDY, Config
from tests.stat_assert import assert_mean, assert_rejects

SMALL = ["--samples", "4", "--features", "2", "--outputs", "2", "--draws", "200", "--masks", "1", "30"]


@pytest.mark.statistical
@pytest.mark.parametrize(("entries", "keep_prob", "n"), [(6, 0.9, 1), (50, 0.5, 20), (20, 0.999, 1000)])
def test_drawn_averages(rng, entries, keep_prob, n):
    delta = rng.standard_normal(entries)
    exact = law.deviation_of(delta, keep_prob, n)
    sample = law.deviations(delta, keep_prob, n, 40_000, rng) / exact.value
    assert_mean(sample, 1.0, smallest_error=0.12)
    assert_rejects(assert_mean, sample, exact.bound / exact.value, smallest_error=0.12)  # the bound is not the law


def test_chunks_do_not_change_the_draws(monkeypatch):
    delta = np.linspace(-1, 2, 7)
    whole = law.deviations(delta, 0.3, 50, 100, np.random.default_rng(0))
    monkeypatch.setattr(law, "CHUNK", 21)
    np.testing.assert_array_equal(law.deviations(delta, 0.3, 50, 100, np.random.default_rng(0)), whole)


def test_the_twin_estimates_the_law(rng):
    problem = np.ones((2, 1)), np.array([[0.0], [1.0]]), np.ones((1, 1))
    delta = law.jumps(problem[0] @ problem[2], problem[1], 0.6).ravel()
    sample = law.deviations(delta, 0.6, 5, 2000, copy.deepcopy(rng))
    found = law.sample_of(delta, 0.6, 5, 2000, rng)
    assert found.stderr == pytest.approx(math.sqrt(((sample - sample.mean()) ** 2).sum() / 1999 / 2000), rel=1e-12)
    assert abs(found.mean - deviation.mean_absolute_deviation(*problem, 0.6, 5)) < 6 * found.stderr
    assert found.draws == 2000


def test_json_is_complete(capsys):
    assert main(STUDY, [*SMALL, "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    predicted, measured = document["predicted"], document["measured"]
    assert predicted["masks"] == measured["masks"] == [1, 30]
    assert max(abs(z) for z in measured["z"]) < 6
    assert set(predicted["method"]) <= set(law.METHODS)
    assert np.all(np.array(predicted["deviation"]) <= predicted["bound"])
    config = Config(samples=4, features=2, outputs=2)
    exact = deviation.exact_deviation(*study.data(config), config.keep_prob, 30)
    assert predicted["deviation"][1] == exact.value
    assert predicted["loss_std"] == pytest.approx(predicted["bound"][0])


def test_the_moments_of_the_result_are_what_they_are_called():
    config = Config(samples=4, features=2, outputs=2, draws=50, masks=(1, 30))
    x, y, w = study.data(config)
    predicted, std = study.run(config).predicted, deviation.gradient_std(x, y, w, config.keep_prob)
    assert (predicted["gradient_std_mean"], predicted["gradient_std_max"]) == (std.mean(), std.max())
    assert predicted["loss_mean"] == pytest.approx(tikhonov.expected_loss(x, y, w, config.keep_prob, "output"))


def test_table_and_figure(tmp_path, capsys):
    assert main(STUDY, [*SMALL, "--figure", str(tmp_path / "figure.svg")]) == 0
    shown = " ".join(capsys.readouterr().out.split())  # however wide, so however its lines are broken
    assert "meet in the middle" in shown
    assert "√(2/π) = 0.7979" in shown
    assert (tmp_path / "figure.svg").stat().st_size > 1000


def test_figure_shows_the_result():
    config = Config(samples=3, features=2, outputs=1, draws=50, masks=(20, 1))
    result = study.run(config)
    left, right = study.plot(config, result).axes
    np.testing.assert_allclose(left.lines[0].get_xydata(), np.c_[[1, 20], result.predicted["bound"][::-1]])
    np.testing.assert_allclose(right.lines[0].get_ydata(), result.predicted["ratio"][::-1])


def test_zero_initialisation(capsys, tmp_path):
    arguments = [*SMALL, "--weight-scale", "0"]
    assert main(STUDY, [*arguments, "--figure", str(tmp_path / "figure.png")]) == 0
    assert "No mask changes this loss" in capsys.readouterr().out
    assert main(STUDY, [*arguments, "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["predicted"]["deviation"] == document["measured"]["deviation"] == [0.0, 0.0]
    assert document["measured"]["z"] == [0.0, 0.0]
    assert document["predicted"]["gradient_std_mean"] > 0


def test_a_constant_that_is_off_has_infinite_z():
    constant = law.Deviation(1.0, 0.0, "closed form", 1.0, 1.0)
    assert study.standardised(law.Estimate(2.0, 0.0, 2), constant) == math.inf
    assert study.standardised(law.Estimate(1.0, 0.0, 2), constant) == 0.0


def test_z_is_in_the_laws_own_standard_error():
    """|D| is 0 or 2, each half the time: mean 1, E D² = 2, so the mean of four draws has standard error 1/2."""
    exact = law.Deviation(1.0, 0.0, "closed form", math.sqrt(2), 1 / math.sqrt(2))
    assert study.standardised(law.Estimate(0.0, 0.1, 4), exact) == pytest.approx(-2.0)


def test_weights_whose_squares_vanish_have_the_same_z():
    """The jumps are linear in W by then. Planted: a standard error of 0 and z = ∞."""
    found = [study.run(Config(weight_scale=scale, draws=50, masks=(1, 20))) for scale in (1e-100, 1e-308)]
    larger, tiny = (np.array([result.measured[name] for name in ("z", "deviation_stderr")]) for result in found)
    assert np.all(tiny[1] > 0)
    np.testing.assert_allclose(tiny[0], larger[0], rtol=1e-6)
    np.testing.assert_allclose(tiny[1], 1e-208 * larger[1], rtol=1e-6)


def test_a_mask_too_rare_to_be_drawn_is_no_discrepancy():
    result = study.run(study.Config(keep_prob=1e-9, masks=(1, 100), draws=50))
    assert all(abs(z) < 1 for z in result.measured["z"])
    assert all(
        measured < 0.6 * exact
        for measured, exact in zip(result.measured["deviation"], result.predicted["deviation"], strict=True)
    )


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keep-prob", "0"], "--keep-prob must be"),
        (["--samples", "0"], "--samples must be a whole number, 1 or above, received 0"),
        (["--masks", "10", "0"], "--masks must be a whole number in [1, 1000000000], received 0"),
        (["--masks"], "--masks must have at least one value"),
        (["--weight-scale", "-1"], "--weight-scale must be a finite number, 0 or above, received -1.0"),
        (["--draws", "1"], "--draws must be a whole number in [2, 1000000000], received 1"),
        (["--noise", "nan"], "--noise must be"),
        (["--seed", "-1"], "--seed must be"),
        (["--weight-scale", "1e300"], "the loss overflows float64"),
    ],
)
def test_mistakes(arguments, message, capsys):
    assert main(STUDY, [*SMALL, *arguments]) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""
