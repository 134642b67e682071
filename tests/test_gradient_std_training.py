"""One epoch of training against PyTorch's own modules and loops; evaluation; divergence."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from allora_analysis.gradient_std.estimator import MaskStream
from allora_analysis.gradient_std.grid import OPTIMIZERS, Setting
from allora_analysis.gradient_std.mlp import initialise
from allora_analysis.gradient_std.training import batches, evaluate, make_optimizer, train_epoch

SETTING = Setting("tiny", (6, 5), 0.5, "sgd", 0.1, 0.0, 1, 8, 4, 4, 3, 2, 0)


def problem(dtype=torch.float64):
    rng = np.random.default_rng(0)
    mlp = initialise((4, 6, 5, 3), rng, dtype)
    for tensor in mlp.parameters:
        tensor.requires_grad_(True)
    x = torch.as_tensor(rng.standard_normal((43, 4)), dtype=dtype)
    return mlp, x, torch.as_tensor(rng.integers(0, 3, 43))


def peer(mlp, x, y, setting, generator):
    """torch.nn modules, masks by hand in the order in which the toolkit draws them, torch.optim by name."""
    linears = []
    for weight, bias in zip(mlp.weights, mlp.biases, strict=True):
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        linears.append(linear)
    parameters = [parameter for linear in linears for parameter in linear.parameters()]
    optimizer = {
        "sgd": lambda: torch.optim.SGD(parameters, lr=setting.learning_rate),
        "momentum": lambda: torch.optim.SGD(parameters, lr=setting.learning_rate, momentum=0.9),
        "adam": lambda: torch.optim.Adam(parameters, lr=setting.learning_rate),
        "adamw": lambda: torch.optim.AdamW(parameters, lr=setting.learning_rate, weight_decay=setting.weight_decay),
    }[setting.optimizer]()
    stream, order = MaskStream(1 - setting.drop_rate, generator), generator.permutation(43)
    for chosen in order[:40].reshape(5, 8):
        drawn = np.empty((1, 8 * 11), dtype=np.uint8)
        if setting.drop_rate:
            stream.fill(drawn)
        kept = torch.as_tensor((drawn[0] < stream.threshold) | (setting.drop_rate == 0)).double()
        masks = [part.reshape(8, -1) / (1 - setting.drop_rate) for part in kept.split([48, 40])]
        hidden = torch.relu(linears[0](x[chosen])) * masks[0]
        hidden = torch.relu(linears[1](hidden)) * masks[1]
        loss = torch.nn.CrossEntropyLoss()(linears[2](hidden), y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return parameters


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("drop_rate", [0.0, 0.5])
def test_an_epoch_is_pytorchs(optimizer, drop_rate):
    setting = dataclasses.replace(
        SETTING, optimizer=optimizer, drop_rate=drop_rate, weight_decay=0.01 * (optimizer == "adamw")
    )
    mlp, x, y = problem()
    wanted = peer(mlp, x, y, setting, np.random.default_rng(7))
    start = [tensor.detach().clone() for tensor in mlp.parameters]
    assert train_epoch(mlp, make_optimizer(setting, mlp), (x, y), setting, np.random.default_rng(7))
    for got, want, before in zip(mlp.parameters, wanted, start, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)
        assert (got - before).abs().max() > 1e-4
    other, x, y = problem()
    train_epoch(other, make_optimizer(setting, other), (x, y), setting, np.random.default_rng(8))
    assert not torch.allclose(other.weights[1], mlp.weights[1], rtol=1e-6)


def test_batches_are_one_shuffled_pass_of_whole_batches(rng):
    seen = np.concatenate(list(batches(43, 8, rng)))
    assert seen.size == np.unique(seen).size == 40
    assert [len(batch) for batch in batches(8, 8, rng)] == [8]
    assert (seen != np.sort(seen)).any()


def test_evaluation_is_the_mean_over_all_images_whatever_the_chunks():
    mlp, x, y = problem()
    x, y = x.repeat(60, 1), y.repeat(60)  # more than a chunk
    loss, accuracy = evaluate(mlp, x, y)
    logits = torch.relu(torch.relu(x @ mlp.weights[0].T + mlp.biases[0]) @ mlp.weights[1].T + mlp.biases[1])
    logits = logits @ mlp.weights[2].T + mlp.biases[2]
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, y).item(), rel=1e-12)
    assert accuracy == pytest.approx(float((logits.argmax(1) == y).double().mean()), abs=1e-12)


def test_a_loss_that_is_not_finite_stops_the_epoch():
    mlp, x, y = problem()
    setting = dataclasses.replace(SETTING, learning_rate=1e200)
    assert not train_epoch(mlp, make_optimizer(setting, mlp), (x, y), setting, np.random.default_rng(0))


def test_a_wrong_shape_is_rejected(request):
    mlp, x, y = problem()
    assert len(mlp.weights) == 3
    if not request.config.option.untyped:
        with pytest.raises(TypeCheckError):
            evaluate(mlp, x, y[:-1])
