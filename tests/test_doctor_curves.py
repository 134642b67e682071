"""Where a recorded curve ends, and what is a hit; the committed comparison reads as it did when it was recorded."""

from pathlib import Path

import pytest

from allora_analysis.doctor.edge import SEEDS, TRIALS, Compared, Curve, Edge, _predicted, compared, curves, grown, table
from allora_analysis.finetune.setting import PROTOCOL, STUDY
from allora_analysis.validation import ArgumentError
from experiments import stable_rates
from tests.toy_run import save


def curve(accuracies, majority=0.5):
    return Curve("m", "sgd", "linear", 1.0, 0.1, accuracies, majority)


@pytest.mark.parametrize(
    ("accuracies", "edge"),
    [
        ({0.1: (0.8, 0.8), 1.0: (0.81, 0.79), 10.0: (0.5, 0.8)}, (1.0, 10.0)),  # one seed fails
        ({0.1: (0.55, 0.52), 1.0: (0.8, 0.8), 3.0: (0.5, 0.5), 10.0: (0.5, 0.5)}, (1.0, 3.0)),  # too slow is no edge
        ({0.1: (0.8,), 1.0: (0.9,)}, (1.0, None)),
        ({0.5: (0.5, 0.5), 1.0: (0.5, 0.49)}, (0.0, 0.5)),  # nothing trains
    ],
)
def test_the_edge_lies_above_the_largest_rate_at_which_every_seed_trains(accuracies, edge):
    assert curve(accuracies).edge == edge


@pytest.mark.parametrize(
    ("predicted", "hit"), [(0.49, False), (0.5, True), (3.0, True), (20.0, True), (20.1, False), (None, None)]
)
def test_a_hit_is_within_a_factor_of_two_of_the_edge(predicted, hit):
    assert Compared(curve({0.1: (0.8,), 1.0: (0.8,), 10.0: (0.5,)}), predicted).hit is hit


def test_where_nothing_trains_the_edge_is_below_the_lowest_rate():
    found = curve({0.5: (0.5,), 1.0: (0.5,)})
    assert [Compared(found, rate).hit for rate in (0.0, 1.0, 1.1)] == [True, True, False]


def test_a_classifier_beyond_its_own_edge_leaves_no_rate():
    found = curve({0.1: (0.8,), 1.0: (0.8,)})
    assert [_predicted(found, {"rate": 3.0, "head_rate": head}) for head in (0.09, 0.1, 5.0)] == [0.0, 3.0, 3.0]
    assert _predicted(found, None) is None


def test_a_curve_without_an_edge_can_only_be_missed():
    found = curve({0.1: (0.8,), 1.0: (0.8,)})
    assert [Compared(found, rate).hit for rate in (0.4, 0.6, 100.0)] == [False, None, None]


CONFIG = {
    "model": "m", "optimizer": "sgd", "schedule": "constant", "max_grad_norm": 0.0, "drop_rate": 0.0, "epochs": 1,
    "head_learning_rate": 0.1, "data": "d", "rank": 4, "batch_size": 8,
}  # fmt: skip


def test_curves_of_records(tmp_path):
    config = CONFIG
    for rate, accuracy in ((0.1, 0.8), (1.0, None), (3.0, 0.6)):
        for seed in (0, 1):
            epochs = [] if accuracy is None else [{"step": 1, "test_accuracy": accuracy}]
            result = {
                "epochs": epochs,
                "diverged_at_step": 5 if accuracy is None else None,
                "majority_rates": {"test": 0.5},
                "steps": 10,
            }
            save(tmp_path, config | {"arm": "lora", "seed": seed, "learning_rate": rate}, result, STUDY, PROTOCOL)
            save(tmp_path, config | {"arm": "dora", "seed": seed, "learning_rate": rate}, result, STUDY, PROTOCOL)
    (found,) = curves(tmp_path)
    assert found.accuracies == {0.1: (0.8, 0.8), 1.0: (0.5, 0.5), 3.0: (0.6, 0.6)}  # a diverged run counts as a guess
    assert found.edge == (0.1, 1.0)
    result = {"epochs": [{"step": 1, "test_accuracy": 0.9}], "diverged_at_step": None, "majority_rates": {"test": 0.5}}
    for epochs, steps in ((2, 20), (1.5, 5)):  # whatever the order of the files
        more = config | {"arm": "lora", "seed": 0, "learning_rate": 0.1, "epochs": epochs}
        save(tmp_path, more, result | {"steps": steps, "majority_rates": {"test": 0.5}}, STUDY, PROTOCOL)
    (found,) = curves(tmp_path)
    assert found.accuracies[0.1] == (0.9, 0.8)
    for rate in (0.1, 1.0):
        save(
            tmp_path,
            config | {"arm": "lora", "seed": 0, "learning_rate": rate, "data": "another"},
            result | {"steps": 5},
            STUDY,
            PROTOCOL,
        )
    assert [(one.data, one.rank, one.batch_size) for one in curves(tmp_path)] == [("another", 4, 8), ("d", 4, 8)]


def test_a_curve_has_the_same_seeds_at_every_rate(tmp_path):
    """A rate with more seeds would fail the more easily, so those of one rate alone count only if asked for."""
    result = {"diverged_at_step": None, "majority_rates": {"test": 0.5}, "steps": 10}
    config = CONFIG | {"arm": "lora"}
    for rate, seed, accuracy in ((0.1, 0, 0.8), (1.0, 0, 0.8), (1.0, SEEDS[-1] + 1, 0.5)):
        epochs = {"epochs": [{"step": 1, "test_accuracy": accuracy}]}
        save(tmp_path, config | {"seed": seed, "learning_rate": rate}, result | epochs, STUDY, PROTOCOL)
    assert [one.edge for one in curves(tmp_path)] == [(1.0, None)]
    assert [one.edge for one in curves(tmp_path, seeds=None)] == [(0.1, 1.0)]
    # runs without the model's own dropout are of another model: none of them is on the curve
    epochs = {"epochs": [{"step": 1, "test_accuracy": 0.5}]}
    save(tmp_path, config | {"seed": 0, "learning_rate": 0.1, "own_dropout": False}, result | epochs, STUDY, PROTOCOL)
    assert [one.edge for one in curves(tmp_path)] == [(1.0, None)]


def test_records_of_another_protocol_or_study_are_no_curve_and_one_that_lacks_a_part_is_refused(tmp_path):
    result = {"epochs": [{"step": 1, "test_accuracy": 0.8}], "diverged_at_step": None, "steps": 10}
    for rate in (0.1, 1.0):
        config = CONFIG | {"arm": "lora", "seed": 0, "learning_rate": rate}
        save(tmp_path, config, result | {"majority_rates": {"test": 0.5}}, STUDY, PROTOCOL + 1)
    save(tmp_path, {"layer": 1}, {}, "hessian", PROTOCOL)
    assert curves(tmp_path) == []
    save(tmp_path, config, result | {"epochs": [{"step": 1}]}, STUDY, PROTOCOL)
    with pytest.raises(ArgumentError, match="test_accuracy of its result is missing"):
        curves(tmp_path)


def test_the_recorded_edges_of_both_models_and_optimizers():
    found = {(one.model, one.optimizer, one.schedule, one.head): one.edge for one in curves()}
    assert found["all-MiniLM-L6-v2", "adamw", "linear", 1e-3] == (0.003, 0.01)
    assert found["all-MiniLM-L6-v2", "sgd", "linear", 0.1] == (3.0, 10.0)
    assert found["all-MiniLM-L6-v2", "sgd", "constant", 0.1] == (0.5, 1.0)
    assert found["SmolLM2-135M", "adamw", "linear", 1e-3] == (0.003, None)
    assert found["SmolLM2-135M", "sgd", "constant", 1e-3] == (0.2, None)
    assert found["SmolLM2-135M", "sgd", "constant", 0.1] == (0.0, 0.5)


def test_the_recorded_predictions_hit_three_curves_of_four():
    """docs/doctor.md says so, with the numbers."""
    found = {
        (one.curve.model, one.curve.optimizer, one.curve.schedule, one.curve.head): (one.hit, one.predicted)
        for one in compared()
    }
    assert {key: hit for key, (hit, _) in found.items() if hit is not None} == {
        ("all-MiniLM-L6-v2", "adamw", "linear", 1e-3): True,
        ("all-MiniLM-L6-v2", "sgd", "linear", 0.1): True,
        ("all-MiniLM-L6-v2", "sgd", "constant", 0.1): False,
        ("SmolLM2-135M", "sgd", "constant", 0.1): True,
    }
    page = (Path(__file__).parents[1] / "docs/doctor.md").read_text(encoding="utf-8")
    assert all(f"{predicted:.2g}" in page for _, predicted in found.values() if predicted)


def test_along_its_path_the_larger_of_two_rates_passes_the_edge():
    """docs/doctor.md says so; the recorded curve ends between the two."""
    found = {one.rate: rate for one, rate in grown().items()}
    page = (Path(__file__).parents[1] / "docs/doctor.md").read_text(encoding="utf-8")
    assert all(f"{rate:.2g}" in page for rate in found.values())
    assert found.keys() == {1.0, 0.5}
    assert found[1.0] < 1.0
    assert found[0.5] > 0.5
    (curve,) = [one for one in curves() if (one.model, one.optimizer, one.clip) == ("all-MiniLM-L6-v2", "sgd", 0.0)]
    assert curve.edge == (0.5, 1.0)


def test_one_later_seed_moves_one_edge(capsys):
    """The experiment's docstring and docs/doctor.md say so."""
    (moved,) = [
        one
        for one in compared(seeds=None)
        if one.hit is False and one.curve.schedule == "linear" and one.curve.optimizer == "sgd"
    ]
    assert (moved.curve.model, moved.curve.edge) == ("all-MiniLM-L6-v2", (2.0, 3.0))
    assert stable_rates.main(["--every-seed"]) == 0
    assert "3 of 5" in capsys.readouterr().out


def test_the_comparison_is_a_table(tmp_path, capsys):
    found = compared(tmp_path / "none")
    assert {one.hit for one in found} == {None}
    assert len(table(found).rows) == len(curves())
    assert stable_rates.main(["--results", str(tmp_path)]) == 0
    assert "not run" in capsys.readouterr().out


def test_a_prediction_is_recorded_once(tmp_path, monkeypatch, capsys):
    from allora_analysis.finetune import data, sources

    calls = []

    def measured(*args, **kwargs):
        calls.append((args, kwargs))
        return Edge(5.0, 0.4, 2.0, 13, 0.69, kwargs["steps"], 1.0)

    monkeypatch.setattr(stable_rates, "edge", measured)
    monkeypatch.setattr(sources, "digest", lambda source: "0" * 64)
    monkeypatch.setattr(data, "load", lambda source, name: type("Data", (), {"digest": "1" * 64}))
    words = ["--model", "x", "--model-name", "all-MiniLM-L6-v2", "--data", "y", "--results", str(tmp_path)]
    for _ in range(2):
        assert stable_rates.main(words) == 0
    assert len(calls) == 6  # two an optimizer, with and without clipping, and two along SGD's path
    assert [args[2].optimizer for args, _ in calls] == ["sgd", "sgd", "adamw", "adamw", "sgd", "sgd"]
    assert [kwargs["clip"] for _, kwargs in calls] == [0.0, 1.0, 0.0, 1.0, 0.0, 0.0]
    assert {one.predicted for one in compared(tmp_path)} == {5.0, None}
    assert len(TRIALS) == 8
    capsys.readouterr()
    assert stable_rates.main([*words, "--only", "adamw", "--seeds", "2", "--dry-run"]) == 0
    told = [line.split("  ")[0] + line[-8:] for line in capsys.readouterr().out.splitlines()]
    assert told == ["recorded, seed 0"] * 2 + ["to run, seed 1"] * 2
    assert stable_rates.main([*words, "--only", "adamw", "--seeds", "2"]) == 0
    assert [kwargs["seed"] for _, kwargs in calls[6:]] == [1, 1]


@pytest.mark.bad_input
@pytest.mark.parametrize("name", ["none", "file"])
def test_results_that_are_no_folder_are_one_line(name, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert stable_rates.main(["--results", str(tmp_path / name)]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert f"{name}: is not a folder; name one that predictions are in" in error


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--only", "adamw"], "--only: is for the predictions of a model, which --model names"),
        (["--data", "y"], "--data: is for the predictions"),
        (["--seeds", "2"], "--seeds: is for the predictions"),
        (["--model-name", "SmolLM2-135M"], "--model-name: is for the predictions"),
        (["--dry-run"], "--dry-run: is for the predictions"),
        (["--model", "x"], "--data: missing"),
        (["--model", "x", "--data", "y", "--model-name", "z"], "--model-name"),
        (["--model", "x", "--data", "y", "--model-name", "all-MiniLM-L6-v2", "--only", "adam"], "--only"),
        (["--model", "x", "--data", "y", "--model-name", "all-MiniLM-L6-v2", "--seeds", "0"], "--seeds"),
    ],
)
def test_mistakes_are_one_line(words, told, tmp_path, capsys):
    assert stable_rates.main([*words, "--results", str(tmp_path)]) == 2
    assert told in capsys.readouterr().err
