"""§3.2 in V and in the parameters that LoRA trains, (B, A) with V = (BA)ᵀ: is it convex, is the start a saddle point?

B is n₁×r, A is r×n₂, G = ∂L/∂(BA) (n₁×n₂), S = XᵀX, κ a condition number. A paper case has n₂ = 48 or 64 inputs with a
power-law spectrum and r = 8 or 16. Judged by differences of the loss and by integrated gradient flow. Checked by
`tests/test_claims_3_2.py`, which plants wrong formulas.
"""

import dataclasses
import functools
import math
from bisect import bisect_left
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from allora_analysis import hessian
from allora_analysis.claims.cases import PAPER_RATE, Case, Cases, Judged, relative_error
from allora_analysis.claims.claim import Finding, Size, claim, ranged
from allora_analysis.claims.layer_training import optimizer
from allora_analysis.claims.s3_2_in_v import ROUNDING, Problem, curvatures, loss, one_digit, power_law, problem
from allora_analysis.claims.s3_2_in_v import TOLERANCE as OF_V
from allora_analysis.hessian.factors import loss_gradient

TOLERANCE = 1e-8
factor_claim = functools.partial(claim, command="python -m allora_analysis.hessian", test="tests/test_hessian.py")
flow_claim = functools.partial(claim, command="python -m allora_analysis.hessian", test="tests/test_hessian_escape.py")
SADDLE = "the fine-tuning parameters start from a saddle point"


class Space(NamedTuple):
    """A problem in one of two sets of variables: the V of rank at most r, or (B, A) at B = 0."""

    name: str
    one: Problem
    rank: int
    a: np.ndarray

    @property
    def slope(self) -> np.ndarray:
        """G at V = 0."""
        return -2 * (self.one.y - self.one.x @ self.one.w).T @ self.one.x


def a_space(name: str, x: np.ndarray, c: int, rank: int, rng: np.random.Generator) -> Space:
    """C outputs, and A at random."""
    return Space(name, problem(x, c, rng), rank, rng.standard_normal((rank, x.shape[1])))


def ends(squares: np.ndarray, u: np.ndarray) -> list[float]:
    """The least and the largest eigenvalue of D + UUᵀ, D diagonal with `squares`, to 0.1 %, by counting.

    Below λ are as many as D has, less the negative eigenvalues of I + Uᵀ(D − λI)⁻¹U.
    """
    grid = np.geomspace((1 + 1e-9) * squares.min(), 1.001 * (squares.max() + np.sum(u**2)), 100_000)

    def below(value: float) -> int:
        inner = np.eye(u.shape[1]) + u.T / (squares - value) @ u
        return int((squares < value).sum() - (np.linalg.eigvalsh(inner) < 0).sum())

    return [float(grid[bisect_left(grid, count, key=below)]) for count in (1, len(squares))]


def told_condition(squares: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """κ, but for flat directions, of the curvature of the outputs: S diagonal with `squares`, B of n₁ > r rows.

    The eigenvalues are those of βS + S^½AᵀAS^½, over the n₁ eigenvalues β of BBᵀ.
    """
    betas, u = np.linalg.eigvalsh(b.T @ b), (a * np.sqrt(squares)).T
    inner = np.linalg.eigvalsh(u.T @ u)  # those at β = 0
    if not b.any():
        return float(inner[-1] / inner[0])
    return ends(betas[-1] * squares, u)[1] / min(ends(betas[0] * squares, u)[0], float(inner[0]))


ERRORS = (
    "at random",
    "linear in the inputs, of a change of rank 8",
    "of last tokens, steps from a batch of eight",
)


def errors_of(kind: str, n1: int, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Residuals (n₁×N) on the tokens X at BA = 0, of one of `ERRORS`."""
    if kind == ERRORS[1]:
        return rng.standard_normal((n1, 8)) @ (rng.standard_normal((8, x.shape[1])) @ x.T)
    return rng.standard_normal((n1, len(x))) * (kind == ERRORS[0] or np.arange(len(x)) < 8)


def two_adamw_steps(x: np.ndarray, errors: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A and B after two steps of torch's AdamW at the paper's rate from B = 0."""
    import torch

    pair = torch.tensor(a), torch.tensor(np.zeros((len(errors), len(a))))
    rule = optimizer("adamw", pair, PAPER_RATE)
    for _ in range(2):
        now, b = (part.numpy() for part in pair)
        left = errors + b @ (now @ x.T)
        slopes = 2 * (b.T @ left) @ x, 2 * left @ (x @ now.T)
        for part, slope in zip(pair, slopes, strict=True):
            part.grad = torch.tensor(slope)
        rule.step()
    return pair[0].numpy(), pair[1].numpy()


def told_at_qwens(n1: int, kind: str, rng: np.random.Generator) -> list[float]:
    """κ at B = 0, after two steps of AdamW, and at a B of A's size; one draw.

    512 tokens of 896 inputs as in Qwen2-0.5B, variances as 1/i, r = 8, A of PEFT's size.
    """
    squares = 1 / np.arange(1.0, 897)
    x, a = rng.standard_normal((512, 896)) * squares**0.5, rng.standard_normal((8, 896)) / math.sqrt(3 * 896)
    b = rng.standard_normal((n1, 8)) / math.sqrt(3 * 896)
    after = two_adamw_steps(x, errors_of(kind, n1, x, rng), a)
    return [told_condition(squares, *pair) for pair in ((a, 0 * b), after, (a, b))]


def after_two_steps(rng: np.random.Generator) -> tuple[list[int], Size, dict[str, np.ndarray]]:
    """κ over that at A's size, to one digit by width and errors and as a size; medians of `told_at_qwens`."""
    kinds = [(n1, of) for n1 in (896, 128, 4864) for of in ERRORS]
    found = {one: np.array([told_at_qwens(*one, rng) for _ in range(8)]) for one in kinds}
    times = {one: each[:, 1] / each[:, 2] for one, each in found.items()}
    typical = {one: one_digit(each) for one, each in times.items()}
    others = "; ".join(f"n₁ = {n1:,}: {', '.join(f'{typical[n1, of]:,}' for of in ERRORS)}" for n1 in (128, 4864))
    less = one_digit(np.concatenate([found[896, of][:, 2] / found[896, of][:, 0] for of in ERRORS]))
    size = ranged(
        np.concatenate([*times.values()]),
        "times",
        "condition number after two AdamW steps at 1e-4, which make B 1 % of A, over that at a random B of A's size, "
        f"Qwen2-0.5B's n₁ = n₂ = 896, r = 8, variances as 1/i, errors {ERRORS[0]}; {ERRORS[1]} "
        f"{typical[896, ERRORS[1]]:,}; {ERRORS[2]} {typical[896, ERRORS[2]]:,} (in this order {others}). It falls as "
        f"1/‖B‖² while B grows; at B = 0 itself, without flat directions, {less} times smaller than at A's size",
        float(np.median(times[kinds[0]])),
    )
    told = "κ at B = 0, after two steps, at A's size: n₁ = {}, errors {}"
    return [*typical.values()], size, {told.format(*one): np.median(of, axis=0) for one, of in found.items()}


def down_over_up(x: np.ndarray, g: np.ndarray, a: np.ndarray) -> float:
    """Strongest downward over strongest upward curvature in (B, A) at B = 0, from ASAᵀ's ends and G's largest σ."""
    squares, top = np.linalg.svd(x @ a.T, compute_uv=False) ** 2, float(np.linalg.norm(g, 2))
    least = float(squares[-1]) if len(a) <= len(x) else 0.0
    return float((np.hypot(least, top) - least) / (squares[0] + np.hypot(squares[0], top)))


def at_qwens_k_proj(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """X and G of 512 tokens: Qwen2-0.5B's 896 inputs, variances as 1/i, and 128 outputs, residuals at random."""
    x = rng.standard_normal((512, 896)) * np.arange(1, 897) ** -0.5
    return x, -2 * rng.standard_normal((128, 512)) @ x


def at_pefts_start(rng: np.random.Generator) -> float:
    """`down_over_up` there, A as PEFT draws it, r = 8."""
    return down_over_up(*at_qwens_k_proj(rng), rng.standard_normal((8, 896)) / math.sqrt(3 * 896))


QWENS = (
    "24 draws at Qwen2-0.5B's k_proj, 512 tokens of 896 inputs, variances as 1/i, 128 outputs, errors of variance 1, "
    "r = 8, PEFT's A"
)
STEP, CURVATURE = 1e-3, 1e-5  # of second differences; tolerance, of the highest curvature


LOW_RANK, FACTORS = "V of rank at most r", "(B, A) at B = 0"


def second_difference(function: Callable[[np.ndarray], float], point: np.ndarray, direction: np.ndarray) -> float:
    """Curvature along a unit direction, to O(STEP²)."""
    up, down = function(point + STEP * direction), function(point - STEP * direction)
    return float(up + down - 2 * function(point)) / STEP**2


def third_difference(values: np.ndarray) -> float:
    """Of a function's values at four points in a row, relative to the largest: 0 for a quadratic."""
    return float(values @ [-1, 3, -3, 1] / values.max())


def _shape_of(space: Space, rng: np.random.Generator) -> dict[str, float]:
    """Lowest curvature and third difference of the loss; over the V of rank at most r the rank of a midpoint."""
    one, (d, c) = space.one, space.one.v.shape
    if space.name == LOW_RANK:
        ends = [rng.standard_normal((d, space.rank)) @ rng.standard_normal((space.rank, c)) for _ in range(2)]
        return {"midpoint's rank": float(np.linalg.matrix_rank(ends[0] + ends[1]))}
    g, split = space.slope, c * space.rank
    point = np.concatenate([np.zeros(split), space.a.ravel()])
    lowest = np.linalg.eigh(hessian.dense_factor_hessian(one.x, g, space.a))[1][:, 0]
    spectrum = hessian.factor_spectrum(one.x, g, space.a)

    def function(flat: np.ndarray) -> float:
        return float(loss(one, (flat[:split].reshape(c, -1) @ flat[split:].reshape(space.a.shape)).T))

    curvature, highest = second_difference(function, point, lowest), float(spectrum[-1])
    third = third_difference(np.array([function(point + step) for step in range(4)]))
    return {
        "lowest curvature": curvature / highest,
        "third difference": third,
        "off the closed form": abs(curvature - spectrum[0]) / highest,
    }


def dense_hessian(one: Problem) -> np.ndarray:
    """∇²L at V by second differences along every pair of coordinates."""
    size = one.v.size
    return curvatures(one._replace(directions=np.eye(size).reshape(size, *one.v.shape)))


def along(one: Problem) -> np.ndarray:
    """L at four points in a row, from V in the first direction."""
    return loss(one, one.v + np.arange(4)[:, None, None] * one.directions[0])


@claim(
    "3.2-semidefinite",
    where="§3.2, below Eq. (2)",
    says="The Hessian is semidefinite positive, as expected given the convex quadratic nature of the optimization "
    "problem",
    reading="In V, in which §3.2 takes the Hessian; as LoRA has the problem is row 3.2-convex-in-lora.",
    command="python -m allora_analysis.hessian",
    test="tests/test_hessian_product.py",
)
def semidefinite(cases: Cases) -> Finding:
    """All eigenvalues of the Hessian by differences, for N above and below D, and the loss's third difference."""

    def draw(rng: np.random.Generator) -> Problem:
        n, d, c = (int(size) for size in rng.integers(1, 7, size=3))
        return problem(rng.standard_normal((n, d)), c, rng)

    def told(one: Problem) -> np.ndarray:
        return hessian.product_spectrum(one.x, one.y.shape[1])

    own = Case("power-law X, N = 48, D = 24, C = 3", problem(power_law(48, 24, cases.rng), 3, cases.rng), True)

    def passes(one: Problem, seen: dict[str, np.ndarray]) -> bool:
        values, third = seen["eigenvalues"], third_difference(seen["L along a line"])
        convex = values[0] >= -OF_V * values[-1] and abs(third) <= OF_V
        return bool(convex and relative_error(told(one), values) <= OF_V)

    judged = cases.judge(
        [own, *cases.draw(draw, 12)],
        lambda one: {"eigenvalues": np.linalg.eigvalsh(dense_hessian(one)), "L along a line": along(one)},
        printed=passes,
    )
    return judged.finding(
        holds="Yes, in V: no direction has negative curvature, the loss is quadratic; not so in LoRA's A and B.",
        evidence=judged.evidence(ROUNDING, told, tolerance=OF_V),
        flips_if="one eigenvalue below 0 beyond rounding, or a third difference of the loss that is not 0",
    )


DIFFERENCES = f"differences of step {STEP:g}, relative to the highest curvature"


def on_spaces(cases: Cases) -> Judged:
    """Whether the problem is convex and quadratic over each space; LoRA's shapes first."""
    names = (LOW_RANK, FACTORS)

    def draw(rng: np.random.Generator) -> Space:
        n, (d, c) = int(rng.integers(3, 13)), (int(size) for size in rng.integers(2, 7, size=2))
        name = str(rng.choice(names))
        return a_space(name, rng.standard_normal((n, d)), c, max(1, min(d, c) - int(rng.integers(0, 2))), rng)

    def passes(one: Space, seen: dict[str, float]) -> bool:
        if one.name == LOW_RANK:
            return seen["midpoint's rank"] <= one.rank
        return max(-seen["lowest curvature"], abs(seen["third difference"])) <= CURVATURE

    own = [
        Case(f"{name}: r = 8, D = 32, C = 12", a_space(name, power_law(64, 32, cases.rng), 12, 8, cases.rng), True)
        for name in names
    ]
    return cases.judge(
        own + cases.draw(draw, 20),
        lambda one: _shape_of(one, cases.rng),
        printed=passes,
        corrected=lambda one, seen: (
            seen.get("off the closed form", 0.0) <= CURVATURE
            and seen.get("midpoint's rank", 0) == min(2 * one.rank, *one.one.v.shape) * ("midpoint's rank" in seen)
        ),
        condition=lambda one: one.name == LOW_RANK and one.rank >= min(one.one.v.shape),
    )


@factor_claim(
    "3.2-convex-in-lora",
    where="beyond the paper: §3.2, below Eq. (2), the problem as LoRA has it",
    says="LoRA's optimization problem is convex and quadratic.",
    reading="Over the V of rank at most r, which a LoRA module is, and in (B, A), which it trains.",
    depends_on=("3.2-semidefinite",),
)
def convexity_in_lora(cases: Cases) -> Finding:
    """Lowest curvature and third differences in (B, A), and whether midpoints of low-rank matrices have low rank."""
    judged = on_spaces(cases)
    return judged.finding(
        conditional="Only if V may have full rank: over LoRA's low-rank V, or in A and B, it is not convex.",
        evidence=judged.evidence(DIFFERENCES, tolerance=CURVATURE),
        size=ranged(
            [-at_pefts_start(cases.rng) for _ in range(24)],
            "of the highest curvature",
            f"the lowest in (B, A) at B = 0, {QWENS}",
        ),
        condition="the variable is V, of rank up to min(D, C)",
        flips_if="two matrices of rank r < min(D, C) drawn at random whose midpoint has rank r, or a start B = 0 with "
        "G ≠ 0 and no negative curvature",
    )


class Start(NamedTuple):
    """X (N×n₂), G at BA = 0 (n₁×n₂), and the first A and B."""

    x: np.ndarray
    g: np.ndarray
    a: np.ndarray
    b: np.ndarray


def start(x: np.ndarray, g: np.ndarray, rank: int, rng: np.random.Generator, a: float = 1.0, b: float = 0.0) -> Start:
    """A and B of the given standard deviations, A's times 1/√n₂."""
    n1, n2 = g.shape
    return Start(x, g, a / math.sqrt(n2) * rng.standard_normal((rank, n2)), b * rng.standard_normal((n1, rank)))


def paper_start(rng: np.random.Generator, a: float = 1.0, b: float = 0.0) -> Start:
    """A LoRA module's: 48 inputs with a power-law spectrum, 16 outputs, the gradient of residuals at random."""
    x = power_law(96, 48, rng)
    return start(x, -2 * rng.standard_normal((16, 96)) @ x, 8, rng, a, b)


def signs(values: np.ndarray, zero: float = 1e-11) -> dict[str, int]:
    """How many eigenvalues are negative, zero and positive; zero is up to `zero` of the largest."""
    limit = zero * float(np.abs(values).max())
    negative, positive = int((values < -limit).sum()), int((values > limit).sum())
    return {"negative": negative, "zero": len(values) - negative - positive, "positive": positive}


def at_start(one: Start) -> dict[str, object]:
    """The slope in (A, B), one of which is 0, whether it is 0, and the Hessian's eigenvalues."""
    slope = math.hypot(*(float(np.linalg.norm(part)) for part in loss_gradient(one.x, one.g, one.b, one.a)))
    critical = slope <= TOLERANCE * float(np.linalg.norm(one.g))
    values = np.linalg.eigvalsh(hessian.dense_hessian(one.x, one.g, one.a, one.b))
    return {"‖∇L‖": slope, "critical": critical, "eigenvalues": values}


def _is_saddle(seen: dict[str, object]) -> bool:
    """Critical, with curvature of both signs."""
    values = seen["eigenvalues"]
    return bool(seen["critical"]) and bool(values[0] < -TOLERANCE and values[-1] > TOLERANCE)


@flow_claim(
    "3.2-saddle-starts",
    where="§1, second flaw",
    says=SADDLE,
    reading="Whichever zero-initialization is meant: A, B or both at 0, the other at random or in the kernel of G.",
)
def saddle_by_start(cases: Cases) -> Finding:
    """Slope and Hessian with A, B or both at 0, the other of sizes down to 1e-3; also where G = 0."""

    def draw(rng: np.random.Generator) -> Start:
        n1, n2 = (int(size) for size in rng.integers(3, 7, size=2))
        sizes = [(0.0, 0.0), (1.0, 0.0), (1e-3, 0.0), (0.0, 1.0), (0.0, 1e-3)]
        a, b = sizes[rng.choice(5, p=[0.4, *[0.15] * 4])]
        g = rng.standard_normal((n1, n2)) * (rng.random() < 0.8)  # or nothing to be learned
        one = start(rng.standard_normal((12, n2)), g, 2, rng, a, b)
        if (a == 0) != (b == 0) and rng.random() < 0.5:
            by_a, by_b = np.linalg.pinv(one.a) @ one.a, one.b @ np.linalg.pinv(one.b)  # one of them 0
            for _ in range(2):  # twice, so that GAᵀ and BᵀG are 0 to their own rounding
                one = one._replace(g=one.g - one.g @ by_a - by_b @ one.g)
        return one

    own = [
        Case("power-law X, r = 8, B = 0, A random (LoRA, PEFT)", paper_start(cases.rng), True),
        Case("power-law X, r = 8, A = B = 0", paper_start(cases.rng, 0.0)),
    ]
    judged = cases.judge(
        own + cases.draw(draw, 24),
        at_start,
        printed=lambda one, seen: _is_saddle(seen),
        condition=lambda one: bool(one.g.any() and hessian.is_stationary(one.g, one.a, one.b)),
    )
    return judged.finding(
        conditional="Only if A and B both start at zero; LoRA draws one of them at random, so in practice no.",
        evidence=judged.evidence(
            "critical or not: none may differ", {"saddle point": "iff GAᵀ = 0, BᵀG = 0 and G ≠ 0"}
        ),
        condition="G ≠ 0, GAᵀ = 0 and BᵀG = 0, A or B being 0: in practice A = B = 0 (G = 0 is a minimum)",
        flips_if="a start with one factor drawn at random that is a critical point",
    )


@factor_claim(
    "3.2-saddle-lora",
    where="§1, second flaw",
    says=SADDLE,
    reading="A less kind reading: LoRA's own start, B = 0 and A random, is a critical point whose Hessian has "
    "eigenvalues of both signs. Any zero-initialization: 3.2-saddle-starts.",
    depends_on=("3.2-saddle-starts",),
)
def saddle_of_lora(cases: Cases) -> Finding:
    """Slope and Hessian at B = 0, A random, over shapes and ranks of G, against the closed forms."""

    def draw(rng: np.random.Generator) -> Start:
        n1, n2 = (int(size) for size in rng.integers(3, 9, size=2))
        rank_g, rank = (int(rng.integers(1, min(n1, n2) + 1)) for _ in range(2))
        g = rng.standard_normal((n1, rank_g)) @ rng.standard_normal((rank_g, n2))
        return start(rng.standard_normal((12, n2)), g, rank, rng)

    def exact(one: Start, seen: dict[str, object]) -> bool:
        told, negative = hessian.inertia(one.x, one.g, one.a), len(one.a) * int(np.linalg.matrix_rank(one.g))
        counted = signs(seen["eigenvalues"]) == dataclasses.asdict(told) and told.negative == negative
        close = relative_error(hessian.factor_spectrum(one.x, one.g, one.a), seen["eigenvalues"]) <= TOLERANCE
        return counted and close and not seen["critical"] and not hessian.is_stationary(one.g, one.a)

    judged = cases.judge(
        [Case("power-law X, r = 8", paper_start(cases.rng), True), *cases.draw(draw, 12)],
        at_start,
        printed=lambda one, seen: _is_saddle(seen),
    )
    finding = judged.finding(
        refuted="No: with A random it curves down in some directions, as a saddle does, but B has a slope.",
        evidence=judged.evidence(
            "counts: none may differ; the spectrum to float64 rounding",
            lambda one: {"‖∇L‖": float(np.linalg.norm(one.g @ one.a.T)), "negative": "r·rank G"},
        ),
        size=ranged(
            [at_pefts_start(cases.rng) for _ in range(24)],
            "of the strongest upward curvature",
            f"the strongest downward one, beside that slope, {QWENS}",
        ),
        corrected="no critical point, as ∇_B = GAᵀ ≠ 0; the Hessian there has exactly r·rank G negative directions",
        flips_if="a start B = 0 with random A at which the gradient is 0",
    )
    return against(finding, all(exact(case.inputs, seen) for case, seen in judged.pairs))


def against(finding: Finding, contrary: bool) -> Finding:
    """A refuted sentence's finding; undecided where what contradicts the sentence is not borne out either."""
    if finding.verdict != "refuted" or contrary:
        return finding
    return dataclasses.replace(finding, verdict="undecided", answer="Undecided: what contradicts it fails too.")
