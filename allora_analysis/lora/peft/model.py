"""PEFT's tuner for LoRA, all or nothing: an adapter that cannot be made or merged leaves the model as it was.

Two exceptions, outside the tuner: a `task_type` that the model cannot do, at which `get_peft_model` raises with the
adapter in place, and `mixed=True`, which has a tuner of PEFT's own; build the model again after an error there.

PEFT replaces layers one by one and stops at the first that fails. `ALLoRAModel` takes LoRA's place in PEFT's registry
of tuners; for plain LoRA configs it does what `LoraModel` does. Checked by `tests/test_lora_peft_refusals.py`.
"""

from __future__ import annotations

import copy
from typing import Any

from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.lora import LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import PeftType
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from allora_analysis.lora.peft.config import ALLoRAConfig
from allora_analysis.lora.peft.layer import ALLoRALayer, is_foreign
from allora_analysis.lora.peft.rule import LORA_X_ETA, refuse_merge
from allora_analysis.validation import ArgumentError


class Snapshot:
    """A model's tree of modules, its adapters' settings, and what is trained; no weight is copied.

    Args:
        model: any module.
    """

    def __init__(self, model: nn.Module):
        self._root = (model, dict(vars(model)))
        self._modules = [(m, m.training, dict(m._modules), dict(m._parameters)) for m in model.modules()]
        self._settings = [(m, _settings(m)) for m in model.modules()]
        self._trained = [(p, p.requires_grad) for p in model.parameters()]

    def restore(self) -> None:
        """Put everything back."""
        root, attributes = self._root
        vars(root).clear()
        vars(root).update(attributes)
        for module, training, children, parameters in self._modules:
            module.training = training
            for now, before in ((module._modules, children), (module._parameters, parameters)):
                now.clear()
                now.update(before)
        for module, settings in self._settings:
            vars(module).update(settings)
        for parameter, requires_grad in self._trained:
            parameter.requires_grad_(requires_grad)


def _settings(module: nn.Module) -> dict[str, Any]:
    if not isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
        return {}
    kinds = (bool, str, list, set, tuple, dict)
    return {key: copy.copy(value) for key, value in vars(module).items() if type(value) in kinds and "hooks" not in key}


class ALLoRAModel(LoraModel):
    """`LoraModel`, which checks ALLoRA's configs and puts the model back if an adapter fails."""

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """An adapter on every target, or none.

        Args:
            model: the base model.
            adapter_name: its config is in `peft_config`.
            *args: PEFT's.
            **kwargs: PEFT's.
        """
        config = self.peft_config[adapter_name]
        if not isinstance(config, ALLoRAConfig):
            super().inject_adapter(model, adapter_name, *args, **kwargs)
            return
        config.check()
        before, names = Snapshot(model), list(self.targeted_module_names)
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        except BaseException:
            before.restore()
            self.targeted_module_names = names
            self.peft_config.pop(adapter_name, None)
            raise

    def _create_and_replace(self, lora_config, adapter_name, target, *args, **kwargs) -> None:
        if isinstance(lora_config, ALLoRAConfig) and is_foreign(target):
            raise ArgumentError(
                f"adapter {adapter_name!r}: the model's layers are plain PEFT's ({type(target).__name__}) and would "
                "train LoRA in silence; make the model with allora_config from the start, or unload() it first"
            )
        super()._create_and_replace(lora_config, adapter_name, target, *args, **kwargs)

    def check_merge(self, adapter_names: list[str] | None = None) -> None:
        """Every layer can merge these adapters.

        Args:
            adapter_names: which; the active ones, if None.
        """
        for module in self.model.modules():
            if isinstance(module, ALLoRALayer):
                module.check_merge(adapter_names)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """PEFT's, in all layers or in none.

        Args:
            adapter_names: which; the active ones, if None.
            safe_merge: see PEFT.
        """
        self.check_merge(adapter_names)
        super().merge_adapter(adapter_names=adapter_names, safe_merge=safe_merge)

    def merge_and_unload(
        self, progressbar: bool = False, safe_merge: bool = False, adapter_names: list[str] | None = None
    ) -> nn.Module:
        """PEFT's, in all layers or in none.

        Args:
            progressbar: see PEFT.
            safe_merge: see PEFT.
            adapter_names: which; the active ones, if None.

        Returns:
            The base model.
        """
        self.check_merge(adapter_names)
        return super().merge_and_unload(progressbar=progressbar, safe_merge=safe_merge, adapter_names=adapter_names)

    def add_weighted_adapter(self, adapters: list[str], *args: Any, **kwargs: Any) -> None:
        """PEFT's, from adapters that are matrices. The new one has the rule of the first, and scaling 1.

        Args:
            adapters: their names.
            *args: PEFT's.
            **kwargs: PEFT's.

        Raises:
            ArgumentError: ASF-LoRA among them, or LoRA×η first.
        """
        variants = [getattr(self.peft_config.get(name), "variant", "") for name in adapters]
        for name, variant in zip(adapters, variants, strict=True):
            refuse_merge([variant], name)
        if variants[:1] == [LORA_X_ETA]:
            raise ArgumentError(
                f"adapter {adapters[0]!r}: add_weighted_adapter gives the new adapter the first one's rule and scaling "
                "1, but lora_x_eta's is eta; name an adapter of another variant first, or combine them in plain PEFT "
                "(export_lora)"
            )
        super().add_weighted_adapter(adapters, *args, **kwargs)


PEFT_TYPE_TO_TUNER_MAPPING[PeftType.LORA] = ALLoRAModel
