"""Training one epoch, with dropout, by any of four optimizers; the loss and the accuracy without dropout.

Checked by `tests/test_gradient_std_training.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from allora_analysis.gradient_std.estimator import MaskStream
from allora_analysis.gradient_std.grid import BETAS, EPSILON, MOMENTUM, Setting
from allora_analysis.gradient_std.mlp import MLP, forward
from allora_analysis.validation import ArgumentError

EVALUATED = 10_000  # training images whose loss is reported, the first ones
CHUNK = 2000


class Diverged(ArgumentError):
    """The loss is not finite. `epochs` holds what was measured before."""

    def __init__(self, message: str, epochs: list):
        super().__init__(message)
        self.epochs = epochs


def make_optimizer(setting: Setting, mlp: MLP) -> torch.optim.Optimizer:
    """PyTorch's optimizer of a setting's name."""
    shared = {"lr": setting.learning_rate, "weight_decay": setting.weight_decay, "fused": True}
    if setting.optimizer in ("sgd", "momentum"):
        momentum = MOMENTUM if setting.optimizer == "momentum" else 0.0
        return torch.optim.SGD(mlp.parameters, momentum=momentum, **shared)
    kind = torch.optim.Adam if setting.optimizer == "adam" else torch.optim.AdamW
    return kind(mlp.parameters, betas=BETAS, eps=EPSILON, **shared)


def batches(samples: int, batch_size: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """One shuffled pass; the last, incomplete batch is left out, so that all have one size."""
    order = generator.permutation(samples)
    for start in range(0, samples - batch_size + 1, batch_size):
        yield order[start : start + batch_size]


def train_epoch(
    mlp: MLP,
    optimizer: torch.optim.Optimizer,
    data: tuple[Float[Tensor, "N D"], Int[Tensor, " N"]],
    setting: Setting,
    generator: np.random.Generator,
) -> bool:
    """One pass over the training images, masks fresh at each step."""
    x, y = data
    parameters = mlp.parameters
    stream = MaskStream(setting.keep_prob, generator)
    sizes = [setting.batch_size * width for width in setting.hidden]
    drawn = np.empty((1, sum(sizes)), dtype=np.uint8)
    for chosen in batches(len(x), setting.batch_size, generator):
        kept = None
        if setting.keep_prob < 1:
            stream.fill(drawn)
            flags = torch.from_numpy(drawn[0]).to(x.device) < stream.threshold
            kept = [part.view(setting.batch_size, -1) for part in flags.split(sizes)]
        index = torch.from_numpy(chosen).to(x.device)
        loss = functional.cross_entropy(forward(mlp, x[index], kept, setting.keep_prob), y[index])
        if not math.isfinite(loss.item()):
            return False
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()
    return True


@torch.no_grad()
def evaluate(mlp: MLP, x: Float[Tensor, "N D"], y: Int[Tensor, " N"]) -> tuple[float, float]:
    """Mean cross-entropy and accuracy without dropout."""
    loss, right = 0.0, 0
    for part, labels in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
        logits = forward(mlp, part)
        loss += float(functional.cross_entropy(logits, labels, reduction="sum").double())
        right += int((logits.argmax(dim=1) == labels).sum())
    return loss / len(x), right / len(x)
