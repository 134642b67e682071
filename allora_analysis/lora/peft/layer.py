"""§4: PEFT's LoRA layer whose adapters may each follow ALLoRA's rule or one of its family's.

Saving, switching, mixed batches, disabling and merging are PEFT's. Checked by `tests/test_lora_peft.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import LoraConfig, LoraLayer
from peft.tuners.lora.layer import Linear, LoraVariant
from torch import Tensor, nn

from allora_analysis.lora.fused import allora_linear, fusible
from allora_analysis.lora.peft.rule import Rule, matrices, refuse_merge
from allora_analysis.lora.peft.targets import check_target, is_finite
from allora_analysis.validation import ArgumentError


class ALLoRALayer(Linear):
    """x ↦ Wx + Σ over active adapters of s·BAx, the gradients by each adapter's rule in `lora_variant`."""

    @property
    def double_backward_is_hessian(self) -> bool:
        """False while an active adapter scales its gradients (`hessian.network_spectrum` then refuses the model)."""
        rules = (self.lora_variant.get(name) for name in self.active_adapters)
        return not any(isinstance(rule, Rule) and rule.is_lora_forward for rule in rules)

    def resolve_lora_variant(self, *, config: LoraConfig, **kwargs: Any) -> LoraVariant | None:
        """The rule of an ALLoRA config, None for LoRA×η; PEFT's own answer for a plain LoraConfig.

        Args:
            config: of the adapter to come.
            **kwargs: PEFT's.

        Returns:
            The variant.
        """
        return config.rule if hasattr(config, "rule") else super().resolve_lora_variant(config=config, **kwargs)

    def update_layer(self, adapter_name: str, r: int, lora_alpha: float, config: LoraConfig, **kwargs: Any) -> None:
        """A new adapter on this layer; nothing is touched if the layer cannot carry it.

        Args:
            adapter_name: its name.
            r: rank.
            lora_alpha: r, or η·r for LoRA×η.
            config: `ALLoRAConfig` or a plain `LoraConfig`.
            **kwargs: PEFT's.
        """
        if hasattr(config, "rule"):
            check_target(self.get_base_layer(), r, kwargs.get("target_name", ""))
        self.lora_variant.pop(adapter_name, None)
        super().update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config, **kwargs)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The base layer's output plus the active adapters', in one function where that is the same; else PEFT's.

        Args:
            x: inputs.
            *args: PEFT's.
            **kwargs: PEFT's, `adapter_names` of a mixed batch among them.

        Returns:
            Outputs.
        """
        fused = None if args or kwargs else self._fused(x)
        if fused is None:
            return super().forward(x, *args, **kwargs)
        rule, weight, bias, a, b = fused
        return allora_linear(x, weight, bias, a, b, rule.eta, rule.adaptor, rule.name == "allora_od")

    def _fused(self, x: Tensor) -> tuple[Rule, Tensor, Tensor | None, Tensor, Tensor] | None:
        """The one active adapter, if base and adapter in one function give what PEFT's order gives.

        Args:
            x: inputs.

        Returns:
            Its rule, W, the bias, A and B; or None.
        """
        name = self._active_adapter
        if not isinstance(name, str):
            name = name[0] if len(name) == 1 else None
        rule = self.lora_variant.get(name)
        if not isinstance(rule, Rule) or not rule.is_lora_forward or self._disable_adapters or self.merged_adapters:
            return None
        dropout, base = self.lora_dropout[name], self.base_layer
        if self.scaling[name] != 1 or (dropout.training and type(dropout) is not nn.Identity) or not fusible(base):
            return None
        weight, (a, b) = base.weight, matrices(self, name)
        if not x.dtype == weight.dtype == a.dtype and not torch.is_autocast_enabled(x.device.type):
            return None
        return rule, weight, base.bias, a, b

    def get_delta_weight(self, adapter: str) -> Tensor:
        """s·BA.

        Args:
            adapter: its name.

        Returns:
            A matrix of the base weight's shape.
        """
        self._refuse_asf([adapter])
        return super().get_delta_weight(adapter)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """W ← W + Σ s·BA, unless one of the adapters is ASF-LoRA's or has NaN weights: then nothing is merged.

        Args:
            safe_merge: see PEFT.
            adapter_names: which; the active ones, if None.
        """
        self.check_merge(adapter_names)
        super().merge(safe_merge=safe_merge, adapter_names=adapter_names)

    def check_merge(self, adapter_names: list[str] | None = None) -> None:
        """The adapters can be merged.

        Args:
            adapter_names: which; the active ones, if None.

        Raises:
            ArgumentError: ASF-LoRA, or weights that are not finite.
        """
        names = [name for name in adapter_names or self.active_adapters if name in self.lora_A]
        self._refuse_asf(names)
        for name in names:
            if not (is_finite(self.lora_A[name].weight) and is_finite(self.lora_B[name].weight)):
                raise ArgumentError(
                    f"adapter {name!r} has NaN or infinite weights and cannot be merged: load an earlier checkpoint"
                )

    def delete_adapter(self, adapter_name: str) -> None:
        """Without its rule, too.

        Args:
            adapter_name: which.
        """
        super().delete_adapter(adapter_name)
        self.lora_variant.pop(adapter_name, None)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Whether the adapter is W + ΔW.

        Args:
            adapter_name: which.

        Returns:
            False for ASF-LoRA.
        """
        rule = self.lora_variant.get(adapter_name)
        return rule is None or rule.supports_lora_conversion()

    def _refuse_asf(self, adapters: list[str]) -> None:
        for name in adapters:
            rule = self.lora_variant.get(name)
            refuse_merge([rule.name] if isinstance(rule, Rule) else [], name)

    def extra_repr(self) -> str:
        """Each adapter's rule, for `print(model)`.

        Returns:
            One line.
        """
        rules = ((name, rule) for name, rule in self.lora_variant.items() if isinstance(rule, Rule))
        return ", ".join(f"{name}: {rule.name}, eta={rule.eta:g}, {rule.adaptor}" for name, rule in rules)


def layers_with(model: Any, adapter_name: str) -> list[ALLoRALayer]:
    """The layers that carry the adapter.

    Args:
        model: any module.
        adapter_name: the adapter's name.

    Returns:
        In the order of the model.
    """
    return [m for m in model.modules() if isinstance(m, ALLoRALayer) and adapter_name in m.lora_A]


def is_foreign(module: Any) -> bool:
    """A LoRA layer of PEFT's own, which would train LoRA in silence whatever the config says.

    Args:
        module: any module.

    Returns:
        Whether it is.
    """
    return isinstance(module, LoraLayer) and not isinstance(module, ALLoRALayer)
