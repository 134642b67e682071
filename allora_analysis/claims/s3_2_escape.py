"""§1's second flaw, is zero difficult to escape from: how much longer a start ever closer to it takes to leave.

B is n₁×r, A is r×n₂, G = ∂L/∂(BA) at BA = 0. Gradient flow is integrated; AdamW is torch's. Checked by
`tests/test_claims_3_2.py`, which plants wrong formulas.
"""

import math
from typing import NamedTuple

import numpy as np

from allora_analysis import hessian
from allora_analysis.claims.cases import PAPER_RATE, Case, Cases
from allora_analysis.claims.claim import Finding, Size
from allora_analysis.claims.layer_training import optimizer
from allora_analysis.claims.s3_2_in_a_and_b import Start, flow_claim, paper_start, start
from allora_analysis.hessian.factors import loss_gradient

FLOW, ADAMW = "gradient flow", "AdamW at 1e-4"


class Leaving(NamedTuple):
    """A start whose B, or whose A and B, are shrunk to size ε, and how it trains; A and B of `one` have size 1."""

    one: Start
    both: bool
    by: str


SMALL, SMALLER, LEADING = 1e-5, 1e-9, 0.05  # ε before and after; error of the leading order, of the time
LEFT, MOST = 0.01, 20_000  # the ‖BA‖ at which it has left; the most steps that AdamW is given


def adamw_time(one: Start) -> float:
    """The rate times the steps of torch's AdamW until ‖BA‖ = `LEFT`; ∞ where it does not get there."""
    import torch

    b, a = (torch.tensor(part) for part in (one.b, one.a))
    rule = optimizer("adamw", (b, a), PAPER_RATE)
    for step in range(MOST):
        if torch.linalg.norm(b @ a) >= LEFT:
            return step * PAPER_RATE
        b.grad, a.grad = (torch.tensor(slope) for slope in loss_gradient(one.x, one.g, b.numpy(), a.numpy()))
        rule.step()
    return math.inf


def escape_times(case: Leaving) -> list[float]:
    """Time, rate × steps, until ‖BA‖ = `LEFT` from both ε; ∞ where it does not get there."""
    own = case.one
    starts = [own._replace(a=e * own.a if case.both else own.a, b=e * own.b) for e in (SMALL, SMALLER)]
    if case.by == ADAMW:
        return [adamw_time(one) for one in starts]
    found = [hessian.simulated_escape_time(*one, LEFT) for one in starts]
    return [math.inf if time is None else time for time in found]


def saddles_delay(case: Leaving) -> float:
    """How much later a start near a saddle leaves by gradient flow at the smaller ε, to leading order."""
    return hessian.escape_time(case.one.g, SMALLER) - hessian.escape_time(case.one.g, SMALL)


def delayed(case: Leaving) -> bool:
    """Gradient flow from A and B both of size ε: AdamW's first steps are as long however small the gradient is."""
    return case.both and case.by == FLOW


KINDS = {
    "B of size ε, A random": (False, FLOW),
    "both of size ε": (True, FLOW),
    "AdamW, B of size ε, A random": (False, ADAMW),
    "AdamW, both of size ε": (True, ADAMW),
}


def starts(cases: Cases) -> list[Case]:
    """At a LoRA module's shapes, where flow from A random and AdamW are the paper's; and at small ones."""

    def draw(rng: np.random.Generator) -> Start:
        n1, n2 = (int(size) for size in rng.integers(4, 7, size=2))
        u, v = (np.linalg.qr(rng.standard_normal((size, 4)))[0] for size in (n1, n2))
        g = u * np.array([1.0, *rng.uniform(0.1, 0.7, 3)]) * float(rng.uniform(1, 5)) @ v.T
        return start(rng.standard_normal((8, n2)) / 3, g, 2, rng, 1.0, 1.0)

    own = [
        Case(f"power-law X, r = 8, {name}", Leaving(paper_start(cases.rng, 1.0, 1.0), *kind), not kind[0])
        for name, kind in KINDS.items()
        if kind != (True, FLOW)
    ]
    drawn = [
        case
        for name, kind in KINDS.items()
        for case in cases.draw(lambda rng, kind=kind: Leaving(draw(rng), *kind), 2 if kind[1] == ADAMW else 4, name)
    ]
    return own + drawn


@flow_claim(
    "3.2-escape",
    where="§1, second flaw",
    says="the zero-initialization which is difficult to escape from",
    reading="A less kind reading, of the saddle point that the sentence names: leaving takes ever longer the closer to "
    "0 the start is: from ε = 1e-5 to 1e-9 by more than half of the time log(1e4)/σ₁(G), rate times steps, that a "
    "saddle costs gradient flow. (AdamW's steps are as long where gradients are small: under it starts with A and B "
    "both of size ε take about as long at both ε. A = B = 0 itself has gradient 0 and stays: row 3.2-saddle-starts.) "
    "Kinder: 3.2-slow-start.",
    depends_on=("3.2-saddle-starts",),
)
def escape(cases: Cases) -> Finding:
    """Gradient flow and AdamW from B of size ε with A at random, and from both of size ε."""
    judged = cases.judge(
        starts(cases),
        escape_times,
        printed=lambda one, seen: seen[1] - seen[0] > saddles_delay(one) / 2 or math.isinf(seen[1]),
        corrected=lambda one, seen: (
            abs(seen[1] - seen[0] - saddles_delay(one) * delayed(one)) <= LEADING * saddles_delay(one)
        ),
        condition=delayed,
    )
    first, before = judged.cases[0].inputs, judged.measured[0]
    return judged.finding(
        conditional="Only by gradient flow with A and B both near zero: LoRA's random A moves BA at once.",
        evidence=judged.evidence(
            "what the leading order leaves out, of the time",
            lambda one: saddles_delay(one) * delayed(one),
            tolerance=LEADING,
        ),
        size=Size(
            round(float(before[1] - before[0]) / saddles_delay(first), 3) + 0.0,
            "times a saddle point's delay",
            "how much later LoRA's start leaves when B shrinks from 1e-5 to 1e-9",
        ),
        condition="gradient flow, and A and B both of size ε, where the time is log(1/ε)/σ₁(G); with A random BA grows "
        "at rate ‖GAᵀA‖, and under AdamW from both of size ε about as fast at both ε",
        flips_if="a start with A at random, or under AdamW, that takes ever longer to leave as it shrinks",
    )
