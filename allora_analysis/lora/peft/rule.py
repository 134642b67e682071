"""§4: what one adapter of a PEFT layer does beside LoRA: its forward pass in PEFT's order, and how it merges.

Checked against a twin by hand: `tests/test_lora_peft.py` (gradients), `tests/test_lora_peft_adapters.py` (merging,
offloading).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora.layer import LoraVariant
from torch import Tensor, nn

from allora_analysis.lora.functional import allora, allora_od, asf_lora, scaled_output
from allora_analysis.validation import ArgumentError

FUNCTIONS = {"allora": allora, "allora_0": allora, "allora_od": allora_od, "asf_lora": asf_lora}
LORA_X_ETA = "lora_x_eta"
VARIANTS = (*FUNCTIONS, LORA_X_ETA)
NOT_MERGEABLE = (
    "asf_lora cannot be merged or turned into LoRA: its output f·adaptor(|f|) is not linear in x, so no W + ΔW gives "
    "it; keep the adapter beside the base weight, or train with variant 'allora'"
)


@dataclass(frozen=True)
class Rule(LoraVariant):
    """The variant of one adapter in one layer. LoRA×η has none: it is LoRA at scaling η.

    Attributes:
        name: "allora", "allora_0", "allora_od" or "asf_lora".
        eta: η, the adaptor's value at 0.
        adaptor: a key of `allora_analysis.adaptors.ADAPTORS`.
    """

    name: str
    eta: float
    adaptor: str

    @property
    def is_lora_forward(self) -> bool:
        """The output is LoRA's: s·BAx, for every variant but ASF-LoRA."""
        return self.name != "asf_lora"

    def supports_lora_conversion(self) -> bool:
        """Whether PEFT may turn the adapter into plain LoRA.

        Returns:
            False for ASF-LoRA.
        """
        return self.is_lora_forward

    def init(self, module: Any, adapter_name: str, **kwargs: Any) -> None:
        """Nothing beside LoRA's own initialisation: A as it draws it, B = 0."""

    def forward(self, module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        """Base output plus the adapter's, in PEFT's order: dropout, then A and B, then the scaling.

        Args:
            module: the layer.
            active_adapter: the adapter's name.
            x: inputs, in the adapter's dtype.
            result: the base layer's output.
            **kwargs: what other variants of PEFT take.

        Returns:
            The sum.

        Raises:
            ArgumentError: A or B is trained while accelerate keeps them elsewhere; what `matrices` and the rule refuse.
        """
        x = module.lora_dropout[active_adapter](x)
        a, b = matrices(module, active_adapter)
        if a.is_meta and hasattr(module.lora_A[active_adapter], "_hf_hook"):
            trains = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
            output = self._offloaded(module, active_adapter, x, trains)
        else:
            output = FUNCTIONS[self.name](x, a, b, self.eta, self.adaptor)
        scaling = module.scaling[active_adapter]
        return result + (output if scaling == 1 else output * scaling)

    def _offloaded(self, module: Any, name: str, x: Tensor, trains: bool) -> Tensor:
        # accelerate's hooks bring A and B here for the time of a call of their modules alone: the output, no gradient.
        if trains:
            raise ArgumentError(
                f"adapter {name!r}: accelerate offloads its A and B, which therefore cannot be trained; call the model "
                "under torch.no_grad(), or train without offloading them"
            )
        f = module.lora_B[name](module.lora_A[name](x))
        return f if self.is_lora_forward else scaled_output(f, self.eta, self.adaptor)

    def merge_safe(self, module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """W + sBA.

        Args:
            module: the layer.
            active_adapter: the adapter's name.
            orig_weight: W.

        Returns:
            A new tensor.
        """
        return orig_weight + module.get_delta_weight(active_adapter).to(orig_weight.dtype)

    def merge_unsafe(self, module: Any, active_adapter: str, orig_weight: Tensor) -> None:
        """W ← W + sBA, in place.

        Args:
            module: the layer.
            active_adapter: the adapter's name.
            orig_weight: W.
        """
        orig_weight.data += module.get_delta_weight(active_adapter)  # rounded once, as PEFT does

    def unmerge(self, module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """W − sBA.

        Args:
            module: the layer.
            active_adapter: the adapter's name.
            orig_weight: the merged weight.

        Returns:
            A new tensor.
        """
        return orig_weight.data - module.get_delta_weight(active_adapter).to(orig_weight.dtype)


def matrices(layer: Any, adapter: str) -> tuple[Tensor, Tensor]:
    """A and B as they are stored: they are read, and their modules never called.

    Args:
        layer: has the adapter.
        adapter: its name.

    Returns:
        A, (r, n₂), and B, (n₁, r).

    Raises:
        ArgumentError: flattened or sharded, as FSDP leaves a module that it wrapped until that module is called.
    """
    parts = layer.lora_A[adapter], layer.lora_B[adapter]
    a, b = (part.weight for part in parts)
    shapes = tuple(a.shape), tuple(b.shape)
    whole = a.ndim == b.ndim == 2 and shapes == ((b.shape[1], layer.in_features), (layer.out_features, a.shape[0]))
    sharded = any(type(one) not in (Tensor, nn.Parameter) and hasattr(one, "device_mesh") for one in (a, b))
    if sharded or not whole or any("_fsdp_wrapped_module" in part._modules for part in parts):
        received = "shards" if sharded else f"shapes {shapes[0]} and {shapes[1]}"
        raise ArgumentError(
            f"adapter {adapter!r}: A (r, {layer.in_features}) and B ({layer.out_features}, r) wanted, whole, "
            f"received {received}: FSDP must not wrap lora_A and lora_B on their own; wrap whole transformer blocks"
        )
    return a, b


def refuse_merge(names: list[str], adapter: str = "") -> None:
    """ASF-LoRA among the variants to merge.

    Args:
        names: variants.
        adapter: which adapter it is, for the error.

    Raises:
        ArgumentError: if so.
    """
    if "asf_lora" in names:
        raise ArgumentError(f"adapter {adapter!r}: {NOT_MERGEABLE}")
