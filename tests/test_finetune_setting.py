"""What a run is and gives: its fields are the record's key; what makes no sense, or lacks a leaf, is one clear line."""

import copy
import dataclasses

import pytest

from allora_analysis import cli, records
from allora_analysis.finetune import study
from allora_analysis.finetune.run import check_result, summarised
from allora_analysis.finetune.setting import ARMS, PROTOCOL, WITH_ETA, Setting, check
from allora_analysis.validation import ArgumentError


def setting(**fields):
    return Setting(**({"model": "m", "data": "d", "arm": "lora"} | fields))


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_has_a_valid_run(arm):
    made = check(setting(arm=arm, eta2=2 if arm in WITH_ETA else None))
    assert made.eta == (2**0.5 if arm in WITH_ETA else None)
    assert arm in made.words()
    assert ("η² = 2" in made.words()) == (arm in WITH_ETA)


def test_equal_numbers_are_one_run_and_every_field_is_in_the_key():
    made = check(setting(learning_rate=1, betas=(0, 0.5), drop_rate=0.25))
    assert made.learning_rate == 1.0
    assert isinstance(made.learning_rate, float)
    assert made.drop_rate == 0.25
    other = {"arm": "dora", "optimizer": "sgd", "task": "multiple_choice", "placement": "bottleneck"}
    other |= {"schedule": "constant", "precision": "bf16", "model": "n", "data": "e", "betas": (0.5, 0.5)}
    other |= {"own_dropout": False}
    keys = {records.key(made, PROTOCOL)}
    for field in dataclasses.fields(Setting):
        value = other.get(field.name, 7)
        keys.add(records.key(dataclasses.replace(made, **{field.name: value}), PROTOCOL))
    assert len(keys) == 1 + len(dataclasses.fields(Setting))
    # what all runs before the field came had, is in no key
    before = dataclasses.asdict(made)
    assert before.pop("own_dropout")
    assert records.key(before, PROTOCOL) in keys


@pytest.mark.parametrize(
    "twins",
    [
        [{"max_steps": 2, "epochs": epochs} for epochs in (1, 2, 3)],
        [{"arm": "head_only", "rank": rank, "learning_rate": 0.01 * rank} for rank in (4, 16)],
    ],
)
def test_what_has_no_effect_gives_no_twin_a_key_of_its_own(twins):
    assert len({records.key(check(setting(**fields)), PROTOCOL) for fields in twins}) == 1
    other = [fields | {"arm": "lora", "max_steps": None} for fields in twins]
    assert len({records.key(check(setting(**fields)), PROTOCOL) for fields in other}) == len(twins)


def test_words_name_dropout_and_rank_only_where_they_are_not_the_usual():
    assert "drop rate" not in setting().words()
    assert "drop rate 0.05, adamw" in setting(drop_rate=0.05).words()
    assert "drop rate 0.1 in the bottleneck, adamw" in setting(drop_rate=0.1, placement="bottleneck").words()
    assert "rank" not in setting().words()
    assert "lora, rank 32, adamw" in setting(rank=32).words()
    assert "own dropout" not in setting().words()
    assert "own dropout off, seed 0" in setting(own_dropout=False).words()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"arm": "lorra"}, "arm must be one of"),
        ({"optimizer": "lion"}, "optimizer"),
        ({"schedule": "cosine"}, "schedule"),
        ({"precision": "fp16"}, "precision"),
        ({"task": "regression"}, "task"),
        ({"placement": "output"}, "placement"),
        ({"arm": "allora_adamw", "eta2": 2.0, "optimizer": "sgd"}, "optimizer must be adamw"),
        ({"rank": 0}, "rank"),
        ({"epochs": 0}, "epochs"),
        ({"max_steps": 0}, "max_steps"),
        ({"batch_size": 10, "accumulation": 4}, "accumulation must divide the batch size 10, received 4"),
        ({"seed": -1}, "seed"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"max_length": 1}, "max_length"),
        ({"betas": (0.9, 1.0)}, "betas must be in"),
        ({"betas": (float("nan"), 0.5)}, "betas"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"head_learning_rate": -1.0}, "head_learning_rate"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"max_grad_norm": -1.0}, "max_grad_norm"),
        ({"drop_rate": 1.0}, "drop_rate"),
        ({"arm": "allora"}, "eta2 must be given for the arm allora"),
        ({"eta2": 2.0}, "the arm lora has no η"),
        ({"arm": "allora", "eta2": -2.0}, "eta2"),
        ({"arm": "allora_0", "eta2": 2.0, "drop_rate": 0.05}, "drop_rate must be 0 for the arm allora_0"),
        ({"arm": "head_only", "drop_rate": 0.05}, "drop_rate must be 0"),
        ({"learning_rate": 1e39}, "learning_rate must be at most 1e.30"),
        ({"arm": "allora", "eta2": 1e39}, "eta2 must be at most 1e.30"),
        ({"arm": "allora", "eta2": 1e-38}, "eta2 must be at least 1e-30"),
        ({"arm": "dora", "placement": "bottleneck", "drop_rate": 0.1}, "placement must be input for the arm dora"),
        ({"placement": "bottleneck"}, "placement must be input at drop rate 0"),
        ({"optimizer": "sgd", "epsilon": 1e-6}, "epsilon must be left at 1e-08 for the optimizer sgd"),
        ({"optimizer": "momentum", "betas": (0.5, 0.9)}, "betas must be left at"),
        ({"seed": 2**32}, "seed"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused(fields, named):
    with pytest.raises(ArgumentError, match=named) as caught:
        check(setting(**fields))
    assert "\n" not in str(caught.value)


@pytest.mark.bad_input
def test_betas_are_two():
    # Typed as a pair: with the hook on, the wrong length does not even reach the check.
    made = object.__new__(Setting)
    for field in dataclasses.fields(Setting):
        object.__setattr__(made, field.name, getattr(setting(), field.name))
    object.__setattr__(made, "betas", (0.9,))
    with pytest.raises(ArgumentError, match="betas must be two numbers"):
        check(made)


# -- a record's result


BY_LAYER = {
    "step": [0, 3, 9],
    "layers": {"q": [0.0, 0.1, 0.7], "k": [0.0, 0.3, 0.2], "v": [0.0, 0.2, 0.3]},
}
WHOLE = {"epochs": [{"step": 9, "test_accuracy": 0.5, "test_loss": 1.0}], "row_norms": summarised(BY_LAYER)}


def test_norms_over_layers():
    found = summarised(BY_LAYER)
    assert found["step"] == [0, 3, 9]
    assert found["mean"] == [0.0, 0.2, 0.4], "six digits, of 0.20000000000000004 too"
    assert found["longest"] == 0.7
    assert summarised({"step": [1], "layers": {"q": [0.00123456]}})["longest"] == 0.00123
    nothing = {"step": [0, 1], "layers": {}}
    assert summarised(nothing) == {"step": [0, 1], "mean": [], "longest": None}


def test_a_whole_result_passes():
    check_result("one", WHOLE)
    check_result("one", {"epochs": []})


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("epochs",), None, "epochs of its result is missing or null"),
        (("epochs", 0, "test_accuracy"), None, r"epochs\[0\].test_accuracy of its result is missing or null"),
        (("epochs", 0, "test_loss"), "much", r"epochs\[0\].test_loss of its result is 'much'"),
        (("row_norms",), None, "row_norms.step of its result is missing or null"),
        (("row_norms", "mean"), [0.1], r"row_norms.mean of its result is \[0.1\]"),
        (("row_norms", "mean", 1), None, r"row_norms.mean of its result is \[0.0, None"),
        (("row_norms", "mean"), None, "row_norms.mean of its result is missing or null"),
        (("row_norms",), BY_LAYER, "row_norms.mean of its result is missing or null"),
    ],
)
def test_a_leaf_that_is_missing_or_null_is_one_line(path, value, words):
    result = copy.deepcopy(WHOLE)
    *above, leaf = path
    at = result
    for part in above:
        at = at[part]
    at[leaf] = value
    with pytest.raises(ArgumentError, match=f"finetune-0.json: {words}") as caught:
        check_result("finetune-0.json", result)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("delete the record and run again")


def test_help_says_that_no_own_dropout_turns_it_off(capsys):
    with pytest.raises(SystemExit):
        cli.main(study.STUDY, ["--help"])
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--no-own-dropout With the flag the model's own dropout (a BERT's is 0.1) is off in training" in told
    assert "(default: it stays on)" in told
