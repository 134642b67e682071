"""§3.3 beyond the worst case: the network at hand, networks at random, small η, the residual stacks that an LLM is.

The paper treats the worst case alone; these rows ask what is left of its sentences elsewhere. m̄ is ‖BA‖/‖W‖ of a layer
and L the number of layers; entries of W, A and B are independent and Gaussian.
Checked by `tests/test_claims_3_3.py`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from allora_analysis import ripple
from allora_analysis.claims.cases import (
    PAPER_ETAS,
    Case,
    Cases,
    at_etas,
    log_uniform,
    source_of_errors,
    standard_errors,
)
from allora_analysis.claims.claim import Finding, ranged
from allora_analysis.claims.s3_3_worst_case import (
    ROUNDING,
    TOLERANCE,
    Network,
    aligned,
    lines_up,
    log_growth,
    networks_at_random,
    ripple_claim,
    worst,
)
from allora_analysis.ripple import study
from allora_analysis.ripple.bounds import Layer, Scales


def _all_equal(network: Network) -> bool:
    weights, adapters = ripple.spectral_norms(network.layers)
    return bool(np.ptp(adapters / weights) < 1e-9 * np.max(adapters / weights))


@ripple_claim(
    "3.3-tight-in-practice",
    where="§3.3, before the last display",
    says="all the inequalities are tight",
    reading="The unkind reading: on the network at hand ‖f_L(x)‖ = C(1 + ηm̄)^L‖x‖. That some network attains it is "
    "3.3-tight.",
    depends_on=("3.3-tight", "3.3-norm", "3.3-product", "3.3-mean"),
)
def tight_in_practice(cases: Cases) -> Finding:
    """Networks at random, aligned ones, and aligned ones turned or stretched by a part in a thousand."""

    def draw(rng: np.random.Generator) -> Network:
        depth, eta = int(rng.integers(2, 6)), log_uniform(rng, -1, 4)
        spread, turn = rng.choice([[0.0, 0.0], [0.0, 0.0], [1e-3, 0.0], [0.0, 1e-3]])
        one = aligned((5,) * (depth + 1), 2, 1.5, 0.6 * np.exp(spread * np.linspace(-1, 1, depth)), eta, rng)
        across = np.cross(one.x[:3], [1.0, 0.0, 0.0])  # at right angles to x in its first three coordinates
        return one._replace(x=one.x + turn * np.linalg.norm(one.x) * np.array([*across / np.linalg.norm(across), 0, 0]))

    judged = cases.judge(
        cases.draw(draw, 24, "aligned or nearly so") + networks_at_random(cases),
        measure=log_growth,
        printed=lambda one, seen: abs(seen - worst(one).log_amgm_bound) < TOLERANCE,
        condition=lambda one: lines_up(one) and _all_equal(one),
    )
    below = [worst(case.inputs).log_amgm_bound - seen for case, seen in judged.pairs if case.paper]
    return judged.finding(
        conditional="Only for aligned layers, so in practice no: networks at random stay far below the bound.",
        evidence=judged.evidence(ROUNDING, lambda one: worst(one).log_amgm_bound, tolerance=TOLERANCE),
        size=ranged(below, "nats", "how far 24 random layers stay below it"),
        condition="W_l and B_lA_l share their top singular vectors, which line up from layer to layer and with x, "
        "and all ‖B_lA_l‖/‖W_l‖ are equal",
        flips_if="a network at random that attains the bound, or an aligned one that does not",
    )


class _AtRandom(NamedTuple):
    """An ensemble of networks: L, width n, rank r and η, at ‖BA‖ ≈ ‖W‖; how many are drawn."""

    depth: int
    width: int
    rank: int
    eta: float
    replicas: int

    @property
    def scales(self) -> Scales:
        """Standard deviations of the entries: without adapters nothing grows, and m̄ ≈ 1."""
        return ripple.fair_scales(self.width, self.rank)

    @property
    def gain(self) -> float:
        """What η adds to the mean log growth of a layer, in closed form."""
        return ripple.adapter_gain(self.rank, self.eta, *self.scales)


def _mean(values: np.ndarray) -> dict[str, float]:
    return {"mean": float(values.mean()), "stderr": float(values.std(ddof=1) / math.sqrt(len(values)))}


def added_at_random(one: _AtRandom, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """What η adds to the log growth of networks at random, over η = 0 in the same networks: L layers and 2L layers."""
    found = {}
    for name, depth in (("L", one.depth), ("2L", 2 * one.depth)):
        widths = (one.width,) * (depth + 1)
        run = ripple.simulate(
            widths, one.rank, [one.eta, 0.0], *one.scales, replicas=one.replicas, generator=rng
        ).log_growth
        found[name] = _mean(run[:, 0] - run[:, 1])
    return found


@ripple_claim(
    "3.3-typical",
    where='beyond the paper: §3.3, Proposition 1 without its "In the worst case"',
    says="a constant scaling factor η may cause the final output of a single forward pass of a LoRA finetuned model to "
    "grow exponentially w.r.t. the number of layers in the model",
    reading="Of networks at random: what η adds to mean log growth is above 0 and proportional to L.",
)
def typical(cases: Cases) -> Finding:
    """Simulated networks of L and 2L layers against L times the closed-form gain of a layer."""

    def draw(rng: np.random.Generator) -> _AtRandom:
        width = int(rng.integers(8, 25))
        return _AtRandom(
            int(rng.integers(5, 10)), width, int(rng.integers(1, 5)), log_uniform(rng, 0, np.log(100)), 150
        )

    own = at_etas("width 64, r = 8, L = 12 and 24", lambda eta: _AtRandom(12, 64, 8, eta, 32))

    def agrees(one: _AtRandom, seen: dict[str, dict[str, float]]) -> bool:
        limit = standard_errors(one.replicas)
        told = {"L": one.depth * one.gain, "2L": 2 * one.depth * one.gain}
        return all(
            found["mean"] > limit * found["stderr"] and abs(found["mean"] - told[name]) <= limit * found["stderr"]
            for name, found in seen.items()
        )

    judged = cases.judge(own + cases.draw(draw, 8), lambda one: added_at_random(one, cases.rng), printed=agrees)
    shares = [one.gain / math.log1p(one.eta) for one in (case.inputs for case in own)]
    return judged.finding(
        holds=f"Yes, but at {min(shares):.0%} to {max(shares):.0%} of the worst case's rate for networks at random.",
        evidence=judged.evidence(
            f"each of two means: {source_of_errors(32)}; {standard_errors(150):.3g} for 150 networks",
            lambda one: {"L": one.depth * one.gain, "2L": 2 * one.depth * one.gain},
        ),
        size=ranged(
            shares,
            "of the worst case's rate",
            "growth that η = 2 adds at random, adapters as large as weights (‖BA‖ = ‖W‖), rank 8, width 64; in "
            "brackets η² from 1 to 4",
            shares[-1],
        ),
        flips_if="an η above 0 that adds nothing to mean log growth, or adds less than twice as much at 2L as at L",
    )


class Small(NamedTuple):
    """A layer of width n and rank r with ‖BA‖/‖W‖ ≈ m̄, aligned (the worst case) or at random, and η."""

    width: int
    rank: int
    ratio: float
    eta: float
    aligned: bool

    @property
    def scales(self) -> Scales:
        """Standard deviations of the entries."""
        fair = ripple.fair_scales(self.width, self.rank)
        return fair._replace(b_std=self.ratio * fair.b_std)

    def gain(self, eta: float) -> float:
        """What η adds to a layer's log growth by the closed form: of the worst case, or the mean at random."""
        if self.aligned:
            return ripple.worst_case([1.0], [self.ratio], eta).log_bound
        return ripple.adapter_gain(self.rank, eta, *self.scales)


LAYERS = 2000  # drawn for the mean of a layer's log growth


def _layer_gains(one: Small, rng: np.random.Generator) -> list[dict[str, float]]:
    """What η and 2η add to a layer's log growth: the aligned network run, or the mean over layers drawn with B and −B.

    B and −B are equally likely; their mean has no first-order term in η, which is what the mean over all B loses.
    """
    etas = (one.eta, 2 * one.eta)
    if one.aligned:
        norms = np.ones(4), np.full(4, one.ratio)
        grown = study.aligned_growth(norms, one.rank, (0.0, *etas), one.width, "linear", rng)
        return [{"mean": float(value - grown[0]) / 4, "stderr": 0.0} for value in grown[1:]]
    (w_std, a_std, b_std), shape = one.scales, (LAYERS, one.width)
    wx, ax = w_std * rng.standard_normal(shape), a_std * rng.standard_normal((LAYERS, one.rank))  # x = (1, 0, …, 0)
    bax = b_std * (rng.standard_normal((*shape, one.rank)) @ ax[:, :, None])[:, :, 0]
    start, found = np.linalg.norm(wx, axis=1), []
    for eta in etas:
        up, down = (np.linalg.norm(wx + sign * eta * bax, axis=1) for sign in (1, -1))
        found.append(_mean(np.log(up * down / start**2) / 2))
    return found


def _exponent(gains: list[float]) -> float:
    # Of η between η and 2η: gains ∝ η^exponent.
    return math.log2(gains[1] / gains[0]) if min(gains) > 0 else math.inf


@ripple_claim(
    "3.3-small-eta",
    where="beyond the paper: §3.3, last display, for small ηm̄",
    says="C(1 + ηm̄)^L ‖x‖ = Θ((1 + η)^L)",
    reading="What η adds to mean log growth is of the order of ηm̄ a layer where that is small: it doubles, within a "
    "tenth of the exponent, when η does.",
    depends_on=("3.3-theta",),
)
def small_eta(cases: Cases) -> Finding:
    """The power of η in the mean log growth of aligned layers and of layers at random, with m̄ as in fine-tuning."""

    def draw(rng: np.random.Generator) -> Small:
        width, ratio = int(rng.integers(8, 25)), log_uniform(rng, np.log(0.01), np.log(0.1))
        return Small(width, int(rng.integers(1, 5)), ratio, log_uniform(rng, -1, 0.5), bool(rng.random() < 0.5))

    own = at_etas("at random, width 64, r = 8, m̄ = 0.05", lambda eta: Small(64, 8, 0.05, eta, False))
    worst = [Case(f"aligned, width 64, r = 8, m̄ = 0.05, η = {e:.3g}", Small(64, 8, 0.05, e, True)) for e in PAPER_ETAS]
    limit = standard_errors(LAYERS)

    def agrees(one: Small, seen: list[dict[str, float]]) -> bool:
        return all(
            abs(found["mean"] - one.gain(eta)) <= limit * found["stderr"] + 1e-12
            for eta, found in zip((one.eta, 2 * one.eta), seen, strict=True)
        )

    judged = cases.judge(
        own + worst + cases.draw(draw, 12),
        lambda one: _layer_gains(one, cases.rng),
        printed=lambda one, seen: abs(_exponent([found["mean"] for found in seen]) - 1) < 0.1,
        corrected=agrees,
        condition=lambda one: one.aligned,
    )
    times = [math.log1p(0.05 * case.inputs.eta) / case.inputs.gain(case.inputs.eta) for case in own]
    return judged.finding(
        conditional="Only in the worst case: at random mean growth is quadratic in η, far below the bound.",
        evidence=judged.evidence(
            f"of a layer's mean: {source_of_errors(LAYERS)}; the aligned network to float64 rounding",
            lambda one: [one.gain(one.eta), one.gain(2 * one.eta)],
        ),
        size=ranged(times, "times", "the bound's rate over the mean rate at random, m̄ = 0.05, η = 2", times[-1]),
        condition="W_l and B_lA_l stretch the same direction; where B_l is as likely as −B_l, the mean is "
        "½η²r(s_A s_B/s_W)² a layer, s_W, s_A, s_B the standard deviations of the entries of W, A, B",
        flips_if="a mean over networks at random that doubles with η",
    )


class _Residual(NamedTuple):
    """A residual stack of L blocks, with a LayerNorm in each branch or none; aligned (the worst case) or at random."""

    depth: int
    width: int
    rank: int
    eta: float
    normalised: bool
    aligned: bool


STACKS = 200  # drawn at random


def _added(growth: np.ndarray) -> float:
    # What η adds to log growth over η = 0, of the columns (0, η).
    return float(growth[1] - growth[0])


def plain_worst_case(depth: int, width: int, rank: int, eta: float, rng: np.random.Generator) -> float:
    """What η adds to log growth through blocks I + W + ηBA of norm 2 + η, ‖W‖ = ‖BA‖ = 1 along one direction."""
    widths = (width,) * (depth + 1)
    network = ripple.aligned_network(widths, rank, generator=rng, architecture="prelayernorm", closed=True)
    blocks = [Layer(np.eye(width) + layer.w, layer.b, layer.a) for layer in network.layers]
    return _added(ripple.log_output_growth(blocks, network.x, [0.0, eta]))


def plain_random(one: _Residual, rng: np.random.Generator) -> np.ndarray:
    """What η adds to the log growth of blocks h + (W + ηBA)h at random, after L and after 2L of them (stacks × 2)."""
    scales, shape, sizes = ripple.fair_scales(one.width, one.rank), (STACKS, one.width), []
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
    scales, options = ripple.fair_scales(one.width, one.rank), {"replicas": STACKS, "generator": rng}
    run = ripple.simulate(
        (one.width,) * (depth + 1), one.rank, [0.0, one.eta], *scales, architecture="prelayernorm", **options
    )
    squares, z = one.width * np.exp(2 * run.log_growth), []
    for column, eta in enumerate((0.0, one.eta)):
        found = _mean(squares[:, column])
        told = ripple.residual_square(depth, one.width, one.rank, eta, *scales).mean
        z.append(abs(found["mean"] - told) / found["stderr"])
    return _added(0.5 * np.log(squares.mean(axis=0))), max(z)


def residual_growth(one: _Residual, rng: np.random.Generator) -> dict[str, float]:
    """What η adds to log growth at L and at 2L, and its distance from the closed form over what is allowed."""
    depths, limit = (one.depth, 2 * one.depth), standard_errors(STACKS)
    if one.aligned:
        ones = [np.ones(depth) for depth in depths]
        if one.normalised:
            told = [study.bound_adapter_share((n, n), one.eta, "prelayernorm") for n in ones]
            options = (one.rank, (0.0, one.eta), one.width, "prelayernorm", rng)
            seen = [_added(study.aligned_growth((n, n), *options)) for n in ones]
        else:
            told = [_added(np.array([ripple.worst_case(2 * n, n, e).log_bound for e in (0.0, one.eta)])) for n in ones]
            seen = [plain_worst_case(depth, one.width, one.rank, one.eta, rng) for depth in depths]
        off = max(abs(s - t) for s, t in zip(seen, told, strict=True)) / 1e-9
    elif one.normalised:
        (once, first), (twice, second) = (_normalised_random(one, depth, rng) for depth in depths)
        seen, off = [once, twice], max(first, second) / limit
    else:
        samples = plain_random(one, rng)
        seen, found = samples.mean(axis=0).tolist(), _mean(samples[:, 1] - 2 * samples[:, 0])
        off = abs(found["mean"]) / (limit * found["stderr"])
    return {"L": float(seen[0]), "2L": float(seen[1]), "off": float(off)}


def _stacks() -> list[Case]:
    # At the paper's η with LayerNorm, as an LLM has it, and two stacks without.
    own = [
        Case(
            f"LayerNorm, {'aligned' if aligned else 'at random'}, width 32, r = 8, L = 8, η = {eta:.3g}",
            _Residual(8, 32, 8, eta, True, aligned),
            paper=True,
        )
        for eta in PAPER_ETAS
        for aligned in (True, False)
    ]
    plain = [
        Case(f"no LayerNorm, {'aligned' if aligned else 'at random'}, η = 2", _Residual(8, 16, 2, 2.0, False, aligned))
        for aligned in (True, False)
    ]
    return own + plain


@ripple_claim(
    "3.3-residual",
    where='§3.3, below Proposition 1: "especially limiting for LLMs"',
    says="We also note that proposition 1 is especially limiting for LLMs that most commonly resort to increased depth "
    "rather than increased width to scale up their capacity Hestness et al. (2017).",
    reading="An LLM's blocks are residual and normalize what enters a branch, h + (W + ηBA)LN(h). Growth counts as "
    "exponential where doubling L multiplies what η adds to log growth by more than 1.5.",
    depends_on=("3.3-worst-case",),
)
def residual(cases: Cases) -> Finding:
    """Residual stacks of L and 2L blocks with a LayerNorm in each branch and without, aligned and at random."""

    def draw(rng: np.random.Generator) -> _Residual:
        normalised, aligned = (bool(flag) for flag in rng.random(2) < 0.5)
        eta = log_uniform(rng, 0, np.log(10))
        return _Residual(int(rng.integers(6, 10)), int(rng.integers(8, 17)), 2, eta, normalised, aligned)

    judged = cases.judge(
        _stacks() + cases.draw(draw, 8),
        lambda one: residual_growth(one, cases.rng),
        printed=lambda one, seen: seen["2L"] > 1.5 * seen["L"],
        corrected=lambda one, seen: seen["off"] <= 1,
        condition=lambda one: not one.normalised,
    )
    ratios = [seen["2L"] / seen["L"] for seen in judged.own]
    return judged.finding(
        conditional="Only without normalization: with a LayerNorm in each branch growth is not exponential.",
        evidence=judged.evidence(
            f"off, in what is allowed: {source_of_errors(STACKS)}; the worst cases to 1e-9",
            {"growth added at 2L over that at L": "2 without LayerNorm; with it towards 1"},
            tolerance=1.0,
            error=max(seen["off"] for _, seen in judged.pairs),
            n=STACKS,
        ),
        size=ranged(
            ratios, "times", "what η adds to log growth after 16 blocks with LayerNorm, over 8 (2 is exponential)"
        ),
        condition="no LayerNorm: with one the norm grows at most linearly in L, at random as "
        "√(‖h₀‖² + L n²(s_W² + η²r s_A²s_B²)), s_W, s_A, s_B the standard deviations of W's, A's, B's entries",
        flips_if="a stack with LayerNorm in which doubling L doubles what η adds to log growth",
    )
