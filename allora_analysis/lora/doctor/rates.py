"""What theory says of a live model: rates at s = 1, BA's first step, start, ripple, ALLoRA's factor, LoRA+, a head.

Checked by `tests/test_lora_doctor_rates.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from allora_analysis.adaptive import in_words
from allora_analysis.adaptive.recipe import Recipe, rates
from allora_analysis.lora.doctor.effects import Effect
from allora_analysis.lora.doctor.measured import LayerReport, OptimizerEffect, share
from allora_analysis.lora.pairs import Pair

_ON_ROWS = ("allora", "allora_0")
_SETTINGS = ("weight_decay", "betas", "eps", "momentum")


def on_rates(
    pairs: Sequence[Pair], layers: Sequence[LayerReport], homes: dict[int, Any], optimizer: OptimizerEffect | None
) -> Iterator[tuple[str, str, str]]:
    """Level, code and text of each finding.

    Args:
        pairs: the model's.
        layers: their reports.
        homes: each parameter's group, by its id.
        optimizer: what it is, or None.

    Yields:
        The findings.
    """
    if any("Dora" in pair.variant for pair in pairs):
        yield "note", "DoRA", "DoRA is on: ΔW is more than s·BA, and rates and row norms are of its BA alone"
    if told := _taper(layers):
        yield "note", "factor", told
    yield from _at_width(pairs, layers)
    if len(shares := [found for pair in pairs if (found := share(pair))]) > 1:
        yield "note", "ripple", in_words.ripple(shares)
    # A rank above the layer's width has no rates of this kind.
    fit = [(p, row) for p, row in zip(pairs, layers, strict=True) if row.rank <= math.prod(p.a.shape[1:])]
    whole = [(pair, row) for pair, row in fit if pair.is_product and None not in row.rates]
    if optimizer is None or not whole:
        return
    if not optimizer.on_update and (told := _at_scaling_one(whole, optimizer)):
        yield "note", "rates", told
    yield from _on_groups([pair for pair, _ in whole], homes, optimizer.name)


def _taper(layers: Sequence[LayerReport]) -> str | None:
    # How far rows are from 1/η²: there d is η/√2.
    ruled = [row for row in layers if row.factors is not None and row.norms is not None and row.eta]
    if not ruled or any(not math.isfinite(row.norms[2]) for row in ruled):
        return None
    share = median(row.norms[1] * row.eta**2 for row in ruled)
    low, high = min(row.factors[0] / row.eta for row in ruled), max(row.factors[2] / row.eta for row in ruled)
    word = "is a constant so far" if low > in_words.CONSTANT else "tapers"
    told = f"the factor {word}: rows are {share:.3g} of 1/η² in the median, and d {low:.3g} to {high:.3g} of η"
    etas, norms = {row.eta for row in ruled}, [row.norms[1] for row in ruled]
    return f"{told}; {in_words.eta_to_taper(norms, etas.pop())}" if len(etas) == 1 and all(norms) else told


def _at_width(pairs: Sequence[Pair], layers: Sequence[LayerReport]) -> Iterator[tuple[str, str, str]]:
    # Before the first step, of the most frequent kind of layer; stable steps of SGD, at the rows as they are.
    at_start = [
        (
            row.rank,
            math.prod(pair.a.shape[1:]),
            (abs(row.scaling), row.rates[1] / row.rates[0] if all(row.rates) else 1.0),
            row.eta if row.variant in _ON_ROWS or row.effect == Effect.ON_UPDATE else None,
        )
        for pair, row in zip(pairs, layers, strict=True)
        if pair.is_product
        and row.norms == (0.0, 0.0, 0.0)
        and not pair.b.any()
        and pair.a.any()
        and row.rank <= math.prod(pair.a.shape[1:])
    ]
    if at_start:
        (rank, width, knobs, eta), _ = Counter(at_start).most_common(1)[0]
        yield "note", "start", f"starting at B = 0 {in_words.start(rank, width)}"
        if eta:
            yield (
                "note",
                "factor at this width",
                f"the factor at this width: {in_words.factor_at_width(knobs, rank, width, eta)}",
            )
    ruled = [row for row in layers if row.variant in _ON_ROWS and row.effect in (Effect.ON_GRADIENT, Effect.CLIPPED)]
    if len({row.eta for row in ruled}) != 1:
        return
    shortest, longest = min(row.norms[0] for row in ruled), max(row.norms[2] for row in ruled)
    if math.isfinite(longest):
        eta = ruled[0].eta
        least, most = (eta * (1 + eta**2 * norm) ** -0.5 for norm in (longest, shortest))
        told = in_words.stable_step_at(least, most) if longest else in_words.stable_step(eta)
        yield "note", "stable step", f"the largest stable step is {told}"


def _at_scaling_one(whole: Sequence[tuple[Pair, LayerReport]], optimizer: OptimizerEffect) -> str | None:
    # Of the most frequent kind of layer; an optimizer between Adam's and SGD's has no such rate.
    kind = None if optimizer.response is None else "sgd" if optimizer.response > 0.9 else "adamw"
    kinds = Counter((row.rank, abs(row.scaling), *row.rates, math.prod(pair.a.shape[1:])) for pair, row in whole)
    (r, scaling, rate_a, rate_b, width), many = kinds.most_common(1)[0]
    if kind is None or not min(scaling, rate_a, rate_b) > 0 or 0.1 < optimizer.response <= 0.9:
        return None
    found = rates(Recipe(r, scaling * r, rate_a, kind, loraplus_ratio=rate_b / rate_a, width=width))
    step = "full fine-tuning's at rate" if kind == "sgd" else "its entries move by (RMS)"
    some = "" if len(kinds) == 1 else f" in {many} of {len(whole)} layers"
    return (
        f"s = {scaling:.4g}, rates {rate_a:.3g} (A) and {rate_b:.3g} (B){some}: at s = 1 these are {found.a:.3g} and "
        f"{found.b:.3g}; first step of s·BA from B = 0 (A as a linear layer starts): {step} {found.first_step:.3g}"
    )


def _on_groups(pairs: Sequence[Pair], homes: dict[int, Any], name: str) -> Iterator[tuple[str, str, str]]:
    ratios = {round(homes[id(pair.b)]["lr"] / homes[id(pair.a)]["lr"], 6) for pair in pairs if homes[id(pair.a)]["lr"]}
    if ratios - {1.0}:
        told = ", ".join(f"{ratio:g}" for ratio in sorted(ratios))
        yield "note", "LoRA+", f"LoRA+ is on: {name} trains B at {told} times A's rate"
    differ = [
        f"{key} {homes[id(pair.a)][key]} for A and {homes[id(pair.b)][key]} for B"
        for pair in pairs[:1]
        for key in _SETTINGS
        if key in homes[id(pair.a)] and homes[id(pair.a)][key] != homes[id(pair.b)].get(key)
    ]
    if differ:
        yield "note", "groups", f"A and B differ in more than the rate: {'; '.join(differ)}"
    own = {id(part) for pair in pairs for part in (pair.a, pair.b)}
    groups = list({id(group): group for group in homes.values()}.values())
    if len({id(homes[key]) for key in own}) < 2:
        return
    with_b = [group for group in groups if any(id(pair.b) in map(id, group["params"]) for pair in pairs)]
    same_rate = {group["lr"] for group in with_b}
    others = sum(id(p) not in own for group in groups if group["lr"] in same_rate for p in group["params"])
    if others and ratios - {1.0}:
        yield "note", "head", f"{others} other parameters (a head's, a bias) train at B's rate, not at A's"
