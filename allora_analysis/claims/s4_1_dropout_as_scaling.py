"""§4.1: a dropped output as a factor on rows of BA, on their gradients and on their learning rates.

G = ∂L/∂(BA), f(x) = BAx; a mask m ∈ {0, 1} is drawn without its factor 1/(keep probability), which changes none
of these statements. Checked by `tests/test_claims_4_1.py`, which plants wrong formulas.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from allora_analysis.claims import layer_training
from allora_analysis.claims.cases import PAPER_DROP, Case, Cases, Judged
from allora_analysis.claims.claim import Evidence, Finding, claim
from allora_analysis.claims.layer_training import ROUNDING, Pass, close

dropout_claim = functools.partial(claim, where="§4.1, below Eq. (4)", test="tests/test_adaptive_field.py")
TOLERANCE = 1e-9


class Masked(NamedTuple):
    """A pass, and a mask (tokens×n₁) on its outputs."""

    one: Pass
    mask: np.ndarray


def one_vector(cases: Cases) -> list[Case]:
    """One vector x, as in §4.1, and a mask on the outputs: LoRA's shapes at drop rate 0.05, small ones at 0.5."""

    def draw(rng: np.random.Generator) -> Masked:
        one = layer_training.draw_pass(rng, tokens=1)
        return Masked(one, (rng.random(one.upstream.shape) < 0.5).astype(float))

    full = layer_training.paper_pass(cases.rng)
    own = full._replace(x=full.x[:1], upstream=full.upstream[:1])
    mask = (cases.rng.random(own.upstream.shape) >= PAPER_DROP).astype(float)
    mask[0, 0] = 0.0
    return [Case("n₂ = 64, r = 8, drop rate 0.05", Masked(own, mask), True), *cases.draw(draw, 24)]


def masked_cases(cases: Cases) -> list[Case]:
    """One token; one mask; one token whose mask differs in one output, there 0 or not; a mask each; n₂ = 1; B = 0."""

    def draw(rng: np.random.Generator) -> Masked:
        kind = rng.integers(8)
        one = layer_training.draw_pass(rng, n2=int(kind > 5), tokens=1 if kind == 0 else 2 * int(kind == 7))
        mask = np.tile(rng.random(one.upstream.shape[1]) < 0.5, (len(one.x), 1)).astype(float)
        t, i = (int(rng.integers(size)) for size in mask.shape)
        if kind in (2, 3):
            mask[:, i - 1], mask[t, i] = 1.0, 1 - mask[t, i]  # some output is kept
        if kind == 3:  # nothing there but, in half of the draws, a nudge
            nudge, row = 1e-3 * rng.integers(2), one.b[i] @ one.a
            one.x[t] += (nudge - one.x[t] @ row) / (row @ row) * row
            one.upstream[t, i] = nudge
        if kind > 3:
            mask = (rng.random(mask.shape) < 0.5).astype(float)
        if kind == 7:  # two tokens whose gradients cancel
            one.x[1], one.upstream[1], mask[1] = one.x[0], -one.upstream[0], 1 - mask[0]
        return Masked(one._replace(b=one.b * (kind != 5)), mask)

    own = layer_training.paper_pass(cases.rng)
    mask = (cases.rng.random(own.upstream.shape) >= PAPER_DROP).astype(float)
    return [Case("a mask for each of 32 tokens, drop rate 0.05", Masked(own, mask), True), *cases.draw(draw, 32)]


def plain_output(case: Masked) -> np.ndarray:
    """f(x) for every token."""
    return case.one.x @ (case.one.b @ case.one.a).T


def agree_on_outputs(case: Masked) -> bool:
    """Whether each output has one mask for all tokens at which it is not 0."""
    size = np.abs(plain_output(case))
    there = size > TOLERANCE * size.max()
    return not ((there & (case.mask == 0)).any(axis=0) & (there & (case.mask == 1)).any(axis=0)).any()


def agree_on_gradients(case: Masked) -> bool:
    """Whether for each i the tokens with ∂L/∂f_i ≠ 0 have one mask, or are parallel and do not cancel in g_i."""
    return all(map(functools.partial(_one_factor, case.one.x), case.mask.T, case.one.upstream.T))


def _one_factor(x: np.ndarray, mask: np.ndarray, upstream: np.ndarray) -> bool:
    # Of an output, its masks and its gradients by token.
    there = np.abs(upstream) > TOLERANCE * np.abs(upstream).max()
    if len({*mask[there]}) < 2:
        return True
    g = np.linalg.norm(upstream @ x)
    return bool(
        np.linalg.matrix_rank(x[there], TOLERANCE) == 1 and g > TOLERANCE * np.linalg.norm(upstream[:, None] * x)
    )


def dropped_output(case: Masked) -> np.ndarray:
    """The layer's output with the mask on it."""
    return case.mask * (case.one.x @ case.one.a.T @ case.one.b.T)


def row_scaled(case: Masked) -> np.ndarray:
    """f(x) with row i of BA multiplied by η_i, the mask of the one x."""
    return case.one.x @ (case.mask[0][:, None] * (case.one.b @ case.one.a)).T


def nearest(masked: np.ndarray, plain: np.ndarray) -> np.ndarray:
    """Each row of `plain` times the number that brings it nearest to that of `masked`."""
    square = np.sum(plain**2, axis=1, keepdims=True)
    there = square > (TOLERANCE * np.abs(masked).max()) ** 2
    return np.divide(np.sum(masked * plain, axis=1, keepdims=True), square, where=there, out=0 * square) * plain


def one_factor_on_outputs(case: Masked) -> np.ndarray:
    """f(x) with row i of BA multiplied by the factor that serves all tokens best."""
    return nearest(dropped_output(case).T, plain_output(case).T).T


def scaled_rows(
    drawn: list[Case],
    cases: Cases,
    measure: Callable[[Masked], np.ndarray],
    told: Callable[[Masked], np.ndarray],
    condition: Callable[[Masked], bool] | None = None,
    corrected: Callable[[Masked], np.ndarray] | None = None,
) -> tuple[Judged, Evidence]:
    """Whether an array is that of one factor a row, and the relative errors."""
    judged = cases.judge(
        drawn,
        measure=lambda case: [measure(case)],
        printed=lambda case, seen: close(seen, [told(case)], TOLERANCE),
        corrected=corrected and (lambda case, seen: close(seen, [corrected(case)], TOLERANCE)),
        condition=condition,
    )
    return judged, layer_training.deviations(judged, lambda case: [told(case)], ROUNDING, TOLERANCE)


FORWARD = (
    "The effect of dropping out (f(x))_i for a given i is equivalent to applying a per-row scaling factor η_i = 0 "
    "to (BA)_{i,:}"
)


@dropout_claim("4-dropout-forward", says=FORWARD, reading="x is one vector, as in §4.1.")
def dropout_forward(cases: Cases) -> Finding:
    """Masked outputs against outputs of the row-scaled BA, for one token."""
    judged, evidence = scaled_rows(one_vector(cases), cases, dropped_output, row_scaled)
    return judged.finding(
        holds="Yes, for one x, and exactly.",
        evidence=evidence,
        flips_if="a masked output of one x that no rows of BA set to 0 give",
    )


@dropout_claim(
    "4-dropout-forward-in-training",
    says=FORWARD,
    reading="A less kind reading: one number η_i serves all tokens of a batch.",
    depends_on=("4-dropout-forward",),
)
def dropout_forward_in_training(cases: Cases) -> Finding:
    """Masked outputs against outputs of the row-scaled BA, for one token and for several."""
    judged, evidence = scaled_rows(masked_cases(cases), cases, dropped_output, one_factor_on_outputs, agree_on_outputs)
    return judged.finding(
        conditional="Only where the tokens with f(x)_i ≠ 0 share i's mask: in training every token draws its own.",
        evidence=evidence,
        condition="for each i the mask is the same for all tokens with f(x)_i ≠ 0: one token, one mask for all, B = 0",
        flips_if="a factor a row that serves two tokens of different masks whose f(x)_i is not 0",
    )


def product_after_backward(case: Masked):
    """BA as a tensor with its gradient by autograd, the mask on the outputs."""
    import torch

    product = torch.tensor(case.one.b @ case.one.a, requires_grad=True)
    output = torch.tensor(case.mask) * (torch.tensor(case.one.x) @ product.mT)
    output.backward(torch.tensor(case.one.upstream))
    return product


def product_gradient(case: Masked) -> np.ndarray:
    """∂L/∂(BA) with the mask on the outputs, by autograd."""
    return product_after_backward(case).grad.numpy()


def masked_rows(case: Masked) -> np.ndarray:
    """η_i g_i: LoRA's own gradient with its rows scaled by the mask of the one x."""
    return case.mask[0][:, None] * (case.one.upstream.T @ case.one.x)


def kept_tokens(case: Masked) -> np.ndarray:
    """Σ_t m_ti (∂L/∂f_i)_t x_tᵀ."""
    return (case.mask * case.one.upstream).T @ case.one.x


def one_factor_on_gradients(case: Masked) -> np.ndarray:
    """LoRA's own gradient with row i multiplied by the factor that brings it nearest to the kept tokens' sum."""
    return nearest(kept_tokens(case), case.one.upstream.T @ case.one.x)


GRADIENT = (
    "Since dη·f(x)/dx = η df(x)/x, η_i = 0 is implicitly applied to the i-th row of the gradient g_i = (∂L/∂(BA))_{i,:}"
)
STEP = 1e-3  # dx; f is linear, so that any does


def input_derivative(case: Masked) -> np.ndarray:
    """d(η·f(x))/dx of the one x by autograd, η the mask: n₁×n₂."""
    import torch

    a, b, mask = (torch.tensor(part) for part in (case.one.a, case.one.b, case.mask[0]))
    masked = lambda x: mask * layer_training.lora(x[None, :], a, b)[0]  # noqa: E731
    return torch.autograd.functional.jacobian(masked, torch.tensor(case.one.x[0])).numpy()


def change_over(case: Masked, below: np.ndarray | float) -> np.ndarray:
    """η df(x) over what stands below it, df(x) the change of f where one entry of x changes by dx; n₁×n₂."""
    near = case.one.x + STEP * np.eye(case.one.x.shape[1])
    change = plain_output(case._replace(one=case.one._replace(x=near))) - plain_output(case)
    return case.mask[0][:, None] * change.T / below


@dropout_claim(
    "4-dropout-gradient",
    says=GRADIENT,
    reading="x is one vector, as in §4.1; the formula as well as what is concluded from it. That its right side lacks "
    "a d looks like a misprint, the copy's perhaps.",
    depends_on=("4-dropout-forward",),
)
def dropout_gradient(cases: Cases) -> Finding:
    """Autograd's gradient of BA under a masked output against η_i g_i, and its derivative in x, for one token."""
    judged = cases.judge(
        one_vector(cases),
        measure=lambda case: [product_gradient(case), input_derivative(case)],
        printed=lambda case, seen: close(seen, [masked_rows(case), change_over(case, case.one.x[0])], TOLERANCE),
        corrected=lambda case, seen: close(seen, [masked_rows(case), change_over(case, STEP)], TOLERANCE),
    )
    return judged.finding(
        holds="Yes, for one x, and exactly.",
        holds_corrected="Not as in our copy, perhaps its misprint: the right side should be η df(x)/dx; what follows "
        "is right.",
        evidence=layer_training.deviations(
            judged, lambda case: [masked_rows(case), change_over(case, STEP)], ROUNDING, TOLERANCE
        ),
        corrected="dη·f(x)/dx = η df(x)/dx; the factor reaches g by the chain rule through f: "
        "∂L(ηf)/∂(BA)_i = η_i (∂L/∂(ηf)_i) xᵀ",
        flips_if="an autograd gradient of BA with a row i that is not 0 where output i is dropped",
    )


@dropout_claim(
    "4-dropout-gradient-in-training",
    says=GRADIENT,
    reading="A less kind reading: one number η_i serves all tokens of a batch, in general position: chosen for it, "
    "more tokens than n₂ may cancel whatever their masks. The formula: 4-dropout-gradient.",
    depends_on=("4-dropout-gradient", "4-dropout-forward-in-training"),
)
def dropout_gradient_in_training(cases: Cases) -> Finding:
    """Autograd's gradient of BA under masked outputs; with a mask each, row i sums the tokens that keep i."""
    judged, evidence = scaled_rows(
        masked_cases(cases),
        cases,
        product_gradient,
        one_factor_on_gradients,
        agree_on_gradients,
        kept_tokens,
    )
    return judged.finding(
        conditional="Mostly not: tokens draw their own masks, and row i of the gradient sums those that keep i.",
        evidence=evidence,
        corrected="g_i = Σ_t m_ti (∂L/∂f_i)_t x_tᵀ, m_ti the mask of token t",
        condition="for each i the tokens with ∂L/∂f_i ≠ 0 have one mask (one token, one mask for all, padding), or are "
        "parallel (n₂ = 1) and their sum g_i is not 0; for almost all tokens and ∂L/∂f_i",
        flips_if="an autograd gradient of BA other than the masked sum over tokens",
    )


STEP_RATE = 0.1


def product_step(case: Masked) -> np.ndarray:
    """The change of BA in a step of torch's SGD along its own gradient, the mask on the outputs."""
    product = product_after_backward(case)
    layer_training.optimizer("sgd", [product], STEP_RATE).step()
    return product.detach().numpy() - case.one.b @ case.one.a


def rates_of_rows(case: Masked) -> np.ndarray:
    """−(lη_i)g_i: the step without a mask at a learning rate for each row."""
    return -(STEP_RATE * case.mask[0])[:, None] * (case.one.upstream.T @ case.one.x)


RATE = "which is again a scaling factor applied to the learning rate l"


@dropout_claim(
    "4-dropout-rate",
    says=RATE,
    reading="x is one vector, as in §4.1, and a step goes along the gradient g of BA: l(η_i g_i) = (lη_i)g_i.",
    depends_on=("4-dropout-gradient",),
)
def dropout_rate(cases: Cases) -> Finding:
    """A step of SGD on BA itself under a masked output against the unmasked one at the rates lη_i, for one token."""
    judged, evidence = scaled_rows(one_vector(cases), cases, product_step, rates_of_rows)
    return judged.finding(
        holds="Yes, for a step along g itself, and exactly; LoRA's steps are of A and B.",
        evidence=evidence,
        flips_if="a step along the gradient of BA that moves the row of a dropped output",
    )
