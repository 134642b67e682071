"""What one adapter of one layer does, and what becomes of its factor: a line of `doctor`'s table.

Checked by `tests/test_lora_doctor.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from allora_analysis.adaptors import ADAPTORS
from allora_analysis.lora.doctor.probe import backward_word
from allora_analysis.lora.doctor.prognosis import Clipping, OptimizerEffect
from allora_analysis.lora.pairs import PLAIN, Pair
from allora_analysis.lora.row_norms import norms_of_rows


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
        rank: r.
        norms: smallest, median and largest ‖s(BA)_i‖; None if the adapter's ΔW is not s·BA.
        factors: likewise of d_i, where the layer or the optimizer has such a factor per row.
        gradient_ratio: ‖g_B‖ / ‖LoRA's g_B‖ of the last gradient; LoRA's is g_B/d exactly, as long as no step was taken
            since. None before a backward pass, and where the factor is no row's.
        backward: ∂L/∂B measured on the layer alone: "as stated", "lora's", "another"; None where that cannot be done.
        drop_rate: of the adapter's dropout.
        quantised: the base weight is kept in few bits.
        effect: what is left of the factor when the parameters move: "on the gradient", "on the update", "twice" (layer
            and optimizer), "in the forward", "clipped" (clipping undoes it), "partly undone", "undone", "off",
            "no pair" (no group of ALLoRAAdamW is this A and B), "not BA", "backward is LoRA's",
            "half in the optimizer", "not in the optimizer", "unknown", or why nothing is trained: "merged", "disabled",
            "inactive", "frozen".
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
    quantised: bool
    effect: str


def layer_factor(pair: Pair) -> Tensor | None:
    """The d by which the layer's backward pass multiplies the rows of B's gradient.

    Args:
        pair: an adapter.

    Returns:
        d, or None for LoRA, and where the factor is no row's (ALLoRA-OD's, ASF-LoRA's).
    """
    if pair.variant not in ("allora", "allora_0") or not pair.is_product or pair.a.is_meta:
        return None
    return ADAPTORS[pair.adaptor](norms_of_rows(pair.a, pair.b), pair.eta)


def holds(group: dict[str, Any] | None, pair: Pair) -> bool:
    """Whether a group of `ALLoRAAdamW` is this pair: A, then B, of the one layer.

    Args:
        group: the optimizer's group that holds B, or None.
        pair: the adapter.

    Returns:
        False too for a group that trains its parameters by plain AdamW.
    """
    if group is None or not group.get("pair"):
        return False
    return group["params"][0] is pair.a and group["params"][1] is pair.b


def report(
    pair: Pair, effect: OptimizerEffect | None, homes: dict[int, dict[str, Any]], configs: dict[str, Any]
) -> LayerReport:
    """The line of one adapter.

    Args:
        pair: the adapter.
        effect: what the optimizer makes of a row factor, or None without one.
        homes: by a parameter's id, the optimizer's group that holds it.
        configs: PEFT's configs by adapter.

    Returns:
        The report.
    """
    norms = norms_of_rows(pair.a, pair.b) if pair.is_product and not pair.a.is_meta else None
    group = homes.get(id(pair.b))
    d, eta, adaptor, ratio, gradient = layer_factor(pair), pair.eta, pair.adaptor, None, pair.b.grad
    if gradient is not None and gradient.any() and (d is not None or pair.variant in PLAIN):
        lora = gradient if d is None else gradient / d[:, None]
        ratio = float(gradient.double().norm() / lora.double().norm())
    if pair.eta is None and norms is not None and effect and effect.on_update and holds(group, pair):
        eta, adaptor = group["eta"], group["adaptor"]
        d = ADAPTORS[adaptor](abs(group["scaling"]) * norms, eta)
    backward, stated = backward_word(pair), getattr(configs.get(pair.adapter), "variant", "")
    variant = stated if (pair.variant, stated) == ("lora", "lora_x_eta") else pair.variant
    return LayerReport(
        pair.name,
        pair.adapter,
        variant,
        eta,
        adaptor,
        pair.scaling,
        pair.a.shape[0],
        None if norms is None else _spread(abs(pair.scaling) * norms),
        None if d is None else _spread(d),
        ratio,
        backward,
        pair.drop_rate,
        pair.quantised,
        _effect(pair, variant, backward, effect, homes),
    )


def _spread(values: Tensor) -> tuple[float, float, float]:
    return (float(values.min()), float(values.median()), float(values.max()))


def clipped(layer: LayerReport, clipping: Clipping | None) -> LayerReport:
    """A report, with what clipping makes of the effect.

    Args:
        layer: the report without clipping.
        clipping: what it makes of the last gradients, or None.

    Returns:
        The report, "clipped" if the factor was on the gradient and clipping undoes it.
    """
    undone = clipping is not None and clipping.undoes and layer.effect == "on the gradient"
    return replace(layer, effect="clipped") if undone else layer


def _effect(
    pair: Pair, variant: str, backward: str | None, optimizer: OptimizerEffect | None, homes: dict[int, dict[str, Any]]
) -> str:
    for idle, word in ((pair.merged, "merged"), (pair.disabled, "disabled"), (not pair.active, "inactive")):
        if idle:
            return word
    if not pair.trainable:
        return "frozen"
    trained = [matrix for matrix in (pair.a, pair.b) if matrix.requires_grad]
    held = [matrix for matrix in trained if id(matrix) in homes]
    if optimizer is not None and not held:
        return "not in the optimizer"
    if not pair.is_product:
        return "not BA"
    found = _factors_effect(pair, variant, backward, optimizer, homes)
    half = optimizer is not None and len(held) < len(trained)
    return (
        "half in the optimizer" if half and found in ("on the gradient", "in the forward", "partly undone") else found
    )


def _factors_effect(
    pair: Pair, variant: str, backward: str | None, optimizer: OptimizerEffect | None, homes: dict[int, dict[str, Any]]
) -> str:
    if variant in ("asf_lora", "lora_x_eta"):
        return "in the forward"
    scales = variant not in PLAIN and pair.eta is not None
    if scales and backward == "lora's":
        return "backward is LoRA's"
    if optimizer is None:
        return "unknown"
    group = homes.get(id(pair.b), homes.get(id(pair.a)))
    if optimizer.on_update and group["pair"]:
        return "no pair" if not holds(group, pair) else "twice" if scales else "on the update"
    if not scales:
        return "no pair" if optimizer.on_update else "off"
    return _survival(optimizer.response)


def _survival(response: float | None) -> str:
    if response is None:
        return "unknown"
    return "on the gradient" if response > 0.9 else "undone" if response < 0.1 else "partly undone"
