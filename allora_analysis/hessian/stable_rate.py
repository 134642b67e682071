"""The largest stable learning rate: where a quadratic loss of this curvature would start to grow under the optimizer.

On a quadratic with Hessian H, x ← x − D·m with D = diag(rates)/P and m the (averaged) gradient is stable while the
largest eigenvalue of D^½HD^½ stays below

    2 for SGD,  2(1 + β) with momentum,  2(1 + β)/(1 + 2β) with Nesterov's,  2(1 + β₁)/(1 − β₁) for Adam (38 at 0.9),

P = 1 or Adam's √v̂ + ε, taken as constant (Cohen et al. 2022, "Adaptive gradient methods at the edge of stability").
ALLoRAAdamW's update is Adam's times its factors, d on B and mean(d) on A: D holds them too, at the present A and B,
where they belong at rest (m = 0 there, so that their slope does not count). So all rates may be multiplied by
threshold/λ_max. Weight decay w within the gradient (SGD, Adam) makes H + w of H, and
AdamW's, x ← (1 − rate·w)x − D·m, adds w·rates·threshold/2 to D^½HD^½ (at the edge x and m change sign each step).

Clipping the gradient's norm at c multiplies a gradient g beyond it by s = c/‖g‖, and so its slope: H becomes
s(1 − gg^T/‖g‖²)H, whose largest eigenvalue is at most s·λ_max(H) for D = 1; s·H is what counts here. It is what makes
Adam's edge the same at every c that clips all gradients, as Adam's steps are: √v̂ falls as c does. Under SGD it says
that a clipped step is a shorter one, at this ‖g‖: closer to a minimum g falls below c, and the rate is s = 1's.

λ_max is the largest eigenvalue, by Lanczos on products with the Hessian of the loss of one batch (reverse over
reverse). It says where this quadratic grows, at these parameters, this P and this s. A network's curvature changes as
it is trained: from a plateau it grows, and a rate above what is measured after steps at that rate has passed its edge.
On the laboratory's digits training fails within a factor of 4 of the edge under SGD from B = 0 and under AdamW after 20
steps, clipped or not; under momentum 0.9 from B = 0 it fails at less than the edge.

Checked by `tests/test_hessian_stable_rate.py` against dense Hessians, and against the optimizers on quadratics and on
these digits, on both sides of the edge.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allora_analysis.validation import ArgumentError, count, non_negative, positive

_STEPS = 300  # Lanczos restarts
_ADAM = (torch.optim.Adam, torch.optim.AdamW)


@dataclass(frozen=True)
class StableRate:
    """The edge on one batch.

    Attributes:
        multiple: what all rates of the parameters may be multiplied by.
        curvature: λ_max of s·D^½HD^½, with the decay.
        threshold: the optimizer's.
        products: with the Hessian.
        loss: on the batch.
        clipped: s, what clipping leaves of the batch's gradient; 1: all of it.
    """

    multiple: float
    curvature: float
    threshold: float
    products: int
    loss: float
    clipped: float = 1.0


def threshold(optimizer: Any, parameters: Sequence[Tensor] | None = None) -> float:
    """The λ_max of D^½HD^½ from which the optimizer amplifies a quadratic in these parameters (None: in all).

    2, 2(1 + β), … as in the module's docstring.
    """
    groups = optimizer.param_groups if parameters is None else _groups(optimizer, parameters)
    found = {_threshold(optimizer, group) for group in groups}
    if len(found) > 1:
        several = ", ".join(f"{one:g}" for one in sorted(found))
        raise ArgumentError(
            f"optimizer: groups of one momentum wanted, received the thresholds {several}; give the parameters of one "
            "group at a time"
        )
    return found.pop()


def _threshold(optimizer: Any, group: dict[str, Any]) -> float:
    if group.get("maximize"):
        raise ArgumentError("optimizer: maximize=False wanted, received True; negate the loss")
    if isinstance(optimizer, _ADAM) or _has_factors(optimizer):
        beta = float(group["betas"][0])
        return 2 * (1 + beta) / (1 - beta)
    if isinstance(optimizer, torch.optim.SGD):
        beta = float(group["momentum"])
        damped = 1 - float(group.get("dampening", 0.0)) if beta else 1.0
        if damped <= 0:
            raise ArgumentError(
                f"optimizer: dampening below 1 wanted, received {1 - damped:g}; its steps stop or climb"
            )
        return 2 * (1 + beta) / ((1 + 2 * beta) if group.get("nesterov") else damped)
    way = "; give what it wraps, its .optimizer" if hasattr(optimizer, "optimizer") else ""
    raise ArgumentError(
        f"optimizer: torch's SGD, Adam or AdamW, or ALLoRAAdamW wanted, received {type(optimizer).__name__}{way}"
    )


def _has_factors(optimizer: Any) -> bool:
    # ALLoRAAdamW, which this package must not import.
    return hasattr(optimizer, "update_factors")


def _groups(optimizer: Any, parameters: Sequence[Tensor]) -> list[dict[str, Any]]:
    homes = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    if any(id(parameter) not in homes for parameter in parameters):
        raise ArgumentError("optimizer: does not hold all of the parameters; build it after the adapters")
    return [homes[id(parameter)] for parameter in parameters]


def step_sizes(optimizer: Any, parameters: Sequence[Tensor]) -> list[Tensor]:
    """D: each entry's rate, over Adam's √v̂ + ε, times ALLoRAAdamW's factor."""
    found = []
    for parameter, group in zip(parameters, _groups(optimizer, parameters), strict=True):
        size = torch.full_like(parameter, float(group["lr"]), dtype=torch.float64, requires_grad=False)
        if "betas" in group:
            state = optimizer.state.get(parameter, {})
            if "exp_avg_sq" not in state:
                raise ArgumentError("optimizer: Adam has no second moments yet; make a few steps first")
            second = state["max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"]
            corrected = second.double() / (1 - float(group["betas"][1]) ** float(state["step"]))
            size = size / (corrected.sqrt() + float(group["eps"]))
        if _has_factors(optimizer) and group["pair"]:
            on_a, on_b = optimizer.update_factors(group)
            size = size * (on_a if parameter is group["params"][0] else on_b)
        found.append(size)
    return found


def _decay(optimizer: Any, parameters: Sequence[Tensor], sizes: Sequence[Tensor]) -> list[Tensor]:
    # What weight decay adds to D^½HD^½, on its diagonal.
    found = []
    for group, size in zip(_groups(optimizer, parameters), sizes, strict=True):
        decay = float(group.get("weight_decay", 0.0))
        if _has_factors(optimizer) or group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW)):
            size = torch.full_like(size, float(group["lr"]) * _threshold(optimizer, group) / 2)
        found.append(decay * size)
    return found


def largest_stable_rate(
    parameters: Sequence[Tensor],
    optimizer: Any,
    loss: Callable[[], Tensor],
    tolerance: float = 0.02,
    seed: int = 0,
    clip: float = 0.0,
) -> StableRate:
    """By how much the rates may be multiplied before a quadratic of the loss's curvature in these parameters grows.

    The loss must be the same at every call (no dropout, one batch) and twice differentiable; for transformers load the
    model with attn_implementation="eager". The optimizer is torch's SGD, Adam or AdamW, a class of theirs, or
    ALLoRAAdamW; `tolerance` is λ_max's, relative, `seed` the start vector's, `clip` the norm at which steps clip the
    gradient of all that the optimizer trains (0: no clipping). A parameter that is named twice counts once.

    Raises:
        ArgumentError: a tolerance, seed or clip that is none, nothing to train, an optimizer of another kind or (Adam)
            before its first step, parameters of different momenta, a loss that is not finite or has no finite second
            derivatives, through ALLoRA's layers, or whose curvature is nowhere positive.
    """
    parameters = list({id(parameter): parameter for parameter in parameters}.values())  # a tied one counts once
    if not parameters:
        raise ArgumentError("parameters must have at least one tensor, received none")
    edge = threshold(optimizer, parameters)
    sizes = step_sizes(optimizer, parameters)
    roots, decay = (
        torch.cat([part.reshape(-1).double() for part in parts])
        for parts in (sizes, _decay(optimizer, parameters, sizes))
    )
    clip = non_negative("clip", clip)
    everything = [parameter for group in optimizer.param_groups for parameter in group["params"]] if clip else []
    value, left, product = _product(parameters, loss, roots.sqrt(), decay, everything, clip)
    curvature, products = _largest(product, roots.numel(), positive("tolerance", tolerance), count("seed", seed, 0))
    if not curvature > 0:
        raise ArgumentError(f"loss: its largest curvature is {curvature:.3g}; one above 0 is wanted, for an edge to be")
    return StableRate(edge / curvature, curvature, edge, products, value, left)


def _check_gradients(loss: Tensor) -> None:
    # A backward pass of ALLoRA's layers is not the loss's gradient: its derivative is no Hessian.
    seen, left = set(), [loss.grad_fn]
    while left:
        if (node := left.pop()) is None or node in seen:
            continue
        if getattr(getattr(node, "_forward_cls", None), "scales_gradients", False):
            raise ArgumentError(
                "loss: goes through ALLoRA's layers, whose backward pass is not its gradient; measure plain LoRA "
                "layers (peft.LoraConfig), under ALLoRAAdamW for ALLoRA's factor"
            )
        seen.add(node)
        left += [node for node, _ in node.next_functions]


def _product(
    parameters: Sequence[Tensor],
    loss: Callable[[], Tensor],
    roots: Tensor,
    decay: Tensor,
    everything: Sequence[Tensor],
    clip: float,
) -> tuple[float, float, Callable[[np.ndarray], np.ndarray]]:
    # The loss, what clipping leaves of the gradient in everything, and v ↦ (s·D^½HD^½ + decay)v.
    try:
        value = loss()
        _check_gradients(value)
        left = _left(value, everything, clip) if clip else 1.0
        slopes = torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True, materialize_grads=True)
        slope = torch.cat([part.reshape(-1) for part in slopes])

        def product(v: np.ndarray) -> np.ndarray:
            given = torch.as_tensor(v.ravel(), device=roots.device)
            vector = (roots * given).to(slope.dtype)
            parts = torch.autograd.grad(
                slope, parameters, vector, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            flat = torch.cat([part.reshape(-1) for part in parts]).double()
            return (left * roots * flat + decay * given).cpu().numpy()

        probe = product(np.ones(roots.numel()))
    except (RuntimeError, NotImplementedError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ArgumentError(
            f"loss: has no second derivative here ({first:.120}); for transformers load the model with "
            'attn_implementation="eager"'
        ) from error
    if not (np.isfinite(float(value.detach())) and np.isfinite(probe).all()):
        raise ArgumentError(
            f"loss: {float(value.detach()):g} and its second derivatives must be finite; go back to earlier parameters"
        )
    return float(value.detach()), left, product


def _left(value: Tensor, everything: Sequence[Tensor], clip: float) -> float:
    slopes = torch.autograd.grad(value, everything, retain_graph=True, allow_unused=True, materialize_grads=True)
    return min(1.0, clip / max(float(torch.nn.utils.get_total_norm(slopes)), torch.finfo(torch.float32).tiny))


def _largest(
    product: Callable[[np.ndarray], np.ndarray], dimension: int, tolerance: float, seed: int
) -> tuple[float, int]:
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    spent = 0

    def counted(v: np.ndarray) -> np.ndarray:
        nonlocal spent
        spent += 1
        return product(v)

    if dimension <= 32:
        dense = np.stack([counted(column) for column in np.eye(dimension)], axis=1)
        return float(np.linalg.eigvalsh((dense + dense.T) / 2)[-1]), spent
    operator = LinearOperator((dimension, dimension), matvec=counted, dtype=np.float64)
    start = np.random.default_rng(seed).standard_normal(dimension)
    options = {"tol": tolerance, "ncv": 12, "maxiter": _STEPS, "v0": start, "return_eigenvectors": False}
    try:
        return float(eigsh(operator, 1, which="LA", **options)[0]), spent
    except ArpackError as error:
        if not counted(start).any():  # it wants a start that is not in the null space
            return 0.0, spent
        raise ArgumentError(f"loss: its largest curvature was not found ({error!s:.80}); raise the tolerance") from None
