"""§4.3, the family: is each member in the framework of Definition 2? What each one's adaptor depends on.

The layers are run. Checked by `tests/test_claims_4_3.py`, which plants wrong formulas.
"""

import functools
from typing import NamedTuple

import numpy as np

from allora_analysis.claims import layer_training
from allora_analysis.claims.cases import Case, Cases, log_uniform, relative_error
from allora_analysis.claims.claim import Finding
from allora_analysis.claims.layer_training import ROUNDING, Pass
from allora_analysis.claims.s4_3_allora_od import TOLERANCE, family_claim


class _Member(NamedTuple):
    """A member of the family, a pass of one token, and what turns (A, B) into others of one f, or of one BA."""

    arm: str
    one: Pass
    eta: float
    other: Pass
    same: Pass


def applied(arm: str, one: Pass, eta: float) -> np.ndarray:
    """An output adaptor's output f̃, or a gradient adaptor's factor on each row of g, through the layer."""
    from allora_analysis.lora import functional

    if arm in ("scaled", "asf"):
        return layer_training.backward(lambda *parts: layer_training.forward(arm, *parts, eta), one)[0]
    rule = functional.allora_od if arm == "od" else functools.partial(layer_training.forward, arm)
    found = layer_training.backward(rule, one, eta)[3]
    return np.divide(found, layer_training.backward(layer_training.lora, one)[3])[:, 0]


def members(rng: np.random.Generator, arm: str | None = None) -> _Member:
    """A pass; one of the same g, or f for an output adaptor; one that keeps BA or f as well."""
    one = layer_training.draw_pass(rng, n2=4, rank=2, tokens=1)
    arm = arm or str(rng.choice(["scaled", "asf", "constant", "allora", "od"]))
    across = rng.standard_normal(4)
    across -= across @ one.x[0] / (one.x[0] @ one.x[0]) * one.x[0]
    same_f = one._replace(a=one.a + np.outer(rng.standard_normal(2), across))
    turn = rng.standard_normal((2, 2)) + 3 * np.eye(2)
    same_product = one._replace(a=turn @ one.a, b=one.b @ np.linalg.inv(turn))
    moved = one._replace(a=one.a + rng.standard_normal(one.a.shape))
    other = same_f if arm in ("scaled", "asf") else moved
    return _Member(arm, one, log_uniform(rng, 0.2, 1), other, same_product if arm == "allora" else same_f)


NAMED = {"ALLoRA": "allora", "ALLoRA-OD": "od", "ASF-LoRA": "asf"}
FRAMEWORK = (
    "We adopt a principled approach to explore other reasonable designs that fall into the adaptive learning framework "
    "defined by Definition 2."
)


def family(cases: Cases) -> list[Case]:
    """The paper's designs at η² = 4, and members drawn."""
    own = [Case(f"{name}, η² = 4", members(cases.rng, arm)._replace(eta=2.0), True) for name, arm in NAMED.items()]
    return [*own, *cases.draw(members, 20)]


def by_the_letter(one: _Member) -> bool:
    """Whether what is adapted is the output, or g by a constant."""
    return one.arm in ("scaled", "asf", "constant")


@family_claim(
    "4-family-in-framework",
    says=FRAMEWORK,
    reading="As in 4-subsumes f_o may be drawn anew for every x, f_g may be another function at every step and x: one "
    "of g once BA (ALLoRA) or f(x) (ALLoRA-OD) is given, whatever else A and B are; x is one vector, at the "
    "paper's setting, too. Over a batch ALLoRA-OD's is no function of the summed g: 4-od-update-in-training.",
    depends_on=("4-subsumes",),
)
def in_framework(cases: Cases) -> Finding:
    """The factor on g, or the output, at one BA or f(x) and all else changed, through the layers."""
    judged = cases.judge(
        family(cases),
        measure=lambda one: applied(one.arm, one.same, one.eta),
        printed=lambda one, seen: relative_error(seen, applied(one.arm, one.one, one.eta)) <= TOLERANCE,
    )
    return judged.finding(
        holds="Yes, if f_g may depend on BA (ALLoRA) or f(x) (ALLoRA-OD); ALLoRA-OD's for one x only.",
        evidence=judged.evidence(
            ROUNDING,
            {"distance at one BA or f(x)": 0.0},
            shown=lambda one, seen: relative_error(seen, applied(one.arm, one.one, one.eta)),
            tolerance=TOLERANCE,
        ),
        flips_if="a factor of ALLoRA that differs at one BA, or of ALLoRA-OD or ASF-LoRA at one f(x)",
    )


@family_claim(
    "4-family-in-framework-of-g-alone",
    says=FRAMEWORK,
    reading="A less kind reading: to the letter of Definition 2 f_o is a function of f alone and f_g one of g alone.",
    depends_on=("4-family-in-framework",),
)
def of_g_alone(cases: Cases) -> Finding:
    """The same f or g twice, all else changed, through the layers."""
    judged = cases.judge(
        family(cases),
        measure=lambda one: [applied(one.arm, part, one.eta) for part in (one.other, one.same)],
        printed=lambda one, seen: relative_error(seen[0], applied(one.arm, one.one, one.eta)) <= TOLERANCE,
        corrected=lambda one, seen: (
            relative_error(seen[1], now := applied(one.arm, one.one, one.eta)) <= TOLERANCE
            and (relative_error(seen[0], now) <= TOLERANCE) == by_the_letter(one)
        ),
        condition=by_the_letter,
    )
    return judged.finding(
        conditional="Only ASF-LoRA; ALLoRA's factor on g takes BA beside g, ALLoRA-OD's f(x).",
        evidence=judged.evidence(
            ROUNDING,
            {"distance at one f or g": 0.0},
            shown=lambda one, seen: relative_error(seen[0], applied(one.arm, one.one, one.eta)),
            tolerance=TOLERANCE,
        ),
        corrected="f_g may take BA (ALLoRA) or f(x) (ALLoRA-OD) beside g, as f_o may be drawn anew for dropout",
        condition="the design adapts the output (ASF-LoRA, LoRA scaled by η), or its factor on g is a constant",
        flips_if="ALLoRA's factor on g being the same at two BA, or not the same at one",
    )
