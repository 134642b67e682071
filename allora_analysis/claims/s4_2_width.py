"""§4.2 at width n and rank r: is ALLoRA's factor adaptive at scale, and which learning rates transfer?

One layer of n inputs and outputs, s the LoRA scaling, l the largest stable learning rate. Judged by training at n up to
4,096, and by the records' first steps. Checked by `tests/test_claims_4_2_width.py`, which plants wrong powers.
"""

from __future__ import annotations

import functools
import itertools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from allora_analysis import width
from allora_analysis.claims.cases import Case, Cases
from allora_analysis.claims.claim import Finding, Size, claim, not_run
from allora_analysis.claims.s4_2_row_norms import MINILM, SMOLLM2, reached, wanted
from allora_analysis.finetune.setting import STUDY, Setting
from allora_analysis.grid.presets import command
from allora_analysis.grid.presets import row_norms as preset
from allora_analysis.grid.reading import average_norm, recorded
from allora_analysis.width import METHODS, Method, exponents

width_claim = functools.partial(claim, command="python -m allora_analysis.width", test="tests/test_width.py")
WIDTHS, RANK, SEEDS = (128, 2048), 4, 4  # a ratio of 16
HALF = 0.5  # a threshold of ours; half and twice of it are in the evidence
RESOLUTION = 0.125  # powers are multiples of ¼


class Scaling(NamedTuple):
    """How A's rate falls beside B's, l_A = l_B/n^ρ, and the optimizer."""

    ratio: float
    optimizer: str

    @property
    def told(self) -> float:
        """The fall of ALLoRA's factor from η at 16 n over that at n, in the limit."""
        power = exponents(Method(0, self.ratio, "gradient"), self.optimizer).row_norm.width
        return (WIDTHS[1] / WIDTHS[0]) ** power


def fall(one: Scaling, rng: np.random.Generator) -> float:
    """The mean of 1 − d/η after training at n = 2,048 over that at 128; η² = 4."""
    seen = [width.measure(Method(0, one.ratio, "gradient"), one.optimizer, n, RANK, SEEDS, rng) for n in WIDTHS]
    first, last = (float(1 - of["kept"].mean()) for of in seen)
    return last / first


@width_claim(
    "4-width-factor",
    where="beyond the paper: Figure 2, right, caption, at large width",
    says="However wide the model is, ALLoRA's factor tapers off.",
    reading="The factor's mean fall from η, after training at a stable rate, is at width 16 n at least half of that at "
    "width n; half is a threshold of ours.",
    depends_on=("4-figure-2-factor",),
)
def factor_at_width(cases: Cases) -> Finding:
    """ALLoRA trained at two widths with one rate for A and B, and with A's falling as n^ρ, up to LoRA+'s ρ = 1."""

    def draw(rng: np.random.Generator) -> Scaling:
        # Under Adam the fall is 16^(ρ − 1)/2 times as large: half at ρ = ½. Under SGD it is at most half, at ρ = 1.
        return Scaling(float(rng.choice([rng.uniform(0.05, 0.25), rng.uniform(0.7, 0.9)])), "adam")

    own = [Case(f"one rate for A and B, {name}", Scaling(0.0, name), True) for name in ("sgd", "adam")]
    judged = cases.judge(
        [*own, Case("LoRA+'s rates, Adam", Scaling(1.0, "adam")), *cases.draw(draw, 5)],
        lambda one: fall(one, cases.rng),
        printed=lambda one, seen: seen >= HALF,
        condition=lambda one: one.told / HALF,
    )
    kept = width.flow_factor("allora", 4096, 8, preset.ETA)
    return judged.finding(
        {
            "conditional": f"Only with LoRA+'s rates: with one rate rows shrink as 1/√width, and the factor stays η "
            f"({kept:.0%} at width 4,096)."
        },
        evidence=judged.evidence(
            "the limit's ratio; no case has ρ from 0.25 to 0.7, about the boundary ½, which finite n moves down",
            {name: of.told for name, of in ((case.name, case.inputs) for case in judged.cases)}
            | {"passes at a quarter of the fall": {c.name: seen >= HALF / 2 for c, seen in judged.pairs}},
            n=SEEDS,
        ),
        size=Size(1 - kept, "of η", "the factor's fall at n = 4,096, r = 8, η² = 4, gradient flow on a linear teacher"),
        condition="under Adam n^((ρ − 1)/2) does not vanish: ρ = 1, A's rate n times below B's; else η must grow as "
        "n^(1/4)",
        flips_if="row norms after training with one rate for A and B that do not shrink as n grows",
    )


class Slope(NamedTuple):
    """A method, an optimizer, what grows ("width" or "rank"), and whether the gradient has many directions or one."""

    method: str
    optimizer: str
    axis: str
    many: bool = False

    @property
    def told(self) -> float:
        """The predicted power of the largest stable rate."""
        return getattr(exponents(self.method, self.optimizer, many=self.many).largest_rate, self.axis)


def slope(one: Slope, rng: np.random.Generator) -> width.Fit:
    """The fitted power of the largest stable rate."""
    sizes = {"width": (64, 1024), "rank": (2, 16) if one.many else (4, 32)}[one.axis]
    seeds = 2 if one.many else 2 * SEEDS
    shapes = [(n, 4) if one.axis == "width" else (256, n) for n in sizes]
    layers = [width.layer(*shape, seeds, rng, inputs=64 if one.many else 1) for shape in shapes]
    method = METHODS[one.method]
    return width.fit_power(sizes, [width.largest_rate(of, method, one.optimizer) for of in layers])


@width_claim(
    "4-width-transfer",
    where="beyond the paper: §4.2 and §4.4, one learning rate for all",
    says="The largest stable learning rate stays the same as the model's width, or the adapter's rank, grows.",
    reading="By its power of n or r, as fitted to training: within 1/8 of 0, for gradients of one direction and, over "
    "rank, of many. LoRA's α is fixed, ALLoRA has s = 1.",
)
def transfer(cases: Cases) -> Finding:
    """Every method and optimizer, over width and over rank, against the predicted powers."""
    every = [Slope(*key) for key in itertools.product(METHODS, ("sgd", "adam"), ("width", "rank"), (False, True))]
    judged = cases.judge(
        [
            Case(", ".join((*one[:3], "many" if one.many else "one")), one, one[:2] == PAPER)
            for one in every
            if (METHODS[one.method].factor, one.optimizer) != ("update", "sgd")
            and (not one.many or (one.axis, one.optimizer) == ("rank", "adam"))
        ],
        lambda one: [*vars(slope(one, cases.rng)).values()],
        printed=lambda one, seen: abs(seen[0]) <= RESOLUTION + 3 * seen[1],
        corrected=lambda one, seen: abs(seen[0] - one.told) <= RESOLUTION + 3 * seen[1],
        condition=lambda one: one.told == 0,
    )
    return judged.finding(
        {"conditional": "Only over width, with LoRA+ under Adam; a new rank may need a new rate."},
        evidence=judged.evidence(
            "half of the gap between two powers, and three standard errors", lambda one: one.told, tolerance=RESOLUTION
        ),
        size=Size(
            4 ** exponents("allora", "adam").largest_rate.width,
            "times",
            "the largest stable rate under Adam when the width grows 4 times, of all but LoRA+",
        ),
        corrected="s = r^σ; under Adam n^(−1/2) times r^(−(1+σ)/2) for one direction, r^(−σ/2) for many; LoRA+'s n⁰ "
        "times r^(−1−σ) or r^(−σ); under SGD n^(−1) r^(−σ), LoRA+'s n^(−1/2) r^(−σ)",
        condition="Over width: LoRA+ under Adam. Over rank: under Adam s = α/r for one direction, "
        "s = 1 for many; under SGD s = 1",
        flips_if="a fitted power that differs from the predicted one by more than 1/8",
    )


PAPER = ("allora", "adam")
FIRST = {"lora": 1.0, "allora": 1.0, "allora_od": 1.0, "allora_adamw": preset.ETA}


@claim(
    "4-width-first-step",
    where="beyond the paper: Figure 2, right, at two widths",
    says="After one step of AdamW at l the rows of BA are l√(r/3) long on average, whatever the model's width.",
    reading="In the recorded runs, to 2 %; A as PEFT draws it, of variance 1/(3n₂); with ALLoRAAdamW η times as long.",
    command=command("row_norms", [one for model in (MINILM, SMOLLM2) for one in wanted(model)]),
    test="tests/test_claims_4_2_width.py",
    reads=STUDY,
    depends_on=("4-width-transfer",),
)
def first_step(cases: Cases, folder: Path | None) -> Finding:
    """‖ΔB_iA₀‖ for ΔB_i of entries ±l: r random rows of norm √⅓ add up, in the records of two models."""
    listed = [one for model in (MINILM, SMOLLM2) for one in wanted(model) if one.optimizer == "adamw"]
    runs = recorded(listed, folder)
    done = [one for one in listed if reached(runs, one, [1])]
    if not done:
        return not_run("no run under AdamW is recorded")

    def told(one: Setting) -> float:
        return FIRST[one.arm] * one.learning_rate * math.sqrt(one.rank / 3)

    judged = cases.judge(
        [Case(f"{one.model}, {one.arm} at {one.learning_rate:g}, seed {one.seed}", one, True) for one in done],
        lambda one: average_norm(runs[one], 1),
        printed=lambda one, seen: abs(seen / told(one) - 1) <= 0.02,
    )
    tapers = {
        case.name: width.taper([average_norm(runs[case.inputs], case.inputs.max_steps)], preset.ETA)
        for case in judged.cases
        if case.inputs.arm == "allora" and reached(runs, case.inputs, [case.inputs.max_steps])
    }
    needed = min((of.eta_to_taper for of in tapers.values()), default=None)
    off = max(abs(seen / told(case.inputs) - 1) for case, seen in judged.pairs)
    return judged.finding(
        {"holds": f"Yes: to {off:.1%} at widths 384 and 576, in every recorded run."},
        evidence=judged.evidence(
            "2 %: rows share one A, and their average varies with it",
            {case.name: told(case.inputs) for case in judged.cases}
            | {"mean d/η at the last step, at least": {name: of.kept for name, of in tapers.items()}}
            | {"η at which the factor would fall by a tenth": needed},
            tolerance=0.02,
            n=len(done),
        ),
        size=Size(100 * off, "%", "the most that a run's mean row is off l√(r/3), times η for ALLoRAAdamW"),
        flips_if="first rows whose length depends on the width",
    )
