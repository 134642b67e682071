"""The escape study: what it predicts beside what it measures, its table, its figure, its command line."""

import json
import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from allora_analysis import cli, escape
from allora_analysis import study as studies
from allora_analysis.escape import study
from allora_analysis.escape.study import STUDY, Config, recipes, run
from allora_analysis.validation import ArgumentError

SMALL = {"steps": 40, "seeds": 3, "n_outputs": 6, "n_inputs": 5, "rank": 2, "teacher_rank": 2, "samples": 12}
FLAGS = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(scope="module")
def small():
    config = Config(**SMALL)
    return config, run(config)


@pytest.mark.parametrize("limit", [None, 0.2, 1.0])
@pytest.mark.parametrize("warmup", [0, 5])
def test_first_steps_are_as_predicted(limit, warmup):
    result = run(Config(**SMALL | {"steps": 8, "max_grad_norm": limit, "warmup": warmup}))
    for name in escape.OPTIMIZERS:
        for arm in escape.ARMS:
            said, seen = result.predicted[name][arm]["first_ratio"], result.measured[name][arm]["first_ratio"]
            assert seen == pytest.approx(said, rel=2e-6), (name, arm)
    # What the paper says of the start, optimizer by optimizer.
    ratios = {name: result.predicted[name]["allora"]["first_ratio"] for name in escape.OPTIMIZERS}
    assert (ratios["adamw"], ratios["allora_adamw"]) == (1, 2)
    if limit is None:
        assert ratios["sgd"] == ratios["momentum"] == 2
    if limit == 0.2:
        assert ratios["sgd"] == ratios["momentum"] == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("adaptor", ["inverse_sqrt", "exponential"])
def test_the_scalar_model_tells_small_rows(adaptor):
    """At steps small enough and a level low enough for A and the gradient to stay, predicted is measured."""
    rates = {"sgd": 5e-4, "momentum": 2.5e-4, "adamw": 8e-4, "allora_adamw": 8e-4}
    for name, rate in rates.items():
        sizes = SMALL | {"steps": 160, "momentum": 0.5}
        config = Config(
            **sizes, eta=4.0, optimizer=(name,), learning_rate=rate, levels=(0.05,), adaptor=adaptor, seed=1
        )
        result = run(config)
        said, seen = (
            {arm: part[name][arm]["steps"][0] for arm in escape.ARMS} for part in (result.predicted, result.measured)
        )
        for arm in escape.ARMS:
            assert seen[arm] == pytest.approx(said[arm], rel=0.1), (name, arm)
        assert said["lora"] > 1.8 * said["lora_eta"]  # the tolerance can tell these arms apart
        # A's growth and the residual's decline are nearly the same in arms alike: their ratio shows the adaptor alone.
        near = "lora" if name == "adamw" else "lora_eta"
        ratio = said["allora"] / said[near]
        assert seen["allora"] / seen[near] == pytest.approx(ratio, abs=0.05), name
        assert ratio == 1 if name == "adamw" else ratio > 1.1, name


def test_clock():
    plain = escape.Recipe("sgd", 0.1, steps=4)
    np.testing.assert_allclose(study.clock(plain), [0, 0.1, 0.2, 0.3, 0.4])
    warm = escape.Recipe("adamw", 0.1, steps=4, warmup=2)
    np.testing.assert_allclose(study.clock(warm), [0, 0, 0.05, 0.15, 0.25])
    moving = escape.Recipe("momentum", 0.1, steps=3, momentum=0.5)
    np.testing.assert_allclose(study.clock(moving), [0, 0.1, 0.25, 0.425])
    # What it says, done: a constant gradient of −1 on B, A fixed.
    for recipe in (plain, warm, moving, escape.Recipe("momentum", 0.1, steps=6, warmup=3, schedule="linear")):
        steps = escape.iterate(escape.constant_gradient([[1.0]], [[1.0]]), "lora", 1.0, recipe, train_a=False)
        np.testing.assert_allclose([step.norms[0, 0] for step in steps], study.clock(recipe), rtol=1e-7)


def test_crossing():
    norms = np.array([[0.0, 1.0, 3.0, 2.0, 5.0], [0.0, 1.0, 1.0, 1.0, 1.0]])
    assert study.crossing(norms, np.array([2.5, 2.0])) == [1.75, None]
    assert study.crossing(norms, np.array([1.0, 0.5])) == [1.0, 0.5]


def test_what_is_measured_is_the_drift(small):
    _, result = small
    teacher = escape.linear_teacher(**{key: value for key, value in SMALL.items() if key != "steps"})
    for name in escape.OPTIMIZERS:
        drift = escape.drift(name, 2.0, study.LEARNING_RATES[name], 40, teacher=teacher)
        measured = result.measured[name]
        for key in ("to_lora", "to_lora_eta", "parameters_to_lora", "parameters_to_lora_eta"):
            np.testing.assert_allclose(measured[key], getattr(drift, key).mean(axis=0))
        for index, arm in enumerate(escape.ARMS):
            np.testing.assert_allclose(measured[arm]["norms"], drift.norms[index].mean(axis=0))
            np.testing.assert_allclose(measured[arm]["max_norms"], drift.max_norms[index].mean(axis=0))
            errors = drift.losses[index].std(axis=0, ddof=1) / math.sqrt(3)
            np.testing.assert_allclose(measured[arm]["loss_stderr"], errors)
            final = (drift.losses[index][:, -1] / teacher.offset).mean()
            assert measured[arm]["final_loss"] == pytest.approx(final)
            assert final < 1
    assert result.measured["sgd"]["target"] == pytest.approx(teacher.target.mean())


def test_adamw_undoes_allora_and_allora_adamw_restores_it(small):
    _, result = small
    for name, near, far in (("adamw", "to_lora", "to_lora_eta"), ("allora_adamw", "to_lora_eta", "to_lora")):
        values = result.measured[name]
        assert np.all(values[near][1:8] < 0.5 * values[far][1:8])
    norms = {name: result.measured[name]["allora"]["norms"] for name in ("adamw", "allora_adamw")}
    assert np.all(norms["allora_adamw"][1:20] > 1.2 * norms["adamw"][1:20])


def test_the_scalar_part(small):
    _, result = small
    for arm in escape.ARMS:
        said, seen = result.predicted["scalar"][arm], result.measured["scalar"][arm]
        np.testing.assert_allclose(seen, said, rtol=0.01)
    trade = result.predicted["tradeoff"]
    assert trade["rate_at_zero"] == 2
    assert 1 < trade["advantage"] < 1.5
    assert trade["rate_at_level"] == pytest.approx((trade["level"] + 0.25) ** -0.5)


def test_clipped_sgd_has_no_scalar_model():
    result = run(Config(**SMALL, max_grad_norm=0.5, optimizer=("sgd", "adamw")))
    assert result.predicted["sgd"]["allora"]["norms"] is None
    assert result.predicted["sgd"]["allora"]["steps"] == [None, None]
    assert result.predicted["adamw"]["allora"]["norms"] is not None
    assert isinstance(study.plot(Config(**SMALL, max_grad_norm=0.5, optimizer=("sgd", "adamw")), result), Figure)


def test_table(small):
    config, result = small
    table = study.table(config, result)
    assert len(table.rows) == 12
    assert all(len(row) == len(table.columns) for row in table.rows)
    labels = {(row[0], row[1]) for row in table.rows}
    assert ("allora_adamw", "ALLoRAAdamW at l") in labels
    assert ("adamw", "ALLoRA at l") in labels
    (row,) = [row for row in table.rows if row[:2] == ["sgd", "ALLoRA at l"]]
    assert row[3] == "2"
    assert row[4].startswith("2 ± ")
    assert any(note.startswith("adamw: ") for note in table.notes)


def test_figure(small):
    config, result = small
    figure = study.plot(config, result)
    assert len(figure.axes) == 6
    for axis, name in zip(figure.axes, escape.OPTIMIZERS, strict=False):
        lines = {line.get_label(): line for line in axis.get_lines()}
        for arm, label in (("lora", "LoRA at l"), ("lora_eta", "LoRA at η·l"), ("allora", "ALLoRA at l")):
            np.testing.assert_array_equal(lines[label].get_ydata(), result.measured[name][arm]["norms"])
        # The same arm has the same color in every panel.
        colours = [lines[label].get_color() for label in ("LoRA at l", "LoRA at η·l", "ALLoRA at l")]
        assert colours == [figure.axes[0].get_lines()[index].get_color() for index in (0, 2, 4)]
        assert len(set(colours)) == 3
    assert figure.axes[4].get_title().startswith("scalar model")
    assert figure.axes[5].get_xscale() == "log"
    assert figure.axes[5].get_title() == (
        "ALLoRA's first step is LoRA's\nat η·l: SGD, momentum, ALLoRAAdamW;\nat l: AdamW"
    )
    one = Config(**SMALL, optimizer=("momentum",))
    assert len(study.plot(one, run(one)).axes) == 3
    two = Config(**SMALL, optimizer=("momentum", "adamw"))
    assert len(study.plot(two, run(two)).axes) == 4


def test_command_line(tmp_path, capsys):
    picture = tmp_path / "escape.png"
    assert cli.main(STUDY, [*FLAGS, "--figure", str(picture), "--max-grad-norm", "1"]) == 0
    assert "Leaving B = 0" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert cli.main(STUDY, [*FLAGS, "--optimizer", "sgd", "adamw", "sgd", "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["measured"]) == {"sgd", "adamw", "scalar"}
    assert set(document["predicted"]) == {"sgd", "adamw", "scalar", "tradeoff"}
    assert len(document["measured"]["sgd"]["allora"]["norms"]) == 41
    assert cli.main(STUDY, ["--eta", "1e-170"]) == 2
    assert capsys.readouterr().err == "error: --eta must be in [1e-50, 1e+50], received 1e-170\n"


def test_interrupted(monkeypatch, capsys):
    right, calls = study.compared, []

    def stops(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return right(*arguments, **options)

    monkeypatch.setattr(study, "compared", stops)
    assert cli.main(STUDY, FLAGS) == studies.INTERRUPTED
    out = capsys.readouterr().out
    assert "sgd" in out
    assert "momentum" not in out


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("eta", -1.0),
        ("optimizer", ()),
        ("levels", ()),
        ("levels", (0.1, 0.0)),
        ("seeds", 1),
        ("steps", 0),
        ("learning_rate", 0.0),
        ("rank", 9),
        ("momentum", 1.0),
        ("warmup", 300),
        ("noise", -1.0),
        ("max_grad_norm", 0.0),
    ],
)
def test_bad_input(field, value):
    with pytest.raises(ArgumentError, match=field):
        run(Config(**SMALL | {field: value}))


UNSEEN = [
    {"optimizer": ("sgd", "momentum"), "learning_rate": 1e-161},
    {"optimizer": ("adamw",), "learning_rate": 1e-200},
    {"optimizer": ("adamw",), "eps": 1e300},
    {"optimizer": ("sgd",), "max_grad_norm": 1e-320},
]


@pytest.mark.parametrize("options", UNSEEN, ids=lambda options: "-".join(options))
def test_a_first_step_too_small_to_see_has_no_ratio(options):
    config = Config(**SMALL | {"steps": 3} | options)
    result = run(config)
    for name in config.optimizer:
        assert result.predicted[name]["lora_eta"]["first_ratio"] == pytest.approx(2)
        assert all(result.measured[name][arm]["first_ratio"] is None for arm in escape.ARMS)
    assert json.loads(studies.as_json(STUDY, config, result))["measured"]
    assert [row[4] for row in study.table(config, result).rows] == ["–"] * 3 * len(config.optimizer)
    study.plot(config, result).draw_without_rendering()


def test_the_ratio_under_a_tiny_clipping_norm_is_that_under_a_small_one():
    teacher = escape.linear_teacher(**{key: value for key, value in SMALL.items() if key != "steps"})
    tiny, small = (
        study.first_ratio(teacher, "allora", 2.0, escape.Recipe("sgd", 0.1, max_grad_norm=norm))
        for norm in (1e-320, 1e-8)
    )
    np.testing.assert_allclose(tiny, small, rtol=1e-12)


@pytest.mark.bad_input
def test_divergence_is_said():
    with pytest.raises(ArgumentError, match="training diverged under sgd"):
        run(Config(**SMALL, optimizer=("sgd",), learning_rate=50.0))
    names = [recipe.optimizer for recipe in recipes(Config(optimizer=("adamw", "sgd", "adamw")))]
    assert names == ["adamw", "sgd"]
