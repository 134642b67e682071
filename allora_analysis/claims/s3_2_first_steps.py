"""The Abstract's second flaw, the first steps: B moves first. Is its landscape worse than V's, its start slower?

V = (BA)ᵀ, B is n₁×r, A is r×n₂, S = XᵀX, κ a condition number. Judged by differences of the loss's gradient and by
steps over draws of A. Checked by `tests/test_claims_3_2.py`, which plants wrong formulas.
"""

import math
from bisect import bisect_left
from typing import NamedTuple

import numpy as np

from allora_analysis import hessian
from allora_analysis.claims.cases import (
    Case,
    Cases,
    log_uniform,
    on_either_side,
    relative_error,
    source_of_errors,
    standard_errors,
)
from allora_analysis.claims.claim import Finding, ranged
from allora_analysis.claims.s3_2_in_a_and_b import (
    TOLERANCE,
    after_two_steps,
    factor_claim,
    flow_claim,
    told_condition,
)
from allora_analysis.claims.s3_2_in_v import POORLY, SETTING, Fewer, fewer_rows, power_law
from allora_analysis.hessian.factors import loss_gradient


class _Speed(NamedTuple):
    """n₂, r, the deviation s of A's entries, the first step's optimizer; `entries`: those not 0 of a row of G."""

    n2: int
    rank: int
    a_std: float
    optimizer: str
    entries: int

    @property
    def ratio(self) -> float:
        """Root mean square over A of ‖Δ(BA)‖/‖ΔV‖ of the first step, in closed form."""
        if self.optimizer == "gradient descent":
            return hessian.initial_speed_ratio(self.n2, self.rank, self.a_std)
        return adam_speed_ratio(self.n2, self.rank, self.a_std, self.entries)


def adam_speed_ratio(n2: int, rank: int, a_std: float, entries: int) -> float:
    """s√(r(n₂ + 2(r − 1)/π)/m), where each row g of G has m entries that are not 0.

    Adam's first step is l·sign of the gradient, which moves only those in V, and E sign(gᵀA_k)A_k = √(2/π) s g/‖g‖.
    """
    return a_std * math.sqrt(rank * (n2 + 2 * (rank - 1) / math.pi) / entries)


DRAWS = 4000  # of A
OPTIMIZERS = ("gradient descent", "Adam")


def first_steps(one: _Speed, rng: np.random.Generator) -> dict[str, float]:
    """Mean square over draws of A of ‖Δ(BA)‖/‖ΔV‖, of the first step at one rate, and its standard error."""
    g, a = rng.standard_normal((4, one.n2)), one.a_std * rng.standard_normal((DRAWS, one.rank, one.n2))
    g *= rng.permuted(np.tile(np.arange(one.n2) < one.entries, (4, 1)), axis=1)
    step, full = g @ a.transpose(0, 2, 1), g
    if one.optimizer == "Adam":
        step, full = np.sign(step), np.sign(full)
    squares = ((step @ a) ** 2).sum((1, 2)) / (full**2).sum()
    return {"mean square": float(squares.mean()), "stderr": float(squares.std(ddof=1) / math.sqrt(DRAWS))}


def away_from_zero(one: _Speed, rng: np.random.Generator) -> float:
    """‖Δ(BA)‖/‖ΔV‖ of the first step from a B with entries as large as A's, n₁ = n₂; one draw of A, B and G."""
    g, a, b = (rng.standard_normal((rows, one.n2)) for rows in (one.n2, one.rank, one.rank))
    of = np.sign if one.optimizer == "Adam" else np.positive
    a, b = one.a_std * a, one.a_std * b.T
    return float(np.linalg.norm(of(g @ a.T) @ a + b @ of(b.T @ g)) / np.linalg.norm(of(g)))


def nearly_as_long(rng: np.random.Generator) -> _Speed:
    """A's scale on both sides of where BA's first step is as long as V's."""
    n2, rank, optimizer = int(rng.integers(16, 49)), int(rng.integers(1, 9)), str(rng.choice(OPTIMIZERS))
    one = _Speed(n2, rank, 1.0, optimizer, n2 if rng.random() < 0.5 else int(rng.integers(1, n2)))
    wanted = on_either_side(rng, 0.08, 0.65)
    power = 2 if one.optimizer == "gradient descent" else 1
    return one._replace(a_std=(wanted / one.ratio) ** (1 / power))


def at_pefts_start(optimizer: str) -> list[_Speed]:
    """Qwen2-0.5B under PEFT's A, a G without zeros: n₂ = 896 and r = 8, n₂ = 4,864 and r = 8, n₂ = 896 and r = 32."""
    return [_Speed(n2, rank, (3 * n2) ** -0.5, optimizer, n2) for n2, rank in ((896, 8), (4864, 8), (896, 32))]


@flow_claim(
    "3.2-slow-start",
    where="Abstract",
    says="That poor conditioning combined with the need to move away from 0 lead to slow training dynamics.",
    reading="Slow: the first step moves BA less than training V at the same rate would, under gradient descent and "
    "Adam, at η = 1 (another multiplies BA's step by η under Adam, by η² under gradient descent). Whether zero leads "
    "to it is told by a B like A in size: both factors move, √2 times as far (under gradient descent √(1 + (n₁ + 3r + "
    "1)/(n₂ + r + 1))), still slow: true in part. Conditioning: rows 3.2-factor-conditioning and 3.2-b-conditioning.",
)
def slow_start(cases: Cases) -> Finding:
    """The first step's length over draws of A, with A's scale on both sides of where the two are equal."""
    own = [
        Case(f"n₂ = 64, r = 8, A of PEFT's size, {optimizer}", _Speed(64, 8, (3 * 64) ** -0.5, optimizer, 64), True)
        for optimizer in OPTIMIZERS
    ]
    sparse = Case("n₂ = 64, r = 8, A of PEFT's size, Adam, 1 entry in each row of G", own[1].inputs._replace(entries=1))
    judged = cases.judge(
        [*own, sparse, *cases.draw(nearly_as_long, 10)],
        lambda one: first_steps(one, cases.rng),
        printed=lambda one, seen: seen["mean square"] < 1,
        corrected=lambda one, seen: abs(seen["mean square"] - one.ratio**2) <= standard_errors(DRAWS) * seen["stderr"],
        condition=lambda one: 1 / one.ratio,
    )
    peft = {optimizer: at_pefts_start(optimizer) for optimizer in OPTIMIZERS}
    ratios = {optimizer: [one.ratio for one in each] for optimizer, each in peft.items()}
    off = {f"{optimizer}, B as large as A": away_from_zero(each[0], cases.rng) for optimizer, each in peft.items()}
    gain = off["Adam, B as large as A"] / ratios["Adam"][0]
    return judged.finding(
        conditional=f"Partly: Adam's first BA step is {100 * min(ratios['Adam']):.0f} to "
        f"{100 * max(ratios['Adam']):.0f} % of full fine-tuning's; away from zero {gain:.1f} times that.",
        evidence=judged.evidence(
            source_of_errors(DRAWS),
            lambda one: one.ratio**2,
            more={"of V's step, n₁ = n₂ = 896, r = 8": off | {name: each[0] for name, each in ratios.items()}},
            n=DRAWS,
        ),
        size=ranged(
            ratios["Adam"],
            "of V's own step",
            "BA's first step under Adam from B = 0 at PEFT's A and r = 8, n₂ = 896 (Qwen2-0.5B), a gradient without "
            "zeros; down to its n₂ = 4,864, up to r = 32. Gradient descent: "
            f"{min(ratios[OPTIMIZERS[0]]):.2g} to {max(ratios[OPTIMIZERS[0]]):.2g}",
            ratios["Adam"][0],
        ),
        condition="A starts small enough. In formulas: the standard deviation s of its entries is below (r(n₂ + r + "
        "1))^(−1/4) under gradient descent, below (r(n₂ + 2(r − 1)/π)/m)^(−1/2) under Adam, m the entries of G that "
        "are not 0 per row of G that is not 0: n₂ in a G without zeros; PEFT's s is 1/√(3n₂), small enough: slow it "
        "is there. That zero leads to it is true there in part, as a B of A's size is slow, too",
        at_paper="mixed" if judged.at_paper is True and max(off.values()) < 1 else judged.at_paper,
        flips_if="a mean square on the other side of 1 than s says, or a step as long as V's from B as large as A",
    )


class Block(NamedTuple):
    """X (N×n₂) and a drawn A (r×n₂)."""

    x: np.ndarray
    a: np.ndarray


def _block_values(one: Block) -> np.ndarray:
    """Eigenvalues of the Hessian in B, two outputs, column by column: for Y = 0 the gradient is linear in B."""
    shape, none = (2, len(one.a)), np.zeros((2, one.x.shape[1]))
    steps = np.eye(2 * len(one.a)).reshape(-1, *shape)
    return np.linalg.eigvalsh(np.array([loss_gradient(one.x, none, step, one.a)[0].ravel() for step in steps]))


def _block_condition(one: Block) -> float:
    """κ of the Hessian in B, ∞ where it is singular."""
    values = _block_values(one)
    return float(values[-1] / values[0]) if values[0] > 1e-12 * values[-1] else math.inf


MOST = 0.8  # r over n₂ up to which the typical condition number is told
TRACY_WIDOM = 1.2065  # how far inside its spectrum's end an extreme eigenvalue of a real matrix is on average


def typical_condition(squares: np.ndarray, rank: int) -> float:
    """κ(ASAᵀ) for A with i.i.d. Gaussian entries and S's eigenvalues `squares`, as exp E log κ.

    To a factor of 1.6 for n₂ ≥ 32 and r ≤ 0.8n₂; near r = n₂ far too large, and from there on refused.

    In the limit of large r and n₂ the ends of the spectrum are extremes of z(m) = −1/m + (1/r) Σ_i s_i/(1 + s_i m): the
    highest is the least z on (−1/s_max, 0), the lowest the largest z on (0, ∞). At finite r the extreme eigenvalues are
    inside by 1.2065·(|z″|/2r²)^(1/3). Sources: Silverstein and Choi 1995; Tracy and Widom 1996; El Karoui 2007.
    Checked by `tests/test_claims_3_2.py::test_typical_condition`.
    """
    if rank >= len(squares) > 1:
        raise ValueError(f"the rank must be below the number of inputs, {len(squares)}, received {rank}")
    if rank == 1:
        return 1.0
    top, low = float(squares.max()), float(squares.min())

    def extreme(m: np.ndarray, sign: int) -> float:
        parts = squares / (1 + np.multiply.outer(m, squares))
        z = parts.sum(axis=1) / rank - 1 / m
        at = int(np.argmax(sign * z))
        bend = abs((parts[at] ** 3).sum() / rank - 1 / m[at] ** 3) / rank**2
        return float(z[at] + sign * TRACY_WIDOM * bend ** (1 / 3))

    highest = extreme(-np.linspace(0, 1, 1001)[1:-1] / top, -1)
    return highest / extreme(np.geomspace(1e-3 / top, 1e4 / low, 1001), 1)


class Drawn(NamedTuple):
    """X (N×n₂) and several drawn A (r×n₂)."""

    x: np.ndarray
    many: np.ndarray

    @property
    def blocks(self) -> list[Block]:
        """X with each A."""
        return [Block(self.x, a) for a in self.many]

    @property
    def gram(self) -> float:
        """κ(S)."""
        return float(np.linalg.cond(self.x)) ** 2

    @property
    def foretold(self) -> float:
        """κ(ASAᵀ) that S and r alone say."""
        return typical_condition(np.linalg.svd(self.x, compute_uv=False) ** 2, self.many.shape[1])


def drawn(x: np.ndarray, rank: int, rng: np.random.Generator) -> Drawn:
    """X with as many A as log κ is averaged over."""
    return Drawn(x, rng.standard_normal((16, rank, x.shape[1])))


def near_the_turn(rng: np.random.Generator) -> Drawn:
    """Rows of equal variances or of 1/i, and the first r at which log κ(ASAᵀ) is 0.5 above, or 0.6 below, log κ(S).

    Where that r is above 0.8n₂, other rows are drawn, up to 20 times.
    """
    for _ in range(20):
        n2, rows, apart = int(rng.integers(32, 81)), log_uniform(rng, 0, math.log(8)), rng.choice([-0.6, 0.5])
        n = round(rows * n2)
        x = power_law(n, n2, rng) if rng.random() < 0.5 else rng.standard_normal((n, n2))
        squares = np.linalg.svd(x, compute_uv=False) ** 2
        wanted = float(squares[0] / squares[-1] * np.exp(apart))
        rank = 2 + bisect_left(range(2, n2), wanted, key=lambda rank: typical_condition(squares, rank))
        if rank <= MOST * n2:
            break
    return drawn(x, min(rank, int(MOST * n2)), rng)


WIDER = (
    "the inputs are nearly white, or the rank is high: then ASAᵀ's spectrum is wider than S's. In "
    "formulas: κ(S) < e₊/e₋, the ends of ASAᵀ's spectrum: extremes of z(m) = −1/m + (1/r) Σ_i s_i/(1 + s_i m) on "
    "(−1/s_max, 0) and on (0, ∞), s_i S's eigenvalues, moved inward by 1.21(|z″|/2r²)^(1/3). So if XᵀX = cI and "
    "r ≥ 2; for variances 1/i above r ≈ 0.36n₂ as N → ∞, 0.45n₂ for N = 4n₂, 0.8n₂ for N = 1.1n₂"
)


def of_qwens_inputs(rank: int, rng: np.random.Generator) -> float:
    """κ in B over κ(S), 896 inputs, variances 1/i: exp of the mean logarithm over 60 draws of A."""
    values = np.linalg.svd(rng.standard_normal((60, rank, 896)) * np.arange(1.0, 897) ** -0.5, compute_uv=False)
    return float(np.exp(2 * np.log(values[:, 0] / values[:, -1]).mean())) / 896


@factor_claim(
    "3.2-b-conditioning",
    where="beyond the paper: Abstract, second flaw, of B alone",
    says="B, which moves first, is worse conditioned than V.",
    reading="At B = 0, by the condition numbers of the Hessians in B and in V, mean of the logarithm over Gaussian A; "
    "N ≥ n₂ ≥ 32 and r ≤ 0.8n₂, N rows of inputs whose variances are equal or fall as 1/i. Left out: r ≥ 2 at which "
    "the two are within a factor of 1.5.",
)
def block_conditioning(cases: Cases) -> Finding:
    """κ of the Hessian in B, column by column, against κ(S), for N from n₂ to 8n₂ and r on both sides of the turn."""
    rng = cases.rng
    own = [
        Case(f"variances as 1/i, N = 256, n₂ = 64, r = {rank}", drawn(power_law(256, 64, rng), rank, rng), rank < 32)
        for rank in (8, 16, 44)
    ]
    gram, rows = np.linalg.qr(rng.standard_normal((128, 64)))[0], rng.standard_normal((256, 64))
    known = [
        Case(f"{name}, n₂ = 64, r = {rank}", drawn(x, rank, rng))
        for name, x in (("XᵀX = I", gram), ("equal variances, N = 256", rows))
        for rank in (1, 8)
    ]
    judged = cases.judge(
        [*own, *known, *cases.draw(near_the_turn, 8)],
        lambda one: list(map(_block_condition, one.blocks)),
        printed=lambda one, seen: np.log(seen).mean() > math.log(one.gram) + TOLERANCE,
        corrected=lambda one, seen: (
            relative_error([hessian.block_conditioning(*of).block for of in one.blocks[:4]], seen[:4]) <= TOLERANCE
            and abs(np.log(seen).mean() - math.log(one.foretold)) <= math.log(1.6)
        ),
        condition=lambda one: one.foretold / (one.gram * (1 + TOLERANCE)),
    )
    shares = [of_qwens_inputs(rank, rng) for rank in (8, 16, 32)]
    of = "condition number in B, r = 8, 60 draws of A, Qwen2-0.5B's 896 inputs of variances 1/i, N → ∞; up to r = 32"
    return judged.finding(
        conditional="Depends on rank and inputs: at LoRA's low ranks and for realistic inputs B is better conditioned "
        "than V.",
        evidence=judged.evidence(
            "float64 rounding of κ, column by column; the foretold κ to a factor of 1.6",
            lambda one: one.foretold,
            shown=lambda one, seen: float(np.exp(np.log(seen).mean())),
            more={"κ(S)": judged.by_case(lambda one: one.gram)},
            tolerance=TOLERANCE,
        ),
        size=ranged(shares, "of κ(S)", of, shares[0]),
        corrected="the Hessian in B is 2I ⊗ ASAᵀ, that in V 2I ⊗ S",
        condition=WIDER,
        flips_if="inputs and a rank for which κ(ASAᵀ) is on the other side of κ(S) than their spectrum says",
    )


class Point(NamedTuple):
    """X (N×n₂), A, and a B of A's size."""

    x: np.ndarray
    a: np.ndarray
    b: np.ndarray


def curvatures_of_output(one: Point, share: float) -> np.ndarray:
    """Eigenvalues of JᵀJ, J the derivative of the outputs X(BA)ᵀ in (B, A), with `share` times B in B's place.

    The Hessian is 2JᵀJ and what the residuals add. J by differences, which are exact for a product.
    """
    columns = []
    for which in (0, 1):
        for entry in np.ndindex((one.b, one.a)[which].shape):
            step = [np.zeros(one.b.shape), np.zeros(one.a.shape)]
            step[which][entry] = 1.0
            up, down = ((share * one.b + sign * step[0]) @ (one.a + sign * step[1]) @ one.x.T for sign in (1, -1))
            columns.append((up - down).ravel() / 2)
    return np.linalg.svd(np.array(columns), compute_uv=False) ** 2


SHARES = (0.0, 1e-5, 1e-4, 1e-2, 1.0)
TOLD = (0.0, 1e-2, 1.0)  # those at which κ is foretold
OWN = "power-law X, n₂ = 32, n₁ = 24, r = 8, draw"  # of as many rows as inputs, S that of 128


def by_share(one: Point) -> dict[str, list[float]]:
    """Flat directions, and the condition number of the others, at each of `SHARES`."""
    values = [curvatures_of_output(one, share) for share in SHARES]
    kept = [each[each > 1e-22 * each[0]] for each in values]
    return {
        "flat": [one.a.size + one.b.size - len(each) for each in kept],
        "κ": [float(each[0] / each[-1]) for each in kept],
    }


def a_point(x: np.ndarray, n1: int, rank: int, rng: np.random.Generator) -> Point:
    """A and B at random."""
    return Point(x, rng.standard_normal((rank, x.shape[1])), rng.standard_normal((n1, rank)))


def flat_directions(one: Point) -> list[int]:
    """At B = 0 and elsewhere; J has rank n₁·min(r, k), or as many as n₁×k matrices of rank r have, k = rank X."""
    (rank, n2), n1, k = one.a.shape, len(one.b), int(np.linalg.matrix_rank(one.x))
    least = min(rank, n1, k)
    return [rank * (n1 + n2) - seen for seen in (n1 * min(rank, k), least * (n1 + k - least))]


@factor_claim(
    "3.2-factor-conditioning",
    where="Abstract",
    says=POORLY,
    reading="In (A, B) together, of the curvature 2JᵀJ, J the derivative of the outputs, for more independent inputs "
    "than the rank r, which every training set has (one batch of eight last tokens has r = 8, and there it is not so; "
    "what residuals add is row 3.2-saddle-lora's): at B = 0 it has more flat directions than elsewhere. Near it these "
    "are nearly flat and the condition number of all that are not flat is larger than at a B of A's size; at 0 itself, "
    "where they do not count, it is κ(ASAᵀ), and small. Row 3.2-worst-place counts them, so that κ is ∞ there.",
)
def factor_conditioning(cases: Cases) -> Finding:
    """Flat directions and condition number at each of `SHARES` of a B of A's size; and at Qwen2-0.5B's shapes."""

    def draw(rng: np.random.Generator) -> Point:
        rank = int(rng.integers(1, 4))
        n2, n1 = (int(size) for size in rng.integers(rank + 1, rank + 6, size=2))
        n = rank + int(rng.choice([1, 2, *range(3, n2 + 9)], p=[0.25, 0.25, *[0.5 / (n2 + 6)] * (n2 + 6)]))
        return a_point(rng.standard_normal((n, n2)), n1, rank, rng)

    def foretold(one: Point, seen: dict[str, list[float]]) -> bool:
        counted = [seen["flat"][0], seen["flat"][-1]] == flat_directions(one) and seen["flat"][0] > seen["flat"][-1]
        near = seen["κ"][1] > 20 * seen["κ"][2] > seen["κ"][-1]
        _, singular, basis = np.linalg.svd(one.x, full_matrices=False)
        zero, *told = [told_condition(singular**2, one.a @ basis.T, share * one.b) for share in TOLD]
        exact = relative_error(seen["κ"][0], zero) <= 1e-6 and relative_error(seen["κ"][-2:], told) <= 1e-3
        return counted and near and exact

    own = cases.draw(lambda rng: a_point(np.linalg.qr(power_law(128, 32, rng))[1], 24, 8, rng), 3, OWN, True)
    judged = cases.judge(own + cases.draw(draw, 12), by_share, printed=foretold)
    typical, size, medians = after_two_steps(cases.rng)
    return judged.finding(
        holds=f"Yes: two AdamW steps in, {min(typical):,}–{max(typical):,} times worse than at a B of A's size.",
        evidence=judged.evidence(
            "counts: none may differ; κ up by more than 20 times where B shrinks 10 times, to 0.1 % by its spectrum",
            lambda one: {"flat": flat_directions(one), "κ": "∝ 1/‖B‖² near 0"},
            more=medians,
        ),
        size=size,
        flips_if="more than r independent inputs and as many flat directions at A's size as at 0, or a κ that does not "
        "rise towards 0, or is another than κ(ASAᵀ) at 0",
    )


class _FewerB(NamedTuple):
    """A training set and a smaller one as in `Fewer`, and A."""

    sets: Fewer
    a: np.ndarray


def _flat_in_b(x: np.ndarray, a: np.ndarray) -> int:
    values = _block_values(Block(x, a))
    return int((values <= 1e-12 * values[-1]).sum())


@factor_claim(
    "3.2-b-degenerate",
    where="beyond the paper: §3.2, last sentence, of B, which moves first",
    says="As the training set's size n decreases, the optimization landscape of B becomes degenerate.",
    reading=f"Degenerate: the Hessian in B gains flat directions. {SETTING}",
    depends_on=("3.2-degenerate-rank",),
)
def block_rank(cases: Cases) -> Finding:
    """Flat directions of the Hessian in B before and after rows are taken away, and where XᵀX is held fixed."""
    rank = 4

    def with_a(case: Case) -> Case:
        a = cases.rng.standard_normal((8 if case.paper else rank, case.inputs.few.shape[1]))
        return Case(case.name, _FewerB(case.inputs, a), case.paper)

    def mended(one: _FewerB, seen: dict[str, int]) -> bool:
        r, designs = len(one.a), {"many rows": one.sets.many, "few rows": one.sets.few}
        singular = math.isinf(hessian.block_conditioning(one.sets.few, one.a).block)
        counts = {name: 2 * max(0, r - len(x)) for name, x in designs.items()}
        return singular == (len(one.sets.few) < r) and seen == counts

    judged = cases.judge(
        [with_a(case) for case in fewer_rows(cases, rank)],
        lambda one: {"many rows": _flat_in_b(one.sets.many, one.a), "few rows": _flat_in_b(one.sets.few, one.a)},
        printed=lambda one, seen: seen["few rows"] > seen["many rows"],
        corrected=mended,
        condition=lambda one: len(one.a) / len(one.sets.few) if one.sets.fresh else 0.0,
    )
    return judged.finding(
        conditional="Only with fewer samples than the rank r; the paper's tasks have far more.",
        evidence=judged.evidence("counts: none may differ", {"flat directions": "C·(r − n) for n < r, else 0"}),
        condition="n < r: with r ≤ n < n₂ the Hessian in V has flat directions, that in B has none",
        flips_if="a design with n ≥ r independent rows and a flat direction in B",
    )
