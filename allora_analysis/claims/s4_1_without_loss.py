"""§4.1, above Eq. (4): W* = 0 without loss of generality.

f(x) = BAx. Checked by `tests/test_claims_4_1.py`, which plants wrong formulas.
"""

from typing import NamedTuple

import numpy as np

from allora_analysis.claims import layer_training
from allora_analysis.claims.cases import Case, Cases
from allora_analysis.claims.claim import Finding, claim, ranged
from allora_analysis.claims.layer_training import ROUNDING, Pass, close

TOLERANCE = 1e-9


class Rewritten(NamedTuple):
    """A loss L(y, f) by name and weight, a pass with its frozen W*, and targets y."""

    loss: str
    weight: float
    one: Pass
    frozen: np.ndarray
    y: np.ndarray


def loss_of(case: Rewritten, y, f):
    """A loss of y − f, or with a term that is not: `weight` times ‖f‖²/2; "projection", the squared one less ‖y‖²/2;
    cross-entropy with classes y.
    """
    from torch.nn import functional as torch_functional

    if case.loss == "cross-entropy":
        return -(y * torch_functional.log_softmax(f, dim=1)).sum()
    if case.loss == "Huber":
        return torch_functional.huber_loss(f, y, reduction="sum")
    if case.loss == "projection":
        return (f**2).sum() / 2 - (y * f).sum()
    return ((y - f) ** 2).sum() / 2 + case.weight * (f**2).sum() / 2


def factor_gradients(case: Rewritten, y: np.ndarray, frozen: np.ndarray) -> list[np.ndarray]:
    """∂/∂A and ∂/∂B of L(y, (W* + BA)x), by autograd."""
    import torch

    x, a, b = (torch.tensor(part, requires_grad=True) for part in (case.one.x, case.one.a, case.one.b))
    loss_of(case, torch.tensor(y), x @ torch.tensor(frozen).mT + layer_training.lora(x, a, b)).backward()
    return [a.grad.numpy(), b.grad.numpy()]


def shift_invariant(case: Rewritten) -> bool:
    """Whether ∂L/∂f at (y + s, f + s) is that at (y, f), at the s = −W*x of the rewriting."""
    import torch

    f = case.one.x @ (case.one.b @ case.one.a).T
    s = case.one.x @ case.frozen.T
    outputs = [torch.tensor(f + s - t, requires_grad=True) for t in (0 * s, s)]
    for output, t in zip(outputs, (0 * s, s), strict=True):
        loss_of(case, torch.tensor(case.y - t), output).backward()
    return close(outputs[1].grad.numpy(), outputs[0].grad.numpy(), TOLERANCE)


def drawn(one: Pass, loss: str, weight: float, rng: np.random.Generator) -> Rewritten:
    """With W* and classes at random."""
    n1, n2 = one.b.shape[0], one.a.shape[1]
    y = np.eye(n1)[rng.integers(n1, size=len(one.x))]
    return Rewritten(loss, weight, one, rng.standard_normal((n1, n2)) / np.sqrt(n2), y)


def losses(cases: Cases) -> list[Case]:
    """Squared, Huber's, squared with a term in f alone or less that in y, cross-entropy, which fine-tuning uses."""

    def draw(rng: np.random.Generator) -> Rewritten:
        loss = str(rng.choice(["squared", "Huber", "projection", "cross-entropy"]))
        weight = float(rng.choice([0.0, 1e-4, 1e-2])) * (loss == "squared")
        return drawn(layer_training.draw_pass(rng), loss, weight, rng)

    own = drawn(layer_training.paper_pass(cases.rng), "cross-entropy", 0.0, cases.rng)
    return [Case("cross-entropy, n₂ = 64, r = 8", own, paper=True), *cases.draw(draw, 20)]


def rewritten_gradients(case: Rewritten) -> list[np.ndarray]:
    """∂/∂A and ∂/∂B of L̃(ỹ, BAx), L̃(ỹ, f) = L(ỹ + W*x, f + W*x): ∂L/∂f there, and a backward pass without W*."""
    import torch

    base = case.one.x @ case.frozen.T
    f = torch.tensor(case.one.x @ case.one.a.T @ case.one.b.T, requires_grad=True)
    loss_of(case, torch.tensor((case.y - base) + base), f + torch.tensor(base)).backward()
    return layer_training.backward(layer_training.lora, case.one._replace(upstream=f.grad.numpy()))[2:]


REWRITTEN = (
    "WLOG, we can further simply the model by assuming W* = 0, which is equivalent to defining ỹ = y − W*x and "
    "rewrite the loss function by ỹ"
)


@claim(
    "4-without-loss-of-generality",
    test="tests/test_claims_4_1.py",
    where="§4.1, above Eq. (4)",
    says=REWRITTEN,
    reading="The loss is rewritten as L̃(ỹ, f) = L(ỹ + W*x, f + W*x): then A and B have the same gradients at W* = 0.",
)
def rewritten_loss(cases: Cases) -> Finding:
    """The layer's gradients without W* under L̃ against autograd's with W* under L."""

    def expected(case: Rewritten) -> list[np.ndarray]:
        return factor_gradients(case, case.y, case.frozen)

    judged = cases.judge(
        losses(cases), measure=rewritten_gradients, printed=lambda case, seen: close(seen, expected(case), TOLERANCE)
    )
    return judged.finding(
        holds="Yes, for any loss, if the rewritten loss may depend on x.",
        evidence=layer_training.deviations(judged, expected, ROUNDING, TOLERANCE),
        flips_if="a loss whose gradients of A and B need W* otherwise than through y and f",
    )


def with_the_same_loss(case: Rewritten) -> list[np.ndarray]:
    """The gradients with ỹ = y − W*x in y's place and no W*."""
    return factor_gradients(case, case.y - case.one.x @ case.frozen.T, 0 * case.frozen)


def _missed(n1: int, rng: np.random.Generator) -> float:
    # The error of A's or B's gradient at LoRA's shapes, the larger, under cross-entropy of n₁ classes.
    one = drawn(layer_training.paper_pass(rng, n1=n1), "cross-entropy", 0.0, rng)
    return max(map(layer_training.norm_error, with_the_same_loss(one), factor_gradients(one, one.y, one.frozen)))


@claim(
    "4-without-loss-of-generality-same-loss",
    test="tests/test_claims_4_1.py",
    where="§4.1, above Eq. (4)",
    says=REWRITTEN,
    reading="A less kind reading: the loss stays, and only ỹ takes y's place, L(ỹ, BAx) for L(y, (W* + BA)x).",
    depends_on=("4-without-loss-of-generality",),
)
def same_loss(cases: Cases) -> Finding:
    """Autograd under both, by loss."""
    judged = cases.judge(
        losses(cases),
        measure=with_the_same_loss,
        printed=lambda case, seen: close(seen, factor_gradients(case, case.y, case.frozen), TOLERANCE),
        condition=shift_invariant,
    )
    evidence = layer_training.deviations(
        judged, lambda case: factor_gradients(case, case.y, case.frozen), ROUNDING, TOLERANCE
    )
    off = {n1: [_missed(n1, cases.rng) for _ in range(100)] for n1 in (48, 2)}
    return judged.finding(
        conditional="Only for losses of y − f, but for a term in y: with cross-entropy, which fine-tuning uses, W*x "
        "stays.",
        evidence=evidence,
        size=ranged(
            off[48],
            "of its norm",
            f"error of A's or B's gradient, cross-entropy of 48 classes ({np.median(off[2]):.2g} of two), r = 8, "
            "entries of W* of variance 1/64, inputs of variance 1/i, i = 1 … 64, 100 draws",
        ),
        condition="∂L/∂f is the same at (y + s, f + s) as at (y, f): a loss of y − f, and a term in y alone",
        flips_if="cross-entropy with the same gradients at ỹ, or a loss of y − f with others",
    )
