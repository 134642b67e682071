"""A run from its start to its record: learns, is found again, and goes on from its checkpoints to the same result."""

import contextlib
import dataclasses
import io
import itertools
import json
import math
import sys
import types

import numpy as np
import pytest

from allora_analysis import records
from allora_analysis.finetune import data as text_data
from allora_analysis.finetune.setting import Setting, check
from tests import tiny_finetune as tiny

pytest.importorskip("peft")
import torch
from transformers import TrainerCallback

from allora_analysis.finetune import machine, models, run, tasks, trainer, training
from allora_analysis.finetune.machine import quiet
from allora_analysis.finetune.run import steps_of
from allora_analysis.grid.reading import right_rows
from allora_analysis.validation import ArgumentError


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    return str(tiny.bert(root / "bert")), text_data.load(str(tiny.sentences(root / "films")))


def setting(**fields):
    given = {"arm": "lora", "rank": 2, "learning_rate": 0.01, "head_learning_rate": 0.01, "epochs": 3, "batch_size": 8}
    return check(Setting("bert", "films", **(given | fields)))


def start(films, made, results=None, **options):
    model, data = films
    digests = {"model": "0", "data": data.digest}
    return run.run(made, lambda: models.load(model, data.classes), data, digests, results, device="cpu", **options)


def test_a_recorded_run_is_not_run_again(films, tmp_path):
    first = start(films, setting(), tmp_path)
    assert first.ran
    data = films[1]

    def never():
        raise AssertionError("the model was loaded")

    again = run.run(setting(), never, data, {"model": "0", "data": data.digest}, tmp_path)
    assert not again.ran
    assert again.result == json.loads(json.dumps(first.result))
    (path,) = tmp_path.iterdir()
    record = records.load(path)
    assert record.config["arm"] == "lora"
    assert record.provenance["processes"] == 1
    assert record.provenance["resumed"] is False
    assert [entry["step"] for entry in first.result["epochs"]] == [6, 12, 18]
    assert [entry["epoch"] for entry in first.result["epochs"]] == [1, 2, 3]
    assert first.result["rows"] == {"train": 48, "validation": 16, "test": 24}
    assert steps_of(first.result["loss"]) == list(range(1, 19))


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        (ArgumentError("model 'bert': is broken"), "is broken"),
        (KeyboardInterrupt(), "from the start: no checkpoint yet"),
    ],
)
def test_a_run_that_ends_before_its_first_checkpoint_leaves_no_folder(films, tmp_path, ending, told):
    def broken():
        raise ending

    with pytest.raises(type(ending), match=told):
        run.run(setting(), broken, films[1], {"model": "0", "data": films[1].digest}, tmp_path, device="cpu")
    assert not list(tmp_path.iterdir())


def test_learns(films, tmp_path):
    """One word tells the label: a tiny model with random weights finds it, far above the most frequent label's rate."""
    made = setting(epochs=8, batch_size=20, learning_rate=0.02, head_learning_rate=0.02, rank=8)
    data = text_data.load(str(tiny.sentences(tmp_path / "films", 200)))
    result = start((films[0], data), made).result
    assert result["loss"]["value"][-1] < 0.3
    assert result["epochs"][-1]["test_accuracy"] > 0.85
    assert result["majority_rates"]["test"] < 0.7


@pytest.mark.parametrize("total", [1, 5, 10, 11, 500])
def test_norms_are_taken_at_the_first_steps_and_the_last(total):
    steps = trainer.norm_steps(total)
    assert steps[:1] == (0,)
    assert steps[-1] == total
    assert list(steps) == sorted(set(steps))
    assert set(range(min(10, total) + 1)) <= set(steps)


def test_after_the_first_steps_norms_are_taken_evenly_in_log_step():
    late = trainer.norm_steps(10_000)[-16:]  # before, whole steps are coarser
    gaps = [math.log(after / before) for before, after in itertools.pairwise(late)]
    assert gaps == pytest.approx([math.log(10_000 / 10) / trainer.POINTS] * 15, abs=0.01)


def test_the_last_step(films):
    assert setting(batch_size=7).steps(48) == 21
    assert setting(max_steps=5).steps(48) == 5
    result = start(films, setting(max_steps=8)).result
    assert result["steps"] == 8
    assert [entry["step"] for entry in result["epochs"]] == [6, 8]


def test_a_loss_that_is_not_finite_ends_the_run_and_is_recorded(films, tmp_path, monkeypatch, capsys):
    """From step 9 on, in the second of three epochs: the first epoch is kept, and the weights are those of step 8."""
    theirs = tasks.sentence_loss

    def broken(outputs, labels, num_items_in_batch=None):
        loss = theirs(outputs, labels, num_items_in_batch)
        calls.append(loss)
        return loss * math.nan if len(calls) > 8 else loss

    calls = []
    monkeypatch.setattr(tasks, "sentence_loss", broken)
    result = start(films, setting(), tmp_path).result
    assert (result["diverged_at_step"], result["steps"]) == (9, 8)
    assert [entry["step"] for entry in result["epochs"]] == [6]
    assert steps_of(result["loss"]) == result["row_norms"]["step"][1:] == list(range(1, 9))
    assert not (tmp_path / "unfinished").exists()
    calls.clear()
    again = start(films, setting(), tmp_path)
    assert not again.ran
    assert again.result == json.loads(json.dumps(result))
    assert "Traceback" not in capsys.readouterr().err


def test_a_rate_that_is_far_too_large_ends_the_run(films):
    fields = {"optimizer": "sgd", "learning_rate": 1e30, "head_learning_rate": 1e30, "max_grad_norm": 0.0}
    result = start(films, setting(**fields)).result
    assert result["diverged_at_step"] in (2, 3)
    assert result["epochs"] == []


@pytest.mark.parametrize("part", ["classifier", "lora_B"])
def test_weights_that_the_last_step_of_an_epoch_breaks(films, monkeypatch, part):
    """The loss was finite; the evaluation's is not: nothing of it is kept, and the step that broke it is named."""
    theirs = trainer.History.on_step_end

    def breaking(self, args, state, control, model=None, **kwargs):
        if state.global_step == 12:
            with torch.no_grad():
                trained = (one for name, one in model.named_parameters() if part in name and one.requires_grad)
                next(trained).fill_(math.nan)
        theirs(self, args, state, control, model=model, **kwargs)

    monkeypatch.setattr(trainer.History, "on_step_end", breaking)
    result = start(films, setting(epochs=2)).result
    assert (result["diverged_at_step"], result["steps"]) == (12, 12)
    assert [entry["step"] for entry in result["epochs"]] == [6]
    assert bool(result["induced_norms"]) == (part == "classifier")
    json.dumps(result, allow_nan=False)


def test_a_checkpoint_of_an_older_revision_is_finished():
    """Its log has the mean and the largest row norm of a layer."""
    log = [{"step": i, "row_norms": {"a": {"mean": float(i), "max": 9.0}}} for i in (0, 1)]
    assert trainer.collect(log)["row_norms"]["mean"] == [0.0, 1.0]


def test_norms_that_are_not_finite_are_left_out():
    norms = [{"step": i, "row_norms": {"a": m}} for i, m in ((0, 0.0), (1, 1.5), (2, math.nan))]
    collected = trainer.collect(norms)
    assert collected["row_norms"] == {"step": [0, 1], "mean": [0.0, 1.5], "longest": 1.5}


def test_losses_are_kept_up_to_the_first_that_is_not_finite():
    log = [{"step": 5 * i, "loss": loss} for i, loss in enumerate((0.70000049, 0.6, math.inf, 0.5), 1)]
    assert trainer.collect(log)["loss"] == {"every": 5, "value": [0.7, 0.6]}
    assert steps_of(trainer.collect(log)["loss"]) == [5, 10]
    assert steps_of(trainer.collect([])["loss"]) == []
    assert steps_of({"step": [21, 42], "value": [0.7, 0.6]}) == [21, 42], "an older record"


def test_accumulated_parts_are_the_whole_batchs_gradient(tmp_path):
    """Without dropout; the last batch of an epoch has 7 rows in parts of 2, 2, 2 and 1."""
    films = str(tiny.bert(tmp_path / "bert", 0.0)), text_data.load(str(tiny.sentences(tmp_path / "films", 47)))
    fields = {"optimizer": "sgd", "batch_size": 10, "learning_rate": 1.0, "head_learning_rate": 1.0}
    whole = start(films, setting(**fields)).result
    parts = start(films, setting(**fields, accumulation=5)).result
    assert steps_of(parts["loss"]) == steps_of(whole["loss"])
    assert parts["loss"]["value"] == pytest.approx(whole["loss"]["value"], rel=1e-4)
    assert max(abs(b - a) for a, b in itertools.pairwise(whole["loss"]["value"])) > 0.01


def test_bf16_runs_on_the_cpu(films):
    made = setting(precision="bf16", epochs=1)
    result = start(films, made).result
    exact = start(films, dataclasses.replace(made, precision="fp32")).result
    assert result["loss"]["value"] != exact["loss"]["value"]
    assert result["loss"]["value"] == pytest.approx(exact["loss"]["value"], rel=0.05)


@pytest.mark.parametrize("arm", ["lora", "allora", "dora"])
def test_gradient_checkpointing_changes_no_result(films, arm):
    """Dropout of the model's own and of the adapters is drawn again as it was."""
    made = setting(arm=arm, eta2=2.0 if arm == "allora" else None, drop_rate=0.2, max_steps=4)
    plain = start(films, made).result
    twice = start(films, made, gradient_checkpointing=True).result
    assert twice["loss"]["value"] == pytest.approx(plain["loss"]["value"], rel=1e-5)
    assert twice["epochs"] == [pytest.approx(entry, rel=1e-5) for entry in plain["epochs"]]


@pytest.mark.parametrize(("schedule", "wanted"), [("constant", [0, 0.5, 1, 1]), ("linear", [0, 0.5, 1, 0.5])])
def test_the_rates_along_a_run(films, tmp_path, schedule, wanted):
    """Warm-up over 2 of 4 steps, for the adapters and for the classifier from each one's own rate."""
    made = setting(max_steps=4, warmup_steps=2, schedule=schedule, head_learning_rate=0.03)
    model, data = films
    whole = training.make(made, models.load(model, 2), data, tmp_path, save_steps=10**9, device="cpu")
    seen = []

    class Rates(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
            seen.append([group["lr"] for group in optimizer.param_groups])

    whole.add_callback(Rates())
    with quiet():
        whole.train()
    assert seen == [[pytest.approx(0.01 * rate), pytest.approx(0.03 * rate)] for rate in wanted]


def test_row_norms_are_those_of_the_product(films):
    from allora_analysis.finetune import arms

    pretrained = models.load(films[0], 2)
    adapted = arms.adapt(pretrained.model, setting(arm="lora_x_eta", eta2=4.0))
    assert {*trainer.norms_by_layer(adapted).values()} == {0.0}
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    found = trainer.norms_by_layer(adapted)
    layer = adapted.base_model.model.bert.encoder.layer[1].attention.self.query
    product = 2.0 * (layer.lora_B.default.weight @ layer.lora_A.default.weight).detach()
    wanted = product.norm(dim=1)
    assert found["bert.encoder.layer.1.attention.self.query"] == pytest.approx(float(wanted.mean()), rel=1e-5)
    assert len(found) == 13
    largest = trainer.induced_norms(adapted)
    assert largest["bert.encoder.layer.1.attention.self.query"] == pytest.approx(
        float(torch.linalg.matrix_norm(product, 2)), rel=1e-5
    )
    assert largest.keys() == found.keys()


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_row_norms_of_experts_are_those_of_each_experts_product(rank, sign):
    """Planted: those of all experts' ranks in one product, and a norm below 0."""
    peft = pytest.importorskip("peft")
    experts, base = 4, torch.nn.Module()
    base.mixed = torch.nn.Module()
    base.mixed.stack = torch.nn.Parameter(torch.randn(experts, 5, 6))
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=[], target_parameters=["mixed.stack"])
    adapted = peft.inject_adapter_in_model(config, base)
    layer = adapted.mixed
    torch.nn.init.normal_(layer.lora_B.default.weight)
    layer.scaling["default"] *= sign
    a, b = layer.lora_A.default.weight.detach(), layer.lora_B.default.weight.detach()
    products = [2.0 * b[:, e::experts] @ a[rank * e : rank * (e + 1)] for e in range(experts)]
    wanted = torch.cat([product.norm(dim=1) for product in products])
    assert trainer.norms_by_layer(adapted) == {"mixed": pytest.approx(float(wanted.mean()), rel=1e-5)}
    largest = max(float(torch.linalg.matrix_norm(product, 2)) for product in products)
    assert trainer.induced_norms(adapted) == {"mixed": pytest.approx(largest, rel=1e-5)}


def test_memory_and_time_are_in_the_provenance(films, tmp_path):
    start(films, setting(max_steps=2), tmp_path)
    (path,) = tmp_path.iterdir()
    provenance = records.load(path).provenance
    assert 0 < provenance["seconds_a_step"] < 60
    assert 10**8 < provenance["peak_memory_bytes"] < 10**11


def test_peak_memory_without_proc(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "PROCESS", tmp_path / "none")
    machine.forget_peak("cpu")
    assert machine.peak_memory("cpu") > 10**8


@pytest.mark.bad_input
@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_a_batch_too_large_for_the_memory_is_one_line(films, monkeypatch, where):
    def full(*args, **kwargs):
        if where == "cuda":
            raise torch.OutOfMemoryError("Tried to allocate 20 GiB")
        torch.empty(2**55)

    monkeypatch.setattr(trainer.Watched, "train", full)
    with pytest.raises(ArgumentError, match="does not fit into the memory"):
        start(films, setting())


@pytest.mark.parametrize("ending", [None, KeyboardInterrupt, trainer.Diverged(2), RuntimeError("shapes")], ids=repr)
def test_the_bar_is_taken_off_the_terminal_however_a_run_ends(films, monkeypatch, ending):
    """Else it goes on being drawn over what follows, and the cursor stays hidden."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def ended(*args, **kwargs):
        if ending is not None:
            raise ending

    monkeypatch.setattr(trainer.History, "on_step_end", ended)
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with contextlib.suppress(KeyboardInterrupt, RuntimeError):
        start(films, setting(max_steps=2))
    assert sys.stderr is terminal  # the bar puts itself in its place
    assert terminal.getvalue().count("\x1b[?25l") == terminal.getvalue().count("\x1b[?25h") == 1


def test_other_errors_keep_their_traceback(films, monkeypatch):
    def wrong(*args, **kwargs):
        raise RuntimeError("shapes")

    monkeypatch.setattr(trainer.Watched, "train", wrong)
    with pytest.raises(RuntimeError, match="shapes"):
        start(films, setting())


def test_which_sentences_were_right_is_recorded_in_the_splits_order(films, tmp_path):
    made = setting()
    outcome = start(films, made, tmp_path)
    model, data = films
    right = right_rows(outcome.result)
    assert right.shape == (outcome.result["rows"]["test"],)
    assert right.mean() == pytest.approx(outcome.result["epochs"][-1]["test_accuracy"])
    assert [*outcome.result["right"]] == ["test"], "nothing reads which validation sentences were right"
    # Planted: the order in which sentences are evaluated, short ones first.
    loaded = models.load(model, data.classes)
    rows = tasks.encode_sentences(data.splits["test"], loaded.tokenizer, made.max_length)
    placed = tasks._placed(rows)
    assert [row["place"] for row in placed] != list(range(len(rows)))
    logits = np.eye(2)[[rows[row["place"]]["labels"] ^ (row["place"] % 3 == 0) for row in placed]]
    labels = np.array([[row["labels"], row["place"]] for row in placed])
    found = tasks.measured_sentences(types.SimpleNamespace(predictions=logits, label_ids=labels))
    result = {"right": {"test": found["right"]}, "rows": {"test": len(rows)}}
    assert right_rows(result).tolist() == [place % 3 != 0 for place in range(len(rows))]
    assert right_rows({}) is None
