"""§3.2 and what starts elsewhere: is zero the worst place in (A, B), at the start, on the way, for the first step?

B is n₁×r, A is r×n₂, G = ∂L/∂(BA), M what BA would have to be, κ the condition number of the Hessian in (A, B) without
the r² directions of (BK⁻¹, KA), which change nothing. Judged by gradient descent and by differences of the loss's
gradient. Checked by `tests/test_claims_3_2_starts.py`, which plants wrong formulas.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from allora_analysis import hessian
from allora_analysis.claims.cases import Case, Cases
from allora_analysis.claims.claim import Finding, Size
from allora_analysis.claims.s3_2_in_a_and_b import ERRORS, at_qwens_k_proj, errors_of, factor_claim
from allora_analysis.claims.s3_2_in_v import power_law
from allora_analysis.claims.starting_points import LOW, SHARES, Begin, begin, named_start
from allora_analysis.hessian.factors import loss_gradient

start_claim = functools.partial(factor_claim, command="python -m allora_analysis.hessian --starts b_zero both_random")
ZERO = 1e-9  # of the largest |eigenvalue|
FLAT = 1e-4  # of the same: nearer 0 after the last step are those that tend to it, slowly where M has less than rank r
WORSE = 100.0  # times the start's κ: surely worse; so only where an eigenvalue passes 0, where κ is ∞
BARS = (WORSE / 2, WORSE, 2 * WORSE)


def eigenvalues(one: Begin, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of the Hessian by central differences (to 1e-10: the gradient is cubic) on a basis without the rescalings."""
    split, step, slope, gram = b.size, 1e-5, one.slope, one.x.T @ one.x

    def gradients(thetas: np.ndarray) -> np.ndarray:  # a point a row
        bs, as_ = thetas[:, :split].reshape(-1, *b.shape), thetas[:, split:].reshape(-1, *a.shape)
        g = slope + 2 * bs @ as_ @ gram
        parts = (g @ np.swapaxes(as_, 1, 2), np.swapaxes(bs, 1, 2) @ g)
        return np.concatenate([part.reshape(len(thetas), -1) for part in parts], axis=1)

    point, moves = np.concatenate([b.ravel(), a.ravel()]), step * np.eye(b.size + a.size)
    dense = (gradients(point + moves) - gradients(point - moves)) / (2 * step)
    units = np.eye(len(a) ** 2).reshape(-1, len(a), len(a))
    tangents = np.array([np.concatenate([-(b @ e).ravel(), (e @ a).ravel()]) for e in units])
    _, sizes, vt = np.linalg.svd(tangents)
    basis = vt[int((sizes > ZERO * (sizes[0] or 1.0)).sum()) :].T
    return np.linalg.eigvalsh(basis.T @ (dense + dense.T) @ basis / 2)


def negative(values: np.ndarray) -> int:
    """How many are below 0."""
    return int((values < -ZERO * np.abs(values).max()).sum())


def flat(values: np.ndarray) -> int:
    """How many are 0."""
    return int((np.abs(values) <= ZERO * np.abs(values).max()).sum())


def condition(values: np.ndarray) -> float:
    """The largest |eigenvalue| over the smallest; ∞ where one is 0."""
    return math.inf if flat(values) else without_flat(values)


def without_flat(values: np.ndarray) -> float:
    """The same of those that are not 0."""
    sizes = np.abs(values)
    return float(sizes.max() / sizes[sizes > ZERO * sizes.max()].min())


STEPS = 4000


def _rate(one: Begin, first: np.ndarray) -> float:
    # Half over the steepest curvature here or there.
    return 0.5 / float(np.abs(first).max() + 4 * np.linalg.norm(one.x, 2) ** 2 * np.linalg.norm(one.fit, 2))


def _worst_on_the_way(one: Begin) -> dict[str, float]:
    """κ and the negative directions at the start and where gradient descent ends, and the largest κ seen between.

    Between two steps at which the counts of negative directions differ, an eigenvalue passes 0: halved 20 times.
    """
    a, b, slope = one.a, one.b, one.slope
    first = eigenvalues(one, a, b)
    rate, marks, path = _rate(one, first), {*np.geomspace(1, STEPS, 24).astype(int)}, [(a, b)]
    for count in range(1, STEPS + 1):
        by_b, by_a = loss_gradient(one.x, slope, b, a)
        a, b = a - rate * by_a, b - rate * by_b
        if count in marks:
            path.append((a, b))
    seen = [eigenvalues(one, *point) for point in path]
    change = next((i for i in range(1, len(seen)) if negative(seen[i]) != negative(seen[i - 1])), None)
    worst, kept = (max(map(of, seen)) for of in (condition, without_flat))
    if change is not None:
        ends, count = [path[change - 1], path[change]], negative(seen[change - 1])
        for _ in range(20):
            middle = tuple((x + y) / 2 for x, y in zip(*ends, strict=True))
            values = eigenvalues(one, *middle)
            ends[int(negative(values) != count)] = middle
            worst, kept = max(worst, condition(values)), max(kept, without_flat(values))
    return {
        "start": condition(first),
        "worst": worst,
        "end": condition(seen[-1]),
        "start, without flat directions": without_flat(first),
        "worst, without them": kept,
        "negative": negative(first),
        "flat": flat(first),
        "lowest at the end": float(seen[-1][0] / np.abs(seen[-1]).max()),
    }


def flat_at_start(one: Begin) -> bool:
    """Whether rank GP < n₂ − r, P the projector on A's kernel: of B = 0, X of full column rank and A of rank r."""
    image = one.slope @ (np.eye(one.a.shape[1]) - np.linalg.pinv(one.a) @ one.a)
    seen = np.linalg.svd(image, compute_uv=False) > ZERO * np.linalg.norm(one.slope)
    return bool(seen.sum() < one.a.shape[1] - len(one.a))


def lead(one: Begin) -> float:
    """By how much the r-th singular value of MXᵀ exceeds the next, over the largest: 0 where several BA are best."""
    values = np.append(np.linalg.svd(one.fit @ one.x.T, compute_uv=False), 0.0)
    return float((values[len(one.a) - 1] - values[len(one.a)]) / values[0])


def _as_told(one: Begin, seen: dict[str, float]) -> bool:
    # The start's negative and flat directions by the formula, and whether the least eigenvalue at the end is above 0.
    end, start = seen["lowest at the end"], [seen["negative"], seen["flat"]]
    return (
        start == [negative(one.told), flat(one.told)]
        and start[0] > 0
        and (end > FLAT if lead(one) > FLAT else abs(end) <= FLAT)
    )


def target(n1: int, n2: int, rank: int, rng: np.random.Generator) -> np.ndarray:
    """M of that rank, at random."""
    return rng.standard_normal((n1, rank)) @ rng.standard_normal((rank, n2)) / math.sqrt(rank)


def tied(n1: int, n2: int, rank: int, gap: float, rng: np.random.Generator) -> Begin:
    """B = 0, XᵀX = I, and MXᵀ's singular values after the r-th are 1, the r-th is 1 + gap."""
    values = np.ones(min(n1, n2))
    values[:rank] += gap + np.arange(rank)[::-1] / 2
    u, v = (np.linalg.qr(rng.standard_normal((size, len(values))))[0] for size in (n1, n2))
    return begin(np.linalg.qr(rng.standard_normal((n2 + 6, n2)))[0], u * values @ v.T, "b_zero", rank, rng)


def usual(n1: int, rank: int, rng: np.random.Generator) -> Begin:
    """B = 0, 12 inputs with a power-law spectrum, r = 2, and M of that rank."""
    return begin(power_law(48, 12, rng) / math.sqrt(48), target(n1, 12, rank, rng), "b_zero", 2, rng)


def flat_or_not(rng: np.random.Generator) -> Begin:
    """B = 0 and n₂ of 4 or 5 inputs; rank GP is n₂ − r or one less."""
    rank = int(rng.integers(1, 3))
    n2 = int(rng.integers(rank + 3, 6))
    n1 = n2 - rank + int(rng.integers(-1, 2))  # a row short, or not
    if rng.random() < 0.4:
        return tied(n1, n2, rank, float(rng.choice([0.0, 0.25])), rng)
    wanted = max(1, n2 - rank - int(rng.random() < 0.3))
    while True:
        one = begin(rng.standard_normal((n2 + 6, n2)) / 3, target(n1, n2, wanted, rng), "b_zero", rank, rng)
        # Nearer to a tie, or with little to learn, descent stays longer at a saddle point than we follow it.
        if lead(one) > 0.1 and np.linalg.norm(one.fit @ one.x.T, 2) > 0.5:
            return one


@start_claim(
    "3.2-worst-place",
    where="beyond the paper: Abstract, of the way from the start to the solution",
    says="LoRA's start is the worst conditioned point of its training.",
    reading="In (A, B) together, without the rescalings, from B = 0, r below the number of inputs n₂: at no point of "
    "gradient descent's way is κ larger, by more than a hundredfold (half and twice of it: evidence). κ is ∞ where an "
    "eigenvalue is 0, here as there: where the start has flat directions no point can be worse. Row "
    "3.2-factor-conditioning leaves them out: the answer has both.",
    depends_on=("3.2-factor-conditioning", "3.2-saddle-lora"),
)
def worst_place(cases: Cases) -> Finding:
    """κ at the start, at the end, and where an eigenvalue passes 0 between them."""
    usuals = [Case(f"power-law X, n₂ = 12, n₁ = {n1}, r = 2", usual(n1, n1, cases.rng)) for n1 in (12, 8)]
    judged = cases.judge(
        [
            *usuals,
            Case("power-law X, n₂ = n₁ = 12, r = 2, M of rank 1", usual(12, 1, cases.rng)),
            Case("XᵀX = I, r = 1, M's singular values equal", tied(4, 4, 1, 0.0, cases.rng)),
            *cases.draw(flat_or_not, 8),
        ],
        _worst_on_the_way,
        printed=lambda one, seen: seen["worst"] <= WORSE * seen["start"],
        corrected=_as_told,
        condition=flat_at_start,
    )
    ends = [(seen["start, without flat directions"], seen["worst, without them"]) for seen in judged.measured]
    otherwise, n = sum(worst <= WORSE * first for first, worst in ends), len(ends)
    by_bar = {f"{bar:g}": sum(s["worst"] <= bar * s["start"] for s in judged.measured) for bar in BARS}
    return judged.finding(
        conditional=f"Only where B = 0 has flat directions (κ = ∞); without counting them in {otherwise} of {n} cases.",
        evidence=judged.evidence(
            f"counts: none may differ; 0: {ZERO:g} of the largest eigenvalue; flat at the end: {FLAT:g} of it",
            {"κ on the way": "∞ at each of the changes of sign"},
            more={f"cases of {n} in which it is true, by how many times counts as larger": by_bar},
        ),
        corrected="without the rescalings the start has r·rank GP negative directions and r(n₂ − r − rank GP) flat "
        "ones, P the projector on A's kernel, a minimum no negative one. Where X has full column rank and the r-th "
        "singular value of MXᵀ, M the change to be learned, exceeds the next, all negative ones pass 0 on the way; "
        "else some eigenvalues tend to 0, or are 0 throughout, and need not pass it",
        condition="rank GP < n₂ − r. So always where n₁ < n₂ − r (Qwen2-0.5B: k_proj, v_proj, down_proj at r = 8), "
        "and where n₁ ≥ n₂ − r only for a G of low rank (X of full column rank)",
        flips_if="rank GP < n₂ − r and a start without flat directions; or rank GP = n₂ − r > 0 and a path from the "
        "start to a minimum on which no eigenvalue passes 0 or tends to it",
    )


class _Anywhere(NamedTuple):
    """X, G at B = 0, and A there."""

    x: np.ndarray
    g: np.ndarray
    a: np.ndarray


def _most_negative(one: _Anywhere, rng: np.random.Generator) -> dict[str, int]:
    """Negative directions of the whole Hessian at B = 0, and the most at points with A and B of sizes from 1e-3.

    A third of the points adds to G what it has not: b from the kernel of Gᵀ, SA from that of G.
    """
    (n1, n2), rank = one.g.shape, len(one.a)
    gram, found = one.x.T @ one.x, []
    u, s, vt = np.linalg.svd(one.g @ np.linalg.pinv(one.x) @ one.x)
    missing = min(n1, n2) - int((s > ZERO * s[0]).sum())
    for count in range(120 if one.g.size < 400 else 45):  # the larger ones take longer
        size_a, size_b = 10 ** rng.uniform(-3, 0.5, 2)
        a, b = size_a * rng.standard_normal((rank, n2)), size_b * rng.standard_normal((n1, rank))
        if count % 3 == 0 and missing:
            mixed = np.linalg.qr(rng.standard_normal((max(rank, missing),) * 2))[0][:rank, :missing]
            a, b = (
                size_a * mixed @ vt[len(s) - missing : len(s)] @ np.linalg.pinv(gram),
                size_b * u[:, -missing:] @ mixed.T,
            )
        g = one.g + 2 * b @ a @ gram
        found.append(negative(np.linalg.eigvalsh(hessian.dense_hessian(one.x, g, a, b))))
    start = hessian.dense_hessian(one.x, one.g, one.a, np.zeros((n1, rank)))
    return {"start": negative(np.linalg.eigvalsh(start)), "most": max(found)}


def _of_errors(apart: int, rng: np.random.Generator, kind: str = ERRORS[0]) -> _Anywhere:
    # 128 tokens whose inputs' variances fall, of which the loss sees every so many-th; 16 outputs, 32 inputs, r = 8.
    # What no loss sees has neither error nor curvature, and is no row of X.
    x = power_law(128, 32, rng)[apart - 1 :: apart]
    return _Anywhere(x, -2 * errors_of(kind, 16, x, rng) @ x, rng.standard_normal((8, 32)) / math.sqrt(32))


def largest_rank(one: _Anywhere) -> int:
    """Of any gradient −2RᵀX with these outputs and inputs."""
    return min(len(one.g), int(np.linalg.matrix_rank(one.x)))


@start_claim(
    "3.2-most-negative",
    where="beyond the paper: §1, second flaw",
    says="No point has more directions of negative curvature than LoRA's start.",
    reading="Of the Hessian in (A, B): B = 0 and A random, against points with A and B of any size. The paper's "
    "setting is a layer on its training set, errors drawn at random, or linear in the inputs, as a change of W* of "
    "rank 8 leaves them. Beside it one batch of eight sentences, of which a classifier reads the last tokens, so that "
    "in the last block (but for k_proj and v_proj) the loss sees eight rows of X.",
    depends_on=("3.2-saddle-lora",),
)
def start_has_most(cases: Cases) -> Finding:
    """Counts at the start and elsewhere, for G of full rank and of less."""

    def draw(rng: np.random.Generator) -> _Anywhere:
        (n1, n2), rank = (int(size) for size in rng.integers(3, 7, size=2)), int(rng.integers(1, 3))
        x = rng.standard_normal((int(rng.choice([2, 3, 12])), n2))
        seen = np.linalg.svd(x, full_matrices=False)[2]  # of the inputs, in whose span G's rows are
        full = min(n1, len(seen))
        rank_g = full if rng.random() < 0.5 else int(rng.integers(1, full))
        left, right = (np.linalg.qr(rng.standard_normal((size, rank_g)))[0] for size in (n1, len(seen)))
        return _Anywhere(x, left * rng.uniform(2, 8, rank_g) @ right.T @ seen, rng.standard_normal((rank, n2)))

    every = Case("power-law X, n₁ = 16, n₂ = 32, r = 8", _of_errors(1, cases.rng), True)
    last = Case("the same, one batch: a loss that sees the last of 16 tokens of 8", _of_errors(16, cases.rng))
    linear = Case(f"power-law X, errors {ERRORS[1]}", _of_errors(1, cases.rng, ERRORS[1]), True)
    judged = cases.judge(
        [every, last, linear, *cases.draw(draw, 14)],
        lambda one: _most_negative(one, cases.rng),
        printed=lambda one, seen: seen["most"] <= seen["start"],
        corrected=lambda one, seen: (
            seen["most"] <= len(one.a) * largest_rank(one)
            and seen["start"] == hessian.inertia(*one).negative == len(one.a) * np.linalg.matrix_rank(one.g)
        ),
        condition=lambda one: bool(np.linalg.matrix_rank(one.g) == largest_rank(one)),
    )
    return judged.finding(
        conditional="Only where G, the gradient, has the most rank possible, as for errors at random; not for "
        "linear ones.",
        evidence=judged.evidence("counts: none may differ", lambda one: {"start": hessian.inertia(*one).negative}),
        size=Size(0.5, "of all directions", "are negative at B = 0 for n₁ = n₂ and full-rank G, rescalings included"),
        corrected="B = 0 has r·rank G negative directions, no point more than r·min(n₁, rank X)",
        condition="rank G = min(n₁, rank X)",
        flips_if="a point with more than r·min(n₁, rank X) of them",
    )


def shares_out(one: Begin) -> bool:
    """Whether A and B share out G's first 2r singular pairs (u_i, v_i), σ_i > 0.

    They do where v_i is an eigenvector of AᵀA and u_i one of BBᵀ for every i with σ_i > 0, and the two eigenvalues add
    up to one number for the first 2r of them and to 0 for the others. Exactly then GAᵀA + BBᵀG is a multiple of
    [G]_2r, as in the basis of singular vectors ΣK + HΣ is one only where K and H are diagonal (distinct σ; with ties,
    for some choice of the vectors).
    """
    u, s, vt = np.linalg.svd(one.gradient(one.b @ one.a), full_matrices=False)
    u, v = u[:, s > 1e-9 * s[0]], vt[s > 1e-9 * s[0]].T
    images = one.a.T @ (one.a @ v), one.b @ (one.b.T @ u)
    values = [(vectors * image).sum(axis=0) for vectors, image in zip((v, u), images, strict=True)]
    total = sum(values)
    wanted = np.where(np.arange(len(total)) < 2 * len(one.a), total[0], 0.0)
    off = [image - vectors * value for vectors, image, value in zip((v, u), images, values, strict=True)]
    return bool(max(np.abs(part).max() for part in (*off, total - wanted)) <= 1e-6 * total[0])


def first_cosine(one: Begin) -> float:
    """The cosine of −G with the change of BA by a small step of gradient descent."""
    g, small = one.gradient(one.b @ one.a), 1e-6
    moved = (one.b - small * g @ one.a.T) @ (one.a - small * one.b.T @ g) - one.b @ one.a
    return float(-np.sum(moved * g) / (np.linalg.norm(moved) * np.linalg.norm(g)))


def best_cosine(g: np.ndarray, rank: int) -> float:
    """‖[G]_2r‖/‖G‖."""
    values = np.linalg.svd(g, compute_uv=False)
    return float(np.linalg.norm(values[: 2 * rank]) / np.linalg.norm(values))


def possible(rng: np.random.Generator) -> tuple[float, float]:
    """`best_cosine` at Qwen2-0.5B's k_proj, r = 8: of errors at random, and of XMᵀ, M at random."""
    x, g = at_qwens_k_proj(rng)
    return best_cosine(g, 8), best_cosine(rng.standard_normal(g.shape) @ x.T @ x, 8)


@start_claim(
    "3.2-first-step-direction",
    where="beyond the paper: §3.2, what starts elsewhere than at zero",
    says="The first step goes in the direction of full fine-tuning's, as far as a rank allows.",
    reading="By the cosine between both, under gradient descent: it is the most that a sum of two products of rank r "
    "can have, to a part in 10⁹.",
    depends_on=("3.2-slow-start",),
)
def first_direction(cases: Cases) -> Finding:
    """Named starts, shares of G's singular vectors, and G of few or of small singular values, against ‖[G]_2r‖/‖G‖."""
    names = [name for name in hessian.STARTS if name != "both_zero"]

    def draw(rng: np.random.Generator) -> Begin:
        n1, n2, half = (int(rng.integers(*ends)) for ends in ((9, 16), (9, 16), (1, 3)))
        name = str(rng.choice([*names, *LOW, *SHARES, *(f"{share}, A longer" for share in SHARES)]))
        return named_start(name, n1, n2, 2 * half, rng)

    def best(one: Begin) -> float:
        return best_cosine(one.gradient(one.b @ one.a), len(one.a))

    own = [
        Case(f"{name}, n₂ = 48, n₁ = 32, r = 8", named_start(name, 32, 48, 8, cases.rng), name == "b_zero")
        for name in (*names, *LOW, *SHARES)
    ]
    judged = cases.judge(
        [*own, *cases.draw(draw, 12)],
        first_cosine,
        printed=lambda one, seen: seen >= (1 - 1e-9) * best(one),
        corrected=lambda one, seen: seen <= (1 + 1e-9) * best(one),
        condition=shares_out,
    )
    lora, (at_random, linear) = math.sqrt(8 / (896 + 8 + 1)), possible(cases.rng)
    told = (
        f"√(r/(n₂ + r + 1)), n₂ = 896, r = 8; at Qwen2-0.5B's k_proj, variances as 1/i, {at_random:.2f} is possible "
        f"for errors at random, {linear:.2f} where they are linear in the inputs"
    )
    return judged.finding(
        conditional="Only where A and B share out G's singular vectors; from B = 0 cosine "
        f"{lora:.2f}, possible {at_random:.2f} to {linear:.2f}.",
        evidence=judged.evidence("a step of 1e-6, whose square moves the cosine by 1e-12", best, tolerance=1e-9),
        size=Size(lora, "cosine", f"first step from B = 0 and full fine-tuning's: {told}"),
        corrected="the cosine is at most ‖[G]_2r‖/‖G‖, and about √(r/(n₂ + r + 1)) from B = 0 with Gaussian A",
        condition="A and B share out G's first 2r singular vectors, all at one strength. Where G has rank 2r or more: "
        "AᵀA = cP and BBᵀ = cQ, P the projector on r right and Q on the other r left of G's first 2r singular vectors. "
        "In general: for (u_i, v_i), σ_i > 0, G's singular pairs, v_i is an "
        "eigenvector of AᵀA and u_i of BBᵀ, and the two eigenvalues add up to one number c > 0 for the first 2r and "
        "to 0 for the others (for rank G ≤ r also from B = 0)",
        flips_if="another start whose first step is as near",
    )
