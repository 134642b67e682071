"""A pretrained classifier from one of its layers on, with LoRA at B = 0 there, as a function of tokens.

The layers before the adapted one depend on no trainable parameter: their output is computed once and given as data, so
that a product with the Hessian costs no more than the layers that it passes through. Checked by
`tests/test_zero_initialisation.py` against the whole model's dense Hessian.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from allora_analysis.finetune.models import Pretrained
from allora_analysis.finetune.splits import Split
from allora_analysis.hessian import LowRankLinear
from allora_analysis.validation import ArgumentError
from allora_analysis.zero_initialisation.setting import Setting

HIDDEN = "hidden"  # the adapted layer's input, among the model's inputs


class Silu(nn.Module):
    """x ↦ x/(1 + e⁻ˣ): SiLU, of whose own backward torch has no forward derivative."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it.

        Args:
            x: any tensor.

        Returns:
            The same shape.
        """
        return x * torch.sigmoid(x)


class Given(nn.Module):
    """Takes a layer's place and passes its input on, or what it was given.

    Args:
        in_tuple: whether a layer of this model returns a tuple.

    Attributes:
        hidden: what it passes on; None: its input.
    """

    def __init__(self, in_tuple: bool):
        super().__init__()
        self.in_tuple, self.hidden = in_tuple, None

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Pass on.

        Args:
            hidden_states: the layer's input.
            *args: not used.
            **kwargs: not used.

        Returns:
            In the form of the layer whose place it takes.
        """
        out = hidden_states if self.hidden is None else self.hidden
        return (out,) if self.in_tuple else out


class Logits(nn.Module):
    """A mapping of inputs ↦ the model's logits; the inputs may hold `HIDDEN`, the adapted layer's input.

    Args:
        model: a sequence classifier.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Apply the model.

        Args:
            inputs: examples along the first axis.

        Returns:
            (examples, classes).
        """
        rest = {name: value for name, value in inputs.items() if name != HIDDEN}
        if HIDDEN in inputs:
            next(module for module in self.model.modules() if isinstance(module, Given)).hidden = inputs[HIDDEN]
        return self.model(**rest).logits


@dataclass(frozen=True)
class Adapted:
    """What `hessian.network_spectrum` takes.

    Attributes:
        model: a `Logits`; trainable are A and B of one layer's adapters.
        data: (inputs, labels).
        tokens: how many, padding not counted.
    """

    model: Logits
    data: tuple[dict[str, Tensor], Tensor]
    tokens: int


def layers(model: nn.Module) -> nn.ModuleList:
    """A transformer's layers: the longest list of modules in it.

    Args:
        model: the model.

    Returns:
        The list, as it stands in the model.

    Raises:
        ArgumentError: none.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ArgumentError("model: no list of layers in it; give a transformer")
    return max(lists, key=len)


def adapted(pretrained: Pretrained, split: Split, setting: Setting) -> Adapted:
    """The classifier from the setting's layer on, in the setting's precision, with its sentences.

    A is drawn as PEFT draws it, uniform on ±1/√n₂; B = 0. All else is frozen, the model in eval mode.

    Args:
        pretrained: the model, which is changed.
        split: sentences and labels.
        setting: the run.

    Returns:
        The parts.

    Raises:
        ArgumentError: no such layer or linear map in the model, or fewer sentences than wanted.
    """
    model = pretrained.model.eval().requires_grad_(False).to(getattr(torch, setting.precision))
    blocks = layers(model)
    if setting.layer >= len(blocks):
        raise ArgumentError(f"layer must be below {len(blocks)} for {setting.model}, received {setting.layer}")
    smooth(model)
    inputs, labels, tokens = _sentences(pretrained.tokenizer, split, setting)
    cut = Logits(model)
    if setting.layer > 0:
        inputs[HIDDEN] = _start_at(blocks, setting.layer, cut, inputs)
    _add_adapters(blocks[setting.layer], setting)
    return Adapted(cut, (inputs, labels), tokens)


def smooth(model: nn.Module) -> None:
    """Put `Silu` in the place of every SiLU, in place.

    Args:
        model: the model.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.SiLU) or type(module).__name__ == "SiLUActivation":
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, Silu())


def _sentences(tokenizer: Any, split: Split, setting: Setting) -> tuple[dict[str, Tensor], Tensor, int]:
    if setting.sentences > len(split):
        raise ArgumentError(f"sentences must be at most {len(split)}, received {setting.sentences}")
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(setting.seed)).tolist()
    drawn = order[: setting.sentences]
    texts = [split.texts[index] for index in drawn]
    encoded = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=setting.max_length)
    labels = torch.tensor([split.labels[index] for index in drawn])
    return dict(encoded), labels, int(encoded["attention_mask"].sum())


# The layers before `first` give way to what they compute.
def _start_at(blocks: nn.ModuleList, first: int, model: Logits, inputs: dict[str, Tensor]) -> Tensor:
    seen: dict[str, Any] = {}

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen["hidden"] = args[0] if args else kwargs["hidden_states"]

    def after(module: nn.Module, args: Any, output: Any) -> None:
        seen["in_tuple"] = isinstance(output, tuple)

    hooks = [
        blocks[first].register_forward_pre_hook(before, with_kwargs=True),
        blocks[first].register_forward_hook(after),
    ]
    with torch.no_grad():
        model(inputs)
    for hook in hooks:
        hook.remove()
    for index in range(first):
        blocks[index] = Given(seen["in_tuple"])
    return seen["hidden"]


def _add_adapters(block: nn.Module, setting: Setting) -> None:
    generator = torch.Generator().manual_seed(setting.seed)
    linear = {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}
    for wanted in setting.modules:
        found = [name for name in linear if name.rpartition(".")[2] == wanted]
        if len(found) != 1:
            ends = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in linear))
            raise ArgumentError(f"modules: {wanted!r} names {len(found)} linear maps of a layer; there are {ends}")
        layer = LowRankLinear(linear[found[0]], setting.rank, 1.0, generator)
        limit = linear[found[0]].in_features ** -0.5
        with torch.no_grad():
            layer.a.uniform_(-limit, limit, generator=generator)
        parent, _, child = found[0].rpartition(".")
        setattr(block.get_submodule(parent), child, layer)
