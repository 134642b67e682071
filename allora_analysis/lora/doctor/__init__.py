"""§4, the doctor: is ALLoRA really on? What each layer does, and what optimizer and clipping will make of it (§4.2).

`print(doctor(model, optimizer, max_grad_norm))` after a backward pass and before clipping (with a GradScaler, after
`scaler.unscale_(optimizer)`: clipping is of the gradients as they are): a table of the layers, then advice with the way
out. It trains nothing and leaves model, gradients and random state as they were.
Checked by `tests/test_lora_doctor.py` (against autograd and by really stepping models) and
`tests/test_lora_doctor_advice.py`.

- `effect.py`: what can become of a factor, in a word, for the verdict and as advice
- `trial.py`: what an optimizer makes of a row factor, and a factor of its own
- `measured.py`: what clipping makes of the gradients, what a layer's backward pass does; one adapter's line
- `rounding.py`: what is lost of the updates of A and B in bfloat16 or float16
- `advice.py`: what to say about it, with the way out; what the rates come to, in any LoRA; all of it as text
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from allora_analysis.lora.doctor.advice import Advice, advise, table, unadapted, unsaved, worst_first
from allora_analysis.lora.doctor.effect import Effect
from allora_analysis.lora.doctor.measured import (
    Clipping,
    LayerReport,
    clipped,
    clipping_effect,
    layer_factor,
    rate,
    reached,
    report,
    rows_of_b,
    unwrapped,
)
from allora_analysis.lora.doctor.rounding import rounded_away
from allora_analysis.lora.doctor.trial import OptimizerEffect, effects_on, weakest
from allora_analysis.lora.foreign import any_pairs
from allora_analysis.lora.pairs import PLAIN, Pair
from allora_analysis.lora.watch import judged, scaled_by
from allora_analysis.validation import ArgumentError, non_negative

__all__ = ["Advice", "Clipping", "Diagnosis", "LayerReport", "NoAdapter", "OptimizerEffect", "doctor"]

# Where no rule acts on A and B.
_NO_RULE = {effect for effect in Effect if effect.idle} | {
    Effect.OFF, Effect.ONE, Effect.UNKNOWN, Effect.IN_FORWARD, Effect.NOT_BA,
}  # fmt: skip


class NoAdapter(ArgumentError):
    """A model without any LoRA adapter."""


@dataclass(frozen=True)
class Diagnosis:
    """The doctor's findings.

    Attributes:
        verdict: "on", "clipped" (on, and clipping undoes it), "off", "partly" or "unknown", over the layers that are
            trained; "plain" where none has a rule and none was meant, or all factors are 1, as asked.
        layers: one report for each adapter of each layer.
        optimizer: what the optimizer makes of a row factor, where groups differ in the one that leaves least of it;
            None if none was given.
        clipping: what clipping makes of the last gradients, or None without a maximum or gradients.
        advice: what to know and what to change, the worst first.
    """

    verdict: str
    layers: tuple[LayerReport, ...]
    optimizer: OptimizerEffect | None
    clipping: Clipping | None
    advice: tuple[Advice, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: plain numbers, words and lists; what is not finite is None."""
        return _plain(asdict(self))

    def __str__(self) -> str:
        return table(self.verdict, self.layers, self.optimizer, self.clipping, self.advice)


def doctor(
    model: nn.Module, optimizer: Any = None, max_grad_norm: float | None = None, *, allora: bool = True
) -> Diagnosis:
    """What a model's LoRA does: rates, dropout, LoRA+, DoRA; whether ALLoRA acts, and if not, why and what to change.

    Args:
        model: with LoRA adapters of any library, found by name and shape: PEFT's, ALLoRA's in PEFT, `ALLoRALinear`,
            `LowRankLinear`, loralib's, torchtune's, kohya's (`lora.foreign`).
        optimizer: that trains it; without one, what becomes of the factor stays unknown.
        max_grad_norm: at which the gradient's norm is clipped; None or 0: it is not. transformers' default is 1. It is
            compared with the gradients as they are: a GradScaler's must be unscaled, and none clipped yet; that their
            entries were (`clip_grad_value_`) is not seen.
        allora: ALLoRA is meant to be on; False: plain LoRA is what is wanted, and no problem.

    Raises:
        NoAdapter: no adapter in the model, an ArgumentError; one of a layer without outputs is none.
        ArgumentError: a negative maximum, an optimizer without parameter groups, a Trainer before it has one.
    """
    pairs = any_pairs(model)
    if not pairs:
        raise NoAdapter("model: no LoRA adapter found; add one, for example peft.get_peft_model")
    maximum = non_negative("max_grad_norm", 0.0 if max_grad_norm is None else max_grad_norm)
    optimizer = None if optimizer is None else _checked(optimizer)
    groups = [{**group, "lr": rate(group)} for group in getattr(optimizer, "param_groups", ())]
    homes = {id(p): group for group in groups for p in group["params"]}
    judged(optimizer, [pair for pair in pairs if scaled_by(pair, homes)])  # what comes later is looked at
    stated = (getattr(module, "peft_config", None) for module in model.modules())
    configs = next((config for config in stated if isinstance(config, dict)), {})
    whole = not any(pair.flattened for pair in pairs)  # else gradients are parts, other processes have the rest
    with torch.no_grad():
        found = [None] * len(pairs) if optimizer is None else effects_on(optimizer, homes, pairs)
        clipping = clipping_effect(maximum, *_gradients(model, pairs)) if maximum and whole else None
        layers = tuple(clipped(report(*each, homes, configs), clipping) for each in zip(pairs, found, strict=True))
        layers = reached(pairs, layers)
    lost = rounded_away(optimizer, homes, pairs, layers, clipping)
    effect = None if optimizer is None else weakest(found)
    effects = [layer.effect for layer in layers]
    plain = not allora and all(pair.eta is None or pair.variant in PLAIN for pair in pairs) and set(effects) <= _NO_RULE
    verdict = "plain" if plain else _verdict(effects)
    advice = advise(pairs, layers, effect, clipping, homes, configs, allora, max_grad_norm is None)
    missing = *unsaved(model, configs), *unadapted(model, configs)
    return Diagnosis(verdict, layers, effect, clipping, worst_first((*missing, *advice, *lost)))


def _checked(optimizer: Any) -> Any:
    """The optimizer inside its wrappers."""
    inner = unwrapped(optimizer)
    if inner is None:
        raise ArgumentError(
            f"optimizer: the {type(optimizer).__name__} has made none yet; call its create_optimizer() first, or give "
            "it DoctorCallback()"
        )
    if not hasattr(inner, "param_groups"):
        raise ArgumentError(
            f"optimizer must have param_groups, received {type(inner).__name__}; give the one that trains A "
            "and B, not a list of several, a scheduler or a class"
        )
    return inner


def _gradients(model: nn.Module, pairs: tuple[Pair, ...]) -> tuple[list[Tensor], list[tuple]]:
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return gradients, [
        (pair.a.grad, rows_of_b(pair, pair.b.grad), d) for pair in pairs if (d := layer_factor(pair)) is not None
    ]


def _verdict(effects: list[Effect]) -> str:
    said = {effect.verdict for effect in effects}
    if "unknown" in said:
        return "unknown"
    if "partly" in said or {"on", "off"} <= said:
        return "partly"
    if said - {"idle"} == {"plain"}:
        return "plain"
    return "clipped" if Effect.CLIPPED in effects else "on" if "on" in said else "off"


def _plain(value: Any) -> Any:
    if isinstance(value, Effect):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
