"""Drawn masks against the closed forms, with stated power, and planted wrong formulas; the study's command."""

import dataclasses
import json

import numpy as np
import pytest

from allora_analysis import tikhonov
from allora_analysis.cli import main
from allora_analysis.tikhonov import masks, study
from allora_analysis.tikhonov.loss import input_std
from allora_analysis.tikhonov.study import STUDY, Config
from allora_analysis.validation import ArgumentError
from tests.brute_force import tikhonov as brute
from tests.stat_assert import assert_mean, assert_rejects

N, D, C, R = 30, 6, 4, 3
KEEP = 0.6
DRAWS = 4000
FIXED = np.random.default_rng(0)
X, Y, W = FIXED.standard_normal((N, D)), FIXED.standard_normal((N, C)), FIXED.standard_normal((D, C))
A, B = FIXED.standard_normal((R, D)), FIXED.standard_normal((C, R))


@pytest.mark.statistical
@pytest.mark.parametrize("placement", ["output", "input"])
def test_mean_loss(placement, rng):
    samples = tikhonov.sampled_losses(X, Y, W, KEEP, placement, DRAWS, rng)
    expected = tikhonov.expected_loss(X, Y, W, KEEP, placement)
    assert_mean(samples, expected, smallest_error=0.03 * expected)
    # Planted: the noise of a mask taken as 1 − p, and as 1/p; and the drop rate for the keep probability.
    plain, drop = tikhonov.expected_loss(X, Y, W, 1.0, placement), 1 - KEEP
    noise = (expected - plain) / (drop / KEEP)
    for wrong in (plain + drop * noise, plain + noise / KEEP, tikhonov.expected_loss(X, Y, W, drop, placement)):
        assert_rejects(assert_mean, samples, wrong, smallest_error=0.03 * expected)


@pytest.mark.statistical
def test_mean_bottleneck_loss(rng):
    samples = tikhonov.sampled_losses(X @ A.T, Y, B.T, KEEP, "input", DRAWS, rng)
    expected = tikhonov.bottleneck_loss(X, Y, A, B, KEEP)
    assert_mean(samples, expected, smallest_error=0.03 * expected)
    # Planted: the output's and the input's penalty at the same product.
    for placement in ("output", "input"):
        wrong = tikhonov.expected_loss(X, Y, A.T @ B.T, KEEP, placement)
        assert_rejects(assert_mean, samples, wrong, smallest_error=0.03 * expected)


@pytest.mark.statistical
def test_masked_gradient_vanishes_on_average_at_the_minimiser(rng):
    """The realistic check of the minimizer: ∂/∂W of the masked loss has mean 0 there, and not at the ridge."""
    draws = 4000
    w = tikhonov.dropout_solution(X, Y, KEEP, "input")
    for weights, right in ((w, True), (tikhonov.ridge_solution(X, Y, 0), False)):
        masked = X * ((rng.random((draws, N, D)) < KEEP) / KEEP)
        gradient = 2 * np.einsum("snd,snc->sdc", masked, masked @ weights - Y)
        scale = np.abs(X.T @ Y).max()
        if right:
            assert_mean(gradient, 0.0, smallest_error=0.3 * scale)
        else:
            assert_rejects(assert_mean, gradient, 0.0, smallest_error=0.4 * scale)


def enumerated_std(loss, rows, columns, keep_prob):
    masks, probability = zip(*brute.masks(rows, columns, keep_prob), strict=True)
    losses, probability = np.array([loss(mask) for mask in masks]), np.array(probability)
    return np.sqrt(probability @ (losses - probability @ losses) ** 2)


@pytest.mark.parametrize("keep_prob", [0.1, 0.5, 0.9, 1.0])
def test_std_of_the_loss_is_that_over_all_masks(keep_prob):
    x, y, w, b = X[:3, :3], Y[:3, :2], W[:3, :2], W[:3, :2].T
    expected = enumerated_std(lambda mask: np.sum((y - (x * mask) @ w) ** 2), 3, 3, keep_prob)
    assert input_std(x, y, w, keep_prob) == pytest.approx(expected, rel=1e-10, abs=1e-10)
    a = A[:, :3]
    expected = enumerated_std(lambda mask: np.sum((y - ((x @ a.T) * mask) @ b.T) ** 2), 3, 3, keep_prob)
    assert input_std(x @ a.T, y, b.T, keep_prob) == pytest.approx(expected, rel=1e-10, abs=1e-10)


def test_std_of_the_loss_at_a_tiny_keep_probability_is_a_number():
    w = tikhonov.dropout_solution(X, Y, 1e-300, "input")
    assert 0 < input_std(X, Y, w, 1e-300) < 1e-100


@pytest.mark.parametrize("placement", ["output", "input"])
def test_draws_do_not_depend_on_the_chunks(placement, monkeypatch):
    whole = tikhonov.sampled_losses(X, Y, W, KEEP, placement, 50, np.random.default_rng(5))
    bottleneck = tikhonov.sampled_losses(X @ A.T, Y, B.T, KEEP, "input", 50, np.random.default_rng(5))
    assert whole.shape == bottleneck.shape == (50,)
    monkeypatch.setattr(masks, "CHUNK_ENTRIES", 7 * N * D)
    again = tikhonov.sampled_losses(X, Y, W, KEEP, placement, 50, np.random.default_rng(5))
    np.testing.assert_allclose(again, whole, rtol=1e-13)
    again = tikhonov.sampled_losses(X @ A.T, Y, B.T, KEEP, "input", 50, np.random.default_rng(5))
    np.testing.assert_allclose(again, bottleneck, rtol=1e-13)
    other = tikhonov.sampled_losses(X, Y, W, KEEP, placement, 50, np.random.default_rng(6))
    assert np.abs(other - whole).max() > 1


def test_nothing_dropped_is_the_plain_loss():
    samples = tikhonov.sampled_losses(X, Y, W, 1.0, "input", 5, np.random.default_rng(0))
    np.testing.assert_allclose(samples, np.sum((Y - X @ W) ** 2), rtol=1e-13)


def test_sample_mean():
    found = tikhonov.sample_mean([1.0, 2.0, 3.0, 6.0])
    assert found.mean == 3.0
    assert found.stderr == pytest.approx(np.sqrt(14 / 3) / 2)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: tikhonov.sampled_losses(X, Y, W, 0.0, "output", 5, np.random.default_rng(0)), r"keep_prob"),
        (lambda: tikhonov.sampled_losses(X, Y, W, 0.5, "output", 0, np.random.default_rng(0)), r"draws.*received 0"),
        (lambda: tikhonov.sampled_losses(X, Y, W, 0.5, "hidden", 5, np.random.default_rng(0)), r"placement.*hidden"),
        (lambda: tikhonov.sampled_losses(X, Y, W.T, 0.5, "input", 5, np.random.default_rng(0)), r"w: shape \(4, 6\)"),
        (lambda: tikhonov.sample_mean([1.0]), r"at least 2 draws.*received 1"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ArgumentError, match=words):
        call()


SMALL = ["--samples", "12", "--features", "3", "--outputs", "2", "--draws", "60"]


@pytest.mark.parametrize("placement", ["output", "input", "bottleneck"])
def test_json_is_complete_and_reproducible(placement, capsys):
    arguments = [*SMALL, "--placement", placement, "--spread", "1", "20", "--json", "-"]
    assert main(STUDY, arguments) == 0
    first = capsys.readouterr().out
    assert main(STUDY, arguments) == 0
    assert capsys.readouterr().out == first
    document = json.loads(first)
    assert document["study"] == "tikhonov"
    assert document["predicted"]["spread"] == [1.0, 20.0]
    assert len(document["measured"]["loss_stderr"]) == 2
    assert max(abs(z) for z in document["measured"]["z"]) < 6
    if placement != "bottleneck":
        assert document["predicted"]["distance"][0] < 1e-12 < document["predicted"]["distance"][1]


def test_rows_are_the_library_s_answers():
    config = Config(samples=12, features=3, outputs=2, draws=20, spread=(7.0,), placement="input")
    predicted = study.run(config).predicted
    x, y = study.Problems(12, 3, 2, 1.0, 0).at(7.0)
    s = np.linalg.svd(x, compute_uv=False)
    assert s[0] / s[-1] == pytest.approx(7.0)
    assert np.mean(x**2) == pytest.approx(1.0)
    found = tikhonov.nearest_ridge(x, y, 0.7, "input")
    assert (predicted["penalty"][0], predicted["distance"][0]) == (found.penalty, found.distance)
    np.testing.assert_allclose(predicted["shrinkage_output"], 0.7, rtol=1e-12)
    np.testing.assert_allclose(predicted["shrinkage_ridge"], s**2 / (s**2 + found.penalty), rtol=1e-10)


def test_shrinkage_is_the_diagonal_of_the_hat_matrix():
    x, _ = study.Problems(12, 3, 2, 1.0, 4).at(30.0)
    values, factor = study.shrinkage(x, 0.6, "input")
    u = np.linalg.svd(x, full_matrices=False)[0]
    s = x.T @ x
    hat = x @ np.linalg.inv(s + 0.4 / 0.6 * np.diag(np.diag(s))) @ x.T
    np.testing.assert_allclose(factor, np.diag(u.T @ hat @ u), atol=1e-12)
    np.testing.assert_allclose(values, np.linalg.svd(x, compute_uv=False))


@pytest.mark.parametrize("rank", [1, 2])
def test_a_bottleneck_shrinks_each_direction_by_its_own_size(rank):
    x, y = study.Problems(12, 3, 2, 1.0, 4).at(30.0)
    fitted, shrunk = study.bottleneck_shrinkage(x, y, 0.6, rank)
    fit = study.dropout_fit(x, y, 0.6, "bottleneck", rank)
    np.testing.assert_allclose(np.linalg.svd(fit, compute_uv=False), fitted * shrunk, atol=1e-12)
    assert (shrunk > 0).sum() == rank


def test_table_and_figure(tmp_path, capsys):
    arguments = [*SMALL, "--placement", "bottleneck", "--rank", "1", "--figure", str(tmp_path / "x.png")]
    assert main(STUDY, arguments) == 0
    out = capsys.readouterr().out
    assert "nearest λ" in out
    assert "rank = 1" in out
    assert (tmp_path / "x.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("distances", "words"),
    [
        (
            [0.0, 0.178, 0.23],
            "is a ridge's only at condition number 1 of X; elsewhere the nearest ridge's differs by 18 to 23 %",
        ),
        ([0.05, 0.05, 0.05], "is no ridge's: the nearest ridge's differs by 5 %"),
        ([0.0, 1e-15, 0.0], "is a ridge's, at every condition number of X here."),
    ],
)
def test_the_finding_follows_the_distances(distances, words):
    shown = study.table(Config(spread=(1.0, 3.0, 10.0)), with_distances(distances))
    assert words in shown.finding


def with_distances(distances):
    """A study's result with the distances as given."""
    found = study.run(Config(spread=(1.0, 3.0, 10.0), draws=2))
    return dataclasses.replace(found, predicted=found.predicted | {"distance": np.array(distances)})


def test_figure_shows_the_result():
    config = Config(samples=12, features=3, outputs=2, draws=20)
    result = study.run(config)
    distance, linear, bottleneck = study.plot(config, result).axes
    assert distance.get_xscale() == "log"
    assert distance.get_title() == f"output masks: up to {100 * max(result.predicted['distance']):.0f} % from any ridge"
    curve, problems = distance.lines[0], study.Problems(12, 3, 2, 1.0, 0)
    np.testing.assert_array_equal(curve.get_ydata(), result.predicted["curve_distance_output"])
    for placement in ("output", "input"):  # each curve is of its own placement
        found = tikhonov.nearest_ridge(*problems.at(result.predicted["curve_spread"][-1]), 0.7, placement).distance
        assert result.predicted[f"curve_distance_{placement}"][-1] == pytest.approx(found)
    np.testing.assert_array_equal(linear.lines[-1].get_ydata(), result.predicted["shrinkage_ridge"])
    np.testing.assert_array_equal(bottleneck.lines[0].get_ydata(), result.predicted["shrinkage_bottleneck"])


def test_no_dropout_has_no_noise():
    result = study.run(Config(samples=12, features=3, outputs=1, keep_prob=1.0, draws=10))
    np.testing.assert_array_equal(result.measured["z"], 0)
    np.testing.assert_array_equal(result.predicted["distance"], 0)


@pytest.mark.parametrize(("gap", "stderr", "z"), [(2.0, 0.5, 4.0), (2.0, 0.0, np.inf), (-2.0, 0.0, -np.inf), (0, 0, 0)])
def test_standardised(gap, stderr, z):
    row = study.Row(tikhonov.NearestRidge(0.0, 0.0), 10.0, tikhonov.SampleMean(10.0 + gap, 0.1), float(stderr))
    assert study.standardised(row) == pytest.approx(z)


@pytest.mark.parametrize("placement", ["output", "input", "bottleneck"])
@pytest.mark.parametrize("p", [1e-6, 1e-3, 0.999, 0.9999999])
def test_z_of_a_correct_prediction_where_masks_hardly_vary(placement, p):
    """Planted: z of −1e8 to −∞, in the standard error of a sample that has met none of the rare masks."""
    config = Config(keep_prob=p, placement=placement, spread=(1.0, 10.0), draws=50)
    assert max(abs(z) for z in study.run(config).measured["z"]) < 5


def test_z_is_in_the_samples_own_standard_error_where_masks_vary():
    result = study.run(Config(spread=(3.0,), draws=100))
    gap = result.measured["loss"][0] - result.predicted["loss"][0]
    assert result.measured["z"][0] == gap / result.measured["loss_stderr"][0]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--keep-prob", "0"], "--keep-prob must be a keep probability in (0, 1]"),
        (["--samples", "2"], "--samples must be at least features = 8, received 2"),
        (["--rank", "7"], "--rank must be at most min(n1, n2) = 6, received 7"),
        (["--rank", "0"], "--rank must be a whole number, 1 or above, received 0"),
        (["--spread", "0.5"], "--spread must be condition numbers in [1, 1e12], received 0.5"),
        (["--spread"], "--spread must have at least one value, received none"),
        (["--noise", "-1"], "--noise must be a finite number, 0 or above, received -1.0"),
        (["--draws", "1"], "--draws must be a whole number, 2 or above, received 1"),
        (["--features", "1"], "--features must be a whole number, 2 or above, received 1"),
        (["--outputs", "0"], "--outputs must be a whole number, 1 or above, received 0"),
        (["--seed", "-1"], "--seed must be a whole number, 0 or above, received -1"),
    ],
)
def test_bad_flags_are_one_line(flags, words, capsys):
    assert main(STUDY, flags) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: {words}\n" or captured.err.startswith(f"error: {words}: 1 - (drop rate)")


@pytest.mark.bad_input
def test_unknown_placement_from_the_library():
    config = Config()
    object.__setattr__(config, "placement", "hidden")
    with pytest.raises(ArgumentError, match=r"placement must be one of output, input, bottleneck"):
        study.validate(config)
