"""A fresh optimizer of another's class, to try what it does. Checked by `tests/test_lora_doctor_measured.py`."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from allora_analysis.lora.optim import ALLoRAAdamW


def fresh_optimizer(optimizer: Any, group: dict[str, Any], parameter: nn.Parameter, lr: float) -> Any:
    """One of the same class and the group's settings, without weight decay and without a pair's factor.

    Args:
        optimizer: to be like.
        group: its settings.
        parameter: to train.
        lr: the rate.

    Returns:
        The optimizer.
    """
    accepted = inspect.signature(type(optimizer).__init__).parameters
    settings = {key: group[key] for key in optimizer.defaults if key in accepted and key in group}
    if settings.get("lr") is not None:
        settings["lr"] = lr
    if "weight_decay" in settings:
        settings["weight_decay"] = 0.0
    if isinstance(optimizer, ALLoRAAdamW):
        settings["eta"] = 1.0  # one matrix is no pair
    return type(optimizer)([{"params": [parameter]}], **settings)
