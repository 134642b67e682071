"""§3.2, where LoRA starts: inertia and condition number in (B, A) without the rescalings, first step, time to leave.

Every start keeps the pretrained map: the adapter adds BA − B₀A₀ (PiSSA's and LoRA-GA's convention; 0 is taken off where
B₀A₀ = 0). With T the change that would fit best, L(B, A) = ‖X(BA − M)ᵀ‖²_F, M = T + B₀A₀, G = 2(BA − M)S, S = XᵀX, and

    H(β, α) = (2βASAᵀ + 2BαSAᵀ + Gαᵀ,  2BᵀβAS + 2BᵀBαS + βᵀG).

**Rescalings.** (B, A) → (BK⁻¹, KA) changes nothing. Its tangents (−BΞ, ΞA), r² of them unless neither A nor B has
rank r, say nothing about the loss: H is restricted to their complement. At a critical point its inertia there
is that of the loss as a function of BA; elsewhere this is a definition. In closed form,

- B = 0: `factor_spectrum` with GP in G's place, P the projector on A's kernel, less r² zeros; n₋ = r·rank GP.
- A = 0: for every eigenvalue b of BᵀB that of [[0, QG], [GᵀQ, 2bS]], Q the projector on Bᵀ's kernel, less zeros.
- A = B = 0: ±σ_i(G), r times each; no rescaling moves anything.
- the solution, for S = I and BᵀB = AAᵀ: with σ the singular values of M, 2(σ_i + σ_j) for i, j ≤ r, 2(σ_k ± σ_p) for
  k ≤ r < p ≤ min(n₁, n₂), and |n₁ − n₂| times 2σ_k. So κ = 2σ₁/(σ_r − σ_{r+1}) where σ_{r+1} > 0: the gap that decides
  how fast a truncated SVD is found decides LoRA's too, from whichever start.

**No point has more than r·min(n₁, rank X) negative directions**, as H ≥ 0 where β = 0, and where α's rows are in X's
kernel; B = 0 has as many where G has the most rank that it can have, min(n₁, rank X). And **the start is not the worst
conditioned point of its path**: a minimum has none, so that negative eigenvalues of the start pass 0 on the way or tend
to it, where κ → ∞. All of them pass where X has full column rank and r is at most the rank of T.

**First step.** Full fine-tuning moves −G, the adapter −(GAᵀA + BBᵀG); Adam moves signs. At B = 0 with A Gaussian the
cosine between them is about √(r/(n₂ + r + 1)) under gradient descent (Wishart moments, as in `initial_speed_ratio`). No
start has more than ‖[G]_2r‖/‖G‖ (Eckart–Young). Where G has rank 2r those reach it, and only those, for which AᵀA and
BBᵀ are multiples, by one number, of the projectors on r right and on the other r left of its first 2r singular vectors:
A the first r right ones, B the next r left ones (LoRA-GA, Wang et al. 2024).

What of (B, A) the target and the start do not use falls apart in closed form, so that a report costs no more than what
they use: `product.within`.

Checked by `tests/test_hessian_starts.py` against autograd's Hessian.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.adaptors import inverse_sqrt
from allora_analysis.escape.optimizers import Recipe, memory, step
from allora_analysis.hessian.factors import EVALUATIONS, HORIZON, Inertia, factor_spectrum, loss_gradient
from allora_analysis.hessian.product import Within, within
from allora_analysis.validation import ArgumentError, representable

STARTS = ("b_zero", "a_zero", "both_zero", "both_random", "pissa", "orthogonal", "gradient_aligned")
STAGES = {"start": 1.0, "half-way": 0.5, "nine tenths": 0.1}  # the excess loss left
OPTIMIZERS = ("sgd", "momentum", "adamw", "allora", "allora_adamw")
AT_REST = 1e-6  # of the first speed
ETA, PATIENCE, ZERO = 2.0, 1000, 1e-12  # of the paper; steps; of the largest |eigenvalue|
RANK = 1e-9  # of A's or B's largest singular value: what is below counts as 0
LARGEST = 2000  # parameters within U and V: the inertia and κ take all eigenvalues, at four points of the path
Pair = tuple[Float[np.ndarray, "r n2"], Float[np.ndarray, "n1 r"]]


@dataclass(frozen=True)
class Stage:
    """A point of gradient flow's path.

    Attributes:
        excess: (L − min L)/(L₀ − min L), the minimum over rank r.
        inertia: of H on the complement of the rescalings.
        log_condition: log κ there, of the non-zero part; natural logarithm.
        largest: the largest |eigenvalue|: gradient descent is stable up to 2 over it.
    """

    excess: float
    inertia: Inertia
    log_condition: float
    largest: float


@dataclass(frozen=True)
class StartReport:
    """What a start is like.

    Attributes:
        rescalings: how many directions of (BK⁻¹, KA) there are at the start.
        stages: by name "start", "half-way", "nine tenths", "solution", as far as the flow gets; a critical point stays.
        cosine: of the first step's change of BA with full fine-tuning's, by "sgd" and "adam"; 0 where it does not move.
        best_cosine: ‖[G]_2r‖/‖G‖, which no start exceeds under "sgd".
        steps: until half of the possible decrease, by optimizer; None where 1,000 do not do. SGD's rate is 1/λ_max at
            the start (momentum's a tenth, ALLoRA's over η = 2), Adam's 0.1/√(3n₂): a tenth of PEFT's entries of A.
    """

    rescalings: int
    stages: dict[str, Stage]
    cosine: dict[str, float]
    best_cosine: float
    steps: dict[str, int | None]


@representable()
def start_pair(
    start: str, gradient: ArrayLike, rank: int, generator: np.random.Generator, weight: ArrayLike | None = None
) -> Pair:
    """A and B of a start by name; Gaussian entries have PEFT's variance, 1/(3n₂) in A and 1/(3n₁) in B.

    "pissa": B√Σ, √ΣA from the first r singular triples of `weight`; "orthogonal": PEFT's, A and B random in orthogonal
    halves of the r latent directions, so that BA = 0; "gradient_aligned": of Gaussian A's size; see the module's text.

    Args:
        start: one of `STARTS`.
        gradient: G (n₁×n₂).
        rank: r; even for "orthogonal".
        generator: the randomness.
        weight: the pretrained W* (n₁×n₂); "pissa" needs it.

    Returns:
        A (r×n₂) and B (n₁×r).

    Raises:
        ArgumentError: another name, an odd rank, no weight.
    """
    g, start = validation.matrix("gradient", gradient), validation.choice("start", start, STARTS)
    (n1, n2), rank = g.shape, validation.adapter_rank(rank, *g.shape)
    a, b = (generator.standard_normal(size) / math.sqrt(3 * n) for size, n in (((rank, n2), n2), ((n1, rank), n1)))
    if start == "pissa":
        if weight is None:
            raise ArgumentError("weight must be the pretrained matrix for start 'pissa', received None")
        u, s, vt = np.linalg.svd(validation.matrix_of("weight", weight, g.shape, "gradient"))
        return np.sqrt(s[:rank, None]) * vt[:rank], u[:, :rank] * np.sqrt(s[:rank])
    if start == "orthogonal":
        if rank % 2:
            raise ArgumentError(f"rank must be even for start 'orthogonal', received {rank}")
        q = np.linalg.qr(generator.standard_normal((rank, rank)))[0]
        return q[::2].T @ a[::2], b[:, 1::2] @ q[1::2]
    if start == "gradient_aligned":
        u, _, vt = np.linalg.svd(g)
        columns = np.arange(rank, 2 * rank) % n1  # where n₁ < 2r the first ones again
        return vt[:rank] / math.sqrt(3), u[:, columns] / math.sqrt(3)
    return a * (start not in ("a_zero", "both_zero")), b * (start in ("a_zero", "both_random"))


@representable()
def dense_hessian(x: ArrayLike, g: ArrayLike, a: ArrayLike, b: ArrayLike) -> Float[np.ndarray, "parameters parameters"]:
    """H at any (B, A), G = ∂L/∂(BA) there; B row by row, then A row by row. Small sizes only.

    Args:
        x: X (N×n₂).
        g: G (n₁×n₂).
        a: A (r×n₂).
        b: B (n₁×r).

    Returns:
        The symmetric matrix, r(n₁ + n₂) square.
    """
    x, g, a, b = _checked(x, g, a, b)
    return _dense(x.T @ x, g, a, b)


def _checked(x: ArrayLike, g: ArrayLike, a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, ...]:
    g = validation.matrix("g", g)
    a = validation.matrix_of("a", a, (None, g.shape[1]), "n2, the columns of g")
    b = validation.matrix_of("b", b, (len(g), len(a)), "n1 of g and r of a")
    return validation.matrix_of("x", x, (None, g.shape[1]), "n2, the columns of g"), g, a, b


def _dense(s: np.ndarray, g: np.ndarray, a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, "P P"]:
    validation.fits("a, b", 3 * (a.size + b.size) ** 2, "the dense Hessian")
    cross = np.einsum("kq,im->ikqm", np.eye(len(a)), g) + 2 * np.einsum("iq,km->ikqm", b, a @ s)
    cross = cross.reshape(b.size, a.size)
    return np.block([[2 * np.kron(np.eye(len(b)), a @ s @ a.T), cross], [cross.T, 2 * np.kron(b.T @ b, s)]])


@representable()
def rescalings(a: ArrayLike, b: ArrayLike) -> Float[np.ndarray, "parameters directions"]:
    """An orthonormal basis of the directions (−BΞ, ΞA), in which the loss does not change.

    With A = Σ_j σ_j u_j v_jᵀ and B = Σ_i τ_i p_i q_iᵀ the r² matrices Ξ = q_i u_jᵀ give (−τ_i p_i u_jᵀ, σ_j q_i v_jᵀ):
    orthogonal to one another, of norm √(τ_i² + σ_j²). Those with τ_i = σ_j = 0 go. Either rank is numerical, at 1e-9
    of the matrix's own largest singular value.

    Args:
        a: A (r×n₂).
        b: B (n₁×r).

    Returns:
        Its columns, in the order of `dense_hessian`: r² − (r − rank A)(r − rank B) of them.
    """
    a = validation.matrix("a", a)
    b = validation.matrix_of("b", b, (None, len(a)), "r, the rows of a")
    u, sigma, v = _triples(a)
    q, tau, p = _triples(b.T)
    norm = np.hypot(tau[:, None], sigma)
    kept = np.argwhere(norm > 0)
    columns = [
        np.concatenate([np.outer(-tau[i] * p[i], u[j]).ravel(), np.outer(q[i], sigma[j] * v[j]).ravel()]) / norm[i, j]
        for i, j in kept
    ]
    return np.array(columns).reshape(len(kept), -1).T if columns else np.zeros((a.size + b.size, 0))


def _triples(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # Singular vectors and values as rows, one for each row of the matrix; values below its numerical rank are 0.
    (size, other), (u, s, vt) = matrix.shape, np.linalg.svd(matrix)
    values, right = np.zeros(size), np.zeros((size, other))
    values[: len(s)], right[: len(s)] = np.where(s > RANK * s[0], s, 0.0), vt[: len(s)]
    return u.T, values, right


def _rank(matrix: np.ndarray) -> int:
    return int(np.count_nonzero(_triples(matrix)[1]))


@representable()
def restricted_spectrum(x: ArrayLike, g: ArrayLike, a: ArrayLike, b: ArrayLike) -> Float[np.ndarray, " directions"]:
    """Eigenvalues of H on the complement of the rescalings, ascending: in closed form where A or B is 0.

    Arguments as in `dense_hessian`. Checked by `tests/test_hessian_starts.py::test_restricted_spectrum_is_autograds`.
    """
    x, g, a, b = _checked(x, g, a, b)
    if not b.any():
        kernel = np.eye(a.shape[1]) - np.linalg.pinv(a, rcond=RANK) @ a
        return _without(factor_spectrum(x, g @ kernel, a), len(a) * _rank(a))
    if not a.any():
        q, (n1, n2) = np.eye(len(b)) - b @ np.linalg.pinv(b, rcond=RANK), g.shape
        validation.fits("g", 3 * (n1 + n2) ** 2, "a block of the Hessian")
        block = np.block([[np.zeros((n1, n1)), q @ g], [g.T @ q, np.zeros((n2, n2))]])
        curved = np.pad(2 * x.T @ x, ((n1, 0), (n1, 0)))
        values = [np.linalg.eigvalsh(block + size * curved) for size in np.linalg.svd(b, compute_uv=False) ** 2]
        values += [np.linalg.eigvalsh(block)] * (len(a) - len(values))
        return _without(np.concatenate(values), len(a) * _rank(b))
    tangents = rescalings(a, b)
    hessian = _dense(x.T @ x, g, a, b)
    hessian -= tangents @ (tangents.T @ hessian)
    hessian -= (hessian @ tangents) @ tangents.T
    return _without(np.linalg.eigvalsh(hessian), tangents.shape[1])


def _without(values: np.ndarray, zeros: int) -> np.ndarray:
    # Projecting a direction out leaves a zero in its place; those go.
    return np.sort(values[np.argsort(np.abs(values), kind="stable")[zeros:]])


@representable(infinite=True)
def start_report(
    x: ArrayLike,
    target: ArrayLike,
    start: str | tuple[ArrayLike, ArrayLike],
    rank: int,
    *,
    weight: ArrayLike | None = None,
    seed: int = 0,
) -> StartReport:
    """A start's inertia and condition number on gradient flow's path, its first step, and its time to leave.

    Args:
        x: X (N×n₂), divided by √N for a mean loss.
        target: T (n₁×n₂), the change of the module that would fit best.
        start: a name of `STARTS`, or A and B.
        rank: r.
        weight: the pretrained W* (n₁×n₂), for "pissa".
        seed: of the start's draws.

    Raises:
        ArgumentError: an unknown start, a rank that is not the start's, a target that X does not see, more than 2,000
            parameters r(dim U + dim V), see `product.within`; a flow that 10⁵ evaluations of its velocity do not
            follow to where it rests.

    Examples:
        >>> import numpy as np
        >>> from allora_analysis.hessian import start_report
        >>> report = start_report(np.eye(3), np.diag([3.0, 2.0, 1.0]), "gradient_aligned", rank=1)
        >>> report.stages["solution"].inertia  # r(n₁ + n₂ − r) directions, all of them up
        Inertia(negative=0, zero=0, positive=5)
        >>> round(report.cosine["sgd"], 9) == round(report.best_cosine, 9) == round((13 / 14) ** 0.5, 9)
        True
    """
    t = validation.matrix("target", target)
    x = validation.matrix_of("x", x, (None, t.shape[1]), "n2, the columns of target")
    rank, g = validation.adapter_rank(rank, *t.shape), -2 * (t @ x.T) @ x
    if isinstance(start, str):
        generator = np.random.default_rng(validation.count("seed", seed, 0))
        a, b = start_pair(start, g, rank, generator, weight)
    else:
        a, b = validation.several("start", start, 2)
    x, g, a, b = _checked(x, g, a, b)
    if len(a) != rank:
        raise ArgumentError(f"rank must be {len(a)}, that of the start, received {rank}")
    if not g.any():
        raise ArgumentError("target: x @ target.T is 0, so there is nothing to learn; give another target")
    small = within(x, t, a, b)
    if (size := small.a.size + small.b.size) > LARGEST:
        raise ArgumentError(
            f"target, rank: r(dim U + dim V) = {size} parameters that do not fall apart, and the inertia and κ take "
            f"all eigenvalues; give at most {LARGEST}: white x, fewer rows of x, a target of lower rank. Where A or B "
            "is 0, restricted_spectrum is in closed form; network_spectrum finds both ends"
        )
    values = np.linalg.svd(2 * (small.fit - small.b @ small.a) @ small.x.T @ small.x, compute_uv=False)
    stages = _stages(small, HORIZON / float(values[0]))
    halfway = (_loss(*small[:4]) + _least(small.x, small.fit, rank)) / 2
    leaves, largest = "solution" in stages, stages["start"].largest  # not from a critical point
    return StartReport(
        rescalings(small.a, small.b).shape[1],
        stages,
        {name: _cosine(g, a, b, name) for name in ("sgd", "adam")},
        float(np.linalg.norm(values[: 2 * rank]) / np.linalg.norm(values)),
        {name: _steps(x, t + b @ a, a, b, name, largest, halfway) if leaves else None for name in OPTIMIZERS},
    )


@representable()
def expected_cosine(rank: int, width: int) -> float:
    """Of the first step from B = 0 with full fine-tuning's, under gradient descent: √(r/(n₂ + r + 1)), n₂ the width.

    E⟨G, GAᵀA⟩ over the roots of ‖G‖² and E‖GAᵀA‖², A Gaussian; from A = 0 with B Gaussian it is that of n₁.

    Examples:
        >>> from allora_analysis.hessian.starts import expected_cosine
        >>> print(round(expected_cosine(8, 4096), 3))
        0.044
    """
    rank, width = validation.count("rank", rank), validation.count("width", width)
    return math.sqrt(rank / (width + rank + 1))


def _loss(x: np.ndarray, fit: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sum((x @ (b @ a - fit).T) ** 2))


def _least(x: np.ndarray, fit: np.ndarray, rank: int) -> float:
    # The least loss of this rank: what the singular values of XMᵀ after the r-th leave.
    rest = np.linalg.svd(x @ fit.T, compute_uv=False)[rank:]
    return float(rest @ rest)


def _stages(small: Within, horizon: float) -> dict[str, Stage]:
    x, fit, a, b, *_ = small
    gram = x.T @ x

    def parts(theta: np.ndarray) -> Pair:
        return theta[b.size :].reshape(a.shape), theta[: b.size].reshape(b.shape)

    def velocity(_time: float, theta: np.ndarray) -> np.ndarray:
        a, b = parts(theta)
        return -np.concatenate([part.ravel() for part in loss_gradient(x, slope, b, a)])

    def jacobian(_time: float, theta: np.ndarray) -> np.ndarray:
        a, b = parts(theta)
        return -_dense(gram, 2 * (b @ a - fit) @ gram, a, b)

    slope, first = -2 * (fit @ x.T) @ x, np.concatenate([b.ravel(), a.ravel()])
    if not velocity(0.0, first).any():  # a critical point
        return {"start": _stage(small, a, b, 1.0)}
    loss, least = _loss(x, fit, a, b), _least(x, fit, len(a))
    where: dict[str, tuple[np.ndarray, float]] = {}
    for point in _path(velocity, jacobian, first, horizon):  # very many, of which four are kept
        left = (_loss(x, fit, *parts(point)) - least) / (loss - least)
        where |= {name: (point, left) for name, level in STAGES.items() if name not in where and left <= level}
    where = {"start": (first, 1.0)} | where | {"solution": (point, left)}
    return {name: _stage(small, *parts(point), left) for name, (point, left) in where.items()}


def _path(
    velocity: Callable[[float, np.ndarray], np.ndarray],
    jacobian: Callable[[float, np.ndarray], np.ndarray],
    first: np.ndarray,
    horizon: float,
) -> Iterator[np.ndarray]:
    """The integrator's points up to the horizon, or up to where the flow rests and its steps do not become longer."""
    from scipy.integrate import LSODA

    accuracy = {"rtol": 1e-8, "atol": 1e-12 * float(np.abs(first).max())}
    flow = LSODA(velocity, 0.0, first, horizon, jac=jacobian, **accuracy)
    yield first
    while flow.status == "running" and flow.nfev < EVALUATIONS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what fails is told below
            flow.step()
        yield flow.y
    left = np.linalg.norm(velocity(flow.t, flow.y)) / np.linalg.norm(velocity(0.0, first))
    if flow.status == "failed" or (flow.status == "running" and not left <= AT_REST):
        raise ArgumentError("x, target, start: the flow is too fast or too slow to follow; give numbers of like size")


def _values(small: Within, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # H's on the complement of the rescalings: within U and V, on U^⊥, on V^⊥.
    x, fit, *_ = small
    inside = restricted_spectrum(x, 2 * ((b @ a - fit) @ x.T) @ x, a, b)
    by_b = np.repeat(np.linalg.eigvalsh((a @ x.T) @ (x @ a.T)), small.left)
    by_a = np.outer(np.linalg.eigvalsh(b.T @ b), small.curved)
    return np.concatenate([inside, 2 * by_b, 2 * by_a.ravel()])


def _stage(small: Within, a: np.ndarray, b: np.ndarray, excess: float) -> Stage:
    values = _values(small, a, b)
    size = np.abs(values)
    kept = size > ZERO * size.max()
    negative, positive = (int(np.count_nonzero(kept & (sign * values > 0))) for sign in (-1, 1))
    counts = Inertia(negative, len(values) - negative - positive, positive)
    return Stage(float(excess), counts, math.log(size.max() / size[kept].min()), float(size.max()))


def _cosine(g: np.ndarray, a: np.ndarray, b: np.ndarray, optimizer: str) -> float:
    by_b, by_a, full = g @ a.T, b.T @ g, g
    if optimizer == "adam":
        by_b, by_a, full = np.sign(by_b), np.sign(by_a), np.sign(g)
    change = by_b @ a + b @ by_a
    return float(np.sum(change * full) / ((np.linalg.norm(change) or 1.0) * np.linalg.norm(full)))


def _steps(
    x: np.ndarray, fit: np.ndarray, a: np.ndarray, b: np.ndarray, optimizer: str, largest: float, halfway: float
) -> int | None:
    """Steps until the loss is `halfway`, in the entries as they are, as Adam and the row norms want them."""
    slope = -2 * (fit @ x.T) @ x
    name = {"allora": "sgd"}.get(optimizer, optimizer)
    slow = {"momentum": 10.0, "allora": ETA}.get(optimizer, 1.0)
    rate = 0.1 / math.sqrt(3 * a.shape[1]) if "adamw" in name else 1 / (slow * largest)
    recipe, pair = Recipe(name, rate), (a[None], b[None])
    state = memory(pair)
    for count in range(PATIENCE + 1):
        (a,), (b,) = pair
        product = b @ a
        norms = np.linalg.norm(product, axis=1)
        if not np.isfinite(norms).all():  # diverged
            return None
        outer = slope + 2 * (b @ (a @ x.T)) @ x
        if np.sum(outer * (product - fit)) / 2 <= halfway:  # ⟨G, BA − M⟩ = 2L
            return count
        d = inverse_sqrt(norms, ETA)
        rows = d[:, None] * outer if optimizer == "allora" else outer
        gradients = ((b.T @ rows)[None], (rows @ a.T)[None])
        pair, state = step(recipe, pair, gradients, state, rate, d[None] if name == "allora_adamw" else None)
        if not (np.isfinite(pair[0]).all() and np.isfinite(pair[1]).all()):
            return None
    return None
