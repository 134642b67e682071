"""§3.3, below Proposition 1: what depth and width do in its model, and depth in the residual stacks that an LLM is.

Entries of W, A and B are independent and Gaussian, or aligned as in the worst case. Checked by
`tests/test_claims_3_3.py`.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import digamma, gammaincinv
from scipy.stats import poisson

from allora_analysis import ripple
from allora_analysis.claims.cases import (
    ETA_M,
    ETA_M_SMOLLM2,
    NEAR,
    PAPER_ETAS,
    Case,
    Cases,
    at_etas,
    log_uniform,
    source_of_errors,
    standard_errors,
)
from allora_analysis.claims.claim import Finding, Size, ranged
from allora_analysis.claims.s3_3_at_random import mean_and_error
from allora_analysis.claims.s3_3_worst_case import TOLERANCE, aligned, ripple_claim
from allora_analysis.ripple import study
from allora_analysis.ripple.bounds import Layer, Scales

LIMITING = (
    "We also note that proposition 1 is especially limiting for LLMs that most commonly resort to increased depth "
    "rather than increased width to scale up their capacity Hestness et al. (2017)."
)


class Worst(NamedTuple):
    """‖W_l‖ and m_l = ‖B_lA_l‖/‖W_l‖ of each layer, the width n, the rank r and η."""

    weights: np.ndarray
    ratios: np.ndarray
    width: int
    rank: int
    eta: float

    @property
    def told(self) -> float:
        """Σ log(1 + ηm_l), in which no width is."""
        return float(np.log1p(self.eta * self.ratios).sum())


def enlarged(one: Worst, deeper: int, wider: int, rng: np.random.Generator) -> float:
    """Log of what η enlarges the output by, in the network that attains the bound, so many times deeper and wider."""
    weights, ratios = (np.tile(values, deeper) for values in (one.weights, one.ratios))
    widths = (wider * one.width,) * (len(weights) + 1)
    network = aligned(widths, one.rank, weights, ratios * weights, one.eta, rng)
    return _added(ripple.log_output_growth(network.layers, network.x, [0.0, one.eta]))


GROWN = {"L, n": (1, 1), "2L, n": (2, 1), "L, 2n": (1, 2), "L, 4n": (1, 4)}


@ripple_claim(
    "3.3-limiting-in-depth",
    where='§3.3, below Proposition 1: "especially limiting"',
    says=LIMITING,
    reading="In Proposition 1's own model, a product of layers, at given ‖W_l‖ and ‖B_lA_l‖: the factor by which η "
    "enlarges the worst case's output is squared where the layers are repeated, and stays where all widths double, or "
    "double twice. In an LLM's blocks: 3.3-residual; what width does to the largest stable rate: 4-width-transfer.",
    depends_on=("3.3-product", "3.3-tight", "3.3-worst-case"),
)
def limiting_in_depth(cases: Cases) -> Finding:
    """The network that attains the bound, with twice the layers and with two and four times the width."""

    def draw(rng: np.random.Generator) -> Worst:
        depth, width = int(rng.integers(2, 9)), int(rng.integers(4, 17))
        weights, ratios = np.exp(rng.uniform(-1, 1, depth)), np.exp(rng.uniform(-4, 1, depth))
        return Worst(weights, ratios, width, int(rng.integers(1, 5)), log_uniform(rng, -1, 4))

    def made(eta: float) -> Worst:
        return Worst(np.full(24, 2.0), np.full(24, ETA_M / eta), 64, 8, eta)

    judged = cases.judge(
        at_etas(f"‖W_l‖ = 2, ηm̄ = {ETA_M:g}, L = 24, n = 64, r = 8", made) + cases.draw(draw, 12),
        lambda one: {name: enlarged(one, *times, cases.rng) for name, times in GROWN.items()},
        printed=lambda one, seen: all(
            abs(seen[name] - deeper * one.told) < TOLERANCE for name, (deeper, _) in GROWN.items()
        ),
    )
    seen = judged.own[-1]
    return judged.finding(
        holds="Yes in Proposition 1's formula, which has depth as exponent and no width; not in normalized blocks "
        "(3.3-residual).",
        evidence=judged.evidence(
            "float64 rounding in forward passes through at most 48 layers, of log growths of order 10",
            lambda one: {name: deeper * one.told for name, (deeper, _) in GROWN.items()},
            tolerance=TOLERANCE,
        ),
        size=Size(
            math.exp(seen["2L, n"]),
            "times",
            "what adapters with η make of the worst case's output in 48 layers, beside none (in 24: "
            f"{math.exp(seen['L, n']):.2g}; in 24 twice as wide: {math.exp(seen['L, 2n']):.2g}), ‖ηB_lA_l‖ "
            f"{ETA_M:.0%} of ‖W_l‖, MiniLM's average but for its pooler; at "
            f"SmolLM2's {ETA_M_SMOLLM2:.1%} {(1 + ETA_M_SMOLLM2) ** 48:.2g} times",
        ),
        flips_if="norms ‖W_l‖, ‖B_lA_l‖ at which η enlarges the output of the network that attains the bound by "
        "another factor at twice the width, or not by its square at twice the depth",
    )


class _Residual(NamedTuple):
    """A residual stack of L blocks, with a LayerNorm in each branch or none; aligned (the worst case) or at random.

    Its branches are `scale` times as long as the stream at η = 0.
    """

    depth: int
    width: int
    rank: int
    eta: float
    normalised: bool
    aligned: bool
    scale: float = 1.0

    @property
    def scales(self) -> Scales:
        """Standard deviations of the entries."""
        fair = ripple.fair_scales(self.width, self.rank)
        return fair._replace(w_std=self.scale * fair.w_std, b_std=self.scale * fair.b_std)

    @property
    def gain(self) -> float:
        """What η adds to log growth in a block without normalization; at random, to its mean."""
        if self.aligned:
            return math.log1p(self.eta * self.scale / (1 + self.scale))
        w, a, b = self.scales
        chi_square = 2 * gammaincinv(self.rank / 2, (np.arange(300) + 0.5) / 300)  # ‖Ae‖²/s_A², by equal weights
        with_eta, without = (_mean_log(self.width, w**2 + (eta * a * b) ** 2 * chi_square) for eta in (self.eta, 0.0))
        return float(np.mean(with_eta - without) / 2)

    @property
    def doubled(self) -> float:
        """Lγ/log 2 without normalization, γ the gain: above 1 η more than doubles the output in L blocks."""
        return self.depth * self.gain / math.log(2)


def _mean_log(width: int, variances: np.ndarray) -> np.ndarray:
    # E log‖e + g‖², e a unit vector, entries of g of these variances: noncentral χ²_n, a Poisson mixture of χ²_{n+2j}.
    means = 1 / (2 * variances)
    j = np.arange(int(means.max() + 10 * math.sqrt(means.max()) + 30))[:, None]
    return np.log(2 * variances) + (poisson.pmf(j, means) * digamma(width / 2 + j)).sum(axis=0)


STACKS = 200  # drawn at random


def _added(growth: np.ndarray) -> float:
    # What η adds to log growth over η = 0, of the columns (0, η).
    return float(growth[1] - growth[0])


def plain_worst_case(one: _Residual, depth: int, rng: np.random.Generator) -> float:
    """What η adds to log growth through blocks I + W + ηBA, ‖W‖ = ‖BA‖ = `scale` along one direction."""
    widths = (one.width,) * (depth + 1)
    network = ripple.aligned_network(widths, one.rank, generator=rng, architecture="prelayernorm", closed=True)
    blocks = [Layer(np.eye(one.width) + one.scale * of.w, one.scale * of.b, of.a) for of in network.layers]
    return _added(ripple.log_output_growth(blocks, network.x, [0.0, one.eta]))


def plain_random(one: _Residual, rng: np.random.Generator) -> np.ndarray:
    """What η adds to the log growth of blocks h + (W + ηBA)h at random, after L and after 2L of them (stacks × 2)."""
    scales, shape, sizes = one.scales, (STACKS, one.width), []
    h = np.repeat(rng.standard_normal((*shape, 1)), 2, axis=2)  # a column for 0, one for η
    for layer in range(1, 2 * one.depth + 1):
        w = scales.w_std * rng.standard_normal((*shape, one.width))
        a = scales.a_std * rng.standard_normal((STACKS, one.rank, one.width))
        b = scales.b_std * rng.standard_normal((*shape, one.rank))
        h = h + w @ h + b @ (a @ h) * [0.0, one.eta]
        if layer % one.depth == 0:
            sizes.append(np.log(np.linalg.norm(h, axis=1)))
    return np.stack([size[:, 1] - size[:, 0] for size in sizes], axis=1)


def _normalised_random(one: _Residual, depth: int, rng: np.random.Generator) -> tuple[float, float]:
    """What η adds to the growth of the root mean square, and how many standard errors E‖h‖² is off the closed form."""
    scales, options = one.scales, {"replicas": STACKS, "generator": rng}
    run = ripple.simulate(
        (one.width,) * (depth + 1), one.rank, [0.0, one.eta], *scales, architecture="prelayernorm", **options
    )
    squares, z = one.width * np.exp(2 * run.log_growth), []
    for column, eta in enumerate((0.0, one.eta)):
        found = mean_and_error(squares[:, column])
        z.append(abs(found["mean"] - _square(one, depth, eta)) / found["stderr"])
    return _added(0.5 * np.log(squares.mean(axis=0))), max(z)


def _square(one: _Residual, depth: int, eta: float) -> float:
    # E‖h‖² after so many blocks at random, a LayerNorm in each branch, by the closed form.
    return ripple.residual_square(depth, one.width, one.rank, eta, *one.scales).mean


def added_as_told(one: _Residual, depth: int) -> float:
    """What η adds to log growth through so many blocks by the closed form; at random with a LayerNorm, to √E‖h‖²."""
    if not one.normalised:
        return depth * one.gain
    if one.aligned:
        norms = np.full(depth, one.scale)
        return study.bound_adapter_share((norms, norms), one.eta, "prelayernorm")
    return 0.5 * math.log(_square(one, depth, one.eta) / _square(one, depth, 0.0))


def residual_growth(one: _Residual, rng: np.random.Generator) -> dict[str, float]:
    """What η adds to log growth at L and at 2L, and its distance from the closed form over what is allowed."""
    depths, limit = (one.depth, 2 * one.depth), standard_errors(STACKS)
    if one.aligned:
        if one.normalised:
            ones = [np.full(depth, one.scale) for depth in depths]
            options = (one.rank, (0.0, one.eta), one.width, "prelayernorm", rng)
            seen = [_added(study.aligned_growth((n, n), *options)) for n in ones]
        else:
            seen = [plain_worst_case(one, depth, rng) for depth in depths]
        off = max(abs(s - added_as_told(one, depth)) for s, depth in zip(seen, depths, strict=True)) / 1e-9
    elif one.normalised:
        (once, first), (twice, second) = (_normalised_random(one, depth, rng) for depth in depths)
        seen, off = [once, twice], max(first, second) / limit
    else:
        found = [mean_and_error(sample) for sample in plain_random(one, rng).T]
        seen = [of["mean"] for of in found]
        gaps = [abs(of["mean"] - added_as_told(one, n)) / of["stderr"] for of, n in zip(found, depths, strict=True)]
        off = max(gaps) / limit
    return {"L": float(seen[0]), "2L": float(seen[1]), "off": float(off)}


def _stacks() -> list[Case]:
    # At the paper's η and at recorded sizes of ηBA, with LayerNorm, as an LLM has it, and without.
    def case(one: _Residual, size: str, paper: bool = False) -> Case:
        kind = f"{'' if one.normalised else 'no '}LayerNorm, {'aligned' if one.aligned else 'at random'}"
        return Case(f"{kind}, {size}, L = {one.depth}, width {one.width}, r = {one.rank}", one, paper)

    stacks, recorded = [], {size: f"‖ηBA‖ {size:.1%} of ‖W‖" for size in (ETA_M, ETA_M_SMOLLM2)}
    for worst in (True, False):
        stacks += [case(_Residual(12, 32, 8, eta, True, worst), f"η = {eta:.3g}", True) for eta in PAPER_ETAS]
        stacks.append(case(_Residual(12, 16, 2, 2.0, False, worst), "η = 2"))
        for size, told in recorded.items():
            stacks += [case(_Residual(12, 32, 8, size, norm, worst), told, norm) for norm in (True, False)]
    size, told = list(recorded.items())[-1]
    stacks += [case(_Residual(depth, 32, 8, size, False, True), told) for depth in (24, 99, 100)]
    short = ((False, 0.1, 2.0), (True, 0.1, 2.0), (True, 0.002, 100.0), (False, 0.01, 100.0))
    return stacks + [
        case(_Residual(8, 32, 8, eta, True, worst, scale), f"branches {scale:g} of the stream, η = {eta:g}")
        for worst, scale, eta in short
    ]


def _any_stack(rng: np.random.Generator) -> _Residual:
    """Depth, width, rank, η and lengths at random; half of those without LayerNorm are near the condition's boundary.

    None is nearer to it than its means can tell: a hundredth where aligned, a factor of 1.5 at random.
    """
    normalised, worst, near = (bool(flag) for flag in rng.random(3) < (0.35, 0.5, 0.5))
    depth, width, rank = (int(rng.integers(*ends)) for ends in ((4, 33), (8, 25), (1, 5)))
    while True:
        eta, scale = log_uniform(rng, math.log(0.01), math.log(10)), log_uniform(rng, math.log(0.2), 0)
        one = _Residual(depth, width, rank, eta, normalised, worst, scale)
        off = abs(math.log(one.doubled))
        if normalised or math.log(1.01 if worst else 1.5) < off < (math.log(NEAR) if near else math.inf):
            return one


@ripple_claim(
    "3.3-residual",
    where='§3.3, below Proposition 1: "especially limiting for LLMs"',
    says=LIMITING,
    reading="A less kind reading: of an LLM's own blocks, which are residual and normalize what enters a branch, "
    "h + (W + ηBA)LN(h). Growth, of the largest ‖h_L‖ that networks of given ‖W_l‖ and ‖B_lA_l‖ have and of the mean "
    "at random, shows as exponential at L where doubling L more than doubles the factor by which η enlarges it, "
    "which linear growth from ‖h₀‖ never does. In a product, 3.3-worst-case, exponential is a rate at any L.",
    depends_on=("3.3-worst-case", "3.3-limiting-in-depth"),
)
def residual(cases: Cases) -> Finding:
    """Residual stacks of L and 2L blocks with a LayerNorm in each branch and without, aligned and at random."""
    judged = cases.judge(
        _stacks() + cases.draw(_any_stack, 12),
        lambda one: residual_growth(one, cases.rng),
        printed=lambda one, seen: seen["2L"] - seen["L"] > math.log(2),
        corrected=lambda one, seen: seen["off"] <= 1,
        condition=lambda one: not one.normalised and one.doubled,
    )
    own = [case.inputs for case in judged.cases if case.paper and case.inputs.eta in PAPER_ETAS]
    depths = [math.ceil(math.log(2) / _Residual(1, 32, 8, size, False, True).gain) for size in (ETA_M, ETA_M_SMOLLM2)]
    return judged.finding(
        conditional="Only without normalization, and from the depth at which η doubles the output; with a LayerNorm in "
        "each branch never.",
        evidence=judged.evidence(
            f"off, in what is allowed: {source_of_errors(STACKS)}; the worst cases to 1e-9",
            {"log growth added at 2L less that at L": "Lγ without LayerNorm; with it at most log 2"},
            tolerance=1.0,
            error=max(seen["off"] for _, seen in judged.pairs),
            n=STACKS,
        ),
        size=ranged(
            [added_as_told(one, 2 * one.depth) / added_as_told(one, one.depth) for one in own],
            "times",
            f"what η adds to log growth in {2 * own[0].depth} blocks with LayerNorm over {own[0].depth} (2 is "
            "exponential), by the closed form, branches as long as the stream, ‖BA‖ = ‖W‖, η² 1 to 4",
        ),
        condition="no LayerNorm, and Lγ > log 2, γ what η adds to log growth in a block: in the worst case "
        "log((1 + w(1 + ηm̄))/(1 + w)), w = ‖W_l‖ and m̄ = ‖B_lA_l‖/‖W_l‖ "
        f"(ηm̄ of {ETA_M:.0%} and {ETA_M_SMOLLM2:.1%}, w = 1: L ≥ {depths[0]} and {depths[1]}); at random the mean of "
        "log‖e + We + ηBAe‖ less that at η = 0, e any unit vector. With a LayerNorm, of gain 1, ‖h_L‖ ≤ ‖h₀‖ + "
        "√n Σ_l(‖W_l‖ + η‖B_lA_l‖), linear in L, at random as √(‖h₀‖² + L n²(s_W² + η²r s_A²s_B²)), s_W, s_A, s_B the "
        "standard deviations of W's, A's, B's entries. One network's factor may grow faster, where without η its "
        "stream shrinks",
        flips_if="norms ‖W_l‖, ‖B_lA_l‖ of like blocks with LayerNorm at which doubling L more than doubles the factor "
        "by which η enlarges the largest ‖h_L‖; or without one, depths above log 2/γ at which it does not",
    )
