"""What an optimizer and gradient clipping make of a factor on the rows of a gradient. Measured, not looked up.

Checked by `tests/test_lora_doctor_prognosis.py`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from allora_analysis.lora.optim import ALLoRAAdamW

KEPT = 0.9  # of the logarithm of the gain: below, clipping undoes the factor
STEPS = 20  # RAdam adapts from its sixth step on
# Where an optimizer cannot be tried (it needs a GPU, a closure, …): families that divide a gradient by its own size.
NORMALISING = ("adam", "lion", "rmsprop", "adagrad", "adadelta", "adafactor", "lamb", "rprop", "signsgd", "sophia")


@dataclass(frozen=True)
class OptimizerEffect:
    """What an optimizer makes of ALLoRA.

    Attributes:
        name: the optimizer's class.
        response: h, where multiplying a gradient's rows by c_i multiplies the step's rows by c_iʰ: 1 for SGD, 0 for
            Adam; None where that is not known.
        measured: h was measured on a fresh optimizer of this class with these settings; else it is by the name.
        momentum: earlier gradients stay in the step, and so do the factors that they had.
        on_update: `ALLoRAAdamW`, which puts the factor on its update.
    """

    name: str
    response: float | None
    measured: bool
    momentum: bool
    on_update: bool


def unwrapped(optimizer: Any) -> Any:
    """The torch optimizer inside wrappers (Accelerate's).

    Args:
        optimizer: an optimizer, or an object with one as `optimizer`.

    Returns:
        The innermost.
    """
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def optimizer_effect(optimizer: Any, group: dict[str, Any], size: float = 1.0) -> OptimizerEffect:
    """A fresh optimizer of this class, with this group's settings, tried with and without factors on a gradient's rows.

    Args:
        optimizer: unwrapped.
        group: one of its groups.
        size: typical size of a gradient's entry; with an ε far above it, Adam is SGD.

    Returns:
        The effect.
    """
    name = type(optimizer).__name__
    momentum = bool(group.get("momentum") or (group.get("betas") or (0.0,))[0])
    response = _response(optimizer, group, size)
    measured = response is not None
    if not measured and any(word in name.lower() for word in NORMALISING):
        response = 0.0
    return OptimizerEffect(name, response, measured, momentum, isinstance(optimizer, ALLoRAAdamW))


def _response(optimizer: Any, group: dict[str, Any], size: float) -> float | None:
    # The least-squares slope of log ‖Δ_i(c)‖/‖Δ_i(1)‖ over log c_i, Δ the last of some steps from 0.
    factors = 2.0 ** torch.arange(-2.0, 4.0, dtype=torch.float64)
    gradient = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * size
    try:
        plain, scaled = (_last_step(optimizer, group, c[:, None] * gradient) for c in (torch.ones(6), factors))
    except Exception:  # another's code, called in a way that it may not foresee
        return None
    ratio, x = (scaled.norm(dim=1) / plain.norm(dim=1)).log(), factors.log()
    slope = float(((x - x.mean()) * ratio).sum() / ((x - x.mean()) ** 2).sum())
    return slope if abs(slope) < float("inf") else None


def _last_step(optimizer: Any, group: dict[str, Any], gradient: Tensor) -> Tensor:
    accepted = inspect.signature(type(optimizer).__init__).parameters
    settings = {key: group[key] for key in optimizer.defaults if key in accepted and key in group}
    if settings.get("lr") is not None:
        settings["lr"] = 1.0  # a warm-up starts at 0
    if "weight_decay" in settings:
        settings["weight_decay"] = 0.0
    parameter = nn.Parameter(torch.zeros_like(gradient))
    fresh = type(optimizer)([{"params": [parameter]}], **settings)
    for _ in range(STEPS):
        before, parameter.grad = parameter.detach().clone(), gradient.clone()
        fresh.step()
    return parameter.detach() - before


@dataclass(frozen=True)
class Clipping:
    """What clipping the total gradient norm to a maximum makes of the last gradients.

    Attributes:
        max_norm: the maximum; transformers' default is 1.
        norm: of all gradients together, as they are.
        removed: the fraction of that norm that clipping takes away, 1 − min(1, max/norm).
        gain: ‖ALLoRA's gradient‖ / ‖LoRA's‖ over all B of layers that scale theirs; None without such layers.
        gain_after: the same with both clipped; 1 means that clipping undid the factor.
    """

    max_norm: float
    norm: float
    removed: float
    gain: float | None
    gain_after: float | None

    @property
    def undoes(self) -> bool:
        """A good part of the factor is gone, or all of it: of log(gain), clipping leaves less than nine tenths."""
        if not self.gain or self.gain_after is None or not self.removed > 0:
            return False
        return self.gain_after == 0 or abs(math.log(self.gain_after)) < KEPT * abs(math.log(self.gain))


def clipping_effect(
    max_norm: float, gradients: Sequence[Tensor], scaled: Sequence[tuple[Tensor | None, Tensor | None, Tensor]]
) -> Clipping | None:
    """The last gradients, clipped as `torch.nn.utils.clip_grad_norm_` clips them, beside LoRA's.

    LoRA's gradient of B is g/d exactly. LoRA's of A cannot be had from ALLoRA's Σ_i d_i B_iᵀG_i unless all d are equal,
    as at BA = 0; it is taken as g/mean(d), which enters through the total norm alone.

    Args:
        max_norm: the maximum.
        gradients: of all trained parameters.
        scaled: (∂A, ∂B, d) of each layer that scales its gradients.

    Returns:
        The effect, or None without gradients.
    """
    if not gradients:
        return None
    square = sum(_square(gradient) for gradient in gradients)
    own_b = sum(_square(b) for _, b, _ in scaled)
    own = own_b + sum(_square(a) for a, _, _ in scaled)
    lora_b = sum(_square(None if b is None else b / d[:, None]) for _, b, d in scaled)
    lora_a = sum(_square(None if a is None else a / d.mean()) for a, _, d in scaled)
    clip, norm = _coefficient(max_norm, square), square**0.5
    if not lora_b > 0:
        return Clipping(max_norm, norm, 1 - clip, None, None)
    gain = (own_b / lora_b) ** 0.5
    lora_clip = _coefficient(max_norm, square - own + lora_a + lora_b)
    return Clipping(max_norm, norm, 1 - clip, gain, gain * clip / lora_clip)


def _square(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else float(torch.linalg.vector_norm(gradient.double()) ** 2)


def _coefficient(max_norm: float, square: float) -> float:
    return min(1.0, max_norm / (max(square, 0.0) ** 0.5 + 1e-6))
