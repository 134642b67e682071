"""§4: ALLoRA's rule on PEFT's layers that are no linear ones: embeddings, convolutions, experts in one parameter.

The rule is one: ΔW = s·BA is a matrix whose row i makes output i, and what comes back to A and B through row i is
multiplied by d_i = adaptor(‖s(BA)_i‖); ∂/∂x is LoRA's.

| layer | n₁ rows | n₂ columns |
| --- | --- | --- |
| `nn.Embedding`, x the token's number, W[x] + s(BA)[:, x] | coordinates of the embedding | tokens |
| a convolution, x a patch | output channels | input channels times the kernel's entries |
| expert e of `target_parameters`, ΔW_e = s·B_eA_e | outputs of expert e | its inputs |

With ALLoRA-OD the factor is that of each output f; not for experts, whose output PEFT does not form apart. Checked by
`tests/test_lora_peft_other_layers.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraConfig, LoraLayer
from peft.tuners.lora import layer as peft_layers
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from allora_analysis.adaptors import ADAPTORS
from allora_analysis.lora.autograd import factor_of_rows, split_gradient
from allora_analysis.lora.pairs import as_matrices
from allora_analysis.lora.peft.layer import (
    ALLoRALayer,
    ALLoRALinearLayer,
    Rule,
    changes_base,
    check_weight,
    refuse,
    scaled,
)
from allora_analysis.validation import ArgumentError


def new_layer(target: nn.Module, adapter_name: str, config: LoraConfig, **kwargs: Any) -> LoraLayer:
    """The layer for a target, by the type of its base, as PEFT's `_register_custom_module` calls it."""
    if kwargs.get("parameter_name"):
        return ParamWrapper(target, adapter_name, config=config, **kwargs)
    base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
    layers: dict[type, type] = {}
    if type(base).__module__.startswith("bitsandbytes"):
        from allora_analysis.lora.peft.quantised import LAYERS as layers
    for kind, layer in (layers | _LAYERS).items():
        if isinstance(base, kind):
            return layer(target, adapter_name, config=config, **kwargs)
    refuse(base, **kwargs)


def _with_rule(rule: Rule, through: Tensor, own: Tensor, a: Tensor, b: Tensor, scaling: float, rows: tuple) -> Tensor:
    """The output s·BAx: `own` by A and B, `through` by x; the factors in the shape `rows`, a 1 for each other axis."""
    if not own.requires_grad:  # A and B frozen: x may still be trained
        return through
    with torch.no_grad():
        if rule.name == "allora_od":
            factor = ADAPTORS[rule.adaptor](own.to(torch.promote_types(own.dtype, torch.float32)), rule.eta)
        else:
            factor = factor_of_rows(a, scaled(b, scaling), rule.eta, rule.adaptor).view(rows)
    return split_gradient(through, own, factor)


class _EmbeddingRule(Rule):
    """x has no gradient: all that comes back is A's and B's."""

    def forward(self, module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        (a, b), scaling = module.matrices(active_adapter), module.scaling[active_adapter]
        output = scaled(module._embed(x, a.mT) @ b.mT, scaling)
        output = _with_rule(self, output.detach(), output, a, b, scaling, (-1,))
        embed_scale = module._get_embed_scale()
        return result + (output if embed_scale is None else output * embed_scale.to(output.dtype))


class ALLoRAEmbedding(ALLoRALayer, peft_layers.Embedding):
    """x ↦ W[x] + Σ s·(BA)[:, x]."""

    kind = _EmbeddingRule

    def matrices(self, adapter: str) -> tuple[Tensor, Tensor]:
        """A (r, tokens) and B (coordinates, r)."""
        return self.lora_embedding_A[adapter], self.lora_embedding_B[adapter]


class _ConvolutionRule(Rule):
    """PEFT's two convolutions, A's with the base's kernel and B's with a kernel of one entry."""

    def forward(self, module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        first, second = module.lora_A[active_adapter], module.lora_B[active_adapter]
        x, scaling = module.lora_dropout[active_adapter](x), module.scaling[active_adapter]

        def output(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
            return scaled(second._conv_forward(first._conv_forward(x, a, None), b, None), scaling)

        rows = (-1, *(1,) * (first.weight.ndim - 2))
        own = output(x.detach(), first.weight, second.weight)
        through = output(x, first.weight.detach(), second.weight.detach()) if x.requires_grad else own.detach()
        result = result + _with_rule(self, through, own, *module.matrices(active_adapter), scaling, rows)
        return result if second.bias is None else result + scaled(second.bias, scaling).view(rows)


class _ALLoRAConvolution(ALLoRALayer):
    """x ↦ W*x + Σ s·B*(A*x)."""

    kind = _ConvolutionRule

    def matrices(self, adapter: str) -> tuple[Tensor, Tensor]:
        """A (r, input channels times the kernel's entries) and B (output channels, r)."""
        return self.lora_A[adapter].weight.flatten(1), self.lora_B[adapter].weight.flatten(1)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """s·BA in the weight's shape; PEFT's own fails on a kernel of one entry in three dimensions."""
        a, b = self.matrices(adapter)
        return scaled(b @ a, self.scaling[adapter]).view(self.get_base_layer().weight.shape)

    def __init__(self, base_layer: nn.Module, *args: Any, **kwargs: Any):
        if base_layer.groups > 1:
            raise ArgumentError(
                f"target_modules: layer {kwargs.get('target_name', '')!r} has groups = {base_layer.groups}, whose ΔW "
                "PEFT cannot merge; leave it out"
            )
        super().__init__(base_layer, *args, **kwargs)


class ALLoRAConv1d(_ALLoRAConvolution, peft_layers.Conv1d):
    """In one dimension."""


class ALLoRAConv2d(_ALLoRAConvolution, peft_layers.Conv2d):
    """In two dimensions."""


class ALLoRAConv3d(_ALLoRAConvolution, peft_layers.Conv3d):
    """In three dimensions."""


_LAYERS = {
    nn.Linear: ALLoRALinearLayer,
    Conv1D: ALLoRALinearLayer,
    nn.Embedding: ALLoRAEmbedding,
    nn.Conv1d: ALLoRAConv1d,
    nn.Conv2d: ALLoRAConv2d,
    nn.Conv3d: ALLoRAConv3d,
}


class _Delta(peft_layers._LoraParameterProxy):
    """W ↦ W + ΔW, in the place of PEFT's parametrization, and taken away after the pass as a class of theirs."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.delta_weight.to(weight.dtype)


EXPERTS = (0, 21)  # the first PEFT known to read a stack of experts as (experts, outputs, inputs); 0.19 does not


class ParamWrapper(ALLoRALayer, peft_layers.ParamWrapper):
    """A parameter W of one matrix or of a stack of experts', W_e + Σ s·B_eA_e in its place.

    PEFT knows it by the name of the class.
    """

    def resolve_lora_variant(self, *, config: LoraConfig, **kwargs: Any) -> None:
        """None: PEFT's layer takes no variant; `update_layer` keeps the rule."""

    def update_layer(self, adapter_name: str, r: int, lora_alpha: float, config: LoraConfig, **kwargs: Any) -> None:
        """A new adapter, its rule beside it."""
        super().update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config, **kwargs)
        if rule := getattr(config, "rule", None):
            self.lora_variant[adapter_name] = rule

    def check(self, rank: int, config: LoraConfig, name: str) -> None:
        """The parameter can carry an adapter of this config."""
        of_output = config.variant in ("allora_od", "asf_lora")
        if of_output or config.use_dora or config.lora_bias or config.lora_dropout or changes_base(config):
            what = f"variant {config.variant!r}" if of_output else "DoRA, lora_bias, dropout or an init of this kind"
            raise ArgumentError(
                f"target_parameters: {what} needs the layer's output, which PEFT does not form; leave it out"
            )
        weight = self.get_param()
        if weight.ndim == 3 and tuple(map(int, peft.__version__.split(".")[:2])) < EXPERTS:
            raise ArgumentError(
                f"target_parameters: PEFT {peft.__version__} reads a stack of experts with inputs and outputs "
                f"exchanged, so that rows of BA would be the other axis; install peft>={EXPERTS[0]}.{EXPERTS[1]}"
            )
        check_weight(weight, weight.shape[-2:], rank, f"target_parameters: {name or self.parameter_name!r}")

    def matrices(self, adapter: str) -> tuple[Tensor, Tensor]:
        """A (experts, r, n₂) and B (experts, n₁, r)."""
        return as_matrices(self.lora_A[adapter].weight, self.lora_B[adapter].weight, self.num_experts)

    def delta(self, adapter: str) -> Tensor:
        """s·BA, with the rule on what comes back to A and B."""
        delta, rule = super().get_delta_weight(adapter), self.lora_variant.get(adapter)
        if rule is None or not delta.requires_grad:
            return delta
        a, b = self.matrices(adapter)
        with torch.no_grad():
            factor = factor_of_rows(a, scaled(b, self.scaling[adapter]), rule.eta, rule.adaptor)
        factor = factor[:, :, None] if self._did_swap_in_out_features or self.num_experts == 1 else factor[:, None]
        return split_gradient(delta.detach(), delta, factor[0] if delta.ndim == 2 else factor)

    @contextmanager
    def _activate_lora(self, active_adapters: list[str]) -> Iterator[None]:
        deltas = [self.delta(name) for name in active_adapters if name in self.r]
        with super()._activate_lora(active_adapters):
            if deltas:
                proxies = self.get_base_layer().parametrizations[self.parameter_name]
                proxies[len(proxies) - 1] = _Delta(sum(deltas))
            yield
