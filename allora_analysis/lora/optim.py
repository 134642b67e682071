"""§4, beyond the paper: `ALLoRAAdamW`, AdamW with the row factor on its *update*, where Adam cannot undo it.

ALLoRA scales the gradients of A and B by d. Adam divides a gradient by its own size, so that under Adam the first step
is LoRA's up to O(ε/|dg|) and what follows drifts away slowly (`tests/test_lora_doctor.py` measures it). Here the factor
comes after Adam: with u_A, u_B AdamW's own updates m̂/(√v̂ + ε), s the LoRA scaling and l the learning rate,

    B ← (1 − lλ)B − l·diag(d) u_B,   A ← (1 − lλ)A − l·mean(d) u_A,   d_i = h(‖s(BA)_i‖, η),

h the adaptor (1/√(x + 1/η²) by default), d from the parameters before the step. d > 0, so every entry of the update
keeps the sign of AdamW's own; with β₁ = 0 and λ = 0 that sign is −sign(gradient), and each step is a descent direction
of the batch loss. With momentum nothing beyond the sign is promised. The decay is AdamW's: it does not see d.
Checked by `tests/test_lora_optim.py` (against a NumPy twin and torch's AdamW) and `tests/test_lora_optim_groups.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from allora_analysis.adaptors import ADAPTORS
from allora_analysis.lora.functional import row_norms
from allora_analysis.lora.groups import check_same, checked_group, checked_options, param_groups
from allora_analysis.validation import ArgumentError

__all__ = ["ALLoRAAdamW", "param_groups"]


class _Slot(NamedTuple):
    """One parameter's part of a step; `factor` broadcasts over it, or is None for plain AdamW."""

    parameter: Tensor
    grad: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor
    factor: Tensor | None


class ALLoRAAdamW(Optimizer):
    """AdamW with the update of each pair's B multiplied by diag(d) and of its A by mean(d) (the module's docstring).

    Meant for plain LoRA forwards (PEFT's `LoraConfig`, `LowRankLinear`, `ALLoRALinear` as plain LoRA); `param_groups`
    builds the groups of a model. A group is a pair if it says `"pair": True`, with params [A (r×n₂), B (n₁×r)] in this
    order and `"scaling"` the LoRA scaling s (1 if absent). A group that does not say is one if it holds exactly two
    matrices whose shapes chain, (r, n₂) then (n₁, r), with r ≤ min(n₁, n₂): so a matrix and its bias are none, and of
    two square matrices, where the shapes do not tell, the first is taken as A; say `"pair"` where that is not meant.
    All other groups get AdamW, bit for bit torch's. A group may set its own lr, eta, betas, eps, weight_decay, adaptor.

    `state_dict` holds tensors and plain numbers alone, under AdamW's names: torch.optim.AdamW's loads too.

    Args:
        params: parameters or groups of them.
        lr: l, 0 or above.
        eta: η, the factor at BA = 0, above 0.
        betas: (β₁, β₂), each in [0, 1).
        eps: ε, 0 or above.
        weight_decay: λ, 0 or above, applied as lλ, without d.
        adaptor: "inverse_sqrt", "inverse", "exponential" or "constant"; with "constant" and η = 1 this is AdamW.
        foreach: updates many tensors in one call; the default does so for parameters on a GPU.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        eta: float,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        adaptor: str = "inverse_sqrt",
        foreach: bool | None = None,
    ):
        defaults = {"lr": lr, "eta": eta, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        defaults |= {"adaptor": adaptor, "foreach": foreach}
        super().__init__(params, checked_options(defaults))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; `"pair"` and `"scaling"` as in the class's docstring.

        Args:
            param_group: `params` and what the group sets for itself; a value out of range, a pair of wrong shapes,
                complex or integer parameters raise an `ArgumentError`.
        """
        super().add_param_group(checked_group(self.defaults | param_group))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict()` gave; from torch.optim.AdamW's, what it lacks (η, the pairs) stays as it is here.

        Args:
            state_dict: of an optimizer over the same parameters in the same groups; moments of other shapes, or a pair
                where this optimizer has none, raise an `ArgumentError`.
        """
        saved, own = state_dict["param_groups"], self.param_groups
        if [len(group["params"]) for group in saved] == [len(group["params"]) for group in own]:
            for theirs, ours in zip(saved, own, strict=True):
                check_same(theirs, ours, state_dict["state"])
            merged = [{**ours, **theirs} for theirs, ours in zip(saved, own, strict=True)]
            state_dict = {**state_dict, "param_groups": merged}
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step over all parameters that have a gradient.

        Args:
            closure: evaluates the loss again and returns it.

        Returns:
            What the closure returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        batches: dict[tuple, list[_Slot]] = {}
        for group in self.param_groups:
            for slot in self._slots(group):
                parameter, foreach = slot.parameter, group["foreach"]
                many = parameter.is_cuda if foreach is None else foreach
                hyper = (group["lr"], *group["betas"], group["eps"], group["weight_decay"])
                key = (hyper, many, parameter.device, parameter.dtype, slot.factor is None)
                batches.setdefault(key, []).append(slot)
        for (hyper, many, *_), slots in batches.items():
            for batch in [slots] if many else [[slot] for slot in slots]:
                (_update_together if many else _update)(batch, *hyper)
        return loss

    def _slots(self, group: dict[str, Any]) -> list[_Slot]:
        """Of the group's parameters those that have a gradient, with their state and factor.

        Args:
            group: the group.

        Returns:
            Their slots.

        Raises:
            ArgumentError: a sparse gradient.
        """
        trained = [parameter for parameter in group["params"] if parameter.grad is not None]
        if any(parameter.grad.layout is not torch.strided for parameter in trained):
            raise ArgumentError("params: dense gradients wanted, received sparse ones; use nn.Embedding(sparse=False)")
        factors: list[Tensor | None] = [None] * len(trained)
        if group["pair"] and trained:
            a, b = group["params"]
            d = ADAPTORS[group["adaptor"]](abs(group["scaling"]) * row_norms(a, b), group["eta"])
            factors = [(d[:, None] if parameter is b else d.mean()).to(parameter.dtype) for parameter in trained]
        slots = []
        for parameter, factor in zip(trained, factors, strict=True):
            state = self.state[parameter]
            if not state:
                state["step"] = torch.tensor(0.0, dtype=_count_dtype())
                state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            slots.append(_Slot(parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"], state["step"], factor))
        return slots


def _count_dtype() -> torch.dtype:
    # As torch's own: a count in bfloat16, a default that large models are built under, would stop at 256.
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


def _update(slots: list[_Slot], lr: float, beta1: float, beta2: float, eps: float, weight_decay: float) -> None:
    """AdamW's step of one tensor, its numerator times the factor: operation for operation torch's loop."""
    (slot,) = slots
    slot.step.add_(1)
    step = slot.step.item()
    if weight_decay != 0:
        slot.parameter.mul_(1 - lr * weight_decay)
    slot.exp_avg.lerp_(slot.grad, 1 - beta1)
    slot.exp_avg_sq.mul_(beta2).addcmul_(slot.grad, slot.grad, value=1 - beta2)
    denominator = (slot.exp_avg_sq.sqrt() / (1 - beta2**step) ** 0.5).add_(eps)
    numerator = slot.exp_avg if slot.factor is None else slot.exp_avg * slot.factor
    slot.parameter.addcdiv_(numerator, denominator, value=-lr / (1 - beta1**step))


def _update_together(
    slots: list[_Slot], lr: float, beta1: float, beta2: float, eps: float, weight_decay: float
) -> None:
    """`_update` for tensors of one device and dtype, which all have a factor or none."""
    parameters, grads, exp_avgs, exp_avg_sqs, counts, factors = (list(column) for column in zip(*slots, strict=True))
    torch._foreach_add_(counts, 1)
    steps = [count.item() for count in counts]
    if weight_decay != 0:
        torch._foreach_mul_(parameters, 1 - lr * weight_decay)
    torch._foreach_lerp_(exp_avgs, grads, 1 - beta1)
    torch._foreach_mul_(exp_avg_sqs, beta2)
    torch._foreach_addcmul_(exp_avg_sqs, grads, grads, 1 - beta2)
    denominators = torch._foreach_sqrt(exp_avg_sqs)
    torch._foreach_div_(denominators, [(1 - beta2**step) ** 0.5 for step in steps])
    torch._foreach_add_(denominators, eps)
    numerators = exp_avgs if factors[0] is None else torch._foreach_mul(exp_avgs, factors)
    torch._foreach_addcdiv_(parameters, numerators, denominators, [-lr / (1 - beta1**step) for step in steps])
