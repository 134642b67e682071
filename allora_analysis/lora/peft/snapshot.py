"""A model as it was before an adapter is tried on it, to put back if that fails (§4).

Checked by `tests/test_lora_peft_refusals.py`.
"""

import copy
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn


class Snapshot:
    """A model's tree of modules, its adapters' settings, and what is trained; no weight is copied."""

    def __init__(self, model: nn.Module):
        self._root = (model, dict(vars(model)))
        self._modules = [(m, m.training, dict(m._modules), dict(m._parameters)) for m in model.modules()]
        self._settings = [(m, _settings(m)) for m in model.modules()]
        self._trained = [(p, p.requires_grad, p.data) for p in model.parameters()]

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
        for parameter, requires_grad, data in self._trained:
            parameter.requires_grad_(requires_grad)
            if parameter.data_ptr() != data.data_ptr():  # an initialization put another base weight there
                parameter.data = data


def _settings(module: nn.Module) -> dict[str, Any]:
    if not isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
        return {}
    kinds = (bool, str, list, set, tuple, dict)
    return {key: copy.copy(value) for key, value in vars(module).items() if type(value) in kinds and "hooks" not in key}
