"""The batches of an empirical risk: checked, moved to the parameters' device, and whether their means add up.

Checked by `tests/test_hessian_network.py` and `tests/test_hessian_network_refusals.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from allora_analysis.validation import ArgumentError

Batch = tuple[Any, Tensor]


def batch_size(inputs: Any) -> int:
    """The number of examples: the first axis of a tensor, or of the first tensor in a mapping.

    Args:
        inputs: one batch's inputs.

    Returns:
        The number.
    """
    return len(next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs)


def checked_batches(data: Iterable[Any], device: torch.device) -> list[Batch]:
    """The data as a list of (inputs, targets) on one device.

    Args:
        data: one pair, or an iterable of pairs (read once); inputs a tensor or a mapping of tensors.
        device: where the tensors go.

    Returns:
        The batches.

    Raises:
        ArgumentError: no pair, one that is none, or one without examples.
    """

    def moved(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: moved(item) for name, item in value.items()}
        return value.to(device) if isinstance(value, Tensor) else value

    one_pair = isinstance(data, tuple) and len(data) == 2 and isinstance(data[1], Tensor)
    pairs = [data] if one_pair else list(data)
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[1], Tensor) for pair in pairs):
        raise ArgumentError("data: each batch must be a pair (inputs, targets) with targets a tensor")
    if not pairs or any(batch_size(inputs) == 0 for inputs, _ in pairs):
        raise ArgumentError("data: at least one example wanted in every batch and one batch, received none")
    return [(moved(inputs), moved(targets)) for inputs, targets in pairs]


def refuse_uneven_means(loss: nn.Module, batches: Sequence[Batch]) -> None:
    """Refuse a "mean" that torch takes over Σ_n w(y_n) of each batch: such means do not add up to the whole's.

    That is nn.CrossEntropyLoss and nn.NLLLoss with class weights w, or with ignored labels (w = 0); both are known by
    their `ignore_index`. Targets that are probabilities are averaged over the examples whatever w.

    Args:
        loss: a loss module, reduction "sum" or "mean".
        batches: (inputs, targets) pairs.

    Raises:
        ArgumentError: such a loss with "mean" over more than one batch.
    """
    labels = [targets for _, targets in batches if not targets.is_floating_point()]
    if loss.reduction == "sum" or len(batches) == 1 or not labels or not hasattr(loss, "ignore_index"):
        return
    way_out = f'divides each of {len(batches)} batches by its labels\' weights; give reduction="sum" or one batch'
    if getattr(loss, "weight", None) is not None:
        raise ArgumentError(f'loss: "mean" with class weights {way_out}')
    if any(bool((targets == loss.ignore_index).any()) for targets in labels):
        raise ArgumentError(f'data: targets hold ignore_index {loss.ignore_index}, with which "mean" {way_out}')
