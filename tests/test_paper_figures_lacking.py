"""The figures that the paper lacks, from tiny fresh results and planted records."""

import dataclasses

import numpy as np
import pytest

from allora_analysis.claims import s4_4_on_the_update as on_the_update
from allora_analysis.claims.tables.procedures import rises
from allora_analysis.deviation.study import Config as DeviationConfig
from allora_analysis.dropout_sgd.study import Config as SgdConfig
from allora_analysis.escape.study import Config as EscapeConfig
from allora_analysis.grid.presets import LISTS
from allora_analysis.hessian.study import Config as HessianConfig
from allora_analysis.plotting import ARMS
from allora_analysis.ripple.study import Config as RippleConfig
from allora_analysis.width.study import Config as WidthConfig
from paper_figures import (
    crossover,
    deviation,
    escape,
    eta_squared,
    learning_rates,
    procedures,
    ripple,
    width,
    zero_initialisation,
)
from tests import planted_one_rate
from tests.figure_layout import assert_readable
from tests.planted_finetune import plant


def lines(axis) -> dict:
    return {line.get_label(): line for line in axis.get_lines()}


def test_ripple():
    loaded = ripple.load_data(RippleConfig(depth=6, width=16, rank=2, eta=(0.25, 1.0, 4.0), replicas=8))
    data = loaded.data
    # The fine grid meets the study's own prediction at its ends, and the bound lies above what is typical.
    predicted = data.result.predicted["log_typical"]
    np.testing.assert_allclose(data.typical[[0, -1]], [predicted[0], predicted[-1]])
    assert (data.band[:, 0] < data.typical).all()
    assert (data.typical < data.band[:, 1]).all()
    figure = ripple.make_figure(loaded)
    left, right = figure.axes
    bound, aligned = (lines(left)[name].get_ydata() for name in ("bound", "aligned: attains it"))
    np.testing.assert_allclose(bound * np.log(10), data.result.predicted["log_bound"])
    np.testing.assert_allclose(bound, aligned, rtol=1e-6)
    assert len(left.containers) == 2  # simulated, with intervals: typical, and ASF-LoRA in its color
    assert left.containers[1][0].get_color() == ARMS["asf_lora"].colour
    assert right.get_yscale() == "log"
    assert "nats" in right.get_ylabel()
    worst, typical = (round(data.result.predicted[name][-1] / np.log(10)) for name in ("log_bound", "log_typical"))
    assert f"10$^{{{worst}}}$-fold at worst, 10$^{{{typical}}}$-fold at random" in left.get_title()
    assert right.get_title().startswith("From η = 0.25 to 1 what η adds grows\n")
    assert "L = 6 layers" in figure.get_supxlabel()
    assert "‖BA‖ ≈ ‖W‖; the paper's η: 1 to 2" in figure.get_supxlabel()
    assert_readable(figure)


def test_zero_initialisation():
    loaded = zero_initialisation.load_data(
        HessianConfig(features=8, outputs=5, rank=2, samples=12, ratios=(1.0,), draws=2)
    )
    figure = zero_initialisation.make_figure(loaded)
    for axis, start in zip(figure.axes, ("lora", "both_zero"), strict=True):
        predicted = np.array(loaded.data.predicted[start]["eigenvalues"], float)
        drawn = lines(axis)
        np.testing.assert_array_equal(drawn["closed form"].get_ydata(), predicted)
        dense = drawn["dense Hessian (every few)"].get_ydata()
        assert len(dense) == 2 * (8 + 5)
        np.testing.assert_allclose(dense, predicted, atol=1e-6 * predicted.max())
        counts = loaded.data.predicted[start]
        told = axis.texts[0].get_text()
        assert f"{counts['negative']} negative" in told
        assert counts["negative"] == 2 * 5  # r·rank G
    titles = [axis.get_title().partition("\n")[2] for axis in figure.axes]
    assert titles == ["a slope, and directions of negative curvature", "no slope: a saddle point"]
    assert "‖∇$_B$L‖ = 0" in figure.axes[1].texts[0].get_text()
    assert "‖∇$_B$L‖ = 0" not in figure.axes[0].texts[0].get_text()
    assert_readable(figure)


def test_deviation():
    loaded = deviation.load_data(DeviationConfig(samples=6, masks=(1, 10, 100), draws=50), (0.5, 0.99))
    figure = deviation.make_figure(loaded)
    left, right = figure.axes
    drawn = lines(left)
    bound, exact = (drawn[name].get_ydata() for name in ("the paper's bound, Std[L]/√n", "exact"))
    assert (np.array(exact) < np.array(bound)).all()
    np.testing.assert_allclose(np.array(bound) * np.sqrt([1, 10, 100]), loaded.data.result.predicted["loss_std"])
    assert len(left.containers) == 1
    ratios = np.array(exact) / np.array(bound)
    assert f"{ratios.min():.2f} to {ratios.max():.2f} of the paper's bound" in left.get_title()
    shares = {label: line.get_ydata() for label, line in lines(right).items()}
    assert shares["keep_prob = 0.5"][-1] == pytest.approx(np.sqrt(2 / np.pi), abs=0.01)
    assert shares["keep_prob = 0.99"][0] < shares["keep_prob = 0.5"][0] <= 1
    assert (left.get_xscale(), left.get_yscale(), right.get_xscale()) == ("log", "log", "log")
    assert_readable(figure)


def test_crossover():
    config = SgdConfig(samples=12, features=6, steps=60, replicas=20, noise=2.0)
    loaded = crossover.load_data(config, (0.0, 3.0), 3)
    steps = loaded.data.steps
    assert list(steps) == ["output", "input"]
    assert all(len(found) == 3 for of in steps.values() for found in of.values())
    assert steps["output"][0.0] == [None] * 3  # without noise plain gradient descent is never behind
    assert None not in steps["output"][3.0]
    figure = crossover.make_figure(dataclasses.replace(loaded, data=loaded.data._replace(steps=crossovers())))
    left, right = figure.axes
    drawn = lines(left)
    assert f"crossover, step {loaded.data.result.predicted['crossover']}" in drawn
    np.testing.assert_array_equal(drawn["dropout SGD"].get_ydata(), loaded.data.result.predicted["curve_risk"])
    assert len(left.containers) == 1
    medians = lines(right)["output masks, upper median of 3"]
    assert list(medians.get_xdata()) == [0.5, 1.0, 2.0]
    np.testing.assert_array_equal(medians.get_ydata(), [np.nan, 7, 4])  # two of three have none within 60 steps
    told = [text.get_text() for text in right.texts]
    assert told.count("2 of 3") == 2  # of each placement; the line ends before them
    assert "none within 60 steps" in told
    assert "The less noise, the later" in right.get_title()
    p = loaded.data.result.predicted
    bests = [f"{min(p[f'curve_{name}']):.3f}" for name in ("risk", "risk_plain")]
    assert left.get_title().startswith(f"Dropout ahead from step {p['crossover']};\n")
    assert "at their best (×): dropout {}, plain {}".format(*bests) in left.get_title()
    mean, below = drawn["mean of dropout SGD"], drawn["dropout SGD"]
    assert (mean.get_linestyle(), below.get_linestyle()) == ("--", "-")
    assert left.get_lines().index(mean) > left.get_lines().index(below)  # drawn on the curve that it lies on
    assert mean.get_linewidth() < below.get_linewidth() / 2
    assert mean.get_color() != below.get_color()
    assert "N = 12" in figure.get_supxlabel()
    assert_readable(figure)


def crossovers():
    of = {0.5: [None, 50, None], 1.0: [7, 3, 30], 2.0: [4, 4, 5]}
    return {"output": of, "input": of}


def test_width():
    loaded = width.load_data(WidthConfig(widths=(32, 64), ranks=(2, 4), width=32, rank=4, seeds=2))
    left, right = width.make_figure(loaded).axes
    ends = [line for line in left.get_lines() if line.get_marker() == "*" and len(line.get_xdata())]
    assert [int(line.get_xdata()[0]) for line in ends] == [384, 576]
    assert all(0.9 < line.get_ydata()[0] < 1 for line in ends)
    assert len(loaded.records) == 6
    assert {line.get_color() for line in ends} == {ARMS["allora"].colour}
    assert right.get_title() == "Only LoRA+ may keep the rate\nas n grows (Adam)"
    measured = loaded.data.result.measured
    np.testing.assert_array_equal(lines(left)["on rows of ALLoRA, Adam"].get_ydata(), measured["allora, adam"]["kept"])
    assert [line.get_ydata()[-1] for line in right.get_lines()[::2]] == [2**-0.5, 2**-0.5, 1, 2**-0.5, 2**-0.5]
    assert_readable(left.figure)


def test_escape():
    loaded = escape.load_data(EscapeConfig(steps=20, seeds=2))
    figure = escape.make_figure(loaded)
    titles = [axis.get_title() for axis in figure.axes[:4]]
    fast, slow = "ALLoRA starts as\nLoRA at η·l", "ALLoRA starts as\nLoRA at l"
    found = {"SGD": (fast, 0.02), "momentum": (fast, 0.002), "AdamW": (slow, 0.005), "ALLoRAAdamW": (fast, 0.005)}
    assert titles == [f"{name}\n{start}\n(l = {rate:g})" for name, (start, rate) in found.items()]
    measured = loaded.data.result.measured
    for axis, below, name in zip(figure.axes[:4], figure.axes[4:], measured, strict=False):
        drawn = lines(axis)
        for arm, label in escape.LABELS.items():
            np.testing.assert_array_equal(drawn[label].get_ydata(), measured[name][arm]["norms"])
            assert drawn[label].get_color() == ARMS[arm].colour
        assert len(axis.collections) == 3  # an interval each
        assert (below.get_xscale(), below.get_yscale()) == ("log", "symlog")
        rings = [line.get_ydata()[0] for line in below.get_lines() if line.get_marker() == "o"]
        assert min(rings) < escape.EXACT < 0.1 < max(rings)  # ALLoRA's first step is the one LoRA's, and is seen at 0
        assert below.get_ylim()[0] == 0
        assert below.get_lines()[0].get_xdata()[0] == 1
    assert escape.first_step({"to_lora": [0, 0.5], "to_lora_eta": [0, 0.5]}) == "ALLoRA starts as neither"
    assert_readable(figure)


def rising_with_eta(run):
    """LoRA at η·l gains 2 points from η² = 1 to 4, ALLoRAAdamW 0.9 of it, ALLoRA as listed 0.1."""
    gain = {"lora": run.learning_rate / 1e-4 - 1, "allora_adamw": 0.9 * ((run.eta2 or 1) ** 0.5 - 1)}
    gain["allora"] = 0.1 * ((run.eta2 or 1) ** 0.5 - 1)
    return [0.5, 0.8 + 0.01 * run.seed + 0.02 * gain.get(run.arm, 0.0)]


def test_procedures(monkeypatch, tmp_path):
    table = planted_one_rate.planted(planted_one_rate.rising(planted_one_rate.both))
    monkeypatch.setattr(procedures, "recorded", lambda folder: (table, ("laboratory/digits",)))
    plant(tmp_path, [*on_the_update.WANTED, *on_the_update.PERCEIVED], rising_with_eta)
    loaded = procedures.load_data(tmp_path, seeds=(0,))
    assert loaded.missing == ()
    figure = procedures.make_figure(loaded)
    left, right = figure.axes
    points = np.concatenate([line.get_xydata() for line in left.get_lines() if line.get_marker() in "os^"])
    np.testing.assert_allclose(sorted(points[:, 0]), sorted(loaded.data.gains["LoRA"]))
    np.testing.assert_allclose(sorted(points[:, 1]), sorted(loaded.data.gains["ALLoRA"]))
    named = [label.get_text() for label in right.get_yticklabels()]
    assert named == list(loaded.data.predicted)

    def drawn_as(marker):
        return {
            int(-line.get_ydata()[0]): line.get_xdata()[0]
            for line in right.get_lines()
            if line.get_marker() == marker and len(line.get_xdata())
        }

    drawn, measured = drawn_as("o"), drawn_as("s")
    assert measured == {place: loaded.data.measured[name]["value"] for place, name in enumerate(named)}
    assert measured[0] == pytest.approx(0, abs=0.1)
    assert measured[len(named) - 1] == pytest.approx(1, abs=0.1)
    shapes = [of[0] for of in loaded.data.predicted.values()]
    assert drawn == {place: one.ratio for place, one in enumerate(shapes) if one.progress > procedures.TRAINED}
    assert drawn_as("D") == {named.index(name): one.value for name, one in loaded.data.on_text.items()}
    assert loaded.data.on_text["factor after AdamW's division"].value == pytest.approx(0.9)
    assert loaded.data.on_text["as listed, under AdamW"].value == pytest.approx(0.1)
    assert [text.get_text() for text in right.texts] == ["trains next to nothing"]
    assert figure.get_suptitle().startswith("Table 3's ALLoRA rises")
    low, high = loaded.data.ratio[1:]
    assert right.get_title().startswith(
        f"{sum(low <= one.ratio <= high for one in shapes)} of {len(shapes)} procedures rise as Table 3's\n"
    )
    assert right.get_title().endswith("\nin a linear layer, 1 of 8 on digits,\n1 of 2 on a language model")
    assert lines(right)[f"Table 3's ratio, {loaded.data.ratio[0]:.2f}"].get_xdata()[0] == loaded.data.ratio[0]
    assert_readable(figure)


def test_procedures_without_the_laboratory(tmp_path):
    loaded = procedures.load_data(tmp_path, (0,))
    assert loaded.missing[0].words() == (
        "8 of 8 procedures lack seeds in the laboratory; run python -m experiments.one_rate"
    )
    assert (
        loaded.missing[1].words().startswith("54 of 54 runs are not recorded; run python -m experiments.on_the_update")
    )
    figure = procedures.make_figure(loaded)
    assert not {"digits", "language"} & set(figure.axes[1].get_title().split())
    assert_readable(figure)


def test_eta_squared(tmp_path):
    """Planted: from η² = 1 to 4 ALLoRA loses 1 point, ALLoRA-0 0.2, LoRA at η·l gains 2 from its rate."""
    loss = {"allora": 1, "allora_0": 0.2}

    def accuracy(run):
        gain = 2 * (run.learning_rate - 1e-4) / 1e-4 if run.arm == "lora" else -loss[run.arm] * (run.eta2 - 1) / 3
        return [0.5, 0.8 + 0.01 * run.seed + gain / 100]

    plant(tmp_path, LISTS["perception"]["desk"], accuracy)
    loaded = eta_squared.load_data(tmp_path)
    assert loaded.missing == ()
    np.testing.assert_allclose(loaded.data.ours["allora"].mean, [0, -1 / 3, -1], atol=1e-9)
    np.testing.assert_allclose(loaded.data.ours["lora_eta"].mean[[0, -1]], [0, 2], atol=1e-9)
    np.testing.assert_allclose(loaded.data.paper["allora"][-1], rises("ALLoRA").mean())
    np.testing.assert_allclose(loaded.data.paper["lora_eta"][-1], rises("LoRA").mean())
    figure = eta_squared.make_figure(loaded)
    left, right = figure.axes
    assert left.get_title().startswith(
        "In print ALLoRA gains 2.3 points,\nALLoRA-0 gains 2.2 points\n(from η² = 1 to 4; "
    )
    assert right.get_title().startswith(
        "Here ALLoRA loses 1.0 points,\nALLoRA-0 stays within 0.2 points on average\n(AdamW, "
    )
    assert figure.legends[0].get_title().get_text() == "bars: 95 % over 3 seeds"
    assert left.get_ylim() == right.get_ylim()
    for axis in figure.axes:
        assert [bar[0].get_color() for bar in axis.containers] == [ARMS[arm].colour for arm in eta_squared.METHODS]
    assert_readable(figure)
    assert eta_squared.finding(0.02) == "stays within 0.1 points on average"
    without = eta_squared.make_figure(eta_squared.load_data("nowhere"))
    assert without.legends[0].get_title().get_text() == ""  # no bars
    assert_readable(without)


def test_what_both_arms_gain_is_said_once_where_it_is_the_same():
    told = {
        (-0.06, -0.28): "ALLoRA and ALLoRA-0\nstay within 0.3 points on average",
        (0.06, -0.6): "ALLoRA stays within 0.1 points on average,\nALLoRA-0 loses 0.6 points",
        (2.01, 2.02): "ALLoRA and ALLoRA-0\ngain 2.0 points",
        (2.0, -2.0): "ALLoRA gains 2.0 points,\nALLoRA-0 loses 2.0 points",
    }
    assert {of: eta_squared.both_arms({"allora": of[0], "allora_0": of[1], "lora_eta": 9.0}) for of in told} == told
    assert eta_squared.both_arms({"allora_0": 2.0}) == "ALLoRA-0 gains 2.0 points"
    assert eta_squared.both_arms({"lora_eta": 2.0}) == ""


ADAMW = ("all-MiniLM-L6-v2", "rotten_tomatoes", "adamw")
BEST = {"lora": 3e-4, "dora": 3e-3}


def planted(run):
    """Best at `BEST` or 1e-3, 0.01 more a seed; DoRA diverges at 3e-5."""
    if (run.arm, run.learning_rate) == ("dora", 3e-5):
        return None
    return [0.6 + 0.1 * (run.learning_rate == BEST.get(run.arm, 1e-3)) + 0.01 * run.seed]


def test_learning_rates(tmp_path):
    wanted = [run for run in LISTS["learning_rates"]["desk"] if (run.model, run.data, run.optimizer) == ADAMW]
    plant(tmp_path, wanted, planted, skip=lambda run: (run.arm, run.seed) == ("loraplus", 2))
    loaded = learning_rates.load_data(tmp_path)
    arms = loaded.data.arms[ADAMW]
    assert list(arms) == ["lora", "allora_0", "allora_adamw", "dora", "asf_lora"]  # LoRA+ lacks a seed
    assert [arms[name].rates[arms[name].best] for name in ("lora", "allora_0", "dora")] == [3e-4, 1e-3, 3e-3]
    np.testing.assert_allclose(arms["lora"].test.mean, [61, 61, 71, 61, 61, 61])
    np.testing.assert_allclose(arms["lora"].test.half, 4.30265 / np.sqrt(3), rtol=1e-5)
    assert arms["dora"].diverged == (3e-5,)
    assert len(loaded.records) == (5 * 5 + 3) * 3
    figure = learning_rates.make_figure(loaded)
    axis, *others = figure.axes
    assert len(axis.containers) == 5
    np.testing.assert_allclose(axis.containers[0][0].get_ydata(), arms["lora"].test.mean)
    assert "5 of 99 runs are not recorded" in axis.get_xlabel()
    assert axis.get_xscale() == "log"
    low, high = axis.get_ylim()
    assert low < 60 < 72 < high  # every seed's accuracy, so that no bar leaves the axes
    assert axis.get_title().startswith("ALLoRA-0's best rate is 3.3 times LoRA's\n")
    assert figure.legends[0].get_title().get_text().startswith("bars: left from the worst seed to the best, right 95 %")
    bests, *empty = others
    assert bests.get_title() == "At their best rates\nwithin 0.0 points"
    names = [label.get_text() for label in bests.get_yticklabels()]
    assert names[0] == "LoRA, 0.0003"
    heights = [bar[0].get_ydata()[0] for bar in bests.containers]
    assert len(set(heights)) == 5  # drawn apart
    assert all("experiments.learning_rates" in " ".join(t.get_text() for t in other.texts) for other in empty)
    assert_readable(figure)


def test_learning_rates_where_every_rate_diverged(tmp_path):
    own = [run for run in LISTS["learning_rates"]["desk"] if run.optimizer == "sgd" and run.arm == "lora"]
    plant(tmp_path, own, lambda run: None)
    loaded = learning_rates.load_data(tmp_path)
    (arm,) = (arms["lora"] for arms in loaded.data.arms.values() if arms)
    assert (arm.best, len(arm.rates), len(arm.diverged)) == (None, 0, len({run.learning_rate for run in own}))
    learning_rates.make_figure(loaded)


def test_learning_rates_without_records():
    loaded = learning_rates.load_data("nowhere")
    assert len(loaded.missing) == 1
    assert_readable(learning_rates.make_figure(loaded))
