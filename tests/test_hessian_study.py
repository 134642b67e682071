"""`python -m allora_analysis.hessian`: table, JSON, figure, refusals."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from allora_analysis import cli, hessian
from allora_analysis.hessian import study
from allora_analysis.hessian.study import STUDY, Config
from allora_analysis.study import plain

SMALL = Config(features=12, outputs=5, rank=2, ratios=(0.5, 1.0, 3.0), draws=20, samples=9, seed=3)
FLAGS = [
    "--features",
    "12",
    "--outputs",
    "5",
    "--rank",
    "2",
    "--ratios",
    "0.5",
    "1",
    "3",
    "--draws",
    "20",
    "--samples",
    "9",
    "--seed",
    "3",
]


@pytest.fixture(scope="module")
def result():
    return study.run(SMALL)


def test_predictions_stand_beside_measurements(result):
    p, m = result.predicted, result.measured
    assert p["n_samples"] == [6, 12, 36]
    assert p["rank"] == m["rank"] == [6, 12, 12]
    assert p["log_condition"] == [
        pytest.approx(math.log(hessian.marchenko_pastur_condition(12 / n))) for n in (6, 12, 36)
    ]
    assert [value is None for value in p["log_condition_square"]] == [True, False, True]
    assert m["log_condition_fixed_gram"][1:] == pytest.approx(p["log_condition_fixed_gram"][1:], rel=1e-10)
    for start, slope in (("lora", True), ("both_zero", False)):
        for name in ("negative", "zero", "positive"):
            assert p[start][name] == m[start][name]
        np.testing.assert_allclose(
            p[start]["eigenvalues"], m[start]["eigenvalues"], atol=1e-10 * p[start]["eigenvalues"][-1]
        )
        assert p[start]["negative"] == 2 * 5
        assert (p[start]["gradient_norm"] > 0) == slope
    assert p["lora"]["log_condition_b_block"] == pytest.approx(m["lora"]["log_condition_b_block"], rel=1e-9)
    assert p["lora"]["log_condition_gram"] == math.inf  # N = 9 < D = 12: S is singular


def test_rows_do_not_depend_on_the_others(result):
    alone = study.run(Config(features=12, outputs=5, rank=2, ratios=(3.0,), draws=20, samples=9, seed=3))
    assert alone.measured["log_condition"] == result.measured["log_condition"][2:]


def test_another_seed_other_numbers_and_no_infinity_in_json(result):
    assert study.run(replace(SMALL, seed=4)).measured["log_condition"] != result.measured["log_condition"]
    assert plain(result.predicted)["log_condition"][1] is None  # ∞


def test_table_and_figure(capsys, tmp_path):
    assert cli.main(STUDY, [*FLAGS, "--figure", str(tmp_path / "spectra.png")]) == 0
    printed = capsys.readouterr().out
    for words in ("6 of 12", "12 of 12", "∞, at finite N", "negative 10 (10)", "A = B = 0", "κ(ASAᵀ)"):
        assert words in printed
    assert (tmp_path / "spectra.png").stat().st_size > 10_000


def test_figure_shows_the_result(result):
    left, right = STUDY.plot(SMALL, result).axes
    assert left.get_xscale() == left.get_yscale() == "log"
    lines = {line.get_label(): line for line in left.get_lines()}
    medians = np.exp(result.measured["log_condition_median"])
    np.testing.assert_allclose(lines["median κ"].get_ydata(), medians)
    np.testing.assert_allclose(lines["median κ"].get_xdata(), [0.5, 1.0, 3.0])
    grid, curve = lines["Marchenko–Pastur limit"].get_data()
    np.testing.assert_allclose(curve[[0, -1]], [hessian.marchenko_pastur_condition(1 / grid[i]) for i in (0, -1)])
    steps = [line for line in right.get_lines() if "closed form" in str(line.get_label())]
    for line, start in zip(steps, ("lora", "both_zero"), strict=True):
        np.testing.assert_allclose(line.get_ydata(), result.predicted[start]["eigenvalues"])


def test_a_large_layer_is_predicted_and_not_measured():
    config = Config(features=600, outputs=400, rank=2, ratios=(0.01,), draws=2, samples=20)
    result = study.run(config)
    assert result.measured["lora"]["negative"] is None
    assert result.predicted["lora"]["negative"] == 2 * 20
    assert "not measured at this size" in "".join(study.table(config, result).notes)
    assert STUDY.plot(config, result).axes[1].get_lines()


def test_b_block_singular_below_rank_samples():
    config = Config(features=8, outputs=4, rank=4, ratios=(1.0,), draws=2, samples=2)
    result = study.run(config)
    assert result.predicted["lora"]["log_condition_b_block"] == math.inf
    assert result.measured["lora"]["log_condition_b_block"] == math.inf
    assert "κ(ASAᵀ) = ∞" in "".join(study.table(config, result).notes)
    plain(result)


def test_interrupted_keeps_the_finished_rows(monkeypatch):
    right, calls = study._ratio, []

    def once(config, ratio):
        calls.append(ratio)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return right(config, ratio)

    monkeypatch.setattr(study, "_ratio", once)
    result = study.run(SMALL)
    assert result.interrupted
    assert result.predicted["n_samples"] == [6]
    assert study.table(SMALL, result).rows


BAD = [
    (["--rank", "6"], "rank must be at most min(n1, n2) = 5, received 6"),
    (["--rank", "0"], "rank must be"),
    (["--features", "0"], "features must be"),
    (["--outputs", "-1"], "outputs must be"),
    (["--ratios", "0.001"], "ratios must give N of 1 or more, above 0.04167 here, received 0.001"),
    (["--ratios", "-1"], "ratios must be a finite number above 0, received -1.0"),
    (["--ratios", "nan"], "ratios must be"),
    (["--ratios"], "ratios must have at least one value"),
    (["--draws", "1"], "draws must be"),
    (["--samples", "0"], "samples must be"),
    (["--seed", "-1"], "seed must be"),
    (
        ["--network", "--seed", "99999999999999999999"],
        "seed must be a whole number in [0, 18446744073709551615]",
    ),
    (["--ratios", "1e16"], "ratios: the design of N/D = 1e+16 would need"),
    (["--ratios", "1e30"], "ratios: the design of N/D = 1e+30 would need"),
    (["--ratios", "1e308"], "ratios: the design of N/D = 1e+308 would need"),
    (["--samples", "1000000000000000000"], "samples: a design would need"),
    (["--features", "10000000000"], "features, outputs: a design would need 2.98e+12 GiB"),
]


@pytest.mark.bad_input
@pytest.mark.parametrize(("flags", "message"), BAD)
def test_bad_flags_are_one_line_and_status_2(capsys, flags, message):
    assert cli.main(STUDY, [*FLAGS, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_network_part(capsys):
    assert cli.main(STUDY, [*FLAGS, "--network", "--rank", "1", "--ratios", "1", "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    predicted, measured = document["predicted"]["network"], document["measured"]["network"]
    assert predicted["negative"] >= predicted["negative_at_least"] == sum(predicted["layer_gradient_ranks"].values())
    assert measured["gradient_a_norm"] == pytest.approx(0, abs=1e-12)
    assert measured["gradient_b_norm"] > 0.1
    assert measured["start"]["smallest"][0] < -0.1
    assert measured["trained"]["loss"] < measured["start"]["loss"]
    notes = study._digits_notes(predicted, measured)
    assert f"{predicted['negative']} negative directions of {measured['start']['parameters']}" in notes[0]
    assert "after training" in notes[1]
