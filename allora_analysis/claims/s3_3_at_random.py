"""§3.3 beyond the worst case: the network at hand, networks at random, small η.

The paper treats the worst case alone; these rows ask what is left of its sentences elsewhere. m̄ is ‖BA‖/‖W‖ of a layer
and L the number of layers; entries of W, A and B are independent and Gaussian.
Checked by `tests/test_claims_3_3.py`.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.sparse.linalg import svds
from scipy.special import betaincinv, gammaincinv

from allora_analysis import ripple
from allora_analysis.claims.cases import (
    ETA_M,
    PAPER_ETAS,
    Case,
    Cases,
    at_etas,
    log_uniform,
    on_either_side,
    source_of_errors,
    standard_errors,
)
from allora_analysis.claims.claim import Finding, ranged
from allora_analysis.claims.s3_3_worst_case import (
    ROUNDING,
    TOLERANCE,
    Network,
    aligned,
    in_twelve,
    lines_up,
    log_growth,
    networks_at_random,
    ripple_claim,
    worst,
)
from allora_analysis.ripple import study
from allora_analysis.ripple.bounds import Scales, adapter_norm

NARROWEST = 896  # the least width of the paper's language models: Qwen2-0.5B's
RANKS = (8, 16, 32)  # the paper's


def _all_equal(network: Network) -> bool:
    weights, adapters = ripple.spectral_norms(network.layers)
    return bool(np.ptp(adapters / weights) < 1e-9 * np.max(adapters / weights))


@ripple_claim(
    "3.3-tight-in-practice",
    where="§3.3, before the last display",
    says="all the inequalities are tight",
    reading="A less kind reading: on the network at hand ‖f_L(x)‖ = C(1 + ηm̄)^L‖x‖. That some network attains it is "
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
    return judged.finding(
        conditional="Only for aligned layers, so in practice no: networks at random stay far below the bound.",
        evidence=judged.evidence(ROUNDING, lambda one: worst(one).log_amgm_bound, tolerance=TOLERANCE),
        size=in_twelve(cases, lambda one: worst(one).log_amgm_bound - log_growth(one), "the bound above the network"),
        condition="W_l and B_lA_l share their top singular vectors, which line up from layer to layer and with x, "
        "and all ‖B_lA_l‖/‖W_l‖ are equal",
        flips_if="a network at random that attains the bound, or an aligned one that does not",
    )


def scales_of(width: int, rank: int, ratio: float) -> Scales:
    """Standard deviations of the entries at which nothing grows without adapters, and m̄ ≈ `ratio`."""
    fair = ripple.fair_scales(width, rank)
    return fair._replace(b_std=ratio * fair.b_std)


class _AtRandom(NamedTuple):
    """An ensemble of networks: L, width n, rank r and η, at ‖BA‖ ≈ `ratio`·‖W‖; how many are drawn."""

    depth: int
    width: int
    rank: int
    eta: float
    replicas: int
    ratio: float = 1.0

    @property
    def scales(self) -> Scales:
        """As `scales_of`."""
        return scales_of(self.width, self.rank, self.ratio)

    @property
    def gain(self) -> float:
        """What η adds to the mean log growth of a layer, in closed form."""
        return ripple.adapter_gain(self.rank, self.eta, *self.scales)

    @property
    def told(self) -> dict[str, float]:
        """What η adds to mean log growth through L and 2L layers."""
        return {"L": self.depth * self.gain, "2L": 2 * self.depth * self.gain}


def drawn_ratio(width: int, rank: int, rng: np.random.Generator) -> float:
    """‖BA‖/‖W‖ as `fair_scales` has them at this width and rank, where its 1 is a limit: means of 200 and 8 draws."""
    (w, a, b), normal = ripple.fair_scales(width, rank), rng.standard_normal
    adapters = [adapter_norm(b * normal((width, rank)), a * normal((rank, width))) for _ in range(200)]
    weights = [w * svds(normal((width, width)), 1, v0=np.ones(width), return_singular_vectors=False) for _ in range(8)]
    return float(np.mean(adapters) / np.mean(weights))


def mean_and_error(values: np.ndarray) -> dict[str, float]:
    """The mean and its standard error."""
    return {"mean": float(values.mean()), "stderr": float(values.std(ddof=1) / math.sqrt(len(values)))}


def added_at_random(one: _AtRandom, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """What η adds to the log growth of networks at random, over η = 0 in the same networks: L layers and 2L layers."""
    found = {}
    for name, depth in (("L", one.depth), ("2L", 2 * one.depth)):
        widths = (one.width,) * (depth + 1)
        run = ripple.simulate(
            widths, one.rank, [one.eta, 0.0], *one.scales, replicas=one.replicas, generator=rng
        ).log_growth
        found[name] = mean_and_error(run[:, 0] - run[:, 1])
    return found


def grows_as_told(one: _AtRandom, seen: dict[str, dict[str, float]]) -> bool:
    """Whether what η adds is above 0, and the closed form's, through L layers and through 2L."""
    limit = standard_errors(one.replicas)
    return all(
        found["mean"] > limit * found["stderr"] and abs(found["mean"] - one.told[name]) <= limit * found["stderr"]
        for name, found in seen.items()
    )


@ripple_claim(
    "3.3-typical",
    where='beyond the paper: §3.3, Proposition 1 without its "In the worst case"',
    says="In networks at random, too, η makes the output grow exponentially with the number of layers.",
    reading="In the paper's product of layers, drawn at random, what η adds to mean log growth is above 0 and "
    "proportional to L; with normalization it is not: 3.3-residual, 3.3-transformer. At the paper's setting ‖ηBA‖ is "
    "as large as MiniLM's on average, but for its pooler.",
)
def typical(cases: Cases) -> Finding:
    """Simulated networks of L and 2L layers against L times the closed-form gain of a layer."""

    def draw(rng: np.random.Generator) -> _AtRandom:
        width = int(rng.integers(8, 25))
        return _AtRandom(
            int(rng.integers(5, 10)), width, int(rng.integers(1, 5)), log_uniform(rng, 0, np.log(100)), 150
        )

    known = [Case(f"‖BA‖ = ‖W‖, width 64, r = 8, η = {eta:.3g}", _AtRandom(12, 64, 8, eta, 32)) for eta in PAPER_ETAS]
    own = _AtRandom(6, 64, 8, 2.0, 2000, ETA_M / 2.0)
    judged = cases.judge(
        [Case(f"‖ηBA‖ = {ETA_M:g}‖W‖, width 64, r = 8, η = 2", own, True), *known, *cases.draw(draw, 8)],
        lambda one: added_at_random(one, cases.rng),
        printed=grows_as_told,
    )
    drawn = {rank: drawn_ratio(NARROWEST, rank, cases.rng) for rank in RANKS}

    def share(rank: int, eta: float, ratio: float = 1.0) -> float:
        return 100 * _AtRandom(24, NARROWEST, rank, eta, 0, ratio / drawn[rank]).gain / math.log1p(eta * ratio)

    wide, recorded = [share(rank, eta) for rank in RANKS for eta in PAPER_ETAS], share(8, own.eta, own.ratio)
    return judged.finding(
        holds=f"Yes, in products of layers: at {min(wide):.0f} to {max(wide):.0f} % of the worst case's rate "
        f"(‖BA‖ = ‖W‖, r {RANKS[0]}–{RANKS[-1]}).",
        evidence=judged.evidence(
            f"each of two means: {source_of_errors(32)}; {standard_errors(150):.3g} for 150 networks, "
            f"{standard_errors(own.replicas):.3g} for {own.replicas}",
            lambda one: one.told,
        ),
        size=ranged(
            wide,
            "% of the worst case's rate",
            f"growth that η = 2 adds at random, ‖BA‖ = ‖W‖, rank 8, width {NARROWEST}, the paper's least; in brackets "
            f"η² from 1 to 4, ranks 8 to 32; at rank 8, ‖ηBA‖ = {ETA_M:g}‖W‖, MiniLM's average but for its "
            f"pooler, {recorded:.2g} %, {(1 + ETA_M) ** (24 * recorded / 100):.4f}-fold in 24 layers",
            share(8, 2.0),
        ),
        flips_if="an η above 0 that adds nothing to mean log growth, or adds less than twice as much at 2L as at L",
    )


class Small(NamedTuple):
    """A layer of width n and rank r at small η: W at random, BA = τWQQᵀ + a random one, or aligned (the worst case).

    Q (n×r) is a random orthonormal basis, so that x ↦ τWQQᵀx points along Wx on average, by a part τr/n; the random
    part has entries of either sign and ‖BA‖/‖W‖ ≈ m̄. Aligned, BA is m̄W along x.
    """

    width: int
    rank: int
    ratio: float
    eta: float
    aligned: bool = False
    along: float = 0.0

    @property
    def scales(self) -> Scales:
        """As `scales_of`, of the random part."""
        return scales_of(self.width, self.rank, self.ratio)

    def gain(self, eta: float) -> float:
        """What η adds to a layer's mean log growth by the closed form.

        With α = ‖Qᵀx‖² of Beta(r/2, (n − r)/2), the change of Wx has ηταWx and else a part at random, so that it is
        ½E log((1 + ητα)² + η²τ²α(1 − α) + ρχ²_r), ρ = (ηs_As_B/s_W)².
        """
        if self.aligned:
            return ripple.worst_case([1.0], [self.ratio], eta).log_bound
        if not self.along:
            return ripple.adapter_gain(self.rank, eta, *self.scales)
        alpha, chi = self._quantiles
        rho, size = (eta * self.scales.a_std * self.scales.b_std / self.scales.w_std) ** 2, eta * self.along
        squares = 2 * size * alpha + size**2 * alpha + rho * chi
        return float(np.log1p(squares).mean() / 2)

    @property
    def _quantiles(self) -> tuple[np.ndarray, np.ndarray]:
        # Of α and of χ²_r, a grid of 300 by 300 with equal weights.
        levels = (np.arange(300) + 0.5) / 300
        return (
            betaincinv(self.rank / 2, (self.width - self.rank) / 2, levels)[:, None],
            2 * gammaincinv(self.rank / 2, levels)[None, :],
        )

    @property
    def parts(self) -> tuple[float, float]:
        """The gain's parts of first and second order in η: ηE c and ½η²E(s² − 2c²)."""
        if self.aligned:
            return self.eta * self.ratio, -((self.eta * self.ratio) ** 2) / 2
        n, r, w, (a, b) = self.width, self.rank, self.scales.w_std, self.scales[1:]
        mean, square = r / n, r * (r + 2) / (n * (n + 2))  # of α
        second = self.along**2 * (mean - 2 * square) + r * (a * b / w) ** 2
        return self.eta * self.along * mean, self.eta**2 * second / 2


LAYERS = 2000  # drawn for the mean of a layer's log growth
ALONG = 0.0757  # τ by which ‖τWQQᵀ‖ is 0.05‖W‖ on average, n = 64 and r = 8
LINEAR = 0.07  # how far from doubling a growth may be that counts as linear in η


def _layer_gains(one: Small, rng: np.random.Generator) -> list[dict[str, float]]:
    """What η and 2η add to a layer's log growth: the aligned network run, or the mean over layers drawn with B and −B.

    B and −B of the random part are equally likely; their mean has no first-order term in η of it.
    """
    etas = (one.eta, 2 * one.eta)
    if one.aligned:
        norms = np.ones(4), np.full(4, one.ratio)
        grown = study.aligned_growth(norms, one.rank, (0.0, *etas), one.width, "linear", rng)
        return [{"mean": float(value - grown[0]) / 4, "stderr": 0.0} for value in grown[1:]]
    (w_std, a_std, b_std), shape = one.scales, (LAYERS, one.width)
    ax = a_std * rng.standard_normal((LAYERS, one.rank))  # x = (1, 0, …, 0)
    bax = b_std * (rng.standard_normal((*shape, one.rank)) @ ax[:, :, None])[:, :, 0]
    wx, along = w_std * rng.standard_normal(shape), 0.0
    if one.along:
        q = np.linalg.qr(rng.standard_normal((*shape, one.rank)))[0]
        inside = (q @ q[:, 0, :, None])[:, :, 0]  # QQᵀx; what is not along x meets W's other columns
        across = w_std * np.linalg.norm(inside[:, 1:], axis=1, keepdims=True) * rng.standard_normal(shape)
        along = one.along * (inside[:, :1] * wx + across)
    start, found = np.linalg.norm(wx, axis=1), []
    for eta in etas:
        up, down = (np.linalg.norm(wx + eta * (along + sign * bax), axis=1) for sign in (1, -1))
        found.append(mean_and_error(np.log(up * down / start**2) / 2))
    return found


def doubling(gains: list[float]) -> float:
    """The gain at 2η over twice that at η: 1 where it is linear, 2 where it is quadratic."""
    return gains[1] / (2 * gains[0]) if gains[0] else math.inf


def linear(one: Small) -> float:
    """`LINEAR` over the second order's part of the gain: above 1 where growth counts as linear in η."""
    first, second = one.parts
    return LINEAR * abs(first + second) / abs(second)


def any_small(rng: np.random.Generator) -> Small:
    """Aligned, at random, or with a part along W that brings `linear` to either side of 1."""
    width, rank, eta = int(rng.integers(12, 33)), int(rng.integers(1, 5)), log_uniform(rng, -1, 0.5)
    kind = rng.random()
    if kind < 0.08:
        return Small(width, rank, float(rng.uniform(0.01, 0.07)), eta, True)
    if kind < 0.16:
        return Small(width, rank, log_uniform(rng, np.log(0.01), np.log(0.1)), eta)
    wanted, one = on_either_side(rng, 0.25, 0.65), Small(width, rank, 0.0, eta)
    one = one._replace(along=float(rng.uniform(0.01, 0.04)))
    # The random part's size by which the second order is so much of the first.
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if linear(one._replace(ratio=middle)) > wanted else (low, middle)
    return one._replace(ratio=low)


@ripple_claim(
    "3.3-small-eta",
    where="beyond the paper: §3.3, last display, for small ηm̄",
    says="For small ηm̄ mean growth is linear in η, as the bound is.",
    reading="What η adds to a layer's mean log growth doubles when η does, within 7 %. Growth of a stack is the sum "
    "where a layer's law does not depend on its input's direction, as here; else η also turns the inputs.",
    depends_on=("3.3-theta-in-depth",),
)
def small_eta(cases: Cases) -> Finding:
    """What 2η adds over what η does: layers aligned, at random, and with a part along W, m̄ as in fine-tuning."""
    own = at_etas("at random, width 64, r = 8, m̄ = 0.05", lambda eta: Small(64, 8, 0.05, eta))
    own += at_etas("along W, width 64, r = 8, m̄ = 0.05", lambda eta: Small(64, 8, 0.0, eta, along=ALONG))
    worst = [Case(f"aligned, width 64, r = 8, m̄ = 0.03, η = {e:.3g}", Small(64, 8, 0.03, e, True)) for e in PAPER_ETAS]
    limit = standard_errors(LAYERS)

    def agrees(one: Small, seen: list[dict[str, float]]) -> bool:
        return all(
            abs(found["mean"] - one.gain(eta)) <= limit * found["stderr"] + 1e-12
            for eta, found in zip((one.eta, 2 * one.eta), seen, strict=True)
        )

    judged = cases.judge(
        own + worst + cases.draw(any_small, 16),
        lambda one: _layer_gains(one, cases.rng),
        printed=lambda one, seen: abs(doubling([found["mean"] for found in seen]) - 1) < LINEAR,
        corrected=agrees,
        condition=linear,
    )
    wide = [Small(NARROWEST, rank, 0.05 / drawn_ratio(NARROWEST, rank, cases.rng), 0.0) for rank in RANKS]
    times = [math.log1p(0.05 * eta) / one.gain(eta) for one in wide for eta in PAPER_ETAS]
    return judged.finding(
        conditional="Only where W_lx and B_lA_lx align on average; with B of random sign it is quadratic in η.",
        evidence=judged.evidence(
            f"of a layer's mean: {source_of_errors(LAYERS)}; the aligned network to float64 rounding",
            lambda one: [one.gain(one.eta), one.gain(2 * one.eta)],
        ),
        size=ranged(
            times,
            "times",
            f"the bound's rate over the mean rate at random, m̄ = 0.05, width {NARROWEST}, rank 8, η = 2; in brackets "
            "η² from 1 to 4, ranks 8 to 32",
            times[len(PAPER_ETAS) - 1],
        ),
        condition="B_lA_lx lies on average along W_lx, or against it, and ηm̄ is small. In formulas: in a layer E c ≠ "
        "0 and, to second order in η, |b| < 0.07|a + b|: a = ηE c, b = ½η²E(s² − 2c²), c = ⟨W_lx, B_lA_lx⟩/‖W_lx‖², s "
        "= ‖B_lA_lx‖/‖W_lx‖; where B_l is as likely as −B_l, a = 0 and the mean is ½η²r(s_A s_B/s_W)² a layer, s_W, "
        "s_A, s_B the standard deviations of the entries of W, A, B",
        flips_if="a mean over networks with B of either sign that doubles with η, or one with E c ≠ 0 that does not "
        "however small η is",
    )
