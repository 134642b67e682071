"""The worst case of §3.3: the product bound, the AM–GM bound, and where the paper's C and m̄ come from.

The norm is the Euclidean one on vectors and, induced by it, the spectral one on matrices. With M_l = W_l + ηB_lA_l and
f_L(x) = M_L ⋯ M_1 x, line by line:

    ‖f_L(x)‖ ≤ ‖M_L ⋯ M_1‖ ‖x‖                          definition of the induced norm (the paper prints "=")
             ≤ ‖M_L‖ ⋯ ‖M_1‖ ‖x‖                         submultiplicativity
             ≤ ∏_l (‖W_l‖ + η‖B_lA_l‖) ‖x‖               triangle inequality, η ≥ 0: **the product bound**
             = ∏_l ‖W_l‖ · ∏_l (1 + η‖B_lA_l‖/‖W_l‖) ‖x‖ each factor divided by its own ‖W_l‖ > 0
             = C ∏_l (1 + ηm_l) ‖x‖                      C = ∏_l ‖W_l‖,  m_l = ‖B_lA_l‖/‖W_l‖
             ≤ C ((1/L) Σ_l (1 + ηm_l))^L ‖x‖            geometric mean ≤ arithmetic mean of the L factors
             = C (1 + ηm̄)^L ‖x‖                          m̄ = (1/L) Σ_l m_l: **the AM–GM bound**

So m̄ must divide each ‖B_lA_l‖ by the norm of *its own* W_l. The paper prints ‖W_L‖ under every term; the last
inequality then fails for some networks whose norms differ (ledger row `3.3-mean-ratio`). C is constant in x and η, not
in L.

Equality holds line by line iff: x is a top right singular vector of the product; the layers line up; within each layer
W_l and B_lA_l share both top singular vectors; all m_l are equal. `aligned_network` builds such a network: W_l =
U_l diag(σ) U_{l−1}ᵀ and B_lA_l = U_l diag(τ) U_{l−1}ᵀ share orthonormal bases, U_l's first column is both the top left
direction of layer l and the top right one of layer l + 1, and x is U_0's first column. Then M_l maps U_{l−1}e₁ to
(σ₁ + ητ₁) U_l e₁ with ‖W_l‖ = σ₁ and ‖B_lA_l‖ = τ₁, so ‖f_L(x)‖ = ∏(‖W_l‖ + η‖B_lA_l‖)‖x‖, and the AM–GM bound is
attained too if all τ₁/σ₁ are equal. The first columns are non-negative, so ReLU passes them.

What makes the comparison of worst and typical case a fair one, `fair_scales`: s_W = 1/√n (He's √(2/n) under ReLU):
without adapters a typical stack neither grows nor decays. s_A = 1/√n: LoRA's variance 1/fan-in. s_B: such that
‖BA‖ = ‖W‖ in spectral norm, m = 1, the paper's implicit choice in Θ((1 + η)^L). Both spectral norms are taken in the
limit of large width at fixed r/n. `tests/test_ripple.py` checks all of this, against dense singular values.

Everything is in natural logarithms: at η = 100 and L = 10⁵ the bound itself is 10^200432.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.validation import ArgumentError

ARCHITECTURES = ("linear", "relu", "prelayernorm")


class Layer(NamedTuple):
    """One layer x ↦ (W + ηBA)x: W (n₁×n₂) frozen, B (n₁×r), A (r×n₂)."""

    w: np.ndarray
    b: np.ndarray
    a: np.ndarray


@dataclass(frozen=True)
class WorstCase:
    """The bounds on log(‖f_L(x)‖/‖x‖), natural logarithms.

    Attributes:
        log_bound: Σ log(‖W_l‖ + η‖B_lA_l‖).
        log_amgm_bound: log C + L log(1 + ηm̄), never below log_bound.
        log_c: log C = Σ log ‖W_l‖; −∞ if some W_l = 0.
        mean_ratio: m̄; ∞ if some W_l = 0, and the AM–GM bound then says nothing (∞).
    """

    log_bound: float
    log_amgm_bound: float
    log_c: float
    mean_ratio: float


def checked_layers(layers: Sequence[Sequence[ArrayLike]]) -> tuple[Layer, ...]:
    """The layers as float64, with shapes that chain: n₂ and r within a layer, widths from one layer to the next."""
    result: list[Layer] = []
    for index, triple in enumerate(validation.several("layers", layers)):
        triple = validation.several(f"layers[{index}], a triple (W, B, A),", triple, 3)
        width_in = result[-1].w.shape[0] if result else None
        w = validation.matrix_of(f"layers[{index}] W", triple[0], (None, width_in), "the layer before")
        b = validation.matrix_of(f"layers[{index}] B", triple[1], (w.shape[0], None), "the rows of W")
        a = validation.matrix_of(f"layers[{index}] A", triple[2], (b.shape[1], w.shape[1]), "B's and W's columns")
        result.append(Layer(w, b, a))
    return tuple(result)


@validation.representable("layers")
def spectral_norms(layers: Sequence[Sequence[ArrayLike]]) -> tuple[np.ndarray, np.ndarray]:
    """‖W_l‖ and ‖B_lA_l‖ of every layer, spectral; BA is not formed.

    Checked by `tests/test_ripple.py` against dense singular values.

    Args:
        layers: (W, B, A) triples, the first applied first.

    Returns:
        Two arrays of length L.
    """
    return norms_of(checked_layers(layers))


def norms_of(layers: Sequence[Layer]) -> tuple[np.ndarray, np.ndarray]:
    """The core of `spectral_norms`."""
    weights = np.array([np.linalg.norm(layer.w, 2) for layer in layers])
    return weights, np.array([adapter_norm(layer.b, layer.a) for layer in layers])


def adapter_norm(b: Float[np.ndarray, "n1 r"], a: Float[np.ndarray, "r n2"]) -> float:
    """‖BA‖: B = Q₁R₁ and Aᵀ = Q₂R₂ give BA = Q₁(R₁R₂ᵀ)Q₂ᵀ, so that it is the norm of an at most r×r matrix."""
    left, right = np.linalg.qr(b, mode="r"), np.linalg.qr(a.T, mode="r")
    return float(np.linalg.norm(left @ right.T, 2))


@validation.representable("weight_norms", "adapter_norms", "eta", infinite=True)
def worst_case(weight_norms: ArrayLike, adapter_norms: ArrayLike, eta: float) -> WorstCase:
    """Bounds on log(‖f_L(x)‖/‖x‖) from each layer's norms; `worst_case(*spectral_norms(layers), eta)` for given layers.

    Paper §3.3; the derivation is this module's docstring. ReLU between the layers leaves both bounds valid, as
    ‖max(z, 0)‖ ≤ ‖z‖. Checked by `tests/test_ripple.py`.

    Args:
        weight_norms: ‖W_l‖, length L.
        adapter_norms: ‖B_lA_l‖, length L.
        eta: the scaling factor η = α/r, 0 or above.

    Returns:
        Both bounds, log C and m̄.

    Raises:
        ArgumentError: a negative norm or eta, lengths that differ, every bound −∞ (a layer that is zero).

    Examples:
        >>> from allora_analysis.ripple import worst_case
        >>> print(round(worst_case([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], eta=1.0).log_bound, 6))  # 3 log 2
        2.079442
    """
    weights, adapters = _norms(weight_norms, adapter_norms)
    eta = validation.non_negative("eta", eta)
    if (_log_sums(weights, adapters, eta) == -math.inf).any():
        raise ArgumentError("weight_norms: a layer with W = 0 and ηBA = 0 maps everything to 0; its logarithm is −∞")
    return bounds_of(weights, adapters, eta)


def _norms(weight_norms: ArrayLike, adapter_norms: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    weights, adapters = (
        validation.vector("weight_norms", weight_norms),
        validation.vector("adapter_norms", adapter_norms),
    )
    for name, norms in (("weight_norms", weights), ("adapter_norms", adapters)):
        if norms.min() < 0:
            raise ArgumentError(f"{name} must be norms, 0 or above; received {norms.min()}")
    if weights.shape != adapters.shape:
        raise ArgumentError(f"adapter_norms: {adapters.size} received, {weights.size} wanted, one per weight norm")
    return weights, adapters


def bounds_of(weights: Float[np.ndarray, " L"], adapters: Float[np.ndarray, " L"], eta: float) -> WorstCase:
    """The core of `worst_case`."""
    log_bound = float(_log_sums(weights, adapters, eta).sum())
    if weights.min() == 0:
        return WorstCase(log_bound, np.inf, -np.inf, np.inf)
    log_c, mean_ratio = float(np.log(weights).sum()), float((adapters / weights).mean())
    if mean_ratio == math.inf:
        raise OverflowError("the mean of adapter_norms over weight_norms")
    share = eta * mean_ratio
    factor = math.log1p(share) if share < math.inf else math.log(eta) + math.log(mean_ratio)
    return WorstCase(log_bound, max(log_bound, log_c + weights.size * factor), log_c, mean_ratio)


def _log_sums(weights: Float[np.ndarray, " L"], adapters: Float[np.ndarray, " L"], eta: float) -> np.ndarray:
    # log(‖W_l‖ + η‖B_lA_l‖), from logarithms where the sum or the product leaves the floats' range.
    with np.errstate(divide="ignore", over="ignore"):
        sums = weights + eta * adapters
        if sums.min() > 0 and sums.max() < math.inf:
            return np.log(sums)
        return np.logaddexp(np.log(weights), np.log(eta) + np.log(adapters))


def residual_bound_of(weights: Float[np.ndarray, " L"], adapters: Float[np.ndarray, " L"], eta: float) -> float:
    """The worst case of the pre-LayerNorm residual stack: log(1 + Σ_l (‖W_l‖ + η‖B_lA_l‖)) bounds log(‖h_L‖/‖h₀‖).

    h_l = h_{l−1} + (W_l + ηB_lA_l) LN(h_{l−1}) and ‖h₀‖ = ‖LN(·)‖ = √n (ε = 0, unit gain), so ‖h_l‖ ≤ ‖h_{l−1}‖ +
    √n(‖W_l‖ + η‖B_lA_l‖): the bound is *additive*, linear in L where the plain stack's is exponential. Attained by
    `aligned_network(..., architecture="prelayernorm")` from √n·x. Checked by `tests/test_ripple.py`.
    """
    with np.errstate(over="ignore"):
        total = (weights + eta * adapters).sum()
    if total < math.inf:
        return float(np.log1p(total))
    return float(np.logaddexp.reduce(_log_sums(weights, adapters, eta)))


def check_widths(widths: Sequence[int], rank: int) -> tuple[int, ...]:
    """The widths n₀, …, n_L of a stack: at least one layer, each at least the rank."""
    result = tuple(validation.count("widths", width) for width in validation.several("widths", widths))
    if len(result) < 2:
        raise ArgumentError(f"widths must name the input's and at least one layer's width, received {len(result)}")
    validation.adapter_rank(rank, min(result), min(result))
    return result


def check_layer_norm(widths: Sequence[int], architecture: str) -> None:
    """A residual stack has one width, of 2 or more: the layer norm of one number is 0/0."""
    if architecture == "prelayernorm" and (len(set(widths)) > 1 or widths[0] < 2):
        raise ArgumentError(f"widths must be equal and at least 2 for prelayernorm, received {sorted(set(widths))}")


@dataclass(frozen=True)
class AlignedNetwork:
    """Layers whose top singular vectors line up, and the unit input x along which they stretch the most."""

    layers: tuple[Layer, ...]
    x: Float[np.ndarray, " n0"]


@validation.representable("widths", "rank", "weight_norms", "adapter_norms")
def aligned_network(
    widths: Sequence[int],
    rank: int,
    weight_norms: ArrayLike = 1.0,
    adapter_norms: ArrayLike = 1.0,
    *,
    generator: np.random.Generator,
    architecture: str = "linear",
    closed: bool = False,
) -> AlignedNetwork:
    """A network with these norms whose output is as long as the bound allows: the worst case of §3.3, attained.

    "linear" and "relu" attain it from any positive multiple of x. "prelayernorm" attains it from √n·x alone, since
    `residual_bound_of` takes ‖h₀‖ = √n: its branches add the same to any length, and a shorter input grows by more.

    Args:
        widths: n₀, …, n_L; need not be equal (except for "prelayernorm").
        rank: r of every adapter, 1 to the smallest width; the adapters have rank exactly r.
        weight_norms: ‖W_l‖, one for all layers or one each.
        adapter_norms: ‖B_lA_l‖, likewise; proportional to `weight_norms` (equal m_l) attains the AM–GM bound as well.
        generator: draws the bases and the smaller singular values.
        architecture: "linear" and "relu" take non-negative directions; "prelayernorm" takes one direction of mean 0 for
            all layers, which the layer norm only rescales.
        closed: the last direction is x again, so that the stack can be repeated; needs n_L = n₀.

    Returns:
        The layers and x, ‖x‖ = 1.

    Raises:
        ArgumentError: widths that differ where they must not, a norm below 0.
    """
    widths = check_widths(widths, rank)
    validation.choice("architecture", architecture, ARCHITECTURES)
    check_layer_norm(widths, architecture)
    if closed and widths[0] != widths[-1]:
        raise ArgumentError(f"widths must end as they begin for a closed stack, received {widths[0]} and {widths[-1]}")
    norms = (("weight_norms", weight_norms), ("adapter_norms", adapter_norms))
    validation.fits("widths", sum(float(n) ** 2 for n in widths), "the orthogonal bases")
    weights, adapters = (_per_layer(name, value, len(widths) - 1) for name, value in norms)
    return aligned(widths, rank, weights, adapters, generator, architecture, closed)


def aligned(
    widths: Sequence[int],
    rank: int,
    weights: Float[np.ndarray, " L"],
    adapters: Float[np.ndarray, " L"],
    generator: np.random.Generator,
    architecture: str,
    closed: bool,
) -> AlignedNetwork:
    """The core of `aligned_network`."""
    residual = architecture == "prelayernorm"
    bases = [_basis(_direction(n, residual, generator), generator) for n in widths]
    if closed or residual:
        bases = [bases[0], *(bases[1:-1] if not residual else bases[:1] * (len(widths) - 2)), bases[0]]
    layers = [_layer(bases[i + 1], bases[i], rank, weights[i], adapters[i], generator) for i in range(len(widths) - 1)]
    return AlignedNetwork(tuple(layers), bases[0][:, 0].copy())


def _per_layer(name: str, value: ArrayLike, depth: int) -> np.ndarray:
    norms = validation.one_or_more(name, value)
    if norms.min() < 0 or norms.size not in (1, depth):
        raise ArgumentError(
            f"{name} must be one norm or {depth}, 0 or above; received {norms.size}, least {norms.min()}"
        )
    return np.broadcast_to(norms, (depth,))


def _direction(size: int, mean_zero: bool, generator: np.random.Generator) -> Float[np.ndarray, " n"]:
    u = generator.standard_normal(size)
    u = u - u.mean() if mean_zero else np.abs(u)
    return u / np.linalg.norm(u)


def _basis(first: Float[np.ndarray, " n"], generator: np.random.Generator) -> Float[np.ndarray, "n n"]:
    # Orthogonal, its first column the given unit vector, the others at random.
    columns = np.column_stack([first, generator.standard_normal((first.size, first.size - 1))])
    basis = np.linalg.qr(columns)[0]
    # QR fixes the first column up to sign and rounding; the sign matters to ReLU.
    return basis * np.where(np.arange(first.size) == 0, np.sign(basis[:, 0] @ first), 1.0)


def _layer(
    left: Float[np.ndarray, "n1 n1"],
    right: Float[np.ndarray, "n2 n2"],
    rank: int,
    weight_norm: float,
    adapter_norm: float,
    generator: np.random.Generator,
) -> Layer:
    def values(size: int, top: float) -> np.ndarray:
        return top * np.concatenate([[1.0], generator.uniform(0.2, 0.9, size - 1)])

    full = min(len(left), len(right))
    root = np.sqrt(values(rank, adapter_norm))
    w = (left[:, :full] * values(full, weight_norm)) @ right[:, :full].T
    return Layer(w, left[:, :rank] * root, root[:, None] * right[:, :rank].T)


class Scales(NamedTuple):
    """Standard deviations of the entries of W, A and B."""

    w_std: float
    a_std: float
    b_std: float


@validation.representable("width", "rank")
def adapter_norm_limit(width: int, rank: int) -> float:
    """‖BA‖ for B (n×r), A (r×n) with standard Gaussian entries, as n → ∞ at fixed y = r/n: n√λ.

    (1/n²)BᵀB AAᵀ is a product of two free Marchenko–Pastur variables, S-transform (1 + yz)⁻² (Voiculescu 1987; Müller
    2002): the edge λ is the least value of (1 + z)(1 + yz)²/z, at 2yz² + yz = 1. λ = 27/4 at r = n, → 1 as r/n → 0.

    Args:
        width: n.
        rank: r ≤ n.
    """
    width = validation.count("width", width)
    y = validation.adapter_rank(rank, width, width) / width
    z = (math.sqrt(y * y + 8 * y) - y) / (4 * y)
    return width * math.sqrt((1 + z) / z) * (1 + y * z)


@validation.representable("width", "rank", "w_std", "a_std", "b_std")
def fair_scales(
    width: int,
    rank: int,
    architecture: str = "linear",
    w_std: float | None = None,
    a_std: float | None = None,
    b_std: float | None = None,
) -> Scales:
    """The scales of the module's rule where None is given; a given one stays, b_std follows the given w_std and a_std.

    Args:
        width: n.
        rank: r.
        architecture: "linear", "relu" or "prelayernorm".
        w_std: s_W or None.
        a_std: s_A or None.
        b_std: s_B or None; 1/√n where w_std or a_std is 0 and m = 1 thus out of reach.
    """
    validation.choice("architecture", architecture, ARCHITECTURES)
    limit, root = adapter_norm_limit(width, rank), math.sqrt(width)
    he = math.sqrt(2) if architecture == "relu" else 1.0
    w = he / root if w_std is None else validation.non_negative("w_std", w_std)
    a = 1 / root if a_std is None else validation.non_negative("a_std", a_std)
    if b_std is not None:
        return Scales(w, a, validation.non_negative("b_std", b_std))
    return Scales(w, a, 2 * root * w / (a * limit) if w > 0 and a > 0 else 1 / root)
