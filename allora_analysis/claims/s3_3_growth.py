"""§3.3, the last display and Proposition 1: growth in η and in the number of layers, in the worst case.

The symbols are `s3_3_worst_case`'s. Judged by forward passes through networks that attain the bound; and whether LLMs
grow in that number, by published sizes. Checked by `tests/test_claims_3_3.py`, which plants wrong formulas.
"""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from allora_analysis import ripple
from allora_analysis.claims.cases import (
    ETA_M,
    ETA_M_SMOLLM2,
    ETA_M_WHOLE,
    PAPER_ETAS,
    Case,
    Cases,
    Judged,
    at_etas,
    log_uniform,
)
from allora_analysis.claims.claim import Finding, Size, claim
from allora_analysis.claims.s3_3_worst_case import ROUNDING, TOLERANCE, ripple_claim
from allora_analysis.finetune.sources import INSTRUCT
from allora_analysis.ripple import study

THETA = "C(1 + ηm̄)^L ‖x‖ = Θ((1 + η)^L)"


def attained(weight: float, ratio: float, eta: object, depth: int, seed: int) -> np.ndarray:
    """Log growth of L aligned layers with these ‖W_l‖ and m_l, by forward passes, one for each η."""
    network = ripple.aligned_network(
        (5, 5), 2, weight, ratio * weight, generator=np.random.default_rng(seed), closed=True
    )
    return ripple.log_output_growth(network.layers, network.x, eta, repeats=depth)


class Stack(NamedTuple):
    """‖W_l‖ and m_l, the same in every layer, and L."""

    weight: float
    ratio: float
    depth: int


SWEPT = np.geomspace(1e-4, 1e8, 13)  # η


@ripple_claim(
    "3.3-theta",
    where="§3.3, last display",
    says=THETA,
    reading="In η, as C, m̄ > 0 and L are constants (Proposition 1, the next line, is about L: row 3.3-theta-in-depth): "
    "over (1 + η)^L the left side stays between two positive numbers, the same for all η > 0. Any polynomial of degree "
    "L in η with positive ends is that, however little it grows between the paper's η (size).",
    depends_on=("3.3-constant",),
)
def theta(cases: Cases) -> Finding:
    """Networks that attain the bound, over (1 + η)^L, with η from 1e-4 to 1e8."""

    def draw(rng: np.random.Generator) -> Stack:
        return Stack(log_uniform(rng, -1, 1), log_uniform(rng, -5, 2), int(rng.integers(1, 33)))

    def constants(one: Stack) -> list[float]:
        ends = 0.0, np.log(one.ratio)  # of log((1 + ηm̄)/(1 + η)), for η → 0 and η → ∞
        return [one.depth * float(np.log(one.weight) + end) for end in (min(ends), max(ends))]

    def within(one: Stack, seen: np.ndarray) -> bool:
        least, most = constants(one)
        return bool(seen.min() >= least - 1e-9 and seen.max() <= most + 1e-9)

    own = Case("‖W_l‖ = 2, m̄ = 0.01, L = 24", Stack(2.0, 0.01, 24))
    judged = cases.judge(
        [own, *cases.draw(draw, 16)],
        measure=lambda one: attained(one.weight, one.ratio, SWEPT, one.depth, cases.seed) - one.depth * np.log1p(SWEPT),
        printed=within,
    )
    ends, one = np.array([PAPER_ETAS[0], PAPER_ETAS[-1]]), own.inputs
    low, high = attained(one.weight, one.ratio, ends, one.depth, cases.seed)
    rise, told = float(high - low), one.depth * float(np.diff(np.log1p(ends))[0])
    return judged.finding(
        holds=f"Yes at fixed L; but from η = 1 to 2 it rises {math.exp(rise):.2g}-fold, (1 + η)^{one.depth} "
        f"{math.exp(told):,.0f}-fold.",
        evidence=judged.evidence(
            ROUNDING, constants, shown=lambda one, seen: [float(seen.min()), float(seen.max())], tolerance=1e-9
        ),
        size=Size(
            rise,
            "nats",
            f"growth of the left side from η = 1 to 2, {own.name} "
            f"({one.depth * math.log((1 + ETA_M) / (1 + ETA_M / 2)):.1f} at m̄ = {ETA_M / 2:g}); (1 + η)^L grows by "
            f"{told:.1f}: the two differ where ηm̄ is far below 1. The two numbers that the ratio stays between are "
            f"10^{-one.depth * math.log10(one.ratio):.0f} apart",
        ),
        flips_if="a network that attains the bound and whose output over (1 + η)^L tends to 0 or ∞ with η",
    )


class Rates(NamedTuple):
    """‖W_l‖, m_l and η, the same in every layer."""

    weight: float
    ratio: float
    eta: float


def _rate(one: Rates, seed: int) -> float:
    # The log growth that an aligned layer adds, from forward passes at L = 6 and L = 12.
    few, many = (attained(*one, depth, seed)[0] for depth in (6, 12))
    return float(many - few) / 6


@ripple_claim(
    "3.3-theta-in-depth",
    where="§3.3, last display",
    says=THETA,
    reading="A less kind reading: in L, at the given ‖W_l‖, m̄ and η, the same in every layer.",
    depends_on=("3.3-theta",),
)
def theta_in_depth(cases: Cases) -> Finding:
    """Growth per layer of networks that attain the bound, over ‖W_l‖, m̄ and η, half of them a percent off equality."""

    def draw(rng: np.random.Generator) -> Rates:
        eta, weight = log_uniform(rng, -1, 4), log_uniform(rng, -0.2, 0.2)
        exact = ((1 + eta) / weight - 1) / eta
        return Rates(weight, exact * float(rng.choice([1.0, 1.01, 0.99, 3.0])), eta)

    own = at_etas("‖W_l‖ = 2, m̄ = 0.01", lambda eta: Rates(2.0, 0.01, eta))
    shrinking = [Case(f"‖W_l‖ = {w:g}, m̄ = {m:g}, η = 1", Rates(w, m, 1.0)) for w, m in ((0.8, 0.25), (0.5, 0.5))]

    def bound(one: Rates) -> float:
        return ripple.worst_case([one.weight], [one.ratio * one.weight], one.eta).log_amgm_bound

    judged = cases.judge(
        own + shrinking + cases.draw(draw, 24),
        measure=lambda one: _rate(one, cases.seed),
        printed=lambda one, seen: abs(seen - np.log1p(one.eta)) < TOLERANCE,
        corrected=lambda one, seen: abs(seen - bound(one)) < TOLERANCE,
        condition=lambda one: bool(abs(bound(one) - np.log1p(one.eta)) < TOLERANCE),
    )
    return judged.finding(
        conditional="Only where the base, ‖W_l‖(1 + ηm̄), equals 1 + η; it may be below 1, without growth.",
        evidence=judged.evidence(ROUNDING, bound, tolerance=TOLERANCE),
        condition="w(1 + ηm̄) = 1 + η, w the geometric mean of ‖W_l‖; at every η only for w = m̄ = 1",
        flips_if="a network that attains the bound and grows as (1 + η)^L where w(1 + ηm̄) is another number, or does "
        "not where it is 1 + η",
    )


class Deep(NamedTuple):
    """A network of L layers that attains the bound, with ‖W_l‖ = 1 and ‖B_lA_l‖ = m̄."""

    depth: int
    eta: float
    architecture: str
    ratio: float = 1.0
    width: int = 6
    rank: int = 2

    def bound(self) -> float:
        """The bound on its log growth."""
        return ripple.worst_case([1.0] * self.depth, [self.ratio] * self.depth, self.eta).log_bound


@ripple_claim(
    "3.3-worst-case",
    where="§3.3, Proposition 1",
    says="In the worst case, a constant scaling factor η may cause the final output of a single forward pass of a LoRA "
    "finetuned model to grow exponentially w.r.t. the number of layers in the model",
    reading="In the paper's product of layers (in normalized blocks: 3.3-transformer), by networks that attain the "
    "printed bound: where ‖W_l‖ = 1 they grow as (1 + ηm̄)^L, which is (1 + η)^L at ‖B_lA_l‖ = 1. Exponential is a rate "
    "here, however small; 3.3-residual and 3.3-transformer ask that it shows at L, too. At other ‖W_l‖: row "
    "3.3-theta-in-depth. At the paper's setting ηm̄ is that of our two models after LoRA at 2e-4, "
    "so that η is in it." + INSTRUCT,
    depends_on=("3.3-comparable-level-induced",),
)
def worst_case(cases: Cases) -> Finding:
    """Some network with ‖W_l‖ = 1 and ‖B_lA_l‖ = m̄ grows as (1 + ηm̄)^L, also under ReLU; L up to 10⁵."""

    def grown(one: Deep) -> float:
        norms, rng = np.ones(one.depth), np.random.default_rng(cases.seed)
        options = (one.rank, (one.eta,), one.width, one.architecture, rng)
        return float(study.aligned_growth((norms, one.ratio * norms), *options)[0])

    def draw(rng: np.random.Generator) -> Deep:
        return Deep(int(10 ** rng.uniform(0.5, 4)), log_uniform(rng, -4, 5), str(rng.choice(["linear", "relu"])))

    def recorded(size: float) -> list[Case]:
        name = f"width 64, r = 8, L = 24, ηm̄ = {size:g}"
        return at_etas(name, lambda eta: Deep(24, eta, "relu", size / eta, 64, 8))

    whole = [Case(f"m̄ = 1, L = 24, η = {eta:.3g}", Deep(24, eta, "relu")) for eta in PAPER_ETAS]
    known = [whole[-1], *recorded(ETA_M), *recorded(ETA_M_SMOLLM2), *whole[:-1]]
    judged = cases.judge(
        [*known, Case("L = 100000, η = 100", Deep(100_000, 100.0, "linear")), *cases.draw(draw, 12)],
        measure=grown,
        printed=lambda one, seen: abs(seen / (one.depth * np.log1p(one.eta * one.ratio)) - 1) < TOLERANCE,
    )
    inputs = [(case.inputs, seen) for case, seen in judged.pairs]
    a_layer = {round(one.eta * one.ratio, 9): math.exp(seen / one.depth) for one, seen in inputs}
    largest, minilm, smollm2 = (a_layer[size] for size in (PAPER_ETAS[-1], ETA_M, ETA_M_SMOLLM2))
    return judged.finding(
        holds=f"Yes, if aligned: {largest:.2g}-fold a layer (‖ηBA‖ = {PAPER_ETAS[-1]:g}‖W‖), {smollm2:.2f}- to "
        f"{minilm:.2f}-fold at recorded norms.",
        evidence=judged.evidence(ROUNDING, Deep.bound, tolerance=TOLERANCE),
        size=Size(
            largest,
            "times larger after each layer",
            f"the output in the worst case at η = {PAPER_ETAS[-1]:g}, weight and adapter of norm 1 ({minilm:.2f} times "
            f"where ‖ηBA‖ is {ETA_M:.0%} of ‖W‖, MiniLM's average but for its pooler, which stands once, and was "
            f"left out when it had been seen: {1 + ETA_M_WHOLE:.2f} with it; "
            f"{smollm2:.3f} at SmolLM2's {ETA_M_SMOLLM2:.1%})",
        ),
        flips_if="no network of any alignment with growth linear in L on the log scale",
    )


class Family(NamedTuple):
    """Layers and width of a family's models, from the smallest to the largest, and where they are published."""

    sizes: Sequence[tuple[int, int]]
    source: str


OWN = {
    "LLaMA and Llama 2": Family([(32, 4096), (40, 5120), (60, 6656), (80, 8192)], "Touvron et al. 2023a, b"),
    "Llama 3": Family([(32, 4096), (80, 8192), (126, 16384)], "Dubey et al. 2024, Table 3"),
    "Gemma": Family([(18, 2048), (28, 3072)], "Gemma Team 2024, Table 1"),
    "Qwen2": Family([(24, 896), (28, 1536), (28, 3584), (80, 8192)], "Yang et al. 2024, Table 1"),
    "OpenELM": Family([(16, 1280), (20, 1536), (28, 2048), (36, 3072)], "Mehta et al. 2024, config.json"),
    "Snowflake Arctic-embed": Family([(6, 384), (12, 384), (12, 768), (24, 1024)], "config.json of xs, s, m and l"),
}
"""What the paper's §1 names or what it trains, but for Aya, of which no version is named.

Llama 2 was published in three of LLaMA's sizes; Qwen2's mixture of experts has the layers and width of its 7B.
"""
GPT_3 = [(12, 768), (24, 1024), (24, 1536), (24, 2048), (32, 2560), (32, 4096), (40, 5140), (96, 12288)]
OPT = [*GPT_3[:2], *GPT_3[3:6], (40, 5120), (48, 7168), (64, 9216), (96, 12288)]
PYTHIA = [(6, 512), (12, 768), (24, 1024), (16, 2048), (24, 2048), (32, 2560), (32, 4096), (36, 5120)]
BLOOM = [(24, 1024), (24, 1536), (24, 2048), (30, 2560), (30, 4096), (70, 14336)]
FAMILIES = OWN | {
    "GPT-2": Family([(12, 768), (24, 1024), (36, 1280), (48, 1600)], "Radford et al. 2019, Table 2"),
    "GPT-3": Family(GPT_3, "Brown et al. 2020, Table 2.1"),
    "OPT": Family(OPT, "Zhang et al. 2022, Table 1"),
    "BLOOM": Family(BLOOM, "BigScience 2022, model cards"),
    "Pythia": Family(PYTHIA, "Biderman et al. 2023, Table 1"),
}
"""With five more, of which all sizes are published."""


APART = {name: family for name, family in OWN.items() if name != "LLaMA and Llama 2"} | {
    "LLaMA": OWN["LLaMA and Llama 2"],
    "Llama 2": Family([(32, 4096), (40, 5120), (80, 8192)], "Touvron et al. 2023b, config.json"),
}
SETS = {
    "families that the paper trains or names": OWN,
    "the same, LLaMA and Llama 2 apart": APART,
    "with five others": FAMILIES,
}


class Count(NamedTuple):
    """Families, and whether each size is compared with the next, or the smallest with the largest alone."""

    families: Mapping[str, Family]
    each_size: bool


def growth(one: Count) -> dict[str, list[tuple[float, float]]]:
    """By what factors depth and width grow in each comparison, by family."""
    sizes = {name: of.sizes if one.each_size else [of.sizes[0], of.sizes[-1]] for name, of in one.families.items()}
    return {
        name: [(more[0] / few[0], more[1] / few[1]) for few, more in itertools.pairwise(of)]
        for name, of in sizes.items()
    }


def deeper(steps: Sequence[tuple[float, float]]) -> bool:
    """Whether depth grows by the larger factor in more comparisons than width does."""
    return sum(depth > width for depth, width in steps) > sum(depth < width for depth, width in steps)


def share_of_depth(steps: Sequence[tuple[float, float]]) -> float:
    """Depth's share of the growth in log parameters, which go as L·width², from the smallest to the largest."""
    depth, width = (math.log(math.prod(factors)) for factors in zip(*steps, strict=True))
    return depth / (depth + 2 * width)


DEEPER = "LLMs that most commonly resort to increased depth rather than increased width to scale up their capacity"
OF_ALL = (
    "The clause is taken to say that LLMs in general do so; read, as it has no comma before it, of those alone that "
    "do, it claims nothing of families, and 3.3-limiting-in-depth judges the sentence."
)
depth_claim = functools.partial(claim, where="§3.3, below Proposition 1", says=DEEPER, test="tests/test_claims_3_3.py")


def leading(one: Count, seen: Mapping[str, Sequence[tuple[float, float]]]) -> int:
    """The number of families in which depth leads."""
    return sum(deeper(seen[name]) for name in one.families)


def counted(cases: Cases, each_size: bool) -> tuple[Judged, int]:
    """Whether depth leads in more than half of the families of each set; in how many of the largest set."""
    judged = cases.judge(
        [Case(name, Count(families, each_size), families is not FAMILIES) for name, families in SETS.items()],
        growth,
        printed=lambda one, seen: leading(one, seen) > len(one.families) / 2,
    )
    case, seen = judged.pairs[-1]
    return judged, leading(case.inputs, seen)


@depth_claim(
    "3.3-depth",
    reading="In more than half of the families depth grows by the larger factor in more steps, from one size to the "
    "next, than width does. The second count made; the first, which fails, is 3.3-depth-at-the-ends. " + OF_ALL,
)
def depth_rather_than_width(cases: Cases) -> Finding:
    """Published layers and widths of eleven families, six of them the paper's, size by size."""
    at_the_ends = counted(cases, each_size=False)[1]
    judged, led = counted(cases, each_size=True)
    steps = judged.measured[-1]
    every = [depth - width for of in steps.values() for depth, width in of]
    part = float(np.median([share_of_depth(of) for of in steps.values()]))
    ahead = sorted(steps, key=lambda name: not deeper(steps[name]))
    return judged.finding(
        holds=f"Yes, size by size, our second count: depth leads in {led} of {len(FAMILIES)} families; by the first in "
        f"{at_the_ends}.",
        refuted=f"No: size by size depth leads in {led} of {len(FAMILIES)} families.",
        evidence=judged.evidence(
            "none: published integers",
            {name: family.source for name, family in FAMILIES.items()},
            more={"steps led by depth, by width": [sum(x > 0 for x in every), sum(x < 0 for x in every)]},
            n=len(FAMILIES),
        ),
        size=Size(
            led,
            f"of {len(FAMILIES)} families",
            f"that grow more in depth in more steps ({', '.join(ahead[:led])}; not so {', '.join(ahead[led:])}); of "
            f"the growth in parameters, which go as L·width², depth makes {part:.0%} (median, in logarithms)",
        ),
        flips_if="half of the families or fewer that grow more in depth size by size",
    )


@depth_claim(
    "3.3-depth-at-the-ends",
    reading="A less kind reading: from the smallest model of a family to the largest depth grows by a larger factor "
    "than width, in more than half of the families. This count was made first, in ten families. " + OF_ALL,
    depends_on=("3.3-depth",),
)
def depth_at_the_ends(cases: Cases) -> Finding:
    """The same families, the smallest model against the largest."""
    judged, led = counted(cases, each_size=False)
    own, apart = (leading(case.inputs, seen) for case, seen in judged.pairs[:2])
    return judged.finding(
        holds=f"Yes: from the smallest model to the largest depth leads in {led} of {len(FAMILIES)} families.",
        refuted=f"No: from the smallest model to the largest depth leads in {led} of {len(FAMILIES)} families.",
        evidence=judged.evidence("none: published integers", n=len(FAMILIES)),
        size=Size(
            led,
            f"of {len(FAMILIES)} families",
            "whose depth grows by the larger factor from the smallest model to the largest; of the paper's own, "
            f"{own} of {len(OWN)}, or {apart} of {len(APART)} with LLaMA and Llama 2 apart",
        ),
        flips_if="more than half of the families, in each set, that grow more in depth from smallest to largest",
    )
