"""§4.1: what a step of A and B does to a row of BA whose output is dropped, and to the other rows.

G = ∂L/∂(BA), f(x) = BAx; a mask m ∈ {0, 1} is drawn without its factor 1/(keep probability), which changes none
of these statements. Checked by `tests/test_claims_4_1.py`, which plants wrong formulas.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from allora_analysis import adaptive
from allora_analysis.claims import layer_training
from allora_analysis.claims.cases import PAPER_RATE, PAPER_ROW, Case, Cases
from allora_analysis.claims.claim import Finding, Size, ranged
from allora_analysis.claims.layer_training import ROUNDING, Pass
from allora_analysis.claims.s4_1_dropout_as_scaling import RATE, TOLERANCE, dropout_claim
from allora_analysis.study import bound


class Dropped(NamedTuple):
    """A pass, the output i that a step drops for all tokens, the rate, the optimizer, and the batches of steps before.

    A batch is tokens and ∂L/∂f. Those steps kept i, at a rate of 0: they fill the optimizer's buffers.
    """

    one: Pass
    i: int
    rate: float
    optimizer: str = "sgd"
    before: tuple[tuple[np.ndarray, np.ndarray], ...] = ()


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
        before = ((one.x, upstream),) * int(rng.choice([0, 1, 10]))
        return Dropped(one._replace(b=b, upstream=upstream), 0, rate, optimizer, before)

    def own(optimizer: str, size: float) -> Case:
        name = f"{optimizer}, n₂ = 64, r = 8, rows of {size:g}"
        at_paper = (optimizer, size) == ("adamw", PAPER_ROW)
        return Case(name, in_training(cases.rng, optimizer, size), at_paper)

    start = Dropped(layer_training.paper_pass(cases.rng, 0.0), 0, PAPER_RATE, "adamw")
    first = Case("adamw, n₂ = 64, r = 8, B = 0, the first step", start, True)
    return [own("adamw", PAPER_ROW), own("adamw", 0.1), own("sgd", PAPER_ROW), first, *cases.draw(draw, 32)]


TOKENS, STEPS = 32, 10  # of a batch; steps before


def in_training(rng: np.random.Generator, optimizer: str, size: float, n1: int = 48, n2: int = 64) -> Dropped:
    """A step after ten others, a fresh batch each, at LoRA's shapes with rows of BA of this mean norm."""
    one = layer_training.paper_pass(rng, size, n1, n2, TOKENS * (STEPS + 1))
    batches = [(one.x[at : at + TOKENS], one.upstream[at : at + TOKENS]) for at in range(0, len(one.x), TOKENS)]
    x, upstream = batches.pop()
    return Dropped(one._replace(x=x, upstream=upstream), 0, PAPER_RATE, optimizer, tuple(batches))


def stepped(case: Dropped, kept: bool) -> np.ndarray:
    """The change of BA in a step of torch's optimizer with output i kept or dropped."""
    import torch

    a, b = (torch.tensor(part, requires_grad=True) for part in (case.one.a, case.one.b))
    rule = layer_training.optimizer(case.optimizer, [a, b], 0.0)
    mask = np.ones(len(b))
    for step, (x, upstream) in enumerate((*case.before, (case.one.x, case.one.upstream))):
        if step == len(case.before):
            mask[case.i] = kept
            rule.param_groups[0]["lr"] = case.rate
        rule.zero_grad()
        layer_training.lora(torch.tensor(x), a, b).backward(torch.tensor(upstream * mask))
        rule.step()
    return (b @ a).detach().numpy() - case.one.b @ case.one.a


def buffered(case: Dropped, earlier: Sequence[np.ndarray], gradient: np.ndarray) -> np.ndarray:
    """What −l multiplies in the step at a gradient, after steps at earlier ones."""
    if case.optimizer == "sgd":
        return gradient
    every = np.array([*earlier, gradient])

    def decayed(beta: float, power: int) -> np.ndarray:
        return np.tensordot(beta ** np.arange(len(every))[::-1], every**power, 1)

    if case.optimizer == "momentum":
        return decayed(0.9, 1)
    mean, square = (
        (1 - beta) * decayed(beta, power) / (1 - beta ** len(every)) for beta, power in ((0.9, 1), (0.999, 2))
    )
    return mean / (np.sqrt(square) + 1e-8)


def moves(case: Dropped, kept: bool) -> tuple[np.ndarray, np.ndarray]:
    """(ΔA, ΔB) of the step, in closed form."""
    x, upstream, a, b = case.one
    keep = np.ones(len(b))
    earlier = [adaptive.masked_field(a, b, g.T @ tokens, keep) for tokens, g in case.before]
    keep[case.i] = kept
    now = adaptive.masked_field(a, b, upstream.T @ x, keep)
    return tuple(-case.rate * buffered(case, [of[part] for of in earlier], now[part]) for part in (0, 1))


def told_step(case: Dropped, kept: bool) -> np.ndarray:
    """B ΔA + ΔB (A + ΔA)."""
    delta_a, delta_b = moves(case, kept)
    return case.one.b @ delta_a + delta_b @ (case.one.a + delta_a)


WIDE = 384  # all-MiniLM-L6-v2's width


def shares(of: Callable[[Dropped], float], rng: np.random.Generator, size: float, n1: int, n2: int) -> list[float]:
    """A share under AdamW, of eight draws of A, B and the batches, the mean over eight outputs dropped in each."""
    drawn = [in_training(rng, "adamw", size, n1, n2) for _ in range(8)]
    return [float(np.mean([of(case._replace(i=i)) for i in range(0, n1, n1 // 8)])) for case in drawn]


def share_of(of: Callable[[Dropped], float], rng: np.random.Generator, unit: str, what: str) -> Size:
    """The mean of a share over draws at our runs' row norms, n₁ = 48, n₂ = 64; wider, and with longer rows, beside."""
    own, longer = (shares(of, rng, size, 48, 64) for size in (PAPER_ROW, 0.1))
    wide = np.mean(shares(of, rng, PAPER_ROW, WIDE, WIDE))
    told = (
        f"{what} after {STEPS} steps of AdamW, a fresh batch each, gradients without a common mean, n₁ = 48, n₂ = 64, "
        f"r = 8, row norms near {PAPER_ROW}; in brackets over eight draws; {wide:.2g} at n₁ = n₂ = {WIDE}, "
        f"{np.mean(longer):.2g} at rows of 0.1"
    )
    return ranged(own, unit, told, float(np.mean(own)))


def negligible(part: np.ndarray, case: Dropped) -> bool:
    """Whether it is rounding beside the undropped step."""
    return bool(np.abs(part).max() <= TOLERANCE * np.abs(told_step(case, True)).max())


def left_alone(case: Dropped) -> bool:
    """Whether neither B_iΔA nor a buffer of B_i moves the dropped row."""
    delta_a, delta_b = moves(case, False)
    return negligible(case.one.b[case.i] @ delta_a, case) and negligible(delta_b[case.i] @ case.one.a, case)


@dropout_claim(
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

    own = share_of(share, cases.rng, "of its step undropped", "how far a dropped row still moves")
    return judged.finding(
        conditional="Only if B_iΔA = 0 (B_i = 0) and no momentum moves B_i: "
        f"under AdamW on average over {bound(own.value, 1, False):g} remains.",
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


@dropout_claim(
    "4-dropout-other-rows",
    test="tests/test_claims_4_1.py",
    says="Note that this is true only for (BA)_{i,:}, the effect on (BA)_{j,:}, j ≠ i is slightly different",
    reading="Dropping output i for all tokens changes the step of some other row (BA)_j, for a loss that does not "
    "couple outputs; no weight decay, unclipped. The condition is the exact criterion: what it names follows from A, "
    "B, g and the optimizer's buffers before the step.",
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

    own = share_of(share, cases.rng, "of the row's own step", "change of another row's step")
    return judged.finding(
        conditional=f"Mostly, and slightly: by about {100 * own.value:.1f} % of their step under AdamW; not where "
        "B_i = 0.",
        evidence=judged.evidence(
            ROUNDING,
            {"change of row j's step, over its step": "B_j⁺(ΔA′ − ΔA)"},
            shown=lambda case, seen: share(case),
            tolerance=TOLERANCE,
        ),
        size=own,
        corrected="row j's step changes by B_j⁺(ΔA′ − ΔA), B_j⁺ row j after the step, ΔA′ and ΔA with i dropped and "
        "kept; under SGD or momentum that is l(B_j⁺·B_i)g_i",
        condition="for some j ≠ i B_j⁺(ΔA′ − ΔA) ≠ 0, all three in closed form before the step; under SGD or momentum: "
        "g_i ≠ 0 and B_j⁺·B_i ≠ 0",
        flips_if="a change of another row's step where that is 0, or none where it is not",
    )
