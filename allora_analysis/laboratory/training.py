"""The pretrained network, and one run of one cell on it.

A network of inputs-64-64-outputs with ReLU is pretrained on the first half of the classes and adapted to the second
half, whose labels take the first half's outputs. All linear layers are adapted at rank 4 (LoRA scaling 1), nothing else
is trained; in cells with a `head` the last layer is a fresh classifier instead, trained whole. The baselines are
PEFT's; LoRA and ALLoRA's family are `ALLoRALinear`'s, from one and the same A.
Checked by `tests/test_laboratory.py` and `tests/test_laboratory_training.py`.
"""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from allora_analysis.laboratory.design import PEFT, TABLE_4, Cell
from allora_analysis.lora.layers import ALLoRALinear
from allora_analysis.lora.optim import ALLoRAAdamW
from allora_analysis.lora.pairs import lora_pairs
from allora_analysis.lora.watch import known
from allora_analysis.validation import ArgumentError

if TYPE_CHECKING:
    from allora_analysis.images import Images

HIDDEN, RANK, BATCH = (64, 64), 4, 32
TRAIN = 200  # images that a run adapts to, drawn by its seed
VALIDATION = 5000  # at most, of those that it does not draw
PRETRAINING = {"steps": 1000, "batch": 64, "rate": 1e-3, "seed": 0}
LORAPLUS_RATIO = 16.0
LIMIT = 100.0  # nats; a guess among five classes is at 1.6
MOMENTUM = 0.9


@dataclass(frozen=True)
class Task:
    """The pretrained network, frozen, and images of the classes to adapt to: a run draws `TRAIN` of the pool, and
    `VALIDATION` of the rest at most are its validation images. `pretrained_accuracy` is on test images of the classes
    of pretraining.
    """

    network: nn.Sequential
    pool: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    pretrained_accuracy: float


@dataclass(frozen=True)
class Outcome:
    """Mean losses on validation and test images, and how many of the latter are classified rightly.

    Where accuracy chooses rates, `validation` is the share of its images that are classified wrongly. A run that
    diverged (a loss not finite, or above `LIMIT`) has no losses and no image right.
    """

    validation: float | None
    right: int
    loss: float | None


def prepare(images: Images) -> Task:
    """Pretrain on classes 0, …, C/2 − 1; the images of the others are the task. The same images give the same task."""
    if images.classes % 2:
        raise ArgumentError(f"data: an even number of classes is needed, received {images.classes}")
    half = images.classes // 2
    pool, test = _of(images.x_train, images.y_train, half, True), _of(images.x_test, images.y_test, half, True)
    if len(pool[1]) < 2 * TRAIN:
        raise ArgumentError(f"data: {2 * TRAIN} training images of the second half are needed, received {len(pool[1])}")
    first = _of(images.x_train, images.y_train, half, False)
    generator = torch.Generator().manual_seed(PRETRAINING["seed"])
    network = _network((pool[0].shape[1], *HIDDEN, half), generator)
    optimizer = torch.optim.AdamW(network.parameters(), lr=PRETRAINING["rate"], weight_decay=0.0)
    for _ in range(PRETRAINING["steps"]):
        batch = torch.randint(len(first[1]), (PRETRAINING["batch"],), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(first[0][batch]), first[1][batch]).backward()
        optimizer.step()
    with torch.no_grad():
        seen = _of(images.x_test, images.y_test, half, False)
        accuracy = float((network(seen[0]).argmax(dim=1) == seen[1]).double().mean())
    return Task(network.requires_grad_(False), pool, test, accuracy)


def _of(x: np.ndarray, y: np.ndarray, half: int, second: bool) -> tuple[Tensor, Tensor]:
    chosen = (y >= half) == second
    return torch.from_numpy(x[chosen]), torch.from_numpy(y[chosen] - half * second)


def _network(sizes: tuple[int, ...], generator: torch.Generator) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
        linear.weight = nn.Parameter(torch.randn(outputs, inputs, generator=generator) * math.sqrt(2 / inputs))
        linear.bias = nn.Parameter(torch.zeros(outputs))
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def run(task: Task, cell: Cell, rate: float, seed: int) -> Outcome:
    """Adapt the network at a rate that falls linearly to 0; `seed` is of the training images, their order, A and the
    masks.

    Of one seed, every cell has the same images, the same order and the same A (PiSSA its own).
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(task.pool[1]), generator=generator)
    x, y = (part[drawn[:TRAIN]] for part in task.pool)
    batches = torch.randint(TRAIN, (cell.steps, BATCH), generator=generator)
    torch.manual_seed(seed)  # the masks, and what PEFT draws
    model = _adapted(task.network, cell, generator)
    optimizer = _optimizer(model, cell, rate)
    known(optimizer)  # that Adam undoes ALLoRA's factor is what such a cell shows
    rates = [group["lr"] for group in optimizer.param_groups]
    model.train()
    for step, batch in enumerate(batches):
        for group, start in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = start * (1 - step / cell.steps)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
        if not float(loss.detach()) < LIMIT:
            return Outcome(None, 0, None)
        loss.backward()
        if cell.epsilon and not step:
            _set_epsilon(optimizer, model, cell)
        optimizer.step()
    model.eval()
    chosen = [part[drawn[TRAIN : TRAIN + VALIDATION]] for part in task.pool]
    validation, found = _evaluate(model, *chosen)
    loss, right = _evaluate(model, *task.test)
    if validation is None or loss is None:
        return Outcome(None, 0, None)
    return Outcome(validation if cell.chosen_by == "loss" else 1 - found / len(chosen[1]), right, loss)


@torch.no_grad()
def _evaluate(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float | None, int]:
    logits = model(x)
    loss = float(nn.functional.cross_entropy(logits.double(), y))
    return (float(f"{loss:.6g}") if loss < LIMIT else None), int((logits.argmax(dim=1) == y).sum())


def _adapted(network: nn.Sequential, cell: Cell, generator: torch.Generator) -> nn.Module:
    if cell.rule in PEFT:
        return _by_peft(copy.deepcopy(network), cell, generator)
    own = cell.rule in ("allora", "asf_lora", *TABLE_4)
    variant = cell.rule if own else "lora_x_eta"  # of η = 1: plain LoRA
    eta, kind = _eta(cell) if own else 1.0, ALLoRALinear if cell.placement == "input" else _Between
    layers = [
        kind(
            _same(layer),
            RANK,
            eta,
            variant,
            cell.adaptor if own and cell.adaptor else "inverse_sqrt",
            cell.drop_rate,
            generator,
        )
        if isinstance(layer, nn.Linear) and (cell.head is None or layer is not network[-1])
        else layer
        for layer in network
    ]
    if cell.head is not None:
        layers[-1] = _fresh(network[-1], generator)
    return nn.Sequential(*layers)


class _Between(ALLoRALinear):
    # Plain LoRA whose masks strike Ax, between A and B.
    def forward(self, x: Tensor) -> Tensor:
        inner = nn.functional.dropout(nn.functional.linear(x, self.a), self.drop_rate, self.training)
        return self.base(x) + nn.functional.linear(inner, self.b)


def _eta(cell: Cell) -> float:
    return 1.0 if cell.eta2 is None else math.sqrt(cell.eta2)


def _fresh(layer: nn.Linear, generator: torch.Generator) -> nn.Linear:
    # A classifier that knows nothing yet; its weight is drawn as A is.
    fresh = nn.utils.skip_init(nn.Linear, layer.in_features, layer.out_features)
    drawn = torch.randn(fresh.weight.shape, generator=generator) / layer.in_features**0.5
    fresh.weight, fresh.bias = nn.Parameter(drawn), nn.Parameter(torch.zeros(layer.out_features))
    return fresh


def _set_epsilon(optimizer: torch.optim.Optimizer, model: nn.Module, cell: Cell) -> None:
    # A multiple of LoRA's own gradient at the start, whatever η: at B = 0 the factor on the gradient is η.
    seen = torch.cat([pair.b.grad.abs().flatten() for pair in lora_pairs(model)])
    for group in optimizer.param_groups:
        group["eps"] = cell.epsilon * float(seen.median()) / (_eta(cell) if cell.rule == "allora" else 1.0)


def _same(layer: nn.Linear) -> nn.Linear:
    shared = nn.utils.skip_init(nn.Linear, layer.in_features, layer.out_features)
    shared.weight, shared.bias = layer.weight, layer.bias  # frozen: nothing is copied
    return shared


def _by_peft(network: nn.Sequential, cell: Cell, generator: torch.Generator) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    own: dict[str, Any] = {"dora": {"use_dora": True}, "rslora": {"use_rslora": True}}.get(cell.rule, {})
    if cell.rule == "pissa":
        own = {"init_lora_weights": "pissa"}
    names = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    config = LoraConfig(r=RANK, lora_alpha=RANK, lora_dropout=cell.drop_rate, target_modules=names, **own)
    model = get_peft_model(network, config)
    if cell.rule != "pissa":  # whose A is a part of the weight
        with torch.no_grad():
            for pair in lora_pairs(model):
                inputs = pair.a.shape[1]
                pair.a.copy_(torch.randn(RANK, inputs, generator=generator) / inputs**0.5)
    return model


def _optimizer(model: nn.Module, cell: Cell, rate: float) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate, head_rate = (rate * (_eta(cell) if times else 1.0) for times in (cell.scaled, cell.head == "eta_l"))
    if cell.rule == "allora_adamw":
        from allora_analysis.lora.optim import param_groups

        groups = param_groups(model, lr=rate, head_lr=head_rate)
        return ALLoRAAdamW(groups, lr=rate, eta=_eta(cell), weight_decay=0.0, adaptor=cell.adaptor)
    if cell.rule == "loraplus":
        from peft.optimizers import create_loraplus_optimizer

        return create_loraplus_optimizer(
            model, torch.optim.AdamW, lr=rate, loraplus_lr_ratio=LORAPLUS_RATIO, loraplus_weight_decay=0.0
        )
    groups = [{"params": trained}]
    if cell.head is not None:
        whole = list(model[-1].parameters())
        adapters = [one for one in trained if all(one is not other for other in whole)]
        groups = [{"params": adapters}, {"params": whole, "lr": head_rate}]
    if cell.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, weight_decay=0.0)
    return torch.optim.SGD(groups, lr=rate, momentum=MOMENTUM if cell.optimizer == "momentum" else 0.0)
