"""A diagnosis as text: one line for each adapter, then the optimizer, the clipping and the advice."""

from __future__ import annotations

from collections.abc import Sequence

from allora_analysis.lora.doctor.advice import Advice
from allora_analysis.lora.doctor.layer_report import LayerReport
from allora_analysis.lora.doctor.prognosis import Clipping, OptimizerEffect

HEAD = ("layer", "variant", "s", "r", "‖s(BA)_i‖ min/median/max", "d min/median/max", "‖g_B‖/LoRA's", "effect")
VERDICTS = {
    "on": "ALLoRA is on.",
    "clipped": "ALLoRA is on, and clipping undoes it, in part or altogether.",
    "off": "ALLoRA is OFF.",
    "partly": "ALLoRA is on in part.",
    "unknown": "Whether ALLoRA is on depends on the optimizer.",
}
ABSENT = "–"


def table(
    verdict: str,
    layers: Sequence[LayerReport],
    optimizer: OptimizerEffect | None,
    clipping: Clipping | None,
    advice: Sequence[Advice],
) -> str:
    """A diagnosis, readable.

    Args:
        verdict: "on", "clipped", "off", "partly" or "unknown".
        layers: a line each.
        optimizer: what it makes of a row factor.
        clipping: what it makes of the last gradients.
        advice: a line each.

    Returns:
        Several lines.
    """
    rows = [HEAD, *(_cells(layer) for layer in layers)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    if optimizer is not None:
        lines.append(_optimizer(optimizer))
    if clipping is not None:
        lines.append(
            f"clipping at {clipping.max_norm:g}: {clipping.removed:.0%} of the gradient's norm, {clipping.norm:.3g}"
        )
    said = [f"[{line.level}] {line.text}" for line in advice]
    return "\n".join([VERDICTS[verdict], "", *lines, "", *said])


def _optimizer(effect: OptimizerEffect) -> str:
    if effect.on_update:
        return f"optimizer: {effect.name}, which puts the factor on its update"
    response = "unknown" if effect.response is None else f"{abs(effect.response):.2f}"
    return f"optimizer: {effect.name}, where a factor c on a gradient's row becomes c^h on the step, h = {response}"


def _cells(layer: LayerReport) -> tuple[str, ...]:
    return (
        f"{layer.name} ({layer.adapter})" if layer.adapter else layer.name,
        _rule(layer),
        f"{layer.scaling:g}",
        str(layer.rank),
        _spread(layer.norms),
        _spread(layer.factors),
        ABSENT if layer.gradient_ratio is None else f"{layer.gradient_ratio:.3g}",
        layer.effect,
    )


def _rule(layer: LayerReport) -> str:
    if layer.variant == "lora_x_eta":  # its η is the scaling; another is ALLoRAAdamW's
        own = f"lora_x_eta, η = {layer.scaling:g}"
        return own if layer.eta is None else f"{own}; update's η = {layer.eta:g}"
    return layer.variant if layer.eta is None else f"{layer.variant}, η = {layer.eta:g}"


def _spread(values: tuple[float, float, float] | None) -> str:
    return ABSENT if values is None else "/".join(f"{value:.3g}" for value in values)
