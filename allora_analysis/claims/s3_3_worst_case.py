"""§3.3, the ripple effect in the worst case: each line of the derivation up to the last display, and "tight".

f_L(x) = M_L ⋯ M_1 x with M_l = W_l + ηB_lA_l; m_l = ‖B_lA_l‖/‖W_l‖. The bounds are judged by dense matrices and forward
passes. Checked by `tests/test_claims_3_3.py`, which plants wrong formulas.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from allora_analysis import ripple
from allora_analysis.claims.cases import ETA_M, ETA_M_ROWS, PAPER_ETAS, POOLER, Case, Cases, at_etas, log_uniform
from allora_analysis.claims.claim import Finding, Size, claim, ranged
from allora_analysis.ripple.bounds import Layer

ripple_claim = functools.partial(claim, command="python -m allora_analysis.ripple", test="tests/test_ripple.py")
TOLERANCE = 1e-10
ROUNDING = "float64 rounding in products of at most 24 matrices, relative to a log growth of order 1 to 100"


class Network(NamedTuple):
    """Layers, an input and η."""

    layers: Sequence[Layer]
    x: np.ndarray
    eta: float


def gaussian(widths: Sequence[int], rank: int, eta: float, rng: np.random.Generator) -> Network:
    """Layers and an input with standard normal entries."""
    layers = [
        Layer(*(rng.standard_normal(shape) for shape in ((n, m), (n, rank), (rank, m))))
        for m, n in itertools.pairwise(widths)
    ]
    return Network(layers, rng.standard_normal(widths[0]), eta)


def aligned(widths: Sequence[int], rank: int, weights: object, adapters: object, eta: float, rng: object) -> Network:
    """The network that attains the bound, of the given ‖W_l‖ and ‖B_lA_l‖."""
    network = ripple.aligned_network(widths, rank, weights, adapters, generator=rng)
    return Network(list(network.layers), network.x, eta)


def as_fine_tuned(depth: int, eta: float, rng: np.random.Generator, share: float = ETA_M_ROWS) -> Network:
    """Layers of width 64 at random, rank 8, with ηBA's rows as long as recorded or a given share of W's."""
    network = gaussian((64,) * (depth + 1), 8, eta, rng)
    layers = []
    for one in network.layers:
        rows, added = (np.linalg.norm(matrix, axis=1).mean() for matrix in (one.w, one.b @ one.a))
        layers.append(one._replace(b=one.b * (share * rows / (eta * added))))
    return network._replace(layers=layers)


def networks_at_random(cases: Cases) -> list[Case]:
    """Gaussian networks of several shapes, with η from 1/4 to 100, and as fine-tuned at the paper's η."""

    def draw(rng: np.random.Generator) -> Network:
        widths = rng.integers(3, 10, size=rng.integers(2, 13)).tolist()
        return gaussian(widths, int(rng.integers(1, 4)), log_uniform(rng, np.log(0.25), np.log(100)), rng)

    own = at_etas("width 64, r = 8, L = 24", lambda eta: as_fine_tuned(24, eta, cases.rng))
    return own + cases.draw(draw, 12)


def in_twelve(cases: Cases, gap: Callable[[Network], float], of: str) -> Size:
    """A gap in nats, of networks as fine-tuned at the paper's η."""
    gaps = [gap(as_fine_tuned(24, eta, cases.rng)) for eta in 4 * PAPER_ETAS]
    which = f"{len(gaps)} networks of 24 layers of width 64 at random, r = 8, rows of ηBA {ETA_M_ROWS:.1%} of W's"
    return ranged(gaps, "nats", f"{of}, {which}")


def product(network: Network) -> np.ndarray:
    """M_L ⋯ M_1, dense."""
    matrix = np.eye(network.layers[0].w.shape[1])
    for layer in network.layers:
        matrix = (layer.w + network.eta * layer.b @ layer.a) @ matrix
    return matrix


def log_norm(network: Network) -> float:
    """log‖M_L ⋯ M_1‖, from the product itself."""
    return float(np.log(np.linalg.norm(product(network), 2)))


def log_growth(network: Network) -> float:
    """log(‖f_L(x)‖/‖x‖) of a forward pass."""
    return float(ripple.log_output_growth(network.layers, network.x, network.eta)[0])


def worst(network: Network) -> ripple.WorstCase:
    """The paper's bounds on the network's log growth."""
    return ripple.worst_case(*ripple.spectral_norms(network.layers), network.eta)


def lines_up(network: Network) -> bool:
    """Whether x, W's and BA's top singular vectors line up through the network, from dense decompositions."""
    direction, nearly = network.x / np.linalg.norm(network.x), 1 - 1e-9
    for layer in network.layers:
        pair = layer.w @ direction, layer.b @ (layer.a @ direction)
        for matrix, image in zip((layer.w, layer.b @ layer.a), pair, strict=True):
            if np.linalg.norm(image) < nearly * np.linalg.norm(matrix, 2):
                return False
        if pair[0] @ pair[1] < nearly * np.linalg.norm(pair[0]) * np.linalg.norm(pair[1]):
            return False
        direction = pair[0] / np.linalg.norm(pair[0])
    return True


@ripple_claim(
    "3.3-norm",
    where="§3.3, display before the triangle inequality",
    says="‖f_L(x)‖ = ‖(W_L* + ηB_LA_L) ⋯ (W_1* + ηB_1A_1)‖ · ‖x‖",
)
def norm(cases: Cases) -> Finding:
    """= as printed and ≤ in its place, for an x at random; = for a top right singular vector."""
    judged = cases.judge(
        networks_at_random(cases),
        measure=lambda one: {
            "x at random": log_growth(one),
            "top right singular vector": log_growth(one._replace(x=np.linalg.svd(product(one))[2][0])),
        },
        printed=lambda one, seen: abs(seen["x at random"] - log_norm(one)) < TOLERANCE,
        corrected=lambda one, seen: (
            seen["x at random"] <= log_norm(one) + TOLERANCE
            and abs(seen["top right singular vector"] - log_norm(one)) < TOLERANCE
        ),
    )
    below = [log_norm(case.inputs) - seen["x at random"] for case, seen in judged.pairs]
    return judged.finding(
        holds_corrected="Not as printed: the right side is an upper bound, in general equal for one direction of x "
        "only.",
        evidence=judged.evidence(ROUNDING, log_norm, tolerance=TOLERANCE, error=max(0.0, -min(below))),
        size=in_twelve(cases, lambda one: log_norm(one) - log_growth(one), "log‖f_L(x)‖ below it, x at random"),
        corrected="‖f_L(x)‖ ≤ ‖(W_L* + ηB_LA_L) ⋯ (W_1* + ηB_1A_1)‖ · ‖x‖",
        flips_if="one forward pass above the bound, or a top right singular vector below it",
    )


@ripple_claim(
    "3.3-product",
    where="§3.3, triangle inequality",
    says="‖f_L(x)‖ ≤ (‖W_L*‖ + η‖B_LA_L‖) ⋯ (‖W_1*‖ + η‖B_1A_1‖)‖x‖",
    depends_on=("3.3-norm",),
)
def triangle(cases: Cases) -> Finding:
    """Dense products at random, and the aligned network, where the bound is attained."""
    known = [
        Case(f"aligned, η = {eta:.3g}", aligned((6, 4, 9, 5), 3, 1.5, 0.8, eta, cases.rng))
        for eta in (0.25, 2.0, 100.0)
    ]
    judged = cases.judge(
        known + networks_at_random(cases),
        measure=log_norm,
        printed=lambda one, seen: (
            seen <= worst(one).log_bound + TOLERANCE
            and (not lines_up(one) or abs(seen - worst(one).log_bound) < TOLERANCE)
        ),
    )
    return judged.finding(
        holds="Yes: it is an upper bound everywhere, and attained by aligned layers.",
        evidence=judged.evidence(ROUNDING, lambda one: worst(one).log_bound, tolerance=TOLERANCE),
        size=in_twelve(
            cases, lambda one: worst(one).log_bound - log_norm(one), "the bound above the norm of the layers' product"
        ),
        flips_if="one product of layers with a norm above the bound",
    )


def _left_side(network: Network) -> float:
    """Σ log(‖W_l‖ + η‖B_lA_l‖), from the dense matrices."""
    norms = [(np.linalg.norm(layer.w, 2), np.linalg.norm(layer.b @ layer.a, 2)) for layer in network.layers]
    return float(sum(np.log(weight + network.eta * adapter) for weight, adapter in norms))


@ripple_claim(
    "3.3-constant",
    where="§3.3, triangle inequality, second line",
    says="(‖W_L*‖ + η‖B_LA_L‖) ⋯ (‖W_1*‖ + η‖B_1A_1‖)‖x‖ = C(1 + η‖B_LA_L‖/‖W_L*‖) ⋯ (1 + η‖B_1A_1‖/‖W_1*‖)‖x‖ where "
    "C = ‖W_L*‖ ⋯ ‖W_1*‖ is a constant",
    reading="The equality with this C, which is constant as neither x nor η nor an adapter is in it. The number of "
    "layers L is the model's own; in L see 3.3-theta-in-depth.",
    depends_on=("3.3-product",),
)
def constant(cases: Cases) -> Finding:
    """The bound's factors from dense matrices against C times each layer's 1 + ηm_l."""

    def right_side(one: Network) -> float:
        weights, adapters = ripple.spectral_norms(one.layers)
        return worst(one).log_c + float(np.log1p(one.eta * adapters / weights).sum())

    judged = cases.judge(
        networks_at_random(cases), _left_side, printed=lambda one, seen: abs(seen - right_side(one)) < TOLERANCE
    )
    return judged.finding(
        holds="Yes: each layer's ‖W_l*‖ is taken out.",
        evidence=judged.evidence(ROUNDING, right_side, tolerance=TOLERANCE),
        flips_if="norms at which the two sides differ, as with another layer's norm under an adapter's",
    )


@ripple_claim(
    "3.3-mean",
    where="§3.3, last display",
    says="C(1 + η‖B_LA_L‖/‖W_L*‖) ⋯ (1 + η‖B_1A_1‖/‖W_1*‖)‖x‖ ≤ C(1 + ηm̄)^L ‖x‖",
    reading="With m̄ the mean of m_l = ‖B_lA_l‖/‖W_l‖ and η > 0; an equality exactly where all m_l are equal.",
)
def mean(cases: Cases) -> Finding:
    """The inequality of arithmetic and geometric means, on ratios from equal to a thousandfold apart."""

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, float]:
        spread = rng.choice([0.0, 0.01, 1.0, 3.0])
        return np.exp(spread * rng.standard_normal(rng.integers(2, 9))), log_uniform(rng, -2, 5)

    own = at_etas("24 layers, ηm_l of 1 to 10 %", lambda eta: (cases.rng.uniform(0.01, 0.1, 24) / eta, eta))
    pooler = np.append(np.full(23, ETA_M), POOLER), 1.0

    def bound(one: tuple[np.ndarray, float]) -> float:
        return ripple.worst_case(np.ones(len(one[0])), *one).log_amgm_bound

    judged = cases.judge(
        own + cases.draw(draw, 20),
        measure=lambda one: float(np.log1p(one[1] * one[0]).sum()),
        printed=lambda one, seen: (
            seen <= bound(one) + TOLERANCE and (abs(seen - bound(one)) < TOLERANCE) == bool(np.ptp(one[0]) < 1e-12)
        ),
    )
    slack = [bound((ratios, 1.0)) - np.log1p(ratios).sum() for ratios in cases.rng.uniform(0.01, 0.1, (1000, 24))]
    low, typical, high = np.quantile(slack, [0.05, 0.5, 0.95]).tolist()
    apart = bound(pooler) - float(np.log1p(pooler[0]).sum())
    return judged.finding(
        holds="Yes: geometric means do not exceed arithmetic ones; equal where all ratios are.",
        evidence=judged.evidence(ROUNDING, bound, tolerance=TOLERANCE),
        size=Size(
            typical,
            "nats",
            f"what the step gives away, 24 layers with ηm_l drawn uniformly from 1 to 10 %, {len(slack)} draws; "
            f"{apart:.2g} with 23 of {ETA_M:.0%} and one of {POOLER:g}, as MiniLM's pooler",
            low,
            high,
            "90 % of draws",
        ),
        flips_if="ratios m_l whose product of 1 + ηm_l exceeds (1 + ηm̄)^L",
    )


@ripple_claim(
    "3.3-mean-ratio",
    where="§3.3, definition of m̄",
    says="m̄ = (1/L) Σ_{l∈L} ‖B_lA_l‖/‖W_L*‖ is also a constant in a single forward pass",
    reading="C(1 + ηm̄)^L‖x‖ with this m̄ bounds ‖f_L(x)‖. Layer L's norm under layer l's adapter, as our copy has it, "
    "looks like a misprint, the copy's perhaps.",
)
def mean_ratio(cases: Cases) -> Finding:
    """The bound with ‖W_L‖ under every term, as printed, and with each layer's own norm, on aligned networks."""

    def draw(rng: np.random.Generator) -> Network:
        depth = int(rng.integers(2, 6))
        norms = np.exp(rng.uniform(-1, 1, (2, depth)))
        return aligned((4,) * (depth + 1), 2, norms[0], norms[1], log_uniform(rng, -1, 4), rng)

    def as_printed(one: Network) -> float:
        weights, adapters = ripple.spectral_norms(one.layers)
        return worst(one).log_c + len(weights) * float(np.log1p(one.eta * np.mean(adapters) / weights[-1]))

    norms = np.array([0.5, 1.0, 4.0])
    own = at_etas("norms of 0.5 to 4", lambda eta: aligned((64,) * 4, 8, norms, ETA_M / eta * norms, eta, cases.rng))
    judged = cases.judge(
        own + cases.draw(draw, 20),
        measure=log_growth,
        printed=lambda one, seen: seen <= as_printed(one) + TOLERANCE,
        corrected=lambda one, seen: (
            seen <= worst(one).log_amgm_bound + TOLERANCE and abs(seen - worst(one).log_bound) < TOLERANCE
        ),
    )
    over = [seen - as_printed(case.inputs) for case, seen in judged.pairs if case.paper]
    return judged.finding(
        holds_corrected="Not as in our copy, which may be its misprint: each adapter belongs over its own layer's "
        "norm.",
        evidence=judged.evidence(ROUNDING, lambda one: worst(one).log_amgm_bound, tolerance=TOLERANCE),
        size=Size(
            min(over),
            "nats",
            f"by which three layers, of norms 0.5, 1 and 4, the last, exceed it as printed, ηBA {ETA_M:.0%} of W",
        ),
        corrected="m̄ = (1/L) Σ_l ‖B_lA_l‖/‖W_l*‖",
        flips_if="a network above the corrected bound",
    )


class Attained(NamedTuple):
    """‖W_l*‖, the ratios ‖B_lA_l‖/‖W_l*‖ asked for, and the network that has them."""

    weights: np.ndarray
    ratios: np.ndarray
    network: Network


def _right_sides(one: Attained) -> list[float]:
    """Logarithms: the product's norm, the product of norms and, where equal ratios let it be met, (1 + ηm̄)^L."""
    bound = ripple.worst_case(one.weights, one.ratios * one.weights, one.network.eta)
    equal = np.ptp(one.ratios) == 0
    return [log_norm(one.network), bound.log_bound, *([bound.log_amgm_bound] if equal else [])]


@ripple_claim(
    "3.3-tight",
    where="§3.3, before the last display",
    says="all the inequalities are tight",
    reading="As the word is used of bounds: for all norms and every η some network attains each of them, the last "
    "where all ‖B_lA_l‖/‖W_l*‖ are equal.",
    depends_on=("3.3-norm", "3.3-product", "3.3-mean"),
)
def tight(cases: Cases) -> Finding:
    """A forward pass through aligned layers of given norms against each right side in turn."""

    def draw(rng: np.random.Generator) -> Attained:
        widths, eta = rng.integers(3, 9, size=rng.integers(3, 9)).tolist(), log_uniform(rng, -2, 5)
        weights, equal = np.exp(rng.uniform(-1, 1, len(widths) - 1)), bool(rng.random() < 0.5)
        ratios = np.full(len(weights), rng.uniform(0.01, 3)) if equal else rng.uniform(0.01, 3, len(weights))
        return Attained(weights, ratios, aligned(widths, 2, weights, ratios * weights, eta, rng))

    own = []
    for eta in PAPER_ETAS:
        weights, ratios = cases.rng.uniform(1, 4, 24), np.full(24, 0.05)
        network = aligned((64,) * 25, 8, weights, ratios * weights, eta, cases.rng)
        own.append(Case(f"width 64, r = 8, L = 24, η = {eta:.3g}", Attained(weights, ratios, network), True))
    judged = cases.judge(
        own + cases.draw(draw, 20),
        measure=lambda one: log_growth(one.network),
        printed=lambda one, seen: all(abs(seen - s) < TOLERANCE * max(1.0, abs(s)) for s in _right_sides(one)),
    )
    return judged.finding(
        holds="Yes: aligned layers attain each of them (networks at random: 3.3-tight-in-practice).",
        evidence=judged.evidence(ROUNDING, _right_sides, tolerance=TOLERANCE),
        flips_if="norms for which no network attains one of the right sides",
    )
