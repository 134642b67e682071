"""§4.2, below the definition: the effective learning rate, η·l_b, in a step of the layer.

Checked by `tests/test_claims_4_2_leaving_zero.py`, which plants wrong formulas.
"""

import functools
from typing import NamedTuple

import numpy as np

from allora_analysis import adaptive
from allora_analysis.claims import layer_training
from allora_analysis.claims.cases import PAPER_ETAS, PAPER_RATE, PAPER_ROW, Case, Cases, Judged, on_either_side
from allora_analysis.claims.claim import Evidence, Finding, Size, claim
from allora_analysis.claims.layer_training import ADAM, SAME, Problem, Run
from allora_analysis.escape.optimizers import clip_factor

rate_claim = functools.partial(
    claim,
    where="§4.2, below the definition",
    says="We split learning rate into a constant base learning rate l_b and η, and the effective learning rate is "
    "η·l_b.",
    test="tests/test_claims_4_2_leaving_zero.py",
)


class _OneStep(NamedTuple):
    """A problem, the optimizer, η, l, u = η²‖(BA)_i‖ of every row at the start, and the norm c clipped at."""

    task: Problem
    optimizer: str
    eta: float
    rate: float
    u: float
    direction: np.ndarray
    clip: float | None = None


def start_of(one: _OneStep) -> np.ndarray:
    """B at the start."""
    return one.u / one.eta**2 * one.direction / np.linalg.norm(one.direction @ one.task.a, axis=1, keepdims=True)


def slope_of(one: _OneStep) -> np.ndarray:
    """G = ∂L/∂(BA) at the start."""
    x, y, a = one.task
    return (x @ (start_of(one) @ a).T - y).T @ x / len(x)


def gradient_norm(one: _OneStep) -> float:
    """The norm of ALLoRA's gradients of A and B."""
    fields = adaptive.update_field(one.task.a, start_of(one), slope_of(one), one.eta)
    return float(np.hypot(*(np.linalg.norm(part) for part in fields)))


def splits(one: _OneStep) -> bool | float:
    """Whether a row's rate is η·l_b: SGD or momentum from BA = 0; where clipped, c over ALLoRA's gradients' norm."""
    if one.clip is None or one.optimizer == "adamw" or one.u:
        return one.optimizer != "adamw" and one.u == 0
    return one.clip / gradient_norm(one)


def row_rates(one: _OneStep) -> np.ndarray:
    """Each row's step of B in the layer over LoRA's gradient GAᵀ (its signs under AdamW), over η·l."""
    start, gradient = start_of(one), slope_of(one) @ one.task.a.T
    run = Run(one.task, one.optimizer, one.eta, one.rate, 1, one.clip)
    after = layer_training.pairs(run, "allora", start=start)[1][1]
    unit = np.sign(gradient) if one.optimizer == "adamw" else gradient
    return np.sum((start - after) * unit, axis=1) / np.sum(unit * unit, axis=1) / (one.eta * one.rate)


def made(task: Problem, optimizer: str, eta: float, rate: float, u: float, rng: np.random.Generator) -> _OneStep:
    """A step with the rows of B along directions at random."""
    return _OneStep(task, optimizer, eta, rate, u, rng.standard_normal((task.y.shape[1], len(task.a))))


def drawn(rng: np.random.Generator, start: bool) -> _OneStep:
    """A step from BA = 0, or in half of the draws from another, clipped in half of them."""
    u = 0.0 if start or rng.random() < 0.5 else float(10 ** rng.uniform(-4, 1))
    optimizer = str(rng.choice(["sgd", "momentum", "adamw"]))
    eta = float(np.exp(rng.choice([-1, 1, 1]) * rng.uniform(0.05, 1)))
    one = made(layer_training.draw_problem(rng), optimizer, eta, 1e-3, u, rng)
    over = on_either_side(rng, 0.02, 0.69)
    return one._replace(clip=over * gradient_norm(one)) if rng.random() < 0.5 else one


def told(one: _OneStep) -> float:
    """Its rate over η·l_b."""
    sgd = clip_factor(gradient_norm(one), one.clip) * (1 + one.u) ** -0.5
    return 1 / one.eta if one.optimizer == "adamw" else sgd


def stepped(cases: Cases, sizes: tuple[float, ...], start: bool) -> tuple[Judged, Evidence]:
    """The rate of one step, AdamW's at 1e-4 from rows of these norms and others drawn, over η·l_b."""

    def of_paper(eta: float, size: float) -> _OneStep:
        return made(layer_training.paper_problem(cases.rng), "adamw", eta, PAPER_RATE, size * eta**2, cases.rng)

    own = [
        Case(f"AdamW at 1e-4, η = {eta:.3g}, ‖(BA)_i‖ = {size:g}", of_paper(eta, size), True)
        for eta in PAPER_ETAS[1:]
        for size in sizes
    ]
    judged = cases.judge(
        [*own, *cases.draw(functools.partial(drawn, start=start), 24)],
        measure=row_rates,
        printed=lambda one, seen: bool(np.abs(seen - 1).max() <= SAME),
        corrected=lambda one, seen: np.abs(seen - told(one)).max() <= (ADAM if one.optimizer == "adamw" else SAME),
        condition=splits,
    )
    return judged, judged.evidence("1e-7; AdamW: 1e-3, its ε over small gradients", told, tolerance=SAME)


@rate_claim(
    "4-effective-rate",
    reading="At the start, BA = 0, which Figure 2 is said to show: a row's first step of B is η·l_b times LoRA's "
    "gradient (times its signs under AdamW, far above its ε), η ≠ 1: at η = 1 there is nothing to split. A step along "
    "the gradient of B itself, plain SGD's, meets the condition. The factor is on the gradient, as in Listing 1; on "
    "AdamW's update, which 'learning rate' allows, too, its first step has η·l_b (4-figure-2-right).",
    depends_on=("4-figure-2-right",),
)
def effective_rate(cases: Cases) -> Finding:
    """The rate that a row's gradient of B is multiplied with in the layer's first step from B = 0, over η·l_b."""
    judged, evidence = stepped(cases, (0.0,), start=True)
    return judged.finding(
        holds="Yes, at the start.",
        conditional="Only under SGD, unclipped; as listed, AdamW's first step has rate l_b.",
        evidence=evidence,
        size=Size(float(np.mean(judged.own[-1])), "of η·l_b", "AdamW's rate for a row at zero, η² = 4"),
        corrected="the factor on the gradient, η·l_b·min(1, c/n) under SGD, n the norm of all of ALLoRA's gradients, c "
        "that they are clipped at; l_b in AdamW's first step, its ε aside",
        condition="SGD, or momentum in its first step, and c ≥ n (∞ without clipping); or the factor on AdamW's update "
        "(4-figure-2-right)",
        flips_if="a first step under AdamW, the factor on the gradient, of η·l_b, or one under SGD, unclipped, of "
        "another rate",
        assumes="AdamW",
    )


@rate_claim(
    "4-effective-rate-throughout",
    reading="A less kind reading: from any A and B, so that the rate is η·l_b throughout: a row's step of B is η·l_b "
    "times LoRA's gradient (times its signs under AdamW, far above its ε), η ≠ 1.",
    depends_on=("4-effective-rate",),
)
def effective_rate_throughout(cases: Cases) -> Finding:
    """The rate that a row's gradient of B is multiplied with in one step of the layer from any B, over η·l_b."""
    judged, evidence = stepped(cases, (0.0, PAPER_ROW), start=False)
    later, longer = ((1 + PAPER_ETAS[-1] ** 2 * size) ** -0.5 for size in (PAPER_ROW, 0.1))
    return judged.finding(
        conditional=f"Only at BA = 0 under SGD, unclipped; a row of {PAPER_ROW:g} has {later:.2f} of it (η² = 4).",
        evidence=evidence,
        size=Size(
            later,
            "of η·l_b",
            f"SGD's rate for a row of norm {PAPER_ROW:g}, η² = 4; {longer:.2f} at 0.1",
        ),
        corrected="η·l_b·min(1, c/n)/√(1 + η²‖(BA)_i‖) under SGD, n the norm of all of ALLoRA's gradients, c that "
        "they are clipped at; l_b in AdamW's first step, its ε aside",
        condition="SGD, or momentum in its first step, (BA)_i = 0 and c ≥ n (∞ without clipping)",
        flips_if="a step under AdamW of η·l_b, or under SGD at BA ≠ 0",
    )
