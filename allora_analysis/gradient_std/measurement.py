"""What is measured of a network at one epoch, and the estimator's own check in every run: a linear model on the same
images, whose answer is known in closed form. Checked by `tests/test_gradient_std_study.py`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from allora_analysis import deviation
from allora_analysis.gradient_std.estimator import gradient_moments, streaming_moments
from allora_analysis.gradient_std.grid import Setting
from allora_analysis.gradient_std.mlp import MLP, LinearGradient, MLPGradient
from allora_analysis.gradient_std.summary import components, summarise
from allora_analysis.gradient_std.training import EVALUATED, evaluate
from allora_analysis.images import Images

# Each purpose has a stream of its own at each epoch, so that nothing depends on what else was measured, or resumed.
STREAMS = {name: index for index, name in enumerate(("start", "train", "batch", "probe", "fresh", "control", "nested"))}


@dataclass(frozen=True)
class Data:
    """Images and labels on the device.

    Attributes:
        x: training images.
        y: their labels.
        x_test: test images.
        y_test: their labels.
    """

    x: Float[Tensor, "N D"]
    y: Int[Tensor, " N"]
    x_test: Float[Tensor, "M D"]
    y_test: Int[Tensor, " M"]


def generator(setting: Setting, stream: str, epoch: int = 0) -> np.random.Generator:
    """The randomness of one purpose at one epoch."""
    return np.random.Generator(np.random.SFC64([setting.seed, STREAMS[stream], epoch]))


@torch.no_grad()
def measure(mlp: MLP, data: Data, setting: Setting, epoch: int) -> dict[str, Any]:
    """One epoch's entry of a record."""
    # - `probe`: over K masks, on a batch that is the same at all epochs; `fresh`: on a new batch.
    # - `no_dropout_fresh`: the control, the spread across minibatches with nothing dropped.
    # - `decomposition`: variance components of masks and minibatches, averaged over entries.
    measured = [tensor.detach() for tensor in mlp.parameters]
    mlp = MLP(tuple(measured[::2]), tuple(measured[1::2]))
    train_loss, _ = evaluate(mlp, data.x[:EVALUATED], data.y[:EVALUATED])
    _, test_accuracy = evaluate(mlp, data.x_test, data.y_test)
    entry = {"epoch": epoch, "test_accuracy": test_accuracy, "train_loss": train_loss}
    for name, part in _PARTS.items():
        if not math.isfinite(train_loss):
            break
        entry[name] = part(mlp, data, setting, epoch)
    return entry


def _probe(mlp: MLP, data: Data, setting: Setting, epoch: int) -> dict[str, Any]:
    model = _on(mlp, data, minibatch(data, setting, generator(setting, "batch")), setting.keep_prob)
    return summarise(gradient_moments(model, setting.masks, generator(setting, "probe", epoch)))


def _fresh(mlp: MLP, data: Data, setting: Setting, epoch: int) -> dict[str, Any]:
    draws = generator(setting, "fresh", epoch)
    model = _on(mlp, data, minibatch(data, setting, draws), setting.keep_prob)
    return summarise(gradient_moments(model, setting.masks, draws))


def minibatch(data: Data, setting: Setting, draws: np.random.Generator) -> Tensor:
    """Indices of a random minibatch: without replacement, independent of every other."""
    return torch.from_numpy(draws.choice(len(data.x), setting.batch_size, replace=False)).to(data.x.device)


def _on(mlp: MLP, data: Data, chosen: Tensor, keep_prob: float) -> MLPGradient:
    return MLPGradient(mlp, data.x[chosen], data.y[chosen], keep_prob)


def _control(mlp: MLP, data: Data, setting: Setting, epoch: int) -> dict[str, Any]:
    draws = generator(setting, "control", epoch)

    def draw(size: int) -> tuple[Tensor, Tensor]:
        # Samples do not mix below the loss's mean: several minibatches are one batch, their errors scaled up again.
        chosen = torch.cat([minibatch(data, setting, draws) for _ in range(size)])
        model = _on(mlp, data, chosen, 1.0)
        left, right = model.factors(torch.ones(1, model.mask_size, dtype=torch.bool, device=data.x.device))
        return left[0].mul_(size).unflatten(0, (size, -1)), right[0].unflatten(0, (size, -1))

    return summarise(streaming_moments(draw, setting.control_minibatches, chunk=8))


def _nested(mlp: MLP, data: Data, setting: Setting, epoch: int) -> dict[str, float]:
    draws = generator(setting, "nested", epoch)
    means, within = [], []
    for _ in range(setting.nested_minibatches):
        model = _on(mlp, data, minibatch(data, setting, draws), setting.keep_prob)
        moments = gradient_moments(model, setting.nested_masks, draws)
        means.append(moments.mean.ravel())
        within.append(float(np.mean(moments.std**2)))
    return dataclasses.asdict(components(np.array(means), within, setting.nested_masks))


_PARTS = {"probe": _probe, "fresh": _fresh, "no_dropout_fresh": _control, "decomposition": _nested}


def linear_average(
    images: Images, batch_size: int, keep_prob: float, masks: int, seed: int
) -> tuple[dict[str, float], dict[str, float]]:
    """The average over entries of the gradient's standard deviation, in closed form and by the estimator."""
    # X: the first images; Y: their classes, one-hot; W: Gaussian.
    generator = np.random.Generator(np.random.SFC64([seed, 7]))
    x = images.x_train[:batch_size].astype(np.float64)
    y = np.eye(images.classes)[images.y_train[:batch_size]]
    w = generator.standard_normal((x.shape[1], images.classes)) / math.sqrt(x.shape[1])
    predicted = float(deviation.gradient_std(x, y, w, keep_prob).mean())
    model = LinearGradient(*(torch.from_numpy(part) for part in (x, y, w)), keep_prob)
    moments = gradient_moments(model, masks, generator)
    return {"linear_mean": predicted}, {"linear_mean": moments.average, "linear_mean_stderr": moments.average_stderr}
