"""§1, third flaw, and §3.3: does η introduce interactions between LoRA modules of different layers, and instability?

f_L(x) = ∏(W_l + ηB_lA_l)x = Σ_k η^k c_k, c_k the sum of the products with k adapters. What layers do together is what
is left of f_L when each adapter's own effect is taken off, Σ_{k≥2} η^k c_k. Checked by `tests/test_claims_3_3.py`.
"""

import functools
import itertools
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from allora_analysis.claims.cases import ETA_M, ETA_M_ROWS, PAPER_ETAS, Case, Cases, log_uniform, relative_error
from allora_analysis.claims.claim import Finding, claim, ranged
from allora_analysis.claims.s3_2_in_v import power_law
from allora_analysis.claims.s3_3_worst_case import (
    ROUNDING,
    TOLERANCE,
    Network,
    aligned,
    as_fine_tuned,
    gaussian,
    product,
    ripple_claim,
)


def orders(network: Network) -> list[np.ndarray]:
    """c_0, …, c_L of f_L(x) = Σ_k η^k c_k: the terms with k adapters, summed over the subsets of layers one by one."""
    layers = network.layers
    terms = [np.zeros(len(layers[-1].w)) for _ in range(len(layers) + 1)]
    for taken in itertools.product((False, True), repeat=len(layers)):
        term = network.x
        for layer, adapter in zip(layers, taken, strict=True):
            term = layer.b @ (layer.a @ term) if adapter else layer.w @ term
        terms[sum(taken)] += term
    return terms


def interaction(network: Network) -> np.ndarray:
    """f_L(x) less f_L(x) without adapters and less what each adapter alone changes; 0 iff layers do not interact."""

    def output(on: Sequence[bool]) -> np.ndarray:
        chosen = [layer._replace(b=layer.b * flag) for layer, flag in zip(network.layers, on, strict=True)]
        return product(network._replace(layers=chosen)) @ network.x

    depth = len(network.layers)
    base = output([False] * depth)
    alone = [output([other == one for other in range(depth)]) - base for one in range(depth)]
    return output([True] * depth) - base - np.sum(alone, axis=0)


def _together(network: Network) -> float:
    # The interaction in % of the output.
    return 100 * float(np.linalg.norm(interaction(network)) / np.linalg.norm(product(network) @ network.x))


DEPTH = 12
LEAST = 0.0011  # of W's rows, the smallest recorded: row 3.3-comparable-level


@ripple_claim(
    "3.3-interactions",
    where="§1, third flaw",
    says="the scaling parameter that introduces nonlinear interactions between LoRA modules of different layers",
    reading="With η the output holds terms Σ_{k≥2} η^k c_k that mix adapters of several layers, and they are not η "
    "times what they are without η, at η = 1: nonlinear in η. There nothing is to be compared: η² of 2 and 4 judge. "
    "That η is their only cause is not said.",
)
def interactions(cases: Cases) -> Finding:
    """Forward passes with some adapters off, against the expansion f_L(x) = Σ_k η^k c_k, and against those at η = 1."""

    def draw(rng: np.random.Generator) -> Network:
        widths = rng.integers(3, 9, size=rng.integers(3, 6)).tolist()
        return gaussian(widths, int(rng.integers(1, 4)), float(rng.choice([0.25, 1.5, 4.0])), rng)

    own = [as_fine_tuned(DEPTH, eta, cases.rng) for eta in PAPER_ETAS[1:]]
    judged = cases.judge(
        [Case(f"{DEPTH} layers of width 64, r = 8, η = {one.eta:.3g}", one, paper=True) for one in own]
        + cases.draw(draw, 8),
        measure=lambda one: {"at η": interaction(one), "at η = 1": interaction(one._replace(eta=1.0))},
        printed=lambda one, seen: (
            relative_error(seen["at η"], sum(one.eta**k * c for k, c in enumerate(orders(one)) if k > 1)) < TOLERANCE
            and np.linalg.norm(seen["at η"]) > TOLERANCE
            and relative_error(one.eta * seen["at η = 1"], seen["at η"]) > TOLERANCE
        ),
    )

    def together_at(rows: float) -> list[float]:
        return [_together(as_fine_tuned(DEPTH, 1.0, cases.rng, rows)) for _ in range(12)]

    most, least = together_at(ETA_M_ROWS), float(np.median(together_at(LEAST)))
    norms = np.ones(DEPTH)
    built = _together(aligned((64,) * (DEPTH + 1), 8, norms, ETA_M * norms, 1.0, cases.rng))
    return judged.finding(
        holds=f"Yes: what adapters do only together is {np.median(most):.2f}% of {DEPTH} layers' output at random, "
        f"{built:.0f}% aligned (recorded sizes).",
        evidence=judged.evidence(ROUNDING, {"interaction": "Σ_{k≥2} η^k c_k"}, tolerance=TOLERANCE),
        size=ranged(
            most,
            "% of ‖f_L(x)‖",
            f"what the adapters of {DEPTH} layers of width 64, r = 8, do together at η = 1, {len(most)} networks, rows "
            f"of BA {ETA_M_ROWS:.1%} of W's, the most at the paper's rates ({least:.1g} % at the least, {LEAST:.2%}); "
            f"{built:.0f} % where all are aligned, as in 3.3-worst-case, with ‖ηBA‖ {ETA_M:.0%} of ‖W‖, MiniLM's mean "
            "but for its pooler",
        ),
        flips_if="forward passes in which each adapter's own effects add up to the whole, or what they do together "
        "is η times what it is at η = 1, or has another power of η",
    )


class Deep(NamedTuple):
    """One layer's B in a stack of W_l + ηB_lA_l: its inputs X (N×n₂), the layers after it (P), A, targets, η, l."""

    x: np.ndarray
    after: np.ndarray
    a: np.ndarray
    y: np.ndarray
    eta: float
    rate: float
    optimizer: str

    @property
    def sharpness(self) -> float:
        """Half the loss's largest curvature in B: η²‖P‖²λ_max(ASAᵀ), P the product of all W_k + ηB_kA_k after it."""
        return float(self.eta * np.linalg.norm(self.after, 2) * np.linalg.norm(self.x @ self.a.T, 2)) ** 2


LARGE, LAYERS, NETWORKS = 0.1, 24, 4
INPUTS = float(np.sqrt(np.mean(1 / np.arange(1, 33))))  # the standard deviation of an entry of `power_law`'s inputs


def deep(
    rng: np.random.Generator, width: int, rank: int, depth: int, eta: float, optimizer: str, rows: float = LARGE
) -> Deep:
    """A random stack of L layers, the middle one's B trained from 0 at rate 1e-4; `rows` is BA's row norm over W's."""
    layers = [
        (
            rng.standard_normal((width, width)) / width**0.5,
            rows * rng.standard_normal((width, rank)) / width**0.5,
            rng.standard_normal((rank, width)) / rank**0.5,
        )
        for _ in range(depth)
    ]
    at, x, after = depth // 2, power_law(32, width, rng), np.eye(width)
    for w, b, a in layers[:at]:
        x = x @ (w + eta * b @ a).T
    for w, b, a in layers[at + 1 :]:
        after = (w + eta * b @ a) @ after
    return Deep(x, after, layers[at][2], rng.standard_normal((32, width)), eta, RATE, optimizer)


STEPS, RATE = 150, 1e-4


class Adam:
    """The direction of Adam's steps, from the gradients so far."""

    def __init__(self):
        self.step, self.mean, self.square = 0, 0.0, 0.0

    def direction(self, gradient: np.ndarray) -> np.ndarray:
        """What −l multiplies in the step at this gradient."""
        self.step += 1
        self.mean, self.square = 0.9 * self.mean + 0.1 * gradient, 0.999 * self.square + 0.001 * gradient**2
        return self.mean / (1 - 0.9**self.step) / (np.sqrt(self.square / (1 - 0.999**self.step)) + 1e-8)


def trained_loss(one: Deep) -> float:
    """‖ηX(PBA)ᵀ − Y‖²_F after 150 full-batch steps on B from 0, over that before them."""
    b, inner = np.zeros((one.after.shape[1], len(one.a))), one.x @ one.a.T
    adam, residual = Adam(), -one.y

    for _ in range(STEPS):
        gradient = 2 * one.eta * one.after.T @ residual.T @ inner
        b = b - one.rate * (adam.direction(gradient) if one.optimizer == "Adam" else gradient)
        residual = one.eta * inner @ (one.after @ b).T - one.y
        loss = float(np.square(residual).sum() / np.square(one.y).sum())
        if loss > 1e12:  # diverged
            break
    return loss


def ripple_when_doubled(seed: int, rows: float) -> float:
    """What the other layers add to a layer's largest curvature, in %, as all η go from 1 to 2; 24 layers."""
    low, high = (deep(np.random.default_rng(seed), 32, 8, 24, eta, "descent", rows) for eta in (1.0, 2.0))
    return 100 * (high.sharpness / low.sharpness / 4 - 1)


def at_gain(gain: float, eta: float, seed: int) -> Deep:
    """24 layers of width 32, W and BA of all but the one trained times `gain`, under Adam at 1e-4."""
    one = deep(np.random.default_rng([seed, 3]), 32, 8, 24, eta, "Adam", ETA_M_ROWS)
    return one._replace(x=gain**12 * one.x, after=gain**11 * one.after)


def alone(gain: float, eta: float, seed: int) -> float:
    """The loss after Adam has trained one layer's B."""
    return trained_loss(at_gain(gain, eta, seed))


def together(gain: float, eta: float, seed: int) -> float:
    """‖f − f₀ − Y‖²_F after Adam has trained the B of all 24 layers from 0, f₀ the output before, over ‖Y‖²_F.

    Layers of width 32 and W times `gain`; entries of Y have standard deviation 1, those of the inputs `INPUTS`.
    """
    rng, width, rank = np.random.default_rng([seed, 5]), 32, 8
    w = gain * rng.standard_normal((LAYERS, width, width)) / width**0.5
    a = rng.standard_normal((LAYERS, rank, width)) / rank**0.5
    x, y, b, adam = power_law(32, width, rng), rng.standard_normal((32, width)), np.zeros((LAYERS, width, rank)), Adam()
    target = functools.reduce(lambda h, m: h @ m.T, w, x) + y
    for _ in range(STEPS):
        maps = w + eta * b @ a
        hidden = list(itertools.accumulate(maps, lambda h, m: h @ m.T, initial=x))
        back, gradient = 2 * (hidden.pop() - target), np.empty_like(b)
        for layer in reversed(range(LAYERS)):
            gradient[layer] = eta * back.T @ hidden[layer] @ a[layer].T
            back = back @ maps[layer]
        b = b - RATE * adam.direction(gradient)
    output = functools.reduce(lambda h, m: h @ m.T, w + eta * b @ a, x)
    return float(np.square(output - target).sum() / np.square(y).sum())


def turning_gain(loss: Callable[[float, float, int], float], eta: float, seed: int) -> float:
    """The gain up to 3 from which Adam at 1e-4 raises the loss at this η, by bisection to 0.01; 2.99 where none."""
    gains = np.arange(1.0, 3.0, 0.01)
    return float(gains[bisect_left(gains[:-1], True, key=lambda gain: loss(gain, eta, seed) > 1)])


def limits_apart(rng: np.random.Generator) -> tuple[Deep, Deep]:
    """One network at two η in all layers, or in all but the one trained, and a rate between their limits.

    These are at least a tenth apart; else another is drawn.
    """
    seed, sizes = int(rng.integers(2**31)), (int(rng.integers(5, 9)), 2, int(rng.integers(3, 7)))
    eta, others = float(rng.uniform(0.5, 4)), rng.random() < 0.5
    times = log_uniform(rng, 1, 2) if others else log_uniform(rng, 0.06, 0.65)
    pair = [deep(np.random.default_rng(seed), *sizes, each, "descent") for each in (eta, times * eta)]
    low, high = sorted((one._replace(eta=eta) for one in pair), key=lambda one: one.sharpness) if others else pair
    if high.sharpness < 1.1 * low.sharpness:
        return limits_apart(rng)
    rate = (low.sharpness * high.sharpness) ** -0.5
    return low._replace(rate=rate), high._replace(rate=rate)


def added_by_others(rng: np.random.Generator) -> dict[str, float]:
    """The median of `ripple_when_doubled` at two sizes of the adapters, over 100 draws."""
    seeds = [int(seed) for seed in rng.integers(2**31, size=100)]
    return {
        "% that the other layers add to a layer's largest curvature as η goes from 1 to 2, which the layer alone makes "
        f"4 times as large; rows of BA {rows:.1%} of W's": float(
            np.median([ripple_when_doubled(seed, rows) for seed in seeds])
        )
        for rows in (ETA_M_ROWS, LARGE)
    }


def under_adam(seeds: Sequence[int], needed: float, one: float) -> dict[str, Any]:
    """Adam at 1e-4: losses at the paper's η, and the gains at which η decides, all of 24 B trained and one of them."""
    low, first = PAPER_ETAS[0], seeds[0]
    gains = [1.0, one, turning_gain(alone, low, first)]
    return {
        "Adam at 1e-4, all 24 B trained, layers that keep their inputs' size, η² = 1, 2, 4": [
            [together(1.0, eta, seed) for eta in PAPER_ETAS] for seed in seeds
        ],
        "all 24 B trained: gains for which η from 1 to 2 decides, first network": [
            needed,
            turning_gain(together, low, first) - 0.01,
        ],
        **{
            f"Adam at 1e-4, one B trained, 23 layers that multiply by {gain:.3g} each, {gain**23:.2g} in all": [
                alone(gain, eta, first) for eta in PAPER_ETAS
            ]
            for gain in gains
        },
        "one B trained: gains for which η from 1 to 2 decides": [one, gains[2] - 0.01],
    }


@claim(
    "3.3-unstable",
    where="§3.3, first paragraph",
    says="the scaling factor creates a ripple effect across layers of a LLM and may make finetuning unstable",
    reading='"May": at one rate and in one network, 150 steps of gradient descent on a layer\'s B lower the loss at '
    "one η and raise it at another. One layer suffices; across layers: also where only the other layers' η differ. "
    "Adam at 1e-4 beside it, from η = 1 to 2, in 24 layers that keep their inputs' size, and "
    "in ones that enlarge it, by a gain searched for so that η decides: a toy of 24 linear layers of width 32, r = 8, "
    "32 inputs, W Gaussian, A's entries of variance 1/r, the target the output before training plus a change of "
    "standard deviation 1, however long that output is. It leaves the paper's models open.",
    test="tests/test_claims_3_3.py",
    depends_on=("3.3-product",),
)
def unstable(cases: Cases) -> Finding:
    """One network at two η and a rate between the limits that they and the layers set; Adam at 1e-4 beside it."""
    seeds = [NETWORKS * cases.seed + draw for draw in range(NETWORKS)]
    needed, one = ([turning_gain(loss, PAPER_ETAS[-1], seed) for seed in seeds] for loss in (together, alone))
    judged = cases.judge(
        [
            Case(f"{case.name}, {size} curvature", (one, size))
            for case in cases.draw(limits_apart, 16)
            for one, size in zip(case.inputs, ("smaller", "larger"), strict=True)
        ],
        lambda inputs: trained_loss(inputs[0]),
        printed=lambda inputs, seen: (seen <= 1) == (inputs[1] == "smaller"),
    )
    return judged.finding(
        holds="Yes under gradient descent; under Adam at 1e-4 only in layers that enlarge inputs far beyond the change "
        "sought.",
        evidence=judged.evidence(
            "none: the loss rises or not",
            lambda inputs: inputs[0].rate * inputs[0].sharpness,
            more=under_adam(seeds, needed[0], one[0]) | added_by_others(cases.rng),
        ),
        size=ranged(
            needed,
            "times",
            f"by which each of {LAYERS} layers must enlarge its input for η = 2 to raise Adam's loss at 1e-4 in this "
            f"toy, all B trained, {NETWORKS} networks: output 10^{LAYERS * np.log10(np.median(needed)):.0f} times the "
            f"input, whose entries are {INPUTS:.2g} of the change's ({np.median(one):.2g} in 23 where one is trained)",
        ),
        flips_if="descent that is stable above the rate 1/(η²‖P‖²λ_max(ASAᵀ)) or not below it, P the product of the "
        "layers after with their own ηBA, S the Gram matrix of the layer's inputs",
    )
