"""A pretrained classifier from one of its layers on, with LoRA at B = 0 there; its Hessian's ends, or all of it.

The layers before the adapted one depend on no trainable parameter: their output is computed once and given as data, so
that a product with the Hessian costs no more than the layers that it passes through.

With A and B of the layer's adapters trained and nothing else, H = [[0, C], [Cᵀ, K]] and n₋ = Σ r·rank G + n₋(K on
ker C), n₊ likewise (`hessian.negative_directions`). Where every G has rank n₁, ker C holds no direction of B, K does
not count, and n₋ = n₊ = Σ r·n₁ exactly; else each count lies between Σ r·rank G and that plus dim ker C,
Σ r·(n₁ − rank G). A run that asks for the whole spectrum computes K on ker C too, so that its counts are exact. Without
K the eigenvalues are ±σ_i(G), r times each, and 0; by Weyl none is further from its own than ‖K‖. Checked by
`tests/test_zero_initialisation.py` against the whole model's dense Hessian.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from allora_analysis.finetune.data import Split
from allora_analysis.finetune.models import Pretrained
from allora_analysis.hessian import (
    LowRankLinear,
    NetworkSpectrum,
    layer_gradient_ranks,
    negative_directions,
    network_spectrum,
)
from allora_analysis.hessian.empirical_risk import empirical_risk, evaluating
from allora_analysis.validation import ArgumentError
from allora_analysis.zero_initialisation.run import Setting

HIDDEN = "hidden"  # the adapted layer's input, among the model's inputs


class Silu(nn.Module):
    """x ↦ x/(1 + e⁻ˣ): SiLU, of whose own backward torch has no forward derivative."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        return x * torch.sigmoid(x)


class _Given(nn.Module):
    """Takes a layer's place and passes its input on, or what it was given as `hidden`."""

    def __init__(self, in_tuple: bool):
        super().__init__()
        self.in_tuple, self.hidden = in_tuple, None

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Pass on."""
        out = hidden_states if self.hidden is None else self.hidden
        return (out,) if self.in_tuple else out


class Logits(nn.Module):
    """A mapping of inputs ↦ the model's logits; the inputs may hold `HIDDEN`, the adapted layer's input."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Apply the model."""
        rest = {name: value for name, value in inputs.items() if name != HIDDEN}
        if HIDDEN in inputs:
            next(module for module in self.model.modules() if isinstance(module, _Given)).hidden = inputs[HIDDEN]
        return self.model(**rest).logits


@dataclass(frozen=True)
class Adapted:
    """What `hessian.network_spectrum` takes, A and B of one layer's adapters trainable; tokens without padding."""

    model: Logits
    data: tuple[dict[str, Tensor], Tensor]
    tokens: int


def _layers(model: nn.Module) -> nn.ModuleList:
    """A transformer's layers: the longest list of modules in it."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ArgumentError("model: no list of layers in it; give a transformer")
    return max(lists, key=len)


def adapted(pretrained: Pretrained, split: Split, setting: Setting) -> Adapted:
    """The classifier from the setting's layer on, in the setting's precision, with its sentences."""
    # A is drawn as PEFT draws it, uniform on ±1/√n₂; B = 0. All else is frozen, the model in eval mode.
    model = pretrained.model.eval().requires_grad_(False).to(getattr(torch, setting.precision))
    blocks = _layers(model)
    if setting.layer >= len(blocks):
        raise ArgumentError(f"layer must be below {len(blocks)} for {setting.model}, received {setting.layer}")
    _smooth(model)
    inputs, labels, tokens = _sentences(pretrained.tokenizer, split, setting)
    cut = Logits(model)
    if setting.layer > 0:
        inputs[HIDDEN] = _start_at(blocks, setting.layer, cut, inputs)
    _add_adapters(blocks[setting.layer], setting)
    return Adapted(cut, (inputs, labels), tokens)


def _smooth(model: nn.Module) -> None:
    """Put `Silu` in the place of every SiLU, in place."""
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
        blocks[index] = _Given(seen["in_tuple"])
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


def measure(setting: Setting, model: Adapted) -> dict[str, Any]:
    """A run's result."""
    loss = nn.CrossEntropyLoss()
    slopes, sigma = _gradients(model, loss)
    counted = _foretold(setting, model, loss)
    size = sum(value.numel() for value in model.model.parameters() if value.requires_grad)
    spectrum = network_spectrum(model.model, loss, model.data, setting.k or size)
    return {
        "loss": spectrum.loss,
        "tokens": model.tokens,
        "parameters": spectrum.dimension,
        "gradient_norms": slopes,
        "foretold": counted,
        "singular_values": sigma if setting.k == 0 else {name: of[: setting.k] for name, of in sigma.items()},
        "products": spectrum.products,
        "method": spectrum.method,
        "certificate": vars(spectrum.certificate),
        **_eigenvalues(spectrum, whole=setting.k == 0),
    }


def _eigenvalues(spectrum: NetworkSpectrum, whole: bool) -> dict[str, Any]:
    if whole:
        return {"all": spectrum.smallest, "all_residual": float(spectrum.smallest_residuals.max())}
    return {
        "smallest": spectrum.smallest,
        "smallest_residuals": spectrum.smallest_residuals,
        "largest": spectrum.largest,
        "largest_residuals": spectrum.largest_residuals,
    }


def adapters(model: nn.Module) -> dict[str, LowRankLinear]:
    """The adapted linear maps."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LowRankLinear)}


def _gradients(model: Adapted, loss: nn.Module) -> tuple[dict[str, float], dict[str, Float[np.ndarray, " n"]]]:
    """‖∂L/∂A‖ and ‖∂L/∂B‖ over all adapters, and each G's singular values."""
    risk, own = empirical_risk(model.model, loss, model.data), adapters(model.model)
    names = [f"{name}.{part}" for part in ("a", "b", "base.weight") for name in own]
    with evaluating(model.model):
        found = dict(zip(names, risk.value_and_gradient(names=names)[1], strict=True))
    norms = {part: float(np.sqrt(sum(np.sum(found[f"{name}.{part}"] ** 2) for name in own))) for part in ("a", "b")}
    return norms, {name: np.linalg.svd(found[f"{name}.base.weight"], compute_uv=False) for name in own}


def _foretold(setting: Setting, model: Adapted, loss: nn.Module) -> dict[str, Any]:
    """Ranks of G and the counts of negative, zero and positive directions that follow, each as [least, most]."""
    own = adapters(model.model)
    shapes = {name: (layer.base.out_features, layer.base.in_features) for name, layer in own.items()}
    if setting.k == 0 and setting.precision == "float64":
        exact = negative_directions(model.model, loss, model.data)
        ranks, kernel = exact.layer_ranks, exact.kernel_dimension
        counts = {sign: [getattr(exact, sign)] * 2 for sign in ("negative", "zero", "positive")}
    else:
        ranks = layer_gradient_ranks(model.model, loss, model.data)
        counts, kernel = bounds(shapes, ranks, setting.rank)
    return {"shapes": shapes, "ranks": dict(ranks), "kernel_dimension": kernel, **counts}


def bounds(shapes: dict[str, tuple[int, int]], ranks: dict[str, int], rank: int) -> tuple[dict[str, list[int]], int]:
    """What the ranks of G alone say."""
    least = rank * sum(ranks.values())
    kernel = rank * sum(shapes[name][0] - of for name, of in ranks.items())
    flat = rank * sum(n2 - ranks[name] for name, (_, n2) in shapes.items())  # zeros that are A's own: Gα = 0
    signed = [least, least + kernel]
    return {"negative": signed, "zero": [flat, flat + kernel], "positive": signed}, kernel
