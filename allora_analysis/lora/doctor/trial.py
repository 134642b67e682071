"""What an optimizer makes of a factor, tried: a fresh one of the class steps with and without factors on a gradient.

Checked case by case by `tests/test_lora_doctor_advice.py` and `tests/test_lora_doctor_measured.py`.
"""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict, defaultdict
from collections.abc import Hashable, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from allora_analysis.lora.autograd import doubled
from allora_analysis.lora.doctor.effect import Effect
from allora_analysis.lora.optim import ALLoRAAdamW
from allora_analysis.lora.pairs import Pair
from allora_analysis.lora.watch import known

_NO_SETTINGS = ("params", "param_names", "names", "initial_lr")
_RATE = 1e-4  # the rows stay what they are
_SPREAD = 1e-2
_TOLERANCE = 0.02


@dataclass(frozen=True)
class RowFactor:
    """A factor of a parameter's own row norms, for good the first step's if `frozen`; η if it is 1/√(‖p_i‖ + 1/η²)."""

    frozen: bool
    eta: float | None

    @property
    def words(self) -> str:
        """The factor in words."""
        formula = "a function of ‖p_i‖" if self.eta is None else f"1/√(‖p_i‖ + 1/η²), η = {self.eta:.3g},"
        return f"{formula} of each parameter's own rows" + (", frozen at the first step" if self.frozen else "")


def row_factor(optimizer: Any, group: dict[str, Any]) -> RowFactor | None:
    """Does an optimizer multiply a row's step by a function of that parameter's own row norms, and does it follow them?

    Ports of ALLoRA as an optimizer see one matrix at a time: 1/√(‖p_i‖ + 1/η²) of A's rows, then of B's, in place of
    ‖(BA)_i‖; some compute it at the first step and keep it, when B = 0. Tried on a fresh optimizer of the class, with
    the group's settings: one matrix whose rows have several norms beside one of zeros, then the norms changed between
    two steps. None: no such factor, or an optimizer that cannot be tried. Checked by `tests/test_lora_foreign.py`.
    """
    norms = torch.tensor([0.0, 0.01, 0.1, 0.5, 2.0, 8.0], dtype=torch.float64)
    try:
        zero, first, later = (
            _steps(optimizer, group, rows) for rows in ((0 * norms,) * 2, (norms,) * 2, (norms, norms.flip(0)))
        )
    except Exception:  # another's code, called in a way that it may not foresee
        return None
    ratio = first[0] / zero[0]
    if not bool(torch.isfinite(ratio).all()) or float(ratio.max() / ratio.min() - 1) < _SPREAD:
        return None
    frozen = bool(torch.allclose(later[1] / zero[1], first[1] / zero[1], rtol=_TOLERANCE))
    # (d(0)/d(n))² = 1 + η²n
    slope = ((ratio[0] / ratio[1:]) ** 2 - 1) / norms[1:]
    fits = float(slope.max() / slope.min() - 1) < _TOLERANCE and float(slope.min()) > 0
    return RowFactor(frozen, float(slope.median()) ** 0.5 if fits else None)


def _steps(optimizer: Any, group: dict[str, Any], rows: tuple[Tensor, ...]) -> list[Tensor]:
    # ‖step_i‖ of each row, at the first step and at the second, before which the rows are set anew.
    direction = torch.full((len(rows[0]), 4), 0.5, dtype=torch.float64)
    parameter = nn.Parameter(rows[0][:, None] * direction)
    fresh, found = fresh_optimizer(optimizer, group, parameter, _RATE), []
    for norms in rows:
        with torch.no_grad():
            parameter.copy_(norms[:, None] * direction)
        before, parameter.grad = parameter.detach().clone(), torch.ones_like(parameter)
        fresh.step()
        found.append((parameter.detach() - before).norm(dim=1))
    return found


def fresh_optimizer(optimizer: Any, group: dict[str, Any], parameter: nn.Parameter, lr: float) -> Any:
    """One of the same class, attributes and group's settings, without weight decay and without a pair's factor."""
    settings = _settings(optimizer, group, lr)
    accepted = inspect.signature(type(optimizer).__init__).parameters
    try:  # some make their state there, as Adagrad does
        given = {key: value for key, value in settings.items() if key in accepted}
        fresh = type(optimizer)([{"params": [parameter]}], **given)
    except Exception:  # what else it was built with is not known
        fresh = object.__new__(type(optimizer))
        vars(fresh).update({key: OrderedDict() for key in vars(optimizer) if key.endswith("_hooks")})
        fresh.state = defaultdict(dict)
    memo = {id(one): parameter for held in optimizer.param_groups for one in held["params"]} | {id(optimizer): fresh}
    for key, value in _attributes(optimizer):
        with suppress(Exception):  # what cannot be copied stays as it was built
            inner = _inner_group(optimizer, value, group)
            copied = fresh_optimizer(value, inner, parameter, lr) if inner else deepcopy(value, memo)
            vars(fresh)[key] = copied
    if "param_groups" in vars(optimizer):
        fresh.param_groups = [{**settings, "params": [parameter]}]
    known(fresh)
    return fresh


def _settings(optimizer: Any, group: dict[str, Any], lr: float) -> dict[str, Any]:
    settings = {key: value for key, value in group.items() if key not in _NO_SETTINGS}
    changed = {"lr": lr, "weight_decay": 0.0}
    if isinstance(optimizer, ALLoRAAdamW):
        changed |= {"eta": 1.0, "adaptor": "constant", "pair": False, "scaling": 1.0}  # one matrix is no pair
    return settings | {key: value for key, value in changed.items() if settings.get(key) is not None}


def _attributes(optimizer: Any) -> list[tuple[str, Any]]:
    """An optimizer's own, but for what may reach its parameters: hooks, a model, a scheduler's `step`, functions."""
    return [
        (key, value)
        for key, value in vars(optimizer).items()
        if key not in ("state", "param_groups")
        and not key.endswith("_hooks")
        and not callable(getattr(type(optimizer), key, None))
        and not (isinstance(value, nn.Module) or inspect.isfunction(value))
    ]


def _inner_group(optimizer: Any, value: Any, group: dict[str, Any]) -> dict[str, Any] | None:
    """Where `value` is an optimizer that this one steps: its group of the same parameters, or the first."""
    if any(one is optimizer for one in (value, *getattr(value, "__dict__", {}).values())):  # no end
        return None
    groups, own = list(getattr(value, "param_groups", ())), {id(one) for one in group["params"]}
    same = (one for one in groups if own & {id(each) for each in one["params"]})
    return next(same, groups[0] if groups else None)


_STEPS = 20  # RAdam adapts from its sixth step on
_SAME_STEP = 0.05  # relative
# Where an optimizer cannot be tried (it needs a GPU, a closure, …): families that divide a gradient by its own size.
_NORMALISING = (
    "adam", "lion", "rmsprop", "adagrad", "adadelta", "adafactor", "lamb", "lars", "lorafa", "rprop", "signsgd",
    "sophia",
)  # fmt: skip


@dataclass(frozen=True)
class OptimizerEffect:
    """What an optimizer makes of ALLoRA.

    Attributes:
        name: the optimizer's class.
        response: h, where multiplying a gradient's rows by c_i multiplies the step's rows by c_iʰ, or all of it by c
            all of the step by cʰ, whichever is less (at BA = 0 all c_i are η): 1 for SGD, 0 for Adam and for steps of
            one length; None where that is not known.
        measured: h was measured on a fresh optimizer of this class with these settings; else it is by the name.
        momentum: earlier gradients stay in the step, and so do the factors that they had.
        on_update: `ALLoRAAdamW`, which puts the factor on its update.
        row_factor: a factor of the parameters' own row norms that the optimizer puts on its update, measured; or None.
        size: of the gradient's entries in the trial: one for all layers, which differ where ε is about their size.
        first_step: "adamw" or "sgd" where it answers a factor as these do and its first step at rate l, tried, is
            theirs: −l·sign(g) or −l·g; else None.
    """

    name: str
    response: float | None
    measured: bool
    momentum: bool
    on_update: bool
    row_factor: RowFactor | None = None
    size: float = 1.0
    first_step: str | None = None

    @property
    def words(self) -> str:
        """What it does to a factor."""
        if self.response is None:
            return "what it does to a factor is not known"
        source = f"measured at gradients of {self.size:.2g}" if self.measured else "by its name"
        return f"a factor c on rows becomes c^{abs(self.response):.2f}, {source}"


_TRIED: dict[tuple, OptimizerEffect] = {}
_KEPT_TRIALS = 64


def optimizer_effect(optimizer: Any, group: dict[str, Any], size: float = 1.0) -> OptimizerEffect:
    """A fresh optimizer of this class with this group's settings, tried with and without factors on gradient rows."""
    kind = (size, *_kind(optimizer, group))
    if kind not in _TRIED:  # one optimizer for each parameter is tried once
        if len(_TRIED) >= _KEPT_TRIALS:
            _TRIED.clear()
        _TRIED[kind] = _tried(optimizer, group, size)
    return _TRIED[kind]


def _kind(optimizer: Any, group: dict[str, Any]) -> tuple[Hashable, ...]:
    """The same for optimizers that make the same step, as far as words and numbers say it."""
    settings = [(key, repr(value)) for key, value in sorted(_settings(optimizer, group, 1.0).items())]
    own = [
        (key, _kind(value, inner) if inner else repr(value))
        for key, value in _attributes(optimizer)
        if (inner := _inner_group(optimizer, value, group)) or (_is_plain(value) and key != "defaults")
    ]
    return (type(optimizer), *settings, *own)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        return all(_is_plain(one) for one in (value.values() if isinstance(value, dict) else value))
    return value is None or isinstance(value, bool | int | float | str)


def _tried(optimizer: Any, group: dict[str, Any], size: float) -> OptimizerEffect:
    name = type(optimizer).__name__
    momentum = bool(group.get("momentum") or (group.get("betas") or (0.0,))[0])
    response = _response(optimizer, group, size)
    measured = response is not None
    if not measured and any(word in name.lower() for word in _NORMALISING):
        response = 0.0
    ours = isinstance(optimizer, ALLoRAAdamW)
    own = None if ours else row_factor(optimizer, group)
    first = _first_step(optimizer, group, size, response) if measured else None
    return OptimizerEffect(name, response, measured, momentum, ours, own, size, first)


def effects_on(optimizer: Any, homes: dict[int, Any], pairs: Sequence[Pair]) -> tuple[OptimizerEffect, ...]:
    """`optimizer_effect` of each pair's own group, at the power of 2 next to the mean |∂L/∂B| of all of them."""
    found = [homes.get(id(pair.b), homes.get(id(pair.a))) for pair in pairs]
    held = [pair for pair, group in zip(pairs, found, strict=True) if group is not None]
    gradients = [pair.b.grad for pair in held if pair.b.grad is not None]
    gradients = [one.to_local() if hasattr(one, "to_local") else one for one in gradients]
    size = sum(doubled(one).abs().mean().item() for one in gradients) / (len(gradients) or 1)
    power = round(math.log2(size)) if 0 < size < math.inf else 0
    other = next((group for group in found if group is not None), optimizer.param_groups[0])
    return tuple(optimizer_effect(optimizer, group or other, 2.0**power) for group in found)


def weakest(effects: Sequence[OptimizerEffect]) -> OptimizerEffect:
    """The one that leaves least of a factor, or of which that is not known."""
    return min(effects, key=lambda effect: -1.0 if effect.response is None else effect.response)


def _gradient(size: float) -> Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * size


def _first_step(optimizer: Any, group: dict[str, Any], size: float, response: float) -> str | None:
    gradient, effect = _gradient(size), of_response(response)
    if effect == Effect.PARTLY_UNDONE:
        return None
    word, expected = ("sgd", -gradient) if effect == Effect.ON_GRADIENT else ("adamw", -gradient.sign())
    apart = float((_last_step(optimizer, group, gradient, steps=1) - expected).norm() / expected.norm())
    return word if apart < _SAME_STEP else None


def _response(optimizer: Any, group: dict[str, Any], size: float) -> float | None:
    # The least-squares slope of log ‖Δ_i(c)‖/‖Δ_i(1)‖ over log c_i, Δ the last of some steps from 0; the same of one c.
    factors, (low, high) = 2.0 ** torch.arange(-2.0, 4.0, dtype=torch.float64), (0.5, 4.0)
    gradient = _gradient(size)
    try:
        plain, scaled, short, long = (
            _last_step(optimizer, group, c * gradient) for c in (1.0, factors[:, None], low, high)
        )
    except Exception:  # another's code, called in a way that it may not foresee
        return None
    ratio, x = (scaled.norm(dim=1) / plain.norm(dim=1)).log(), factors.log()
    slope = float(((x - x.mean()) * ratio).sum() / ((x - x.mean()) ** 2).sum())
    whole = float((long.norm() / short.norm()).log()) / math.log(high / low)
    return min(slope, whole) if math.isfinite(slope + whole) else None


def _last_step(optimizer: Any, group: dict[str, Any], gradient: Tensor, steps: int = _STEPS) -> Tensor:
    parameter = nn.Parameter(torch.zeros_like(gradient))
    fresh = fresh_optimizer(optimizer, group, parameter, 1.0)  # a warm-up starts at 0
    for _ in range(steps):
        before, parameter.grad = parameter.detach().clone(), gradient.clone()
        fresh.step()
    return parameter.detach() - before


def of_response(response: float) -> Effect:
    """What becomes of a factor c on a row of a gradient that is c^response on the step."""
    return Effect.ON_GRADIENT if response > 0.9 else Effect.UNDONE if response < 0.1 else Effect.PARTLY_UNDONE
