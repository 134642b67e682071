"""What the doctor measures: clipping, a layer's backward pass and its factor.

Nothing is looked up by name that can be tried: a layer runs alone on a few random inputs. `report` is one adapter's
line. Checked by `tests/test_lora_doctor.py` and `tests/test_lora_doctor_measured.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from allora_analysis.adaptors import ADAPTORS
from allora_analysis.arms import IN_FORWARD, ON_OUTPUTS, ON_ROWS
from allora_analysis.lora.autograd import doubled, norms_of_rows, without_autocast
from allora_analysis.lora.doctor.effect import Effect
from allora_analysis.lora.doctor.trial import OptimizerEffect, of_response
from allora_analysis.lora.foreign import dropout_applied, in_mode, wants_gradient
from allora_analysis.lora.pairs import PLAIN, Pair, stacked

_KEPT = 0.9  # of the logarithm of the gain: below, clipping undoes the factor
# Relative: torch adds 1e-6 to the norm, and rounds norms, quotient and product in the gradients' own dtype.
_SAME_NORM, _ROUNDINGS = 1e-4, 2


# Whose wrappers' steps hand the gradients on as they are.
_HAND_ON = ("accelerate", "deepspeed", "lightning", "lightning_fabric", "megatron", "pytorch_lightning")


def unwrapped(optimizer: Any) -> Any:
    """The optimizer inside wrappers that have no step of their own, or one that hands the gradients on."""
    while hasattr(optimizer, "optimizer"):
        step = getattr(type(optimizer), "step", None)
        if step is not None and step.__module__.partition(".")[0] not in _HAND_ON:
            break
        optimizer = optimizer.optimizer
    return optimizer


def rate(group: dict[str, Any]) -> float | None:
    """A group's learning rate as a number; None where the optimizer finds it itself (transformers' Adafactor)."""
    lr = group.get("lr")
    return None if lr is None else float(lr)


@dataclass(frozen=True)
class Clipping:
    """What clipping the total gradient norm to a maximum makes of the last gradients.

    Attributes:
        max_norm: the maximum; transformers' default is 1.
        norm: of all gradients together, as they are.
        removed: the fraction of that norm that clipping takes away, 1 − min(1, max/norm).
        gain: ‖ALLoRA's gradient‖ / ‖LoRA's‖ over all B of layers that scale theirs; None without such layers. Over all
            A where the gradients of B are 0 and each layer's factors are equal, as at A = 0.
        gain_after: the same with both clipped; 1 means that clipping undid the factor.
        done: the gradients have been clipped already: their norm is the maximum, and what it was is not known.
        of: the matrices that the gain is of, "B" or "A".
    """

    max_norm: float
    norm: float
    removed: float
    gain: float | None
    gain_after: float | None
    done: bool
    of: str = "B"

    @property
    def undoes(self) -> bool:
        """A good part of the factor is gone, or all of it: of log(gain), clipping leaves less than nine tenths."""
        if not self.gain or self.gain_after is None or not self.removed > 0:
            return False
        return self.gain_after == 0 or abs(math.log(self.gain_after)) < _KEPT * abs(math.log(self.gain))


def clipping_effect(
    max_norm: float, gradients: Sequence[Tensor], scaled: Sequence[tuple[Tensor | None, Tensor | None, Tensor]]
) -> Clipping | None:
    """The last gradients, clipped as `torch.nn.utils.clip_grad_norm_` clips them, beside LoRA's."""
    # LoRA's gradient of B is g/d exactly. LoRA's of A cannot be had from ALLoRA's Σ_i d_i B_iᵀG_i unless all d are
    # equal, as at BA = 0; it is taken as g/mean(d), which enters through the total norm alone.
    if not gradients:
        return None
    square = sum(_square(gradient) for gradient in gradients)
    own_b = sum(_square(b) for _, b, _ in scaled)
    own = own_b + sum(_square(a) for a, _, _ in scaled)
    lora_b = sum(_square(None if b is None else b / d[:, None]) for _, b, d in scaled)
    lora_a = sum(_square(None if a is None else a / d.mean()) for a, _, d in scaled)
    clip, norm = _coefficient(max_norm, square), square**0.5
    rounding = sum(_square(gradient) * torch.finfo(gradient.dtype).eps for gradient in gradients) / (square or 1)
    done = math.isclose(norm, max_norm, rel_tol=max(_SAME_NORM, _ROUNDINGS * rounding))
    by_a = not lora_b > 0 and all(bool((d == d[0]).all()) for _, _, d in scaled)
    part, lora_part = (own - own_b, lora_a) if by_a else (own_b, lora_b)
    if not lora_part > 0:
        return Clipping(max_norm, norm, 1 - clip, None, None, done)
    gain = (part / lora_part) ** 0.5
    lora_clip = _coefficient(max_norm, square - own + lora_a + lora_b)
    return Clipping(max_norm, norm, 1 - clip, gain, gain * clip / lora_clip, done, "A" if by_a else "B")


def _square(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else float(torch.linalg.vector_norm(doubled(gradient)) ** 2)


def _coefficient(max_norm: float, square: float) -> float:
    return min(1.0, max_norm / (max(square, 0.0) ** 0.5 + 1e-6))


_TOKENS = 4
_TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
_LOW_PRECISION = 0.1


def backward_word(pair: Pair) -> str | None:
    """∂L/∂B of the layer, dropout off, for L = Σ v ⊙ layer(X), beside s·(v ⊙ T)ᵀ(XAᵀ): is it what the layer states?"""
    # T is 1 for LoRA, d_i for ALLoRA, adaptor(|f|) for ALLoRA-OD and the derivative of f·adaptor(|f|) for ASF-LoRA,
    # f = XAᵀBᵀ; DoRA's forward multiplies v by a factor of each row. Random numbers come from a generator of its own,
    # and no `.grad` is touched. Autocast is off meanwhile: both sides are in the layer's own precision.
    if not pair.is_product or pair.a.is_meta or not pair.b.requires_grad or pair.a.ndim > 2 or pair.experts > 1:
        return None
    with without_autocast(pair.b):
        return _word(pair)


def _word(pair: Pair) -> str | None:
    weight = _base_weight(pair)
    dtype = pair.a.dtype if weight is None else weight.dtype  # PEFT keeps float32 adapters over a bfloat16 base
    x, v = (
        torch.randn(_TOKENS, size, generator=torch.Generator().manual_seed(0)).to(pair.a.device).to(dtype)
        for size in (pair.a.shape[1], pair.b.shape[0])
    )
    try:
        with in_mode(pair.module, training=False), torch.enable_grad():
            output = pair.module.forward(wants_gradient(x))
            (found,) = torch.autograd.grad((output * v).sum(), pair.b, allow_unused=True)
    except Exception:  # a layer that takes no plain inputs (an embedding, a sharded or quantized base) stays unmeasured
        return None
    if found is None:
        return None
    exact = torch.promote_types(pair.b.dtype, torch.float32)
    if (length := _dora(pair, weight, exact)) is None:
        return None
    v = v.to(exact) * length
    hidden = x.to(exact) @ pair.a.detach().to(exact).T
    lora = pair.scaling * v.T @ hidden
    stated = pair.scaling * (v * _factor(pair, hidden)).T @ hidden
    if not torch.isfinite(stated).all():
        return None
    tolerance = max(_TOLERANCES.get(kind, _LOW_PRECISION) for kind in (pair.b.dtype, dtype))
    for word, expected in (("as stated", stated), ("lora's", lora)):
        if (found.to(exact) - expected).norm() <= tolerance * expected.norm():
            return word
    return "another"


def _dora(pair: Pair, weight: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """m_i/‖(W + s·BA)_i‖, by which DoRA's forward multiplies row i; 1 elsewhere, None if W is not there."""
    vectors = getattr(pair.module, "lora_magnitude_vector", {})
    if pair.adapter not in vectors:
        return torch.ones((), dtype=dtype, device=pair.b.device)
    if weight is None:
        return None
    wide = (weight.mT if getattr(pair.module, "fan_in_fan_out", False) else weight).detach().to(dtype)
    product = pair.b.detach().to(dtype) @ pair.a.detach().to(dtype)
    norms = torch.linalg.vector_norm(wide + pair.scaling * product, dim=1)
    return vectors[pair.adapter].weight.detach().to(dtype).flatten() / norms


def _factor(pair: Pair, hidden: Tensor) -> Tensor:
    """T, (tokens, n₁) or what broadcasts to it."""
    if pair.variant in PLAIN or pair.adaptor not in ADAPTORS:
        return torch.ones((), dtype=hidden.dtype, device=hidden.device)
    adaptor, b = ADAPTORS[pair.adaptor], pair.b.detach().to(hidden.dtype)
    if pair.variant not in ON_OUTPUTS:
        return adaptor(abs(pair.scaling) * norms_of_rows(pair.a.detach(), pair.b.detach()), pair.eta)
    output = (hidden @ b.T).requires_grad_()
    if pair.variant == "allora_od":
        return adaptor(abs(pair.scaling) * output.detach().abs(), pair.eta)
    with torch.enable_grad():
        return torch.autograd.grad((output * adaptor(output.abs(), pair.eta)).sum(), output)[0]


def _base_weight(pair: Pair) -> Tensor | None:
    base = getattr(pair.module, "base_layer", getattr(pair.module, "base", None))
    weight = getattr(base, "weight", None)
    return weight if isinstance(weight, Tensor) and weight.is_floating_point() else None


def share(pair: Pair) -> float | None:
    """‖s·BA‖/‖W‖, Frobenius; None without a dense base weight of BA's size that BA is added to in the forward."""
    weight = _base_weight(pair)
    if not pair.is_product or pair.merged or pair.disabled or not pair.active or type(weight) is not type(pair.a):
        return None
    a, b = (doubled(part.detach()) for part in pair.matrices)
    if weight.is_meta or a.is_meta or weight.numel() != a.shape[0] * a.shape[2] * b.shape[1]:
        return None
    square = float(((b.mT @ b) * (a @ a.mT)).sum().clamp_min(0))
    size = float(torch.linalg.vector_norm(weight.detach(), dtype=torch.promote_types(weight.dtype, torch.float32)))
    found = abs(pair.scaling) * math.sqrt(square) / size if size > 0 else math.inf
    return found if math.isfinite(found) else None


@dataclass(frozen=True)
class LayerReport:
    """One adapter of one layer.

    Attributes:
        name: the layer's path in the model.
        adapter: PEFT's name of the adapter, or None.
        variant: what the layer does: "lora", "allora", ….
        eta: η of the variant, or of `ALLoRAAdamW`'s group where the variant's layers have none; LoRA×η's own is s.
        adaptor: likewise.
        scaling: the LoRA scaling s.
        rank: r, of each expert where there are several.
        norms: smallest, median and largest ‖s(BA)_i‖; None if the adapter's ΔW is not s·BA.
        factors: likewise of d_i, where the layer or the optimizer has such a factor per row.
        gradient_ratio: ‖g_B‖ / ‖LoRA's g_B‖ of the last gradient; LoRA's is g_B/d exactly, as long as no step was taken
            since and nothing changed the gradient (clipping its entries, which is not seen, makes it no such ratio).
            None before a backward pass, and where the factor is no row's.
        backward: ∂L/∂B measured on the layer alone: "as stated", "lora's", "another"; None where that cannot be done.
        drop_rate: of the adapter's dropout.
        dropout_applied: two passes of the layer in training differ; None where that cannot be tried.
        rates: of A and of B in the optimizer; None for a matrix that is frozen or that it does not hold, or whose rate
            it finds itself.
        quantised: the base weight is kept in few bits.
        optimizer: what the optimizer makes of a row factor in the adapter's own parameter group; None without one.
        effect: what is left of the factor when the parameters move, or why nothing is trained.
    """

    name: str
    adapter: str | None
    variant: str
    eta: float | None
    adaptor: str | None
    scaling: float
    rank: int
    norms: tuple[float, float, float] | None
    factors: tuple[float, float, float] | None
    gradient_ratio: float | None
    backward: str | None
    drop_rate: float
    dropout_applied: bool | None
    rates: tuple[float | None, float | None]
    quantised: bool
    optimizer: OptimizerEffect | None
    effect: Effect


def layer_factor(pair: Pair) -> Tensor | None:
    """The d by which the layer's backward pass multiplies the rows of B's gradient."""
    if pair.variant not in ON_ROWS or not pair.is_product or pair.a.is_meta:
        return None
    return ADAPTORS[pair.adaptor](abs(pair.scaling) * norms_of_rows(*pair.matrices), pair.eta).flatten()


def rows_of_b(pair: Pair, gradient: Tensor | None) -> Tensor | None:
    """B's gradient as a matrix with a row for each d; the same numbers."""
    return None if gradient is None else stacked(gradient, 1, pair.experts).flatten(0, 1)


def holds(group: dict[str, Any] | None, pair: Pair) -> bool:
    """Whether a group of `ALLoRAAdamW` is this pair: A, then B, of the one layer."""
    if group is None or not group.get("pair"):
        return False
    return group["params"][0] is pair.a and group["params"][1] is pair.b


def report(
    pair: Pair, effect: OptimizerEffect | None, homes: dict[int, dict[str, Any]], configs: dict[str, Any]
) -> LayerReport:
    """The line of one adapter."""
    norms = norms_of_rows(*pair.matrices).flatten() if pair.is_product and not pair.a.is_meta else None
    group = homes.get(id(pair.b))
    d, eta, adaptor, ratio, gradient = layer_factor(pair), pair.eta, pair.adaptor, None, pair.b.grad
    if gradient is not None and gradient.any() and (d is not None or pair.variant in PLAIN):
        lora = gradient if d is None else rows_of_b(pair, gradient) / d[:, None]
        ratio = float(doubled(gradient).norm() / doubled(lora).norm())
    if pair.eta is None and norms is not None and effect and effect.on_update and holds(group, pair):
        eta, adaptor = group["eta"], group["adaptor"]
        d = ADAPTORS[adaptor](abs(group["scaling"]) * norms, eta)
    backward, stated = backward_word(pair), getattr(configs.get(pair.adapter), "variant", "")
    variant = stated if (pair.variant, stated) == ("lora", "lora_x_eta") else pair.variant
    return LayerReport(
        name=pair.name,
        adapter=pair.adapter,
        variant=variant,
        eta=eta,
        adaptor=adaptor,
        scaling=pair.scaling,
        rank=pair.module.r[pair.adapter] if pair.flattened and pair.adapter else pair.a.shape[0] // pair.experts,
        norms=None if norms is None else _spread(abs(pair.scaling) * norms),
        factors=None if d is None else _spread(d),
        gradient_ratio=ratio,
        backward=backward,
        drop_rate=pair.drop_rate,
        dropout_applied=dropout_applied(pair) if pair.drop_rate and not pair.flattened else None,
        rates=tuple(_rate_of(part, homes) for part in (pair.a, pair.b)),
        quantised=pair.quantised,
        optimizer=effect,
        effect=_effect(pair, variant, backward, effect, homes),
    )


def _rate_of(part: Tensor, homes: dict[int, dict[str, Any]]) -> float | None:
    return homes[id(part)]["lr"] if part.requires_grad and id(part) in homes else None


def _spread(values: Tensor) -> tuple[float, float, float]:
    return (float(values.min()), float(values.median()), float(values.max()))


def clipped(layer: LayerReport, clipping: Clipping | None) -> LayerReport:
    """A report, with what clipping makes of the effect."""
    if clipping is None or layer.effect != Effect.ON_GRADIENT:
        return layer
    effect = Effect.CLIPPED_BEFORE if clipping.done else Effect.CLIPPED if clipping.undoes else layer.effect
    return replace(layer, effect=effect)


_WORSE = (Effect.NOT_BA, Effect.NOT_HELD)  # than to get no gradient


def reached(pairs: Sequence[Pair], layers: Sequence[LayerReport]) -> tuple[LayerReport, ...]:
    """The reports; where some trained layer has a gradient, one without is not on."""
    trained = [not row.effect.idle for row in layers]
    bare = [pair.a.grad is None and pair.b.grad is None for pair in pairs]
    if not any(one and not missing for one, missing in zip(trained, bare, strict=True)):
        return tuple(layers)
    return tuple(
        replace(row, effect=Effect.NO_GRADIENT)
        if one and missing and row.effect not in _WORSE and not pair.flattened  # another process may have it
        else row
        for pair, row, one, missing in zip(pairs, layers, trained, bare, strict=True)
    )


def _effect(
    pair: Pair, variant: str, backward: str | None, optimizer: OptimizerEffect | None, homes: dict[int, dict[str, Any]]
) -> Effect:
    for idle, word in (
        (pair.merged, Effect.MERGED),
        (pair.disabled, Effect.DISABLED),
        (not pair.active, Effect.INACTIVE),
    ):
        if idle:
            return word
    if not pair.trainable:
        return Effect.FROZEN
    trained = [matrix for matrix in (pair.a, pair.b) if matrix.requires_grad]
    held = [matrix for matrix in trained if id(matrix) in homes]
    if optimizer is not None and not held:
        return Effect.NOT_HELD
    if not (pair.is_product or pair.flattened):
        return Effect.NOT_BA
    found = _factors_effect(pair, variant, backward, optimizer, homes)
    if pair.flattened and found in (Effect.ON_GRADIENT, Effect.ON_UPDATE):
        return Effect.SHARDED
    half = optimizer is not None and len(held) < len(trained)
    acts = found in (Effect.ON_GRADIENT, Effect.IN_FORWARD, Effect.PARTLY_UNDONE)
    return Effect.HALF_HELD if half and acts else found


def _factors_effect(
    pair: Pair, variant: str, backward: str | None, optimizer: OptimizerEffect | None, homes: dict[int, dict[str, Any]]
) -> Effect:
    if variant in IN_FORWARD and not pair.factor_is_one:
        return Effect.IN_FORWARD
    scales = variant not in PLAIN and pair.eta is not None and not pair.factor_is_one
    if scales and backward == "lora's":
        return Effect.LORAS_BACKWARD
    if optimizer is None:
        return Effect.UNKNOWN
    group = homes.get(id(pair.b), homes.get(id(pair.a)))
    if optimizer.on_update and group["pair"]:
        if not holds(group, pair):
            return Effect.NO_PAIR
        one = group["eta"] == 1 and group["adaptor"] == "constant"
        if scales:
            return Effect.UNDONE if one else Effect.TWICE
        return Effect.ONE if one else Effect.ON_UPDATE
    if not scales and optimizer.row_factor is not None:
        return Effect.OF_OWN_ROWS
    if not scales and not optimizer.on_update and pair.factor_is_one:
        return Effect.ANOTHERS_BACKWARD if backward == "another" else Effect.ONE
    if not scales:
        return Effect.NO_PAIR if optimizer.on_update else Effect.OFF
    if (response := optimizer.response) is None:
        return Effect.UNTRIED
    found = of_response(response)
    return Effect.ANOTHERS_BACKWARD if backward == "another" and found != Effect.UNDONE else found
