"""The arms: each one's adapters and optimizer. All baselines are PEFT's own. Checked by `tests/test_finetune_arms.py`.

Every arm adapts all linear layers but the classifier, which is trained in full at a rate of its own. The LoRA scaling
α/r is 1 (α = r), so that the identities of §4 hold, but for lora_x_eta, whose arm it is (η), and rslora (√r at α = r).
"""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from allora_analysis.arms import HEADS, TRAINED
from allora_analysis.finetune import machine
from allora_analysis.finetune.machine import quiet
from allora_analysis.finetune.setting import LORAPLUS_RATIO, MOMENTUM, Setting
from allora_analysis.lora.pairs import lora_pairs
from allora_analysis.lora.watch import known
from allora_analysis.validation import ArgumentError


def adapt(model: nn.Module, setting: Setting, targets: str | Sequence[str] = "all-linear") -> nn.Module:
    """Freeze a model but for its classifier, and add the arm's adapters, drawn from torch's global generator.

    `targets` are PEFT's target_modules; the arms have them on all linear layers but the classifier.
    """
    from peft import LoraConfig, TaskType

    causal = setting.task == "multiple_choice"
    head = None if causal else next((name for name in HEADS if hasattr(model, name)), None)
    if head is None and not causal:
        raise ArgumentError(f"model {setting.model!r}: has no classifier called {' or '.join(HEADS)}")
    # PEFT trains in full what ends in the classifier's name, DistilBERT's pre_classifier too, and must not adapt it.
    also = [] if causal else [name for name, _ in model.named_modules() if name.endswith(head) and name != head]
    if setting.arm == "head_only":
        model.requires_grad_(False)
        for name in (head, *also):
            model.get_submodule(name).requires_grad_(True)
        return model
    options: dict[str, Any] = {
        "r": setting.rank,
        "lora_dropout": setting.drop_rate if setting.placement == "input" else 0.0,
        "target_modules": targets if isinstance(targets, str) else list(targets),
        "exclude_modules": also or None,
        "modules_to_save": None if causal else [head],
        "task_type": TaskType.CAUSAL_LM if causal else TaskType.SEQ_CLS,
    }
    if (theirs := TRAINED[setting.arm].peft) is not None:
        config = LoraConfig(lora_alpha=setting.rank, **options, **theirs)
    else:
        from allora_analysis.lora.peft import allora_config

        config = allora_config(setting.eta, variant=setting.arm, **options)
    adapted = _with_adapters(model, config, setting)
    if setting.placement == "bottleneck":
        drop_bottleneck(adapted, setting.drop_rate)
    return adapted


def _with_adapters(model: nn.Module, config: Any, setting: Setting) -> nn.Module:
    from peft import get_peft_model

    try:
        with quiet():
            adapted = get_peft_model(model, config)
    except Exception as error:
        if machine.exhausted(error):
            raise ArgumentError(f"rank: adapters of rank {setting.rank} do not fit into the memory; lower it") from None
        if isinstance(error, TypeError | ValueError | NotImplementedError | AttributeError):
            stacks = ", ".join(sorted(config.target_parameters or ()))  # PEFT fills it in for a mixture of experts
            hint = f"; all-linear takes in the mixture's {stacks}" if stacks and "all-linear" not in str(error) else ""
            raise ArgumentError(f"model {setting.model!r}, arm {setting.arm}: {error}{hint}") from None
        raise
    most = min((pair.a.shape[0] for pair in lora_pairs(adapted)), default=setting.rank)
    if most < setting.rank:  # PiSSA cuts the rank in silence
        raise ArgumentError(f"rank must be at most {most} for the arm {setting.arm} here, received {setting.rank}")
    return adapted


def drop_bottleneck(model: nn.Module, drop_rate: float) -> None:
    """Dropout between A and B of every adapter, while training: x ↦ Wx + s·B(m ⊙ Ax)/(1 − drop_rate), m Bernoulli.

    PEFT has none there (its own masks x); a mask a token and entry of Ax, as PyTorch draws it.
    """

    def drop(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return nn.functional.dropout(output, drop_rate, training=module.training)

    for pair in lora_pairs(model):
        pair.module.lora_A[pair.adapter].register_forward_hook(drop)


def optimizer(model: nn.Module, setting: Setting) -> Optimizer:
    """The arm's optimizer: the adapters at the learning rate, the classifier at its own."""
    adapters, head = split(model)
    decay = {"weight_decay": setting.weight_decay}
    groups = [{"params": adapters, "lr": setting.learning_rate}] if adapters else []
    groups += [{"params": head, "lr": setting.head_learning_rate}] if head else []
    if setting.optimizer != "adamw":
        momentum = MOMENTUM if setting.optimizer == "momentum" else 0.0
        return SGD(_loraplus(model, setting, groups, SGD), lr=setting.learning_rate, momentum=momentum, **decay)
    adam = {"lr": setting.learning_rate, "betas": setting.betas, "eps": setting.epsilon, **decay}
    if setting.arm == "allora_adamw":
        from allora_analysis.lora.optim import ALLoRAAdamW, param_groups

        return ALLoRAAdamW(param_groups(model, head_lr=setting.head_learning_rate), eta=setting.eta, **adam)
    made = AdamW(_loraplus(model, setting, groups, AdamW), **adam)
    known(made)  # that it undoes ALLoRA's factor is what such a run shows
    return made


def _loraplus(model: nn.Module, setting: Setting, groups: list[dict], kind: type[Optimizer]) -> list[dict]:
    if setting.arm != "loraplus":
        return groups
    from peft.optimizers import create_loraplus_optimizer

    theirs = create_loraplus_optimizer(
        model,
        kind,
        lr=setting.learning_rate,
        loraplus_lr_ratio=LORAPLUS_RATIO,
        loraplus_weight_decay=setting.weight_decay,
    )
    head = {p for group in groups[1:] for p in group["params"]}  # PEFT puts its weight with A, its bias with B
    rates = [
        {"params": [p for p in group["params"] if p not in head], "lr": group["lr"]} for group in theirs.param_groups
    ]
    return [group for group in rates if group["params"]] + groups[1:]


def split(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """What is trainable: the adapters, and the classifier."""
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    inside = [".lora_" in name for name, _ in trainable]
    return _where(trainable, inside), _where(trainable, [not one for one in inside])


def _where(named: list[tuple[str, Tensor]], chosen: Iterable[bool]) -> list[Tensor]:
    return [parameter for (_, parameter), wanted in zip(named, chosen, strict=True) if wanted]


def counts(model: nn.Module) -> dict[str, float]:
    """How many parameters there are, and how many are trained.

    `total` (the frozen model's, adapters and classifier), `adapters`, `head` and `percent` = 100 (adapters +
    head)/total. A classifier's frozen copy that PEFT keeps does not count.
    """
    adapters, head = (sum(parameter.numel() for parameter in part) for part in split(model))
    everything = sum(p.numel() for name, p in model.named_parameters() if ".original_module." not in name)
    return {"total": everything, "adapters": adapters, "head": head, "percent": 100 * (adapters + head) / everything}
