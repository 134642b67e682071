"""The largest stable learning rate of a pretrained classifier with LoRA, from the curvature of one batch.

`hessian.stable_rate` on A and B of all linear layers, at the start (SGD) or after a few steps at a given rate (Adam
needs second moments). The classifier has a rate of its own, so that rate has an edge of its own: beyond it the whole
optimizer is unstable, since λ_max of D^½HD^½ is at least that of its block, and no rate of A and B helps. Checked by
`tests/test_doctor_edge.py`; against recorded learning-rate curves by `experiments.stable_rates`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from allora_analysis.adaptive.recipe import Recipe, checked
from allora_analysis.finetune.setting import Setting
from allora_analysis.validation import ArgumentError, count, positive


@dataclass(frozen=True)
class Edge:
    """What was found.

    Attributes:
        rate: the largest stable learning rate, A's.
        curvature: λ_max over A's rate in the trial: of the Hessian (SGD), of the preconditioned one (Adam).
        threshold: the optimizer's.
        products: with the Hessian.
        loss: of the batch.
        steps: made before.
        head_rate: the classifier's largest stable rate, by the same rule on it alone; None: it is not trained.
    """

    rate: float
    curvature: float
    threshold: float
    products: int
    loss: float
    steps: int
    head_rate: float | None = None


def edge(
    source: str,
    data: str,
    recipe: Recipe,
    *,
    steps: int = 0,
    batch_size: int = 32,
    max_length: int = 128,
    head_lr: float | None = None,
    clip: float = 1.0,
    seed: int = 0,
) -> Edge:
    """Load, adapt, make the trial steps, measure.

    Args:
        source: the model: a folder, a GGUF file, or a hub id.
        data: a folder of train.jsonl and test.jsonl with text and label, or a hub id.
        recipe: r, α, the rates of the trial steps, the optimizer with its ε and decay; B starts at 0.
        steps: trial steps; Adam needs one or more.
        batch_size: sentences of a step, and of the batch that is measured.
        max_length: tokens after which a sentence is cut.
        head_lr: the classifier's rate in the trial; None: the same.
        clip: of the gradient's norm in the trial; 0: none.
        seed: of A, the classifier, the sentences.

    Returns:
        The edge.

    Raises:
        ArgumentError: what makes no sense, a start from A = 0, and what `finetune.models.load` and `finetune.data.load`
            refuse.
    """
    import torch

    from allora_analysis.hessian.empirical_risk import evaluating
    from allora_analysis.hessian.stable_rate import largest_stable_rate
    from allora_analysis.lora.pairs import lora_pairs

    steps, adam = count("--trial-steps", steps, 0), checked(recipe).optimizer != "sgd"
    if recipe.zero == "a":
        raise ArgumentError(
            "--zero a: the largest stable rate is measured from B = 0 alone; leave --zero or --data out"
        )
    if adam and not steps:
        raise ArgumentError("--trial-steps must be 1 or more for Adam, whose second moments it needs, received 0")
    setting = Setting(
        source, data, "lora", "adamw" if adam else "sgd", recipe.lr, recipe.lr if head_lr is None else head_lr,
        rank=recipe.r, batch_size=count("--batch-size", batch_size), max_length=max_length,
        seed=count("--seed", seed, 0),
    )  # fmt: skip
    model, optimizer, loss = _prepared(setting, recipe, steps)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for step in range(steps):
        optimizer.zero_grad()
        loss(step).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(trained, positive("--max-grad-norm", clip))
        optimizer.step()
    adapters = [part for pair in lora_pairs(model) for part in (pair.a, pair.b)]
    head = [parameter for parameter in trained if all(parameter is not part for part in adapters)]
    with evaluating(model):
        found = largest_stable_rate(adapters, optimizer, lambda: loss(steps), seed=seed)
        of_head = largest_stable_rate(head, optimizer, lambda: loss(steps), seed=seed).multiple if head else None
    rate, curvature = recipe.lr * found.multiple, found.curvature / recipe.lr
    head_rate = None if of_head is None else setting.head_learning_rate * of_head
    return Edge(rate, curvature, found.threshold, found.products, found.loss, steps, head_rate)


def _prepared(setting: Setting, recipe: Recipe, steps: int) -> tuple[Any, Any, Callable[[int], Any]]:
    # The model with its adapters, without dropout, its optimizer, and the loss of the batch of a step.
    import torch

    from allora_analysis.finetune import arms, models
    from allora_analysis.finetune import data as texts
    from allora_analysis.lora.pairs import lora_pairs

    read, size = texts.load(setting.data), setting.batch_size
    if read.classes is None:
        raise ArgumentError(f"data {read.name!r}: is multiple choice; sentences with a label are wanted")
    split = read.splits["train"]
    if len(split) < size * (steps + 1):
        raise ArgumentError(
            f"--trial-steps: {steps + 1} batches of {size} want more than the {len(split)} rows of the data"
        )
    torch.manual_seed(setting.seed)
    pretrained = models.load(setting.model, read.classes, attention="eager")
    model = arms.adapt(pretrained.model, setting).eval()
    for pair in lora_pairs(model):
        pair.module.scaling[pair.adapter] = recipe.scaling
    order = torch.randperm(len(split)).tolist()

    def loss(step: int) -> Any:
        drawn = order[step * size : (step + 1) * size]
        texts_drawn, labels = [split.texts[i] for i in drawn], torch.tensor([split.labels[i] for i in drawn])
        cut = {"padding": True, "truncation": True, "max_length": setting.max_length}
        inputs = pretrained.tokenizer(texts_drawn, return_tensors="pt", **cut)
        return torch.nn.functional.cross_entropy(model(**inputs).logits, labels)

    return model, _optimizer(model, recipe, setting.head_learning_rate), loss


def _optimizer(model: Any, recipe: Recipe, head_lr: float) -> Any:
    # A, B and the classifier, each at its own rate; only A and B decay.
    import torch

    from allora_analysis.finetune import arms
    from allora_analysis.lora.pairs import lora_pairs

    pairs, own = lora_pairs(model), recipe.setting
    groups = [
        {"params": [pair.a for pair in pairs], "lr": own.rate_a, "weight_decay": own.decay_a},
        {"params": [pair.b for pair in pairs], "lr": own.rate_b, "weight_decay": own.decay_b},
    ]
    if head := arms.split(model)[1]:
        groups.append({"params": head, "lr": head_lr, "weight_decay": 0.0})
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=recipe.lr, eps=recipe.eps)
