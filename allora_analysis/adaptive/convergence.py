"""Where does ALLoRA rest, and does it get there (§6 wants a guarantee)? Its flow at r = 1, rest points, stable rates.

L = ½ tr((P − T)S(P − T)ᵀ), P = BA, G = (P − T)S, and Ȧ = −BᵀD_dG, Ḃ = −D_dGAᵀ, d = h(‖P_i‖), h(s) = (s + 1/η²)^{−1/2}.

**Balance.** AAᵀ − BᵀB never moves, as under LoRA: both parts change by −(BᵀD_dGAᵀ + its transpose). From B = 0 it stays
A₀A₀ᵀ ⪰ 0.

**Rank one, white inputs (S = I): a Lyapunov function.** Let α = ‖A‖, u = A/α, s_i = αb_i (so P_i = s_i u),
t_i = T_i·u, e_i = s_i − t_i and m(s) = s·h(|s|), which rises: m′ = ρh, ρ = 1 − ½|s|h² in (½, 1]. Then

    Ψ(u, s) = Σ_i [∫₀^{s_i} σ m′(σ) dσ − m(s_i) t_i],   ∂Ψ/∂s_i = m′_i e_i,   ∂Ψ/∂u = −Σ m_i T_i,

while the flow is u̇ = α⁻²(I − uuᵀ)Σ m_i T_i and ṡ_i = −α²d_i e_i − α⁻² s_i Σ_j m_j e_j. With x_i = √(m′_i d_i) e_i and
b_i = s_i/α,

    Ψ̇ = −α⁻²‖(I − uuᵀ)Σ m_i T_i‖² − α²‖x‖² − (Σ √ρ_i b_i x_i)(Σ b_i x_i/√ρ_i).

The last product is at least −½(‖√ρ b‖‖b/√ρ‖ − ‖b‖²)‖x‖², and by Kantorovich's inequality with ρ in (½, 1] that is at
least −κ‖b‖²‖x‖², κ = (3/√8 − 1)/2 = 0.0303…. So Ψ falls wherever ‖A‖² > κ‖b‖², until F = 0. From B = 0 it always is:
‖A‖² − ‖b‖² is constant, hence ‖A‖ > ‖b‖. Ψ is bounded below and grows with |s|, u lives on a sphere, so the flow stays
in a compact set with ‖A‖ ≥ ‖A₀‖, and by LaSalle's principle **it tends to the rest points: at r = 1, from B = 0 ≠ A on
white inputs, there is no cycle.**

**Rest points, any rank.** F = 0 iff G = D_d⁻¹ U M Vᵀ, U and V orthonormal bases of the complements of B's columns and
of A's rows, M free: `rest_gradient` reaches them all (T follows). In the scale of M the Jacobian is affine, J₀ + μJ₁,
J₀ ⪰ 0: at M = 0, a perfect fit, every rest point is stable. r² of its eigenvalues are 0, the gauge A → CA, B → BC⁻¹.
Gradient descent at rate l is stable there iff |1 − lλ| < 1 for the others: l < 2 Re λ/|λ|². As J is not symmetric,
stability can be lost by a complex pair, a Hopf bifurcation, which LoRA's Hessian rules out: `first_instability` follows
μ to it, and `HOPF` is an example with AAᵀ ≻ BᵀB. Where seen, the flow past it left for another rest point. By Hopf's
theorem there are periodic orbits beside it (up to the gauge): on correlated inputs no function falls along every flow.

**Not where the loss does** (§4.2: "measured discovery of optimal directions"). LoRA rests where BᵀG = 0 and GAᵀ = 0,
ALLoRA where BᵀD_dG = 0 and GAᵀ = 0. The two agree where G = 0 (the rank suffices to fit), and else differ: with white
inputs ALLoRA's rest points are those of the *row-weighted* low-rank fit Σ_i d_i‖P_i − T_i‖² with the weights that the
fit itself implies. The best fit for its own weights is

    P = D_d^{−1/2}·[D_d^{1/2}T]_r,    d = d(P),    [·]_r the best rank-r approximation,

and ALLoRA trades rows that have grown for rows that have not. Where two singular values of D_d^{1/2}T tie, the fit is
one of a circle (T = diag(1, 0.9), r = 1, η = 4: the fit along either axis makes the other axis the larger), and ALLoRA
can rest elsewhere too, on other singular directions of D_d^{1/2}T.

Source: this toolkit. Checked by `tests/test_adaptive_convergence.py`; the fits, against ALLoRA run to rest, by
`tests/test_adaptive_descent.py`.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float
from numpy.typing import ArrayLike

from allora_analysis.adaptive.field import (
    checked_curvature,
    checked_gradient,
    checked_pair,
    factor_of,
    row_norms,
    update_jacobian,
)
from allora_analysis.adaptors import inverse_sqrt
from allora_analysis.validation import (
    ArgumentError,
    adapter_rank,
    ascending,
    count,
    matrix,
    matrix_of,
    positive,
    representable,
)

KAPPA = (3 / 8**0.5 - 1) / 2
ZERO = 1e-9  # of the largest eigenvalue: below it a real part counts as 0
LARGEST = 1e9  # scale of M up to which instability is looked for


@dataclass(frozen=True)
class Lyapunov:
    """Ψ of a rank-one state, and its exact rate of change along ALLoRA's flow.

    Attributes:
        value: Ψ.
        rate: Ψ̇, at most 0 where ‖A‖² ≥ κ‖b‖².
        bound: what the proof says it is at most: −α⁻²‖(I − uuᵀ)Σ m_iT_i‖² − (α² − κ‖b‖²)‖x‖².
    """

    value: float
    rate: float
    bound: float


@representable()
def rank_one_lyapunov(target: ArrayLike, a: ArrayLike, b: ArrayLike, eta: float) -> Lyapunov:
    """Ψ and Ψ̇ at a state of ALLoRA's flow, r = 1 and white inputs; see the module's docstring.

    Args:
        target: T (n₁×n₂).
        a: A (1×n₂), not 0.
        b: B (n₁×1).
        eta: η > 0.

    Returns:
        Both, and the bound.

    Raises:
        ArgumentError: another rank, or A = 0.

    Examples:
        >>> from allora_analysis.adaptive import rank_one_lyapunov
        >>> found = rank_one_lyapunov([[2.0]], [[1.0]], [[0.0]], 1.0)  # at B = 0: −α²d_i²t_i² = −4
        >>> found.value, found.rate, found.bound
        (0.0, -4.0, -4.0)
    """
    (a, b), eta = checked_pair(a, b), positive("eta", eta)
    t = matrix_of("target", target, (len(b), a.shape[1]), "n1 of b and n2 of a")
    alpha = math.hypot(*a.ravel())  # no square vanishes
    if len(a) != 1 or alpha == 0:
        raise ArgumentError(f"a: the function is for rank 1 and A ≠ 0; received rank {len(a)} and ‖A‖ = {alpha:g}")
    u, row, d = a[0] / alpha, b[:, 0], factor_of(a, b, eta)
    s, seen = alpha * row, t @ u
    size = np.abs(s)
    rho = 1 - 0.5 * size * d**2
    # ∫₀^s σ m′ dσ = sm − ∫₀^s m; for q = √(s + 1/η²), q₀ = 1/η: ∫₀^s m = (2/3)(q − q₀)²(q + 2q₀), q − q₀ = s/(q + q₀)
    q, q0 = np.sqrt(size + eta**-2), 1 / eta
    whole = 2 / 3 * (size / (q + q0)) ** 2 * (q + 2 * q0)
    value = float(np.sum(size**2 * d - whole - s * d * seen))
    pull = (s * d) @ t
    turn = float(np.sum((pull - (pull @ u) * u) ** 2)) / alpha**2
    x = np.sqrt(rho) * d * (s - seen)
    mixed = float((np.sqrt(rho) * row) @ x) * float((row / np.sqrt(rho)) @ x)
    square = float(x @ x)
    return Lyapunov(value, -turn - alpha**2 * square - mixed, -turn - (alpha**2 - KAPPA * float(row @ row)) * square)


@representable()
def rest_gradient(a: ArrayLike, b: ArrayLike, eta: float, mixing: ArrayLike) -> Float[np.ndarray, "n1 n2"]:
    """G = D_d⁻¹ U M Vᵀ, with which (A, B) is a rest point of ALLoRA; every rest point of full rank has this form.

    Args:
        a: A (r×n₂), of rank r.
        b: B (n₁×r), of rank r.
        eta: η > 0.
        mixing: M ((n₁ − r)×(n₂ − r)).

    Returns:
        G; the target that goes with it is P − G S⁻¹.
    """
    a, b = checked_pair(a, b)
    rank = len(a)
    m = matrix_of("mixing", mixing, (len(b) - rank, a.shape[1] - rank), "n1 − r and n2 − r")
    return (np.linalg.svd(b)[0][:, rank:] @ m @ np.linalg.svd(a)[2][rank:]) / factor_of(a, b, eta)[:, None]


@dataclass(frozen=True)
class RestStability:
    """Linear stability of a rest point of ALLoRA.

    Attributes:
        eigenvalues: of J, ascending in real part, without the r² zeros of the gauge.
        largest_rate: gradient descent is stable below it; 0 where the flow itself is not.
    """

    eigenvalues: Complex[np.ndarray, " directions"]
    largest_rate: float

    @property
    def stable(self) -> bool:
        """Whether the flow returns to the rest point."""
        return self.largest_rate > 0


class RestFamily(NamedTuple):
    """Rest points at one (A, B): G = μ·g for every μ ≥ 0, with the target P − μ·g·S⁻¹."""

    a: Float[np.ndarray, "r n2"]
    b: Float[np.ndarray, "n1 r"]
    g: Float[np.ndarray, "n1 n2"]
    s: Float[np.ndarray, "n2 n2"]
    eta: float

    def target(self, scale: float) -> Float[np.ndarray, "n1 n2"]:
        """T at μ."""
        return self.b @ self.a - scale * np.linalg.solve(self.s, self.g.T).T


def _hopf() -> RestFamily:
    # G_i = μ u_i v/d_i with Bᵀu = 0 and Av = 0.
    a, b = np.array([[-4.0, -2, 8], [0, -8, 8]]), np.array([[1.0, -4], [3, -1], [-3, -2]])
    s = np.array([[68.0, -32, -8], [-32, 18, 2], [-8, 2, 10]])
    return RestFamily(a, b, np.outer([-9.0, 14, 11], [3.0, 2, 2]) / factor_of(a, b, 1.0)[:, None], s, 1.0)


HOPF = _hopf()
"""Rank 2, 3×3, η = 1, in whole numbers: stable below μ = 0.7169…, where a pair ±1.1198i crosses."""


def _stability(jacobian: Float[np.ndarray, "parameters parameters"], rank: int) -> RestStability:
    # J's eigenvalues but the r² nearest to 0.
    values = np.linalg.eigvals(jacobian)
    values = values[np.argsort(np.abs(values))[rank**2 :]]
    values = np.sort_complex(values).astype(complex)
    if values.real.min(initial=np.inf) <= ZERO * np.abs(values).max(initial=0.0):
        return RestStability(values, 0.0)
    return RestStability(values, float(np.min(2 * values.real / np.abs(values) ** 2, initial=np.inf)))


@dataclass(frozen=True)
class Instability:
    """Where a family of rest points G = μG₁ loses stability.

    Attributes:
        scale: μ; None where it stays stable.
        frequency: |Im λ| of the eigenvalue that crosses: 0 for a real one, above 0 for a Hopf bifurcation.
    """

    scale: float | None
    frequency: float


@representable()
def first_instability(a: ArrayLike, b: ArrayLike, g: ArrayLike, s: ArrayLike, eta: float) -> Instability:
    """Follow G = μG₁ from a perfect fit until the rest point loses stability; J is affine in μ.

    The first crossing on a geometric grid of ratio 1.25, bisected. Arguments as in `update_jacobian`, A and B of
    rank r, G of a rest point.
    """
    a, b, g = checked_gradient(a, b, g)
    start = update_jacobian(a, b, 0 * g, s, eta)
    slope, rank = update_jacobian(a, b, g, s, eta) - start, len(a)

    def at(scale: float) -> RestStability:
        return _stability(start + scale * slope, rank)

    low, high = 0.0, 1e-3
    while at(high).stable:
        low, high = high, 1.25 * high
        if high > LARGEST:
            return Instability(None, 0.0)
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if at(middle).stable else (low, middle)
    values = at(high).eigenvalues
    frequency = abs(float(values[0].imag))
    return Instability(high, frequency if frequency > ZERO * float(np.abs(values).max()) else 0.0)


@representable()
def gradient_flow(
    target: ArrayLike, s: ArrayLike, a: ArrayLike, b: ArrayLike, eta: float, times: ArrayLike
) -> tuple[Float[np.ndarray, "times r n2"], Float[np.ndarray, "times n1 r"]]:
    """ALLoRA's flow, SGD as the rate goes to 0, by SciPy's LSODA; knows nothing of the functions above.

    Args:
        target: T (n₁×n₂).
        s: S (n₂×n₂), symmetric.
        a: A at time 0 (r×n₂).
        b: B at time 0 (n₁×r).
        eta: η > 0.
        times: ascending, from 0 or later; learning rate × steps.

    Returns:
        A and B at these times.

    Raises:
        ArgumentError: times that do not ascend, or a flow that cannot be followed to the last.
    """
    from scipy.integrate import solve_ivp

    a, b = checked_pair(a, b)
    t = matrix_of("target", target, (len(b), a.shape[1]), "n1 of b and n2 of a")
    s = checked_curvature(s, a.shape[1])
    offset, moments = positive("eta", eta) ** -2, ascending(times)

    def change(_: float, state: np.ndarray) -> np.ndarray:
        a_now, b_now = state[: a.size].reshape(a.shape), state[a.size :].reshape(b.shape)
        product = b_now @ a_now
        adapted = ((product - t) @ s) / np.sqrt(np.linalg.norm(product, axis=1) + offset)[:, None]
        return -np.concatenate([(b_now.T @ adapted).ravel(), (adapted @ a_now.T).ravel()])

    start = np.concatenate([a.ravel(), b.ravel()])
    small = max(1e-12 * float(np.abs(start).max()), np.finfo(float).tiny)  # however small the start is
    found = solve_ivp(change, (0.0, moments[-1]), start, method="LSODA", rtol=1e-9, atol=small, t_eval=moments)
    if not found.success:
        raise ArgumentError(f"times: the flow stops before {moments[-1]:g} ({found.message}); give smaller ones")
    states = found.y.T
    return states[:, : a.size].reshape(-1, *a.shape), states[:, a.size :].reshape(-1, *b.shape)


ITERATIONS = 10_000
PATIENCE = 5  # steps without a new smallest change after which the next ones are half as long


@dataclass(frozen=True)
class RestPoint:
    """A rest point of ALLoRA.

    Attributes:
        product: P = BA.
        factor: d(P).
        excess: L(P)/min L − 1, the minimum over rank r (Eckart–Young); 0 where that minimum is 0 and reached.
        lora_gradient: ‖BᵀG‖_F/‖G‖_F for B an orthonormal basis of P's columns: 0 where LoRA rests too.
    """

    product: Float[np.ndarray, "n1 n2"]
    factor: Float[np.ndarray, " n1"]
    excess: float
    lora_gradient: float


@representable()
def rest_point(target: ArrayLike, rank: int, eta: float) -> RestPoint:
    """The self-consistent weighted fit, by iterating d from the unweighted one; see the module's docstring.

    The iteration s ← s + m(‖P(d(s))_i‖ − s) on the row norms s, which fix d, starts at m = 1 and halves m whenever the
    bracket stops shrinking: undamped, it circles some rest points for ever. It ends when the bracket, whatever m, is
    below 1e-13 of T's largest entry. Checked by `tests/test_adaptive_descent.py`.

    Args:
        target: T (n₁×n₂), the least-squares solution; inputs white.
        rank: r.
        eta: η > 0.

    Raises:
        ArgumentError: it settles for no m. Then, as far as seen, the r-th and the next singular value of D^{1/2}T tie
            at the fit, one of a circle, and change places on the way. ALLoRA still rests there: `run_to_rest`.
    """
    t = matrix("target", target)
    rank, eta = adapter_rank(rank, *t.shape), positive("eta", eta)
    size, mix, least, stale = np.linalg.norm(truncated(t, rank), axis=1), 1.0, np.inf, 0
    for _ in range(ITERATIONS):
        root = np.sqrt(inverse_sqrt(size, eta))[:, None]
        product = truncated(root * t, rank) / root
        change = np.linalg.norm(product, axis=1) - size
        gap = float(np.max(np.abs(change)))
        if gap <= 1e-13 * np.max(np.abs(t)):
            return _described(product, t, rank, eta)
        stale = 0 if gap < least else stale + 1
        if stale == PATIENCE:
            mix, stale = mix / 2, 0
        size, least = size + mix * change, min(gap, least)
    raise ArgumentError(
        f"target: no self-consistent fit of rank {rank} at eta = {eta:g} found in {ITERATIONS} iterations; "
        "try another rank or eta, or see where run_to_rest ends"
    )


@representable()
def run_to_rest(
    target: ArrayLike, a: ArrayLike, eta: float, learning_rate: float, steps: int
) -> Float[np.ndarray, "n1 n2"]:
    """BA after ALLoRA's own gradient steps on ½‖BA − T‖²_F from B = 0; knows nothing of `rest_point`.

    Args:
        target: T (n₁×n₂).
        a: A at the start (r×n₂).
        eta: η > 0.
        learning_rate: l.
        steps: how many, up to a million.
    """
    t = matrix("target", target)
    a = matrix_of("a", a, (None, t.shape[1]), "n2, the columns of target")
    offset, rate = positive("eta", eta) ** -2, positive("learning_rate", learning_rate)
    b = np.zeros((len(t), adapter_rank(len(a), *t.shape)))
    for _ in range(count("steps", steps, maximum=10**6)):
        product = b @ a
        adapted = (product - t) / np.sqrt(row_norms(product) + offset)[:, None]
        a, b = a - rate * (b.T @ adapted), b - rate * (adapted @ a.T)
    return b @ a


def truncated(matrix_: Float[np.ndarray, "n1 n2"], rank: int) -> Float[np.ndarray, "n1 n2"]:
    """[M]_r, the best rank-r approximation in the Frobenius norm (Eckart–Young)."""
    u, s, v = np.linalg.svd(matrix_, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


def _described(product: Float[np.ndarray, "n1 n2"], t: Float[np.ndarray, "n1 n2"], rank: int, eta: float) -> RestPoint:
    g, best = product - t, np.linalg.svd(t, compute_uv=False)[rank:]
    least, scale = float(best @ best), float(np.sum(t**2))
    basis = np.linalg.svd(product, full_matrices=False)[0][:, :rank]
    fits = float(np.sum(g**2)) <= 1e-24 * scale
    factor = inverse_sqrt(np.linalg.norm(product, axis=1), eta)
    slope = 0.0 if fits else float(np.linalg.norm(basis.T @ g) / np.linalg.norm(g))
    return RestPoint(product, factor, 0.0 if fits else float(np.sum(g**2)) / least - 1, slope)
