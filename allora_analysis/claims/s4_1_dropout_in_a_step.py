"""§4.1: what a step of A and B does to a row of BA whose output is dropped, and to the other rows.

G = ∂L/∂(BA), f(x) = BAx; a mask m ∈ {0, 1} is drawn without its factor 1/(keep probability), which changes none
of these statements. Checked by `tests/test_claims_4_1.py`, which plants wrong formulas.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from allora_analysis import adaptive
from allora_analysis.claims import layer_training
from allora_analysis.claims.cases import Case, Cases
from allora_analysis.claims.claim import Finding, ranged
from allora_analysis.claims.layer_training import ROUNDING, Pass
from allora_analysis.claims.s4_1_dropout_as_scaling import RATE, TOLERANCE, framework_claim


class Dropped(NamedTuple):
    """A pass, the output i that a step drops for all tokens, the rate, the optimizer, and its steps before.

    Those had the pass's own gradient, i kept, at a rate of 0: they fill the optimizer's buffers.
    """

    one: Pass
    i: int
    rate: float
    optimizer: str = "sgd"
    before: int = 0


def dropped_cases(cases: Cases) -> list[Case]:
    """B = 0; B_i = 0; at right angles to the other rows of B, before the step or after; almost so; g_i = 0; random."""

    def draw(rng: np.random.Generator) -> Dropped:
        one, kind, rate = layer_training.draw_pass(rng, n1=4, rank=3), rng.integers(6), 0.1
        b, upstream = one.b.copy(), one.upstream.copy()
        if kind in (0, 4):
            b[0] = 0.0
        if kind in (1, 2, 3):
            moved = rate * upstream.T @ one.x @ one.a.T * (kind == 2)  # of SGD
            b[1:] -= np.outer((b - moved)[1:] @ b[0], b[0]) / (b[0] @ b[0])  # row j at right angles to B_i
            b[1:] += 1e-4 * b[0] * rng.integers(2)
        if kind in (3, 4):
            upstream[:, 0] = 0.0
        optimizer = str(rng.choice(["sgd", "sgd", "momentum", "adamw"]))
        return Dropped(one._replace(b=b, upstream=upstream), 0, rate, optimizer, int(rng.choice([0, 1, 10])))

    def own(optimizer: str, size: float) -> Case:
        one = layer_training.paper_pass(cases.rng, size)
        name = f"{optimizer}, n₂ = 64, r = 8, rows of {size:g}"
        return Case(name, Dropped(one, 0, 1e-4, optimizer, 10), paper=optimizer == "adamw")

    start = Dropped(layer_training.paper_pass(cases.rng, 0.0), 0, 1e-4, "adamw")
    first = Case("adamw, n₂ = 64, r = 8, B = 0, the first step", start, True)
    return [own("adamw", 0.1), own("adamw", 0.01), own("sgd", 0.1), first, *cases.draw(draw, 32)]


def stepped(case: Dropped, kept: bool) -> np.ndarray:
    """The change of BA in a step of torch's optimizer with output i kept or dropped."""
    import torch

    x, upstream, a, b = (torch.tensor(part, requires_grad=True) for part in case.one)
    rule = layer_training.optimizer(case.optimizer, [a, b], 0.0)
    for step in range(case.before + 1):
        mask = torch.ones(len(b), dtype=b.dtype)
        if step == case.before:
            mask[case.i] = kept
            rule.param_groups[0]["lr"] = case.rate
        rule.zero_grad()
        layer_training.lora(x, a, b).backward((upstream * mask).detach())
        rule.step()
    return (b @ a).detach().numpy() - case.one.b @ case.one.a


def buffered(case: Dropped, earlier: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """What −l multiplies in the step at a gradient, after `before` steps at an earlier one that stayed."""
    n = case.before
    if case.optimizer == "sgd":
        return gradient
    if case.optimizer == "momentum":
        return gradient + 9 * (1 - 0.9**n) * earlier
    mean, square = (
        (beta * (1 - beta**n) * earlier**power + (1 - beta) * gradient**power) / (1 - beta ** (n + 1))
        for beta, power in ((0.9, 1), (0.999, 2))
    )
    return mean / (np.sqrt(square) + 1e-8)


def moves(case: Dropped, kept: bool) -> tuple[np.ndarray, np.ndarray]:
    """(ΔA, ΔB) of the step, in closed form."""
    _, _, a, b = case.one
    g, keep = case.one.upstream.T @ case.one.x, np.ones(len(b))
    earlier = adaptive.masked_field(a, b, g, keep)
    keep[case.i] = kept
    both = zip(earlier, adaptive.masked_field(a, b, g, keep), strict=True)
    return tuple(-case.rate * buffered(case, *gradients) for gradients in both)


def told_step(case: Dropped, kept: bool) -> np.ndarray:
    """B ΔA + ΔB (A + ΔA)."""
    delta_a, delta_b = moves(case, kept)
    return case.one.b @ delta_a + delta_b @ (case.one.a + delta_a)


def shares(of: Callable[[Dropped], float], case: Dropped) -> list[float]:
    """A share with each of eight outputs dropped."""
    return [of(case._replace(i=i)) for i in range(0, len(case.one.b), len(case.one.b) // 8)]


def negligible(part: np.ndarray, case: Dropped) -> bool:
    """Whether it is rounding beside the undropped step."""
    return bool(np.abs(part).max() <= TOLERANCE * np.abs(told_step(case, True)).max())


def left_alone(case: Dropped) -> bool:
    """Whether neither B_iΔA nor a buffer of B_i moves the dropped row."""
    delta_a, delta_b = moves(case, False)
    return negligible(case.one.b[case.i] @ delta_a, case) and negligible(delta_b[case.i] @ case.one.a, case)


@framework_claim(
    "4-dropout-rate-in-training",
    says=RATE,
    reading="A less kind reading: the dropped row (BA)_i stays where it is in a step of A and B that drops output i "
    "for all tokens, the first or after steps that kept it; no weight decay.",
    test="tests/test_claims_4_1.py",
    depends_on=("4-dropout-rate", "4-dropout-gradient-in-training"),
)
def dropout_rate_in_training(cases: Cases) -> Finding:
    """A step of torch's optimizers with output i dropped, against the closed form of their steps."""
    judged = cases.judge(
        dropped_cases(cases),
        measure=lambda case: stepped(case, False)[case.i],
        printed=lambda case, seen: negligible(seen, case),
        corrected=lambda case, seen: negligible(seen - told_step(case, False)[case.i], case),
        condition=left_alone,
    )

    def share(case: Dropped) -> float:
        seen, kept = (np.linalg.norm(stepped(case, keep)[case.i]) for keep in (False, True))
        return float(seen / kept) if kept else 0.0

    own = ranged(
        shares(share, judged.cases[0].inputs),
        "of its step undropped",
        "how far AdamW still moves a dropped row after ten steps, r = 8, row norms near 0.1; in brackets over eight "
        "rows",
    )
    return judged.finding(
        conditional="Only if B_iΔA = 0 (B_i = 0) and no momentum moves B_i: "
        f"under AdamW {own.value:.1f} of the step remains.",
        evidence=judged.evidence(
            ROUNDING,
            {"Δ(BA)_i over its step undropped": 0.0},
            shown=lambda case, seen: share(case),
            tolerance=TOLERANCE,
        ),
        size=own,
        corrected="Δ(BA)_i = B_iΔA + ΔB_i(A + ΔA), ΔB_i of the optimizer's buffers alone, 0 in plain SGD",
        condition="B_iΔA = 0, which is B_iΣ_{j≠i}B_jᵀg_j = 0 in plain SGD, and no buffer moves B_i, as momentum's and "
        "Adam's do after a step that kept i (the two canceling aside)",
        flips_if="a step of torch's optimizers that moves a dropped row otherwise, or AdamW leaving it where it is",
    )


def passed_on(case: Dropped) -> np.ndarray:
    """B_j⁺(ΔA′ − ΔA) for the rows j ≠ i: B_j⁺ is row j after the step, ΔA′ and ΔA are A's with i dropped and kept."""
    (dropped_a, _), (delta_a, delta_b) = moves(case, False), moves(case, True)
    return np.delete((case.one.b + delta_b) @ (dropped_a - delta_a), case.i, axis=0)


def coupled(case: Dropped) -> bool:
    """Whether some row j ≠ i takes another step."""
    return not negligible(passed_on(case), case)


@framework_claim(
    "4-dropout-other-rows",
    test="tests/test_claims_4_1.py",
    says="Note that this is true only for (BA)_{i,:}, the effect on (BA)_{j,:}, j ≠ i is slightly different",
    reading="Dropping output i for all tokens changes the step of some other row (BA)_j, for a loss that does not "
    "couple outputs; no weight decay, unclipped.",
    depends_on=("4-dropout-rate-in-training",),
)
def dropout_other_rows(cases: Cases) -> Finding:
    """Steps of the other rows under torch's optimizers, output i dropped less kept."""
    judged = cases.judge(
        dropped_cases(cases),
        measure=lambda case: np.delete(stepped(case, False) - stepped(case, True), case.i, axis=0),
        printed=lambda case, seen: not negligible(seen, case),
        corrected=lambda case, seen: negligible(seen - passed_on(case), case),
        condition=coupled,
    )

    def share(case: Dropped) -> float:
        steps = [np.delete(stepped(case, keep), case.i, axis=0) for keep in (False, True)]
        return float(np.median(np.linalg.norm(steps[0] - steps[1], axis=1) / np.linalg.norm(steps[1], axis=1)))

    own = ranged(
        shares(share, judged.cases[0].inputs),
        "of the row's own step",
        "change of another row's step after ten of AdamW, r = 8, row norms near 0.1; in brackets over eight rows "
        "dropped",
    )
    return judged.finding(
        conditional=f"Mostly, and slightly: by {own.value:.2f} of their step under AdamW at row norms near 0.1; not "
        "where B_i = 0.",
        evidence=judged.evidence(
            ROUNDING,
            {"change of row j's step, over its step": "B_j⁺(ΔA′ − ΔA)"},
            shown=lambda case, seen: share(case),
            tolerance=TOLERANCE,
        ),
        size=own,
        corrected="row j's step changes by B_j⁺(ΔA′ − ΔA), B_j⁺ row j after the step, ΔA′ and ΔA with i dropped and "
        "kept; under SGD or momentum that is l(B_j⁺·B_i)g_i",
        condition="B_j⁺(ΔA′ − ΔA) ≠ 0 for some j ≠ i; under SGD or momentum: g_i ≠ 0 and B_j⁺·B_i ≠ 0",
        flips_if="a change of another row's step where that is 0, or none where it is not",
    )
