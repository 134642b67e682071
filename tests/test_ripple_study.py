"""The showcase as a user runs it: table, JSON, figure, mistakes; by layer the figure has the closed forms' lines."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest

from allora_analysis.cli import main
from allora_analysis.ripple import fair_scales, study
from allora_analysis.ripple.figure import by_depth
from allora_analysis.ripple.growth import residual_log
from allora_analysis.ripple.study import STUDY, Config, plot, run

SMALL = ["--depth", "6", "--width", "16", "--rank", "2", "--eta", "0.5", "2", "--replicas", "8"]


def document(capsys, *flags):
    assert main(STUDY, [*SMALL, *flags, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("architecture", ["linear", "relu", "prelayernorm"])
@pytest.mark.parametrize("method", ["matrices", "isotropy", "chi_square"])
def test_json_holds_a_number_per_eta(architecture, method, capsys):
    result = document(capsys, "--architecture", architecture, "--method", method)
    predicted, measured = result["predicted"], result["measured"]
    for name in ("log_bound", "log_amgm_bound", "log_typical", "log_typical_std", "log_printed_rate"):
        assert len(predicted[name]) == 2, name
    for name in ("log_aligned", "log_typical", "log_typical_stderr", "log_asf", "log_asf_stderr"):
        assert len(measured[name]) == 2, name
        assert all(isinstance(value, float) for value in measured[name])
    np.testing.assert_allclose(measured["log_aligned"], predicted["log_bound"], atol=1e-10)
    assert np.all(np.array(predicted["log_bound"]) > np.array(measured["log_typical"]))
    assert np.all(np.array(predicted["log_amgm_bound"]) >= np.array(predicted["log_bound"]) - 1e-12)
    assert np.all(np.abs(measured["log_typical_z"]) < 8)
    assert (measured["cosine_square"] is None) == (method == "chi_square")
    second = measured["log_typical_chi_square_z"]
    assert second == [None, None] if method == "chi_square" else np.all(np.abs(second) < 5)


def test_table_and_figure_files(tmp_path, capsys):
    figure, out = tmp_path / "ripple.png", tmp_path / "out.json"
    assert main(STUDY, [*SMALL, "--figure", str(figure), "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert re.match(
        r"At η = \S+ the output of \d+ layers is 10\^\d+\.\d times as long as the input in\s+the\s+worst\s+case, 10\^",
        printed,
    )
    assert "AM–GM bound" in printed
    assert "m̄ =" in printed
    assert "ALLoRA's forward pass" in printed
    assert figure.stat().st_size > 10_000
    drawn = json.loads(out.read_text(encoding="utf-8"))
    assert drawn["study"] == "ripple"
    assert document(capsys, "--seed", "5")["measured"] != drawn["measured"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--eta", "1"],
        ["--eta", "0", "1"],
        ["--eta", "0"],
        ["--eta", "2", "1", "1"],
        ["--w-std", "0"],
        ["--b-std", "0"],
        ["--depth", "1"],
        ["--rank", "16"],
        ["--depth", "200"],
        ["--architecture", "prelayernorm", "--depth", "130"],
        ["--architecture", "prelayernorm", "--w-std", "0"],
        ["--architecture", "relu", "--width", "2", "--depth", "60"],
        ["--width", "1", "--rank", "1"],
    ],
)
def test_edge_cases_run_and_draw(flags, tmp_path):
    """η = 0, one η, doubles, no W, no B, one layer, full rank, repeated layers, all networks dead, width 1."""
    path = tmp_path / "edge.svg"
    assert main(STUDY, [*SMALL, *flags, "--figure", str(path)]) == 0
    assert path.exists()


def test_w_std_0_tells_no_share():
    result = run(Config(depth=3, width=8, rank=2, eta=(1.0,), w_std=0.0, replicas=4))
    assert result.predicted["log_bound_adapter"] == [None]
    assert result.predicted["log_amgm_bound"] == [math.inf]
    assert result.measured["log_aligned"][0] == pytest.approx(result.predicted["log_bound"][0], abs=1e-10)


def test_all_dead_networks_give_none_and_dashes():
    config = Config(depth=80, width=2, rank=1, eta=(1.0,), replicas=4, architecture="relu")
    result = run(config)
    assert result.measured["log_typical"] == [None]
    assert result.measured["survival"] == [0.0]
    assert "–" in study.table(config, result).rows[0]


def test_deep_stack_at_eta_100():
    config = Config(depth=1_000, width=8, rank=2, eta=(100.0,), replicas=4, method="chi_square")
    result = run(config)
    assert result.predicted["log_printed_rate"][0] == pytest.approx(1e3 * math.log(101))
    assert result.predicted["log_bound"][0] > 745  # beyond float64 without the logarithm
    assert result.measured["log_aligned"][0] == pytest.approx(result.predicted["log_bound"][0], rel=1e-12)
    gap = result.measured["log_typical"][0] - result.predicted["log_typical"][0]
    assert abs(gap) < 4 * result.predicted["log_typical_std"][0]


def test_what_stands_beside_the_growth_is_what_it_is_called():
    config = Config(depth=6, width=16, rank=2, eta=(1.0, 100.0), replicas=8)
    result = run(config)
    p, m = result.predicted, result.measured
    w, ba = study.drawn_norms(6, 16, 2, fair_scales(16, 2), np.random.default_rng([config.seed, 1]))
    assert (m["mean_weight_norm"], m["mean_ratio"]) == (w.mean(), np.mean(ba / w))
    assert p["cosine_square"] == 1 / 16
    assert abs(m["cosine_square"] - p["cosine_square"]) < 6 * m["cosine_square_stderr"]
    assert (p["log_allora"], m["log_allora"]) == (p["log_typical"][0], m["log_typical"][0])  # LoRA's at η = 1
    assert m["log_asf"][1] < m["log_typical"][1] - 1
    growth = study.typical_growth(6, 16, 2, 1.0, fair_scales(16, 2), config.architecture)
    assert p["log_typical_std"][0] == growth.variance**0.5
    relu = run(Config(depth=6, width=4, rank=2, eta=(1.0,), replicas=8, architecture="relu"))
    assert relu.predicted["survival"] == pytest.approx((1 - 2.0**-4) ** 6)


@pytest.mark.parametrize("architecture", ["linear", "prelayernorm"])
def test_depth_1e5_repeats_its_layers_and_still_attains_the_bound(architecture, rng):
    norms = study.drawn_norms(100_001, 8, 2, fair_scales(8, 2), rng)
    assert norms[0].shape == (100_001,)
    assert len(np.unique(norms[0])) == 64
    bound = study.stack_bound(norms, 100.0, 8, architecture).log_bound
    aligned = study.aligned_growth(norms, 2, (100.0,), 8, architecture, rng)
    assert aligned[0] == pytest.approx(bound, rel=1e-11)


def test_auto_turns_to_the_norms_law_where_matrices_cost_too_much():
    assert study.chosen_method(Config()) == "matrices"
    assert study.chosen_method(Config(depth=100_000)) == "chi_square"
    assert study.chosen_method(Config(method="isotropy")) == "isotropy"


def test_shares_are_differences_to_eta_0():
    scales, norms = fair_scales(16, 2), (np.array([1.5, 2.0]), np.array([0.5, 3.0]))
    for architecture in ("linear", "relu", "prelayernorm"):
        shape = (2, 16, 2)
        typical = [study.typical_growth(*shape, eta, scales, architecture).mean for eta in (0.7, 0.0)]
        share = study.typical_adapter_share(*shape, 0.7, scales, architecture)
        assert share == pytest.approx(typical[0] - typical[1], abs=1e-12)
        bounds = [study.stack_bound(norms, eta, 16, architecture).log_bound for eta in (0.7, 0.0)]
        assert study.bound_adapter_share(norms, 0.7, architecture) == pytest.approx(bounds[0] - bounds[1], abs=1e-12)


def test_estimate_of_the_root_mean_square():
    growth = np.log([1.0, 2.0, 3.0]) + 500  # squares beyond a float's range
    mean, stderr, z = study.estimate(growth, 500.0, "prelayernorm")
    squares = np.array([1.0, 4.0, 9.0])
    assert mean == pytest.approx(500 + 0.5 * math.log(squares.mean()))
    error = squares.std(ddof=1) / math.sqrt(3)
    assert stderr == pytest.approx(error / (2 * squares.mean()))
    assert z == pytest.approx((squares.mean() - 1) / error)
    assert study.estimate(np.full(3, 2.0), 2.0, "linear") == (2.0, 0.0, None)


def test_figure_draws_the_data():
    config = Config(depth=6, width=16, rank=2, eta=(2.0, 0.5), replicas=8)
    result = run(config)
    left, right = plot(config, result).axes
    bound = next(line for line in left.lines if line.get_label() == "bound")
    np.testing.assert_allclose(bound.get_ydata(), np.array(result.predicted["log_bound"])[::-1] / math.log(10))
    assert left.get_ylabel().startswith("growth")
    assert right.get_yscale() == "log"
    assert left.yaxis.get_major_formatter()(3, 0) == "$10^{3}$"
    from_0 = dataclasses.replace(config, eta=(3.0, 0.0, 1.0))
    lines = plot(from_0, run(from_0)).axes[0].lines
    curve = next(line.get_xdata() for line in lines if line.get_label() == "typical, predicted")
    assert (curve[0], curve[-1]) == (0.0, 3.0)
    one = dataclasses.replace(config, eta=(2.0,))
    assert (left.get_xscale(), plot(one, run(one)).axes[0].get_xscale()) == ("log", "linear")


def test_interrupt_keeps_what_was_finished(monkeypatch):
    done = []

    def simulate(*arguments, **options):
        if done:
            raise KeyboardInterrupt
        done.append(1)
        return original(*arguments, **options)

    original = study.simulated
    monkeypatch.setattr(study, "simulated", simulate)
    result = run(Config(depth=3, width=8, rank=2, replicas=8, method="matrices"))
    assert result.interrupted
    assert result.measured["replicas"] == 4


@pytest.mark.parametrize("w_std", [1e-170, 1e160])
def test_networks_whose_squares_leave_the_range_grow_as_predicted(w_std):
    """Planted: NaN at 1e160, and at 1e-170 every network dead."""
    config = Config(w_std=w_std, depth=2, width=4, rank=2, replicas=60)
    result = STUDY.run(config)
    assert result.measured["survival"] == [1.0] * len(config.eta)
    assert max(abs(z) for z in result.measured["log_typical_z"]) < 5
    np.testing.assert_allclose(result.measured["log_aligned"], result.predicted["log_bound"], rtol=1e-12)
    assert f"mean ‖W_l‖ = {result.measured['mean_weight_norm']:.4g}, " in STUDY.table(config, result).notes[0]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--depth", "0"], "--depth must be"),
        (["--width", "0"], "--width must be"),
        (["--rank", "17"], "--rank must be at most"),
        (["--eta"], "--eta must have at least one value"),
        (["--eta", "-1"], "--eta must be"),
        (["--eta", "nan"], "--eta must be"),
        (["--eta", "1", "1e300"], "--eta must be at most 1e+100, received 1e+300"),
        (["--w-std", "-1"], "--w-std must be"),
        (["--a-std", "-1"], "--a-std must be"),
        (["--b-std", "inf"], "--b-std must be"),
        (["--w-std", "0", "--eta", "0"], "--w-std is 0"),
        (["--w-std", "1e307", "--b-std", "1"], "--w-std: a layer leaves double precision's range"),
        (["--a-std", "1e308"], "--a-std: a layer leaves double precision's range"),
        (["--b-std", "1e308"], "--b-std: a layer leaves double precision's range"),
        (["--a-std", "1e200", "--b-std", "1e200"], "eta·a_std·b_std: a layer leaves double precision's range"),
        (["--depth", "1000000000"], "--depth: the norms of 1000000000 layers would need 14.9 GiB, more than 1"),
        (["--replicas", "1"], "--replicas must be"),
        (["--seed", "-1"], "--seed must be"),
        (["--width", "1", "--rank", "1", "--architecture", "prelayernorm"], "--width must be"),
        (["--figure", "ripple.txt"], "--figure"),
    ],
)
def test_mistakes_end_in_one_line_and_status_2(flags, words, capsys):
    assert main(STUDY, [*SMALL, *flags]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("architecture", ["linear", "relu", "prelayernorm"])
def test_lines_are_the_bound_and_the_typical_growth(architecture):
    axis = by_depth(6, 8, 2, 1.5, architecture, replicas=5).axes[0]
    bound, typical = (line.get_ydata() * math.log(10) for line in axis.lines[:2])
    scales = fair_scales(8, 2, architecture)
    norms = study.drawn_norms(6, 8, 2, scales, np.random.default_rng([0, 1]))
    assert bound[-1] == pytest.approx(study.stack_bound(norms, 1.5, 8, architecture).log_bound)
    assert typical[-1] == pytest.approx(study.typical_growth(6, 8, 2, 1.5, scales, architecture).mean)
    band = axis.collections[0].get_paths()[0].vertices * math.log(10)
    ends = band[np.isclose(band[:, 0], 6 * math.log(10)), 1]
    centre = 0.5 * (ends.min() + ends.max())
    if architecture == "prelayernorm":  # about the mean of the logarithm, below the root mean square's
        assert centre == pytest.approx(
            residual_log(6, 8, 2, scales.w_std**2, (1.5 * scales.a_std * scales.b_std) ** 2).mean
        )
        assert centre < typical[-1] - 0.02
    else:
        assert centre == pytest.approx(typical[-1])
    assert np.all(np.diff(bound) > 0)
    assert np.all(bound > typical)


def test_simulated_networks_lie_around_the_typical_growth():
    axis = by_depth(12, 32, 4, 2.0, replicas=200).axes[0]
    typical = axis.lines[1].get_ydata()
    clouds = axis.lines[2:]
    assert len(clouds) == 12
    for cloud in clouds:
        layer, values = int(cloud.get_xdata()[0]), cloud.get_ydata()
        assert abs(values.mean() - typical[layer - 1]) < 6 * values.std(ddof=1) / math.sqrt(200)


def test_the_figure_by_depth_as_it_is_drawn_unasked():
    axis = by_depth().axes[0]
    bound, typical = (round(float(line.get_ydata()[-1])) for line in axis.lines[:2])
    assert axis.get_title() == (
        f"After 48 layers 10$^{{{bound}}}$-fold at worst, 10$^{{{typical}}}$-fold at random\n"
        "(linear: η = 1, n = 64, r = 8)"
    )
    assert (len(axis.lines[0].get_xdata()), len(axis.lines[2].get_xdata())) == (48, 40)
    assert [text.get_text() for text in axis.get_legend().get_texts()].count("simulated networks") == 1


@pytest.mark.bad_input
def test_a_depth_below_one_is_refused():
    with pytest.raises(ValueError, match="depth"):
        by_depth(0)
