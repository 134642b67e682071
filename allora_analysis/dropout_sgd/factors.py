"""SGD under dropout in LoRA's own factors, W = AᵀBᵀ: mean and covariance of W_t to first order in the learning rate l.

A step of (A, B) is not affine, so no finite set of moments closes. For small l, at time τ = lt and θ = (A, B), with ℓ
the expected loss, H its Hessian and Σ(θ) the covariance of the masked gradient, all at the flow θ(τ):

    θ′ = −∇ℓ(θ)                                    gradient flow of the regularized loss, what is left as l → 0
    C′ = −HC − CH + Σ                              linear noise approximation: Cov θ_t = lC(τ) + O(l²)
    m′ = −Hm − ½∇³ℓ[C] − ½H∇ℓ                      E θ_t = θ(τ) + l·m(τ) + O(l²)

The first term of m′ carries on, the second is what noise does through the loss's curvature, the third the step's own
length (van Kampen 2007, ch. X; Li–Tai–E 2019). As W is bilinear in θ, with K = ∂W/∂θ,

    E W_t = AᵀBᵀ + l(K m + E_C[δAᵀδBᵀ]) + O(l²),    Cov W_t = l·K C Kᵀ + O(l²).

**Expected loss.** With W_j = A_j B_jᵀ the product of node j (row j of A, column j of B), S = XᵀX and k = (1 − p)/p,

    ℓ = ‖Y‖² − 2⟨W, XᵀY⟩ + ⟨W, H₀W⟩ + Σ_j ⟨W_j, H₁W_j⟩

    input (LoRA as shipped)   H₀ = S + k diag S    H₁ = 0        ‖Y − XW‖² + k‖diag(S)^{1/2}W‖²
    output (the paper)        H₀ = S/p             H₁ = 0        ‖Y − XW‖² + k‖XW‖²
    bottleneck                H₀ = S               H₁ = kS       ‖Y − XW‖² + kΣ_j‖XA_j‖²‖B_j‖²

**Noise.** A mask on nodes (inputs, or the r latent ones) of a row, v_i = 1 + ζ_i: with a_i^c what node i adds to output
c, f the unmasked residual and h_i = f + (1 − k)a_i, the masked residual as node i sees it is, in orthogonal parts,

    v_i(f − Σ_j ζ_j a_j) = (f − ka_i) + ζ_i h_i − Σ_j ζ_j a_j − ζ_i Σ_{j≠i} ζ_j a_j,

    Cov = k(δ_ij h_i h_iᵀ − h_i a_iᵀ − a_j h_jᵀ + s) + k²(a_j a_iᵀ + δ_ij(s − 2a_i a_iᵀ)),    s = Σ_m a_m a_mᵀ.

`tests/test_dropout_sgd_factors.py` enumerates every sequence of masks and fits both errors' orders in l.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.validation import ArgumentError

# Shapes: A and B as one vector, and by the paper's letters.
Flat, A, B, W = Float[np.ndarray, " P"], Float[np.ndarray, "r D"], Float[np.ndarray, "C r"], Float[np.ndarray, "D C"]

PLACEMENTS = ("input", "output", "bottleneck")
TOLERANCE = 1e-6  # of the integration, relative; the limit's own error is of order l²
EVALUATIONS = 20_000  # of the three equations: what has scales further apart is refused
CHUNK = 2**20  # numbers of the dense output held at once


@dataclass(frozen=True)
class FactorFlow:
    """Moments of W_t = A_tᵀB_tᵀ at steps 0 … T, to first order in the learning rate.

    Attributes:
        mean_product: E W_t up to O(l²) (T + 1 × D × C).
        covariance_trace: tr Cov W_t up to O(l²), over all entries.
        flow_product: W along gradient flow of the regularized loss, which is E W_t up to O(l).
        covariance: Cov of W_T's entries, rows of W first (D·C × D·C).
        a: A along the flow, at the last step (r × D).
        b: B there (C × r).
        step_size: l·λ_max(∇²ℓ) at the last step; the error is a multiple of its square, and at 2 SGD itself diverges.
    """

    mean_product: Float[np.ndarray, "steps D C"]
    covariance_trace: Float[np.ndarray, " steps"]
    flow_product: Float[np.ndarray, "steps D C"]
    covariance: Float[np.ndarray, "DC DC"]
    a: A
    b: B
    step_size: float

    def risk(self, w_true: W) -> Float[np.ndarray, " steps"]:
        """E‖W_t − W_true‖² at every step, up to O(l²), for white inputs; W_true: the population's weights."""
        gap, moved = self.flow_product - w_true, self.mean_product - self.flow_product
        return np.sum(gap * (gap + 2 * moved), axis=(1, 2)) + self.covariance_trace


@dataclass(frozen=True)
class Factors:
    """The expected loss and the gradient's noise as functions of A (r × D) and B (C × r); see the module."""

    x: Float[np.ndarray, "N D"]
    y: Float[np.ndarray, "N C"]
    keep_prob: float
    placement: str
    rank: int

    @property
    def k(self) -> float:
        """Var v = k = (1 − p)/p."""
        return (1.0 - self.keep_prob) / self.keep_prob

    @cached_property
    def forms(self) -> list[tuple[Float[np.ndarray, "D D"], Float[np.ndarray, "groups r"]]]:
        """2H₀ and, of latent masks, 2H₁, each with the groups of nodes whose products it sums: all, or each alone."""
        gram, every = 2 * self.x.T @ self.x, np.ones((1, self.rank))
        if self.placement == "bottleneck":
            return [(gram, every), (self.k * gram, np.eye(self.rank))]
        return [(gram + self.k * (gram if self.placement == "output" else np.diag(np.diag(gram))), every)]

    @cached_property
    def pull(self) -> W:
        """XᵀY."""
        return self.x.T @ self.y

    @cached_property
    def squares(self) -> Float[np.ndarray, "N D"]:
        """X², by entry."""
        return self.x**2

    @cached_property
    def products(self) -> Float[np.ndarray, "N DD"]:
        """Each row's xxᵀ, flat."""
        return (self.x[:, :, None] * self.x[:, None, :]).reshape(len(self.x), -1)

    @cached_property
    def sizes(self) -> tuple[int, int, int]:
        """r, D and C."""
        return self.rank, self.x.shape[1], self.y.shape[1]

    def flat(self, a: A, b: B) -> Flat:
        """θ: node by node, A_j then B_j."""
        return np.hstack([a, b.T]).ravel()

    def unflat(self, theta: Flat) -> tuple[A, Float[np.ndarray, "r C"]]:
        """A and Bᵀ, a row a node."""
        nodes = theta.reshape(self.rank, -1)
        return nodes[:, : self.sizes[1]], nodes[:, self.sizes[1] :]

    def slopes(self, a: A, b: Float[np.ndarray, "r C"]) -> Float[np.ndarray, "r D C"]:
        """G_j = ∂ℓ/∂W_j."""
        nodes = (a[:, :, None] * b[:, None, :]).reshape(self.rank, -1)
        sums = ((of, form @ (of @ nodes).reshape(-1, *self.sizes[1:])) for form, of in self.forms)
        return sum(of.T @ moved.reshape(len(of), -1) for of, moved in sums).reshape(self.sizes) - 2 * self.pull

    def gradient(self, theta: Flat, slopes: Float[np.ndarray, "r D C"] | None = None) -> Flat:
        """∇ℓ; `slopes` where they are known."""
        a, b = self.unflat(theta)
        g = self.slopes(a, b) if slopes is None else slopes
        return np.hstack([np.einsum("jdc,jc->jd", g, b), np.einsum("jdc,jd->jc", g, a)]).ravel()

    def carried(self, theta: Flat) -> list[tuple[Float[np.ndarray, " r"], Any, Any]]:
        """By group of nodes: which they are, K_g = ∂W_g/∂θ of their summed product, and 2H K_g."""
        (_, d, c), jacobian = self.sizes, self.jacobian(theta)
        parts = [(form, group, jacobian * np.repeat(group, d + c)) for form, of in self.forms for group in of]
        return [(group, own, (form @ own.reshape(d, -1)).reshape(d * c, -1)) for form, group, own in parts]

    def hessian(self, theta: Flat, slopes: Any = None, carried: Any = None) -> Float[np.ndarray, "P P"]:
        """∇²ℓ = Σ_g K_gᵀ2HK_g, and G_j between A_j and B_j; `slopes` and `carried` where they are known."""
        (r, d, c), node = self.sizes, np.arange(self.rank)
        g = self.slopes(*self.unflat(theta)) if slopes is None else slopes
        full = sum(own.T @ moved for _, own, moved in (self.carried(theta) if carried is None else carried))
        blocks = full.reshape(r, d + c, r, d + c)
        blocks[node, :d, node, d:] += g
        blocks[node, d:, node, :d] += g.transpose(0, 2, 1)
        return full

    def bend(self, theta: Flat, covariance: Float[np.ndarray, "P P"], carried: Any = None) -> Flat:
        """½∇³ℓ[C]: what a covariance C adds to E∇ℓ, the parts of second order in δA, δB."""
        (r, d, c), node, found = self.sizes, np.arange(self.rank), np.zeros((self.rank, sum(self.sizes[1:])))
        own = covariance.reshape(r, d + c, r, d + c)[node, :d, node, d:].reshape(r, -1)  # E δA_j δB_jᵀ
        for group, _, moved in self.carried(theta) if carried is None else carried:
            slope = (moved @ covariance).reshape(d, c, r, d + c)  # 2H E δW_g δθᵀ
            bent = np.hstack([np.einsum("dcjc->jd", slope[..., d:]), np.einsum("dcjd->jc", slope[..., :d])])
            found += group[:, None] * bent + (group @ own @ moved).reshape(r, -1)
        return found.ravel()

    def jacobian(self, theta: Flat) -> Float[np.ndarray, "DC P"]:
        """K = ∂W/∂θ, rows of W first."""
        (r, d, c), (a, b) = self.sizes, self.unflat(theta)
        full = np.zeros((d, c, r, d + c))
        full[np.arange(d), :, :, np.arange(d)] = b.T
        full[:, np.arange(c), :, d + np.arange(c)] = a.T
        return full.reshape(d * c, -1)

    def noise(self, theta: Flat) -> Float[np.ndarray, "P P"]:
        """Σ, the covariance over masks of the gradient in θ."""
        if self.placement == "bottleneck":
            return self._noise_of_nodes(*self.unflat(theta))
        a, b = self.unflat(theta)
        jacobian, product = self.jacobian(theta), a.T @ b
        inner = self._input_noise(product) if self.placement == "input" else self._output_noise(product)
        return 4 * jacobian.T @ inner @ jacobian

    def _output_noise(self, w: W) -> Float[np.ndarray, "DC DC"]:
        # Of −½∂L/∂W: kΣ_n x_i x_j (y − z/p)² within each output, 0 across.
        square = (self.y - self.x @ w / self.keep_prob) ** 2
        rows = np.einsum("ni,nc,nj->icj", self.x, square, self.x)
        return self.k * np.einsum("icj,ce->icje", rows, np.eye(self.y.shape[1])).reshape(w.size, w.size)

    def _input_noise(self, w: W) -> Float[np.ndarray, "DC DC"]:
        # Of −½∂L/∂W: Σ_n x_i x_j times the module's covariance, a_i = x_i W_i.
        (d, c), k, x, square, entry = w.shape, self.k, self.x, self.squares, np.arange(len(w))
        parts = x[:, :, None] * w
        seen = (self.y - x @ w)[:, None, :] + (1 - k) * parts
        s = np.einsum("nic,nie->nce", parts, parts)
        common = (self.products.T @ s.reshape(len(x), -1)).reshape(d, d, c, c).transpose(0, 2, 1, 3)
        weighted = square[:, :, None] * seen
        crossed, fourth = (weighted.reshape(len(x), -1).T @ x).reshape(d, c, d), square.T @ square
        half = (0.5 * k * k * fourth[:, None] * w.T - k * crossed)[..., None] * w[:, None, None]
        full = k * common + half + half.transpose(2, 3, 0, 1)
        own = weighted.transpose(1, 2, 0) @ seen.swapaxes(0, 1)
        summed = (square.T @ s.reshape(len(x), -1)).reshape(d, c, c)
        twice = 2 * fourth[entry, entry, None, None] * w[:, :, None] * w[:, None]
        full[entry, :, entry] += k * own + k * k * (summed - twice)
        return full.reshape(w.size, w.size)

    def _noise_of_nodes(self, a: A, b: Float[np.ndarray, "r C"]) -> Float[np.ndarray, "P P"]:
        # Latent masks: node j hands B_j·t_j to A_j, times x, and t_j to B_j, times z_j; t_j its masked residual.
        (r, d, c), k, node = self.sizes, self.k, np.arange(self.rank)
        z = self.x @ a.T
        parts = z[:, :, None] * b
        f = self.y - z @ b
        seen = f[:, None, :] + (1 - k) * parts
        s = np.einsum("nic,nie->nce", parts, parts)
        crossed = np.broadcast_to(np.einsum("nic,nie->nice", seen, parts)[:, :, :, None], (len(f), r, c, r, c))
        full = k * (s[:, None, :, None, :] - crossed - crossed.transpose(0, 3, 4, 1, 2))
        full += k * k * np.einsum("njc,nie->nicje", parts, parts)
        full[:, node, :, node] += np.einsum("nic,nie->ince", k * seen, seen) + k * k * (
            s - 2 * np.einsum("nic,nie->ince", parts, parts)
        )
        both = np.einsum("nicje,ic->nije", full, b)
        covariance = np.empty((r, d + c, r, d + c))
        on_a = np.einsum("nije,je->nij", both, b).reshape(len(z), -1)
        covariance[:, :d, :, :d] = (on_a.T @ self.products).reshape(r, r, d, d).transpose(0, 2, 1, 3)
        on_b = (both * z[:, None, :, None]).reshape(len(z), -1)
        covariance[:, :d, :, d:] = (self.x.T @ on_b).reshape(d, r, r, c).transpose(1, 0, 2, 3)
        covariance[:, d:, :, :d] = covariance[:, :d, :, d:].transpose(2, 3, 0, 1)
        covariance[:, d:, :, d:] = np.einsum("ni,nj,nicje->icje", z, z, full)
        return 4 * covariance.reshape(r * (d + c), -1)

    def rate(self, state: Float[np.ndarray, " Q"]) -> Float[np.ndarray, " Q"]:
        """The right-hand sides of θ′, m′ and C′, flat."""
        size = self.rank * sum(self.sizes[1:])
        theta, mean, covariance = state[:size], state[size : 2 * size], state[2 * size :].reshape(size, size)
        slopes, carried = self.slopes(*self.unflat(theta)), self.carried(theta)
        slope, hessian = self.gradient(theta, slopes), self.hessian(theta, slopes, carried)
        relaxed = hessian @ covariance
        shift = -hessian @ (mean + slope / 2) - self.bend(theta, covariance, carried)
        return np.concatenate([-slope, shift, (self.noise(theta) - relaxed - relaxed.T).ravel()])


def checked_factors(
    x: ArrayLike, y: ArrayLike, a: ArrayLike, b: ArrayLike, keep_prob: Any, placement: str
) -> tuple[Factors, A, B]:
    """The arguments that the flow and its simulation share, checked: the model, A and B."""
    x = validation.matrix("x", x)
    y = validation.matrix_of("y", y, (len(x), None), "N of x")
    a = validation.matrix_of("a", a, (None, x.shape[1]), "D of x")
    b = validation.matrix_of("b", b, (y.shape[1], len(a)), "C of y and r of a")
    keep_prob = validation.keep_probability(keep_prob)
    return Factors(x, y, keep_prob, validation.choice("placement", placement, PLACEMENTS), len(a)), a, b


@validation.representable("x", "y", "a", "b", "keep_prob", "learning_rate", "steps")
def factor_flow(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    keep_prob: Any,
    learning_rate: float,
    steps: int,
    placement: str = "input",
) -> FactorFlow:
    """Moments of W_t = A_tᵀB_tᵀ under SGD on (A, B) with fresh dropout masks at each step; nothing is sampled.

    Gradient flow of the regularized loss, the first correction of its mean, and the covariance by the linear noise
    approximation: `factors` has the statement. One integration, whose cost grows with l·λ_max·T and not with T.
    Time O(P³ + P·D²C²) an evaluation, P = r(D + C); memory O(P² + D²C² + (T + 1)·D·C).
    `tests/test_dropout_sgd_factors.py` enumerates every sequence of masks on tiny problems.

    Args:
        x: X, N × D.
        y: Y, N × C; with a frozen W*, the residual Y − XW*.
        a: A at the start, r × D.
        b: B at the start, C × r; LoRA's is 0.
        keep_prob: keep probability in (0, 1].
        learning_rate: l, for the gradient of the summed squares.
        steps: T.
        placement: "input" (LoRA as shipped), "bottleneck" or "output".

    Returns:
        The moments at steps 0 … T.

    Raises:
        ArgumentError: what cannot be used; a rate at which a step is longer than the loss's curvature allows.

    Examples:
        >>> from allora_analysis.dropout_sgd import factor_flow
        >>> run = factor_flow([[1.0]], [[1.0]], [[1.0]], [[0.0]], 0.5, 1e-3, 1)
        >>> run.mean_product.ravel().round(9).tolist(), float(run.covariance_trace[1].round(9))  # 2l, 4l²
        ([0.0, 0.001999995], 3.968e-06)
    """
    model, a, b = checked_factors(x, y, a, b, keep_prob, placement)
    rate, steps = validation.positive("learning_rate", learning_rate), validation.count("steps", steps)
    (r, d, c), rows = model.sizes, len(model.x)
    size = r * (d + c)
    validation.fits("a", 16.0 * size**2 + rows * (r * c) ** 2, "the covariance of A and B")
    validation.fits("x", 4.0 * (d * c) ** 2 + rows * (d * d + d * c), "the covariance of the gradient")
    validation.fits("steps", 2.0 * steps * d * c, f"the means at {steps:.4g} steps")
    return _integrated(model, model.flat(a, b), rate, steps)


def _in_units(model: Factors, rate: float) -> tuple[Factors, float, int]:
    # X and Y over u = 2ᵉ and l times u² are the same steps of A and B. u² is about the largest entry of X times that of
    # X or Y, whichever is larger, so that the gradient and its noise stay in range, and Y² does.
    of_x, of_y = (validation.unit_scaled(part)[1] for part in (model.x, model.y))
    exponent = max((of_x + max(of_x, of_y)) // 2, of_y - 500)
    scaled = replace(model, x=np.ldexp(model.x, -exponent), y=np.ldexp(model.y, -exponent))
    return scaled, math.ldexp(rate, 2 * exponent), exponent


def _refuse_long_steps(model: Factors, theta: Flat, rate: float, where: str, exponent: int) -> float:
    # l·λ_max, below 2; a refusal's numbers are in the caller's units.
    largest = float(np.linalg.eigvalsh(model.hessian(theta))[-1])
    if not np.isfinite(largest):
        raise OverflowError("the curvature")
    if rate * largest >= 2:
        given, inverse = np.ldexp([rate, 1 / largest], -2 * exponent)
        curvature = math.ldexp(largest, 2 * exponent)
        raise ArgumentError(
            f"learning_rate: {given:.4g} times the loss's curvature at the {where}, {curvature:.4g}, is 2 or more, "
            f"where descent diverges; give at most a tenth of {inverse:.3g}"
        )
    return rate * largest


def _integrated(model: Factors, theta: Flat, rate: float, steps: int) -> FactorFlow:
    # The three equations from τ = 0 to lT, read off at each whole step.
    from scipy.integrate import DOP853

    size, (model, rate, exponent) = len(theta), _in_units(model, rate)
    _refuse_long_steps(model, theta, rate, "start", exponent)
    state = np.concatenate([theta, np.zeros(size + size**2)])
    small = _absolute(model, theta)
    if not (np.isfinite(model.rate(state)).all() and np.isfinite(small).all()):
        raise OverflowError("the first derivative")  # the solver would look for a first step for ever
    solver = DOP853(lambda _, now: model.rate(now), 0.0, state, rate * steps, rtol=TOLERANCE, atol=small)
    parts = [_moments(model, state[:, None], rate)]
    done = 0
    while done < steps:
        solver.step()
        if solver.status == "failed" or not np.isfinite(solver.y).all() or solver.nfev > EVALUATIONS:
            raise ArgumentError(
                f"x, y, learning_rate, steps: after step {done} the flow leaves double precision's range, or has "
                "scales too far apart to follow; give numbers of like size"
            )
        reached = steps if solver.status == "finished" else int(solver.t / rate)
        between, chunk = solver.dense_output(), max(1, CHUNK // len(state))
        for first in range(done + 1, reached + 1, chunk):
            times = rate * np.arange(first, min(first + chunk, reached + 1))
            parts.append(_moments(model, between(times), rate))
        done = reached
    flow, mean, trace = (np.concatenate(part) for part in zip(*parts, strict=True))
    step_size = _refuse_long_steps(model, solver.y[:size], rate, "last step", exponent)
    jacobian = model.jacobian(solver.y[:size])
    covariance = rate * jacobian @ solver.y[2 * size :].reshape(size, size) @ jacobian.T
    a, b = model.unflat(solver.y[:size])
    return FactorFlow(mean, trace, flow, covariance, a, b.T, step_size)


def _absolute(model: Factors, theta: Flat) -> Float[np.ndarray, " Q"]:
    # Absolute tolerances of θ, m and C, each in its own unit; one of 0 would never be met.
    size, curvature = float(np.abs(theta).max()), float(np.abs(model.hessian(theta)).max())
    spread = float(np.abs(model.noise(theta)).max()) / (curvature or 1.0)
    units = [size or 1.0, (size or 1.0) * (curvature or 1.0), spread or 1.0]
    own = np.repeat(units, [len(theta), len(theta), len(theta) ** 2])
    return np.maximum(TOLERANCE * 1e-2 * own, np.finfo(float).tiny)


def _moments(
    model: Factors, states: Float[np.ndarray, "Q times"], rate: float
) -> tuple[Float[np.ndarray, "times D C"], Float[np.ndarray, "times D C"], Float[np.ndarray, " times"]]:
    # W along the flow, E W and tr Cov W at several times.
    r, d, c = model.sizes
    size, node = r * (d + c), np.arange(r)
    theta, shift, covariance = np.split(np.ascontiguousarray(states.T), [size, 2 * size], axis=1)
    (a, b), (da, db) = (np.split(part.reshape(-1, r, d + c), [d], axis=2) for part in (theta, shift))
    blocks = covariance.reshape(-1, r, d + c, r, d + c)
    cross = blocks[:, :, :d, :, d:]
    flow = np.einsum("tjd,tjc->tdc", a, b)
    moved = np.einsum("tjd,tjc->tdc", da, b) + np.einsum("tjd,tjc->tdc", a, db) + cross[:, node, :, node].sum(axis=0)
    trace = (
        np.einsum("tjl,tjdld->t", b @ b.swapaxes(1, 2), blocks[:, :, :d, :, :d])
        + 2 * np.einsum("tjc,tld,tjdlc->t", b, a, cross)
        + np.einsum("tjl,tjclc->t", a @ a.swapaxes(1, 2), blocks[:, :, d:, :, d:])
    )
    return flow, flow + rate * moved, np.maximum(rate * trace, 0.0)  # rounding may leave less than 0
