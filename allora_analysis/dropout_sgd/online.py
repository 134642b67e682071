"""Dropout on the hidden nodes of a two-layer network that sees each sample once, in high dimension: exact equations.

Student f_v(x) = c Σ_k v_k g(λ_k) under masks v_k ∈ {0, 1}, E v = p, with λ = Wx/√N (K nodes), x ~ N(0, I_N); teacher
y = Σ_m g(ν_m) + σζ, ν = W*x/√N. A step of SGD on ½(f_v − y)² at rate l moves w_k by −(l/√N)·c v_k g′(λ_k) e x,
e = f_v − y. For N → ∞ at α = steps/N, Q = WWᵀ/N, R = WW*ᵀ/N and T = W*W*ᵀ/N follow (Saad and Solla 1995; with masks
Mori and Mignacco 2025, arXiv:2505.07792)

    R′_in = −lc E[v_i g′(λ_i) e ν_n],
    Q′_ik = −lc E[v_i g′(λ_i) e λ_k + v_k g′(λ_k) e λ_i] + l²c² E[v_i v_k g′(λ_i) g′(λ_k) e²],

E over Gaussian fields, masks and ζ. Products of masks have the mean p^(number of different nodes); the fields'
integrals are closed for g = erf(·/√2) and for g(z) = z. At test all nodes are on and pc is in c's place: the error is
½E(pcΣg(λ) − Σg(ν))².

**As l → 0** at time lα the l² term goes, and what is left is gradient flow of ½E(pcΣg − y)² + ½c²p(1 − p)Σ_k E g(λ_k)²:
`factors`' limit for masks in the bottleneck, with the population in place of data. The labels' noise is in the l² term
alone, as each sample is seen once; the masks' variance is in both: its mean effect is the penalty above, and what
single masks do to single steps is in the l² term. So at finite rates dropout acts on the noise of steps as well; on
fixed data at small rates it acts by keeping the fit from the noise of labels. Checked by
`tests/test_dropout_sgd_online.py` against networks.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.validation import ArgumentError

STEEPEST = 1e6  # squared norm over N of a node's weights
LARGEST = 6  # hidden nodes of student and teacher together: all masks are summed


class Integrals(NamedTuple):
    """Over fields h ~ N(0, C), F of them: E g′_a g′_b, E g′_a h_b g_c, E g′_a g′_b g_c g_d."""

    slopes: Float[np.ndarray, "F F"]
    three: Float[np.ndarray, "F F F"]
    four: Float[np.ndarray, "F F F F"]


class Activation(NamedTuple):
    """Functions of C: E g_a g_b, by which a test goes, and the integrals that training goes by."""

    two: Callable[[np.ndarray], np.ndarray]
    integrals: Callable[[np.ndarray], Integrals]


def _erf(c: np.ndarray) -> Integrals:
    # g = erf(·/√2), g′ = √(2/π)·exp(−h²/2): the factor exp(−h_a²/2) leaves fields Gaussian, of covariance
    # C − C_a C_aᵀ/(1 + C_aa), and the mean 1/√(1 + C_aa). The same integrals: Saad and Solla 1995, appendix.
    one, first = _weighted(c)  # after exp(−h_a²/2): [a, b, c]
    more, second = _weighted(first)  # after that and exp(−h_b²/2): [a, b, c, d]
    slopes = 2 / math.pi / np.sqrt(one[:, None] * more)
    three = 2 / math.pi * first / np.sqrt(one[:, None] * more)[:, None, :]
    return Integrals(slopes, three, slopes[..., None, None] * _both(second))


def _weighted(c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # 1 + C_aa and, by a, the covariance under the weight exp(−h_a²/2).
    one = 1 + c.diagonal(0, -2, -1)
    return one, c[..., None, :, :] - c[..., :, None] * (c / one[..., None])[..., None, :]


def _both(c: np.ndarray) -> np.ndarray:
    # E g_a g_b; a quotient beyond ±1 is rounding.
    root = np.sqrt(1 + c.diagonal(0, -2, -1))
    return 2 / math.pi * np.arcsin(np.minimum(np.maximum(c / (root[..., :, None] * root[..., None, :]), -1), 1))


def _linear(c: np.ndarray) -> Integrals:
    ones = np.ones_like(c)
    return Integrals(ones, ones[:, :1, None] * c[None], np.broadcast_to(c, (len(c),) * 4))


ACTIVATIONS: Mapping[str, Activation] = {
    "erf": Activation(_both, _erf),
    "identity": Activation(lambda c: c, _linear),
}


@dataclass(frozen=True)
class Online:
    """A network's path.

    Attributes:
        times: α.
        q: Q (times × K × K).
        r: R (times × K × M).
        error: ½E(test output − teacher)².
    """

    times: Float[np.ndarray, " times"]
    q: Float[np.ndarray, "times K K"]
    r: Float[np.ndarray, "times K M"]
    error: Float[np.ndarray, " times"]

    @property
    def correlation(self) -> Float[np.ndarray, " times"]:
        """The mean |cos| between hidden nodes' weights; NaN where one is 0, or alone."""
        size = np.sqrt(np.diagonal(self.q, axis1=1, axis2=2))
        above = np.triu_indices(self.q.shape[1], 1)
        if not len(above[0]):
            return np.full(len(self.q), np.nan)
        with np.errstate(invalid="ignore"):
            return np.abs(self.q / size[:, :, None] / size[:, None, :])[:, above[0], above[1]].mean(axis=1)


@dataclass(frozen=True)
class _Equations:
    t: np.ndarray
    keep_prob: float
    rate: float
    noise: float
    readout: float
    activation: Activation
    nodes: int

    def masks(self) -> tuple[np.ndarray, np.ndarray]:
        """All masks, the teacher's nodes kept, and their probabilities."""
        every = np.array(list(itertools.product([0.0, 1.0], repeat=self.nodes)))
        chance = np.prod(np.where(every > 0, self.keep_prob, 1 - self.keep_prob), axis=1)
        return np.hstack([every, np.ones((len(every), len(self.t)))]), chance

    def products(self) -> tuple[np.ndarray, ...]:
        """E v_i v_k, s_a E v_i v_a, s_a s_b E v_i v_k v_a v_b: i and k of the student, a and b of both; s = c or −1."""
        masks, chance = self.masks()
        own, signed = masks[:, : self.nodes], masks * np.repeat([self.readout, -1.0], [self.nodes, len(self.t)])
        return (
            np.einsum("z,zi,zk->ik", chance, own, own),
            np.einsum("z,zi,za->ia", chance, own, signed),
            np.einsum("z,zi,zk,za,zb->ikab", chance, own, own, signed, signed),
        )

    def fields(self, state: np.ndarray) -> np.ndarray:
        k = self.nodes
        q, r = state[: k * k].reshape(k, k), state[k * k :].reshape(k, -1)
        whole = np.empty((k + len(self.t),) * 2)
        whole[:k, :k], whole[:k, k:], whole[k:, :k], whole[k:, k:] = (q + q.T) / 2, r, r.T, self.t
        return whole

    def change(self, products: tuple[np.ndarray, ...], state: np.ndarray) -> np.ndarray:
        k, (two, three, four) = self.nodes, products
        found = self.activation.integrals(self.fields(state))
        pull = np.einsum("ia,iba->ib", three, found.three[:k])  # E v_i g′_i e h_b
        square = np.einsum("ikab,ikab->ik", four, found.four[:k, :k])
        square = square + self.noise**2 * two * found.slopes[:k, :k]
        rate = self.rate * self.readout
        q = -rate * (pull[:, :k] + pull[:, :k].T) + rate**2 * square
        return np.concatenate([q.ravel(), (-rate * pull[:, k:]).ravel()])

    def error(self, state: np.ndarray) -> float:
        weight = np.concatenate([np.full(self.nodes, self.readout * self.keep_prob), -np.ones(len(self.t))])
        return 0.5 * float(weight @ self.activation.two(self.fields(state)) @ weight)


@validation.representable("q", "r", "t", "rate", "times", "noise", "readout")
def online_curve(
    q: ArrayLike,
    r: ArrayLike,
    t: ArrayLike,
    keep_prob: Any,
    rate: float,
    times: ArrayLike,
    *,
    noise: float = 0.0,
    readout: float = 1.0,
    activation: str = "erf",
) -> Online:
    """Solve the equations of the module.

    Args:
        q: Q at the start (K×K), positive semi-definite; 0 where the student starts at 0.
        r: R at the start (K×M).
        t: T (M×M).
        keep_prob: p in (0, 1].
        rate: l.
        times: α, ascending from 0 or later.
        noise: σ of the labels.
        readout: c; 1/p is inverted dropout, whose test output is cΣg·p = Σg.
        activation: "erf" or "identity".

    Returns:
        Q, R and the error at these times.

    Raises:
        ArgumentError: sizes that do not fit, more nodes than all masks can be summed of, a rate at which it diverges.

    Examples:
        >>> import numpy as np
        >>> from allora_analysis.dropout_sgd.online import online_curve
        >>> run = online_curve(np.zeros((1, 1)), np.zeros((1, 1)), np.eye(1), 1.0, 1.0, [0.0, 50.0])
        >>> print(run.error.round(4))  # ½E g(ν)² = ⅙ at the start
        [0.1667 0.    ]
    """
    from scipy.integrate import solve_ivp

    q, r, t = _overlaps(q, r, t)
    moments = validation.ascending(times)
    model = _Equations(
        t,
        validation.keep_probability(keep_prob),
        validation.positive("rate", rate),
        validation.non_negative("noise", noise),
        validation.positive("readout", readout),
        ACTIVATIONS[validation.choice("activation", activation, ACTIVATIONS)],
        len(q),
    )
    products = model.products()
    start = np.concatenate([q.ravel(), r.ravel()])
    span = (0.0, float(moments[-1]))
    # A plateau lasts as long as what leaves it is small: 1e-9 and more absolute would end it.
    with np.errstate(all="ignore"):
        found = solve_ivp(
            lambda _, state: model.change(products, state), span, start, "LSODA", moments, rtol=1e-10, atol=1e-16
        )
    if not found.success or not np.isfinite(found.y).all():
        raise ArgumentError(f"rate: at {model.rate:g} the network diverges before α = {span[1]:g}; give a smaller one")
    states = found.y.T
    size = len(q) ** 2
    return Online(
        moments,
        states[:, :size].reshape(-1, *q.shape),
        states[:, size:].reshape(-1, *r.shape),
        np.array([model.error(state) for state in states]),
    )


def _overlaps(q: ArrayLike, r: ArrayLike, t: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # Q, R and T, checked.
    q, t = validation.matrix("q", q), validation.matrix("t", t)
    r = validation.matrix_of("r", r, (len(q), None), "K of q")
    q, t = validation.matrix_of("q", q, (len(q),) * 2, "K"), validation.matrix_of("t", t, (r.shape[1],) * 2, "M of r")
    nodes = len(q) + len(t)
    if nodes > LARGEST:
        raise ArgumentError(f"q, t: {nodes} hidden nodes of student and teacher; at most {LARGEST} are summed")
    joint = np.linalg.eigvalsh(np.block([[q, r], [r.T, t]]))
    if joint[-1] > STEEPEST:
        raise ArgumentError(
            f"q, t: squared norms up to {joint[-1]:.3g}; give at most {STEEPEST:g}, where erf is a step"
        )
    if joint[0] < -1e-9 * joint[-1]:
        raise ArgumentError(f"q, r, t: no weights have these overlaps, an eigenvalue of them all is {joint[0]:.3g}")
    return q, r, t
