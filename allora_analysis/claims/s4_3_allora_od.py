"""§4.3, ALLoRA-OD: its output and a row of BA, its noise and its update.

The layers are run. ALLoRA-OD puts d = 1/√(|f(x)_i| + 1/η²) on each token's gradient. ASF-LoRA: `s4_3_asf_lora`.
Checked by `tests/test_claims_4_3.py`, which plants wrong formulas.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from allora_analysis import adaptive
from allora_analysis.adaptors import inverse_sqrt
from allora_analysis.claims import layer_training
from allora_analysis.claims.cases import (
    PAPER_ROW,
    Case,
    Cases,
    at_etas,
    log_uniform,
    relative_error,
    source_of_errors,
    standard_errors,
)
from allora_analysis.claims.claim import Finding, Size, claim, ranged
from allora_analysis.claims.layer_training import ROUNDING, Pass, close

TOLERANCE = 1e-9
TOKENS = 4000
family_claim = functools.partial(claim, where="§4.3", test="tests/test_adaptive_variants.py")


DEFINES = "First notice that in (f(x))_i = (BA)_{i,:}x, (f(x))_i and (BA)_{i,:} define each other."


@family_claim(
    "4-define-each-other",
    says=DEFINES,
    reading="Over all x: the outputs at the unit vectors are the row's entries, and the entries give every output.",
)
def define_each_other(cases: Cases) -> Finding:
    """LoRA's outputs at the unit vectors against BA's rows, and at inputs drawn anew against those entries."""

    def at(one: Pass, x: np.ndarray) -> np.ndarray:
        return layer_training.backward(layer_training.lora, one._replace(x=x, upstream=0 * (x @ (one.b @ one.a).T)))[0]

    judged = cases.judge(
        [Case("n₂ = 64, r = 8", layer_training.paper_pass(cases.rng), True), *cases.draw(layer_training.draw_pass, 12)],
        measure=lambda one: [at(one, np.eye(one.a.shape[1])).T, at(one, one.x)],
        printed=lambda one, seen: close(seen, [one.b @ one.a, one.x @ seen[0].T], TOLERANCE),
    )
    return judged.finding(
        holds="Yes: entry k of the row is its output at the k-th unit vector.",
        evidence=layer_training.deviations(
            judged, lambda one: [one.b @ one.a, one.x @ (one.b @ one.a).T], ROUNDING, TOLERANCE
        ),
        flips_if="an output at a unit vector that is not the row's entry, or one that the entries do not give",
    )


class Inputs(NamedTuple):
    """Inputs (N×n₂) and a row of BA."""

    x: np.ndarray
    row: np.ndarray


@family_claim(
    "4-define-each-other-in-training",
    says=DEFINES,
    reading="A less kind reading: given the inputs of a data set, a row's outputs are of no other row.",
    depends_on=("4-define-each-other",),
)
def define_each_other_in_training(cases: Cases) -> Finding:
    """The row of least norm with the same outputs, by least squares."""

    def draw(rng: np.random.Generator) -> Inputs:
        n2, count = int(rng.integers(2, 9)), int(rng.integers(1, 13))
        rank = int(rng.integers(1, min(n2, count) + 1)) if rng.random() < 0.3 else min(n2, count)
        x = rng.standard_normal((count, rank)) @ rng.standard_normal((rank, n2))
        return Inputs(x, rng.standard_normal(n2))

    row = cases.rng.standard_normal(64)
    own, many = (Inputs(layer_training.inputs(cases.rng, count, 64, 0.5), row) for count in (1, 256))
    judged = cases.judge(
        [Case("256 tokens, n₂ = 64", many, True), Case("one token, n₂ = 64", own), *cases.draw(draw, 24)],
        measure=lambda one: np.linalg.lstsq(one.x, one.x @ one.row, rcond=1e-9)[0],
        printed=lambda one, seen: relative_error(seen, one.row) <= 1e-6,
        condition=lambda one: float(np.linalg.matrix_rank(one.x, 1e-9 * np.linalg.norm(one.x)) / (len(one.row) - 0.5)),
    )
    return judged.finding(
        conditional="Only over n₂ independent inputs, as fine-tuning has; one output leaves n₂ − 1 numbers open.",
        evidence=judged.evidence("least squares on inputs of condition number below 1e4: 1e-6", tolerance=1e-6),
        size=Size(
            float(own.row.size - np.linalg.matrix_rank(own.x)),
            "of 64 numbers",
            "left open in a row by its output for one token, n₂ = 64",
        ),
        condition="n₂ linearly independent inputs",
        flips_if="a row found from fewer inputs than it has entries, outside of their span",
    )


class Noise(NamedTuple):
    """Gaussian inputs, rows of BA of the given norms, η."""

    x: np.ndarray
    a: np.ndarray
    b: np.ndarray
    eta: float


def factors(case: Noise, arm: str) -> np.ndarray:
    """The factor that a layer puts on each token's gradient: B's gradients token by token over LoRA's, tokens×n₁."""
    import torch

    from allora_analysis.lora import functional

    rule = {"od": functional.allora_od, "allora": functional.allora}[arm]

    def per_token(function, *args):
        wide = torch.tensor(case.b).expand(len(case.x), *case.b.shape).clone().requires_grad_()
        outputs = torch.func.vmap(lambda t, w: function(t, torch.tensor(case.a), w, *args))(torch.tensor(case.x), wide)
        return torch.autograd.grad(outputs.sum(), wide)[0]

    return (per_token(rule, case.eta) / per_token(layer_training.lora))[:, :, 0].numpy()


def _noise_cases(cases: Cases) -> list[Case]:
    """One row of BA each, short or long; those of our runs' length at the paper's η."""

    def drawn(norm: float, eta: float, rng: np.random.Generator) -> Noise:
        a, b = rng.standard_normal((2, 3)), rng.standard_normal((1, 2))
        return Noise(rng.standard_normal((TOKENS, 3)), a, norm * b / np.linalg.norm(b @ a), eta)

    def draw(rng: np.random.Generator) -> Noise:
        return drawn(float(10 ** rng.uniform(-3, 1)), log_uniform(rng, 0, 1), rng)

    own = at_etas(f"‖(BA)_i‖ = {PAPER_ROW}", lambda eta: drawn(PAPER_ROW, eta, cases.rng))
    return own + cases.draw(draw, 12)


def _seen_of(case: Noise) -> dict[str, float]:
    """Mean and spread of ALLoRA-OD's factor over tokens, with their standard errors, and ALLoRA's spread."""
    od, plain = factors(case, "od")[:, 0], factors(case._replace(x=case.x[:200]), "allora")[:, 0]
    fourth = float(np.mean((od - od.mean()) ** 4))
    return {
        "mean": float(od.mean()),
        "std": float(od.std()),
        "std, ALLoRA's": float(plain.std()),
        "stderr": float(od.std()) / math.sqrt(TOKENS) + 1e-12,
        "stderr of the variance": math.sqrt(max(fourth - float(od.std()) ** 4, 0.0) / TOKENS) + 1e-12,
    }


def law(case: Noise) -> adaptive.OutputFactor:
    """The factor's moments over Gaussian inputs."""
    return adaptive.output_factor(float(np.linalg.norm(case.b @ case.a)), case.eta)


def off(case: Noise, seen: dict[str, float]) -> float:
    """How many standard errors mean and variance are from the law's."""
    told = law(case)
    mean = abs(seen["mean"] - told.mean) / seen["stderr"]
    return max(mean, abs(seen["std"] ** 2 - told.variance) / seen["stderr of the variance"])


@family_claim(
    "4-od-noise",
    says="Qualitatively, ALLoRA-OD subjects to the stochastic noise in x because (f(x))_i = (BA)_{i,:}x.",
    reading="ALLoRA-OD's factor varies over inputs, ALLoRA's does not: from the first step on, "
    "as at BA = 0 neither does.",
)
def output_noise(cases: Cases) -> Finding:
    """The factor of each token, read off the layers' gradients over Gaussian inputs, against its law."""
    allowed = standard_errors(TOKENS)

    judged = cases.judge(
        _noise_cases(cases),
        measure=_seen_of,
        printed=lambda case, seen: (
            seen["std"] > TOLERANCE and off(case, seen) < allowed and seen["std, ALLoRA's"] < TOLERANCE
        ),
    )
    *relative, longer = (
        math.sqrt(one.variance) / one.mean
        for one in (*(law(case.inputs) for case in judged.cases[:3]), adaptive.output_factor(0.1, 2.0))
    )
    return judged.finding(
        holds=f"Yes, but little: the factor varies by {100 * relative[2]:.1f} % of its mean at row norms of "
        f"{PAPER_ROW}, η² = 4.",
        evidence=judged.evidence(
            f"of mean and variance: {source_of_errors(TOKENS)}",
            lambda case: {"mean": law(case).mean, "std": math.sqrt(law(case).variance)},
            tolerance=allowed,
            error=max(off(case.inputs, seen) for case, seen in judged.pairs),
            n=TOKENS,
        ),
        size=ranged(
            relative,
            "of its mean",
            f"spread of the factor over white inputs, row norms of {PAPER_ROW}, η² from 1 to 4; {longer:.2g} at rows "
            "of 0.1, η² = 4",
            relative[2],
        ),
        flips_if="a factor of ALLoRA-OD that is the same for every token, or whose mean and variance over Gaussian "
        "inputs are not those of 1/√(|z|·‖(BA)_i‖ + 1/η²), z standard normal; or one of ALLoRA that is not the same",
    )


class Batch(NamedTuple):
    """Tokens, a row of BA, its target, and η; the loss is squared."""

    x: np.ndarray
    row: np.ndarray
    target: np.ndarray
    eta: float


def _od_samples(one: Batch) -> np.ndarray:
    """Each token's gradient of the row through ALLoRA-OD, by the layer: A = I, B the row."""
    case = Noise(one.x, np.eye(len(one.row)), one.row[None, :], one.eta)
    return (factors(case, "od")[:, 0] * (one.x @ (one.row - one.target)))[:, None] * one.x


def summed(one: Batch) -> dict[str, np.ndarray]:
    """The row's mean gradient over tokens, and its standard error where there are many."""
    samples = _od_samples(one)
    error = samples.std(axis=0) / math.sqrt(len(samples))
    return {"mean": samples.mean(axis=0), "stderr": error if len(samples) == TOKENS else 0 * error}


def _row_gradient(one: Batch) -> np.ndarray:
    """G_i, the mean over tokens without the factor."""
    return one.x.T @ (one.x @ (one.row - one.target)) / len(one.x)


def parallel(one: Batch, seen: dict[str, np.ndarray]) -> bool:
    """Whether the row's gradient is a multiple of g_i."""
    mean, g = seen["mean"], _row_gradient(one)
    left = mean - (mean @ g) / (g @ g) * g
    return bool(np.linalg.norm(left) <= TOLERANCE * np.linalg.norm(mean))


def turned(one: Batch) -> float:
    """The angle between the row's gradient and g_i, degrees."""
    seen, g = summed(one)["mean"], _row_gradient(one)
    return math.degrees(math.acos(min(1.0, float(seen @ g / np.linalg.norm(seen) / np.linalg.norm(g)))))


def _batch_of_paper(rng: np.random.Generator) -> Batch:
    """32 tokens, n₂ = 64, a row as long as the longest mean of our runs at the paper's rate, η² = 4."""
    x, row = layer_training.inputs(rng, 32, 64, 0.5), PAPER_ROW * rng.standard_normal(64) / 8
    return Batch(x, row, rng.standard_normal(64), 2.0)


def expectation(one: Batch) -> np.ndarray:
    """Its expectation over white Gaussian inputs."""
    size = float(np.linalg.norm(one.row))
    law, along = adaptive.output_factor(size, one.eta), np.outer(one.row, one.row) / size**2
    return (one.row - one.target) @ (law.mean * (np.eye(len(one.row)) - along) + law.along * along)


def beside_a_fitted(rng: np.random.Generator, misfit: float) -> Batch:
    """A token beside one whose output is this far from its target."""
    x, row, off = rng.standard_normal((2, 3)), rng.standard_normal(3), rng.standard_normal(3)
    x[1] += (misfit - x[1] @ off) / (off @ off) * off
    return Batch(x, row, row - off, log_uniform(rng, 0, 1))


def batches(rng: np.random.Generator) -> Batch:
    """One token, B = 0, tokens of equal |f|, parallel ones, one beside another that is fitted or almost, or any."""
    kind = rng.integers(7)
    if kind == 4:
        return beside_a_fitted(rng, 1e-3 * rng.integers(2))
    x = rng.standard_normal((1 if kind == 0 else int(rng.integers(2, 9)), 3))
    row = rng.standard_normal(3) * (kind != 1)
    if kind == 2:  # entries ±1 and a row along an axis: |f| is the same for every token
        x, row = np.sign(x), row * [1.0, 0.0, 0.0]
    if kind == 3:
        x = x[:, :1] * x[0]
    return Batch(x, row, rng.standard_normal(3), log_uniform(rng, 0, 1))


def keeps_direction(one: Batch) -> bool:
    """Whether the tokens with ∂L/∂f_i ≠ 0 have one |f(x)_i|, as one token has, or are parallel."""
    off = np.abs(one.x @ (one.row - one.target))
    x = one.x[off > TOLERANCE * off.max()]
    sizes = np.abs(x @ one.row)
    return bool(np.ptp(sizes) <= TOLERANCE * (1 + sizes.max()) or np.linalg.matrix_rank(x, TOLERANCE) == 1)


OF_THE_PAPERS_BATCH = (
    "between g̃_i and g_i, 32 tokens, 64 inputs of variance 1/i, i = 1 … 64, squared loss, targets linear in x with "
    f"coefficients of variance 1, rows of {PAPER_ROW}, η² = 4, 100 draws"
)


@family_claim(
    "4-od-update-in-training",
    where="beyond the paper: §4.3, definition of ALLoRA-OD, over a batch",
    says="For a batch, too, ALLoRA-OD's g̃_i is a multiple of g_i.",
    reading="g_i and g̃_i are sums over the batch's tokens, each token with its own factor; tokens and targets in "
    "general position: chosen for it, dependent ones may cancel whatever their factors.",
    depends_on=("4-definition", "4-od-noise"),
)
def expected_update(cases: Cases) -> Finding:
    """The row's gradient over a batch against g_i; for white Gaussian inputs, its expectation."""
    allowed = standard_errors(TOKENS)

    def expected(one: Batch, seen: dict[str, np.ndarray]) -> bool:
        f = one.x @ one.row
        by_token = (inverse_sqrt(np.abs(f), one.eta) * (f - one.x @ one.target)) @ one.x / len(f)
        gap = np.abs(seen["mean"] - expectation(one)) if len(f) == TOKENS else np.zeros(len(one.row))
        return relative_error(seen["mean"], by_token) <= 1e-7 and bool(np.all(gap <= allowed * seen["stderr"]))

    rng, ends = cases.rng, (np.array([1.5, -0.5, 0.2]), np.array([0.3, 1.0, -0.7]))
    white = Batch(rng.standard_normal((TOKENS, 3)), *ends, 2.0)
    judged = cases.judge(
        [
            Case(f"32 tokens, n₂ = 64, ‖(BA)_i‖ near {PAPER_ROW}, η² = 4", _batch_of_paper(rng), True),
            Case("white inputs", white),
            Case("two tokens, one of them fitted", beside_a_fitted(rng, 0.0)),
            *cases.draw(batches, 24),
        ],
        measure=summed,
        printed=parallel,
        corrected=expected,
        condition=keeps_direction,
    )
    return judged.finding(
        conditional="Mostly not over a batch: its tokens' factors differ, and turn the row's gradient a little.",
        evidence=judged.evidence(
            source_of_errors(TOKENS), {"white inputs": expectation(white)}, tolerance=allowed, n=TOKENS
        ),
        size=ranged(
            [turned(_batch_of_paper(rng)) for _ in range(100)],
            "degrees",
            OF_THE_PAPERS_BATCH,
        ),
        corrected="g̃_i = Σ_t d_t (∂L/∂f_i)_t x_t; over white Gaussian inputs and a squared loss E[g̃_i] = "
        "g_i(E[d]·across + E[dz²]·along (BA)_i), f(x)_i = z‖(BA)_i‖, with E[dz²] < E[d]: turned away from the row's "
        "own direction",
        condition="the tokens with ∂L/∂f_i ≠ 0 are one, have one |f(x)_i| (as at B = 0), or are parallel; for almost "
        "all tokens and targets",
        flips_if="a batch of these whose g̃_i is not parallel to g_i, independent tokens of two |f(x)_i| whose g̃_i "
        "is, or another sum than that over tokens",
    )
