"""The laboratory's arms are what they are called: momentum, rates, validation images, each baseline's own rule."""

import dataclasses

import pytest
import torch

from allora_analysis.laboratory import training
from allora_analysis.laboratory.design import PEFT, Cell
from allora_analysis.lora.pairs import lora_pairs


def adapted(task, cell):
    return training._adapted(task.network, cell, torch.Generator().manual_seed(3))


def test_the_pretrained_network_starts_by_he_s_rule():
    network = training._network((2000, 500, 5), torch.Generator().manual_seed(0))
    for layer, inputs in ((network[0], 2000), (network[2], 500)):
        scaled = layer.weight * (inputs / 2) ** 0.5  # of unit variance
        assert scaled.square().mean().item() == pytest.approx(1, abs=5 * (2 / scaled.numel()) ** 0.5)
        assert not layer.bias.any()


@pytest.mark.parametrize("lacking", ["validation", "loss"])
def test_a_loss_that_is_none_on_either_images_is_a_run_that_diverged(task, monkeypatch, lacking):
    losses = iter([None if lacking == "validation" else 0.5, None if lacking == "loss" else 0.5])
    monkeypatch.setattr(training, "_evaluate", lambda *_: (next(losses), 3))
    assert training.run(task, Cell("lora", "sgd", 1), 0.01, 7) == training.Outcome(None, 0, None)


def test_where_accuracy_chooses_rates_a_run_says_which_share_of_its_validation_images_is_wrong(task, monkeypatch):
    """Planted: the losses would choose the other way; all else of a run is as where the loss chooses."""
    counts = {}

    def evaluate(model, x, y):
        counts[len(y)] = counts.get(len(y), 0) + 1
        return 0.7, 3

    cell = Cell("lora", "sgd", 1)
    by_loss = training.run(task, cell, 0.01, 7)
    by_accuracy = training.run(task, dataclasses.replace(cell, chosen_by="accuracy"), 0.01, 7)
    assert (by_accuracy.right, by_accuracy.loss) == (by_loss.right, by_loss.loss)
    assert 0 < by_accuracy.validation < 1 < 1.5 < by_loss.validation
    monkeypatch.setattr(training, "_evaluate", evaluate)
    images = min(len(task.pool[1]) - training.TRAIN, training.VALIDATION)
    found = training.run(task, dataclasses.replace(cell, chosen_by="accuracy"), 0.01, 7)
    assert images in counts
    assert found == training.Outcome(1 - 3 / images, 3, 0.7)


@pytest.mark.parametrize(("optimizer", "momentum"), [("sgd", 0.0), ("momentum", 0.9)])
def test_momentum_is_what_it_is_called(task, optimizer, momentum):
    cell = Cell("lora", optimizer)
    groups = training._optimizer(adapted(task, cell), cell, 0.1).param_groups
    assert [group["momentum"] for group in groups] == [momentum]


def test_the_rate_falls_linearly_to_0(task, monkeypatch):
    seen, original = [], training._optimizer

    def told(*of):
        made = original(*of)
        step = made.step
        made.step = lambda: (seen.append(made.param_groups[0]["lr"]), step())[1]
        return made

    monkeypatch.setattr(training, "_optimizer", told)
    training.run(task, Cell("allora", "sgd", 4, 0.0, "inverse_sqrt", 4.0), 0.1, 7)
    assert seen == pytest.approx([0.1, 0.075, 0.05, 0.025])


def test_no_image_that_a_run_trains_on_validates_it(task, monkeypatch):
    seen, used, made = [], [], training._adapted

    def told(*of):
        model = made(*of)
        model.register_forward_pre_hook(lambda _, inputs: used.extend(row.numpy().tobytes() for row in inputs[0]))
        return model

    monkeypatch.setattr(training, "_adapted", told)
    monkeypatch.setattr(training, "_evaluate", lambda model, x, y: seen.append(x) or (0.1, 1))
    training.run(task, Cell("lora", "sgd", 1), 0.01, 7)
    drawn = torch.randperm(len(task.pool[1]), generator=torch.Generator().manual_seed(7))
    assert torch.equal(seen[0], task.pool[0][drawn[training.TRAIN :]])
    assert torch.equal(seen[1], task.test[0])
    assert used
    assert not {*used} & {row.numpy().tobytes() for row in seen[0]}


def test_each_baseline_is_what_it_is_called(task):
    made = {rule: adapted(task, Cell(rule)) for rule in PEFT}
    pairs = {rule: lora_pairs(model) for rule, model in made.items()}
    assert {pair.scaling for pair in pairs["rslora"]} == {training.RANK**0.5}
    assert all(pair.adapter in pair.module.lora_magnitude_vector for pair in pairs["dora"])
    assert all(pair.b.any() for pair in pairs["pissa"])
    groups = training._optimizer(made["loraplus"], Cell("loraplus"), 0.01).param_groups
    rates = {id(one): group["lr"] for group in groups for one in group["params"]}
    assert all(rates[id(pair.b)] == training.LORAPLUS_RATIO * rates[id(pair.a)] for pair in pairs["loraplus"])
    assert {group["weight_decay"] for group in groups} == {0.0}
