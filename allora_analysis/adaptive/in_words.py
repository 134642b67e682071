"""What the theory says of LoRA layers, in words: start, width, stable steps, ripple, dropout. The doctors print it.

Checked by `tests/test_doctor_command.py` and `tests/test_lora_doctor_rates.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from allora_analysis.hessian.starts import expected_cosine
from allora_analysis.width.exponents import flow_eta_to_taper, flow_factor, taper

SHARE = 0.1  # a fall of the mean factor by so much counts as tapering
CONSTANT = 0.95  # of η: with all factors above, the rule is a constant


def start(rank: int, width: int) -> str:
    """What starting at B = 0 costs: not a bad place, but a first step along r of the gradient's directions."""
    return (
        f"costs the first step's direction: its cosine with full fine-tuning's is about "
        f"{expected_cosine(rank, width):.2g} under gradient descent, √(r/(n₂ + r + 1)); a start along the gradient "
        "(init_lora_weights='lora_ga') has the most that a rank allows"
    )


def factor_at_width(knobs: tuple[float, float], rank: int, width: int, eta: float) -> str:
    """Whether ALLoRA's factor tapers in a layer of this width; `knobs` are the scaling and B's rate over A's."""
    kept, needed = flow_factor(knobs, width, rank, eta), flow_eta_to_taper(knobs, width, rank)
    word = "a constant" if kept > 1 - SHARE else "it tapers"
    return (
        f"{word}: {kept:.3g} of η on average over rows once a linear teacher of n = {width} is learned; "
        f"below {1 - SHARE:g} from η = {needed:.3g} on"
    )


def eta_to_taper(norms: Sequence[float], eta: float) -> str:
    """The η at which the mean factor would taper at these row norms."""
    return f"from η = {taper(norms, eta).eta_to_taper:.3g} on it is below nine tenths on average"


def stable_step(eta: float) -> str:
    """What the factor does to the largest stable step while rows are short."""
    return (
        f"1/η = {1 / eta:.3g} of LoRA's while rows of BA are short, as ALLoRA's factor "
        "1/√(‖(BA)_i‖ + 1/η²) is η there; more as they grow: one over the factor, at a good fit"
    )


def stable_step_at(least: float, most: float) -> str:
    """The same at the factors of the longest and of the shortest row."""
    low, high = (1 / one if one else math.inf for one in (most, least))
    return (
        f"{low:.3g} to {high:.3g} of LoRA's here, at a good fit and with the factor on the gradient (SGD): one over "
        "ALLoRA's factor, from its largest to its smallest row"
    )


def ripple(shares: Sequence[float]) -> str:
    """Whether adapters of these ‖BA‖/‖W‖ multiply from layer to layer (Proposition 1) or only add up."""
    added, grown = sum(shares), math.expm1(min(sum(map(math.log1p, shares)), 700))
    word = "linearly" if grown < (1 + SHARE) * added else "more than linearly at worst"
    return (
        f"BA moves the output {word}: it is {median(shares):.2g} of the weight in the median layer, and multiplied "
        f"through all {len(shares)}, §3.3's worst case, {grown:.3g} against {added:.3g} added up; ALLoRA's η acts on "
        "this by BA's size alone, and with norms, as in transformers, it is not exponential"
    )


def dropout_pays(drop_rate: float) -> str:
    """When: on white inputs flow under dropout is that without it towards keep_prob of the fit, 1/keep_prob as fast."""
    keep_prob = 1 - drop_rate
    return (
        "late, if at all; for a linear layer, squared loss and uncorrelated inputs: in a few steps the mean of BA is "
        "as without it and the masks add "
        f"noise; at the end BA is {keep_prob:.3g} of the fit, which takes off at most {1 - keep_prob**2:.2g} of the "
        "error that noise in the labels causes"
    )
